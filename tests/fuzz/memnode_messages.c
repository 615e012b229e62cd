/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that no sequence of control messages, sound or damaged, on several connections makes a memory node lose
 * count of an extent, give one to two, answer an old epoch, or stop serving others. Over the simulated network;
 * an input is a script of steps (see step). What one message must be answered is foretold from the node's own
 * tables; after each step the tables themselves are checked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/net/sim_world.h"
#include "memnode/node.h"
#include "tests/lib/fuzz.h"
#include "tests/lib/memnode_check.h"

enum {
    CONNS = 6,
    EXTENTS = 5,
    KEYS = 16, /* remembered of those that were handed out */
    STEPS_MAX = 80,
    BURST_MAX = 60, /* messages under way at once */
    MARK = 64,      /* bytes written and read by one-sided operations */
    CUT_OFF = 1,    /* of foretell: no answer, the connection ends */
};
#define EXTENT_BYTES ((uint64_t)FP_EXTENT_UNIT_BYTES << FP_EXTENT_ORDER_MIN)
#define HONEST 0x686f6e657374ull /* the partition of the client that keeps to the rules */

const unsigned fuzz_runs = 120;

typedef struct client {
    fp_conn *conn; /* NULL: none */
    fp_msg answer;
    unsigned answers, sent; /* messages */
    int done;               /* status of the last one-sided operation */
    bool closed;
} client;

static fp_sim_world *world;
static fp_memnode *node;
static fp_net *net;
static fp_poller *poller;
static client clients[CONNS + 1], *const honest = &clients[CONNS];
static fp_rkey keys[KEYS];
static unsigned key_count, under_way, calls, laziness;
static _Alignas(64) uint8_t local[MARK];
static fp_mr *local_mr;

/* One step, and that not always: so that many messages stand in one batch, and what takes several steps (a GRANT
 * that waits for clearing) meets the next ones. settle does the rest. */
static void drive(void *arg)
{
    (void)arg;
    if (++calls % laziness == 0)
        FUZZ_CHECK(fp_memnode_step(node) >= 0);
}

/* ---- clients --------------------------------------------------------------------------------- */

static fp_client *at_node(const client *c)
{
    for (fp_client *known = fp_node_first_client(node); known; known = fp_client_next(known)) {
        if (c->conn && ((sim_conn *)known->at.conn)->peer == (sim_conn *)c->conn)
            return known;
    }
    return NULL;
}

static void take(const fp_net_event *event)
{
    client *c = fp_net_conn_user(event->conn);
    if (event->kind == FP_NET_RECV) {
        FUZZ_CHECK(!fp_wire_decode(event->data, event->len, &c->answer));
        c->answers++;
        for (uint32_t i = 0; c->answer.type == FP_MSG_EXTENTS && i < c->answer.count; i++)
            keys[key_count++ % KEYS] = c->answer.extents[i];
    } else if (event->kind == FP_NET_DONE && event->cookie) {
        c->done = event->status;
    } else if (event->kind == FP_NET_CLOSED) {
        c->closed = true;
    }
}

static void close_client(client *c)
{
    if (c->conn)
        fp_net_conn_close(c->conn);
    c->conn = NULL;
}

/* Until nothing moves any more. */
static void settle(void)
{
    fp_net_event event;
    for (int idle = 0; idle < 2;
         idle++) { /* the node's step may bring more to be polled, and that another step */
        int moved = fp_net_poll(poller, &event, 1, 1000);
        if (moved == 1)
            take(&event);
        for (client *c = clients; c <= honest; c++) {
            if (c->conn && c->closed)
                close_client(c);
        }
        int more = moved ? 0 : fp_memnode_step(node);
        FUZZ_CHECK(moved >= 0 && more >= 0);
        if (moved || more)
            idle = -1;
    }
    under_way = 0;
}

static void send_bytes(client *c, const uint8_t *bytes, size_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = (void *)(uintptr_t)bytes, .len = (uint32_t)len};
    int rc = fp_net_post(c->conn, &op, 1);
    FUZZ_CHECK(!rc || (rc == FARPOOL_E_CLOSED && under_way)); /* CLOSED is still to be polled */
    c->sent++;
    under_way++;
}

