/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/ring_owner.h"

#include <stdlib.h>

#include "common/racy.h"
#include "common/redo.h"
#include "tests/lib/require.h"

void ring_owner_open(ring_owner *o, uint64_t partition, unsigned copies, uint64_t log_bytes,
                     uint64_t extent_bytes)
{
    *o = (ring_owner){.epoch = 1,
                      .start = FP_REDO_LSN_FIRST,
                      .durable = FP_REDO_LSN_FIRST,
                      .log_bytes = log_bytes,
                      .extent_bytes = extent_bytes,
                      .copy_count = copies};
    wal_log_open(&o->log, partition, FP_REDO_LSN_FIRST);
    for (unsigned i = 0; i < copies; i++) {
        ring_copy *copy = &o->copies[i];
        copy->have = FP_REDO_LSN_FIRST;
        copy->extent_count =
            (uint32_t)((FP_RING_LOG_AT + log_bytes + extent_bytes - 1) / extent_bytes);
        REQUIRE(copy->extent_count <= RING_EXTENTS_MAX);
        for (uint32_t e = 0; e < copy->extent_count; e++) {
            copy->extents[e] = calloc(1, extent_bytes);
            REQUIRE(copy->extents[e]);
        }
    }
}

void ring_owner_close(ring_owner *o)
{
    for (unsigned i = 0; i < o->copy_count; i++)
        for (uint32_t e = 0; e < o->copies[i].extent_count && !o->elsewhere; e++)
            free(o->copies[i].extents[e]);
    wal_log_close(&o->log);
}

void ring_owner_frame(ring_owner *o, size_t bytes, uint64_t salt)
{
    wal_log_frame(&o->log, o->epoch, bytes, salt);
}

void *ring_owner_place(const ring_owner *o, unsigned copy, uint64_t offset)
{
    return (uint8_t *)o->copies[copy].extents[offset / o->extent_bytes] + offset % o->extent_bytes;
}

void ring_owner_write(ring_owner *o, unsigned copy, uint64_t upto)
{
    uint64_t *have = &o->copies[copy].have;
    REQUIRE(upto <= o->log.end && upto <= o->start + o->log_bytes);
    for (; *have < upto; (*have)++)
        fp_racy_copy(ring_owner_place(o, copy, FP_RING_LOG_AT + *have % o->log_bytes),
                     o->log.bytes + *have, 1);
}

void ring_owner_tell(ring_owner *o, unsigned copy)
{
    fp_ring_owner line = {.partition = o->log.partition,
                          .epoch = o->epoch,
                          .log_bytes = o->log_bytes,
                          .start = o->start,
                          .durable = o->durable};
    fp_ring_owner_seal(&line);
    fp_racy_copy(ring_owner_place(o, copy, FP_RING_OWNER_AT), &line, sizeof line);
}

void ring_owner_grow(ring_owner *o, uint64_t more, size_t bytes)
{
    uint64_t until = o->log.end + more;
    while (o->log.end < until)
        ring_owner_frame(o, bytes, 0);
    for (unsigned i = 0; i < o->copy_count; i++)
        ring_owner_write(o, i, o->log.end);
    o->durable = o->log.end;
    for (unsigned i = 0; i < o->copy_count; i++)
        ring_owner_tell(o, i);
}

bool ring_owner_node(const ring_owner *o, unsigned copy, fp_ring_node *line)
{
    fp_racy_copy(line, ring_owner_place(o, copy, FP_RING_NODE_AT), sizeof *line);
    return fp_ring_node_is_valid(line, o->log.partition) && line->volume;
}
