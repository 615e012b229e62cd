/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a coordinator decides on owners and their logs in each phase of a partition, and in the odd cases: reports
 * that are too old, owners who come back as they were or as others, rings that are blank, too few nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/duties.h"
#include "tests/lib/decidemodel.h"

/* ---- the first owner -------------------------------------------------------------------------- */

static void an_owner_is_told_when_rings_know(void **state)
{
    (void)state;
    decide_check(FP_FENCING, 1, "c0");
    assert_false(decide_is_told("c0"));
    decide_raise("m0", 1, false);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_raise("m1", 1, false);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 1, "c0");
    assert_false(decide_is_told("c0")); /* m2 is up and has not been told */
    decide_raise("m2", 1, false);
    assert_true(decide_is_told("c0"));
    assert_false(decide_is_told("c1"));
    decide_owner_tells("c0", 1, "opening", 0);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_owner_tells("c0", 1, "open", 0);
    test_model_settle(&decide_model);
    decide_check(FP_OPEN, 1, "c0");
    assert_true(decide_part->r.made && decide_part->r.opened == 1);
}

static void nodes_that_stay_silent_are_waited_for_so_long(void **state)
{
    (void)state;
    decide_raise("m0", 1, false);
    decide_raise("m1", 1, false);
    test_model_settle(&decide_model);
    assert_false(decide_is_told("c0"));
    test_model_pass(&decide_model, FP_GRACE_MS + 1);
    assert_true(decide_is_told("c0"));
}

static void who_found_commits_says_that_it_is_made(void **state)
{
    (void)state;
    decide_raise("m0", 1, false);
    decide_raise("m1", 1, false);
    test_model_settle(&decide_model);
    decide_owner_tells("c0", 1, "failed", FARPOOL_E_EXISTS);
    assert_int_equal(test_model_decide(&decide_model), 1);
    decide_check(FP_FENCING, 2, "c0");
    assert_true(decide_part->r.made);
}

static void a_wish_is_waited_for(void **state)
{
    (void)state;
    fp_part *other = test_model_part(&decide_model, "q");
    strcpy(other->r.wish, "c9");
    test_model_settle(&decide_model);
    assert_int_equal(other->r.phase, FP_UNOWNED);
    assert_int_equal(other->r.memnodes.count, 3);
    test_model_member(&decide_model, FP_ROLE_COMPUTE, "c9", "", 0)->r.standby = false;
    test_model_settle(&decide_model);
    assert_int_equal(other->r.phase, FP_FENCING);
    assert_string_equal(other->r.owner, "c9");
}

static bool is_stalled_by(const char *words)
{
    json_t *stalled = fp_status_stalled(&decide_model);
    bool found = false;
    for (size_t i = 0; i < json_array_size(stalled); i++)
        found = found || strstr(json_string_value(json_array_get(stalled, i)), words);
    json_decref(stalled);
    return found;
}

static void too_few_nodes_are_waited_for_and_told_of(void **state)
{
    (void)state;
    fp_part *other = test_model_part(&decide_model, "q");
    other->r.log_copies = other->r.memnode_count = 5;
    other->r.log_quorum = 3;
    assert_int_equal(test_model_decide(&decide_model), 0);
    assert_true(is_stalled_by("partition q waits for memory nodes: it needs 5"));
    test_model_member(&decide_model, FP_ROLE_MEMORY, "m9", "", DECIDE_BYTES);
    test_model_settle(&decide_model);
    assert_int_equal(other->r.phase, FP_FENCING);
}

/* Who has it could not use it; somebody else gets it after a pause. */
static void let_fail(const char *owner, const char *told)
{
    test_model_tell(&decide_model, owner, told);
    assert_int_equal(test_model_decide(&decide_model), 0);
    test_model_pass(&decide_model, 1000);
    test_model_settle(&decide_model);
}

/* c0 is told to make it, m2 is lost, and c0 fails. */
static void lose_before_it_is_made(const char *told)
{
    for (unsigned i = 0; i < 3; i++)
        decide_raise(decide_part->r.memnodes.names[i], 1, false);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 1, "c0");
    decide_lose("m2");
    let_fail("c0", told);
    decide_check(FP_FENCING, 2, "c1");
}

static void what_nobody_has_made_is_placed_anew(void **state)
{
    (void)state;
    lose_before_it_is_made("{'id': 1, 'epoch': 1, 'held': 0, 'state': 'failed', 'code': -1}");
    assert_string_equal(decide_part->r.memnodes.names[2], "m3");
    decide_lose("m0"); /* nobody has been told of this epoch yet */
    test_model_member(&decide_model, FP_ROLE_MEMORY, "m4", "", DECIDE_BYTES);
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 3, "c1");
    assert_string_equal(decide_part->r.memnodes.names[0], "m4");
    decide_raise("m1", 3, false);
    decide_raise("m3", 3, false);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 3, "c1");
    assert_false(decide_part->r.made);
}

