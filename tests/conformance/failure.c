/* SPDX-License-Identifier: Apache-2.0 */
/* Shows how connections end: refused accesses, withdrawal, close, death of the peer (N1, N5, N6,
 * N8). */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "tests/lib/peer_pair.h"

/* N5: posts are refused afterwards, the reason has words, the peer learns of it; then all is
 * well again. */
static void check_broken(int status)
{
    fp_net_op op = op_read(&c, c.keys.rw, 0, 0, 64);
    assert_int_equal(fp_net_post(c.conn, &op, 1), FARPOOL_E_CLOSED);
    assert_int_equal(fp_net_share(c.conn, c.mr), FARPOOL_E_CLOSED);
    assert_true(strlen(fp_net_conn_reason(c.conn)) > 10);
    assert_int_equal(c.conn->status, status);
    fp_net_event event;
    assert_int_equal(fp_net_poll(c.poller, &event, 1, 20), 0); /* CLOSED came once */
    client_wait_counter(&c, &server.closed, 1);
    fp_net_conn_close(c.conn);
    c.conn = NULL;
    assert_int_equal(client_connect(&c, server.uri), 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 64, 0, 64)), 0);
}

static void refused(fp_net_op op)
{
    fp_net_op ops[4] = {op_read(&c, c.keys.rw, 0, 0, 64), op, op_read(&c, c.keys.rw, 0, 128, 64),
                        op_write(&c, c.keys.rw, 0, 128, 64)};
    static const int statuses[4] = {0, FARPOOL_E_ACCESS, FARPOOL_E_CLOSED, FARPOOL_E_CLOSED};
    for (uint64_t i = 0; i < 4; i++)
        ops[i].cookie = i;
    assert_int_equal(fp_net_post(c.conn, ops, 4), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(client_expect(&c, FP_NET_DONE, statuses[i]).cookie, i);
    client_expect(&c, FP_NET_CLOSED, FARPOOL_E_ACCESS);
    check_broken(FARPOOL_E_ACCESS);
}

static void unknown_key(void **state)
{
    (void)state;
    fp_rkey wrong = c.keys.rw;
    wrong.key ^= 0x10;
    refused(op_read(&c, wrong, 0, 4096, 64));
}

static void read_beyond_the_end(void **state)
{
    (void)state;
    refused(op_read(&c, c.keys.rw, PEER_BYTES - 63, 4096, 64));
}

static void write_beyond_the_end(void **state)
{
    (void)state;
    refused(op_write(&c, c.keys.rw, PEER_BYTES - 63, 4096, 64));
}

static void read_before_the_start(void **state)
{
    (void)state;
    refused(op_read(&c, c.keys.rw, (uint64_t)-1, 4096, 64));
}

static void addresses_that_wrap(void **state)
{
    (void)state;
    fp_net_op op = op_read(&c, c.keys.rw, 0, 4096, 4096);
    op.remote_addr = UINT64_MAX - 100;
    refused(op);
}

static void write_to_read_only(void **state)
{
    (void)state;
    refused(op_write(&c, c.keys.ro, 0, 4096, 64));
}

static void read_of_write_only(void **state)
{
    (void)state;
    refused(op_read(&c, c.keys.wo, 0, 4096, 64));
}

static void registered_but_not_shared(void **state)
{
    (void)state;
    peer_applies(__func__);
    refused(op_read(&c, c.keys.hidden, 0, 4096, 64));
}

static void what_is_granted_works(void **state)
{
    (void)state;
    assert_int_equal(client_do(&c, op_read(&c, c.keys.ro, PEER_PART - 64, 0, 64)), 0);
    assert_int_equal(client_do(&c, op_write(&c, c.keys.wo, PEER_PART - 64, 0, 64)), 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, PEER_BYTES - 64, 0, 64)), 0);
}

/* After fp_net_unregister no peer reaches the memory. */
static void withdrawn_memory(void **state)
{
    (void)state;
    char answer;
    client_send(&c, "u", 1);
    assert_int_equal(client_answer(&c, &answer, 1), 1);
    fp_net_op op = op_write(&c, c.keys.rw, 0, 0, 4096);
    memset(local(0), 0xee, 4096);
    assert_int_equal(fp_net_post(c.conn, &op, 1), 0);
    fp_net_event event = client_wait(&c);
    assert_int_equal(event.kind, FP_NET_DONE);
    if (!peer_scheme_is("verbs") || event.status != FARPOOL_E_NODE)
        assert_int_equal(event.status, FARPOOL_E_ACCESS);
    client_expect(&c, FP_NET_CLOSED, event.status);
    client_wait_counter(&c, &server.closed, 1);
    assert_int_equal(*(uint8_t *)server.mem.addr, peer_byte(0));
}

