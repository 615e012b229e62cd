/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the tcp transport: one-sided semantics emulated over a socket.
 *
 * Both ends first send a preamble, which says whether TLS follows (tls.h): it does where there is an auth, and all else is
 * in it. Then frames follow in both directions: a header of fixed size, and for some types a payload. Requests of one direction are answered in order.
 *
 *   READ   key addr count        -> DATA with count bytes
 *   WRITE  key addr + payload    -> ACK
 *   IMM    key addr imm + payload -> ACK     (the peer's application gets FP_NET_RECV_IMM)
 *   SEND   + payload             (no answer: done when the kernel has taken it)
 *   NAK    answers a READ, WRITE or IMM that was refused; the connection then ends
 * An ACK answers all unanswered WRITEs and IMMs up to its seq.
 *
 * Who runs a connection: everything about it is guarded by its lock, and whichever thread holds
 * that may receive, send and answer. A connection that has shared nothing is watched by its poller,
 * so a client needs no thread. Accepted connections and those that have shared memory are watched
 * by the net's loop thread, so that a peer's READs and WRITEs are served without any call of the
 * application (N9). Payloads go from the socket to the memory they are for and back, without a copy
 * but for the part that arrived in the same recvmsg as its header.
 *
 * Lock order: net->lock, conn->lock, poller->lock. Nothing waits while it holds one.
 */
#ifndef FP_COMMON_NET_TCP_H
#define FP_COMMON_NET_TCP_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/net/net.h"
#include "common/net/tls.h"

enum {
    FP_TCP_VERSION = 2,
    FP_TCP_PREAMBLE_BYTES = 16,
    FP_TCP_HEADER_BYTES = 40,
    FP_TCP_STAGE_BYTES = 64 << 10,
    FP_TCP_TX_SLOTS =
        2 * FP_NET_DEPTH_MAX, /* requests of ours and answers to as many of the peer's */
    FP_TCP_INBOX_MAX = 64,    /* messages received and not given; then the socket is not read */
    FP_TCP_HANDSHAKES_MAX =
        256,                 /* accepted connections that have not said hello (or are refused) */
    FP_TCP_REFUSE_MS = 1000, /* for the peer to take a NAK and close */
    FP_TCP_DEAD_MS = 15000,  /* silence of a peer's system that owes us an acknowledgement */
    FP_TCP_SILENT_MS =
        5000, /* silence of a peer that owes us an answer: its process may be stopped */
};

enum fp_tcp_type {
    FP_TCP_READ = 1,
    FP_TCP_DATA,
    FP_TCP_WRITE,
    FP_TCP_IMM,
    FP_TCP_ACK,
    FP_TCP_SEND,
    FP_TCP_NAK,
};

/* In memory; on the wire little-endian: type u32, len u32, seq u64, key u64, addr u64, count
 * u32, imm u32 */
typedef struct fp_tcp_header {
    uint32_t type;
    uint32_t len; /* payload bytes that follow */
    uint64_t seq;
    uint64_t key, addr;
    uint32_t count; /* READ: bytes wanted */
    uint32_t imm;
} fp_tcp_header;

struct fp_tcp_conn;

typedef struct fp_tcp_source {
    enum { FP_TCP_SOURCE_WAKE, FP_TCP_SOURCE_LISTENER, FP_TCP_SOURCE_CONN } kind;
} fp_tcp_source;

typedef struct fp_tcp_listener {
    fp_listener base;             /* the poller's thread only */
    struct fp_tcp_poller *poller; /* immutable after init */
    fp_tcp_source source;
    int fd;                       /* guarded by net->lock; -1 once closed */
    struct fp_tcp_listener *next; /* guarded by net->lock: in the net, or its graveyard */
} fp_tcp_listener;

typedef struct fp_tcp_net {
    fp_net base;
    fp_net_options options; /* immutable after init */
    fp_tls_context *tls;    /* " ; NULL: nothing is encrypted */
    pthread_mutex_t lock;
    struct fp_tcp_conn *conns;  /* guarded by lock */
    fp_tcp_listener *listeners; /* " */
    struct fp_tcp_conn
        *dead_conns; /* " : closed, freed when the loop can no longer have them in hand */
    fp_tcp_listener *dead_listeners; /* " */
    bool loop_running;               /* " */
    bool loop_stop;                  /* " */
    atomic_uint timed;               /* atomic: connections with a deadline */
    pthread_t loop;
    int epfd, wake_fd, spare_fd; /* of the loop; immutable once it runs */
    fp_tcp_source wake;
} fp_tcp_net;

/* A message received: freed at the poll after the one that gave it. */
typedef struct fp_tcp_message {
    struct fp_tcp_message *next;
    char data[];
} fp_tcp_message;

typedef struct fp_tcp_entry {
    fp_net_event event; /* conn NULL: it was closed */
    fp_tcp_message *message;
} fp_tcp_entry;

typedef struct fp_tcp_poller {
    fp_poller base;
    int epfd, wake_fd; /* immutable after init */
    fp_tcp_source wake;
    pthread_mutex_t lock;
    fp_tcp_entry *ring;                       /* guarded by lock: events not given yet */
    uint32_t ring_head, ring_tail, ring_mask; /* guarded by lock */
    uint32_t conn_count;                      /* guarded by lock */
    bool signalled;                           /* guarded by lock: wake_fd is readable */
    fp_tcp_message *given;                    /* the poller's thread only */
    struct fp_tcp_conn *own;                  /* " : connections that the poller watches */
    uint64_t looked_ns;                       /* " : for those that are silent, the last time */
    unsigned polls;                           /* " : since the clock was read */
} fp_tcp_poller;

/* A posted operation until its completion is in the poller's ring. */
typedef struct fp_tcp_op {
    enum fp_net_kind kind;
    bool sent, done;
    uint64_t cookie, seq;
    uint32_t len;
    void *copy; /* what SEND and INLINE carry */
    struct iovec iov[FP_NET_SGE_MAX];
    int iov_count;
} fp_tcp_op;

/* A frame that waits to be sent. */
typedef struct fp_tcp_tx {
    unsigned char header[FP_TCP_HEADER_BYTES];
    struct iovec iov[FP_NET_SGE_MAX];
    int iov_count;
    size_t len;    /* header and payload */
    fp_tcp_op *op; /* a request of ours; NULL: an answer to the peer */
    fp_mr *mr;     /* DATA: whose memory it sends */
    bool is_ack;
} fp_tcp_tx;

/* Everything is guarded by lock, unless it says otherwise. */
typedef struct fp_tcp_conn {
    fp_conn base;          /* the poller's thread only, but peer: immutable after init */
    fp_tcp_poller *poller; /* immutable after init */
    fp_tcp_source source;
    pthread_mutex_t lock;
    struct fp_tcp_conn *next;     /* guarded by net->lock */
    struct fp_tcp_conn *own_next; /* the poller's thread only */
    int fd;                       /* -1 once broken or closed */
    int epfd;                     /* the epoll that watches fd */
    bool in_loop;                 /* the loop's epoll has had it */
    bool watched;                 /* in epfd */
    uint32_t watched_events;
    fp_tls *tls; /* NULL: none, or not before its preamble has come */
    bool hello;  /* its preamble has come, TLS is through, the application knows it */
    bool closed; /* by the application or as a stranger: nothing is given any more */
    int status;  /* 0, or why it broke; copied to base when the application is told */
    char reason[256];
    uint64_t deadline_ns; /* for the hello or the end of a refused connection; 0: none */
    bool refusing;        /* a NAK was queued: input is thrown away */
    fp_tcp_listener *listener;
    /* what the peer may reach, sorted by key */
    fp_mr **shares;
    uint32_t share_count, share_capacity;
    /* operations of ours: [op_head, op_tail) */
    fp_tcp_op ops[FP_NET_DEPTH_MAX];
    uint32_t op_head, op_tail;
    uint64_t seq;
    uint64_t received, mark,
        mark_ns; /* bytes; what stood when something had moved last, and when */
    /* frames to be sent: [tx_head, tx_tail), the first from byte tx_offset */
    fp_tcp_tx tx[FP_TCP_TX_SLOTS];
    uint32_t tx_head, tx_tail;
    uint32_t answers; /* of them, those that answer the peer */
    size_t tx_offset;
    bool tx_blocked, tx_failed;
    int tx_errno;
    /* input: staged bytes, then what the frame in hand still lacks */
    unsigned char *stage;
    size_t stage_pos, stage_len;
    bool in_payload;
    fp_tcp_header rx;
    struct iovec rx_iov[FP_NET_SGE_MAX];
    int rx_iov_count;
    size_t rx_left;
    fp_mr *rx_mr; /* whose memory the payload goes to */
    fp_tcp_message *rx_message;
    uint32_t inbox; /* messages in the poller's ring */
    bool paused;    /* inbox was full: not reading */
} fp_tcp_conn;

static inline fp_tcp_net *fp_tcp_net_of(const fp_tcp_conn *conn)
{
    return (fp_tcp_net *)conn->poller->base.net;
}

/* tcp_conn.c: called with the connection's lock held */
void fp_tcp_break_locked(fp_tcp_conn *conn, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));
/* Gives an operation's completion. */
void fp_tcp_give_done_locked(fp_tcp_conn *conn, fp_tcp_op *op, int status);
/* Stops watching and closes the socket. */
void fp_tcp_shut_locked(fp_tcp_conn *conn);
int fp_tcp_watch_locked(fp_tcp_conn *conn);
/* Whether a deadline has passed; breaks the connection or, before its hello, ends it. */
bool fp_tcp_expired_locked(fp_tcp_conn *conn);
void fp_tcp_set_deadline_locked(fp_tcp_conn *conn, unsigned ms); /* 0: none */
/* The peer loses what mr gave it; a transfer under way breaks the connection. */
void fp_tcp_withdraw_locked(fp_tcp_conn *conn, fp_mr *mr);
int fp_tcp_grant_locked(fp_tcp_conn *conn, fp_mr *mr);
/* Where a request's range is, or NULL if it may not be used so (N8). */
char *fp_tcp_reach_locked(const fp_tcp_conn *conn, const fp_tcp_header *header, uint32_t len,
                          unsigned access, fp_mr **mr);

