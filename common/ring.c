/* SPDX-License-Identifier: Apache-2.0 */
#include "common/ring.h"

#include <stddef.h>

#include "common/crc.h"
#include "common/redo.h"

enum { COVERED_FROM = offsetof(fp_ring_owner, partition) };

static uint32_t crc_of(const void *what, size_t bytes)
{
    return fp_crc32c(0, (const uint8_t *)what + COVERED_FROM, bytes - COVERED_FROM);
}

static uint32_t line_crc(const void *line) { return crc_of(line, FP_RING_LINE_BYTES); }

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

void fp_ring_slabs_seal(fp_ring_slabs *slabs)
{
    slabs->magic = FP_RING_SLABS_MAGIC;
    slabs->crc = crc_of(slabs, sizeof *slabs);
}

bool fp_ring_slabs_are_valid(const fp_ring_slabs *slabs, uint64_t partition)
{
    return slabs->magic == FP_RING_SLABS_MAGIC && slabs->crc == crc_of(slabs, sizeof *slabs) &&
           slabs->partition == partition && fp_lineage_is_valid(&slabs->lineage);
}
