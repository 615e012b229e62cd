/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit: what a commit of 256 bytes to three log rings costs over bare WRITEs of as many bytes to the
 * same three nodes on the same connections, taking turns with them; and what group commit gains.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lib/node.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/futex.h"
#include "compute/redo_log.h"

enum {
    RINGS = 3,
    BYTES = 256,
    ROUNDS = 4000,
    COMMITTERS = 32,
    GROUP_COMMITS = 20000, /* by one, and by all together */
    PAGES = 64,
    NODE_BYTES = 256 << 20,
    RING_BYTES = 64 << 20,
};

static bench_node nodes[RINGS];
static farpool_pool *pool;
static farpool_partition *partition;
static farpool_pid pids[PAGES];

static void open_all(const bench_options *options)
{
    for (unsigned i = 0; i < RINGS; i++)
        bench_node_start(&nodes[i], options->transport, NODE_BYTES, NULL);
    bench_log_open(options, nodes, RINGS, 1, 48 << 20, RING_BYTES, &pool, &partition);
    farpool_mtr *mtr;
    void *page;
    bench_check(farpool_mtr_begin(partition, 0, &mtr), "allocating pages");
    for (unsigned i = 0; i < PAGES; i++)
        bench_check(farpool_mtr_alloc(mtr, 0, &pids[i], &page), "allocating a page");
    bench_check(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "allocating pages");
}

/* declared: the changed bytes are given by the caller, else the library finds them, which takes a copy of the page. */
static uint64_t commit_one(farpool_pid pid, uint64_t number, enum farpool_durability durability,
                           bool declared)
{
    farpool_mtr *mtr;
    void *page;
    uint64_t lsn;
    uint32_t at = (uint32_t)(number % (FARPOOL_UNIT_BYTES / BYTES)) * BYTES;
    bench_check(farpool_mtr_begin(partition, 0, &mtr), "mini-transaction");
    bench_check(declared ? farpool_mtr_fix_declared(mtr, pid, &page)
                         : farpool_mtr_fix(mtr, pid, &page),
                "fixing a page");
    if (declared)
        bench_check(farpool_mtr_declare(mtr, pid, at, BYTES), "declaring a change");
    memset((char *)page + at, (int)(number >> 4) + 1, BYTES);
    bench_check(farpool_mtr_commit(mtr, durability, &lsn), "commit");
    return lsn;
}

/* ---- against bare WRITEs --------------------------------------------------------------------- */

/* To the last bytes of the rings [from, to), which the log does not come to here. Until the last is done. */
static uint64_t bare_writes(unsigned from, unsigned to, uint32_t bytes)
{
    fp_redo_log *log = partition->redo;
    uint64_t start = fp_now_ns();
    for (unsigned i = from; i < to; i++) {
        const fp_ring *ring = &log->rings[i];
        fp_net_op op = fp_ring_op(log, ring, FP_NET_WRITE, log->ring_bytes - bytes, NULL);
        unsigned transport = pool->nodes[ring->at.node].transport;
        op.sge[0] = (fp_sge){log->mirror.addr, bytes, log->mrs[transport]};
        bench_check(fp_net_post(log->thread->conns[ring->at.node], &op, 1), "posting a WRITE");
    }
    for (unsigned done = 0; done < to - from;) {
        fp_net_event events[RINGS];
        int n = fp_net_poll(log->thread->conns[log->rings[0].at.node]->poller, events, RINGS, 100);
        bench_check(n < 0 ? n : 0, "polling");
        for (int e = 0; e < n; e++)
            bench_check(events[e].status, "a bare WRITE");
        done += (unsigned)n;
    }
    return fp_now_ns() - start;
}

static double median_us(uint64_t *samples, size_t n)
{
    qsort(samples, n, sizeof *samples, bench_compare_u64);
    return (double)samples[n / 2] / 1000;
}

/* From now on the rings' connections are ours alone, as a flusher's: the keeper would take our completions. The third
 * ring's acknowledgement of the commit before is awaited, so that it is nobody's load. */
