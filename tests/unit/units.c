/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that the buddy allocator gives out aligned blocks that never overlap, merges what comes back, and
 * finds room as long as there is some; against a plain array of who has what. */
#include "common/units.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void fills_and_empties(void **state)
{
    (void)state;
    fp_units units;
    assert_int_equal(fp_units_open(&units, 1000), 0);
    uint64_t got[1000];
    for (unsigned i = 0; i < 1000; i++) {
        got[i] = fp_units_alloc(&units, 0);
        assert_int_equal(got[i], i);
    }
    assert_true(fp_units_alloc(&units, 0) == FP_UNIT_NONE);
    for (unsigned i = 0; i < 1000; i++)
        fp_units_free(&units, got[i], 0);
    assert_int_equal(fp_units_used(&units), 0);
    /* everything merged again: 1000 = 512 + 256 + 128 + 64 + 32 + 8 */
    assert_int_equal(fp_units_alloc(&units, 9), 0);
    assert_int_equal(fp_units_alloc(&units, 8), 512);
    assert_true(fp_units_alloc(&units, 10) == FP_UNIT_NONE);
    fp_units_close(&units);
}

static void skips_for_alignment(void **state)
{
    (void)state;
    fp_units units;
    assert_int_equal(fp_units_open(&units, 64), 0);
    assert_int_equal(fp_units_alloc(&units, 0), 0);
    assert_int_equal(fp_units_alloc(&units, 4), 16);
    assert_int_equal(fp_units_alloc(&units, 0), 1); /* what was skipped is not lost */
    assert_int_equal(fp_units_alloc(&units, 3), 8);
    fp_units_close(&units);
}

static void many_at_once(void **state)
{
    (void)state;
    fp_units units;
    uint32_t got[128];
    assert_int_equal(fp_units_open(&units, 100), 0);
    assert_int_equal(fp_units_alloc_many(&units, got, 128), 100);
    fp_units_free_many(&units, got + 50, 50);
    assert_int_equal(fp_units_used(&units), 50);
    assert_int_equal(fp_units_alloc_many(&units, got, 128), 50);
    fp_units_close(&units);
}

static void takes_what_is_asked_for(void **state)
{
    (void)state;
    fp_units units;
    assert_int_equal(fp_units_open(&units, 100), 0);
    assert_true(fp_units_take(&units, 32, 3));
    assert_false(fp_units_take(&units, 36, 0));
    assert_false(fp_units_take(&units, 0, 6));
    assert_false(fp_units_take(&units, 33, 1)); /* not aligned */
    assert_true(fp_units_take(&units, 99, 0));
    assert_false(fp_units_take(&units, 100, 0));
    assert_false(fp_units_take(&units, 96, 3)); /* beyond the end */
    assert_int_equal(fp_units_alloc(&units, 5), 0);
    assert_int_equal(fp_units_alloc(&units, 5), 64);
    assert_int_equal(fp_units_alloc(&units, 3), 40);
    fp_units_close(&units);
}

enum { TOTAL = 5000, BLOCKS = 2000, STEPS = 200000 };

/* Takes a block where it may or may not be free. */
static uint64_t take_somewhere(fp_units *units, unsigned order, unsigned *seed,
                               const unsigned char *taken)
{
    uint64_t unit = ((uint64_t)rand_r(seed) % TOTAL) & ~((1ull << order) - 1);
    bool is_free = unit + (1u << order) <= TOTAL;
    for (uint64_t u = unit; is_free && u < unit + (1u << order); u++)
        is_free = !taken[u];
    assert_int_equal(fp_units_take(units, unit, order), is_free);
    return is_free ? unit : FP_UNIT_NONE;
}

static void random_against_array(void **state)
{
    (void)state;
    const char *text = getenv("SEED");
    unsigned seed = text ? (unsigned)strtoul(text, NULL, 10) : 20261121u;
    printf("SEED=%u\n", seed);
    static unsigned char taken[TOTAL];
    static struct {
        uint64_t unit;
        unsigned order;
    } block[BLOCKS];
    memset(taken, 0, sizeof taken);
    unsigned n = 0;
    fp_units units;
    assert_int_equal(fp_units_open(&units, TOTAL), 0);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned order = (unsigned)rand_r(&seed) % 6;
        if (n < BLOCKS && rand_r(&seed) % 2) {
            uint64_t unit = rand_r(&seed) % 4 ? fp_units_alloc(&units, order)
                                              : take_somewhere(&units, order, &seed, taken);
            if (unit == FP_UNIT_NONE)
                continue;
            assert_int_equal(unit & ((1u << order) - 1), 0);
            for (uint64_t u = unit; u < unit + (1u << order); u++) {
                assert_true(u < TOTAL && !taken[u]);
                taken[u] = 1;
            }
            block[n].unit = unit;
            block[n++].order = order;
        } else if (n) {
            unsigned i = (unsigned)rand_r(&seed) % n;
            memset(taken + block[i].unit, 0, 1u << block[i].order);
            fp_units_free(&units, block[i].unit, block[i].order);
            block[i] = block[--n];
        }
    }
    while (n--)
        fp_units_free(&units, block[n].unit, block[n].order);
    assert_int_equal(fp_units_used(&units), 0);
    fp_units_close(&units);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_and_empties),    cmocka_unit_test(skips_for_alignment),
        cmocka_unit_test(many_at_once),         cmocka_unit_test(takes_what_is_asked_for),
        cmocka_unit_test(random_against_array),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
