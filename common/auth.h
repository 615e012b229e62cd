/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may speak to whom: one secret for a cluster, and of it a key for each name.
 *
 *   the secret   32 random bytes, base64 in a file: whoever has it may be anybody, and can tell who others are. Nodes have it.
 *   a key        key(name) = HKDF-SHA256(secret, "farpool identity " name), in a file "NAME:BASE64": whoever has it can be
 *                that name, and tell nodes from others, but no more.
 *
 * All cryptography is OpenSSL's. An fp_auth does not change after it was opened: any thread may use it.
 */
#ifndef FP_COMMON_AUTH_H
#define FP_COMMON_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "farpool.h"

enum {
    FP_AUTH_BYTES = 32, /* of secrets, keys, nonces and proofs */
    FP_AUTH_NAME_MAX = 255,
    FP_AUTH_TEXT_MAX = FP_AUTH_NAME_MAX + 1 + 44, /* of a key file's line */
};

typedef struct fp_auth fp_auth;

/* Reads a file of either kind. name: ours, if it is the secret's; a key's file says so itself. Others than the owner of
 * the file may not be able to read or write it. E_INVAL, E_SYS, E_NOMEM. */
int fp_auth_open(const char *path, const char *name, fp_auth **auth) FARPOOL_MUST_CHECK;
void fp_auth_close(fp_auth *auth); /* wipes the key; NULL is allowed */
/* The name that is ours. */
const char *fp_auth_name(const fp_auth *auth);
/* Whether it is the secret, which a server needs. */
bool fp_auth_has_secret(const fp_auth *auth);
/* "NAME:BASE64" for a file of that name's key. E_INVAL (no secret, or no such name can be), E_SYS. */
int fp_auth_key_text(const fp_auth *auth, const char *name,
                     char text[FP_AUTH_TEXT_MAX + 1]) FARPOOL_MUST_CHECK;

/* What a handshake is about: each side's proof covers all of it. */
typedef struct fp_auth_talk {
    const char *client, *server;
    uint64_t boot_id;
    const uint8_t *client_nonce, *server_nonce; /* FP_AUTH_BYTES each */
} fp_auth_talk;

enum fp_auth_side { FP_AUTH_CLIENT, FP_AUTH_SERVER };

/* The proof that a side has the client's key: HMAC-SHA256. E_REFUSED (the client's key cannot be had), E_SYS. */
int fp_auth_prove(const fp_auth *auth, enum fp_auth_side side, const fp_auth_talk *talk,
                  uint8_t proof[FP_AUTH_BYTES]) FARPOOL_MUST_CHECK;
/* Takes as long for every two. */
bool fp_auth_same(const uint8_t a[FP_AUTH_BYTES], const uint8_t b[FP_AUTH_BYTES]);
/* The key for TLS with the client of that name. E_REFUSED, E_SYS. */
int fp_auth_tls_key(const fp_auth *auth, const char *name,
                    uint8_t key[FP_AUTH_BYTES]) FARPOOL_MUST_CHECK;
int fp_auth_random(uint8_t bytes[FP_AUTH_BYTES]) FARPOOL_MUST_CHECK; /* E_SYS */

#endif
