/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes to etcd's JSON gateway and what comes back. Its ways: numbers of 64 bits are strings, keys and values are in
 * base64, what is zero, false or empty is left out, and streams wrap each line in "result" or "error".
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "common/error.h"
#include "coordinator/etcd_inside.h"

/* ---- writing --------------------------------------------------------------------------------- */

static json_t *base64(const void *data, size_t len)
{
    char *text = malloc((len + 2) / 3 * 4 + 1);
    if (!text)
        return NULL;
    int n = EVP_EncodeBlock((unsigned char *)text, data, (int)len);
    json_t *json = json_stringn_nocheck(text, (size_t)n);
    free(text);
    return json;
}

static json_t *number_json(uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    return json_string(text);
}

static size_t full_key(const etcd_meta *meta, const char *key,
                       char full[FP_META_PREFIX_MAX + FP_META_KEY_MAX + 3])
{
    size_t prefix = strlen(meta->prefix), len = strlen(key);
    memcpy(full, meta->prefix, prefix);
    memcpy(full + prefix, key, len + 1);
    return prefix + len;
}

static json_t *key_json(const etcd_meta *meta, const char *key)
{
    char full[FP_META_PREFIX_MAX + FP_META_KEY_MAX + 3];
    return base64(full, full_key(meta, key, full));
}

/* The first key that is after all with the prefix; etcd takes a single 0 byte for "no end". */
static json_t *end_json(const etcd_meta *meta, const char *prefix)
{
    char full[FP_META_PREFIX_MAX + FP_META_KEY_MAX + 3];
    size_t len = full_key(meta, prefix, full);
    while (len && (unsigned char)full[len - 1] == 0xff)
        len--;
    if (!len)
        return base64("", 1);
    full[len - 1] = (char)(full[len - 1] + 1);
    return base64(full, len);
}

/* From the prefix, or from right after `after`, which may be before it. */
static json_t *begin_json(const etcd_meta *meta, const char *prefix, const char *after)
{
    char full[FP_META_PREFIX_MAX + FP_META_KEY_MAX + 3];
    if (after && strcmp(after, prefix) >= 0)
        return base64(full, full_key(meta, after, full) + 1); /* with its 0 */
    /* The empty key is the beginning of all, but etcd wants it written as a 0 byte. */
    size_t len = full_key(meta, prefix, full);
    return base64(full, len ? len : 1);
}

/* Without memory the object is dropped, and with it all that it was to be part of. */
static void set(json_t **object, const char *name, json_t *value)
{
    if (json_object_set_new(*object, name, value)) {
        json_decref(*object);
        *object = NULL;
    }
}

static void append(json_t **array, json_t *value)
{
    if (json_array_append_new(*array, value)) {
        json_decref(*array);
        *array = NULL;
    }
}

static json_t *compare_json(const etcd_meta *meta, const fp_meta_compare *c)
{
    json_t *json = json_pack("{s:s, s:o}", "result", "EQUAL", "key", key_json(meta, c->key));
    switch (c->kind) {
    case FP_META_ABSENT:
        set(&json, "target", json_string("CREATE"));
        set(&json, "create_revision", number_json(0));
        break;
    case FP_META_REVISION_IS:
        /* Revision 0 would be true of a key that is not there; no key has the greatest one. */
        set(&json, "target", json_string("MOD"));
        set(&json, "mod_revision",
            number_json(c->revision && c->revision < INT64_MAX ? c->revision : INT64_MAX));
        break;
    case FP_META_VALUE_IS:
        set(&json, "target", json_string("VALUE"));
        set(&json, "value", base64(c->value, c->len));
        break;
    }
    return json;
}

static json_t *op_json(const etcd_meta *meta, const fp_meta_op *op)
{
    json_t *inner = json_pack("{s:o}", "key", key_json(meta, op->key));
    switch (op->kind) {
    case FP_META_PUT:
        set(&inner, "value", base64(op->value, op->len));
        if (op->lease)
            set(&inner, "lease", number_json(op->lease));
        return json_pack("{s:o}", "request_put", inner);
    case FP_META_DELETE_PREFIX:
        set(&inner, "range_end", end_json(meta, op->key));
        return json_pack("{s:o}", "request_delete_range", inner);
    case FP_META_DELETE:
        return json_pack("{s:o}", "request_delete_range", inner);
    default:
        return json_pack("{s:o}", "request_range", inner);
    }
}

static json_t *ops_json(const etcd_meta *meta, const fp_meta_op *ops, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        append(&array, op_json(meta, &ops[i]));
    return array;
}

