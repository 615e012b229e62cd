/* SPDX-License-Identifier: Apache-2.0 */
/* shm: nets, pollers and connections, and what a connection has deferred. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/error.h"
#include "common/net/shm.h"

/* ---- nets and pollers ------------------------------------------------------------------------ */

int fp_shm_net_open(const fp_uri *uri, const fp_net_options *options, fp_net **out)
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

void fp_shm_net_close(fp_net *base)
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

int fp_shm_poller_open(fp_net *net, fp_poller **out)
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

void fp_shm_poller_close(fp_poller *base)
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

int fp_shm_poller_fd(fp_poller *base) { return ((fp_shm_poller *)base)->epfd; }

/* ---- what waits for room in the socket ------------------------------------------------------- */

void fp_shm_watch_out(fp_shm_conn *conn, bool on)
{
    if (conn->wants_out == on)
        return;
    fp_shm_poller *poller = (fp_shm_poller *)conn->base.poller;
    struct epoll_event event = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = &conn->source};
    if (!epoll_ctl(poller->epfd, EPOLL_CTL_MOD, conn->fd, &event))
        conn->wants_out = on;
}

static void deferred_free(fp_shm_deferred *deferred)
{
    if (deferred->is_share && deferred->fd >= 0)
        close(deferred->fd);
    free(deferred);
}

void fp_shm_deferred_drop(fp_shm_conn *conn)
{
    fp_shm_deferred *first = conn->deferred;
    conn->deferred = first->next;
    if (!conn->deferred)
        conn->deferred_tail = &conn->deferred;
    deferred_free(first);
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
    fp_shm_watch_out(conn, true);
    return 0;
}

int fp_shm_defer(fp_shm_conn *conn, const fp_net_op *ops, size_t count)
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
    fp_shm_watch_out(conn, true);
    return 0;
err_chained:
    while (chain) {
        fp_shm_deferred *next = chain->next;
        deferred_free(chain);
        chain = next;
    }
    return FARPOOL_E_NOMEM;
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
        if (!conn->deferred->is_share) {
            fp_shm_give_done(poller, conn, conn->deferred->op.cookie, code);
            code = FARPOOL_E_CLOSED;
        }
        fp_shm_deferred_drop(conn);
    }
    fp_shm_give(poller,
                &(fp_net_event){.kind = FP_NET_CLOSED, .status = status, .conn = &conn->base});
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
        fp_shm_deferred_drop(conn);
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
