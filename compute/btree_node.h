/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node of the B+-tree: one page of 4 KiB.
 *
 *   0        32                    heap              upper_at    lower_at  4096
 *   [ header | slots 0..count-1 → | free | ← records | upper fence | lower fence ]
 *
 * A slot is one word that a reader gets with one load:
 *
 *   63         32 31       16 15  14        0
 *   [   head     | offset    | o | key bytes ]
 *
 * head is the beginning of the key, big-endian and filled up with zeroes, so that most comparisons are of
 * two integers that lie side by side; o says that the value is on a page of its own. A record is the key,
 * then in a leaf two bytes of value length and the value, in an inner node the 8 bytes of a child's pid.
 *
 * Fences: a node holds keys k with lower <= k < upper. An empty lower fence is below every key; no upper
 * fence is above every key. What the fences begin with in common, every key between begins with too: it
 * is left out of the records (prefix). Separators are the shortest that separate.
 *
 * Inner nodes: `first` is the child for keys below slot 0's; slot i's child is for keys from its own on.
 * So a split adds one slot to the parent, and a merge removes one.
 *
 * The functions marked FP_RACY may be given a page that is being written: they return nonsense then, but
 * never read outside it.
 */
#ifndef FP_COMPUTE_BTREE_NODE_H
#define FP_COMPUTE_BTREE_NODE_H

#include <stdbool.h>

#include "compute/btree_racy.h"
#include "farpool.h"

enum {
    FP_BTREE_MAGIC = 0xB73E,
    FP_BTREE_HEADER = 32,
    FP_BTREE_SLOTS_MAX = (FARPOOL_UNIT_BYTES - FP_BTREE_HEADER) / 8,
    /* Key and value of a record: with two fences of the longest keys four of them fit. */
    FP_BTREE_RECORD_MAX = (FARPOOL_UNIT_BYTES - FP_BTREE_HEADER - 2 * FARPOOL_KEY_MAX) / 4 - 10,
    FP_BTREE_SEPARATOR_MAX = FARPOOL_KEY_MAX + 16, /* with slot and pid */
    FP_BTREE_UNDERFULL = FARPOOL_UNIT_BYTES / 4,
    FP_BTREE_MERGED_MAX = FARPOOL_UNIT_BYTES / 8 * 7,
    FP_BTREE_LEVELS_MAX = 32,
};

/* What stands in a leaf instead of a value that has pages of its own; in the byte order of the host. */
typedef struct fp_btree_ref {
    farpool_pid pid;
    uint32_t len;
} __attribute__((packed)) fp_btree_ref;

/* Whether a leaf's record has its value on pages of its own; never a value that takes no more room than what would
 * stand for it. */
static inline bool fp_btree_overflows(size_t key_len, size_t value_len)
{
    return key_len + value_len > FP_BTREE_RECORD_MAX && value_len > sizeof(fp_btree_ref);
}

/* guarded by the page's latch; read without it through FP_RACY functions only */
typedef struct fp_btree_node {
    uint16_t magic;
    uint8_t level; /* 0: leaf */
    uint8_t has_upper;
    uint16_t count;
    uint16_t heap;    /* offset of the lowest record */
    uint16_t garbage; /* bytes of removed records above heap */
    uint16_t prefix;
    uint16_t lower_at, lower_len;
    uint16_t upper_at, upper_len;
    uint32_t reserved;
    farpool_pid first;
    uint64_t slots[];
} fp_btree_node;

_Static_assert(sizeof(fp_btree_node) == FP_BTREE_HEADER, "header");

typedef union fp_btree_image { /* a node outside the pool */
    fp_btree_node node;
    uint8_t bytes[FARPOOL_UNIT_BYTES];
} fp_btree_image;

enum fp_btree_towards {
    FP_BTREE_AT,     /* where the key belongs */
    FP_BTREE_BEFORE, /* where the greatest key below it belongs */
    FP_BTREE_LAST,   /* the right edge; the key does not matter */
};

typedef struct fp_btree_target {
    farpool_slice key;
    enum fp_btree_towards towards;
} fp_btree_target;

