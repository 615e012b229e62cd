/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a bulk load of the B+-tree leaves behind when it ends early: the source's fault, a tree in use, or too few
 * pages, at whatever place of the load they run out. */
#include "farpool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "compute/btree_node.h"
#include "tests/lib/btree_check.h"
#include "tests/lib/testtree.h"

static int setup(void **state)
{
    static test_tree t;
    test_tree_open(&t, FARPOOL_MAPPING_AUTO, 8 << 20, 4 << 20);
    *state = &t;
    return 0;
}

static int teardown(void **state)
{
    test_tree_close(*state);
    return 0;
}

/* Records 0 to end - 1: keys of key_len bytes, values of value_len bytes, every tenth of large_len; what comes at
 * stop_at is something else. */
typedef struct source {
    unsigned at, end, stop_at;
    int stop_code; /* what next() returns there */
    farpool_slice stop_key, stop_value;
    size_t key_len, value_len, large_len;
    char key[FARPOOL_KEY_MAX + 1];
} source;

static char values[FARPOOL_VALUE_MAX + 1];

/* The number is at the end, so that longer keys have longer separators. */
static farpool_slice numbered(char *buffer, size_t len, unsigned number)
{
    return (farpool_slice){buffer, (size_t)sprintf(buffer, "%0*u", (int)len, number)};
}

static int next_record(void *arg, farpool_slice *key, farpool_slice *value)
{
    source *from = arg;
    if (from->at == from->end)
        return 0;
    if (from->at++ == from->stop_at) {
        *key = from->stop_key;
        *value = from->stop_value;
        return from->stop_code;
    }
    *key = numbered(from->key, from->key_len, from->at - 1);
    bool large = from->large_len && from->at % 10 == 5;
    *value = (farpool_slice){values, large ? from->large_len : from->value_len};
    return 1;
}

static source plain_source(unsigned end)
{
    return (source){.end = end, .stop_at = UINT32_MAX, .key_len = 8, .value_len = 20};
}

static void check_loaded(test_tree *t, const source *from, unsigned records)
{
    char key[FARPOOL_KEY_MAX + 1];
    size_t len;
    assert_int_equal(test_btree_check(t->part, t->root).records, records);
    for (unsigned i = 0; i < records; i++)
        assert_int_equal(
            farpool_btree_lookup(t->tree, numbered(key, from->key_len, i), NULL, 0, &len),
            FARPOOL_E_TOO_BIG);
}

static void empty_again(test_tree *t, const source *from, unsigned records)
{
    char key[FARPOOL_KEY_MAX + 1];
    for (unsigned i = 0; i < records; i++)
        assert_int_equal(farpool_btree_delete(t->tree, numbered(key, from->key_len, i)), 0);
    assert_int_equal(test_btree_check(t->part, t->root).height, 1);
}

/* The load ends with the code, and what came before is there. */
static void ends_at(test_tree *t, farpool_slice key, farpool_slice value, int code, const char *why)
{
    source from = plain_source(2000);
    from.stop_at = 1234;
    from.stop_code = 1;
    from.stop_key = key;
    from.stop_value = value;
    assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &from, 90), code);
    assert_non_null(strstr(farpool_errmsg(), why));
    assert_int_equal(from.at, 1235); /* it was asked for no more */
    check_loaded(t, &from, 1234);
    empty_again(t, &from, 1234);
}

static farpool_slice text(const char *string) { return (farpool_slice){string, strlen(string)}; }

static void sources_at_fault(void **state)
{
    test_tree *t = *state;
    static char long_key[FARPOOL_KEY_MAX + 1];
    memset(long_key, '9', sizeof long_key);
    ends_at(t, text("00001233"), text("v"), FARPOOL_E_INVAL,
            "record 1234 is the one before it again");
    ends_at(t, text("00001232"), text("v"), FARPOOL_E_INVAL,
            "record 1234 is below the one before it");
    ends_at(t, text("0000123"), text("v"), FARPOOL_E_INVAL,
            "record 1234 is below the one before it");
    ends_at(t, text(""), text("v"), FARPOOL_E_INVAL, "a key of no bytes");
    ends_at(t, text("9"), (farpool_slice){NULL, 1}, FARPOOL_E_INVAL, "at no address");
    ends_at(t, (farpool_slice){long_key, sizeof long_key}, text("v"), FARPOOL_E_TOO_BIG,
            "a key of 513 bytes");
    ends_at(t, text("9"), (farpool_slice){values, sizeof values}, FARPOOL_E_TOO_BIG,
            "a value of 4194241 bytes");
    source broken = plain_source(2000);
    broken.stop_at = 1234;
    broken.stop_code = FARPOOL_E_CLOSED; /* its own trouble */
    assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &broken, 90), FARPOOL_E_CLOSED);
    check_loaded(t, &broken, 1234);
}

