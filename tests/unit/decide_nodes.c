/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a coordinator decides on the nodes of a partition that has an owner: memory nodes that are lost, drained or
 * have forgotten, changes that come to nothing, storage nodes, and what becomes of a deleted partition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/duties.h"
#include "coordinator/record.h"
#include "tests/lib/decidemodel.h"
#include "tests/lib/require.h"

/* ---- other memory nodes ------------------------------------------------------------------------ */

static void a_lost_memory_node_is_replaced(void **state)
{
    (void)state;
    decide_open();
    char lost[FP_ID_ROOM];
    strcpy(lost, decide_part->r.memnodes.names[1]);
    decide_lose(lost);
    assert_int_equal(test_model_decide(&decide_model), 0);
    test_model_pass(&decide_model, FP_REPLACE_MS + 500);
    assert_int_equal(test_model_decide(&decide_model), 1);
    decide_check(FP_CHANGING, 2, "c0");
    assert_string_equal(decide_part->r.memnodes.names[1], "m3");
    assert_string_equal(decide_part->r.before.names[1], lost);
    json_t *duties =
        fp_duties(&decide_model, fp_model_member(&decide_model, decide_part->r.memnodes.names[0]));
    const json_t *fence = json_array_get(json_object_get(duties, "fences"), 0);
    assert_int_equal(json_integer_value(json_object_get(fence, "held")), 1);
    json_decref(duties);
    decide_owner_tells("c0", 2, "open", 0);
    test_model_decide(&decide_model);
    decide_check(FP_OPEN, 2, "c0");
    assert_int_equal(decide_part->r.before.count, 0);
}

static void duties_name_who_is_to_answer(void **state)
{
    (void)state;
    decide_open();
    json_t *duties = fp_duties(&decide_model, fp_model_member(&decide_model, "c0"));
    const json_t *part = json_array_get(json_object_get(duties, "partitions"), 0);
    const json_t *memnodes = json_object_get(part, "memnodes");
    for (unsigned i = 0; i < 3; i++) {
        char uri[80];
        const char *name = decide_part->r.memnodes.names[i];
        snprintf(uri, sizeof uri, "tcp://%s@%s:1", name, name);
        assert_string_equal(json_string_value(json_array_get(memnodes, i)), uri);
    }
    assert_string_equal(json_string_value(json_array_get(json_object_get(part, "storagenodes"), 0)),
                        "tcp://s0@s0:1");
    json_decref(duties);
    duties = fp_duties(&decide_model, fp_model_member(&decide_model, "s0"));
    assert_string_equal(json_string_value(json_array_get(json_object_get(duties, "peers"), 0)),
                        "tcp://s1@s1:1");
    json_decref(duties);
    duties = fp_duties(&decide_model, fp_model_member(&decide_model, "m0"));
    assert_string_equal(json_string_value(json_object_get(duties, "storage")), "tcp://s0@s0:1");
    json_decref(duties);
}

/* A node cannot have others take another one's answers for its own. */
static void nodes_join_with_addresses_that_name_nobody(void **state)
{
    (void)state;
    static const char *const uris[] = {"shm:///run/m", "shm://m0@/run/m", "tcp://m1@h:1"};
    for (int i = 0; i < 3; i++) {
        fp_member_record r;
        json_t *card = json_pack("{s:s, s:s, s:s, s:[s]}", "name", "m0", "role", "memory",
                                 "boot_id", "00000000000000aa", "uris", uris[i]);
        assert_int_equal(fp_card_read(card, &r), i ? FARPOOL_E_INVAL : 0);
        json_decref(card);
    }
}

/* The coordinator was stopped for longer than lost_ms: nobody is lost for that, nor for a connection that broke meanwhile;
 * who is silent from then on is. */
static void who_was_not_listened_to_is_not_lost(void **state)
{
    (void)state;
    decide_open();
    uint64_t before = decide_model.now_ns;
    fp_member *owner = fp_model_member(&decide_model, "c0");
    decide_model.now_ns += fp_ms(2 * FP_LOST_MS);
    fp_model_stood_still(&decide_model, before);
    fp_member_gone(&decide_model, owner, false);
    decide_model.now_ns += fp_ms(FP_LOST_MS - 1);
    assert_false(fp_member_lost(&decide_model, owner));
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_model.now_ns += fp_ms(1);
    assert_true(fp_member_lost(&decide_model, owner));
}

