/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scans. Leaf by leaf: go down to it, copy it, check its version, and give the copy's records to the caller
 * with nothing latched, so that it may take its time and use the tree. The next leaf is found by going down
 * again with the fence, whatever has been split or merged meanwhile: no record that stays is missed or
 * seen twice.
 *
 * Pages ahead are fetched together: on the way down to a leaf the pids of those beyond it are taken from the
 * parent. The window begins small, for short scans, and doubles.
 *
 * A value on a page of its own is looked up when its record's turn comes. If the record was deleted after
 * the leaf was copied, it is left out; if it was updated, the new value is seen.
 */
#include "compute/btree.h"

#include <stdlib.h>

#include "common/error.h"

enum { AHEAD_MIN = 4, AHEAD_MAX = 32 };

typedef struct cursor {
    farpool_btree *tree;
    bool backward;
    fp_btree_target target; /* its key is the caller's, or in fence */
    uint8_t fence[FARPOOL_KEY_MAX];
    unsigned window;  /* pages to fetch ahead next time */
    unsigned fetched; /* leaves ahead that were asked for already */
    farpool_pid ahead[AHEAD_MAX];
    unsigned ahead_count;
    void *value; /* for values on pages of their own */
    size_t value_bytes;
    fp_btree_image leaf; /* the copy */
} cursor;

/* Takes the pids beside the leaf from its parent, whose version the caller then checks. */
static void look_ahead(cursor *scan, const fp_btree_place *place)
{
    scan->ahead_count = 0;
    if (place->parent == FARPOOL_PID_NONE || scan->fetched)
        return;
    int count = fp_racy_u16(&place->parent_node->count);
    if (count > FP_BTREE_SLOTS_MAX)
        return;
    int step = scan->backward ? -1 : 1;
    for (int i = place->index + step; i >= -1 && i < count && scan->ahead_count < scan->window;
         i += step)
        scan->ahead[scan->ahead_count++] = fp_btree_child(place->parent_node, i);
}

static __attribute__((noinline)) int copy_in_section(cursor *scan)
{
    farpool_partition *partition = scan->tree->partition;
    fp_btree_place place;
    int rc = fp_btree_descend(scan->tree, &scan->target, 0, &place);
    if (rc)
        return rc;
    look_ahead(scan, &place);
    if (place.parent != FARPOOL_PID_NONE &&
        farpool_read_check(partition, place.parent, place.parent_version))
        scan->ahead_count = 0;
    fp_racy_copy(&scan->leaf, place.node, sizeof scan->leaf);
    return farpool_read_check(partition, place.pid, place.version);
}

static __attribute__((noinline)) int try_copy(cursor *scan)
{
    farpool_section section;
    if (farpool_section_enter(&section))
        return FARPOOL_E_RETRY;
    int rc = copy_in_section(scan);
    farpool_section_leave(&section);
    return rc;
}

static int copy_leaf(cursor *scan)
{
    int rc = FARPOOL_E_RETRY;
    for (unsigned tries = 0; tries < scan->tree->tries && rc == FARPOOL_E_RETRY; tries++) {
        if (tries)
            fp_btree_back_off(tries);
        rc = try_copy(scan);
    }
    if (rc == FARPOOL_E_RETRY) {
        fp_btree_latched held;
        scan->ahead_count = 0;
        rc = fp_btree_descend_latched(scan->tree, &scan->target, 0, -1, NULL, &held);
        if (rc)
            return rc;
        memcpy(&scan->leaf, held.node, sizeof scan->leaf);
        fp_btree_release(scan->tree, &held);
    }
    if (rc)
        return rc;
    if (scan->ahead_count) {
        farpool_prefetch(scan->tree->partition, scan->ahead, scan->ahead_count);
        scan->fetched = scan->ahead_count;
        scan->window = scan->window * 2 < AHEAD_MAX ? scan->window * 2 : AHEAD_MAX;
    } else if (scan->fetched) {
        scan->fetched--;
    }
    return 0;
}

