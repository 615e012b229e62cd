/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of the verbs transport, by the RDMA connection manager.
 *
 *   connect:  CONNECTING --- address, route, ESTABLISHED ---> READY ---> BROKEN
 *   accept:   ACCEPTING --- ESTABLISHED or first message ---> READY ---> BROKEN
 *
 * Both ends send magic and version as the connection's private data, so that a stranger is refused before
 * a byte of memory is reachable. A connection breaks when an operation fails, when the manager says that
 * the peer has gone, or when either end closes it. The manager says nothing after a power failure: then
 * only an operation that runs out of retries, or a heartbeat above this layer, finds out.
 */
#include "common/net/verbs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"

enum {
    BACKLOG = 64,
    RETRIES = 5, /* 7 would mean for ever, on some devices */
    /* A message that finds no receive buffer is tried again: 6 times (7 would mean for ever), 0.33 s apart.
     * A peer that stands still for a moment slows the sender down, one that never polls does not hold it
     * up for longer than 2 s. There are FP_VERBS_RECVS buffers, so this is rare. */
    RNR_RETRIES = 6,
    RNR_TIMER = 30, /* code for 327.68 ms */
    READS_MAX = 128,
    REJECTED_BY_CONSUMER =
        28, /* IB_CM_REJ_CONSUMER_DEFINED: by the listener, not for want of one */
};

typedef struct greeting {
    uint32_t magic; /* little-endian */
    uint32_t version;
} greeting;

static const greeting our_greeting = {0x76507046 /* "FpPv" */, 1};

int fp_verbs_resolve(const fp_uri *uri, struct sockaddr_storage *addr)
{
    struct addrinfo *list;
    int rc = fp_uri_resolve(uri, 0, &list);
    if (rc)
        return rc;
    memset(addr, 0, sizeof *addr);
    memcpy(addr, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    return 0;
}

static void name_address(const struct sockaddr *addr, char *out, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    unsigned port = 0;
    if (addr->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)addr;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        port = ntohs(in->sin_port);
        snprintf(out, size, "verbs://%s:%u", host, port);
    } else if (addr->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)addr;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        port = ntohs(in->sin6_port);
        snprintf(out, size, "verbs://[%s]:%u", host, port);
    } else {
        snprintf(out, size, "verbs://?");
    }
}

/* ---- events of the connection manager -------------------------------------------------------- */

static void fill_param(fp_verbs_poller *poller, struct rdma_conn_param *param)
{
    const fp_verbs_net *net = (const fp_verbs_net *)poller->base.net;
    int reads = net->attr.max_qp_rd_atom < READS_MAX ? net->attr.max_qp_rd_atom : READS_MAX;
    int issued =
        net->attr.max_qp_init_rd_atom < READS_MAX ? net->attr.max_qp_init_rd_atom : READS_MAX;
    *param = (struct rdma_conn_param){
        .private_data = &our_greeting,
        .private_data_len = sizeof our_greeting,
        .responder_resources = (uint8_t)reads,
        .initiator_depth = (uint8_t)issued,
        .retry_count = RETRIES,
        .rnr_retry_count = RNR_RETRIES,
    };
}

static int check_greeting(const struct rdma_conn_param *param, const char *peer)
{
    greeting theirs;
    if (!param->private_data || param->private_data_len < sizeof theirs)
        return fp_error(FARPOOL_E_PROTO, "%s: the peer is no farpool transport", peer);
    memcpy(&theirs, param->private_data, sizeof theirs);
    if (theirs.magic != our_greeting.magic)
        return fp_error(FARPOOL_E_PROTO, "%s: the peer is no farpool transport", peer);
    if (theirs.version != our_greeting.version)
        return fp_error(FARPOOL_E_PROTO,
                        "%s: the peer speaks version %u of the verbs transport, this side %u", peer,
                        theirs.version, our_greeting.version);
    return 0;
}

/* The NAK timer is an attribute of the receiving queue pair, set when it becomes ready to receive. */
static void set_rnr_timer(fp_verbs_conn *conn)
{
    struct ibv_qp_attr attr = {.min_rnr_timer = RNR_TIMER};
    ibv_modify_qp(conn->qp, &attr, IBV_QP_MIN_RNR_TIMER); /* the kernel's 0.66 s will do as well */
}

/* Otherwise rdma_cm's own would hold, and a dead peer would be noticed after 14 s at the earliest. */
static int set_ack_timeout(const fp_verbs_conn *conn)
{
    uint8_t exponent = ((const fp_verbs_net *)conn->base.poller->net)->ack_timeout;
    if (rdma_set_option(conn->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &exponent,
                        sizeof exponent))
        return fp_error_sys("%s: setting the RDMA connection's ack timeout to %u", conn->base.peer,
                            exponent);
    return 0;
}

