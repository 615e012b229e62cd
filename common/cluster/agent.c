/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whom to ask. The coordinators of the address are tried one after the other, from a random one on; after all of them
 * there is a pause, which grows. One that does not lead names the one that does, who is tried next, without a pause
 * a few times in a row: two could name each other. Whoever has been left is not spoken to any more, so that what comes is
 * always of the one it is taken for.
 */
#include "common/cluster/agent.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/cluster/agent_inside.h"
#include "common/error.h"
#include "common/log.h"
#include "common/net/sim.h"

enum {
    CONNECT_MS = 1000,
    GREET_MS = 1000,
    LEAVE_MS = 200, /* others that were asked as well say the same */
    FOLLOW_MAX = 3,
    EVENTS_MAX = 64, /* of a step */
};
#define SAY_BACKOFF_NS                                                                             \
    400000000ull /* what has passed by then is no news: coordinators begin to lead */
#define SAY_AGAIN_NS 60000000000ull
#define BACKOFF_FIRST_NS 50000000ull
#define BACKOFF_LAST_NS 1000000000ull

uint64_t fp_agent_now(const fp_agent *agent) { return fp_net_clock_ns(agent->config.net); }

/* ---- whom ------------------------------------------------------------------------------------ */

/* All have been asked to take it in, and none did: told at once, and then once a minute. */
static void say_trouble(fp_agent *agent)
{
    uint64_t now = fp_agent_now(agent);
    if (!agent->config.card || now < agent->say_again_ns)
        return;
    fp_log(FP_LOG_WARN, "not a node of the cluster now, which is tried on: %s",
           agent->trouble.reason);
    agent->say_again_ns = now + SAY_AGAIN_NS;
}

void fp_agent_settled(fp_agent *agent)
{
    if (agent->say_again_ns)
        fp_log(FP_LOG_INFO, "a node of the cluster again, which %s leads", agent->dial.uri);
    agent->say_again_ns = 0;
    agent->phase = FP_AGENT_OPEN;
    agent->backoff_ns = 0;
    agent->tried = agent->followed = agent->refusals = 0;
}

/* When the next one is to be tried. */
static void choose(fp_agent *agent)
{
    bool follows = agent->leader[0] && agent->followed < FOLLOW_MAX;
    agent->due_ns = 0;
    if (follows || agent->tried < agent->uri_count)
        return;
    if (agent->backoff_ns >= SAY_BACKOFF_NS)
        say_trouble(agent);
    uint64_t next = agent->backoff_ns * 2;
    agent->backoff_ns = !next ? BACKOFF_FIRST_NS : next > BACKOFF_LAST_NS ? BACKOFF_LAST_NS : next;
    agent->due_ns = fp_agent_now(agent) + agent->backoff_ns;
    if (agent->refusals >= agent->tried)
        fp_agent_asked_refused(agent);
    agent->tried = agent->followed = agent->refusals = 0;
}

bool fp_agent_is_refused(const fp_agent *agent)
{
    return agent->trouble.status == FARPOOL_E_REFUSED || agent->trouble.status == FARPOOL_E_PROTO;
}

void fp_agent_leave(fp_agent *agent, int code)
{
    agent->trouble.status = 0;
    fp_kept_set(&agent->trouble, code);
    agent->refusals += fp_agent_is_refused(agent);
    if (agent->dial.conn)
        fp_dial_cut(&agent->dial, code);
    agent->phase = FP_AGENT_AWAY;
    agent->leaving = false;
    agent->hello = 0;
    fp_call_drop(&agent->in);
    choose(agent);
    fp_agent_member_left(agent);
    fp_agent_asked_left(agent);
}

bool fp_agent_is_elsewhere(const json_t *answer)
{
    return json_object_size(answer) == 1 && json_object_get(answer, "leader");
}

/* Of the addresses of the one that leads: of the scheme by which this one was reached, or the first that is not for its own
 * machine only, or the first. */
