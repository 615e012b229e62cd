/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/keeper.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/futex.h"
#include "compute/checkpoint.h"
#include "compute/io.h"
#include "compute/remote.h"
#include "compute/slab.h"
#include "compute/thread.h"

enum {
    HURRY_US = 300,       /* between rounds while somebody waits for them */
    PACE_US = 5000,       /* between rounds while there is something to wait for */
    IDLE_US = 1000000,    /* while there is not: then it looks whether it was fenced */
    PATIENCE_US = 100000, /* of those who wait for it, before they look again */
};

enum { NODE, OWNER, SLABS }; /* what a transfer is about */

/* All is the keeper's (its thread's, or in a simulated world everybody's one after the other), but for atomics, and the
 * checkpoint, which is the other thread's. */
struct fp_keeper {
    fp_redo_log *log;
    fp_thread *thread; /* connections */
    fp_checkpoint checkpoint;
    /* All changes before it are in the slabs: written by who makes checkpoints (release), read by the keeper (acquire),
     * who then also sees which slabs have been retired meanwhile. */
    _Atomic uint64_t clean;
    uint64_t spilled_all; /* on stable media wherever rings are spilled to */
    pthread_t lines_thread, checkpoint_thread;
    bool started;
    _Atomic bool stop;
    _Atomic bool
        asleep; /* relaxed: set before it sleeps for long; a rouse lost to that is made up for after IDLE_US */
    _Atomic uint32_t calls;   /* counts calls for attention: the futex it sleeps on */
    _Atomic uint32_t checks;  /* the same for who makes checkpoints */
    _Atomic uint32_t rounds;  /* counts rounds done: a futex for those who wait */
    _Atomic uint32_t waiting; /* relaxed: who waits for room or for stable media */
    _Atomic bool has_storage; /* relaxed */
    _Atomic unsigned volumes; /* relaxed: that can still get what is appended */
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

/* ---- lines ----------------------------------------------------------------------------------- */

static bool is_usable(const fp_ring *ring)
{
    return atomic_load_explicit(&ring->speaks, memory_order_acquire) &&
           !atomic_load_explicit(&ring->lost, memory_order_relaxed);
}

/* An owner who was fenced finds out here even if it does nothing. */
static void take_refusal(fp_redo_log *log, int rc)
{
    if (rc == FARPOOL_E_FENCED)
        fp_redo_fail(log, rc);
}

static void doubt(fp_ring *ring)
{
    atomic_store_explicit(&ring->doubted, true, memory_order_relaxed);
}

/* Starts the exchange of lines with one ring: what is to be told, then what is to be learned. Returns how many
 * transfers are under way. */
static unsigned post_lines(fp_keeper *keeper, unsigned index, fp_ring_owner *line)
{
    fp_redo_log *log = keeper->log;
    fp_thread *thread = keeper->thread;
    fp_ring *ring = &log->rings[index];
    fp_net_op ops[3];
    fp_io *ios[3];
    unsigned n = 0;
    int rc = fp_remote_ready(thread, log->partition, ring->node);
    if (rc) {
        doubt(ring);
        take_refusal(log, rc);
        return 0;
    }
    if (ring->told_slabs != log->slabs.version) {
        ios[n] = fp_io_take_ring(thread, index, SLABS);
        ops[n] = fp_ring_slabs_op(log, ring, FP_NET_WRITE, log->slabs.version, ios[n]);
        memcpy(ops[n].sge[0].addr, &log->slabs, sizeof log->slabs); /* the same for each ring */
        n++;
    }
    if (ring->told_durable != get(&log->durable) ||
        ring->told_start != atomic_load_explicit(&log->start, memory_order_relaxed)) {
        ios[n] = fp_io_take_ring(thread, index, OWNER);
        ops[n] = fp_ring_line_op(log, ring, FP_NET_WRITE, FP_RING_OWNER_AT, line, ios[n]);
        n++;
    }
    ios[n] = fp_io_take_ring(thread, index, NODE);
    ops[n] = fp_ring_line_op(log, ring, FP_NET_READ, FP_RING_NODE_AT, NULL, ios[n]);
    n++;
    rc = fp_remote_send(thread, ring->node, ops, n);
    if (rc)
        doubt(ring);
    for (unsigned i = 0; rc && i < n; i++)
        fp_io_put(thread, ios[i]);
    return rc ? 0 : n;
}

/* Which slabs count: told to the rings before the log's beginning moves on. */
static void review_slabs(fp_redo_log *log)
{
    fp_ring_slabs now = log->slabs;
    fp_slab_list(log->partition, &now);
    if (!memcmp(now.boots, log->slabs.boots, sizeof now.boots))
        return;
    now.version++;
    now.trusted_from = get(&log->end);
    fp_ring_slabs_seal(&now);
    log->slabs = now;
}

static void take_node_line(const fp_redo_log *log, fp_ring *ring)
{
    fp_ring_node line;
    memcpy(&line, fp_ring_line(log, ring), sizeof line);
    if (!fp_ring_node_is_valid(&line, log->partition->id))
        return; /* its node spills nowhere, or was about to write it */
    ring->spills = true;
    if (line.volume == ring->volume && line.spilled < ring->spilled)
        return; /* cannot be */
    ring->volume = line.volume;
    ring->spilled = line.spilled;
}

static void exchange_lines(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    fp_thread *thread = keeper->thread;
    fp_ring_owner lines[FP_RINGS_MAX];
    unsigned pending = 0;
    review_slabs(log);
    for (unsigned i = 0; i < log->ring_count; i++)
        if (is_usable(&log->rings[i]))
            pending += post_lines(keeper, i, &lines[i]);
    while (pending) {
        if (!thread->completed)
            fp_remote_poll(thread, 100);
        while (thread->completed) {
            fp_io *io = thread->completed;
            thread->completed = io->next;
            fp_ring *ring = &log->rings[io->ring];
            if (!io->status && io->lsn == OWNER) {
                ring->told_start = lines[io->ring].start;
                ring->told_durable = lines[io->ring].durable;
            } else if (!io->status && io->lsn == SLABS) {
                ring->told_slabs = log->slabs.version;
            } else if (!io->status) {
                take_node_line(log, ring);
            } else {
                doubt(ring);
            }
            fp_io_put(thread, io);
            pending--;
        }
    }
}

/* ---- what follows from them ------------------------------------------------------------------ */

/* What storage_quorum different volumes have. */
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
        if (volumes >= log->storage_quorum && lsn > best)
            best = lsn;
    }
    return best;
}

