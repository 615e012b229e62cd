/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>

#include "common/cluster/agent_inside.h"
#include "common/error.h"
#include "common/log.h"

enum {
    TIMEOUT_MS = 5000,
    QUIT_MS = 500,
    /* Operations under way with which another call still fits, and one of agent_member.c. */
    INFLIGHT_MAX = FP_NET_DEPTH_MAX - 2 * (FP_CALL_MAX / FP_WIRE_DATA_MAX + 1),
};

/* ---- the list -------------------------------------------------------------------------------- */

static fp_agent_asked **find(fp_agent *agent, uint32_t request)
{
    fp_agent_asked **at = &agent->asked;
    while (*at && (*at)->request != request)
        at = &(*at)->next;
    return at;
}

/* Whatever done() asks goes to the end of the list. */
static void finish(fp_agent *agent, fp_agent_asked **at, int status, const json_t *answer)
{
    fp_agent_asked *asked = *at;
    *at = asked->next;
    agent->asked_count--;
    asked->done(asked->arg, status, answer);
    json_decref(asked->call);
    free(asked);
}

static const char *method_of(const fp_agent_asked *asked)
{
    const char *method = json_string_value(json_object_get(asked->call, "method"));
    return method ? method : "a call";
}

void fp_agent_ask(fp_agent *agent, json_t *call, unsigned timeout_ms, fp_agent_done *done,
                  void *arg)
{
    fp_agent_asked *asked = NULL;
    int rc = FARPOOL_E_NOMEM;
    if (agent->closing)
        rc = fp_error(FARPOOL_E_CLOSED, "the conversation with the coordinators is closed");
    else if (agent->asked_count == FP_AGENT_ASKED_MAX)
        rc = fp_error(FARPOOL_E_BUSY, "%d calls to coordinators are not answered yet",
                      FP_AGENT_ASKED_MAX);
    else if (!call || !(asked = calloc(1, sizeof *asked)))
        rc = fp_error(FARPOOL_E_NOMEM, "no memory for a call to a coordinator");
    if (!asked) {
        json_decref(call);
        done(arg, rc, NULL);
        return;
    }
    fp_agent_asked **at = &agent->asked;
    while (*at)
        at = &(*at)->next;
    *at = asked;
    agent->asked_count++;
    asked->call = call;
    asked->done = done;
    asked->arg = arg;
    asked->timeout_ms = timeout_ms ? timeout_ms : TIMEOUT_MS;
    asked->deadline_ns = fp_agent_now(agent) + asked->timeout_ms * 1000000ull;
    fp_agent_wake(agent);
}

bool fp_agent_asked_any_sent(const fp_agent *agent)
{
    const fp_agent_asked *asked = agent->asked;
    while (asked && !asked->request)
        asked = asked->next;
    return asked;
}

/* ---- answers --------------------------------------------------------------------------------- */

/* One whose time is over is not in the list any more, and its answer of no interest. */
void fp_agent_asked_answer(fp_agent *agent, uint32_t request, const json_t *answer, uint64_t now)
{
    fp_agent_asked **at = find(agent, request);
    if (*at && fp_agent_is_elsewhere(answer)) {
        (*at)->request = 0;
        fp_agent_go_elsewhere(agent, answer, now);
    } else if (*at) {
        finish(agent, at, 0, answer);
    }
}

void fp_agent_asked_error(fp_agent *agent, uint32_t request, int code)
{
    fp_agent_asked **at = find(agent, request);
    if (*at)
        finish(agent, at, fp_error(code, "%s", agent->msg.text), NULL);
}

void fp_agent_asked_left(fp_agent *agent)
{
    fp_agent_asked **at = &agent->asked;
    while (*at) {
        if (!(*at)->request) {
            at = &(*at)->next;
            continue;
        }
        int rc = fp_error(FARPOOL_E_UNKNOWN,
                          "%s was asked '%s', and has perhaps done it, but not answered: %s",
                          agent->dial.uri, method_of(*at), agent->trouble.reason);
        finish(agent, at, rc, NULL);
        at = &agent->asked;
    }
}

void fp_agent_asked_close(fp_agent *agent)
{
    while (agent->asked)
        finish(agent, &agent->asked,
               fp_error(FARPOOL_E_CLOSED, "the conversation with the coordinators is closed"),
               NULL);
}

