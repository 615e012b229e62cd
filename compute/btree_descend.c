/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ways down the tree. Optimistically: a child's pid is followed after the parent's version was found
 * unchanged, and the parent is looked at once more when the child's version is known, so that at this
 * moment the child was the right one. With latches (coupling), for those who were overtaken too often.
 */
#include "compute/btree.h"

#include <sched.h>

void fp_btree_back_off(unsigned tries)
{
    if (tries > 4) {
        sched_yield();
        return;
    }
    for (unsigned i = 0; i < 16u << tries; i++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#else
        __asm__ volatile("" ::: "memory");
#endif
    }
}

static void fetch_leaf_lines(const fp_btree_node *leaf)
{
    for (unsigned line = 0; line < 5; line++)
        __builtin_prefetch((const uint8_t *)leaf + 64 * line);
}

/* The page is not what the tree says: a fault, if what the tree says is true. */
static int corrupt_unless_overtaken(const farpool_btree *tree, farpool_pid pid, uint64_t version)
{
    return farpool_read_check(tree->partition, pid, version) ? FARPOOL_E_RETRY
                                                             : fp_btree_corrupt(tree, pid);
}

int fp_btree_descend(const farpool_btree *tree, const fp_btree_target *target, unsigned level,
                     fp_btree_place *place)
{
    farpool_partition *partition = tree->partition;
    const void *page;
    uint64_t version;
    farpool_pid pid = tree->root;
    place->parent = FARPOOL_PID_NONE;
    place->index = -1;
    int rc = farpool_read_begin(partition, pid, &page, &version);
    if (rc)
        return rc;
    for (unsigned depth = 0; depth < FP_BTREE_LEVELS_MAX; depth++) {
        const fp_btree_node *node = page;
        unsigned here = fp_racy_u8(&node->level);
        if (here <= level) {
            place->pid = pid;
            place->version = version;
            place->node = node;
            if (here == level)
                return 0;
            rc = corrupt_unless_overtaken(tree, pid, version);
            return rc == FARPOOL_E_CORRUPT && pid == tree->root ? FARPOOL_E_NOTFOUND : rc;
        }
        int index = fp_btree_child_index(node, target);
        farpool_pid child = fp_btree_child(node, index);
        if (farpool_read_check(partition, pid, version))
            return FARPOOL_E_RETRY;
        place->parent = pid;
        place->parent_version = version;
        place->parent_node = node;
        place->index = index;
        rc = farpool_read_begin(partition, child, &page, &version);
        if (rc && rc != FARPOOL_E_NOTFOUND)
            return rc;
        if (!rc && here == 1)
            fetch_leaf_lines(page);
        if (farpool_read_check(partition, pid, place->parent_version))
            return FARPOOL_E_RETRY;
        if (rc)
            return fp_btree_corrupt(tree, child);
        pid = child;
    }
    return corrupt_unless_overtaken(tree, pid, version);
}

int fp_btree_begin(const farpool_btree *tree, farpool_mtr **mtr)
{
    return farpool_mtr_begin(tree->partition, FARPOOL_MTR_NO_UNDO, mtr);
}

int fp_btree_commit(farpool_mtr *mtr)
{
    return farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL);
}

static void unfix(const farpool_btree *tree, farpool_mtr *mtr, farpool_pid pid,
                  enum farpool_latch latch)
{
    if (latch == FARPOOL_EXCLUSIVE)
        farpool_mtr_unfix(mtr, pid);
    else
        farpool_unfix(tree->partition, pid, latch);
}

static void unfix_parent(const farpool_btree *tree, fp_btree_latched *held)
{
    if (held->parent != FARPOOL_PID_NONE)
        unfix(tree, held->mtr, held->parent, held->parent_latch);
    held->parent = FARPOOL_PID_NONE;
}

void fp_btree_release(const farpool_btree *tree, const fp_btree_latched *held)
{
    unfix(tree, held->mtr, held->pid, held->latch);
    if (held->parent != FARPOOL_PID_NONE)
        unfix(tree, held->mtr, held->parent, held->parent_latch);
}

/* The latch that a node of the level gets. */
static enum farpool_latch latch_of(unsigned level, int exclusive)
{
    return (int)level <= exclusive ? FARPOOL_EXCLUSIVE : FARPOOL_SHARED;
}

static int fix_node(const farpool_btree *tree, farpool_mtr *mtr, farpool_pid pid,
                    enum farpool_latch latch, fp_btree_node **node)
{
    void *page;
    int rc = latch == FARPOOL_EXCLUSIVE ? farpool_mtr_fix(mtr, pid, &page)
                                        : farpool_fix(tree->partition, pid, latch, &page);
    if (!rc)
        *node = page;
    return rc;
}

