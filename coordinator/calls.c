/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "coordinator/inside.h"

/* ---- coming in ------------------------------------------------------------------------------- */

static const fp_method *find_in(const fp_method *methods, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(methods[i].name, name))
            return &methods[i];
    }
    return NULL;
}

static const fp_method *find_method(const char *name)
{
    const fp_method *method = find_in(fp_nodes_methods, fp_nodes_method_count, name);
    return method ? method : find_in(fp_admin_methods, fp_admin_method_count, name);
}

static int check_may(const fp_session *session, const fp_method *method)
{
    if (!session->at.authenticated || method->may != FP_MAY_ADMIN ||
        !strncmp(session->at.name, FP_ADMIN, strlen(FP_ADMIN)))
        return 0;
    return fp_error(FARPOOL_E_REFUSED,
                    "'%s' is for administrators, whose names begin with '" FP_ADMIN
                    "', not for '%.80s': use a key that was made by 'farpool key " FP_ADMIN
                    "-NAME', or the secret",
                    method->name, session->at.name);
}

/* Neither one client nor all people and programs together can keep nodes from being heard. */
static int check_room(const fp_coordinator *c, const fp_session *session, const fp_method *method)
{
    if (session->call_count >= FP_SESSION_CALLS_MAX)
        return fp_error(FARPOOL_E_BUSY, "%d calls of this connection wait already: ask again later",
                        FP_SESSION_CALLS_MAX);
    if (method->may != FP_MAY_NODE && c->call_count >= FP_CALLS_MAX)
        return fp_error(FARPOOL_E_BUSY, "%d calls wait already: ask again later", FP_CALLS_MAX);
    return 0;
}

/* Takes whole. */
static int add_call(fp_coordinator *c, fp_session *session, uint32_t request, json_t *whole)
{
    const char *name = json_string_value(json_object_get(whole, "method"));
    const fp_method *method = name ? find_method(name) : NULL;
    int rc = 0;
    if (!method)
        rc = fp_error(FARPOOL_E_UNSUPPORTED, "a coordinator knows no method '%.60s'",
                      name ? name : "");
    else if (!(rc = check_may(session, method)))
        rc = check_room(c, session, method);
    fp_call *call = rc ? NULL : calloc(1, sizeof *call);
    if (!rc && !call)
        rc = fp_error(FARPOOL_E_NOMEM, "no memory for a call");
    if (rc) {
        json_decref(whole);
        return rc;
    }
    *call = (fp_call){.session = session,
                      .request = request,
                      .method = method,
                      .params = whole,
                      .coordinator = c};
    *c->calls_end = call;
    c->calls_end = &call->next;
    c->call_count += method->may != FP_MAY_NODE;
    session->call_count++;
    return 0;
}

void fp_calls_take(void *owner, fp_server_client *client)
{
    fp_coordinator *c = owner;
    fp_session *session = (fp_session *)client;
    const fp_msg *msg = &c->server.request;
    uint32_t request = msg->request;
    if (msg->type != FP_MSG_CALL) {
        int rc = fp_error(FARPOOL_E_UNSUPPORTED, "this is a coordinator: it answers CALLs alone");
        fp_server_refuse(&c->server, client, request, rc);
        return;
    }
    json_t *whole;
    int rc = fp_call_take(&session->in, msg, &whole);
    if (!rc && whole)
        rc = add_call(c, session, request, whole);
    if (rc)
        fp_server_refuse(&c->server, client, request, rc);
}

/* ---- going out ------------------------------------------------------------------------------- */

/* Takes it out of the list and frees it. */
static void remove_call(fp_coordinator *c, fp_call *call)
{
    fp_call **at = &c->calls;
    while (*at != call)
        at = &(*at)->next;
    *at = call->next;
    if (c->calls_end == &call->next)
        c->calls_end = at;
    c->call_count -= call->method->may != FP_MAY_NODE;
    if (call->session)
        call->session->call_count--;
    json_decref(call->params);
    json_decref(call->answer);
    free(call);
}

