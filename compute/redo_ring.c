/* SPDX-License-Identifier: Apache-2.0 */
/* One-sided WRITEs of the mirror to the rings. Everything here is the flusher's. */
#include <string.h>

#include "compute/io.h"
#include "compute/redo_log.h"
#include "compute/remote.h"

enum { PIECES_MAX = 64 }; /* WRITEs of one batch, below FP_IO_MAX / FP_RINGS_MAX in flight each */

uint64_t fp_ring_piece(const fp_redo_log *log, const fp_ring *ring, uint64_t lsn, uint64_t upto)
{
    uint64_t at = lsn % log->ring_bytes;
    uint64_t bytes = upto - lsn;
    uint64_t to_end = log->ring_bytes - at;
    uint64_t to_extent = ring->extent_bytes - at % ring->extent_bytes;
    bytes = bytes < to_end ? bytes : to_end;
    return bytes < to_extent ? bytes : to_extent;
}

fp_net_op fp_ring_op(const fp_redo_log *log, const fp_ring *ring, enum fp_net_kind kind,
                     uint64_t lsn, fp_io *io)
{
    uint64_t at = lsn % log->ring_bytes;
    const fp_rkey *extent = &ring->extents[at / ring->extent_bytes];
    return (fp_net_op){
        .kind = kind,
        .cookie = (uintptr_t)io,
        .remote_key = extent->key,
        .remote_addr = extent->addr + at % ring->extent_bytes,
        .sge_count = 1,
    };
}

static fp_net_op make_write(const fp_redo_log *log, const fp_ring *ring, uint64_t lsn,
                            uint64_t bytes, fp_io *io)
{
    unsigned transport = log->partition->pool->nodes[ring->node].transport;
    fp_net_op op = fp_ring_op(log, ring, FP_NET_WRITE, lsn, io);
    bool is_inline = bytes <= FP_NET_INLINE_MAX;
    op.flags = is_inline ? FP_NET_INLINE : 0;
    op.sge[0] = (fp_sge){(char *)log->mirror.addr + lsn % log->ring_bytes, (uint32_t)bytes,
                         is_inline ? NULL : log->mrs[transport]};
    return op;
}

/* Everything else that was recovered is there, acknowledged: the header that makes it a log. */
static bool is_first_frame_due(const fp_redo_log *log, const fp_ring *ring)
{
    return ring->blank && ring->posted >= log->own;
}

static void post(fp_redo_log *log, unsigned index, uint64_t end)
{
    fp_ring *ring = &log->rings[index];
    fp_thread *thread = log->thread;
    fp_net_op ops[PIECES_MAX];
    fp_io *ios[PIECES_MAX];
    unsigned n = 0;
    bool first = is_first_frame_due(log, ring);
    uint64_t lsn = first ? FP_REDO_LSN_FIRST : ring->posted;
    end = first ? FP_REDO_LSN_FIRST + sizeof(fp_redo_frame) : end;
    while (lsn < end && n < PIECES_MAX && thread->free_io_count) {
        uint64_t bytes = fp_ring_piece(log, ring, lsn, end);
        ios[n] = fp_io_take_ring(thread, index, lsn + bytes);
        ops[n] = make_write(log, ring, lsn, bytes, ios[n]);
        if (ring->blank) /* what it has does not count, until it has all */
            ios[n]->lsn = first ? ring->posted : 0;
        lsn += bytes;
        n++;
    }
    if (!n)
        return; /* every transfer is in use: when one is done */
    if (thread->conns[ring->node] && !fp_net_post(thread->conns[ring->node], ops, n)) {
        ring->posted = first ? ring->posted : lsn;
        ring->blank = ring->blank && !first;
        ring->inflight = n;
        atomic_fetch_add_explicit(&log->batches, 1, memory_order_relaxed);
        return;
    }
    ring->lost = true; /* its connection has broken: a post can't fail otherwise */
    while (n)
        fp_io_put(thread, ios[--n]);
}

void fp_rings_post(fp_redo_log *log)
{
    uint64_t end = atomic_load_explicit(&log->end, memory_order_acquire);
    for (unsigned i = 0; i < log->ring_count; i++)
        if (!log->rings[i].lost && !log->rings[i].inflight &&
            (log->rings[i].posted < end || is_first_frame_due(log, &log->rings[i])))
            post(log, i, end);
}

/* The LSN that at least w rings have reached which are not lost: their nodes may be gone. */
static uint64_t quorum_lsn(const fp_redo_log *log)
{
    uint64_t best = 0;
    for (unsigned i = 0; i < log->ring_count; i++) {
        unsigned reached = 0;
        for (unsigned k = 0; k < log->ring_count; k++)
            reached += !log->rings[k].lost && log->rings[k].acked >= log->rings[i].acked;
        if (reached >= log->quorum && log->rings[i].acked > best)
            best = log->rings[i].acked;
    }
    return best;
}

void fp_rings_poll(fp_redo_log *log, int timeout_ms)
{
    fp_thread *thread = log->thread;
    fp_remote_poll(thread, timeout_ms);
    while (thread->completed) {
        fp_io *io = thread->completed;
        thread->completed = io->next;
        fp_ring *ring = &log->rings[io->ring];
        ring->inflight--;
        if (io->status)
            ring->lost = true;
        else if (io->lsn > ring->acked) /* they come newest first */
            ring->acked = io->lsn;
        fp_io_put(thread, io);
    }
    uint64_t durable = quorum_lsn(log);
    if (durable > atomic_load_explicit(&log->durable, memory_order_relaxed))
        atomic_store_explicit(&log->durable, durable, memory_order_release);
}

unsigned fp_rings_alive(const fp_redo_log *log)
{
    unsigned alive = 0;
    for (unsigned i = 0; i < log->ring_count; i++)
        alive += !log->rings[i].lost;
    return alive;
}
