/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the log:
 *
 *   1. fence    was done by the GRANTs: no earlier owner reaches these rings any more
 *   2. read     each ring from where its owner's line says that the log begins to the end of what is valid, at
 *               least k - w + 1 of them: so at least one has whatever was acknowledged. A ring without that line
 *               is a new one, or its node has restarted and forgotten: it proves nothing and does not count
 *   3. choose   the log whose last frame has the highest epoch, among those the longest. An owner writes
 *               what a ring misses before its own first frame, so a log that ends in a higher epoch has
 *               all that was acknowledged in earlier ones
 *   4. repair   every ring gets what it misses, and the new owner's first frame, behind which no frame of
 *               an earlier epoch counts; w rings have it before anything else happens. A ring that was empty, or
 *               ends before the log's beginning, gets its owner's line last: half a copy must not speak for
 *               the commits that this ring once acknowledged
 *
 * The choice of 3 is that of Viewstamped Replication (Oki, Liskov, PODC 1988) and Raft for logs.
 */
#include "compute/redo_recover.h"

#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "compute/io.h"
#include "compute/redo_survey.h"
#include "compute/remote.h"
#include "compute/slab.h"

enum { READ_BYTES = 1 << 20 }; /* in one READ */

static void close_found(fp_found_log *found)
{
    fp_remote_unregister(found->mrs);
    if (found->mem.addr)
        fp_mem_close(&found->mem);
}

static int open_found(fp_redo_log *log, fp_found_log *found)
{
    farpool_pool *pool = log->partition->pool;
    int rc = fp_mem_open(log->ring_bytes, 0, -1, &found->mem);
    for (unsigned t = 0; t < FP_TRANSPORTS_MAX && !rc; t++)
        if (log->mrs[t])
            rc =
                fp_net_register(pool->transports[t].net, &found->mem, FP_NET_LOCAL, &found->mrs[t]);
    return rc;
}

/* ---- reading a ring -------------------------------------------------------------------------- */

static int wait_for(fp_redo_log *log, fp_io *io)
{
    fp_thread *thread = log->thread;
    while (!io->done)
        fp_remote_poll(thread, 100);
    FP_ASSERT(thread->completed == io && !io->next); /* it was the only one */
    thread->completed = NULL;
    int rc = io->status;
    fp_io_put(thread, io);
    return rc;
}

static int transfer(fp_redo_log *log, const fp_ring *ring, fp_net_op op, fp_io *io)
{
    fp_conn *conn = log->thread->conns[ring->at.node];
    int rc = conn ? fp_net_post(conn, &op, 1) : FARPOOL_E_CLOSED;
    if (!rc)
        return wait_for(log, io);
    fp_io_put(log->thread, io);
    if (rc == FARPOOL_E_CLOSED)
        rc = fp_error(FARPOOL_E_NODE, "memory node %s: the connection was lost",
                      log->partition->pool->nodes[ring->at.node].uri);
    return rc;
}

static int read_more(fp_redo_log *log, unsigned index, fp_found_log *into)
{
    const fp_ring *ring = &log->rings[index];
    const fp_node *node = &log->partition->pool->nodes[ring->at.node];
    uint64_t bytes = fp_ring_piece(log, ring, into->have, into->start + log->ring_bytes);
    bytes = bytes < READ_BYTES ? bytes : READ_BYTES;
    fp_io *io = fp_io_take_ring(log->thread, index, into->have + bytes);
    fp_net_op op = fp_ring_op(log, ring, FP_NET_READ, into->have, io);
    op.sge[0] =
        (fp_sge){fp_found_at(into, into->have), (uint32_t)bytes, into->mrs[node->transport]};
    int rc = transfer(log, ring, op, io);
    into->have += rc ? 0 : bytes;
    return rc;
}

