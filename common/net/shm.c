/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm: nets, pollers, connections, and the data path. shm.h tells the idea.
 *
 * A post executes its operations at once and puts their completions into the poller's ring, from
 * which the next poll takes them: neither makes a system call for READ and WRITE. A packet (SEND,
 * WRITE_IMM, share) that finds the socket full is deferred, and then so is everything that is
 * posted behind it, until epoll says that there is room: that keeps N2 and N3 and is the
 * backpressure (N11), for more than FP_NET_DEPTH_MAX operations are refused.
 *
 * A connection breaks (fp_shm_break) when an operation is refused, when a packet cannot be sent,
 * when the gate is cut, and when the socket ends. Its operations not executed yet then complete
 * with errors and CLOSED goes into the ring behind them; the socket is closed at once, the rest by
 * fp_shm_conn_close.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/shm.h"

enum {
    SPIN_NS = 20000, /* of a poll that may sleep */
    EPOLL_BATCH = 16,
};

/* ---- nets and pollers ------------------------------------------------------------------------ */

static int shm_open_net(const fp_uri *uri, const fp_net_options *options, fp_net **out)
{
    (void)uri;
    fp_shm_net *net = calloc(1, sizeof *net);
    if (!net)
        return fp_error(FARPOOL_E_NOMEM, "opening the shm transport: out of memory");
    net->options = *options;
    pthread_mutex_init(&net->lock, NULL);
    *out = &net->base;
    return 0;
}

static void shm_close_net(fp_net *base)
{
    fp_shm_net *net = (fp_shm_net *)base;
    FP_ASSERT(!net->conns && !net->imports);
    pthread_mutex_destroy(&net->lock);
    free(net);
}

static int ring_resize(fp_shm_poller *poller, uint32_t conns)
{
    uint32_t slots = 256;
    while (slots < conns * (FP_NET_DEPTH_MAX + 2) + FP_SHM_RECV_SLOTS)
        slots *= 2;
    if (poller->ring && slots <= poller->ring_mask + 1)
        return 0;
    fp_net_event *ring = malloc(slots * sizeof *ring);
    if (!ring)
        return fp_error(FARPOOL_E_NOMEM, "shm event ring: out of memory");
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

static int shm_poller_open(fp_net *net, fp_poller **out)
{
    fp_shm_poller *poller = calloc(1, sizeof *poller);
    if (!poller)
        return fp_error(FARPOOL_E_NOMEM, "opening a poller: out of memory");
    poller->base.net = net;
    poller->recv = malloc(FP_SHM_RECV_SLOTS * sizeof *poller->recv);
    int rc = poller->recv ? ring_resize(poller, 1)
                          : fp_error(FARPOOL_E_NOMEM, "opening a poller: out of memory");
    if (rc)
        goto err_allocated;
    poller->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (poller->epfd < 0) {
        rc = fp_error_sys("opening a poller");
        goto err_allocated;
    }
    poller->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    *out = &poller->base;
    return 0;
err_allocated:
    free(poller->ring);
    free(poller->recv);
    free(poller);
    return rc;
}

static void shm_poller_close(fp_poller *base)
{
    fp_shm_poller *poller = (fp_shm_poller *)base;
    FP_ASSERT(!poller->conns && !poller->listeners);
    close(poller->epfd);
    if (poller->spare_fd >= 0)
        close(poller->spare_fd);
    free(poller->ring);
    free(poller->recv);
    free(poller);
}

static int shm_poller_fd(fp_poller *base) { return ((fp_shm_poller *)base)->epfd; }

static void give(fp_shm_poller *poller, const fp_net_event *event)
{
    FP_ASSERT(poller->ring_tail - poller->ring_head <= poller->ring_mask);
    poller->ring[poller->ring_tail++ & poller->ring_mask] = *event;
}

static inline void give_done(fp_shm_poller *poller, fp_shm_conn *conn, uint64_t cookie, int status)
{
    FP_ASSERT(poller->ring_tail - poller->ring_head <= poller->ring_mask);
    fp_net_event *event = &poller->ring[poller->ring_tail++ & poller->ring_mask];
    event->kind = FP_NET_DONE;
    event->status = status;
    event->conn = &conn->base;
    event->cookie = cookie;
}

/* ---- connections ----------------------------------------------------------------------------- */

int fp_shm_conn_new(fp_shm_poller *poller, int fd, unsigned side, fp_shm_conn **out)
{
    int rc = ring_resize(poller, poller->conn_count + 1);
    if (rc)
        return rc;
    fp_shm_conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return fp_error(FARPOOL_E_NOMEM, "opening a connection: out of memory");
    conn->base.poller = &poller->base;
    conn->source.kind = FP_SHM_SOURCE_CONN;
    conn->fd = fd;
    conn->side = side;
    conn->deferred_tail = &conn->deferred;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &conn->source};
    if (epoll_ctl(poller->epfd, EPOLL_CTL_ADD, fd, &event)) {
        rc = fp_error_sys("watching a connection");
        free(conn);
        return rc;
    }
    conn->next = poller->conns;
    poller->conns = conn;
    poller->conn_count++;
    *out = conn;
    return 0;
}

