/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server of control messages (common/wire.h), as every node has one: transports, listeners, clients, and the handshake.
 * What the requests mean is its owner's business. No threads, no waiting, no clock. All functions of one server belong to
 * one thread at a time.
 */
#ifndef FP_COMMON_DAEMON_SERVER_H
#define FP_COMMON_DAEMON_SERVER_H

#include <stdbool.h>

#include "common/net/net.h"
#include "common/wire.h"

enum {
    FP_SERVER_NETS_MAX = 4, /* as many as there are schemes */
    FP_SERVER_LISTENERS_MAX = 16,
    FP_SERVER_CLIENTS_MAX = 4096,
    FP_SERVER_BATCH = 64,
    FP_SERVER_STRANGERS_MAX =
        256, /* connections that have not come through the handshake; then the oldest goes */
    FP_SERVER_CODES = 64, /* of errors that are told apart in figures */
};

/* How far the handshake is (greeting.c). */
enum fp_greeting {
    FP_GREETING_SILENT,
    FP_GREETING_CHALLENGED,
    FP_GREETING_DONE,
    FP_GREETING_REFUSED
};

/* A client's connection. The owner's struct begins with it. */
typedef struct fp_server_client {
    struct fp_server_client *next, *prev; /* in the server's list */
    fp_conn *conn;
    unsigned net; /* index of its transport */
    enum fp_greeting greeting;
    bool authenticated; /* has proven its name: the server has a secret */
    char name[FP_WIRE_TEXT_MAX + 1];
    uint8_t nonces[2][FP_AUTH_BYTES]; /* of the handshake: its, ours */
} fp_server_client;

typedef struct fp_server_ops {
    size_t client_bytes; /* of the owner's struct; it starts as zero behind fp_server_client */
    /* The first address of a scheme is to be served: memory can be registered. NULL: nothing to be done. */
    int (*net_opened)(void *owner, fp_net *net, unsigned index);
    /* server->request is a request of a client who has come through the handshake; to be answered now or later. Never
     * HELLO, PROOF or an answer. The client may be dropped by it. */
    void (*request)(void *owner, fp_server_client *client);
    /* The client's connection is closed (N6) and it is in no list any more; it is freed afterwards. Drops
     * no others. */
    void (*dropped)(void *owner, fp_server_client *client);
    /* A WRITE_IMM has come, from whatever client. NULL: nobody is interested. */
    void (*signalled)(void *owner);
} fp_server_ops;

/* To be looked at by its owner; changed only by the functions here, but for `answer`. */
typedef struct fp_server {
    const fp_server_ops *ops;
    void *owner;
    char name[FP_WIRE_TEXT_MAX + 1]; /* told to clients */
    uint64_t boot_id;                /* " */
    const fp_auth *auth;             /* NULL: whoever comes may be whoever he says */
    struct {
        fp_net *net;
        fp_poller *poller;
    } nets[FP_SERVER_NETS_MAX];
    unsigned net_count;
    fp_listener *listeners[FP_SERVER_LISTENERS_MAX];
    unsigned listener_count;

    fp_server_client *clients;
    uint32_t client_count;
    uint64_t accepted;                   /* clients so far */
    uint64_t requests[FP_MSG_LAST + 1];  /* so far, by type, HELLO included */
    uint64_t refused[FP_SERVER_CODES];   /* answers with an error so far, by -code */
    fp_net_event batch[FP_SERVER_BATCH]; /* being handled: from batch_next to batch_end */
    int batch_next, batch_end;
    fp_msg request, answer;
    uint8_t buffer[FP_NET_MESSAGE_MAX];
} fp_server;

/* A server that is zero becomes one without addresses. boot_id 0: a random one. ops and auth (with the secret, or NULL)
 * outlive it, name is copied. E_SYS, E_INVAL. */
int fp_server_open(fp_server *server, const fp_server_ops *ops, void *owner, const char *name,
                   uint64_t boot_id, const fp_auth *auth) FARPOOL_MUST_CHECK;
/* Drops all clients and closes listeners and pollers, then what the owner has registered can be unregistered; then
 * fp_server_close. */
void fp_server_stop(fp_server *server);
void fp_server_close(fp_server *server);

/* Listens on one more address. The first of each scheme opens that transport, with options, which may be NULL. *bound,
 * valid until fp_server_stop, is the address with its port. Blocks as fp_net_open. Errors: of fp_net_open,
 * net_opened and fp_net_listen, E_INVAL. */
int fp_server_listen(fp_server *server, const char *uri, const fp_net_options *options,
                     const char **bound) FARPOOL_MUST_CHECK;
/* The pollers' descriptors, one per transport. Returns their number. */
unsigned fp_server_fds(const fp_server *server, int fds[FP_SERVER_NETS_MAX]);
/* The poller of the i-th transport: a simulated world drives the node by it (fp_sim_set_driver). */
fp_poller *fp_server_poller(const fp_server *server, unsigned i);
uint64_t fp_server_data_bytes(const fp_server *server); /* fp_net_data_bytes of all transports */

/* Handles what has come in. Never waits. Returns 1 if there may be more at once, 0 if the descriptors may be waited
 * for, or a negative code if a transport has become unusable. */
int fp_server_step(fp_server *server) FARPOOL_MUST_CHECK;

/* Cuts a client off, frees it, and takes its events out of the batch being handled. */
void fp_server_drop(fp_server *server, fp_server_client *client);
/* Sends server->answer. A client that can not be answered is dropped: returns false, client is gone. */
bool fp_server_answer(fp_server *server, fp_server_client *client, uint32_t request);
/* Answers with an error and farpool_errmsg(). The client may be gone afterwards. */
bool fp_server_refuse(fp_server *server, fp_server_client *client, uint32_t request, int code);

/* ---- greeting.c, for server.c ---------------------------------------------------------------- */

/* A message of a client who has not come through the handshake, or one of the handshake's. It may be gone afterwards. */
void fp_server_greet(fp_server *server, fp_server_client *client);
/* What such a client of a server with a secret has sent cannot be decoded, for farpool_errmsg(). " */
void fp_server_greet_nonsense(fp_server *server, fp_server_client *client, int code);
/* Another connection is coming. */
void fp_server_make_room(fp_server *server);

#endif