/* tcp_in.c */
/* Receives, answers and sends what can be; breaks the connection if it must. */
void fp_tcp_run_locked(fp_tcp_conn *conn);

/* tcp_out.c */
/* Adds a frame; the caller says where its payload is. */
fp_tcp_tx *fp_tcp_tx_add_locked(fp_tcp_conn *conn, const fp_tcp_header *header);
void fp_tcp_tx_reseq(fp_tcp_tx *tx, uint64_t seq); /* of a frame not begun */
/* Sends what the socket takes. */
void fp_tcp_flush_locked(fp_tcp_conn *conn);
/* Gives the completions of those operations that are done, up to the first that isn't. */
void fp_tcp_ops_complete_locked(fp_tcp_conn *conn);
int fp_tcp_post(fp_conn *conn, const fp_net_op *ops, size_t count);

/* tcp_io.c: called with the connection's lock held */
/* As sendmsg: what has been taken of the pieces. With TLS count may be 0: what waits there is sent. */
ssize_t fp_tcp_send(fp_tcp_conn *conn, const struct iovec *iov, int count);
bool fp_tcp_sends(const fp_tcp_conn *conn); /* whether anything waits to be sent */
/* As recvmsg. *more: there may be more at once. -1 also when it has broken the connection. */
ssize_t fp_tcp_receive(fp_tcp_conn *conn, const struct iovec *iov, int count, bool *more);
/* TLS begins behind an accepted connection's preamble, with these bytes that have come already. E_NOMEM. */
int fp_tcp_seal_locked(fp_tcp_conn *conn, const void *bytes, size_t len);
void fp_tcp_welcome_locked(fp_tcp_conn *conn); /* an accepted one: the application is told */

