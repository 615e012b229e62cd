/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fault. The caller holds the page's entry exclusively, so of many threads that miss a page one
 * fetches it and the others wait in the parking lot.
 *
 *   1. a frame        from the thread's own stock, or by evicting a batch (evict.c)
 *   2. the READ       of the page from its slot, straight into the frame (or into staging, mapping vm)
 *   3. the arrival    checksum compared with the entry's (W7), page made readable, frame noted
 *
 * If any of these fails, the frame goes back, the entry becomes EVICTED again, and the caller gets the
 * error; those who waited find the page evicted and try for themselves.
 *
 * Prefetches are the same with step 3 done by whoever polls next: the thread itself at its next miss,
 * or any thread that finds it must wait for such a page (fp_io_help), so that a thread which computes
 * for long after a prefetch holds nobody up.
 */
#include "compute/fault.h"

#include "common/error.h"
#include "compute/evict.h"
#include "compute/frames.h"
#include "compute/io.h"
#include "compute/keeper.h"
#include "compute/latency.h"
#include "compute/mapping.h"
#include "compute/node_set.h"
#include "compute/parking.h"
#include "compute/recovery.h"
#include "compute/remote.h"
#include "compute/storage.h"
#include "compute/thread.h"

enum { SPINS = 200, SLEEP_US = 50000, SLEEP_US_PREFETCH = 100, POST_MAX = 32 };

/* A place for the page, of which transfers and write-backs may hold all just now. A hint does not wait for one. */
static int land(fp_thread *thread, fp_io *io)
{
    const farpool_pool *pool = thread->pool;
    int rc = FARPOOL_E_POOL_FULL;
    for (unsigned tries = 0; tries < FP_IO_STAGE_TRIES && rc == FARPOOL_E_POOL_FULL; tries++) {
        if (tries)
            fp_io_relax(thread);
        rc = pool->mapping->land(thread->pool, io->frame, io->order, &io->page);
        if (io->kind == FP_IO_PREFETCH)
            break;
    }
    return rc;
}

static void abandon(fp_thread *thread, fp_io *io, fp_entry *entry)
{
    fp_frames_put(thread, io->frame, io->order);
    fp_io_put(thread, io);
    fp_entry_leave(entry, FP_EVICTED, 0, 0);
}

/* Steps 1 and the beginning of 2. On error the entry is EVICTED again. */
static int prepare(fp_thread *thread, enum fp_io_kind kind, farpool_partition *partition,
                   farpool_pid pid, fp_io **io_out)
{
    fp_entry *entry = &partition->entries[pid];
    unsigned order = fp_word_order(atomic_load_explicit(&entry->word, memory_order_relaxed));
    uint32_t frame;
    bool hint = kind == FP_IO_PREFETCH;
    int rc =
        fp_evict_take(thread, partition, order, hint ? FP_EVICT_ONCE : FP_EVICT_THOROUGHLY, &frame);
    if (rc) {
        fp_entry_leave(entry, FP_EVICTED, 0, 0);
        return rc;
    }
    fp_io *io = fp_io_take(thread, kind, partition, pid, order, frame);
    rc = land(thread, io);
    if (rc) {
        abandon(thread, io, entry);
        return rc;
    }
    *io_out = io;
    return 0;
}

/* Instead of a copy from a slot: what a storage node makes of the log. There is a place to land. */
static int bring_stored(fp_thread *thread, fp_io *io, uint64_t least)
{
    farpool_partition *partition = io->partition;
    int rc = fp_storage_fetch(thread, partition, io->pid, io->order, least, io->page);
    if (!rc) {
        fp_count(&thread->count.stored_reads, 1);
        return fp_io_take_stored(io);
    }
    partition->pool->mapping->unland(partition->pool, io->page, io->order);
    return rc;
}

