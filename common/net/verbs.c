/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RDMA by libibverbs: reliable connected queue pairs, one completion queue per poller.
 *
 * Only every FP_VERBS_SIGNAL_EVERY-th operation and the last of each batch ask for a completion; since a
 * queue pair completes in order (N2), one completion ends all operations before it.
 *
 * Happy path: fp_net_post turns a batch into one chain of work requests; fp_net_poll finds their
 * completions by polling the CQ. When there is nothing for SPIN_NS, it arms the CQ and sleeps in epoll on
 * the completion channel and the connection manager's channel together.
 *
 * Failures: the first completion with an error breaks the connection (verbs_conn.c). The queue pair is
 * destroyed at once, after which no NIC touches local memory, and what is still pending is completed here
 * (N1). Completions of a queue pair that is gone are recognised by slot and generation in their wr_id.
 */
#include "common/net/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

enum { SPIN_NS = 200000, CQ_BATCH = 32, CM_EVERY_NS = 20000000 };
#define REFUSED "the peer refused this access: wrong key or range, or it was fenced"

/* ---- pollers --------------------------------------------------------------------------------- */

static void verbs_poller_close(fp_poller *base)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)base;
    /* What is left was accepted and never given to anyone who could have closed it. */
    for (uint32_t i = 0; i < poller->conn_count; i++)
        if (poller->conns[i])
            fp_verbs_conn_close(&poller->conns[i]->base);
    if (poller->cq)
        FP_ASSERT(ibv_destroy_cq(poller->cq) == 0);
    if (poller->completions)
        ibv_destroy_comp_channel(poller->completions);
    if (poller->channel)
        rdma_destroy_event_channel(poller->channel);
    if (poller->epoll_fd >= 0)
        close(poller->epoll_fd);
    free(poller->conns);
    free(poller->events);
    free(poller->lent);
    free(poller);
}

static int watch(fp_verbs_poller *poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ||
           epoll_ctl(poller->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int verbs_poller_open(fp_net *base, fp_poller **out)
{
    fp_verbs_net *net = (fp_verbs_net *)base;
    fp_verbs_poller *poller = calloc(1, sizeof *poller);
    if (!poller)
        return fp_error(FARPOOL_E_NOMEM, "opening an RDMA poller: no memory");
    int entries = FP_VERBS_CQ_ENTRIES;
    poller->base.net = base;
    poller->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    poller->conns = calloc(FP_VERBS_CONNS_MAX, sizeof *poller->conns);
    poller->channel = rdma_create_event_channel();
    poller->completions = ibv_create_comp_channel(net->device);
    if (poller->completions)
        poller->cq = ibv_create_cq(net->device, entries, NULL, poller->completions, 0);
    if (poller->epoll_fd < 0 || !poller->conns || !poller->channel || !poller->cq ||
        watch(poller, poller->channel->fd) || watch(poller, poller->completions->fd)) {
        int rc = fp_error_sys("opening a completion queue of %d entries on RDMA device %s", entries,
                              ibv_get_device_name(net->device->device));
        verbs_poller_close(&poller->base);
        return rc;
    }
    *out = &poller->base;
    return 0;
}

static int verbs_poller_fd(fp_poller *base)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)base;
    poller->fd_given = true;
    return poller->epoll_fd;
}

bool fp_verbs_give(fp_verbs_poller *poller, const fp_net_event *event)
{
    if (poller->event_count == poller->event_room) {
        size_t room = poller->event_room ? 2 * poller->event_room : 256;
        fp_net_event *grown = calloc(room, sizeof *grown);
        if (!grown)
            return false;
        for (size_t i = 0; i < poller->event_count; i++)
            grown[i] = poller->events[(poller->event_first + i) % poller->event_room];
        free(poller->events);
        poller->events = grown;
        poller->event_first = 0;
        poller->event_room = room;
    }
    poller->events[(poller->event_first + poller->event_count++) % poller->event_room] = *event;
    return true;
}

/* ---- completions ----------------------------------------------------------------------------- */

