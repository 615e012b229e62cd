/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what the B+-tree promises a single thread at its limits: sizes of keys and values, bad arguments, full slabs,
 * and what a scan's callback that changes the tree gets to see. */
#include "farpool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compute/btree_node.h"
#include "tests/lib/btree_check.h"
#include "tests/lib/testtree.h"

enum { SLAB = 64 << 20 };

static int setup(void **state)
{
    static test_tree t;
    test_tree_open(&t, FARPOOL_MAPPING_AUTO, 16 << 20, SLAB);
    *state = &t;
    return 0;
}

static int teardown(void **state)
{
    test_tree_close(*state);
    return 0;
}

static farpool_slice text(const char *string) { return (farpool_slice){string, strlen(string)}; }

static farpool_slice numbered(char *buffer, unsigned number)
{
    return (farpool_slice){buffer, (size_t)sprintf(buffer, "key%08u", number)};
}

/* Each call that takes a key refuses this one, and says why in words. */
static void check_refused(farpool_btree *tree, farpool_slice key, int code, const char *why)
{
    size_t len;
    assert_int_equal(farpool_btree_insert(tree, key, text("v")), code);
    assert_non_null(strstr(farpool_errmsg(), why));
    assert_int_equal(farpool_btree_update(tree, key, text("v")), code);
    assert_int_equal(farpool_btree_put(tree, key, text("v")), code);
    assert_int_equal(farpool_btree_delete(tree, key), code);
    assert_int_equal(farpool_btree_lookup(tree, key, NULL, 0, &len), code);
    assert_non_null(strstr(farpool_errmsg(), why));
}

static int no_record(void *arg, farpool_slice key, farpool_slice value)
{
    (void)arg, (void)key, (void)value;
    fail();
    return 1;
}

static void refused_arguments(void **state)
{
    test_tree *t = *state;
    char key[FARPOOL_KEY_MAX + 1];
    memset(key, 'k', sizeof key);
    farpool_slice too_long = {key, sizeof key};
    check_refused(t->tree, too_long, FARPOOL_E_TOO_BIG, "a key of 513 bytes");
    check_refused(t->tree, (farpool_slice){key, 0}, FARPOOL_E_INVAL, "a key of no bytes");
    check_refused(t->tree, (farpool_slice){NULL, 5}, FARPOOL_E_INVAL, "a key of no bytes");
    assert_int_equal(farpool_btree_scan(t->tree, too_long, 0, no_record, NULL), FARPOOL_E_TOO_BIG);
    assert_int_equal(farpool_btree_scan(t->tree, text(""), 1, no_record, NULL), 0);
    farpool_slice nowhere = {NULL, 3}, too_big = {key, FARPOOL_VALUE_MAX + 1};
    assert_int_equal(farpool_btree_insert(t->tree, text("k"), nowhere), FARPOOL_E_INVAL);
    assert_int_equal(farpool_btree_insert(t->tree, text("k"), too_big), FARPOOL_E_TOO_BIG);
    assert_non_null(strstr(farpool_errmsg(), "a value of 4194241 bytes; at most 4194240"));
    assert_int_equal(test_btree_check(t->part, t->root).records, 0);
    assert_int_equal(farpool_btree_insert(t->tree, text("k"), text("v")), 0);
    assert_int_equal(farpool_btree_insert(t->tree, text("k"), text("w")), FARPOOL_E_EXISTS);
    assert_int_equal(farpool_btree_put(t->tree, text("k"), too_big), FARPOOL_E_TOO_BIG);
    assert_int_equal(farpool_btree_update(t->tree, text("no"), text("v")), FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_btree_delete(t->tree, text("no")), FARPOOL_E_NOTFOUND);
    size_t len;
    assert_int_equal(farpool_btree_lookup(t->tree, text("k"), key, 1, &len), 0);
    assert_true(len == 1 && key[0] == 'v');
}

/* ---- sizes ------------------------------------------------------------------------------------ */

static uint8_t value_bytes[FARPOOL_VALUE_MAX], value_read[FARPOOL_VALUE_MAX];

