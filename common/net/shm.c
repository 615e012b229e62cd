/* SPDX-License-Identifier: Apache-2.0 */
/*
 * shm: posting and polling. shm.h tells the idea.
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
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/faultpoint.h"
#include "common/net/shm.h"

enum {
    SPIN_NS = 20000, /* of a poll that may sleep */
    EPOLL_BATCH = 16,
};

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
        if (op->kind == FP_NET_WRITE && i + 1 < op->sge_count)
            FP_FAULT_POINT(SHM_WRITE_HALF);
    }
    if (op->kind == FP_NET_WRITE)
        FP_FAULT_POINT(SHM_WRITTEN);
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
        fp_shm_give_done(poller, conn, ops[i].cookie, code);
        code = FARPOOL_E_CLOSED;
    }
    fail(conn, ops, rc);
}

static int shm_post(fp_conn *base, const fp_net_op *ops, size_t count)
{
    fp_shm_conn *conn = (fp_shm_conn *)base;
    fp_shm_poller *poller = (fp_shm_poller *)base->poller;
    if (__builtin_expect(conn->deferred != NULL, 0))
        return fp_shm_defer(conn, ops, count);
    for (size_t i = 0; i < count; i++) {
        int rc = execute(conn, &ops[i]);
        if (__builtin_expect(rc, 0)) {
            if (rc == FARPOOL_E_BUSY)
                rc = fp_shm_defer(conn, &ops[i], count - i);
            if (rc && (rc != FARPOOL_E_NOMEM || i > 0)) /* i > 0: it is too late to refuse (N1) */
                fail_from(conn, &ops[i], count - i, rc);
            else
                return rc;
            return 0;
        }
        fp_shm_give_done(poller, conn, ops[i].cookie, 0);
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
        if (!first->is_share)
            fp_shm_give_done(poller, conn, first->op.cookie, 0);
        fp_shm_deferred_drop(conn);
    }
    fp_shm_watch_out(conn, false);
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
    fp_shm_give(poller, &event);
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
            fp_shm_give(poller, &(fp_net_event){.kind = FP_NET_ACCEPTED,
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
    .open = fp_shm_net_open,
    .close = fp_shm_net_close,
    .mr_open = fp_shm_mr_open,
    .mr_close = fp_shm_mr_close,
    .poller_open = fp_shm_poller_open,
    .poller_close = fp_shm_poller_close,
    .poller_fd = fp_shm_poller_fd,
    .listen = fp_shm_listen,
    .listener_close = fp_shm_listener_close,
    .connect = fp_shm_connect,
    .conn_close = fp_shm_conn_close,
    .share = fp_shm_share,
    .post = shm_post,
    .poll = shm_poll,
};
