/* SPDX-License-Identifier: Apache-2.0 */
/* Memory nodes that spill, and storage nodes on volumes beside the build, as processes that a test kills and starts
 * again at their addresses. Memory node i spills to storage node i modulo their number. Storage nodes are each other's peers. Failures end the process. */
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
    unsigned spillers;     /* the memory nodes before it spill */
    const char *file_size; /* of segments and layers; NULL: what storage nodes take by themselves */
    unsigned killed_nodes, killed_storages; /* statistics */
} test_cluster;

void test_cluster_start(test_cluster *c, const char *scheme, unsigned storages,
                        unsigned memory_kib);
/* The same as the cluster says, in which all but processes and volumes is set. */
void test_cluster_start_as_set(test_cluster *c, const char *scheme);
/* Ends all in order and removes the volumes. */
void test_cluster_stop(test_cluster *c);

/* kill -9 */
void test_cluster_kill_node(test_cluster *c, unsigned i);
void test_cluster_kill_storage(test_cluster *c, unsigned i);
void test_cluster_start_node(test_cluster *c, unsigned i); /* again */
void test_cluster_start_storage(test_cluster *c, unsigned i);
void test_cluster_start_all(test_cluster *c); /* that are not running */
/* Starts it so that it dies at a fault point, which is given as common/faultpoint.h says; perhaps before it is ready. */
void test_cluster_doom_node(test_cluster *c, unsigned i, const char *fault);
void test_cluster_doom_storage(test_cluster *c, unsigned i, const char *fault);
/* Whether one so started has died. */
bool test_cluster_node_died(test_cluster *c, unsigned i);
bool test_cluster_storage_died(test_cluster *c, unsigned i);
/* None has ended by itself but by a fault point. */
void test_cluster_look_after(const test_cluster *c);
#endif
