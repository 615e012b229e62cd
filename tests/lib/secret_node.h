/* SPDX-License-Identifier: Apache-2.0 */
/* A memory node that may have a secret, at an address of the transport under test (tests/lib/peer.h), and clients that
 * speak to it message by message, also wrongly. For cmocka tests. */
#ifndef FP_TESTS_LIB_SECRET_NODE_H
#define FP_TESTS_LIB_SECRET_NODE_H

#include <pthread.h>

#include "common/greet.h"
#include "memnode/server.h"
#include "tests/lib/peer.h"

typedef struct secret_node {
    bool in_cluster; /* set by the test: it grants what it has been told (fp_memnode_duties) */
    fp_memnode *node;
    char uri[FP_NET_URI_MAX];
    pthread_t thread; /* but for sim, where the world drives it */
    int stop_fd;
} secret_node;

/* auth: with the secret, or NULL. */
void secret_node_start(secret_node *node, const fp_auth *auth);
void secret_node_stop(secret_node *node);

typedef struct talker {
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn; /* NULL: none */
    fp_mem mem;    /* 4 KiB */
    fp_mr *mr;
    fp_msg msg; /* the last answer */
    uint32_t requests;
    bool have_answer, have_done;
    int done;   /* status of the last READ or WRITE */
    int closed; /* status of FP_NET_CLOSED; 0: it lives */
} talker;

/* A transport for this auth (or NULL) and a connection; what fp_net_connect gave. */
int talker_open(talker *t, const fp_auth *auth, const char *uri);
void talker_close(talker *t);
/* Sends and waits: the type of the answer, the code of an ERROR, or the status with which the connection ended. */
int talker_ask(talker *t, fp_msg msg);
int talker_say(talker *t, const void *bytes, size_t len);
/* The handshake: 0 or a code. */
int talker_greet(talker *t, const fp_auth *auth, const char *name);
/* Until the node has cut it off. */
void talker_wait_closed(talker *t);
/* One READ of 4 KiB from the beginning of that. */
int talker_read(talker *t, fp_rkey key);

#endif
