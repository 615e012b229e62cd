/* SPDX-License-Identifier: Apache-2.0 */
/* What all metastores share: requests are checked and counted, completions and events delivered (M1, M2, M10, M12). */
#include "coordinator/metastore.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum { TIMEOUT_MS = 5000, ATTEMPT_MS = 1500, WATCH_MS = 3000, LOOK_MS = 20, HISTORY = 10000 };
enum { TIMEOUT_MAX_MS = 3600 * 1000, TTL_MIN_MS = 1000 };

static const char *const kind_names[FP_META_KINDS] = {
    [FP_META_TXN] = "transaction",         [FP_META_RANGE] = "range",
    [FP_META_LEASE_GRANT] = "lease grant", [FP_META_LEASE_KEEP] = "lease keep-alive",
    [FP_META_LEASE_REVOKE] = "revocation", [FP_META_LEASE_LEFT] = "lease query",
    [FP_META_COMPACT] = "compaction",
};

/* ---- open ------------------------------------------------------------------------------------ */

static const fp_meta_ops *find_ops(const char *uri, const char **rest)
{
    static const fp_meta_ops *const all[] = {&fp_meta_etcd, &fp_meta_sqlite, &fp_meta_sim};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        size_t len = strlen(all[i]->scheme);
        if (strncmp(uri, all[i]->scheme, len) == 0) {
            *rest = uri + len;
            return all[i];
        }
    }
    return NULL;
}

static void fill_in(fp_meta_options *filled, const fp_meta_options *options)
{
    *filled = options ? *options : (fp_meta_options){0};
    if (!filled->timeout_ms)
        filled->timeout_ms = TIMEOUT_MS;
    if (!filled->attempt_timeout_ms)
        filled->attempt_timeout_ms = ATTEMPT_MS;
    if (!filled->watch_timeout_ms)
        filled->watch_timeout_ms = WATCH_MS;
    if (!filled->look_ms)
        filled->look_ms = LOOK_MS;
    if (!filled->history)
        filled->history = HISTORY;
}

int fp_meta_open(const char *uri, const fp_meta_options *options, fp_meta **out)
{
    const char *rest;
    const fp_meta_ops *ops = find_ops(uri, &rest);
    if (!ops)
        return fp_error(FARPOOL_E_INVAL,
                        "metastore '%s': the address begins with etcd:// (a cluster), sqlite: (a "
                        "file) or sim:",
                        uri);
    fp_meta_options filled;
    fill_in(&filled, options);
    if (filled.timeout_ms > TIMEOUT_MAX_MS || filled.attempt_timeout_ms > TIMEOUT_MAX_MS ||
        filled.watch_timeout_ms > TIMEOUT_MAX_MS || filled.look_ms > TIMEOUT_MAX_MS)
        return fp_error(FARPOOL_E_INVAL, "metastore %s: a timeout is an hour at most", uri);
    char *copy = strdup(uri);
    if (!copy)
        return fp_error(FARPOOL_E_NOMEM, "metastore %s: no memory", uri);
    fp_meta *meta;
    int rc = ops->open(rest, &filled, &meta);
    if (rc) {
        free(copy);
        return rc;
    }
    meta->ops = ops;
    meta->uri = copy;
    meta->options = filled;
    meta->finished_end = &meta->finished;
    *out = meta;
    return 0;
}

const char *fp_meta_uri(const fp_meta *meta) { return meta->uri; }
int fp_meta_fd(const fp_meta *meta) { return meta->ops->fd(meta); }

/* ---- checks ---------------------------------------------------------------------------------- */

static int check_key(const char *key, bool may_be_empty)
{
    if (!*key && !may_be_empty)
        return fp_error(FARPOOL_E_INVAL, "a key must not be empty");
    if (strnlen(key, FP_META_KEY_MAX + 1) > FP_META_KEY_MAX)
        return fp_error(FARPOOL_E_INVAL, "key '%.40s...': longer than %d bytes", key,
                        FP_META_KEY_MAX);
    return 0;
}

static bool is_change(const fp_meta_op *op) { return op->kind != FP_META_GET; }

