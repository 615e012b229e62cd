/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that an agent finds the coordinator that leads, joins it, is told its duties and tells what it has; that it leaves
 * those who do not lead, die, keep silent or talk nonsense, and one of a lower term; and that every call is answered once, with
 * E_UNKNOWN if it was sent and nobody knows what became of it. Over tcp, and in a simulated world. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/cluster/agent.h"
#include "common/error.h"
#include "common/net/sim.h"
#include "tests/lib/require.h"
#include "tests/lib/scripted.h"
#include "tests/lib/secret.h"
#include "tests/lib/testnode.h"

enum { COORDINATORS = 3, WAIT_MS = 60000 };

/* What the node under test has. */
static struct {
    json_int_t number; /* its actual state */
    unsigned duties;
    json_int_t last; /* a number in its duties */
} node;

static struct {
    fp_sim_world *world; /* NULL: tcp */
    fp_net *idle_net;    /* somebody who waits, so that simulated time goes on */
    fp_poller *idle;
    fp_net_options net[COORDINATORS], own_net;
    scripted c[COORDINATORS];
    bool open[COORDINATORS];
    char uri[COORDINATORS][FP_NET_URI_MAX];
    fp_agent *agent;
    fp_auth *secret; /* of the coordinators; NULL: none */
} bed;

static uint64_t now(void) { return bed.world ? fp_sim_now_ns(bed.world) : fp_now_ns(); }

/* ---- the bed --------------------------------------------------------------------------------- */

static void open_coordinator(unsigned i)
{
    static const char *const names[] = {"c0", "c1", "c2"};
    bed.net[i] = (fp_net_options){.world = bed.world, .node = names[i]};
    if (bed.world)
        snprintf(bed.uri[i], sizeof bed.uri[i], "sim://%s", names[i]);
    else if (!bed.uri[i][0])
        snprintf(bed.uri[i], sizeof bed.uri[i], "tcp://127.0.0.1:0");
    bed.net[i].auth = bed.secret;
    scripted_open(&bed.c[i], bed.uri[i], bed.world || bed.secret ? &bed.net[i] : NULL, now);
    memcpy(bed.uri[i], bed.c[i].uri, sizeof bed.uri[i]);
    if (bed.world)
        fp_sim_set_driver(fp_server_poller(&bed.c[i].server, 0), scripted_step, &bed.c[i]);
    bed.open[i] = true;
}

static void close_coordinator(unsigned i)
{
    scripted_close(&bed.c[i]);
    bed.open[i] = false;
}

static json_t *card(void *owner)
{
    (void)owner;
    return json_pack("{s:s,s:s}", "role", "memory", "name", "m1");
}

static json_t *actual(void *owner)
{
    (void)owner;
    return json_pack("{s:I}", "number", node.number);
}

static void duties(void *owner, const json_t *told)
{
    (void)owner;
    node.duties++;
    node.last = json_integer_value(json_object_get(told, "number"));
}

static void open_agent_with(const fp_auth *auth, unsigned coordinators, bool joins)
{
    char uris[COORDINATORS * FP_NET_URI_MAX] = "";
    for (unsigned i = 0; i < coordinators; i++)
        snprintf(uris + strlen(uris), sizeof uris - strlen(uris), "%s%s", i ? "," : "", bed.uri[i]);
    bed.own_net = (fp_net_options){.world = bed.world, .node = "m1"};
    fp_agent_config config = {
        .coordinators = uris, .name = "m1", .net = bed.world ? &bed.own_net : NULL, .auth = auth};
    if (joins) {
        config.card = card;
        config.actual = actual;
        config.duties = duties;
    }
    test_must(fp_agent_open(&config, &bed.agent), "an agent");
}

static void open_agent(unsigned coordinators, bool joins)
{
    open_agent_with(NULL, coordinators, joins);
}

