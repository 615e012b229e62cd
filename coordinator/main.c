/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpool-coordinator: the process around coordinator/server.h. One thread that sleeps until a transport, the metastore or
 * a timer has something, or a signal comes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/options.h"

enum { RESIGN_MS = 500 };

typedef struct process {
    fp_coordinator *coordinator;
    int timer;
} process;

static int listen_at(void *node, const char *uri, const char **bound)
{
    return fp_coordinator_listen(((process *)node)->coordinator, uri, NULL, bound);
}

static unsigned fds(void *node, int out[FP_DAEMON_FDS_MAX])
{
    const process *p = node;
    unsigned count = fp_coordinator_fds(p->coordinator, out);
    out[count++] = fp_meta_fd(fp_coordinator_meta(p->coordinator));
    out[count++] = p->timer;
    return count;
}

/* The transport's clock is CLOCK_MONOTONIC, as the timer's. */
static int step(void *node)
{
    process *p = node;
    uint64_t expired;
    if (read(p->timer, &expired, sizeof expired) < 0)
        expired = 0; /* it was not the timer that woke us */
    int more = fp_coordinator_step(p->coordinator);
    struct itimerspec at = fp_timer_at(fp_coordinator_next_ns(p->coordinator));
    timerfd_settime(p->timer, TFD_TIMER_ABSTIME, &at, NULL);
    return more;
}

static json_t *describe(void *node)
{
    const process *p = node;
    char boot_id[17];
    snprintf(boot_id, sizeof boot_id, "%016" PRIx64, fp_coordinator_boot_id(p->coordinator));
    return json_pack("{s:s, s:s}", "boot_id", boot_id, "metastore",
                     fp_meta_uri(fp_coordinator_meta(p->coordinator)));
}

static void log_usage(void *node)
{
    const process *p = node;
    const fp_model *model = fp_coordinator_model(p->coordinator);
    fp_log(FP_LOG_INFO, "usage: %s, %zu nodes, %zu partitions",
           fp_coordinator_leads(p->coordinator) ? "leads" : "does not lead", model->member_count,
           model->part_count);
}

static void metrics(void *node, fp_metrics *m)
{
    fp_coordinator_metrics(((process *)node)->coordinator, m);
}

static bool ready(void *node, char *why, size_t size)
{
    snprintf(why, size, "no coordinator leads");
    return fp_coordinator_knows_leader(((process *)node)->coordinator);
}

static int serve(const fp_coordinator_options *options, process *p)
{
    fp_daemon daemon = {
        .options = &options->daemon,
        .node = p,
        .listen = listen_at,
        .fds = fds,
        .step = step,
        .describe = describe,
        .log_usage = log_usage,
        .http = {.metrics = metrics, .ready = ready},
    };
    int rc = fp_daemon_run(&daemon);
    fp_coordinator_resign(p->coordinator, RESIGN_MS);
    return rc;
}

static const char *given(const char *text) { return text[0] ? text : NULL; }

static int run(const fp_coordinator_options *o)
{
    fp_meta_options meta = {
        .user = given(o->user),
        .password = given(o->password),
        .ca_file = given(o->ca_file),
        .cert_file = given(o->cert_file),
        .key_file = given(o->key_file),
    };
    fp_coordinator_config config = {
        .name = o->daemon.name,
        .metastore = o->metastore,
        .meta = &meta,
        .auth = o->daemon.auth,
        .settings = o->settings,
        .lease_ms = o->lease_ms,
    };
    process p = {.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
    if (p.timer < 0)
        return fp_daemon_log_failure(fp_error_sys("making a timer"));
    int rc = fp_coordinator_open(&config, &p.coordinator);
    if (rc)
        fp_daemon_log_failure(rc);
    else
        rc = serve(o, &p);
    fp_coordinator_close(p.coordinator);
    close(p.timer);
    return rc;
}

int main(int argc, char **argv)
{
    fp_log_init();
    /* static: it is large for a stack */
    static fp_coordinator_options options;
    int rc = fp_coordinator_options_parse(argc, argv, &options);
    int status =
        fp_daemon_start("farpool-coordinator", rc, &options.daemon, fp_coordinator_options_help);
    if (status >= 0)
        return status;
    rc = run(&options);
    fp_auth_close(options.daemon.auth);
    return rc ? 1 : 0;
}
