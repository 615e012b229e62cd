/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/nodeclient.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/greet.h"
#include "tests/lib/secret.h"

enum { WAIT_SECONDS = 60 };

const char *scheme;
test_node *node;
fp_net *net;
fp_mem memory;
static fp_mr *mr;

bool scheme_is(const char *name) { return !strcmp(scheme, name); }

static void look(client *c, int timeout_ms)
{
    fp_net_event events[8];
    int n = fp_net_poll(c->poller, events, 8, timeout_ms);
    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        if (events[i].kind == FP_NET_RECV) {
            assert_int_equal(fp_wire_decode(events[i].data, events[i].len, &c->msg), 0);
            c->have_answer = true;
        } else if (events[i].kind == FP_NET_CLOSED) {
            c->closed = events[i].status;
        } else if (events[i].kind == FP_NET_DONE && events[i].cookie) {
            c->done = events[i].status;
            c->have_done = true;
        }
    }
}

void wait_for(client *c, const bool *flag)
{
    uint64_t deadline = fp_now_ns() + WAIT_SECONDS * 1000000000ull;
    while (!(flag && *flag) && !c->closed && fp_now_ns() < deadline)
        look(c, 100);
    if (flag)
        assert_true(*flag);
    else
        assert_int_not_equal(c->closed, 0);
}

void send_bytes(client *c, const void *bytes, size_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = (void *)(uintptr_t)bytes, .len = (uint32_t)len};
    assert_int_equal(fp_net_post(c->conn, &op, 1), 0);
}

void send_msg(client *c, fp_msg *msg)
{
    static uint8_t buffer[FP_NET_MESSAGE_MAX];
    msg->request = ++c->requests;
    send_bytes(c, buffer, fp_wire_encode(msg, buffer, sizeof buffer));
}

int ask(client *c, fp_msg msg)
{
    c->have_answer = false;
    send_msg(c, &msg);
    wait_for(c, &c->have_answer);
    assert_int_equal(c->msg.request, c->requests);
    return c->msg.type == FP_MSG_ERROR ? c->msg.code : (int)c->msg.type;
}

void connect_silently(client *c)
{
    memset(c, 0, sizeof *c);
    assert_int_equal(fp_net_poller_open(net, &c->poller), 0);
    assert_int_equal(fp_net_connect(c->poller, test_node_uri(node), &c->conn), 0);
}

void connect_as(client *c, const char *name)
{
    fp_greet greet;
    connect_silently(c);
    assert_int_equal(fp_greet_begin(&greet, fp_net_auth(net), name, "", &c->msg), 0);
    int rc;
    do {
        assert_true(ask(c, c->msg) > 0);
        rc = fp_greet_take(&greet, &c->msg);
    } while (rc > 0);
    assert_int_equal(rc, 0);
}

void connect_client(client *c) { connect_as(c, "test"); }

void disconnect(client *c)
{
    fp_net_conn_close(c->conn);
    fp_net_poller_close(c->poller);
}

int grant(client *c, uint64_t partition, uint64_t epoch, uint64_t bytes)
{
    return ask(
        c, (fp_msg){.type = FP_MSG_GRANT, .partition = partition, .epoch = epoch, .bytes = bytes});
}

int attach(client *c, uint64_t partition, uint64_t epoch, uint32_t first)
{
    return ask(
        c, (fp_msg){.type = FP_MSG_ATTACH, .partition = partition, .epoch = epoch, .first = first});
}

int release(client *c, uint64_t partition, uint64_t epoch)
{
    return ask(c, (fp_msg){.type = FP_MSG_RELEASE, .partition = partition, .epoch = epoch});
}

int transfer(client *c, enum fp_net_kind kind, fp_rkey extent, uint64_t offset)
{
    fp_net_op op = {.kind = kind,
                    .cookie = 1,
                    .remote_key = extent.key,
                    .remote_addr = extent.addr + offset,
                    .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = memory.addr, .len = 4096, .mr = mr};
    c->have_done = false;
    int rc = fp_net_post(c->conn, &op, 1);
    if (rc)
        return rc;
    wait_for(c, &c->have_done);
    return c->done;
}

bool local_is(uint8_t byte)
{
    const uint8_t *bytes = memory.addr;
    for (unsigned i = 0; i < 4096; i++) {
        if (bytes[i] != byte)
            return false;
    }
    return true;
}

static int set_up(test_node *with)
{
    node = with;
    fp_net_options options = {.auth = test_secret_auth()};
    assert_int_equal(fp_net_open(test_node_uri(node), &options, &net), 0);
    assert_int_equal(fp_mem_open(4096, 0, -1, &memory), 0);
    assert_int_equal(fp_net_register(net, &memory, FP_NET_LOCAL, &mr), 0);
    return 0;
}

int setup(void **state) { return setup_spilling(state, NULL); }

int setup_spilling(void **state, struct fp_spill *spill)
{
    (void)state;
    return set_up(test_node_start_spilling(scheme, NODE_BYTES, spill));
}

int setup_in_cluster(void **state)
{
    (void)state;
    return set_up(test_node_start_in_cluster(scheme, NODE_BYTES, NULL));
}

int teardown(void **state)
{
    (void)state;
    fp_net_unregister(mr);
    fp_net_close(net);
    fp_mem_close(&memory);
    test_node_stop(node);
    return 0;
}