static void connect_client(client *c)
{
    memset(c, 0, sizeof *c);
    FUZZ_CHECK(!fp_net_connect(poller, "sim://node", &c->conn));
    fp_net_conn_set_user(c->conn, c);
    under_way++; /* the node may be yet to hear of it */
}

static void ask_soundly(client *c, fp_msg msg, enum fp_msg_type answer)
{
    static uint8_t buffer[FP_NET_MESSAGE_MAX];
    msg.request = 7;
    send_bytes(c, buffer, fp_wire_encode(&msg, buffer, sizeof buffer));
    settle();
    FUZZ_CHECK(c->answers == c->sent && c->answer.request == 7 && c->answer.type == answer);
}

/* One of MARK bytes, at the start of an extent or its end. */
static int transfer(client *c, enum fp_net_kind kind, fp_rkey key, bool at_end)
{
    fp_net_op op = {.kind = kind, .cookie = 1, .remote_key = key.key, .sge_count = 1};
    op.remote_addr = at_end ? EXTENT_BYTES - MARK : 0;
    op.sge[0] = (fp_sge){local, MARK, local_mr};
    c->done = -1;
    FUZZ_CHECK(!fp_net_post(c->conn, &op, 1));
    settle();
    return c->done;
}

/* ---- what must hold whenever nothing moves --------------------------------------------------- */

/* Each connection reaches the extents of partitions that it is attached to, and no others. */
static void check_clients(void)
{
    uint32_t open = 0;
    for (const client *c = clients; c <= honest; c++) {
        if (!c->conn)
            continue;
        fp_client *known = at_node(c);
        FUZZ_CHECK(known);
        open++;
        for (uint32_t i = 0; i < known->attached_count; i++) {
            const fp_grant *grant = node->grants;
            while (grant && grant != known->attached[i])
                grant = grant->next;
            FUZZ_CHECK(grant);
        }
        const sim_conn *conn = (const sim_conn *)known->at.conn;
        for (size_t i = 0; i < conn->shared_count; i++)
            FUZZ_CHECK(!conn->shared[i] || memnode_reaches(node, known, conn->shared[i]));
    }
    FUZZ_CHECK(node->server.client_count == open);
}

/* The one who keeps to the rules is served, and finds what it wrote. */
static void check_honest(void)
{
    fp_rkey key = fp_net_rkey(node->extents.list[0].mrs[0]);
    ask_soundly(honest, (fp_msg){.type = FP_MSG_ATTACH, .partition = HONEST, .epoch = 1},
                FP_MSG_EXTENTS);
    FUZZ_CHECK(honest->answer.total == 1 && honest->answer.extents[0].key == key.key);
    FUZZ_CHECK(!transfer(honest, FP_NET_READ, key, false));
    for (unsigned i = 0; i < MARK; i++)
        FUZZ_CHECK(local[i] == (uint8_t)(HONEST >> i % 8));
}

/* ---- foretelling ----------------------------------------------------------------------------- */

static const fp_grant *grant_of(const fp_msg *msg)
{
    const fp_grant *grant = node->grants;
    while (grant && (grant->partition != msg->partition || grant->use != msg->use))
        grant = grant->next;
    return grant;
}

static int foretell_grant(const fp_msg *msg, const fp_grant *known)
{
    if (!msg->partition || !msg->bytes)
        return FARPOOL_E_INVAL;
    if (known && known->claimed && known->epoch == msg->epoch)
        return FARPOOL_E_FENCED;
    for (const fp_grant *grant = node->grants; grant; grant = grant->next)
        if (grant->partition == msg->partition && grant->epoch > msg->epoch)
            return FARPOOL_E_FENCED;
    if (fp_epochs_get(&node->released, msg->partition) > msg->epoch)
        return FARPOOL_E_FENCED;
    if (msg->held && !known)
        return FARPOOL_E_NOTFOUND;
    for (const fp_grant *grant = node->grants; msg->held && grant; grant = grant->next)
        if (grant->partition == msg->partition && grant->epoch != msg->held &&
            grant->epoch != msg->epoch)
            return FARPOOL_E_FENCED;
    uint64_t have = node->extents.free + (known ? known->count : 0);
    return msg->bytes > have * EXTENT_BYTES ? FARPOOL_E_NOSPACE : (int)FP_MSG_EXTENTS;
}

