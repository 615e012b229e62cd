/* SPDX-License-Identifier: Apache-2.0 */
/* Shows who may call what of a coordinator, and that nobody's calls, however many, left waiting or never answered, keep it
 * from hearing nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/inside.h"
#include "tests/lib/coordalone.h"
#include "tests/lib/secret.h"

static coord_alone alone;
static fp_net_options nets[4];

static fp_agent *client_of(const char *name, const fp_auth *auth, unsigned number)
{
    static const char *const nodes[] = {"n0", "n1", "n2", "n3"};
    return coord_alone_client(&alone, name, auth, &nets[number], nodes[number]);
}

static json_t *join_of(const char *name)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:{}}", "method", "join", "name", name, "role",
                     "compute", "boot_id", "00000000000000aa", "actual");
}

static json_t *create_of(const char *name)
{
    return json_pack("{s:s, s:s}", "method", "partition.create", "name", name);
}

static json_t *events_of(unsigned wait_ms)
{
    return json_pack("{s:s, s:i, s:i}", "method", "events", "from", 1000, "wait_ms", (int)wait_ms);
}

static void forget(void *arg, int status, const json_t *answer)
{
    (void)status;
    (void)answer;
    ++*(unsigned *)arg;
}

/* ---- who may what ----------------------------------------------------------------------------- */

static void only_administrators_change_things(void **state)
{
    (void)state;
    fp_auth *secret = test_secret(7, "k"), *orders = test_key(secret, "orders"),
            *admin = test_key(secret, "admin-jane");
    coord_alone_open(&alone, 1, secret);
    fp_agent *program = client_of("orders", orders, 0), *person = client_of("x", admin, 1);
    static const char *const methods[] = {
        "partition.create", "partition.move", "partition.delete", "partition.read_only",
        "failover",         "node.drain",     "node.undrain",     "node.remove"};
    assert_int_equal(coord_alone_ask(person, create_of("p")), 0);
    for (unsigned i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        json_t *call = json_pack("{s:s, s:s, s:s, s:b}", "method", methods[i], "name", "q",
                                 "partition", "p", "on", 1);
        assert_int_equal(coord_alone_ask(program, call), FARPOOL_E_REFUSED);
    }
    assert_null(fp_model_part_named(fp_coordinator_model(alone.c), "q"));
    static const char *const looks[] = {"route", "status", "node.list", "partition.list", "events"};
    for (unsigned i = 0; i < sizeof looks / sizeof looks[0]; i++) {
        json_t *call = json_pack("{s:s, s:s}", "method", looks[i], "partition", "p");
        assert_int_equal(coord_alone_ask(program, call), 0);
    }
    assert_int_equal(coord_alone_ask(program, join_of("memory-1")), FARPOOL_E_REFUSED);
    assert_int_equal(coord_alone_ask(program, join_of("orders")), 0);
    assert_int_equal(
        coord_alone_ask(person, json_pack("{s:s, s:s}", "method", "node.drain", "name", "orders")),
        0);
    fp_agent_close(program);
    fp_agent_close(person);
    coord_alone_close(&alone);
    fp_auth_close(secret);
    fp_auth_close(orders);
    fp_auth_close(admin);
}

static void without_a_secret_everybody_does(void **state)
{
    (void)state;
    coord_alone_open(&alone, 2, NULL);
    fp_agent *person = client_of("whoever", NULL, 0);
    assert_int_equal(coord_alone_ask(person, create_of("p")), 0);
    fp_agent_close(person);
    coord_alone_close(&alone);
}

/* So many that wait for events; a few at a time, as its connection takes them. The last answer to another call. */
static int watch(fp_agent *client, unsigned count, unsigned *answered)
{
    int rc = 0;
    for (unsigned i = 0; i < count; i++) {
        fp_agent_ask(client, events_of(FP_WAIT_MAX_MS), 60000, forget, answered);
        if (i % 5 == 4)
            rc = coord_alone_ask(client, json_pack("{s:s}", "method", "partition.list"));
    }
    return rc;
}

/* ---- calls that wait -------------------------------------------------------------------------- */

static void who_waits_for_events_and_goes_leaves_nothing(void **state)
{
    (void)state;
    unsigned answered = 0;
    coord_alone_open(&alone, 3, NULL);
    for (unsigned i = 0; i < 5; i++) {
        fp_agent *person = client_of("person", NULL, 0);
        assert_int_equal(watch(person, 50, &answered), 0);
        assert_int_equal(alone.c->call_count, 50);
        fp_agent_close(person);
        coord_alone_pass(&alone, 100);
        assert_int_equal(alone.c->call_count, 0);
    }
    assert_null(alone.c->calls);
    coord_alone_close(&alone);
}