void fp_verbs_complete(fp_verbs_conn *conn, uint64_t upto, int status)
{
    while (conn->completed < upto) {
        const fp_verbs_pending *done = &conn->pending[conn->completed++ % FP_NET_DEPTH_MAX];
        if (done->send >= 0)
            conn->sends_used[done->send / FP_VERBS_SENDS] &= ~(1ull << done->send % FP_VERBS_SENDS);
        fp_net_event event = {
            .kind = FP_NET_DONE, .status = status, .conn = &conn->base, .cookie = done->cookie};
        FP_ASSERT(fp_verbs_give((fp_verbs_poller *)conn->base.poller, &event));
        if (status)
            status = FARPOOL_E_CLOSED; /* N5: only the first one has the reason */
    }
}

/* What a failed completion means to the user. */
static const struct failure {
    enum ibv_wc_status status;
    int code;
    const char *name, *advice;
} failures[] = {
#define FAILURE(name, code, advice)                                                                \
    {                                                                                              \
        IBV_WC_##name##_ERR, code, #name, advice                                                   \
    }
    FAILURE(RETRY_EXC, FARPOOL_E_NODE, "the peer does not answer: is it alive and the network up?"),
    FAILURE(RNR_RETRY_EXC, FARPOOL_E_NODE, "the peer does not take messages"),
    FAILURE(REM_ACCESS, FARPOOL_E_ACCESS, REFUSED),
    FAILURE(REM_INV_REQ, FARPOOL_E_ACCESS, REFUSED),
    FAILURE(REM_OP, FARPOOL_E_ACCESS, REFUSED),
    FAILURE(LOC_QP_OP, FARPOOL_E_NODE, "the device could not send: is this side's network up?"),
    FAILURE(WR_FLUSH, FARPOOL_E_NODE, "the connection was cut off"),
#undef FAILURE
};

static void break_by(fp_verbs_conn *conn, enum ibv_wc_status status)
{
    for (size_t i = 0; i < sizeof failures / sizeof failures[0]; i++) {
        const struct failure *failure = &failures[i];
        if (failure->status != status)
            continue;
        fp_verbs_break(conn, failure->code, "%s (%s: %s)", failure->advice, failure->name,
                       ibv_wc_status_str(status));
        return;
    }
    fp_verbs_break(conn, FARPOOL_E_NODE, "the connection was cut off (%s)",
                   ibv_wc_status_str(status));
}

static void take_recv(fp_verbs_conn *conn, const struct ibv_wc *wc)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)conn->base.poller;
    unsigned buffer = (unsigned)wc->wr_id;
    fp_verbs_announce(conn);
    fp_net_event event = {.kind = FP_NET_RECV, .conn = &conn->base, .len = wc->byte_len};
    if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
        event.kind = FP_NET_RECV_IMM;
        event.imm = be32toh(wc->imm_data);
        if (fp_verbs_post_recv(conn, buffer))
            fp_verbs_break(conn, FARPOOL_E_SYS, "posting a receive buffer failed");
    } else {
        event.data = conn->recvs + (size_t)buffer * FP_NET_MESSAGE_MAX;
        event.cookie = buffer; /* for lending it out */
    }
    FP_ASSERT(fp_verbs_give(poller, &event));
}

static void take_completion(fp_verbs_poller *poller, const struct ibv_wc *wc)
{
    fp_verbs_conn *conn = poller->conns[wc->wr_id >> 48 & 0x7FFF];
    if (!conn || conn->cm == FP_VERBS_BROKEN ||
        (conn->generation & 0xFFFF) != (wc->wr_id >> 32 & 0xFFFF))
        return; /* of a queue pair that is gone */
    bool recv = wc->wr_id >> 63;
    if (wc->status == IBV_WC_SUCCESS) {
        if (recv) {
            take_recv(conn, wc);
        } else {
            uint64_t upto =
                conn->completed + (uint32_t)((uint32_t)wc->wr_id + 1 - (uint32_t)conn->completed);
            fp_verbs_complete(conn, upto, 0);
        }
        return;
    }
    if (!recv && wc->status != IBV_WC_WR_FLUSH_ERR) {
        /* those before it did succeed */
        uint64_t failed =
            conn->completed + (uint32_t)((uint32_t)wc->wr_id - (uint32_t)conn->completed);
        fp_verbs_complete(conn, failed, 0);
    }
    break_by(conn, wc->status);
}

