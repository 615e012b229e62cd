/* SPDX-License-Identifier: Apache-2.0 */
/* One partition of farpool serve. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/kept.h"
#include "compute/cli/serve.h"

#define AGAIN_NS 200000000ull /* after a failure that may pass */

typedef struct cli_runner runner;

typedef struct worker {
    runner *r;
    unsigned index;
    pthread_t thread;
    bool *ended; /* one of them has; guarded by the lock */
    fp_kept failed;
} worker;

typedef unsigned long long ull;

static double ms_since(uint64_t begin_ns) { return (double)(fp_now_ns() - begin_ns) / 1e6; }

static json_t *about(const runner *r)
{
    return json_pack("{s:I, s:s, s:I}", "partition", (json_int_t)r->id, "name", r->name, "epoch",
                     (json_int_t)r->epoch);
}

static void say_failure(runner *r, const char *event, int code)
{
    json_t *members = about(r);
    json_object_set_new(members, "code", json_string(fp_error_name(code)));
    json_object_set_new(members, "text", json_string(farpool_errmsg()));
    cli_serve_say(r->serve, event, members);
}

static void say_time(runner *r, const char *event, uint64_t begin_ns)
{
    json_t *members = about(r);
    json_object_set_new(members, "ms", json_real(ms_since(begin_ns)));
    cli_serve_say(r->serve, event, members);
}

