/* SPDX-License-Identifier: Apache-2.0 */
#include "common/ring.h"

#include <stddef.h>

#include "common/crc.h"
#include "common/redo.h"

enum { COVERED_FROM = offsetof(fp_ring_owner, partition) };

static uint32_t line_crc(const void *line)
{
    return fp_crc32c(0, (const uint8_t *)line + COVERED_FROM, FP_RING_LINE_BYTES - COVERED_FROM);
}

void fp_ring_owner_seal(fp_ring_owner *line)
{
    line->magic = FP_RING_OWNER_MAGIC;
    line->crc = line_crc(line);
}

void fp_ring_node_seal(fp_ring_node *line)
{
    line->magic = FP_RING_NODE_MAGIC;
    line->crc = line_crc(line);
}

static bool is_frame_limit(uint64_t lsn)
{
    return lsn >= FP_REDO_LSN_FIRST && lsn % FP_REDO_ALIGN == 0;
}

bool fp_ring_owner_is_valid(const fp_ring_owner *line, uint64_t partition)
{
    return line->magic == FP_RING_OWNER_MAGIC && line->crc == line_crc(line) &&
           line->partition == partition && line->log_bytes &&
           line->log_bytes % FARPOOL_UNIT_BYTES == 0 && is_frame_limit(line->start) &&
           is_frame_limit(line->durable) && line->start <= line->durable &&
           line->durable - line->start <= line->log_bytes;
}

bool fp_ring_node_is_valid(const fp_ring_node *line, uint64_t partition)
{
    return line->magic == FP_RING_NODE_MAGIC && line->crc == line_crc(line) &&
           line->partition == partition;
}
