/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cli/serve.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/spawn.h"

enum { EXIT_BAD = 1, EXIT_USAGE = 2, LOOK_MS = 100, REPORT_MS = 1000 };

typedef struct cli_runner runner;

/* ---- output ---------------------------------------------------------------------------------- */

static void print_text(const json_t *line)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)line, key, value)
    {
        if (!strcmp(key, "event"))
            printf("%s", json_string_value(value));
        else if (json_is_string(value))
            printf(" %s=%s", key, json_string_value(value));
        else if (json_is_real(value))
            printf(" %s=%.1f", key, json_real_value(value));
        else if (strcmp(key, "time_ms") != 0)
            printf(" %s=%" JSON_INTEGER_FORMAT, key, json_integer_value(value));
    }
}

void cli_serve_say(cli_serve *serve, const char *event, json_t *members)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    json_t *line = json_pack("{s:s, s:I}", "event", event, "time_ms",
                             (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    if (members)
        json_object_update(line, members);
    json_decref(members);
    pthread_mutex_lock(&serve->lock);
    if (serve->options.json)
        json_dumpf(line, stdout, JSON_COMPACT);
    else
        print_text(line);
    putchar('\n');
    fflush(stdout);
    pthread_mutex_unlock(&serve->lock);
    json_decref(line);
}

/* ---- events ---------------------------------------------------------------------------------- */

static runner *find(cli_serve *serve, uint64_t id)
{
    for (unsigned i = 0; i < CLI_SERVE_PARTITIONS_MAX; i++)
        if (serve->runners[i].used && serve->runners[i].id == id)
            return &serve->runners[i];
    return NULL;
}

static void stop_runner(cli_serve *serve, runner *r)
{
    pthread_mutex_lock(&serve->lock);
    r->stop = true;
    pthread_cond_broadcast(&serve->turned);
    pthread_mutex_unlock(&serve->lock);
}

static void end_runner(runner *r)
{
    pthread_join(r->thread, NULL);
    r->used = false;
}

static bool is_done(cli_serve *serve, const runner *r)
{
    pthread_mutex_lock(&serve->lock);
    bool done = r->done;
    pthread_mutex_unlock(&serve->lock);
    return done;
}

/* An assigned one comes when the one before is closed, or could not be opened, so its runner ends. */
static int start_runner(cli_serve *serve, const farpool_cluster_event *event)
{
    runner *r = find(serve, event->partition);
    if (r)
        end_runner(r);
    for (unsigned i = 0; !r && i < CLI_SERVE_PARTITIONS_MAX; i++) {
        runner *one = &serve->runners[i];
        if (one->used && is_done(serve, one))
            end_runner(one);
        r = one->used ? NULL : one;
    }
    if (!r)
        return fp_error(FARPOOL_E_BUSY, "serve: more than %d partitions", CLI_SERVE_PARTITIONS_MAX);
    *r = (runner){.serve = serve, .used = true, .id = event->partition, .epoch = event->epoch};
    memcpy(r->name, event->name, sizeof r->name);
    if (!pthread_create(&r->thread, NULL, cli_serve_run, r))
        return 0;
    r->used = false;
    return fp_error(FARPOOL_E_NOMEM, "serve: starting a thread failed");
}

static int take_event(cli_serve *serve, const farpool_cluster_event *event)
{
    static const char *const names[] = {
        [FARPOOL_CLUSTER_CONNECTED] = "connected", [FARPOOL_CLUSTER_DISCONNECTED] = "disconnected",
        [FARPOOL_CLUSTER_ASSIGNED] = "assigned",   [FARPOOL_CLUSTER_REVOKED] = "revoked",
        [FARPOOL_CLUSTER_READ_ONLY] = "read-only", [FARPOOL_CLUSTER_WRITABLE] = "writable"};
    json_t *members = json_object();
    if (event->partition)
        json_object_update_new(members, json_pack("{s:I, s:s, s:I}", "partition",
                                                  (json_int_t)event->partition, "name", event->name,
                                                  "epoch", (json_int_t)event->epoch));
    if (event->code)
        json_object_set_new(members, "code", json_string(fp_error_name(event->code)));
    if (event->reason[0])
        json_object_set_new(members, "text", json_string(event->reason));
    cli_serve_say(serve, names[event->kind], members);
    runner *r = event->partition ? find(serve, event->partition) : NULL;
    if (event->kind == FARPOOL_CLUSTER_REVOKED && r)
        stop_runner(serve, r);
    return event->kind == FARPOOL_CLUSTER_ASSIGNED ? start_runner(serve, event) : 0;
}

static void report(cli_serve *serve)
{
    for (unsigned i = 0; i < CLI_SERVE_PARTITIONS_MAX; i++) {
        runner *r = &serve->runners[i];
        if (!r->used || !serve->options.load)
            continue;
        pthread_mutex_lock(&serve->lock);
        json_int_t acknowledged = (json_int_t)r->acknowledged;
        bool done = r->done;
        uint64_t now = fp_now_ns(), going_on = r->last_ns ? now - r->last_ns : 0;
        double pause_ms = (double)(going_on > r->pause_ns ? going_on : r->pause_ns) / 1e6;
        r->pause_ns = 0;
        pthread_mutex_unlock(&serve->lock);
        if (!done)
            cli_serve_say(serve, "load",
                          json_pack("{s:I, s:s, s:I, s:I, s:f}", "partition", (json_int_t)r->id,
                                    "name", r->name, "epoch", (json_int_t)r->epoch, "acknowledged",
                                    acknowledged, "pause_ms", pause_ms));
    }
}

/* ---- the program ----------------------------------------------------------------------------- */

static void compare_all(cli_serve *serve)
{
    pthread_mutex_lock(&serve->lock);
    for (unsigned i = 0; i < CLI_SERVE_PARTITIONS_MAX; i++)
        serve->runners[i].check = true;
    pthread_cond_broadcast(&serve->turned);
    pthread_mutex_unlock(&serve->lock);
}

static bool is_wrong(cli_serve *serve)
{
    pthread_mutex_lock(&serve->lock);
    bool wrong = serve->wrong;
    pthread_mutex_unlock(&serve->lock);
    return wrong;
}

static int follow(cli_serve *serve, const sigset_t *signals)
{
    uint64_t reported = fp_now_ns();
    while (!is_wrong(serve)) {
        farpool_cluster_event event;
        int rc = farpool_cluster_next(serve->cluster, LOOK_MS, &event);
        if (!rc)
            rc = take_event(serve, &event);
        if (rc && rc != FARPOOL_E_TIMEOUT)
            return rc;
        int signal = sigtimedwait(signals, NULL, &(struct timespec){0});
        if (signal == SIGUSR1)
            compare_all(serve);
        else if (signal > 0)
            return 0;
        if (fp_now_ns() - reported > REPORT_MS * 1000000ull) {
            reported = fp_now_ns();
            report(serve);
        }
    }
    return fp_error(FARPOOL_E_CORRUPT, "a record is not as it was acknowledged");
}

/* As many keys as there are records, at most. */
static int read_records(cli_serve *serve)
{
    cli_serve_options *o = &serve->options;
    if (!o->records[0])
        return 0;
    int rc = cli_input_read(o->records, true, &serve->input);
    if (rc)
        return rc;
    if (serve->input.count < CLI_SERVE_THREADS_MAX)
        return fp_error(FARPOOL_E_INVAL, "%s: %zu records; at least %d are needed", o->records,
                        serve->input.count, CLI_SERVE_THREADS_MAX);
    if (o->keys > serve->input.count)
        o->keys = serve->input.count;
    return 0;
}

static int open_pool(cli_serve *serve)
{
    const cli_serve_options *o = &serve->options;
    farpool_pool_options here;
    farpool_pool_options_init(&here);
    here.pool_bytes = o->pool_bytes;
    here.mapping = o->vm ? FARPOOL_MAPPING_VM : FARPOOL_MAPPING_FRAMES;
    here.name = o->name;
    here.key_file = o->key_file[0] ? o->key_file : NULL;
    int rc = farpool_pool_open(&here, &serve->pool);
    if (rc)
        return rc;
    farpool_cluster_options there;
    farpool_cluster_options_init(&there);
    there.coordinators = o->coordinators;
    there.zone = o->zone;
    there.rack = o->rack;
    there.host = o->host[0] ? o->host : NULL;
    there.address = o->address;
    there.join_ms = 0; /* coordinators may be started later */
    rc = farpool_cluster_join(serve->pool, &there, &serve->cluster);
    if (rc)
        (void)farpool_pool_close(serve->pool);
    return rc;
}

static void end_all(cli_serve *serve)
{
    for (unsigned i = 0; i < CLI_SERVE_PARTITIONS_MAX; i++)
        if (serve->runners[i].used)
            stop_runner(serve, &serve->runners[i]);
    for (unsigned i = 0; i < CLI_SERVE_PARTITIONS_MAX; i++)
        if (serve->runners[i].used)
            end_runner(&serve->runners[i]);
    if (!farpool_cluster_leave(serve->cluster))
        (void)farpool_pool_close(serve->pool);
}

int cli_serve_main(int argc, char **argv)
{
    static cli_serve serve;
    sigset_t signals;
    int rc = cli_serve_parse(argc, argv, &serve.options);
    if (rc || serve.options.help) {
        if (rc)
            fprintf(stderr, "farpool: %s; see farpool serve --help\n", farpool_errmsg());
        else
            cli_serve_help(stdout);
        return rc ? EXIT_USAGE : 0;
    }
    if (serve.options.version) {
        printf("farpool %d.%d.%d\n", FARPOOL_VERSION_MAJOR, FARPOOL_VERSION_MINOR,
               FARPOOL_VERSION_PATCH);
        return 0;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* in all threads: they are asked for */
    if (fp_lock_open(&serve.lock, &serve.turned))
        rc = fp_error(FARPOOL_E_NOMEM, "serve: no memory for a lock");
    if (!rc)
        rc = read_records(&serve);
    if (!rc)
        rc = open_pool(&serve);
    bool opened = !rc;
    if (!rc)
        rc = follow(&serve, &signals);
    if (rc)
        fprintf(stderr, "farpool: %s\n", farpool_errmsg());
    if (opened)
        end_all(&serve);
    cli_input_free(&serve.input);
    return rc ? EXIT_BAD : 0;
}