static void raise_to(_Atomic uint64_t *value, uint64_t to)
{
    if (to > atomic_load_explicit(value, memory_order_relaxed))
        atomic_store_explicit(value, to, memory_order_release);
}

/* The storage node ends below where the log begins: its memory node was not among those that were waited for. Keeping
 * log for it does not help it any more. */
static bool has_gap(const fp_redo_log *log, const fp_ring *ring)
{
    return ring->volume && ring->spilled < atomic_load_explicit(&log->start, memory_order_relaxed);
}

/* How many different volumes the rings that are left are spilled to; one not heard of yet may be another one. */
static unsigned volumes_left(const fp_redo_log *log)
{
    unsigned count = 0;
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        bool counts = ring->spills && !has_gap(log, ring) &&
                      !atomic_load_explicit(&ring->lost, memory_order_relaxed);
        for (unsigned k = 0; k < i && ring->volume; k++)
            counts &= log->rings[k].volume != ring->volume ||
                      atomic_load_explicit(&log->rings[k].lost, memory_order_relaxed);
        count += counts;
    }
    return count;
}

/* Nothing is let go of that a ring's storage node has yet to get, or the storage node would have a gap. */
static void judge_spilled(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    uint64_t all = UINT64_MAX;
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        if (!atomic_load_explicit(&ring->lost, memory_order_relaxed) && ring->spills &&
            ring->spilled < all && !has_gap(log, ring))
            all = ring->spilled;
    }
    atomic_store_explicit(&keeper->has_storage, all != UINT64_MAX, memory_order_relaxed);
    atomic_store_explicit(&keeper->volumes, volumes_left(log), memory_order_relaxed);
    keeper->spilled_all = all == UINT64_MAX ? 0 : all;
    raise_to(&log->stored, stored_lsn(log));
}

