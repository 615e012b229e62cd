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
    PACE_US = 5000,       /* between rounds while there is something to wait for */
    IDLE_US = 1000000,    /* while there is not: then it looks whether it was fenced */
    PATIENCE_US = 100000, /* of those who wait for it, before they look again */
};

enum { NODE, OWNER, SLABS }; /* what a transfer is about */

/* All is the keeper's (its thread's, or in a simulated world everybody's one after the other), but for atomics. */
struct fp_keeper {
    fp_redo_log *log;
    fp_thread *thread; /* connections */
    fp_checkpoint checkpoint;
    uint64_t clean;       /* all changes before it are in the slabs */
    uint64_t spilled_all; /* on stable media wherever rings are spilled to */
    pthread_t id;
    bool started;
    bool
        checkpointing; /* a step of the checkpoint is under way, which may have to wait for further rounds */
    _Atomic bool stop;
    _Atomic bool
        asleep; /* relaxed: set before it sleeps for long; a rouse lost to that is made up for after IDLE_US */
    _Atomic uint32_t calls;   /* counts calls for attention: the futex it sleeps on */
    _Atomic uint32_t rounds;  /* counts rounds done: a futex for those who wait */
    _Atomic uint32_t waiting; /* relaxed: who waits for room or for stable media */
    _Atomic bool has_storage; /* relaxed */
    _Atomic uint64_t waits, wait_ns, checkpoints; /* statistics, relaxed */
};

/* Whose thread this is. */
static _Thread_local const fp_keeper *own;

static uint64_t get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_acquire);
}

static void call(fp_keeper *keeper)
{
    atomic_fetch_add_explicit(&keeper->calls, 1, memory_order_release);
    fp_futex_wake_all(&keeper->calls);
}

void fp_keeper_rouse(fp_keeper *keeper)
{
    if (!keeper || !atomic_load_explicit(&keeper->asleep, memory_order_relaxed))
        return;
    atomic_store_explicit(&keeper->asleep, false, memory_order_relaxed);
    call(keeper);
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
    if (rc == FARPOOL_E_FENCED && !fp_redo_failure(log))
        fp_redo_fail(log, rc);
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
    ring->doubted |= rc != 0;
    if (rc) {
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
    for (unsigned i = 0; rc && i < n; i++)
        fp_io_put(thread, ios[i]);
    ring->doubted |= rc != 0;
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
            ring->doubted |= io->status != 0;
            if (!io->status && io->lsn == OWNER) {
                ring->told_start = lines[io->ring].start;
                ring->told_durable = lines[io->ring].durable;
            } else if (!io->status && io->lsn == SLABS) {
                ring->told_slabs = log->slabs.version;
            } else if (!io->status) {
                take_node_line(log, ring);
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
    uint64_t start = keeper->clean < keeper->spilled_all ? keeper->clean : keeper->spilled_all;
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
    return get(&log->end) - keeper->clean > log->ring_bytes / 4;
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

/* Whether there is more to do. A page that is recovered for it may have to come from a storage node, as of what is not
 * on stable media yet: then rounds go on below it, without the checkpoint. */
static bool step_checkpoint(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    if (keeper->checkpointing)
        return true;
    if (!keeper->checkpoint.running && fp_keeper_has_storage(keeper) && wants_checkpoint(keeper))
        fp_checkpoint_begin(&keeper->checkpoint, log->partition);
    if (!keeper->checkpoint.running)
        return false;
    keeper->checkpointing = true;
    bool busy = fp_checkpoint_step(&keeper->checkpoint, log->partition);
    keeper->checkpointing = false;
    if (!keeper->checkpoint.running) {
        keeper->clean = keeper->checkpoint.lsn;
        atomic_fetch_add_explicit(&keeper->checkpoints, 1, memory_order_relaxed);
    }
    return busy;
}

bool fp_keeper_step(fp_keeper *keeper)
{
    fp_redo_log *log = keeper->log;
    if (atomic_load_explicit(&log->failed, memory_order_acquire))
        return false;
    fp_redo_nudge(log);
    exchange_lines(keeper);
    judge_spilled(keeper);
    bool busy = step_checkpoint(keeper);
    let_go(keeper);
    atomic_fetch_add_explicit(&keeper->rounds, 1, memory_order_release);
    if (atomic_load_explicit(&keeper->waiting, memory_order_relaxed))
        fp_futex_wake_all(&keeper->rounds);
    return busy || !is_settled(keeper);
}

static void *keep(void *arg)
{
    fp_keeper *keeper = arg;
    own = keeper;
    while (!atomic_load_explicit(&keeper->stop, memory_order_acquire)) {
        uint32_t calls = atomic_load_explicit(&keeper->calls, memory_order_acquire);
        bool more = fp_keeper_step(keeper);
        if (!more)
            atomic_store_explicit(&keeper->asleep, true, memory_order_relaxed);
        fp_futex_wait(&keeper->calls, calls, more ? PACE_US : IDLE_US);
        atomic_store_explicit(&keeper->asleep, false, memory_order_relaxed);
    }
    return NULL;
}

/* ---- waiting for it -------------------------------------------------------------------------- */

static void wait_round(fp_keeper *keeper)
{
    if (!keeper->started ||
        own == keeper) { /* not in a thread of its own; or a checkpoint's fault */
        fp_keeper_step(keeper);
        fp_remote_poll(keeper->thread, 1);
        return;
    }
    uint32_t round = atomic_load_explicit(&keeper->rounds, memory_order_acquire);
    atomic_fetch_add_explicit(&keeper->waiting, 1, memory_order_relaxed);
    call(keeper);
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
    int rc = 0;
    while (!rc && !has_room(log) && may_help(keeper)) {
        wait_round(keeper);
        rc = fp_redo_failure(log);
    }
    atomic_fetch_add_explicit(&keeper->waits, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&keeper->wait_ns, fp_net_now_ns(net) - begin, memory_order_relaxed);
    return rc;
}

static int no_storage(const fp_redo_log *log)
{
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
        if (rounds > 1 && !may_help(keeper))
            return no_storage(log);
        if (fp_net_now_ns(net) > deadline)
            return fp_error(FARPOOL_E_TIMEOUT,
                            "partition %llu: the log from LSN %llu to %llu was not on stable media "
                            "within %u ms",
                            (unsigned long long)log->partition->id,
                            (unsigned long long)get(&log->stored), (unsigned long long)lsn,
                            timeout_ms);
        wait_round(keeper);
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
    keeper->clean = log->first;
    keeper->thread = fp_thread_new(log->partition->pool, FP_USE_RING);
    if (!keeper->thread) {
        free(keeper);
        return FARPOOL_E_NOMEM;
    }
    *out = keeper;
    return 0;
}

int fp_keeper_start(fp_keeper *keeper)
{
    if (keeper->log->partition->pool->net_options.world)
        return 0;
    sigset_t all, before;
    sigfillset(&all);
    int error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!error) {
        error = pthread_create(&keeper->id, NULL, keep, keeper);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (error)
        return fp_error(FARPOOL_E_SYS, "partition %llu: starting the thread that keeps its log: %s",
                        (unsigned long long)keeper->log->partition->id, strerror(error));
    keeper->started = true;
    return 0;
}

void fp_keeper_stop(fp_keeper *keeper)
{
    if (keeper->started) {
        atomic_store_explicit(&keeper->stop, true, memory_order_release);
        call(keeper);
        pthread_join(keeper->id, NULL);
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
