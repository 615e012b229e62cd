/* SPDX-License-Identifier: Apache-2.0 */
/* One-sided WRITEs of the mirror to the rings. Everything here is the flusher's. */
#include <string.h>

#include "common/faultpoint.h"
#include "compute/io.h"
#include "compute/redo_log.h"
#include "compute/remote.h"

enum { PIECES_MAX = 64 }; /* WRITEs of one batch, below FP_IO_MAX / FP_RINGS_MAX in flight each */

uint64_t fp_ring_piece(const fp_redo_log *log, const fp_ring *ring, uint64_t lsn, uint64_t upto)
{
    uint64_t at = lsn % log->ring_bytes;
    uint64_t bytes = upto - lsn;
    uint64_t to_end = log->ring_bytes - at;
    uint64_t to_extent = ring->at.extent_bytes - (FP_RING_LOG_AT + at) % ring->at.extent_bytes;
    bytes = bytes < to_end ? bytes : to_end;
    return bytes < to_extent ? bytes : to_extent;
}

static fp_net_op make_op(const fp_ring *ring, enum fp_net_kind kind, uint64_t at, fp_io *io)
{
    const fp_rkey *extent = &ring->at.extents[at / ring->at.extent_bytes];
    return (fp_net_op){
        .kind = kind,
        .cookie = (uintptr_t)io,
        .remote_key = extent->key,
        .remote_addr = extent->addr + at % ring->at.extent_bytes,
        .sge_count = 1,
    };
}

fp_net_op fp_ring_op(const fp_redo_log *log, const fp_ring *ring, enum fp_net_kind kind,
                     uint64_t lsn, fp_io *io)
{
    return make_op(ring, kind, FP_RING_LOG_AT + lsn % log->ring_bytes, io);
}

void *fp_ring_line(const fp_redo_log *log, const fp_ring *ring)
{
    return (char *)log->mirror.addr + log->ring_bytes +
           (size_t)(ring - log->rings) * FP_RING_LINE_BYTES;
}

fp_net_op fp_ring_line_op(const fp_redo_log *log, const fp_ring *ring, enum fp_net_kind kind,
                          unsigned at, fp_ring_owner *line, fp_io *io)
{
    fp_net_op op = make_op(ring, kind, at, io);
    if (kind == FP_NET_READ) {
        unsigned transport = log->partition->pool->nodes[ring->at.node].transport;
        op.sge[0] = (fp_sge){fp_ring_line(log, ring), FP_RING_LINE_BYTES, log->mrs[transport]};
        return op;
    }
    *line = (fp_ring_owner){
        .partition = log->partition->id,
        .epoch = log->epoch,
        .log_bytes = log->ring_bytes,
        .start = atomic_load_explicit(&log->start, memory_order_relaxed),
        .durable = atomic_load_explicit(&log->durable, memory_order_acquire),
        .shape = fp_redo_log_shape(log),
        .fork = fp_lineage_number(&log->lineage),
    };
    fp_ring_owner_seal(line);
    op.flags = FP_NET_INLINE;
    op.sge[0] = (fp_sge){line, FP_RING_LINE_BYTES, NULL};
    return op;
}

static fp_net_op make_write(const fp_redo_log *log, const fp_ring *ring, uint64_t lsn,
                            uint64_t bytes, fp_io *io)
{
    unsigned transport = log->partition->pool->nodes[ring->at.node].transport;
    fp_net_op op = fp_ring_op(log, ring, FP_NET_WRITE, lsn, io);
    bool is_inline = bytes <= FP_NET_INLINE_MAX;
    op.flags = is_inline ? FP_NET_INLINE : 0;
    op.sge[0] = (fp_sge){(char *)log->mirror.addr + lsn % log->ring_bytes, (uint32_t)bytes,
                         is_inline ? NULL : log->mrs[transport]};
    return op;
}

static unsigned slabs_at(uint64_t version)
{
    return FP_RING_SLABS_AT + version % 2 * FP_RING_SLABS_BYTES;
}

fp_net_op fp_ring_slabs_op(const fp_redo_log *log, const fp_ring *ring, enum fp_net_kind kind,
                           uint64_t version, fp_io *io)
{
    unsigned transport = log->partition->pool->nodes[ring->at.node].transport;
    char *copy = (char *)log->mirror.addr + log->ring_bytes + slabs_at(version);
    fp_net_op op = make_op(ring, kind, slabs_at(version), io);
    op.sge[0] = (fp_sge){copy, sizeof(fp_ring_slabs), log->mrs[transport]};
    return op;
}

/* Everything that was recovered is there, acknowledged: now the line that makes it a log. */
static bool is_line_due(const fp_redo_log *log, const fp_ring *ring)
{
    return ring->blank && ring->posted >= log->own;
}

static bool is_lost(const fp_ring *ring)
{
    return atomic_load_explicit(&ring->lost, memory_order_relaxed);
}