/* The answer, or {}. Its session may be gone afterwards. */
static void send_answer(fp_coordinator *c, fp_session *session, uint32_t request, json_t *answer)
{
    json_t *empty = answer ? NULL : json_object();
    int rc = fp_call_send(session->at.conn, FP_MSG_ANSWER, request, answer ? answer : empty);
    json_decref(empty);
    if (rc == FARPOOL_E_TOO_BIG || rc == FARPOOL_E_NOMEM) {
        fp_server_refuse(&c->server, &session->at, request, rc);
    } else if (rc) {
        fp_log(FP_LOG_INFO, "%s: cut off: %s", session->at.name, farpool_errmsg());
        fp_server_drop(&c->server, &session->at);
    }
}

/* It must not be found any more by those who drop its session while it is answered. */
void fp_call_finish(fp_coordinator *c, fp_call *call, int status)
{
    fp_session *session = call->session;
    call->session = NULL;
    if (session)
        session->call_count--;
    if (session && status)
        fp_server_refuse(&c->server, &session->at, call->request, status);
    else if (session)
        send_answer(c, session, call->request, call->answer);
    remove_call(c, call);
}

/* A wait is answered by itself: nodes.c has taken it over. */
static void finish_run(fp_coordinator *c, fp_call *call, int status)
{
    if (!status && call->session && call->session->waits &&
        call->session->wait_request == call->request)
        remove_call(c, call);
    else if (status || !call->later)
        fp_call_finish(c, call, status);
}

void fp_calls_written(fp_coordinator *c, fp_call *call, int status)
{
    if (!status && call->method->done)
        call->method->done(c, call);
    finish_run(c, call, status);
}

/* ---- their turn ------------------------------------------------------------------------------ */

/* False: it has to wait for its turn. */
static bool run_call(fp_coordinator *c, fp_call *call)
{
    if (call == c->writer || call->reading)
        return false;
    if (!call->session) {
        fp_call_finish(c, call, 0);
        return true;
    }
    if (call->later || (call->method->changes && c->writing))
        return false;
    call->changes = call->method->changes ? &c->changes : NULL;
    int rc = call->method->run(c, call);
    if (!rc && call->changes && c->changes.count) {
        c->writer = call;
        c->decided_last = false;
        fp_kept_write(c);
        return true;
    }
    if (call->changes)
        c->changes.count = 0;
    fp_calls_written(c, call, rc);
    return true;
}

/* Any call may end others, by the session that both came from: so the list is begun anew. */
void fp_calls_run(fp_coordinator *c)
{
    bool again = c->kept == FP_KEPT_READ;
    while (again) {
        again = false;
        for (fp_call *call = c->calls, *next; call && !again; call = next) {
            next = call->next;
            again = run_call(c, call);
        }
        again = again && c->kept == FP_KEPT_READ;
    }
}

/* ---- ends ------------------------------------------------------------------------------------ */

void fp_calls_forget(fp_coordinator *c, const fp_session *session)
{
    for (fp_call *call = c->calls; call; call = call->next) {
        if (call->session == session)
            call->session = NULL;
    }
}

static json_t *who_leads(const fp_coordinator *c)
{
    json_t *leader = c->lead.leader ? json_loads(c->lead.leader, 0, NULL) : NULL;
    json_t *name = json_object_get(leader, "name"), *uris = json_object_get(leader, "uris");
    json_t *answer = json_pack("{s:{s:O*, s:O*}}", "leader", "name", name, "uris", uris);
    json_decref(leader);
    return answer;
}

void fp_calls_send_away(fp_coordinator *c)
{
    for (bool again = true; again;) {
        again = false;
        for (fp_call *call = c->calls, *next; call && !again; call = next) {
            next = call->next;
            if (call == c->writer || call->reading)
                continue;
            json_decref(call->answer);
            call->answer = who_leads(c);
            call->later = false;
            fp_call_finish(c, call, 0);
            again = true;
        }
    }
}

void fp_calls_drop(fp_coordinator *c)
{
    while (c->calls)
        remove_call(c, c->calls);
}
