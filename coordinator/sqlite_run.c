/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions, ranges, history and its compaction in SQLite's tables. */
#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "common/error.h"
#include "coordinator/sqlite_inside.h"

enum { CHUNK_BYTES = 1 << 20, CHUNK_CHANGES = 1000 };

/* ---- rows ------------------------------------------------------------------------------------ */

/* So that rot in a value, of which SQLite knows nothing, is found: the words of a row in one number. */
static uint32_t row_crc(const fp_meta_kv *kv)
{
    const uint64_t head[3] = {kv->revision, kv->lease, kv->value ? kv->len : UINT64_MAX};
    uint32_t crc = fp_crc32c(0, head, sizeof head);
    crc = fp_crc32c(crc, kv->key, strlen(kv->key));
    return kv->value ? fp_crc32c(crc, kv->value, kv->len) : crc;
}

/* The row that a statement is at: valid until its next step. */
static int read_row(fp_meta_db *db, enum statement which, char key[FP_META_KEY_MAX + 1],
                    fp_meta_kv *kv)
{
    sqlite3_stmt *row = db->statements[which];
    bool deleted = sqlite3_column_type(row, 2) == SQLITE_NULL;
    int key_len = sqlite3_column_bytes(row, 0);
    const void *value = sqlite3_column_blob(row, 2), *key_bytes = sqlite3_column_blob(row, 0);
    if (!key_bytes || key_len > FP_META_KEY_MAX || memchr(key_bytes, 0, (size_t)key_len))
        return fp_error(FARPOOL_E_CORRUPT,
                        "file %.100s: has an impossible key; restore it from a copy", db->path);
    memcpy(key, key_bytes, (size_t)key_len);
    key[key_len] = 0;
    *kv = (fp_meta_kv){.key = key,
                       .revision = (uint64_t)sqlite3_column_int64(row, 1),
                       .value = deleted ? NULL
                                : value ? value
                                        : "",
                       .len = deleted ? 0 : (size_t)sqlite3_column_bytes(row, 2),
                       .lease = (uint64_t)sqlite3_column_int64(row, 3)};
    if (sqlite3_column_int64(row, 4) == row_crc(kv))
        return 0;
    return fp_error(
        FARPOOL_E_CORRUPT,
        "file %.100s: the checksum of key '%.80s' at revision %llu is wrong; restore it "
        "from a copy",
        db->path, key, (unsigned long long)kv->revision);
}

int sqlite_add(fp_meta_db *db, const char *key, const void *value, size_t len, uint64_t lease)
{
    fp_meta_kv kv = {
        .key = key, .revision = db->revision + 1, .value = value, .len = len, .lease = lease};
    sqlite3_stmt *statement = db->statements[SQL_ADD];
    sqlite_bind_key(statement, 1, key);
    FP_ASSERT(!sqlite3_bind_int64(statement, 2, (sqlite3_int64)kv.revision) &&
              !sqlite3_bind_int64(statement, 4, (sqlite3_int64)lease) &&
              !sqlite3_bind_int64(statement, 5, row_crc(&kv)));
    if (value)
        FP_ASSERT(!sqlite3_bind_blob(statement, 3, value, (int)len, SQLITE_STATIC));
    db->changed = true;
    return sqlite_exec(db, SQL_ADD);
}

int sqlite_delete_found(fp_meta_db *db, int rc, fp_meta_found *found)
{
    fp_meta_kv *kvs;
    size_t count;
    int packed = fp_meta_found_pack(found, &kvs, &count);
    if (!rc)
        rc = packed;
    for (size_t i = 0; i < count && !rc; i++)
        rc = sqlite_add(db, kvs[i].key, NULL, 0, 0);
    free(kvs);
    return rc;
}

/* The key as it is now; kv->revision 0: never was, or its history is forgotten. The statement is to be reset. */
static int look_up(fp_meta_db *db, const char *asked, char key[FP_META_KEY_MAX + 1], fp_meta_kv *kv)
{
    *kv = (fp_meta_kv){.key = asked};
    sqlite_bind_key(db->statements[SQL_GET], 1, asked);
    int rc = sqlite_row(db, SQL_GET);
    if (rc > 0)
        rc = read_row(db, SQL_GET, key, kv);
    if (!rc && !kv->value)
        *kv = (fp_meta_kv){.key = asked};
    return rc;
}

/* ---- bounds ---------------------------------------------------------------------------------- */

typedef struct bounds {
    char low[FP_META_KEY_MAX + 1], high[FP_META_KEY_MAX + 1];
    size_t low_len, high_len;
} bounds;

/* All keys with this prefix and after that one: low <= key < high. */
static void bound(bounds *b, const char *prefix, const char *after)
{
    size_t len = strlen(prefix);
    memcpy(b->low, prefix, len);
    b->low_len = len;
    if (after && strcmp(after, prefix) >= 0) {
        b->low_len = strlen(after) + 1; /* with its 0: the next one that there can be */
        memcpy(b->low, after, b->low_len);
    }
    memcpy(b->high, prefix, len);
    while (len && (unsigned char)b->high[len - 1] == 0xff)
        len--;
    b->high_len = len;
    if (len) {
        b->high[len - 1] = (char)(b->high[len - 1] + 1);
    } else { /* after every key */
        memset(b->high, 0xff, sizeof b->high);
        b->high_len = sizeof b->high;
    }
}

