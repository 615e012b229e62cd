/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recovery: how long a new owner of a partition takes to open it, to serve its first record and to have redone
 * everything, as its redo log grows. The owner before it is not closed but forgotten, as if it had been killed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lib/node.h"
#include "common/clock.h"
#include "compute/redo_log.h"

enum {
    RINGS = 3,
    VALUE = 120,
    SLAB_BYTES = 192 << 20,
    RING_BYTES = 66 << 20,
    NODE_BYTES = 512 << 20,
    STEPS = 7, /* 1, 2, 4 ... 64 MiB of log */
};

static bench_node nodes[RINGS];
static farpool_pool *pool;
static farpool_partition *partition;
static farpool_btree *tree;
static farpool_pid root;
static uint64_t records;

static void open_owner(const bench_options *options, uint64_t epoch)
{
    bench_log_open(options, nodes, RINGS, epoch, SLAB_BYTES, RING_BYTES, &pool, &partition);
    if (epoch == 1)
        bench_check(farpool_btree_create(partition, &root, &tree), "creating a tree");
    else
        bench_check(farpool_btree_open(partition, root, &tree), "opening the tree");
}

static farpool_slice key_of(uint64_t number, uint64_t *key)
{
    *key = __builtin_bswap64(number * 0x9E3779B97F4A7C15ull);
    return (farpool_slice){key, sizeof *key};
}

static void write_until(uint64_t log_bytes)
{
    char value[VALUE];
    uint64_t key;
    while (atomic_load(&partition->redo->end) < log_bytes) {
        memset(value, (int)records, sizeof value);
        bench_check(
            farpool_btree_put(tree, key_of(records++, &key), (farpool_slice){value, sizeof value}),
            "writing a record");
    }
    bench_check(farpool_wait_durable(partition, UINT64_MAX, FARPOOL_DURABLE_MEMORY), "waiting");
}

static void read_records(uint64_t count)
{
    char value[VALUE];
    size_t len;
    uint64_t key;
    for (uint64_t i = 0; i < count; i++)
        bench_check(farpool_btree_lookup(tree, key_of(i, &key), value, sizeof value, &len),
                    "reading a record");
}

/* One row: how long it takes with so much log. Returns until when the first record was served. */
static double recover(const bench_options *options, uint64_t epoch)
{
    uint64_t log_bytes = atomic_load(&partition->redo->end) - partition->redo->start;
    uint64_t start = fp_now_ns();
    open_owner(options, epoch);
    uint64_t opened = fp_now_ns();
    read_records(1);
    uint64_t first = fp_now_ns();
    read_records(records);
    uint64_t all = fp_now_ns();
    double row[] = {(double)log_bytes / (1 << 20), (double)records, (double)(opened - start) / 1e6,
                    (double)(first - start) / 1e6, (double)(all - start) / 1e6};
    bench_row(row);
    return (double)(first - start) / 1e6;
}

int main(int argc, char **argv)
{
    static const char *const columns[] = {"log_mib",         "records",        "open_ms",
                                          "first_record_ms", "all_records_ms", NULL};
    bench_options options;
    double first = 0;
    bench_parse(argc, argv, "recovery: time to open a partition, by length of its redo log",
                &options);
    bench_columns(columns);
    for (unsigned i = 0; i < RINGS; i++)
        bench_node_start(&nodes[i], options.transport, NODE_BYTES, NULL);
    open_owner(&options, 1);
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t log_bytes = (uint64_t)((1 << 20) * options.scale) << step;
        bench_progress("%.1f MiB of redo", (double)log_bytes / (1 << 20));
        write_until(log_bytes);
        first = recover(&options, step + 2);
    }
    bench_add("ms", first, "recovery.first_record_%g_mib", (1 << (STEPS - 1)) * options.scale);
    bench_print(&options, "recovery");
    bench_pool_close(pool, partition);
    for (unsigned i = 0; i < RINGS; i++)
        bench_node_stop(&nodes[i]);
    return 0;
}
