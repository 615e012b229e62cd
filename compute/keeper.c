/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/keeper.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "common/futex.h"
#include "common/spawn.h"
#include "compute/checkpoint.h"
#include "compute/keeper_lines.h"
#include "compute/thread.h"

#define STILL_NS 1000000000ull   /* see stands_still */
#define REFILL_NS 60000000000ull /* see judge_volumes */

enum {
    HURRY_US = 50,        /* between rounds while somebody waits for them */
    PACE_US = 5000,       /* between rounds while there is something to wait for */
    IDLE_US = 1000000,    /* while there is not: then it looks whether it was fenced */
    PATIENCE_US = 100000, /* of those who wait for it, before they look again */
};

/* All is the keeper's (its thread's, or in a simulated world everybody's one after the other), but for atomics, and the
 * checkpoint, which is the other thread's. */
struct fp_keeper {
    fp_redo_log *log;
    pthread_mutex_t
        rounds_lock;   /* held in a round, and by who changes the rings; before all other locks */
    fp_thread *thread; /* connections */
    fp_checkpoint checkpoint;
    /* All changes before it are in the slabs: written by who makes checkpoints (release), read by the keeper (acquire),
     * who then also sees which slabs have been retired meanwhile. */
    _Atomic uint64_t clean;
    uint64_t
        spilled_all; /* on stable media wherever rings are spilled to, but where that stands still */
    struct {
        uint64_t spilled, since_ns; /* it has been so far behind others since then */
    } behind[FP_RINGS_MAX];
    pthread_t lines_thread, checkpoint_thread;
    bool started;
    _Atomic bool stop;
    _Atomic bool
        asleep; /* relaxed: set before it sleeps for long; a rouse lost to that is made up for after IDLE_US */
    _Atomic uint32_t calls;   /* counts calls for attention: the futex it sleeps on */
    _Atomic uint32_t checks;  /* the same for who makes checkpoints */
    _Atomic uint32_t rounds;  /* counts rounds done: a futex for those who wait */
    _Atomic uint32_t pauses;  /* relaxed: odd while it is paused. Written under rounds_lock */
    _Atomic uint32_t waiting; /* relaxed: who waits for room or for stable media */
    _Atomic bool has_storage; /* relaxed */
    uint64_t enough_ns;       /* when storage_quorum volumes could get what is appended */
    _Atomic unsigned volumes; /* relaxed: that can get it */
    _Atomic bool may_store;   /* relaxed: enough of them can, or are about to */
    _Atomic bool
        spilled_somewhere; /* relaxed: though all storage nodes may lack log that is gone */
    _Atomic uint64_t waits, wait_ns, checkpoints; /* statistics, relaxed */
};

static uint64_t get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_acquire);
}

static void call(_Atomic uint32_t *calls)
{
    atomic_fetch_add_explicit(calls, 1, memory_order_release);
    fp_futex_wake_all(calls);
}

void fp_keeper_rouse(fp_keeper *keeper)
{
    if (!keeper || !atomic_load_explicit(&keeper->asleep, memory_order_relaxed))
        return;
    atomic_store_explicit(&keeper->asleep, false, memory_order_relaxed);
    call(&keeper->calls);
}

bool fp_keeper_has_storage(const fp_keeper *keeper)
{
    return keeper && atomic_load_explicit(&keeper->has_storage, memory_order_relaxed);
}

bool fp_keeper_is_waited_for(const fp_keeper *keeper)
{
    return atomic_load_explicit(&keeper->waiting, memory_order_relaxed) > 0;
}

/* ---- what follows from them ------------------------------------------------------------------ */

/* What storage_quorum different volumes have. Below the last fork nothing counts as that: a volume that is not there yet
 * is taken for one of the log before, by who recovers from it, and may stand back behind one that is away (Raft has the
 * same rule, section 5.4.2). */
static uint64_t stored_lsn(const fp_redo_log *log)
{
    uint64_t best = 0;
    for (unsigned i = 0; i < log->ring_count; i++) {
        uint64_t lsn = log->rings[i].spilled, seen[FP_RINGS_MAX];
        unsigned volumes = 0;
        for (unsigned k = 0; k < log->ring_count; k++) {
            const fp_ring *ring = &log->rings[k];
            bool counts = ring->volume && ring->spilled >= lsn;
            for (unsigned v = 0; v < volumes; v++)
                counts &= seen[v] != ring->volume;
            if (counts)
                seen[volumes++] = ring->volume;
        }
        if (volumes >= log->storage_quorum && lsn > best && lsn >= fp_lineage_at(&log->lineage))
            best = lsn;
    }
    return best;
}