/* The length of the next frame, 0: the log ends here, -: reading failed. */
static int64_t next_frame(fp_redo_log *log, unsigned index, fp_found_log *into)
{
    fp_redo_expect expect = {log->partition->id, into->end, into->epoch};
    for (;;) {
        uint64_t available = into->have - into->end;
        uint64_t needed = fp_redo_needed(fp_found_at(into, into->end), available, &expect);
        if (!needed || into->end - into->start + needed > log->ring_bytes)
            return 0;
        if (needed <= available)
            return (int64_t)fp_redo_check(fp_found_at(into, into->end), available, &expect);
        int rc = read_more(log, index, into);
        if (rc)
            return rc;
    }
}

static int check_shape(const fp_redo_log *log, uint32_t shape)
{
    if (shape == fp_redo_log_shape(log))
        return 0;
    return fp_error(FARPOOL_E_INVAL,
                    "partition %llu: its log is in %u rings of %llu bytes, %u of them a quorum: "
                    "open it with the same log_copies, log_ring_bytes and log_quorum",
                    (unsigned long long)log->partition->id, shape >> 3 & 7,
                    (unsigned long long)(shape >> 6) * FARPOOL_UNIT_BYTES, shape & 7);
}

/* Where the ring's log begins; start 0: the ring is blank. */
static int read_line(fp_redo_log *log, unsigned index, fp_ring_owner *line)
{
    const fp_ring *ring = &log->rings[index];
    fp_io *io = fp_io_take_ring(log->thread, index, 0);
    fp_net_op op = fp_ring_line_op(log, ring, FP_NET_READ, FP_RING_OWNER_AT, NULL, io);
    int rc = transfer(log, ring, op, io);
    if (rc)
        return rc;
    memcpy(line, fp_ring_line(log, ring), sizeof *line);
    if (!fp_ring_owner_is_valid(line, log->partition->id)) {
        *line = (fp_ring_owner){0};
        return 0;
    }
    return check_shape(log, line->shape);
}

/* Which slabs count, as this ring knows it; both versions that are there. */
static int read_slabs(fp_redo_log *log, unsigned index, fp_ring_slabs *newest, fp_ring_slabs *both)
{
    const fp_ring *ring = &log->rings[index];
    for (uint64_t version = 0; version < 2; version++) {
        fp_io *io = fp_io_take_ring(log->thread, index, 0);
        fp_net_op op = fp_ring_slabs_op(log, ring, FP_NET_READ, version, io);
        int rc = transfer(log, ring, op, io);
        if (rc)
            return rc;
        fp_ring_slabs *slabs = &both[version];
        memcpy(slabs, op.sge[0].addr, sizeof *slabs);
        if (!fp_ring_slabs_are_valid(slabs, log->partition->id))
            *slabs = (fp_ring_slabs){0};
        if (slabs->epoch > newest->epoch ||
            (slabs->epoch == newest->epoch && slabs->version > newest->version))
            *newest = *slabs;
    }
    return 0;
}

/* Slabs, with the lineage, are there before any frame of their owner. So those of the owner of the last frame are right, or
 * of one before him. Of owners who came no further than to change their nodes there may be only later ones; these have
 * made no fork. */
static bool are_rather(const fp_ring_slabs *a, const fp_ring_slabs *b, uint64_t epoch)
{
    if ((a->epoch <= epoch) != (b->epoch <= epoch))
        return a->epoch <= epoch;
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->version > b->version;
}

static void settle_lineage(fp_found_log *found, const fp_ring_slabs *both)
{
    const fp_ring_slabs *settled = NULL;
    for (unsigned i = 0; i < 2; i++)
        if (both[i].version && fp_lineage_number(&both[i].lineage) <= found->epoch &&
            (!settled || are_rather(&both[i], settled, found->epoch)))
            settled = &both[i];
    found->lineage = settled ? settled->lineage : (fp_lineage){0};
}

