/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport contract. One conformance suite (tests/conformance) runs it against every backend.
 *
 * Objects
 *   net       one backend on one device of this process: owns registered memory. Thread-safe.
 *   poller    where completions and messages arrive. A poller and all its connections and listeners
 *             belong to one thread at a time (the caller serialises); different pollers are
 *             independent. (verbs: one CQ + one CM event channel per poller, one QP per connection)
 *   listener  accepts connections for a poller.
 *   conn      a reliable, ordered connection to one peer.
 *   mr        a registered memory range of this process.
 *
 * Rules that every backend keeps (numbered, cited from code and tests)
 *   N1  Every operation accepted by fp_net_post completes exactly once, as an FP_NET_DONE event on
 *       its connection's poller: also on error, peer death and fp_net_conn_close's aftermath (see N6).
 *       fp_net_post that returns an error has accepted none of the batch.
 *   N2  Operations of one connection complete in the order in which they were posted.
 *   N3  WRITEs and SENDs of one connection take effect at the peer in order. A SEND or WRITE_IMM that
 *       the peer has received implies that earlier WRITEs of that connection are visible there.
 *   N4  A READ or WRITE that covers more than 64 bytes is not atomic: it may be seen torn.
 *   N5  The first failure breaks a connection: the failing operation completes with its reason, all
 *       later ones with FARPOOL_E_CLOSED, then one FP_NET_CLOSED event arrives (status: the reason).
 *       After that fp_net_post returns FARPOOL_E_CLOSED. Both ends learn of it. Breakage by the peer
 *       (death, close) is FARPOOL_E_NODE; a refused address, range or permission is FARPOOL_E_ACCESS
 *       at the end that posted.
 *   N6  fp_net_conn_close cuts a connection at once and frees it: no event of it is delivered
 *       afterwards; when it returns, no posted operation touches local memory any more. The peer sees
 *       FP_NET_CLOSED.
 *   N7  Local buffers belong to the backend from the post until the completion, except those of SEND
 *       and of FP_NET_INLINE, which are copied by the post. Remote memory is touched only between post
 *       and completion.
 *   N8  A peer reaches only ranges registered with the access it uses and shared with its connection
 *       (fp_net_share). Hostile input never crashes or blocks the process, it breaks that connection.
 *   N9  A READ, WRITE or WRITE_IMM's data moves without any call at the target's side: on verbs and
 *       shm without its CPU; on tcp by a thread of the backend; on sim by the world.
 *   N10 fp_net_poll with timeout_ms 0 never blocks; posts never block, except connect's handshake,
 *       which happens inside fp_net_connect.
 *   N11 Messages (SEND) up to FP_NET_MESSAGE_MAX bytes arrive whole. Receive buffers are the backend's.
 *       A peer that sends faster than the receiver polls is slowed down or, at the earliest after
 *       FP_NET_RECV_DEPTH unreceived messages, may be broken (N5) by backends without flow control:
 *       verbs does so (E_NODE) when the receiver has taken nothing for about 2 s.
 *
 * Failing calls set farpool_errmsg() naming the peer. Events carry a code; the words for it are in
 * fp_net_conn_reason(conn), valid until the connection is closed.
 */
#ifndef FP_COMMON_NET_NET_H
#define FP_COMMON_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/mem.h"
#include "common/rkey.h"
#include "farpool.h"

enum {
    FP_NET_MESSAGE_MAX = 16384, /* bytes of one SEND */
    FP_NET_RECV_DEPTH = 8,      /* messages a peer may have outstanding unreceived */
    FP_NET_SGE_MAX = 2,         /* local pieces of one operation */
    FP_NET_DEPTH_MAX = 128,     /* operations in flight per connection; more: post gives E_BUSY */
    FP_NET_INLINE_MAX = 128,    /* bytes that FP_NET_INLINE may carry */
    FP_NET_URI_MAX = 256,
    FP_NET_NAME_MAX = 63, /* bytes of the name in an address */
};

