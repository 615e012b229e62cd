/* SPDX-License-Identifier: Apache-2.0 */
/* Shows who is chosen: nodes in different zones, racks and hosts where there are any, load evenly spread, the same answer
 * to the same question. In clusters drawn from SEED. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/place.h"
#include "tests/lib/testmodel.h"

enum { ROUNDS = 200, GIB = 1 << 30 };

static uint64_t state_of_random;

static unsigned draw(unsigned below)
{
    state_of_random ^= state_of_random << 13;
    state_of_random ^= state_of_random >> 7;
    state_of_random ^= state_of_random << 17;
    return (unsigned)(state_of_random % below);
}

static unsigned distinct_zones(const fp_model *model, const fp_list *list)
{
    unsigned count = 0;
    for (unsigned i = 0; i < list->count; i++) {
        bool seen = false;
        for (unsigned j = 0; j < i; j++)
            seen = seen || !strcmp(fp_model_member(model, list->names[i])->r.zone,
                                   fp_model_member(model, list->names[j])->r.zone);
        count += !seen;
    }
    return count;
}

static void zones_differ_where_they_can(void **state)
{
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        fp_model model;
        test_model_open(&model);
        unsigned zones = 1 + draw(5), nodes = 3 + draw(12);
        bool used[5] = {0};
        for (unsigned i = 0; i < nodes; i++) {
            char name[16], zone[16];
            unsigned z = draw(zones);
            used[z] = true;
            snprintf(name, sizeof name, "m%02u", i);
            snprintf(zone, sizeof zone, "z%u", z);
            test_model_member(&model, FP_ROLE_MEMORY, name, zone, GIB);
        }
        unsigned there = used[0] + used[1] + used[2] + used[3] + used[4];
        fp_part *part = test_model_part(&model, "p");
        fp_list list = {0}, again = {0};
        assert_true(fp_decide_place(&model, part, &list));
        assert_int_equal(list.count, 3);
        assert_int_equal(distinct_zones(&model, &list), there < 3 ? there : 3);
        for (size_t i = 0; i < model.member_count; i++)
            memset(&model.members[i]->planned, 0, sizeof model.members[i]->planned);
        assert_true(fp_decide_place(&model, part, &again));
        assert_true(fp_list_same(&list, &again));
        fp_model_clear(&model);
    }
}

/* Racks and hosts count where zones are equal. */
static void racks_and_hosts_differ(void **state)
{
    (void)state;
    static const char *const racks[] = {"r0", "r0", "r0", "r1", "r1", "r2"};
    fp_model model;
    test_model_open(&model);
    for (unsigned i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        strcpy(test_model_member(&model, FP_ROLE_MEMORY, name, "z", GIB)->r.rack, racks[i]);
    }
    fp_list list = {0};
    fp_part *part = test_model_part(&model, "p");
    assert_true(fp_decide_place(&model, part, &list));
    assert_string_equal(list.names[0], "m0");
    assert_string_equal(list.names[1], "m3");
    assert_string_equal(list.names[2], "m5");
    for (unsigned i = 0; i < 6; i++) {
        strcpy(model.members[i]->r.rack, "");
        strcpy(model.members[i]->r.host, i < 4 ? "one" : model.members[i]->r.name);
        memset(&model.members[i]->planned, 0, sizeof model.members[i]->planned);
    }
    list.count = 0;
    assert_true(fp_decide_place(&model, part, &list));
    assert_true(fp_list_has(&list, "m4") && fp_list_has(&list, "m5"));
    fp_model_clear(&model);
}

/* Equal nodes get equally much, within one partition; small ones less. */
static void load_is_even(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        fp_model model;
        test_model_open(&model);
        unsigned nodes = 3 + draw(6), parts = 1 + draw(40);
        for (unsigned i = 0; i < nodes; i++) {
            char name[16];
            snprintf(name, sizeof name, "m%u", i);
            test_model_member(&model, FP_ROLE_MEMORY, name, "", GIB);
        }
        for (unsigned i = 0; i < parts; i++) {
            char name[16];
            snprintf(name, sizeof name, "p%u", i);
            test_model_part(&model, name);
        }
        test_model_settle(&model);
        unsigned least = UINT32_MAX, most = 0;
        for (size_t i = 0; i < model.member_count; i++) {
            unsigned rings = fp_place_rings(&model, model.members[i]);
            least = rings < least ? rings : least;
            most = rings > most ? rings : most;
        }
        assert_true(most - least <= 1);
        fp_model_clear(&model);
    }
}

