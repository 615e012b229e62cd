/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a metastore: opening it, statements, transactions, and what SQLite's errors mean here. */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/sqlite_inside.h"

/* "FPms", so that file(1) and we know it again. */
enum { APPLICATION_ID = 0x46506d73, FORMAT = 1, WAL_LIMIT = 16 << 20, RETRY_MS = 5 };

static const char *const statement_texts[STATEMENTS] = {
#define X(name, sql) [SQL_##name] = sql,
    FP_META_STATEMENTS(X)
#undef X
};

static const char schema[] =
    "CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL,"
    " compacted INTEGER NOT NULL, leases INTEGER NOT NULL, boot TEXT NOT NULL);"
    "INSERT INTO state VALUES (1, 1, 0, 0, '');"
    "CREATE TABLE change (id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, key BLOB NOT NULL,"
    " value BLOB, lease INTEGER NOT NULL, crc INTEGER NOT NULL);"
    "CREATE UNIQUE INDEX change_key ON change (key, revision);"
    "CREATE INDEX change_revision ON change (revision, key);"
    "CREATE INDEX change_lease ON change (lease) WHERE lease <> 0;"
    "CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, ends_ns INTEGER NOT "
    "NULL);"
    "CREATE INDEX lease_end ON lease (ends_ns);";

/* ---- errors ---------------------------------------------------------------------------------- */

static const struct meaning {
    int sqlite, code;
    const char *advice;
} meanings[] = {
    {SQLITE_BUSY, FARPOOL_E_BUSY,
     "another process has held its lock all the time; look for it with fuser"},
    {SQLITE_LOCKED, FARPOOL_E_BUSY,
     "another process has held its lock all the time; look for it with fuser"},
    {SQLITE_FULL, FARPOOL_E_NOSPACE, "make space on its file system"},
    {SQLITE_READONLY, FARPOOL_E_REFUSED, "make the file, its directory and file system writable"},
    {SQLITE_PERM, FARPOOL_E_REFUSED, "see the permissions of the file and its directory"},
    {SQLITE_AUTH, FARPOOL_E_REFUSED, "see the permissions of the file and its directory"},
    {SQLITE_CANTOPEN, FARPOOL_E_REFUSED, "its directory must exist and be writable"},
    {SQLITE_CORRUPT, FARPOOL_E_CORRUPT, "restore it from a copy"},
    {SQLITE_NOTADB, FARPOOL_E_CORRUPT, "restore it from a copy"},
    {SQLITE_IOERR, FARPOOL_E_IO, "see the kernel's log for its device"},
    {SQLITE_NOMEM, FARPOOL_E_NOMEM, "this process has too little memory"},
    {SQLITE_TOOBIG, FARPOOL_E_TOO_BIG, "smaller values"},
};

int sqlite_failed(fp_meta_db *db, const char *doing)
{
    int error = sqlite3_errcode(db->handle) & 0xff;
    for (size_t i = 0; i < sizeof meanings / sizeof meanings[0]; i++)
        if (meanings[i].sqlite == error)
            return fp_error(meanings[i].code, "file %.100s: %s: %s (SQLite %d): %s", db->path,
                            doing, sqlite3_errmsg(db->handle), sqlite3_extended_errcode(db->handle),
                            meanings[i].advice);
    return fp_error(FARPOOL_E_SYS, "file %.100s: %s: %s (SQLite %d)", db->path, doing,
                    sqlite3_errmsg(db->handle), sqlite3_extended_errcode(db->handle));
}

/* ---- statements ------------------------------------------------------------------------------ */

void sqlite_reset(fp_meta_db *db, enum statement which)
{
    /* What it returns is the last step's failure, which has been reported. */
    (void)sqlite3_reset(db->statements[which]);
    sqlite3_clear_bindings(db->statements[which]);
}

int sqlite_row(fp_meta_db *db, enum statement which)
{
    int result = sqlite3_step(db->statements[which]);
    if (result == SQLITE_ROW)
        return 1;
    int rc = result == SQLITE_DONE ? 0 : sqlite_failed(db, statement_texts[which]);
    sqlite_reset(db, which);
    return rc;
}

int sqlite_exec(fp_meta_db *db, enum statement which)
{
    int rc = sqlite_row(db, which);
    if (rc > 0)
        sqlite_reset(db, which);
    return rc < 0 ? rc : 0;
}

sqlite3_stmt *sqlite_bind(fp_meta_db *db, enum statement which, const uint64_t *numbers, int count)
{
    sqlite3_stmt *statement = db->statements[which];
    /* Binding a number fails only where there is no such parameter. */
    for (int i = 0; i < count; i++)
        FP_ASSERT(sqlite3_bind_int64(statement, i + 1, (sqlite3_int64)numbers[i]) == SQLITE_OK);
    return statement;
}

void sqlite_bind_key(sqlite3_stmt *statement, int at, const char *key)
{
    FP_ASSERT(sqlite3_bind_blob(statement, at, key, (int)strlen(key), SQLITE_STATIC) == SQLITE_OK);
}