static bool is_stopped(runner *r)
{
    pthread_mutex_lock(&r->serve->lock);
    bool stop = r->stop;
    pthread_mutex_unlock(&r->serve->lock);
    return stop;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool goes_on(worker *w, bool acknowledged)
{
    runner *r = w->r;
    pthread_mutex_lock(&r->serve->lock);
    if (acknowledged) {
        uint64_t now = fp_now_ns(), pause = r->last_ns ? now - r->last_ns : 0;
        r->acknowledged++;
        r->last_ns = now;
        r->pause_ns = pause > r->pause_ns ? pause : r->pause_ns;
    }
    bool on = !r->stop && !r->check && !*w->ended;
    pthread_mutex_unlock(&r->serve->lock);
    return on;
}

/* Each thread has keys of its own. */
static void *write_keys(void *arg)
{
    worker *w = arg;
    runner *r = w->r;
    uint64_t step = r->serve->options.load, key = w->index;
    int rc = 0;
    for (bool acknowledged = false; !rc && goes_on(w, acknowledged); acknowledged = true) {
        rc = cli_notes_write(r->notes, r->serve->input.records, key, r->epoch, r->partition,
                             r->tree, r->serve->options.durability);
        key = key + step < r->notes->keys ? key + step : w->index;
    }
    if (rc)
        fp_kept_set(&w->failed, rc);
    pthread_mutex_lock(&r->serve->lock);
    *w->ended = true;
    pthread_cond_broadcast(&r->serve->turned);
    pthread_mutex_unlock(&r->serve->lock);
    return NULL;
}

/* Until it is stopped, has to compare, or fails. */
static int write_all(runner *r)
{
    worker workers[CLI_SERVE_THREADS_MAX];
    unsigned threads = (unsigned)r->serve->options.load, started = 0;
    bool ended = false;
    int rc = 0;
    for (; started < threads && !rc; started++) {
        workers[started] = (worker){.r = r, .index = started, .ended = &ended};
        if (pthread_create(&workers[started].thread, NULL, write_keys, &workers[started])) {
            rc = fp_error(FARPOOL_E_NOMEM, "starting a thread failed");
            break;
        }
    }
    pthread_mutex_lock(&r->serve->lock);
    ended |= rc != 0;
    while (!ended)
        pthread_cond_wait(&r->serve->turned, &r->serve->lock);
    pthread_mutex_unlock(&r->serve->lock);
    for (unsigned i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        rc = rc ? rc : fp_kept_tell(&workers[i].failed);
    }
    return rc;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static int compare(runner *r)
{
    uint64_t begin = fp_now_ns(), last = atomic_load(&r->notes->last_ns);
    uint64_t acknowledged = atomic_load(&r->notes->acknowledged);
    pthread_mutex_lock(&r->serve->lock);
    r->check = false;
    r->last_ns = last; /* of the owner before, if nobody wrote here yet */
    pthread_mutex_unlock(&r->serve->lock);
    int rc = cli_notes_check(r->notes, r->serve->input.records, r->epoch, r->tree);
    if (rc) {
        say_failure(r, rc == FARPOOL_E_CORRUPT ? "wrong" : "stopped", rc);
        pthread_mutex_lock(&r->serve->lock);
        r->serve->wrong |= rc == FARPOOL_E_CORRUPT;
        pthread_mutex_unlock(&r->serve->lock);
        return rc;
    }
    json_t *members = about(r);
    json_object_set_new(members, "keys", json_integer((json_int_t)r->notes->keys));
    json_object_set_new(members, "acknowledged", json_integer((json_int_t)acknowledged));
    json_object_set_new(members, "ms", json_real(ms_since(begin)));
    if (last)
        json_object_set_new(members, "since_last_ms", json_real((double)(begin - last) / 1e6));
    cli_serve_say(r->serve, "compared", members);
    return 0;
}

static int open_tree(runner *r)
{
    const cli_serve_options *o = &r->serve->options;
    int rc = cli_notes_open(o->notes, r->id, o->keys, &r->notes);
    if (rc)
        return rc;
    farpool_pid root = atomic_load(&r->notes->root);
    if (root)
        return farpool_btree_open(r->partition, root, &r->tree);
    rc = farpool_btree_create(r->partition, &root, &r->tree);
    if (!rc)
        rc = farpool_wait_durable(r->partition, UINT64_MAX, o->durability);
    if (!rc)
        atomic_store(&r->notes->root, root);
    return rc;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* What may pass: the partition is read-only for a time, or storage nodes are away. */
static void wait_a_while(runner *r, bool for_ever)
{
    struct timespec until = fp_timespec(fp_now_ns() + AGAIN_NS);
    pthread_mutex_lock(&r->serve->lock);
    while (for_ever && !r->stop && !r->check)
        pthread_cond_wait(&r->serve->turned, &r->serve->lock);
    if (!for_ever && !r->stop)
        pthread_cond_timedwait(&r->serve->turned, &r->serve->lock, &until);
    pthread_mutex_unlock(&r->serve->lock);
}

/* Once it has failed for good REVOKED comes, and with it the end. */
static void work(runner *r)
{
    int rc = r->serve->options.load ? open_tree(r) : 0, said = 0;
    if (rc)
        say_failure(r, "stopped", rc);
    else if (r->serve->options.load)
        rc = compare(r);
    while (!is_stopped(r)) {
        pthread_mutex_lock(&r->serve->lock);
        bool check = r->check;
        pthread_mutex_unlock(&r->serve->lock);
        if (!r->tree || rc == FARPOOL_E_CORRUPT) {
            wait_a_while(r, true);
            continue;
        }
        rc = check ? compare(r) : write_all(r);
        if (rc && rc != said)
            say_failure(r, "stopped", rc);
        said = rc;
        if (rc)
            wait_a_while(r, false);
    }
}

static void close_partition(runner *r)
{
    uint64_t begin = fp_now_ns();
    farpool_btree_close(r->tree);
    r->tree = NULL;
    cli_notes_close(r->notes);
    r->notes = NULL;
    int rc = farpool_partition_close(r->partition);
    if (rc)
        say_failure(r, "closed", rc);
    else
        say_time(r, "closed", begin);
}

void *cli_serve_run(void *arg)
{
    runner *r = arg;
    uint64_t begin = fp_now_ns();
    int rc = farpool_cluster_open(r->serve->cluster, r->id, &r->partition);
    if (rc) {
        say_failure(r, "open-failed", rc);
    } else {
        say_time(r, "opened", begin);
        work(r);
        close_partition(r);
    }
    pthread_mutex_lock(&r->serve->lock);
    r->done = true;
    pthread_mutex_unlock(&r->serve->lock);
    return NULL;
}