static inline unsigned fp_btree_slot_offset(uint64_t slot) { return (slot >> 16) & 0xFFFF; }
static inline unsigned fp_btree_slot_key_len(uint64_t slot) { return slot & 0x7FFF; }
static inline bool fp_btree_slot_overflow(uint64_t slot) { return slot & 0x8000; }

static inline uint32_t fp_btree_head(const uint8_t *key, size_t len)
{
    uint32_t head = 0;
    if (__builtin_expect(len >= 4, 1)) {
        memcpy(&head, key, 4);
        return __builtin_bswap32(head);
    }
    for (size_t i = 0; i < len; i++)
        head |= (uint32_t)key[i] << (24 - 8 * i);
    return head;
}

/* The key of a slot against ours, both without the prefix; any number for nonsense. */
FP_RACY static int fp_btree_compare(const fp_btree_node *node, uint64_t slot, const uint8_t *key,
                                    size_t len)
{
    unsigned offset = fp_btree_slot_offset(slot), there = fp_btree_slot_key_len(slot);
    if (offset + there > FARPOOL_UNIT_BYTES)
        return 1;
    int c = fp_racy_compare((const uint8_t *)node + offset, key, there < len ? there : len);
    return c ? c : there < len ? -1 : there > len;
}

/* Binary search among the n slots from *low for the first that is not below the bound, without a branch that
 * depends on a comparison, until at most `enough` are left; returns how many. */
FP_RACY static unsigned fp_btree_narrow(const fp_btree_node *node, uint64_t bound, unsigned n,
                                        unsigned enough, unsigned *low)
{
    while (n > enough) {
        unsigned half = (n + 1) / 2;
        *low += fp_racy_u64(&node->slots[*low + half - 1]) < bound ? half : 0;
        n -= half;
    }
    return n;
}

/* The number of slots with keys below the one given; *equal: the next one is the key. */
FP_RACY static unsigned fp_btree_search(const fp_btree_node *node, farpool_slice key, bool *equal)
{
    unsigned count = fp_racy_u16(&node->count), prefix = fp_racy_u16(&node->prefix);
    if (count > FP_BTREE_SLOTS_MAX)
        count = FP_BTREE_SLOTS_MAX;
    size_t skip = prefix < key.len ? prefix : key.len, len = key.len - skip;
    const uint8_t *rest = (const uint8_t *)key.data + skip;
    uint32_t head = len ? fp_btree_head(rest, len) : 0;
    uint64_t bound = (uint64_t)head << 32;
    unsigned low = 0;
    *equal = false;
    unsigned n = count;
    if (count > 64) {
        /* Of a large node, where the first steps lead, at once instead of one after the other; */
        for (unsigned i = 1; i < 8; i++)
            __builtin_prefetch(&node->slots[count * i / 8]);
        n = fp_btree_narrow(node, bound, n, 32, &low);
        /* and the records among which the last ones choose: neighbours here often are there, too. */
        const uint8_t *record =
            (const uint8_t *)node + fp_btree_slot_offset(fp_racy_u64(&node->slots[low + n / 2]));
        for (int line = -2; line <= 2; line++)
            __builtin_prefetch(record + 64 * line);
    }
    fp_btree_narrow(node, bound, n, 0, &low);
    for (unsigned high = count, mid = low; low < high; mid = (low + high) / 2) {
        uint64_t slot = fp_racy_u64(&node->slots[mid]);
        const uint8_t *record = (const uint8_t *)node + fp_btree_slot_offset(slot);
        __builtin_prefetch(record + 64); /* the value, wanted next: while the key is compared */
        __builtin_prefetch(record + 128);
        int c = slot >> 32 != head ? 1 : fp_btree_compare(node, slot, rest, len);
        if (c < 0) {
            low = mid + 1;
        } else {
            high = mid;
            *equal = c == 0;
        }
    }
    return low;
}

