/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/secret.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "tests/lib/require.h"

void test_secret_write(char path[64], const char *text)
{
    strcpy(path, "/tmp/farpool-secret-XXXXXX");
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    REQUIRE(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static fp_auth *through_file(const char *text, const char *name)
{
    char path[64];
    fp_auth *auth;
    test_secret_write(path, text);
    test_must(fp_auth_open(path, name, &auth), "opening a key file");
    unlink(path);
    return auth;
}

fp_auth *test_secret(uint8_t byte, const char *name)
{
    uint8_t bytes[FP_AUTH_BYTES];
    unsigned char text[2 * FP_AUTH_BYTES];
    memset(bytes, byte, sizeof bytes);
    EVP_EncodeBlock(text, bytes, sizeof bytes);
    return through_file((char *)text, name);
}

fp_auth *test_key(const fp_auth *secret, const char *name)
{
    char text[FP_AUTH_TEXT_MAX + 1];
    test_must(fp_auth_key_text(secret, name, text), "making a key");
    return through_file(text, "");
}

const char *test_secret_file(void) { return getenv("FARPOOL_TEST_SECRET"); }

static fp_auth *of_file;

static void open_file(void)
{
    test_must(fp_auth_open(test_secret_file(), "test", &of_file), "opening FARPOOL_TEST_SECRET");
}

const fp_auth *test_secret_auth(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!test_secret_file())
        return NULL;
    pthread_once(&once, open_file);
    return of_file;
}