static json_t *txn_json(const etcd_meta *meta, const fp_meta_req *req)
{
    json_t *compares = json_array();
    for (size_t i = 0; i < req->compare_count; i++)
        append(&compares, compare_json(meta, &req->compares[i]));
    return json_pack("{s:o, s:o, s:o}", "compare", compares, "success",
                     ops_json(meta, req->ops, req->op_count), "failure",
                     ops_json(meta, req->other_ops, req->other_count));
}

static json_t *range_json(const etcd_meta *meta, const fp_meta_req *req)
{
    size_t limit = req->limit ? req->limit : FP_META_RANGE_MAX;
    return json_pack("{s:o, s:o, s:o, s:o}", "key", begin_json(meta, req->key, req->after),
                     "range_end", end_json(meta, req->key), "limit", number_json(limit), "revision",
                     number_json(req->at));
}

/* jansson's functions take a NULL and give one, so that want of memory is seen here. */
static char *text_of(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return text;
}

char *etcd_body(const etcd_meta *meta, const etcd_op *op, const char **path)
{
    const fp_meta_req *req = op->req;
    switch (req->kind) {
    case FP_META_TXN:
        *path = "/v3/kv/txn";
        return text_of(txn_json(meta, req));
    case FP_META_RANGE:
        *path = "/v3/kv/range";
        return text_of(range_json(meta, req));
    case FP_META_LEASE_GRANT:
        *path = "/v3/lease/grant";
        return text_of(json_pack("{s:o, s:o}", "ID", number_json(op->lease), "TTL",
                                 number_json((req->ttl_ms + 999) / 1000)));
    case FP_META_LEASE_KEEP:
        *path = "/v3/lease/keepalive";
        break;
    case FP_META_LEASE_REVOKE:
        *path = "/v3/lease/revoke";
        break;
    case FP_META_LEASE_LEFT:
        *path = "/v3/lease/timetolive";
        break;
    default:
        *path = "/v3/kv/compaction";
        return text_of(json_pack("{s:o}", "revision", number_json(req->at)));
    }
    return text_of(json_pack("{s:o}", "ID", number_json(req->lease)));
}

char *etcd_watch_body(const etcd_meta *meta, const char *prefix, uint64_t from)
{
    return text_of(json_pack("{s:{s:o, s:o, s:o, s:b}}", "create_request", "key",
                             begin_json(meta, prefix, NULL), "range_end", end_json(meta, prefix),
                             "start_revision", number_json(from), "fragment", 1));
}

char *etcd_ping_body(const etcd_meta *meta, const char *prefix)
{
    return text_of(json_pack("{s:o, s:o, s:s, s:b}", "key", begin_json(meta, prefix, NULL),
                             "range_end", end_json(meta, prefix), "limit", "1", "keys_only", 1));
}

char *etcd_token_body(const etcd_meta *meta)
{
    return text_of(json_pack("{s:s, s:s}", "name", meta->user, "password", meta->password));
}

/* ---- reading --------------------------------------------------------------------------------- */

uint64_t etcd_number(const json_t *object, const char *name)
{
    const json_t *json = json_object_get(object, name);
    if (json_is_string(json))
        return strtoull(json_string_value(json), NULL, 10);
    return json_is_integer(json) ? (uint64_t)json_integer_value(json) : 0;
}

static int no_etcd(const char *what)
{
    return fp_error(FARPOOL_E_PROTO, "what answers is no etcd, or one that is not understood: %s",
                    what);
}

int etcd_check_header(etcd_meta *meta, const json_t *object)
{
    const json_t *header = json_object_get(object, "header");
    uint64_t cluster = etcd_number(header, "cluster_id");
    if (!cluster)
        return no_etcd("an answer without header");
    if (!meta->cluster)
        meta->cluster = cluster;
    if (meta->cluster == cluster)
        return 0;
    return fp_error(FARPOOL_E_PROTO,
                    "members of two clusters, %" PRIx64 " and %" PRIx64 ", have answered: name "
                    "only one's in the address",
                    meta->cluster, cluster);
}

/* Into memory that is the caller's; NULL: that is no base64. */
static char *decode(const json_t *json, size_t *len)
{
    const char *text = json_string_value(json);
    size_t size = text ? json_string_length(json) : 0;
    char *bytes = malloc(size / 4 * 3 + 1);
    if (!bytes || size % 4)
        goto bad;
    int n =
        size ? EVP_DecodeBlock((unsigned char *)bytes, (const unsigned char *)text, (int)size) : 0;
    if (n < 0)
        goto bad;
    /* The padding counts as bytes there. */
    while (size && text[size - 1] == '=' && n > 0) {
        n--;
        size--;
    }
    bytes[n] = 0;
    *len = (size_t)n;
    return bytes;
bad:
    free(bytes);
    return NULL;
}

