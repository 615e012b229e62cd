/* SPDX-License-Identifier: Apache-2.0 */
/* Metastores in tests: every backend in turn, requests that are waited for, watches that are written down. */
#ifndef FP_TESTS_LIB_META_H
#define FP_TESTS_LIB_META_H

#include "coordinator/metastore.h"
#include "tests/lib/require.h"

enum { META_WAIT_MS = 60000, META_LOG_MAX = 4096 };

/* Runs the group on SQLite, on etcd with one member and with three, and simulated; the sum of what they return. */
int meta_for_each(int (*group)(const char *name));
/* A store that is empty; options may be NULL. */
fp_meta *meta_begin(const fp_meta_options *options);
fp_meta *meta_another(void);  /* another one, of the same keys */
void meta_end(fp_meta *meta); /* of each of them */
uint64_t meta_now_ms(void);
bool meta_is_sim(void);

/* Polls, at most META_WAIT_MS, until the counter is there. */
void meta_wait(fp_meta *meta, const unsigned *counter, unsigned wanted);
void meta_wait_ms(fp_meta *meta, unsigned ms);
/* Submits and waits; the status. */
int meta_do(fp_meta *meta, fp_meta_req *req);

/* One PUT; the new revision. Must succeed. */
uint64_t meta_put(fp_meta *meta, const char *key, const char *value);
uint64_t meta_delete(fp_meta *meta, const char *key);
/* The key's value, "" if there is none; its revision, if asked for. In static storage. */
const char *meta_get(fp_meta *meta, const char *key, uint64_t *revision);
uint64_t meta_revision(fp_meta *meta);
int meta_compact(fp_meta *meta, uint64_t revision);

/* A counter in decimal is raised by one if its revision is that one; 0, E_EXISTS (changed meanwhile), or an error. */
int meta_increment(fp_meta *meta, const char *key);

typedef struct meta_log {
    fp_meta_watch watch;
    struct {
        char key[40], value[40]; /* the beginning of it */
        uint64_t revision;
        bool deleted;
    } changes[META_LOG_MAX];
    unsigned count, calls, ended;
    unsigned stop_at; /* stops itself when it has so many; 0: does not */
} meta_log;
void meta_log_start(fp_meta *meta, meta_log *log, const char *prefix, uint64_t from);

#endif
