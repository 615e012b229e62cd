/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/redo_log.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/futex.h"
#include "compute/redo_recover.h"
#include "compute/remote.h"
#include "compute/thread.h"

/* The flusher leaves the processor to others between its first looks, who append meanwhile; then it sleeps. */
enum { LOOKS = 500 };

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

void fp_redo_take_in(fp_redo_log *log, const void *bytes, uint64_t end)
{
    copy_in(log, FP_REDO_LSN_FIRST, bytes, end - FP_REDO_LSN_FIRST);
    atomic_store_explicit(&log->end, end, memory_order_release);
}

static int report_failure(const fp_redo_log *log, int code)
{
    return fp_error(code, "partition %llu: its redo log has failed: %s",
                    (unsigned long long)log->partition->id, log->reason);
}

/* What every owner's first frame needs to be there for those to come, or a full log could not be recovered. */
static uint64_t reserve(const fp_redo_log *log) { return log->ring_bytes / 64; }

static int check_room_locked(const fp_redo_log *log, enum fp_redo_kind kind, uint64_t end,
                             size_t len)
{
    uint64_t room = log->ring_bytes - (kind == FP_REDO_OWNER ? 0 : reserve(log));
    int failed = atomic_load_explicit(&log->failed, memory_order_acquire);
    if (failed)
        return report_failure(log, failed);
    if (end + len - FP_REDO_LSN_FIRST > room)
        return fp_error(FARPOOL_E_NOSPACE,
                        "partition %llu: its log rings of %llu bytes are full at LSN %llu",
                        (unsigned long long)log->partition->id, (unsigned long long)log->ring_bytes,
                        (unsigned long long)end);
    return 0;
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
    return rc;
}

/* ---- flushing -------------------------------------------------------------------------------- */

static bool is_durable(const fp_redo_log *log, uint64_t lsn)
{
    return atomic_load_explicit(&log->durable, memory_order_acquire) >= lsn;
}

/* By the flusher, without the lock. */
static int write_until(fp_redo_log *log, uint64_t lsn)
{
    for (unsigned looks = 0; !is_durable(log, lsn);) {
        fp_rings_post(log);
        if (fp_rings_alive(log) < log->quorum) {
            char last[128];
            snprintf(last, sizeof last, "%s", farpool_errmsg());
            return fp_error(FARPOOL_E_NODE,
                            "%u of %u log rings are left, %u are needed; the last that failed: %s",
                            fp_rings_alive(log), log->ring_count, log->quorum, last);
        }
        fp_rings_poll(log, looks < LOOKS ? 0 : 100);
        if (looks++ < LOOKS && !is_durable(log, lsn))
            sched_yield();
    }
    return 0;
}

static void be_flusher(fp_redo_log *log, uint64_t lsn)
{
    bool failed = atomic_load_explicit(&log->failed, memory_order_relaxed) != 0; /* meanwhile */
    int rc = failed ? 0 : write_until(log, lsn);
    if (rc) {
        snprintf(log->reason, sizeof log->reason, "%s", farpool_errmsg());
        atomic_store_explicit(&log->failed, rc, memory_order_release);
    }
    atomic_store_explicit(&log->flushing, 0, memory_order_release);
    atomic_fetch_add_explicit(&log->rounds, 1, memory_order_release);
    fp_futex_wake_all(&log->rounds);
}

int fp_redo_flush(fp_redo_log *log, uint64_t lsn)
{
    for (;;) {
        if (is_durable(log, lsn))
            return 0;
        /* Before the look at flushing: if that is left afterwards, the wait below does not begin. */
        uint32_t round = atomic_load_explicit(&log->rounds, memory_order_acquire);
        int failed = atomic_load_explicit(&log->failed, memory_order_acquire);
        if (failed)
            return is_durable(log, lsn) ? 0 : report_failure(log, failed);
        uint32_t nobody = 0;
        if (atomic_compare_exchange_strong_explicit(&log->flushing, &nobody, 1,
                                                    memory_order_acquire, memory_order_relaxed))
            be_flusher(log, lsn);
        else
            fp_futex_wait(&log->rounds, round, 0);
    }
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
    ring->posted = ring->acked = FP_REDO_LSN_FIRST;
    int rc = fp_remote_node(partition->pool, uri, partition->timeout_ms, &ring->node);
    if (!rc)
        rc = register_mirror(log, ring->node);
    if (!rc)
        rc = fp_remote_grant(log->thread, partition, ring->node, log->ring_bytes, &ring->extents,
                             &ring->extent_count, &ring->extent_bytes);
    ring->lost = options->recover && (rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT);
    if (rc && !ring->lost)
        return rc;
    log->ring_count++;
    if (ring->lost)
        return 0;
    if (!ring->extent_bytes || (log->ring_bytes - 1) / ring->extent_bytes >= ring->extent_count)
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
    atomic_init(&log->end, FP_REDO_LSN_FIRST);
    atomic_init(&log->durable, FP_REDO_LSN_FIRST);
    int rc;
    if (pthread_mutex_init(&log->lock, NULL)) {
        rc = fp_error(FARPOOL_E_NOMEM, "opening a redo log: no memory for a lock");
        goto err_after_log;
    }
    rc = fp_mem_open(log->ring_bytes, 0, -1, &log->mirror);
    if (rc)
        goto err_after_lock;
    log->thread = fp_thread_new(partition->pool, FP_USE_RING);
    rc = log->thread ? 0 : FARPOOL_E_NOMEM;
    for (unsigned i = 0; i < options->log_copies && !rc; i++)
        rc = open_ring(log, options, options->memnodes[i]);
    if (!rc)
        rc = fp_redo_recover(log, options->recover);
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
    if (log->thread)
        fp_thread_free(log->thread);
    for (unsigned i = 0; i < FP_RINGS_MAX; i++)
        free(log->rings[i].extents);
    fp_remote_unregister(log->mrs);
    fp_mem_close(&log->mirror);
    pthread_mutex_destroy(&log->lock);
    free(log);
}