static void take_rings(void)
{
    fp_redo_log *log = partition->redo;
    uint32_t nobody = 0;
    while (!atomic_compare_exchange_weak(&log->flushing, &nobody, 1)) {
        nobody = 0;
        sched_yield();
    }
    for (unsigned i = 0; i < RINGS; i++)
        while (log->rings[i].inflight)
            fp_rings_poll(log, 100);
}

static void leave_rings(void) { atomic_store(&partition->redo->flushing, 0); }

static void against_bare_writes(const char *transport, unsigned rounds)
{
    uint64_t *commit = calloc((size_t)rounds * (RINGS + 2), sizeof *commit);
    bench_check(commit ? 0 : FARPOOL_E_NOMEM, "samples");
    uint64_t *together = commit + rounds, *alone = together + rounds;
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t start = fp_now_ns();
        commit_one(pids[i % PAGES], i, FARPOOL_DURABLE_MEMORY, false);
        commit[i] = fp_now_ns() - start;
        take_rings();
        together[i] = bare_writes(0, RINGS, BYTES);
        for (unsigned k = 0; k < RINGS; k++)
            alone[k * rounds + i] = bare_writes(k, k + 1, BYTES);
        leave_rings();
    }
    double p50 = median_us(commit, rounds), p50_together = median_us(together, rounds), slowest = 0;
    for (unsigned k = 0; k < RINGS; k++) {
        double one = median_us(alone + (size_t)k * rounds, rounds);
        slowest = one > slowest ? one : slowest;
    }
    bench_add("us", p50, "%s.commit_p50", transport);
    bench_add("us", slowest, "%s.bare_write_p50", transport);
    bench_add("us", p50_together, "%s.three_bare_writes_p50", transport);
    bench_add("ratio", p50 / p50_together, "commit.p50_ratio");
    bench_add("ratio", p50 / slowest, "commit.p50_ratio_to_one_write");
    free(commit);
}

/* ---- group commit ---------------------------------------------------------------------------- */

static _Atomic int64_t left;

static void *committer(void *arg)
{
    farpool_pid pid = *(const farpool_pid *)arg;
    for (int64_t i; (i = atomic_fetch_sub(&left, 1)) > 0;)
        commit_one(pid, (uint64_t)i, FARPOOL_DURABLE_MEMORY, true);
    return NULL;
}

static double commits_per_second(unsigned threads, unsigned count)
{
    pthread_t ids[COMMITTERS];
    atomic_store(&left, count);
    uint64_t start = fp_now_ns();
    for (unsigned i = 0; i < threads; i++)
        bench_check(pthread_create(&ids[i], NULL, committer, &pids[i]) ? FARPOOL_E_SYS : 0,
                    "thread");
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    return count / ((double)(fp_now_ns() - start) / 1e9);
}

/* How many commits a second there could be if WRITEs of 32 frames each were all that takes time. */
static double writes_per_second(unsigned rounds)
{
    enum { FRAME = BYTES + 40 + 16 }; /* its headers: docs/redo.md */
    uint64_t *samples = calloc(rounds, sizeof *samples);
    bench_check(samples ? 0 : FARPOOL_E_NOMEM, "samples");
    take_rings();
    for (unsigned i = 0; i < rounds; i++)
        samples[i] = bare_writes(0, RINGS, COMMITTERS * FRAME);
    leave_rings();
    double us = median_us(samples, rounds);
    free(samples);
    return COMMITTERS / (us / 1e6);
}

/* As many committers, but not threads: one thread goes on with another one's work while a commit is on its way, as a
 * DBMS with an asynchronous commit does. Each waits for its commit before it begins the next. */