static void bind_bounds(sqlite3_stmt *statement, int at, const bounds *b)
{
    FP_ASSERT(!sqlite3_bind_blob(statement, at, b->low, (int)b->low_len, SQLITE_STATIC) &&
              !sqlite3_bind_blob(statement, at + 1, b->high, (int)b->high_len, SQLITE_STATIC));
}

/* ---- ranges ---------------------------------------------------------------------------------- */

/* limit: -1 for all. */
static int find_range(fp_meta_db *db, const bounds *b, uint64_t revision, int64_t limit,
                      fp_meta_found *found)
{
    sqlite3_stmt *statement = db->statements[SQL_RANGE];
    bind_bounds(statement, 1, b);
    FP_ASSERT(!sqlite3_bind_int64(statement, 3, (sqlite3_int64)revision) &&
              !sqlite3_bind_int64(statement, 4, limit));
    int rc;
    while ((rc = sqlite_row(db, SQL_RANGE)) > 0) {
        char key[FP_META_KEY_MAX + 1];
        fp_meta_kv kv;
        rc = read_row(db, SQL_RANGE, key, &kv);
        if (rc)
            break;
        fp_meta_found_add(found, &kv);
    }
    sqlite_reset(db, SQL_RANGE);
    return rc;
}

static int range(fp_meta_db *db, fp_meta_req *req)
{
    bounds b;
    fp_meta_found found = {0};
    uint64_t revision = req->at ? req->at : db->revision;
    size_t limit = req->limit ? req->limit : FP_META_RANGE_MAX;
    if (revision > db->revision)
        return fp_error(FARPOOL_E_INVAL, "revision %llu is still to come, this is %llu",
                        (unsigned long long)revision, (unsigned long long)db->revision);
    if (revision < db->compacted)
        return fp_error(FARPOOL_E_COMPACTED,
                        "revision %llu is gone, the history begins at %llu: list again",
                        (unsigned long long)revision, (unsigned long long)db->compacted);
    bound(&b, req->key, req->after);
    int rc = find_range(db, &b, revision, (int64_t)limit + 1, &found);
    if (rc) {
        fp_meta_found_drop(&found);
        return rc;
    }
    if (found.count > limit) {
        found.count = limit;
        req->more = true;
    }
    req->revision = revision;
    return fp_meta_found_pack(&found, &req->kvs, &req->kv_count);
}

/* ---- compaction ------------------------------------------------------------------------------ */

static int compact(fp_meta_db *db, uint64_t upto)
{
    if (upto <= db->compacted)
        return 0;
    if (upto > db->revision)
        return fp_error(FARPOOL_E_INVAL, "revision %llu is still to come, this is %llu",
                        (unsigned long long)upto, (unsigned long long)db->revision);
    db->compacted = upto;
    sqlite_bind(db, SQL_COMPACT, &upto, 1);
    sqlite_bind(db, SQL_SET_COMPACTED, &upto, 1);
    int rc = sqlite_exec(db, SQL_COMPACT);
    return rc ? rc : sqlite_exec(db, SQL_SET_COMPACTED);
}

/* What has grown too long is cut, now and then: each time all keys are gone through. */
static int trim(fp_meta_db *db)
{
    uint64_t kept = db->revision - db->compacted;
    if (kept <= db->history + db->history / 4)
        return 0;
    return compact(db, db->revision - db->history);
}

/* ---- transactions ---------------------------------------------------------------------------- */

static int compare(fp_meta_db *db, const fp_meta_compare *c, bool *holds)
{
    char key[FP_META_KEY_MAX + 1];
    fp_meta_kv kv;
    int rc = look_up(db, c->key, key, &kv);
    if (rc)
        return rc;
    switch (c->kind) {
    case FP_META_ABSENT:
        *holds = !kv.value;
        break;
    case FP_META_REVISION_IS:
        *holds = kv.value && kv.revision == c->revision;
        break;
    case FP_META_VALUE_IS:
        *holds = kv.value && kv.len == c->len && (!c->len || !memcmp(kv.value, c->value, c->len));
        break;
    }
    sqlite_reset(db, SQL_GET);
    return 0;
}

static int get(fp_meta_db *db, const char *asked, fp_meta_found *found)
{
    char key[FP_META_KEY_MAX + 1];
    fp_meta_kv kv;
    int rc = look_up(db, asked, key, &kv);
    if (!rc)
        fp_meta_found_add(found, &kv);
    sqlite_reset(db, SQL_GET);
    return rc;
}

static int delete_one(fp_meta_db *db, const char *asked)
{
    char key[FP_META_KEY_MAX + 1];
    fp_meta_kv kv;
    int rc = look_up(db, asked, key, &kv);
    sqlite_reset(db, SQL_GET);
    return rc || !kv.value ? rc : sqlite_add(db, asked, NULL, 0, 0);
}

