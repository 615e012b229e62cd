/* SPDX-License-Identifier: Apache-2.0 */
/* The methods of nodes: join, wait, tell, leave. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "coordinator/decide.h"
#include "coordinator/duties.h"
#include "coordinator/inside.h"
#include "coordinator/record.h"

/* ---- duties ---------------------------------------------------------------------------------- */

/* The node that speaks by this session, or NULL. */
static fp_member *member_of(const fp_coordinator *c, const fp_session *session)
{
    return session && session->member[0] ? fp_model_member(&c->model, session->member) : NULL;
}

/* duties, with term and revision; taken over. */
static json_t *dated(const fp_coordinator *c, const json_t *duties)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)duties);
    if (copy &&
        (json_object_set_new(copy, "term", json_integer((json_int_t)c->model.term)) ||
         json_object_set_new(copy, "revision", json_integer((json_int_t)c->model.revision)))) {
        json_decref(copy);
        copy = NULL;
    }
    return copy;
}

/* Duties as they are now are the session's; false: it has been given the same already. Then it has seen them as they are
 * now, also if they were others in between. */
static bool renew(fp_coordinator *c, fp_session *session, fp_member *member)
{
    json_t *duties = fp_duties(&c->model, member);
    session->version = c->version;
    if (!duties || (session->duties && json_equal(duties, session->duties))) {
        if (duties && member->seen >= session->given && member->seen < c->model.revision) {
            member->seen = c->model.revision;
            c->tick_ns = 0;
        }
        json_decref(duties);
        return false;
    }
    json_decref(session->duties);
    session->duties = duties;
    session->given = c->model.revision;
    return true;
}

static void answer_wait(fp_coordinator *c, fp_session *session, bool changed)
{
    json_t *answer = json_object();
    if (changed)
        json_object_set_new(answer, "duties", dated(c, session->duties));
    session->waits = false;
    int rc = answer ? fp_call_send(session->at.conn, FP_MSG_ANSWER, session->wait_request, answer)
                    : fp_error(FARPOOL_E_NOMEM, "no memory for duties");
    json_decref(answer);
    if (rc) {
        fp_log(FP_LOG_WARN, "%s: cut off: %s", session->at.name, farpool_errmsg());
        fp_server_drop(&c->server, &session->at);
    }
}

void fp_nodes_answer_waits(fp_coordinator *c)
{
    fp_server_client *next;
    for (fp_server_client *client = c->server.clients; client; client = next) {
        fp_session *session = (fp_session *)client;
        next = client->next;
        fp_member *member = session->waits ? member_of(c, session) : NULL;
        if (!member)
            continue;
        if (session->version != c->version && renew(c, session, member))
            answer_wait(c, session, true);
        else if (c->model.now_ns >= session->wait_ns + fp_ms(c->model.settings.heartbeat_ms))
            answer_wait(c, session, false);
    }
}

void fp_nodes_gone(fp_coordinator *c, fp_session *session)
{
    fp_member *member = member_of(c, session);
    if (member) {
        fp_member_gone(&c->model, member, false);
        c->tick_ns = 0;
    }
    session->member[0] = 0;
    json_decref(session->duties);
    session->duties = NULL;
}

/* ---- join ------------------------------------------------------------------------------------ */

static fp_session *session_of(const fp_coordinator *c, const char *name)
{
    for (fp_server_client *client = c->server.clients; client; client = client->next) {
        if (!strcmp(((fp_session *)client)->member, name))
            return (fp_session *)client;
    }
    return NULL;
}

static bool same_card(const fp_member_record *a, const fp_member_record *b)
{
    if (a->role != b->role || a->boot_id != b->boot_id || a->bytes != b->bytes ||
        a->standby != b->standby || a->uri_count != b->uri_count || strcmp(a->zone, b->zone) != 0 ||
        strcmp(a->rack, b->rack) != 0 || strcmp(a->host, b->host) != 0 ||
        strcmp(a->address, b->address) != 0)
        return false;
    for (unsigned i = 0; i < a->uri_count; i++) {
        if (strcmp(a->uris[i], b->uris[i]) != 0)
            return false;
    }
    return true;
}

/* A node that is drained, or being drained, stays so. */
static void write_card(fp_changes *changes, const fp_member *known, const fp_member_record *card)
{
    fp_member_record *r = fp_change_member(changes, card);
    if (known) {
        strcpy(r->storage, known->r.storage);
        r->state = known->r.state;
    }
    bool other = known && known->r.boot_id != card->boot_id;
    if (!known || other)
        fp_change_event(changes, known ? "restarted" : "joined", r->name, 0, "%s node %s %s",
                        fp_role_names[r->role], r->name,
                        known ? "is another process now" : "has joined");
}

/* Another process with its name: one that is heard of in time is not replaced by it, or they would take each other's
 * place for ever. */
