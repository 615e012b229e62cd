/* SPDX-License-Identifier: Apache-2.0 */
/* A storage node as another one's client: one connection, over which refill.c asks. */
#ifndef FP_STORAGENODE_PEER_H
#define FP_STORAGENODE_PEER_H

#include "common/cluster/dial.h"
#include "common/greet.h"
#include "common/wire.h"

enum { FP_PEER_REQUESTS = 6 }; /* not answered, below FP_NET_RECV_DEPTH */

typedef struct fp_peer {
    fp_dial dial;
    char name[FP_WIRE_TEXT_MAX + 1]; /* ours, to be told */
    bool connecting;                 /* as far as fp_peer_state has looked */
    fp_greet greet;
    bool greeted;         /* the handshake is done */
    uint64_t dial_ns;     /* not before; after a failure */
    uint64_t answered_ns; /* the last time that nothing was owed, or something came */
    uint32_t number;      /* of the last request */
    unsigned owed;        /* answers */
    bool is_self;         /* its volume is ours */
    fp_msg msg;           /* the last answer */
    uint8_t buffer[FP_NET_MESSAGE_MAX];
} fp_peer;

/* Begins to connect, unless it is connected, or connecting, or was tried a moment ago. */
void fp_peer_connect(fp_peer *peer, uint64_t now);
/* Connected and greeted: 1; not yet: 0; or it failed: a code, with a sentence. */
int fp_peer_state(fp_peer *peer, uint64_t now);
/* Sends it. False: the connection is gone, for peer->dial.error. */
bool fp_peer_ask(fp_peer *peer, fp_msg *msg, uint64_t now);
/* Takes the next answer to peer->msg. 0: there is none; a code: the connection is gone. */
int fp_peer_next(fp_peer *peer, uint64_t now);
/* When it will have kept silent for too long; UINT64_MAX: it owes nothing. */
uint64_t fp_peer_deadline(const fp_peer *peer);
/* Gives the connection up, for farpool_errmsg(). */
void fp_peer_cut(fp_peer *peer, int code, uint64_t now);
void fp_peer_close(fp_peer *peer); /* waits for the thread */

#endif
