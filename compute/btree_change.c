/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of the tree's structure. Each has the node and its parent latched exclusively (a merge also the
 * neighbour, after the parent, so two merges cannot wait for each other) and leaves a whole tree.
 *
 *   split      the left half stays in the page, the right half goes to a new one, the separator to the
 *              parent. If the parent has no room, it is split first, from above, and all begins anew.
 *   root       keeps its page: both halves go to new pages, and it becomes their parent.
 *   merge      the right neighbour's records come to the left one, the right page is freed.
 *   collapse   a root with one child takes that child's content.
 */
#include "compute/btree.h"

static int new_node(farpool_mtr *mtr, farpool_pid *pid, fp_btree_node **node)
{
    void *page;
    int rc = farpool_mtr_alloc(mtr, 0, pid, &page);
    if (!rc)
        *node = page;
    return rc;
}

/* Divides old into left and right, neither of which is old. */
static void divide(const fp_btree_node *old, unsigned at, farpool_slice separator,
                   fp_btree_node *left, fp_btree_node *right)
{
    fp_btree_node_init(left, old->level, fp_btree_lower(old), true, separator);
    fp_btree_node_init(right, old->level, separator, old->has_upper, fp_btree_upper(old));
    left->first = old->first;
    if (old->level) { /* its child becomes the first on the right, its key goes up */
        right->first = fp_btree_child(old, (int)at);
        fp_btree_node_append(right, old, at + 1, old->count);
    } else {
        fp_btree_node_append(right, old, at, old->count);
    }
    fp_btree_node_append(left, old, 0, at);
}

static int split_root(farpool_mtr *mtr, fp_btree_node *root)
{
    farpool_pid left_pid, right_pid;
    fp_btree_node *left, *right;
    uint8_t buffer[FARPOOL_KEY_MAX];
    unsigned at;
    int rc = new_node(mtr, &left_pid, &left);
    if (!rc)
        rc = new_node(mtr, &right_pid, &right);
    if (rc)
        return rc;
    farpool_slice separator = fp_btree_node_split_at(root, &at, buffer);
    divide(root, at, separator, left, right);
    farpool_slice none = {NULL, 0};
    fp_btree_node_init(root, root->level + 1u, none, false, none);
    root->first = left_pid;
    fp_btree_node_insert(root, 0, separator, (farpool_slice){&right_pid, sizeof right_pid}, false);
    return 0;
}

static int split_below(const fp_btree_latched *held, unsigned at, farpool_slice separator)
{
    farpool_pid right_pid;
    fp_btree_node *right;
    fp_btree_image left;
    bool equal;
    int rc = new_node(held->mtr, &right_pid, &right);
    if (rc)
        return rc;
    divide(held->node, at, separator, &left.node, right);
    memcpy(held->node, &left, sizeof left);
    unsigned slot = fp_btree_search(held->parent_node, separator, &equal);
    fp_btree_node_insert(held->parent_node, slot, separator,
                         (farpool_slice){&right_pid, sizeof right_pid}, false);
    return 0;
}

/* One step. E_RETRY: done, or the parent had to be split first; look again. */
static int make_room_step(const farpool_btree *tree, farpool_slice key, unsigned level,
                          unsigned bytes, bool *parent_full)
{
    fp_btree_latched held;
    uint8_t buffer[FARPOOL_KEY_MAX];
    unsigned at;
    *parent_full = false;
    int rc = fp_btree_take(tree, key, level, true, &held);
    if (rc)
        return rc;
    if (fp_btree_node_room(held.node) >= bytes)
        goto out;
    if (held.node->count < 2) {
        rc = FARPOOL_E_CORRUPT; /* a node of so few records has room for another */
        goto out;
    }
    rc = FARPOOL_E_RETRY;
    if (held.parent == FARPOOL_PID_NONE) {
        int error = split_root(held.mtr, held.node);
        rc = error ? error : rc;
        goto out;
    }
    farpool_slice separator = fp_btree_node_split_at(held.node, &at, buffer);
    if (fp_btree_node_room(held.parent_node) <
        fp_btree_record_bytes(held.parent_node, separator.len, sizeof(farpool_pid))) {
        *parent_full = true;
    } else {
        int error = split_below(&held, at, separator);
        rc = error ? error : rc;
    }
out:
    if (rc && rc != FARPOOL_E_RETRY) { /* nothing was changed */
        farpool_mtr_abandon(held.mtr);
        return rc;
    }
    int error = fp_btree_commit(held.mtr);
    return error ? error : rc;
}

