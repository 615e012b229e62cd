/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a page fault costs over what the transport itself costs.
 *
 * Latency and bandwidth are compared with bare READs of 4 KiB which this process posts on the same
 * connection in the same run; for shm, cost per miss is also compared with a plain memcpy between memory
 * of the same kind, by one and by two threads. Every page of a shuffled list is faulted in turn; the list
 * is so much longer than the pool that each one is a miss and evicts another page.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lib/node.h"
#include "bench/lib/perftest.h"
#include "common/clock.h"
#include "common/crc.h"
#include "common/mem.h"
#include "compute/pool.h"
#include "compute/slab.h"
#include "compute/thread.h"

enum { ROUNDS = 20, DEPTH = 32, STEP = 8 };

static farpool_pool *pool;
static farpool_partition *partition;
static farpool_pid *pids;
static size_t page_count;

static void fill(void)
{
    pids = malloc(page_count * sizeof *pids);
    bench_check(pids ? 0 : FARPOOL_E_NOMEM, "list of pages");
    for (size_t i = 0; i < page_count; i++) {
        void *page;
        bench_check(farpool_page_alloc(partition, 0, &pids[i], &page), "allocating a page");
        memset(page, (int)i, FARPOOL_UNIT_BYTES);
        farpool_unfix(partition, pids[i], FARPOOL_EXCLUSIVE);
    }
    /* Clean copies of all of them, so that later evictions only drop: read everything once. */
    uint64_t seed = 42;
    for (size_t i = page_count - 1; i > 0; i--) {
        size_t k = bench_random(&seed) % (i + 1);
        farpool_pid swap = pids[i];
        pids[i] = pids[k];
        pids[k] = swap;
    }
    for (size_t i = 0; i < page_count; i++) {
        void *page;
        bench_check(farpool_fix(partition, pids[i], FARPOOL_SHARED, &page), "reading a page");
        farpool_unfix(partition, pids[i], FARPOOL_SHARED);
    }
}

static void fault_one(size_t i)
{
    void *page;
    bench_check(farpool_fix(partition, pids[i % page_count], FARPOOL_SHARED, &page), "faulting");
    farpool_unfix(partition, pids[i % page_count], FARPOOL_SHARED);
}

/* ---- against bare READs on the same connection ----------------------------------------------- */

/* A bare READ of page i's 4 KiB, without its header, into scratch. */
static fp_net_op bare_op(size_t i, fp_mem *scratch, fp_mr *mr, unsigned place, fp_conn **conn)
{
    fp_thread *thread = fp_thread_get(pool);
    uint32_t slot = atomic_load(&partition->entries[pids[i % page_count]].slot);
    const fp_extent *extent = fp_slot_extent(partition, fp_node_set_now(partition), slot);
    uint64_t unit = slot & ((1u << partition->extent_shift) - 1);
    *conn = thread->conns[extent->node];
    fp_net_op op = {.kind = FP_NET_READ, .sge_count = 1, .remote_key = extent->key};
    op.remote_addr = extent->addr + unit * FP_SLOT_UNIT_BYTES + FP_SLOT_HEADER_BYTES;
    op.sge[0] =
        (fp_sge){(char *)scratch->addr + place * FARPOOL_UNIT_BYTES, FARPOOL_UNIT_BYTES, mr};
    return op;
}

static int reap(fp_conn *conn, int timeout_ms)
{
    fp_net_event events[DEPTH];
    int n = fp_net_poll(conn->poller, events, DEPTH, timeout_ms);
    for (int e = 0; e < n; e++)
        if (events[e].status)
            bench_check(events[e].status, fp_net_conn_reason(conn));
    return n < 0 ? 0 : n;
}

static uint64_t bare_latency(size_t i, fp_mem *scratch, fp_mr *mr)
{
    fp_conn *conn;
    fp_net_op op = bare_op(i, scratch, mr, 0, &conn);
    uint64_t start = fp_now_ns();
    bench_check(fp_net_post(conn, &op, 1), "posting a bare READ");
    while (!reap(conn, 100))
        ;
    return fp_now_ns() - start;
}

static double bare_bandwidth(size_t from, size_t count, fp_mem *scratch, fp_mr *mr)
{
    fp_conn *conn = NULL;
    size_t posted = 0, done = 0;
    uint64_t start = fp_now_ns();
    while (done < count) {
        fp_net_op ops[STEP];
        while (posted < count && posted - done + STEP <= DEPTH) {
            for (unsigned k = 0; k < STEP; k++)
                ops[k] =
                    bare_op(from + posted + k, scratch, mr, (unsigned)(posted + k) % DEPTH, &conn);
            bench_check(fp_net_post(conn, ops, STEP), "posting bare READs");
            posted += STEP;
        }
        done += (size_t)reap(conn, 100);
    }
    return (double)count * FARPOOL_UNIT_BYTES / (double)(fp_now_ns() - start) * 1000;
}