/* Which child: -1 for `first`, else a slot. */
FP_RACY static int fp_btree_child_index(const fp_btree_node *node, const fp_btree_target *target)
{
    bool equal;
    unsigned count = fp_racy_u16(&node->count);
    if (target->towards == FP_BTREE_LAST)
        return (int)(count > FP_BTREE_SLOTS_MAX ? 0 : count) - 1;
    unsigned at = fp_btree_search(node, target->key, &equal);
    return (int)at - 1 + (equal && target->towards == FP_BTREE_AT);
}

/* The child's pid; FARPOOL_PID_NONE for nonsense. */
FP_RACY static farpool_pid fp_btree_child(const fp_btree_node *node, int index)
{
    if (index < 0)
        return fp_racy_u64(&node->first);
    uint64_t slot = fp_racy_u64(&node->slots[index]);
    unsigned at = fp_btree_slot_offset(slot) + fp_btree_slot_key_len(slot);
    farpool_pid pid = FARPOOL_PID_NONE;
    if (at + sizeof pid <= FARPOOL_UNIT_BYTES)
        fp_racy_copy(&pid, (const uint8_t *)node + at, sizeof pid);
    return pid;
}

/* The value of a leaf's record; data is NULL for nonsense. */
FP_RACY static farpool_slice fp_btree_value(const fp_btree_node *node, uint64_t slot)
{
    unsigned at = fp_btree_slot_offset(slot) + fp_btree_slot_key_len(slot);
    uint16_t len;
    if (at + sizeof len > FARPOOL_UNIT_BYTES)
        return (farpool_slice){NULL, 0};
    fp_racy_copy(&len, (const uint8_t *)node + at, sizeof len);
    if (at + sizeof len + len > FARPOOL_UNIT_BYTES)
        return (farpool_slice){NULL, 0};
    return (farpool_slice){(const uint8_t *)node + at + sizeof len, len};
}

/* ---- from here on with the page latched, or outside the pool ---------------------------------- */

farpool_slice fp_btree_lower(const fp_btree_node *node);
farpool_slice fp_btree_upper(const fp_btree_node *node);

/* Makes a node without records. The fences may not lie in the node. upper is ignored unless has_upper. */
void fp_btree_node_init(fp_btree_node *node, unsigned level, farpool_slice lower, bool has_upper,
                        farpool_slice upper);

/* Bytes that records and slots may still take, after compaction if need be. */
unsigned fp_btree_node_room(const fp_btree_node *node);
/* Bytes that slots and records take. */
unsigned fp_btree_node_used(const fp_btree_node *node);
/* Bytes that a record would take, slot included. */
unsigned fp_btree_record_bytes(const fp_btree_node *node, size_t key_len, size_t value_len);

/* Whether a record has room: at a position found by fp_btree_search, instead of the one there or not. */
bool fp_btree_node_takes(const fp_btree_node *node, unsigned at, bool instead, size_t key_len,
                         size_t value_len);
/* Inserts at a position found by fp_btree_search; false if there is no room. */
bool fp_btree_node_insert(fp_btree_node *node, unsigned at, farpool_slice key, farpool_slice value,
                          bool overflow);
void fp_btree_node_remove(fp_btree_node *node, unsigned at);
/* Gives a leaf's record another value; false, and nothing has changed, if there is no room. */
bool fp_btree_node_replace(fp_btree_node *node, unsigned at, farpool_slice key, farpool_slice value,
                           bool overflow);
/* Appends records [from, to) of another node, whose fences may be others; false: not all fit. */
bool fp_btree_node_append(fp_btree_node *node, const fp_btree_node *source, unsigned from,
                          unsigned to);
/* Writes the whole key of a slot to buffer (FARPOOL_KEY_MAX bytes). */
farpool_slice fp_btree_node_key(const fp_btree_node *node, unsigned at, uint8_t *buffer);

/* Where to split, and the separator in buffer: slots from *at on go right. */
farpool_slice fp_btree_node_split_at(const fp_btree_node *node, unsigned *at, uint8_t *buffer);
/* The shortest key s with left < s <= right; it is the beginning of right. */
farpool_slice fp_btree_separator(farpool_slice left, farpool_slice right);

#endif