/* Whether it was lower. */
static bool raise_to(_Atomic uint64_t *value, uint64_t to)
{
    bool higher = to > atomic_load_explicit(value, memory_order_relaxed);
    if (higher)
        atomic_store_explicit(value, to, memory_order_release);
    return higher;
}

/* Keeping log for the storage node does not help it any more: it ends below where the log begins, for its memory node was
 * not among those that were waited for, or nothing that it has counts. */
static bool has_gap(const fp_redo_log *log, const fp_ring *ring)
{
    uint64_t start = atomic_load_explicit(&log->start, memory_order_relaxed);
    return ring->worthless || (ring->volume && ring->spilled < start);
}

/* It can be appended to, and keeping log for its storage node helps that. */
static bool is_kept(const fp_redo_log *log, const fp_ring *ring)
{
    return !atomic_load_explicit(&ring->lost, memory_order_relaxed) && !has_gap(log, ring);
}

/* How many different volumes the rings that are left are spilled to; those not heard of yet may be others. without: bit i,
 * not ring i. gaps: also those that have to get something from other storage nodes first. */
static unsigned volumes_left(const fp_redo_log *log, uint32_t without, bool gaps)
{
    unsigned count = 0;
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        bool counts = (ring->spills || !ring->heard) && (gaps || !has_gap(log, ring)) &&
                      !atomic_load_explicit(&ring->lost, memory_order_relaxed) &&
                      !(without >> i & 1);
        for (unsigned k = 0; k < i && ring->volume; k++)
            counts &= log->rings[k].volume != ring->volume ||
                      atomic_load_explicit(&log->rings[k].lost, memory_order_relaxed);
        count += counts;
    }
    return count;
}

/* Several rings may be spilled to one volume. What it has said to one memory node it has, whenever it tells the others. */
static void share_spilled(fp_redo_log *log)
{
    for (unsigned i = 0; i < log->ring_count; i++) {
        fp_ring *ring = &log->rings[i];
        for (unsigned k = 0; k < log->ring_count && ring->volume && !ring->worthless; k++) {
            const fp_ring *other = &log->rings[k];
            if (other->volume == ring->volume && !other->worthless &&
                !atomic_load_explicit(&other->lost, memory_order_relaxed) &&
                other->spilled > ring->spilled)
                ring->spilled = other->spilled;
        }
    }
}

/* Somebody spills it, and it matters to its storage node what is let go of. */
static bool is_spilled(const fp_redo_log *log, const fp_ring *ring)
{
    return ring->spills && is_kept(log, ring);
}

/* Its storage node gets nothing while others do, for longer than a slow one ever does. */
static bool stands_still(fp_keeper *keeper, unsigned i, uint64_t most, uint64_t now_ns)
{
    uint64_t spilled = keeper->log->rings[i].spilled;
    if (spilled >= most || spilled != keeper->behind[i].spilled) {
        keeper->behind[i].spilled = spilled;
        keeper->behind[i].since_ns = now_ns;
    }
    return now_ns - keeper->behind[i].since_ns > STILL_NS;
}

/* A storage node with a gap gets what is in it from others, if these have it, and goes on: that is waited for, but not for
 * ever. */
static void judge_volumes(fp_keeper *keeper, uint64_t now_ns)
{
    const fp_redo_log *log = keeper->log;
    unsigned left = volumes_left(log, 0, false);
    bool enough = left >= log->storage_quorum;
    if (enough)
        keeper->enough_ns = now_ns;
    else if (volumes_left(log, 0, true) >= log->storage_quorum)
        enough = now_ns - keeper->enough_ns < REFILL_NS;
    atomic_store_explicit(&keeper->volumes, left, memory_order_relaxed);
    atomic_store_explicit(&keeper->may_store, enough, memory_order_relaxed);
}

/* Nothing is let go of that a ring's storage node has yet to get, or the storage node would have a gap, and have to get
 * what is in it from others. Where it stands still, and the rings get full, a gap is better than commits that wait: then
 * what storage_quorum volumes have is enough, if as many go on; else log could be let go of no further in any case. */