static int set_up(void **state)
{
    memset(&bed, 0, sizeof bed);
    memset(&node, 0, sizeof node);
    if (*state) {
        fp_net_options options = {.node = "idle"};
        fp_sim_config config = {0};
        test_must(fp_sim_world_open(test_seed(1), &config, &bed.world), "a world");
        options.world = bed.world;
        test_must(fp_net_open("sim://idle", &options, &bed.idle_net), "a transport");
        test_must(fp_net_poller_open(bed.idle_net, &bed.idle), "a poller");
    }
    for (unsigned i = 0; i < COORDINATORS; i++) {
        open_coordinator(i);
        bed.c[i].mood = i ? SCRIPTED_FOLLOWS : SCRIPTED_LEADS;
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fp_agent_close(bed.agent);
    for (unsigned i = 0; i < COORDINATORS; i++)
        if (bed.open[i])
            close_coordinator(i);
    if (bed.world) {
        fp_net_poller_close(bed.idle);
        fp_net_close(bed.idle_net);
        fp_sim_world_close(bed.world);
    }
    fp_auth_close(bed.secret);
    return 0;
}

/* A turn for everybody. */
static void turn(void)
{
    fp_net_event event;
    int more = fp_agent_step(bed.agent);
    for (unsigned i = 0; i < COORDINATORS; i++)
        if (bed.open[i])
            scripted_step(&bed.c[i]);
    if (bed.world) {
        (void)fp_net_poll(bed.idle, &event, 1, more ? 0 : 1);
    } else if (!more) {
        struct pollfd polled = {.fd = fp_agent_fd(bed.agent), .events = POLLIN};
        (void)poll(&polled, 1, 1);
    }
}

#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        uint64_t end = now() + WAIT_MS * 1000000ull;                                               \
        while (!(condition)) {                                                                     \
            if (now() >= end)                                                                      \
                fail_msg("not in time: %s; agent: %s", #condition, fp_agent_trouble(bed.agent));   \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

static void for_ms(unsigned ms)
{
    for (uint64_t end = now() + ms * 1000000ull; now() < end;)
        turn();
}

/* So often and no more. A machine that stands still for a second makes the agent leave and come back. */
static void counts(unsigned times, unsigned wanted)
{
    if (bed.world)
        assert_int_equal(times, wanted);
    else
        assert_true(times >= wanted);
}

/* ---- as a node ------------------------------------------------------------------------------- */

static void joins_and_is_told(void **state)
{
    (void)state;
    node.number = 7;
    bed.c[0].duties = json_pack("{s:i}", "number", 42);
    open_agent(1, true);
    assert_false(fp_agent_is_member(bed.agent));
    UNTIL(fp_agent_is_member(bed.agent) && node.last == 42);
    assert_string_equal(json_string_value(json_object_get(bed.c[0].card, "name")), "m1");
    assert_int_equal(json_integer_value(json_object_get(bed.c[0].actual, "number")), 7);
    UNTIL(bed.c[0].waits >= 4);
    counts(node.duties, 1);
    counts(bed.c[0].joins, 1);
    json_object_set_new(bed.c[0].duties, "number", json_integer(43));
    bed.c[0].revision++;
    UNTIL(node.last == 43);
    counts(node.duties, 2);
}

/* Coordinators that have a secret, first one of another cluster. */
static void proves_itself(void **state)
{
    (void)state;
    fp_auth *other = test_secret(2, "m1");
    close_coordinator(0);
    close_coordinator(1);
    bed.secret = other;
    open_coordinator(0);
    bed.secret = test_secret(1, "all");
    open_coordinator(1);
    bed.c[1].mood = SCRIPTED_LEADS;
    fp_auth *key = test_key(bed.secret, "m1");
    open_agent_with(key, 2, true);
    UNTIL(fp_agent_is_member(bed.agent));
    assert_int_equal(bed.c[0].joins, 0);
    counts(bed.c[1].joins, 1);
    UNTIL(bed.c[1].waits >= 2);
    assert_true(bed.c[1].server.clients->authenticated);
    assert_string_equal(bed.c[1].server.clients->name, "m1");
    /* One without a key gets nowhere. */
    fp_agent_close(bed.agent);
    open_agent_with(NULL, 2, true);
    UNTIL(strstr(fp_agent_trouble(bed.agent), "key file"));
    assert_false(fp_agent_is_member(bed.agent));
    close_coordinator(0);
    fp_auth_close(other);
    fp_auth_close(key);
}

/* Before the answer to `wait`, which takes its time. */
static void tells_what_has_changed(void **state)
{
    (void)state;
    bed.c[0].heartbeat_ms = 400;
    open_agent(1, true);
    UNTIL(bed.c[0].waits == 1);
    for (unsigned i = 1; i <= 3; i++) {
        uint64_t begin = now();
        node.number = 10 + i;
        fp_agent_changed(bed.agent);
        UNTIL(json_integer_value(json_object_get(bed.c[0].actual, "number")) == 10 + i);
        if (bed.world)
            assert_true(now() - begin < 100000000);
    }
    assert_true(bed.c[0].tells > 0);
}

static void follows_the_leader(void **state)
{
    (void)state;
    for (unsigned i = 1; i < COORDINATORS; i++)
        snprintf(bed.c[i].leader, sizeof bed.c[i].leader, "%s", bed.c[0].uri);
    memmove(bed.uri[0], bed.uri[1], sizeof bed.uri[0]); /* it is told of the second alone */
    open_agent(1, true);
    UNTIL(fp_agent_is_member(bed.agent));
    counts(bed.c[0].joins, 1);
}

/* By the address that the agent is given, and by who says who leads. */
static void speaks_to_nobody_else(void **state)
{
    (void)state;
    char uri[FP_NET_URI_MAX];
    bed.c[1].leader_name = "somebody";
    snprintf(bed.c[1].leader, sizeof bed.c[1].leader, "%s", bed.c[0].uri);
    assert_int_equal(fp_uri_with_name(bed.uri[1], "scripted", uri), 0);
    strcpy(bed.uri[0], uri);
    assert_int_equal(fp_uri_with_name(bed.uri[2], "somebody", uri), 0);
    strcpy(bed.uri[1], uri);
    bed.c[2].mood = SCRIPTED_LEADS;
    open_agent(2, true);
    for_ms(700);
    assert_int_equal(bed.c[0].joins + bed.c[2].joins, 0);
    bed.c[1].leader_name = NULL;
    UNTIL(fp_agent_is_member(bed.agent));
    assert_int_equal(bed.c[2].joins, 0);
}

static void waits_until_somebody_leads(void **state)
{
    (void)state;
    bed.c[0].mood = SCRIPTED_FOLLOWS;
    snprintf(bed.c[0].leader, sizeof bed.c[0].leader, "%s", bed.c[1].uri);
    snprintf(bed.c[1].leader, sizeof bed.c[1].leader, "%s", bed.c[0].uri); /* round and round */
    open_agent(COORDINATORS, true);
    for_ms(700);
    assert_false(fp_agent_is_member(bed.agent));
    bed.c[2].mood = SCRIPTED_LEADS;
    UNTIL(fp_agent_is_member(bed.agent));
}

static void leaves_those_who_fail(void **state)
{
    static const enum scripted_mood moods[] = {
        SCRIPTED_SILENT, SCRIPTED_DEAF,          SCRIPTED_GARBAGE, SCRIPTED_TOO_LONG,
        SCRIPTED_BREAKS, SCRIPTED_BREAKS_MIDWAY, SCRIPTED_REFUSES};
    (void)state;
    unsigned leads = 0;
    open_agent(COORDINATORS, true);
    for (unsigned i = 0; i < sizeof moods / sizeof *moods; i++) {
        UNTIL(fp_agent_is_member(bed.agent) && bed.c[leads].waits);
        bed.c[leads].mood = moods[i];
        bed.c[leads].revision++;
        leads = (leads + 1) % COORDINATORS;
        bed.c[leads].term = 2 + i;
        bed.c[leads].joins = 0;
        bed.c[leads].mood = SCRIPTED_LEADS;
        UNTIL(bed.c[leads].joins);
        bed.c[(leads + 1) % COORDINATORS].waits = 0;
    }
    UNTIL(fp_agent_is_member(bed.agent));
}

static void one_that_comes_back_is_joined_again(void **state)
{
    (void)state;
    open_agent(1, true);
    UNTIL(bed.c[0].waits);
    if (bed.world)
        fp_sim_reset(bed.world, "m1", "c0");
    else
        close_coordinator(0);
    UNTIL(!fp_agent_is_member(bed.agent));
    if (!bed.world)
        open_coordinator(0);
    else
        bed.c[0].waits = 0;
    UNTIL(fp_agent_is_member(bed.agent) && bed.c[0].waits);
}

/* Two lead, as they think. Whoever has spoken to the later one does not follow the earlier one any more. */
static void a_lower_term_is_not_followed(void **state)
{
    (void)state;
    bed.c[0].term = 5;
    bed.c[0].duties = json_pack("{s:i}", "number", 50);
    bed.c[1].mood = SCRIPTED_LEADS;
    bed.c[1].term = 4;
    bed.c[1].duties = json_pack("{s:i}", "number", 40);
    open_agent(2, true);
    UNTIL(bed.c[0].joins || bed.c[1].joins);
    bed.c[1].mood = SCRIPTED_SILENT;
    UNTIL(node.last == 50);
    bed.c[1].mood = SCRIPTED_LEADS;
    bed.c[0].mood = SCRIPTED_BREAKS;
    bed.c[0].revision++;
    bed.c[1].joins = 0;
    UNTIL(bed.c[1].joins > 1);
    assert_int_equal(node.last, 50);
    assert_false(fp_agent_is_member(bed.agent));
    bed.c[1].term = 6;
    UNTIL(node.last == 40);
}

/* The test does not step the agent here; the world does step the coordinator. */
static void tells_when_it_ends(void **state)
{
    (void)state;
    open_agent(1, true);
    fp_agent_quit(bed.agent); /* not a member yet: nobody is to be told */
    assert_int_equal(bed.c[0].leaves, 0);
    UNTIL(bed.c[0].waits >= 2);
    fp_agent_quit(bed.agent);
    assert_int_equal(bed.c[0].leaves, 1);
    /* One that does not answer is not waited for for long. */
    bed.c[0].mood = SCRIPTED_DEAF;
    uint64_t begin = now();
    fp_agent_quit(bed.agent);
    assert_true(now() - begin < 1000000000);
    fp_agent_quit(NULL);
}

/* ---- asking ---------------------------------------------------------------------------------- */

typedef struct answer {
    unsigned times;
    int status;
    json_int_t echo;
} answer;

static void answered(void *arg, int status, const json_t *told)
{
    answer *a = arg;
    a->times++;
    a->status = status;
    a->echo = json_integer_value(json_object_get(told, "echo"));
}

static void ask(answer *a, json_int_t say, unsigned timeout_ms)
{
    *a = (answer){0};
    fp_agent_ask(bed.agent, json_pack("{s:s,s:I}", "method", "say", "say", say), timeout_ms,
                 answered, a);
}

static void asks(void **state)
{
    (void)state;
    answer a, b;
    open_agent(COORDINATORS, false);
    for_ms(50);
    assert_int_equal(bed.c[0].server.client_count, 0); /* nobody asks */
    ask(&a, 1, 0);
    ask(&b, 2, 0);
    UNTIL(a.times && b.times);
    assert_true(a.status == 0 && a.echo == 1 && b.status == 0 && b.echo == 2);
    /* Long ones, more at a time than fit into the connection. */
    enum { MANY = 12, BYTES = 300000 };
    answer many[MANY] = {0};
    char *text = malloc(BYTES + 1);
    memset(text, 'x', BYTES);
    text[BYTES] = 0;
    for (int i = 0; i < MANY; i++)
        fp_agent_ask(bed.agent, json_pack("{s:s,s:i,s:s}", "method", "say", "say", i, "text", text),
                     0, answered, &many[i]);
    for (int i = 0; i < MANY; i++) {
        UNTIL(many[i].times);
        assert_true(!many[i].status && many[i].echo == i);
    }
    a = (answer){0};
    json_t *huge = json_pack("{s:s,s:[s,s]}", "method", "say", "say", text, text);
    fp_agent_ask(bed.agent, huge, 0, answered, &a);
    free(text);
    UNTIL(a.times);
    assert_int_equal(a.status, FARPOOL_E_TOO_BIG);
    ask(&a, 3, 0);
    UNTIL(a.times);
    assert_true(!a.status && a.echo == 3);
}

static void asks_until_somebody_leads(void **state)
{
    (void)state;
    answer a, b;
    bed.c[0].mood = SCRIPTED_FOLLOWS;
    open_agent(COORDINATORS, false);
    ask(&a, 1, 300);
    ask(&b, 2, 0);
    UNTIL(a.times);
    /* E_UNKNOWN: its time was over while one who does not lead had been asked, and had not said so yet. */
    assert_true(a.status == FARPOOL_E_NODE || (!bed.world && a.status == FARPOOL_E_UNKNOWN));
    bed.c[2].mood = SCRIPTED_LEADS;
    UNTIL(b.times);
    assert_true(!b.status && b.echo == 2);
    assert_int_equal(a.times, 1);
}

static void what_was_sent_and_not_answered_is_unknown(void **state)
{
    static const struct {
        enum scripted_mood mood;
        int code;
    } cases[] = {{SCRIPTED_SILENT, FARPOOL_E_UNKNOWN},
                 {SCRIPTED_BREAKS, FARPOOL_E_UNKNOWN},
                 {SCRIPTED_BREAKS_MIDWAY, FARPOOL_E_UNKNOWN},
                 {SCRIPTED_GARBAGE, FARPOOL_E_UNKNOWN},
                 {SCRIPTED_REFUSES, FARPOOL_E_EXISTS}};
    (void)state;
    answer a;
    open_agent(1, false);
    ask(&a, 0, 0); /* there is a connection, so that what follows is sent at once */
    UNTIL(a.times);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        bed.c[0].mood = cases[i].mood;
        ask(&a, 1, cases[i].mood == SCRIPTED_SILENT ? 2000 : 0);
        UNTIL(a.times);
        assert_int_equal(a.status, cases[i].code);
        bed.c[0].mood = SCRIPTED_LEADS;
        ask(&a, 2, 0);
        UNTIL(a.times);
        assert_true(!a.status && a.echo == 2);
        assert_int_equal(a.times, 1);
    }
}

static void asks_again(void *arg, int status, const json_t *told)
{
    answered(arg, status, told);
    if (((answer *)arg)->times < 5) /* refused at once */
        fp_agent_ask(bed.agent, json_pack("{s:s}", "method", "say"), 0, asks_again, arg);
}

static void closing_ends_what_is_asked(void **state)
{
    (void)state;
    answer a, b, again = {0};
    bed.c[0].mood = SCRIPTED_SILENT;
    open_agent(1, false);
    ask(&a, 1, 0);
    for_ms(50);
    ask(&b, 2, 0);
    fp_agent_ask(bed.agent, NULL, 0, asks_again, &again);
    fp_agent_ask(bed.agent, json_object(), 0, asks_again, &again);
    fp_agent_close(bed.agent);
    bed.agent = NULL;
    assert_true(a.times == 1 && a.status == FARPOOL_E_CLOSED);
    assert_true(b.times == 1 && b.status == FARPOOL_E_CLOSED);
    assert_true(again.times >= 5 && again.status == FARPOOL_E_CLOSED);
}

/* In a simulated world, where others go on while it waits. */
static void waits_for_an_answer(void **state)
{
    (void)state;
    json_t *told;
    open_agent(COORDINATORS, false);
    assert_int_equal(
        fp_agent_call(bed.agent, json_pack("{s:s,s:i}", "method", "say", "say", 9), 0, &told), 0);
    assert_int_equal(json_integer_value(json_object_get(told, "echo")), 9);
    json_decref(told);
    bed.c[0].mood = SCRIPTED_SILENT;
    assert_int_equal(fp_agent_call(bed.agent, json_pack("{s:s}", "method", "say"), 100, &told),
                     FARPOOL_E_UNKNOWN);
    assert_null(told);
    fp_sim_crash(bed.world, "c0");
    assert_int_equal(fp_agent_call(bed.agent, json_pack("{s:s}", "method", "say"), 3000, &told),
                     FARPOOL_E_NODE);
}

static void addresses_are_checked(void **state)
{
    static const char *const bad[] = {"", ",", "tcp://a:1,nonsense", "tcp://a:1,,tcp://b:2"};
    (void)state;
    fp_agent *agent;
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        fp_agent_config config = {.coordinators = bad[i], .name = "m1"};
        assert_int_equal(fp_agent_open(&config, &agent), FARPOOL_E_INVAL);
    }
    /* Nobody is there: closing does not wait for long, and a pause is made. */
    fp_agent_config config = {.coordinators = "tcp://127.0.0.1:1", .name = "m1"};
    assert_int_equal(fp_agent_open(&config, &agent), 0);
    json_t *told;
    assert_int_equal(fp_agent_call(agent, json_pack("{s:s}", "method", "say"), 300, &told),
                     FARPOOL_E_NODE);
    fp_agent_close(agent);
}

#define BOTH(test)                                                                                 \
    {#test " (tcp)", test, set_up, tear_down, NULL},                                               \
    {                                                                                              \
#test " (sim)", test, set_up, tear_down, "sim"                                             \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(joins_and_is_told),
        BOTH(proves_itself),
        BOTH(tells_what_has_changed),
        BOTH(follows_the_leader),
        BOTH(speaks_to_nobody_else),
        BOTH(waits_until_somebody_leads),
        BOTH(leaves_those_who_fail),
        BOTH(one_that_comes_back_is_joined_again),
        BOTH(a_lower_term_is_not_followed),
        {"tells_when_it_ends (sim)", tells_when_it_ends, set_up, tear_down, "sim"},
        BOTH(asks),
        BOTH(asks_until_somebody_leads),
        BOTH(what_was_sent_and_not_answered_is_unknown),
        BOTH(closing_ends_what_is_asked),
        {"waits_for_an_answer (sim)", waits_for_an_answer, set_up, tear_down, "sim"},
        cmocka_unit_test(addresses_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
