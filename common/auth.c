/* SPDX-License-Identifier: Apache-2.0 */
#include "common/auth.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include "common/error.h"

enum {
    BASE64_BYTES = 44, /* of FP_AUTH_BYTES */
    FILE_BYTES_MAX = 1024,
};

struct fp_auth {
    bool has_secret;
    uint8_t key[FP_AUTH_BYTES]; /* the secret, or the key of `name` */
    char name[FP_AUTH_NAME_MAX + 1];
};

/* ---- derivation ------------------------------------------------------------------------------ */

static int derive(const uint8_t from[FP_AUTH_BYTES], const char *info, uint8_t out[FP_AUTH_BYTES])
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)(uintptr_t)from,
                                          FP_AUTH_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)(uintptr_t)info,
                                          strlen(info)),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *context = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    int good = context ? EVP_KDF_derive(context, out, FP_AUTH_BYTES, params) : 0;
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    return good > 0 ? 0 : fp_error(FARPOOL_E_SYS, "deriving a key: OpenSSL cannot do HKDF-SHA256");
}

static int key_of(const fp_auth *auth, const char *name, uint8_t key[FP_AUTH_BYTES])
{
    char info[32 + FP_AUTH_NAME_MAX];
    if (auth->has_secret) {
        snprintf(info, sizeof info, "farpool identity %s", name);
        return derive(auth->key, info, key);
    }
    if (strcmp(name, auth->name) != 0)
        return fp_error(FARPOOL_E_REFUSED, "the key here is of '%s', not of '%.200s'", auth->name,
                        name);
    memcpy(key, auth->key, FP_AUTH_BYTES);
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int decode(const char *text, uint8_t out[FP_AUTH_BYTES])
{
    uint8_t bytes[FP_AUTH_BYTES + 1]; /* the padding becomes a zero */
    unsigned char again[BASE64_BYTES + 1];
    bool good = strlen(text) == BASE64_BYTES &&
                EVP_DecodeBlock(bytes, (const unsigned char *)text, BASE64_BYTES) == sizeof bytes;
    if (good) {
        EVP_EncodeBlock(again, bytes, FP_AUTH_BYTES);
        good = !CRYPTO_memcmp(again, text, BASE64_BYTES);
    }
    if (good)
        memcpy(out, bytes, FP_AUTH_BYTES);
    OPENSSL_cleanse(bytes, sizeof bytes);
    OPENSSL_cleanse(again, sizeof again);
    return good ? 0 : FARPOOL_E_INVAL;
}

static int check_name(const char *path, const char *name)
{
    size_t len = strlen(name);
    return len && len <= FP_AUTH_NAME_MAX
               ? 0
               : fp_error(FARPOOL_E_INVAL, "key file %s: a name has 1 to %d bytes", path,
                          FP_AUTH_NAME_MAX);
}

static int parse(const char *path, char *text, const char *name, fp_auth *auth)
{
    size_t len = strlen(text);
    while (len && strchr(" \t\r\n", text[len - 1]))
        text[--len] = 0;
    char *colon = strrchr(text, ':'); /* none of base64's letters */
    auth->has_secret = !colon;
    const char *key = text;
    if (colon) {
        *colon = 0;
        name = text;
        key = colon + 1;
    }
    int rc = check_name(path, name);
    if (rc)
        return rc;
    strcpy(auth->name, name);
    if (decode(key, auth->key))
        return fp_error(
            FARPOOL_E_INVAL,
            "key file %s: neither a secret (32 bytes in base64) nor a key (NAME:BASE64)", path);
    return 0;
}

static int read_file(const char *path, char text[FILE_BYTES_MAX + 1])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fp_error_sys("key file %s", path);
    struct stat status;
    ssize_t n = 0;
    int rc = 0;
    if (fstat(fd, &status))
        rc = fp_error_sys("key file %s", path);
    else if (!S_ISREG(status.st_mode))
        rc = fp_error(FARPOOL_E_INVAL, "key file %s: not a regular file", path);
    else if (status.st_mode & 077)
        rc = fp_error(FARPOOL_E_INVAL,
                      "key file %s: others than its owner may use it (mode %03o): chmod 600", path,
                      status.st_mode & 0777u);
    else if ((n = read(fd, text, FILE_BYTES_MAX + 1)) < 0)
        rc = fp_error_sys("reading key file %s", path);
    else if (n > FILE_BYTES_MAX || memchr(text, 0, (size_t)n))
        rc = fp_error(FARPOOL_E_INVAL, "key file %s: longer than a key is, or not text", path);
    else
        text[n] = 0;
    close(fd);
    return rc;
}

