/* SPDX-License-Identifier: Apache-2.0 */
/* Changing nodes; the caller has the page latched exclusively, or the node is an image outside the pool. */
#include "compute/btree_node.h"

farpool_slice fp_btree_lower(const fp_btree_node *node)
{
    return (farpool_slice){(const uint8_t *)node + node->lower_at, node->lower_len};
}

farpool_slice fp_btree_upper(const fp_btree_node *node)
{
    return (farpool_slice){(const uint8_t *)node + node->upper_at, node->upper_len};
}

static size_t common_prefix(farpool_slice a, farpool_slice b)
{
    const uint8_t *x = a.data, *y = b.data;
    size_t n = 0;
    while (n < a.len && n < b.len && x[n] == y[n])
        n++;
    return n;
}

/* memcpy that may be given no bytes at no address. */
static void copy(void *to, const void *from, size_t len)
{
    if (len)
        memcpy(to, from, len);
}

void fp_btree_node_init(fp_btree_node *node, unsigned level, farpool_slice lower, bool has_upper,
                        farpool_slice upper)
{
    if (!has_upper)
        upper = (farpool_slice){NULL, 0};
    memset(node, 0, FARPOOL_UNIT_BYTES);
    node->magic = FP_BTREE_MAGIC;
    node->level = (uint8_t)level;
    node->has_upper = has_upper;
    node->lower_len = (uint16_t)lower.len;
    node->lower_at = (uint16_t)(FARPOOL_UNIT_BYTES - lower.len);
    node->upper_len = (uint16_t)upper.len;
    node->upper_at = (uint16_t)(node->lower_at - upper.len);
    node->heap = node->upper_at;
    node->prefix = (uint16_t)common_prefix(lower, upper);
    node->first = FARPOOL_PID_NONE;
    copy((uint8_t *)node + node->lower_at, lower.data, lower.len);
    copy((uint8_t *)node + node->upper_at, upper.data, upper.len);
}

static unsigned gap(const fp_btree_node *node)
{
    return node->heap - (FP_BTREE_HEADER + 8u * node->count);
}

unsigned fp_btree_node_room(const fp_btree_node *node) { return gap(node) + node->garbage; }

unsigned fp_btree_node_used(const fp_btree_node *node)
{
    return node->upper_at - FP_BTREE_HEADER - fp_btree_node_room(node);
}

static unsigned record_bytes(const fp_btree_node *node, size_t rest_len, size_t value_len)
{
    return (unsigned)(rest_len + value_len + (node->level ? 0 : 2));
}

unsigned fp_btree_record_bytes(const fp_btree_node *node, size_t key_len, size_t value_len)
{
    return 8 + record_bytes(node, key_len - node->prefix, value_len);
}

static farpool_slice value_of(const fp_btree_node *node, uint64_t slot)
{
    if (!node->level)
        return fp_btree_value(node, slot);
    const uint8_t *record = (const uint8_t *)node + fp_btree_slot_offset(slot);
    return (farpool_slice){record + fp_btree_slot_key_len(slot), sizeof(farpool_pid)};
}

static unsigned slot_bytes(const fp_btree_node *node, uint64_t slot)
{
    return record_bytes(node, fp_btree_slot_key_len(slot), value_of(node, slot).len);
}

/* Gathers the free bytes between slots and heap. */
static void compact(fp_btree_node *node)
{
    fp_btree_image old;
    memcpy(&old, node, FARPOOL_UNIT_BYTES);
    unsigned heap = node->upper_at;
    for (unsigned i = 0; i < node->count; i++) {
        uint64_t slot = old.node.slots[i];
        unsigned bytes = slot_bytes(&old.node, slot);
        heap -= bytes;
        memcpy((uint8_t *)node + heap, old.bytes + fp_btree_slot_offset(slot), bytes);
        node->slots[i] = (slot & ~0xFFFF0000ull) | (uint64_t)heap << 16;
    }
    node->heap = (uint16_t)heap;
    node->garbage = 0;
}

static void write_record(fp_btree_node *node, unsigned offset, farpool_slice rest,
                         farpool_slice value)
{
    uint8_t *record = (uint8_t *)node + offset;
    copy(record, rest.data, rest.len);
    record += rest.len;
    if (!node->level) {
        uint16_t len = (uint16_t)value.len;
        memcpy(record, &len, sizeof len);
        record += sizeof len;
    }
    copy(record, value.data, value.len);
}

bool fp_btree_node_takes(const fp_btree_node *node, unsigned at, bool instead, size_t key_len,
                         size_t value_len)
{
    unsigned bytes = record_bytes(node, key_len - node->prefix, value_len);
    if (instead)
        return bytes <= slot_bytes(node, node->slots[at]) + fp_btree_node_room(node);
    return bytes + 8 <= fp_btree_node_room(node);
}