/* ---- transactions ---------------------------------------------------------------------------- */

static int read_state(fp_meta_db *db)
{
    int rc = sqlite_row(db, SQL_STATE);
    if (rc < 0)
        return rc;
    if (!rc)
        return fp_error(FARPOOL_E_CORRUPT, "file %.100s: has no state; restore it from a copy",
                        db->path);
    sqlite3_stmt *row = db->statements[SQL_STATE];
    const char *boot = (const char *)sqlite3_column_text(row, 3);
    db->revision = (uint64_t)sqlite3_column_int64(row, 0);
    db->compacted = (uint64_t)sqlite3_column_int64(row, 1);
    db->leases = (uint64_t)sqlite3_column_int64(row, 2);
    db->other_boot = !boot || strcmp(boot, db->boot) != 0;
    db->changed = false;
    sqlite_reset(db, SQL_STATE);
    return 0;
}

/* The clock has begun anew: nobody knows how long the machine was off. M9 allows later, not earlier. */
static int begin_leases_anew(fp_meta_db *db, uint64_t now_ns)
{
    FP_ASSERT(sqlite3_bind_text(db->statements[SQL_SET_BOOT], 1, db->boot, -1, SQLITE_STATIC) ==
              SQLITE_OK);
    int rc = sqlite_exec(db, SQL_SET_BOOT);
    sqlite_bind(db, SQL_LEASE_RENEW_ALL, &now_ns, 1);
    return rc ? rc : sqlite_exec(db, SQL_LEASE_RENEW_ALL);
}

/* What is written to a file that has lost its name is lost with the process, and others may have made a new one. */
static int check_name(fp_meta_db *db)
{
    int moved = 0;
    if (sqlite3_file_control(db->handle, "main", SQLITE_FCNTL_HAS_MOVED, &moved) || !moved)
        return 0;
    return fp_error(FARPOOL_E_REFUSED,
                    "file %.100s: it was removed or replaced while it was in use: end all "
                    "processes that use it, put it or a copy back, and start them again",
                    db->path);
}

int sqlite_begin(fp_meta_db *db, bool write, uint64_t now_ns)
{
    int rc = check_name(db);
    if (!rc)
        rc = sqlite_exec(db, write ? SQL_BEGIN_WRITE : SQL_BEGIN_READ);
    if (rc)
        return rc;
    rc = read_state(db);
    if (!rc && write && db->other_boot)
        rc = begin_leases_anew(db, now_ns);
    return rc ? sqlite_end(db, rc) : 0;
}

int sqlite_end(fp_meta_db *db, int rc)
{
    bool committing = !rc;
    db->in_doubt = false;
    if (committing)
        rc = sqlite_exec(db, SQL_COMMIT);
    if (!rc)
        return 0;
    char words[320];
    strncpy(words, farpool_errmsg(), sizeof words - 1);
    words[sizeof words - 1] = 0;
    /* Of some errors SQLite has rolled back by itself. */
    if (!sqlite3_get_autocommit(db->handle))
        (void)sqlite_exec(db, SQL_ROLLBACK);
    /* The commit's frame may have reached the file all the same, and be found there after a crash. */
    db->in_doubt = committing && rc != FARPOOL_E_BUSY && rc != FARPOOL_E_NOSPACE;
    return fp_error(rc, "%s", words);
}

/* ---- open ------------------------------------------------------------------------------------ */

/* The number or text that a pragma answers with; "" if none. */
static int pragma(fp_meta_db *db, const char *text, char answer[80])
{
    sqlite3_stmt *statement;
    answer[0] = 0;
    if (sqlite3_prepare_v2(db->handle, text, -1, &statement, NULL) != SQLITE_OK)
        return sqlite_failed(db, text);
    int result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        const char *got = (const char *)sqlite3_column_text(statement, 0);
        sqlite3_snprintf(80, answer, "%s", got ? got : "");
    }
    int rc = result == SQLITE_ROW || result == SQLITE_DONE ? 0 : sqlite_failed(db, text);
    sqlite3_finalize(statement);
    return rc;
}

static int execute(fp_meta_db *db, const char *sql, const char *doing)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK ? 0
                                                                        : sqlite_failed(db, doing);
}

/* Makes the tables in a new file; within a transaction, for two may come at once. */
static int make_tables(fp_meta_db *db)
{
    char answer[80];
    int rc = execute(db, "BEGIN IMMEDIATE", "cannot lock it");
    if (rc)
        return rc;
    rc = pragma(db, "PRAGMA application_id", answer);
    if (!rc && strtoll(answer, NULL, 10) == APPLICATION_ID) /* somebody else was faster */
        return execute(db, "COMMIT", "cannot read it");
    if (!rc)
        rc = pragma(db, "SELECT count(*) FROM sqlite_schema", answer);
    if (!rc && strcmp(answer, "0") != 0)
        rc = fp_error(FARPOOL_E_INVAL,
                      "file %.100s: is a SQLite database of something else; give another path",
                      db->path);
    if (!rc)
        rc = execute(db, schema, "cannot make its tables");
    char *mark = sqlite3_mprintf("PRAGMA application_id = %d; PRAGMA user_version = %d",
                                 APPLICATION_ID, FORMAT);
    if (!rc)
        rc = mark ? execute(db, mark, "cannot mark it") : FARPOOL_E_NOMEM;
    sqlite3_free(mark);
    if (!rc)
        rc = execute(db, "COMMIT", "cannot make its tables");
    if (rc && !sqlite3_get_autocommit(db->handle))
        (void)execute(db, "ROLLBACK", "cannot roll back");
    return rc;
}

