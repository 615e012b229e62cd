/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Uniform point lookups of 10 million records (8-byte key, 120-byte value), beside LMDB with the same
 * records in the same run, both in memory; then with a pool of a third of the data, where two of three
 * leaves have to come from the memory node.
 */
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/node.h"
#include "common/clock.h"

enum { VALUE_BYTES = 120, ROUNDS = 5 };

static uint64_t record_count = 10000000;
static farpool_btree *tree;
static MDB_env *env;
static MDB_dbi dbi;

/* Keys are spread evenly over 64 bits and in memcmp order; value i begins with i. */
static uint64_t key_of(uint64_t i) { return __builtin_bswap64(i * (UINT64_MAX / record_count)); }

static void value_of(uint64_t i, char *value)
{
    memset(value, (int)(i % 251), VALUE_BYTES);
    memcpy(value, &i, sizeof i);
}

static void lmdb_check(int code, const char *what)
{
    if (!code)
        return;
    fprintf(stderr, "bench: lmdb: %s: %s\n", what, mdb_strerror(code));
    exit(1);
}

static void lmdb_load(const char *directory)
{
    MDB_txn *txn;
    lmdb_check(mdb_env_create(&env), "create");
    lmdb_check(mdb_env_set_mapsize(env, record_count * 256 + (64u << 20)), "map size");
    lmdb_check(mdb_env_open(env, directory, MDB_NOSYNC | MDB_WRITEMAP | MDB_NOTLS, 0600), "open");
    lmdb_check(mdb_txn_begin(env, NULL, 0, &txn), "begin");
    lmdb_check(mdb_dbi_open(txn, NULL, 0, &dbi), "open database");
    for (uint64_t i = 0; i < record_count; i++) {
        uint64_t key = key_of(i);
        char value[VALUE_BYTES];
        value_of(i, value);
        MDB_val k = {sizeof key, &key}, v = {sizeof value, value};
        lmdb_check(mdb_put(txn, dbi, &k, &v, MDB_APPEND), "put");
    }
    lmdb_check(mdb_txn_commit(txn), "commit");
}

static int next_record(void *arg, farpool_slice *key, farpool_slice *value)
{
    static uint64_t k;
    static char v[VALUE_BYTES];
    uint64_t *i = arg;
    if (*i == record_count)
        return 0;
    k = key_of(*i);
    value_of((*i)++, v);
    *key = (farpool_slice){&k, sizeof k};
    *value = (farpool_slice){v, sizeof v};
    return 1;
}

typedef struct worker {
    pthread_t thread;
    pthread_barrier_t *barrier;
    uint64_t seed, count, ns;
    bool lmdb;
} worker;

static void lookup_farpool(uint64_t key, uint64_t i)
{
    char value[VALUE_BYTES];
    size_t len;
    bench_check(
        farpool_btree_lookup(tree, (farpool_slice){&key, sizeof key}, value, sizeof value, &len),
        "lookup");
    if (len != VALUE_BYTES || memcmp(value, &i, sizeof i) != 0)
        bench_check(FARPOOL_E_CORRUPT, "a lookup gave another record");
}

static void lookup_lmdb(MDB_txn *txn, uint64_t key, uint64_t i)
{
    char value[VALUE_BYTES];
    MDB_val k = {sizeof key, &key}, v;
    lmdb_check(mdb_get(txn, dbi, &k, &v), "get");
    memcpy(value, v.mv_data, sizeof value); /* farpool copies too */
    if (v.mv_size != VALUE_BYTES || memcmp(value, &i, sizeof i) != 0)
        bench_check(FARPOOL_E_CORRUPT, "lmdb gave another record");
}

static void *work(void *arg)
{
    worker *w = arg;
    MDB_txn *txn = NULL;
    if (w->lmdb)
        lmdb_check(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "begin reading");
    pthread_barrier_wait(w->barrier);
    uint64_t start = fp_now_ns();
    for (uint64_t n = 0; n < w->count; n++) {
        uint64_t i = bench_random(&w->seed) % record_count;
        if (w->lmdb)
            lookup_lmdb(txn, key_of(i), i);
        else
            lookup_farpool(key_of(i), i);
    }
    w->ns = fp_now_ns() - start;
    if (txn)
        mdb_txn_abort(txn);
    return NULL;
}

