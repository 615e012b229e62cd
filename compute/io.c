/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/io.h"

#include <sched.h>
#include <string.h>

#include "common/crc.h"
#include "common/error.h"
#include "compute/frames.h"
#include "compute/mapping.h"
#include "compute/parking.h"
#include "compute/recovery.h"
#include "compute/remote.h"
#include "compute/slab.h"
#include "compute/thread.h"

void fp_entry_leave(fp_entry *entry, unsigned state, uint64_t set_flags, uint64_t clear_flags)
{
    /* Only the waiters bit can change under us (W1), so this load is as good as the exchange's. */
    uint64_t word = atomic_load_explicit(&entry->word, memory_order_relaxed);
    FP_ASSERT(fp_word_state(word) == FP_EXCLUSIVE);
    uint64_t next = (fp_word_next(word, state) | set_flags) & ~clear_flags;
    uint64_t old = atomic_exchange_explicit(&entry->word, next, memory_order_acq_rel);
    if (__builtin_expect((old & FP_WORD_WAITERS) != 0, 0))
        fp_unpark(entry);
}

void fp_shared_leave(fp_entry *entry)
{
    uint64_t word = atomic_load_explicit(&entry->word, memory_order_relaxed);
    uint64_t next;
    do {
        unsigned state = fp_word_state(word);
        FP_ASSERT(state >= FP_SHARED_MIN && state <= FP_SHARED_MAX);
        next = fp_word_with_state(word, state - 1);
        if (state == FP_SHARED_MIN)
            next &= ~FP_WORD_WAITERS;
    } while (!fp_word_cas(entry, &word, next));
    if ((word & FP_WORD_WAITERS) && !(next & FP_WORD_WAITERS))
        fp_unpark(entry);
}

fp_io *fp_io_take(fp_thread *thread, enum fp_io_kind kind, farpool_partition *partition,
                  farpool_pid pid, unsigned order, uint32_t frame)
{
    while (!thread->free_io_count) {
        FP_ASSERT(thread->prefetching); /* faults and writes of the past have been put back */
        fp_io_progress(thread, 100);
    }
    fp_io *io = thread->free_ios[--thread->free_io_count];
    io->kind = kind;
    io->done = io->with_header = false;
    io->status = 0;
    io->order = order;
    io->frame = frame;
    io->partition = partition;
    io->pid = pid;
    io->page = NULL;
    if (kind == FP_IO_PREFETCH) {
        thread->prefetching++;
        atomic_fetch_add_explicit(&thread->pool->prefetches, 1, memory_order_relaxed);
    }
    return io;
}

fp_io *fp_io_take_ring(fp_thread *thread, unsigned ring, uint64_t lsn)
{
    FP_ASSERT(thread->free_io_count);
    fp_io *io = thread->free_ios[--thread->free_io_count];
    io->kind = FP_IO_RING;
    io->done = false;
    io->status = 0;
    io->ring = ring;
    io->lsn = lsn;
    return io;
}

void fp_io_put(fp_thread *thread, fp_io *io)
{
    if (io->kind == FP_IO_PREFETCH) {
        thread->prefetching--;
        atomic_fetch_sub_explicit(&thread->pool->prefetches, 1, memory_order_relaxed);
    }
    thread->free_ios[thread->free_io_count++] = io;
}

uint32_t fp_io_page_crc(const fp_io *io)
{
    return fp_crc32c(0, io->page, (size_t)FARPOOL_UNIT_BYTES << io->order);
}

void fp_io_seal(fp_io *io)
{
    *io->header = (fp_slot_header){
        .magic = FP_SLOT_MAGIC,
        .partition = io->partition->id,
        .pid = io->pid,
        .epoch = fp_node_set_now(io->partition)->epoch,
        .lsn = io->lsn,
        .order = io->order,
    };
    io->crc = fp_io_page_crc(io);
    io->header->crc = fp_crc32c(io->crc, io->header, offsetof(fp_slot_header, crc));
}

static __attribute__((cold)) int corrupt(const fp_io *io, uint32_t crc, uint32_t expected)
{
    const farpool_partition *partition = io->partition;
    uint32_t slot = atomic_load_explicit(&partition->entries[io->pid].slot, memory_order_relaxed);
    const fp_extent *extent = fp_slot_extent(partition, fp_node_set_now(partition), slot);
    return fp_error(
        FARPOOL_E_CORRUPT,
        "page %llu of partition %llu, slot %u on memory node %s: what came has checksum "
        "%08x, what was last written there %08x",
        (unsigned long long)io->pid, (unsigned long long)partition->id, slot,
        partition->pool->nodes[extent->node].uri, crc, expected);
}

/* By its own header: for a new owner, of whose directory's entry the slot may have an older version. */
static bool header_fits(const fp_io *io, uint32_t crc)
{
    const fp_slot_header *header = io->header;
    return header->magic == FP_SLOT_MAGIC && header->partition == io->partition->id &&
           header->pid == io->pid && header->order == io->order &&
           header->crc == fp_crc32c(crc, header, offsetof(fp_slot_header, crc));
}