static void note_leader(fp_agent *agent, const json_t *leader)
{
    size_t i, best = 0, colon = strcspn(agent->dial.uri, ":") + 1;
    const char *name = json_string_value(json_object_get(leader, "name"));
    const json_t *uri;
    json_array_foreach(json_object_get(leader, "uris"), i, uri)
    {
        char text[FP_NET_URI_MAX];
        fp_uri parsed;
        if (!name || !json_is_string(uri) || fp_uri_with_name(json_string_value(uri), name, text) ||
            fp_uri_parse(text, &parsed))
            continue;
        size_t score = !strncmp(text, agent->dial.uri, colon) ? 3
                       : strcmp(parsed.scheme, "shm")         ? 2
                                                              : 1;
        if (score <= best)
            continue;
        best = score;
        strcpy(agent->leader, text);
    }
}

void fp_agent_go_elsewhere(fp_agent *agent, const json_t *answer, uint64_t now)
{
    const json_t *leader = json_object_get(answer, "leader");
    if (!agent->leaving) {
        agent->leader[0] = 0;
        agent->leaving = true;
        agent->deadline_ns = now + LEAVE_MS * 1000000ull;
    }
    note_leader(agent, leader);
}

static bool wants_connection(const fp_agent *agent) { return agent->config.card || agent->asked; }

static void connect_next(fp_agent *agent)
{
    const char *uri = agent->leader;
    if (agent->leader[0] && agent->followed < FOLLOW_MAX) {
        agent->followed++;
    } else {
        uri = agent->uris[agent->next];
        agent->next = (agent->next + 1) % agent->uri_count;
        agent->tried++;
    }
    snprintf(agent->dial.uri, sizeof agent->dial.uri, "%s", uri);
    agent->leader[0] = 0;
    agent->phase = FP_AGENT_CONNECTING;
    fp_dial_start(&agent->dial);
}

/* ---- the connection -------------------------------------------------------------------------- */

int fp_agent_try_send(fp_agent *agent, const json_t *call, uint32_t *request)
{
    agent->number += agent->number == UINT32_MAX ? 2 : 1; /* 0 is none */
    *request = agent->number;
    return fp_call_send(agent->dial.conn, FP_MSG_CALL, *request, call);
}

/* The next message of the handshake. */
static int say_greeting(fp_agent *agent)
{
    uint8_t buffer[FP_WIRE_TEXT_MAX + 64];
    fp_msg *msg = &agent->msg;
    msg->request = agent->hello = ++agent->number;
    size_t len = fp_wire_encode(msg, buffer, sizeof buffer);
    return fp_net_send(agent->dial.conn, buffer, len);
}

static void connect_step(fp_agent *agent)
{
    int rc = fp_dial_state(&agent->dial);
    if (!rc)
        return;
    if (rc > 0) {
        agent->phase = FP_AGENT_GREETING;
        agent->deadline_ns = fp_agent_now(agent) + GREET_MS * 1000000ull;
        rc = fp_greet_begin(&agent->greet, agent->config.auth, agent->name,
                            fp_net_conn_wanted(agent->dial.conn), &agent->msg);
        rc = rc ? rc : say_greeting(agent);
    }
    if (rc)
        fp_agent_leave(agent, rc);
}

static void take_answer(fp_agent *agent, uint64_t now)
{
    json_t *answer;
    uint32_t request = agent->msg.request;
    int rc = fp_call_take(&agent->in, &agent->msg, &answer);
    if (rc)
        fp_agent_leave(agent, fp_error(rc, "%s: %s", agent->dial.uri, farpool_errmsg()));
    if (!answer)
        return;
    if (!fp_agent_member_answer(agent, request, answer, now))
        fp_agent_asked_answer(agent, request, answer, now);
    json_decref(answer);
}

/* Request 0: it could not even read what was sent. */
static void take_error(fp_agent *agent)
{
    uint32_t request = agent->msg.request;
    int code = agent->msg.code < 0 ? agent->msg.code : FARPOOL_E_PROTO;
    if (!request || request == agent->hello)
        fp_agent_leave(agent, fp_error(code, "%s: %s", agent->dial.uri, agent->msg.text));
    else if (!fp_agent_member_error(agent, request, code))
        fp_agent_asked_error(agent, request, code);
}