/* Lookups per second, all threads together. */
static double run(unsigned threads, bool lmdb, uint64_t count)
{
    static uint64_t seed = 7;
    worker w[2];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, threads);
    double rate = 0;
    for (unsigned t = 0; t < threads; t++) {
        w[t] = (worker){.barrier = &barrier, .seed = seed += 1000003, .count = count, .lmdb = lmdb};
        bench_check(pthread_create(&w[t].thread, NULL, work, &w[t]) ? FARPOOL_E_SYS : 0, "thread");
    }
    for (unsigned t = 0; t < threads; t++) {
        pthread_join(w[t].thread, NULL);
        rate += (double)count * 1e9 / (double)w[t].ns;
    }
    pthread_barrier_destroy(&barrier);
    return rate;
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void in_memory(uint64_t count)
{
    for (unsigned threads = 1; threads <= 2; threads++) {
        double ours[ROUNDS], lmdb[ROUNDS];
        for (unsigned round = 0; round < ROUNDS; round++) {
            lmdb[round] = run(threads, true, count);
            ours[round] = run(threads, false, count);
        }
        qsort(ours, ROUNDS, sizeof *ours, compare_double);
        qsort(lmdb, ROUNDS, sizeof *lmdb, compare_double);
        bench_add("ops/s", ours[ROUNDS / 2], "lookup.mem_ops_t%u", threads);
        bench_add("ops/s", lmdb[ROUNDS / 2], "lookup.mem_lmdb_ops_t%u", threads);
        bench_add("ratio", ours[ROUNDS / 2] / lmdb[ROUNDS / 2], "lookup.mem_ratio_lmdb_t%u",
                  threads);
    }
}

static void out_of_memory(farpool_pool *pool, uint64_t count)
{
    run(2, false, count); /* warm */
    for (unsigned threads = 1; threads <= 2; threads++) {
        double ours[ROUNDS];
        farpool_stats before, after;
        farpool_stats_get(pool, &before);
        for (unsigned round = 0; round < ROUNDS; round++)
            ours[round] = run(threads, false, count);
        farpool_stats_get(pool, &after);
        qsort(ours, ROUNDS, sizeof *ours, compare_double);
        bench_add("ops/s", ours[ROUNDS / 2], "lookup.oom_ops_t%u", threads);
        bench_add("misses/op",
                  (double)(after.misses - before.misses) / (double)(count * ROUNDS * threads),
                  "lookup.oom_misses_per_op_t%u", threads);
    }
}

/* Loads the tree into a pool of the size given and measures. */
static void with_pool(const bench_options *options, const bench_node *node, uint64_t pool_bytes,
                      uint64_t data_bytes, uint64_t count, bool memory)
{
    farpool_pool *pool;
    farpool_partition *partition;
    farpool_pid root;
    uint64_t at = 0;
    bench_pool_open(options, node, pool_bytes, data_bytes, &pool, &partition);
    bench_progress("loading %llu records, pool %llu MiB", (unsigned long long)record_count,
                   (unsigned long long)(pool_bytes >> 20));
    bench_check(farpool_btree_create(partition, &root, &tree), "creating the tree");
    bench_check(farpool_btree_bulk_load(tree, next_record, &at, 100), "loading");
    if (memory)
        in_memory(count);
    else
        out_of_memory(pool, count);
    farpool_btree_close(tree);
    bench_pool_close(pool, partition);
}

int main(int argc, char **argv)
{
    bench_options options;
    bench_parse(argc, argv, "lookup: uniform point lookups, beside LMDB", &options);
    record_count = (uint64_t)(10e6 * options.scale);
    uint64_t data_bytes = record_count * 160 + (64u << 20), count = 2000000;
    char directory[] = "/dev/shm/farpool-bench.XXXXXX";
    if (!mkdtemp(directory)) {
        perror("bench: /dev/shm");
        return 1;
    }
    bench_progress("loading LMDB");
    lmdb_load(directory);
    bench_node node;
    bench_node_start(&node, options.transport, data_bytes + (160u << 20), NULL);
    with_pool(&options, &node, data_bytes, data_bytes, count, true);
    mdb_env_close(env);
    char path[sizeof directory + 16];
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/lock.mdb", directory);
    unlink(path);
    rmdir(directory);
    with_pool(&options, &node, record_count * 130 / 3, data_bytes, count, false);
    bench_node_stop(&node);
    bench_print(&options, "lookup");
    return 0;
}