/* ---- time ------------------------------------------------------------------------------------ */

static int too_late(const fp_agent *agent, const fp_agent_asked *asked)
{
    if (asked->request)
        return fp_error(FARPOOL_E_UNKNOWN,
                        "%s was asked '%s', and has perhaps done it, but not answered in %u ms",
                        agent->dial.uri, method_of(asked), asked->timeout_ms);
    if (fp_agent_is_refused(agent))
        return fp_error(agent->trouble.status, "'%s': %s", method_of(asked), agent->trouble.reason);
    return fp_error(FARPOOL_E_NODE, "'%s': no coordinator that leads was found in %u ms: %s",
                    method_of(asked), asked->timeout_ms, fp_agent_trouble(agent));
}

void fp_agent_asked_refused(fp_agent *agent)
{
    for (fp_agent_asked *asked = agent->asked; asked; asked = asked->next)
        if (!asked->request)
            asked->deadline_ns = fp_agent_now(agent);
}

static void expire(fp_agent *agent, uint64_t now)
{
    fp_agent_asked **at = &agent->asked;
    bool silent = false;
    while (*at) {
        if (now < (*at)->deadline_ns) {
            at = &(*at)->next;
            continue;
        }
        silent = silent || ((*at)->request && agent->heard_ns < (*at)->sent_ns);
        finish(agent, at, too_late(agent, *at), NULL);
        at = &agent->asked;
    }
    if (silent && agent->phase == FP_AGENT_OPEN)
        fp_agent_leave(agent, fp_error(FARPOOL_E_TIMEOUT, "%s: it is silent", agent->dial.uri));
}

static void send_all(fp_agent *agent, uint64_t now)
{
    for (;;) {
        fp_agent_asked **at = find(agent, 0);
        if (!*at || agent->phase != FP_AGENT_OPEN || agent->leaving ||
            agent->dial.conn->inflight > INFLIGHT_MAX)
            return;
        int rc = fp_agent_try_send(agent, (*at)->call, &(*at)->request);
        (*at)->sent_ns = now;
        if (rc == FARPOOL_E_TOO_BIG || rc == FARPOOL_E_NOMEM) { /* nothing was sent */
            finish(agent, at, rc, NULL);
        } else if (rc) {
            fp_agent_leave(agent, rc); /* then it may have been */
            return;
        }
    }
}

void fp_agent_asked_step(fp_agent *agent, uint64_t now)
{
    send_all(agent, now);
    expire(agent, now);
}

uint64_t fp_agent_asked_next_ns(const fp_agent *agent)
{
    uint64_t next = UINT64_MAX;
    for (const fp_agent_asked *asked = agent->asked; asked; asked = asked->next)
        next = asked->deadline_ns < next ? asked->deadline_ns : next;
    return next;
}

/* ---- waiting --------------------------------------------------------------------------------- */

typedef struct waiter {
    bool over;
    json_t *answer;
    fp_kept failed;
} waiter;

static void answered(void *arg, int status, const json_t *answer)
{
    waiter *w = arg;
    w->over = true;
    if (!status && !(w->answer = json_deep_copy(answer)))
        status = fp_error(FARPOOL_E_NOMEM, "no memory for an answer");
    if (status)
        fp_kept_set(&w->failed, status);
}

int fp_agent_call(fp_agent *agent, json_t *call, unsigned timeout_ms, json_t **answer)
{
    waiter w = {0};
    FP_ASSERT(!agent->stepping);
    fp_agent_ask(agent, call, timeout_ms, answered, &w);
    while (!w.over) {
        if (fp_agent_step(agent) || w.over)
            continue;
        struct pollfd polled = {.fd = agent->wake.epoll_fd, .events = POLLIN};
        if (polled.fd >= 0)
            (void)poll(&polled, 1, -1);
        else
            fp_agent_sim_wait(agent);
    }
    *answer = w.answer;
    return fp_kept_tell(&w.failed);
}

void fp_agent_quit(fp_agent *agent)
{
    json_t *answer = NULL;
    if (agent && fp_agent_is_member(agent) &&
        fp_agent_call(agent, json_pack("{s:s}", "method", "leave"), QUIT_MS, &answer))
        fp_log(FP_LOG_INFO, "leaves the cluster untold: %s", farpool_errmsg());
    json_decref(answer);
}