int fp_btree_make_room(const farpool_btree *tree, farpool_slice key, unsigned level, unsigned bytes)
{
    int rc;
    do {
        bool parent_full;
        rc = make_room_step(tree, key, level, bytes, &parent_full);
        if (rc == FARPOOL_E_RETRY && parent_full) {
            int error = fp_btree_make_room(tree, key, level + 1, FP_BTREE_SEPARATOR_MAX);
            if (error && error != FARPOOL_E_NOTFOUND) /* the root was lowered: look again */
                return error;
        }
    } while (rc == FARPOOL_E_RETRY);
    return rc;
}

/* ---- shrinking -------------------------------------------------------------------------------- */

/* left, and right with the separator between them, in one node; false if they do not fit. */
static bool join(const fp_btree_node *left, const fp_btree_node *right, fp_btree_node *merged)
{
    if (fp_btree_node_used(left) + fp_btree_node_used(right) > FP_BTREE_MERGED_MAX)
        return false;
    fp_btree_node_init(merged, left->level, fp_btree_lower(left), right->has_upper,
                       fp_btree_upper(right));
    merged->first = left->first;
    if (!fp_btree_node_append(merged, left, 0, left->count))
        return false;
    if (left->level &&
        !fp_btree_node_insert(merged, merged->count, fp_btree_lower(right),
                              (farpool_slice){&right->first, sizeof right->first}, false))
        return false;
    return fp_btree_node_append(merged, right, 0, right->count) &&
           fp_btree_node_used(merged) <= FP_BTREE_MERGED_MAX;
}

/* Merges with the right or left neighbour, if it can. */
static bool merge(const fp_btree_latched *held, int index, bool to_right)
{
    fp_btree_node *parent = held->parent_node;
    if (to_right ? index + 1 >= (int)parent->count : index < 0)
        return false;
    int right_index = to_right ? index + 1 : index;
    farpool_pid other_pid = fp_btree_child(parent, to_right ? index + 1 : index - 1);
    void *page;
    if (farpool_mtr_fix(held->mtr, other_pid, &page))
        return false;
    fp_btree_node *left = to_right ? held->node : page, *right = to_right ? page : held->node;
    fp_btree_image merged;
    if (left->level != right->level || !join(left, right, &merged.node)) {
        farpool_mtr_unfix(held->mtr, other_pid);
        return false;
    }
    if (farpool_mtr_free(held->mtr, to_right ? other_pid : held->pid))
        return false;
    memcpy(left, &merged, sizeof merged);
    fp_btree_node_remove(parent, (unsigned)right_index);
    return true;
}

static int collapse_root(const farpool_btree *tree)
{
    farpool_mtr *mtr;
    void *page;
    int rc = fp_btree_begin(tree, &mtr);
    if (rc)
        return rc;
    rc = farpool_mtr_fix(mtr, tree->root, &page);
    fp_btree_node *root = page;
    while (!rc && root->level && root->count == 0) {
        farpool_pid child = root->first;
        if (farpool_mtr_fix(mtr, child, &page) || farpool_mtr_free(mtr, child))
            break;
        memcpy(root, page, FARPOOL_UNIT_BYTES); /* a page freed stays latched, and readable */
    }
    return fp_btree_commit(mtr);
}

/* One level. Returns whether the one above may have become too empty by it. */
static bool shrink_level(const farpool_btree *tree, farpool_slice key, unsigned level)
{
    fp_btree_target target = {key, FP_BTREE_AT};
    fp_btree_latched held;
    if (fp_btree_take(tree, key, level, true, &held))
        return false;
    if (held.parent == FARPOOL_PID_NONE || fp_btree_node_used(held.node) > FP_BTREE_UNDERFULL) {
        farpool_mtr_abandon(held.mtr);
        return false;
    }
    int index = fp_btree_child_index(held.parent_node, &target);
    bool merged = merge(&held, index, true) || merge(&held, index, false);
    bool lonely = held.parent_node->count == 0;
    bool below_root = held.parent == tree->root;
    if (fp_btree_commit(held.mtr))
        return false;
    if (below_root && lonely && collapse_root(tree))
        return false;
    /* An only child has no neighbour; its parent may have one. */
    return !below_root && (merged || lonely);
}

void fp_btree_shrink(const farpool_btree *tree, farpool_slice key)
{
    unsigned level = 0;
    while (shrink_level(tree, key, level))
        level++;
}
