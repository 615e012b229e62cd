/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the log:
 *
 *   1. fence    was done by the GRANTs: no earlier owner reaches these rings any more
 *   2. read     each ring from its beginning to the end of what is valid, at least k - w + 1 of them: so
 *               at least one has whatever was acknowledged. A ring without any frame is a new one, or its
 *               node has restarted and forgotten: it proves nothing and does not count
 *   3. choose   the log whose last frame has the highest epoch, among those the longest. An owner writes
 *               what a ring misses before its own first frame, so a log that ends in a higher epoch has
 *               all that was acknowledged in earlier ones
 *   4. repair   every ring gets what it misses, and the new owner's first frame, behind which no frame of
 *               an earlier epoch counts; w rings have it before anything else happens. A ring that was empty
 *               gets the log's first frame last: half a copy must not speak for the commits that this ring
 *               once acknowledged
 *
 * The choice of 3 is that of Viewstamped Replication (Oki, Liskov, PODC 1988) and Raft for logs.
 */
#include "compute/redo_recover.h"

#include <string.h>

#include "common/error.h"
#include "compute/io.h"
#include "compute/remote.h"

enum { READ_BYTES = 1 << 20 }; /* in one READ */

/* A log as one ring has it: bytes from FP_REDO_LSN_FIRST on, one behind the other. */
typedef struct found_log {
    fp_mem mem;
    fp_mr *mrs[FP_TRANSPORTS_MAX];
    uint64_t have;  /* read so far, as an LSN */
    uint64_t end;   /* of what is valid */
    uint64_t epoch; /* of the last frame; 0: there is none */
    bool used;      /* there are others than owners' first frames */
} found_log;

/* What all rings have. */
typedef struct survey {
    found_log found[2];
    unsigned best;    /* found[best] is the log */
    unsigned telling; /* rings that have a log at all */
    bool used;        /* any ring has commits */
} survey;

static void close_found(found_log *found)
{
    fp_remote_unregister(found->mrs);
    if (found->mem.addr)
        fp_mem_close(&found->mem);
}

static int open_found(fp_redo_log *log, found_log *found)
{
    farpool_pool *pool = log->partition->pool;
    int rc = fp_mem_open(log->ring_bytes, 0, -1, &found->mem);
    for (unsigned t = 0; t < FP_TRANSPORTS_MAX && !rc; t++)
        if (log->mrs[t])
            rc =
                fp_net_register(pool->transports[t].net, &found->mem, FP_NET_LOCAL, &found->mrs[t]);
    return rc;
}