int etcd_add_kv(const etcd_meta *meta, const json_t *kv, bool deleted, fp_meta_found *found)
{
    size_t key_len = 0, len = 0, prefix = strlen(meta->prefix);
    char *key = decode(json_object_get(kv, "key"), &key_len);
    char *value = decode(json_object_get(kv, "value"), &len);
    int rc = 0;
    if (!key || !value || strlen(key) != key_len || strncmp(key, meta->prefix, prefix) != 0 ||
        key_len <= prefix || key_len > prefix + FP_META_KEY_MAX || !etcd_number(kv, "mod_revision"))
        rc = no_etcd("a key-value that cannot be, or is not of ours");
    else
        fp_meta_found_add(found, &(fp_meta_kv){.key = key + prefix,
                                               .value = deleted ? NULL : value,
                                               .len = deleted ? 0 : len,
                                               .revision = etcd_number(kv, "mod_revision"),
                                               .lease = etcd_number(kv, "lease")});
    free(key);
    free(value);
    return rc;
}

static int read_kvs(const etcd_meta *meta, const json_t *answer, fp_meta_found *found)
{
    const json_t *kvs = json_object_get(answer, "kvs"), *kv;
    size_t i;
    json_array_foreach(kvs, i, kv)
    {
        int rc = etcd_add_kv(meta, kv, false, found);
        if (rc)
            return rc;
    }
    return 0;
}

/* One GET's answer: the key asked for, if it is there. */
static int read_get(const etcd_meta *meta, const json_t *response, const char *key,
                    fp_meta_found *found)
{
    size_t before = found->count;
    const json_t *range = json_object_get(response, "response_range");
    if (!range)
        return no_etcd("a transaction without the answer to a get");
    int rc = read_kvs(meta, range, found);
    if (!rc && found->count > before + 1)
        rc = no_etcd("several values of one key");
    if (!rc && found->count == before)
        fp_meta_found_add(found, &(fp_meta_kv){.key = key});
    return rc;
}

static int read_txn(const etcd_meta *meta, fp_meta_req *req, const json_t *answer,
                    fp_meta_found *found)
{
    req->succeeded = json_is_true(json_object_get(answer, "succeeded"));
    const fp_meta_op *ops = req->succeeded ? req->ops : req->other_ops;
    size_t count = req->succeeded ? req->op_count : req->other_count;
    const json_t *responses = json_object_get(answer, "responses");
    if (json_array_size(responses) != count)
        return no_etcd("a transaction with another number of answers than operations");
    for (size_t i = 0; i < count; i++) {
        int rc = ops[i].kind == FP_META_GET
                     ? read_get(meta, json_array_get(responses, i), ops[i].key, found)
                     : 0;
        if (rc)
            return rc;
    }
    return 0;
}

/* A lease that has ended is told by a time to live of 0 or -1. */
static int read_lease(etcd_op *op, const json_t *answer)
{
    fp_meta_req *req = op->req;
    uint64_t seconds = etcd_number(answer, "TTL");
    if (req->kind == FP_META_LEASE_GRANT)
        req->lease = op->lease;
    else if (req->kind == FP_META_LEASE_LEFT ? seconds > INT64_MAX : seconds == 0)
        return fp_error(FARPOOL_E_NOTFOUND, "there is no lease %" PRIx64 ", it has ended",
                        req->lease);
    req->ttl_ms = seconds * 1000;
    return 0;
}

static int read_parsed(etcd_meta *meta, etcd_op *op, const json_t *answer)
{
    fp_meta_req *req = op->req;
    fp_meta_found found = {0};
    int rc = etcd_check_header(meta, answer);
    if (rc)
        return rc;
    req->revision = etcd_number(json_object_get(answer, "header"), "revision");
    if (req->kind == FP_META_TXN) {
        rc = read_txn(meta, req, answer, &found);
    } else if (req->kind == FP_META_RANGE) {
        rc = read_kvs(meta, answer, &found);
        req->more = json_is_true(json_object_get(answer, "more"));
        if (req->at)
            req->revision = req->at;
    } else if (req->kind != FP_META_COMPACT && req->kind != FP_META_LEASE_REVOKE) {
        rc = read_lease(op, answer);
    }
    if (rc)
        fp_meta_found_drop(&found);
    return rc ? rc : fp_meta_found_pack(&found, &req->kvs, &req->kv_count);
}

