/* SPDX-License-Identifier: Apache-2.0 */
/* A memory node in this process, served by a thread of its own: for tests of the pool and the tree. */
#ifndef FP_TESTS_LIB_TESTNODE_H
#define FP_TESTS_LIB_TESTNODE_H

#include <stdbool.h>
#include <stdint.h>

#include "farpool.h"

typedef struct test_node test_node;

/* Serves `bytes` of memory at an address of its own choosing: scheme "shm" or "tcp". Ends the process
 * with a message if that fails. */
test_node *test_node_start(const char *scheme, uint64_t bytes);
/* The same, with log rings that are spilled; NULL: not. The spiller outlives the node, its thread does not. */
struct fp_spill;
test_node *test_node_start_spilling(const char *scheme, uint64_t bytes, struct fp_spill *spill);
/* One that grants only what its duties say. */
test_node *test_node_start_in_cluster(const char *scheme, uint64_t bytes, struct fp_spill *spill);
/* What it serves, standing still until it is let go: to be told duties, and to be asked what it has. */
struct fp_memnode;
struct fp_memnode *test_node_hold(test_node *node);
void test_node_let_go(test_node *node);
const char *test_node_uri(const test_node *node);
/* Stops serving and frees the memory; connections break. */
void test_node_stop(test_node *node);

/* FARPOOL_TEST_SECRET counts for all of these (tests/lib/secret.h). */

/* A pool with one partition on the nodes given. mapping: FARPOOL_MAPPING_*. Ends the process on failure. */
void test_pool_open(test_node *const *nodes, unsigned count, enum farpool_mapping mapping,
                    uint64_t pool_bytes, uint64_t slab_bytes, farpool_pool **pool,
                    farpool_partition **partition);
void test_pool_open_at(const char *const *uris, unsigned count, enum farpool_mapping mapping,
                       uint64_t pool_bytes, uint64_t slab_bytes, farpool_pool **pool,
                       farpool_partition **partition);
/* A pool without partitions. */
farpool_pool *test_pool_new(enum farpool_mapping mapping, uint64_t pool_bytes);
/* A partition on all of the nodes with a log ring on the first `copies` of them; 0: without a log. Returns what
 * farpool_partition_open does. */
int test_partition_open(farpool_pool *pool, const char *const *uris, unsigned count, uint64_t epoch,
                        bool recover, unsigned copies, uint64_t ring_bytes, uint64_t slab_bytes,
                        farpool_partition **partition);
void test_pool_close(farpool_pool *pool, farpool_partition *partition);

/* The number in the environment variable SEED, or the default; printed as "SEED=n". */
uint64_t test_seed(uint64_t otherwise);
uint64_t test_random(uint64_t *state);

#endif
