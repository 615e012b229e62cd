/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watches: each a stream of its own, lines of JSON.
 *
 * The stream begins at the first revision that is missing, so that nothing is lost or seen twice when it has to be made
 * again with another member: when it ends, when the member says that it has lost its leader, or when the member has
 * shown no sign of life for watch_timeout_ms. For that it is asked for a linearizable range now and then, which it
 * answers only if it runs and has its leader; the gateway has no way to ask on the stream itself (Go's HTTP/1 server
 * does not answer before the request's end), and etcd's own notices come every ten minutes.
 *
 * etcd keeps the events of revisions after the compacted one; of the compacted one itself it may have dropped a
 * deletion. So it is asked for one revision more than needed, and refuses where one might be missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/etcd_inside.h"

enum { PINGS = 3, REFUSED_TRIES = 3, CHUNK_BYTES = 1 << 20 };

static void close_stream(etcd_watch *own)
{
    fp_http_cancel(&own->call);
    fp_http_cancel(&own->ping);
    free(own->body);
    free(own->ping_body);
    own->body = own->ping_body = NULL;
    fp_meta_found_drop(&own->collected);
    own->collected_revision = 0;
    own->running = own->finished = own->pinging = false;
}

void etcd_watch_start(fp_meta *base, fp_meta_watch *watch)
{
    (void)base;
    watch->own.state = NULL; /* made by the first step, where an error can be told */
}

void etcd_watch_stop(fp_meta_watch *watch)
{
    etcd_watch *own = watch->own.state;
    if (own)
        close_stream(own);
    free(own);
    watch->own.state = NULL;
}

/* With another member. */
static void begin_again(etcd_meta *meta, etcd_watch *own)
{
    close_stream(own);
    etcd_leave_member(meta, own->member);
    own->tries++;
    own->start_ns = etcd_next_try(meta, own->tries);
}

/* False: the watch has ended. */
static bool refused(etcd_meta *meta, etcd_watch *own, long status, const char *message)
{
    int code;
    switch (etcd_judge(meta, meta->members[own->member], status, message, &code)) {
    case ETCD_DONE:
        /* A refused watch may be one with an old token: of that etcd says no more than "permission denied". */
        if (code != FARPOOL_E_REFUSED || !meta->user || ++own->token_tries == REFUSED_TRIES) {
            fp_meta_watch_end(own->watch, code);
            return false;
        }
        etcd_drop_token(meta, own->token_number);
        break;
    case ETCD_TOKEN:
        etcd_drop_token(meta, own->token_number);
        break;
    default:
        break;
    }
    begin_again(meta, own);
    return true;
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* Gives the changes collected, which are of whole revisions. False: the watch has ended, was stopped or begins again. */
static bool give(etcd_watch *own)
{
    fp_meta_kv *changes;
    size_t count;
    uint64_t last = own->collected_revision;
    int rc = fp_meta_found_pack(&own->collected, &changes, &count);
    if (rc) {
        fp_meta_watch_end(own->watch, rc);
        return false;
    }
    if (last >= own->next)
        own->next = last + 1;
    bool goes_on = !count || fp_meta_watch_give(own->watch, changes, count);
    free(changes);
    return goes_on;
}

/* An answer that would be too large comes in several, which may divide a revision; all but the last say so. */
static bool collect(etcd_meta *meta, etcd_watch *own, const json_t *result)
{
    const json_t *event;
    size_t i;
    json_array_foreach(json_object_get(result, "events"), i, event)
    {
        const json_t *kv = json_object_get(event, "kv"), *type = json_object_get(event, "type");
        const char *kind = json_string_value(type);
        uint64_t revision = etcd_number(kv, "mod_revision");
        if (revision && revision < own->next)
            continue; /* the one more that was asked for */
        if (revision != own->collected_revision && own->collected.used > CHUNK_BYTES && !give(own))
            return false;
        int rc = revision < own->collected_revision
                     ? fp_error(FARPOOL_E_PROTO, "%s: the watch's revisions go backwards",
                                meta->members[own->member])
                     : etcd_add_kv(meta, kv, kind && !strcmp(kind, "DELETE"), &own->collected);
        own->collected_revision = revision;
        if (rc) {
            fp_meta_watch_end(own->watch, rc);
            return false;
        }
    }
    return json_is_true(json_object_get(result, "fragment")) || !own->collected.count || give(own);
}

static bool cancelled(etcd_meta *meta, etcd_watch *own, const json_t *result)
{
    const char *reason = json_string_value(json_object_get(result, "cancel_reason"));
    uint64_t compacted = etcd_number(result, "compact_revision");
    if (!compacted)
        return refused(meta, own, 200, reason ? reason : "watch cancelled");
    own->watch->compacted = compacted;
    fp_error(FARPOOL_E_COMPACTED,
             "revision %llu is gone, the history begins after %llu: list again",
             (unsigned long long)own->next, (unsigned long long)compacted);
    fp_meta_watch_end(own->watch, FARPOOL_E_COMPACTED);
    return false;
}

static bool take_result(etcd_meta *meta, etcd_watch *own, const json_t *result)
{
    int rc = etcd_check_header(meta, result);
    if (rc) {
        fp_meta_watch_end(own->watch, rc);
        return false;
    }
    if (json_is_true(json_object_get(result, "canceled"))) {
        cancelled(meta, own, result);
        return false;
    }
    /* That it was made says nothing yet: a member without leader says it, too. */
    if (!json_object_get(result, "created"))
        own->tries = own->token_tries = 0;
    return collect(meta, own, result);
}

bool etcd_watch_line(etcd_meta *meta, etcd_watch *own, const char *text, size_t len)
{
    char message[200];
    json_t *json = json_loadb(text, len, 0, NULL);
    const json_t *result = json_object_get(json, "result");
    bool goes_on = false;
    if (result) {
        goes_on = take_result(meta, own, result);
    } else if (json_object_get(json, "error")) {
        etcd_message(text, len, message);
        (void)refused(meta, own, own->call.status, message);
    } else {
        begin_again(meta, own); /* cut off, or not etcd's */
    }
    json_decref(json);
    return goes_on;
}

/* All whole lines that have come. False as above. */
static bool take_lines(etcd_meta *meta, etcd_watch *own)
{
    fp_http_call *call = &own->call;
    size_t begin = 0;
    while (call->got > own->scanned) {
        const char *end = memchr(call->answer + own->scanned, '\n', call->got - own->scanned);
        if (!end)
            break;
        size_t len = (size_t)(end - call->answer) - begin;
        if (len && !etcd_watch_line(meta, own, call->answer + begin, len))
            return false;
        begin += len + 1;
        own->scanned = begin;
    }
    memmove(call->answer, call->answer + begin, call->got - begin);
    call->got -= begin;
    own->scanned = call->got;
    return true;
}

/* ---- streams --------------------------------------------------------------------------------- */

static void stream_done(fp_http_call *call) { ((etcd_watch *)call->user)->finished = true; }

static void ping_done(fp_http_call *call)
{
    etcd_watch *own = call->user;
    etcd_meta *meta = (etcd_meta *)own->watch->own.meta;
    char message[200];
    int code;
    own->pinging = false;
    if (call->result)
        return; /* silence will tell */
    etcd_message(call->answer, call->got, message);
    if (call->status == 200 && !*message) {
        own->heard_ns = fp_now_ns();
        own->tries = 0;
    } else if (etcd_judge(meta, own->ping_url, call->status, message, &code) == ETCD_TOKEN) {
        own->heard_ns = fp_now_ns();
        etcd_drop_token(meta, own->token_number);
    }
}

static void start_ping(etcd_meta *meta, etcd_watch *own)
{
    fp_http_cancel(&own->ping);
    own->token_number = meta->token.number;
    own->ping = (fp_http_call){.url = own->ping_url,
                               .token = etcd_token(meta),
                               .body = own->ping_body,
                               .len = strlen(own->ping_body),
                               .timeout_ms = meta->base.options.watch_timeout_ms,
                               .connect_ms = meta->base.options.watch_timeout_ms,
                               .done = ping_done,
                               .user = own};
    own->pinging = !fp_http_start(meta->http, &own->ping); /* else silence will tell */
}

static void open_stream(etcd_meta *meta, etcd_watch *own)
{
    uint64_t from = own->next > 1 ? own->next - 1 : own->next, now = fp_now_ns();
    own->body = etcd_watch_body(meta, own->watch->prefix, from);
    own->ping_body = etcd_ping_body(meta, own->watch->prefix);
    own->member = meta->member;
    own->token_number = meta->token.number;
    own->scanned = 0;
    snprintf(own->url, sizeof own->url, "%s/v3/watch", meta->members[own->member]);
    snprintf(own->ping_url, sizeof own->ping_url, "%s/v3/kv/range", meta->members[own->member]);
    own->call = (fp_http_call){.url = own->url,
                               .token = etcd_token(meta),
                               .body = own->body,
                               .len = own->body ? strlen(own->body) : 0,
                               .connect_ms = meta->base.options.watch_timeout_ms,
                               .done = stream_done,
                               .user = own};
    if (!own->body || !own->ping_body || fp_http_start(meta->http, &own->call)) {
        begin_again(meta, own);
        return;
    }
    own->running = true;
    own->heard_ns = now;
    own->ping_ns = now + (uint64_t)meta->base.options.watch_timeout_ms * ETCD_NS_PER_MS / PINGS;
}

/* The stream is over: an answer that is no stream, or a connection that broke. */
static void after_end(etcd_meta *meta, etcd_watch *own)
{
    char message[200] = "";
    long status = own->call.status;
    if (own->call.result || status == 200) {
        begin_again(meta, own);
        return;
    }
    etcd_message(own->call.answer, own->call.got, message);
    (void)refused(meta, own, status, message);
}

/* When there will be something to do; 0: the list of watches may be another now. */
static uint64_t step_running(etcd_meta *meta, etcd_watch *own)
{
    uint64_t now = fp_now_ns(), changes = meta->base.watch_changes;
    uint64_t silence = (uint64_t)meta->base.options.watch_timeout_ms * ETCD_NS_PER_MS;
    if (own->call.news) {
        own->call.news = false;
        own->heard_ns = now;
        if (!take_lines(meta, own))
            return 0;
    }
    if (meta->base.watch_changes != changes)
        return 0;
    if (own->finished) {
        after_end(meta, own);
        return 0;
    }
    if (now - own->heard_ns >= silence) {
        begin_again(meta, own);
        return 0;
    }
    if (now >= own->ping_ns) {
        if (!own->pinging && etcd_have_token(meta))
            start_ping(meta, own);
        own->ping_ns = now + silence / PINGS;
    }
    uint64_t end = own->heard_ns + silence;
    return end < own->ping_ns ? end : own->ping_ns;
}

static uint64_t step_watch(etcd_meta *meta, fp_meta_watch *watch)
{
    etcd_watch *own = watch->own.state;
    if (!own) {
        own = watch->own.state = calloc(1, sizeof *own);
        if (!own) {
            fp_meta_watch_end(watch, fp_error(FARPOOL_E_NOMEM, "no memory"));
            return 0;
        }
        own->watch = watch;
        own->next = watch->from;
    }
    if (own->running)
        return step_running(meta, own);
    if (fp_now_ns() < own->start_ns)
        return own->start_ns;
    if (!etcd_have_token(meta))
        return meta->token.running ? UINT64_MAX : meta->token.start_ns;
    open_stream(meta, own);
    return own->running ? own->ping_ns : own->start_ns;
}

uint64_t etcd_watch_step(etcd_meta *meta)
{
    uint64_t wake;
again:
    wake = UINT64_MAX;
    for (fp_meta_watch *watch = meta->base.watches; watch; watch = watch->own.next) {
        uint64_t due = step_watch(meta, watch);
        if (!due)
            goto again;
        wake = due < wake ? due : wake;
    }
    return wake;
}