static bool covers(const fp_meta_op *op, const char *key)
{
    return op->kind == FP_META_DELETE_PREFIX ? strncmp(key, op->key, strlen(op->key)) == 0
                                             : strcmp(key, op->key) == 0;
}

/* M4: etcd refuses that, so all do. */
static int check_once(const fp_meta_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; is_change(&ops[i]) && k < i; k++)
            if (is_change(&ops[k]) && (covers(&ops[k], ops[i].key) || covers(&ops[i], ops[k].key)))
                return fp_error(FARPOOL_E_INVAL,
                                "key '%.80s' is put or deleted twice in one transaction",
                                ops[i].key);
    return 0;
}

static int check_ops(const fp_meta_op *ops, size_t count, bool only_gets, size_t *bytes)
{
    for (size_t i = 0; i < count; i++) {
        FP_ASSERT(!only_gets || ops[i].kind == FP_META_GET);
        int rc = check_key(ops[i].key, false);
        if (rc)
            return rc;
        *bytes += FP_META_OP_COST + strlen(ops[i].key) + ops[i].len;
    }
    return 0;
}

static int check_txn(const fp_meta_req *req)
{
    size_t bytes = 0;
    int rc = 0;
    if (req->compare_count > FP_META_OPS_MAX || req->op_count > FP_META_OPS_MAX ||
        req->other_count > FP_META_OPS_MAX)
        return fp_error(FARPOOL_E_INVAL,
                        "%zu compares, %zu and %zu operations: %d of each at most; split it",
                        req->compare_count, req->op_count, req->other_count, FP_META_OPS_MAX);
    for (size_t i = 0; i < req->compare_count && !rc; i++) {
        rc = check_key(req->compares[i].key, false);
        if (!rc)
            bytes += FP_META_OP_COST + strlen(req->compares[i].key) + req->compares[i].len;
    }
    if (!rc)
        rc = check_ops(req->ops, req->op_count, false, &bytes);
    if (!rc)
        rc = check_ops(req->other_ops, req->other_count, true, &bytes);
    if (!rc && bytes > FP_META_REQUEST_MAX)
        rc = fp_error(FARPOOL_E_TOO_BIG,
                      "%zu bytes of keys and values, %d at most: keep large things elsewhere",
                      bytes, FP_META_REQUEST_MAX);
    return rc ? rc : check_once(req->ops, req->op_count);
}

static int check_numbers(const fp_meta_req *req)
{
    if (req->timeout_ms > TIMEOUT_MAX_MS)
        return fp_error(FARPOOL_E_INVAL, "timeout of %u ms: an hour at most", req->timeout_ms);
    if (req->kind == FP_META_LEASE_GRANT &&
        (req->ttl_ms < TTL_MIN_MS || req->ttl_ms > FP_META_TTL_MAX_MS))
        return fp_error(FARPOOL_E_INVAL, "time to live of %llu ms: 1 s to 24 h are allowed",
                        (unsigned long long)req->ttl_ms);
    if (req->kind == FP_META_COMPACT && (!req->at || req->at > INT64_MAX))
        return fp_error(FARPOOL_E_INVAL, "there is no revision %llu", (unsigned long long)req->at);
    if (req->lease > INT64_MAX)
        return fp_error(FARPOOL_E_NOTFOUND, "there is no lease %llx",
                        (unsigned long long)req->lease);
    return 0;
}

static int check(const fp_meta_req *req)
{
    FP_ASSERT(req->done && !req->own.in_flight && req->kind < FP_META_KINDS);
    int rc = check_numbers(req);
    if (rc)
        return rc;
    if (req->kind == FP_META_TXN)
        return check_txn(req);
    if (req->kind != FP_META_RANGE)
        return 0;
    if (req->limit > FP_META_RANGE_MAX)
        return fp_error(FARPOOL_E_INVAL, "a page of %zu keys: %d at most", req->limit,
                        FP_META_RANGE_MAX);
    rc = check_key(req->key, true);
    return rc || !req->after ? rc : check_key(req->after, false);
}