/* The type of the answer, the code of an ERROR, or CUT_OFF. */
static int foretell(const fp_msg *msg, const fp_client *from)
{
    const fp_grant *known = grant_of(msg);
    if (from->at.greeting != FP_GREETING_DONE && msg->type != FP_MSG_HELLO)
        return FARPOOL_E_PROTO;
    switch (msg->type) {
    case FP_MSG_HELLO:
        return FP_MSG_HELLO_OK;
    case FP_MSG_USAGE:
        return FP_MSG_USAGE_OK;
    case FP_MSG_GRANT:
        return foretell_grant(msg, known);
    case FP_MSG_ATTACH:
    case FP_MSG_RELEASE:
        if (!known)
            return FARPOOL_E_NOTFOUND;
        if (known->epoch != msg->epoch)
            return FARPOOL_E_FENCED;
        if (msg->type == FP_MSG_RELEASE)
            return FP_MSG_RELEASE_OK;
        return msg->first < known->count ? (int)FP_MSG_EXTENTS : FARPOOL_E_INVAL;
    default:
        return CUT_OFF;
    }
}

/* After a GRANT: nobody of an earlier epoch is attached to anything of the partition any more. */
static void check_fenced(const client *by, uint64_t partition)
{
    for (const client *c = clients; c <= honest; c++) {
        const fp_client *known = c == by ? NULL : at_node(c);
        for (uint32_t i = 0; known && i < known->attached_count; i++)
            FUZZ_CHECK(known->attached[i]->partition != partition);
    }
}

/* Sends one message with nothing else under way, and compares. */
static void send_foretold(client *c, const uint8_t *bytes, size_t len, const fp_msg *msg)
{
    const fp_client *from = at_node(c);
    FUZZ_CHECK(from);
    int wanted = msg ? foretell(msg, from) : FARPOOL_E_PROTO;
    uint64_t epoch_before = 0;
    for (const fp_grant *grant = node->grants; msg && grant; grant = grant->next)
        if (grant->partition == msg->partition)
            epoch_before = grant->epoch;
    unsigned before = c->answers;
    send_bytes(c, bytes, len);
    settle();
    if (wanted == CUT_OFF) {
        FUZZ_CHECK(!c->conn && c->answers == before);
        return;
    }
    const fp_msg *answer = &c->answer;
    FUZZ_CHECK(c->conn && c->answers == before + 1);
    FUZZ_CHECK(answer->request == (msg ? msg->request : 0));
    FUZZ_CHECK((answer->type == FP_MSG_ERROR ? answer->code : (int)answer->type) == wanted);
    if (wanted != FP_MSG_EXTENTS)
        return;
    FUZZ_CHECK(answer->partition == msg->partition && answer->epoch == msg->epoch);
    uint64_t total = (msg->bytes + EXTENT_BYTES - 1) / EXTENT_BYTES;
    FUZZ_CHECK(msg->type != FP_MSG_GRANT || (answer->total == total && !answer->first));
    FUZZ_CHECK(answer->count == answer->total - answer->first);
    FUZZ_CHECK(answer->use == msg->use);
    if (msg->type == FP_MSG_GRANT && epoch_before < msg->epoch)
        check_fenced(c, msg->partition);
}

/* ---- steps of a script ----------------------------------------------------------------------- */

