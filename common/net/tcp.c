/* SPDX-License-Identifier: Apache-2.0 */
/* tcp: nets, registration, pollers, and the life of connections. tcp.h tells the idea. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/tcp.h"

enum {
    EPOLL_BATCH = 16,
    SPIN_NS = 20000, /* of a poll that may sleep */
    SILENCE_POLLS = 64,
    SILENCE_NS = 250000000,
    EVENTS_PER_CONN = FP_NET_DEPTH_MAX + FP_TCP_INBOX_MAX + 2,
};

/* ---- nets and registration ------------------------------------------------------------------- */

static int watch_wake(int epfd, int wake_fd, fp_tcp_source *source)
{
    source->kind = FP_TCP_SOURCE_WAKE;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    return epoll_ctl(epfd, EPOLL_CTL_ADD, wake_fd, &event);
}

static int tcp_open(const fp_uri *uri, const fp_net_options *options, fp_net **out)
{
    (void)uri;
    fp_tcp_net *net = calloc(1, sizeof *net);
    if (!net)
        return fp_error(FARPOOL_E_NOMEM, "opening the tcp transport: out of memory");
    net->options = *options;
    int rc = options->auth ? fp_tls_context_open(options->auth, &net->tls) : 0;
    if (rc) {
        free(net);
        return rc;
    }
    net->epfd = epoll_create1(EPOLL_CLOEXEC);
    net->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    net->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (net->epfd < 0 || net->wake_fd < 0 || watch_wake(net->epfd, net->wake_fd, &net->wake)) {
        rc = fp_error_sys("opening the tcp transport");
        fp_tls_context_close(net->tls);
        if (net->epfd >= 0)
            close(net->epfd);
        if (net->wake_fd >= 0)
            close(net->wake_fd);
        if (net->spare_fd >= 0)
            close(net->spare_fd);
        free(net);
        return rc;
    }
    pthread_mutex_init(&net->lock, NULL);
    *out = &net->base;
    return 0;
}

static void tcp_close(fp_net *base)
{
    fp_tcp_net *net = (fp_tcp_net *)base;
    fp_tcp_loop_stop(net);
    FP_ASSERT(!net->conns && !net->listeners);
    close(net->epfd);
    close(net->wake_fd);
    if (net->spare_fd >= 0)
        close(net->spare_fd);
    pthread_mutex_destroy(&net->lock);
    fp_tls_context_close(net->tls);
    free(net);
}

static int tcp_mr_open(fp_net *net, const fp_mem *mem, unsigned access, fp_mr **out)
{
    (void)net;
    (void)access;
    fp_mr *mr = calloc(1, sizeof *mr);
    if (!mr)
        return fp_error(FARPOOL_E_NOMEM, "registering memory: out of memory");
    mr->rkey = (fp_rkey){.addr = (uintptr_t)mem->addr, .len = mem->len};
    while (mr->rkey.key == 0) {
        if (getrandom(&mr->rkey.key, sizeof mr->rkey.key, 0) != sizeof mr->rkey.key) {
            free(mr);
            return fp_error_sys("getting a random key");
        }
    }
    *out = mr;
    return 0;
}

static void tcp_mr_close(fp_mr *mr)
{
    fp_tcp_net *net = (fp_tcp_net *)mr->net;
    pthread_mutex_lock(&net->lock);
    for (fp_tcp_conn *conn = net->conns; conn; conn = conn->next) {
        pthread_mutex_lock(&conn->lock);
        fp_tcp_withdraw_locked(conn, mr);
        pthread_mutex_unlock(&conn->lock);
    }
    pthread_mutex_unlock(&net->lock);
    free(mr);
}

/* From now on the loop watches the connection, because its peer may READ and WRITE. */
static int tcp_share(fp_conn *base, fp_mr *mr)
{
    fp_tcp_conn *conn = (fp_tcp_conn *)base;
    fp_tcp_poller *poller = (fp_tcp_poller *)base->poller;
    fp_tcp_net *net = fp_tcp_net_of(conn);
    int rc = fp_tcp_loop_start(net);
    if (rc)
        return rc;
    pthread_mutex_lock(&conn->lock);
    rc = fp_tcp_grant_locked(conn, mr);
    bool moves = !rc && !conn->in_loop;
    if (moves) {
        if (conn->watched)
            epoll_ctl(conn->epfd, EPOLL_CTL_DEL, conn->fd, NULL);
        conn->watched = false;
        conn->in_loop = true;
        conn->epfd = net->epfd;
        rc = fp_tcp_watch_locked(conn);
        if (rc)
            fp_tcp_break_locked(conn, rc, "%s", farpool_errmsg());
    }
    pthread_mutex_unlock(&conn->lock);
    for (fp_tcp_conn **at = &poller->own; moves && *at; at = &(*at)->own_next) {
        if (*at == conn) {
            *at = conn->own_next;
            break;
        }
    }
    return rc;
}

