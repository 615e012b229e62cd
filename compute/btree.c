/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A B+-tree on the pool's public functions: how it works together. The node is told in btree_node.h.
 *
 * The root keeps its page for ever, so a lookup needs no page that only says where the root is. There are
 * no links between leaves: whoever wants the next leaf goes down again with the fence of this one.
 *
 * Protocol (optimistic lock coupling; Leis, Haubenschild, Neumann, IEEE Data Eng. Bulletin 2019)
 *   Readers take no latches. They go down by versions (btree_descend.c), read the leaf, and check its
 *   version; if that has changed, they begin anew.
 *   Writers go down in the same way, then turn the leaf's version into its exclusive latch. That the leaf
 *   is still the right one follows from its version being the same: a leaf's fences change only under its
 *   latch.
 *   Changes of structure (btree_change.c) are separate steps with node and parent latched. An insert that
 *   finds no room makes room first and then looks again; between the two, others may have used it.
 *   Latches are waited for from the root to the leaf, a parent before its children, a leaf before pages of
 *   values. Turning versions into latches never waits, so its order does not matter.
 *   Whoever was overtaken FP_BTREE_TRIES times latches its way down, and cannot be overtaken any more: with
 *   many writers, or a pool so small that pages leave while they are read, all get on all the same.
 *
 * Freed pages: a reader on its way may hold the pid of a page that was freed, or given to somebody else. It
 * has not followed it before the parent's version was right, and looks at that once more when it has the
 * page's version; E_NOTFOUND from such a page means the same as a changed version.
 *
 * Large values stand on a page of their own, which is never changed: a new value has a new page. Their
 * reader latches the page and then checks the leaf's version: if the leaf is unchanged, it still refers to
 * that page, which cannot be freed while it is latched. Readers wait for nothing while they have such a page,
 * so a writer may wait for it with the leaf latched.
 *
 * Failures: an error of the pool (a memory node gone, no frames, no space) ends the operation with that
 * code. The tree is whole, and a record is as it was before or as it should be after. What may be left is
 * the page of a large value that nobody refers to, if it could not be fetched to be freed.
 */
#include "compute/btree.h"

#include <stdlib.h>

#include "common/error.h"

enum write_mode { INSERT, UPDATE, PUT };

int fp_btree_overflow_write(farpool_mtr *mtr, farpool_slice value, fp_btree_ref *ref)
{
    unsigned order = 0;
    void *page;
    farpool_pid pid;
    while (((size_t)FARPOOL_UNIT_BYTES << order) < value.len)
        order++;
    int rc = farpool_mtr_alloc(mtr, order, &pid, &page);
    if (rc)
        return rc;
    memcpy(page, value.data, value.len);
    *ref = (fp_btree_ref){pid, (uint32_t)value.len};
    return 0;
}

/* ---- what is refused -------------------------------------------------------------------------- */

int fp_btree_check_key(farpool_slice key)
{
    if (!key.data || key.len == 0)
        return fp_error(FARPOOL_E_INVAL, "B+-tree: a key of no bytes; 1 to %u are possible",
                        FARPOOL_KEY_MAX);
    if (key.len > FARPOOL_KEY_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "B+-tree: a key of %zu bytes; 1 to %u are possible",
                        key.len, FARPOOL_KEY_MAX);
    return 0;
}

int fp_btree_check_record(farpool_slice key, farpool_slice value)
{
    int rc = fp_btree_check_key(key);
    if (rc)
        return rc;
    if (!value.data && value.len)
        return fp_error(FARPOOL_E_INVAL, "B+-tree: a value of %zu bytes at no address", value.len);
    if (value.len > FARPOOL_VALUE_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "B+-tree: a value of %zu bytes; at most %u are possible",
                        value.len, FARPOOL_VALUE_MAX);
    return 0;
}

int fp_btree_corrupt(const farpool_btree *tree, farpool_pid pid)
{
    return fp_error(FARPOOL_E_CORRUPT, "B+-tree: page %llu is not what the tree of root %llu says",
                    (unsigned long long)pid, (unsigned long long)tree->root);
}

