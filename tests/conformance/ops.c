/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that operations do what they say: READ, WRITE, immediate, order, depth, sizes (N1 to N4,
 * N7, N9). */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/peer_pair.h"

static void check_pattern(const uint8_t *got, size_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (got[i] != peer_byte(offset + i))
            fail_msg("byte %zu is %u instead of %u", i, got[i], peer_byte(offset + i));
    }
}

static void read_scatters_over_two_pieces(void **state)
{
    (void)state;
    fp_net_op op = op_read(&c, c.keys.rw, 4160, 0, 64);
    op.sge[op.sge_count++] = (fp_sge){local(8192), 4096, c.mr};
    assert_int_equal(client_do(&c, op), 0);
    check_pattern(local(0), 4160, 64);
    check_pattern(local(8192), 4160 + 64, 4096);
    assert_int_equal(*local(64), 0); /* nothing beyond the pieces */
    assert_int_equal(*local(8192 + 4096), 0);
}

static void write_gathers_and_sizes(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {0, 1, 7, 63, 64, 65, 4095, 4096, 4160, 65536, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint32_t len = sizes[i];
        for (uint32_t k = 0; k < len + 8; k++)
            *local(k) = (uint8_t)(k * 13 + i);
        fp_net_op op = op_write(&c, c.keys.rw, 100, 0, len / 2);
        op.sge[op.sge_count++] = (fp_sge){local(len / 2), len - len / 2, c.mr};
        assert_int_equal(client_do(&c, op), 0);
        assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 100, 4 << 20, len)), 0);
        assert_memory_equal(local(0), local(4 << 20), len);
    }
}

static void large_operations(void **state)
{
    (void)state;
    size_t len = 4 << 20;
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 12345, 0, (uint32_t)len)), 0);
    check_pattern(local(0), 12345, len);
    for (size_t i = 0; i < len; i++)
        *local(i) = (uint8_t)(i * 3 + 1);
    assert_int_equal(client_do(&c, op_write(&c, c.keys.rw, 777, 0, (uint32_t)len)), 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 777, len, (uint32_t)len)), 0);
    assert_memory_equal(local(0), local(len), len);
}

/* N1, N2 */
static void deep_queue_completes_in_order(void **state)
{
    (void)state;
    fp_net_op ops[FP_NET_DEPTH_MAX];
    for (int round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < FP_NET_DEPTH_MAX; i++) {
            ops[i] = op_read(&c, c.keys.rw, i * 5000, i * 8192, 4096 + i);
            ops[i].cookie = 1000 + i;
        }
        assert_int_equal(fp_net_post(c.conn, ops, 100), 0);
        /* All or none: 29 more are too many, and none of them may come back. */
        assert_int_equal(fp_net_post(c.conn, ops + 99, 29), FARPOOL_E_BUSY);
        assert_non_null(strstr(farpool_errmsg(), c.conn->peer));
        assert_int_equal(fp_net_post(c.conn, ops + 100, 28), 0);
        assert_int_equal(fp_net_post(c.conn, ops, 1), FARPOOL_E_BUSY);
        for (uint32_t i = 0; i < FP_NET_DEPTH_MAX; i++) {
            fp_net_event event = client_expect(&c, FP_NET_DONE, 0);
            assert_int_equal(event.cookie, 1000 + i);
            check_pattern(local(i * 8192), i * 5000, 4096 + i);
        }
    }
    fp_net_event event;
    assert_int_equal(fp_net_poll(c.poller, &event, 1, 0), 0);
}

/* N7: what was inline may be changed as soon as the post returns. */
static void inline_is_copied(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 100; i++) {
        char bytes[FP_NET_INLINE_MAX];
        memset(bytes, (int)i, sizeof bytes);
        fp_net_op op = op_write(&c, c.keys.rw, i * 128, 0, 0);
        op.flags = FP_NET_INLINE;
        op.sge[0] = (fp_sge){bytes, sizeof bytes, NULL};
        assert_int_equal(fp_net_post(c.conn, &op, 1), 0);
        memset(bytes, 0xff, sizeof bytes);
    }
    for (int i = 0; i < 100; i++)
        client_expect(&c, FP_NET_DONE, 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 12800)), 0);
    for (size_t i = 0; i < 12800; i++)
        assert_int_equal(*local(i), i / 128);
}