static void on_request(fp_verbs_poller *poller, fp_verbs_listener *listener, struct rdma_cm_id *id,
                       struct rdma_conn_param *theirs)
{
    fp_verbs_conn *conn = calloc(1, sizeof *conn);
    if (!conn || fp_verbs_take_slot(poller, conn)) {
        free(conn);
        rdma_reject(id, NULL, 0);
        rdma_destroy_id(id);
        return;
    }
    conn->base.poller = &poller->base;
    conn->id = id;
    conn->cm = FP_VERBS_ACCEPTING;
    conn->listener = &listener->base;
    id->context = conn;
    name_address(rdma_get_peer_addr(id), conn->base.peer, sizeof conn->base.peer);
    struct rdma_conn_param param;
    fill_param(poller, &param);
    /* what they issue at a time, and what they can serve at a time */
    if (theirs->initiator_depth < param.responder_resources)
        param.responder_resources = theirs->initiator_depth;
    if (theirs->responder_resources < param.initiator_depth)
        param.initiator_depth = theirs->responder_resources;
    if (check_greeting(theirs, conn->base.peer) || set_ack_timeout(conn) ||
        fp_verbs_make_qp(conn)) {
        rdma_reject(id, &our_greeting, sizeof our_greeting);
        fp_verbs_conn_close(&conn->base);
        return;
    }
    if (rdma_accept(id, &param)) {
        fp_verbs_conn_close(&conn->base);
        return;
    }
    set_rnr_timer(conn);
}

static void on_established(fp_verbs_conn *conn, struct rdma_conn_param *theirs)
{
    if (conn->cm == FP_VERBS_ACCEPTING) {
        fp_verbs_announce(conn);
    } else if (conn->cm == FP_VERBS_CONNECTING) {
        conn->cm_error = check_greeting(theirs, conn->base.peer);
        if (!conn->cm_error) {
            conn->cm = FP_VERBS_READY;
            set_rnr_timer(conn);
        }
    }
}

static void on_failure(fp_verbs_conn *conn, enum rdma_cm_event_type type, int status,
                       const struct rdma_conn_param *theirs)
{
    if (conn->cm == FP_VERBS_CONNECTING) {
        /* a listener that does not like our greeting rejects with its own */
        if (type == RDMA_CM_EVENT_REJECTED && status == REJECTED_BY_CONSUMER) {
            conn->cm_error = check_greeting(theirs, conn->base.peer);
            if (conn->cm_error)
                return;
        }
        conn->cm_error = fp_error(FARPOOL_E_NODE, "%s: cannot connect: %s%s%s", conn->base.peer,
                                  rdma_event_str(type), status < 0 ? ", " : "",
                                  status < 0 ? strerror(-status) : "");
        return;
    }
    fp_verbs_drain_cq((fp_verbs_poller *)conn->base.poller); /* what succeeded before */
    bool silent = conn->cm == FP_VERBS_ACCEPTING;
    fp_verbs_break(conn, FARPOOL_E_NODE, "the peer closed the connection or died (%s)",
                   rdma_event_str(type));
    if (silent)
        fp_verbs_conn_close(&conn->base); /* it was never given to anyone */
}

static void take_cm_event(fp_verbs_poller *poller, struct rdma_cm_event *event)
{
    /* A copy, acknowledged at once: rdma_destroy_id waits for unacknowledged events. */
    struct rdma_cm_event copy = *event;
    uint8_t data[sizeof(greeting)];
    if (copy.param.conn.private_data && copy.param.conn.private_data_len >= sizeof data) {
        memcpy(data, copy.param.conn.private_data, sizeof data);
        copy.param.conn.private_data = data;
    } else {
        copy.param.conn.private_data = NULL;
    }
    rdma_ack_cm_event(event);
    if (copy.event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        on_request(poller, copy.listen_id->context, copy.id, &copy.param.conn);
        return;
    }
    bool of_conn = false;
    for (uint32_t i = 0; i < poller->conn_count && !of_conn; i++)
        of_conn = poller->conns[i] && poller->conns[i] == copy.id->context;
    if (!of_conn)
        return; /* a listener's: nothing to do but for requests */
    fp_verbs_conn *conn = copy.id->context;
    switch (copy.event) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
        conn->resolved = true;
        break;
    case RDMA_CM_EVENT_ESTABLISHED:
        on_established(conn, &copy.param.conn);
        break;
    case RDMA_CM_EVENT_ADDR_CHANGE:
    case RDMA_CM_EVENT_TIMEWAIT_EXIT:
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
    case RDMA_CM_EVENT_MULTICAST_JOIN:
    case RDMA_CM_EVENT_MULTICAST_ERROR:
    case RDMA_CM_EVENT_CONNECT_REQUEST:
        break;
    default:
        on_failure(conn, copy.event, copy.status, &copy.param.conn);
    }
}

void fp_verbs_cm_events(fp_verbs_poller *poller)
{
    struct rdma_cm_event *event;
    while (!rdma_get_cm_event(poller->channel, &event))
        take_cm_event(poller, event);
}

/* ---- listening and connecting ---------------------------------------------------------------- */

