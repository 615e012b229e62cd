/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a memory node of a cluster grants only what coordinators have said, to whom they have said; that a fence cuts
 * off whoever had the partition, before anybody else is told of it, also where nothing is granted any more; and that it tells
 * what is so. Over shm and tcp, with duties given to it directly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/error.h"
#include "memnode/server.h"
#include "tests/lib/nodeclient.h"

static void tell(json_t *duties)
{
    assert_non_null(duties);
    fp_memnode_duties(test_node_hold(node), duties);
    test_node_let_go(node);
    json_decref(duties);
}

static json_t *fence(json_int_t partition, json_int_t epoch, const char *owner, json_int_t held)
{
    json_t *entry =
        json_pack("{s:I,s:I,s:s?}", "partition", partition, "epoch", epoch, "owner", owner);
    if (held)
        json_object_set_new(entry, "held", json_integer(held));
    return entry;
}

static void tell_fence(json_int_t partition, json_int_t epoch, const char *owner, json_int_t held)
{
    tell(json_pack("{s:[o]}", "fences", fence(partition, epoch, owner, held)));
}

/* One number of what the node has of a partition; -1: it does not mention it. */
static json_int_t has(json_int_t partition, const char *what)
{
    size_t i;
    const json_t *entry;
    json_int_t found = -1;
    json_t *actual = fp_memnode_actual(test_node_hold(node));
    test_node_let_go(node);
    json_array_foreach(json_object_get(actual, "partitions"), i, entry)
    {
        if (json_integer_value(json_object_get(entry, "id")) != partition)
            continue;
        assert_int_equal(found, -1); /* once */
        found = json_integer_value(json_object_get(entry, what));
    }
    json_decref(actual);
    return found;
}

/* Whether it says that the partition's ring has no log. */
static bool is_blank(json_int_t partition)
{
    size_t i;
    const json_t *entry;
    bool blank = false;
    json_t *actual = fp_memnode_actual(test_node_hold(node));
    test_node_let_go(node);
    json_array_foreach(json_object_get(actual, "partitions"), i, entry)
    {
        if (json_integer_value(json_object_get(entry, "id")) == partition)
            blank = json_is_true(json_object_get(entry, "blank"));
    }
    json_decref(actual);
    return blank;
}

static void is_cut_off(client *c)
{
    wait_for(c, NULL);
    disconnect(c);
}

static void nothing_is_granted_before_and_but_by_duties(void **state)
{
    (void)state;
    client a, b;
    connect_as(&a, "a");
    connect_as(&b, "b");
    assert_int_equal(grant(&a, 5, 1, 1), FARPOOL_E_BUSY);
    assert_non_null(strstr(a.msg.text, "has not been told its duties"));
    tell(json_object());
    assert_int_equal(grant(&a, 5, 1, 1), FARPOOL_E_BUSY);
    tell_fence(5, 3, "a", 0);
    assert_int_equal(has(5, "epoch"), 3);
    assert_int_equal(has(5, "slab"), 0);
    assert_int_equal(grant(&a, 5, 2, 1), FARPOOL_E_FENCED);
    assert_int_equal(grant(&a, 5, 4, 1), FARPOOL_E_BUSY); /* perhaps it is about to be told */
    assert_int_equal(grant(&b, 5, 3, 1), FARPOOL_E_REFUSED);
    assert_non_null(strstr(b.msg.text, "is a's, not b's"));
    assert_int_equal(grant(&a, 5, 3, 1), FP_MSG_EXTENTS);
    assert_int_equal(grant(&a, 5, 3, 1), FARPOOL_E_FENCED); /* an epoch is used once */
    assert_int_equal(has(5, "slab"), (json_int_t)EXTENT_BYTES);
    tell_fence(6, 1, NULL, 0); /* nobody's */
    assert_int_equal(grant(&a, 6, 1, 1), FARPOOL_E_REFUSED);
    assert_int_equal(has(5, "epoch"), 3); /* what is there is told, whether it is to be or not */
    disconnect(&a);
    disconnect(&b);
}