static int check_tables(fp_meta_db *db)
{
    char answer[80];
    int rc = pragma(db, "PRAGMA application_id", answer);
    if (!rc && strtoll(answer, NULL, 10) != APPLICATION_ID)
        rc = make_tables(db);
    if (!rc)
        rc = pragma(db, "PRAGMA user_version", answer);
    if (!rc && strtoll(answer, NULL, 10) != FORMAT)
        rc = fp_error(FARPOOL_E_UNSUPPORTED,
                      "file %.100s: has format %s, this farpool knows %d: use a later one",
                      db->path, answer, FORMAT);
    if (!rc)
        rc = pragma(db, "PRAGMA quick_check(1)", answer);
    if (!rc && strcmp(answer, "ok") != 0)
        rc = fp_error(FARPOOL_E_CORRUPT, "file %.100s: is damaged: %s; restore it from a copy",
                      db->path, answer);
    return rc;
}

static int set_up_file(fp_meta_db *db)
{
    char answer[80];
    if (sqlite3_db_readonly(db->handle, "main") == 1)
        return fp_error(FARPOOL_E_REFUSED,
                        "file %.100s: can only be read: make it and its file system writable",
                        db->path);
    int rc = pragma(db, "PRAGMA journal_mode = WAL", answer);
    if (!rc && strcmp(answer, "wal") != 0)
        rc =
            fp_error(FARPOOL_E_UNSUPPORTED,
                     "file %.100s: no write-ahead log there (journal mode '%s'): it has to be on a "
                     "local file system with shared memory",
                     db->path, answer);
    if (!rc)
        rc = pragma(db, "PRAGMA synchronous = FULL", answer);
    char *limit = sqlite3_mprintf("PRAGMA journal_size_limit = %d", WAL_LIMIT);
    if (!rc)
        rc = limit ? pragma(db, limit, answer) : FARPOOL_E_NOMEM;
    sqlite3_free(limit);
    return rc;
}

/* For the change to a write-ahead log, SQLite does not wait as it was told to: several may open a new file at once. */
static int set_up(fp_meta_db *db, bool file, unsigned busy_ms)
{
    uint64_t end = fp_now_ns() + (uint64_t)busy_ms * 1000000;
    for (;;) {
        int rc = file ? set_up_file(db) : 0;
        if (!rc)
            rc = check_tables(db);
        if (rc != FARPOOL_E_BUSY || fp_now_ns() >= end)
            return rc;
        sqlite3_sleep(RETRY_MS);
    }
}

static int prepare(fp_meta_db *db)
{
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(db->handle, statement_texts[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &db->statements[i], NULL) != SQLITE_OK)
            return sqlite_failed(db, statement_texts[i]);
    return 0;
}

int fp_meta_db_open(const char *path, const char *boot, uint64_t history, unsigned busy_ms,
                    fp_meta_db **out)
{
    fp_meta_db *db = calloc(1, sizeof *db);
    if (!db || !(db->path = strdup(path ? path : "(memory)"))) {
        free(db);
        return fp_error(FARPOOL_E_NOMEM, "metastore %s: no memory", path ? path : "");
    }
    sqlite3_snprintf(sizeof db->boot, db->boot, "%s", boot);
    db->history = history;
    int rc = 0;
    if (sqlite3_open_v2(path ? path : ":memory:", &db->handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        rc = db->handle ? sqlite_failed(db, "cannot open it") : FARPOOL_E_NOMEM;
    if (!rc) {
        sqlite3_extended_result_codes(db->handle, 1);
        sqlite3_busy_timeout(db->handle, (int)busy_ms);
        rc = set_up(db, path, busy_ms);
    }
    if (!rc)
        rc = prepare(db);
    if (rc) {
        fp_meta_db_close(db);
        return rc;
    }
    sqlite3_busy_timeout(db->handle, 0); /* M11 */
    *out = db;
    return 0;
}

void fp_meta_db_close(fp_meta_db *db)
{
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(db->statements[i]);
    /* Fails only while statements are left, and there are none. */
    (void)sqlite3_close(db->handle);
    free(db->path);
    free(db);
}

int fp_meta_db_version(fp_meta_db *db, uint64_t *version)
{
    int rc = sqlite_row(db, SQL_VERSION);
    if (rc < 0)
        return rc;
    FP_ASSERT(rc == 1);
    *version = (uint64_t)sqlite3_column_int64(db->statements[SQL_VERSION], 0);
    sqlite_reset(db, SQL_VERSION);
    return 0;
}
