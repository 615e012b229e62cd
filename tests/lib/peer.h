/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conformance tests: a server node for whatever transport, and a client connected to it.
 *
 * The server is driven by a thread of its own, by a process of its own, or, for sim, by the
 * client's waiting. It shares its ranges with each connection it accepts and sends their keys; then
 * it does what messages say, whose first byte is a command:
 *   e...  echo   x  close   u  withdraw the range "rw", then answer   c  answer how many imm came
 *   v OFFSET  answer the 8 bytes at that offset of "rw"
 *   r KEY     READ 4096 bytes of the sender's memory, write them back at 8192, then answer
 */
#ifndef FP_TESTS_LIB_PEER_H
#define FP_TESTS_LIB_PEER_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "common/net/sim.h"

enum { PEER_BYTES = 8 << 20, PEER_PART = 2 << 20, PEER_WAIT_MS = 60000 };

typedef struct peer_keys {
    fp_rkey rw;     /* 8 MiB, byte i is peer_byte(i) */
    fp_rkey ro, wo; /* 2 MiB each */
    fp_rkey hidden; /* registered for reading, but not shared */
} peer_keys;

typedef struct peer {
    fp_net *net;
    fp_poller *poller;
    fp_listener *listener;
    fp_mem mem, parts[3];
    fp_mr *rw, *others[3];
    char uri[FP_NET_URI_MAX];
    bool threaded;
    bool paused; /* sim: the world does not get it to step */
    pthread_t thread;
    pthread_mutex_t
        lock; /* held by the thread while it steps: who holds it has paused the server */
    pthread_mutex_t gate; /* taken before lock, so that pausing does not starve */
    atomic_bool stop;
    atomic_int accepted, closed, last_status; /* last_status: of FP_NET_CLOSED */
    unsigned imms;
    fp_rkey client_key;
} peer;

typedef struct client {
    peer *server; /* NULL: it is going to die */
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn;
    fp_mem mem; /* PEER_BYTES */
    fp_mr *mr;  /* all of it, for remote reading and writing */
    peer_keys keys;
} client;

static inline uint8_t peer_byte(size_t i) { return (uint8_t)(i * 31 + (i >> 8) * 7 + (i >> 16)); }

/* tests/lib/peer_scope.c */

/* Runs group(), a cmocka group, for $FARPOOL_TEST_URI (with TLS if FARPOOL_TEST_TLS is set) or one address of each
 * transport that works everywhere (tcp, tcp with TLS, shm, sim); the number of failures, for main. */
int peer_for_each(int (*group)(const char *name));
const char *peer_uri(void); /* the one under test now */
bool peer_scheme_is(const char *scheme);
bool peer_tls(void);            /* it is tcp with TLS */
fp_sim_world *peer_world(void); /* NULL unless that is sim's */
/* Skips the calling test, with the reason, where the table there says that it has no meaning. */
void peer_applies(const char *test);
/* fp_net_open, within the world if there is one. */
int peer_net_open(const char *uri, const fp_net_options *options, fp_net **net) FARPOOL_MUST_CHECK;

void peer_start(peer *server, const char *uri);
void peer_pause(peer *server);
void peer_resume(peer *server);
void peer_stop(peer *server);

/* A server to be killed: a process of its own, or, on sim, a node that crashes. */
typedef struct victim {
    char uri[FP_NET_URI_MAX];
    pid_t pid;
    peer node; /* sim */
} victim;
void victim_start(victim *v, const char *uri); /* before any net is opened in this process */
void victim_kill(victim *v);                   /* at once */
void victim_reap(victim *v);                   /* afterwards: frees what is left of it */

void client_open(client *c, peer *server,
                 const char *uri); /* and connect, and the keys have come */
int client_connect(client *c, const char *uri);
void client_close(client *c);
/* One event, of whatever kind; fails the test if none comes. */
fp_net_event client_wait(client *c);
/* The next event must be this; returns it. */
fp_net_event client_expect(client *c, enum fp_net_event_kind kind, int status);
/* Posts one operation and waits for its completion. */
int client_do(client *c, fp_net_op op);
fp_net_op op_read(client *c, fp_rkey key, uint64_t offset, size_t local, uint32_t len);
fp_net_op op_write(client *c, fp_rkey key, uint64_t offset, size_t local, uint32_t len);
void client_send(client *c, const void *data, uint32_t len);
/* The completion of that one and the answer to it, which may come in either order; the answer's length. */
uint32_t client_answer(client *c, void *answer, uint32_t room);
/* Drives the other side where nobody else does. Until *counter is at least wanted. */
void client_wait_counter(client *c, atomic_int *counter, int wanted);

#endif