static void watch_out(fp_shm_conn *conn, bool on)
{
    if (conn->wants_out == on)
        return;
    fp_shm_poller *poller = (fp_shm_poller *)conn->base.poller;
    struct epoll_event event = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = &conn->source};
    if (!epoll_ctl(poller->epfd, EPOLL_CTL_MOD, conn->fd, &event))
        conn->wants_out = on;
}

static fp_shm_deferred *deferred_pop(fp_shm_conn *conn)
{
    fp_shm_deferred *first = conn->deferred;
    conn->deferred = first->next;
    if (!conn->deferred)
        conn->deferred_tail = &conn->deferred;
    return first;
}

static void deferred_free(fp_shm_deferred *deferred)
{
    if (deferred->is_share && deferred->fd >= 0)
        close(deferred->fd);
    free(deferred);
}

/* Told explicitly: a process forked from ours may hold the socket, too. */
static void socket_close(fp_shm_conn *conn)
{
    shutdown(conn->fd, SHUT_RDWR);
    epoll_ctl(((fp_shm_poller *)conn->base.poller)->epfd, EPOLL_CTL_DEL, conn->fd, NULL);
    close(conn->fd);
    conn->fd = -1;
}

void fp_shm_break(fp_shm_conn *conn, int status, const char *format, ...)
{
    fp_shm_poller *poller = (fp_shm_poller *)conn->base.poller;
    va_list args;
    va_start(args, format);
    vsnprintf(conn->base.reason, sizeof conn->base.reason, format, args);
    va_end(args);
    conn->base.status = status;
    if (conn->gate)
        fp_shm_gate_cut(conn);
    socket_close(conn);
    int code = status;
    while (conn->deferred) {
        fp_shm_deferred *deferred = deferred_pop(conn);
        if (!deferred->is_share) {
            give_done(poller, conn, deferred->op.cookie, code);
            code = FARPOOL_E_CLOSED;
        }
        deferred_free(deferred);
    }
    give(poller, &(fp_net_event){.kind = FP_NET_CLOSED, .status = status, .conn = &conn->base});
}

