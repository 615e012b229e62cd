/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/redo_log.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/futex.h"
#include "compute/keeper.h"
#include "compute/redo_recover.h"
#include "compute/remote.h"
#include "compute/thread.h"

/* The flusher leaves the processor to others between its first looks, who append meanwhile; then it sleeps. */
enum { LOOKS = 500, LINES_BYTES = FARPOOL_UNIT_BYTES };

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

int fp_redo_append(fp_redo_log *log, enum fp_redo_kind kind, const fp_redo_build *build,
                   uint64_t *end_out)
{
    fp_redo_frame frame = {
        .epoch = log->partition->epoch,
        .partition = log->partition->id,
        .kind = kind,
        .records = kind == FP_REDO_OWNER ? fp_redo_log_shape(log) : build->records,
    };
    uint32_t crc = fp_redo_build_crc(build);
    size_t len = sizeof frame + build->len;
    pthread_mutex_lock(&log->lock);
    uint64_t end = atomic_load_explicit(&log->end, memory_order_relaxed);
    int rc = check_room_locked(log, kind, end, len);
    if (!rc) {
        frame.lsn = end;
        fp_redo_seal(&frame, crc, build->len);
        copy_in(log, end, &frame, sizeof frame);
        if (build->len)
            copy_in(log, end + sizeof frame, build->bytes, build->len);
        *end_out = end + len;
        atomic_store_explicit(&log->end, end + len, memory_order_release);
        atomic_fetch_add_explicit(&log->frames, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&log->lock);
    if (!rc)
        fp_keeper_rouse(log->keeper);
    return rc;
}

/* ---- flushing -------------------------------------------------------------------------------- */

static bool is_durable(const fp_redo_log *log, uint64_t lsn)
{
    return atomic_load_explicit(&log->durable, memory_order_acquire) >= lsn;
}

static int too_few(const fp_redo_log *log)
{
    char last[128];
    snprintf(last, sizeof last, "%s", farpool_errmsg());
    return fp_error(FARPOOL_E_NODE,
                    "%u of %u log rings are left, %u are needed; the last that failed: %s",
                    fp_rings_alive(log), log->ring_count, log->quorum, last);
}

/* By the flusher, without the lock. */
static int write_until(fp_redo_log *log, uint64_t lsn)
{
    for (unsigned looks = 0; !is_durable(log, lsn);) {
        fp_rings_post(log);
        if (fp_rings_alive(log) < log->quorum)
            return too_few(log);
        fp_rings_poll(log, looks < LOOKS ? 0 : 100);
        if (looks++ < LOOKS && !is_durable(log, lsn))
            sched_yield();
    }
    return 0;
}

static bool try_flusher(fp_redo_log *log)
{
    uint32_t nobody = 0;
    return atomic_compare_exchange_strong_explicit(&log->flushing, &nobody, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}

static void leave_flusher(fp_redo_log *log)
{
    atomic_store_explicit(&log->flushing, 0, memory_order_release);
    atomic_fetch_add_explicit(&log->rounds, 1, memory_order_release);
    fp_futex_wake_all(&log->rounds);
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
    int rc = failed ? 0 : write_until(log, lsn);
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
            fp_futex_wait(&log->rounds, round, 0);
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

static int register_mirror(fp_redo_log *log, unsigned node)
{
    farpool_pool *pool = log->partition->pool;
    unsigned transport = pool->nodes[node].transport;
    if (log->mrs[transport])
        return 0;
    return fp_net_register(pool->transports[transport].net, &log->mirror, FP_NET_LOCAL,
                           &log->mrs[transport]);
}

static int open_ring(fp_redo_log *log, const farpool_partition_options *options, const char *uri)
{
    farpool_partition *partition = log->partition;
    fp_ring *ring = &log->rings[log->ring_count];
    int rc = fp_remote_node(partition->pool, uri, partition->timeout_ms, &ring->node);
    if (!rc)
        rc = register_mirror(log, ring->node);
    if (!rc)
        rc = fp_remote_grant(log->thread, partition, ring->node, FP_RING_LOG_AT + log->ring_bytes,
                             &ring->extents, &ring->extent_count, &ring->extent_bytes);
    bool lost = options->recover && (rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT);
    atomic_init(&ring->lost, lost);
    if (rc && !lost)
        return rc;
    log->ring_count++;
    if (lost)
        return 0;
    if (ring->extent_bytes < FP_RING_LOG_AT ||
        (FP_RING_LOG_AT + log->ring_bytes - 1) / ring->extent_bytes >= ring->extent_count)
        return fp_error(FARPOOL_E_PROTO,
                        "memory node %s: %u extents of %llu bytes for a ring of %llu", uri,
                        ring->extent_count, (unsigned long long)ring->extent_bytes,
                        (unsigned long long)log->ring_bytes);
    return 0;
}

int fp_redo_open(farpool_partition *partition, const farpool_partition_options *options,
                 fp_redo_log **out)
{
    fp_redo_log *log = calloc(1, sizeof *log);
    if (!log)
        return fp_error(FARPOOL_E_NOMEM, "opening a redo log: no memory for its structure");
    log->partition = partition;
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
        free(log->rings[i].extents);
    fp_remote_unregister(log->mrs);
    fp_mem_close(&log->mirror);
    pthread_mutex_destroy(&log->lock);
    free(log);
}