static int no_memory(size_t bytes)
{
    return fp_error(FARPOOL_E_NOMEM, "B+-tree: no memory for a handle of %zu bytes", bytes);
}

/* ---- handles ---------------------------------------------------------------------------------- */

int farpool_btree_open(farpool_partition *partition, farpool_pid root, farpool_btree **tree)
{
    if (!partition || !tree)
        return fp_error(FARPOOL_E_INVAL, "farpool_btree_open: no partition or no place for a tree");
    void *page;
    int rc = farpool_fix(partition, root, FARPOOL_SHARED, &page);
    if (rc)
        return rc;
    const fp_btree_node *node = page;
    bool is_root = node->magic == FP_BTREE_MAGIC && !node->has_upper && !node->lower_len;
    farpool_unfix(partition, root, FARPOOL_SHARED);
    if (!is_root)
        return fp_error(FARPOOL_E_CORRUPT, "B+-tree: page %llu is no root of a tree",
                        (unsigned long long)root);
    *tree = malloc(sizeof **tree);
    if (!*tree)
        return no_memory(sizeof **tree);
    **tree = (farpool_btree){partition, root, FP_BTREE_TRIES};
    return 0;
}

static int create_root(farpool_btree *tree)
{
    farpool_mtr *mtr;
    void *page;
    farpool_slice none = {NULL, 0};
    int rc = fp_btree_begin(tree, &mtr);
    if (rc)
        return rc;
    rc = farpool_mtr_alloc(mtr, 0, &tree->root, &page);
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    fp_btree_node_init(page, 0, none, false, none);
    return fp_btree_commit(mtr);
}

int farpool_btree_create(farpool_partition *partition, farpool_pid *root, farpool_btree **tree)
{
    if (!partition || !root || !tree)
        return fp_error(FARPOOL_E_INVAL,
                        "farpool_btree_create: no partition or no place for root or tree");
    farpool_btree *created = malloc(sizeof *created);
    if (!created)
        return no_memory(sizeof *created);
    *created = (farpool_btree){partition, FARPOOL_PID_NONE, FP_BTREE_TRIES};
    int rc = create_root(created);
    if (rc) {
        free(created);
        return rc;
    }
    *root = created->root;
    *tree = created;
    return 0;
}

void farpool_btree_close(farpool_btree *tree) { free(tree); }

/* ---- lookup ----------------------------------------------------------------------------------- */

/* Where a lookup leaves what it found. */
typedef struct found {
    void *buffer;
    size_t capacity, len;
    bool overflow;
    fp_btree_ref ref;
} found;

/* Reads the leaf, which may be changing: E_CORRUPT means nonsense, if the version is still the same. */
FP_RACY static int read_leaf(const fp_btree_node *leaf, farpool_slice key, found *answer)
{
    bool equal;
    unsigned at = fp_btree_search(leaf, key, &equal);
    if (!equal)
        return FARPOOL_E_NOTFOUND;
    uint64_t slot = fp_racy_u64(&leaf->slots[at]);
    farpool_slice value = fp_btree_value(leaf, slot);
    if (!value.data)
        return FARPOOL_E_CORRUPT;
    answer->overflow = fp_btree_slot_overflow(slot);
    if (answer->overflow) {
        if (value.len != sizeof answer->ref)
            return FARPOOL_E_CORRUPT;
        fp_racy_copy(&answer->ref, value.data, sizeof answer->ref);
        answer->len = answer->ref.len;
        return answer->len > answer->capacity ? FARPOOL_E_TOO_BIG : 0;
    }
    answer->len = value.len;
    if (value.len > answer->capacity)
        return FARPOOL_E_TOO_BIG;
    if (value.len)
        fp_racy_copy(answer->buffer, value.data, value.len);
    return 0;
}

static __attribute__((noinline)) int lookup_in_section(const farpool_btree *tree, farpool_slice key,
                                                       found *answer, fp_btree_place *place)
{
    fp_btree_target target = {key, FP_BTREE_AT};
    int rc = fp_btree_descend(tree, &target, 0, place);
    if (rc)
        return rc;
    rc = read_leaf(place->node, key, answer);
    return farpool_read_check(tree->partition, place->pid, place->version) ? FARPOOL_E_RETRY : rc;
}

