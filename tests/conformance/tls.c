/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what TLS on tcp is for: somebody in between reads nothing, and changes, cuts off and replays nothing that counts; and
 * how one end with a key tells another one without, or with another. SEED=n. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/net/tcp.h"
#include "tests/lib/peer.h"
#include "tests/lib/proxy.h"
#include "tests/lib/require.h"
#include "tests/lib/secret.h"
#include "tests/lib/testnode.h"

enum { LEN = 4096, LIMIT_MS = 60000 };

static const char mark[] = "this text is a mark that is easily found";
static peer server;
static client c;
static proxy between;

static int open_all(void **state)
{
    (void)state;
    peer_start(&server, "tcp://127.0.0.1:0");
    proxy_start(&between, server.uri);
    client_open(&c, &server, between.uri);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    client_close(&c);
    proxy_stop(&between);
    peer_stop(&server);
    return 0;
}

static int open_sealed(void **state)
{
    setenv("FARPOOL_TEST_TLS", "1", 1);
    return open_all(state);
}

static int open_plain(void **state)
{
    unsetenv("FARPOOL_TEST_TLS");
    return open_all(state);
}

/* A connection behind the handshake to the server itself works. */
static void the_server_lives(void)
{
    client direct;
    client_open(&direct, &server, server.uri);
    assert_int_equal(client_do(&direct, op_read(&direct, direct.keys.rw, 0, 0, LEN)), 0);
    client_close(&direct);
}

/* Until the server hangs up; fails if it does not within PROXY_WAIT_S. */
static void expect_hang_up(int fd)
{
    char sink[4096];
    ssize_t n;
    while ((n = recv(fd, sink, sizeof sink, 0)) > 0 || (n < 0 && errno == EINTR))
        ;
    assert_true(n == 0 || errno == ECONNRESET);
    close(fd);
}

/* ---- in between ------------------------------------------------------------------------------ */

/* A message and its echo, a WRITE, a READ. */
static void exchange_marks(void)
{
    char message[sizeof mark + 1] = "e", answer[sizeof message];
    strcat(message, mark);
    client_send(&c, message, sizeof message);
    assert_int_equal(client_answer(&c, answer, sizeof answer), sizeof message);
    strcpy((char *)c.mem.addr, mark);
    assert_int_equal(client_do(&c, op_write(&c, c.keys.rw, 0, 0, LEN)), 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 2 * LEN, LEN)), 0);
    assert_string_equal((char *)c.mem.addr + 2 * LEN, mark);
}

static void nothing_can_be_read(void **state)
{
    (void)state;
    exchange_marks();
    assert_false(proxy_saw(&between, PROXY_TO_SERVER, mark));
    assert_false(proxy_saw(&between, PROXY_TO_CLIENT, mark));
}

static void without_tls_all_can_be_read(void **state)
{
    (void)state;
    exchange_marks();
    assert_true(proxy_saw(&between, PROXY_TO_SERVER, mark));
    assert_true(proxy_saw(&between, PROXY_TO_CLIENT, mark));
}

/* In the record that has a whole WRITE or a whole answer: all but its length, which makes the receiver wait for more. */
static const long changed[] = {0, 1, 5, 40, 700, LEN, LEN + 60};
enum { CHANGES = sizeof changed / sizeof changed[0] };

static void what_was_changed_is_not_written(void **state)
{
    for (int i = 0; i < CHANGES; i++) {
        memset(c.mem.addr, 0xEE, LEN);
        atomic_store(&between.flip[PROXY_TO_SERVER], changed[i]);
        int rc = client_do(&c, op_write(&c, c.keys.rw, 0, 0, LEN));
        assert_true(rc == FARPOOL_E_NODE || rc == FARPOOL_E_PROTO);
        for (size_t k = 0; k < LEN; k++)
            assert_int_equal(((uint8_t *)server.mem.addr)[k], peer_byte(k));
        close_all(state);
        open_sealed(state);
    }
}

static void what_was_changed_is_not_read(void **state)
{
    for (int i = 0; i < CHANGES; i++) {
        memset(c.mem.addr, 0xEE, LEN);
        atomic_store(&between.flip[PROXY_TO_CLIENT], changed[i]);
        int rc = client_do(&c, op_read(&c, c.keys.rw, 0, 0, LEN));
        assert_true(rc == FARPOOL_E_NODE || rc == FARPOOL_E_PROTO);
        for (size_t k = 0; k < LEN; k++)
            assert_int_equal(((uint8_t *)c.mem.addr)[k], 0xEE);
        close_all(state);
        open_sealed(state);
    }
}

static void what_was_cut_off_is_not_delivered(void **state)
{
    static const long at[] = {0, 4, 5, 100, LEN};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        memset(c.mem.addr, 0xEE, LEN);
        atomic_store(&between.cut[PROXY_TO_SERVER], at[i]);
        assert_int_equal(client_do(&c, op_write(&c, c.keys.rw, 0, 0, LEN)), FARPOOL_E_NODE);
        client_expect(&c, FP_NET_CLOSED, FARPOOL_E_NODE);
        for (size_t k = 0; k < LEN; k++)
            assert_int_equal(((uint8_t *)server.mem.addr)[k], peer_byte(k));
        close_all(state);
        open_sealed(state);
    }
}

