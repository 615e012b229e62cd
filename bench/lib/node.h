/* SPDX-License-Identifier: Apache-2.0 */
/* Memory and storage node processes of the benchmark's own, and a pool on them. */
#ifndef FP_BENCH_NODE_H
#define FP_BENCH_NODE_H

#include <sys/types.h>

#include "bench/lib/report.h"
#include "farpool.h"

typedef struct bench_node {
    pid_t pid;
    char uri[256];
} bench_node;

/* Starts farpool-memnode with so much memory and waits until it serves. It dies with this process. storage: URI of the
 * storage node to which it spills, or NULL. */
void bench_node_start(bench_node *node, const char *transport, uint64_t bytes, const char *storage);
/* The same with farpool-storagenode, serving that directory. */
void bench_storage_start(bench_node *node, const char *transport, const char *volume);
void bench_node_stop(bench_node *node);
/* CPU time that the node's process has used. */
double bench_node_cpu_seconds(const bench_node *node);
/* What it has had written to disks so far, as the kernel counts it: without a file system's own data. */
uint64_t bench_node_written_bytes(const bench_node *node);
/* Of a storage node: bytes of durable log that are not in layers yet. */
uint64_t bench_node_lag(const bench_node *node);
/* Waits until that has become so little that nothing is made of it (16 MiB). Seconds. */
double bench_node_catch_up(const bench_node *node);
/* The same, and for its having written nothing for a second: merges come after the layers. */
double bench_node_rest(const bench_node *node);

/* A pool and a partition on the node. */
void bench_pool_open(const bench_options *options, const bench_node *node, uint64_t pool_bytes,
                     uint64_t slab_bytes, farpool_pool **pool, farpool_partition **partition);
/* A pool of the default size, and a partition on all the nodes with a log ring on each. Epochs above 1 recover it. */
void bench_log_open(const bench_options *options, const bench_node *nodes, unsigned count,
                    uint64_t epoch, uint64_t slab_bytes, uint64_t ring_bytes, farpool_pool **pool,
                    farpool_partition **partition);
void bench_pool_close(farpool_pool *pool, farpool_partition *partition);

#endif
