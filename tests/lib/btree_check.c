/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/btree_check.h"

#include <stdio.h>
#include <stdlib.h>

#include "compute/btree_node.h"

#define CHECK(condition, pid)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "B+-tree: page %llu: not true: %s (%s:%d)\n",                          \
                    (unsigned long long)(pid), #condition, __FILE__, __LINE__);                    \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static int compare(farpool_slice a, farpool_slice b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int c = len ? memcmp(a.data, b.data, len) : 0;
    return c ? c : a.len < b.len ? -1 : a.len > b.len;
}

static fp_btree_node *copy_node(farpool_partition *partition, farpool_pid pid)
{
    void *page, *copy = malloc(FARPOOL_UNIT_BYTES);
    CHECK(copy, pid);
    CHECK(farpool_fix(partition, pid, FARPOOL_SHARED, &page) == 0, pid);
    memcpy(copy, page, FARPOOL_UNIT_BYTES);
    farpool_unfix(partition, pid, FARPOOL_SHARED);
    return copy;
}

static void check_overflow(farpool_partition *partition, const fp_btree_node *node, uint64_t slot,
                           farpool_pid pid)
{
    fp_btree_ref ref;
    void *page;
    farpool_slice value = fp_btree_value(node, slot);
    CHECK(value.len == sizeof ref, pid);
    memcpy(&ref, value.data, sizeof ref);
    CHECK(farpool_fix(partition, ref.pid, FARPOOL_SHARED, &page) == 0, pid);
    unsigned order = farpool_page_order(partition, ref.pid);
    CHECK(ref.len <= (size_t)FARPOOL_UNIT_BYTES << order, pid);
    CHECK(order == 0 || ref.len > (size_t)FARPOOL_UNIT_BYTES << (order - 1), pid);
    farpool_unfix(partition, ref.pid, FARPOOL_SHARED);
}

/* Order and heads of the keys, and that each lies between the fences. */
static void check_keys(const fp_btree_node *node, farpool_pid pid)
{
    uint8_t buffers[2][FARPOOL_KEY_MAX];
    farpool_slice before = {NULL, 0};
    unsigned bytes = 0;
    for (unsigned i = 0; i < node->count; i++) {
        uint64_t slot = node->slots[i];
        unsigned offset = fp_btree_slot_offset(slot), len = fp_btree_slot_key_len(slot);
        CHECK(offset >= node->heap && offset + len <= node->upper_at, pid);
        CHECK(slot >> 32 == (len ? fp_btree_head((const uint8_t *)node + offset, len) : 0), pid);
        farpool_slice key = fp_btree_node_key(node, i, buffers[i % 2]);
        CHECK(key.len >= 1 && key.len <= FARPOOL_KEY_MAX, pid);
        CHECK(i == 0 || compare(before, key) < 0, pid);
        CHECK(compare(key, fp_btree_lower(node)) >= (node->level ? 1 : 0), pid);
        CHECK(!node->has_upper || compare(key, fp_btree_upper(node)) < 0, pid);
        bytes += len +
                 (unsigned)(node->level ? sizeof(farpool_pid) : fp_btree_value(node, slot).len + 2);
        before = key;
    }
    CHECK(node->heap + bytes + node->garbage == node->upper_at, pid);
    CHECK(node->heap >= FP_BTREE_HEADER + 8u * node->count, pid);
}

static void walk(farpool_partition *partition, farpool_pid pid, int level, farpool_slice lower,
                 const farpool_slice *upper, test_btree_shape *shape)
{
    fp_btree_node *node = copy_node(partition, pid);
    CHECK(node->magic == FP_BTREE_MAGIC, pid);
    CHECK(level < 0 || node->level == level, pid);
    CHECK(compare(fp_btree_lower(node), lower) == 0, pid);
    CHECK(node->has_upper == (upper != NULL), pid);
    CHECK(!upper || compare(fp_btree_upper(node), *upper) == 0, pid);
    check_keys(node, pid);
    if (level < 0)
        shape->height = node->level + 1u;
    if (!node->level) {
        shape->leaves++;
        shape->records += node->count;
        shape->leaf_bytes_used += fp_btree_node_used(node);
        for (unsigned i = 0; i < node->count; i++) {
            if (fp_btree_slot_overflow(node->slots[i])) {
                shape->overflow_pages++;
                check_overflow(partition, node, node->slots[i], pid);
            }
        }
    } else {
        shape->inner++;
        uint8_t *buffers = malloc(2 * FARPOOL_KEY_MAX);
        CHECK(buffers, pid);
        farpool_slice from = lower;
        for (int i = -1; i < node->count; i++) {
            bool last = i + 1 == node->count;
            farpool_slice to = last ? (farpool_slice){NULL, 0}
                                    : fp_btree_node_key(node, (unsigned)i + 1,
                                                        buffers + (i & 1) * FARPOOL_KEY_MAX);
            walk(partition, fp_btree_child(node, i), node->level - 1, from, last ? upper : &to,
                 shape);
            from = to;
        }
        free(buffers);
    }
    free(node);
}

test_btree_shape test_btree_check(farpool_partition *partition, farpool_pid root)
{
    test_btree_shape shape = {0};
    walk(partition, root, -1, (farpool_slice){NULL, 0}, NULL, &shape);
    return shape;
}