/* A message of numbers that are likely to meet others', then damaged in up to three places. */
static size_t make_message(fuzz_script *script, uint8_t *bytes)
{
    static fp_msg msg;
    uint64_t shape = fuzz_number(script, 4);
    memset(&msg, 0, offsetof(fp_msg, extents));
    static const enum fp_msg_type often[] = {FP_MSG_GRANT,   FP_MSG_GRANT, FP_MSG_ATTACH,
                                             FP_MSG_RELEASE, FP_MSG_HELLO, FP_MSG_USAGE};
    unsigned type = shape % 16;
    msg.type = type < 10 ? often[type % 6] : (enum fp_msg_type)(FP_MSG_HELLO + type % 10);
    msg.request = (uint32_t)shape;
    msg.partition = (shape >> 4) % 4;
    msg.epoch = (shape >> 6) % 8;
    msg.bytes = ((shape >> 9) % 8) % (EXTENTS + 1) * EXTENT_BYTES - (shape >> 12) % 2;
    msg.first = type == 14 || (shape >> 13) % 4 ? 0 : (uint32_t)(shape >> 15) % 4;
    msg.count = msg.total = type == 14 ? (uint32_t)(shape >> 15) % 4 : 0;
    msg.use = (shape >> 25) % 4 ? FP_USE_SLAB : FP_USE_RING;
    snprintf(msg.text, sizeof msg.text, "client %u", (unsigned)shape % 100);
    const fp_grant *known = grant_of(&msg);
    if (known && (shape >> 20) % 2) /* its sender knows where things stand */
        msg.epoch = known->epoch + (msg.type == FP_MSG_GRANT);
    if (known && (shape >> 26) % 4 == 0)
        msg.held = known->epoch - (shape >> 28) % 2;
    if ((shape >> 17) % 8 == 0) {
        msg.partition = fuzz_number(script, 8);
        msg.epoch = fuzz_number(script, 8);
        msg.bytes = fuzz_number(script, 8);
    }
    size_t len = fp_wire_encode(&msg, bytes, FP_NET_MESSAGE_MAX);
    for (uint64_t n = (shape >> 21) % 16; n > 12; n--) {
        uint64_t where = fuzz_number(script, 2);
        bytes[(where >> 8) % len] = (uint8_t)where;
    }
    if ((shape >> 21) % 16 == 12)
        len = fuzz_number(script, 1) % (len + 1);
    return len;
}

/* Whatever stands in the script, some of it repeated to a great length. */
static size_t make_bytes(fuzz_script *script, uint8_t *bytes)
{
    size_t len, wanted = fuzz_number(script, 1) % 64;
    const uint8_t *from = fuzz_bytes(script, wanted, &len);
    memcpy(bytes, from, len);
    size_t times = len && fuzz_number(script, 1) % 8 == 0 ? FP_NET_MESSAGE_MAX / len : 1;
    for (size_t i = 1; i < times; i++)
        memcpy(bytes + i * len, bytes, len);
    return times * len;
}

static void send_step(client *c, fuzz_script *script, bool raw, bool in_burst)
{
    static uint8_t bytes[FP_NET_MESSAGE_MAX];
    static fp_msg msg;
    size_t len = raw ? make_bytes(script, bytes) : make_message(script, bytes);
    bool sound = !fp_wire_decode(bytes, len, &msg);
    if (!c->conn || (sound && msg.partition == HONEST))
        return; /* nothing forbids a stranger that; it would only not be honest's any more */
    if (in_burst || under_way)
        send_bytes(c, bytes, len);
    else
        send_foretold(c, bytes, len, sound ? &msg : NULL);
    if (!in_burst || under_way >= BURST_MAX)
        settle();
}

/* Uses a key that somebody was given: this succeeds only where the connection is entitled to it now. */
static void use_key(client *c, fuzz_script *script)
{
    uint64_t choice = fuzz_number(script, 2);
    settle();
    if (!c->conn || !key_count)
        return;
    fp_rkey key = keys[(choice >> 2) % (key_count < KEYS ? key_count : KEYS)];
    bool entitled = false, reads = choice & 1;
    const fp_client *known = at_node(c);
    for (uint32_t i = 0; i < EXTENTS; i++) {
        const fp_mr *mr = node->extents.list[i].mrs[0];
        entitled |= fp_net_rkey(mr).key == key.key && memnode_reaches(node, known, mr);
    }
    memset(local, (int)choice | 1, MARK);
    int rc = transfer(c, reads ? FP_NET_READ : FP_NET_WRITE, key, choice & 2);
    FUZZ_CHECK(!rc ? entitled : rc == FARPOOL_E_ACCESS);
}

static void greet(client *c)
{
    if (c->conn)
        return;
    settle();
    connect_client(c);
    ask_soundly(c, (fp_msg){.type = FP_MSG_HELLO, .text = "stranger"}, FP_MSG_HELLO_OK);
}

/* Memory is short: one lets go of most of it, and others ask for it before it is cleared. Some of them then leave
 * without waiting. */
