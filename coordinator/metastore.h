/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metastore contract: where a cluster's metadata is kept. Keys with values, changed by compare-and-swap
 * transactions; ranges, leases, watches. One conformance suite (tests/conformance/metastore.c) runs it against every
 * backend: etcd for clusters, SQLite for one machine, sim in a simulated world.
 *
 * The store has a revision, which starts at 1 and rises by one with each transaction that changes a key, and with each
 * lease that ends and had keys. A key's revision is that of its last change.
 *
 * How to follow a set of keys: RANGE over the prefix, all pages at the first one's revision r; then a watch from
 * r + 1. When the watch ends with E_COMPACTED: the same again.
 * How to change something safely: read, decide, TXN that compares the revision of what was read. After E_UNKNOWN: read
 * again, and look whether it has happened; a value that says who wrote it tells.
 *
 * Rules that every backend keeps (numbered, cited from code and tests)
 *   M1  Every request submitted completes exactly once: done() is called by fp_meta_poll or fp_meta_close, never from
 *       within fp_meta_submit. All errors arrive there, in status; submit itself cannot fail. During done(),
 *       farpool_errmsg() says what was tried on what, and what to do.
 *   M2  The request and what it points to belong to the store from submit until done(). In done() they are the
 *       caller's again, to free or to submit anew; so are the results, in one piece of memory: free(req->kvs).
 *   M3  Transactions and ranges at revision 0 are linearizable, over all who use the store: each takes effect at once
 *       at some time between submit and done(). Requests in flight together take effect in any order.
 *   M4  A TXN takes effect as a whole or not at all, on stable media (of a quorum) before done(). Its operations take
 *       effect in their order: a GET sees the PUT before it. No key may be put or deleted twice in it: E_INVAL.
 *   M5  E_UNKNOWN, of TXN with a change and of nothing else: it was applied, or was not, or is going to be, once at
 *       most; nobody knows. With any other error it was not applied and is not going to be. The store repeats
 *       a transaction only when it is proved that it was not applied. LEASE_*, COMPACT may be repeated
 *       inside, for they do no harm twice; when they fail with E_NODE, E_TIMEOUT or E_CLOSED they may have happened.
 *   M6  Every request is over within its timeout and a little (a second), whatever the members or other processes do.
 *   M7  A RANGE is a consistent picture of one revision. Pages of one picture: the next one with the last key in
 *       `after` and the first one's revision in `at`. E_COMPACTED: that revision's history is gone, begin again.
 *   M8  A watch gives every change of a key with its prefix and of revision `from` or later, in order of revision,
 *       each exactly once, all changes of one revision together, until it is stopped or ends. Lost connections it
 *       makes again itself. If history it needs is gone: it ends with E_COMPACTED. That may also be said of history
 *       without any change for it. It is noticed in bounded time (watch_timeout_ms) when whoever sent the events is
 *       dead, hangs or has lost its leader.
 *   M9  A lease ends by LEASE_REVOKE, or ttl_ms after it was granted or last kept: never earlier, and some time later
 *       (etcd: 1 to 3 s, more after a change of leader; SQLite: when somebody has the file open, and after a reboot
 *       each begins anew). So its end fences nobody. Then its keys are deleted, in one revision. A lease that has
 *       ended does not come back: LEASE_KEEP gives E_NOTFOUND, and so does TXN with a PUT under it.
 *   M10 A store and all its requests and watches belong to one thread at a time (the caller serialises). done() and a
 *       watch's functions may submit, start and stop watches; they may not poll or close the store.
 *   M11 fp_meta_submit, fp_meta_poll with timeout 0 and the watch functions do not wait for a network or for another
 *       process. SQLite's file is read and written within the poll: a commit is an fdatasync.
 *   M12 fp_meta_close completes what is in flight: E_CLOSED, or E_UNKNOWN (M5). Watches end with E_CLOSED. What is
 *       submitted meanwhile completes with E_CLOSED; watches may not be started any more.
 *
 * Statuses: 0 or E_INVAL (what is wrong with the request), E_TOO_BIG (over FP_META_REQUEST_MAX; an answer over 64 MB),
 * E_UNKNOWN, E_COMPACTED, E_NOTFOUND (no such lease), E_NODE (no member can be reached or has a leader), E_TIMEOUT (no
 * answer), E_BUSY (SQLite: another process holds the lock), E_NOSPACE (etcd's quota, the file system), E_REFUSED
 * (user, password, permission, read-only file), E_CORRUPT, E_IO, E_PROTO (that is no etcd, or another cluster),
 * E_CLOSED, E_NOMEM, E_SYS.
 */
#ifndef FP_COORDINATOR_METASTORE_H
#define FP_COORDINATOR_METASTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "farpool.h"

enum {
    FP_META_KEY_MAX = 512,         /* bytes of a key, which is a string and not empty */
    FP_META_PREFIX_MAX = 128,      /* bytes of the prefix in an etcd URI */
    FP_META_OPS_MAX = 128,         /* compares, operations, other operations: of each */
    FP_META_REQUEST_MAX = 1500000, /* bytes: keys, values, and FP_META_OP_COST for each part */
    FP_META_OP_COST = 192,
    FP_META_RANGE_MAX = 1000,          /* keys of one page */
    FP_META_TTL_MAX_MS = 86400 * 1000, /* of a lease; the shortest is 1 s */
};

typedef struct fp_meta fp_meta;
typedef struct fp_meta_req fp_meta_req;
typedef struct fp_meta_watch fp_meta_watch;

enum fp_meta_kind {
    FP_META_TXN, /* if all compares hold the ops, else the other_ops -> succeeded, revision, kvs: one for each GET */
    FP_META_RANGE, /* key (prefix, "" for all), after, at, limit -> kvs in order of keys, more, revision */
    FP_META_LEASE_GRANT,  /* ttl_ms -> lease, ttl_ms: rounded up */
    FP_META_LEASE_KEEP,   /* lease -> ttl_ms */
    FP_META_LEASE_REVOKE, /* lease. 0 also if there is none: whoever asks wants it gone */
    FP_META_LEASE_LEFT, /* lease -> ttl_ms: so much is left, 0 at the end; for people, not for decisions */
    FP_META_COMPACT, /* at: history before that revision is given up. Not later than the newest */
    FP_META_KINDS,
};

enum fp_meta_compare_kind {
    FP_META_ABSENT,      /* there is no such key */
    FP_META_REVISION_IS, /* the key is there and has this revision */
    FP_META_VALUE_IS,    /* the key is there and has this value */
};

typedef struct fp_meta_compare {
    enum fp_meta_compare_kind kind;
    const char *key;
    uint64_t revision;
    const void *value;
    size_t len;
} fp_meta_compare;

enum fp_meta_op_kind {
    FP_META_PUT, /* key, value, lease (0: none; any the key had is forgotten) */
    FP_META_DELETE,
    FP_META_DELETE_PREFIX, /* all keys that begin so; not empty */
    FP_META_GET,           /* the only one allowed in other_ops */
};

typedef struct fp_meta_op {
    enum fp_meta_op_kind kind;
    const char *key;
    const void *value;
    size_t len;
    uint64_t lease;
} fp_meta_op;

typedef struct fp_meta_kv {
    const char *key;
    const void *value; /* followed by a 0 byte; NULL: there is no such key (any more) */
    size_t len;
    uint64_t revision; /* 0: there was none; of an event: that of the change */
    uint64_t lease;
} fp_meta_kv;

/* Zeroed by the caller, but for what the kind needs. */
struct fp_meta_req {
    enum fp_meta_kind kind;
    unsigned timeout_ms; /* 0: the store's */
    const fp_meta_compare *compares;
    const fp_meta_op *ops, *other_ops;
    size_t compare_count, op_count, other_count;
    const char *key, *after; /* after: NULL for the first page */
    uint64_t at;             /* RANGE: 0 for the newest */
    size_t limit;            /* 0: FP_META_RANGE_MAX */
    uint64_t lease, ttl_ms;
    int status;
    bool succeeded, more;
    uint64_t revision; /* RANGE: of the picture; else: the store's when it was done */
    fp_meta_kv *kvs;   /* NULL if there are none */
    size_t kv_count;
    void (*done)(fp_meta_req *req);
    void *user;
    struct { /* the store's */
        fp_meta *meta;
        fp_meta_req *next;
        void *state; /* the backend's */
        bool in_flight;
        char message[320];
    } own;
};

/* Zeroed by the caller, but for prefix (stays as it is until the watch is over), from (1 or more), functions, user. */
struct fp_meta_watch {
    const char *prefix;
    uint64_t from;
    /* All changes of one revision, or of several; a value of NULL: deleted. Memory is the store's. */
    void (*events)(fp_meta_watch *watch, const fp_meta_kv *changes, size_t count);
    /* Ended, status says why, as does farpool_errmsg() meanwhile: E_COMPACTED (compacted: watch from after it),
     * or as of a RANGE, where trying again is in vain. Not called after a stop. */
    void (*ended)(fp_meta_watch *watch);
    void *user;
    int status;
    uint64_t compacted;
    struct { /* the store's */
        fp_meta *meta;
        fp_meta_watch *next;
        void *state; /* the backend's */
    } own;
};

struct fp_meta_service; /* coordinator/sim.h */

typedef struct fp_meta_options {
    const char *user, *password; /* etcd: both or none */
    const char *ca_file; /* etcd: TLS; its members' certificates are checked against these */
    const char *cert_file, *key_file; /* etcd: our own, where its members ask for one */
    unsigned timeout_ms;              /* of a request; 0: 5000 */
    unsigned
        attempt_timeout_ms; /* etcd: so long one member is waited for, where another may be asked; 0: 1500 */
    unsigned watch_timeout_ms; /* etcd: so long a watch's member may be silent; 0: 3000 */
    unsigned look_ms;          /* SQLite: how often to look for changes by other processes; 0: 20 */
    uint64_t history;          /* SQLite, sim: revisions that are kept at least; 0: 10000 */
    struct fp_meta_service *service; /* sim: required */
} fp_meta_options;

/* uri: etcd://HOST:PORT[,HOST:PORT...][/PREFIX], sqlite:PATH (made if there is none; its directory exists), sim:NAME.
 * Options may be NULL; what they point to is copied. Does not wait for etcd; SQLite's file is opened and checked, which
 * blocks. Errors: E_INVAL, E_NOMEM, E_SYS; of SQLite also those of its requests and E_UNSUPPORTED. */
int fp_meta_open(const char *uri, const fp_meta_options *options,
                 fp_meta **meta) FARPOOL_MUST_CHECK;
void fp_meta_close(fp_meta *meta); /* M12 */
const char *fp_meta_uri(const fp_meta *meta);

void fp_meta_submit(fp_meta *meta, fp_meta_req *req);
void fp_meta_watch_start(fp_meta *meta, fp_meta_watch *watch);
/* None of its functions is called afterwards, and it is the caller's again; in its own events(): when that returns.
 * A watch that has ended is stopped. */
void fp_meta_watch_stop(fp_meta_watch *watch);

/* Goes on with everything and calls the functions above; returns how many times. timeout_ms 0: only looks; > 0: waits
 * so long for a first one, or less; -1: for ever (not allowed on sim). A negative code: the store is unusable. */
int fp_meta_poll(fp_meta *meta, int timeout_ms);
/* A descriptor that polls readable when fp_meta_poll has something to do, for event loops, or -1 (sim). Spurious
 * readiness is allowed, a lost one is not, provided that fp_meta_poll(timeout 0) was called until it returned 0 before
 * waiting, after the last submit, too. */
int fp_meta_fd(const fp_meta *meta);

/* ---- for backends ---------------------------------------------------------------------------- */

typedef struct fp_meta_ops {
    const char *scheme; /* with what separates it from the rest of the URI */
    int (*open)(const char *rest, const fp_meta_options *options, fp_meta **meta);
    void (*close)(fp_meta *meta); /* nothing is in flight and nothing watched */
    int (*fd)(const fp_meta *meta);
    /* The request has been checked. Later or here the backend calls fp_meta_finish. */
    void (*submit)(fp_meta *meta, fp_meta_req *req);
    void (*watch_start)(fp_meta *meta, fp_meta_watch *watch); /* 0 < from; it is in the list */
    void (*watch_stop)(
        fp_meta_watch *watch); /* no more of it is given; it is no longer in the list */
    /* Finishes requests and gives events; waits, if told to, for the first. 0 or a negative code. */
    int (*poll)(fp_meta *meta, int timeout_ms);
    void (*drain)(fp_meta *meta); /* finishes every request: M12 */
} fp_meta_ops;

struct fp_meta {
    const fp_meta_ops *ops; /* set by metastore.c, as is the rest */
    char *uri;
    fp_meta_options options; /* numbers filled in; strings are valid within open only */
    fp_meta_req *finished, **finished_end;
    size_t finished_count;
    size_t in_flight; /* submitted, done() not yet called */
    fp_meta_watch *watches;
    fp_meta_watch *giving;  /* whose function is being called, unless it was stopped meanwhile */
    uint64_t watch_changes; /* starts, stops and ends: lists walked have to be walked anew */
    int called;
    bool closing, calling;
    bool dead; /* set by the backend: its node has lost its power and learns nothing any more */
};

extern const fp_meta_ops fp_meta_etcd, fp_meta_sqlite, fp_meta_sim;

/* The request is over with this status; the words are those of farpool_errmsg(). */
void fp_meta_finish(fp_meta_req *req, int status);
/* Gives events to the watch. False if it was stopped by that. From within poll only. */
bool fp_meta_watch_give(fp_meta_watch *watch, const fp_meta_kv *changes, size_t count);
/* Takes it out of the list and calls ended() with the words of farpool_errmsg(). From within poll only. */
void fp_meta_watch_end(fp_meta_watch *watch, int status);

/* Does it change anything when it succeeds? */
bool fp_meta_req_changes(const fp_meta_req *req);

/* Collects what a request has found, to be packed into one piece of memory. */
typedef struct fp_meta_found {
    char *bytes;
    size_t used, room;
    struct fp_meta_place {
        size_t key, value;
        fp_meta_kv kv;
    } * places;
    size_t count, places_room;
    bool failed; /* no memory, or more than FP_META_ANSWER_MAX */
} fp_meta_found;
enum { FP_META_ANSWER_MAX = 64 << 20 };
/* Copies it, with its key and value; value may be NULL. */
void fp_meta_found_add(fp_meta_found *found, const fp_meta_kv *kv);
/* All into one piece, freed by free(); what was collected is freed. 0, E_NOMEM or E_TOO_BIG. */
int fp_meta_found_pack(fp_meta_found *found, fp_meta_kv **kvs, size_t *count);
void fp_meta_found_drop(fp_meta_found *found);

#endif
