/* SPDX-License-Identifier: Apache-2.0 */
/* Shows which logs are beginnings of which others when a log has forked, once and several times. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/lineage.h"

static void a_log_leads_to_a_fork_behind_its_end(void **state)
{
    (void)state;
    fp_lineage old = {0}, forked = {0};
    fp_lineage_fork(&forked, 1000, 5);
    assert_true(fp_lineage_number(&forked) == 5 && fp_lineage_at(&forked) == 1000);
    assert_true(fp_lineage_leads_to(&old, 1000, &forked));
    assert_false(fp_lineage_leads_to(&old, 1008, &forked));
    assert_true(fp_lineage_leads_to(&forked, 5000, &forked));
    assert_true(fp_lineage_reached(&forked, 992) == 0 && fp_lineage_reached(&forked, 1000) == 5);
}

/* Away for the second: what it had after the first counts up to the second. Away for both: up to the first. */
static void forks_in_a_row(void **state)
{
    (void)state;
    fp_lineage old = {0}, first = {0}, second;
    fp_lineage_fork(&first, 1000, 5);
    second = first;
    fp_lineage_fork(&second, 2000, 7);
    assert_true(fp_lineage_is_valid(&second) && second.count == 2);
    assert_true(fp_lineage_leads_to(&first, 2000, &second));
    assert_false(fp_lineage_leads_to(&first, 2008, &second));
    assert_true(fp_lineage_leads_to(&old, 1000, &second));
    assert_false(fp_lineage_leads_to(&old, 1008, &second));
}

/* Nobody who was asked had reached the first: it is given up. */
static void a_fork_that_nobody_has_reached(void **state)
{
    (void)state;
    fp_lineage old = {0}, first = {0}, second = {0};
    fp_lineage_fork(&first, 1000, 5);
    fp_lineage_fork(&second, 1500, 7);
    assert_false(fp_lineage_leads_to(&first, 1000, &second));
    assert_true(fp_lineage_leads_to(&first, 992, &second)); /* it had only joined */
    assert_true(fp_lineage_leads_to(&old, 1500, &second));
    fp_lineage_fork(&first, 800, 9); /* of a log that ends before its own last fork */
    assert_true(first.count == 1 && first.forks[0].number == 9 && first.forks[0].at == 800);
}

static void the_oldest_are_forgotten(void **state)
{
    (void)state;
    fp_lineage all = {0}, before = {0};
    for (uint64_t i = 1; i <= FP_FORKS_MAX + 2; i++) {
        if (i == 3)
            before = all; /* its last fork is 2, which is still known by its number */
        fp_lineage_fork(&all, 1000 * i, i);
        assert_true(fp_lineage_is_valid(&all));
    }
    assert_true(all.count == FP_FORKS_MAX && all.before == 2);
    assert_true(fp_lineage_leads_to(&before, 3000, &all));
    assert_false(fp_lineage_leads_to(&before, 3008, &all));
    assert_false(fp_lineage_leads_to(&before, 1000, &all)); /* it has reached 1 only: not known */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_leads_to_a_fork_behind_its_end),
        cmocka_unit_test(forks_in_a_row),
        cmocka_unit_test(a_fork_that_nobody_has_reached),
        cmocka_unit_test(the_oldest_are_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
