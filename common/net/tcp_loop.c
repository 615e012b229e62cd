/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp: the net's loop thread: accepts, shakes hands, and runs the connections that peers may use
 * for READs and WRITEs, so that those are served whatever the application does.
 *
 * It is started by the first listen or share. It holds pointers to what epoll gave it while others
 * may close that; so whoever closes only unlinks, and the loop frees between two batches.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/error.h"
#include "common/net/tcp.h"
#include "common/spawn.h"

enum {
    EPOLL_BATCH = 64,
    TIMED_SCAN_MS = 50, /* how often deadlines are looked at while there are any */
    ACCEPTS_MAX = 16,
};

void fp_tcp_loop_wake(fp_tcp_net *net)
{
    uint64_t one = 1;
    ssize_t n = write(net->wake_fd, &one, sizeof one);
    (void)n; /* EAGAIN: it is awake already */
}

/* ---- strangers ------------------------------------------------------------------------------- */

/* Whether the application was never told of it, and it has ended. */
static bool is_dead_stranger_locked(const fp_tcp_conn *conn)
{
    return conn->closed && !conn->hello && conn->listener;
}

/* Under the net's lock from the question to the end, so that whoever closes the listener finds it before or never, and may
 * close the poller then. Being in the loop it is freed by the loop only. */
static void bury_stranger_locked(fp_tcp_conn *conn)
{
    pthread_mutex_lock(&conn->lock);
    bool dead = is_dead_stranger_locked(conn);
    if (dead)
        conn->listener = NULL; /* whoever clears it buries */
    pthread_mutex_unlock(&conn->lock);
    if (dead)
        fp_tcp_conn_bury_locked(conn);
}

static void bury_stranger(fp_tcp_net *net, fp_tcp_conn *conn)
{
    pthread_mutex_lock(&net->lock);
    bury_stranger_locked(conn);
    pthread_mutex_unlock(&net->lock);
}

/* ---- accepting ------------------------------------------------------------------------------- */

/* Of those who have not said hello the one that has been silent for longest. In the loop, so nobody else runs it. */
static void drop_oldest_locked(fp_tcp_net *net)
{
    fp_tcp_conn *oldest = NULL;
    uint64_t least = UINT64_MAX;
    for (fp_tcp_conn *conn = net->conns; conn; conn = conn->next) {
        pthread_mutex_lock(&conn->lock);
        bool silent = conn->in_loop && conn->listener && !conn->hello && conn->deadline_ns;
        if (silent && conn->deadline_ns < least) {
            least = conn->deadline_ns;
            oldest = conn;
        }
        pthread_mutex_unlock(&conn->lock);
    }
    if (!oldest)
        return;
    pthread_mutex_lock(&oldest->lock);
    fp_tcp_break_locked(oldest, FARPOOL_E_NODE, "%s: too many are silent", oldest->base.peer);
    pthread_mutex_unlock(&oldest->lock);
    bury_stranger_locked(oldest);
}

static void accept_one(fp_tcp_net *net, fp_tcp_listener *listener, int fd,
                       const struct sockaddr_storage *from, socklen_t len)
{
    char peer[FP_NET_URI_MAX];
    fp_tcp_conn *conn;
    if (atomic_load(&net->timed) >= FP_TCP_HANDSHAKES_MAX)
        drop_oldest_locked(net); /* so many that are silent at once are no peers */
    fp_tcp_socket_options(fd);
    fp_tcp_name((const struct sockaddr *)from, len, peer, sizeof peer);
    if (fp_tcp_conn_new(listener->poller, fd, peer, &conn)) {
        close(fd);
        return;
    }
    fp_tcp_conn_join_locked(conn);
    pthread_mutex_lock(&conn->lock);
    conn->listener = listener;
    conn->in_loop = true;
    conn->epfd = net->epfd;
    fp_tcp_set_deadline_locked(conn, net->options.connect_timeout_ms);
    if (fp_tcp_watch_locked(conn))
        fp_tcp_break_locked(conn, FARPOOL_E_SYS, "%s", farpool_errmsg());
    pthread_mutex_unlock(&conn->lock);
}

static int accept_from(fp_tcp_net *net, fp_tcp_listener *listener, struct sockaddr_storage *from,
                       socklen_t *len)
{
    *len = sizeof *from;
    int fd = accept4(listener->fd, (struct sockaddr *)from, len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0 || (errno != EMFILE && errno != ENFILE) || net->spare_fd < 0)
        return fd;
    /* Out of descriptors: turn the caller away rather than being woken for it again and again. */
    close(net->spare_fd);
    fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    net->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return -1;
}

