/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the shm transport: peers on one host.
 *
 * A connection is a Unix socket (SOCK_SEQPACKET) plus a gate: a small page that both processes map.
 * Sharing an mr passes the memfd behind it over the socket; the peer maps it, and from then on a
 * READ or WRITE is a memcpy done by the thread that posts it: no system call, no CPU of the target.
 *
 * The gate is what a queue pair's state and an rkey's validity are to verbs: it makes "afterwards
 * no peer reaches the memory" true although the peer has the memory mapped.
 *   - live[side][slot] holds the key of a range that this side has granted; 0 when withdrawn.
 *   - cut is set by whichever end breaks or closes the connection.
 *   - busy[side] is odd while that side copies. A side that copies first makes it odd, then (after
 *     a full fence) looks at cut and live; a side that withdraws first changes cut or live, then
 *     (after a full fence) waits until the other's busy has changed or is even. So one of the two
 *     sees the other.
 * A peer that ignores the gate can keep what it has mapped; it is a process of the same host which
 * was given the file descriptor, so the unit of real isolation is the memfd, and ranges granted for
 * reading only are passed as a read-only descriptor.
 *
 * A mapped file that is truncated raises SIGBUS in whoever reads it: so every memfd is sealed
 * against shrinking before it is passed, and the receiver refuses one that is not.
 */
#ifndef FP_COMMON_NET_SHM_H
#define FP_COMMON_NET_SHM_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/net/net.h"

enum {
    FP_SHM_MAGIC = 0x6d687366, /* "fshm" */
    FP_SHM_VERSION = 1,
    FP_SHM_GRANTS_MAX = 4096,   /* ranges shared with one connection at a time */
    FP_SHM_RECV_SLOTS = 16,     /* messages one fp_net_poll can give */
    FP_SHM_HANDSHAKES_MAX = 64, /* connections accepted that have not said hello yet, per poller */
    FP_SHM_LOOK_EVERY = 64,     /* polls that only gave completions before sockets are looked at */
    FP_SHM_WITHDRAW_WAIT_MS = 200, /* for a peer in the middle of a copy, which may be stopped */
};

enum fp_shm_type { FP_SHM_HELLO = 1, FP_SHM_HELLO_OK, FP_SHM_MESSAGE, FP_SHM_IMM, FP_SHM_SHARE };

/* Begins every packet. Same host, so native byte order. */
typedef struct fp_shm_packet {
    uint32_t magic;
    uint16_t version, type;
    uint64_t key, addr, len, offset; /* SHARE: the range and where in the memfd it begins */
    uint32_t access, slot;           /* SHARE */
    uint32_t imm, bytes; /* IMM: its number and the bytes written; MESSAGE: body length */
    uint8_t zero[8];
} fp_shm_packet;
_Static_assert(sizeof(fp_shm_packet) == 64, "packet");

typedef struct fp_shm_gate {
    _Alignas(64) _Atomic uint32_t cut; /* atomic: 0, then 1 for ever; see above */
    struct {
        _Alignas(64) _Atomic uint64_t seq; /* atomic: written by its side only */
    } busy[2];
    struct {
        _Alignas(64) _Atomic uint32_t withdrawals; /* atomic: how often live[side] lost a key */
        _Atomic uint64_t live[FP_SHM_GRANTS_MAX];  /* atomic: see above */
    } side[2];
} fp_shm_gate;

/* A peer's memory mapped here: once per process and key, however many connections use it. */
typedef struct fp_shm_import {
    struct fp_shm_import *next; /* guarded by net->lock */
    uint64_t key, len;          /* immutable after init */
    unsigned access;            /* " */
    dev_t dev;                  /* " : which memfd */
    ino_t ino;                  /* " */
    uint64_t offset;            /* " */
    char *base;                 /* " : the range's first byte */
    void *map;                  /* " : the mapping around it */
    size_t map_len;             /* " */
    unsigned refs;              /* guarded by net->lock */
} fp_shm_import;

/* What a connection may reach; belongs to the poller's thread, as the connection does. */
typedef struct fp_shm_region {
    uint64_t key; /* 0: empty */
    uint64_t addr, len;
    char *base;
    unsigned access;
    uint32_t slot;
    fp_shm_import *import;
} fp_shm_region;

typedef struct fp_shm_net {
    fp_net base;
    fp_net_options options;    /* immutable after init */
    pthread_mutex_t lock;      /* never held over anything that waits for a peer but a withdrawal */
    fp_shm_import *imports;    /* guarded by lock */
    struct fp_shm_conn *conns; /* guarded by lock: those with a gate, linked by net_next */
} fp_shm_net;

typedef struct fp_shm_mr {
    fp_mr base;
    int fd;          /* immutable after init: what peers get, or -1 */
    uint64_t offset; /* " : of the range in it */
} fp_shm_mr;

/* What epoll gives back. */
typedef struct fp_shm_source {
    enum { FP_SHM_SOURCE_CONN, FP_SHM_SOURCE_LISTENER } kind;
} fp_shm_source;

typedef struct fp_shm_listener {
    fp_listener base;
    fp_shm_source source;
    struct fp_shm_listener *next; /* in the poller */
    int fd, lock_fd;
    char path[200], lock_path[208];
} fp_shm_listener;

/* An operation or a share that waits for room in the socket, with all that come after it. */
typedef struct fp_shm_deferred {
    struct fp_shm_deferred *next;
    bool is_share;
    int fd; /* share: ours, or -1 */
    fp_shm_packet packet;
    fp_net_op op; /* SEND, INLINE: sge[0].addr points behind this struct */
} fp_shm_deferred;