void fp_verbs_drain_cq(fp_verbs_poller *poller)
{
    struct ibv_wc wc[CQ_BATCH];
    int n;
    do {
        n = ibv_poll_cq(poller->cq, CQ_BATCH, wc);
        for (int i = 0; i < n; i++)
            take_completion(poller, &wc[i]);
    } while (n == CQ_BATCH);
}

/* ---- posting --------------------------------------------------------------------------------- */

int fp_verbs_post_recv(fp_verbs_conn *conn, unsigned buffer)
{
    struct ibv_sge sge = {(uintptr_t)(conn->recvs + (size_t)buffer * FP_NET_MESSAGE_MAX),
                          FP_NET_MESSAGE_MAX, conn->recv_mr->lkey};
    struct ibv_recv_wr wr = {.wr_id = FP_VERBS_WR_ID(FP_VERBS_RECV_WR, conn, buffer),
                             .sg_list = &sge,
                             .num_sge = 1},
                       *bad;
    return ibv_post_recv(conn->qp, &wr, &bad);
}

/* A place for the copy of a message; -1: no memory. There are as many as operations in flight. */
static int take_send(fp_verbs_conn *conn)
{
    fp_verbs_net *net = (fp_verbs_net *)conn->base.poller->net;
    for (int b = 0; b < FP_VERBS_SEND_BLOCKS; b++) {
        if (!conn->sends[b]) {
            size_t bytes = (size_t)FP_VERBS_SENDS * FP_NET_MESSAGE_MAX;
            conn->sends[b] = aligned_alloc(4096, bytes);
            if (!conn->sends[b])
                return -1;
            conn->send_mrs[b] = ibv_reg_mr(net->pd, conn->sends[b], bytes, 0);
            if (!conn->send_mrs[b]) {
                free(conn->sends[b]);
                conn->sends[b] = NULL;
                return -1;
            }
        }
        int i = __builtin_ctzll(~conn->sends_used[b]);
        if (i < FP_VERBS_SENDS) {
            conn->sends_used[b] |= 1ull << i;
            return b * FP_VERBS_SENDS + i;
        }
    }
    return -1;
}

static int copy_message(fp_verbs_conn *conn, const fp_net_op *op, struct ibv_sge *sge,
                        int16_t *send)
{
    int place = take_send(conn);
    if (place < 0)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a message", conn->base.peer);
    *send = (int16_t)place;
    uint8_t *start =
        conn->sends[place / FP_VERBS_SENDS] + (size_t)(place % FP_VERBS_SENDS) * FP_NET_MESSAGE_MAX;
    uint32_t len = 0;
    for (uint32_t i = 0; i < op->sge_count; i++) {
        memcpy(start + len, op->sge[i].addr, op->sge[i].len);
        len += op->sge[i].len;
    }
    *sge = (struct ibv_sge){(uintptr_t)start, len, conn->send_mrs[place / FP_VERBS_SENDS]->lkey};
    return 0;
}