/* ---- pollers --------------------------------------------------------------------------------- */

static int ring_resize_locked(fp_tcp_poller *poller, uint32_t conns)
{
    uint32_t slots = 256;
    while (slots < conns * EVENTS_PER_CONN)
        slots *= 2;
    if (poller->ring && slots <= poller->ring_mask + 1)
        return 0;
    fp_tcp_entry *ring = malloc(slots * sizeof *ring);
    if (!ring)
        return fp_error(FARPOOL_E_NOMEM, "tcp event ring: out of memory");
    uint32_t count = 0;
    for (uint32_t i = poller->ring_head; i != poller->ring_tail; i++)
        ring[count++] = poller->ring[i & poller->ring_mask];
    free(poller->ring);
    poller->ring = ring;
    poller->ring_head = 0;
    poller->ring_tail = count;
    poller->ring_mask = slots - 1;
    return 0;
}

static int tcp_poller_open(fp_net *net, fp_poller **out)
{
    fp_tcp_poller *poller = calloc(1, sizeof *poller);
    if (!poller)
        return fp_error(FARPOOL_E_NOMEM, "opening a poller: out of memory");
    poller->base.net = net;
    poller->epfd = epoll_create1(EPOLL_CLOEXEC);
    poller->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = 0;
    if (poller->epfd < 0 || poller->wake_fd < 0 ||
        watch_wake(poller->epfd, poller->wake_fd, &poller->wake))
        rc = fp_error_sys("opening a poller");
    if (!rc)
        rc = ring_resize_locked(poller, 1);
    if (rc) {
        if (poller->epfd >= 0)
            close(poller->epfd);
        if (poller->wake_fd >= 0)
            close(poller->wake_fd);
        free(poller);
        return rc;
    }
    pthread_mutex_init(&poller->lock, NULL);
    *out = &poller->base;
    return 0;
}

static void free_given(fp_tcp_poller *poller)
{
    while (poller->given) {
        fp_tcp_message *next = poller->given->next;
        free(poller->given);
        poller->given = next;
    }
}

static void tcp_poller_close(fp_poller *base)
{
    fp_tcp_poller *poller = (fp_tcp_poller *)base;
    FP_ASSERT(poller->conn_count == 0);
    free_given(poller);
    close(poller->epfd);
    close(poller->wake_fd);
    free(poller->ring);
    pthread_mutex_destroy(&poller->lock);
    free(poller);
}

static int tcp_poller_fd(fp_poller *base) { return ((fp_tcp_poller *)base)->epfd; }

void fp_tcp_give(fp_tcp_conn *conn, const fp_net_event *event, fp_tcp_message *message)
{
    fp_tcp_poller *poller = conn->poller;
    pthread_mutex_lock(&poller->lock);
    FP_ASSERT(poller->ring_tail - poller->ring_head <= poller->ring_mask);
    fp_tcp_entry *entry = &poller->ring[poller->ring_tail++ & poller->ring_mask];
    entry->event = *event;
    entry->event.conn = &conn->base;
    entry->message = message;
    if (!poller->signalled && conn->in_loop) { /* else it is the poller's own thread */
        uint64_t one = 1;
        ssize_t n = write(poller->wake_fd, &one, sizeof one);
        poller->signalled = n == sizeof one;
    }
    pthread_mutex_unlock(&poller->lock);
}

/* ---- connections ----------------------------------------------------------------------------- */

/* Still to be joined to the net. */
int fp_tcp_conn_new(fp_tcp_poller *poller, int fd, const char *peer, fp_tcp_conn **out)
{
    fp_tcp_conn *conn = calloc(1, sizeof *conn);
    unsigned char *stage = malloc(FP_TCP_STAGE_BYTES);
    int rc = conn && stage ? 0 : fp_error(FARPOOL_E_NOMEM, "%s: out of memory", peer);
    if (!rc) {
        pthread_mutex_lock(&poller->lock);
        rc = ring_resize_locked(poller, poller->conn_count + 1);
        if (!rc)
            poller->conn_count++;
        pthread_mutex_unlock(&poller->lock);
    }
    if (rc) {
        free(stage);
        free(conn);
        return rc;
    }
    conn->base.poller = &poller->base;
    conn->poller = poller;
    snprintf(conn->base.peer, sizeof conn->base.peer, "%s", peer);
    conn->source.kind = FP_TCP_SOURCE_CONN;
    conn->fd = fd;
    conn->stage = stage;
    pthread_mutex_init(&conn->lock, NULL);
    *out = conn;
    return 0;
}

