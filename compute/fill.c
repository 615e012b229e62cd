/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/fill.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/futex.h"
#include "common/log.h"
#include "common/spawn.h"
#include "compute/evict.h"
#include "compute/frames.h"
#include "compute/io.h"
#include "compute/keeper.h"
#include "compute/recovery.h"
#include "compute/slab.h"
#include "compute/space.h"
#include "compute/storage.h"
#include "compute/thread.h"

enum {
    PAGES = 8, /* of the pool at a time */
    /* It works a third of the time, so that of a processor, a connection or a storage node most is left to others; and
     * if these are slow, so is it. While somebody waits for storage nodes to take log in, a sixteenth. */
    RESTS = 2,
    RESTS_WAITED_FOR = 15,
    REST_US_MIN = 50,
    STUCK_US = 5000, /* until somebody's latch is looked at again */
    FAILED_US =
        1000000 /* until a node that could not be used is asked again, and the longest rest */
};

/* What is to be filled: bit i, share i; and what a recovery has left. */
#define OPENED (1u << FP_PARTITION_NODES_MAX)
#define NONE UINT64_MAX

enum outcome {
    IDLE,   /* nothing is left to do */
    MOVED,  /* something was done */
    STUCK,  /* somebody has the pages latched */
    FAILED, /* a node cannot be used just now */
};

typedef struct fill_page {
    farpool_pid pid;
    bool came;   /* it was not in the pool */
    bool hollow; /* its slot may lack it though it is clean */
} fill_page;

struct fp_fill {
    farpool_partition *partition; /* immutable, as is started, but for start and stop */
    pthread_t thread;
    bool started;
    _Atomic bool stop;
    _Atomic uint32_t
        calls; /* a futex: counted up (release) after asked and stop, read (acquire) before them */
    /* What has been asked for and not begun. Whoever takes it out (acq_rel) has made `left` other than 0 before, so who
     * sees 0 here (acquire) and then 0 there knows that it is done. */
    _Atomic uint32_t asked;
    _Atomic uint64_t left; /* pages; written by the filler (release) */
    /* the filler's: the thread's, or in a simulated world of whoever steps */
    uint32_t what;             /* is being filled; 0: nothing */
    bool groups;               /* some may not be open yet */
    bool counted;              /* left is what it should be */
    farpool_pid next, put_off; /* the walk's place; the first page that could not be had, or NONE */
    fill_page pages[PAGES];    /* under way */
    unsigned count;
    uint64_t tell_again_ns; /* fp_log_again: why one cannot be filled */
};

/* ---- the walk -------------------------------------------------------------------------------- */

static bool is_emptied(const fp_fill *fill, farpool_pid pid)
{
    const farpool_partition *partition = fill->partition;
    uint32_t slot = atomic_load_explicit(&partition->entries[pid].slot, memory_order_relaxed);
    return fill->what >> fp_slot_extent(partition, fp_node_set_now(partition), slot)->share & 1;
}

/* Without its latch, so a page that is new may be taken for one that is wanted; one that was there is found. */
static bool is_wanted(const fp_fill *fill, farpool_pid pid, uint64_t word)
{
    unsigned state = fp_word_state(word);
    if (state == FP_FREE)
        return false;
    bool lacks = state == FP_EVICTED && (word & FP_WORD_DIRTY);
    if ((fill->what & OPENED) && (lacks || fp_recovery_has_redo(fill->partition->recovery, pid)))
        return true;
    return is_emptied(fill, pid);
}

/* The first page wanted from *pid on, which is moved behind it; NONE: there is none. */
static farpool_pid find(const fp_fill *fill, farpool_pid *pid)
{
    farpool_partition *partition = fill->partition;
    while (*pid < partition->units) {
        farpool_pid here = *pid;
        uint64_t word = fp_word_load(&partition->entries[here]);
        if (fp_word_state(word) != FP_FREE)
            *pid += 1ull << fp_word_order(word);
        else /* without a map page there is nothing in its group */
            *pid += fp_is_map(here) ? FP_GROUP_UNITS : 1;
        if (is_wanted(fill, here, word))
            return here;
    }
    return NONE;
}

static void set_left(fp_fill *fill, uint64_t left)
{
    atomic_store_explicit(&fill->left, left, memory_order_release);
}

static void count_left(fp_fill *fill)
{
    uint64_t left = 0;
    for (farpool_pid pid = fill->next; find(fill, &pid) != NONE;)
        left++;
    set_left(fill, left ? left : 1);
    fill->counted = true;
}