/* A value that tells its length and where each byte stands. */
static farpool_slice value_of(size_t len)
{
    for (size_t i = 0; i < len; i++)
        value_bytes[i] = (uint8_t)(len + (i * 7 >> 3));
    return (farpool_slice){value_bytes, len};
}

static void check_stored(test_tree *t, farpool_slice key, size_t len)
{
    size_t got = 1;
    farpool_slice value = value_of(len);
    if (len) {
        assert_int_equal(farpool_btree_lookup(t->tree, key, value_read, len - 1, &got),
                         FARPOOL_E_TOO_BIG);
        assert_int_equal(got, len);
    }
    assert_int_equal(farpool_btree_lookup(t->tree, key, len ? value_read : NULL, len, &got), 0);
    assert_int_equal(got, len);
    assert_memory_equal(value.data, value_read, len);
}

/* Sizes around each limit, each put in the place of each other. */
static void sizes_around_the_limits(void **state)
{
    test_tree *t = *state;
    static const size_t key_lens[] = {1, 2, 4, FARPOOL_KEY_MAX - 1, FARPOOL_KEY_MAX};
    static uint8_t key_bytes[FARPOOL_KEY_MAX];
    unsigned pages = test_tree_pages_left(t);
    for (unsigned k = 0; k < sizeof key_lens / sizeof *key_lens; k++) {
        farpool_slice key = {key_bytes, key_lens[k]};
        size_t in_leaf = FP_BTREE_RECORD_MAX - key.len;
        const size_t lens[] = {
            0,           1,    sizeof(fp_btree_ref), sizeof(fp_btree_ref) + 1, in_leaf - 1, in_leaf,
            in_leaf + 1, 4095, FARPOOL_UNIT_BYTES,   FARPOOL_UNIT_BYTES + 1,   70000,
        };
        unsigned count = sizeof lens / sizeof *lens;
        for (unsigned from = 0; from < count; from++) {
            for (unsigned to = 0; to < count; to++) {
                assert_int_equal(farpool_btree_insert(t->tree, key, value_of(lens[from])), 0);
                check_stored(t, key, lens[from]);
                assert_int_equal(farpool_btree_update(t->tree, key, value_of(lens[to])), 0);
                check_stored(t, key, lens[to]);
                test_btree_shape shape = test_btree_check(t->part, t->root);
                assert_int_equal(shape.overflow_pages, lens[to] > in_leaf);
                assert_int_equal(farpool_btree_delete(t->tree, key), 0);
            }
        }
    }
    assert_int_equal(test_tree_pages_left(t), pages);
}

static void largest_value(void **state)
{
    test_tree *t = *state;
    assert_int_equal(farpool_btree_put(t->tree, text("big"), value_of(FARPOOL_VALUE_MAX)), 0);
    check_stored(t, text("big"), FARPOOL_VALUE_MAX);
    assert_int_equal(farpool_btree_put(t->tree, text("big"), text("small")), 0);
    assert_int_equal(test_btree_check(t->part, t->root).overflow_pages, 0);
}

/* Nodes of nothing but the largest records that stay in a leaf, under the longest separators. */
static void nodes_of_largest_records(void **state)
{
    test_tree *t = *state;
    enum { RECORDS = 500, STEP = 7, VALUE = FP_BTREE_RECORD_MAX - FARPOOL_KEY_MAX };
    uint8_t bytes[FARPOOL_KEY_MAX] = {0};
    farpool_slice key = {bytes, sizeof bytes};
    for (unsigned i = 0, n = 0; i < RECORDS; i++, n = (n + STEP) % RECORDS) {
        bytes[sizeof bytes - 2] = (uint8_t)(n >> 8);
        bytes[sizeof bytes - 1] = (uint8_t)n;
        assert_int_equal(farpool_btree_insert(t->tree, key, value_of(VALUE)), 0);
    }
    test_btree_shape shape = test_btree_check(t->part, t->root);
    assert_int_equal(shape.records, RECORDS);
    assert_int_equal(shape.overflow_pages, 0);
    assert_true(shape.leaves >= RECORDS / 16);
    for (unsigned n = 0; n < RECORDS; n++) {
        bytes[sizeof bytes - 2] = (uint8_t)(n >> 8);
        bytes[sizeof bytes - 1] = (uint8_t)n;
        check_stored(t, key, VALUE);
        assert_int_equal(farpool_btree_delete(t->tree, key), 0);
    }
    assert_int_equal(test_btree_check(t->part, t->root).height, 1);
}