typedef struct fp_net fp_net;
typedef struct fp_poller fp_poller;
typedef struct fp_listener fp_listener;
typedef struct fp_conn fp_conn;
typedef struct fp_mr fp_mr;

enum fp_net_access { FP_NET_LOCAL = 0, FP_NET_REMOTE_READ = 1, FP_NET_REMOTE_WRITE = 2 };

typedef struct fp_sge {
    void *addr;
    uint32_t len;
    fp_mr *mr; /* the local registration that covers it; NULL with FP_NET_INLINE and for SEND */
} fp_sge;

enum fp_net_kind { FP_NET_READ, FP_NET_WRITE, FP_NET_WRITE_IMM, FP_NET_SEND };
enum fp_net_flags { FP_NET_INLINE = 1 };

/* One operation. Copied by the post. READ scatters the remote range over the pieces, WRITE gathers. */
typedef struct fp_net_op {
    enum fp_net_kind kind;
    unsigned flags;
    uint64_t cookie;      /* comes back in the completion */
    uint64_t remote_key;  /* READ, WRITE, WRITE_IMM */
    uint64_t remote_addr; /* " */
    uint32_t imm;         /* WRITE_IMM: arrives in the peer's FP_NET_RECV_IMM */
    uint32_t sge_count;
    fp_sge sge[FP_NET_SGE_MAX];
} fp_net_op;

enum fp_net_event_kind {
    FP_NET_DONE,     /* cookie, status */
    FP_NET_RECV,     /* data, len: valid until the next fp_net_poll of this poller */
    FP_NET_RECV_IMM, /* imm, len (bytes that the WRITE_IMM wrote) */
    FP_NET_ACCEPTED, /* a new connection; it is the receiver's to close. listener tells whose */
    FP_NET_CLOSED,   /* broken, status: why. fp_net_conn_close is still owed */
};

typedef struct fp_net_event {
    enum fp_net_event_kind kind;
    int status; /* 0 or FARPOOL_E_* */
    fp_conn *conn;
    fp_listener *listener;
    uint64_t cookie;
    uint32_t imm;
    uint32_t len;
    const void *data;
} fp_net_event;

struct fp_sim_world; /* common/net/sim.h */
struct fp_auth;      /* common/auth.h */

typedef struct fp_net_options {
    unsigned connect_timeout_ms; /* 0: 5000 */
    /* verbs: an operation without answer is tried 6 times, 4.096 us * 2^n apart (a NIC may take four times
     * as long), before it fails. n is 1 to 31; 0: 12, which makes 0.1 to 0.4 s */
    unsigned ack_timeout;
    struct fp_sim_world *world; /* sim: required; node is created in it */
    const char *node;           /* sim: this node's name */
    /* Who we are to peers, and who they may be (common/auth.h); outlives the net. tcp: all is encrypted. NULL: nobody */
    const struct fp_auth *auth;
} fp_net_options;

/* uri: any address of the scheme to be used; verbs takes the device from it (the local device when
 * listening, the route to the peer when connecting). Options may be NULL. Errors: E_INVAL (bad URI or
 * option, with what is wrong), E_NODE (verbs: the host's name or the way there is not known, or the
 * device's link is down), E_UNSUPPORTED (no device), E_SYS, E_NOMEM. */
int fp_net_open(const char *uri, const fp_net_options *options, fp_net **net) FARPOOL_MUST_CHECK;
/* All pollers and mrs must have been closed. */
void fp_net_close(fp_net *net);
const char *fp_net_scheme(const fp_net *net);
/* Whether connections to uri can be made by it, too. Not known of verbs', which is of the device by which it went to the
 * first one: false. */
bool fp_net_leads_to(const fp_net *net, const char *uri);
const struct fp_auth *fp_net_auth(const fp_net *net); /* of its options */
/* The clock that this net's timeouts go by: ns that never jump back; the world's time on sim, else the
 * machine's. Whoever waits for the net takes the time from here. */
