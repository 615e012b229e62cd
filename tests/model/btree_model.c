/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that the B+-tree does what a sorted array does, over random operations from one seed (SEED=n to
 * repeat a run): keys of many shapes, values from none to several pages, a pool so small that nodes come and
 * go all the time, in both mappings, and once without optimism. Every few thousand operations the whole tree is
 * walked.
 */
#include "farpool.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/btree_check.h"
#include "tests/lib/require.h"
#include "tests/lib/testtree.h"

enum { UNIVERSE = 6000, OPS = 40000, ROUND = 5000, VALUE_MAX = 300000 };

typedef struct model_record {
    uint8_t key[FARPOOL_KEY_MAX];
    size_t key_len;
    bool there;
    size_t value_len;
    uint64_t stamp; /* what the value is made from */
} model_record;

static model_record records[UNIVERSE];
static unsigned record_count;
static uint64_t rng;
static farpool_btree *tree;
static uint8_t value[VALUE_MAX], seen[VALUE_MAX];

static uint64_t below(uint64_t bound) { return test_random(&rng) % bound; }

static int compare_records(const void *a, const void *b)
{
    const model_record *x = a, *y = b;
    int c = memcmp(x->key, y->key, x->key_len < y->key_len ? x->key_len : y->key_len);
    return c ? c : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

static void make_key(model_record *record)
{
    switch (below(6)) {
    case 0: /* short, with zeroes */
        record->key_len = 1 + below(4);
        for (size_t i = 0; i < record->key_len; i++)
            record->key[i] = (uint8_t)(below(2) ? below(4) : 0);
        break;
    case 1: /* long, all alike to the last bytes */
        record->key_len = 480 + below(FARPOOL_KEY_MAX - 480 + 1);
        memset(record->key, 'x', record->key_len);
        for (unsigned i = 0; i < 4; i++)
            record->key[record->key_len - 1 - i] = (uint8_t)below(256);
        break;
    case 2: /* as people name things */
        record->key_len =
            (size_t)sprintf((char *)record->key, "lib%c%c-package-%u", (int)('a' + below(3)),
                            (int)('a' + below(26)), (unsigned)below(100000));
        break;
    case 3: /* one the beginning of the other */
        record->key_len = 1 + below(300);
        memset(record->key, 'p', record->key_len);
        break;
    default: /* numbers */
        record->key_len = 8;
        for (unsigned i = 4; i < 8; i++)
            record->key[i] = (uint8_t)below(256);
    }
}

static void make_universe(void)
{
    memset(records, 0, sizeof records);
    for (unsigned i = 0; i < UNIVERSE; i++)
        make_key(&records[i]);
    qsort(records, UNIVERSE, sizeof *records, compare_records);
    record_count = 1;
    for (unsigned i = 1; i < UNIVERSE; i++)
        if (compare_records(&records[i], &records[record_count - 1]) != 0)
            records[record_count++] = records[i];
}

static size_t random_len(void)
{
    switch (below(20)) {
    case 0:
        return 0;
    case 1:
        return 700 + below(8000);
    case 2:
        return below(10) ? 60 + below(800) : below(VALUE_MAX);
    default:
        return below(150);
    }
}

static void fill(uint8_t *to, const model_record *record)
{
    uint64_t state = record->stamp;
    for (size_t i = 0; i < record->value_len; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        to[i] = (uint8_t)(state >> 56);
    }
}

static farpool_slice key_of(const model_record *record)
{
    return (farpool_slice){record->key, record->key_len};
}

static void check_value(const model_record *record, const void *data, size_t len)
{
    REQUIRE(len == record->value_len);
    fill(value, record);
    REQUIRE(len == 0 || memcmp(value, data, len) == 0);
}

static void do_lookup(model_record *record)
{
    size_t len = 0, capacity = below(8) ? sizeof seen : below(200);
    int rc = farpool_btree_lookup(tree, key_of(record), seen, capacity, &len);
    if (!record->there) {
        REQUIRE(rc == FARPOOL_E_NOTFOUND);
    } else if (record->value_len > capacity) {
        REQUIRE(rc == FARPOOL_E_TOO_BIG && len == record->value_len);
    } else {
        REQUIRE(rc == 0);
        check_value(record, seen, len);
    }
}

static void do_write(model_record *record, unsigned how)
{
    model_record next = *record;
    next.value_len = random_len();
    next.stamp = test_random(&rng);
    next.there = true;
    fill(value, &next);
    farpool_slice v = {value, next.value_len};
    int rc = how == 0   ? farpool_btree_insert(tree, key_of(record), v)
             : how == 1 ? farpool_btree_update(tree, key_of(record), v)
                        : farpool_btree_put(tree, key_of(record), v);
    int expected = how == 0 && record->there    ? FARPOOL_E_EXISTS
                   : how == 1 && !record->there ? FARPOOL_E_NOTFOUND
                                                : 0;
    REQUIRE(rc == expected);
    if (!rc)
        *record = next;
}

static void do_delete(model_record *record)
{
    int rc = farpool_btree_delete(tree, key_of(record));
    REQUIRE(rc == (record->there ? 0 : FARPOOL_E_NOTFOUND));
    record->there = false;
}

typedef struct scan_state {
    int at, step; /* the next record to expect, at the earliest */
    unsigned left;
} scan_state;

static void skip_absent(scan_state *state)
{
    while (state->at >= 0 && state->at < (int)record_count && !records[state->at].there)
        state->at += state->step;
}

static int on_record(void *arg, farpool_slice key, farpool_slice found)
{
    scan_state *state = arg;
    skip_absent(state);
    REQUIRE(state->at >= 0 && state->at < (int)record_count);
    const model_record *record = &records[state->at];
    REQUIRE(key.len == record->key_len && memcmp(key.data, record->key, key.len) == 0);
    check_value(record, found.data, found.len);
    state->at += state->step;
    return --state->left == 0;
}

static void do_scan(bool backward, bool from_end, unsigned limit)
{
    int start = from_end ? (backward ? (int)record_count - 1 : 0) : (int)below(record_count);
    scan_state state = {start, backward ? -1 : 1, limit};
    farpool_slice from = from_end ? (farpool_slice){NULL, 0} : key_of(&records[start]);
    REQUIRE(farpool_btree_scan(tree, from, backward, on_record, &state) == 0);
    if (state.left) { /* it ended because there was no more */
        skip_absent(&state);
        REQUIRE(state.at < 0 || state.at >= (int)record_count);
    }
}

static void check_all(const test_tree *t)
{
    uint64_t there = 0;
    for (unsigned i = 0; i < record_count; i++)
        there += records[i].there;
    test_btree_shape shape = test_btree_check(t->part, t->root);
    REQUIRE(shape.records == there);
    do_scan(false, true, UINT32_MAX);
    do_scan(true, true, UINT32_MAX);
    printf("  %llu records, %llu leaves, height %u, %llu overflow pages\n",
           (unsigned long long)shape.records, (unsigned long long)shape.leaves, shape.height,
           (unsigned long long)shape.overflow_pages);
}

static void step(bool growing)
{
    model_record *record = &records[below(record_count)];
    switch (below(16)) {
    case 0 ... 3:
        do_write(record, 0);
        break;
    case 4:
        do_write(record, 1);
        break;
    case 5:
        do_write(record, 2);
        break;
    case 6 ... 10:
        if (growing && below(4))
            do_write(record, 2);
        else
            do_delete(record);
        break;
    case 11:
        if (!growing)
            do_delete(record);
        do_scan(below(2), below(8) == 0, 1 + (unsigned)below(100));
        break;
    default:
        do_lookup(record);
    }
}

static int next_bulk(void *arg, farpool_slice *key, farpool_slice *next)
{
    unsigned *at = arg;
    while (*at < record_count && !records[*at].there)
        ++*at;
    if (*at == record_count)
        return 0;
    fill(value, &records[*at]);
    *key = key_of(&records[*at]);
    *next = (farpool_slice){value, records[*at].value_len};
    ++*at;
    return 1;
}

/* Half of the universe, loaded at once. */
static void bulk_load(unsigned fill_percent)
{
    unsigned at = 0;
    for (unsigned i = 0; i < record_count; i++) {
        records[i].there = below(2);
        records[i].stamp = test_random(&rng);
        records[i].value_len = random_len();
    }
    REQUIRE(farpool_btree_bulk_load(tree, next_bulk, &at, fill_percent) == 0);
}

static void run(enum farpool_mapping mapping, bool bulk, bool latched)
{
    test_tree t;
    test_tree_open(&t, mapping, 2 << 20, 200u << 20);
    tree = test_tree_handle(&t, latched);
    make_universe();
    printf("mapping %d, %s, %s, %u keys\n", (int)mapping, bulk ? "bulk load" : "empty",
           latched ? "latched" : "optimistic", record_count);
    if (bulk)
        bulk_load(50 + (unsigned)below(51));
    check_all(&t);
    for (unsigned i = 0; i < OPS; i++) {
        step(i / (2 * ROUND) % 2 == (bulk ? 1u : 0u));
        if (i % ROUND == ROUND - 1)
            check_all(&t);
    }
    farpool_btree_close(tree);
    tree = test_tree_handle(&t, latched);
    for (unsigned i = 0; i < record_count; i++)
        if (records[i].there)
            do_delete(&records[i]);
    check_all(&t);
    REQUIRE(test_btree_check(t.part, t.root).leaves < 10); /* nodes that became empty were merged */
    farpool_btree_close(tree);
    test_tree_close(&t);
}

int main(void)
{
    rng = test_seed(1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    run(FARPOOL_MAPPING_FRAMES, false, false);
    run(FARPOOL_MAPPING_FRAMES, true, false);
    run(FARPOOL_MAPPING_VM, false, false);
    run(FARPOOL_MAPPING_VM, true, false);
    run(FARPOOL_MAPPING_FRAMES, false, true);
    return 0;
}