/* The owner does not reach a memory node that is up: it is taken in anew once, then another one takes its place. */
static void one_that_its_owner_cannot_use_is_replaced(void **state)
{
    (void)state;
    decide_open();
    char first[FP_ID_ROOM];
    strcpy(first, decide_part->r.memnodes.names[0]);
    test_model_tell(&decide_model, "c0", "{'id': 1, 'epoch': 1, 'state': 'open', 'lost': [0]}");
    assert_int_equal(test_model_decide(&decide_model), 1);
    decide_check(FP_CHANGING, 2, "c0");
    assert_string_equal(decide_part->r.memnodes.names[0], first);
    test_model_tell(&decide_model, "c0", "{'id': 1, 'epoch': 2, 'state': 'open', 'lost': [0]}");
    test_model_settle(&decide_model);
    decide_check(FP_OPEN, 2, "c0");
    test_model_pass(&decide_model, FP_LOST_MS);
    assert_int_equal(test_model_decide(&decide_model), 1);
    decide_check(FP_CHANGING, 3, "c0");
    assert_string_equal(decide_part->r.memnodes.names[0], "m3");
    assert_string_equal(decide_part->r.before.names[0], first);
}

/* Another coordinator leads now, and does not know yet which memory nodes have heard. */
static void an_owner_is_not_told_less_than_he_knows(void **state)
{
    (void)state;
    decide_open();
    decide_lose(decide_part->r.memnodes.names[1]);
    test_model_pass(&decide_model, FP_REPLACE_MS + 500);
    test_model_decide(&decide_model);
    decide_check(FP_CHANGING, 2, "c0");
    decide_part->epoch_revision = decide_model.revision + 1000;
    decide_part->since_ns = decide_model.now_ns;
    assert_int_equal(decide_epoch_told("c0"), 1);
    decide_owner_tells("c0", 2, "open", 0);
    assert_int_equal(decide_epoch_told("c0"), 2);
    decide_owner_tells("c0", 1, "open", 0);
    assert_int_equal(decide_epoch_told("c0"), 1);
    decide_part->r.phase = FP_ASSIGNED;
    assert_int_equal(decide_epoch_told("c0"), 0);
    decide_owner_tells("c0", 2, "opening", 0);
    assert_int_equal(decide_epoch_told("c0"), 2);
}

static void a_change_that_came_to_nothing_is_taken_back(void **state)
{
    (void)state;
    decide_open();
    fp_list before = decide_part->r.memnodes;
    decide_lose(before.names[1]);
    test_model_pass(&decide_model, FP_REPLACE_MS + 500);
    test_model_decide(&decide_model);
    decide_owner_tells("c0", 2, "open", FARPOOL_E_NOSPACE);
    test_model_decide(&decide_model);
    decide_check(FP_CHANGING, 3, "c0");
    assert_true(fp_list_same(&decide_part->r.memnodes, &before));
    decide_owner_tells("c0", 3, "open", 0);
    test_model_decide(&decide_model);
    decide_check(FP_OPEN, 3, "c0");
    assert_int_equal(test_model_decide(&decide_model), 0); /* not at once again */
    test_model_pass(&decide_model, 3000);
    assert_int_equal(test_model_decide(&decide_model), 1);
    decide_check(FP_CHANGING, 4, "c0");
}

/* Both lists count: an owner who was cut off from the new one only could go on with the old one. */
static void an_owner_lost_in_a_change_is_fenced_in_both_lists(void **state)
{
    (void)state;
    decide_open();
    decide_lose(decide_part->r.memnodes.names[2]);
    test_model_pass(&decide_model, FP_REPLACE_MS + 500);
    test_model_decide(&decide_model);
    decide_check(FP_CHANGING, 2, "c0");
    decide_lose("c0");
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 3, "c1");
    decide_raise("m3", 3, true);
    decide_raise(decide_part->r.memnodes.names[0], 3, true);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_raise(decide_part->r.memnodes.names[1], 3, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 3, "c1");
    decide_owner_tells("c1", 3, "open", 0);
    test_model_decide(&decide_model);
    assert_int_equal(decide_part->r.before.count, 0);
}

static void a_memory_node_that_forgot_is_taken_in_anew(void **state)
{
    (void)state;
    decide_open();
    test_model_set(&decide_model, "m0", FP_MEMBER, fp_model_member(&decide_model, "m0")->r.storage,
                   2);
    decide_raise("m0", 1, false);
    fp_list before = decide_part->r.memnodes;
    assert_int_equal(test_model_decide(&decide_model), 1);
    decide_check(FP_CHANGING, 2, "c0");
    assert_true(fp_list_same(&decide_part->r.memnodes, &before));
}

static void a_drained_memory_node_is_left(void **state)
{
    (void)state;
    decide_open();
    test_model_set(&decide_model, "m0", FP_DRAINING,
                   fp_model_member(&decide_model, "m0")->r.storage, 1);
    test_model_settle(&decide_model);
    decide_check(FP_CHANGING, 2, "c0");
    assert_false(fp_list_has(&decide_part->r.memnodes, "m0"));
    decide_owner_tells("c0", 2, "open", 0);
    test_model_settle(&decide_model);
    assert_int_equal(fp_model_member(&decide_model, "m0")->r.state,
                     FP_DRAINING); /* it holds a ring */
    json_t *duties = fp_duties(&decide_model, fp_model_member(&decide_model, "m0"));
    assert_int_equal(json_array_size(json_object_get(duties, "drop")), 1);
    json_decref(duties);
    test_model_tell(&decide_model, "m0", "");
    test_model_settle(&decide_model);
    assert_int_equal(fp_model_member(&decide_model, "m0")->r.state, FP_DRAINED);
}