typedef struct fp_shm_conn {
    fp_conn base;
    fp_shm_source source;
    int fd; /* -1 once broken */
    unsigned side;
    fp_shm_gate *gate; /* NULL until the handshake; mapped until closed */
    uint64_t busy_seq;
    fp_shm_region *last; /* region used by the latest operation, or NULL */
    fp_shm_region *regions;
    uint32_t regions_mask, regions_used;
    uint32_t withdrawals_seen;
    fp_shm_deferred *deferred, **deferred_tail;
    bool wants_out; /* epoll watches for room */
    pid_t pid;
    uint64_t hello_deadline_ns; /* of a connection that has not said hello; 0 afterwards */
    fp_shm_listener *listener;
    struct fp_shm_conn *next;          /* in the poller */
    struct fp_shm_conn *net_next;      /* guarded by net->lock */
    fp_mr *granted[FP_SHM_GRANTS_MAX]; /* guarded by net->lock: whose key is in live[side][slot] */
    uint32_t
        grants_end; /* written by the connection's thread under net->lock: slots from here on were never used */
} fp_shm_conn;

typedef struct fp_shm_poller {
    fp_poller base;
    int epfd, spare_fd;
    fp_net_event *ring; /* events not given yet; event.conn NULL: its connection was closed */
    uint32_t ring_head, ring_tail, ring_mask;
    fp_shm_conn *conns;
    uint32_t conn_count, handshakes;
    fp_shm_listener *listeners;
    unsigned unlooked;                /* polls since sockets were looked at */
    unsigned recv_used, recv_pending; /* slots filled; of those, not given yet */
    struct {
        fp_shm_packet packet;
        char body[FP_NET_MESSAGE_MAX];
    } * recv;
} fp_shm_poller;

static inline fp_shm_net *fp_shm_net_of(const fp_shm_conn *conn)
{
    return (fp_shm_net *)conn->base.poller->net;
}

/* Puts an event into the ring, from which the next poll takes it. */
static inline void fp_shm_give(fp_shm_poller *poller, const fp_net_event *event)
{
    FP_ASSERT(poller->ring_tail - poller->ring_head <= poller->ring_mask);
    poller->ring[poller->ring_tail++ & poller->ring_mask] = *event;
}

static inline void fp_shm_give_done(fp_shm_poller *poller, fp_shm_conn *conn, uint64_t cookie,
                                    int status)
{
    FP_ASSERT(poller->ring_tail - poller->ring_head <= poller->ring_mask);
    fp_net_event *event = &poller->ring[poller->ring_tail++ & poller->ring_mask];
    event->kind = FP_NET_DONE;
    event->status = status;
    event->conn = &conn->base;
    event->cookie = cookie;
}

/* shm_region.c: registration, sharing, what the peer shared */
int fp_shm_mr_open(fp_net *net, const fp_mem *mem, unsigned access, fp_mr **mr);
void fp_shm_mr_close(fp_mr *mr);
int fp_shm_share(fp_conn *conn, fp_mr *mr);
/* Maps what a SHARE packet names. Takes fd. Errors: E_PROTO, E_SYS. */
int fp_shm_import_packet(fp_shm_conn *conn, const fp_shm_packet *packet, int fd);
fp_shm_region *fp_shm_region_find(fp_shm_conn *conn, uint64_t key);
/* Unmaps what the peer has withdrawn. */
void fp_shm_regions_sweep(fp_shm_conn *conn);
void fp_shm_regions_drop(fp_shm_conn *conn);
/* The connection's grants end: waits until the peer is not in the middle of a copy. */
void fp_shm_gate_cut(fp_shm_conn *conn);

/* shm_link.c: listening, connecting, packets */
int fp_shm_listen(fp_poller *poller, const fp_uri *uri, fp_listener **listener);
void fp_shm_listener_close(fp_listener *listener);
int fp_shm_connect(fp_poller *poller, const fp_uri *uri, fp_conn **conn);
void fp_shm_accept(fp_shm_poller *poller, fp_shm_listener *listener);
/* 0, E_BUSY when the socket is full, else the error that breaks the connection. */
int fp_shm_packet_send(fp_shm_conn *conn, const fp_shm_packet *packet, const fp_sge *sge,
                       uint32_t sge_count, int fd);
/* One packet into *packet and the body behind it. 1, 0 when there is none, or an error that breaks
 * the connection. *fd is the caller's, or -1. */
int fp_shm_packet_receive(fp_shm_conn *conn, fp_shm_packet *packet, size_t capacity, int *fd);
/* The hello of an accepted connection. 0 or why it is dropped. */
int fp_shm_handshake(fp_shm_conn *conn, const fp_shm_packet *packet);

/* shm_conn.c: nets, pollers, connections */
int fp_shm_net_open(const fp_uri *uri, const fp_net_options *options, fp_net **net);
void fp_shm_net_close(fp_net *net);
int fp_shm_poller_open(fp_net *net, fp_poller **poller);
void fp_shm_poller_close(fp_poller *poller);
int fp_shm_poller_fd(fp_poller *poller);
int fp_shm_conn_new(fp_shm_poller *poller, int fd, unsigned side, fp_shm_conn **conn);
void fp_shm_conn_close(fp_conn *conn);
void fp_shm_break(fp_shm_conn *conn, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));
/* Queues operations behind a socket that is full: all or none. */
int fp_shm_defer(fp_shm_conn *conn, const fp_net_op *ops, size_t count) __attribute__((cold));
/* Queues a share that found the socket full. Takes fd. */
int fp_shm_defer_share(fp_shm_conn *conn, const fp_shm_packet *share, int fd);
/* Frees the first of what is queued. */
void fp_shm_deferred_drop(fp_shm_conn *conn);
/* Whether epoll tells when the socket has room. */
void fp_shm_watch_out(fp_shm_conn *conn, bool on);

#endif