static void judge_spilled(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    uint64_t all = UINT64_MAX, most = 0,
             now_ns = fp_net_now_ns(log->partition->pool->transports[0].net);
    bool has_storage = false, somewhere = false;
    uint32_t still = 0;
    share_spilled(log);
    bool tight = get(&log->end) - get(&log->floor) > log->ring_bytes / 2;
    for (unsigned i = 0; i < log->ring_count; i++)
        if (is_spilled(log, &log->rings[i]) && log->rings[i].spilled > most)
            most = log->rings[i].spilled;
    for (unsigned i = 0; i < log->ring_count; i++) {
        somewhere |= log->rings[i].spills;
        if (is_spilled(log, &log->rings[i]) && stands_still(keeper, i, most, now_ns))
            still |= 1u << i;
    }
    bool leave = still && tight && volumes_left(log, still, false) >= log->storage_quorum;
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        has_storage |= is_spilled(log, ring);
        if (is_spilled(log, ring) && !(leave && still >> i & 1) && ring->spilled < all)
            all = ring->spilled;
    }
    raise_to(&log->stored, stored_lsn(log));
    if (leave && get(&log->stored) < all)
        all = get(&log->stored);
    atomic_store_explicit(&keeper->has_storage, has_storage, memory_order_relaxed);
    judge_volumes(keeper, now_ns);
    atomic_store_explicit(&keeper->spilled_somewhere, somewhere, memory_order_relaxed);
    keeper->spilled_all = has_storage ? all : 0;
}

static void let_go(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    uint64_t start = get(&keeper->clean);
    start = start < keeper->spilled_all ? start : keeper->spilled_all;
    if (fp_lines_slabs_told(log) && raise_to(&log->start, start))
        FP_FAULT_POINT(START_MOVED);
    uint64_t floor = get(&log->acked_all);
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        if (!atomic_load_explicit(&ring->lost, memory_order_relaxed) && ring->told_start < floor)
            floor = ring->told_start;
    }
    if (raise_to(&log->floor, floor))
        FP_FAULT_POINT(FLOOR_MOVED);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static bool wants_checkpoint(const fp_keeper *keeper)
{
    const fp_redo_log *log = keeper->log;
    return fp_keeper_has_storage(keeper) &&
           get(&log->end) - get(&keeper->clean) > log->ring_bytes / 4;
}

static bool is_settled(const fp_keeper *keeper)
{
    const fp_redo_log *log = keeper->log;
    uint64_t end = get(&log->end);
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        if (fp_lines_may(ring) &&
            (ring->told_durable < end || (ring->spills && ring->spilled < end)))
            return false;
    }
    return get(&log->acked_all) >= end;
}

/* Returns whether there is something to wait for. */
static bool make_round_locked(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    if (atomic_load_explicit(&log->failed, memory_order_acquire))
        return false;
    fp_redo_nudge(log, 0);
    fp_lines_exchange(log, keeper->thread, keeper);
    judge_spilled(keeper);
    let_go(keeper);
    atomic_fetch_add_explicit(&keeper->rounds, 1, memory_order_release);
    if (atomic_load_explicit(&keeper->waiting, memory_order_relaxed))
        fp_futex_wake_all(&keeper->rounds);
    return !is_settled(keeper);
}

static bool make_round(fp_keeper *keeper)
{
    pthread_mutex_lock(&keeper->rounds_lock);
    bool more = make_round_locked(keeper);
    pthread_mutex_unlock(&keeper->rounds_lock);
    return more;
}

void fp_keeper_pause(fp_keeper *keeper)
{
    pthread_mutex_lock(&keeper->rounds_lock);
    atomic_fetch_add_explicit(&keeper->pauses, 1, memory_order_relaxed);
}

fp_thread *fp_keeper_resume(fp_keeper *keeper, fp_thread *thread)
{
    fp_thread *before = thread ? keeper->thread : NULL;
    if (thread)
        keeper->thread = thread;
    atomic_fetch_add_explicit(&keeper->pauses, 1, memory_order_relaxed);
    pthread_mutex_unlock(&keeper->rounds_lock);
    call(&keeper->calls);
    return before;
}

static void *keep_lines(void *arg)
{
    fp_keeper *keeper = arg;
    while (!atomic_load_explicit(&keeper->stop, memory_order_acquire)) {
        uint32_t calls = atomic_load_explicit(&keeper->calls, memory_order_acquire);
        bool more = make_round(keeper);
        if (wants_checkpoint(keeper))
            call(&keeper->checks);
        if (!more)
            atomic_store_explicit(&keeper->asleep, true, memory_order_relaxed);
        bool hurry = atomic_load_explicit(&keeper->waiting, memory_order_relaxed) > 0;
        fp_futex_wait(&keeper->calls, calls, hurry ? HURRY_US : more ? PACE_US : IDLE_US);
        atomic_store_explicit(&keeper->asleep, false, memory_order_relaxed);
    }
    return NULL;
}

