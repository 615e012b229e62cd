/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metastore of a cluster: etcd's v3 API through its JSON gateway.
 *
 * The way of a request: it waits for a token, if there is a user, and is POSTed to the member that answered last. If
 * that fails so that it is proved not to have been applied (no connection, no leader, no valid token), or if it does
 * no harm twice, it goes to the next member, until its timeout. A transaction with changes whose body may have left
 * whole, and to which no answer came that says what became of it, ends with E_UNKNOWN. A member that says nothing is
 * waited for attempt_timeout_ms; with such a transaction as long as there is time.
 *
 * A lease's number is our choice, so that granting may be repeated: if it then exists already, it is ours.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/etcd_inside.h"

enum { TOKEN_TRIES = 3, LAST_TRY_NS = 2 * ETCD_RETRY_NS };

/* ---- the end of a request -------------------------------------------------------------------- */

/* The op is freed; the words are those of farpool_errmsg(). */
static void finish(etcd_meta *meta, etcd_op *op, int status)
{
    fp_meta_req *req = op->req;
    etcd_op **link = &meta->ops;
    while (*link != op)
        link = &(*link)->next;
    *link = op->next;
    if (!op->next)
        meta->ops_end = link;
    if (status) {
        free(req->kvs);
        req->kvs = NULL;
        req->kv_count = 0;
        req->succeeded = req->more = false;
    }
    fp_meta_finish(req, status);
    fp_http_cancel(&op->call);
    free(op->body);
    free(op);
}

static bool must_not_repeat(const fp_meta_req *req)
{
    return req->kind == FP_META_TXN && fp_meta_req_changes(req);
}

static void finish_late(etcd_meta *meta, etcd_op *op)
{
    if (op->code)
        finish(meta, op,
               fp_error(op->code, "within %u ms no member has answered; the last: %s",
                        op->req->timeout_ms, op->words));
    else
        finish(meta, op,
               fp_error(FARPOOL_E_NODE, "within %u ms nobody could be asked", op->req->timeout_ms));
}

/* Once more, with the next member. Why: farpool_errmsg(). */
static void try_again(etcd_meta *meta, etcd_op *op, int code)
{
    op->code = code;
    snprintf(op->words, sizeof op->words, "%s", farpool_errmsg());
    etcd_leave_member(meta, op->member);
    op->tries++;
    op->start_ns = etcd_next_try(meta, op->tries);
}

static void unsure(etcd_meta *meta, etcd_op *op, int code)
{
    if (!must_not_repeat(op->req)) {
        try_again(meta, op, code);
        return;
    }
    char words[320];
    snprintf(words, sizeof words, "%s", farpool_errmsg());
    etcd_leave_member(meta, op->member);
    finish(meta, op, fp_error(FARPOOL_E_UNKNOWN, "%s; nobody knows whether it was applied", words));
}

/* ---- answers --------------------------------------------------------------------------------- */

/* No answer: what libcurl says. */
static void failed(etcd_meta *meta, etcd_op *op)
{
    const fp_http_call *call = &op->call;
    int code =
        call->result == CURLE_OPERATION_TIMEDOUT && call->sent ? FARPOOL_E_TIMEOUT : FARPOOL_E_NODE;
    if (call->too_big) {
        int rc = fp_error(FARPOOL_E_TOO_BIG, "%s: its answer is too large: ask for fewer keys",
                          meta->members[op->member]);
        if (must_not_repeat(op->req))
            unsure(meta, op, rc);
        else
            finish(meta, op, rc);
        return;
    }
    fp_error(code, "%s: %s", meta->members[op->member], call->words);
    /* A body that did not leave whole is no request. */
    if (call->sent)
        unsure(meta, op, code);
    else
        try_again(meta, op, code);
}

/* An error that etcd has told: not applied. */
static void refused(etcd_meta *meta, etcd_op *op, int code)
{
    enum fp_meta_kind kind = op->req->kind;
    if (kind == FP_META_LEASE_REVOKE && code == FARPOOL_E_NOTFOUND)
        code = 0;
    if (kind == FP_META_COMPACT && code == FARPOOL_E_COMPACTED)
        code = 0;
    if (kind == FP_META_LEASE_GRANT && code == FARPOOL_E_EXISTS && op->tries) {
        /* An earlier try was granted after all. */
        op->req->lease = op->lease;
        op->req->ttl_ms = (op->req->ttl_ms + 999) / 1000 * 1000;
        code = 0;
    }
    finish(meta, op, code);
}

static void answered(etcd_meta *meta, etcd_op *op)
{
    char message[200];
    int code = 0;
    etcd_message(op->call.answer, op->call.got, message);
    if (op->call.status == 200 && !*message) {
        code = etcd_read_answer(meta, op, op->call.answer, op->call.got);
        if (code && must_not_repeat(op->req))
            unsure(meta, op, code);
        else
            finish(meta, op, code);
        return;
    }
    switch (etcd_judge(meta, meta->members[op->member], op->call.status, message, &code)) {
    case ETCD_DONE:
        refused(meta, op, code);
        return;
    case ETCD_NOT_NOW:
        try_again(meta, op, code);
        return;
    case ETCD_TOKEN:
        etcd_drop_token(meta, op->token_number);
        if (++op->token_tries == TOKEN_TRIES)
            finish(meta, op,
                   fp_error(FARPOOL_E_REFUSED, "%s: takes no token that it has given",
                            meta->members[op->member]));
        return;
    default:
        unsure(meta, op, code);
    }
}

static void call_done(fp_http_call *call)
{
    etcd_op *op = call->user;
    etcd_meta *meta = (etcd_meta *)op->req->own.meta;
    op->running = false;
    op->start_ns = 0;
    if (call->result)
        failed(meta, op);
    else
        answered(meta, op);
}