static int read_ring(fp_redo_log *log, unsigned index, fp_found_log *into, fp_ring_slabs *slabs)
{
    fp_ring_owner line;
    fp_ring_slabs both[2];
    int rc = read_line(log, index, &line);
    if (!rc)
        rc = read_slabs(log, index, slabs, both);
    if (rc)
        return rc;
    into->start = into->have = into->end = line.start;
    into->epoch = 0;
    into->line_epoch = line.epoch;
    into->line_durable = line.durable ? line.start : 0;
    into->used = line.start > FP_REDO_LSN_FIRST;
    while (line.start) {
        int64_t len = next_frame(log, index, into);
        if (len < 0)
            return (int)len;
        if (!len)
            break;
        fp_redo_frame frame;
        memcpy(&frame, fp_found_at(into, into->end), sizeof frame);
        into->epoch = frame.epoch;
        into->used |= frame.kind != FP_REDO_OWNER;
        into->end += (uint64_t)len;
        if (into->end <= line.durable)
            into->line_durable = into->end;
    }
    into->epoch = into->epoch ? into->epoch : line.epoch;
    settle_lineage(into, both);
    return 0;
}

/* ---- choosing -------------------------------------------------------------------------------- */

static bool better(const fp_found_log *a, const fp_found_log *b)
{
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->end > b->end;
}

/* The LSN up to which both are the same, as far as they overlap; 0: they don't. */
static uint64_t common_until(const fp_found_log *a, const fp_found_log *b)
{
    enum { STEP = 4096 };
    uint64_t end = a->end < b->end ? a->end : b->end;
    uint64_t lsn = a->start > b->start ? a->start : b->start;
    if (!a->epoch || !b->epoch || lsn > end)
        return 0;
    while (lsn < end) {
        size_t n = end - lsn < STEP ? end - lsn : STEP;
        if (memcmp(fp_found_at(a, lsn), fp_found_at(b, lsn), n) != 0)
            break; /* a little less than is the same does no harm */
        lsn += n;
    }
    return lsn;
}

static void take_found(fp_redo_log *log, unsigned index, fp_survey *all)
{
    fp_found_log *chosen = &all->found[all->best], *this = &all->found[!all->best];
    all->telling += this->epoch != 0;
    all->used |= this->used;
    all->start = this->start > all->start ? this->start : all->start;
    all->line_epoch = this->line_epoch > all->line_epoch ? this->line_epoch : all->line_epoch;
    uint64_t same = common_until(chosen, this);
    log->rings[index].posted = same;
    if (!this->epoch || !better(this, chosen))
        return;
    for (unsigned k = 0; k < index; k++)
        if (log->rings[k].posted > same)
            log->rings[k].posted = same;
    log->rings[index].posted = this->end;
    all->best = !all->best;
}

/* Reads all rings. Each ring's `posted` is what it has of the log, as an LSN. */
static int read_all(fp_redo_log *log, bool recover, fp_survey *all)
{
    for (unsigned i = 0; i < log->ring_count; i++) {
        fp_ring *ring = &log->rings[i];
        if (atomic_load_explicit(&ring->lost, memory_order_relaxed))
            continue;
        int rc = read_ring(log, i, &all->found[!all->best], &all->slabs);
        if (recover && rc == FARPOOL_E_NODE) {
            atomic_store_explicit(&ring->lost, true, memory_order_relaxed);
            continue;
        }
        if (rc)
            return rc;
        take_found(log, i, all);
    }
    return 0;
}

/* What rings have that go on where they are; the others begin anew, and don't count until they have it all. */
static void prepare_rings(fp_redo_log *log, const fp_survey *all)
{
    for (unsigned i = 0; i < log->ring_count; i++) {
        fp_ring *ring = &log->rings[i];
        ring->blank = ring->posted < all->start || !all->telling;
        ring->acked = ring->blank ? 0 : ring->posted;
        ring->posted = ring->blank ? all->start : ring->posted;
    }
}

/* A new log: none of the rings may have been in use. Somebody who began it before, but did not succeed, has left no
 * more than first frames. */
