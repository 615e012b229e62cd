/* SPDX-License-Identifier: Apache-2.0 */
/* Leases in SQLite's tables: M9. */
#include "common/error.h"
#include "coordinator/sqlite_inside.h"

enum { NS_PER_MS = 1000000 };

int sqlite_lease_find(fp_meta_db *db, uint64_t lease, uint64_t *ttl_ms, uint64_t *ends_ns)
{
    sqlite3_stmt *statement = sqlite_bind(db, SQL_LEASE, &lease, 1);
    int rc = sqlite_row(db, SQL_LEASE);
    if (rc < 0)
        return rc;
    if (!rc)
        return fp_error(FARPOOL_E_NOTFOUND, "there is no lease %llx, it has ended",
                        (unsigned long long)lease);
    *ttl_ms = (uint64_t)sqlite3_column_int64(statement, 0);
    *ends_ns = (uint64_t)sqlite3_column_int64(statement, 1);
    sqlite_reset(db, SQL_LEASE);
    return 0;
}

/* Its keys are deleted, in one revision of their own. */
static int end_lease(fp_meta_db *db, uint64_t lease)
{
    FP_ASSERT(!db->changed);
    fp_meta_found found = {0};
    int rc;
    sqlite3_stmt *statement = sqlite_bind(db, SQL_LEASE_KEYS, &lease, 1);
    while ((rc = sqlite_row(db, SQL_LEASE_KEYS)) > 0) {
        char key[FP_META_KEY_MAX + 1];
        sqlite3_snprintf(sizeof key, key, "%.*s", sqlite3_column_bytes(statement, 0),
                         (const char *)sqlite3_column_blob(statement, 0));
        fp_meta_found_add(&found, &(fp_meta_kv){.key = key});
    }
    rc = sqlite_delete_found(db, rc, &found);
    if (!rc && db->changed) {
        db->revision++;
        db->changed = false;
        sqlite_bind(db, SQL_SET_REVISION, &db->revision, 1);
        rc = sqlite_exec(db, SQL_SET_REVISION);
    }
    if (rc)
        return rc;
    sqlite_bind(db, SQL_LEASE_DROP, &lease, 1);
    return sqlite_exec(db, SQL_LEASE_DROP);
}

int sqlite_lease_expire(fp_meta_db *db, uint64_t now_ns, uint64_t *next_ns)
{
    for (;;) {
        *next_ns = UINT64_MAX;
        int rc = sqlite_row(db, SQL_LEASE_FIRST);
        if (rc <= 0)
            return rc;
        uint64_t lease = (uint64_t)sqlite3_column_int64(db->statements[SQL_LEASE_FIRST], 0);
        *next_ns = (uint64_t)sqlite3_column_int64(db->statements[SQL_LEASE_FIRST], 1);
        sqlite_reset(db, SQL_LEASE_FIRST);
        if (*next_ns > now_ns)
            return 0;
        rc = end_lease(db, lease);
        if (rc)
            return rc;
    }
}

int fp_meta_db_expire(fp_meta_db *db, uint64_t now_ns, uint64_t *next_ns)
{
    int rc = sqlite_begin(db, false, now_ns);
    if (rc)
        return rc;
    *next_ns = UINT64_MAX;
    rc = sqlite_row(db, SQL_LEASE_FIRST);
    if (rc > 0) {
        *next_ns = (uint64_t)sqlite3_column_int64(db->statements[SQL_LEASE_FIRST], 1);
        sqlite_reset(db, SQL_LEASE_FIRST);
        rc = 0;
    }
    bool other_boot = db->other_boot; /* whose clock may be far ahead */
    rc = sqlite_end(db, rc);
    if (rc || *next_ns == UINT64_MAX || (*next_ns > now_ns && !other_boot))
        return rc;
    rc = sqlite_begin(db, true, now_ns);
    return rc ? rc : sqlite_end(db, sqlite_lease_expire(db, now_ns, next_ns));
}

int fp_meta_db_renew_all(fp_meta_db *db, uint64_t now_ns)
{
    int rc = sqlite_begin(db, true, now_ns);
    if (rc)
        return rc;
    sqlite_bind(db, SQL_LEASE_RENEW_ALL, &now_ns, 1);
    return sqlite_end(db, sqlite_exec(db, SQL_LEASE_RENEW_ALL));
}

static int grant(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns)
{
    uint64_t id = db->leases + 1;
    sqlite_bind(db, SQL_SET_LEASES, &id, 1);
    int rc = sqlite_exec(db, SQL_SET_LEASES);
    if (rc)
        return rc;
    const uint64_t numbers[] = {id, req->ttl_ms, now_ns + req->ttl_ms * NS_PER_MS};
    sqlite_bind(db, SQL_LEASE_ADD, numbers, 3);
    rc = sqlite_exec(db, SQL_LEASE_ADD);
    if (!rc)
        req->lease = id;
    return rc;
}

static int keep(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns)
{
    uint64_t ttl_ms, ends_ns;
    int rc = sqlite_lease_find(db, req->lease, &ttl_ms, &ends_ns);
    if (rc)
        return rc;
    const uint64_t numbers[] = {req->lease, now_ns + ttl_ms * NS_PER_MS};
    sqlite_bind(db, SQL_LEASE_SET_END, numbers, 2);
    req->ttl_ms = ttl_ms;
    return sqlite_exec(db, SQL_LEASE_SET_END);
}

static int left(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns)
{
    uint64_t ttl_ms, ends_ns;
    int rc = sqlite_lease_find(db, req->lease, &ttl_ms, &ends_ns);
    if (!rc)
        req->ttl_ms = ends_ns > now_ns ? (ends_ns - now_ns) / NS_PER_MS : 0;
    return rc;
}

int sqlite_lease_request(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns)
{
    switch (req->kind) {
    case FP_META_LEASE_GRANT:
        return grant(db, req, now_ns);
    case FP_META_LEASE_KEEP:
        return keep(db, req, now_ns);
    case FP_META_LEASE_REVOKE:
        return end_lease(db, req->lease);
    default:
        return left(db, req, now_ns);
    }
}
