/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/redo_log.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/faultpoint.h"
#include "common/futex.h"
#include "compute/keeper.h"
#include "compute/redo_recover.h"
#include "compute/remote.h"
#include "compute/thread.h"

/* The flusher leaves the processor to others between its first looks, who append meanwhile; then it sleeps. */
enum { LOOKS = 500, SWITCH_NS = 10000, PATIENCE_NS = 200000, LINES_BYTES = FARPOOL_UNIT_BYTES };

_Static_assert(FP_RINGS_MAX *FP_RING_LINE_BYTES <= LINES_BYTES, "a line for each ring");

/* ---- appending ------------------------------------------------------------------------------- */

/* Into the mirror, around its end if need be. */
static void copy_in(fp_redo_log *log, uint64_t lsn, const void *data, size_t len)
{
    uint64_t at = lsn % log->ring_bytes;
    size_t first = log->ring_bytes - at < len ? log->ring_bytes - at : len;
    memcpy((char *)log->mirror.addr + at, data, first);
    if (len > first)
        memcpy(log->mirror.addr, (const char *)data + first, len - first);
}

uint32_t fp_redo_log_shape(const fp_redo_log *log)
{
    return fp_redo_shape(log->ring_bytes, log->ring_count, log->quorum);
}

void fp_redo_copy_out(const fp_redo_log *log, uint64_t lsn, void *to, size_t len)
{
    uint64_t at = lsn % log->ring_bytes;
    size_t first = log->ring_bytes - at < len ? log->ring_bytes - at : len;
    memcpy(to, (const char *)log->mirror.addr + at, first);
    if (len > first)
        memcpy((char *)to + first, log->mirror.addr, len - first);
}

void fp_redo_take_in(fp_redo_log *log, const void *bytes, uint64_t start, uint64_t end)
{
    copy_in(log, start, bytes, end - start);
    log->first = start;
    atomic_store_explicit(&log->start, start, memory_order_relaxed);
    atomic_store_explicit(&log->floor, start, memory_order_relaxed);
    atomic_store_explicit(&log->durable, start, memory_order_relaxed);
    atomic_store_explicit(&log->end, end, memory_order_release);
}

int fp_redo_failure(const fp_redo_log *log)
{
    int code = atomic_load_explicit(&log->failed, memory_order_acquire);
    return code ? fp_error(code, "partition %llu: its redo log has failed: %s",
                           (unsigned long long)log->partition->id, log->reason)
                : 0;
}

/* What every owner's first frame needs to be there for those to come, or a full log could not be recovered. */
static uint64_t reserve(const fp_redo_log *log) { return log->ring_bytes / 64; }

static int check_room_locked(const fp_redo_log *log, enum fp_redo_kind kind, uint64_t end,
                             size_t len)
{
    uint64_t room = log->ring_bytes - (kind == FP_REDO_OWNER ? 0 : reserve(log));
    /* What is below was read, or copied out, before the keeper let go of it. */
    uint64_t floor = atomic_load_explicit(&log->floor, memory_order_acquire);
    int rc = fp_redo_failure(log);
    if (!rc && end + len - floor > room)
        rc =
            fp_error(FARPOOL_E_NOSPACE,
                     "partition %llu: %zu bytes of redo do not fit in log rings of %llu bytes that "
                     "hold %llu%s",
                     (unsigned long long)log->partition->id, len,
                     (unsigned long long)log->ring_bytes, (unsigned long long)(end - floor),
                     fp_keeper_has_storage(log->keeper)
                         ? ": make log_ring_bytes larger"
                         : "; none of their memory nodes has a storage node to spill them to");
    return rc;
}

static int append_locked(fp_redo_log *log, fp_redo_frame *frame, uint32_t crc,
                         const fp_redo_build *build, uint64_t *end_out)
{
    size_t len = sizeof *frame + build->len;
    uint64_t end = atomic_load_explicit(&log->end, memory_order_relaxed);
    int rc = check_room_locked(log, frame->kind, end, len);
    if (rc)
        return rc;
    frame->epoch = log->epoch;
    frame->lsn = end;
    fp_redo_seal(frame, crc, build->len);
    copy_in(log, end, frame, sizeof *frame);
    if (build->len)
        copy_in(log, end + sizeof *frame, build->bytes, build->len);
    *end_out = end + len;
    atomic_store_explicit(&log->end, end + len, memory_order_release);
    atomic_fetch_add_explicit(&log->frames, 1, memory_order_relaxed);
    return 0;
}