/* It was open under that epoch: who else was told of it cannot have been the first any more. */
static void what_somebody_may_have_made_is_not(void **state)
{
    (void)state;
    lose_before_it_is_made("{'id': 1, 'epoch': 1, 'held': 1, 'state': 'failed', 'code': -1}");
    decide_raise("m0", 2, false);
    decide_raise("m1", 2, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 2, "c1");
    assert_string_equal(decide_part->r.memnodes.names[2], "m2");
    assert_false(decide_part->r.made);
    let_fail("c1", "{'id': 1, 'epoch': 2, 'held': 0, 'state': 'failed', 'code': -1}");
    decide_check(FP_FENCING, 3, "c0");
    assert_string_equal(decide_part->r.memnodes.names[2], "m2");
    decide_raise("m0", 3, true);
    decide_raise("m1", 3, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 3, "c0");
    assert_true(decide_part->r.made); /* and can be recovered without m2 */
}

static void a_new_one_waits_for_storage_nodes_to_ask(void **state)
{
    (void)state;
    decide_lose("s0");
    fp_part *other = test_model_part(&decide_model, "q");
    test_model_settle(&decide_model);
    assert_int_equal(other->r.phase, FP_UNOWNED);
    assert_true(is_stalled_by("partition q waits for its storage nodes"));
    test_model_pass(&decide_model, decide_model.settings.replace_storage_ms);
    test_model_settle(&decide_model); /* its memory nodes spill to the other one now */
    assert_int_equal(other->r.phase, FP_FENCING);
    assert_int_equal(other->r.storagenodes.count, 1);
    assert_string_equal(other->r.storagenodes.names[0], "s1");
}

/* ---- another owner ---------------------------------------------------------------------------- */

static void a_lost_owner_is_replaced(void **state)
{
    (void)state;
    decide_open();
    fp_member_gone(&decide_model, fp_model_member(&decide_model, "c0"), false);
    test_model_pass(&decide_model, FP_GRACE_MS - 1);
    assert_int_equal(test_model_decide(&decide_model), 0); /* it may come back */
    test_model_pass(&decide_model, 1);
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 2, "c1");
    decide_raise("m0", 1, true); /* what is older than the decision says nothing */
    decide_raise("m1", 2, true);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_raise("m0", 2, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 2, "c1");
    decide_owner_tells("c1", 1, "open", 0);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_owner_tells("c1", 2, "open", 0);
    test_model_settle(&decide_model);
    decide_check(FP_OPEN, 2, "c1");
}

static void who_takes_its_leave_is_replaced_at_once(void **state)
{
    (void)state;
    decide_open();
    fp_member_gone(&decide_model, fp_model_member(&decide_model, "c0"), true);
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 2, "c1");
}

/* The coordinator was away, or the network between them: it joins again as the same process. */
static void an_owner_that_comes_back_goes_on(void **state)
{
    (void)state;
    decide_open();
    fp_member *owner = fp_model_member(&decide_model, "c0");
    fp_member_gone(&decide_model, owner, false);
    test_model_pass(&decide_model, 300);
    owner->joined = true;
    fp_member_heard(&decide_model, owner);
    decide_owner_tells("c0", 1, "open", 0);
    test_model_pass(&decide_model, 5000);
    for (unsigned i = 0; i < 3; i++)
        decide_raise(decide_part->r.memnodes.names[i], 1, true);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_check(FP_OPEN, 1, "c0");
}

static void another_process_of_that_name_is_another_owner(void **state)
{
    (void)state;
    decide_open();
    test_model_set(&decide_model, "c0", FP_MEMBER, "", 2);
    test_model_settle(&decide_model);
    assert_int_equal(decide_part->r.phase, FP_FENCING);
    assert_int_equal(decide_part->r.epoch, 2);
    assert_false(decide_is_told("c0"));
}

static void failures_have_pauses_that_grow(void **state)
{
    (void)state;
    decide_open();
    unsigned waited = 0;
    for (unsigned epoch = 1; epoch < 8; epoch++) {
        decide_owner_tells(decide_part->r.owner, epoch, "failed", FARPOOL_E_FENCED);
        unsigned ms = 0;
        while (!test_model_decide(&decide_model)) {
            test_model_pass(&decide_model, 10);
            ms += 10;
            assert_true(ms < 10000);
        }
        assert_true(ms >= waited);
        waited = ms;
        assert_int_equal(decide_part->r.epoch, epoch + 1);
        decide_raise("m0", epoch + 1, true);
        decide_raise("m1", epoch + 1, true);
        test_model_settle(&decide_model);
        assert_int_equal(decide_part->r.phase, FP_ASSIGNED);
    }
    assert_true(waited > 1000);
    assert_string_equal(decide_part->r.owner, "c1"); /* they take turns */
}