void fp_shm_conn_close(fp_conn *base)
{
    fp_shm_conn *conn = (fp_shm_conn *)base;
    fp_shm_poller *poller = (fp_shm_poller *)base->poller;
    fp_shm_net *net = fp_shm_net_of(conn);
    if (conn->gate) {
        if (conn->fd >= 0)
            fp_shm_gate_cut(conn);
        pthread_mutex_lock(&net->lock);
        for (fp_shm_conn **at = &net->conns; *at; at = &(*at)->net_next) {
            if (*at == conn) {
                *at = conn->net_next;
                break;
            }
        }
        pthread_mutex_unlock(&net->lock);
    }
    if (conn->fd >= 0)
        socket_close(conn);
    while (conn->deferred)
        deferred_free(deferred_pop(conn));
    fp_shm_regions_drop(conn);
    if (conn->gate)
        munmap(conn->gate, sizeof *conn->gate);
    for (uint32_t i = poller->ring_head; i != poller->ring_tail; i++) {
        fp_net_event *event = &poller->ring[i & poller->ring_mask];
        if (event->conn != base)
            continue;
        if (event->kind == FP_NET_RECV || event->kind == FP_NET_RECV_IMM)
            poller->recv_pending--;
        event->conn = NULL;
    }
    for (fp_shm_conn **at = &poller->conns; *at; at = &(*at)->next) {
        if (*at == conn) {
            *at = conn->next;
            break;
        }
    }
    poller->conn_count--;
    if (conn->hello_deadline_ns)
        poller->handshakes--;
    free(conn);
}

/* ---- posting --------------------------------------------------------------------------------- */

/* Copies between the pieces and the peer's memory; the gate is held. */
static inline int copy(fp_shm_conn *conn, const fp_net_op *op)
{
    fp_shm_region *region = conn->last;
    if (!region || region->key != op->remote_key) {
        region = fp_shm_region_find(conn, op->remote_key);
        if (!region)
            return FARPOOL_E_ACCESS;
        conn->last = region;
    }
    uint64_t len = 0;
    for (uint32_t i = 0; i < op->sge_count; i++)
        len += op->sge[i].len;
    uint64_t offset = op->remote_addr - region->addr;
    unsigned needed = op->kind == FP_NET_READ ? FP_NET_REMOTE_READ : FP_NET_REMOTE_WRITE;
    if (offset > region->len || len > region->len - offset || !(region->access & needed) ||
        atomic_load_explicit(&conn->gate->side[1 - conn->side].live[region->slot],
                             memory_order_acquire) != region->key)
        return FARPOOL_E_ACCESS;
    char *remote = region->base + offset;
    for (uint32_t i = 0; i < op->sge_count; i++) {
        if (op->kind == FP_NET_READ)
            memcpy(op->sge[i].addr, remote, op->sge[i].len);
        else
            memcpy(remote, op->sge[i].addr, op->sge[i].len);
        remote += op->sge[i].len;
    }
    return 0;
}

/* Begins copying: after this either we see that the peer has withdrawn, or it sees us at work. */
static inline void gate_enter(fp_shm_conn *conn)
{
    conn->busy_seq++;
    atomic_exchange(&conn->gate->busy[conn->side].seq, conn->busy_seq);
}

static inline void gate_leave(fp_shm_conn *conn)
{
    conn->busy_seq++;
    atomic_store_explicit(&conn->gate->busy[conn->side].seq, conn->busy_seq, memory_order_release);
}

static int send_for(fp_shm_conn *conn, const fp_net_op *op)
{
    uint32_t bytes = 0;
    for (uint32_t i = 0; i < op->sge_count; i++)
        bytes += op->sge[i].len;
    bool imm = op->kind == FP_NET_WRITE_IMM;
    fp_shm_packet packet = {
        .magic = FP_SHM_MAGIC,
        .version = FP_SHM_VERSION,
        .type = imm ? FP_SHM_IMM : FP_SHM_MESSAGE,
        .imm = op->imm,
        .bytes = bytes,
    };
    return fp_shm_packet_send(conn, &packet, op->sge, imm ? 0 : op->sge_count, -1);
}

/* 0, E_BUSY: the socket is full and nothing was done, or why the connection must break. A WRITE_IMM
 * whose packet has to wait copies again when it goes: nobody can have been told of the first copy.
 * */
static inline int execute(fp_shm_conn *conn, const fp_net_op *op)
{
    if (op->kind == FP_NET_SEND)
        return send_for(conn, op);
    gate_enter(conn);
    int rc = FARPOOL_E_CLOSED;
    if (!atomic_load_explicit(&conn->gate->cut, memory_order_acquire))
        rc = copy(conn, op);
    gate_leave(conn);
    if (!rc && op->kind == FP_NET_WRITE_IMM)
        rc = send_for(conn, op);
    return rc;
}