int fp_redo_append(fp_redo_log *log, enum fp_redo_kind kind, const fp_redo_build *build,
                   uint64_t *end)
{
    fp_redo_frame frame = {
        .partition = log->partition->id,
        .kind = kind,
        .records = kind == FP_REDO_OWNER ? fp_redo_log_shape(log) : build->records,
    };
    uint32_t crc = fp_redo_build_crc(build);
    pthread_mutex_lock(&log->lock);
    int rc = append_locked(log, &frame, crc, build, end);
    pthread_mutex_unlock(&log->lock);
    if (!rc)
        fp_keeper_rouse(log->keeper);
    return rc;
}

int fp_redo_begin_epoch(fp_redo_log *log, uint64_t epoch)
{
    fp_redo_frame frame = {
        .partition = log->partition->id,
        .kind = FP_REDO_OWNER,
        .records = fp_redo_log_shape(log),
    };
    fp_redo_build nothing = {0};
    uint32_t crc = fp_redo_build_crc(&nothing);
    pthread_mutex_lock(&log->lock);
    uint64_t before = log->epoch;
    log->epoch = epoch;
    int rc = append_locked(log, &frame, crc, &nothing, &log->own);
    if (rc)
        log->epoch = before;
    pthread_mutex_unlock(&log->lock);
    return rc;
}

/* ---- flushing -------------------------------------------------------------------------------- */

static bool is_durable(const fp_redo_log *log, uint64_t lsn)
{
    return atomic_load_explicit(&log->durable, memory_order_acquire) >= lsn;
}

/* Whoever is taken over sees broken connections only; the nodes say why when they are asked. By the flusher. Nodes that
 * have not granted under this epoch, or have forgotten it, may be behind; a change of memory nodes under way has raised
 * the epoch itself. */
static int ask_for_successor(fp_redo_log *log)
{
    const farpool_partition *partition = log->partition;
    const fp_node_set *set = fp_node_set_now(partition);
    fp_msg *msg = set->epoch == log->epoch ? calloc(1, sizeof *msg) : NULL;
    bool fenced = false;
    for (unsigned i = 0; i < log->ring_count && msg && !fenced; i++) {
        const fp_ring *ring = &log->rings[i];
        unsigned node = ring->at.node;
        if (!ring->at.extents || !atomic_load_explicit(&ring->lost, memory_order_relaxed))
            continue;
        msg->type = FP_MSG_ATTACH;
        msg->partition = partition->id;
        msg->epoch = log->epoch;
        msg->first = 0;
        int rc = fp_remote_ask(log->thread, node, partition->timeout_ms, msg, FP_MSG_EXTENTS);
        fenced = rc == FARPOOL_E_FENCED && log->thread->boots[node] == set->boots[node];
    }
    free(msg);
    return fenced ? FARPOOL_E_FENCED : 0;
}

static int too_few(fp_redo_log *log)
{
    char last[128];
    snprintf(last, sizeof last, "%s", farpool_errmsg());
    int fenced = ask_for_successor(log);
    if (fenced)
        return fenced;
    return fp_error(FARPOOL_E_NODE,
                    "%u of %u log rings are left, %u are needed; the last that failed: %s",
                    fp_rings_alive(log), log->ring_count, log->quorum, last);
}

/* By the flusher. Those for whom the last round wrote have been woken, and are about to append again: they are waited
 * for, but no longer than that round took, for a round that begins too early leaves most of them to the next one, whose
 * WRITEs cost as much. A lone committer waits for nobody, nor does anybody where WRITEs take less than others need to
 * get the processor. */
static void gather(fp_redo_log *log)
{
    uint64_t frames = atomic_load_explicit(&log->frames, memory_order_relaxed);
    uint64_t wanted = log->gathered + log->group;
    if (frames < wanted && log->round_ns > SWITCH_NS) {
        uint64_t patience = log->round_ns < PATIENCE_NS ? log->round_ns : PATIENCE_NS;
        uint64_t until = fp_now_ns() + patience;
        do {
            sched_yield();
            frames = atomic_load_explicit(&log->frames, memory_order_relaxed);
        } while (frames < wanted && fp_now_ns() < until);
    }
    log->group = frames - log->gathered;
    log->gathered = frames;
}

/* By the flusher, without the lock. */
static int write_until(fp_redo_log *log, uint64_t lsn)
{
    uint64_t begin = log->group > 1 ? fp_now_ns() : 0;
    uint64_t end = atomic_load_explicit(&log->end, memory_order_acquire);
    atomic_store_explicit(&log->group_end, end, memory_order_release);
    for (unsigned looks = 0; !is_durable(log, lsn);) {
        fp_rings_post(log);
        if (fp_rings_alive(log) < log->quorum)
            return too_few(log);
        fp_rings_poll(log, looks < LOOKS ? 0 : 100);
        if (looks++ < LOOKS && !is_durable(log, lsn))
            sched_yield();
    }
    log->round_ns = begin ? fp_now_ns() - begin : 0;
    return 0;
}