uint64_t fp_net_now_ns(const fp_net *net);
/* The same of nets that are opened with these options, before there is one. NULL: the machine's. */
uint64_t fp_net_clock_ns(const fp_net_options *options);
/* Bytes of peers' READs and WRITEs that this process's CPU has moved so far: 0 where it takes no part. */
uint64_t fp_net_data_bytes(const fp_net *net);

/* Registers [mem->addr, +len). Blocks (pins memory). With remote access, rkey_out names it to peers.
 * The memory stays the caller's and must outlive the mr. */
int fp_net_register(fp_net *net, const fp_mem *mem, unsigned access, fp_mr **mr) FARPOOL_MUST_CHECK;
void fp_net_unregister(fp_mr *mr); /* afterwards no peer reaches the memory */
fp_rkey fp_net_rkey(const fp_mr *mr);

int fp_net_poller_open(fp_net *net, fp_poller **poller) FARPOOL_MUST_CHECK;
void fp_net_poller_close(fp_poller *poller); /* connections and listeners must be closed first */
/* A descriptor that polls readable when fp_net_poll may have something to give, for event loops, or -1
 * (sim). Spurious readiness is allowed, a lost one is not, provided that fp_net_poll(timeout 0) was
 * called until it returned 0 before waiting. */
int fp_net_poller_fd(fp_poller *poller);

/* Nobody is named in uri. */
int fp_net_listen(fp_poller *poller, const char *uri, fp_listener **listener) FARPOOL_MUST_CHECK;
/* The address really bound (port 0 resolved), as a URI. Valid until closed. */
const char *fp_net_listener_uri(const fp_listener *listener);
void fp_net_listener_close(fp_listener *listener);

/* Connects and waits for the transport's handshake, at most connect_timeout_ms. Nobody answers: E_NODE. The peer
 * is no farpool of this transport version: E_PROTO. */
int fp_net_connect(fp_poller *poller, const char *uri, fp_conn **conn) FARPOOL_MUST_CHECK;
void fp_net_conn_close(fp_conn *conn);               /* N6 */
const char *fp_net_conn_peer(const fp_conn *conn);   /* the peer's address, for messages */
const char *fp_net_conn_reason(const fp_conn *conn); /* why it broke, in words; "" before that */
/* Who is to answer there, by the address that was connected to; "": whoever does, or it was accepted. */
const char *fp_net_conn_wanted(const fp_conn *conn);
/* One pointer of the user's per connection. */
void fp_net_conn_set_user(fp_conn *conn, void *user);
void *fp_net_conn_user(const fp_conn *conn);

/* Lets the peer of conn use mr with the access given at registration. Must precede the message that
 * tells the peer the rkey (N3 orders them). verbs: the rkey alone is the capability; tcp and sim: noted
 * per connection; shm: passes the memfd. */
int fp_net_share(fp_conn *conn, fp_mr *mr) FARPOOL_MUST_CHECK;

/* Posts count operations in order, all or none. E_CLOSED, E_BUSY (more than FP_NET_DEPTH_MAX would
 * be in flight), E_INVAL. */
int fp_net_post(fp_conn *conn, const fp_net_op *ops, size_t count) FARPOOL_MUST_CHECK;

/* A message, which is copied (N7). */
static inline fp_net_op fp_net_message(void *bytes, size_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = bytes, .len = (uint32_t)len};
    return op;
}
/* Posts one alone. */
int fp_net_send(fp_conn *conn, void *bytes, size_t len) FARPOOL_MUST_CHECK;

/* Takes up to max events. timeout_ms 0: only looks; > 0: spins briefly, then sleeps until something
 * comes or the time is over; -1: for ever (not allowed on sim). Returns their number, or a negative
 * code if the poller itself is unusable. */
int fp_net_poll(fp_poller *poller, fp_net_event *events, int max, int timeout_ms);

/* ---- for backends ---------------------------------------------------------------------------- */

/* Every backend's objects begin with these; net.c reads them, backends fill in nothing but what is
 * said here. */