void fp_tcp_conn_join_locked(fp_tcp_conn *conn)
{
    fp_tcp_net *net = fp_tcp_net_of(conn);
    conn->next = net->conns;
    net->conns = conn;
}

void fp_tcp_conn_free(fp_tcp_conn *conn)
{
    pthread_mutex_destroy(&conn->lock);
    fp_tls_close(conn->tls);
    free(conn->stage);
    free(conn->shares);
    free(conn);
}

/* Takes its events away and unlinks it: nobody finds it after this. */
bool fp_tcp_conn_bury_locked(fp_tcp_conn *conn)
{
    fp_tcp_net *net = fp_tcp_net_of(conn);
    fp_tcp_poller *poller = conn->poller;
    for (fp_tcp_conn **at = &net->conns; *at; at = &(*at)->next) {
        if (*at == conn) {
            *at = conn->next;
            break;
        }
    }
    pthread_mutex_lock(&conn->lock);
    conn->closed = true;
    fp_tcp_shut_locked(conn);
    for (; conn->op_head != conn->op_tail; conn->op_head++)
        free(conn->ops[conn->op_head % FP_NET_DEPTH_MAX].copy);
    pthread_mutex_lock(&poller->lock);
    for (uint32_t i = poller->ring_head; i != poller->ring_tail; i++) {
        fp_tcp_entry *entry = &poller->ring[i & poller->ring_mask];
        if (entry->event.conn != &conn->base)
            continue;
        entry->event.conn = NULL;
        free(entry->message);
        entry->message = NULL;
    }
    poller->conn_count--;
    pthread_mutex_unlock(&poller->lock);
    bool in_loop = conn->in_loop;
    pthread_mutex_unlock(&conn->lock);
    if (in_loop) {
        conn->next = net->dead_conns;
        net->dead_conns = conn;
    }
    return !in_loop;
}

static void bury(fp_tcp_conn *conn)
{
    fp_tcp_net *net = fp_tcp_net_of(conn);
    pthread_mutex_lock(&net->lock);
    bool ours = fp_tcp_conn_bury_locked(conn);
    pthread_mutex_unlock(&net->lock);
    if (ours)
        fp_tcp_conn_free(conn);
    else
        fp_tcp_loop_wake(net);
}

void fp_tcp_conn_close(fp_conn *base)
{
    fp_tcp_conn *conn = (fp_tcp_conn *)base;
    fp_tcp_poller *poller = (fp_tcp_poller *)base->poller;
    for (fp_tcp_conn **at = &poller->own; *at; at = &(*at)->own_next) {
        if (*at == conn) {
            *at = conn->own_next;
            break;
        }
    }
    bury(conn);
}

/* ---- polling --------------------------------------------------------------------------------- */

/* What the application learns with an event is put where net.c and the application look for it: by
 * the poller's thread, because they look without a lock. */
static void tell(fp_tcp_conn *conn, const fp_net_event *event)
{
    bool message = event->kind == FP_NET_RECV || event->kind == FP_NET_RECV_IMM;
    if (!event->status && !message && event->kind != FP_NET_ACCEPTED)
        return;
    pthread_mutex_lock(&conn->lock);
    if (event->status && !conn->base.status) {
        conn->base.status = conn->status;
        snprintf(conn->base.reason, sizeof conn->base.reason, "%s", conn->reason);
    }
    if (event->kind == FP_NET_ACCEPTED)
        conn->listener = NULL; /* it is the application's now */
    if (message) {
        conn->inbox--;
        if (conn->paused && conn->inbox <= FP_TCP_INBOX_MAX / 2) {
            conn->paused = false;
            fp_tcp_run_locked(conn);
        }
    }
    pthread_mutex_unlock(&conn->lock);
}

static int take(fp_tcp_poller *poller, fp_net_event *events, int max)
{
    int n = 0;
    pthread_mutex_lock(&poller->lock);
    while (n < max && poller->ring_head != poller->ring_tail) {
        fp_tcp_entry *entry = &poller->ring[poller->ring_head++ & poller->ring_mask];
        if (!entry->event.conn)
            continue;
        if (entry->message) {
            entry->message->next = poller->given;
            poller->given = entry->message;
        }
        events[n++] = entry->event;
    }
    if (poller->signalled && poller->ring_head == poller->ring_tail) {
        uint64_t count;
        poller->signalled = read(poller->wake_fd, &count, sizeof count) != sizeof count;
    }
    pthread_mutex_unlock(&poller->lock);
    for (int i = 0; i < n; i++)
        tell((fp_tcp_conn *)events[i].conn, &events[i]);
    return n;
}