static double fault_bandwidth(size_t from, size_t count)
{
    farpool_pid next[DEPTH];
    uint64_t start = fp_now_ns();
    size_t asked = 0;
    for (size_t i = 0; i < count; i++) {
        while (asked < count && asked - i + STEP <= DEPTH) {
            for (unsigned k = 0; k < STEP; k++)
                next[k] = pids[(from + asked + k) % page_count];
            farpool_prefetch(partition, next, STEP);
            asked += STEP;
        }
        fault_one(from + i);
    }
    return (double)count * FARPOOL_UNIT_BYTES / (double)(fp_now_ns() - start) * 1000;
}

static double median(uint64_t *samples, size_t n)
{
    qsort(samples, n, sizeof *samples, bench_compare_u64);
    return (double)samples[n / 2];
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void against_bare_reads(const bench_options *options, size_t per_round)
{
    fp_mem scratch;
    fp_mr *mr;
    bench_check(fp_mem_open((size_t)DEPTH * FARPOOL_UNIT_BYTES, FP_MEM_POPULATE, -1, &scratch),
                "scratch memory");
    bench_check(fp_net_register(pool->transports[0].net, &scratch, FP_NET_LOCAL, &mr),
                "registering scratch memory");
    size_t n = 0, at = 0, total = ROUNDS * per_round;
    uint64_t *bare = calloc(3 * total, sizeof *bare), *fault = bare + total, *sum = fault + total;
    bench_check(bare ? 0 : FARPOOL_E_NOMEM, "samples");
    double bare_bw[ROUNDS], fault_bw[ROUNDS];
    /* Bare and fault take turns, so that both see the same machine. */
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < per_round; i++, n++) {
            bare[n] = bare_latency(at++, &scratch, mr);
            uint64_t start = fp_now_ns();
            fault_one(at++);
            fault[n] = fp_now_ns() - start;
            start = fp_now_ns();
            *(volatile uint32_t *)scratch.addr = fp_crc32c(0, scratch.addr, FARPOOL_UNIT_BYTES);
            sum[n] = fp_now_ns() - start;
        }
        size_t count = per_round / STEP * STEP;
        bare_bw[round] = bare_bandwidth(at, count, &scratch, mr);
        at += count;
        fault_bw[round] = fault_bandwidth(at, count);
        at += count;
    }
    const char *t = options->transport;
    double p50_bare = median(bare, n), p50_fault = median(fault, n), p50_sum = median(sum, n);
    qsort(bare_bw, ROUNDS, sizeof *bare_bw, compare_double);
    qsort(fault_bw, ROUNDS, sizeof *fault_bw, compare_double);
    bench_add("us", p50_bare / 1000, "%s.bare_read_p50", t);
    bench_add("us", p50_fault / 1000, "%s.fault_p50", t);
    bench_add("us", p50_sum / 1000, "%s.checksum_p50", t);
    bench_add("ratio", (p50_fault - p50_sum) / p50_bare, "%s.fault_p50_ratio", t);
    bench_add("ratio", p50_fault / p50_bare, "%s.fault_p50_ratio_with_checksum", t);
    bench_add("MB/s", bare_bw[ROUNDS / 2], "%s.bare_bw_qd32", t);
    bench_add("MB/s", fault_bw[ROUNDS / 2], "%s.fault_bw_qd32", t);
    double page_us = FARPOOL_UNIT_BYTES / fault_bw[ROUNDS / 2];
    bench_add("ratio", FARPOOL_UNIT_BYTES / (page_us - p50_sum / 1000) / bare_bw[ROUNDS / 2],
              "%s.fault_bw_ratio_qd32", t);
    bench_add("ratio", fault_bw[ROUNDS / 2] / bare_bw[ROUNDS / 2],
              "%s.fault_bw_ratio_qd32_with_checksum", t);
    fp_net_unregister(mr);
    fp_mem_close(&scratch);
    free(bare);
}

/* ---- shm: against memcpy, by one and two threads --------------------------------------------- */