static int fill_wr(fp_verbs_conn *conn, const fp_net_op *op, struct ibv_send_wr *wr,
                   struct ibv_sge *sge, int16_t *send)
{
    static const enum ibv_wr_opcode opcodes[] = {
        [FP_NET_READ] = IBV_WR_RDMA_READ,
        [FP_NET_WRITE] = IBV_WR_RDMA_WRITE,
        [FP_NET_WRITE_IMM] = IBV_WR_RDMA_WRITE_WITH_IMM,
        [FP_NET_SEND] = IBV_WR_SEND,
    };
    wr->opcode = opcodes[op->kind];
    wr->sg_list = sge;
    wr->num_sge = (int)op->sge_count;
    wr->send_flags = 0;
    wr->imm_data = htobe32(op->imm);
    wr->wr.rdma.remote_addr = op->remote_addr;
    wr->wr.rdma.rkey = (uint32_t)op->remote_key;
    *send = -1;
    uint32_t total = 0;
    for (uint32_t i = 0; i < op->sge_count; i++) {
        total += op->sge[i].len;
        sge[i] = (struct ibv_sge){(uintptr_t)op->sge[i].addr, op->sge[i].len,
                                  op->sge[i].mr ? ((fp_verbs_mr *)op->sge[i].mr)->mr->lkey : 0};
    }
    if ((op->flags & FP_NET_INLINE) || (op->kind == FP_NET_SEND && total <= FP_NET_INLINE_MAX)) {
        wr->send_flags = IBV_SEND_INLINE;
    } else if (op->kind == FP_NET_SEND) {
        wr->num_sge = 1;
        return copy_message(conn, op, sge, send);
    }
    return 0;
}

static int verbs_post(fp_conn *base, const fp_net_op *ops, size_t count)
{
    fp_verbs_conn *conn = (fp_verbs_conn *)base;
    struct ibv_send_wr wrs[FP_NET_DEPTH_MAX], *bad;
    struct ibv_sge sges[FP_NET_DEPTH_MAX][FP_NET_SGE_MAX];
    uint64_t signalled = conn->signalled;
    for (size_t i = 0; i < count; i++) {
        uint64_t number = conn->posted + i;
        fp_verbs_pending *pending = &conn->pending[number % FP_NET_DEPTH_MAX];
        pending->cookie = ops[i].cookie;
        int rc = fill_wr(conn, &ops[i], &wrs[i], sges[i], &pending->send);
        if (rc) { /* nothing was posted: give the copies back */
            while (i-- > 0) {
                int16_t send = conn->pending[(conn->posted + i) % FP_NET_DEPTH_MAX].send;
                if (send >= 0)
                    conn->sends_used[send / FP_VERBS_SENDS] &= ~(1ull << send % FP_VERBS_SENDS);
            }
            return rc;
        }
        wrs[i].wr_id = FP_VERBS_WR_ID(FP_VERBS_SEND_WR, conn, number);
        wrs[i].next = i + 1 < count ? &wrs[i + 1] : NULL;
        if (i + 1 == count || number + 1 - signalled >= FP_VERBS_SIGNAL_EVERY) {
            wrs[i].send_flags |= IBV_SEND_SIGNALED;
            signalled = number + 1;
        }
    }
    if (!count)
        return 0;
    conn->signalled = signalled;
    conn->posted += count;
    int error = ibv_post_send(conn->qp, wrs, &bad);
    if (error) /* some of them may have been posted: all end with the connection (N1) */
        fp_verbs_break(conn, FARPOOL_E_SYS, "posting to the queue pair: %s", strerror(error));
    return 0;
}

/* ---- polling --------------------------------------------------------------------------------- */

/* Hands receive buffers that were lent out with the last poll's events back to their queue pairs. */
static void repost_lent(fp_verbs_poller *poller)
{
    for (size_t i = 0; i < poller->lent_count; i++) {
        fp_verbs_conn *conn = poller->lent[i].conn;
        if (conn && conn->cm != FP_VERBS_BROKEN && fp_verbs_post_recv(conn, poller->lent[i].buffer))
            fp_verbs_break(conn, FARPOOL_E_SYS, "posting a receive buffer failed");
    }
    poller->lent_count = 0;
}

static int deliver(fp_verbs_poller *poller, fp_net_event *events, int max)
{
    int n = 0;
    while (n < max && poller->event_count) {
        fp_net_event *event = &poller->events[poller->event_first];
        poller->event_first = (poller->event_first + 1) % poller->event_room;
        poller->event_count--;
        events[n] = *event;
        if (event->kind == FP_NET_ACCEPTED)
            ((fp_verbs_conn *)event->conn)->delivered = true;
        if (event->kind == FP_NET_RECV) {
            poller->lent[poller->lent_count].conn = (fp_verbs_conn *)event->conn;
            poller->lent[poller->lent_count++].buffer = (unsigned)event->cookie;
            events[n].cookie = 0;
        }
        n++;
    }
    return n;
}

