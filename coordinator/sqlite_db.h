/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables in which SQLite keeps a metastore, and each request as one transaction of SQLite's. The SQLite backend has
 * them in a file, the simulated one in memory. Everything here happens at once.
 *
 *   state   one row: the revision, up to which the history is compacted, how many leases there were, the boot whose
 *           clock the leases go by
 *   change  a row for each change of a key that is still remembered: the newest of each key, unless that is its
 *           deletion, and all after `compacted`. A value of NULL is a deletion. crc is over all of the row
 *   lease   id, time to live, and when it ends, by the clock that the caller names
 */
#ifndef FP_COORDINATOR_SQLITE_DB_H
#define FP_COORDINATOR_SQLITE_DB_H

#include "coordinator/metastore.h"

typedef struct fp_meta_db fp_meta_db;

/* path: NULL for a store in memory. boot: what identifies the clock of now_ns; leases of another one begin anew.
 * busy_ms: how long to wait here for a lock; later never. Errors: as of requests; E_INVAL, if the file holds something
 * else; E_UNSUPPORTED, if there is no WAL mode or the file is of a later version. */
int fp_meta_db_open(const char *path, const char *boot, uint64_t history, unsigned busy_ms,
                    fp_meta_db **db) FARPOOL_MUST_CHECK;
void fp_meta_db_close(fp_meta_db *db);

/* Does what the request asks for and fills in its results. E_BUSY: locked by another process, nothing was done. */
int fp_meta_db_run(fp_meta_db *db, fp_meta_req *req, uint64_t now_ns) FARPOOL_MUST_CHECK;

/* Ends the leases that are over. *next_ns: when the next one will be; UINT64_MAX: there is none. E_BUSY as above. */
int fp_meta_db_expire(fp_meta_db *db, uint64_t now_ns, uint64_t *next_ns) FARPOOL_MUST_CHECK;
/* All leases begin anew, as after a change of leader. */
int fp_meta_db_renew_all(fp_meta_db *db, uint64_t now_ns) FARPOOL_MUST_CHECK;

/* A number that changes when another connection, of any process, has changed something. */
int fp_meta_db_version(fp_meta_db *db, uint64_t *version) FARPOOL_MUST_CHECK;

/* The changes of keys with this prefix of revision *from and later, of whole revisions, about a megabyte of them.
 * *from: where to go on. E_COMPACTED: *compacted says up to where. E_BUSY as above. The changes are freed by free(). */
int fp_meta_db_changes(fp_meta_db *db, const char *prefix, uint64_t *from, fp_meta_kv **changes,
                       size_t *count, uint64_t *compacted) FARPOOL_MUST_CHECK;

#endif