static void rings_that_are_all_needed_stay(void **state)
{
    (void)state;
    decide_part->r.log_quorum = 3;
    decide_open();
    test_model_set(&decide_model, "m0", FP_DRAINING,
                   fp_model_member(&decide_model, "m0")->r.storage, 1);
    test_model_settle(&decide_model);
    decide_check(FP_OPEN, 1, "c0");
}

/* ---- storage nodes ----------------------------------------------------------------------------- */

static void a_lost_storage_node_is_replaced(void **state)
{
    (void)state;
    decide_open();
    assert_int_equal(decide_part->r.storagenodes.count, 2);
    decide_lose("s0");
    test_model_pass(&decide_model, FP_REPLACE_STORAGE_MS + 500);
    for (unsigned i = 0; i < 3; i++)
        decide_raise(decide_part->r.memnodes.names[i], 1, true);
    test_model_settle(&decide_model);
    for (unsigned i = 0; i < 4; i++)
        assert_string_equal(decide_model.members[2 + i]->r.storage, "s1");
    assert_int_equal(decide_part->r.storagenodes.count, 2); /* s1 is not whole yet */
    test_model_tell(&decide_model, "s1", "{'id': 1, 'epoch': 1, 'whole': true}");
    test_model_settle(&decide_model);
    assert_int_equal(decide_part->r.storagenodes.count, 1);
    assert_string_equal(decide_part->r.storagenodes.names[0], "s1");
}

static void a_drained_storage_node_keeps_its_copy_until_others_have_it(void **state)
{
    (void)state;
    decide_open();
    test_model_tell(&decide_model, "s0", "{'id': 1, 'epoch': 1, 'durable': 900, 'whole': true}");
    test_model_set(&decide_model, "s0", FP_DRAINING, "", 1);
    test_model_settle(&decide_model);
    test_model_tell(&decide_model, "s1", "{'id': 1, 'epoch': 1, 'durable': 900, 'whole': false}");
    test_model_settle(&decide_model);
    assert_int_equal(decide_part->r.storagenodes.count, 2);
    /* Nothing is known to it that it lacks, but what only the other has may have been acknowledged. */
    test_model_tell(&decide_model, "s1", "{'id': 1, 'epoch': 1, 'durable': 800, 'whole': true}");
    test_model_settle(&decide_model);
    assert_int_equal(decide_part->r.storagenodes.count, 2);
    test_model_tell(&decide_model, "s0", "{'id': 1, 'epoch': 1, 'durable': 0, 'whole': false}");
    test_model_settle(&decide_model); /* it has not looked yet */
    assert_int_equal(decide_part->r.storagenodes.count, 2);
    test_model_tell(&decide_model, "s0", "{'id': 1, 'epoch': 1, 'durable': 900, 'whole': true}");
    json_t *duties = fp_duties(&decide_model, fp_model_member(&decide_model, "s0"));
    assert_int_equal(json_array_size(json_object_get(duties, "drop")), 0);
    json_decref(duties);
    test_model_tell(&decide_model, "s1", "{'id': 1, 'epoch': 1, 'durable': 900, 'whole': true}");
    test_model_settle(&decide_model);
    duties = fp_duties(&decide_model, fp_model_member(&decide_model, "s0"));
    assert_int_equal(json_array_size(json_object_get(duties, "drop")), 1);
    json_decref(duties);
    assert_int_equal(fp_model_member(&decide_model, "s0")->r.state, FP_DRAINING);
    test_model_tell(&decide_model, "s0", "");
    test_model_settle(&decide_model);
    assert_int_equal(fp_model_member(&decide_model, "s0")->r.state, FP_DRAINED);
}

static void a_volume_that_takes_nothing_is_told(void **state)
{
    (void)state;
    decide_open();
    test_model_tell(&decide_model, "s0",
                    "{'id': 1, 'epoch': 1, 'durable': 9, 'whole': true, 'text': 'No space'}");
    json_t *stalled = fp_status_stalled(&decide_model);
    assert_string_equal(json_string_value(json_array_get(stalled, 0)),
                        "partition p: storage node s0: No space");
    json_decref(stalled);
    test_model_tell(&decide_model, "s0", "{'id': 1, 'epoch': 1, 'durable': 9, 'whole': true}");
    stalled = fp_status_stalled(&decide_model);
    assert_int_equal(json_array_size(stalled), 0);
    json_decref(stalled);
}