int fp_verbs_listen(fp_poller *base, const fp_uri *uri, fp_listener **out)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)base;
    struct sockaddr_storage addr;
    int rc = fp_verbs_resolve(uri, &addr);
    if (rc)
        return rc;
    fp_verbs_listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a listener", uri->text);
    if (rdma_create_id(poller->channel, &listener->id, listener, RDMA_PS_TCP)) {
        rc = fp_error_sys("%s: creating an RDMA identifier", uri->text);
        goto err_after_listener;
    }
    if (rdma_bind_addr(listener->id, (struct sockaddr *)&addr) ||
        rdma_listen(listener->id, BACKLOG)) {
        rc = errno == EADDRINUSE
                 ? fp_error(FARPOOL_E_BUSY, "%s: another process listens there", uri->text)
                 : fp_error_sys("%s: listening", uri->text);
        goto err_after_id;
    }
    name_address(rdma_get_local_addr(listener->id), listener->base.uri, sizeof listener->base.uri);
    *out = &listener->base;
    return 0;
err_after_id:
    rdma_destroy_id(listener->id);
err_after_listener:
    free(listener);
    return rc;
}

void fp_verbs_listener_close(fp_listener *base)
{
    fp_verbs_listener *listener = (fp_verbs_listener *)base;
    fp_verbs_poller *poller = (fp_verbs_poller *)base->poller;
    rdma_destroy_id(listener->id);
    for (uint32_t i = 0; i < poller->conn_count; i++) {
        fp_verbs_conn *conn = poller->conns[i];
        if (!conn || conn->listener != base)
            continue;
        conn->listener = NULL;
        if (!conn->delivered) /* nobody has it who could close it */
            fp_verbs_conn_close(&conn->base);
    }
    free(listener);
}

/* Handles events until the step is done or has failed. */
static int await_step(fp_verbs_conn *conn, uint64_t deadline, const char *what)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)conn->base.poller;
    for (;;) {
        fp_verbs_cm_events(poller);
        if (conn->cm_error)
            return conn->cm_error;
        if (conn->resolved || conn->cm == FP_VERBS_READY)
            return 0;
        uint64_t now = fp_now_ns();
        if (now >= deadline)
            return fp_error(FARPOOL_E_NODE, "%s: cannot connect: no answer (%s)", conn->base.peer,
                            what);
        struct pollfd fd = {.fd = poller->channel->fd, .events = POLLIN};
        if (poll(&fd, 1, (int)((deadline - now) / 1000000) + 1) < 0 && errno != EINTR)
            return fp_error_sys("%s: connecting", conn->base.peer);
    }
}

static int connect_steps(fp_verbs_conn *conn, struct sockaddr *addr)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)conn->base.poller;
    fp_verbs_net *net = (fp_verbs_net *)poller->base.net;
    int timeout_ms = (int)net->connect_timeout_ms;
    uint64_t deadline = fp_now_ns() + net->connect_timeout_ms * 1000000ull;
    if (rdma_create_id(poller->channel, &conn->id, conn, RDMA_PS_TCP))
        return fp_error_sys("%s: creating an RDMA identifier", conn->base.peer);
    int rc = set_ack_timeout(conn);
    if (rc)
        return rc;
    if (rdma_resolve_addr(conn->id, NULL, addr, timeout_ms))
        return fp_error(FARPOOL_E_NODE, "%s: cannot connect: no route: %s", conn->base.peer,
                        strerror(errno));
    rc = await_step(conn, deadline, "resolving the address");
    if (rc)
        return rc;
    conn->resolved = false;
    if (rdma_resolve_route(conn->id, timeout_ms))
        return fp_error(FARPOOL_E_NODE, "%s: cannot connect: no route: %s", conn->base.peer,
                        strerror(errno));
    rc = await_step(conn, deadline, "resolving the route");
    if (rc)
        return rc;
    conn->resolved = false;
    rc = fp_verbs_make_qp(conn);
    if (rc)
        return rc;
    struct rdma_conn_param param;
    fill_param(poller, &param);
    if (rdma_connect(conn->id, &param))
        return fp_error_sys("%s: connecting", conn->base.peer);
    return await_step(conn, deadline, "waiting for the peer");
}

int fp_verbs_connect(fp_poller *base, const fp_uri *uri, fp_conn **out)
{
    fp_verbs_poller *poller = (fp_verbs_poller *)base;
    struct sockaddr_storage addr;
    int rc = fp_verbs_resolve(uri, &addr);
    if (rc)
        return rc;
    fp_verbs_conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a connection", uri->text);
    conn->base.poller = base;
    conn->cm = FP_VERBS_CONNECTING;
    snprintf(conn->base.peer, sizeof conn->base.peer, "%s", uri->text);
    rc = fp_verbs_take_slot(poller, conn);
    if (rc) {
        free(conn);
        return rc;
    }
    rc = connect_steps(conn, (struct sockaddr *)&addr);
    if (rc) {
        fp_verbs_conn_close(&conn->base);
        return rc;
    }
    *out = &conn->base;
    return 0;
}
