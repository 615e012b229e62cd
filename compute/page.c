/* SPDX-License-Identifier: Apache-2.0 */
/* Fixing, reading, allocating and freeing pages: the page word's transitions (W1..W8, page_word.h). */
#include "compute/page.h"
#include "common/error.h"
#include "compute/evict.h"
#include "compute/fault.h"
#include "compute/frames.h"
#include "compute/io.h"
#include "compute/mapping.h"
#include "compute/parking.h"
#include "compute/recovery.h"
#include "compute/redo_log.h"
#include "compute/slab.h"
#include "compute/space.h"
#include "compute/thread.h"

static int no_such_page(const farpool_partition *partition, farpool_pid pid)
{
    return fp_error(FARPOOL_E_NOTFOUND, "partition %llu has no page %llu",
                    (unsigned long long)partition->id, (unsigned long long)pid);
}

/* The page's entry is FREE. E_RETRY: it was not known yet, now it is. */
static __attribute__((cold)) int absent(farpool_partition *partition, farpool_pid pid)
{
    int rc = fp_recovery_find(partition, pid);
    return rc == FARPOOL_E_NOTFOUND ? no_such_page(partition, pid) : rc;
}

/* A change that went past the log would be lost, and what depends on it with it. */
static __attribute__((cold)) int unlogged(const farpool_partition *partition)
{
    return fp_error(FARPOOL_E_INVAL,
                    "partition %llu has a redo log: its pages are changed by mini-transactions "
                    "(farpool_mtr_begin), not by exclusive fixes",
                    (unsigned long long)partition->id);
}

static inline void count_hit(farpool_partition *partition)
{
    fp_thread *thread = fp_thread_get(partition->pool);
    if (__builtin_expect(thread != NULL, 1))
        fp_count(&thread->count.hits, 1);
}

/* Tries to fault an evicted page; E_RETRY if another thread was faster. On success it is EXCLUSIVE. */
static int fault_in(farpool_partition *partition, farpool_pid pid, fp_entry *entry, uint64_t word)
{
    if (!fp_word_cas(entry, &word, fp_word_with_state(word, FP_EXCLUSIVE)))
        return FARPOOL_E_RETRY;
    int rc = fp_fault(partition, pid);
    if (!rc) {
        fp_thread *thread = fp_thread_get(partition->pool);
        fp_count(&thread->count.misses, 1);
    }
    return rc;
}

static int fix_exclusive(farpool_partition *partition, farpool_pid pid, fp_entry *entry)
{
    unsigned spins = 0;
    for (;;) {
        uint64_t word = fp_word_load(entry);
        unsigned state = fp_word_state(word);
        if (state == FP_UNLOCKED || state == FP_MARKED) {
            if (fp_word_try_exclusive(entry, word)) {
                count_hit(partition);
                return 0;
            }
        } else if (state == FP_EVICTED) {
            int rc = fault_in(partition, pid, entry, word);
            if (rc != FARPOOL_E_RETRY)
                return rc;
        } else if (state == FP_FREE) {
            int rc = absent(partition, pid);
            if (rc != FARPOOL_E_RETRY)
                return rc;
        } else {
            fp_latch_wait(partition, entry, word, &spins);
        }
    }
}

static int fix_shared(farpool_partition *partition, farpool_pid pid, fp_entry *entry)
{
    unsigned spins = 0;
    for (;;) {
        uint64_t word = fp_word_load(entry);
        unsigned state = fp_word_state(word);
        if (fp_word_readable(word) && state < FP_SHARED_MAX && !(word & FP_WORD_WAITERS)) { /* W5 */
            unsigned next = state < FP_SHARED_MIN ? FP_SHARED_MIN : state + 1;
            if (fp_word_cas(entry, &word, fp_word_with_state(word, next))) {
                count_hit(partition);
                return 0;
            }
        } else if (state == FP_EVICTED) {
            int rc = fault_in(partition, pid, entry, word);
            if (!rc)
                fp_entry_leave(entry, FP_SHARED_MIN, 0, 0);
            if (rc != FARPOOL_E_RETRY)
                return rc;
        } else if (state == FP_FREE) {
            int rc = absent(partition, pid);
            if (rc != FARPOOL_E_RETRY)
                return rc;
        } else {
            fp_latch_wait(partition, entry, word, &spins);
        }
    }
}

int fp_page_fix_exclusive(farpool_partition *partition, farpool_pid pid, void **page)
{
    if (__builtin_expect(pid >= partition->units, 0))
        return no_such_page(partition, pid);
    fp_entry *entry = &partition->entries[pid];
    int rc = fix_exclusive(partition, pid, entry);
    if (!rc)
        *page = fp_page_addr(partition, pid, entry);
    return rc;
}

