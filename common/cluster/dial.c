/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cluster/dial.h"

#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "common/error.h"
#include "common/spawn.h"

static void close_net(fp_dial *dial)
{
    if (dial->poller)
        fp_net_poller_close(dial->poller);
    if (dial->net)
        fp_net_close(dial->net);
    dial->poller = NULL;
    dial->net = NULL;
}

static int open_net(fp_dial *dial)
{
    fp_net_options options = {.connect_timeout_ms = dial->timeout_ms};
    char local[FP_NET_URI_MAX];
    const char *uri = dial->uri;
    if (dial->net_options) {
        options = *dial->net_options;
        snprintf(local, sizeof local, "sim://%s", options.node);
        uri = local;
    }
    options.auth = dial->auth;
    int rc = fp_net_open(uri, &options, &dial->net);
    if (rc)
        return rc;
    rc = fp_net_poller_open(dial->net, &dial->poller);
    if (rc)
        close_net(dial);
    return rc;
}

/* Only while no thread has it: what goes on there then is not the owner's. */
static int watch(fp_dial *dial, int operation)
{
    struct epoll_event event = {.events = EPOLLIN};
    if (dial->wake->epoll_fd < 0 || !dial->poller ||
        !epoll_ctl(dial->wake->epoll_fd, operation, fp_net_poller_fd(dial->poller), &event))
        return 0;
    return fp_error_sys("watching the connection to %s", dial->uri);
}

static void dial_now(fp_dial *dial)
{
    if (dial->net && !fp_net_leads_to(dial->net, dial->uri))
        close_net(dial);
    int rc = dial->net ? 0 : open_net(dial);
    if (!rc)
        rc = fp_net_connect(dial->poller, dial->uri, &dial->conn);
    if (rc) {
        dial->conn = NULL;
        fp_kept_set(&dial->error, rc);
    }
    atomic_store_explicit(&dial->dialed, true, memory_order_release);
}

static void *run(void *arg)
{
    fp_dial *dial = arg;
    dial_now(dial);
    fp_wake_up(dial->wake);
    return NULL;
}

void fp_dial_start(fp_dial *dial)
{
    FP_ASSERT(!dial->dialing && !dial->conn);
    dial->error.status = 0;
    atomic_store_explicit(&dial->dialed, false, memory_order_relaxed); /* before the thread is */
    int rc = watch(dial, EPOLL_CTL_DEL);
    dial->dialing = !rc;
    if (!rc && dial->net_options) {
        dial_now(dial);
        return;
    }
    errno = rc ? 0 : fp_spawn(&dial->thread, run, dial);
    if (errno)
        rc = fp_error_sys("starting a thread to connect to %s", dial->uri);
    if (rc) {
        dial->dialing = false;
        fp_kept_set(&dial->error, rc);
    }
}

/* The thread has done. */
static void dialed(fp_dial *dial)
{
    if (!dial->net_options)
        pthread_join(dial->thread, NULL);
    dial->dialing = false;
    int rc = watch(dial, EPOLL_CTL_ADD);
    if (rc)
        fp_dial_cut(dial, rc);
}

int fp_dial_state(fp_dial *dial)
{
    if (dial->dialing && atomic_load_explicit(&dial->dialed, memory_order_acquire))
        dialed(dial);
    if (dial->dialing)
        return 0;
    return dial->conn ? 1 : fp_kept_tell(&dial->error);
}

void fp_dial_cut(fp_dial *dial, int code)
{
    dial->error.status = 0;
    fp_kept_set(&dial->error, code);
    if (dial->conn)
        fp_net_conn_close(dial->conn);
    dial->conn = NULL;
}

void fp_dial_close(fp_dial *dial)
{
    if (dial->dialing && !dial->net_options)
        pthread_join(dial->thread, NULL);
    dial->dialing = false;
    if (dial->conn)
        fp_net_conn_close(dial->conn);
    dial->conn = NULL;
    close_net(dial);
}