/* The lent list has room for all that one poll can give. */
static int make_lent_room(fp_verbs_poller *poller, int max)
{
    if (poller->lent_room >= (size_t)max)
        return 0;
    void *grown = realloc(poller->lent, (size_t)max * sizeof *poller->lent);
    if (!grown)
        return fp_error(FARPOOL_E_NOMEM, "polling: no memory");
    poller->lent = grown;
    poller->lent_room = (size_t)max;
    return 0;
}

static void look(fp_verbs_poller *poller)
{
    fp_verbs_drain_cq(poller);
    /* also while other connections keep us busy; the coarse clock costs a few ns */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (now_ns - poller->cm_looked_ns >= CM_EVERY_NS) {
        poller->cm_looked_ns = now_ns;
        fp_verbs_cm_events(poller);
    }
}

/* After this, anything new makes the epoll descriptor readable, or is an event already. */
static int arm(fp_verbs_poller *poller)
{
    struct ibv_cq *cq;
    void *context;
    if (poller->armed && ibv_get_cq_event(poller->completions, &cq, &context) == 0) {
        ibv_ack_cq_events(cq, 1);
        poller->armed = false;
    }
    if (!poller->armed) {
        if (ibv_req_notify_cq(poller->cq, 0))
            return fp_error_sys("arming a completion queue");
        poller->armed = true;
        fp_verbs_drain_cq(poller);
    }
    fp_verbs_cm_events(poller);
    return 0;
}

static int wait_ms(fp_verbs_poller *poller, int timeout_ms)
{
    struct pollfd fd = {.fd = poller->epoll_fd, .events = POLLIN};
    if (poll(&fd, 1, timeout_ms) < 0 && errno != EINTR)
        return fp_error_sys("waiting for completions");
    return 0;
}

static int verbs_poll(fp_poller *base, fp_net_event *events, int max, int timeout_ms)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)base;
    int rc = make_lent_room(poller, max);
    if (rc)
        return rc;
    repost_lent(poller);
    look(poller);
    if (poller->event_count)
        return deliver(poller, events, max);
    uint64_t start = fp_now_ns(), now = start;
    while (timeout_ms && !poller->event_count && now - start < SPIN_NS) {
        for (int i = 0; i < 16 && !poller->event_count; i++)
            look(poller);
        now = fp_now_ns();
    }
    /* A look that finds nothing costs no system call, unless somebody may go to sleep on it. */
    while (!rc && !poller->event_count && (timeout_ms || poller->fd_given)) {
        rc = arm(poller);
        if (rc || poller->event_count || !timeout_ms)
            break;
        now = fp_now_ns();
        int64_t left = timeout_ms - (int64_t)((now - start) / 1000000);
        if (timeout_ms > 0 && left <= 0)
            break;
        rc = wait_ms(poller, timeout_ms < 0 ? -1 : (int)left);
        fp_verbs_drain_cq(poller);
    }
    return rc ? rc : deliver(poller, events, max);
}

const fp_net_ops fp_net_verbs = {
    .scheme = "verbs",
    .open = fp_verbs_open,
    .close = fp_verbs_close,
    .mr_open = fp_verbs_mr_open,
    .mr_close = fp_verbs_mr_close,
    .poller_open = verbs_poller_open,
    .poller_close = verbs_poller_close,
    .poller_fd = verbs_poller_fd,
    .listen = fp_verbs_listen,
    .listener_close = fp_verbs_listener_close,
    .connect = fp_verbs_connect,
    .conn_close = fp_verbs_conn_close,
    .share = fp_verbs_share,
    .post = verbs_post,
    .poll = verbs_poll,
};