static int judge_new(const fp_redo_log *log, const fp_survey *all)
{
    const fp_found_log *chosen = &all->found[all->best];
    if (!all->used)
        return 0;
    return fp_error(FARPOOL_E_EXISTS,
                    "partition %llu has a redo log up to LSN %llu of epoch %llu: open it with "
                    "recover = 1, or choose another id",
                    (unsigned long long)log->partition->id, (unsigned long long)chosen->end,
                    (unsigned long long)chosen->epoch);
}

static int judge_old(const fp_redo_log *log, const fp_survey *all)
{
    unsigned long long id = log->partition->id;
    unsigned needed = log->ring_count - log->quorum + 1;
    if (all->telling && all->start > all->found[all->best].end)
        return fp_error(FARPOOL_E_CORRUPT,
                        "partition %llu: a log ring says that its log begins at LSN %llu, but the "
                        "log of epoch %llu ends at %llu",
                        id, (unsigned long long)all->start,
                        (unsigned long long)all->found[all->best].epoch,
                        (unsigned long long)all->found[all->best].end);
    if (!all->telling && fp_rings_alive(log) == log->ring_count)
        return fp_error(FARPOOL_E_NOTFOUND, "partition %llu: none of %u log rings has any redo", id,
                        log->ring_count);
    if (all->telling < needed)
        return fp_error(FARPOOL_E_NODE,
                        "partition %llu: only %u of its %u log rings can be read and have redo; %u "
                        "are needed to be sure of every commit",
                        id, all->telling, log->ring_count, needed);
    if (fp_rings_alive(log) < log->quorum) /* nothing is written in vain: frames have epochs */
        return fp_error(FARPOOL_E_NODE,
                        "partition %llu: only %u of its %u log rings can be written; %u are needed",
                        id, fp_rings_alive(log), log->ring_count, log->quorum);
    return 0;
}

static int judge(const fp_redo_log *log, bool recover, const fp_survey *all)
{
    uint64_t last = all->found[all->best].epoch, epoch = log->epoch;
    last = all->line_epoch > last ? all->line_epoch : last;
    int rc = recover ? judge_old(log, all) : judge_new(log, all);
    if (!rc && last >= epoch)
        rc = fp_error(FARPOOL_E_FENCED,
                      "partition %llu: its log is of epoch %llu already; %llu is not higher",
                      (unsigned long long)log->partition->id, (unsigned long long)last,
                      (unsigned long long)epoch);
    return rc;
}

static bool any_is_gone(const fp_ring_slabs *before, const fp_ring_slabs *now)
{
    for (unsigned i = 0; i < FP_RING_SLABS_MAX; i++) {
        bool found = !before->boots[i];
        for (unsigned k = 0; k < FP_RING_SLABS_MAX; k++)
            found |= before->boots[i] == now->boots[k];
        if (!found)
            return true;
    }
    return false;
}

/* Which slabs count from now on: those that did, and those that are empty now. */
static int settle_slabs(fp_redo_log *log, const fp_survey *all)
{
    static const fp_ring_slabs none;
    int rc = 0;
    if (log->from_storage)
        rc = fp_slab_renew(log->partition, &none);
    else if (all->slabs.version)
        rc = fp_slab_renew(log->partition, &all->slabs);
    /* In the place of those of somebody who came to nothing: the others are the ones that tell the lineage. */
    bool in_vain = all->slabs.epoch > all->found[all->best].epoch;
    log->slabs = (fp_ring_slabs){.partition = log->partition->id,
                                 .epoch = log->epoch,
                                 .version = all->slabs.version + 1 + in_vain};
    fp_slab_list(log->partition, fp_node_set_now(log->partition), &log->slabs);
    log->slabs.lineage = all->found[all->best].lineage;
    log->lineage = log->slabs.lineage;
    log->slabs.trusted_from = all->slabs.trusted_from;
    if (any_is_gone(&all->slabs, &log->slabs) && all->start > log->slabs.trusted_from)
        log->slabs.trusted_from =
            all->start; /* what is not older than that has all redo behind it */
    fp_ring_slabs_seal(&log->slabs);
    return rc;
}

