/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp: a connection: what watches it, what its peer may reach, and how it ends.
 *
 * It ends (fp_tcp_break_locked) when input or output fails or the peer sends nonsense: what is in
 * flight is completed, then CLOSED is given. A refused request is answered with NAK; then input is
 * thrown away until the peer closes, because closing a socket with unread input would reset it and
 * lose the NAK.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/tcp.h"

/* ---- watching, deadlines, the end ------------------------------------------------------------ */

int fp_tcp_watch_locked(fp_tcp_conn *conn)
{
    uint32_t events = (conn->paused ? 0 : EPOLLIN) | (conn->tx_blocked ? EPOLLOUT : 0);
    if (conn->fd < 0 || (conn->watched && events == conn->watched_events))
        return 0;
    if (!events) { /* not even told of a hang-up, which would wake us again and again */
        if (conn->watched)
            epoll_ctl(conn->epfd, EPOLL_CTL_DEL, conn->fd, NULL);
        conn->watched = false;
        return 0;
    }
    struct epoll_event event = {.events = events, .data.ptr = &conn->source};
    if (epoll_ctl(conn->epfd, conn->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, conn->fd, &event))
        return fp_error_sys("%s: watching the connection", conn->base.peer);
    conn->watched = true;
    conn->watched_events = events;
    return 0;
}

void fp_tcp_set_deadline_locked(fp_tcp_conn *conn, unsigned ms)
{
    if (!conn->deadline_ns && ms)
        atomic_fetch_add(&fp_tcp_net_of(conn)->timed, 1);
    if (conn->deadline_ns && !ms)
        atomic_fetch_sub(&fp_tcp_net_of(conn)->timed, 1);
    conn->deadline_ns = ms ? fp_now_ns() + ms * UINT64_C(1000000) : 0;
}

bool fp_tcp_expired_locked(fp_tcp_conn *conn)
{
    if (conn->fd < 0 || !conn->deadline_ns || fp_now_ns() < conn->deadline_ns)
        return false;
    fp_tcp_break_locked(conn, FARPOOL_E_NODE, "%s: %s", conn->base.peer,
                        conn->refusing ? "it used memory that it was not granted" : "it is silent");
    return true;
}

void fp_tcp_shut_locked(fp_tcp_conn *conn)
{
    if (conn->fd < 0)
        return;
    fp_tcp_set_deadline_locked(conn, 0);
    if (conn->watched)
        epoll_ctl(conn->epfd, EPOLL_CTL_DEL, conn->fd, NULL);
    conn->watched = false;
    /* What is on its way and has not been answered must not arrive after it has failed, for it may overwrite what is written
     * over other connections then (N7): the system forgets it, and tells the peer. */
    static const struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (conn->op_head != conn->op_tail)
        (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    shutdown(conn->fd, SHUT_RDWR); /* a process forked from ours may hold the socket, too */
    close(conn->fd);
    conn->fd = -1;
    free(conn->rx_message);
    conn->rx_message = NULL;
    conn->rx_mr = NULL;
    conn->rx_left = 0;
}

void fp_tcp_give_done_locked(fp_tcp_conn *conn, fp_tcp_op *op, int status)
{
    fp_tcp_give(conn, &(fp_net_event){.kind = FP_NET_DONE, .status = status, .cookie = op->cookie},
                NULL);
    free(op->copy);
    op->copy = NULL;
}

void fp_tcp_break_locked(fp_tcp_conn *conn, int status, const char *format, ...)
{
    if (conn->status)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(conn->reason, sizeof conn->reason, format, args);
    va_end(args);
    conn->status = status;
    fp_tcp_shut_locked(conn);
    int code = status;
    while (conn->op_head != conn->op_tail) {
        fp_tcp_give_done_locked(conn, &conn->ops[conn->op_head++ % FP_NET_DEPTH_MAX], code);
        code = FARPOOL_E_CLOSED;
    }
    if (conn->hello)
        fp_tcp_give(conn, &(fp_net_event){.kind = FP_NET_CLOSED, .status = status}, NULL);
    else
        conn->closed = true; /* a stranger: the loop buries it */
}

/* ---- what the peer may reach ----------------------------------------------------------------- */

static uint32_t share_index(const fp_tcp_conn *conn, uint64_t key)
{
    uint32_t low = 0, high = conn->share_count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (conn->shares[mid]->rkey.key < key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int fp_tcp_grant_locked(fp_tcp_conn *conn, fp_mr *mr)
{
    uint32_t at = share_index(conn, mr->rkey.key);
    if (at < conn->share_count && conn->shares[at] == mr)
        return 0;
    if (conn->share_count == conn->share_capacity) {
        uint32_t capacity = conn->share_capacity ? 2 * conn->share_capacity : 8;
        fp_mr **shares = realloc(conn->shares, capacity * sizeof(fp_mr *));
        if (!shares)
            return fp_error(FARPOOL_E_NOMEM, "%s: sharing memory: out of memory", conn->base.peer);
        conn->shares = shares;
        conn->share_capacity = capacity;
    }
    memmove(&conn->shares[at + 1], &conn->shares[at], (conn->share_count - at) * sizeof(fp_mr *));
    conn->shares[at] = mr;
    conn->share_count++;
    return 0;
}

void fp_tcp_withdraw_locked(fp_tcp_conn *conn, fp_mr *mr)
{
    uint32_t at = share_index(conn, mr->rkey.key);
    if (at == conn->share_count || conn->shares[at] != mr)
        return;
    conn->share_count--;
    memmove(&conn->shares[at], &conn->shares[at + 1], (conn->share_count - at) * sizeof(fp_mr *));
    bool in_use = conn->rx_mr == mr;
    for (uint32_t i = conn->tx_head; i != conn->tx_tail; i++)
        in_use |= conn->tx[i % FP_TCP_TX_SLOTS].mr == mr;
    if (in_use)
        fp_tcp_break_locked(conn, FARPOOL_E_NODE,
                            "%s: memory was withdrawn while the peer was using it",
                            conn->base.peer);
}

char *fp_tcp_reach_locked(const fp_tcp_conn *conn, const fp_tcp_header *header, uint32_t len,
                          unsigned access, fp_mr **mr)
{
    uint32_t at = share_index(conn, header->key);
    if (at == conn->share_count || conn->shares[at]->rkey.key != header->key)
        return NULL;
    *mr = conn->shares[at];
    uint64_t offset = header->addr - (*mr)->rkey.addr;
    if (!((*mr)->access & access) || offset > (*mr)->rkey.len || len > (*mr)->rkey.len - offset)
        return NULL;
    return (char *)(*mr)->mem.addr + offset;
}