static void all_spill_to(const char *storage)
{
    for (unsigned i = 0; i < 4; i++) {
        char name[8];
        snprintf(name, sizeof name, "m%u", i);
        test_model_set(&decide_model, name, FP_MEMBER, storage, 1);
    }
}

static unsigned rings_on(const char *storage)
{
    unsigned count = 0;
    for (unsigned i = 0; i < 3; i++)
        count += !strcmp(
            fp_model_member(&decide_model, decide_part->r.memnodes.names[i])->r.storage, storage);
    return count;
}

static void a_log_is_spread_over_as_many_storage_nodes_as_there_are(void **state)
{
    (void)state;
    decide_open();
    all_spill_to("s1"); /* the other one was away */
    test_model_settle(&decide_model);
    assert_int_equal(rings_on("s0") + rings_on("s1"), 3);
    assert_in_range(rings_on("s0"), 1, 2);
    assert_true(fp_list_has(&decide_part->r.storagenodes, "s0"));
    decide_part->r.storage_quorum =
        3; /* more than there are: nothing helps, and nothing is changed */
    assert_int_equal(test_model_decide(&decide_model), 0);
}

static void memory_nodes_without_rings_spill_where_they_belong(void **state)
{
    (void)state;
    decide_part->r.state = FP_DELETED;
    decide_part->r.phase = FP_UNOWNED;
    decide_part->r.memnodes.count = decide_part->r.storagenodes.count = 0;
    char before[4][FP_ID_ROOM];
    for (unsigned i = 0; i < 4; i++)
        strcpy(before[i], decide_model.members[2 + i]->r.storage);
    all_spill_to("s1");
    test_model_settle(&decide_model);
    for (unsigned i = 0; i < 4; i++)
        assert_string_equal(decide_model.members[2 + i]->r.storage, before[i]);
    assert_int_equal(test_model_decide(&decide_model), 0);
}

/* ---- deleting ---------------------------------------------------------------------------------- */

static void a_deleted_partition_is_dropped_everywhere(void **state)
{
    (void)state;
    decide_open();
    test_model_tell(&decide_model, "s1", "{'id': 1, 'epoch': 1, 'whole': true}");
    fp_changes changes;
    static fp_txn txn;
    test_must(fp_changes_open(&changes), "changes");
    fp_decide_delete(&decide_model, &changes, decide_part);
    test_must(fp_txn_make(&txn, &decide_model, &changes, 0), "a transaction");
    txn.req.revision = ++decide_model.revision;
    test_must(fp_txn_apply(&txn, &decide_model, &changes), "its effect");
    fp_txn_close(&txn);
    fp_changes_close(&changes);
    assert_false(decide_is_told("c0"));
    test_model_settle(&decide_model);
    assert_int_equal(decide_part->r.phase, FP_DELETING);
    for (unsigned i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof name, "m%u", i);
        test_model_tell(&decide_model, name, "");
    }
    test_model_settle(&decide_model);
    assert_int_equal(decide_part->r.phase, FP_DELETING);
    test_model_tell(&decide_model, "s1", "");
    test_model_settle(&decide_model);
    assert_int_equal(decide_part->r.phase, FP_UNOWNED);
    assert_null(fp_model_part_named(&decide_model, "p"));
    test_model_tell(&decide_model, "m3",
                    "{'id': 1, 'epoch': 1, 'ring': 1, 'slab': 1}"); /* long away */
    json_t *duties = fp_duties(&decide_model, fp_model_member(&decide_model, "m3"));
    assert_int_equal(json_array_size(json_object_get(duties, "drop")), 1);
    json_decref(duties);
}
#define TEST(name) cmocka_unit_test_setup_teardown(name, decide_set_up, decide_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_lost_memory_node_is_replaced),
        TEST(one_that_its_owner_cannot_use_is_replaced),
        TEST(duties_name_who_is_to_answer),
        TEST(nodes_join_with_addresses_that_name_nobody),
        TEST(who_was_not_listened_to_is_not_lost),
        TEST(an_owner_is_not_told_less_than_he_knows),
        TEST(a_change_that_came_to_nothing_is_taken_back),
        TEST(an_owner_lost_in_a_change_is_fenced_in_both_lists),
        TEST(a_memory_node_that_forgot_is_taken_in_anew),
        TEST(a_drained_memory_node_is_left),
        TEST(rings_that_are_all_needed_stay),
        TEST(a_lost_storage_node_is_replaced),
        TEST(a_drained_storage_node_keeps_its_copy_until_others_have_it),
        TEST(a_log_is_spread_over_as_many_storage_nodes_as_there_are),
        TEST(a_volume_that_takes_nothing_is_told),
        TEST(memory_nodes_without_rings_spill_where_they_belong),
        TEST(a_deleted_partition_is_dropped_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