static void post_line(fp_redo_log *log, fp_ring *ring, unsigned index)
{
    fp_thread *thread = log->thread;
    fp_ring_owner line;
    fp_net_op ops[2];
    fp_io *ios[2];
    if (thread->free_io_count < 2)
        return; /* every transfer is in use: when one is done */
    pthread_mutex_lock(&log->lock);
    fp_ring_slabs slabs = log->slabs;
    pthread_mutex_unlock(&log->lock);
    ios[0] = fp_io_take_ring(thread, index, 0);
    ops[0] = fp_ring_slabs_op(log, ring, FP_NET_WRITE, slabs.version, ios[0]);
    ops[0].sge[0].addr =
        (char *)ops[0].sge[0].addr + 2 * FP_RING_SLABS_BYTES; /* not the keeper's */
    memcpy(ops[0].sge[0].addr, &slabs, sizeof slabs);         /* the same for each ring */
    ios[1] = fp_io_take_ring(thread, index, ring->posted);
    ops[1] = fp_ring_line_op(log, ring, FP_NET_WRITE, FP_RING_OWNER_AT, &line, ios[1]);
    if (thread->conns[ring->at.node] && !fp_net_post(thread->conns[ring->at.node], ops, 2)) {
        ring->blank = false;
        ring->inflight = 2;
        FP_FAULT_POINT(RECOVER_LINE_POSTED);
        return;
    }
    atomic_store_explicit(&ring->lost, true, memory_order_relaxed);
    fp_io_put(thread, ios[1]);
    fp_io_put(thread, ios[0]);
}

static void post(fp_redo_log *log, unsigned index, uint64_t end)
{
    fp_ring *ring = &log->rings[index];
    fp_thread *thread = log->thread;
    fp_net_op ops[PIECES_MAX];
    fp_io *ios[PIECES_MAX];
    unsigned n = 0;
    uint64_t lsn = ring->posted;
    while (lsn < end && n < PIECES_MAX && thread->free_io_count) {
        uint64_t bytes = fp_ring_piece(log, ring, lsn, end);
        ios[n] = fp_io_take_ring(thread, index, lsn + bytes);
        ops[n] = make_write(log, ring, lsn, bytes, ios[n]);
        if (ring->blank) /* what it has does not count, until it has all */
            ios[n]->lsn = 0;
        lsn += bytes;
        n++;
    }
    if (!n)
        return; /* every transfer is in use: when one is done */
    if (thread->conns[ring->at.node] && !fp_net_post(thread->conns[ring->at.node], ops, n)) {
        ring->posted = lsn;
        ring->inflight = n;
        atomic_fetch_add_explicit(&log->batches, 1, memory_order_relaxed);
        FP_FAULT_POINT(LOG_POSTED);
        return;
    }
    /* Its connection has broken: a post can't fail otherwise. */
    atomic_store_explicit(&ring->lost, true, memory_order_relaxed);
    while (n)
        fp_io_put(thread, ios[--n]);
}

/* Writes the last bytes again, to see whether they arrive. */
static void probe(fp_ring *ring, uint64_t end)
{
    if (atomic_exchange_explicit(&ring->doubted, false, memory_order_relaxed) && !ring->blank &&
        ring->posted == end)
        ring->posted = end - FP_REDO_ALIGN;
}

void fp_rings_post(fp_redo_log *log)
{
    uint64_t end = atomic_load_explicit(&log->end, memory_order_acquire);
    for (unsigned i = 0; i < log->ring_count; i++) {
        fp_ring *ring = &log->rings[i];
        if (is_lost(ring) || ring->inflight)
            continue;
        probe(ring, end);
        if (is_line_due(log, ring))
            post_line(log, ring, i);
        else if (ring->posted < end)
            post(log, i, end);
    }
    FP_FAULT_POINT(LOG_POSTED_ALL);
}

/* The LSN that at least w rings have reached which are not lost: their nodes may be gone. */
static uint64_t quorum_lsn(const fp_redo_log *log)
{
    uint64_t best = 0;
    for (unsigned i = 0; i < log->ring_count; i++) {
        unsigned reached = 0;
        for (unsigned k = 0; k < log->ring_count; k++)
            reached += !is_lost(&log->rings[k]) && log->rings[k].acked >= log->rings[i].acked;
        if (reached >= log->quorum && log->rings[i].acked > best)
            best = log->rings[i].acked;
    }
    return best;
}

static uint64_t least_acked(const fp_redo_log *log)
{
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i < log->ring_count; i++)
        if (!is_lost(&log->rings[i]) && log->rings[i].acked < least)
            least = log->rings[i].acked;
    return least;
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
            atomic_store_explicit(&ring->lost, true, memory_order_relaxed);
        else if (io->lsn > ring->acked) /* they come newest first */
            ring->acked = io->lsn;
        if (!io->status && !ring->blank && ring->acked >= log->own)
            atomic_store_explicit(&ring->speaks, true, memory_order_release);
        fp_io_put(thread, io);
    }
    for (unsigned i = 0; i < log->ring_count; i++) /* also if nothing was under way */
        if (!thread->conns[log->rings[i].at.node])
            atomic_store_explicit(&log->rings[i].lost, true, memory_order_relaxed);
    atomic_store_explicit(&log->acked_all, least_acked(log), memory_order_release);
    uint64_t durable = quorum_lsn(log);
    if (durable > atomic_load_explicit(&log->durable, memory_order_relaxed)) {
        FP_FAULT_POINT(LOG_DURABLE);
        atomic_store_explicit(&log->durable, durable, memory_order_release);
    }
}

unsigned fp_rings_alive(const fp_redo_log *log)
{
    unsigned alive = 0;
    for (unsigned i = 0; i < log->ring_count; i++)
        alive += !is_lost(&log->rings[i]);
    return alive;
}