static void crowd(fuzz_script *script)
{
    static uint8_t bytes[FP_NET_MESSAGE_MAX];
    uint64_t shape = fuzz_number(script, 3);
    for (client *c = clients; c < honest; c++)
        greet(c);
    settle();
    for (unsigned i = 0; i < 6; i++) {
        client *c = &clients[(shape >> i) % CONNS];
        fp_msg msg = {.type = FP_MSG_GRANT, .request = i, .partition = 1 + (shape >> 2 * i) % 3};
        const fp_grant *known = grant_of(&msg);
        msg.epoch = known ? known->epoch : 0;
        if ((shape >> (6 + i)) % 3 == 0)
            msg.type = FP_MSG_RELEASE;
        else
            msg.epoch += i + 1;
        msg.bytes = (1 + (shape >> (8 + i)) % (EXTENTS - 1)) * EXTENT_BYTES;
        if (c->conn)
            send_bytes(c, bytes, fp_wire_encode(&msg, bytes, sizeof bytes));
        msg.type = FP_MSG_USAGE_OK; /* gets it cut off */
        if (c->conn && (shape >> (12 + i)) % 4 == 0)
            send_bytes(c, bytes, fp_wire_encode(&msg, bytes, sizeof bytes));
        else if ((shape >> (12 + i)) % 4 == 1)
            close_client(c);
    }
}

static void step(fuzz_script *script)
{
    uint64_t what = fuzz_number(script, 1);
    client *c = &clients[what % CONNS];
    switch (fuzz_number(script, 1) % 16) {
    case 0:
        close_client(c);
        under_way++; /* the node is yet to hear of it */
        if (what >= 64)
            settle();
        break;
    case 1: /* comes in silence */
        if (!c->conn)
            connect_client(c);
        break;
    case 2:
        send_step(c, script, true, what >= 64);
        break;
    case 3:
    case 4:
    case 5:
        use_key(c, script);
        break;
    case 6:
        crowd(script);
        break;
    default:
        greet(c);
        send_step(c, script, false, what >= 64);
    }
}

/* ---- one input ------------------------------------------------------------------------------- */

static void open_all(uint64_t seed)
{
    fp_sim_config config = {0};
    FUZZ_CHECK(!fp_sim_world_open(seed, &config, &world));
    fp_net_options options = {.world = world};
    fp_memnode_config memory = {.name = "node",
                                .memory_bytes = EXTENTS * EXTENT_BYTES,
                                .extent_order = FP_EXTENT_ORDER_MIN,
                                .numa_node = -1,
                                .boot_id = 1};
    const char *bound;
    fp_mem mem = {local, sizeof local, -1, 4096};
    fp_log_set_level(FP_LOG_ERROR);
    FUZZ_CHECK(!fp_memnode_open(&memory, &node));
    FUZZ_CHECK(!fp_memnode_listen(node, "sim://node", &options, &bound));
    fp_sim_set_driver(fp_memnode_poller(node, 0), drive, NULL);
    FUZZ_CHECK(!fp_net_open("sim://client", &options, &net));
    FUZZ_CHECK(!fp_net_poller_open(net, &poller));
    FUZZ_CHECK(!fp_net_register(net, &mem, FP_NET_LOCAL, &local_mr));
    memset(clients, 0, sizeof clients);
    key_count = under_way = calls = 0;
    connect_client(honest);
    ask_soundly(honest, (fp_msg){.type = FP_MSG_HELLO, .text = "honest"}, FP_MSG_HELLO_OK);
    fp_msg grant = {.type = FP_MSG_GRANT, .partition = HONEST, .epoch = 1, .bytes = 1};
    ask_soundly(honest, grant, FP_MSG_EXTENTS);
    for (unsigned i = 0; i < MARK; i++)
        local[i] = (uint8_t)(HONEST >> i % 8);
    FUZZ_CHECK(!transfer(honest, FP_NET_WRITE, honest->answer.extents[0], false));
}

static void close_all(void)
{
    for (client *c = clients; c <= honest; c++)
        close_client(c);
    fp_net_unregister(local_mr);
    fp_net_poller_close(poller);
    fp_net_close(net);
    fp_memnode_close(node);
    fp_sim_world_close(world);
}

void fuzz_one(const uint8_t *data, size_t len)
{
    fuzz_script script = {data, data + len};
    laziness = 1 + (unsigned)fuzz_number(&script, 1) % 32;
    open_all(fuzz_number(&script, 4));
    for (int i = 0; i < STEPS_MAX && script.at < script.end; i++) {
        step(&script);
        if (under_way)
            continue;
        memnode_check(node);
        check_clients();
    }
    settle();
    memnode_check(node);
    check_clients();
    check_honest();
    close_all();
}

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    return fuzz_noise(random, data, capacity, 100, 699);
}