/* One at a time under the lock, so that the listener is not closed meanwhile. */
static void accept_all(fp_tcp_net *net, fp_tcp_listener *listener)
{
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        struct sockaddr_storage from;
        socklen_t len;
        pthread_mutex_lock(&net->lock);
        int fd = listener->fd < 0 ? -1 : accept_from(net, listener, &from, &len);
        if (fd >= 0)
            accept_one(net, listener, fd, &from, len);
        pthread_mutex_unlock(&net->lock);
        if (fd < 0)
            return;
    }
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void run_conn(fp_tcp_net *net, fp_tcp_conn *conn)
{
    pthread_mutex_lock(&conn->lock);
    if (!conn->closed)
        fp_tcp_run_locked(conn);
    bool dead = is_dead_stranger_locked(conn);
    pthread_mutex_unlock(&conn->lock);
    if (dead)
        bury_stranger(net, conn);
}

static void expire(fp_tcp_net *net)
{
    fp_tcp_conn *stranger;
    do {
        stranger = NULL;
        pthread_mutex_lock(&net->lock);
        for (fp_tcp_conn *conn = net->conns; conn && !stranger; conn = conn->next) {
            pthread_mutex_lock(&conn->lock);
            if (conn->in_loop && fp_tcp_expired_locked(conn) && is_dead_stranger_locked(conn))
                stranger = conn;
            pthread_mutex_unlock(&conn->lock);
        }
        pthread_mutex_unlock(&net->lock);
        if (stranger)
            bury_stranger(net, stranger);
    } while (stranger);
}

static void free_dead(fp_tcp_net *net)
{
    pthread_mutex_lock(&net->lock);
    fp_tcp_conn *conns = net->dead_conns;
    fp_tcp_listener *listeners = net->dead_listeners;
    net->dead_conns = NULL;
    net->dead_listeners = NULL;
    pthread_mutex_unlock(&net->lock);
    while (conns) {
        fp_tcp_conn *next = conns->next;
        fp_tcp_conn_free(conns);
        conns = next;
    }
    while (listeners) {
        fp_tcp_listener *next = listeners->next;
        free(listeners);
        listeners = next;
    }
}

static void *loop(void *arg)
{
    fp_tcp_net *net = arg;
    struct epoll_event ready[EPOLL_BATCH];
    for (;;) {
        int timeout_ms = atomic_load(&net->timed) ? TIMED_SCAN_MS : -1;
        int n = epoll_wait(net->epfd, ready, EPOLL_BATCH, timeout_ms);
        for (int i = 0; i < n; i++) {
            fp_tcp_source *source = ready[i].data.ptr;
            char *at = (char *)source;
            if (source->kind == FP_TCP_SOURCE_WAKE) {
                uint64_t count;
                ssize_t got = read(net->wake_fd, &count, sizeof count);
                (void)got;
            } else if (source->kind == FP_TCP_SOURCE_LISTENER) {
                accept_all(net, (fp_tcp_listener *)(at - offsetof(fp_tcp_listener, source)));
            } else {
                run_conn(net, (fp_tcp_conn *)(at - offsetof(fp_tcp_conn, source)));
            }
        }
        if (atomic_load(&net->timed))
            expire(net);
        pthread_mutex_lock(&net->lock);
        bool stop = net->loop_stop;
        pthread_mutex_unlock(&net->lock);
        if (stop)
            break;
        free_dead(net);
    }
    free_dead(net);
    return NULL;
}

static int start_thread(fp_tcp_net *net)
{
    int error = fp_spawn(&net->loop, loop, net);
    if (error) {
        errno = error;
        return fp_error_sys("starting the thread that serves tcp peers");
    }
    pthread_setname_np(net->loop, "farpool-tcp");
    return 0;
}

int fp_tcp_loop_start(fp_tcp_net *net)
{
    int rc = 0;
    pthread_mutex_lock(&net->lock);
    if (!net->loop_running)
        rc = start_thread(net);
    if (!rc)
        net->loop_running = true;
    pthread_mutex_unlock(&net->lock);
    return rc;
}

void fp_tcp_loop_stop(fp_tcp_net *net)
{
    pthread_mutex_lock(&net->lock);
    net->loop_stop = true;
    bool running = net->loop_running;
    pthread_mutex_unlock(&net->lock);
    if (!running)
        return;
    fp_tcp_loop_wake(net);
    pthread_join(net->loop, NULL);
}
