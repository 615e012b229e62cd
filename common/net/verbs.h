/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the verbs transport: verbs_device.c (device, memory), verbs_cm.c (making connections by the connection
 * manager), verbs_conn.c (what a connection consists of), verbs.c (pollers, posting, polling).
 */
#ifndef FP_COMMON_NET_VERBS_H
#define FP_COMMON_NET_VERBS_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "common/net/net.h"

enum {
    FP_VERBS_RECVS = 32, /* receive buffers per connection */
    FP_VERBS_SENDS = 16, /* copies of messages in flight are made in blocks of so many */
    FP_VERBS_SEND_BLOCKS = FP_NET_DEPTH_MAX / FP_VERBS_SENDS,
    FP_VERBS_CQ_ENTRIES =
        4096, /* to begin with; grows with the connections, for it must not overflow */
    FP_VERBS_CQ_PER_CONN = FP_VERBS_RECVS + FP_NET_DEPTH_MAX,
    FP_VERBS_CONNS_MAX = 4096, /* of one poller; bits in wr_id */
    FP_VERBS_SIGNAL_EVERY = 16,
};

typedef struct fp_verbs_net {
    fp_net base;
    unsigned connect_timeout_ms;
    uint8_t ack_timeout;
    struct rdma_event_channel *channel; /* of probe */
    struct rdma_cm_id *probe;           /* keeps the device open */
    struct ibv_context *device;
    struct ibv_pd *pd;
    struct ibv_device_attr attr;
} fp_verbs_net;

typedef struct fp_verbs_mr {
    fp_mr base;
    struct ibv_mr *mr;
} fp_verbs_mr;

enum fp_verbs_cm {
    FP_VERBS_CONNECTING, /* ours: between rdma_create_id and ESTABLISHED */
    FP_VERBS_ACCEPTING,  /* the peer's: accepted, not ESTABLISHED yet */
    FP_VERBS_READY,
    FP_VERBS_BROKEN, /* its queue pair is gone */
};

/* A posted operation, in order of posting. */
typedef struct fp_verbs_pending {
    uint64_t cookie;
    int16_t send; /* number of the message's copy, or -1 */
} fp_verbs_pending;

typedef struct fp_verbs_conn {
    fp_conn base;
    struct rdma_cm_id *id;
    struct ibv_qp *qp;
    enum fp_verbs_cm cm;
    bool resolved;  /* CONNECTING: the current step of resolving is done */
    int cm_error;   /* CONNECTING: FARPOOL_E_*, the sentence is in base.reason */
    bool announced; /* ACCEPTING: FP_NET_ACCEPTED is among the poller's events or was delivered */
    bool delivered; /* it was delivered: the connection is the receiver's to close */
    fp_listener *listener;
    uint32_t slot, generation; /* in poller->conns; both are in each wr_id */
    fp_verbs_pending pending[FP_NET_DEPTH_MAX];
    uint64_t posted, completed; /* pending[i % FP_NET_DEPTH_MAX] for completed <= i < posted */
    uint64_t signalled;         /* posted at the last signalled operation */
    uint8_t *recvs;             /* FP_VERBS_RECVS buffers of FP_NET_MESSAGE_MAX bytes */
    struct ibv_mr *recv_mr;
    uint8_t *sends[FP_VERBS_SEND_BLOCKS]; /* made when first needed */
    struct ibv_mr *send_mrs[FP_VERBS_SEND_BLOCKS];
    uint64_t sends_used[FP_VERBS_SEND_BLOCKS]; /* bit i: buffer i is in flight */
} fp_verbs_conn;

typedef struct fp_verbs_listener {
    fp_listener base;
    struct rdma_cm_id *id;
} fp_verbs_listener;

typedef struct fp_verbs_poller {
    fp_poller base;
    struct rdma_event_channel *channel; /* of its connections and listeners; not blocking */
    struct ibv_comp_channel *completions;
    struct ibv_cq *cq;
    int epoll_fd;
    bool fd_given;         /* to somebody who may wait for it */
    bool armed;            /* the next completion makes `completions` readable */
    uint64_t cm_looked_ns; /* when the channel was looked at last */
    fp_verbs_conn **conns; /* by slot */
    uint32_t conn_count;   /* slots in use are below */
    uint32_t next_generation;
    fp_net_event *events; /* a ring of what was not delivered yet */
    size_t event_first, event_count, event_room;
    struct { /* receive buffers lent out with the last poll's events */
        fp_verbs_conn *conn;
        unsigned buffer;
    } * lent;
    size_t lent_count, lent_room;
} fp_verbs_poller;

/* wr_id: kind, slot, generation and number (of the receive buffer, or low bits of the operation). */
enum fp_verbs_kind { FP_VERBS_SEND_WR = 0, FP_VERBS_RECV_WR = 1 };
#define FP_VERBS_WR_ID(kind, conn, number)                                                         \
    ((uint64_t)(kind) << 63 | (uint64_t)(conn)->slot << 48 |                                       \
     ((uint64_t)(conn)->generation & 0xFFFF) << 32 | ((uint64_t)(number)&0xFFFFFFFF))

/* verbs.c */

/* Appends an event; a poller without memory for it ends the process' use of that connection: false. */
bool fp_verbs_give(fp_verbs_poller *poller, const fp_net_event *event);
/* Takes all that the CQ has, turning it into events. */
void fp_verbs_drain_cq(fp_verbs_poller *poller);
int fp_verbs_post_recv(fp_verbs_conn *conn, unsigned buffer);
/* Completes what is pending up to `upto` with status (the first) and E_CLOSED (the others), or 0. */
void fp_verbs_complete(fp_verbs_conn *conn, uint64_t upto, int status);

/* verbs_device.c: slots of fp_net_ops */

int fp_verbs_open(const fp_uri *uri, const fp_net_options *options, fp_net **out);
void fp_verbs_close(fp_net *base);
int fp_verbs_mr_open(fp_net *base, const fp_mem *mem, unsigned access, fp_mr **out);
void fp_verbs_mr_close(fp_mr *base);
int fp_verbs_share(fp_conn *conn, fp_mr *mr);

/* verbs_conn.c */

/* A place in poller->conns, and room in the CQ. */
int fp_verbs_take_slot(fp_verbs_poller *poller, fp_verbs_conn *conn) FARPOOL_MUST_CHECK;
/* The queue pair of conn->id, which is bound to a device, with its receive buffers posted. */
int fp_verbs_make_qp(fp_verbs_conn *conn) FARPOOL_MUST_CHECK;
/* N5: remembers why (unless it was broken before), destroys the queue pair, completes everything. */
void fp_verbs_break(fp_verbs_conn *conn, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Gives FP_NET_ACCEPTED for an accepted connection, once. */
void fp_verbs_announce(fp_verbs_conn *conn);
void fp_verbs_conn_close(fp_conn *conn);

/* verbs_cm.c */

/* Handles connection events that are there. */
void fp_verbs_cm_events(fp_verbs_poller *poller);
int fp_verbs_resolve(const fp_uri *uri, struct sockaddr_storage *addr) FARPOOL_MUST_CHECK;
int fp_verbs_listen(fp_poller *poller, const fp_uri *uri, fp_listener **listener);
void fp_verbs_listener_close(fp_listener *listener);
int fp_verbs_connect(fp_poller *poller, const fp_uri *uri, fp_conn **conn);

#endif