static void a_fence_cuts_the_owner_off(void **state)
{
    (void)state;
    client old[2], other, new;
    connect_as(&old[0], "a");
    connect_as(&old[1], "a");
    connect_as(&other, "c");
    connect_as(&new, "b");
    tell(json_pack("{s:[o,o]}", "fences", fence(5, 1, "a", 0), fence(6, 1, "c", 0)));
    assert_int_equal(grant(&other, 6, 1, 1), FP_MSG_EXTENTS);
    assert_int_equal(grant(&old[0], 5, 1, 1), FP_MSG_EXTENTS);
    assert_int_equal(attach(&old[1], 5, 1, 0), FP_MSG_EXTENTS);
    fp_rkey extent = old[1].msg.extents[0];
    memset(memory.addr, 7, 4096);
    assert_int_equal(transfer(&old[1], FP_NET_WRITE, extent, 0), 0);

    tell(json_pack("{s:[o,o]}", "fences", fence(6, 1, "c", 0), fence(5, 2, "b", 0)));
    assert_int_equal(has(5, "epoch"), 2);
    is_cut_off(&old[0]);
    is_cut_off(&old[1]);
    connect_as(&old[0], "a");
    assert_int_equal(attach(&old[0], 5, 1, 0), FARPOOL_E_FENCED);
    assert_int_equal(grant(&old[0], 5, 1, 1), FARPOOL_E_FENCED);
    assert_int_equal(grant(&old[0], 5, 2, 1), FARPOOL_E_REFUSED);
    assert_int_equal(release(&old[0], 5, 1), FARPOOL_E_FENCED);
    disconnect(&old[0]);

    assert_int_equal(attach(&other, 6, 1, 0), FP_MSG_EXTENTS); /* has felt nothing */
    assert_int_equal(grant(&new, 5, 2, 1), FP_MSG_EXTENTS);
    assert_true(new.msg.extents[0].key != extent.key);
    memset(memory.addr, 0, 4096);
    assert_int_equal(transfer(&new, FP_NET_READ, new.msg.extents[0], 0), 0);
    assert_true(local_is(7)); /* the content passes on */
    /* The same duties once more, and older ones, change nothing. */
    tell_fence(5, 2, "b", 0);
    tell_fence(5, 1, "a", 0);
    assert_int_equal(attach(&new, 5, 2, 0), FP_MSG_EXTENTS);
    fp_msg ring = {
        .type = FP_MSG_GRANT, .partition = 5, .epoch = 2, .bytes = 1, .use = FP_USE_RING};
    assert_int_equal(ask(&new, ring), FP_MSG_EXTENTS);
    assert_int_equal(has(5, "epoch"), 2);
    disconnect(&other);
    disconnect(&new);
}

static void what_was_fenced_stays_so_when_nobody_names_it(void **state)
{
    (void)state;
    client a;
    connect_as(&a, "a");
    tell_fence(5, 4, "b", 0);
    tell(json_object());
    assert_int_equal(has(5, "epoch"), -1);
    tell_fence(5, 3, "a", 0);
    assert_int_equal(grant(&a, 5, 3, 1), FARPOOL_E_FENCED);
    disconnect(&a);
}

/* As long as its memory nodes are being changed an owner goes on, until it comes for the new epoch. */
static void an_owner_goes_on_until_it_asks(void **state)
{
    (void)state;
    client a, again;
    connect_as(&a, "a");
    tell_fence(5, 1, "a", 0);
    assert_int_equal(grant(&a, 5, 1, 1), FP_MSG_EXTENTS);
    fp_rkey extent = a.msg.extents[0];
    tell_fence(5, 2, "a", 1);
    assert_int_equal(has(5, "epoch"), 1);
    assert_int_equal(transfer(&a, FP_NET_READ, extent, 0), 0);
    assert_int_equal(attach(&a, 5, 1, 0), FP_MSG_EXTENTS);
    connect_as(&again, "a");
    fp_msg msg = {.type = FP_MSG_GRANT, .partition = 5, .epoch = 2, .bytes = 1, .held = 1};
    assert_int_equal(ask(&again, msg), FP_MSG_EXTENTS);
    assert_int_equal(has(5, "epoch"), 2);
    is_cut_off(&a);
    /* Another epoch held than the one that is: that owner was one before. */
    tell_fence(5, 4, "b", 3);
    assert_int_equal(has(5, "epoch"), 4);
    is_cut_off(&again);
}