int etcd_read_answer(etcd_meta *meta, etcd_op *op, const char *text, size_t len)
{
    json_t *json = json_loadb(text ? text : "", len, JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *result = json_object_get(json, "result"); /* of streams: keepalive */
    int rc = json_is_object(json) ? read_parsed(meta, op, result ? result : json)
                                  : no_etcd("an answer that is no JSON");
    json_decref(json);
    return rc;
}

int etcd_read_token(etcd_meta *meta, const char *text, size_t len)
{
    json_t *json = json_loadb(text ? text : "", len, JSON_DISABLE_EOF_CHECK, NULL);
    const char *token = json_string_value(json_object_get(json, "token"));
    int rc = 0;
    if (!token || strlen(token) > ETCD_TOKEN_MAX || strpbrk(token, "\r\n"))
        rc = no_etcd("an answer without a token");
    else
        strcpy(meta->token.text, token);
    json_decref(json);
    return rc;
}

/* ---- errors ---------------------------------------------------------------------------------- */

void etcd_message(const char *text, size_t len, char message[200])
{
    json_t *json = json_loadb(text ? text : "", len, JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *error = json_object_get(json, "error");
    const char *said =
        json_string_value(json_object_get(json_is_object(error) ? error : json, "message"));
    if (!said)
        said = json_string_value(error);
    snprintf(message, 200, "%s", said ? said : "");
    json_decref(json);
}

/* By what etcd says: its codes are fewer than what has to be told apart. */
static const struct meaning {
    const char *part;
    enum etcd_verdict verdict;
    int code;
    const char *advice;
} meanings[] = {
    {"database space exceeded", ETCD_DONE, FARPOOL_E_NOSPACE,
     "its quota is full: compact the history, `etcdctl defrag` each member, `etcdctl alarm "
     "disarm`; or raise "
     "--quota-backend-bytes"},
    {"too large", ETCD_DONE, FARPOOL_E_TOO_BIG,
     "raise --max-request-bytes to etcd's default at least"},
    {"larger than max", ETCD_DONE, FARPOOL_E_TOO_BIG,
     "raise --max-request-bytes to etcd's default at least"},
    {"lease not found", ETCD_DONE, FARPOOL_E_NOTFOUND, "it has ended"},
    {"lease already exists", ETCD_DONE, FARPOOL_E_EXISTS, "another has chosen the same number"},
    {"has been compacted", ETCD_DONE, FARPOOL_E_COMPACTED, "that history is gone: list again"},
    {"future revision", ETCD_DONE, FARPOOL_E_INVAL, "that revision is still to come"},
    {"duplicate key", ETCD_DONE, FARPOOL_E_INVAL, "a key is put or deleted twice"},
    {"too many operations", ETCD_DONE, FARPOOL_E_INVAL,
     "raise --max-txn-ops to etcd's default at least"},
    {"permission denied", ETCD_DONE, FARPOOL_E_REFUSED, "grant the user's role these keys"},
    {"user name is empty", ETCD_DONE, FARPOOL_E_REFUSED, "it wants a user and password"},
    {"authentication failed", ETCD_DONE, FARPOOL_E_REFUSED, "see user and password"},
    {"authentication is not enabled", ETCD_DONE, FARPOOL_E_REFUSED,
     "leave user and password out, or turn etcd's authentication on"},
    {"corrupt cluster", ETCD_DONE, FARPOOL_E_CORRUPT,
     "its members differ: see etcd's documentation"},
    {"invalid auth token", ETCD_TOKEN, 0, ""},
    {"revision in header is old", ETCD_TOKEN, 0, ""},
    {"no leader", ETCD_NOT_NOW, 0, ""},
    {"raft proposal dropped", ETCD_NOT_NOW, 0, ""},
    {"too many requests", ETCD_NOT_NOW, 0, ""},
};

enum etcd_verdict etcd_judge(const etcd_meta *meta, const char *member, long status,
                             const char *message, int *code)
{
    const char *said = message && *message ? message : "nothing";
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++) {
        if (!strstr(said, meanings[i].part))
            continue;
        *code = fp_error(meanings[i].verdict == ETCD_DONE ? meanings[i].code : FARPOOL_E_NODE,
                         "%s: %.120s; %s", member, said, meanings[i].advice);
        return meanings[i].verdict == ETCD_TOKEN && !meta->user ? ETCD_UNSURE : meanings[i].verdict;
    }
    if (status == 404 && (!message || !*message)) {
        *code = fp_error(FARPOOL_E_PROTO,
                         "%s: has no such path: it is no etcd 3.4 or later, or runs without "
                         "--enable-grpc-gateway",
                         member);
        return ETCD_DONE;
    }
    *code = fp_error(FARPOOL_E_NODE, "%s: HTTP status %ld, it says: %.120s", member, status, said);
    return ETCD_UNSURE;
}