static bool is_there(const fp_coordinator *c, const fp_member *known)
{
    const fp_settings *settings = &c->model.settings;
    unsigned ms = 2 * settings->heartbeat_ms;
    if (ms < settings->grace_ms)
        ms = settings->grace_ms;
    return known->joined && c->model.now_ns < known->heard_ns + fp_ms(ms);
}

static int run_join(fp_coordinator *c, fp_call *call)
{
    fp_member_record card;
    int rc = fp_card_read(call->params, &card);
    if (rc)
        return rc;
    if (call->session->member[0] && strcmp(call->session->member, card.name) != 0)
        return fp_error(FARPOOL_E_INVAL, "join: this connection is %s's already",
                        call->session->member);
    if (call->session->at.authenticated && strcmp(call->session->at.name, card.name) != 0)
        return fp_error(FARPOOL_E_REFUSED,
                        "join: this connection has proven the name %s, so it cannot be %s",
                        call->session->at.name, card.name);
    const fp_member *known = fp_model_member(&c->model, card.name);
    if (known && known->r.role != card.role)
        return fp_error(FARPOOL_E_EXISTS, "join: %s is the name of a %s node", card.name,
                        fp_role_names[known->r.role]);
    if (known && known->r.boot_id != card.boot_id && is_there(c, known))
        return fp_error(FARPOOL_E_EXISTS,
                        "join: another process named %s is there; give this one another --name",
                        card.name);
    if (!known || !same_card(&known->r, &card))
        write_card(call->changes, known, &card);
    return 0;
}

/* The records are kept: from now on it is a node. */
static void done_join(fp_coordinator *c, fp_call *call)
{
    const char *name = json_string_value(json_object_get(call->params, "name"));
    fp_member *member = fp_model_member(&c->model, name);
    fp_session *session = call->session;
    if (!session || !member)
        return;
    fp_session *before = session_of(c, name);
    if (before && before != session)
        fp_server_drop(&c->server, &before->at);
    snprintf(session->member, sizeof session->member, "%s", name);
    member->joined = member->heard_of = true;
    member->seen = 0;
    fp_member_heard(&c->model, member);
    /* What was told before may be of another process. */
    json_t *actual = json_object_get(call->params, "actual");
    if (fp_member_tell(&c->model, member, actual)) {
        fp_log(FP_LOG_WARN, "join: %s", farpool_errmsg());
        fp_member_forget_told(member);
    }
    c->version++;
    c->tick_ns = 0;
    json_decref(session->duties);
    session->duties = NULL;
    renew(c, session, member);
    call->answer = json_pack("{s:i, s:o}", "heartbeat_ms", (int)c->model.settings.heartbeat_ms,
                             "duties", dated(c, session->duties));
}

/* ---- wait, tell, leave ------------------------------------------------------------------------ */

static int heard(fp_coordinator *c, fp_call *call, fp_member **member)
{
    *member = member_of(c, call->session);
    if (!*member)
        return fp_error(FARPOOL_E_NOTFOUND, "%s: this connection's node has to join first",
                        call->method->name);
    if (fp_member_lost(&c->model, *member))
        c->version++; /* it is back */
    fp_member_heard(&c->model, *member);
    json_t *actual = json_object_get(call->params, "actual");
    if (!actual)
        return 0;
    if (!(*member)->actual || !json_equal(actual, (*member)->actual)) {
        c->version++;
        c->tick_ns = 0;
    }
    return fp_member_tell(&c->model, *member, actual);
}

static int run_wait(fp_coordinator *c, fp_call *call)
{
    fp_member *member;
    int rc = heard(c, call, &member);
    if (rc)
        return rc;
    json_int_t seen = json_integer_value(json_object_get(call->params, "seen"));
    if (seen > 0 && (uint64_t)seen > member->seen) {
        member->seen = (uint64_t)seen;
        c->version++;
    }
    if (call->session->waits)
        return fp_error(FARPOOL_E_BUSY, "%s: a wait is under way already", member->r.name);
    call->session->waits = true;
    call->session->wait_request = call->request;
    call->session->wait_ns = c->model.now_ns;
    return 0;
}

static int run_tell(fp_coordinator *c, fp_call *call)
{
    fp_member *member;
    return heard(c, call, &member);
}

static int run_leave(fp_coordinator *c, fp_call *call)
{
    fp_member *member;
    int rc = heard(c, call, &member);
    if (rc)
        return rc;
    fp_member_gone(&c->model, member, true);
    call->session->member[0] = 0;
    c->version++;
    c->tick_ns = 0;
    return 0;
}

const fp_method fp_nodes_methods[] = {
    {"join", FP_MAY_NODE, true, run_join, done_join},
    {"wait", FP_MAY_NODE, false, run_wait, NULL},
    {"tell", FP_MAY_NODE, false, run_tell, NULL},
    {"leave", FP_MAY_NODE, false, run_leave, NULL},
};
const size_t fp_nodes_method_count = sizeof fp_nodes_methods / sizeof fp_nodes_methods[0];