/* A checkpoint counts on the slabs that it has written to, so the rings know first which these are. */
static bool slabs_are_told(const fp_redo_log *log)
{
    fp_ring_slabs now = log->slabs;
    fp_slab_list(log->partition, &now);
    bool told = !memcmp(now.boots, log->slabs.boots, sizeof now.boots);
    for (unsigned i = 0; i < log->ring_count; i++)
        told &= !is_usable(&log->rings[i]) || log->rings[i].told_slabs == log->slabs.version;
    return told;
}

static void let_go(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    uint64_t start = get(&keeper->clean);
    start = start < keeper->spilled_all ? start : keeper->spilled_all;
    if (slabs_are_told(log))
        raise_to(&log->start, start);
    uint64_t floor = get(&log->acked_all);
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        if (!atomic_load_explicit(&ring->lost, memory_order_relaxed) && ring->told_start < floor)
            floor = ring->told_start;
    }
    raise_to(&log->floor, floor);
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
        if (is_usable(ring) && (ring->told_durable < end || (ring->spills && ring->spilled < end)))
            return false;
    }
    return get(&log->acked_all) >= end;
}

/* Returns whether there is something to wait for. */
static bool make_round(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    if (atomic_load_explicit(&log->failed, memory_order_acquire))
        return false;
    fp_redo_nudge(log, 0);
    exchange_lines(keeper);
    judge_spilled(keeper);
    let_go(keeper);
    atomic_fetch_add_explicit(&keeper->rounds, 1, memory_order_release);
    if (atomic_load_explicit(&keeper->waiting, memory_order_relaxed))
        fp_futex_wake_all(&keeper->rounds);
    return !is_settled(keeper);
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
    return atomic_load_explicit(&keeper->volumes, memory_order_relaxed) >=
               keeper->log->storage_quorum ||
           atomic_load_explicit(&keeper->rounds, memory_order_acquire) < 2;
}

static int no_storage(const fp_keeper *keeper)
{
    const fp_redo_log *log = keeper->log;
    unsigned left = atomic_load_explicit(&keeper->volumes, memory_order_relaxed);
    if (left)
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
    uint64_t deadline = timeout_ms ? fp_net_now_ns(net) + timeout_ms * 1000000ull : UINT64_MAX;
    for (unsigned rounds = 0; get(&log->stored) < lsn; rounds++) {
        int rc = fp_redo_failure(log);
        if (rc)
            return rc;
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
    keeper->thread = fp_thread_new(log->partition->pool, FP_USE_RING);
    if (!keeper->thread) {
        free(keeper);
        return FARPOOL_E_NOMEM;
    }
    *out = keeper;
    return 0;
}

static int start_threads(fp_keeper *keeper)
{
    int error = pthread_create(&keeper->lines_thread, NULL, keep_lines, keeper);
    if (error)
        return error;
    error = pthread_create(&keeper->checkpoint_thread, NULL, make_checkpoints, keeper);
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
    sigset_t all, before;
    sigfillset(&all);
    int error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!error) {
        error = start_threads(keeper);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
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
        exchange_lines(keeper);
}

void fp_keeper_close(fp_keeper *keeper)
{
    if (!keeper)
        return;
    fp_thread_free(keeper->thread);
    free(keeper);
}