/* Goes on with a checkpoint, or begins one. Returns whether something could be done. */
static bool step_checkpoint(fp_keeper *keeper)
{
    fp_checkpoint *checkpoint = &keeper->checkpoint;
    farpool_partition *partition = keeper->log->partition;
    if (!checkpoint->running && !wants_checkpoint(keeper))
        return false;
    if (!checkpoint->running)
        fp_checkpoint_begin(checkpoint, partition);
    bool progress = fp_checkpoint_step(checkpoint, partition);
    if (!checkpoint->running) {
        raise_to(&keeper->clean, checkpoint->lsn);
        atomic_fetch_add_explicit(&keeper->checkpoints, 1, memory_order_relaxed);
    }
    return progress;
}

static void *make_checkpoints(void *arg)
{
    fp_keeper *keeper = arg;
    while (!atomic_load_explicit(&keeper->stop, memory_order_acquire)) {
        uint32_t checks = atomic_load_explicit(&keeper->checks, memory_order_acquire);
        if (!step_checkpoint(keeper))
            fp_futex_wait(&keeper->checks, checks, keeper->checkpoint.running ? PACE_US : IDLE_US);
    }
    return NULL;
}

bool fp_keeper_step(fp_keeper *keeper)
{
    bool more = make_round(keeper);
    return step_checkpoint(keeper) || more;
}

/* ---- waiting for it -------------------------------------------------------------------------- */

/* The first time it is called; then it hurries anyway, but does not turn around all the time. */
static void wait_round(fp_keeper *keeper, bool first)
{
    if (!keeper->started) { /* simulated: we are the keeper; time passes where it waits */
        make_round(keeper);
        fp_redo_nudge(keeper->log, 1);
        return;
    }
    uint32_t round = atomic_load_explicit(&keeper->rounds, memory_order_acquire);
    atomic_fetch_add_explicit(&keeper->waiting, 1, memory_order_relaxed);
    if (first)
        call(&keeper->calls);
    fp_futex_wait(&keeper->rounds, round, PATIENCE_US);
    atomic_fetch_sub_explicit(&keeper->waiting, 1, memory_order_relaxed);
}

static bool has_room(const fp_redo_log *log)
{
    return get(&log->end) - get(&log->floor) <= log->ring_bytes / 4 * 3;
}

/* Somebody spills the rings, or may, for the nodes have not been asked often enough to know. */
static bool may_help(const fp_keeper *keeper)
{
    return fp_keeper_has_storage(keeper) ||
           atomic_load_explicit(&keeper->rounds, memory_order_acquire) < 2;
}

int fp_keeper_wait_room(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    if (__builtin_expect(has_room(log), 1) || !may_help(keeper))
        return 0;
    const fp_net *net = log->partition->pool->transports[0].net;
    uint64_t begin = fp_net_now_ns(net);
    unsigned rounds = 0;
    int rc = 0;
    while (!rc && !has_room(log) && may_help(keeper)) {
        if (!keeper->started)
            step_checkpoint(keeper);
        wait_round(keeper, rounds++ == 0);
        rc = fp_redo_failure(log);
    }
    atomic_fetch_add_explicit(&keeper->waits, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&keeper->wait_ns, fp_net_now_ns(net) - begin, memory_order_relaxed);
    return rc;
}

static bool may_store(const fp_keeper *keeper)
{
    return atomic_load_explicit(&keeper->may_store, memory_order_relaxed) ||
           atomic_load_explicit(&keeper->rounds, memory_order_acquire) < 2;
}

static int no_storage(const fp_keeper *keeper)
{
    const fp_redo_log *log = keeper->log;
    unsigned left = atomic_load_explicit(&keeper->volumes, memory_order_relaxed);
    if (left || atomic_load_explicit(&keeper->spilled_somewhere, memory_order_relaxed))
        return fp_error(FARPOOL_E_NODE,
                        "partition %llu: the log rings that are left are spilled to %u storage "
                        "nodes, %u have to have a commit (storage_quorum)",
                        (unsigned long long)log->partition->id, left, log->storage_quorum);
    return fp_error(FARPOOL_E_UNSUPPORTED,
                    "partition %llu: no memory node of its log rings has a storage node "
                    "(farpool-memnode --storage), so nothing gets onto stable media",
                    (unsigned long long)log->partition->id);
}

