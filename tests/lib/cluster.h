/* SPDX-License-Identifier: Apache-2.0 */
/* Memory nodes that spill, and storage nodes on volumes beside the build, as processes that a test kills and starts
 * again at their addresses. Memory node i spills to storage node i modulo their number. Failures end the process. */
#ifndef FP_TESTS_LIB_CLUSTER_H
#define FP_TESTS_LIB_CLUSTER_H

#include <stdbool.h>

#include "tests/lib/process.h"

enum { CLUSTER_NODES = 3, CLUSTER_STORAGES_MAX = 3 };

typedef struct test_cluster {
    test_process nodes[CLUSTER_NODES], storages[CLUSTER_STORAGES_MAX];
    bool node_up[CLUSTER_NODES], storage_up[CLUSTER_STORAGES_MAX];
    char volumes[CLUSTER_STORAGES_MAX][256];
    unsigned storage_count, memory_kib;
    unsigned killed_nodes, killed_storages, copies; /* statistics */
} test_cluster;

void test_cluster_start(test_cluster *c, const char *scheme, unsigned storages,
                        unsigned memory_kib);
/* Ends all in order and removes the volumes. */
void test_cluster_stop(test_cluster *c);

/* kill -9 */
void test_cluster_kill_node(test_cluster *c, unsigned i);
void test_cluster_kill_storage(test_cluster *c, unsigned i);
void test_cluster_start_node(test_cluster *c, unsigned i); /* again */
void test_cluster_start_storage(test_cluster *c, unsigned i);
void test_cluster_start_all(test_cluster *c); /* that are not running */
/* None has ended by itself. */
void test_cluster_look_after(const test_cluster *c);
/* What people have to do for a storage node that nobody spilled to for too long (docs/redo.md, Spilling). */
void test_cluster_copy_volume(test_cluster *c, unsigned from, unsigned to);

#endif
