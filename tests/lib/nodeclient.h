/* SPDX-License-Identifier: Apache-2.0 */
/* A client that speaks to a memory node message by message, and the node it speaks to, in this process. For cmocka
 * tests: what must not fail is asserted. */
#ifndef FP_TESTS_LIB_NODECLIENT_H
#define FP_TESTS_LIB_NODECLIENT_H

#include <stdbool.h>

#include "common/net/net.h"
#include "common/wire.h"
#include "memnode/extents.h"
#include "tests/lib/testnode.h"

enum { NODE_EXTENTS = 8 };
#define EXTENT_BYTES ((uint64_t)FP_EXTENT_UNIT_BYTES << FP_EXTENT_ORDER_MIN)
#define NODE_BYTES (NODE_EXTENTS * EXTENT_BYTES + 4096) /* what is over is not used */

/* A client connection; its last answer and what became of it. */
typedef struct client {
    fp_poller *poller;
    fp_conn *conn;
    fp_msg msg;
    uint32_t requests;
    int closed; /* status of FP_NET_CLOSED */
    int done;   /* status of the last READ or WRITE */
    bool have_done, have_answer;
} client;

extern const char *scheme;
extern test_node *node;
extern fp_net *net;
extern fp_mem memory; /* 4 KiB */

bool scheme_is(const char *name);
int setup(void **state); /* a node with NODE_BYTES of memory at an address of `scheme` */
int setup_spilling(void **state, struct fp_spill *spill); /* with log rings that are spilled */
int setup_in_cluster(void **state);                       /* that grants only what its duties say */
int teardown(void **state);

void connect_silently(client *c);
void connect_client(client *c); /* and say HELLO, as "test" */
void connect_as(client *c, const char *name);
void disconnect(client *c);

/* Until *flag (or, with NULL, until the connection is closed). */
void wait_for(client *c, const bool *flag);
void send_bytes(client *c, const void *bytes, size_t len);
void send_msg(client *c, fp_msg *msg);
/* Sends and waits; the type of the answer, or the code of an ERROR. */
int ask(client *c, fp_msg msg);

/* ask() for a slab. */
int grant(client *c, uint64_t partition, uint64_t epoch, uint64_t bytes);
int attach(client *c, uint64_t partition, uint64_t epoch, uint32_t first);
int release(client *c, uint64_t partition, uint64_t epoch);

/* One transfer of 4 KiB between `memory` and the start of an extent. */
int transfer(client *c, enum fp_net_kind kind, fp_rkey extent, uint64_t offset);
bool local_is(uint8_t byte);

#endif
