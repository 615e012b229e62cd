/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the verbs transport from the inside: queue pair and receive buffers, breaking, and closing. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/net/verbs.h"

/* An overflowing CQ would take all its queue pairs down, so it has room for all they can complete. */
static int make_cq_room(fp_verbs_poller *poller, uint32_t conns)
{
    int needed = (int)(conns * FP_VERBS_CQ_PER_CONN), now = poller->cq->cqe;
    if (needed <= now)
        return 0;
    if (ibv_resize_cq(poller->cq, 2 * now) && ibv_resize_cq(poller->cq, needed))
        return fp_error(FARPOOL_E_BUSY,
                        "a poller's completion queue of %d entries is too small for "
                        "another connection and cannot grow",
                        now);
    return 0;
}

int fp_verbs_take_slot(fp_verbs_poller *poller, fp_verbs_conn *conn)
{
    for (uint32_t i = 0; i < FP_VERBS_CONNS_MAX; i++) {
        if (poller->conns[i])
            continue;
        int rc = make_cq_room(poller, i + 1);
        if (rc)
            return rc;
        poller->conns[i] = conn;
        conn->slot = i;
        conn->generation = ++poller->next_generation;
        if (i >= poller->conn_count)
            poller->conn_count = i + 1;
        return 0;
    }
    return fp_error(FARPOOL_E_BUSY, "a poller has %d connections already", FP_VERBS_CONNS_MAX);
}

int fp_verbs_make_qp(fp_verbs_conn *conn)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)conn->base.poller;
    fp_verbs_net *net = (fp_verbs_net *)poller->base.net;
    if (conn->id->verbs != net->device)
        return fp_error(FARPOOL_E_UNSUPPORTED,
                        "%s is reached through RDMA device %s, but this transport was opened on %s",
                        conn->base.peer, ibv_get_device_name(conn->id->verbs->device),
                        ibv_get_device_name(net->device->device));
    struct ibv_qp_init_attr attr = {
        .send_cq = poller->cq,
        .recv_cq = poller->cq,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = FP_NET_DEPTH_MAX + FP_VERBS_SIGNAL_EVERY,
                .max_recv_wr = FP_VERBS_RECVS,
                .max_send_sge = FP_NET_SGE_MAX,
                .max_recv_sge = 1,
                .max_inline_data = FP_NET_INLINE_MAX},
    };
    if (rdma_create_qp(conn->id, net->pd, &attr))
        return fp_error_sys("%s: creating a queue pair", conn->base.peer);
    conn->qp = conn->id->qp;
    size_t bytes = (size_t)FP_VERBS_RECVS * FP_NET_MESSAGE_MAX;
    conn->recvs = aligned_alloc(4096, bytes);
    if (conn->recvs)
        conn->recv_mr = ibv_reg_mr(net->pd, conn->recvs, bytes, IBV_ACCESS_LOCAL_WRITE);
    if (!conn->recv_mr)
        return fp_error_sys("%s: registering %zu bytes of receive buffers (see 'ulimit -l')",
                            conn->base.peer, bytes);
    for (unsigned i = 0; i < FP_VERBS_RECVS; i++)
        if (fp_verbs_post_recv(conn, i))
            return fp_error_sys("%s: posting receive buffers", conn->base.peer);
    return 0;
}

static void destroy_qp(fp_verbs_conn *conn)
{
    if (!conn->qp)
        return;
    rdma_destroy_qp(conn->id);
    conn->qp = NULL;
}

void fp_verbs_break(fp_verbs_conn *conn, int status, const char *format, ...)
{
    if (conn->cm == FP_VERBS_BROKEN)
        return;
    bool known = conn->cm == FP_VERBS_READY || (conn->cm == FP_VERBS_ACCEPTING && conn->announced);
    conn->cm = FP_VERBS_BROKEN;
    conn->base.status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(conn->base.reason, sizeof conn->base.reason, format, args);
    va_end(args);
    rdma_disconnect(conn->id); /* tells the peer, if it still can */
    destroy_qp(conn);          /* from here on no NIC touches our buffers */
    fp_verbs_complete(conn, conn->posted, status);
    if (!known)
        return; /* nobody has seen this connection yet */
    fp_net_event event = {.kind = FP_NET_CLOSED, .status = status, .conn = &conn->base};
    FP_ASSERT(fp_verbs_give((fp_verbs_poller *)conn->base.poller, &event));
}

/* Forgets what was not delivered of a connection. */
static void forget_events(fp_verbs_poller *poller, const fp_verbs_conn *conn)
{
    size_t kept = 0;
    for (size_t i = 0; i < poller->event_count; i++) {
        const fp_net_event *event = &poller->events[(poller->event_first + i) % poller->event_room];
        if (event->conn == &conn->base)
            continue;
        poller->events[(poller->event_first + kept++) % poller->event_room] = *event;
    }
    poller->event_count = kept;
    for (size_t i = 0; i < poller->lent_count; i++)
        if (poller->lent[i].conn == conn)
            poller->lent[i].conn = NULL;
}

void fp_verbs_conn_close(fp_conn *base)
{
    fp_verbs_conn *conn = (fp_verbs_conn *)base;
    fp_verbs_poller *poller = (fp_verbs_poller *)base->poller;
    if (conn->id) {
        if (conn->qp && conn->cm != FP_VERBS_BROKEN)
            rdma_disconnect(conn->id);
        destroy_qp(conn);
        rdma_destroy_id(conn->id);
    }
    if (conn->recv_mr)
        ibv_dereg_mr(conn->recv_mr);
    free(conn->recvs);
    for (int b = 0; b < FP_VERBS_SEND_BLOCKS; b++) {
        if (conn->send_mrs[b])
            ibv_dereg_mr(conn->send_mrs[b]);
        free(conn->sends[b]);
    }
    forget_events(poller, conn);
    poller->conns[conn->slot] = NULL;
    free(conn);
}

void fp_verbs_announce(fp_verbs_conn *conn)
{
    if (conn->cm != FP_VERBS_ACCEPTING || conn->announced)
        return;
    conn->announced = true;
    conn->cm = FP_VERBS_READY;
    fp_net_event event = {.kind = FP_NET_ACCEPTED, .conn = &conn->base, .listener = conn->listener};
    FP_ASSERT(fp_verbs_give((fp_verbs_poller *)conn->base.poller, &event));
}