/* The root's level is known when it is latched, and only then which latch it needs. */
static int fix_root(const farpool_btree *tree, int exclusive, fp_btree_latched *held)
{
    held->pid = tree->root;
    held->parent = FARPOOL_PID_NONE;
    held->latch = FARPOOL_SHARED;
    int rc = fix_node(tree, NULL, tree->root, FARPOOL_SHARED, &held->node);
    if (rc || latch_of(held->node->level, exclusive) == FARPOOL_SHARED)
        return rc;
    farpool_unfix(tree->partition, tree->root, FARPOOL_SHARED);
    held->latch = FARPOOL_EXCLUSIVE; /* if it has grown meanwhile, more than is needed */
    return fix_node(tree, held->mtr, tree->root, FARPOOL_EXCLUSIVE, &held->node);
}

int fp_btree_descend_latched(const farpool_btree *tree, const fp_btree_target *target,
                             unsigned level, int exclusive, farpool_mtr *mtr,
                             fp_btree_latched *held)
{
    held->mtr = mtr;
    int rc = fix_root(tree, exclusive, held);
    if (rc)
        return rc;
    if (held->node->level < level) {
        fp_btree_release(tree, held);
        return FARPOOL_E_NOTFOUND;
    }
    while (held->node->level > level) {
        farpool_pid pid = fp_btree_child(held->node, fp_btree_child_index(held->node, target));
        enum farpool_latch latch = latch_of(held->node->level - 1u, exclusive);
        fp_btree_node *node;
        rc = fix_node(tree, mtr, pid, latch, &node);
        if (!rc && (node->magic != FP_BTREE_MAGIC || node->level + 1 != held->node->level)) {
            unfix(tree, mtr, pid, latch);
            rc = FARPOOL_E_NOTFOUND;
        }
        if (rc) {
            fp_btree_release(tree, held);
            return rc == FARPOOL_E_NOTFOUND ? fp_btree_corrupt(tree, pid) : rc;
        }
        unfix_parent(tree, held);
        held->parent = held->pid;
        held->parent_node = held->node;
        held->parent_latch = held->latch;
        held->pid = pid;
        held->node = node;
        held->latch = latch;
    }
    return 0;
}

/* ---- latching exclusively for a change -------------------------------------------------------- */

static __attribute__((noinline)) int take_in_section(const farpool_btree *tree, farpool_slice key,
                                                     unsigned level, bool with_parent,
                                                     fp_btree_latched *held)
{
    fp_btree_target target = {key, FP_BTREE_AT};
    fp_btree_place place;
    void *page, *parent_page = NULL;
    int rc = fp_btree_descend(tree, &target, level, &place);
    if (rc)
        return rc;
    if (!with_parent)
        place.parent = FARPOOL_PID_NONE;
    if (place.parent != FARPOOL_PID_NONE) {
        rc = farpool_mtr_upgrade(held->mtr, place.parent, place.parent_version, &parent_page);
        if (rc)
            return rc;
    }
    rc = farpool_mtr_upgrade(held->mtr, place.pid, place.version, &page);
    if (rc) {
        if (place.parent != FARPOOL_PID_NONE)
            farpool_mtr_unfix(held->mtr, place.parent);
        return rc;
    }
    *held = (fp_btree_latched){held->mtr,   place.pid,        page, FARPOOL_EXCLUSIVE, place.parent,
                               parent_page, FARPOOL_EXCLUSIVE};
    return 0;
}

static __attribute__((noinline)) int try_take(const farpool_btree *tree, farpool_slice key,
                                              unsigned level, bool with_parent,
                                              fp_btree_latched *held)
{
    farpool_section section;
    if (farpool_section_enter(&section))
        return FARPOOL_E_RETRY;
    int rc = take_in_section(tree, key, level, with_parent, held);
    farpool_section_leave(&section);
    return rc;
}

static int take(const farpool_btree *tree, farpool_slice key, unsigned level, bool with_parent,
                fp_btree_latched *held)
{
    for (unsigned tries = 0; tries < tree->tries; tries++) {
        int rc = try_take(tree, key, level, with_parent, held);
        if (rc != FARPOOL_E_RETRY)
            return rc;
        fp_btree_back_off(tries);
    }
    fp_btree_target target = {key, FP_BTREE_AT};
    int rc =
        fp_btree_descend_latched(tree, &target, level, (int)level + with_parent, held->mtr, held);
    if (!rc && !with_parent)
        unfix_parent(tree, held);
    return rc;
}

int fp_btree_take(const farpool_btree *tree, farpool_slice key, unsigned level, bool with_parent,
                  fp_btree_latched *held)
{
    int rc = fp_btree_begin(tree, &held->mtr);
    if (rc)
        return rc;
    farpool_mtr *mtr = held->mtr;
    rc = take(tree, key, level, with_parent, held);
    if (rc)
        farpool_mtr_abandon(mtr);
    return rc;
}
