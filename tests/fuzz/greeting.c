/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that nobody comes through a handshake but with the key, whatever is said in whatever order: to a server that has a
 * secret, by a client that has one proof of another connection and knows what is on this one; and to a client, by a server that
 * knows the same. An input is a script of messages. SEED=n repeats one.
 */
#include <stdio.h>
#include <string.h>

#include "common/daemon/server.h"
#include "common/error.h"
#include "common/greet.h"
#include "common/log.h"
#include "common/net/sim.h"
#include "tests/lib/fuzz.h"
#include "tests/lib/require.h"
#include "tests/lib/secret.h"

const unsigned fuzz_runs = 20000;

static fp_auth *secret, *key, *other;
static fp_sim_world *world;
static fp_server server;
static fp_net *net;
static fp_poller *poller;
static unsigned requests; /* that came to the server's owner */
static bool proven;       /* the client has sent a true proof on this connection */
static fp_msg out, in, old_proof;

static void take_request(void *owner, fp_server_client *client)
{
    (void)owner;
    FUZZ_CHECK(client->authenticated && proven && !strcmp(client->name, "ann"));
    requests++;
    fp_server_refuse(&server, client, server.request.request,
                     fp_error(FARPOOL_E_UNSUPPORTED, "nothing is done here"));
}

static void dropped(void *owner, fp_server_client *client)
{
    (void)owner;
    (void)client;
}

static void drive(void *arg)
{
    (void)arg;
    FUZZ_CHECK(fp_server_step(&server) >= 0);
}

static void open_once(void)
{
    static const fp_server_ops ops = {
        .client_bytes = sizeof(fp_server_client), .request = take_request, .dropped = dropped};
    const char *bound;
    if (world)
        return;
    fp_log_set_level(FP_LOG_ERROR);
    secret = test_secret(1, "all");
    key = test_key(secret, "ann");
    other = test_secret(2, "ann");
    fp_sim_config config = {0};
    test_must(fp_sim_world_open(1, &config, &world), "a world");
    fp_net_options options = {.world = world};
    test_must(fp_server_open(&server, &ops, NULL, "node", 1, secret), "a server");
    test_must(fp_server_listen(&server, "sim://node", &options, &bound), "listening");
    fp_sim_set_driver(fp_server_poller(&server, 0), drive, NULL);
    test_must(fp_net_open("sim://client", &options, &net), "a net");
    test_must(fp_net_poller_open(net, &poller), "a poller");
}

/* False: it was cut off. */
static bool say(fp_conn *conn, const void *bytes, size_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = (void *)(uintptr_t)bytes, .len = (uint32_t)len};
    if (fp_net_post(conn, &op, 1))
        return false;
    for (int i = 0; i < 1000; i++) {
        fp_net_event event;
        if (fp_net_poll(poller, &event, 1, 1) <= 0)
            continue;
        if (event.kind == FP_NET_CLOSED)
            return false;
        if (event.kind == FP_NET_RECV)
            return !fp_wire_decode(event.data, event.len, &in);
    }
    FUZZ_CHECK(!"an answer, or the end");
    return false;
}

/* A proof by that auth of what was said last, or of what was said otherwise. */
static void prove(const fp_auth *auth, const char *name, enum fp_auth_side side, uint64_t twist)
{
    uint8_t zero[FP_AUTH_BYTES] = {0};
    fp_auth_talk talk = {name, in.text, in.boot_id, twist & 1 ? zero : out.nonce,
                         twist & 2 ? zero : in.nonce};
    test_must(fp_auth_prove(auth, side, &talk, out.proof), "a proof");
    out.type = FP_MSG_PROOF;
}

