/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that no sequence of calls, sound, odd or damaged, on several connections that break now and then makes a coordinator
 * fail, refuse those who keep to the rules, or keep what it could not read again: the next one leads over it. In a simulated
 * world; an input is a script of steps (see step).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "coordinator/inside.h"
#include "tests/lib/coordalone.h"
#include "tests/lib/fuzz.h"

enum { CONNS = 5, STEPS_MAX = 60, BURST_MAX = 5 };

const unsigned fuzz_runs = 150;

static coord_alone alone;
static fp_net_options client_net, person_net;
static fp_net *net;
static fp_poller *poller;
static fp_conn *conns[CONNS];
static unsigned burst;
static uint8_t message[FP_NET_MESSAGE_MAX];

/* ---- connections ----------------------------------------------------------------------------- */

static void pass(unsigned ms)
{
    uint64_t until = fp_sim_now_ns(alone.world) + ms * UINT64_C(1000000);
    burst = 0;
    while (fp_sim_now_ns(alone.world) < until) {
        fp_net_event event;
        int n = fp_net_poll(poller, &event, 1, 1);
        FUZZ_CHECK(n >= 0);
        for (unsigned i = 0; n && i < CONNS; i++) {
            if (event.kind == FP_NET_CLOSED && conns[i] == event.conn) {
                fp_net_conn_close(conns[i]);
                conns[i] = NULL;
            }
        }
    }
}

static void send_msg(unsigned i, fp_msg *msg)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){message, (uint32_t)fp_wire_encode(msg, message, sizeof message), NULL};
    int rc = conns[i] ? fp_net_post(conns[i], &op, 1) : 0;
    FUZZ_CHECK(!rc || rc == FARPOOL_E_CLOSED || rc == FARPOOL_E_BUSY);
    if (++burst == BURST_MAX) /* as many as the transport takes without being polled */
        pass(2);
}

static void connect_again(unsigned i)
{
    static fp_msg hello;
    if (conns[i])
        fp_net_conn_close(conns[i]);
    FUZZ_CHECK(!fp_net_connect(poller, COORDINATOR_URI, &conns[i]));
    hello = (fp_msg){.type = FP_MSG_HELLO, .request = 1, .text = "fuzz"};
    send_msg(i, &hello);
}

/* ---- calls ------------------------------------------------------------------------------------ */

static const char *some_name(fuzz_script *script)
{
    static const char *const names[] = {
        "m0", "m1", "m2", "s0", "c0", "c1", "p",  "q",   "m0",   "m1",        "m2",   "s0",
        "c0", "c1", "p",  "1",  "",   "..", "%s", "a/b", "\x01", "\"quote\"", "\n\t", "m0\xc3\xa9",
    };
    return names[fuzz_number(script, 1) % (sizeof names / sizeof names[0])];
}

static json_t *some_number(fuzz_script *script)
{
    static const json_int_t odd[] = {-1,        4096,      1 << 20,       65537,        INT32_MAX,
                                     INT64_MAX, INT64_MIN, INT64_MAX / 2, INT64_MAX / 4};
    uint64_t shape = fuzz_number(script, 1);
    return json_integer(shape < 220 ? (json_int_t)(shape % 6) : odd[shape % 9]);
}

static json_t *some_value(fuzz_script *script, unsigned depth);

static json_t *some_object(fuzz_script *script, unsigned depth)
{
    static const char *const keys[] = {"id",   "epoch", "ring",  "slab",  "whole", "state",
                                       "code", "text",  "lost",  "blank", "name",  "role",
                                       "uris", "seen",  "limit", "to"};
    json_t *object = json_object();
    for (uint64_t n = fuzz_number(script, 1) % 5; n > 0; n--)
        json_object_set_new(object, keys[fuzz_number(script, 1) % 16],
                            some_value(script, depth + 1));
    return object;
}

static json_t *some_value(fuzz_script *script, unsigned depth)
{
    static const char *const words[] = {"open", "opening", "failed", "closed", "memory", "storage"};
    uint64_t shape = fuzz_number(script, 1);
    json_t *array;
    switch (shape % 8) {
    case 0:
        return json_string(words[shape / 8 % 6]);
    case 1:
        return json_boolean(shape & 8);
    case 2:
        return json_real((double)shape * 1e300);
    case 3:
        array = json_array();
        for (uint64_t n = shape / 8; depth < 3 && n > 0; n /= 2)
            json_array_append_new(array, some_value(script, depth + 1));
        return array;
    case 4:
        return depth < 3 ? some_object(script, depth) : json_null();
    case 5:
        return json_string(some_name(script));
    default:
        return some_number(script);
    }
}

/* What a node of any role could say of a partition; one field may be anything. */
static json_t *some_told(fuzz_script *script)
{
    static const char *const states[] = {"opening", "open", "failed", "closed"};
    uint64_t shape = fuzz_number(script, 1);
    json_t *told =
        json_pack("{s:i, s:i, s:i, s:i, s:b, s:b, s:s, s:i, s:s, s:[]}", "id", (int)(1 + shape % 3),
                  "epoch", (int)(shape / 4 % 8), "ring", (int)(shape & 1) << 20, "slab", 4096,
                  "blank", (int)(shape >> 1 & 1), "whole", (int)(shape & 1), "state",
                  states[shape % 4], "code", -(int)(shape % 25), "text", some_name(script), "lost");
    if (fuzz_number(script, 1) % 4 == 0)
        json_object_update_new(told, some_object(script, 1));
    return told;
}

static json_t *some_actual(fuzz_script *script)
{
    json_t *list = json_array();
    for (uint64_t n = fuzz_number(script, 1) % 4; n > 0; n--)
        json_array_append_new(list, some_told(script));
    return json_pack("{s:o, s:o}", "partitions", list, "more", some_value(script, 1));
}

