/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clock with second chance (Corbató, 1968), in batches, because dropping and writing pages one by one
 * is what makes eviction dear. A thread that finds no free frame does one batch itself:
 *
 *   1. pick     The hand moves over a stretch of frames. A page not touched since the last pass (MARKED)
 *               is a candidate, any other unlatched page is marked. After PATIENCE stretches without
 *               enough candidates unmarked pages do as well: a pool of which every page was just
 *               touched must not cost whoever comes first a walk over all of it.
 *   2. write    Dirty candidates are latched SHARED and written to their slots, all at once. Readers go
 *               on; a writer waits. A write that fails leaves its page dirty and in the pool.
 *   3. latch    Clean candidates are latched EXCLUSIVE, by trying. Whoever came first keeps the page.
 *   4. drop     The mapping takes them away, all at once; the words go to EVICTED.
 *
 * A crash of this process loses nothing that the slab has. Several threads evict at the same time, on
 * different stretches. The frame table is only a hint: what counts is the entry under its latch.
 */
#include "compute/evict.h"

#include "common/error.h"
#include "common/faultpoint.h"
#include "compute/frames.h"
#include "compute/io.h"
#include "compute/mapping.h"
#include "compute/redo_log.h"
#include "compute/remote.h"
#include "compute/slab.h"

enum {
    STRETCH = FP_EVICT_STRETCH,
    PATIENCE = 16,     /* stretches before unmarked pages are taken too */
    GIVE_UP_LAPS = 64, /* of the whole pool without one page that can leave */
    TRANSIT_MS = 5000, /* after that, while there are frames in transit, but none for us */
};

typedef struct candidate {
    farpool_partition *partition;
    farpool_pid pid;
    fp_entry *entry;
} candidate;

/* The last page that could not be written: farpool_errmsg() says why. */
typedef struct failure {
    int code;
    uint64_t partition; /* its id */
} failure;

static farpool_pid owner_pid(uint64_t owner) { return owner & ((1ull << 48) - 1); }

/* The page that the frame table names, if its partition is still open. Partitions_lock is read-held. */
static bool page_in_frame(farpool_pool *pool, uint64_t frame, candidate *page)
{
    uint64_t owner = atomic_load_explicit(&pool->owners[frame], memory_order_relaxed);
    if (!owner)
        return false;
    page->partition = pool->partitions[(owner >> 48) - 1];
    page->pid = owner_pid(owner);
    if (!page->partition || page->pid >= page->partition->units)
        return false;
    page->entry = &page->partition->entries[page->pid];
    __builtin_prefetch(page->entry, 1);
    return true;
}

/* Phase 1 over [start, start + STRETCH). */
static unsigned pick(farpool_pool *pool, uint64_t start, bool any, candidate *out)
{
    candidate seen[STRETCH];
    unsigned n = 0, picked = 0;
    for (uint64_t f = start; f < start + STRETCH; f++)
        n += page_in_frame(pool, f % pool->frame_count, &seen[n]);
    for (unsigned i = 0; i < n; i++) {
        uint64_t word = fp_word_load(seen[i].entry);
        unsigned state = fp_word_state(word);
        if (state == FP_UNLOCKED && !any)
            fp_word_cas(seen[i].entry, &word, fp_word_with_state(word, FP_MARKED));
        else if (state == FP_MARKED || state == FP_UNLOCKED)
            out[picked++] = seen[i];
    }
    return picked;
}

static bool latch_shared(fp_entry *entry)
{
    uint64_t word = fp_word_load(entry);
    unsigned state = fp_word_state(word);
    return (word & FP_WORD_DIRTY) && (state == FP_MARKED || state == FP_UNLOCKED) &&
           fp_word_cas(entry, &word, fp_word_with_state(word, FP_SHARED_MIN));
}

/* WAL: what changed the page is durable before the page is anywhere else than here. */
static int flush_redo(const candidate *page, uint32_t frame, uint64_t *lsn)
{
    fp_redo_log *redo = page->partition->redo;
    if (!redo)
        return 0;
    uint64_t end = atomic_load_explicit(&redo->end, memory_order_relaxed);
    *lsn = fp_page_lsn_whole(page->partition->pool->crcs_or_lsns[frame], end);
    return fp_redo_flush(redo, *lsn);
}