static void the_only_one_tries_again(void **state)
{
    (void)state;
    decide_open();
    fp_member_gone(&decide_model, fp_model_member(&decide_model, "c1"), true);
    decide_owner_tells("c0", 1, "failed", FARPOOL_E_NODE);
    test_model_pass(&decide_model, 0);
    test_model_decide(&decide_model);
    test_model_pass(&decide_model, 1000);
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 2, "c0");
}

static void a_drained_owner_hands_over(void **state)
{
    (void)state;
    decide_open();
    test_model_set(&decide_model, "c0", FP_DRAINING, "", 1);
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 2, "c1");
    assert_int_equal(fp_model_member(&decide_model, "c0")->r.state, FP_DRAINED);
    /* Nobody else is there for what c1 has: it stays. */
    test_model_set(&decide_model, "c1", FP_DRAINING, "", 1);
    decide_raise("m0", 2, true);
    decide_raise("m1", 2, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 2, "c1");
    assert_int_equal(fp_model_member(&decide_model, "c1")->r.state, FP_DRAINING);
}

/* ---- rings ------------------------------------------------------------------------------------ */

static void blank_rings_do_not_count(void **state)
{
    (void)state;
    decide_open();
    decide_lose("c0");
    test_model_settle(&decide_model);
    decide_raise("m0", 2, false); /* it has restarted */
    decide_raise("m1", 2, true);
    assert_int_equal(test_model_decide(&decide_model), 0); /* m2 may have the log */
    decide_raise("m2", 2, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 2, "c1");
}

/* Somebody was granted them, and came to nothing before there was a log. */
static void a_log_that_is_gone_waits_for_a_person(void **state)
{
    (void)state;
    decide_open();
    decide_lose("c0");
    test_model_settle(&decide_model);
    decide_raise("m0", 2, false);
    decide_raise("m1", 2, false);
    decide_raise("m2", 2, true);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_part->r.when_lost = FP_LOST_STORAGE;
    assert_int_equal(test_model_decide(&decide_model), 1);
    decide_check(FP_ASSIGNED, 2, "c1");
    assert_true(decide_part->r.stored);
    decide_owner_tells("c1", 2, "open", 0);
    test_model_decide(&decide_model);
    assert_false(decide_part->r.stored);
}

static void tell_blank(const char *name, unsigned epoch)
{
    char text[200];
    snprintf(text, sizeof text, "{'id': 1, 'epoch': %u, 'ring': 4096, 'slab': 0, 'blank': true}",
             epoch);
    test_model_tell(&decide_model, name, text);
}

/* All nodes restart when rings are fenced; the next owner is granted new ones, and cannot open it. */
static void rings_that_nobody_has_filled_are_no_logs(void **state)
{
    (void)state;
    decide_open();
    decide_part->r.when_lost = FP_LOST_STORAGE;
    decide_lose("c0");
    test_model_settle(&decide_model);
    for (unsigned i = 0; i < 3; i++)
        decide_raise(decide_part->r.memnodes.names[i], 2, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 2, "c1");
    assert_false(decide_part->r.stored);
    decide_owner_tells("c1", 2, "failed", FARPOOL_E_NODE);
    test_model_settle(&decide_model);
    test_model_pass(&decide_model, 1000);
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 3, "c1");
    tell_blank("m0", 3);
    assert_int_equal(test_model_decide(&decide_model), 0);
    tell_blank("m1", 3);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 3, "c1");
    assert_true(decide_part->r.stored);
}

/* m3 has taken the place of one that is up still, but the owner was lost before he had filled its ring; then another ring
 * is lost. The old list still has enough. */
static void a_log_that_the_list_before_has_is_not_gone(void **state)
{
    (void)state;
    decide_open();
    decide_part->r.when_lost = FP_LOST_STORAGE;
    char *leaving = decide_part->r.memnodes.names[2], left[FP_ID_ROOM];
    strcpy(left, leaving);
    test_model_set(&decide_model, left, FP_DRAINING,
                   fp_model_member(&decide_model, left)->r.storage, 1);
    test_model_decide(&decide_model);
    decide_check(FP_CHANGING, 2, "c0");
    assert_string_equal(leaving, "m3");
    decide_lose("c0");
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 3, "c1");
    decide_raise(decide_part->r.memnodes.names[0], 3, false);
    decide_raise(decide_part->r.memnodes.names[1], 3, true);
    tell_blank("m3", 3);
    assert_int_equal(test_model_decide(&decide_model), 0);
    decide_raise(left, 3, true);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 3, "c1");
    assert_string_equal(decide_part->r.memnodes.names[2], left);
    assert_int_equal(decide_part->r.before.count, 0);
}