bool fp_meta_req_changes(const fp_meta_req *req)
{
    if (req->kind != FP_META_TXN)
        return req->kind != FP_META_RANGE && req->kind != FP_META_LEASE_LEFT;
    for (size_t i = 0; i < req->op_count; i++)
        if (is_change(&req->ops[i]))
            return true;
    return false;
}

/* ---- requests -------------------------------------------------------------------------------- */

void fp_meta_submit(fp_meta *meta, fp_meta_req *req)
{
    int rc = check(req);
    req->own.meta = meta;
    req->own.in_flight = true;
    req->own.state = NULL;
    req->kvs = NULL;
    req->kv_count = 0;
    req->succeeded = req->more = false;
    req->revision = 0;
    if (!req->timeout_ms)
        req->timeout_ms = meta->options.timeout_ms;
    meta->in_flight++;
    if (rc)
        fp_meta_finish(req, rc);
    else if (meta->closing)
        fp_meta_finish(req, fp_error(FARPOOL_E_CLOSED, "the metastore is being closed"));
    else
        meta->ops->submit(meta, req);
}

void fp_meta_finish(fp_meta_req *req, int status)
{
    fp_meta *meta = req->own.meta;
    FP_ASSERT(req->own.in_flight && (!status || !req->kvs));
    FP_ASSERT(status != FARPOOL_E_UNKNOWN ||
              (req->kind == FP_META_TXN && fp_meta_req_changes(req))); /* M5 */
    req->status = status;
    req->own.message[0] = 0;
    if (status) {
        strncpy(req->own.message, farpool_errmsg(), sizeof req->own.message - 1);
        req->own.message[sizeof req->own.message - 1] = 0;
    }
    req->own.next = NULL;
    *meta->finished_end = req;
    meta->finished_end = &req->own.next;
    meta->finished_count++;
}

static void complete(fp_meta_req *req)
{
    fp_meta *meta = req->own.meta;
    meta->in_flight--;
    meta->called++;
    req->own.in_flight = false;
    if (req->status)
        fp_error(req->status, "metastore %.100s: %s: %s", meta->uri, kind_names[req->kind],
                 req->own.message);
    req->done(req);
}

/* Those that are finished now: what done() submits is for the next round. */
static void deliver(fp_meta *meta)
{
    meta->calling = true;
    for (size_t count = meta->finished_count; count && !meta->dead; count--) {
        fp_meta_req *req = meta->finished;
        meta->finished = req->own.next;
        if (!meta->finished)
            meta->finished_end = &meta->finished;
        meta->finished_count--;
        complete(req);
    }
    meta->calling = false;
}

int fp_meta_poll(fp_meta *meta, int timeout_ms)
{
    FP_ASSERT(!meta->calling && !meta->closing); /* M10 */
    if (meta->dead)
        return 0;
    meta->called = 0;
    meta->calling = true;
    int rc = meta->ops->poll(meta, meta->finished ? 0 : timeout_ms);
    meta->calling = false;
    if (rc)
        return rc;
    deliver(meta);
    return meta->called;
}

void fp_meta_close(fp_meta *meta)
{
    if (!meta)
        return;
    FP_ASSERT(!meta->calling && !meta->closing);
    meta->closing = true;
    meta->ops->drain(meta);
    meta->dead = false;
    while (meta->watches) {
        fp_error(FARPOOL_E_CLOSED, "the metastore was closed");
        fp_meta_watch_end(meta->watches, FARPOOL_E_CLOSED);
    }
    while (meta->finished)
        deliver(meta);
    FP_ASSERT(!meta->in_flight && !meta->watches);
    free(meta->uri);
    meta->ops->close(meta);
}

/* ---- watches --------------------------------------------------------------------------------- */

void fp_meta_watch_start(fp_meta *meta, fp_meta_watch *watch)
{
    FP_ASSERT(watch->from && watch->events && watch->ended && !watch->own.meta);
    FP_ASSERT(strnlen(watch->prefix, FP_META_KEY_MAX + 1) <= FP_META_KEY_MAX);
    FP_ASSERT(!meta->closing);
    watch->own.meta = meta;
    watch->own.state = NULL;
    watch->own.next = meta->watches;
    meta->watches = watch;
    meta->watch_changes++;
    meta->ops->watch_start(meta, watch);
}