/* WRITEs as fast as it can until it is cut off. */
static void *writer(void *arg)
{
    client *w = arg;
    for (uint64_t posted = 0, done = 0;;) {
        while (posted - done < 8) {
            memset((char *)w->mem.addr + posted % 8 * 65536, (int)posted, 65536);
            fp_net_op op = op_write(w, w->keys.rw, posted % 8 * 65536, posted % 8 * 65536, 65536);
            if (fp_net_post(w->conn, &op, 1))
                break;
            posted++;
        }
        fp_net_event event;
        int n = fp_net_poll(w->poller, &event, 1, 100);
        if (n < 0 || (n == 1 && event.kind == FP_NET_CLOSED))
            return NULL;
        done += n == 1;
        if (done == 100)
            atomic_store(&w->server->last_status, 100);
    }
}

/* The same in one thread: withdrawn after each number of steps that posted WRITEs take to arrive. */
static void nothing_lands_in_the_world(char *seen, size_t len)
{
    int done = 0;
    for (int steps = 0; done < 8; steps += 3) { /* until all have been answered before */
        for (uint32_t i = 0; i < 8; i++) {
            fp_net_op op = op_write(&c, c.keys.rw, i * 65536, i * 65536, 65536);
            assert_int_equal(fp_net_post(c.conn, &op, 1), 0);
        }
        fp_net_event event;
        done = 0;
        for (int i = 0; i < steps; i++)
            done += fp_net_poll(c.poller, &event, 1, 0);
        fp_net_unregister(server.rw);
        server.rw = NULL;
        memcpy(seen, server.mem.addr, len);
        for (int left = 8 - done; left > 0; left--)
            client_wait(&c);
        assert_memory_equal(seen, server.mem.addr, len);
        peer_pair_close(NULL);
        peer_pair_open(NULL);
    }
}

/* Nothing lands after fp_net_unregister has returned, however hard the peer is writing
 * (fencing). */
static void nothing_lands_after_withdrawal(void **state)
{
    (void)state;
    static char seen[8 * 65536];
    if (peer_world()) {
        nothing_lands_in_the_world(seen, sizeof seen);
        return;
    }
    for (int round = 0; round < 5; round++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, writer, &c), 0);
        while (atomic_load(&server.last_status) != 100)
            sched_yield();
        peer_pause(&server);
        fp_net_unregister(server.rw);
        server.rw = NULL;
        memcpy(seen, server.mem.addr, sizeof seen);
        pthread_join(thread, NULL);
        int differs = memcmp(seen, server.mem.addr, sizeof seen);
        peer_resume(&server);
        assert_int_equal(differs, 0);
        peer_pair_close(NULL);
        peer_pair_open(NULL);
    }
}

/* N6 */
static void close_with_operations_in_flight(void **state)
{
    (void)state;
    for (int round = 0; round < 10; round++) {
        fp_net_op ops[64];
        for (uint32_t i = 0; i < 64; i++)
            ops[i] = op_read(&c, c.keys.rw, i * 65536, i * 65536, 65536);
        assert_int_equal(fp_net_post(c.conn, ops, 64), 0);
        fp_net_event event;
        for (int i = 0; i < round; i++)
            client_wait(&c);
        fp_net_conn_close(c.conn);
        c.conn = NULL;
        memset(local(0), 0xaa, 64 * 65536);
        assert_int_equal(fp_net_poll(c.poller, &event, 1, 5), 0);
        client_wait_counter(&c, &server.closed, round + 1);
        for (size_t i = 0; i < 64 * 65536; i += 64)
            assert_int_equal(*local(i), 0xaa);
        assert_int_equal(client_connect(&c, server.uri), 0);
    }
}

static void the_peer_closes(void **state)
{
    (void)state;
    client_send(&c, "x", 1);
    int status = 0;
    for (bool closed = false; !closed;) {
        fp_net_event event = client_wait(&c);
        closed = event.kind == FP_NET_CLOSED;
        status = event.status;
    }
    assert_int_equal(status, FARPOOL_E_NODE);
    check_broken(FARPOOL_E_NODE);
}

/* Operations posted until the connection breaks: each completes once, in order, and nothing
 * hangs. */
static void pump_until_broken(uint64_t kill_after, victim *server_to_kill)
{
    uint64_t posted = 0, done = 0;
    int first_failure = 0;
    uint64_t killed_ns = 0;
    for (;;) {
        while (posted - done < 32 && !first_failure) {
            uint32_t at = (uint32_t)(posted % 64) * 8192;
            fp_net_op op = posted % 4 ? op_read(&c, c.keys.rw, at, at, 4096)
                                      : op_write(&c, c.keys.rw, at, at, 4096);
            op.cookie = posted;
            int rc = fp_net_post(c.conn, &op, 1);
            if (rc) {
                assert_int_equal(rc, FARPOOL_E_CLOSED);
                break;
            }
            posted++;
        }
        fp_net_event event = client_wait(&c);
        if (event.kind == FP_NET_CLOSED) {
            assert_int_equal(event.status, FARPOOL_E_NODE);
            break;
        }
        assert_int_equal(event.kind, FP_NET_DONE);
        assert_int_equal(event.cookie, done);
        done++;
        if (first_failure)
            assert_int_equal(event.status, FARPOOL_E_CLOSED);
        else if (event.status)
            assert_int_equal(first_failure = event.status, FARPOOL_E_NODE);
        if (done == kill_after) {
            victim_kill(server_to_kill);
            killed_ns = fp_net_now_ns(c.net);
        }
    }
    assert_int_equal(posted, done);
    assert_true(done >= kill_after);
    assert_true(fp_net_now_ns(c.net) - killed_ns < UINT64_C(60000000000));
    assert_true(strlen(fp_net_conn_reason(c.conn)) > 10);
}

