/* SPDX-License-Identifier: Apache-2.0 */
/* Shows how keys come of a secret and out of files, which files are refused, and that a proof is of one handshake only. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/secret.h"

/* 32 bytes of 1 */
#define ONES "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="

static int open_text(const char *text, mode_t mode)
{
    char path[64];
    fp_auth *auth;
    test_secret_write(path, text);
    assert_int_equal(chmod(path, mode), 0);
    int rc = fp_auth_open(path, "me", &auth);
    unlink(path);
    if (!rc)
        fp_auth_close(auth);
    return rc;
}

static void good_files(void **state)
{
    (void)state;
    assert_int_equal(open_text(ONES, 0600), 0);
    assert_int_equal(open_text(ONES "\n", 0400), 0);
    assert_int_equal(open_text("ann:" ONES "\r\n", 0600), 0);
    assert_int_equal(open_text("tcp://[::1]:7:" ONES, 0600), 0); /* a name may have colons */
    fp_auth *secret = test_secret(1, "me"), *key = test_key(secret, "ann");
    assert_true(fp_auth_has_secret(secret) && !fp_auth_has_secret(key));
    assert_string_equal(fp_auth_name(secret), "me");
    assert_string_equal(fp_auth_name(key), "ann");
    fp_auth_close(secret);
    fp_auth_close(key);
    fp_auth_close(NULL);
}

static void bad_files(void **state)
{
    (void)state;
    char long_name[400];
    snprintf(long_name, sizeof long_name, "%0300d:" ONES, 1);
    const char *const bad[] = {
        "",
        "\n",
        ":",
        "ann:",
        ":" ONES,
        "x",
        ONES "x",
        "A" ONES,
        ONES "\n" ONES,
        long_name,
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF=", /* bits that are not the key's */
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB!QE=",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB", /* 33 bytes */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(open_text(bad[i], 0600), FARPOOL_E_INVAL);
    static char much[5000];
    memset(much, 'A', sizeof much - 1);
    assert_int_equal(open_text(much, 0600), FARPOOL_E_INVAL);
    for (mode_t bit = 1; bit <= 040; bit <<= 1) {
        assert_int_equal(open_text(ONES, 0600 | bit), FARPOOL_E_INVAL);
        assert_non_null(strstr(farpool_errmsg(), "chmod 600"));
    }
    fp_auth *auth;
    assert_int_equal(fp_auth_open("/nowhere/at/all", "me", &auth), FARPOOL_E_SYS);
    assert_int_equal(fp_auth_open("/dev/null", "me", &auth), FARPOOL_E_INVAL);
    assert_int_equal(fp_auth_open("/tmp", "me", &auth), FARPOOL_E_INVAL);
}

/* Computed by Python's hmac: HKDF with an empty salt, as RFC 5869 has it. */
static void keys_are_what_they_were(void **state)
{
    (void)state;
    char text[FP_AUTH_TEXT_MAX + 1], again[FP_AUTH_TEXT_MAX + 1];
    fp_auth *secret = test_secret(1, "me"), *key = test_key(secret, "ann");
    assert_int_equal(fp_auth_key_text(secret, "ann", text), 0);
    assert_string_equal(text, "ann:l359XFSdw7rqfg5k0t+jT+Epo2mt+Pd8M5QCmW18DiQ=");
    assert_int_equal(fp_auth_key_text(secret, "bob", again), 0);
    assert_string_not_equal(text + 4, again + 4);
    assert_int_equal(fp_auth_key_text(key, "ann", text), FARPOOL_E_INVAL);
    assert_int_equal(fp_auth_key_text(secret, "", text), FARPOOL_E_INVAL);
    assert_int_equal(fp_auth_key_text(secret, "two\nlines", text), FARPOOL_E_INVAL);
    uint8_t a[FP_AUTH_BYTES], b[FP_AUTH_BYTES];
    assert_int_equal(fp_auth_tls_key(secret, "ann", a), 0);
    assert_int_equal(fp_auth_tls_key(key, "ann", b), 0);
    assert_true(fp_auth_same(a, b));
    assert_int_equal(fp_auth_tls_key(key, "bob", b), FARPOOL_E_REFUSED);
    assert_int_equal(fp_auth_tls_key(secret, "bob", b), 0);
    assert_false(fp_auth_same(a, b));
    fp_auth_close(secret);
    fp_auth_close(key);
}

/* Changing anything that a proof is about changes the proof. */
static void a_proof_is_of_one_handshake(void **state)
{
    (void)state;
    enum { TALKS = 8 };
    static const uint8_t n1[FP_AUTH_BYTES] = {1}, n2[FP_AUTH_BYTES] = {2};
    fp_auth *secret = test_secret(1, "me"), *other = test_secret(2, "me");
    const fp_auth_talk talks[TALKS] = {
        {"ann", "node", 1, n1, n2}, {"annn", "ode", 1, n1, n2}, {"bob", "node", 1, n1, n2},
        {"ann", "edon", 1, n1, n2}, {"ann", "node", 2, n1, n2}, {"ann", "node", 1, n2, n2},
        {"ann", "node", 1, n1, n1}, {"ann", "node", 1, n2, n1},
    };
    uint8_t proofs[2 * TALKS + 1][FP_AUTH_BYTES];
    for (int i = 0; i < TALKS; i++) {
        assert_int_equal(fp_auth_prove(secret, FP_AUTH_CLIENT, &talks[i], proofs[i]), 0);
        assert_int_equal(fp_auth_prove(secret, FP_AUTH_SERVER, &talks[i], proofs[TALKS + i]), 0);
    }
    assert_int_equal(fp_auth_prove(other, FP_AUTH_CLIENT, &talks[0], proofs[2 * TALKS]), 0);
    for (int i = 0; i <= 2 * TALKS; i++)
        for (int k = 0; k <= 2 * TALKS; k++)
            assert_int_equal(fp_auth_same(proofs[i], proofs[k]), i == k);
    fp_auth *ann = test_key(secret, "ann");
    uint8_t same[FP_AUTH_BYTES];
    assert_int_equal(fp_auth_prove(ann, FP_AUTH_CLIENT, &talks[0], same), 0);
    assert_true(fp_auth_same(same, proofs[0]));
    assert_int_equal(fp_auth_prove(ann, FP_AUTH_CLIENT, &talks[2], same), FARPOOL_E_REFUSED);
    fp_auth_close(ann);
    fp_auth_close(secret);
    fp_auth_close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_files),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(keys_are_what_they_were),
        cmocka_unit_test(a_proof_is_of_one_handshake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