/* The page is at its address: gives it its frame, and its redo. */
static int settle(fp_io *io, uint32_t crc_or_lsn)
{
    farpool_partition *partition = io->partition;
    farpool_pool *pool = partition->pool;
    fp_entry *entry = &partition->entries[io->pid];
    uint32_t before = atomic_load_explicit(&entry->frame_or_crc, memory_order_relaxed);
    atomic_store_explicit(&entry->frame_or_crc, io->frame, memory_order_release);
    pool->crcs_or_lsns[io->frame] = crc_or_lsn;
    if (__builtin_expect(partition->recovery != NULL, 0)) {
        bool changed;
        int rc = fp_recovery_redo(partition, io->pid, io->order,
                                  fp_page_addr(partition, io->pid, entry), &changed);
        if (rc) {
            fp_dropped page = {partition, io->pid, io->order, io->frame};
            pool->mapping->drop(pool, &page, 1);
            atomic_store_explicit(&entry->frame_or_crc, before, memory_order_relaxed);
            return rc;
        }
        if (changed)
            atomic_fetch_or_explicit(&entry->word, FP_WORD_DIRTY, memory_order_relaxed);
    }
    atomic_store_explicit(&pool->owners[io->frame], fp_owner(partition, io->pid),
                          memory_order_relaxed);
    return 0;
}

int fp_io_begin_as_zeros(fp_io *io)
{
    farpool_partition *partition = io->partition;
    const fp_mapping_ops *mapping = partition->pool->mapping;
    mapping->unland(partition->pool, io->page, io->order);
    int rc = mapping->zero(partition, io->pid, io->order, io->frame);
    return rc ? rc : settle(io, 0);
}

int fp_io_take_stored(fp_io *io)
{
    farpool_partition *partition = io->partition;
    int rc = partition->pool->mapping->install(partition, io->pid, io->order, io->page);
    /* It is not newer than what is durable; and not an LSN far behind that, for its short form would not do. */
    uint64_t durable = atomic_load_explicit(&partition->redo->durable, memory_order_acquire);
    if (!rc)
        rc = settle(io, fp_page_lsn_short(durable));
    if (!rc)
        atomic_fetch_or_explicit(&partition->entries[io->pid].word, FP_WORD_DIRTY,
                                 memory_order_relaxed);
    return rc;
}

int fp_io_arrive(fp_io *io)
{
    farpool_partition *partition = io->partition;
    farpool_pool *pool = partition->pool;
    fp_entry *entry = &partition->entries[io->pid];
    uint32_t expected = atomic_load_explicit(&entry->frame_or_crc, memory_order_relaxed), crc = 0;
    int rc = io->status;
    if (!rc) {
        crc = fp_io_page_crc(io);
        if (__builtin_expect(crc != expected, 0) && !(io->with_header && header_fits(io, crc)))
            rc = corrupt(io, crc, expected);
    }
    if (rc) {
        pool->mapping->unland(pool, io->page, io->order);
        return rc;
    }
    rc = pool->mapping->install(partition, io->pid, io->order, io->page);
    return rc ? rc : settle(io, crc);
}

static void finish_prefetch(fp_thread *thread, fp_io *io)
{
    fp_entry *entry = &io->partition->entries[io->pid];
    if (fp_io_arrive(io)) {
        fp_frames_put(thread, io->frame, io->order);
        fp_entry_leave(entry, FP_EVICTED, 0, 0);
    } else {
        fp_count(&thread->count.prefetched, 1);
        fp_count(&thread->count.bytes_read, (uint64_t)FARPOOL_UNIT_BYTES << io->order);
        fp_entry_leave(entry, FP_UNLOCKED, 0, 0);
    }
    fp_io_put(thread, io);
}

void fp_io_progress(fp_thread *thread, int timeout_ms)
{
    if (!thread->completed)
        fp_remote_poll(thread, timeout_ms);
    while (thread->completed) {
        fp_io *io = thread->completed;
        thread->completed = io->next;
        if (io->kind == FP_IO_PREFETCH)
            finish_prefetch(thread, io);
    }
}

void fp_io_wait(fp_thread *thread, fp_io *io)
{
    /* Also when it is done already: its name must leave the list before it is used again. */
    while (!io->done || thread->completed)
        fp_io_progress(thread, 100);
}

void fp_io_help(farpool_pool *pool)
{
    for (unsigned i = 0; i < FP_THREADS_MAX; i++) {
        fp_thread *thread = atomic_load_explicit(&pool->threads[i], memory_order_acquire);
        if (!thread)
            break; /* they are filled in order */
        if (!fp_thread_try_own(thread))
            continue; /* whoever has it is polling */
        if (thread->prefetching)
            fp_io_progress(thread, 0);
        fp_thread_disown(thread);
    }
}

void fp_io_relax(fp_thread *thread)
{
    if (thread->prefetching)
        fp_io_progress(thread, 1);
    if (atomic_load_explicit(&thread->pool->prefetches, memory_order_relaxed))
        fp_io_help(thread->pool);
    sched_yield();
}