static void take_greeting(fp_agent *agent, uint64_t now)
{
    int rc = fp_greet_take(&agent->greet, &agent->msg);
    if (rc < 0)
        fp_error(rc, "%s: %s", agent->dial.uri, farpool_errmsg());
    if (rc > 0)
        rc = say_greeting(agent);
    else if (!rc)
        agent->hello = 0;
    if (rc)
        fp_agent_leave(agent, rc);
    else if (!agent->hello)
        fp_agent_member_begin(agent, now);
}

static void take_message(fp_agent *agent, const fp_net_event *event, uint64_t now)
{
    int rc = fp_wire_decode(event->data, event->len, &agent->msg);
    agent->heard_ns = now;
    if (rc) {
        fp_agent_leave(agent, rc);
    } else if (agent->msg.type == FP_MSG_ERROR) {
        take_error(agent);
    } else if (agent->phase == FP_AGENT_GREETING && agent->msg.request == agent->hello) {
        take_greeting(agent, now);
    } else if (agent->phase > FP_AGENT_GREETING && agent->msg.type == FP_MSG_ANSWER) {
        take_answer(agent, now);
    } else {
        fp_agent_leave(agent,
                       fp_error(FARPOOL_E_PROTO, "%s: a message of type %d, which answers nothing",
                                agent->dial.uri, (int)agent->msg.type));
    }
}

static void take_event(fp_agent *agent, const fp_net_event *event)
{
    if (!event->conn || event->conn != agent->dial.conn)
        return;
    if (event->kind == FP_NET_CLOSED)
        fp_agent_leave(agent, fp_error(event->status, "%s: %s", agent->dial.uri,
                                       fp_net_conn_reason(event->conn)));
    else if (event->kind == FP_NET_RECV)
        take_message(agent, event, fp_agent_now(agent));
}

/* Whether there may be more. */
static bool take_events(fp_agent *agent)
{
    fp_net_event event;
    for (int i = 0; agent->phase >= FP_AGENT_GREETING; i++) {
        if (i == EVENTS_MAX)
            return true;
        int n = fp_net_poll(agent->dial.poller, &event, 1, 0);
        if (n < 0)
            fp_agent_leave(agent, n);
        if (n <= 0)
            break;
        take_event(agent, &event);
    }
    return false;
}

/* ---- time ------------------------------------------------------------------------------------ */

void fp_agent_wake(fp_agent *agent)
{
    if (!agent->stepping)
        fp_wake_up(&agent->wake);
}

static void look_at_time(fp_agent *agent)
{
    uint64_t now = fp_agent_now(agent);
    bool opening = agent->phase == FP_AGENT_GREETING || agent->phase == FP_AGENT_JOINING;
    if (agent->leaving && (now >= agent->deadline_ns || !fp_agent_asked_any_sent(agent)))
        fp_agent_leave(agent, fp_error(FARPOOL_E_NODE, "%s does not lead%s", agent->dial.uri,
                                       agent->leader[0] ? "" : ", and knows nobody who does"));
    else if (opening && now >= agent->deadline_ns)
        fp_agent_leave(agent, fp_error(FARPOOL_E_TIMEOUT, "%s: it has not answered %s",
                                       agent->dial.uri, agent->hello ? "HELLO" : "'join'"));
    fp_agent_member_step(agent, now);
    fp_agent_asked_step(agent, now);
}

/* Calls are not sent before it is known that somebody leads; till then their time runs. */
uint64_t fp_agent_next_ns(const fp_agent *agent)
{
    bool timed =
        agent->phase == FP_AGENT_GREETING || agent->phase == FP_AGENT_JOINING || agent->leaving;
    uint64_t next = timed ? agent->deadline_ns : UINT64_MAX;
    if (agent->phase == FP_AGENT_AWAY && wants_connection(agent))
        next = agent->due_ns;
    uint64_t others[] = {fp_agent_member_next_ns(agent), fp_agent_asked_next_ns(agent)};
    for (unsigned i = 0; i < 2; i++)
        next = others[i] < next ? others[i] : next;
    return next;
}