int fp_auth_open(const char *path, const char *name, fp_auth **out)
{
    char text[FILE_BYTES_MAX + 1];
    fp_auth *auth = calloc(1, sizeof *auth);
    if (!auth)
        return fp_error(FARPOOL_E_NOMEM, "key file %s: no memory", path);
    int rc = read_file(path, text);
    if (!rc)
        rc = parse(path, text, name, auth);
    OPENSSL_cleanse(text, sizeof text);
    if (rc) {
        fp_auth_close(auth);
        return rc;
    }
    *out = auth;
    return 0;
}

void fp_auth_close(fp_auth *auth)
{
    if (auth)
        OPENSSL_cleanse(auth, sizeof *auth);
    free(auth);
}

const char *fp_auth_name(const fp_auth *auth) { return auth->name; }
bool fp_auth_has_secret(const fp_auth *auth) { return auth->has_secret; }

int fp_auth_key_text(const fp_auth *auth, const char *name, char text[FP_AUTH_TEXT_MAX + 1])
{
    uint8_t key[FP_AUTH_BYTES];
    if (!auth->has_secret)
        return fp_error(FARPOOL_E_INVAL,
                        "a key is made of the cluster's secret; here is only the key of '%s'",
                        auth->name);
    if (!name[0] || strlen(name) > FP_AUTH_NAME_MAX || strpbrk(name, "\r\n"))
        return fp_error(FARPOOL_E_INVAL, "a name has 1 to %d bytes and is one line",
                        FP_AUTH_NAME_MAX);
    int rc = key_of(auth, name, key);
    if (rc)
        return rc;
    int len = snprintf(text, FP_AUTH_TEXT_MAX + 1, "%s:", name);
    EVP_EncodeBlock((unsigned char *)text + len, key, FP_AUTH_BYTES);
    OPENSSL_cleanse(key, sizeof key);
    return 0;
}

/* ---- proofs ---------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *at, const void *bytes, size_t len)
{
    uint32_t wire = htole32((uint32_t)len); /* so that no two talks are the same bytes */
    at = mempcpy(at, &wire, sizeof wire);
    return mempcpy(at, bytes, len);
}

int fp_auth_prove(const fp_auth *auth, enum fp_auth_side side, const fp_auth_talk *talk,
                  uint8_t proof[FP_AUTH_BYTES])
{
    uint8_t key[FP_AUTH_BYTES];
    uint8_t bytes[6 * sizeof(uint32_t) + 16 + 2 * FP_AUTH_NAME_MAX + sizeof(uint64_t) +
                  2 * FP_AUTH_BYTES];
    const char *label = side == FP_AUTH_CLIENT ? "farpool client" : "farpool server";
    uint64_t boot_id = htole64(talk->boot_id);
    uint8_t *at = put(bytes, label, strlen(label));
    at = put(at, talk->client, strnlen(talk->client, FP_AUTH_NAME_MAX));
    at = put(at, talk->server, strnlen(talk->server, FP_AUTH_NAME_MAX));
    at = put(at, &boot_id, sizeof boot_id);
    at = put(at, talk->client_nonce, FP_AUTH_BYTES);
    at = put(at, talk->server_nonce, FP_AUTH_BYTES);
    int rc = key_of(auth, talk->client, key);
    if (rc)
        return rc;
    if (!HMAC(EVP_sha256(), key, sizeof key, bytes, (size_t)(at - bytes), proof, NULL))
        rc = fp_error(FARPOOL_E_SYS, "proving an identity: OpenSSL cannot do HMAC-SHA256");
    OPENSSL_cleanse(key, sizeof key);
    return rc;
}

bool fp_auth_same(const uint8_t a[FP_AUTH_BYTES], const uint8_t b[FP_AUTH_BYTES])
{
    return !CRYPTO_memcmp(a, b, FP_AUTH_BYTES);
}

int fp_auth_tls_key(const fp_auth *auth, const char *name, uint8_t key[FP_AUTH_BYTES])
{
    uint8_t identity[FP_AUTH_BYTES];
    int rc = key_of(auth, name, identity);
    if (!rc)
        rc = derive(identity, "farpool tls", key);
    OPENSSL_cleanse(identity, sizeof identity);
    return rc;
}

int fp_auth_random(uint8_t bytes[FP_AUTH_BYTES])
{
    return getrandom(bytes, FP_AUTH_BYTES, 0) == FP_AUTH_BYTES
               ? 0
               : fp_error_sys("drawing random bytes");
}