static double commits_per_second_async(unsigned count)
{
    uint64_t lsns[COMMITTERS] = {0}, start = fp_now_ns();
    for (unsigned i = 0; i < count; i++) {
        uint64_t *lsn = &lsns[i % COMMITTERS];
        bench_check(farpool_wait_durable(partition, *lsn, FARPOOL_DURABLE_MEMORY), "waiting");
        *lsn = commit_one(pids[i % COMMITTERS], i / COMMITTERS, FARPOOL_DURABLE_LATER, true);
    }
    bench_check(farpool_wait_durable(partition, UINT64_MAX, FARPOOL_DURABLE_MEMORY), "waiting");
    return count / ((double)(fp_now_ns() - start) / 1e9);
}

/* ---- threads, without commits ---------------------------------------------------------------- */

static _Atomic uint32_t round_number, arrived;

static void *sleeper(void *arg)
{
    for (uint32_t round = 0; round < *(const uint32_t *)arg; round++) {
        atomic_fetch_add(&arrived, 1);
        while (atomic_load(&round_number) == round)
            fp_futex_wait(&round_number, round, 0);
    }
    return NULL;
}

/* How often a second one of 31 threads can be put to sleep and woken here: what no 32 threads whose commits share their
 * WRITEs can exceed by more than a 32nd. */
static double wakes_per_second(uint32_t rounds)
{
    pthread_t ids[COMMITTERS - 1];
    for (unsigned i = 0; i < COMMITTERS - 1; i++)
        bench_check(pthread_create(&ids[i], NULL, sleeper, &rounds) ? FARPOOL_E_SYS : 0, "thread");
    uint64_t start = fp_now_ns();
    for (uint32_t round = 0; round < rounds; round++) {
        while (atomic_load(&arrived) < (round + 1) * (COMMITTERS - 1))
            sched_yield();
        atomic_store(&round_number, round + 1);
        fp_futex_wake_all(&round_number);
    }
    uint64_t ns = fp_now_ns() - start;
    for (unsigned i = 0; i < COMMITTERS - 1; i++)
        pthread_join(ids[i], NULL);
    return rounds * (COMMITTERS - 1) / ((double)ns / 1e9);
}

int main(int argc, char **argv)
{
    bench_options options;
    bench_parse(argc, argv, "commit: mini-transactions to three log rings over bare WRITEs",
                &options);
    open_all(&options);
    bench_progress("%d commits of %d bytes, and as many bare WRITEs", ROUNDS, BYTES);
    against_bare_writes(options.transport, (unsigned)(ROUNDS * options.scale) + 10);
    unsigned count = (unsigned)(GROUP_COMMITS * options.scale) + COMMITTERS;
    bench_progress("%u commits by one, then by %d threads", count, COMMITTERS);
    double one = commits_per_second(1, count);
    uint64_t frames = atomic_load(&partition->redo->frames);
    uint64_t batches = atomic_load(&partition->redo->batches);
    double all = commits_per_second(COMMITTERS, count);
    frames = atomic_load(&partition->redo->frames) - frames;
    batches = atomic_load(&partition->redo->batches) - batches;
    bench_add("1/s", one, "%s.commits_1", options.transport);
    bench_add("1/s", all, "%s.commits_32", options.transport);
    bench_add("ratio", all / one, "commit.group32_ratio");
    double async = commits_per_second_async(count);
    double wakes = wakes_per_second(count / COMMITTERS);
    bench_add("1/s", async, "%s.commits_async_32", options.transport);
    bench_add("ratio", async / one, "commit.async32_ratio");
    double writes = writes_per_second(count / COMMITTERS);
    bench_add("1/s", writes, "%s.commits_by_bare_writes_of_32", options.transport);
    bench_add("ratio", writes / one, "commit.bare_writes_32_ratio");
    bench_add("1/s", wakes, "%s.thread_wakes_31", options.transport);
    bench_add("ratio", wakes / one, "commit.thread_wakes_ratio");
    bench_add("commits", (double)frames * RINGS / (double)batches, "%s.commits_per_batch_32",
              options.transport);
    bench_print(&options, "commit");
    bench_pool_close(pool, partition);
    for (unsigned i = 0; i < RINGS; i++)
        bench_node_stop(&nodes[i]);
    return 0;
}