/* tcp_link.c: addresses, preamble, listen, connect */
void fp_tcp_preamble(unsigned char out[FP_TCP_PREAMBLE_BYTES], bool sealed);
/* 0, or E_PROTO, or E_REFUSED if one of us wants TLS and the other does not, with a sentence that names peer. */
int fp_tcp_preamble_check(const unsigned char in[FP_TCP_PREAMBLE_BYTES], bool sealed,
                          const char *peer);
int fp_tcp_listen(fp_poller *poller, const fp_uri *uri, fp_listener **listener);
void fp_tcp_listener_close(fp_listener *listener);
int fp_tcp_connect(fp_poller *poller, const fp_uri *uri, fp_conn **conn);
/* TCP_NODELAY and how a silent peer is found. */
void fp_tcp_socket_options(int fd);
/* "tcp://host:port" of a socket address. */
void fp_tcp_name(const struct sockaddr *addr, socklen_t len, char *out, size_t capacity);

/* tcp_loop.c: the thread that serves peers */
int fp_tcp_loop_start(fp_tcp_net *net);
void fp_tcp_loop_stop(fp_tcp_net *net);
void fp_tcp_loop_wake(fp_tcp_net *net);

/* tcp.c */
int fp_tcp_conn_new(fp_tcp_poller *poller, int fd, const char *peer, fp_tcp_conn **conn);
void fp_tcp_conn_join_locked(fp_tcp_conn *conn); /* net->lock is held */
void fp_tcp_conn_close(fp_conn *conn);
/* The end of it, also of strangers; net->lock is held. Whether it is to be freed now: else the loop does so. */
bool fp_tcp_conn_bury_locked(fp_tcp_conn *conn);
void fp_tcp_conn_free(fp_tcp_conn *conn);
/* Queues an event for the application; takes message. Caller holds the connection's lock. */
void fp_tcp_give(fp_tcp_conn *conn, const fp_net_event *event, fp_tcp_message *message);

#endif