static void those_who_wait_do_not_keep_nodes_away(void **state)
{
    (void)state;
    unsigned answered = 0;
    coord_alone_open(&alone, 4, NULL);
    fp_agent *watchers[] = {client_of("w0", NULL, 0), client_of("w1", NULL, 1)};
    alone.c->call_count = FP_CALLS_MAX - 40; /* as if others had so many */
    assert_int_equal(watch(watchers[0], 60, &answered), FARPOOL_E_BUSY);
    assert_int_equal(answered, 20);
    json_t *list = json_pack("{s:s}", "method", "partition.list");
    assert_int_equal(coord_alone_ask(watchers[1], list), FARPOOL_E_BUSY);
    assert_int_equal(coord_alone_ask(watchers[1], join_of("c0")), 0);
    assert_int_equal(
        coord_alone_ask(watchers[1], json_pack("{s:s, s:{}}", "method", "tell", "actual")), 0);
    fp_agent_close(watchers[0]);
    fp_agent_close(watchers[1]);
    coord_alone_pass(&alone, 100);
    assert_int_equal(alone.c->call_count, FP_CALLS_MAX - 40);
    coord_alone_close(&alone);
}

/* Else nobody could open it, or not use all of it, and it cannot be changed. */
static void sizes_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static const struct {
        json_int_t slab, space;
        int rc;
    } tries[] = {{96ll << 30, 64ll << 30, FARPOOL_E_INVAL},
                 {1 << 30, 32ll << 40, FARPOOL_E_INVAL},
                 {1 << 30, 1 << 30, 0}};
    char name[] = "p0";
    coord_alone_open(&alone, 7, NULL);
    fp_agent *person = client_of("person", NULL, 0);
    for (unsigned i = 0; i < sizeof tries / sizeof tries[0]; i++, name[1]++) {
        json_t *create = create_of(name);
        json_object_set_new(create, "slab_bytes", json_integer(tries[i].slab));
        json_object_set_new(create, "space_bytes", json_integer(tries[i].space));
        assert_int_equal(coord_alone_ask(person, create), tries[i].rc);
    }
    json_t *large = create_of(name), *answer;
    json_object_set_new(large, "slab_bytes", json_integer(96ll << 30));
    assert_int_equal(coord_alone_ask(person, large), 0);
    assert_int_equal(
        fp_agent_call(person, json_pack("{s:s}", "method", "partition.list"), 5000, &answer), 0);
    const json_t *part = json_array_get(json_object_get(answer, "partitions"), 1);
    assert_true(json_integer_value(json_object_get(part, "space_bytes")) == 192ll << 30);
    json_decref(answer);
    fp_agent_close(person);
    coord_alone_close(&alone);
}

/* ---- what there is much of -------------------------------------------------------------------- */

/* Whatever a node tells of itself, the status can be had and read. */
static void odd_nodes_do_not_spoil_the_status(void **state)
{
    (void)state;
    coord_alone_open(&alone, 5, NULL);
    fp_agent *node = client_of("c0", NULL, 0), *person = client_of("person", NULL, 1);
    json_t *deep = json_array();
    for (unsigned i = 0; i < 2044; i++)
        deep = json_pack("[o]", deep);
    static char wide[60000];
    memset(wide, 'x', sizeof wide - 1);
    json_t *join = join_of("c0");
    json_object_set_new(join, "actual",
                        json_pack("{s:o, s:s, s:i}", "deep", deep, "wide", wide, "lag", 7));
    assert_int_equal(coord_alone_ask(node, join), 0);
    json_t *answer;
    assert_int_equal(
        fp_agent_call(person, json_pack("{s:s}", "method", "node.list"), 5000, &answer), 0);
    const json_t *actual =
        json_object_get(json_array_get(json_object_get(answer, "nodes"), 0), "actual");
    assert_int_equal(json_integer_value(json_object_get(actual, "lag")), 7);
    assert_int_equal(json_object_size(actual), 2);
    json_decref(answer);
    fp_agent_close(node);
    fp_agent_close(person);
    coord_alone_close(&alone);
}

static void as_many_partitions_as_can_be_told_of(void **state)
{
    (void)state;
    char name[60];
    json_t *answer;
    coord_alone_open(&alone, 6, NULL);
    fp_agent *person = client_of("person", NULL, 0);
    for (unsigned i = 0; i < FP_PARTS_MAX; i++) {
        snprintf(name, sizeof name, "a-name-as-long-as-programs-make-them-%u", i);
        assert_int_equal(coord_alone_ask(person, create_of(name)), 0);
    }
    assert_int_equal(coord_alone_ask(person, create_of("another")), FARPOOL_E_NOSPACE);
    assert_int_equal(fp_agent_call(person, json_pack("{s:s}", "method", "status"), 5000, &answer),
                     0);
    const json_t *stalled = json_object_get(answer, "stalled");
    assert_int_equal(json_array_size(stalled), 101);
    assert_string_equal(json_string_value(json_array_get(stalled, 100)), "and 400 more");
    json_decref(answer);
    assert_int_equal(coord_alone_ask(person, json_pack("{s:s, s:i}", "method", "partition.delete",
                                                       "partition", 7)),
                     0);
    assert_int_equal(coord_alone_ask(person, create_of("another")), 0);
    fp_agent_close(person);
    coord_alone_close(&alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_administrators_change_things),
        cmocka_unit_test(without_a_secret_everybody_does),
        cmocka_unit_test(who_waits_for_events_and_goes_leaves_nothing),
        cmocka_unit_test(those_who_wait_do_not_keep_nodes_away),
        cmocka_unit_test(sizes_that_cannot_be_are_refused),
        cmocka_unit_test(odd_nodes_do_not_spoil_the_status),
        cmocka_unit_test(as_many_partitions_as_can_be_told_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