/* Looks a value up, as long as it is; E_NOTFOUND if the record has gone. */
static int fetch_value(cursor *scan, farpool_slice key, farpool_slice *value)
{
    fp_btree_ref ref;
    memcpy(&ref, value->data, sizeof ref);
    size_t len = ref.len;
    for (;;) {
        if (len > scan->value_bytes) {
            void *grown = realloc(scan->value, len);
            if (!grown)
                return fp_error(FARPOOL_E_NOMEM, "scan: no memory for a value of %zu bytes", len);
            scan->value = grown;
            scan->value_bytes = len;
        }
        int rc = farpool_btree_lookup(scan->tree, key, scan->value, scan->value_bytes, &len);
        if (rc != FARPOOL_E_TOO_BIG) {
            *value = (farpool_slice){scan->value, len};
            return rc;
        }
    }
}

/* Gives records [at, end) in the scan's direction to the caller; > 0 when it wants no more. */
static int visit(cursor *scan, int at, int end, farpool_scan_fn fn, void *arg)
{
    const fp_btree_node *leaf = &scan->leaf.node;
    uint8_t buffer[FARPOOL_KEY_MAX];
    for (int step = at < end ? 1 : -1; at != end; at += step) {
        uint64_t slot = leaf->slots[at];
        farpool_slice key = fp_btree_node_key(leaf, (unsigned)at, buffer);
        farpool_slice value = fp_btree_value(leaf, slot);
        if (fp_btree_slot_overflow(slot)) {
            int rc = fetch_value(scan, key, &value);
            if (rc == FARPOOL_E_NOTFOUND)
                continue;
            if (rc)
                return rc;
        }
        if (fn(arg, key, value))
            return 1;
    }
    return 0;
}

/* The first record of the leaf to visit; for backward scans the last, -1 if there is none. */
static int first_in_leaf(const cursor *scan)
{
    const fp_btree_node *leaf = &scan->leaf.node;
    bool equal;
    if (scan->target.towards == FP_BTREE_LAST)
        return (int)leaf->count - 1;
    unsigned at = fp_btree_search(leaf, scan->target.key, &equal);
    if (!scan->backward)
        return (int)at;
    return (int)at - 1 + (equal && scan->target.towards == FP_BTREE_AT);
}

static int scan_leaves(cursor *scan, farpool_scan_fn fn, void *arg)
{
    const fp_btree_node *leaf = &scan->leaf.node;
    for (;;) {
        int rc = copy_leaf(scan);
        if (rc)
            return rc;
        int end = scan->backward ? -1 : leaf->count;
        rc = visit(scan, first_in_leaf(scan), end, fn, arg);
        if (rc)
            return rc < 0 ? rc : 0;
        if (scan->backward ? leaf->lower_len == 0 : !leaf->has_upper)
            return 0;
        farpool_slice fence = scan->backward ? fp_btree_lower(leaf) : fp_btree_upper(leaf);
        memcpy(scan->fence, fence.data, fence.len);
        scan->target.key = (farpool_slice){scan->fence, fence.len};
        scan->target.towards = scan->backward ? FP_BTREE_BEFORE : FP_BTREE_AT;
    }
}

int farpool_btree_scan(farpool_btree *tree, farpool_slice from, int backward, farpool_scan_fn fn,
                       void *arg)
{
    if (!tree || !fn)
        return fp_error(FARPOOL_E_INVAL, "farpool_btree_scan: no tree or no function");
    if (from.data && from.len > FARPOOL_KEY_MAX)
        return fp_btree_check_key(from);
    cursor *scan = malloc(sizeof *scan);
    if (!scan)
        return fp_error(FARPOOL_E_NOMEM, "scan: no memory for %zu bytes", sizeof *scan);
    scan->tree = tree;
    scan->backward = backward != 0;
    scan->target.key = from.data ? from : (farpool_slice){"", 0};
    scan->target.towards = !from.data && backward ? FP_BTREE_LAST : FP_BTREE_AT;
    scan->window = AHEAD_MIN;
    scan->fetched = 0;
    scan->ahead_count = 0;
    scan->value = NULL;
    scan->value_bytes = 0;
    int rc = scan_leaves(scan, fn, arg);
    free(scan->value);
    free(scan);
    return rc;
}
