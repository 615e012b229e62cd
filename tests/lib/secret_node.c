/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/secret_node.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/lib/require.h"

enum { NODE_BYTES = 24 << 20, WAIT_MS = 60000 };

/* ---- the node -------------------------------------------------------------------------------- */

static void *serve(void *arg)
{
    secret_node *n = arg;
    int fds[FP_SERVER_NETS_MAX];
    REQUIRE(fp_memnode_fds(n->node, fds) == 1);
    struct pollfd polls[2] = {{.fd = fds[0], .events = POLLIN},
                              {.fd = n->stop_fd, .events = POLLIN}};
    for (;;) {
        int more = fp_memnode_step(n->node);
        test_must(more < 0 ? more : 0, "serving");
        if (poll(polls, 2, more ? 0 : -1) > 0 && polls[1].revents)
            return NULL;
    }
}

static void drive(void *arg)
{
    int more;
    while ((more = fp_memnode_step(arg)) > 0)
        ;
    test_must(more, "serving");
}

void secret_node_start(secret_node *n, const fp_auth *auth)
{
    fp_memnode_config config = {.name = "secretnode",
                                .memory_bytes = NODE_BYTES,
                                .extent_order = FP_EXTENT_ORDER_MIN,
                                .numa_node = -1,
                                .in_cluster = n->in_cluster,
                                .auth = auth};
    fp_net_options options = {.world = peer_world()};
    const char *bound;
    fp_log_set_level(FP_LOG_ERROR);
    test_must(fp_memnode_open(&config, &n->node), "opening a memory node");
    test_must(fp_memnode_listen(n->node, peer_uri(), &options, &bound), "listening");
    snprintf(n->uri, sizeof n->uri, "%s", bound);
    if (peer_world()) {
        fp_sim_set_driver(fp_memnode_poller(n->node, 0), drive, n->node);
        return;
    }
    n->stop_fd = eventfd(0, EFD_CLOEXEC);
    REQUIRE(n->stop_fd >= 0);
    REQUIRE(!pthread_create(&n->thread, NULL, serve, n));
}

void secret_node_stop(secret_node *n)
{
    uint64_t one = 1;
    if (!peer_world()) {
        REQUIRE(write(n->stop_fd, &one, sizeof one) == sizeof one);
        pthread_join(n->thread, NULL);
        close(n->stop_fd);
    }
    fp_memnode_close(n->node);
}

/* ---- its clients ----------------------------------------------------------------------------- */

static void look(talker *t, const bool *flag)
{
    fp_net_event event;
    uint64_t end = fp_net_now_ns(t->net) + WAIT_MS * 1000000ull;
    while (!(flag && *flag) && !t->closed && fp_net_now_ns(t->net) < end) {
        int n = fp_net_poll(t->poller, &event, 1, 100);
        test_must(n < 0 ? n : 0, "polling");
        if (!n)
            continue;
        if (event.kind == FP_NET_RECV) {
            test_must(fp_wire_decode(event.data, event.len, &t->msg), "decoding");
            t->have_answer = true;
        } else if (event.kind == FP_NET_CLOSED) {
            t->closed = event.status;
        } else if (event.kind == FP_NET_DONE && event.cookie) {
            t->done = event.status;
            t->have_done = true;
        }
    }
    REQUIRE(t->closed || (flag && *flag));
}

int talker_open(talker *t, const fp_auth *auth, const char *uri)
{
    fp_net_options options = {.auth = auth, .world = peer_world()};
    memset(t, 0, sizeof *t);
    test_must(fp_net_open(peer_world() ? "sim://talker" : uri, &options, &t->net), "a net");
    test_must(fp_net_poller_open(t->net, &t->poller), "opening a poller");
    test_must(fp_mem_open(4096, 0, -1, &t->mem), "memory");
    test_must(fp_net_register(t->net, &t->mem, FP_NET_LOCAL, &t->mr), "registering");
    int rc = fp_net_connect(t->poller, uri, &t->conn);
    if (rc)
        t->conn = NULL;
    return rc;
}

void talker_close(talker *t)
{
    if (t->conn)
        fp_net_conn_close(t->conn);
    fp_net_poller_close(t->poller);
    fp_net_unregister(t->mr);
    fp_net_close(t->net);
    fp_mem_close(&t->mem);
}

int talker_say(talker *t, const void *bytes, size_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = (void *)(uintptr_t)bytes, .len = (uint32_t)len};
    t->have_answer = false;
    int rc = fp_net_post(t->conn, &op, 1);
    if (rc)
        return rc;
    look(t, &t->have_answer);
    if (!t->have_answer)
        return t->closed;
    return t->msg.type == FP_MSG_ERROR ? t->msg.code : (int)t->msg.type;
}

int talker_ask(talker *t, fp_msg msg)
{
    uint8_t buffer[FP_NET_MESSAGE_MAX];
    msg.request = ++t->requests;
    return talker_say(t, buffer, fp_wire_encode(&msg, buffer, sizeof buffer));
}

int talker_greet(talker *t, const fp_auth *auth, const char *name)
{
    fp_greet greet;
    int rc = fp_greet_begin(&greet, auth, name, fp_net_conn_wanted(t->conn), &t->msg);
    test_must(rc, "beginning a handshake");
    do {
        rc = talker_ask(t, t->msg);
        if (!t->have_answer)
            return rc;
        rc = fp_greet_take(&greet, &t->msg);
    } while (rc > 0);
    return rc;
}

void talker_wait_closed(talker *t) { look(t, NULL); }

int talker_read(talker *t, fp_rkey key)
{
    fp_net_op op = {.kind = FP_NET_READ,
                    .cookie = 1,
                    .remote_key = key.key,
                    .remote_addr = key.addr,
                    .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = t->mem.addr, .len = 4096, .mr = t->mr};
    t->have_done = false;
    int rc = fp_net_post(t->conn, &op, 1);
    if (rc)
        return rc;
    look(t, &t->have_done);
    return t->have_done ? t->done : t->closed;
}