static __attribute__((noinline)) int try_lookup(const farpool_btree *tree, farpool_slice key,
                                                found *answer, fp_btree_place *place)
{
    farpool_section section;
    if (farpool_section_enter(&section))
        return FARPOOL_E_RETRY;
    int rc = lookup_in_section(tree, key, answer, place);
    farpool_section_leave(&section);
    return rc;
}

/* The value's page is latched while it is copied. leaf: its version is checked, unless it is latched. */
static int read_overflow(const farpool_btree *tree, const found *answer, const fp_btree_place *leaf)
{
    void *page;
    int rc = farpool_fix(tree->partition, answer->ref.pid, FARPOOL_SHARED, &page);
    if (leaf && (!rc || rc == FARPOOL_E_NOTFOUND) &&
        farpool_read_check(tree->partition, leaf->pid, leaf->version)) {
        if (!rc)
            farpool_unfix(tree->partition, answer->ref.pid, FARPOOL_SHARED);
        return FARPOOL_E_RETRY;
    }
    if (rc)
        return rc == FARPOOL_E_NOTFOUND ? fp_btree_corrupt(tree, answer->ref.pid) : rc;
    unsigned order = farpool_page_order(tree->partition, answer->ref.pid);
    if (answer->len <= (size_t)FARPOOL_UNIT_BYTES << order)
        memcpy(answer->buffer, page, answer->len);
    else
        rc = fp_btree_corrupt(tree, answer->ref.pid);
    farpool_unfix(tree->partition, answer->ref.pid, FARPOOL_SHARED);
    return rc;
}

static int lookup_latched(const farpool_btree *tree, farpool_slice key, found *answer)
{
    fp_btree_target target = {key, FP_BTREE_AT};
    fp_btree_latched held;
    int rc = fp_btree_descend_latched(tree, &target, 0, -1, NULL, &held);
    if (rc)
        return rc;
    rc = read_leaf(held.node, key, answer);
    if (!rc && answer->overflow)
        rc = read_overflow(tree, answer, NULL);
    fp_btree_release(tree, &held);
    return rc;
}

int farpool_btree_lookup(farpool_btree *tree, farpool_slice key, void *buffer, size_t capacity,
                         size_t *len)
{
    int rc = fp_btree_check_key(key);
    if (rc)
        return rc;
    if (!tree || !len || (!buffer && capacity))
        return fp_error(FARPOOL_E_INVAL,
                        "farpool_btree_lookup: no tree, buffer or place for the length");
    found answer = {.buffer = buffer, .capacity = capacity};
    rc = FARPOOL_E_RETRY;
    for (unsigned tries = 0; tries < tree->tries; tries++) {
        fp_btree_place place;
        rc = try_lookup(tree, key, &answer, &place);
        if (!rc && answer.overflow)
            rc = read_overflow(tree, &answer, &place);
        if (rc != FARPOOL_E_RETRY)
            break;
        fp_btree_back_off(tries);
    }
    if (rc == FARPOOL_E_RETRY)
        rc = lookup_latched(tree, key, &answer);
    *len = answer.len;
    return rc;
}

/* ---- writing ---------------------------------------------------------------------------------- */

/* The page of a value that the leaf is about to forget goes with it. If it can't be fetched it is lost
 * space, but no reason to refuse the write. */
static void free_old_value(farpool_mtr *mtr, const fp_btree_node *leaf, unsigned at)
{
    uint64_t slot = leaf->slots[at];
    fp_btree_ref old;
    if (!fp_btree_slot_overflow(slot))
        return;
    memcpy(&old, fp_btree_value(leaf, slot).data, sizeof old);
    int rc = farpool_mtr_free(mtr, old.pid);
    (void)rc;
}