int farpool_fix(farpool_partition *partition, farpool_pid pid, enum farpool_latch latch,
                void **page)
{
    if (latch == FARPOOL_EXCLUSIVE)
        return partition->redo ? unlogged(partition) : fp_page_fix_exclusive(partition, pid, page);
    if (__builtin_expect(pid >= partition->units, 0))
        return no_such_page(partition, pid);
    fp_entry *entry = &partition->entries[pid];
    int rc = fix_shared(partition, pid, entry);
    if (!rc)
        *page = fp_page_addr(partition, pid, entry);
    return rc;
}

void farpool_unfix(farpool_partition *partition, farpool_pid pid, enum farpool_latch latch)
{
    fp_entry *entry = &partition->entries[pid];
    if (latch == FARPOOL_EXCLUSIVE)
        fp_entry_leave(entry, FP_UNLOCKED, FP_WORD_DIRTY, 0);
    else
        fp_shared_leave(entry);
}

void fp_page_leave(farpool_partition *partition, farpool_pid pid, bool changed)
{
    fp_entry_leave(&partition->entries[pid], FP_UNLOCKED, changed ? FP_WORD_DIRTY : 0, 0);
}

void fp_page_note_lsn(farpool_partition *partition, farpool_pid pid, uint64_t lsn)
{
    uint32_t frame =
        atomic_load_explicit(&partition->entries[pid].frame_or_crc, memory_order_relaxed);
    partition->pool->crcs_or_lsns[frame] = fp_page_lsn_short(lsn);
}

unsigned farpool_page_order(farpool_partition *partition, farpool_pid pid)
{
    return pid < partition->units ? fp_word_order(fp_word_load(&partition->entries[pid])) : 0;
}

/* ---- optimistic reads ------------------------------------------------------------------------ */

/* Whether what fp_page_addr took for the frame was one (W7). */
static inline bool still_here(fp_entry *entry, uint64_t version)
{
    uint64_t word = atomic_load_explicit(&entry->word, memory_order_relaxed);
    return fp_word_readable(word) && (word & FP_WORD_VERSION) == version;
}

int farpool_read_begin(farpool_partition *partition, farpool_pid pid, const void **page,
                       uint64_t *version)
{
    if (__builtin_expect(pid >= partition->units, 0))
        return no_such_page(partition, pid);
    fp_entry *entry = &partition->entries[pid];
    unsigned spins = 0;
    for (;;) {
        uint64_t word = fp_word_load(entry);
        unsigned state = fp_word_state(word);
        if (__builtin_expect(state >= FP_UNLOCKED && state <= FP_SHARED_MAX, 1)) {
            *page = fp_page_addr(partition, pid, entry);
            *version = word & FP_WORD_VERSION;
            if (__builtin_expect(!still_here(entry, *version), 0))
                continue;
            count_hit(partition);
            return 0;
        }
        if (state == FP_MARKED) {
            fp_word_cas(entry, &word, fp_word_with_state(word, FP_UNLOCKED)); /* W6 */
        } else if (state == FP_EVICTED) {
            int rc = fault_in(partition, pid, entry, word);
            if (!rc) {
                *page = fp_page_addr(partition, pid, entry);
                *version = (fp_word_load(entry) + 1) & FP_WORD_VERSION;
                fp_entry_leave(entry, FP_UNLOCKED, 0, 0);
            }
            if (rc != FARPOOL_E_RETRY)
                return rc;
        } else if (state == FP_FREE) {
            int rc = absent(partition, pid);
            if (rc != FARPOOL_E_RETRY)
                return rc;
        } else {
            fp_latch_wait(partition, entry, word, &spins);
        }
    }
}

/* W3: what was read before must not be taken from after this look. */
static inline uint64_t second_look(fp_entry *entry)
{
#if defined(__SANITIZE_THREAD__)
    return atomic_fetch_add_explicit(&entry->word, 0, memory_order_acq_rel);
#else
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&entry->word, memory_order_relaxed);
#endif
}

int farpool_read_check(farpool_partition *partition, farpool_pid pid, uint64_t version)
{
    uint64_t word = second_look(&partition->entries[pid]);
    return fp_word_readable(word) && (word & FP_WORD_VERSION) == version ? 0 : FARPOOL_E_RETRY;
}

int farpool_read_upgrade(farpool_partition *partition, farpool_pid pid, uint64_t version,
                         void **page)
{
    return partition->redo ? unlogged(partition) : fp_page_upgrade(partition, pid, version, page);
}