static bool try_flusher(fp_redo_log *log)
{
    uint32_t nobody = 0;
    return atomic_compare_exchange_strong_explicit(&log->flushing, &nobody, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}

/* Those who wait for a round, by its number: of many who sleep only they are woken when it ends. */
static uint32_t bits_of(uint32_t round) { return 1u << round % 32; }

/* Whose frames were there when the round began has waited for this. Of the others one has to be the next flusher, who
 * in turn wakes them; if the log has failed there is none. */
static void leave_flusher(fp_redo_log *log)
{
    atomic_store_explicit(&log->flushing, 0, memory_order_release);
    uint32_t round = atomic_fetch_add_explicit(&log->rounds, 1, memory_order_seq_cst);
    if (!atomic_load_explicit(&log->sleepers, memory_order_seq_cst))
        return;
    bool failed = atomic_load_explicit(&log->failed, memory_order_relaxed);
    fp_futex_wake_bits(&log->rounds, INT_MAX, failed ? UINT32_MAX : bits_of(round));
    if (!failed)
        fp_futex_wake_bits(&log->rounds, 1, bits_of(round + 1));
}

/* Until the round in which lsn is written, or the one before it, has ended. */
static void wait_round(fp_redo_log *log, uint64_t lsn, uint32_t round)
{
    bool next = lsn > atomic_load_explicit(&log->group_end, memory_order_acquire);
    uint32_t bits = bits_of(round + next);
    atomic_fetch_add_explicit(&log->sleepers, 1, memory_order_seq_cst);
    fp_futex_wait_bits(&log->rounds, round, bits);
    atomic_fetch_sub_explicit(&log->sleepers, 1, memory_order_relaxed);
    /* Woken to be a flusher, and not needed: the others of that round may be. */
    if (next && is_durable(log, lsn))
        fp_futex_wake_bits(&log->rounds, INT_MAX, bits);
}

/* By the flusher. */
static void fail(fp_redo_log *log, int code)
{
    snprintf(log->reason, sizeof log->reason, "%s", farpool_errmsg());
    atomic_store_explicit(&log->failed, code, memory_order_release);
}

void fp_redo_fail(fp_redo_log *log, int code)
{
    if (!try_flusher(log))
        return;
    if (!atomic_load_explicit(&log->failed, memory_order_relaxed))
        fail(log, code);
    leave_flusher(log);
}

static void be_flusher(fp_redo_log *log, uint64_t lsn)
{
    bool failed = atomic_load_explicit(&log->failed, memory_order_relaxed) != 0; /* meanwhile */
    int rc = 0;
    if (!failed) {
        gather(log);
        rc = write_until(log, lsn);
    }
    if (rc)
        fail(log, rc);
    leave_flusher(log);
}

int fp_redo_flush(fp_redo_log *log, uint64_t lsn)
{
    for (;;) {
        if (is_durable(log, lsn))
            return 0;
        /* Before the look at flushing: if that is left afterwards, the wait below does not begin. */
        uint32_t round = atomic_load_explicit(&log->rounds, memory_order_acquire);
        int failed = fp_redo_failure(log);
        if (failed)
            return is_durable(log, lsn) ? 0 : failed;
        if (try_flusher(log))
            be_flusher(log, lsn);
        else
            wait_round(log, lsn, round);
    }
}

void fp_redo_hold(fp_redo_log *log)
{
    for (;;) {
        uint32_t round = atomic_load_explicit(&log->rounds, memory_order_acquire);
        if (try_flusher(log))
            return;
        atomic_fetch_add_explicit(&log->sleepers, 1, memory_order_seq_cst);
        fp_futex_wait_bits(&log->rounds, round, UINT32_MAX);
        atomic_fetch_sub_explicit(&log->sleepers, 1, memory_order_relaxed);
    }
}

void fp_redo_release(fp_redo_log *log) { leave_flusher(log); }

int fp_redo_write(fp_redo_log *log, uint64_t lsn) { return write_until(log, lsn); }

void fp_redo_give_up(fp_redo_log *log, int code)
{
    if (!atomic_load_explicit(&log->failed, memory_order_relaxed))
        fail(log, code);
}

static bool is_filled(const fp_redo_log *log)
{
    bool filled = true;
    for (unsigned i = 0; i < log->ring_count; i++)
        filled &= atomic_load_explicit(&log->rings[i].speaks, memory_order_acquire) ||
                  atomic_load_explicit(&log->rings[i].lost, memory_order_relaxed);
    return filled;
}

/* Whoever else is the flusher meanwhile fills them as well. */
int fp_redo_fill(fp_redo_log *log)
{
    for (;;) {
        int rc = fp_redo_failure(log);
        if (rc || is_filled(log))
            return rc;
        fp_redo_hold(log);
        fp_rings_post(log);
        fp_rings_poll(log, 1);
        if (fp_rings_alive(log) < log->quorum)
            fp_redo_give_up(log, too_few(log));
        fp_redo_release(log);
    }
}

void fp_redo_nudge(fp_redo_log *log, int timeout_ms)
{
    if (!try_flusher(log))
        return;
    if (!atomic_load_explicit(&log->failed, memory_order_relaxed)) {
        fp_rings_poll(log, timeout_ms);
        fp_rings_post(log);
        if (fp_rings_alive(log) < log->quorum)
            fail(log, too_few(log));
    }
    leave_flusher(log);
}

int fp_redo_flush_all(fp_redo_log *log)
{
    return fp_redo_flush(log, atomic_load_explicit(&log->end, memory_order_acquire));
}

/* ---- opening --------------------------------------------------------------------------------- */

int fp_redo_register(fp_redo_log *log, unsigned node)
{
    farpool_pool *pool = log->partition->pool;
    unsigned transport = pool->nodes[node].transport;
    if (log->mrs[transport])
        return 0;
    return fp_net_register(pool->transports[transport].net, &log->mirror, FP_NET_LOCAL,
                           &log->mrs[transport]);
}

int fp_ring_check(const fp_redo_log *log, const fp_share *at)
{
    if (at->extent_bytes >= FP_RING_LOG_AT && (at->bytes - 1) / at->extent_bytes < at->count)
        return 0;
    return fp_error(FARPOOL_E_PROTO, "memory node %s: %u extents of %llu bytes for a ring of %llu",
                    log->partition->pool->nodes[at->node].uri, at->count,
                    (unsigned long long)at->extent_bytes, (unsigned long long)log->ring_bytes);
}

static int open_ring(fp_redo_log *log, const farpool_partition_options *options, const char *uri)
{
    farpool_partition *partition = log->partition;
    fp_ring *ring = &log->rings[log->ring_count];
    ring->at.bytes = FP_RING_LOG_AT + log->ring_bytes;
    int rc = fp_remote_node(partition->pool, uri, partition->timeout_ms, &ring->at.node);
    if (!rc)
        rc = fp_redo_register(log, ring->at.node);
    if (!rc)
        rc = fp_remote_grant(log->thread, partition, fp_node_set_now(partition), 0, &ring->at);
    bool lost = options->recover && (rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT);
    atomic_init(&ring->lost, lost);
    if (rc && !lost)
        return rc;
    log->ring_count++;
    if (lost)
        return 0;
    FP_FAULT_POINT(RECOVER_RING_GRANTED);
    return fp_ring_check(log, &ring->at);
}

int fp_redo_open(farpool_partition *partition, const farpool_partition_options *options,
                 fp_redo_log **out)
{
    fp_redo_log *log = calloc(1, sizeof *log);
    if (!log)
        return fp_error(FARPOOL_E_NOMEM, "opening a redo log: no memory for its structure");
    log->partition = partition;
    log->epoch = options->epoch;
    log->ring_bytes = options->log_ring_bytes & ~(uint64_t)(FARPOOL_UNIT_BYTES - 1);
    log->quorum = options->log_quorum ? options->log_quorum : options->log_copies / 2 + 1;
    log->storage_quorum = options->storage_quorum;
    int rc;
    if (pthread_mutex_init(&log->lock, NULL)) {
        rc = fp_error(FARPOOL_E_NOMEM, "opening a redo log: no memory for a lock");
        goto err_after_log;
    }
    rc = fp_mem_open(log->ring_bytes + LINES_BYTES, 0, -1, &log->mirror);
    if (rc)
        goto err_after_lock;
    log->thread = fp_thread_new(partition->pool, FP_USE_RING);
    rc = log->thread ? 0 : FARPOOL_E_NOMEM;
    for (unsigned i = 0; i < options->log_copies && !rc; i++)
        rc = open_ring(log, options, options->memnodes[i]);
    if (!rc)
        rc = fp_redo_recover(log, options->recover);
    if (!rc)
        rc = fp_keeper_open(log, &log->keeper);
    if (rc)
        goto err_after_mirror;
    *out = log;
    return 0;
err_after_mirror:
    fp_redo_close(log);
    return rc;
err_after_lock:
    pthread_mutex_destroy(&log->lock);
err_after_log:
    free(log);
    return rc;
}

void fp_redo_close(fp_redo_log *log)
{
    if (!log)
        return;
    fp_keeper_close(log->keeper);
    if (log->thread)
        fp_thread_free(log->thread);
    for (unsigned i = 0; i < FP_RINGS_MAX; i++)
        free(log->rings[i].at.extents);
    fp_remote_unregister(log->mrs);
    fp_mem_close(&log->mirror);
    pthread_mutex_destroy(&log->lock);
    free(log);
}