/* All that a client has said on one connection, said again on another. */
static void nothing_can_be_replayed(void **state)
{
    (void)state;
    exchange_marks();
    memset(server.mem.addr, 0, LEN);
    int accepted = atomic_load(&server.accepted);
    int fd = proxy_dial(server.uri);
    ssize_t n = send(fd, between.kept[PROXY_TO_SERVER],
                     atomic_load(&between.count[PROXY_TO_SERVER]), MSG_NOSIGNAL);
    assert_true(n > 0);
    expect_hang_up(fd);
    assert_int_equal(atomic_load(&server.accepted), accepted);
    assert_int_equal(*(uint8_t *)server.mem.addr, 0);
    the_server_lives();
}

/* The first part of a handshake, damaged in many ways. */
static void a_damaged_handshake_is_none(void **state)
{
    (void)state;
    uint64_t random = test_seed(1);
    size_t len = atomic_load(&between.count[PROXY_TO_SERVER]);
    uint8_t bytes[4096];
    int accepted = atomic_load(&server.accepted);
    assert_true(len > FP_TCP_PREAMBLE_BYTES + 100 && len <= sizeof bytes);
    for (int i = 0; i < 300; i++) {
        uint64_t r = test_random(&random);
        size_t most = len - FP_TCP_PREAMBLE_BYTES;
        memcpy(bytes, between.kept[PROXY_TO_SERVER], len);
        for (uint64_t k = 0; k <= r % 4; k++)
            bytes[FP_TCP_PREAMBLE_BYTES + test_random(&random) % most] =
                (uint8_t)test_random(&random);
        int fd = proxy_dial(server.uri);
        ssize_t n = send(fd, bytes, FP_TCP_PREAMBLE_BYTES + (r >> 8) % most, MSG_NOSIGNAL);
        (void)n; /* it may have hung up already */
        shutdown(fd, SHUT_WR);
        expect_hang_up(fd);
    }
    assert_int_equal(atomic_load(&server.accepted), accepted);
    the_server_lives();
}

static void whoever_is_silent_in_the_handshake_goes(void **state)
{
    (void)state;
    int fd = proxy_dial(server.uri);
    assert_int_equal(send(fd, between.kept[PROXY_TO_SERVER], FP_TCP_PREAMBLE_BYTES + 50, 0),
                     FP_TCP_PREAMBLE_BYTES + 50);
    expect_hang_up(fd);
    the_server_lives();
}

/* ---- the wrong ends -------------------------------------------------------------------------- */

/* What connecting with that auth gives: of itself, not because its time is over. */
static int connect_with(const fp_auth *auth, const char *uri)
{
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn;
    uint64_t begin = fp_now_ns();
    fp_net_options options = {.auth = auth, .connect_timeout_ms = LIMIT_MS};
    test_must(fp_net_open(uri, &options, &net), "a net");
    test_must(fp_net_poller_open(net, &poller), "a poller");
    int rc = fp_net_connect(poller, uri, &conn);
    assert_true(fp_now_ns() - begin < LIMIT_MS / 2 * UINT64_C(1000000));
    if (!rc)
        fp_net_conn_close(conn);
    fp_net_poller_close(poller);
    fp_net_close(net);
    return rc;
}

static void only_the_right_key_gets_in(void **state)
{
    (void)state;
    fp_auth *secret = test_secret(1, "ann"), *other = test_secret(2, "ann");
    fp_auth *key = test_key(secret, "bob"), *wrong = test_key(other, "bob");
    assert_int_equal(connect_with(secret, server.uri), 0);
    assert_int_equal(connect_with(key, server.uri), 0);
    client_wait_counter(&c, &server.closed, 2); /* they have come and gone */
    int accepted = atomic_load(&server.accepted);
    assert_int_equal(connect_with(other, server.uri), FARPOOL_E_REFUSED);
    assert_non_null(strstr(farpool_errmsg(), "not of this cluster"));
    assert_int_equal(connect_with(wrong, server.uri), FARPOOL_E_REFUSED);
    assert_int_equal(connect_with(NULL, server.uri), FARPOOL_E_REFUSED);
    assert_non_null(strstr(farpool_errmsg(), "give a key file"));
    assert_int_equal(atomic_load(&server.accepted), accepted);
    the_server_lives();
    fp_auth_close(secret);
    fp_auth_close(other);
    fp_auth_close(key);
    fp_auth_close(wrong);
}

static void a_key_does_not_speak_without_tls(void **state)
{
    (void)state;
    fp_auth *secret = test_secret(1, "ann");
    assert_int_equal(connect_with(secret, server.uri), FARPOOL_E_REFUSED);
    assert_non_null(strstr(farpool_errmsg(), "--secret-file"));
    assert_int_equal(connect_with(NULL, server.uri), 0);
    fp_auth_close(secret);
}

int main(void)
{
#define SEALED(test) cmocka_unit_test_setup_teardown(test, open_sealed, close_all)
#define PLAIN(test) cmocka_unit_test_setup_teardown(test, open_plain, close_all)
    const struct CMUnitTest tests[] = {
        SEALED(nothing_can_be_read),
        PLAIN(without_tls_all_can_be_read),
        SEALED(what_was_changed_is_not_written),
        SEALED(what_was_changed_is_not_read),
        SEALED(what_was_cut_off_is_not_delivered),
        SEALED(nothing_can_be_replayed),
        SEALED(a_damaged_handshake_is_none),
        SEALED(whoever_is_silent_in_the_handshake_goes),
        SEALED(only_the_right_key_gets_in),
        PLAIN(a_key_does_not_speak_without_tls),
    };
    const char *uri = getenv("FARPOOL_TEST_URI");
    if (uri && strncmp(uri, "tcp:", 4) != 0) {
        printf("there is TLS on tcp only\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
