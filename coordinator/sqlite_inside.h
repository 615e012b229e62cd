/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the tables: sqlite_db.c (file, statements, errors), sqlite_run.c (requests), sqlite_lease.c (leases). */
#ifndef FP_COORDINATOR_SQLITE_INSIDE_H
#define FP_COORDINATOR_SQLITE_INSIDE_H

#include <sqlite3.h>

#include "coordinator/sqlite_db.h"

/* name, SQL. Keys are compared as bytes. */
#define FP_META_STATEMENTS(X)                                                                      \
    X(BEGIN_READ, "BEGIN")                                                                         \
    X(BEGIN_WRITE, "BEGIN IMMEDIATE")                                                              \
    X(COMMIT, "COMMIT")                                                                            \
    X(ROLLBACK, "ROLLBACK")                                                                        \
    X(STATE, "SELECT revision, compacted, leases, boot FROM state")                                \
    X(SET_REVISION, "UPDATE state SET revision = ?1")                                              \
    X(SET_COMPACTED, "UPDATE state SET compacted = ?1")                                            \
    X(SET_LEASES, "UPDATE state SET leases = ?1")                                                  \
    X(SET_BOOT, "UPDATE state SET boot = ?1")                                                      \
    X(GET, "SELECT key, revision, value, lease, crc FROM change WHERE key = ?1 "                   \
           "ORDER BY revision DESC LIMIT 1")                                                       \
    X(RANGE, "SELECT key, max(revision), value, lease, crc FROM change WHERE key >= ?1 "           \
             "AND key < ?2 AND revision <= ?3 GROUP BY key HAVING value NOT NULL "                 \
             "ORDER BY key LIMIT ?4")                                                              \
    X(ADD, "INSERT INTO change (key, revision, value, lease, crc) VALUES (?1, ?2, ?3, ?4, ?5)")    \
    X(CHANGES, "SELECT key, revision, value, lease, crc FROM change WHERE revision >= ?1 "         \
               "AND key >= ?2 AND key < ?3 ORDER BY revision, key")                                \
    X(COMPACT, "DELETE FROM change WHERE revision <= ?1 AND (value IS NULL OR EXISTS (SELECT 1 "   \
               "FROM change AS later WHERE later.key = change.key AND "                            \
               "later.revision > change.revision AND later.revision <= ?1))")                      \
    X(VERSION, "PRAGMA data_version")                                                              \
    X(LEASE, "SELECT ttl_ms, ends_ns FROM lease WHERE id = ?1")                                    \
    X(LEASE_ADD, "INSERT INTO lease (id, ttl_ms, ends_ns) VALUES (?1, ?2, ?3)")                    \
    X(LEASE_SET_END, "UPDATE lease SET ends_ns = ?2 WHERE id = ?1")                                \
    X(LEASE_RENEW_ALL, "UPDATE lease SET ends_ns = ?1 + ttl_ms * 1000000")                         \
    X(LEASE_DROP, "DELETE FROM lease WHERE id = ?1")                                               \
    X(LEASE_FIRST, "SELECT id, ends_ns FROM lease ORDER BY ends_ns, id LIMIT 1")                   \
    X(LEASE_KEYS,                                                                                  \
      "SELECT key FROM change WHERE lease = ?1 AND lease <> 0 AND value NOT NULL AND "             \
      "revision = (SELECT max(revision) FROM change AS any WHERE any.key = change.key)")

enum statement {
#define X(name, sql) SQL_##name,
    FP_META_STATEMENTS(X)
#undef X
        STATEMENTS
};

struct fp_meta_db {
    sqlite3 *handle;
    sqlite3_stmt *statements[STATEMENTS];
    char *path;
    char boot[64];
    uint64_t history;
    /* Within a transaction: */
    uint64_t revision, compacted, leases;
    bool other_boot; /* leases go by the clock of another one: until the next that writes */
    bool changed;    /* revision + 1 has changes */
    bool in_doubt;   /* the last transaction's COMMIT has failed so that nobody knows */
};

/* ---- sqlite_db.c ----------------------------------------------------------------------------- */

/* The code and sentence for SQLite's last failure. doing: "cannot commit". */
int sqlite_failed(fp_meta_db *db, const char *doing);
/* Runs a statement without rows; its parameters are bound. */
int sqlite_exec(fp_meta_db *db, enum statement which);
/* 1: there is a row; 0: no more, and the statement is reset; or a negative code. */
int sqlite_row(fp_meta_db *db, enum statement which);
void sqlite_reset(fp_meta_db *db, enum statement which);
sqlite3_stmt *sqlite_bind(fp_meta_db *db, enum statement which, const uint64_t *numbers, int count);
void sqlite_bind_key(sqlite3_stmt *statement, int at, const char *key);

/* Begins a transaction and reads the state. */
int sqlite_begin(fp_meta_db *db, bool write, uint64_t now_ns);
/* Commits if rc is 0, else rolls back; the result. */
int sqlite_end(fp_meta_db *db, int rc);

/* ---- sqlite_run.c ---------------------------------------------------------------------------- */

/* The key's newest change is this one. value NULL: deletion. */
int sqlite_add(fp_meta_db *db, const char *key, const void *value, size_t len, uint64_t lease);
/* Deletes the keys that were found, and frees them. rc: what finding them has ended with; then that is passed on. */
int sqlite_delete_found(fp_meta_db *db, int rc, fp_meta_found *found);

/* ---- sqlite_lease.c -------------------------------------------------------------------------- */

int sqlite_lease_request(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns);
/* 0, E_NOTFOUND. */
int sqlite_lease_find(fp_meta_db *db, uint64_t lease, uint64_t *ttl_ms, uint64_t *ends_ns);
/* Within a transaction. */
int sqlite_lease_expire(fp_meta_db *db, uint64_t now_ns, uint64_t *next_ns);

#endif