/* N3 */
static void send_follows_write(void **state)
{
    (void)state;
    for (uint64_t i = 1; i <= 200; i++) {
        uint64_t at = 64 * (i % 16);
        char command[9] = "v";
        memcpy(command + 1, &at, 8);
        memcpy(local(0), &i, 8);
        fp_net_op ops[2] = {op_write(&c, c.keys.rw, at, 0, 8), {.kind = FP_NET_SEND, .cookie = 7}};
        ops[1].sge_count = 1;
        ops[1].sge[0] = (fp_sge){command, sizeof command, NULL};
        assert_int_equal(fp_net_post(c.conn, ops, 2), 0);
        int done = 0;
        for (bool answered = false; !answered || done < 2;) {
            fp_net_event event = client_wait(&c);
            assert_int_equal(event.status, 0);
            done += event.kind == FP_NET_DONE;
            if (event.kind != FP_NET_RECV)
                continue;
            assert_int_equal(event.len, 8);
            assert_memory_equal(event.data, &i, 8);
            answered = true;
        }
    }
}

static void write_imm_tells_the_peer(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        fp_net_op op = op_write(&c, c.keys.rw, 4096, 0, 100 * i);
        op.kind = FP_NET_WRITE_IMM;
        op.imm = 0xfedcba00 + i;
        assert_int_equal(fp_net_post(c.conn, &op, 1), 0);
        uint32_t told[2] = {0};
        int done = 0;
        for (bool answered = false; !answered || !done;) {
            fp_net_event event = client_wait(&c);
            assert_int_equal(event.status, 0);
            done += event.kind == FP_NET_DONE;
            if (event.kind != FP_NET_RECV)
                continue;
            memcpy(told, event.data, sizeof told);
            answered = true;
        }
        assert_int_equal(told[0], 0xfedcba00 + i);
        assert_int_equal(told[1], 100 * i);
    }
}

/* N9 */
static void data_moves_without_the_target(void **state)
{
    (void)state;
    peer_pause(&server);
    memset(local(0), 0x5a, 5000);
    assert_int_equal(client_do(&c, op_write(&c, c.keys.rw, 9000, 0, 5000)), 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 9000, 8192, 5000)), 0);
    peer_resume(&server);
    assert_memory_equal(local(0), local(8192), 5000);
}

static void the_accepted_side_can_read_and_write(void **state)
{
    (void)state;
    fp_rkey mine = fp_net_rkey(c.mr);
    assert_int_equal(fp_net_share(c.conn, c.mr), 0);
    assert_int_equal(fp_net_share(c.conn, c.mr), 0); /* twice is once */
    memset(local(0), 0x77, 4096);
    char command[1 + sizeof mine] = "r";
    memcpy(command + 1, &mine, sizeof mine);
    client_send(&c, command, sizeof command);
    char answer;
    assert_int_equal(client_answer(&c, &answer, 1), 1);
    assert_memory_equal(local(0), local(8192), 4096);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 4096)),
                     0); /* and still the other way */
    check_pattern(local(0), 0, 4096);
}

/* N10 */
static void poll_waits_as_told(void **state)
{
    (void)state;
    fp_net_event event;
    uint64_t start = fp_net_now_ns(c.net);
    assert_int_equal(fp_net_poll(c.poller, &event, 1, 0), 0);
    assert_true(fp_net_now_ns(c.net) - start < 1000000000);
    start = fp_net_now_ns(c.net);
    assert_int_equal(fp_net_poll(c.poller, &event, 1, 50), 0);
    assert_true(fp_net_now_ns(c.net) - start >= 49000000);
}

static void poller_fd_tells_of_messages(void **state)
{
    (void)state;
    peer_applies(__func__);
    struct pollfd wait = {.fd = fp_net_poller_fd(c.poller), .events = POLLIN};
    assert_true(wait.fd >= 0);
    client_send(&c, "e", 1);
    client_expect(&c, FP_NET_DONE, 0);
    fp_net_event event;
    int n = 0;
    for (int i = 0; i < 10000 && n == 0; i++) {
        n = fp_net_poll(c.poller, &event, 1, 0);
        if (n == 0)
            assert_int_equal(poll(&wait, 1, PEER_WAIT_MS), 1);
    }
    assert_int_equal(n, 1);
    assert_int_equal(event.kind, FP_NET_RECV);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        PEER_TEST(read_scatters_over_two_pieces),
        PEER_TEST(write_gathers_and_sizes),
        PEER_TEST(large_operations),
        PEER_TEST(deep_queue_completes_in_order),
        PEER_TEST(inline_is_copied),
        PEER_TEST(send_follows_write),
        PEER_TEST(write_imm_tells_the_peer),
        PEER_TEST(data_moves_without_the_target),
        PEER_TEST(the_accepted_side_can_read_and_write),
        PEER_TEST(poll_waits_as_told),
        PEER_TEST(poller_fd_tells_of_messages),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return peer_for_each(group); }