typedef struct worker {
    pthread_t thread;
    pthread_barrier_t *barrier;
    fp_mem *from, *to; /* for memcpy */
    size_t first, count;
    uint64_t ns;
    bool copy;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    size_t pages_from = w->from->len / FP_SLOT_UNIT_BYTES, pages_to = w->to->len / 4096;
    uint64_t seed = w->first + 1;
    pthread_barrier_wait(w->barrier);
    uint64_t start = fp_now_ns();
    for (size_t i = 0; i < w->count; i++) {
        if (!w->copy) {
            fault_one(w->first + i);
            continue;
        }
        char *from = (char *)w->from->addr + bench_random(&seed) % pages_from * FP_SLOT_UNIT_BYTES +
                     FP_SLOT_HEADER_BYTES;
        memcpy((char *)w->to->addr + (w->first + i) % pages_to * 4096, from, 4096);
    }
    w->ns = fp_now_ns() - start;
    return NULL;
}

static double run_workers(unsigned threads, bool copy, size_t count, size_t *at, fp_mem *from,
                          fp_mem *to)
{
    worker w[2];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, threads);
    double ns = 0;
    for (unsigned i = 0; i < threads; i++) {
        w[i] = (worker){.barrier = &barrier, .from = from, .to = to, .count = count, .copy = copy};
        w[i].first = *at;
        *at += count;
        bench_check(pthread_create(&w[i].thread, NULL, work, &w[i]) ? FARPOOL_E_SYS : 0, "thread");
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(w[i].thread, NULL);
        ns += (double)w[i].ns / (double)count / threads;
    }
    pthread_barrier_destroy(&barrier);
    return ns;
}

static void against_memcpy(const bench_options *options, uint64_t slab_bytes, uint64_t pool_bytes)
{
    fp_mem from, to;
    bench_check(fp_mem_open(slab_bytes, FP_MEM_SHARED | FP_MEM_POPULATE, -1, &from), "source");
    bench_check(fp_mem_open(pool_bytes, FP_MEM_POPULATE, -1, &to), "target");
    size_t at = 0, count = page_count / 4;
    for (unsigned threads = 1; threads <= 2; threads++) {
        double copy[ROUNDS], miss[ROUNDS];
        for (unsigned round = 0; round < ROUNDS; round++) {
            copy[round] = run_workers(threads, true, count, &at, &from, &to);
            miss[round] = run_workers(threads, false, count, &at, &from, &to);
        }
        qsort(copy, ROUNDS, sizeof *copy, compare_double);
        qsort(miss, ROUNDS, sizeof *miss, compare_double);
        const char *t = options->transport, *m = options->mapping;
        bench_add("ns", copy[ROUNDS / 2], "%s.%s.copy_ns_t%u", t, m, threads);
        bench_add("ns", miss[ROUNDS / 2], "%s.%s.miss_ns_t%u", t, m, threads);
        bench_add("ns", miss[ROUNDS / 2] - copy[ROUNDS / 2], "%s.%s.miss_overhead_ns_t%u", t, m,
                  threads);
    }
    fp_mem_close(&from);
    fp_mem_close(&to);
}

int main(int argc, char **argv)
{
    bench_options options;
    bench_parse(argc, argv, "fault: cost of a page fault over the bare transport", &options);
    bool shm = !strcmp(options.transport, "shm");
    uint64_t slab = (uint64_t)((shm ? 1024.0 : 64.0) * 1048576 * options.scale);
    uint64_t pool_bytes = slab / 32 < 2 << 20 ? 2 << 20 : slab / 32;
    bench_node node;
    bench_progress("memory node with %llu MiB", (unsigned long long)(slab >> 20));
    bench_node_start(&node, options.transport, slab + slab / 2, NULL); /* whole extents */
    bench_pool_open(&options, &node, pool_bytes, slab, &pool, &partition);
    page_count = slab / FP_SLOT_UNIT_BYTES - 1024;
    bench_progress("%zu pages, pool of %llu", page_count,
                   (unsigned long long)(pool_bytes / FARPOOL_UNIT_BYTES));
    fill();
    double cpu = bench_node_cpu_seconds(&node);
    farpool_stats before, after;
    farpool_stats_get(pool, &before);
    against_bare_reads(&options, shm ? 2000 : 100);
    if (shm)
        against_memcpy(&options, slab, pool_bytes);
    farpool_stats_get(pool, &after);
    bench_add("pages",
              (double)(after.misses + after.prefetched - before.misses - before.prefetched),
              "%s.pages_faulted", options.transport);
    bench_add("s", bench_node_cpu_seconds(&node) - cpu, "%s.memnode_cpu", options.transport);
    bench_add("bytes", (double)after.metadata_bytes / (double)page_count,
              "pool.metadata_bytes_per_page");
    bench_pool_close(pool, partition);
    bench_node_stop(&node);
    if (!strcmp(options.transport, "verbs"))
        bench_perftest(node.uri);
    free(pids);
    bench_print(&options, "fault");
    return 0;
}
