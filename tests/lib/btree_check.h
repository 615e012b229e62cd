/* SPDX-License-Identifier: Apache-2.0 */
/* Walks a whole B+-tree and looks whether its nodes fit together. */
#ifndef FP_TESTS_LIB_BTREE_CHECK_H
#define FP_TESTS_LIB_BTREE_CHECK_H

#include <stdint.h>

#include "farpool.h"

typedef struct test_btree_shape {
    uint64_t records, leaves, inner, overflow_pages;
    uint64_t leaf_bytes_used;
    unsigned height; /* 1: the root is a leaf */
} test_btree_shape;

/* Ends the process with a message if levels, fences, order of keys, prefixes or the accounting of a node's
 * bytes are wrong. Nobody may be changing the tree. */
test_btree_shape test_btree_check(farpool_partition *partition, farpool_pid root);

#endif
