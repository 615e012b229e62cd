/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's side of the handshake that comes first on every connection (docs/protocol.md, Handshake), for clients
 * that wait and for those that do not. It only makes messages and judges answers.
 *
 *   HELLO ──► HELLO_OK                        the node has no secret; allowed only if there is no key here either
 *         └─► CHALLENGE, PROOF ──► HELLO_OK
 *
 * Who knows the name of the one he wants writes it into the address, NAME@. Then nobody else is spoken to: whoever is
 * at the address and passes all on to another node, to be us there, would show that node's name, which its proof covers.
 */
#ifndef FP_COMMON_GREET_H
#define FP_COMMON_GREET_H

#include "common/auth.h"
#include "common/wire.h"

typedef struct fp_greet {
    const fp_auth *auth; /* NULL: none */
    bool proven;         /* PROOF was made: the node has proven itself */
    uint64_t boot_id;
    uint8_t nonce[FP_AUTH_BYTES];
    char client[FP_WIRE_TEXT_MAX + 1], server[FP_WIRE_TEXT_MAX + 1];
    char wanted[FP_WIRE_TEXT_MAX + 1]; /* the server's name; "": whoever answers */
} fp_greet;

/* Makes msg the HELLO. name: ours if there is no auth, which has its own. wanted: as fp_net_conn_wanted. E_SYS. */
int fp_greet_begin(fp_greet *greet, const fp_auth *auth, const char *name, const char *wanted,
                   fp_msg *msg) FARPOOL_MUST_CHECK;
/* Takes the answer to the last message. 1: msg is now the next one to be sent; 0: done, msg is HELLO_OK. E_REFUSED: one
 * of the two sides is not known to the other; E_NODE: another one than the address names answers; what the node refused
 * has its code; E_PROTO. */
int fp_greet_take(fp_greet *greet, fp_msg *msg) FARPOOL_MUST_CHECK;

#endif