/* Starts writing a page that we have latched SHARED. */
static fp_io *start_write(fp_thread *thread, const candidate *page, failure *failed)
{
    farpool_pool *pool = thread->pool;
    unsigned order = fp_word_order(fp_word_load(page->entry));
    uint32_t frame = atomic_load_explicit(&page->entry->frame_or_crc, memory_order_relaxed);
    void *source;
    uint64_t lsn = 0;
    int rc = flush_redo(page, frame, &lsn);
    if (!rc)
        rc = pool->mapping->write_source(page->partition, page->pid, order, frame, &source);
    if (rc) {
        if (rc != FARPOOL_E_POOL_FULL) /* which passes: the page stays until the next time */
            *failed = (failure){rc, page->partition->id};
        fp_shared_leave(page->entry);
        return NULL;
    }
    fp_io *io = fp_io_take(thread, FP_IO_WRITE, page->partition, page->pid, order, frame);
    io->page = source;
    io->lsn = lsn;
    fp_io_seal(io);
    return io;
}

/* A write is over. Returns whether the page is clean. */
static bool finish_write(fp_thread *thread, fp_io *io, uint32_t begun, failure *failed)
{
    farpool_pool *pool = thread->pool;
    fp_entry *entry = &io->partition->entries[io->pid];
    fp_io_wait(thread, io);
    bool written = !io->status;
    pool->mapping->unland(pool, io->page, io->order);
    if (written) {
        pool->crcs_or_lsns[io->frame] = io->crc;
        atomic_fetch_and_explicit(&entry->word, ~FP_WORD_DIRTY, memory_order_relaxed); /* W4 */
        FP_FAULT_POINT(EVICT_WRITTEN);
        fp_count(&thread->count.written_back, 1);
        fp_count(&thread->count.bytes_written,
                 FP_SLOT_HEADER_BYTES + ((uint64_t)FARPOOL_UNIT_BYTES << io->order));
    } else if (!fp_node_set_changed(io->partition, begun) && /* else it is written the next time */
               !fp_slot_move(io->partition, io->pid, io->order)) {
        *failed = (failure){io->status, io->partition->id};
    }
    fp_io_put(thread, io);
    fp_shared_leave(entry);
    return written;
}

/* Phase 2: writes the dirty ones among the candidates, as many as there are transfers for. They are clean afterwards
 * (bit i of what is returned: candidate i) or were left alone. */
static uint64_t write_back(fp_thread *thread, const candidate *pages, unsigned count,
                           failure *failed)
{
    fp_io *ios[FP_WRITES_MAX] = {0};
    unsigned index[FP_WRITES_MAX], n = 0;
    uint32_t begun[FP_WRITES_MAX];
    uint64_t written = 0;
    for (unsigned i = 0; i < count && n < FP_WRITES_MAX; i++) {
        if (!latch_shared(pages[i].entry))
            continue;
        index[n] = i;
        begun[n] = fp_node_set_begin(pages[i].partition);
        ios[n] = start_write(thread, &pages[i], failed);
        n += ios[n] != NULL;
    }
    fp_remote_post(thread, ios, n);
    if (n)
        FP_FAULT_POINT(EVICT_POSTED);
    for (unsigned i = 0; i < n; i++)
        written |= (uint64_t)finish_write(thread, ios[i], begun[i], failed) << index[i];
    return written;
}

/* Phases 3 and 4. Returns how many frames became free. */
static unsigned drop(fp_thread *thread, const candidate *pages, unsigned count, bool discard)
{
    farpool_pool *pool = thread->pool;
    fp_dropped dropped[STRETCH];
    unsigned n = 0, frames = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t word = fp_word_load(pages[i].entry);
        if (((word & FP_WORD_DIRTY) && !discard) || !fp_word_try_exclusive(pages[i].entry, word))
            continue;
        dropped[n++] = (fp_dropped){
            .partition = pages[i].partition,
            .pid = pages[i].pid,
            .order = fp_word_order(word),
            .frame = atomic_load_explicit(&pages[i].entry->frame_or_crc, memory_order_relaxed),
        };
    }
    if (!n)
        return 0;
    pool->mapping->drop(pool, dropped, n);
    /* Backwards, for frames are taken last in first out: ascending they are cheaper to write to. */
    for (unsigned i = n; i-- > 0;) {
        fp_entry *entry = &dropped[i].partition->entries[dropped[i].pid];
        atomic_store_explicit(&pool->owners[dropped[i].frame], 0, memory_order_relaxed);
        atomic_store_explicit(&entry->frame_or_crc, pool->crcs_or_lsns[dropped[i].frame],
                              memory_order_release); /* W7 */
        fp_entry_leave(entry, discard ? FP_FREE : FP_EVICTED, 0, discard ? FP_WORD_DIRTY : 0);
        fp_frames_put(thread, dropped[i].frame, dropped[i].order);
        frames += 1u << dropped[i].order;
    }
    fp_count(&thread->count.evictions, n);
    FP_FAULT_POINT(EVICT_DROPPED);
    return frames;
}