static int delete_prefix(fp_meta_db *db, const char *prefix)
{
    bounds b;
    fp_meta_found found = {0};
    bound(&b, prefix, NULL);
    int rc = find_range(db, &b, db->revision + 1, -1, &found);
    return sqlite_delete_found(db, rc, &found);
}

static int put(fp_meta_db *db, const fp_meta_op *op)
{
    uint64_t ttl_ms, ends_ns;
    int rc = op->lease ? sqlite_lease_find(db, op->lease, &ttl_ms, &ends_ns) : 0;
    return rc ? rc : sqlite_add(db, op->key, op->len ? op->value : "", op->len, op->lease);
}

static int operate(fp_meta_db *db, const fp_meta_op *op, fp_meta_found *found)
{
    switch (op->kind) {
    case FP_META_PUT:
        return put(db, op);
    case FP_META_DELETE:
        return delete_one(db, op->key);
    case FP_META_DELETE_PREFIX:
        return delete_prefix(db, op->key);
    default:
        return get(db, op->key, found);
    }
}

static int transact(fp_meta_db *db, fp_meta_req *req)
{
    int rc = 0;
    bool holds = true;
    for (size_t i = 0; i < req->compare_count && holds && !rc; i++)
        rc = compare(db, &req->compares[i], &holds);
    const fp_meta_op *ops = holds ? req->ops : req->other_ops;
    size_t count = holds ? req->op_count : req->other_count;
    fp_meta_found found = {0};
    for (size_t i = 0; i < count && !rc; i++)
        rc = operate(db, &ops[i], &found);
    if (!rc && db->changed) {
        db->revision++;
        sqlite_bind(db, SQL_SET_REVISION, &db->revision, 1);
        rc = sqlite_exec(db, SQL_SET_REVISION);
    }
    if (!rc)
        rc = trim(db);
    if (rc) {
        fp_meta_found_drop(&found);
        return rc;
    }
    req->succeeded = holds;
    return fp_meta_found_pack(&found, &req->kvs, &req->kv_count);
}

static int within(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns)
{
    switch (req->kind) {
    case FP_META_TXN:
        return transact(db, req);
    case FP_META_RANGE:
        return range(db, req);
    case FP_META_COMPACT:
        return compact(db, req->at);
    default:
        return sqlite_lease_request(db, req, now_ns);
    }
}

int fp_meta_db_run(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns)
{
    bool write = fp_meta_req_changes(req);
    uint64_t next_ns;
    int rc = sqlite_begin(db, write, now_ns);
    if (rc)
        return rc;
    if (write) /* a lease that is over must not be kept or used */
        rc = sqlite_lease_expire(db, now_ns, &next_ns);
    if (!rc)
        rc = within(db, req, now_ns);
    rc = sqlite_end(db, rc);
    if (rc && db->in_doubt && write && req->kind == FP_META_TXN)
        rc = FARPOOL_E_UNKNOWN; /* M5 */
    if (rc) {
        free(req->kvs);
        req->kvs = NULL;
        req->kv_count = 0;
        req->succeeded = req->more = false;
    } else if (req->kind != FP_META_RANGE) {
        req->revision = db->revision;
    }
    return rc;
}

/* ---- history --------------------------------------------------------------------------------- */

static int find_changes(fp_meta_db *db, const bounds *b, uint64_t *from, fp_meta_found *found)
{
    int rc;
    uint64_t last = 0;
    bind_bounds(sqlite_bind(db, SQL_CHANGES, from, 1), 2, b);
    while ((rc = sqlite_row(db, SQL_CHANGES)) > 0) {
        char key[FP_META_KEY_MAX + 1];
        fp_meta_kv kv;
        rc = read_row(db, SQL_CHANGES, key, &kv);
        if (rc)
            break;
        if (kv.revision != last && (found->used > CHUNK_BYTES || found->count > CHUNK_CHANGES)) {
            *from = kv.revision;
            sqlite_reset(db, SQL_CHANGES);
            return 0;
        }
        last = kv.revision;
        fp_meta_found_add(found, &kv);
    }
    sqlite_reset(db, SQL_CHANGES);
    if (!rc)
        *from = db->revision + 1 > *from ? db->revision + 1 : *from;
    return rc;
}

int fp_meta_db_changes(fp_meta_db *db, const char *prefix, uint64_t *from, fp_meta_kv **changes,
                       size_t *count, uint64_t *compacted)
{
    bounds b;
    fp_meta_found found = {0};
    *changes = NULL;
    *count = 0;
    int rc = sqlite_begin(db, false, 0);
    if (rc)
        return rc;
    *compacted = db->compacted;
    bound(&b, prefix, NULL);
    if (*from <= db->compacted)
        rc = fp_error(FARPOOL_E_COMPACTED,
                      "revision %llu is gone, the history begins after %llu: list again",
                      (unsigned long long)*from, (unsigned long long)db->compacted);
    if (!rc)
        rc = find_changes(db, &b, from, &found);
    rc = sqlite_end(db, rc);
    int packed = rc ? 0 : fp_meta_found_pack(&found, changes, count);
    fp_meta_found_drop(&found);
    return rc ? rc : packed;
}
