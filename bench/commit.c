/* SPDX-License-Identifier: Apache-2.0 */
/*
 * commit: what a commit of 256 bytes to three log rings costs over bare WRITEs of as many bytes to the
 * same three nodes on the same connections, taking turns with them; and what group commit gains.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lib/node.h"
#include "common/clock.h"
#include "common/error.h"
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

static void commit_one(farpool_pid pid, uint64_t number)
{
    farpool_mtr *mtr;
    void *page;
    uint32_t at = (uint32_t)(number % (FARPOOL_UNIT_BYTES / BYTES)) * BYTES;
    bench_check(farpool_mtr_begin(partition, 0, &mtr), "mini-transaction");
    bench_check(farpool_mtr_fix(mtr, pid, &page), "fixing a page");
    memset((char *)page + at, (int)(number >> 4) + 1, BYTES);
    bench_check(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "commit");
}

/* ---- against bare WRITEs --------------------------------------------------------------------- */

/* To the last bytes of the rings [from, to), which the log does not come to here. Until the last is done. */
static uint64_t bare_writes(unsigned from, unsigned to)
{
    fp_redo_log *log = partition->redo;
    uint64_t start = fp_now_ns();
    for (unsigned i = from; i < to; i++) {
        const fp_ring *ring = &log->rings[i];
        fp_net_op op = fp_ring_op(log, ring, FP_NET_WRITE, log->ring_bytes - BYTES, NULL);
        unsigned transport = pool->nodes[ring->node].transport;
        op.sge[0] = (fp_sge){log->mirror.addr, BYTES, log->mrs[transport]};
        bench_check(fp_net_post(log->thread->conns[ring->node], &op, 1), "posting a WRITE");
    }
    for (unsigned done = 0; done < to - from;) {
        fp_net_event events[RINGS];
        int n = fp_net_poll(log->thread->conns[log->rings[0].node]->poller, events, RINGS, 100);
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

/* The third ring's acknowledgement of the commit before is awaited first, so that it is nobody's load. */
static void drain(void)
{
    fp_redo_log *log = partition->redo;
    for (unsigned i = 0; i < RINGS; i++)
        while (log->rings[i].inflight)
            fp_rings_poll(log, 100);
}

static void against_bare_writes(const char *transport, unsigned rounds)
{
    uint64_t *commit = calloc((size_t)rounds * (RINGS + 2), sizeof *commit);
    bench_check(commit ? 0 : FARPOOL_E_NOMEM, "samples");
    uint64_t *together = commit + rounds, *alone = together + rounds;
    for (unsigned i = 0; i < rounds; i++) {
        uint64_t start = fp_now_ns();
        commit_one(pids[i % PAGES], i);
        commit[i] = fp_now_ns() - start;
        drain();
        together[i] = bare_writes(0, RINGS);
        for (unsigned k = 0; k < RINGS; k++)
            alone[k * rounds + i] = bare_writes(k, k + 1);
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
        commit_one(pid, (uint64_t)i);
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
    bench_add("commits", (double)frames * RINGS / (double)batches, "%s.commits_per_batch_32",
              options.transport);
    bench_print(&options, "commit");
    bench_pool_close(pool, partition);
    for (unsigned i = 0; i < RINGS; i++)
        bench_node_stop(&nodes[i]);
    return 0;
}