struct fp_net_ops;
struct fp_net {
    const struct fp_net_ops *ops; /* set by net.c */
    const struct fp_auth *auth;   /* " */
    _Atomic uint64_t data_bytes;  /* atomic: added to by backends that emulate one-sided access */
};
struct fp_mr {
    fp_net *net;     /* set by net.c */
    fp_mem mem;      /* " */
    unsigned access; /* " */
    fp_rkey rkey;    /* set by the backend */
};
struct fp_poller {
    fp_net *net; /* set by net.c */
};
struct fp_listener {
    fp_poller *poller;        /* set by net.c */
    char uri[FP_NET_URI_MAX]; /* set by the backend */
};
struct fp_conn {
    fp_poller *poller;         /* set by net.c for connect, by the backend for accepted ones */
    char peer[FP_NET_URI_MAX]; /* set by the backend */
    char reason[256];          /* set by the backend when it breaks */
    char wanted[FP_NET_NAME_MAX + 1]; /* set by net.c for connect */
    int status;                       /* set by the backend: 0, or why it is broken */
    uint32_t inflight; /* kept by net.c: posted and not yet delivered as FP_NET_DONE */
    void *user;
};

/* Slots mirror the functions above; see there for blocking, ownership and errors. None may be called
 * again from within itself on the same poller. uri arrives parsed as well. */
typedef struct fp_uri {
    char scheme[16];
    char name[FP_NET_NAME_MAX + 1]; /* who is to answer there; "": whoever does */
    char host[200];                 /* host of verbs, tcp; path of shm; node of sim */
    uint16_t port;
    const char *text;
} fp_uri;

typedef struct fp_net_ops {
    const char *scheme;
    int (*open)(const fp_uri *uri, const fp_net_options *options, fp_net **net);
    void (*close)(fp_net *net);
    uint64_t (*now_ns)(const fp_net *net); /* NULL: the machine's clock */
    int (*mr_open)(fp_net *net, const fp_mem *mem, unsigned access, fp_mr **mr);
    void (*mr_close)(fp_mr *mr);
    int (*poller_open)(fp_net *net, fp_poller **poller);
    void (*poller_close)(fp_poller *poller);
    int (*poller_fd)(fp_poller *poller);
    int (*listen)(fp_poller *poller, const fp_uri *uri, fp_listener **listener);
    void (*listener_close)(fp_listener *listener);
    int (*connect)(fp_poller *poller, const fp_uri *uri, fp_conn **conn);
    void (*conn_close)(fp_conn *conn);
    int (*share)(fp_conn *conn, fp_mr *mr);
    int (*post)(fp_conn *conn, const fp_net_op *ops, size_t count);
    int (*poll)(fp_poller *poller, fp_net_event *events, int max, int timeout_ms);
} fp_net_ops;

extern const fp_net_ops fp_net_verbs, fp_net_tcp, fp_net_shm, fp_net_sim;

/* Parses SCHEME://HOST:PORT, shm:///PATH and sim://NODE, each with NAME@ behind the slashes or without. E_INVAL with a
 * sentence. */
int fp_uri_parse(const char *text, fp_uri *uri) FARPOOL_MUST_CHECK;
/* named: uri, which names nobody, with name@. E_INVAL: it is no address, names somebody, or becomes too long; such a name
 * cannot stand there. */
int fp_uri_with_name(const char *uri, const char *name,
                     char named[FP_NET_URI_MAX]) FARPOOL_MUST_CHECK;
/* The first of addresses with commas between them: copies its len bytes to uri. E_INVAL: it is none, or too long. */
int fp_uri_first(const char *list, char uri[FP_NET_URI_MAX], size_t *len) FARPOOL_MUST_CHECK;
/* getaddrinfo for its host and port; the list is the caller's. A name that is not known: E_NODE. */
struct addrinfo;
int fp_uri_resolve(const fp_uri *uri, int flags, struct addrinfo **list) FARPOOL_MUST_CHECK;

#endif