int fp_page_upgrade(farpool_partition *partition, farpool_pid pid, uint64_t version, void **page)
{
    fp_entry *entry = &partition->entries[pid];
    uint64_t word = second_look(entry);
    if ((word & FP_WORD_VERSION) != version || !fp_word_try_exclusive(entry, word))
        return FARPOOL_E_RETRY;
    *page = fp_page_addr(partition, pid, entry);
    return 0;
}

/* ---- allocating and freeing ------------------------------------------------------------------ */

/* Frame and bytes for a new page whose entry is EXCLUSIVE; it stays so on error. */
static int furnish(farpool_partition *partition, farpool_pid pid, unsigned order)
{
    farpool_pool *pool = partition->pool;
    fp_thread *thread = fp_thread_get(pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    uint32_t frame;
    fp_thread_own(thread);
    int rc = fp_evict_take(thread, partition, order, FP_EVICT_THOROUGHLY, &frame);
    if (!rc) {
        for (unsigned tries = 0; tries < FP_IO_STAGE_TRIES; tries++) {
            rc = pool->mapping->zero(partition, pid, order, frame);
            if (rc != FARPOOL_E_POOL_FULL)
                break;
            fp_io_relax(thread);
        }
        if (rc)
            fp_frames_put(thread, frame, order);
    }
    fp_thread_disown(thread);
    if (rc)
        return rc;
    atomic_store_explicit(&partition->entries[pid].frame_or_crc, frame, memory_order_release);
    atomic_store_explicit(&pool->owners[frame], fp_owner(partition, pid), memory_order_relaxed);
    return 0;
}

int farpool_page_alloc(farpool_partition *partition, unsigned order, farpool_pid *pid, void **page)
{
    return partition->redo ? unlogged(partition) : fp_page_alloc(partition, order, pid, page);
}

int fp_page_occupy(farpool_partition *partition, farpool_pid pid, unsigned order, void **page)
{
    uint32_t slot;
    int rc = fp_slot_take(partition, order, &slot);
    if (rc)
        return rc;
    fp_entry *entry = &partition->entries[pid];
    uint64_t word = fp_word_load(entry);
    FP_ASSERT(fp_word_state(word) == FP_FREE);
    /* The version goes on where the last page of this pid left it. Nobody else writes a FREE word, but
     * a reader with a stale pid may look at it. */
    word = fp_word_with_state((word & FP_WORD_VERSION) | (uint64_t)order << FP_WORD_ORDER_SHIFT,
                              FP_EXCLUSIVE);
    atomic_store_explicit(&entry->word, word, memory_order_release);
    atomic_store_explicit(&entry->slot, slot, memory_order_relaxed);
    rc = furnish(partition, pid, order);
    if (rc) {
        fp_entry_leave(entry, FP_FREE, 0, 0);
        fp_slot_free(partition, slot, order);
        return rc;
    }
    *page = fp_page_addr(partition, pid, entry);
    return 0;
}

int fp_page_alloc(farpool_partition *partition, unsigned order, farpool_pid *pid, void **page)
{
    farpool_pid first;
    if (order > partition->order_max)
        return fp_error(FARPOOL_E_TOO_BIG,
                        "page order %u: the largest here is %u (memory node's extent size)", order,
                        partition->order_max);
    int rc = fp_space_take(partition, order, &first);
    if (rc)
        return rc;
    rc = fp_page_occupy(partition, first, order, page);
    if (rc)
        fp_units_free(&partition->pids, first, order);
    else
        *pid = first;
    return rc;
}

void farpool_page_free(farpool_partition *partition, farpool_pid pid)
{
    fp_page_free(partition, pid);
}

void fp_page_vacate(farpool_partition *partition, farpool_pid pid)
{
    farpool_pool *pool = partition->pool;
    fp_entry *entry = &partition->entries[pid];
    uint64_t word = fp_word_load(entry);
    FP_ASSERT(fp_word_state(word) == FP_EXCLUSIVE);
    fp_dropped page = {
        .partition = partition,
        .pid = pid,
        .order = fp_word_order(word),
        .frame = atomic_load_explicit(&entry->frame_or_crc, memory_order_relaxed),
    };
    uint32_t slot = atomic_load_explicit(&entry->slot, memory_order_relaxed);
    pool->mapping->drop(pool, &page, 1);
    atomic_store_explicit(&pool->owners[page.frame], 0, memory_order_relaxed);
    fp_units_free(&pool->frames, page.frame, page.order);
    fp_entry_leave(entry, FP_FREE, 0, FP_WORD_DIRTY);
    fp_slot_free(partition, slot, page.order);
}

void fp_page_free(farpool_partition *partition, farpool_pid pid)
{
    unsigned order = fp_word_order(fp_word_load(&partition->entries[pid]));
    fp_page_vacate(partition, pid);
    fp_units_free(&partition->pids, pid, order);
}
