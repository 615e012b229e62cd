/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metastore of one machine: a SQLite file, which several processes may have open.
 *
 * Requests wait in order of submission and are run by the poll, each a transaction of SQLite's. If another process has
 * the lock, the request is tried again a moment later, until its timeout. What other processes have changed is found
 * out by PRAGMA data_version, every look_ms while something is watched, else every second for the leases' sake.
 *
 * The leases' clock is CLOCK_BOOTTIME: it does not jump, goes on in suspend, and is the same for all processes. After a
 * reboot (another boot_id) each lease begins anew.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/sqlite_db.h"

enum { RETRY_NS = 2000000, IDLE_LOOK_NS = 1000000000, NS_PER_MS = 1000000 };

typedef struct sqlite_meta {
    fp_meta base;
    fp_meta_db *db;
    int timer;
    fp_meta_req *waiting, **waiting_end;
    uint64_t retry_ns;      /* requests: not before */
    uint64_t look_ns;       /* next look for changes and leases */
    uint64_t lease_ns;      /* the next lease ends */
    uint64_t version;       /* data_version at the last look */
    uint64_t watch_changes; /* the base's at the last look */
    bool changed;           /* by our own requests since then, or not all was given */
} sqlite_meta;

typedef struct sqlite_watch {
    uint64_t next; /* revision */
} sqlite_watch;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- open and close -------------------------------------------------------------------------- */

static int read_boot_id(char boot[64])
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    FILE *file = fopen(path, "re");
    if (!file)
        return fp_error_sys("cannot open %s, without which leases have no clock", path);
    bool got = fgets(boot, 64, file);
    fclose(file);
    if (!got)
        return fp_error(FARPOOL_E_SYS, "%s is empty, without which leases have no clock", path);
    boot[strcspn(boot, "\n")] = 0;
    return 0;
}

static int sqlite_open(const char *path, const fp_meta_options *options, fp_meta **out)
{
    char boot[64];
    if (!*path)
        return fp_error(FARPOOL_E_INVAL, "metastore sqlite: lacks the file: sqlite:PATH");
    int rc = read_boot_id(boot);
    if (rc)
        return rc;
    sqlite_meta *meta = calloc(1, sizeof *meta);
    if (!meta)
        return fp_error(FARPOOL_E_NOMEM, "metastore sqlite:%s: no memory", path);
    meta->waiting_end = &meta->waiting;
    meta->timer = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    if (meta->timer < 0) {
        rc = fp_error_sys("metastore sqlite:%s: no timer", path);
        free(meta);
        return rc;
    }
    rc = fp_meta_db_open(path, boot, options->history, options->timeout_ms, &meta->db);
    if (rc) {
        close(meta->timer);
        free(meta);
        return rc;
    }
    *out = &meta->base;
    return 0;
}

static void sqlite_close(fp_meta *base)
{
    sqlite_meta *meta = (sqlite_meta *)base;
    fp_meta_db_close(meta->db);
    close(meta->timer);
    free(meta);
}

static int sqlite_fd(const fp_meta *base) { return ((const sqlite_meta *)base)->timer; }

/* ---- requests -------------------------------------------------------------------------------- */

/* When the request's time is over; kept in its state, which holds a number of that size. */
static uint64_t deadline(const fp_meta_req *req) { return (uint64_t)(uintptr_t)req->own.state; }

static void sqlite_submit(fp_meta *base, fp_meta_req *req)
{
    sqlite_meta *meta = (sqlite_meta *)base;
    _Static_assert(sizeof(void *) == sizeof(uint64_t), "a time is kept in a pointer");
    req->own.state = (void *)(uintptr_t)(now_ns() + (uint64_t)req->timeout_ms * NS_PER_MS);
    req->own.next = NULL;
    *meta->waiting_end = req;
    meta->waiting_end = &req->own.next;
}

static void take_first(sqlite_meta *meta)
{
    meta->waiting = meta->waiting->own.next;
    if (!meta->waiting)
        meta->waiting_end = &meta->waiting;
}

static void run_requests(sqlite_meta *meta)
{
    while (meta->waiting && now_ns() >= meta->retry_ns) {
        fp_meta_req *req = meta->waiting;
        int rc = fp_meta_db_run(meta->db, req, now_ns());
        if (rc == FARPOOL_E_BUSY && now_ns() < deadline(req)) {
            meta->retry_ns = now_ns() + RETRY_NS;
            return;
        }
        take_first(meta);
        if (fp_meta_req_changes(req)) {
            meta->changed = true;
            meta->lease_ns = 0; /* it may have granted or ended one */
        }
        fp_meta_finish(req, rc);
    }
}

/* They have not begun. */
static void sqlite_drain(fp_meta *base)
{
    sqlite_meta *meta = (sqlite_meta *)base;
    while (meta->waiting) {
        fp_meta_req *req = meta->waiting;
        take_first(meta);
        fp_meta_finish(req, fp_error(FARPOOL_E_CLOSED, "the metastore was closed before it began"));
    }
}

/* ---- watches and leases ---------------------------------------------------------------------- */

