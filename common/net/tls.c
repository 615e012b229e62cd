/* SPDX-License-Identifier: Apache-2.0 */
/* Each connection reads from one BIO in memory and writes to another one. */
#include "common/net/tls.h"

#include <string.h>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "common/error.h"

static const unsigned char cipher_id[2] = {0x13, 0x01};
static const char cipher_name[] = "TLS_AES_128_GCM_SHA256";

/* ---- keys ------------------------------------------------------------------------------------ */

static SSL_SESSION *session_of(SSL *ssl, const uint8_t key[FP_AUTH_BYTES])
{
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, cipher_id);
    SSL_SESSION *session = SSL_SESSION_new();
    if (session && cipher && SSL_SESSION_set1_master_key(session, key, FP_AUTH_BYTES) &&
        SSL_SESSION_set_cipher(session, cipher) &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

/* A server's: the key of whoever comes. *session NULL and 1: it has none, and there is no other way in. */
static int find_session(SSL *ssl, const unsigned char *identity, size_t len, SSL_SESSION **session)
{
    const fp_auth *auth = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    char name[FP_AUTH_NAME_MAX + 1];
    uint8_t key[FP_AUTH_BYTES];
    *session = NULL;
    if (!len || len > FP_AUTH_NAME_MAX || memchr(identity, 0, len))
        return 1;
    memcpy(name, identity, len);
    name[len] = 0;
    if (fp_auth_tls_key(auth, name, key))
        return 1;
    *session = session_of(ssl, key);
    OPENSSL_cleanse(key, sizeof key);
    return *session != NULL;
}

/* A client's: its own. */
static int use_session(SSL *ssl, const EVP_MD *digest, const unsigned char **identity, size_t *len,
                       SSL_SESSION **session)
{
    const fp_auth *auth = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    uint8_t key[FP_AUTH_BYTES];
    *session = NULL;
    if (digest && !EVP_MD_is_a(digest, "SHA256"))
        return 1; /* the server wants what we never offered */
    *identity = (const unsigned char *)fp_auth_name(auth);
    *len = strlen(fp_auth_name(auth));
    if (fp_auth_tls_key(auth, fp_auth_name(auth), key))
        return 0;
    *session = session_of(ssl, key);
    OPENSSL_cleanse(key, sizeof key);
    return *session != NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

int fp_tls_context_open(const fp_auth *auth, fp_tls_context **out)
{
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    if (!context)
        return fp_error(FARPOOL_E_NOMEM, "no memory for TLS");
    if (!SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, cipher_name)) {
        SSL_CTX_free(context);
        ERR_clear_error();
        return fp_error(FARPOOL_E_UNSUPPORTED,
                        "this machine's OpenSSL does not allow TLS 1.3 with %s", cipher_name);
    }
    SSL_CTX_set_app_data(context, (void *)(uintptr_t)auth);
    SSL_CTX_set_psk_find_session_callback(context, find_session);
    SSL_CTX_set_psk_use_session_callback(context, use_session);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    *out = context;
    return 0;
}

void fp_tls_context_close(fp_tls_context *context) { SSL_CTX_free(context); }

int fp_tls_open(fp_tls_context *context, bool is_server, fp_tls **out)
{
    SSL *ssl = SSL_new(context);
    BIO *in = BIO_new(BIO_s_mem()), *to_peer = BIO_new(BIO_s_mem());
    if (!ssl || !in || !to_peer) {
        BIO_free(in);
        BIO_free(to_peer);
        SSL_free(ssl);
        ERR_clear_error();
        return fp_error(FARPOOL_E_NOMEM, "no memory for a TLS connection");
    }
    BIO_set_mem_eof_return(in, -1); /* empty is not the end */
    BIO_set_mem_eof_return(to_peer, -1);
    SSL_set_bio(ssl, in, to_peer); /* which are its own now */
    if (is_server)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    /* No certificate is one that a client trusts; a server has none to show: without the key nobody comes through. */
    SSL_set_verify(ssl, is_server ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    *out = ssl;
    return 0;
}

void fp_tls_close(fp_tls *tls) { SSL_free(tls); }

/* ---- bytes ----------------------------------------------------------------------------------- */

int fp_tls_feed(fp_tls *tls, const void *bytes, size_t len)
{
    size_t written = 0;
    if (!len || (BIO_write_ex(SSL_get_rbio(tls), bytes, len, &written) && written == len))
        return 0;
    return fp_error(FARPOOL_E_NOMEM, "no memory for what has come");
}

size_t fp_tls_outgoing(fp_tls *tls, const void **bytes)
{
    char *at = NULL;
    long len = BIO_get_mem_data(SSL_get_wbio(tls), &at);
    *bytes = at;
    return len > 0 ? (size_t)len : 0;
}

void fp_tls_sent(fp_tls *tls, size_t len)
{
    char thrown[1024];
    while (len) {
        size_t part = len < sizeof thrown ? len : sizeof thrown, got = 0;
        FP_ASSERT(BIO_read_ex(SSL_get_wbio(tls), thrown, part, &got) && got);
        len -= got;
    }
}

static const char *what_is_wrong(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_error());
    ERR_clear_error();
    return text ? text : "the connection was ended";
}

int fp_tls_shake(fp_tls *tls)
{
    ERR_clear_error();
    int rc = SSL_do_handshake(tls);
    if (rc == 1 && SSL_session_reused(tls)) /* that is: by the key */
        return 1;
    int error = SSL_get_error(tls, rc);
    if (rc != 1 && (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE))
        return 0;
    return fp_error(FARPOOL_E_REFUSED,
                    "TLS: %s: one of the two is not of this cluster, or has an old key file",
                    rc == 1 ? "not by the key" : what_is_wrong());
}

ssize_t fp_tls_read(fp_tls *tls, void *bytes, size_t len)
{
    size_t got = 0;
    ERR_clear_error();
    int rc = SSL_read_ex(tls, bytes, len, &got);
    if (rc == 1)
        return (ssize_t)got;
    if (SSL_get_error(tls, rc) == SSL_ERROR_WANT_READ)
        return 0;
    return fp_error(FARPOOL_E_PROTO, "TLS: %s", what_is_wrong());
}

int fp_tls_write(fp_tls *tls, const void *bytes, size_t len)
{
    size_t written = 0;
    ERR_clear_error();
    if (SSL_write_ex(tls, bytes, len, &written) && written == len)
        return 0;
    return fp_error(FARPOOL_E_PROTO, "TLS: %s", what_is_wrong());
}