static void take_asked(fp_fill *fill)
{
    if (!atomic_load_explicit(&fill->asked, memory_order_relaxed))
        return;
    if (!atomic_load_explicit(&fill->left, memory_order_relaxed))
        set_left(fill, 1);
    uint32_t asked = atomic_exchange_explicit(&fill->asked, 0, memory_order_acq_rel);
    fill->what |= asked;
    fill->groups |= (asked & OPENED) != 0;
    fill->counted = false;
    fill->next = fill->count = 0;
    fill->put_off = NONE;
}

/* ---- pages ----------------------------------------------------------------------------------- */

/* E_NOTFOUND: it was freed. */
static int bring(const fp_fill *fill, fill_page *page)
{
    farpool_partition *partition = fill->partition;
    unsigned state = fp_word_state(fp_word_load(&partition->entries[page->pid]));
    void *bytes;
    if (state == FP_FREE)
        return FARPOOL_E_NOTFOUND;
    if (state != FP_EVICTED) {
        page->hollow = !page->came && is_emptied(fill, page->pid);
        return 0;
    }
    /* Whoever faults it now finds out what its slot has: it is clean only if that is the page. */
    page->came = true;
    page->hollow = false;
    int rc = farpool_fix(partition, page->pid, FARPOOL_SHARED, &bytes);
    if (!rc)
        farpool_unfix(partition, page->pid, FARPOOL_SHARED);
    return rc;
}

static void forget(fp_fill *fill, unsigned i)
{
    uint64_t left = atomic_load_explicit(&fill->left, memory_order_relaxed);
    if (left > 1) /* the last one is taken off when the walk has ended */
        set_left(fill, left - 1);
    fill->pages[i] = fill->pages[--fill->count];
}

/* After an error, with farpool_errmsg(): now and then. */
static void tell(fp_fill *fill, farpool_pid pid)
{
    if (!fp_log_again(&fill->tell_again_ns))
        return;
    fp_log(FP_LOG_WARN,
           "partition %llu: page %llu is not brought to a memory node: %s; trying again",
           (unsigned long long)fill->partition->id, (unsigned long long)pid, farpool_errmsg());
}

/* Until one cannot be had: that may have taken long, and the next one would, too. */
static int bring_all(fp_fill *fill)
{
    int rc = 0;
    for (unsigned i = fill->count; i-- > 0 && !rc;) {
        farpool_pid pid = fill->pages[i].pid;
        rc = bring(fill, &fill->pages[i]);
        if (!rc)
            continue;
        forget(fill, i);
        if (rc == FARPOOL_E_NOTFOUND) {
            rc = 0;
            continue;
        }
        tell(fill, pid);
        if (pid < fill->put_off)
            fill->put_off = pid;
    }
    return rc;
}

static enum outcome store_all(fp_fill *fill)
{
    farpool_pool *pool = fill->partition->pool;
    farpool_pid pids[PAGES];
    uint64_t hollow = 0, leave = 0;
    int error = 0;
    fp_thread *thread = fp_thread_get(pool);
    if (!thread)
        return FAILED;
    for (unsigned i = 0; i < fill->count; i++) {
        pids[i] = fill->pages[i].pid;
        hollow |= (uint64_t)fill->pages[i].hollow << i;
        leave |= (uint64_t)fill->pages[i].came << i;
    }
    fp_thread_own(thread);
    uint64_t stored =
        fp_evict_store(thread, fill->partition, pids, fill->count, hollow, leave, &error);
    fp_thread_disown(thread);
    for (unsigned i = fill->count; i-- > 0;)
        if (stored >> i & 1)
            forget(fill, i);
    if (stored)
        return MOVED;
    if (!error) {
        fp_io_help(pool); /* it may be on its way for somebody who does nothing else now */
        return STUCK;
    }
    tell(fill, pids[0]);
    return FAILED;
}

static enum outcome end_walk(fp_fill *fill)
{
    if (fill->put_off !=
        NONE) { /* those from there on once more; what came to its slot costs a READ */
        fill->next = fill->put_off;
        fill->put_off = NONE;
        fill->counted = false;
        return FAILED;
    }
    fill->what = 0;
    set_left(fill, 0);
    fp_thread *thread = fp_thread_get(fill->partition->pool);
    if (thread) { /* others may need the frames it has in stock */
        fp_thread_own(thread);
        fp_frames_flush(thread);
        fp_thread_disown(thread);
    }
    return IDLE;
}