/* Of a connection: mostly what its node, who is always the same, or a person may say. */
static json_t *some_call(fuzz_script *script, unsigned i)
{
    static const char *const nodes[CONNS] = {"m0", "m1", "s0", "c0", "c1"};
    static const char *const methods[] = {
        "join",       "join",           "join",           "wait",
        "wait",       "tell",           "leave",          "route",
        "status",     "node.list",      "partition.list", "partition.create",
        "failover",   "partition.move", "events",         "partition.read_only",
        "node.drain", "node.undrain",   "node.remove",    "partition.delete",
        "nothing",
    };
    static const char *const roles[] = {"memory", "storage", "compute"};
    const char *name = some_name(script);
    uint64_t shape = fuzz_number(script, 2);
    bool own = fuzz_number(script, 1) % 4 && shape % 21 < 7;
    name = own ? nodes[i] : name;
    unsigned role = name[0] == 'm' ? 0 : name[0] == 's' ? 1 : 2;
    char boot[17];
    snprintf(boot, sizeof boot, "%016x", own ? i : (unsigned)(shape % 3));
    json_t *call =
        json_pack("{s:s, s:s*, s:s*, s:s, s:s, s:[s], s:i, s:b, s:o, s:i}", "method",
                  methods[shape % 21], "name", name, "partition", some_name(script), "role",
                  roles[role], "boot_id", boot, "uris", "tcp://h:1", "bytes", 1 << 30, "standby", 1,
                  "actual", some_actual(script), "log_copies", 1 + (int)(shape >> 15));
    if (!call) /* a name that is no UTF-8 */
        call = json_object();
    json_object_set_new(call, "on", json_boolean(shape & 64));
    json_object_set_new(call, "from_storage", json_boolean(shape & 128));
    if (shape >> 8 & 1)
        json_object_set_new(call, "seen", some_number(script));
    if ((shape >> 9) % 8 == 0)
        json_object_set_new(call, "to", json_string("c1"));
    if ((shape >> 12) % 4 == 0)
        json_object_update_new(call, some_object(script, 1));
    return call;
}

/* Sent whole; damaged if the step says so. */
static void call_step(unsigned i, fuzz_script *script, bool damaged)
{
    static fp_msg msg;
    json_t *call = some_call(script, i);
    char *text = json_dumps(call, JSON_COMPACT);
    json_decref(call);
    size_t len = text ? strlen(text) : 0;
    msg = (fp_msg){.type = FP_MSG_CALL, .request = (uint32_t)fuzz_number(script, 1), .bytes = len};
    if (!len || len > FP_WIRE_DATA_MAX) {
        free(text);
        return;
    }
    memcpy(msg.data, text, len);
    free(text);
    for (unsigned n = 0; damaged && n < 3; n++)
        msg.data[fuzz_number(script, 2) % len] = (uint8_t)fuzz_number(script, 1);
    msg.data_len = (uint32_t)len;
    send_msg(i, &msg);
}

/* ---- what holds -------------------------------------------------------------------------------- */

static void check_tables(void)
{
    size_t counted = 0, all = 0;
    for (const fp_call *call = alone.c->calls; call; call = call->next) {
        counted += call->method->may != FP_MAY_NODE;
        all += call->session != NULL;
    }
    FUZZ_CHECK(counted == alone.c->call_count);
    for (fp_server_client *at = alone.c->server.clients; at; at = at->next)
        all -= ((const fp_session *)at)->call_count;
    FUZZ_CHECK(!all);
}

/* Whoever keeps to the rules is answered. */
static void check_served(void)
{
    fp_agent *person = coord_alone_client(&alone, "person", NULL, &person_net, "person");
    FUZZ_CHECK(!coord_alone_ask(person, json_pack("{s:s}", "method", "status")));
    FUZZ_CHECK(!coord_alone_ask(
        person, json_pack("{s:s, s:s}", "method", "partition.create", "name", "honest")));
    FUZZ_CHECK(!coord_alone_ask(
        person, json_pack("{s:s, s:s}", "method", "partition.delete", "partition", "honest")));
    fp_agent_close(person);
}

static void step(fuzz_script *script)
{
    uint64_t shape = fuzz_number(script, 2);
    unsigned i = (unsigned)(shape >> 8) % CONNS;
    if (!conns[i] || shape % 32 == 0)
        connect_again(i);
    if (shape % 32 < 20)
        call_step(i, script, false);
    else if (shape % 32 < 24)
        call_step(i, script, true);
    else if (shape % 32 < 31)
        pass(1 + (unsigned)fuzz_number(script, 1));
    else
        pass(3000);
    check_tables();
}

void fuzz_one(const uint8_t *data, size_t len)
{
    fuzz_script script = {data, data + len};
    fp_log_set_level(FP_LOG_ERROR);
    coord_alone_open(&alone, 1, NULL);
    client_net = (fp_net_options){.world = alone.world, .node = "fuzz"};
    FUZZ_CHECK(!fp_net_open("sim://fuzz", &client_net, &net));
    FUZZ_CHECK(!fp_net_poller_open(net, &poller));
    for (unsigned steps = 0; script.at < script.end && steps < STEPS_MAX; steps++)
        step(&script);
    pass(100);
    check_tables();
    check_served();
    for (unsigned i = 0; i < CONNS; i++) {
        if (conns[i])
            fp_net_conn_close(conns[i]);
        conns[i] = NULL;
    }
    coord_alone_restart(&alone);
    check_served();
    fp_net_poller_close(poller);
    fp_net_close(net);
    coord_alone_close(&alone);
}

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    return fuzz_noise(random, data, capacity, 200, 3000);
}