bool fp_btree_node_insert(fp_btree_node *node, unsigned at, farpool_slice key, farpool_slice value,
                          bool overflow)
{
    farpool_slice rest = {(const uint8_t *)key.data + node->prefix, key.len - node->prefix};
    unsigned bytes = record_bytes(node, rest.len, value.len);
    if (!fp_btree_node_takes(node, at, false, key.len, value.len))
        return false;
    if (bytes + 8 > gap(node))
        compact(node);
    node->heap = (uint16_t)(node->heap - bytes);
    write_record(node, node->heap, rest, value);
    memmove(&node->slots[at + 1], &node->slots[at], 8u * (node->count - at));
    node->count++;
    uint32_t head = rest.len ? fp_btree_head(rest.data, rest.len) : 0;
    node->slots[at] =
        (uint64_t)head << 32 | (uint64_t)node->heap << 16 | (overflow ? 0x8000u : 0) | rest.len;
    return true;
}

void fp_btree_node_remove(fp_btree_node *node, unsigned at)
{
    node->garbage = (uint16_t)(node->garbage + slot_bytes(node, node->slots[at]));
    node->count--;
    memmove(&node->slots[at], &node->slots[at + 1], 8u * (node->count - at));
}

bool fp_btree_node_replace(fp_btree_node *node, unsigned at, farpool_slice key, farpool_slice value,
                           bool overflow)
{
    uint64_t slot = node->slots[at];
    farpool_slice rest = {(const uint8_t *)key.data + node->prefix, key.len - node->prefix};
    unsigned before = slot_bytes(node, slot), after = record_bytes(node, rest.len, value.len);
    if (before == after) {
        write_record(node, fp_btree_slot_offset(slot), rest, value);
        node->slots[at] = (slot & ~0x8000ull) | (overflow ? 0x8000u : 0);
        return true;
    }
    if (!fp_btree_node_takes(node, at, true, key.len, value.len))
        return false;
    fp_btree_node_remove(node, at);
    return fp_btree_node_insert(node, at, key, value, overflow);
}

farpool_slice fp_btree_node_key(const fp_btree_node *node, unsigned at, uint8_t *buffer)
{
    uint64_t slot = node->slots[at];
    unsigned len = fp_btree_slot_key_len(slot);
    copy(buffer, fp_btree_lower(node).data, node->prefix);
    copy(buffer + node->prefix, (const uint8_t *)node + fp_btree_slot_offset(slot), len);
    return (farpool_slice){buffer, node->prefix + len};
}

bool fp_btree_node_append(fp_btree_node *node, const fp_btree_node *source, unsigned from,
                          unsigned to)
{
    uint8_t buffer[FARPOOL_KEY_MAX];
    for (unsigned i = from; i < to; i++) {
        uint64_t slot = source->slots[i];
        farpool_slice key = fp_btree_node_key(source, i, buffer);
        if (!fp_btree_node_insert(node, node->count, key, value_of(source, slot),
                                  fp_btree_slot_overflow(slot)))
            return false;
    }
    return true;
}

farpool_slice fp_btree_separator(farpool_slice left, farpool_slice right)
{
    return (farpool_slice){right.data, common_prefix(left, right) + 1};
}

farpool_slice fp_btree_node_split_at(const fp_btree_node *node, unsigned *at, uint8_t *buffer)
{
    unsigned half = fp_btree_node_used(node) / 2, below = 0, middle = 0;
    while (middle < node->count - 1u && below < half)
        below += 8 + slot_bytes(node, node->slots[middle++]);
    if (middle == 0)
        middle = 1;
    if (node->level) { /* the middle one goes up */
        *at = middle < node->count ? middle : node->count - 1u;
        return fp_btree_node_key(node, *at, buffer);
    }
    /* Near the middle, the place with the shortest separator. */
    unsigned first = middle > node->count / 16u + 1 ? middle - node->count / 16u : middle;
    unsigned last = middle + node->count / 16u < node->count ? middle + node->count / 16u : middle;
    size_t best = SIZE_MAX;
    uint8_t left[FARPOOL_KEY_MAX];
    for (unsigned i = first; i <= last; i++) {
        size_t len = fp_btree_separator(fp_btree_node_key(node, i - 1, left),
                                        fp_btree_node_key(node, i, buffer))
                         .len;
        unsigned distance = i < middle ? middle - i : i - middle;
        if (len < best || (len == best && distance == 0)) {
            best = len;
            *at = i;
        }
    }
    return (farpool_slice){fp_btree_node_key(node, *at, buffer).data, best};
}