/* The record as it will stand in the leaf: a large value goes to a page of its own first. */
static int place_value(farpool_mtr *mtr, farpool_slice key, farpool_slice *value, bool *overflow,
                       fp_btree_ref *ref)
{
    *overflow = fp_btree_overflows(key.len, value->len);
    if (!*overflow)
        return 0;
    int rc = fp_btree_overflow_write(mtr, *value, ref);
    *value = (farpool_slice){ref, sizeof *ref};
    return rc;
}

/* Into the leaf that is latched. *full: there is no room, and nothing has been changed. */
static int write_leaf(const fp_btree_latched *held, farpool_slice key, farpool_slice value,
                      enum write_mode mode, unsigned *bytes, bool *full)
{
    bool equal, overflow = fp_btree_overflows(key.len, value.len);
    fp_btree_ref ref;
    unsigned at = fp_btree_search(held->node, key, &equal);
    if (equal && mode == INSERT)
        return FARPOOL_E_EXISTS;
    if (!equal && mode == UPDATE)
        return FARPOOL_E_NOTFOUND;
    size_t stored = overflow ? sizeof ref : value.len;
    *bytes = fp_btree_record_bytes(held->node, key.len, stored);
    *full = !fp_btree_node_takes(held->node, at, equal, key.len, stored);
    if (*full)
        return 0;
    int rc = place_value(held->mtr, key, &value, &overflow, &ref);
    if (rc)
        return rc;
    if (equal)
        free_old_value(held->mtr, held->node, at);
    bool done = equal ? fp_btree_node_replace(held->node, at, key, value, overflow)
                      : fp_btree_node_insert(held->node, at, key, value, overflow);
    FP_ASSERT(done);
    return 0;
}

/* E_RETRY: there was no room; now there was some. */
static int try_write(const farpool_btree *tree, farpool_slice key, farpool_slice value,
                     enum write_mode mode)
{
    fp_btree_latched held;
    unsigned bytes = 0;
    bool full = false;
    int rc = fp_btree_take(tree, key, 0, false, &held);
    if (rc)
        return rc;
    rc = write_leaf(&held, key, value, mode, &bytes, &full);
    if (!rc && !full)
        return fp_btree_commit(held.mtr);
    farpool_mtr_abandon(held.mtr);
    if (rc)
        return rc;
    rc = fp_btree_make_room(tree, key, 0, bytes);
    return rc ? rc : FARPOOL_E_RETRY;
}

static int write_value(farpool_btree *tree, farpool_slice key, farpool_slice value,
                       enum write_mode mode)
{
    int rc = fp_btree_check_record(key, value);
    if (rc)
        return rc;
    if (!tree)
        return fp_error(FARPOOL_E_INVAL, "farpool_btree: a write without a tree");
    do
        rc = try_write(tree, key, value, mode);
    while (rc == FARPOOL_E_RETRY);
    return rc;
}

int farpool_btree_insert(farpool_btree *tree, farpool_slice key, farpool_slice value)
{
    return write_value(tree, key, value, INSERT);
}

int farpool_btree_update(farpool_btree *tree, farpool_slice key, farpool_slice value)
{
    return write_value(tree, key, value, UPDATE);
}

int farpool_btree_put(farpool_btree *tree, farpool_slice key, farpool_slice value)
{
    return write_value(tree, key, value, PUT);
}

int farpool_btree_delete(farpool_btree *tree, farpool_slice key)
{
    int rc = fp_btree_check_key(key);
    if (rc)
        return rc;
    if (!tree)
        return fp_error(FARPOOL_E_INVAL, "farpool_btree_delete: no tree");
    fp_btree_latched held;
    bool equal;
    rc = fp_btree_take(tree, key, 0, false, &held);
    if (rc)
        return rc;
    unsigned at = fp_btree_search(held.node, key, &equal);
    if (!equal) {
        farpool_mtr_abandon(held.mtr);
        return FARPOOL_E_NOTFOUND;
    }
    free_old_value(held.mtr, held.node, at);
    fp_btree_node_remove(held.node, at);
    bool underfull = fp_btree_node_used(held.node) <= FP_BTREE_UNDERFULL;
    rc = fp_btree_commit(held.mtr);
    if (!rc && underfull)
        fp_btree_shrink(tree, key);
    return rc;
}