static int write_slabs(fp_redo_log *log, unsigned index)
{
    const fp_ring *ring = &log->rings[index];
    fp_io *io = fp_io_take_ring(log->thread, index, 0);
    fp_net_op op = fp_ring_slabs_op(log, ring, FP_NET_WRITE, log->slabs.version, io);
    memcpy(op.sge[0].addr, &log->slabs, sizeof log->slabs);
    return transfer(log, ring, op, io);
}

static int make_blank(fp_redo_log *log, unsigned index)
{
    const fp_ring *ring = &log->rings[index];
    fp_ring_owner line;
    fp_io *io = fp_io_take_ring(log->thread, index, 0);
    fp_net_op op = fp_ring_line_op(log, ring, FP_NET_WRITE, FP_RING_OWNER_AT, &line, io);
    line = (fp_ring_owner){0};
    return transfer(log, ring, op, io);
}

/* To the rings: the slabs that count and the log's lineage, before any frame of ours. If it has just forked, a ring that is
 * going to be overwritten is blank first: what it said was of the log before. */
static int announce(fp_redo_log *log)
{
    for (unsigned i = 0; i < log->ring_count; i++) {
        fp_ring *ring = &log->rings[i];
        if (atomic_load_explicit(&ring->lost, memory_order_relaxed))
            continue;
        int rc = ring->blank && log->from_storage ? make_blank(log, i) : 0;
        if (!rc)
            rc = write_slabs(log, i);
        if (rc)
            atomic_store_explicit(&ring->lost, true, memory_order_relaxed);
        FP_FAULT_POINT(RECOVER_ANNOUNCED);
    }
    return fp_rings_alive(log) >= log->quorum
               ? 0
               : fp_error(
                     FARPOOL_E_NODE,
                     "partition %llu: only %u of its %u log rings can be written; %u are needed",
                     (unsigned long long)log->partition->id, fp_rings_alive(log), log->ring_count,
                     log->quorum);
}

static int take_up(fp_redo_log *log, const fp_survey *all)
{
    const fp_found_log *chosen = &all->found[all->best];
    fp_redo_build nothing = {0};
    fp_redo_take_in(log, fp_found_at(chosen, all->start), all->start, chosen->end);
    prepare_rings(log, all);
    int rc = settle_slabs(log, all);
    FP_FAULT_POINT(RECOVER_SLABS_SETTLED);
    if (!rc && (log->from_storage || all->telling))
        rc = announce(log);
    if (!rc)
        rc = fp_redo_append(log, FP_REDO_OWNER, &nothing, &log->own);
    FP_FAULT_POINT(RECOVER_OWN_FRAME);
    if (!rc)
        rc = fp_redo_flush(log, log->own);
    FP_FAULT_POINT(RECOVER_OWN_DURABLE);
    if (!rc && log->from_storage)
        fp_redo_join_storage(log, all);
    return rc;
}

int fp_redo_recover(fp_redo_log *log, enum farpool_recover recover)
{
    fp_survey all = {.start = FP_REDO_LSN_FIRST};
    all.found[0].start = all.found[0].end = FP_REDO_LSN_FIRST;
    int rc = open_found(log, &all.found[0]);
    if (!rc)
        rc = open_found(log, &all.found[1]);
    if (!rc)
        rc = read_all(log, recover != FARPOOL_NEW, &all);
    if (!rc && recover == FARPOOL_RECOVER_STORED)
        rc = fp_redo_consult_storage(log, &all);
    if (!rc)
        rc = judge(log, recover != FARPOOL_NEW, &all);
    if (!rc && recover == FARPOOL_NEW)
        rc = fp_redo_check_none_stored(log, &all);
    FP_FAULT_POINT(RECOVER_CHOSEN);
    if (!rc)
        rc = take_up(log, &all);
    close_found(&all.found[0]);
    close_found(&all.found[1]);
    return rc;
}