/* A peer whose system lives, but whose process does not go on, would be waited for without end: its connection is broken
 * when nothing has moved for a while and something is to be answered. */
static void judge_silence_locked(fp_tcp_conn *conn, uint64_t now)
{
    const fp_tcp_op *first = &conn->ops[conn->op_head % FP_NET_DEPTH_MAX];
    uint64_t mark = conn->received;
    if (conn->op_head != conn->op_tail && !first->sent)
        mark += ((uint64_t)conn->tx_head << 40) + conn->tx_offset + 1;
    if (conn->op_head == conn->op_tail || mark != conn->mark || !conn->mark_ns) {
        conn->mark = mark;
        conn->mark_ns = conn->op_head == conn->op_tail ? 0 : now;
    } else if (now - conn->mark_ns > FP_TCP_SILENT_MS * UINT64_C(1000000)) {
        fp_tcp_break_locked(conn, FARPOOL_E_NODE,
                            "%s: no answer for %d ms: its process is stopped, or its machine "
                            "is overloaded",
                            conn->base.peer, FP_TCP_SILENT_MS);
    }
}

/* Now and then: neither the clock nor the locks are for each poll. */
static void look_for_silence(fp_tcp_poller *poller)
{
    if (++poller->polls < SILENCE_POLLS)
        return;
    poller->polls = 0;
    uint64_t now = fp_now_ns();
    if (now - poller->looked_ns < SILENCE_NS)
        return;
    poller->looked_ns = now;
    for (fp_tcp_conn *conn = poller->own; conn; conn = conn->own_next) {
        pthread_mutex_lock(&conn->lock);
        if (!conn->status)
            judge_silence_locked(conn, now);
        pthread_mutex_unlock(&conn->lock);
    }
}

/* Runs the connections that the poller itself watches. */
static int look(fp_tcp_poller *poller, int timeout_ms)
{
    fp_tcp_net *net = (fp_tcp_net *)poller->base.net;
    for (fp_tcp_conn *conn = poller->own; atomic_load(&net->timed) && conn; conn = conn->own_next) {
        pthread_mutex_lock(&conn->lock);
        fp_tcp_expired_locked(conn);
        pthread_mutex_unlock(&conn->lock);
    }
    if (timeout_ms) /* it has spun in vain */
        poller->polls = SILENCE_POLLS;
    look_for_silence(poller);
    struct epoll_event ready[EPOLL_BATCH];
    int n = epoll_wait(poller->epfd, ready, EPOLL_BATCH, timeout_ms);
    if (n < 0)
        return errno == EINTR ? 0 : fp_error_sys("waiting for events");
    for (int i = 0; i < n; i++) {
        fp_tcp_source *source = ready[i].data.ptr;
        if (source->kind != FP_TCP_SOURCE_CONN)
            continue;
        fp_tcp_conn *conn = (fp_tcp_conn *)((char *)source - offsetof(fp_tcp_conn, source));
        pthread_mutex_lock(&conn->lock);
        fp_tcp_run_locked(conn);
        pthread_mutex_unlock(&conn->lock);
    }
    return 0;
}

static int tcp_poll(fp_poller *base, fp_net_event *events, int max, int timeout_ms)
{
    fp_tcp_poller *poller = (fp_tcp_poller *)base;
    free_given(poller);
    int n = take(poller, events, max);
    if (n)
        return n;
    uint64_t start = timeout_ms ? fp_now_ns() : 0;
    uint64_t end = start + (uint64_t)timeout_ms * 1000000;
    uint64_t now = start;
    for (;;) {
        int wait_ms = 0;
        if (timeout_ms < 0 && now - start >= SPIN_NS)
            wait_ms = -1;
        else if (timeout_ms > 0 && now - start >= SPIN_NS && now < end)
            wait_ms = (int)((end - now + 999999) / 1000000);
        int rc = look(poller, wait_ms);
        n = take(poller, events, max);
        if (n || rc || timeout_ms == 0)
            return n ? n : rc;
        now = fp_now_ns();
        if (timeout_ms > 0 && now >= end)
            return 0;
    }
}

const fp_net_ops fp_net_tcp = {
    .scheme = "tcp",
    .open = tcp_open,
    .close = tcp_close,
    .mr_open = tcp_mr_open,
    .mr_close = tcp_mr_close,
    .poller_open = tcp_poller_open,
    .poller_close = tcp_poller_close,
    .poller_fd = tcp_poller_fd,
    .listen = fp_tcp_listen,
    .listener_close = fp_tcp_listener_close,
    .connect = fp_tcp_connect,
    .conn_close = fp_tcp_conn_close,
    .share = tcp_share,
    .post = fp_tcp_post,
    .poll = tcp_poll,
};