static void take_out(fp_meta_watch *watch)
{
    fp_meta *meta = watch->own.meta;
    fp_meta_watch **link = &meta->watches;
    while (*link != watch)
        link = &(*link)->own.next;
    *link = watch->own.next;
    meta->watch_changes++;
    if (meta->giving == watch)
        meta->giving = NULL;
    meta->ops->watch_stop(watch);
    watch->own.meta = NULL;
}

void fp_meta_watch_stop(fp_meta_watch *watch)
{
    if (watch->own.meta)
        take_out(watch);
}

bool fp_meta_watch_give(fp_meta_watch *watch, const fp_meta_kv *changes, size_t count)
{
    fp_meta *meta = watch->own.meta;
    if (meta->dead)
        return true;
    meta->called++;
    meta->giving = watch;
    watch->events(watch, changes, count);
    bool goes_on = meta->giving == watch;
    meta->giving = NULL;
    return goes_on;
}

void fp_meta_watch_end(fp_meta_watch *watch, int status)
{
    fp_meta *meta = watch->own.meta;
    char words[320];
    strncpy(words, farpool_errmsg(), sizeof words - 1);
    words[sizeof words - 1] = 0;
    take_out(watch);
    watch->status = status;
    meta->called++;
    fp_error(status, "metastore %.100s: watch of '%.80s': %s", meta->uri, watch->prefix, words);
    watch->ended(watch);
}

/* ---- what was found -------------------------------------------------------------------------- */

static bool grow(void **memory, size_t *room, size_t needed, size_t size)
{
    if (needed <= *room)
        return true;
    size_t wanted = *room ? *room * 2 : 16;
    while (wanted < needed)
        wanted *= 2;
    void *larger = realloc(*memory, wanted * size);
    if (!larger)
        return false;
    *memory = larger;
    *room = wanted;
    return true;
}

void fp_meta_found_add(fp_meta_found *found, const fp_meta_kv *kv)
{
    size_t key_len = strlen(kv->key) + 1, needed = found->used + key_len + kv->len + 1;
    void *bytes = found->bytes, *places = found->places;
    if (found->failed || needed > FP_META_ANSWER_MAX) {
        found->failed = true;
        return;
    }
    found->failed = !grow(&bytes, &found->room, needed, 1) ||
                    !grow(&places, &found->places_room, found->count + 1, sizeof *found->places);
    found->bytes = bytes;
    found->places = places;
    if (found->failed)
        return;
    found->places[found->count++] =
        (struct fp_meta_place){.key = found->used, .value = found->used + key_len, .kv = *kv};
    memcpy(found->bytes + found->used, kv->key, key_len);
    if (kv->len)
        memcpy(found->bytes + found->used + key_len, kv->value, kv->len);
    found->bytes[needed - 1] = 0;
    found->used = needed;
}

void fp_meta_found_drop(fp_meta_found *found)
{
    free(found->bytes);
    free(found->places);
    *found = (fp_meta_found){0};
}

int fp_meta_found_pack(fp_meta_found *found, fp_meta_kv **kvs, size_t *count)
{
    bool failed = found->failed;
    char *memory = NULL;
    *kvs = NULL;
    *count = 0;
    if (!failed && found->count)
        memory = malloc(found->count * sizeof **kvs + found->used);
    if (failed || (found->count && !memory)) {
        fp_meta_found_drop(found);
        return fp_error(FARPOOL_E_TOO_BIG,
                        "the answer is larger than %d bytes or than memory allows: ask for fewer "
                        "keys",
                        FP_META_ANSWER_MAX);
    }
    if (memory) {
        char *bytes = memory + found->count * sizeof **kvs;
        *kvs = (fp_meta_kv *)(void *)memory;
        *count = found->count;
        memcpy(bytes, found->bytes, found->used);
        for (size_t i = 0; i < found->count; i++) {
            (*kvs)[i] = found->places[i].kv;
            (*kvs)[i].key = bytes + found->places[i].key;
            if ((*kvs)[i].value)
                (*kvs)[i].value = bytes + found->places[i].value;
        }
    }
    fp_meta_found_drop(found);
    return 0;
}