static void full_ones_and_others_are_left_out(void **state)
{
    (void)state;
    fp_model model;
    test_model_open(&model);
    test_model_member(&model, FP_ROLE_MEMORY, "small", "a", 1 << 20);
    test_model_member(&model, FP_ROLE_STORAGE, "s", "b", GIB);
    test_model_member(&model, FP_ROLE_MEMORY, "drains", "c", GIB);
    test_model_set(&model, "drains", FP_DRAINING, "", 1);
    fp_member *gone = test_model_member(&model, FP_ROLE_MEMORY, "gone", "d", GIB);
    fp_member_gone(&model, gone, true);
    test_model_member(&model, FP_ROLE_MEMORY, "m0", "", GIB);
    test_model_member(&model, FP_ROLE_MEMORY, "m1", "", GIB);
    fp_list list = {0};
    fp_part *part = test_model_part(&model, "p");
    assert_false(fp_decide_place(&model, part, &list));
    assert_int_equal(list.count, 2);
    assert_true(fp_list_has(&list, "m0") && fp_list_has(&list, "m1"));
    fp_model_clear(&model);
}

static void storage_nodes_of_the_zone_come_first(void **state)
{
    (void)state;
    fp_model model;
    test_model_open(&model);
    test_model_member(&model, FP_ROLE_STORAGE, "s0", "a", GIB);
    test_model_member(&model, FP_ROLE_STORAGE, "s1", "b", GIB);
    test_model_member(&model, FP_ROLE_STORAGE, "s2", "b", GIB);
    for (unsigned i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        test_model_member(&model, FP_ROLE_MEMORY, name, i < 4 ? "b" : i < 5 ? "a" : "c", GIB);
    }
    test_model_settle(&model);
    static const char *const expected[] = {"s1", "s2", "s1", "s2", "s0", "s0"};
    for (unsigned i = 0; i < 6; i++)
        assert_string_equal(model.members[i]->r.storage, expected[i]);
    fp_model_clear(&model);
}

static void partitions_of_a_lost_owner_are_shared_out(void **state)
{
    (void)state;
    fp_model model;
    test_model_open(&model);
    for (unsigned i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%u", i);
        test_model_member(&model, FP_ROLE_MEMORY, name, "", GIB);
    }
    test_model_member(&model, FP_ROLE_COMPUTE, "c0", "", 0);
    for (unsigned i = 0; i < 60; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%u", i);
        test_model_part(&model, name);
    }
    test_model_settle(&model);
    test_model_member(&model, FP_ROLE_COMPUTE, "c1", "", 0);
    test_model_member(&model, FP_ROLE_COMPUTE, "c2", "", 0);
    fp_member_gone(&model, fp_model_member(&model, "c0"), true);
    assert_int_equal(test_model_decide(&model), FP_CHANGE_ITEMS_MAX); /* as many as go in at once */
    test_model_settle(&model);
    unsigned of_c1 = 0, of_c2 = 0;
    for (size_t i = 0; i < model.part_count; i++) {
        of_c1 += !strcmp(model.parts[i]->r.owner, "c1");
        of_c2 += !strcmp(model.parts[i]->r.owner, "c2");
    }
    assert_true(of_c1 == 30 && of_c2 == 30);
    fp_model_clear(&model);
}

int main(void)
{
    const char *seed = getenv("SEED");
    state_of_random = seed ? strtoull(seed, NULL, 10) : 1;
    printf("SEED=%llu\n", (unsigned long long)state_of_random);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zones_differ_where_they_can),
        cmocka_unit_test(racks_and_hosts_differ),
        cmocka_unit_test(load_is_even),
        cmocka_unit_test(full_ones_and_others_are_left_out),
        cmocka_unit_test(storage_nodes_of_the_zone_come_first),
        cmocka_unit_test(partitions_of_a_lost_owner_are_shared_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
