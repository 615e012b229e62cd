/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.3 for the tcp transport, by OpenSSL, between bytes: it knows no sockets. Each side proves to have the key of the
 * client's name (common/auth.h), an external pre-shared key; there are no certificates, tickets or early data.
 *
 * A context may be used by many threads; all functions of one connection belong to one thread at a time.
 */
#ifndef FP_COMMON_NET_TLS_H
#define FP_COMMON_NET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/auth.h"

enum { FP_TLS_RECORD_BYTES = 16384 }; /* of plaintext, at most */

typedef struct ssl_ctx_st fp_tls_context;
typedef struct ssl_st fp_tls;

/* auth outlives it. E_NOMEM, E_UNSUPPORTED. */
int fp_tls_context_open(const fp_auth *auth, fp_tls_context **context) FARPOOL_MUST_CHECK;
void fp_tls_context_close(fp_tls_context *context); /* NULL is allowed */

/* One end of a connection. E_NOMEM. */
int fp_tls_open(fp_tls_context *context, bool is_server, fp_tls **tls) FARPOOL_MUST_CHECK;
void fp_tls_close(fp_tls *tls); /* NULL is allowed */

/* What has come from the peer; copied. E_NOMEM. */
int fp_tls_feed(fp_tls *tls, const void *bytes, size_t len) FARPOOL_MUST_CHECK;
/* What is to be sent to the peer next, and that so much of it has been. */
size_t fp_tls_outgoing(fp_tls *tls, const void **bytes);
void fp_tls_sent(fp_tls *tls, size_t len);

/* The handshake goes on: 1: it is done; 0: more has to come; E_REFUSED with what is wrong, but not with whom. In any case
 * there may be something to be sent. */
int fp_tls_shake(fp_tls *tls) FARPOOL_MUST_CHECK;
/* Afterwards: the next bytes of the peer's. 0: more has to come. E_PROTO: what has come is not what the peer has sent. */
ssize_t fp_tls_read(fp_tls *tls, void *bytes, size_t len) FARPOOL_MUST_CHECK;
/* Up to a record's bytes to the peer. E_PROTO, E_NOMEM. */
int fp_tls_write(fp_tls *tls, const void *bytes, size_t len) FARPOOL_MUST_CHECK;

#endif