static void be_client(fuzz_script *script)
{
    static uint8_t bytes[FP_NET_MESSAGE_MAX];
    fp_conn *conn;
    bool lives = true;
    proven = false;
    test_must(fp_net_connect(poller, "sim://node", &conn), "connecting");
    memset(&in, 0, sizeof in);
    memset(&out, 0, sizeof out);
    while (lives && script->at < script->end) {
        uint64_t what = fuzz_number(script, 1);
        size_t len = 0;
        bool challenged = in.type == FP_MSG_CHALLENGE;
        switch (what % 8) {
        case 0:
        case 1:
            out.type = FP_MSG_HELLO;
            snprintf(out.text, sizeof out.text, "%s", what & 64 ? "ann" : "bob");
            memset(out.nonce, (int)what, sizeof out.nonce);
            break;
        case 2: /* the only one that may do */
            prove(key, "ann", FP_AUTH_CLIENT, what >> 4);
            proven |= challenged && !(what >> 4 & 3) && !strcmp(out.text, "ann");
            if (proven)
                old_proof = out;
            break;
        case 3:
            prove(other, "ann", FP_AUTH_CLIENT, 0);
            break;
        case 4:
            prove(key, "ann", FP_AUTH_SERVER, 0);
            break;
        case 5:
            out.type = FP_MSG_PROOF;
            memcpy(out.proof, what & 64 ? in.proof : old_proof.proof, sizeof out.proof);
            break;
        case 6:
            out.type = FP_MSG_HELLO + (enum fp_msg_type)(fuzz_number(script, 1) % FP_MSG_LAST);
            break;
        default:
            memcpy(bytes, fuzz_bytes(script, fuzz_number(script, 1), &len), len);
            lives = say(conn, bytes, len);
            continue;
        }
        out.count = out.total = out.first = 0;
        out.data_len = 0;
        lives = say(conn, bytes, fp_wire_encode(&out, bytes, sizeof bytes));
        FUZZ_CHECK(!lives || in.type != FP_MSG_HELLO_OK || proven);
    }
    fp_net_conn_close(conn);
}

/* The client's side, which only the key's owner may end well. */
static void be_server(fuzz_script *script)
{
    fp_greet greet;
    bool proof_true = false;
    test_must(fp_greet_begin(&greet, key, NULL, "", &out), "a greeting");
    while (script->at < script->end) {
        uint64_t what = fuzz_number(script, 1);
        memset(&in, 0, offsetof(fp_msg, extents));
        in.type = what & 1 ? FP_MSG_CHALLENGE : FP_MSG_HELLO_OK;
        if (what % 16 == 15)
            in.type = FP_MSG_HELLO + (enum fp_msg_type)(fuzz_number(script, 1) % FP_MSG_LAST);
        in.boot_id = what >> 1 & 1;
        snprintf(in.text, sizeof in.text, "%s", what & 4 ? "node" : "edon");
        memset(in.nonce, (int)what, sizeof in.nonce);
        fp_auth_talk talk = {"ann", in.text, in.boot_id, greet.nonce, in.nonce};
        bool by_key = what & 32 && !(what & 64);
        test_must(fp_auth_prove(what & 32 ? secret : other,
                                what & 64 ? FP_AUTH_CLIENT : FP_AUTH_SERVER, &talk, in.proof),
                  "a proof");
        int rc = fp_greet_take(&greet, &in);
        FUZZ_CHECK(rc <= 0 || by_key);
        FUZZ_CHECK(rc || proof_true);
        proof_true |= rc > 0;
        if (rc <= 0)
            return;
    }
}

void fuzz_one(const uint8_t *data, size_t size)
{
    fuzz_script script = {data, data + size};
    open_once();
    if (fuzz_number(&script, 1) % 4)
        be_client(&script);
    else
        be_server(&script);
}

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    static const uint8_t ways[][3] = {{1, 0x40, 0x02}, {1, 0x40}, {0, 0x21}, {0}};
    uint64_t way = test_random(random) % 8;
    if (way >= 4)
        return fuzz_noise(random, data, capacity, 2, 24);
    size_t len = way == 0 ? 3 : way < 3 ? 2 : 1; /* a beginning that is right */
    memcpy(data, ways[way], len);
    return len + fuzz_noise(random, data + len, capacity - len, 1, 12);
}