/* The same, and the ring that both lists have is silent: nobody waits for it, nor for a person. Unless the new node may have
 * lost what it had: then that ring may be the only one to have a commit. */
static void who_was_never_filled_holds_nobody_up(void **state)
{
    (void)state;
    decide_open();
    char left[FP_ID_ROOM];
    strcpy(left, decide_part->r.memnodes.names[2]);
    test_model_set(&decide_model, left, FP_DRAINING,
                   fp_model_member(&decide_model, left)->r.storage, 1);
    test_model_decide(&decide_model);
    decide_check(FP_CHANGING, 2, "c0");
    decide_lose("c0");
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 3, "c1");
    decide_raise(decide_part->r.memnodes.names[1], 3, true);
    decide_raise(left, 3, true);
    decide_raise("m3", 3, false);
    assert_int_equal(test_model_decide(&decide_model), 0);
    tell_blank("m3", 3);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 3, "c1");
    assert_false(decide_part->r.stored);
    assert_string_equal(decide_part->r.memnodes.names[2], left);
    assert_int_equal(decide_part->r.before.count, 0);
}

static void nodes_that_are_lost_for_good_can_be_replaced(void **state)
{
    (void)state;
    decide_open();
    fp_list list = decide_part->r.memnodes;
    test_model_set(&decide_model, list.names[0], FP_DRAINING, "", 1); /* it has a log */
    decide_lose(list.names[1]);
    fp_decide_replace_lost(&decide_model, decide_part, &list);
    assert_string_equal(list.names[0], decide_part->r.memnodes.names[0]);
    assert_string_equal(list.names[1], "m3");
    decide_lose(list.names[2]);
    fp_decide_replace_lost(&decide_model, decide_part, &list); /* nobody is left */
    assert_string_equal(list.names[2], decide_part->r.memnodes.names[2]);
}

/* Or nobody could go on above it, and the record could not be read any more. */
static void an_epoch_that_cannot_be_is_not_followed(void **state)
{
    (void)state;
    decide_open();
    test_model_tell(&decide_model, "m1",
                    "{'id': 1, 'epoch': 9223372036854775807, 'ring': 4096, 'slab': 4096}");
    decide_lose("c0");
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 2, "c1");
}

static void numbers_are_not_given_again_after_a_metastore_was_lost(void **state)
{
    (void)state;
    decide_open();
    assert_int_equal(fp_model_next_part(&decide_model), decide_model.next_partition);
    test_model_tell(&decide_model, "s0",
                    "{'id': 1, 'epoch': 1, 'whole': true}, {'id': 40, 'epoch': 1, 'whole': true}");
    assert_int_equal(fp_model_next_part(&decide_model), 41);
}

static void epochs_go_on_above_all_that_are_known(void **state)
{
    (void)state;
    decide_open();
    decide_raise("m1", 41, true); /* of a metastore that was lost */
    decide_lose("c0");
    test_model_settle(&decide_model);
    decide_check(FP_FENCING, 42, "c1");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, decide_set_up, decide_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_owner_is_told_when_rings_know),
        TEST(nodes_that_stay_silent_are_waited_for_so_long),
        TEST(who_found_commits_says_that_it_is_made),
        TEST(a_wish_is_waited_for),
        TEST(too_few_nodes_are_waited_for_and_told_of),
        TEST(what_nobody_has_made_is_placed_anew),
        TEST(what_somebody_may_have_made_is_not),
        TEST(a_new_one_waits_for_storage_nodes_to_ask),
        TEST(a_lost_owner_is_replaced),
        TEST(who_takes_its_leave_is_replaced_at_once),
        TEST(an_owner_that_comes_back_goes_on),
        TEST(another_process_of_that_name_is_another_owner),
        TEST(failures_have_pauses_that_grow),
        TEST(the_only_one_tries_again),
        TEST(a_drained_owner_hands_over),
        TEST(blank_rings_do_not_count),
        TEST(a_log_that_is_gone_waits_for_a_person),
        TEST(rings_that_nobody_has_filled_are_no_logs),
        TEST(a_log_that_the_list_before_has_is_not_gone),
        TEST(who_was_never_filled_holds_nobody_up),
        TEST(nodes_that_are_lost_for_good_can_be_replaced),
        TEST(an_epoch_that_cannot_be_is_not_followed),
        TEST(numbers_are_not_given_again_after_a_metastore_was_lost),
        TEST(epochs_go_on_above_all_that_are_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
