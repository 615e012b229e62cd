/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what the B+-tree promises a single thread at its limits: sizes of keys and values, bad arguments, bulk
 * loads that end early or find the tree in use, full slabs, and scans whose callback changes the tree. */
#include "farpool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/btree_check.h"
#include "tests/lib/testnode.h"

typedef struct fixture {
    test_node *node;
    farpool_pool *pool;
    farpool_partition *part;
    farpool_pid root;
    farpool_btree *tree;
} fixture;

static int setup(void **state)
{
    static fixture f;
    f.node = test_node_start("shm", 96u << 20);
    test_pool_open(&f.node, 1, FARPOOL_MAPPING_AUTO, 16 << 20, 64u << 20, &f.pool, &f.part);
    assert_int_equal(farpool_btree_create(f.part, &f.root, &f.tree), 0);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    farpool_btree_close(f->tree);
    test_pool_close(f->pool, f->part);
    test_node_stop(f->node);
    return 0;
}

static farpool_slice text(const char *string) { return (farpool_slice){string, strlen(string)}; }

static farpool_slice numbered(char *buffer, unsigned number)
{
    return (farpool_slice){buffer, (size_t)sprintf(buffer, "key%08u", number)};
}

static void limits(void **state)
{
    fixture *f = *state;
    char key[FARPOOL_KEY_MAX + 1];
    size_t len;
    memset(key, 'k', sizeof key);
    farpool_slice longest = {key, FARPOOL_KEY_MAX}, too_long = {key, sizeof key};
    assert_int_equal(farpool_btree_insert(f->tree, too_long, text("v")), FARPOOL_E_TOO_BIG);
    assert_int_equal(farpool_btree_insert(f->tree, (farpool_slice){key, 0}, text("v")),
                     FARPOOL_E_INVAL);
    assert_int_equal(farpool_btree_insert(f->tree, longest, (farpool_slice){NULL, 0}), 0);
    assert_int_equal(farpool_btree_lookup(f->tree, longest, NULL, 0, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(farpool_btree_insert(f->tree, longest, text("v")), FARPOOL_E_EXISTS);
    assert_int_equal(farpool_btree_update(f->tree, text("no"), text("v")), FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_btree_delete(f->tree, text("no")), FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_btree_delete(f->tree, longest), 0);
    assert_int_equal(test_btree_check(f->part, f->root).records, 0);
}

static void largest_value(void **state)
{
    fixture *f = *state;
    size_t len, size = FARPOOL_VALUE_MAX;
    uint8_t *value = malloc(size + 1), *back = malloc(size);
    assert_non_null(value);
    assert_non_null(back);
    for (size_t i = 0; i < size; i++)
        value[i] = (uint8_t)(i * 7 >> 3);
    farpool_slice whole = {value, size}, too_long = {value, size + 1};
    assert_int_equal(farpool_btree_put(f->tree, text("big"), too_long), FARPOOL_E_TOO_BIG);
    int rc = farpool_btree_put(f->tree, text("big"), whole);
    if (rc == FARPOOL_E_TOO_BIG) { /* the memory node's extents are smaller than the largest page */
        whole.len = size = FARPOOL_UNIT_BYTES * 16;
        rc = farpool_btree_put(f->tree, text("big"), whole);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(farpool_btree_lookup(f->tree, text("big"), back, 10, &len), FARPOOL_E_TOO_BIG);
    assert_int_equal(len, size);
    assert_int_equal(farpool_btree_lookup(f->tree, text("big"), back, size, &len), 0);
    assert_memory_equal(value, back, size);
    assert_int_equal(farpool_btree_put(f->tree, text("big"), text("small")), 0);
    assert_int_equal(test_btree_check(f->part, f->root).overflow_pages, 0);
    free(value);
    free(back);
}

typedef struct source {
    unsigned at, end, stop_at;
    int stop_code;
    char key[32];
} source;

static int next_record(void *arg, farpool_slice *key, farpool_slice *value)
{
    source *from = arg;
    if (from->at == from->stop_at)
        return from->stop_code;
    if (from->at == from->end)
        return 0;
    *key = numbered(from->key, from->at++);
    *value = *key;
    return 1;
}

static void bulk_loads(void **state)
{
    fixture *f = *state;
    source broken = {.end = 20000, .stop_at = 12345, .stop_code = FARPOOL_E_CLOSED};
    assert_int_equal(farpool_btree_bulk_load(f->tree, next_record, &broken, 49), FARPOOL_E_INVAL);
    assert_int_equal(farpool_btree_bulk_load(f->tree, next_record, &broken, 90), FARPOOL_E_CLOSED);
    assert_int_equal(test_btree_check(f->part, f->root).records, 12345);
    source second = {.end = 20000, .stop_at = UINT32_MAX};
    assert_int_equal(farpool_btree_bulk_load(f->tree, next_record, &second, 90), FARPOOL_E_EXISTS);
    assert_int_equal(test_btree_check(f->part, f->root).records, 12345);
    char key[32];
    size_t len;
    for (unsigned i = 0; i < 12345; i += 17)
        assert_int_equal(farpool_btree_lookup(f->tree, numbered(key, i), key, sizeof key, &len), 0);
}

static int same_key_twice(void *arg, farpool_slice *key, farpool_slice *value)
{
    *key = *value = text("twice");
    return ++*(int *)arg < 5;
}

static void bulk_load_wants_order(void **state)
{
    fixture *f = *state;
    int calls = 0;
    assert_int_equal(farpool_btree_bulk_load(f->tree, same_key_twice, &calls, 100),
                     FARPOOL_E_INVAL);
    assert_int_equal(calls, 2);
    assert_int_equal(test_btree_check(f->part, f->root).records, 1);
}

static void full_slab(void **state)
{
    fixture *f = *state;
    static char value[FARPOOL_UNIT_BYTES * 8];
    char key[32];
    unsigned n = 0;
    int rc;
    while (!(
        rc = farpool_btree_insert(f->tree, numbered(key, n), (farpool_slice){value, sizeof value})))
        n++;
    assert_int_equal(rc, FARPOOL_E_NOSPACE);
    assert_int_equal(test_btree_check(f->part, f->root).records, n);
    assert_true(n > 1000);
    /* what is deleted can be had again, and nothing was lost when it failed */
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(farpool_btree_delete(f->tree, numbered(key, i)), 0);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(farpool_btree_insert(f->tree, numbered(key, i),
                                                  (farpool_slice){value, sizeof value}),
                             0);
    }
}

static int delete_seen(void *arg, farpool_slice key, farpool_slice value)
{
    fixture *f = arg;
    assert_int_equal(value.len, key.len);
    assert_int_equal(farpool_btree_delete(f->tree, key), 0);
    return 0;
}

static void scans_hold_nothing(void **state)
{
    fixture *f = *state;
    for (int backward = 0; backward < 2; backward++) {
        source all = {.end = 5000, .stop_at = UINT32_MAX};
        assert_int_equal(farpool_btree_bulk_load(f->tree, next_record, &all, 100), 0);
        assert_int_equal(
            farpool_btree_scan(f->tree, (farpool_slice){NULL, 0}, backward, delete_seen, f), 0);
        test_btree_shape shape = test_btree_check(f->part, f->root);
        assert_int_equal(shape.records, 0);
        assert_int_equal(shape.height, 1);
    }
}

static void opens_only_roots(void **state)
{
    fixture *f = *state;
    farpool_btree *other;
    farpool_pid pid;
    void *page;
    assert_int_equal(farpool_page_alloc(f->part, 0, &pid, &page), 0);
    farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    assert_int_equal(farpool_btree_open(f->part, pid, &other), FARPOOL_E_CORRUPT);
    assert_int_equal(farpool_btree_open(f->part, pid + 1000, &other), FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_btree_put(f->tree, text("a"), text("b")), 0);
    assert_int_equal(farpool_btree_open(f->part, f->root, &other), 0);
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
        TEST(limits),           TEST(largest_value),
        TEST(bulk_loads),       TEST(bulk_load_wants_order),
        TEST(full_slab),        TEST(scans_hold_nothing),
        TEST(opens_only_roots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