/* ---- no space --------------------------------------------------------------------------------- */

static void full_slab(void **state)
{
    test_tree *t = *state;
    static char value[FARPOOL_UNIT_BYTES * 8];
    char key[32];
    unsigned n = 0;
    int rc;
    while (!(
        rc = farpool_btree_insert(t->tree, numbered(key, n), (farpool_slice){value, sizeof value})))
        n++;
    assert_int_equal(rc, FARPOOL_E_NOSPACE);
    assert_int_equal(test_btree_check(t->part, t->root).records, n);
    assert_true(n > 1000);
    /* what is deleted can be had again, and nothing was lost when it failed */
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(farpool_btree_delete(t->tree, numbered(key, i)), 0);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(farpool_btree_insert(t->tree, numbered(key, i),
                                                  (farpool_slice){value, sizeof value}),
                             0);
    }
}

/* With too few pages left for it, a split, and a value on a page of its own, are refused and cost nothing. */
static void refused_writes_keep_nothing(void **state)
{
    test_tree *t = *state;
    char key[32];
    unsigned n = 0;
    do
        assert_int_equal(farpool_btree_insert(t->tree, numbered(key, n++), value_of(500)), 0);
    while (n < 7); /* an eighth has no room in the root */
    for (unsigned spare = 0; spare < 2; spare++) {
        test_tree_leave(t, spare);
        farpool_slice next = numbered(key, n);
        assert_int_equal(farpool_btree_insert(t->tree, next, value_of(500)), FARPOOL_E_NOSPACE);
        assert_int_equal(farpool_btree_put(t->tree, next, value_of(8192)), FARPOOL_E_NOSPACE);
        assert_int_equal(test_tree_pages_left(t), spare);
        assert_int_equal(test_btree_check(t->part, t->root).records, n);
    }
    /* one page is left: for the value of a record that is not put in */
    assert_int_equal(farpool_btree_insert(t->tree, numbered(key, 0), value_of(4096)),
                     FARPOOL_E_EXISTS);
    assert_int_equal(farpool_btree_update(t->tree, numbered(key, n), value_of(4096)),
                     FARPOOL_E_NOTFOUND);
    assert_int_equal(test_tree_pages_left(t), 1);
    test_tree_leave(t, 2);
    assert_int_equal(farpool_btree_insert(t->tree, numbered(key, n), value_of(500)), 0);
    assert_int_equal(test_btree_check(t->part, t->root).height, 2);
    test_tree_leave_all(t);
}

/* ---- scans ------------------------------------------------------------------------------------ */

static int delete_seen(void *arg, farpool_slice key, farpool_slice value)
{
    test_tree *t = arg;
    assert_int_equal(value.len, 100);
    assert_int_equal(farpool_btree_delete(t->tree, key), 0);
    return 0;
}

static void scans_hold_nothing(void **state)
{
    test_tree *t = *state;
    char key[32];
    for (int backward = 0; backward < 2; backward++) {
        for (unsigned i = 0; i < 5000; i++)
            assert_int_equal(farpool_btree_insert(t->tree, numbered(key, i), value_of(100)), 0);
        assert_int_equal(
            farpool_btree_scan(t->tree, (farpool_slice){NULL, 0}, backward, delete_seen, t), 0);
        test_btree_shape shape = test_btree_check(t->part, t->root);
        assert_int_equal(shape.records, 0);
        assert_int_equal(shape.height, 1);
    }
}