static void trees_in_use(void **state)
{
    test_tree *t = *state;
    source first = plain_source(3000), second = plain_source(4000);
    assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &first, 49), FARPOOL_E_INVAL);
    assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &first, 101), FARPOOL_E_INVAL);
    assert_int_equal(first.at, 0);
    assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &first, 90), 0);
    unsigned pages = test_tree_pages_left(t);
    assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &second, 90), FARPOOL_E_EXISTS);
    assert_non_null(strstr(farpool_errmsg(), "not empty"));
    assert_int_equal(test_tree_pages_left(t), pages);
    check_loaded(t, &first, 3000);
}

static void nothing_to_load(void **state)
{
    test_tree *t = *state;
    source none = plain_source(0);
    assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &none, 100), 0);
    assert_int_equal(test_btree_check(t->part, t->root).records, 0);
}

/* Tries the load with ever more pages until they are enough: before that it is refused, gives all of them back, and the
 * tree is empty and as good as new. */
static void runs_out_of_pages(test_tree *t, source shape, unsigned fill_percent)
{
    unsigned all = test_tree_pages_left(t), pages = 0;
    int rc = FARPOOL_E_NOSPACE;
    for (; rc; pages++) {
        source from = shape;
        test_tree_leave(t, pages);
        rc = farpool_btree_bulk_load(t->tree, next_record, &from, fill_percent);
        if (!rc)
            break;
        assert_int_equal(rc, FARPOOL_E_NOSPACE);
        assert_non_null(strstr(farpool_errmsg(), "full"));
        assert_int_equal(test_tree_pages_left(t), pages);
        assert_int_equal(test_btree_check(t->part, t->root).records, 0);
        test_tree_leave_all(t);
    }
    assert_int_equal(test_tree_pages_left(t), 0);
    test_tree_leave_all(t);
    check_loaded(t, &shape, shape.end);
    test_btree_shape tree = test_btree_check(t->part, t->root);
    printf("%u pages, %u levels\n", pages, tree.height);
    assert_int_equal(pages, tree.leaves + tree.inner - 1 + tree.overflow_pages);
    empty_again(t, &shape, shape.end);
    assert_int_equal(test_tree_pages_left(t), all);
}

static void pages_run_out_anywhere(void **state)
{
    test_tree *t = *state;
    source wide = {.end = 2000, .key_len = 8, .value_len = 100}; /* many leaves, two levels */
    source high = {.end = 120, .key_len = FARPOOL_KEY_MAX, .value_len = 200}; /* more levels */
    source large = {.end = 400, .key_len = 12, .value_len = 100, .large_len = 4000};
    wide.stop_at = high.stop_at = large.stop_at = UINT32_MAX;
    runs_out_of_pages(t, wide, 100);
    runs_out_of_pages(t, high, 50);
    runs_out_of_pages(t, large, 90);
}

/* Records of the sizes at which values move out of the leaf, among the longest keys and the shortest. */
static void sizes_around_the_limit(void **state)
{
    test_tree *t = *state;
    static const size_t key_lens[] = {4, 100, FARPOOL_KEY_MAX};
    for (unsigned i = 0; i < sizeof key_lens / sizeof *key_lens; i++) {
        for (int more = -1; more <= 1; more++) {
            source from = plain_source(150);
            from.key_len = key_lens[i];
            from.value_len = (size_t)(FP_BTREE_RECORD_MAX - (int)from.key_len + more);
            from.large_len = 1;
            assert_int_equal(farpool_btree_bulk_load(t->tree, next_record, &from, 100), 0);
            check_loaded(t, &from, from.end);
            assert_int_equal(test_btree_check(t->part, t->root).overflow_pages,
                             more > 0 ? from.end / 10 * 9 : 0);
            empty_again(t, &from, from.end);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(sources_at_fault),       TEST(trees_in_use),           TEST(nothing_to_load),
        TEST(pages_run_out_anywhere), TEST(sizes_around_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
