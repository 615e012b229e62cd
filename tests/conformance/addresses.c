/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what bad, unused and doubly used addresses answer, and that connections come and go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/peer.h"

static void bad_addresses_are_refused_in_words(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "tcp",
        "tcp:",
        "tcp://",
        "tcp://host",
        "tcp://:1",
        "tcp://host:",
        "tcp://host:70000",
        "tcp://host:-1",
        "tcp://host:12x",
        "verbs://10.0.0.1",
        "shm://relative/path",
        "shm://",
        "sim://",
        "http://host:80",
        "://x:1",
        "nonsensenonsensenonsense://x:1",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fp_net *net = NULL;
        assert_int_equal(fp_net_open(bad[i], NULL, &net), FARPOOL_E_INVAL);
        assert_null(net);
        assert_non_null(strstr(farpool_errmsg(), "address"));
    }
    char longest[400] = "shm:///";
    memset(longest + 7, 'x', 390);
    fp_net *net = NULL;
    assert_int_equal(fp_net_open(longest, NULL, &net), FARPOOL_E_INVAL);
}

static void another_transport_s_address_is_refused(void **state)
{
    (void)state;
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn;
    fp_listener *listener;
    const char *other = peer_scheme_is("tcp") ? "shm:///tmp/x" : "tcp://127.0.0.1:1";
    assert_int_equal(peer_net_open(peer_uri(), &(fp_net_options){0}, &net), 0);
    assert_int_equal(fp_net_poller_open(net, &poller), 0);
    assert_int_equal(fp_net_connect(poller, other, &conn), FARPOOL_E_INVAL);
    assert_int_equal(fp_net_listen(poller, other, &listener), FARPOOL_E_INVAL);
    fp_net_poller_close(poller);
    fp_net_close(net);
}

/* A mistyped name may also be a name service that is down: no fault of the address's form. */
static void an_unknown_host_is_named(void **state)
{
    (void)state;
    peer_applies(__func__);
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn;
    fp_listener *listener;
    char uri[FP_NET_URI_MAX];
    setenv("RES_OPTIONS", "timeout:1 attempts:1", 1); /* where there is no network */
    snprintf(uri, sizeof uri, "%s://no-such-host.invalid:7471",
             peer_scheme_is("tcp") ? "tcp" : "verbs");
    assert_int_equal(fp_net_open(peer_uri(), NULL, &net), 0);
    assert_int_equal(fp_net_poller_open(net, &poller), 0);
    assert_int_equal(fp_net_connect(poller, uri, &conn), FARPOOL_E_NODE);
    assert_non_null(strstr(farpool_errmsg(), "'no-such-host.invalid'"));
    assert_int_equal(fp_net_listen(poller, uri, &listener), FARPOOL_E_NODE);
    assert_non_null(strstr(farpool_errmsg(), "'no-such-host.invalid'"));
    fp_net_poller_close(poller);
    fp_net_close(net);
    if (peer_scheme_is("verbs"))
        assert_int_equal(fp_net_open(uri, NULL, &net), FARPOOL_E_NODE);
}

static void options_out_of_range_are_refused(void **state)
{
    (void)state;
    fp_net *net;
    fp_net_options options = {.ack_timeout = 32};
    assert_int_equal(peer_net_open(peer_uri(), &options, &net), FARPOOL_E_INVAL);
    options.ack_timeout = 31;
    assert_int_equal(peer_net_open(peer_uri(), &options, &net), 0);
    fp_net_close(net);
}

/* Nobody listens, then nobody any more: E_NODE, naming the address, soon. */
static void nobody_listens(void **state)
{
    (void)state;
    peer server;
    client c;
    peer_start(&server, peer_uri());
    client_open(&c, &server, server.uri);
    fp_net_conn_close(c.conn);
    c.conn = NULL;
    client_wait_counter(&c, &server.closed, 1);
    peer_stop(&server);
    uint64_t start = fp_net_now_ns(c.net);
    assert_int_equal(fp_net_connect(c.poller, server.uri, &c.conn), FARPOOL_E_NODE);
    c.conn = NULL;
    assert_true(fp_net_now_ns(c.net) - start < UINT64_C(12000000000));
    assert_non_null(strstr(farpool_errmsg(), server.uri));
    client_close(&c);
}

static void an_address_in_use_is_refused(void **state)
{
    (void)state;
    peer server;
    client c;
    fp_listener *listener;
    peer_start(&server, peer_uri());
    client_open(&c, &server, server.uri);
    assert_true(fp_net_listen(c.poller, server.uri, &listener) < 0);
    if (peer_scheme_is("tcp") || peer_scheme_is("shm"))
        assert_non_null(strstr(farpool_errmsg(), "another process"));
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 64)), 0); /* and did no harm */
    client_close(&c);
    peer_stop(&server);
    /* When it is free, it can be had, again and again. */
    for (int i = 0; i < 3; i++) {
        peer_start(&server, server.uri);
        client_open(&c, &server, server.uri);
        client_close(&c);
        peer_stop(&server);
    }
}

static void connections_come_and_go(void **state)
{
    (void)state;
    peer server;
    client c;
    fp_conn *more[8];
    peer_start(&server, peer_uri());
    client_open(&c, &server, server.uri);
    fp_conn *first = c.conn;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 8; i++) {
            assert_int_equal(client_connect(&c, server.uri), 0);
            more[i] = c.conn;
            int user;
            fp_net_conn_set_user(c.conn, &user);
            assert_ptr_equal(fp_net_conn_user(c.conn), &user);
            assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 64, 0, 4096)), 0);
        }
        for (int i = 0; i < 8; i++) /* the others work while one closes */
            fp_net_conn_close(more[i]);
        c.conn = first;
        assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 64, 0, 4096)), 0);
        client_wait_counter(&c, &server.closed, 8 * (round + 1));
    }
    client_close(&c);
    peer_stop(&server);
}

/* A file that is no socket is not ours to remove. */
static void shm_leaves_other_files_alone(void **state)
{
    (void)state;
    peer_applies(__func__);
    char uri[64];
    snprintf(uri, sizeof uri, "shm:///tmp/farpool-test-%d.file", (int)getpid());
    FILE *file = fopen(uri + 6, "w");
    assert_non_null(file);
    fclose(file);
    fp_net *net;
    fp_poller *poller;
    fp_listener *listener;
    assert_int_equal(fp_net_open(uri, NULL, &net), 0);
    assert_int_equal(fp_net_poller_open(net, &poller), 0);
    assert_int_equal(fp_net_listen(poller, uri, &listener), FARPOOL_E_EXISTS);
    assert_int_equal(access(uri + 6, F_OK), 0);
    unlink(uri + 6);
    assert_int_equal(fp_net_listen(poller, uri, &listener), 0);
    fp_net_listener_close(listener);
    assert_int_equal(access(uri + 6, F_OK), -1); /* leaves nothing behind */
    strcat(uri, ".lock");
    assert_int_equal(access(uri + 6, F_OK), -1);
    fp_net_poller_close(poller);
    fp_net_close(net);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_addresses_are_refused_in_words),
        cmocka_unit_test(another_transport_s_address_is_refused),
        cmocka_unit_test(an_unknown_host_is_named),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(nobody_listens),
        cmocka_unit_test(an_address_in_use_is_refused),
        cmocka_unit_test(connections_come_and_go),
        cmocka_unit_test(shm_leaves_other_files_alone),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return peer_for_each(group); }