/* One stretch through all phases. Returns how many frames became free. */
static unsigned evict_stretch(fp_thread *thread, uint64_t start, bool any, failure *failed)
{
    candidate pages[STRETCH];
    pthread_rwlock_rdlock(&thread->pool->partitions_lock);
    unsigned n = pick(thread->pool, start, any, pages);
    unsigned dirty = 0;
    for (unsigned i = 0; i < n; i++)
        dirty += (fp_word_load(pages[i].entry) & FP_WORD_DIRTY) != 0;
    if (dirty)
        (void)write_back(thread, pages, n, failed);
    unsigned freed = drop(thread, pages, n, false);
    pthread_rwlock_unlock(&thread->pool->partitions_lock);
    return freed;
}

/* Single frames: move the clock until a batch is free. */
static unsigned evict_batch(fp_thread *thread, failure *failed)
{
    farpool_pool *pool = thread->pool;
    unsigned freed = 0;
    for (unsigned i = 0; i < 2 * PATIENCE && freed < pool->batch; i++) {
        uint64_t start = atomic_fetch_add_explicit(&pool->hand, STRETCH, memory_order_relaxed);
        freed += evict_stretch(thread, start % pool->frame_count, i >= PATIENCE, failed);
    }
    return freed;
}

/* A run: empty the aligned region at the hand of everything that can leave. */
static void evict_region(fp_thread *thread, unsigned order, failure *failed)
{
    farpool_pool *pool = thread->pool;
    uint64_t size = 1ull << order;
    uint64_t regions = pool->frame_count >> order;
    uint64_t hand = atomic_fetch_add_explicit(&pool->hand, size, memory_order_relaxed);
    uint64_t region = hand / size % regions * size;
    for (uint64_t f = region; f < region + size; f += STRETCH) {
        evict_stretch(thread, f, true, failed);
        if (order < 6)
            break; /* one stretch covers it */
    }
    fp_frames_flush(thread);
}

/* Whether others may hold frames that no program has fixed: they write pages back, drop them or fetch them. */
static bool frames_in_transit(const fp_thread *thread)
{
    farpool_pool *pool = thread->pool;
    for (unsigned i = 0; i < FP_THREADS_MAX; i++) {
        fp_thread *other = atomic_load_explicit(&pool->threads[i], memory_order_acquire);
        if (!other)
            break; /* they are filled in order */
        if (other != thread && atomic_load_explicit(&other->busy, memory_order_relaxed))
            return true;
    }
    return atomic_load_explicit(&pool->prefetches, memory_order_relaxed) > 0;
}

static uint64_t now_ns(farpool_pool *pool) { return fp_net_now_ns(pool->transports[0].net); }

/* Of another partition: nothing is wrong with the caller's, and who is told E_FENCED would give up the wrong one. */
static int say_unwritten(const farpool_pool *pool, const farpool_partition *partition,
                         failure failed)
{
    return failed.partition == partition->id
               ? failed.code
               : fp_error(FARPOOL_E_POOL_FULL,
                          "pool %s: partition %llu: changed pages cannot leave the pool: %s",
                          pool->name, (unsigned long long)failed.partition, farpool_errmsg());
}

int fp_evict_take(fp_thread *thread, const farpool_partition *partition, unsigned order,
                  enum fp_evict_effort effort, uint32_t *frame)
{
    farpool_pool *pool = thread->pool;
    if (fp_frames_take(thread, order, frame))
        return 0;
    if (pool->frame_count >> order == 0)
        return fp_error(FARPOOL_E_POOL_FULL, "pool %s: a page of %u bytes in a pool of %llu frames",
                        pool->name, FARPOOL_UNIT_BYTES << order,
                        (unsigned long long)pool->frame_count);
    uint64_t step = order ? 1ull << order : 2ull * PATIENCE * STRETCH;
    uint64_t lap = pool->frame_count / step + 1;
    uint64_t tries = effort == FP_EVICT_ONCE ? lap : GIVE_UP_LAPS * lap, deadline = 0;
    for (uint64_t i = 0;; i++) {
        failure failed = {0};
        fp_frames_gather(pool, i || order ? FP_THREADS_MAX : 1);
        if (order)
            evict_region(thread, order, &failed);
        else
            evict_batch(thread, &failed);
        if (fp_frames_take(thread, order, frame))
            return 0;
        if (failed.code && i > lap)
            return say_unwritten(pool, partition, failed);
        if (i >= tries) {
            if (effort == FP_EVICT_ONCE || !frames_in_transit(thread))
                break;
            uint64_t now = now_ns(pool);
            deadline = deadline ? deadline : now + TRANSIT_MS * 1000000ull;
            if (now > deadline)
                break;
        }
        if (effort == FP_EVICT_THOROUGHLY)
            fp_io_relax(thread);
    }
    return fp_error(FARPOOL_E_POOL_FULL,
                    "pool %s: no run of %llu among %llu frames can be freed: "
                    "fix fewer pages at a time or make the pool larger",
                    pool->name, 1ull << order, (unsigned long long)pool->frame_count);
}