int fp_keeper_wait_stored(fp_keeper *keeper, uint64_t lsn, unsigned timeout_ms)
{
    fp_redo_log *log = keeper->log;
    const fp_net *net = log->partition->pool->transports[0].net;
    uint64_t most = timeout_ms ? timeout_ms * 1000000ull : UINT64_MAX / 2;
    uint64_t deadline = fp_net_now_ns(net) + most;
    uint32_t pauses = atomic_load_explicit(&keeper->pauses, memory_order_relaxed);
    for (unsigned rounds = 0; get(&log->stored) < lsn; rounds++) {
        int rc = fp_redo_failure(log);
        if (rc)
            return rc;
        uint32_t now = atomic_load_explicit(&keeper->pauses, memory_order_relaxed);
        if (now != pauses || now % 2) /* who paused is to blame, not storage nodes */
            deadline = fp_net_now_ns(net) + most;
        pauses = now;
        if (rounds > 1 && !may_store(keeper))
            return no_storage(keeper);
        if (fp_net_now_ns(net) > deadline)
            return fp_error(FARPOOL_E_TIMEOUT,
                            "partition %llu: the log from LSN %llu to %llu was not on stable media "
                            "within %u ms",
                            (unsigned long long)log->partition->id,
                            (unsigned long long)get(&log->stored), (unsigned long long)lsn,
                            timeout_ms);
        wait_round(keeper, rounds == 0);
    }
    return 0;
}

void fp_keeper_stats(const fp_keeper *keeper, farpool_stats *stats)
{
    stats->redo_waits += atomic_load_explicit(&keeper->waits, memory_order_relaxed);
    stats->redo_wait_ns += atomic_load_explicit(&keeper->wait_ns, memory_order_relaxed);
    stats->redo_checkpoints += atomic_load_explicit(&keeper->checkpoints, memory_order_relaxed);
}

/* ---- life ------------------------------------------------------------------------------------ */

int fp_keeper_open(fp_redo_log *log, fp_keeper **out)
{
    fp_keeper *keeper = calloc(1, sizeof *keeper);
    if (!keeper)
        return fp_error(FARPOOL_E_NOMEM, "opening a redo log: no memory for its keeper");
    keeper->log = log;
    atomic_init(&keeper->clean, log->first);
    keeper->enough_ns = fp_net_now_ns(log->partition->pool->transports[0].net);
    if (pthread_mutex_init(&keeper->rounds_lock, NULL)) {
        free(keeper);
        return fp_error(FARPOOL_E_NOMEM, "opening a redo log: no memory for a lock");
    }
    keeper->thread = fp_thread_new(log->partition->pool, FP_USE_RING);
    if (!keeper->thread) {
        pthread_mutex_destroy(&keeper->rounds_lock);
        free(keeper);
        return FARPOOL_E_NOMEM;
    }
    *out = keeper;
    return 0;
}

static int start_threads(fp_keeper *keeper)
{
    int error = fp_spawn(&keeper->lines_thread, keep_lines, keeper);
    if (error)
        return error;
    error = fp_spawn(&keeper->checkpoint_thread, make_checkpoints, keeper);
    keeper->started = !error;
    if (!error)
        return 0;
    atomic_store_explicit(&keeper->stop, true, memory_order_release);
    call(&keeper->calls);
    pthread_join(keeper->lines_thread, NULL);
    return error;
}

int fp_keeper_start(fp_keeper *keeper)
{
    if (keeper->log->partition->pool->net_options.world)
        return 0;
    int error = start_threads(keeper);
    return error ? fp_error(FARPOOL_E_SYS,
                            "partition %llu: starting the threads that keep its log: %s",
                            (unsigned long long)keeper->log->partition->id, strerror(error))
                 : 0;
}

void fp_keeper_stop(fp_keeper *keeper)
{
    if (keeper->started) {
        atomic_store_explicit(&keeper->stop, true, memory_order_release);
        call(&keeper->calls);
        call(&keeper->checks);
        pthread_join(keeper->checkpoint_thread, NULL);
        pthread_join(keeper->lines_thread, NULL);
        keeper->started = false;
    }
    if (!atomic_load_explicit(&keeper->log->failed, memory_order_acquire))
        fp_lines_exchange(keeper->log, keeper->thread, keeper);
}

void fp_keeper_close(fp_keeper *keeper)
{
    if (!keeper)
        return;
    fp_thread_free(keeper->thread);
    pthread_mutex_destroy(&keeper->rounds_lock);
    free(keeper);
}