/* The newest that a storage node has, if it is what was last written to the slot (W7). E_RETRY: it is not. */
static int bring_same(fp_thread *thread, fp_io *io)
{
    farpool_partition *partition = io->partition;
    uint32_t expected =
        atomic_load_explicit(&partition->entries[io->pid].frame_or_crc, memory_order_relaxed);
    int rc = fp_storage_fetch(thread, partition, io->pid, io->order, 0, io->page);
    if (!rc && fp_io_page_crc(io) == expected) {
        fp_count(&thread->count.stored_reads, 1);
        return fp_io_take_stored(io);
    }
    partition->pool->mapping->unland(partition->pool, io->page, io->order);
    return FARPOOL_E_RETRY;
}

/* A new owner; no slot has a copy that is good, and there is a place to land. */
static int bring_without_copy(fp_thread *thread, fp_io *io)
{
    if (fp_recovery_is_whole(io->partition->recovery, io->pid))
        return fp_io_begin_as_zeros(io);
    return bring_stored(thread, io, io->partition->redo->first);
}

/* What a storage node has that has all that is durable now: waits until storage_quorum of them do, if none does. Until
 * then it may be that none has heard of the partition. */
static int bring_durable(fp_thread *thread, fp_io *io)
{
    farpool_partition *partition = io->partition;
    uint64_t durable = atomic_load_explicit(&partition->redo->durable, memory_order_acquire);
    int rc = land(thread, io);
    if (!rc)
        rc = bring_stored(thread, io, durable);
    if (!rc || rc == FARPOOL_E_FENCED)
        return rc;
    rc = fp_keeper_wait_stored(partition->redo->keeper, durable, partition->timeout_ms);
    if (rc) /* why it cannot be had; the words say more */
        return rc == FARPOOL_E_FENCED ? rc : FARPOOL_E_NODE;
    rc = land(thread, io);
    return rc ? rc : bring_stored(thread, io, durable);
}

/* The slot's node is gone, or gives something else. Most pages were not changed lately. If this one was: it was written
 * to its slot when all of its changes were durable, so what is durable now has them. */
static int bring_from_elsewhere(fp_thread *thread, fp_io *io)
{
    int rc = land(thread, io);
    if (!rc)
        rc = bring_same(thread, io);
    return rc == FARPOOL_E_RETRY ? bring_durable(thread, io) : rc;
}

/* A new owner: the slot may have an older version than the directory says, or a torn one. */
static int fetch_by_header(fp_thread *thread, fp_io *io)
{
    int rc = land(thread, io);
    if (rc)
        return rc;
    io->done = false;
    io->with_header = true;
    fp_remote_post(thread, &io, 1);
    fp_io_wait(thread, io);
    rc = fp_io_arrive(io);
    if (rc != FARPOOL_E_CORRUPT)
        return rc;
    rc = land(thread, io);
    return rc ? rc : bring_without_copy(thread, io);
}

static int read_slot(fp_thread *thread, fp_io *io)
{
    fp_remote_post(thread, &io, 1);
    fp_io_wait(thread, io);
    int rc = fp_io_arrive(io);
    /* Only as long as the page is as the recovery found it: of what was written since the checksum is known. */
    if (__builtin_expect(rc == FARPOOL_E_CORRUPT && io->partition->recovery &&
                             fp_recovery_is_pending(io->partition->recovery, io->pid),
                         0))
        rc = fetch_by_header(thread, io);
    return rc;
}

/* Once more if the partition got other memory nodes meanwhile, or keys; and, before a storage node is asked, if the
 * connection turns out to be broken, for it may be older than the node that is at its address now. */
static int read_while_nodes_change(fp_thread *thread, fp_io *io)
{
    for (bool broken = false;;) {
        uint32_t begun = fp_node_set_begin(io->partition);
        int rc = read_slot(thread, io);
        if (__builtin_expect(rc == 0, 1))
            return 0;
        if (!fp_node_set_changed(io->partition, begun)) {
            if (broken || rc != FARPOOL_E_NODE || !fp_storage_count(io->partition))
                return rc;
            broken = true;
        }
        rc = land(thread, io);
        if (rc)
            return rc;
        io->done = io->with_header = false;
    }
}