static void what_is_to_be_dropped_is_given_back(void **state)
{
    (void)state;
    client a;
    connect_as(&a, "a");
    tell(json_pack("{s:[o,o]}", "fences", fence(5, 2, "a", 0), fence(6, 2, "a", 0)));
    assert_int_equal(grant(&a, 5, 2, 2 * EXTENT_BYTES), FP_MSG_EXTENTS);
    assert_int_equal(grant(&a, 6, 2, 1), FP_MSG_EXTENTS);
    fp_msg ring = {
        .type = FP_MSG_GRANT, .partition = 5, .epoch = 2, .bytes = 1, .use = FP_USE_RING};
    assert_int_equal(ask(&a, ring), FP_MSG_EXTENTS);
    assert_int_equal(has(5, "ring"), (json_int_t)EXTENT_BYTES);
    assert_true(is_blank(5));
    tell(json_pack("{s:[o],s:[{s:i,s:i},{s:i,s:i}]}", "fences", fence(6, 2, "a", 0), "drop",
                   "partition", 5, "epoch", 1, "partition", 6, "epoch", 1));
    assert_int_equal(has(5, "slab"), (json_int_t)(2 * EXTENT_BYTES)); /* later than meant */
    assert_int_equal(has(6, "slab"), (json_int_t)EXTENT_BYTES);
    /* It is to be here anew, under a later epoch, before what was here was dropped. */
    tell(json_pack("{s:[o,o],s:[{s:i,s:i}]}", "fences", fence(6, 2, "a", 0), fence(5, 9, "a", 0),
                   "drop", "partition", 5, "epoch", 2));
    assert_int_equal(has(5, "slab"), 0);
    assert_int_equal(has(5, "ring"), 0);
    assert_int_equal(has(5, "epoch"), 9);
    assert_int_equal(grant(&a, 5, 9, NODE_BYTES - EXTENT_BYTES - 4096), FP_MSG_EXTENTS);
    disconnect(&a);
}

/* From within: what a broken coordinator could say. */
static void nonsense_is_no_duty(void **state)
{
    (void)state;
    client a;
    connect_as(&a, "a");
    tell(json_pack("{s:[i,s,{},{s:i},o,{s:s,s:b}],s:{},s:[i,{},{s:i}]}", "fences", 1, "x",
                   "partition", 7, fence(5, 1, "a", 0), "partition", "six", "epoch", 1, "storage",
                   "drop", 5, "partition", 5));
    assert_int_equal(has(7, "epoch"), -1);
    assert_int_equal(grant(&a, 5, 1, 1), FP_MSG_EXTENTS);
    tell_fence(5, -1, "a", 0);
    assert_int_equal(attach(&a, 5, 1, 0), FP_MSG_EXTENTS);
    disconnect(&a);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_in_cluster, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_granted_before_and_but_by_duties),   TEST(a_fence_cuts_the_owner_off),
        TEST(what_was_fenced_stays_so_when_nobody_names_it), TEST(an_owner_goes_on_until_it_asks),
        TEST(what_is_to_be_dropped_is_given_back),           TEST(nonsense_is_no_duty),
    };
    scheme = getenv("FARPOOL_TEST_SCHEME");
    if (scheme)
        return cmocka_run_group_tests_name(scheme, tests, NULL, NULL);
    scheme = "shm";
    int failed = cmocka_run_group_tests_name("shm", tests, NULL, NULL);
    scheme = "tcp";
    return failed + cmocka_run_group_tests_name("tcp", tests, NULL, NULL);
}
