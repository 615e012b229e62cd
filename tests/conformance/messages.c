/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that messages arrive whole and in order, also when the receiver does not poll (N10,
 * N11). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "tests/lib/peer_pair.h"

static void fill(char *message, uint32_t len, uint32_t number)
{
    for (uint32_t i = 0; i < len; i++)
        message[i] = (char)(i * 7 + number);
    if (len)
        message[0] = 'e';
    if (len >= 8)
        memcpy(message + 4, &number, sizeof number);
}

static void every_size_arrives_whole(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 1, 2, 63, 64, 65, 1000, 4096, 16383, FP_NET_MESSAGE_MAX};
    static char message[FP_NET_MESSAGE_MAX];
    for (uint32_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        fill(message, sizes[i], i);
        client_send(&c, message, sizes[i]);
        bool done = false, answered = false;
        while (!done || !answered) {
            fp_net_event event = client_wait(&c);
            assert_int_equal(event.status, 0);
            done |= event.kind == FP_NET_DONE;
            if (event.kind != FP_NET_RECV)
                continue;
            assert_int_equal(event.len, sizes[i]);
            assert_memory_equal(event.data, message, sizes[i]);
            answered = true;
        }
    }
}

/* SEND gathers its pieces and copies them (N7). */
static void pieces_are_copied(void **state)
{
    (void)state;
    char first[10] = "e12345678", second[20] = "abcdefghijklmnopqrs";
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 2};
    op.sge[0] = (fp_sge){first, 9, NULL};
    op.sge[1] = (fp_sge){second, 19, NULL};
    assert_int_equal(fp_net_post(c.conn, &op, 1), 0);
    memset(first, 0, sizeof first);
    memset(second, 0, sizeof second);
    char answer[28];
    assert_int_equal(client_answer(&c, answer, sizeof answer), 28);
    assert_memory_equal(answer, "e12345678abcdefghijklmnopqrs", 28);
}

static void many_arrive_in_order(void **state)
{
    (void)state;
    enum { COUNT = 2000 };
    static char message[5000];
    uint32_t sent = 0, received = 0, done = 0;
    while (received < COUNT || done < COUNT) {
        while (sent < COUNT && sent - received < FP_NET_RECV_DEPTH) {
            uint32_t len = 8 + sent * 37 % 4900;
            fill(message, len, sent);
            client_send(&c, message, len);
            sent++;
        }
        fp_net_event event = client_wait(&c);
        assert_int_equal(event.status, 0);
        if (event.kind == FP_NET_DONE) {
            done++;
            continue;
        }
        assert_int_equal(event.kind, FP_NET_RECV);
        fill(message, event.len, received);
        assert_int_equal(event.len, 8 + received * 37 % 4900);
        assert_memory_equal(event.data, message, event.len);
        received++;
    }
}

/* A receiver that does not poll: posts never block, at most FP_NET_DEPTH_MAX wait, and all that was
 * accepted arrives when it polls again; a transport without flow control may break instead. */
static void a_receiver_that_does_not_poll(void **state)
{
    (void)state;
    static char message[FP_NET_MESSAGE_MAX];
    uint32_t posted = 0, done = 0, received = 0;
    bool broken = false;
    peer_pause(&server);
    for (int idle = 0; idle < 20 && !broken;) {
        fill(message, sizeof message, posted);
        message[0] = 'n'; /* not answered */
        fp_net_op op = {.kind = FP_NET_SEND, .cookie = posted, .sge_count = 1};
        op.sge[0] = (fp_sge){message, sizeof message, NULL};
        int rc = fp_net_post(c.conn, &op, 1);
        posted += rc == 0;
        fp_net_event event;
        int n = rc == 0 ? 0 : fp_net_poll(c.poller, &event, 1, 10);
        if (n == 1 && event.kind == FP_NET_DONE) {
            assert_int_equal(event.cookie, done);
            done++;
            broken = event.status != 0;
        }
        idle = rc == FARPOOL_E_BUSY && n == 0 ? idle + 1 : 0;
    }
    if (!broken) /* what is not a message still moves, or waits its turn, but does not fail */
        assert_int_equal(posted - done, FP_NET_DEPTH_MAX);
    peer_resume(&server);
    while (done < posted) {
        fp_net_event event = client_wait(&c);
        broken |= event.status != 0;
        assert_int_equal(event.kind, FP_NET_DONE);
        assert_int_equal(event.cookie, done);
        done++;
    }
    if (broken) {
        assert_false(peer_scheme_is("tcp") || peer_scheme_is("shm"));
        client_expect(&c, FP_NET_CLOSED, c.conn->status);
        return;
    }
    client_send(&c, "e", 1);
    while (received == 0 || done == posted) {
        fp_net_event event = client_wait(&c);
        assert_int_equal(event.status, 0);
        done += event.kind == FP_NET_DONE;
        received += event.kind == FP_NET_RECV;
    }
}

/* Who never polls does not hold the sender up for ever, where nothing slows it down: the message that
 * finds no buffer for about 2 s breaks the connection, though the peer is alive. */
static void a_receiver_that_never_polls(void **state)
{
    (void)state;
    peer_applies(__func__);
    peer_pause(&server);
    for (int i = 0; i < FP_NET_DEPTH_MAX; i++)
        client_send(&c, "n", 1);
    uint64_t start = fp_now_ns();
    int failed = 0;
    fp_net_event event;
    for (int i = 0; i < FP_NET_DEPTH_MAX; i++) {
        event = client_wait(&c);
        assert_int_equal(event.kind, FP_NET_DONE);
        if (event.status && !failed++)
            assert_int_equal(event.status, FARPOOL_E_NODE);
    }
    client_expect(&c, FP_NET_CLOSED, FARPOOL_E_NODE);
    double seconds = (double)(fp_now_ns() - start) / 1e9;
    print_message("%s: %d messages failed after %.1f s\n", fp_net_conn_reason(c.conn), failed,
                  seconds);
    assert_true(failed > 0 && seconds < 60);
    peer_resume(&server);
    /* RNR_RETRY_EXC, but rxe counts these retries among the others */
    assert_non_null(strstr(fp_net_conn_reason(c.conn), "RETRY_EXC: "));
}

/* One-sided operations go on while the peer does not take its messages out: within the queue's
 * depth. */
static void reads_beside_waiting_messages(void **state)
{
    (void)state;
    peer_pause(&server);
    for (int i = 0; i < FP_NET_RECV_DEPTH; i++)
        client_send(&c, "n", 1);
    for (int i = 0; i < FP_NET_RECV_DEPTH; i++)
        client_expect(&c, FP_NET_DONE, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 4096)), 0);
    peer_resume(&server);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        PEER_TEST(every_size_arrives_whole),      PEER_TEST(pieces_are_copied),
        PEER_TEST(many_arrive_in_order),          PEER_TEST(a_receiver_that_does_not_poll),
        PEER_TEST(reads_beside_waiting_messages), PEER_TEST(a_receiver_that_never_polls),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return peer_for_each(group); }
