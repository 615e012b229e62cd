/* SPDX-License-Identifier: Apache-2.0 */
/*
 * convert: whether a storage node makes pages of log as fast as four threads commit it, and what it writes to do so:
 * changes of 256 bytes to pages at random, each commit durable in memory, spilled to a storage node. Looked at ten times
 * a second: log that is not on stable media yet (unspilled), and log there that is not in layers yet (lag). The node
 * converts 16 MiB at a time, so a lag below that is none. Kept up, in the second half of the time: log converted for
 * log made, 1 if the lag does not grow. Write amplification: all that the storage node has written to WAL, layers and
 * manifests when it has become quiet, for each byte of log.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/lib/disk.h"
#include "bench/lib/node.h"
#include "common/clock.h"
#include "compute/redo_log.h"

enum {
    THREADS = 4,
    PAGES = 8192,
    BYTES = 256,
    SECONDS = 10,
    TICK_MS = 100,
    NODE_BYTES = 512 << 20,
    SLAB_BYTES = 128 << 20,
    RING_BYTES = 64 << 20,
};

static bench_node storage, memory;
static farpool_pool *pool;
static farpool_partition *partition;
static farpool_pid pids[PAGES];

static void allocate(void)
{
    enum { TOGETHER = 64 };
    farpool_mtr *mtr;
    void *page;
    for (unsigned i = 0; i < PAGES; i += TOGETHER) {
        bench_check(farpool_mtr_begin(partition, 0, &mtr), "allocating pages");
        for (unsigned k = i; k < i + TOGETHER; k++)
            bench_check(farpool_mtr_alloc(mtr, 0, &pids[k], &page), "allocating a page");
        bench_check(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "allocating pages");
    }
    bench_check(farpool_wait_durable(partition, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
}

/* ---- the commits ----------------------------------------------------------------------------- */

static atomic_bool over;
static _Atomic uint64_t commits;

static void *committer(void *arg)
{
    uint64_t state = (uintptr_t)arg + 1;
    farpool_mtr *mtr;
    void *page;
    while (!atomic_load(&over)) {
        uint64_t draw = bench_random(&state);
        farpool_pid pid = pids[draw % PAGES];
        uint32_t at = (uint32_t)(draw >> 32) % (FARPOOL_UNIT_BYTES - BYTES);
        bench_check(farpool_mtr_begin(partition, 0, &mtr), "mini-transaction");
        bench_check(farpool_mtr_fix_declared(mtr, pid, &page), "fixing a page");
        bench_check(farpool_mtr_declare(mtr, pid, at, BYTES), "declaring a change");
        memset((char *)page + at, (int)(draw >> 20), BYTES);
        bench_check(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "commit");
        atomic_fetch_add(&commits, 1);
    }
    return NULL;
}

/* ---- how far behind -------------------------------------------------------------------------- */

typedef struct sight {
    double seconds;
    uint64_t log, unspilled, lag, commits, written; /* bytes, but commits */
} sight;

static sight look(uint64_t began)
{
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    return (sight){
        .lag = bench_node_lag(&storage),
        .unspilled = stats.redo_unstored,
        .log = atomic_load(&partition->redo->end),
        .commits = atomic_load(&commits),
        .written = bench_node_written_bytes(&storage),
        .seconds = (double)(fp_now_ns() - began) / 1e9,
    };
}

static void tick(void)
{
    struct timespec time = {.tv_nsec = TICK_MS * 1000000};
    nanosleep(&time, NULL);
}

static double mib(uint64_t bytes) { return (double)bytes / (1 << 20); }

/* When the lag has gone and merges, which come after the layers, have ended. */
static sight settle(uint64_t began, double *caught_up)
{
    bench_check(farpool_wait_durable(partition, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
    double stored = look(began).seconds;
    *caught_up = stored + bench_node_rest(&storage);
    return look(began);
}

static double converted(const sight *from, const sight *upto)
{
    return (double)(upto->log - from->log) - (double)(upto->lag + upto->unspilled) +
           (double)(from->lag + from->unspilled);
}

static void stream(double seconds)
{
    pthread_t threads[THREADS];
    uint64_t began = fp_now_ns(), most = 0;
    double caught_up, cpu = bench_node_cpu_seconds(&storage);
    sight first = look(began), half = first, now = first;
    for (uintptr_t i = 0; i < THREADS; i++)
        bench_check(pthread_create(&threads[i], NULL, committer, (void *)i) ? FARPOOL_E_SYS : 0,
                    "thread");
    while (now.seconds < seconds) {
        tick();
        now = look(began);
        most = now.lag > most ? now.lag : most;
        half = now.seconds <= seconds / 2 ? now : half;
    }
    cpu = bench_node_cpu_seconds(&storage) - cpu;
    atomic_store(&over, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    sight end = settle(began, &caught_up);
    double time = now.seconds - first.seconds;
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    bench_add("1/s", (double)(now.commits - first.commits) / time, "convert.commits");
    bench_add("MB/s", (double)(now.log - first.log) / 1e6 / time, "convert.log");
    bench_add("MB/s", converted(&first, &now) / 1e6 / time, "convert.converted");
    bench_add("ratio", converted(&half, &now) / (double)(now.log - half.log),
              "convert.kept_up_second_half");
    bench_add("MiB", mib(most), "convert.lag_most");
    bench_add("MiB", mib(half.lag), "convert.lag_half");
    bench_add("MiB", mib(now.lag), "convert.lag_end");
    bench_add("MiB", mib(now.unspilled), "convert.unspilled_end");
    bench_add("s", caught_up - now.seconds, "convert.catch_up");
    bench_add("s", (double)stats.redo_wait_ns / 1e9 / THREADS, "convert.thread_waited_for_ring");
    bench_add("cores", cpu / time, "convert.storage_cpu");
    bench_add("ratio", (double)(end.written - first.written) / (double)(end.log - first.log),
              "convert.write_amplification");
}

int main(int argc, char **argv)
{
    bench_options options;
    char volume[BENCH_PATH_MAX];
    bench_parse(argc, argv, "convert: whether storage keeps up with four threads that commit",
                &options);
    bench_dir_make(volume, "convert");
    bench_storage_start(&storage, options.transport, volume);
    bench_node_start(&memory, options.transport, NODE_BYTES, storage.uri);
    bench_log_open(&options, &memory, 1, 1, SLAB_BYTES, RING_BYTES, &pool, &partition);
    allocate();
    bench_progress("%.1f s of commits", SECONDS * options.scale);
    stream(SECONDS * options.scale);
    bench_print(&options, "convert");
    bench_pool_close(pool, partition);
    bench_node_stop(&memory);
    bench_node_stop(&storage);
    bench_dir_remove(volume);
    return 0;
}