/* A copy of an operation, with the bytes that the post must copy (N7), or of a share. */
static fp_shm_deferred *deferred_new(const fp_net_op *op, const fp_shm_packet *share, int fd)
{
    size_t copied = 0;
    bool copies = op && (op->kind == FP_NET_SEND || (op->flags & FP_NET_INLINE));
    for (uint32_t i = 0; copies && i < op->sge_count; i++)
        copied += op->sge[i].len;
    fp_shm_deferred *deferred = calloc(1, sizeof *deferred + copied);
    if (!deferred) {
        fp_error(FARPOOL_E_NOMEM, "queueing an operation: out of memory");
        return NULL;
    }
    deferred->fd = fd;
    if (share) {
        deferred->is_share = true;
        deferred->packet = *share;
        return deferred;
    }
    deferred->op = *op;
    char *to = (char *)(deferred + 1);
    for (uint32_t i = 0; copies && i < op->sge_count; i++) {
        memcpy(to, op->sge[i].addr, op->sge[i].len);
        deferred->op.sge[i].addr = to;
        to += op->sge[i].len;
    }
    return deferred;
}

int fp_shm_defer_share(fp_shm_conn *conn, const fp_shm_packet *share, int fd)
{
    fp_shm_deferred *deferred = deferred_new(NULL, share, fd);
    if (!deferred) {
        close(fd);
        return FARPOOL_E_NOMEM;
    }
    *conn->deferred_tail = deferred;
    conn->deferred_tail = &deferred->next;
    watch_out(conn, true);
    return 0;
}

/* All or none. */
static __attribute__((cold)) int defer(fp_shm_conn *conn, const fp_net_op *ops, size_t count)
{
    fp_shm_deferred *chain = NULL, **tail = &chain;
    for (size_t i = 0; i < count; i++) {
        *tail = deferred_new(&ops[i], NULL, -1);
        if (!*tail)
            goto err_chained;
        tail = &(*tail)->next;
    }
    *conn->deferred_tail = chain;
    conn->deferred_tail = tail;
    watch_out(conn, true);
    return 0;
err_chained:
    while (chain) {
        fp_shm_deferred *next = chain->next;
        deferred_free(chain);
        chain = next;
    }
    return FARPOOL_E_NOMEM;
}

static __attribute__((cold)) void fail(fp_shm_conn *conn, const fp_net_op *op, int rc)
{
    if (rc == FARPOOL_E_CLOSED) /* the gate is cut */
        fp_shm_break(conn, FARPOOL_E_NODE, "%s: the peer closed the connection", conn->base.peer);
    else if (rc == FARPOOL_E_ACCESS)
        fp_shm_break(conn, rc,
                     "%s: %s of remote address 0x%llx with key 0x%llx was refused: not "
                     "granted, withdrawn, or out of its range",
                     conn->base.peer, op->kind == FP_NET_READ ? "READ" : "WRITE",
                     (unsigned long long)op->remote_addr, (unsigned long long)op->remote_key);
    else
        fp_shm_break(conn, rc, "%s", farpool_errmsg());
}

/* Completes the operation that failed and all of the batch behind it. */
static __attribute__((cold)) void fail_from(fp_shm_conn *conn, const fp_net_op *ops, size_t count,
                                            int rc)
{
    fp_shm_poller *poller = (fp_shm_poller *)conn->base.poller;
    int code = rc == FARPOOL_E_CLOSED ? FARPOOL_E_NODE : rc;
    for (size_t i = 0; i < count; i++) {
        give_done(poller, conn, ops[i].cookie, code);
        code = FARPOOL_E_CLOSED;
    }
    fail(conn, ops, rc);
}