static void sqlite_watch_start(fp_meta *base, fp_meta_watch *watch)
{
    (void)base;
    watch->own.state = NULL; /* made by the first look, where an error can be told */
}

static void sqlite_watch_stop(fp_meta_watch *watch)
{
    free(watch->own.state);
    watch->own.state = NULL;
}

/* Gives one watch what there is. E_BUSY: later. True if the list may have changed. */
static bool look_for(sqlite_meta *meta, fp_meta_watch *watch, bool *busy)
{
    fp_meta_kv *changes;
    size_t count;
    sqlite_watch *own = watch->own.state;
    if (!own) {
        own = watch->own.state = malloc(sizeof *own);
        if (!own) {
            fp_meta_watch_end(watch, fp_error(FARPOOL_E_NOMEM, "no memory"));
            return true;
        }
        own->next = watch->from;
    }
    int rc = fp_meta_db_changes(meta->db, watch->prefix, &own->next, &changes, &count,
                                &watch->compacted);
    if (rc == FARPOOL_E_BUSY) {
        *busy = true;
        return false;
    }
    if (rc) {
        fp_meta_watch_end(watch, rc);
        return true;
    }
    if (count) {
        meta->changed = true; /* there may be more */
        (void)fp_meta_watch_give(watch, changes, count);
    }
    free(changes);
    return false;
}

static void look(sqlite_meta *meta)
{
    uint64_t version;
    int rc = fp_meta_db_version(meta->db, &version);
    bool busy = rc == FARPOOL_E_BUSY, all = rc || version != meta->version || meta->changed;
    if (!all && meta->watch_changes == meta->base.watch_changes)
        return;
    if (!rc)
        meta->version = version;
    meta->changed = false;
    meta->lease_ns = 0;
again:
    meta->watch_changes = meta->base.watch_changes;
    for (fp_meta_watch *watch = meta->base.watches; watch; watch = watch->own.next) {
        uint64_t before = meta->base.watch_changes;
        if (look_for(meta, watch, &busy) || before != meta->base.watch_changes)
            goto again; /* those seen already have nothing new, or are given it */
    }
    if (busy)
        meta->changed = true;
}

/* An error of the file is said where a request meets it. */
static void end_leases(sqlite_meta *meta)
{
    uint64_t next_ns;
    if (now_ns() < meta->lease_ns)
        return;
    int rc = fp_meta_db_expire(meta->db, now_ns(), &next_ns);
    if (rc) {
        meta->lease_ns = now_ns() + (rc == FARPOOL_E_BUSY ? RETRY_NS : IDLE_LOOK_NS);
        return;
    }
    if (meta->lease_ns && meta->lease_ns != next_ns)
        meta->changed = true; /* some have ended */
    meta->lease_ns = next_ns;
}

/* ---- poll ------------------------------------------------------------------------------------ */

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void step(sqlite_meta *meta)
{
    run_requests(meta);
    end_leases(meta);
    if (meta->changed || meta->watch_changes != meta->base.watch_changes ||
        now_ns() >= meta->look_ns) {
        look(meta);
        uint64_t pause = meta->base.watches ? (uint64_t)meta->base.options.look_ms * NS_PER_MS
                                            : (uint64_t)IDLE_LOOK_NS;
        meta->look_ns = now_ns() + pause;
    }
}

/* The descriptor becomes readable when something is to be done next. */
static int arm(sqlite_meta *meta)
{
    uint64_t next = least(meta->look_ns, meta->lease_ns);
    if (meta->waiting)
        next = least(next, meta->retry_ns);
    if (meta->changed)
        next = least(next, now_ns() + RETRY_NS);
    struct itimerspec at = fp_timer_at(next);
    if (timerfd_settime(meta->timer, TFD_TIMER_ABSTIME, &at, NULL))
        return fp_error_sys("metastore %s: cannot set its timer", meta->base.uri);
    return 0;
}

static int sqlite_poll(fp_meta *base, int timeout_ms)
{
    sqlite_meta *meta = (sqlite_meta *)base;
    uint64_t end = now_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * NS_PER_MS;
    for (;;) {
        step(meta);
        int rc = arm(meta);
        uint64_t now = now_ns();
        if (rc || base->finished || base->called || (timeout_ms >= 0 && now >= end))
            return rc;
        struct pollfd wait = {.fd = meta->timer, .events = POLLIN};
        int ms = timeout_ms < 0 ? -1 : (int)((end - now + NS_PER_MS - 1) / NS_PER_MS);
        if (poll(&wait, 1, ms) < 0 && errno != EINTR)
            return fp_error_sys("metastore %s: cannot wait for its timer", base->uri);
    }
}

const fp_meta_ops fp_meta_sqlite = {
    .scheme = "sqlite:",
    .open = sqlite_open,
    .close = sqlite_close,
    .fd = sqlite_fd,
    .submit = sqlite_submit,
    .watch_start = sqlite_watch_start,
    .watch_stop = sqlite_watch_stop,
    .poll = sqlite_poll,
    .drain = sqlite_drain,
};
