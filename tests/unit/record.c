/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that records come back from JSON as they were, and that one with any field missing or of another kind is refused
 * with E_CORRUPT, key and field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/record.h"

static json_t *some_part(fp_part_record *r)
{
    *r = (fp_part_record){.id = 7,
                          .epoch = 9,
                          .opened = 8,
                          .owner_boot = 0xabc,
                          .name = "p",
                          .owner = "c0",
                          .phase = FP_CHANGING,
                          .when_lost = FP_LOST_STORAGE,
                          .made = true,
                          .doubt = 3,
                          .memnodes = {2, {"m0", "m1"}},
                          .before = {1, {"m2"}},
                          .storagenodes = {1, {"s0"}},
                          .slab_bytes = 5,
                          .space_bytes = 6,
                          .log_ring_bytes = 7,
                          .log_copies = 3,
                          .log_quorum = 2,
                          .storage_quorum = 1,
                          .memnode_count = 3};
    return fp_part_json(r);
}

static json_t *some_member(fp_member_record *r)
{
    *r = (fp_member_record){.name = "m0",
                            .role = FP_ROLE_MEMORY,
                            .state = FP_DRAINING,
                            .uri_count = 1,
                            .uris = {"tcp://a:1"},
                            .zone = "z",
                            .storage = "s0",
                            .bytes = 1 << 20,
                            .boot_id = UINT64_MAX,
                            .standby = true};
    return fp_member_json(r);
}

static void they_come_back(void **state)
{
    (void)state;
    fp_part_record part, part_again;
    fp_member_record member, member_again;
    json_t *object = some_part(&part);
    assert_int_equal(fp_part_read("k", object, &part_again), 0);
    assert_memory_equal(&part, &part_again, sizeof part);
    json_decref(object);
    object = some_member(&member);
    assert_int_equal(fp_member_read("k", object, &member_again), 0);
    assert_memory_equal(&member, &member_again, sizeof member);
    json_decref(object);
}

/* Without each field in turn, and with something else there. Lists may be missing: then they are empty. */
static void damage(const json_t *whole, int (*read)(const char *, const json_t *, void *))
{
    char record[sizeof(fp_part_record) + sizeof(fp_member_record)];
    const char *field;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)whole, field, value)
    {
        json_t *damaged = json_deep_copy(whole);
        json_object_set_new(damaged, field, json_real(1.5));
        assert_int_equal(read("partitions/7", damaged, record), FARPOOL_E_CORRUPT);
        assert_non_null(strstr(farpool_errmsg(), "partitions/7"));
        assert_non_null(strstr(farpool_errmsg(), field));
        json_object_del(damaged, field);
        assert_int_equal(read("partitions/7", damaged, record),
                         json_is_array(value) ? 0 : FARPOOL_E_CORRUPT);
        json_decref(damaged);
    }
}

static int read_part(const char *where, const json_t *object, void *record)
{
    return fp_part_read(where, object, record);
}

static int read_member(const char *where, const json_t *object, void *record)
{
    return fp_member_read(where, object, record);
}

static void damaged_ones_are_refused(void **state)
{
    (void)state;
    fp_part_record part;
    fp_member_record member;
    json_t *object = some_part(&part);
    damage(object, read_part);
    json_decref(object);
    object = some_member(&member);
    damage(object, read_member);
    json_decref(object);
}

static void names_are_checked(void **state)
{
    (void)state;
    assert_int_equal(fp_name_check("node", "m-1.a_B"), 0);
    static const char *const bad[] = {
        "",    "12",       "a b",
        "a/b", "\xc3\xa4", "0123456789012345678901234567890123456789012345678901234567890123x"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(fp_name_check("node", bad[i]), FARPOOL_E_INVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_come_back),
        cmocka_unit_test(damaged_ones_are_refused),
        cmocka_unit_test(names_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