/* What is known of a page that is not to be written back: that it needn't be (then it has been visited), or nothing. */
static bool is_visited(const candidate *page)
{
    uint64_t word = fp_word_load(page->entry);
    unsigned state = fp_word_state(word);
    return state != FP_EXCLUSIVE && (!fp_word_readable(word) || !(word & FP_WORD_DIRTY));
}

uint64_t fp_evict_clean(fp_thread *thread, const farpool_partition *partition, uint64_t first,
                        uint64_t which)
{
    farpool_pool *pool = thread->pool;
    candidate pages[STRETCH];
    unsigned bits[STRETCH], n = 0;
    failure ignored = {0}; /* tried again */
    pthread_rwlock_rdlock(&pool->partitions_lock);
    for (unsigned i = 0; i < STRETCH; i++) {
        if (!(which >> i & 1))
            continue;
        bool ours = first + i < pool->frame_count && page_in_frame(pool, first + i, &pages[n]) &&
                    pages[n].partition == partition;
        if (!ours || is_visited(&pages[n]))
            which &= ~(1ull << i);
        else
            bits[n++] = i;
    }
    uint64_t written = write_back(thread, pages, n, &ignored);
    pthread_rwlock_unlock(&pool->partitions_lock);
    for (unsigned i = 0; i < n; i++)
        which &= ~((written >> i & 1) << bits[i]);
    return which;
}

/* The page's slot lacks what is here, for it is on another node now. So it counts as changed; not later than what is
 * durable, or it would not be clean. */
static void taint(const candidate *page)
{
    uint64_t word = fp_word_load(page->entry);
    if ((word & FP_WORD_DIRTY) || !fp_word_try_exclusive(page->entry, word))
        return;
    uint32_t frame = atomic_load_explicit(&page->entry->frame_or_crc, memory_order_relaxed);
    uint64_t durable = atomic_load_explicit(&page->partition->redo->durable, memory_order_acquire);
    page->partition->pool->crcs_or_lsns[frame] = fp_page_lsn_short(durable);
    fp_entry_leave(page->entry, FP_UNLOCKED, FP_WORD_DIRTY, 0);
}

uint64_t fp_evict_store(fp_thread *thread, farpool_partition *partition, const farpool_pid *pids,
                        unsigned count, uint64_t hollow, uint64_t leave, int *error)
{
    candidate pages[FP_WRITES_MAX] = {0}, leaving[FP_WRITES_MAX];
    unsigned n = 0;
    failure failed = {0};
    FP_ASSERT(count <= FP_WRITES_MAX);
    for (unsigned i = 0; i < count; i++) {
        pages[i] = (candidate){partition, pids[i], &partition->entries[pids[i]]};
        if (hollow >> i & 1)
            taint(&pages[i]);
    }
    uint64_t stored = write_back(thread, pages, count, &failed);
    if (failed.code)
        *error = failed.code;
    for (unsigned i = 0; i < count; i++) {
        if (!(hollow >> i & 1) && !(fp_word_load(pages[i].entry) & FP_WORD_DIRTY))
            stored |= 1ull << i;
        if (stored & leave & 1ull << i)
            leaving[n++] = pages[i];
    }
    (void)drop(thread, leaving, n, false);
    return stored;
}

int fp_evict_partition(fp_thread *thread, farpool_partition *partition)
{
    farpool_pool *pool = thread->pool;
    for (uint64_t f = 0; f < pool->frame_count; f++) {
        uint64_t owner = atomic_load_explicit(&pool->owners[f], memory_order_relaxed);
        if (owner >> 48 != partition->index + 1u)
            continue;
        candidate page = {.partition = partition, .pid = owner_pid(owner)};
        page.entry = &partition->entries[page.pid];
        if (!drop(thread, &page, 1, true))
            return fp_error(FARPOOL_E_BUSY, "closing partition %llu: page %llu is still fixed",
                            (unsigned long long)partition->id, (unsigned long long)page.pid);
    }
    return 0;
}