int fp_agent_step(fp_agent *agent)
{
    if (agent->stepping) /* a simulated world does so while it connects */
        return 0;
    agent->stepping = true;
    uint64_t now = fp_agent_now(agent);
    (void)fp_wake_take(&agent->wake, now);
    if (agent->phase == FP_AGENT_AWAY && wants_connection(agent) && now >= agent->due_ns)
        connect_next(agent);
    if (agent->phase == FP_AGENT_CONNECTING)
        connect_step(agent);
    bool more = take_events(agent);
    look_at_time(agent);
    uint64_t next = fp_agent_next_ns(agent);
    more = more || next <= fp_agent_now(agent);
    fp_wake_at(&agent->wake, next);
    agent->stepping = false;
    return more;
}

void fp_agent_sim_wait(fp_agent *agent)
{
    fp_net_event event;
    uint64_t now = fp_agent_now(agent), next = fp_agent_next_ns(agent);
    uint64_t ms = next > now ? (next - now) / 1000000 + 1 : 1;
    FP_ASSERT(agent->dial.poller); /* of a simulated world there always is one */
    agent->stepping = true;
    if (fp_net_poll(agent->dial.poller, &event, 1, ms < 1000 ? (int)ms : 1000) > 0)
        take_event(agent, &event);
    agent->stepping = false;
}

/* ---- life ------------------------------------------------------------------------------------ */

static int take_uris(fp_agent *agent, const char *text)
{
    while (*text) {
        size_t len;
        if (agent->uri_count == FP_AGENT_COORDINATORS_MAX)
            return fp_error(FARPOOL_E_INVAL, "at most %d coordinators can be given",
                            FP_AGENT_COORDINATORS_MAX);
        int rc = fp_uri_first(text, agent->uris[agent->uri_count++], &len);
        if (rc)
            return rc;
        text += len + (text[len] == ',');
    }
    return agent->uri_count ? 0 : fp_error(FARPOOL_E_INVAL, "no address of a coordinator is given");
}

static int draw_first(fp_agent *agent)
{
    unsigned number = 0;
    if (agent->config.net)
        number = (unsigned)fp_sim_now_ns(agent->config.net->world); /* the seed has drawn it */
    else if (getrandom(&number, sizeof number, 0) != sizeof number)
        return fp_error_sys("drawing a number");
    agent->next = number % agent->uri_count;
    return 0;
}

int fp_agent_open(const fp_agent_config *config, fp_agent **out)
{
    fp_agent *agent = calloc(1, sizeof *agent);
    if (!agent)
        return fp_error(FARPOOL_E_NOMEM, "no memory to speak with coordinators");
    agent->config = *config;
    agent->wake = FP_WAKE_NONE;
    snprintf(agent->name, sizeof agent->name, "%s", config->name);
    int rc = take_uris(agent, config->coordinators);
    if (!rc && !config->net)
        rc = fp_wake_open(&agent->wake, "to speak with coordinators");
    fp_wake_up(&agent->wake); /* the first step begins */
    rc = rc ? rc : draw_first(agent);
    agent->dial = (fp_dial){.net_options = config->net,
                            .auth = config->auth,
                            .timeout_ms = CONNECT_MS,
                            .wake = &agent->wake};
    if (rc) {
        fp_agent_close(agent);
        return rc;
    }
    *out = agent;
    return 0;
}

void fp_agent_close(fp_agent *agent)
{
    if (!agent)
        return;
    agent->closing = true;
    fp_dial_close(&agent->dial);
    fp_agent_asked_close(agent);
    fp_call_drop(&agent->in);
    fp_wake_close(&agent->wake);
    free(agent);
}

int fp_agent_fd(const fp_agent *agent) { return agent->wake.epoll_fd; }

fp_poller *fp_agent_poller(const fp_agent *agent)
{
    return agent->config.net ? agent->dial.poller : NULL;
}

void fp_agent_changed(fp_agent *agent)
{
    agent->changed = true;
    fp_agent_wake(agent);
}

bool fp_agent_is_member(const fp_agent *agent)
{
    return agent->config.card && agent->phase == FP_AGENT_OPEN;
}

const char *fp_agent_trouble(const fp_agent *agent)
{
    return agent->trouble.status ? agent->trouble.reason : "none has answered yet";
}