static victim dying; /* large */

static void the_peer_is_killed(void **state)
{
    (void)state;
    victim_start(&dying, peer_uri());
    client_open(&c, NULL, dying.uri);
    pump_until_broken(500, &dying);
    victim_reap(&dying);
    fp_net_conn_close(c.conn);
    c.conn = NULL;
    assert_int_equal(client_connect(&c, dying.uri), FARPOOL_E_NODE);
    client_close(&c);
    /* A new one takes the address of the dead. */
    char uri[FP_NET_URI_MAX];
    strcpy(uri, dying.uri);
    victim_start(&dying, uri);
    client_open(&c, NULL, dying.uri);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 4096)), 0);
    client_close(&c);
    victim_kill(&dying);
    victim_reap(&dying);
}

/* An idle connection learns of the death, too, without posting. */
static void death_is_noticed_when_idle(void **state)
{
    (void)state;
    victim_start(&dying, peer_uri());
    client_open(&c, NULL, dying.uri);
    victim_kill(&dying);
    client_expect(&c, FP_NET_CLOSED, FARPOOL_E_NODE);
    victim_reap(&dying);
    client_close(&c);
}

/* Nor does a poller that another connection keeps busy, and that never waits, miss it. */
static void death_is_noticed_when_busy(void **state)
{
    (void)state;
    static victim second; /* at an address of its own */
    char uri[FP_NET_URI_MAX];
    bool named = peer_scheme_is("shm") || peer_scheme_is("sim"); /* the others choose a port */
    snprintf(uri, sizeof uri, "%s%s", peer_uri(), named ? ".2" : "");
    victim_start(&dying, peer_uri());
    victim_start(&second, uri);
    client_open(&c, NULL, dying.uri);
    fp_conn *idle = c.conn;
    assert_int_equal(client_connect(&c, second.uri), 0);
    victim_kill(&dying);
    uint64_t start = fp_net_now_ns(c.net);
    for (bool closed = false; !closed;) {
        fp_net_op op = op_read(&c, c.keys.rw, 0, 0, 4096);
        assert_int_equal(fp_net_post(c.conn, &op, 1), 0);
        for (bool done = false; !done;) {
            fp_net_event event;
            if (!fp_net_poll(c.poller, &event, 1, 0))
                continue;
            done = event.kind == FP_NET_DONE;
            closed |= event.kind == FP_NET_CLOSED;
            assert_ptr_equal(event.conn, done ? c.conn : idle);
            assert_int_equal(event.status, done ? 0 : FARPOOL_E_NODE);
        }
        assert_true(fp_net_now_ns(c.net) - start < UINT64_C(60000000000));
    }
    fp_net_conn_close(idle);
    victim_reap(&dying);
    client_close(&c);
    victim_kill(&second);
    victim_reap(&second);
}

/* N6: what is closed leaves nothing in the poller, also of one who never polls in between. */
static void close_again_and_again(void **state)
{
    (void)state;
    enum { ROUNDS = 60 };
    for (int i = 0; i < ROUNDS; i++) {
        fp_conn *conn;
        assert_int_equal(fp_net_connect(c.poller, server.uri, &conn), 0);
        fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1, .sge = {{.addr = "z", .len = 1}}};
        for (int k = 0; k < FP_NET_RECV_DEPTH; k++)
            assert_int_equal(fp_net_post(conn, &op, 1), 0);
        fp_net_conn_close(conn);
    }
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 64, 0, 64)), 0);
    client_wait_counter(&c, &server.closed, ROUNDS);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_peer_is_killed), /* first: fork before there is a net */
        cmocka_unit_test(death_is_noticed_when_idle),
        cmocka_unit_test(death_is_noticed_when_busy),
        PEER_TEST(unknown_key),
        PEER_TEST(read_beyond_the_end),
        PEER_TEST(write_beyond_the_end),
        PEER_TEST(read_before_the_start),
        PEER_TEST(addresses_that_wrap),
        PEER_TEST(write_to_read_only),
        PEER_TEST(read_of_write_only),
        PEER_TEST(registered_but_not_shared),
        PEER_TEST(what_is_granted_works),
        PEER_TEST(withdrawn_memory),
        PEER_TEST(nothing_lands_after_withdrawal),
        PEER_TEST(close_with_operations_in_flight),
        PEER_TEST(the_peer_closes),
        PEER_TEST(close_again_and_again),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return peer_for_each(group); }
