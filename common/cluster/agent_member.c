/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "common/cluster/agent_inside.h"
#include "common/error.h"

enum {
    JOIN_MS = 3000, /* it writes to the metastore before it answers */
    OVERDUE_MS_MIN = 1000,
    OVERDUE_HEARTBEATS = 3,
};

/* A new object with `method` and `actual`; NULL: no memory. */
static json_t *call_of(fp_agent *agent, json_t *call, const char *method)
{
    json_t *actual = agent->config.actual(agent->config.owner);
    if (!call || json_object_set_new(call, "method", json_string(method)) ||
        json_object_set(call, "actual", actual)) {
        json_decref(call);
        call = NULL;
    }
    json_decref(actual);
    return call;
}

/* The request; 0: the connection has been left. */
static uint32_t send_call(fp_agent *agent, json_t *call)
{
    uint32_t request = 0;
    int rc = call ? fp_agent_try_send(agent, call, &request)
                  : fp_error(FARPOOL_E_NOMEM, "no memory for what coordinators are told");
    json_decref(call);
    if (!rc)
        return request;
    fp_agent_leave(agent, rc);
    return 0;
}

void fp_agent_member_begin(fp_agent *agent, uint64_t now)
{
    if (!agent->config.card) {
        agent->phase = FP_AGENT_OPEN;
        return;
    }
    agent->phase = FP_AGENT_JOINING;
    agent->deadline_ns = now + JOIN_MS * 1000000ull;
    agent->changed = false;
    agent->join = send_call(agent, call_of(agent, agent->config.card(agent->config.owner), "join"));
}

void fp_agent_member_left(fp_agent *agent) { agent->join = agent->wait = agent->tell = 0; }

/* ---- answers --------------------------------------------------------------------------------- */

/* False: the connection has been left. */
static bool take_duties(fp_agent *agent, const json_t *duties)
{
    const json_t *term = json_object_get(duties, "term");
    const json_t *revision = json_object_get(duties, "revision");
    int rc = 0;
    if (!json_is_integer(term) || !json_is_integer(revision))
        rc = fp_error(FARPOOL_E_PROTO, "%s: duties without a term and a revision", agent->dial.uri);
    else if (json_integer_value(term) < agent->term)
        rc = fp_error(FARPOOL_E_FENCED,
                      "%s leads in term %" JSON_INTEGER_FORMAT ", but another one has led in term "
                      "%" JSON_INTEGER_FORMAT " since",
                      agent->dial.uri, json_integer_value(term), agent->term);
    if (rc) {
        fp_agent_leave(agent, rc);
        return false;
    }
    agent->term = json_integer_value(term);
    agent->seen = json_integer_value(revision);
    agent->config.duties(agent->config.owner, duties);
    return true;
}

static void joined(fp_agent *agent, const json_t *answer)
{
    json_int_t ms = json_integer_value(json_object_get(answer, "heartbeat_ms"));
    if (ms < 1 || ms > FP_HEARTBEAT_MS_MAX) {
        fp_agent_leave(agent, fp_error(FARPOOL_E_PROTO, "%s: heartbeat_ms is to be 1 to %d",
                                       agent->dial.uri, FP_HEARTBEAT_MS_MAX));
        return;
    }
    uint64_t overdue_ms = (uint64_t)ms * OVERDUE_HEARTBEATS;
    agent->overdue_ns = (overdue_ms > OVERDUE_MS_MIN ? overdue_ms : OVERDUE_MS_MIN) * 1000000;
    if (take_duties(agent, json_object_get(answer, "duties")))
        fp_agent_settled(agent);
}

bool fp_agent_member_answer(fp_agent *agent, uint32_t request, const json_t *answer, uint64_t now)
{
    uint32_t *kinds[] = {&agent->join, &agent->wait, &agent->tell};
    unsigned kind = 0;
    while (kind < 3 && *kinds[kind] != request)
        kind++;
    if (kind == 3)
        return false;
    *kinds[kind] = 0;
    const json_t *duties = json_object_get(answer, "duties");
    if (fp_agent_is_elsewhere(answer))
        fp_agent_go_elsewhere(agent, answer, now);
    else if (kind == 0)
        joined(agent, answer);
    else if (kind == 1 && duties)
        (void)take_duties(agent, duties);
    return true;
}

bool fp_agent_member_error(fp_agent *agent, uint32_t request, int code)
{
    if (request != agent->join && request != agent->wait && request != agent->tell)
        return false;
    fp_agent_leave(agent, fp_error(code, "%s: %s", agent->dial.uri, agent->msg.text));
    return true;
}

/* ---- time ------------------------------------------------------------------------------------ */

static bool is_waiting(const fp_agent *agent)
{
    return agent->config.card && agent->phase == FP_AGENT_OPEN && !agent->leaving;
}

void fp_agent_member_step(fp_agent *agent, uint64_t now)
{
    if (!is_waiting(agent))
        return;
    if (agent->wait && now >= agent->wait_ns + agent->overdue_ns) {
        fp_agent_leave(agent,
                       fp_error(FARPOOL_E_TIMEOUT, "%s: it owes an answer for %" PRIu64 " ms",
                                agent->dial.uri, agent->overdue_ns / 1000000));
        return;
    }
    if (!agent->wait) {
        agent->changed = false;
        agent->wait_ns = now;
        agent->wait =
            send_call(agent, call_of(agent, json_pack("{s:I}", "seen", agent->seen), "wait"));
    } else if (agent->changed && !agent->tell) {
        agent->changed = false;
        agent->tell = send_call(agent, call_of(agent, json_object(), "tell"));
    }
}

uint64_t fp_agent_member_next_ns(const fp_agent *agent)
{
    if (!is_waiting(agent))
        return UINT64_MAX;
    return !agent->wait || (agent->changed && !agent->tell) ? 0
                                                            : agent->wait_ns + agent->overdue_ns;
}