static int shm_post(fp_conn *base, const fp_net_op *ops, size_t count)
{
    fp_shm_conn *conn = (fp_shm_conn *)base;
    fp_shm_poller *poller = (fp_shm_poller *)base->poller;
    if (__builtin_expect(conn->deferred != NULL, 0))
        return defer(conn, ops, count);
    for (size_t i = 0; i < count; i++) {
        int rc = execute(conn, &ops[i]);
        if (__builtin_expect(rc, 0)) {
            if (rc == FARPOOL_E_BUSY)
                rc = defer(conn, &ops[i], count - i);
            if (rc && (rc != FARPOOL_E_NOMEM || i > 0)) /* i > 0: it is too late to refuse (N1) */
                fail_from(conn, &ops[i], count - i, rc);
            else
                return rc;
            return 0;
        }
        give_done(poller, conn, ops[i].cookie, 0);
    }
    return 0;
}

static void flush_deferred(fp_shm_conn *conn)
{
    fp_shm_poller *poller = (fp_shm_poller *)conn->base.poller;
    while (conn->deferred) {
        fp_shm_deferred *first = conn->deferred;
        int rc = first->is_share ? fp_shm_packet_send(conn, &first->packet, NULL, 0, first->fd)
                                 : execute(conn, &first->op);
        if (rc == FARPOOL_E_BUSY)
            return;
        if (rc) {
            fail(conn, &first->op, rc); /* completes first and those behind it */
            return;
        }
        deferred_pop(conn);
        if (!first->is_share)
            give_done(poller, conn, first->op.cookie, 0);
        deferred_free(first);
    }
    watch_out(conn, false);
}

/* ---- polling --------------------------------------------------------------------------------- */

static int take(fp_shm_poller *poller, fp_net_event *events, int max)
{
    int n = 0;
    while (n < max && poller->ring_head != poller->ring_tail) {
        const fp_net_event *event = &poller->ring[poller->ring_head++ & poller->ring_mask];
        if (!event->conn)
            continue;
        if (event->kind == FP_NET_RECV || event->kind == FP_NET_RECV_IMM)
            poller->recv_pending--;
        events[n++] = *event;
    }
    return n;
}

/* A packet of an established connection. 0, or why it breaks. */
static int handle_packet(fp_shm_poller *poller, fp_shm_conn *conn, const fp_shm_packet *packet,
                         const char *body, int fd)
{
    fp_net_event event = {.conn = &conn->base, .imm = packet->imm, .len = packet->bytes};
    if (packet->type == FP_SHM_SHARE)
        return fp_shm_import_packet(conn, packet, fd);
    if (fd >= 0)
        close(fd);
    if (packet->type == FP_SHM_MESSAGE) {
        event.kind = FP_NET_RECV;
        event.data = body;
    } else if (packet->type == FP_SHM_IMM) {
        event.kind = FP_NET_RECV_IMM;
    } else {
        return fp_error(FARPOOL_E_PROTO, "%s: unexpected packet of type %u", conn->base.peer,
                        packet->type);
    }
    give(poller, &event);
    poller->recv_used++; /* also for RECV_IMM: it bounds what the ring must hold */
    poller->recv_pending++;
    return 0;
}

static void receive(fp_shm_poller *poller, fp_shm_conn *conn)
{
    while (conn->fd >= 0 && poller->recv_used < FP_SHM_RECV_SLOTS) {
        fp_shm_packet *packet = &poller->recv[poller->recv_used].packet;
        char *body = poller->recv[poller->recv_used].body;
        int fd;
        int rc = fp_shm_packet_receive(conn, packet, FP_NET_MESSAGE_MAX, &fd);
        if (rc == 0)
            return;
        if (conn->hello_deadline_ns) {
            if (rc > 0)
                rc = fp_shm_handshake(conn, packet);
            if (fd >= 0)
                close(fd);
            if (rc) { /* a stranger; nobody was told of it */
                fp_shm_conn_close(&conn->base);
                return;
            }
            conn->hello_deadline_ns = 0;
            poller->handshakes--;
            give(poller, &(fp_net_event){.kind = FP_NET_ACCEPTED,
                                         .conn = &conn->base,
                                         .listener = &conn->listener->base});
            continue;
        }
        if (rc > 0)
            rc = handle_packet(poller, conn, packet, body, fd);
        if (rc < 0)
            fp_shm_break(conn, rc, "%s", farpool_errmsg());
    }
}

