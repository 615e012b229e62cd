/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/scripted.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "tests/lib/require.h"

typedef struct client {
    fp_server_client at;
    fp_call_in in;
    uint32_t wait; /* a request that is not answered; 0: none */
    json_int_t seen;
    uint64_t wait_ns;
} client;

static void answer(client *c, uint32_t request, json_t *object)
{
    REQUIRE(object);
    int rc = fp_call_send(c->at.conn, FP_MSG_ANSWER, request, object);
    REQUIRE(!rc || rc == FARPOOL_E_CLOSED);
    json_decref(object);
}

/* One part of an answer that is `bytes` long. */
static void answer_part(scripted *s, client *c, uint32_t request, uint64_t bytes, const char *text)
{
    fp_msg *msg = &s->server.answer;
    msg->type = FP_MSG_ANSWER;
    msg->bytes = bytes;
    msg->at = 0;
    msg->data_len = (uint32_t)strlen(text);
    memcpy(msg->data, text, msg->data_len);
    (void)fp_server_answer(&s->server, &c->at, request);
}

static json_t *duties_of(const scripted *s)
{
    json_t *duties = json_pack("{s:I,s:I}", "term", s->term, "revision", s->revision);
    if (s->duties)
        json_object_update(duties, s->duties);
    return duties;
}

static void note(json_t **kept, const json_t *call)
{
    json_decref(*kept);
    *kept = json_deep_copy(call);
}

static void answer_call(scripted *s, client *c, uint32_t request, const json_t *call)
{
    const char *method = json_string_value(json_object_get(call, "method"));
    REQUIRE(method);
    if (json_object_get(call, "actual"))
        note(&s->actual, json_object_get(call, "actual"));
    if (!strcmp(method, "join")) {
        s->joins++;
        note(&s->card, call);
        answer(
            c, request,
            json_pack("{s:i,s:o}", "heartbeat_ms", (int)s->heartbeat_ms, "duties", duties_of(s)));
    } else if (s->mood == SCRIPTED_DEAF) {
        return;
    } else if (!strcmp(method, "wait")) {
        s->waits++;
        REQUIRE(!c->wait); /* one at a time */
        c->wait = request;
        c->seen = json_integer_value(json_object_get(call, "seen"));
        c->wait_ns = s->now();
    } else if (!strcmp(method, "tell")) {
        s->tells++;
        answer(c, request, json_object());
    } else {
        s->leaves += !strcmp(method, "leave");
        s->others++;
        answer(c, request,
               s->other ? json_incref(s->other)
                        : json_pack("{s:O*}", "echo", json_object_get(call, "say")));
    }
}

static void misbehave(scripted *s, client *c, uint32_t request)
{
    switch (s->mood) {
    case SCRIPTED_FOLLOWS:
        answer(c, request,
               s->leader[0] ? json_pack("{s:{s:s,s:[s,s]}}", "leader", "name",
                                        s->leader_name ? s->leader_name : "scripted", "uris",
                                        "shm:///nowhere", s->leader)
                            : json_pack("{s:{}}", "leader"));
        break;
    case SCRIPTED_GARBAGE:
        answer_part(s, c, request, 7, "[1, 2, ");
        break;
    case SCRIPTED_TOO_LONG:
        answer_part(s, c, request, FP_CALL_MAX + 1, "{");
        break;
    case SCRIPTED_REFUSES:
        fp_server_refuse(&s->server, &c->at, request,
                         fp_error(FARPOOL_E_EXISTS, "another process has this name"));
        break;
    case SCRIPTED_BREAKS_MIDWAY:
        answer_part(s, c, request, 1000, "{\"duties\":");
        fp_server_drop(&s->server, &c->at);
        break;
    case SCRIPTED_BREAKS:
        fp_server_drop(&s->server, &c->at);
        break;
    case SCRIPTED_SILENT:
    case SCRIPTED_LEADS:
    case SCRIPTED_DEAF:
        break;
    }
}

static void request(void *owner, fp_server_client *at)
{
    scripted *s = owner;
    client *c = (client *)at;
    uint32_t number = s->server.request.request;
    json_t *call;
    test_must(fp_call_take(&c->in, &s->server.request, &call), "a call");
    if (!call)
        return;
    if (s->mood == SCRIPTED_LEADS || s->mood == SCRIPTED_DEAF)
        answer_call(s, c, number, call);
    else
        misbehave(s, c, number);
    json_decref(call);
}

static void dropped(void *owner, fp_server_client *at)
{
    (void)owner;
    fp_call_drop(&((client *)at)->in);
}

void scripted_open(scripted *s, const char *uri, const fp_net_options *net, uint64_t (*now)(void))
{
    static const fp_server_ops ops = {
        .client_bytes = sizeof(client), .request = request, .dropped = dropped};
    const char *bound;
    *s = (scripted){.term = 1, .revision = 1, .heartbeat_ms = 20, .now = now};
    test_must(fp_server_open(&s->server, &ops, s, "scripted", net ? 1 : 0, net ? net->auth : NULL),
              "a server");
    test_must(fp_server_listen(&s->server, uri, net, &bound), "listening");
    snprintf(s->uri, sizeof s->uri, "%s", bound);
}

void scripted_step(void *arg)
{
    scripted *s = arg;
    test_must(fp_server_step(&s->server) < 0 ? FARPOOL_E_SYS : 0, "a step");
    for (fp_server_client *at = s->server.clients; at; at = at->next) {
        client *c = (client *)at;
        uint32_t wait = c->wait;
        bool fresh = c->seen != s->revision;
        if (!wait || s->mood != SCRIPTED_LEADS ||
            (!fresh && s->now() < c->wait_ns + s->heartbeat_ms * 1000000ull))
            continue;
        c->wait = 0;
        answer(c, wait, fresh ? json_pack("{s:o}", "duties", duties_of(s)) : json_object());
    }
}

void scripted_close(scripted *s)
{
    fp_server_stop(&s->server);
    fp_server_close(&s->server);
    json_decref(s->duties);
    json_decref(s->other);
    json_decref(s->card);
    json_decref(s->actual);
}