/* What happens to a record after the leaf was copied, and what the scan makes of it. */
static const struct meanwhile {
    size_t before, after; /* lengths of the value; GONE: there is no record */
    size_t seen;
} meanwhile[] = {
#define GONE SIZE_MAX
    {1000, 1000, 1000}, /* a forward scan begins here, and changes the rest */
    /* what stood in the leaf: as it was */
    {10, 20, 10},
    {10, GONE, 10},
    {GONE, 10, GONE},
    {10, 5000, 10},
    /* values on pages of their own: as they are when their turn comes */
    {5000, 6000, 6000},
    {5000, 900, 900},
    {5000, 10, 10},
    {5000, 0, 0},
    {900, 100000, 100000},
    {5000, GONE, GONE},
    {GONE, 5000, GONE},
    {1000, 1000, 1000}, /* a backward scan begins here */
};
enum { MEANWHILE = sizeof meanwhile / sizeof *meanwhile };

typedef struct changing_scan {
    test_tree *t;
    int next, step; /* of meanwhile */
    bool changed;
} changing_scan;

static void change_all(test_tree *t)
{
    char key[32];
    for (unsigned i = 0; i < MEANWHILE; i++) {
        if (meanwhile[i].after != GONE)
            assert_int_equal(
                farpool_btree_put(t->tree, numbered(key, i), value_of(meanwhile[i].after)), 0);
        else
            assert_int_equal(farpool_btree_delete(t->tree, numbered(key, i)), 0);
    }
}

static int change_and_look(void *arg, farpool_slice key, farpool_slice value)
{
    changing_scan *scan = arg;
    char expected[32];
    if (!scan->changed)
        change_all(scan->t);
    scan->changed = true;
    while (meanwhile[scan->next].seen == GONE)
        scan->next += scan->step;
    assert_int_equal(key.len, numbered(expected, (unsigned)scan->next).len);
    assert_memory_equal(key.data, expected, key.len);
    assert_int_equal(value.len, meanwhile[scan->next].seen);
    assert_memory_equal(value.data, value_of(value.len).data, value.len);
    scan->next += scan->step;
    return 0;
}

static void scans_meet_changes(void **state)
{
    test_tree *t = *state;
    char key[32];
    for (int backward = 0; backward < 2; backward++) {
        changing_scan scan = {t, backward ? MEANWHILE - 1 : 0, backward ? -1 : 1, false};
        for (unsigned i = 0; i < MEANWHILE; i++) {
            if (meanwhile[i].before != GONE)
                assert_int_equal(
                    farpool_btree_insert(t->tree, numbered(key, i), value_of(meanwhile[i].before)),
                    0);
        }
        assert_int_equal(
            farpool_btree_scan(t->tree, (farpool_slice){NULL, 0}, backward, change_and_look, &scan),
            0);
        assert_int_equal(scan.next, backward ? -1 : MEANWHILE);
        for (unsigned i = 0; i < MEANWHILE; i++)
            if (meanwhile[i].after != GONE)
                assert_int_equal(farpool_btree_delete(t->tree, numbered(key, i)), 0);
    }
}

static void opens_only_roots(void **state)
{
    test_tree *t = *state;
    farpool_btree *other;
    farpool_pid pid;
    void *page;
    assert_int_equal(farpool_page_alloc(t->part, 0, &pid, &page), 0);
    farpool_unfix(t->part, pid, FARPOOL_EXCLUSIVE);
    assert_int_equal(farpool_btree_open(t->part, pid, &other), FARPOOL_E_CORRUPT);
    assert_int_equal(farpool_btree_open(t->part, pid + 1000, &other), FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_btree_put(t->tree, text("a"), text("b")), 0);
    assert_int_equal(farpool_btree_open(t->part, t->root, &other), 0);
    char value[4];
    size_t len;
    assert_int_equal(farpool_btree_lookup(other, text("a"), value, sizeof value, &len), 0);
    assert_int_equal(len, 1);
    farpool_btree_close(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(refused_arguments),  TEST(sizes_around_the_limits),
        TEST(largest_value),      TEST(nodes_of_largest_records),
        TEST(full_slab),          TEST(refused_writes_keep_nothing),
        TEST(scans_hold_nothing), TEST(scans_meet_changes),
        TEST(opens_only_roots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