static int expire_handshakes(fp_shm_poller *poller, int timeout_ms)
{
    uint64_t now = fp_now_ns();
    for (fp_shm_conn *conn = poller->conns, *next; conn; conn = next) {
        next = conn->next;
        if (!conn->hello_deadline_ns)
            continue;
        if (now >= conn->hello_deadline_ns) {
            fp_shm_conn_close(&conn->base);
            continue;
        }
        int left_ms = (int)((conn->hello_deadline_ns - now) / 1000000) + 1;
        if (timeout_ms < 0 || left_ms < timeout_ms)
            timeout_ms = left_ms;
    }
    return timeout_ms;
}

static int look(fp_shm_poller *poller, int timeout_ms)
{
    struct epoll_event ready[EPOLL_BATCH];
    poller->unlooked = 0;
    for (fp_shm_conn *conn = poller->conns; conn; conn = conn->next) {
        if (conn->gate)
            fp_shm_regions_sweep(conn);
    }
    if (poller->handshakes)
        timeout_ms = expire_handshakes(poller, timeout_ms);
    int n = epoll_wait(poller->epfd, ready, EPOLL_BATCH, timeout_ms);
    if (n < 0)
        return errno == EINTR ? 0 : fp_error_sys("waiting for events");
    for (int i = 0; i < n; i++) {
        fp_shm_source *source = ready[i].data.ptr;
        if (source->kind == FP_SHM_SOURCE_LISTENER) {
            char *listener = (char *)source - offsetof(fp_shm_listener, source);
            fp_shm_accept(poller, (fp_shm_listener *)listener);
            continue;
        }
        fp_shm_conn *conn = (fp_shm_conn *)((char *)source - offsetof(fp_shm_conn, source));
        if (ready[i].events & EPOLLOUT)
            flush_deferred(conn);
        if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            receive(poller, conn);
    }
    return 0;
}

static int shm_poll(fp_poller *base, fp_net_event *events, int max, int timeout_ms)
{
    fp_shm_poller *poller = (fp_shm_poller *)base;
    if (poller->recv_pending == 0)
        poller->recv_used = 0; /* what the last poll gave is no longer valid */
    int n = take(poller, events, max);
    if (n && ++poller->unlooked < FP_SHM_LOOK_EVERY)
        return n;
    int rc = look(poller, 0);
    n += take(poller, events + n, max - n);
    if (n || rc || timeout_ms == 0)
        return n ? n : rc;
    uint64_t start = fp_now_ns();
    uint64_t end = start + (uint64_t)timeout_ms * 1000000;
    for (;;) {
        uint64_t now = fp_now_ns();
        int wait_ms = 0;
        if (now - start >= SPIN_NS && timeout_ms < 0)
            wait_ms = -1;
        else if (now - start >= SPIN_NS && now < end)
            wait_ms = (int)((end - now + 999999) / 1000000);
        rc = look(poller, wait_ms);
        n = take(poller, events, max);
        if (n || rc)
            return n ? n : rc;
        if (timeout_ms > 0 && now >= end)
            return 0;
    }
}

const fp_net_ops fp_net_shm = {
    .scheme = "shm",
    .open = shm_open_net,
    .close = shm_close_net,
    .mr_open = fp_shm_mr_open,
    .mr_close = fp_shm_mr_close,
    .poller_open = shm_poller_open,
    .poller_close = shm_poller_close,
    .poller_fd = shm_poller_fd,
    .listen = fp_shm_listen,
    .listener_close = fp_shm_listener_close,
    .connect = fp_shm_connect,
    .conn_close = fp_shm_conn_close,
    .share = fp_shm_share,
    .post = shm_post,
    .poll = shm_poll,
};