/* ---- going on -------------------------------------------------------------------------------- */

static void start(etcd_meta *meta, etcd_op *op, uint64_t now)
{
    uint64_t left_ms = (op->deadline_ns - now + ETCD_NS_PER_MS - 1) / ETCD_NS_PER_MS;
    unsigned attempt = meta->base.options.attempt_timeout_ms;
    unsigned patience = left_ms < attempt ? (unsigned)left_ms : attempt;
    op->member = meta->member;
    op->token_number = meta->token.number;
    snprintf(op->url, sizeof op->url, "%s%s", meta->members[op->member], op->path);
    fp_http_cancel(&op->call);
    op->call = (fp_http_call){.url = op->url,
                              .token = etcd_token(meta),
                              .body = op->body,
                              .len = strlen(op->body),
                              .timeout_ms = must_not_repeat(op->req) ? (unsigned)left_ms : patience,
                              .connect_ms = patience,
                              .done = call_done,
                              .user = op};
    int rc = fp_http_start(meta->http, &op->call);
    if (rc)
        finish(meta, op, rc);
    else
        op->running = true;
}

/* Starts what can be started, ends what is late; when there will be something to do again. */
static uint64_t step_requests(etcd_meta *meta)
{
    uint64_t wake = UINT64_MAX;
    for (etcd_op *op = meta->ops, *next; op; op = next) {
        uint64_t now = fp_now_ns();
        next = op->next;
        if (op->running)
            continue; /* libcurl's timeout ends it */
        /* A try so late would leave a transaction in doubt that is proved not to have been applied so far. */
        if (now + (op->code ? LAST_TRY_NS : 0) >= op->deadline_ns) {
            finish_late(meta, op);
            continue;
        }
        uint64_t due = op->deadline_ns - (op->code ? LAST_TRY_NS : 0);
        if (now < op->start_ns)
            due = op->start_ns < due ? op->start_ns : due;
        else if (etcd_have_token(meta))
            start(meta, op, now);
        else if (!meta->token.running && meta->token.start_ns < due)
            due = meta->token.start_ns;
        wake = due < wake ? due : wake;
    }
    return wake;
}

void etcd_token_failed(etcd_meta *meta, int code)
{
    char words[320];
    snprintf(words, sizeof words, "%s", farpool_errmsg());
    for (etcd_op *op = meta->ops, *next; op; op = next) {
        next = op->next;
        if (op->running)
            continue;
        op->code = code;
        snprintf(op->words, sizeof op->words, "%s", words);
        if (code != FARPOOL_E_NODE)
            finish(meta, op, fp_error(code, "%s", words));
    }
}

static void etcd_submit(fp_meta *base, fp_meta_req *req)
{
    etcd_meta *meta = (etcd_meta *)base;
    etcd_op *op = calloc(1, sizeof *op);
    if (!op) {
        fp_meta_finish(req, fp_error(FARPOOL_E_NOMEM, "no memory"));
        return;
    }
    op->req = req;
    op->deadline_ns = fp_now_ns() + (uint64_t)req->timeout_ms * ETCD_NS_PER_MS;
    *meta->ops_end = op;
    meta->ops_end = &op->next;
    if (req->kind == FP_META_LEASE_GRANT) {
        while (!op->lease)
            if (getrandom(&op->lease, sizeof op->lease, 0) == sizeof op->lease)
                op->lease &= INT64_MAX;
    }
    op->body = etcd_body(meta, op, &op->path);
    if (!op->body)
        finish(meta, op, fp_error(FARPOOL_E_NOMEM, "no memory for the request"));
}

static uint64_t step(etcd_meta *meta)
{
    uint64_t requests = step_requests(meta), watches = etcd_watch_step(meta);
    return requests < watches ? requests : watches;
}

static int etcd_poll(fp_meta *base, int timeout_ms)
{
    etcd_meta *meta = (etcd_meta *)base;
    uint64_t end = fp_now_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * ETCD_NS_PER_MS;
    for (;;) {
        uint64_t wake = step(meta), now = fp_now_ns();
        bool last = base->finished || base->called || (timeout_ms >= 0 && now >= end);
        int ms = last ? 0 : -1;
        if (!last && timeout_ms >= 0)
            ms = (int)((end - now + ETCD_NS_PER_MS - 1) / ETCD_NS_PER_MS);
        int rc = fp_http_step(meta->http, ms, wake);
        if (rc)
            return rc;
        /* What was answered may want something to be done next. */
        if (last)
            return fp_http_arm(meta->http, step(meta));
    }
}

/* What is under way may be applied; the connection is cut, which etcd does not mind. */
static void etcd_drain(fp_meta *base)
{
    etcd_meta *meta = (etcd_meta *)base;
    while (meta->ops) {
        etcd_op *op = meta->ops;
        bool unknown = op->running && op->call.sent && must_not_repeat(op->req);
        finish(
            meta, op,
            fp_error(unknown ? FARPOOL_E_UNKNOWN : FARPOOL_E_CLOSED, "the metastore was closed"));
    }
}

static int etcd_fd(const fp_meta *base) { return fp_http_fd(((const etcd_meta *)base)->http); }

const fp_meta_ops fp_meta_etcd = {
    .scheme = "etcd://",
    .open = etcd_open,
    .close = etcd_close,
    .fd = etcd_fd,
    .submit = etcd_submit,
    .watch_start = etcd_watch_start,
    .watch_stop = etcd_watch_stop,
    .poll = etcd_poll,
    .drain = etcd_drain,
};
