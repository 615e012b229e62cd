/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that control requests to a memory node, over a network that loses connections, are each answered or end
 * with their connection, and that the node's account adds up afterwards. 500 seeds; SEED=n replays one, twice, and
 * both runs must be the same to the last step.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/greet.h"
#include "common/log.h"
#include "common/net/sim.h"
#include "common/wire.h"
#include "memnode/server.h"
#include "tests/lib/secret.h"
#include "tests/lib/seeds.h"

enum { SEEDS = 500, REQUESTS = 60 };

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "SEED=%llu: %s is false (%s)\n", (unsigned long long)seed, #condition, \
                    farpool_errmsg());                                                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static fp_msg msg;
static uint64_t answered, lost;
static fp_auth *secret;

static void drive(void *node)
{
    while (fp_memnode_step(node) > 0)
        ;
}

/* One request: 0 and the answer in msg, or 1 when the connection ended first. */
static int ask(uint64_t seed, fp_poller *poller, fp_conn *conn)
{
    uint8_t buffer[FP_NET_MESSAGE_MAX];
    static uint32_t number;
    msg.request = ++number;
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){buffer, (uint32_t)fp_wire_encode(&msg, buffer, sizeof buffer), NULL};
    if (fp_net_post(conn, &op, 1))
        return 1;
    for (;;) {
        fp_net_event event;
        CHECK(fp_net_poll(poller, &event, 1, 1000) == 1); /* never silence */
        if (event.kind == FP_NET_CLOSED)
            return 1;
        if (event.kind != FP_NET_RECV)
            continue;
        CHECK(fp_wire_decode(event.data, event.len, &msg) == 0);
        CHECK(msg.request == number);
        return 0;
    }
}

static uint64_t random_request(uint64_t *random)
{
    static const enum fp_msg_type types[] = {FP_MSG_GRANT, FP_MSG_ATTACH, FP_MSG_RELEASE,
                                             FP_MSG_USAGE, FP_MSG_HELLO,  FP_MSG_RELEASE_OK};
    *random = *random * 6364136223846793005ull + 1442695040888963407ull; /* Knuth's MMIX */
    uint64_t r = *random >> 20;
    memset(&msg, 0, sizeof msg);
    msg.type = types[r % 6];
    msg.partition = 1 + (r >> 8) % 3;
    msg.epoch = 1 + (r >> 12) % 8;
    msg.bytes = 1 + (r >> 16) % (20u << 20);
    strcpy(msg.text, "model");
    return r;
}

static uint64_t run_seed(uint64_t seed)
{
    fp_sim_config config = {.loss_per_million = 20000};
    fp_sim_world *world;
    fp_memnode *node;
    fp_net *net;
    fp_poller *poller;
    const char *bound;
    CHECK(fp_sim_world_open(seed, &config, &world) == 0);
    fp_net_options options = {.world = world};
    fp_greet greet;
    int greeting = 0; /* 1: what is next is a message of the handshake */
    const fp_auth *auth = seed % 3 ? secret : NULL; /* whose nonces must change nothing */
    fp_memnode_config memory = {.name = "node",
                                .auth = auth,
                                .memory_bytes = 24 << 20,
                                .extent_order = 10,
                                .numa_node = -1,
                                .boot_id = seed};
    CHECK(fp_memnode_open(&memory, &node) == 0);
    CHECK(fp_memnode_listen(node, "sim://node", &options, &bound) == 0);
    fp_sim_set_driver(fp_memnode_poller(node, 0), drive, node);
    CHECK(fp_net_open("sim://client", &options, &net) == 0);
    CHECK(fp_net_poller_open(net, &poller) == 0);
    uint64_t random = seed;
    fp_conn *conn = NULL;
    for (int i = 0; i < REQUESTS; i++) {
        if (!conn) {
            CHECK(fp_net_connect(poller, "sim://node", &conn) == 0);
            memset(&msg, 0, sizeof msg);
            CHECK(fp_greet_begin(&greet, auth, "model", "", &msg) == 0);
            greeting = 1;
        } else if (!greeting) {
            random_request(&random);
        }
        if (ask(seed, poller, conn)) {
            lost++;
            fp_net_conn_close(conn);
            conn = NULL;
            greeting = 0;
        } else {
            if (greeting)
                greeting = fp_greet_take(&greet, &msg);
            CHECK(greeting >= 0);
            answered++;
        }
    }
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    CHECK(usage.bytes_granted + usage.bytes_clearing <= usage.bytes_total && !usage.bytes_lost);
    CHECK(usage.partitions <= 3);
    uint64_t hash = fp_sim_trace_hash(world);
    fp_net_conn_close(conn);
    fp_net_poller_close(poller);
    fp_net_close(net);
    fp_memnode_close(node);
    fp_sim_world_close(world);
    return hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS, .twice = 50};
    fp_log_set_level(FP_LOG_ERROR);
    secret = test_secret(1, "model");
    test_seeds_run(&seeds, run_seed);
    printf("%llu requests answered, %llu ended with their connection\n",
           (unsigned long long)answered, (unsigned long long)lost);
    fp_auth_close(secret);
    return 0;
}
