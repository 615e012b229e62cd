/* SPDX-License-Identifier: Apache-2.0 */
/* A B+-tree in a pool and a memory node of its own, with as much in it as a test wants. Failures end the process. */
#ifndef FP_TESTS_LIB_TESTTREE_H
#define FP_TESTS_LIB_TESTTREE_H

#include <stdbool.h>

#include "tests/lib/testnode.h"

typedef struct test_tree {
    test_node *node;
    farpool_pool *pool;
    farpool_partition *part;
    farpool_pid root;
    farpool_btree *tree;
    farpool_pid taken; /* the last page that test_tree_leave took */
} test_tree;

/* An empty tree over shm. */
void test_tree_open(test_tree *t, enum farpool_mapping mapping, uint64_t pool_bytes,
                    uint64_t slab_bytes);
void test_tree_close(test_tree *t);

/* Another handle of the tree; a latched one takes latches at once, as others do after they were overtaken too
 * often. */
farpool_btree *test_tree_handle(const test_tree *t, bool latched);

/* How many pages of 4 KiB could be allocated now. */
unsigned test_tree_pages_left(test_tree *t);
/* Takes all the memory that is left in the partition but so many pages: who wants more gets E_NOSPACE. */
void test_tree_leave(test_tree *t, unsigned pages);
void test_tree_leave_all(test_tree *t);

#endif