static int bring(fp_thread *thread, fp_io *io)
{
    farpool_partition *partition = io->partition;
    const fp_entry *entry = &partition->entries[io->pid];
    if (__builtin_expect(
            (atomic_load_explicit(&entry->word, memory_order_relaxed) & FP_WORD_DIRTY) != 0, 0))
        return bring_without_copy(thread, io);
    int rc = read_while_nodes_change(thread, io);
    if (__builtin_expect(rc == 0, 1) || !partition->redo || !fp_storage_count(partition) ||
        rc == FARPOOL_E_FENCED)
        return rc;
    return bring_from_elsewhere(thread, io);
}

static int fetch(fp_thread *thread, farpool_partition *partition, farpool_pid pid)
{
    fp_io *io;
    int rc = prepare(thread, FP_IO_FAULT, partition, pid, &io);
    if (rc)
        return rc;
    rc = bring(thread, io);
    if (rc) {
        abandon(thread, io, &partition->entries[pid]);
        return rc;
    }
    fp_count(&thread->count.bytes_read, (uint64_t)FARPOOL_UNIT_BYTES << io->order);
    fp_io_put(thread, io);
    return 0;
}

int fp_fault(farpool_partition *partition, farpool_pid pid)
{
    fp_thread *thread = fp_thread_get(partition->pool);
    if (!thread) {
        fp_entry_leave(&partition->entries[pid], FP_EVICTED, 0, 0);
        return FARPOOL_E_BUSY;
    }
    uint64_t start = fp_latency_begin();
    fp_thread_own(thread);
    int rc = fetch(thread, partition, pid);
    fp_thread_disown(thread);
    if (rc)
        fp_count(&thread->count.fault_errors, 1);
    else
        fp_latency_add(&thread->count, fp_latency_end(start));
    return rc;
}

void fp_latch_wait(farpool_partition *partition, fp_entry *entry, uint64_t word, unsigned *spins)
{
    farpool_pool *pool = partition->pool;
    fp_thread *thread = fp_thread_get(pool);
    if (thread && thread->prefetching) { /* very likely the page is one of ours on its way */
        fp_thread_own(thread);
        if (thread->prefetching)
            fp_io_progress(thread, 1);
        fp_thread_disown(thread);
        return;
    }
    if ((*spins)++ < SPINS) {
        __builtin_ia32_pause();
        return;
    }
    bool prefetches = atomic_load_explicit(&pool->prefetches, memory_order_relaxed) > 0;
    if (prefetches) {
        fp_io_help(pool);
        if (fp_word_state(fp_word_load(entry)) != fp_word_state(word))
            return;
    }
    if (thread)
        fp_count(&thread->count.latch_waits, 1);
    fp_park(entry, word, prefetches ? SLEEP_US_PREFETCH : SLEEP_US);
}

void farpool_prefetch(farpool_partition *partition, const farpool_pid *pids, size_t count)
{
    farpool_pool *pool = partition->pool;
    fp_thread *thread = fp_thread_get(pool);
    if (!thread)
        return;
    fp_io *ios[POST_MAX];
    unsigned n = 0;
    fp_thread_own(thread);
    for (size_t i = 0; i < count && thread->prefetching < FP_PREFETCH_MAX; i++) {
        if (pids[i] >= partition->units || thread->prefetching >= pool->frame_count / 4)
            continue;
        fp_entry *entry = &partition->entries[pids[i]];
        uint64_t word = fp_word_load(entry);
        if (fp_word_state(word) != FP_EVICTED || (word & FP_WORD_DIRTY) ||
            !fp_word_cas(entry, &word, fp_word_with_state(word, FP_EXCLUSIVE)))
            continue;
        if (prepare(thread, FP_IO_PREFETCH, partition, pids[i], &ios[n]))
            break;
        if (++n == POST_MAX) {
            fp_remote_post(thread, ios, n);
            n = 0;
        }
    }
    fp_remote_post(thread, ios, n);
    fp_thread_disown(thread);
}