/* With pages that cannot be written it goes no further, so that the pool does not fill up with them. */
static enum outcome fill_some(fp_fill *fill)
{
    farpool_pid pid;
    while (fill->count < PAGES && (pid = find(fill, &fill->next)) != NONE)
        fill->pages[fill->count++] = (fill_page){.pid = pid};
    if (!fill->count)
        return end_walk(fill);
    int rc = bring_all(fill);
    if (rc)
        return FAILED;
    return fill->count ? store_all(fill) : MOVED;
}

/* One more group of what a recovery has found. */
static enum outcome open_group(fp_fill *fill)
{
    int rc = fp_recovery_open_next(fill->partition);
    if (rc == FARPOOL_E_NOTFOUND)
        fill->groups = false;
    return rc == FARPOOL_E_RETRY || rc == FARPOOL_E_NOTFOUND ? MOVED : FAILED;
}

static enum outcome step(fp_fill *fill)
{
    take_asked(fill);
    if (!fill->what || atomic_load_explicit(&fill->partition->redo->failed, memory_order_acquire))
        return IDLE;
    if (fill->groups)
        return open_group(fill);
    if (!fill->counted)
        count_left(fill);
    return fill_some(fill);
}

bool fp_fill_step(fp_fill *fill) { return step(fill) == MOVED; }

/* ---- the thread ------------------------------------------------------------------------------ */

static void call(fp_fill *fill)
{
    atomic_fetch_add_explicit(&fill->calls, 1, memory_order_release);
    fp_futex_wake_all(&fill->calls);
}

/* 0: until it is called. */
static unsigned rest_us(const fp_fill *fill, enum outcome outcome, uint64_t took_ns)
{
    bool waited_for = fp_keeper_is_waited_for(fill->partition->redo->keeper);
    uint64_t rest = took_ns / 1000 * (waited_for ? RESTS_WAITED_FOR : RESTS);
    switch (outcome) {
    case IDLE:
        return 0;
    case STUCK:
        return STUCK_US;
    case FAILED:
        return FAILED_US;
    default:
        return rest < REST_US_MIN ? REST_US_MIN : rest > FAILED_US ? FAILED_US : (unsigned)rest;
    }
}

static void *fill_up(void *arg)
{
    fp_fill *fill = arg;
    while (!atomic_load_explicit(&fill->stop, memory_order_acquire)) {
        uint32_t calls = atomic_load_explicit(&fill->calls, memory_order_acquire);
        uint64_t begin = fp_now_ns();
        enum outcome outcome = step(fill);
        fp_futex_wait(&fill->calls, calls, rest_us(fill, outcome, fp_now_ns() - begin));
    }
    return NULL;
}

void fp_fill_ask(fp_fill *fill, uint32_t shares)
{
    if (!fill || !shares)
        return;
    atomic_fetch_or_explicit(&fill->asked, shares, memory_order_release);
    call(fill);
}

int fp_fill_open(farpool_partition *partition, fp_fill **out)
{
    fp_fill *fill = calloc(1, sizeof *fill);
    if (!fill)
        return fp_error(FARPOOL_E_NOMEM, "partition %llu: no memory for what fills its slabs",
                        (unsigned long long)partition->id);
    fill->partition = partition;
    fill->put_off = NONE;
    *out = fill;
    return 0;
}

int fp_fill_start(fp_fill *fill)
{
    farpool_partition *partition = fill->partition;
    if (partition->recovery && fp_storage_count(partition))
        fp_fill_ask(fill, OPENED);
    if (partition->pool->net_options.world)
        return 0;
    int error = fp_spawn(&fill->thread, fill_up, fill);
    fill->started = !error;
    return error ? fp_error(FARPOOL_E_SYS,
                            "partition %llu: starting the thread that fills its slabs: %s",
                            (unsigned long long)partition->id, strerror(error))
                 : 0;
}

void fp_fill_stop(fp_fill *fill)
{
    if (!fill || !fill->started)
        return;
    atomic_store_explicit(&fill->stop, true, memory_order_release);
    call(fill);
    pthread_join(fill->thread, NULL);
    fill->started = false;
}

void fp_fill_close(fp_fill *fill) { free(fill); }

void fp_fill_stats(const fp_fill *fill, farpool_stats *stats)
{
    if (!fill)
        return;
    bool asked = atomic_load_explicit(&fill->asked, memory_order_acquire) != 0;
    uint64_t left = atomic_load_explicit(&fill->left, memory_order_acquire);
    stats->fill_left += asked && !left ? 1 : left;
}
