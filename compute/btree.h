/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the B+-tree: finding nodes, changing the tree's structure, values on pages of their own. The
 * protocol is told in btree.c. Uses farpool.h only. */
#ifndef FP_COMPUTE_BTREE_H
#define FP_COMPUTE_BTREE_H

#include "compute/btree_node.h"
#include "farpool.h"

struct farpool_btree { /* immutable after init */
    farpool_partition *partition;
    farpool_pid root;
    unsigned
        tries; /* without latches, before they are taken on the whole way down; tests set it to 0 */
};

/* Where an optimistic descent arrived. */
typedef struct fp_btree_place {
    farpool_pid pid;
    uint64_t version;
    const fp_btree_node *node;
    farpool_pid parent; /* FARPOOL_PID_NONE: pid is the root */
    uint64_t parent_version;
    const fp_btree_node *parent_node;
    int index; /* of the child in the parent */
} fp_btree_place;

/* Nodes that the thread has latched: exclusively by its mini-transaction, which keeps them until its end. */
typedef struct fp_btree_latched {
    farpool_mtr *mtr; /* NULL: nothing is latched exclusively */
    farpool_pid pid;
    fp_btree_node *node;
    enum farpool_latch latch;
    farpool_pid parent; /* FARPOOL_PID_NONE: none is held */
    fp_btree_node *parent_node;
    enum farpool_latch parent_latch;
} fp_btree_latched;

enum { FP_BTREE_TRIES = 12 }; /* unless a test sets another number */

/* Waits a little, longer with every failed try. */
void fp_btree_back_off(unsigned tries);

/* Goes down to the node of the level where the target belongs, without latches, in the caller's section.
 * What is then read of *place is true if its version is. E_RETRY; E_NOTFOUND: the tree is lower. */
int fp_btree_descend(const farpool_btree *tree, const fp_btree_target *target, unsigned level,
                     fp_btree_place *place);

/* The same with latches, parent's before child's: shared, but exclusive on levels up to `exclusive`
 * (-1: none), by the mini-transaction. *held has the node and its parent. E_NOTFOUND: the tree is lower,
 * nothing is held. */
int fp_btree_descend_latched(const farpool_btree *tree, const fp_btree_target *target,
                             unsigned level, int exclusive, farpool_mtr *mtr,
                             fp_btree_latched *held);

/* Lets go of nodes that were not changed. */
void fp_btree_release(const farpool_btree *tree, const fp_btree_latched *held);

/* A mini-transaction that has latched the leaf where key belongs, and with with_parent the node of any
 * level and its parent (if it is not the root). No section may be open. On error there is none.
 * E_NOTFOUND as above. */
int fp_btree_take(const farpool_btree *tree, farpool_slice key, unsigned level, bool with_parent,
                  fp_btree_latched *held);
int fp_btree_begin(const farpool_btree *tree, farpool_mtr **mtr);
int fp_btree_commit(farpool_mtr *mtr);

/* Makes room for `bytes` in the node of the level where key belongs, by splitting it. The node may be
 * another one when this returns. */
int fp_btree_make_room(const farpool_btree *tree, farpool_slice key, unsigned level,
                       unsigned bytes);
/* Merges the leaf where key belongs with a neighbour if both are rather empty, and so on upwards. What
 * cannot be done now is left for the next time. */
void fp_btree_shrink(const farpool_btree *tree, farpool_slice key);

/* E_INVAL, E_TOO_BIG with a sentence for farpool_errmsg. */
int fp_btree_check_key(farpool_slice key);
int fp_btree_check_record(farpool_slice key, farpool_slice value);
/* E_CORRUPT with a sentence: the page is not what the tree says. */
int fp_btree_corrupt(const farpool_btree *tree, farpool_pid pid);

/* Puts a value on a page of its own. */
int fp_btree_overflow_write(farpool_mtr *mtr, farpool_slice value, fp_btree_ref *ref);

#endif