static uint8_t *at_lsn(const found_log *found, uint64_t lsn)
{
    return (uint8_t *)found->mem.addr + (lsn - FP_REDO_LSN_FIRST);
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

static int read_more(fp_redo_log *log, unsigned index, found_log *into)
{
    const fp_ring *ring = &log->rings[index];
    const fp_node *node = &log->partition->pool->nodes[ring->node];
    fp_conn *conn = log->thread->conns[ring->node];
    if (!conn)
        return fp_error(FARPOOL_E_NODE, "memory node %s: the connection was lost", node->uri);
    uint64_t bytes = fp_ring_piece(log, ring, into->have, FP_REDO_LSN_FIRST + log->ring_bytes);
    bytes = bytes < READ_BYTES ? bytes : READ_BYTES;
    fp_io *io = fp_io_take_ring(log->thread, index, into->have + bytes);
    fp_net_op op = fp_ring_op(log, ring, FP_NET_READ, into->have, io);
    op.sge[0] = (fp_sge){at_lsn(into, into->have), (uint32_t)bytes, into->mrs[node->transport]};
    int rc = fp_net_post(conn, &op, 1);
    if (rc) {
        fp_io_put(log->thread, io);
        return rc == FARPOOL_E_CLOSED ? FARPOOL_E_NODE : rc;
    }
    rc = wait_for(log, io);
    into->have += rc ? 0 : bytes;
    return rc;
}

/* The length of the next frame, 0: the log ends here, -: reading failed. */
static int64_t next_frame(fp_redo_log *log, unsigned index, found_log *into)
{
    fp_redo_expect expect = {log->partition->id, into->end, into->epoch};
    for (;;) {
        uint64_t available = into->have - into->end;
        uint64_t needed = fp_redo_needed(at_lsn(into, into->end), available, &expect);
        if (!needed || into->end - FP_REDO_LSN_FIRST + needed > log->ring_bytes)
            return 0;
        if (needed <= available)
            return (int64_t)fp_redo_check(at_lsn(into, into->end), available, &expect);
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

static int read_ring(fp_redo_log *log, unsigned index, found_log *into)
{
    into->have = into->end = FP_REDO_LSN_FIRST;
    into->epoch = 0;
    into->used = false;
    for (;;) {
        int64_t len = next_frame(log, index, into);
        if (len <= 0)
            return (int)len;
        fp_redo_frame frame;
        memcpy(&frame, at_lsn(into, into->end), sizeof frame);
        int rc = frame.kind == FP_REDO_OWNER ? check_shape(log, frame.records) : 0;
        if (rc)
            return rc;
        into->epoch = frame.epoch;
        into->used |= frame.kind != FP_REDO_OWNER;
        into->end += (uint64_t)len;
    }
}

/* ---- choosing -------------------------------------------------------------------------------- */

static bool better(const found_log *a, const found_log *b)
{
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->end > b->end;
}

/* The LSN up to which both are the same. */
static uint64_t common_until(const found_log *a, const found_log *b)
{
    enum { STEP = 4096 };
    uint64_t end = a->end < b->end ? a->end : b->end;
    uint64_t lsn = FP_REDO_LSN_FIRST;
    while (lsn < end) {
        size_t n = end - lsn < STEP ? end - lsn : STEP;
        if (memcmp(at_lsn(a, lsn), at_lsn(b, lsn), n) != 0)
            break; /* a little less than is the same does no harm */
        lsn += n;
    }
    return lsn;
}

/* Reads all rings. Each ring's `posted` and `acked` is what it has of the log. */
static int read_all(fp_redo_log *log, bool recover, survey *all)
{
    for (unsigned i = 0; i < log->ring_count; i++) {
        fp_ring *ring = &log->rings[i];
        if (ring->lost)
            continue;
        found_log *chosen = &all->found[all->best], *this = &all->found[!all->best];
        int rc = read_ring(log, i, this);
        if (recover && rc == FARPOOL_E_NODE) {
            ring->lost = true;
            continue;
        }
        if (rc)
            return rc;
        all->telling += this->epoch != 0;
        all->used |= this->used;
        uint64_t same = common_until(chosen, this);
        ring->posted = same;
        ring->blank = !this->epoch;
        if (better(this, chosen)) {
            for (unsigned k = 0; k < i; k++)
                if (log->rings[k].posted > same)
                    log->rings[k].posted = same;
            ring->posted = this->end;
            all->best = !all->best;
        }
    }
    for (unsigned i = 0; i < log->ring_count; i++)
        log->rings[i].acked = log->rings[i].posted;
    return 0;
}

/* Rings without redo, if there is any to be written to them, get their first frame last. */
static void withhold_first_frame(fp_redo_log *log, const survey *all)
{
    for (unsigned i = 0; i < log->ring_count; i++) {
        fp_ring *ring = &log->rings[i];
        ring->blank = ring->blank && all->telling;
        if (ring->blank)
            ring->posted += sizeof(fp_redo_frame);
    }
}

/* A new log: none of the rings may have been in use. Somebody who began it before, but did not succeed, has left no
 * more than first frames. */
static int judge_new(const fp_redo_log *log, const survey *all)
{
    const found_log *chosen = &all->found[all->best];
    if (!all->used)
        return 0;
    return fp_error(FARPOOL_E_EXISTS,
                    "partition %llu has a redo log up to LSN %llu of epoch %llu: open it with "
                    "recover = 1, or choose another id",
                    (unsigned long long)log->partition->id, (unsigned long long)chosen->end,
                    (unsigned long long)chosen->epoch);
}

static int judge_old(const fp_redo_log *log, const survey *all)
{
    unsigned long long id = log->partition->id;
    unsigned needed = log->ring_count - log->quorum + 1;
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

static int judge(const fp_redo_log *log, bool recover, const survey *all)
{
    uint64_t last = all->found[all->best].epoch, epoch = log->partition->epoch;
    int rc = recover ? judge_old(log, all) : judge_new(log, all);
    if (!rc && last >= epoch)
        rc = fp_error(FARPOOL_E_FENCED,
                      "partition %llu: its log is of epoch %llu already; %llu is not higher",
                      (unsigned long long)log->partition->id, (unsigned long long)last,
                      (unsigned long long)epoch);
    return rc;
}

int fp_redo_recover(fp_redo_log *log, bool recover)
{
    survey all = {0};
    fp_redo_build nothing = {0};
    all.found[0].end = FP_REDO_LSN_FIRST;
    int rc = open_found(log, &all.found[0]);
    if (!rc)
        rc = open_found(log, &all.found[1]);
    if (!rc)
        rc = read_all(log, recover, &all);
    if (!rc)
        rc = judge(log, recover, &all);
    if (!rc) {
        const found_log *chosen = &all.found[all.best];
        fp_redo_take_in(log, at_lsn(chosen, FP_REDO_LSN_FIRST), chosen->end);
        withhold_first_frame(log, &all);
        rc = fp_redo_append(log, FP_REDO_OWNER, &nothing, &log->own);
    }
    if (!rc)
        rc = fp_redo_flush(log, log->own);
    close_found(&all.found[0]);
    close_found(&all.found[1]);
    return rc;
}
