/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that no sequence of control messages, sound or damaged, and of WRITEs to landing rings, on several connections
 * that come and go, while the disk fails at times, makes a storage node lose count of its requests, let two append to
 * one WAL, leave a request without an answer, or lose a byte of somebody else's log. Over the simulated network and
 * disk; an input is a script of steps (see step). The node's tables are looked at whenever nothing moves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/net/sim_world.h"
#include "common/redo.h"
#include "storagenode/node.h"
#include "tests/lib/fuzz.h"
#include "tests/lib/teststorage.h"
#include "tests/lib/wal_log.h"

enum {
    CONNS = 4,
    PARTITIONS = 3, /* of strangers: 0 to 2, and 0 is none */
    HONEST = 9,     /* the partition of the client that keeps to the rules */
    STEPS_MAX = 60,
    LOCAL_BYTES = 8192,
};

const unsigned fuzz_runs = 6000;

typedef struct client {
    fp_conn *conn; /* NULL: none */
    fp_msg answer;
    unsigned answers, sent; /* messages */
    int done;               /* status of the last WRITE */
    fp_rkey landing;        /* of the last WAL_STATE that had one */
    bool closed;
} client;

static fp_sim_world *world;
static sim_storage storage;
static fp_net *net;
static fp_poller *poller;
static client clients[CONNS + 1], *const honest = &clients[CONNS];
static wal_log honest_log;
static _Alignas(64) uint8_t local[LOCAL_BYTES];
static fp_mr *local_mr;
static uint8_t hash[FP_WIRE_HASH_BYTES]; /* of a file that somebody was told of */
static uint64_t ends[PARTITIONS];        /* of strangers' WALs, as far as anybody was told */

/* ---- clients --------------------------------------------------------------------------------- */

static void take(const fp_net_event *event)
{
    client *c = fp_net_conn_user(event->conn);
    if (event->kind == FP_NET_RECV) {
        FUZZ_CHECK(!fp_wire_decode(event->data, event->len, &c->answer));
        c->answers++;
        if (c->answer.type == FP_MSG_MANIFEST && !c->answer.at &&
            c->answer.data_len >= sizeof(fp_manifest_header) + sizeof hash)
            memcpy(hash, c->answer.data + sizeof(fp_manifest_header), sizeof hash);
        FUZZ_CHECK(c->answer.type != FP_MSG_FILE || c->answer.data_len);
        if (c->answer.type != FP_MSG_WAL_STATE)
            return;
        FUZZ_CHECK(c->answer.wal.durable <= c->answer.wal.end);
        if (c->answer.wal.streaming)
            c->landing = c->answer.wal.landing;
        if (c->answer.partition < PARTITIONS)
            ends[c->answer.partition] = c->answer.wal.end;
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

static void check_tables(void);

/* Until nothing moves any more: then every message has been answered, or its connection has ended. */
static void settle(void)
{
    fp_net_event event;
    for (int idle = 0; idle < 2; idle++) {
        int moved = fp_net_poll(poller, &event, 1, 1000);
        FUZZ_CHECK(moved >= 0);
        if (moved) {
            take(&event);
            idle = -1;
        }
    }
    for (client *c = clients; c <= honest; c++) {
        if (c->conn && c->closed)
            close_client(c);
        FUZZ_CHECK(!c->conn || c->answers == c->sent);
    }
    check_tables();
}

static void send_bytes(client *c, const uint8_t *bytes, size_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = (void *)(uintptr_t)bytes, .len = (uint32_t)len};
    int rc = fp_net_post(c->conn, &op, 1);
    FUZZ_CHECK(!rc || rc == FARPOOL_E_CLOSED);
    c->sent++;
}

static void send_msg(client *c, fp_msg msg)
{
    static uint8_t buffer[FP_NET_MESSAGE_MAX];
    msg.request = 7;
    send_bytes(c, buffer, fp_wire_encode(&msg, buffer, sizeof buffer));
}

static void connect_client(client *c)
{
    memset(c, 0, sizeof *c);
    FUZZ_CHECK(!fp_net_connect(poller, storage.uri, &c->conn));
    fp_net_conn_set_user(c->conn, c);
    send_msg(c, (fp_msg){.type = FP_MSG_HELLO, .text = "client"});
}

/* WRITEs local to where the log has `lsn`; what it came to. */
static int land(client *c, uint64_t lsn, uint64_t len)
{
    uint64_t at = lsn % c->landing.len;
    len = len < c->landing.len - at ? len : c->landing.len - at;
    fp_net_op op = {.kind = FP_NET_WRITE,
                    .cookie = 1,
                    .remote_key = c->landing.key,
                    .remote_addr = c->landing.addr + at,
                    .sge_count = 1};
    op.sge[0] = (fp_sge){local, (uint32_t)len, local_mr};
    c->done = -1;
    if (fp_net_post(c->conn, &op, 1))
        return FARPOOL_E_CLOSED;
    settle();
    return c->done;
}

/* ---- what must hold whenever nothing moves --------------------------------------------------- */

static void check_tables(void)
{
    const fp_storagenode *node = storage.node;
    uint32_t count = 0, open = 0;
    for (const fp_server_client *at = node->server.clients; at; at = at->next) {
        const fp_storage_client *known = (const fp_storage_client *)at;
        FUZZ_CHECK(!known->requests && !known->request_count && !known->copy_busy);
        count++;
    }
    for (const client *c = clients; c <= honest; c++)
        open += c->conn != NULL;
    FUZZ_CHECK(node->server.client_count == count && count == open);
    FUZZ_CHECK(!node->requests && !node->gets.first && !node->opening);
    for (const fp_stored *log = node->logs; log; log = log->next) {
        FUZZ_CHECK(!log->waiting.first && !log->fencing && !log->reading && !log->over);
        FUZZ_CHECK(log->state == FP_STORED_OPEN || log->state == FP_STORED_BROKEN);
        FUZZ_CHECK(!log->streamer == !log->mr);
        const fp_server_client *at = node->server.clients;
        while (at && (const fp_storage_client *)at != log->streamer)
            at = at->next;
        FUZZ_CHECK(!log->streamer || at);
    }
}

static fp_stored *log_with_key(fp_rkey key)
{
    fp_stored *log = storage.node->logs;
    while (log && (!log->mr || fp_net_rkey(log->mr).key != key.key))
        log = log->next;
    return log;
}

static bool is_streamer(const client *c, const fp_stored *log)
{
    return log && log->streamer &&
           ((const sim_conn *)log->streamer->at.conn)->peer == (const sim_conn *)c->conn;
}

/* ---- the one who keeps to the rules ---------------------------------------------------------- */

static void ask_honestly(fp_msg msg)
{
    if (!honest->conn)
        connect_client(honest);
    send_msg(honest, msg);
    settle();
    FUZZ_CHECK(honest->conn);
}

/* It adds a frame, tries until that is durable, and reads all of it. */
static void check_honest(void)
{
    wal_log_frame(&honest_log, 1, 1000, 0);
    fp_msg open = {.type = FP_MSG_WAL_OPEN, .partition = HONEST, .epoch = 1, .bytes = 4096};
    fp_msg append = {
        .type = FP_MSG_WAL_APPEND, .partition = HONEST, .epoch = 1, .lsn = honest_log.end};
    uint64_t durable = 0;
    for (int tries = 0; durable < honest_log.end; tries++) {
        FUZZ_CHECK(tries < 10);
        open.lsn = FP_REDO_LSN_FIRST;
        ask_honestly(open);
        if (honest->answer.type != FP_MSG_WAL_STATE)
            continue; /* the disk failed */
        FUZZ_CHECK(honest->answer.wal.streaming);
        uint64_t from = honest->answer.wal.end;
        FUZZ_CHECK(from <= honest_log.end && honest_log.end - from <= LOCAL_BYTES);
        memcpy(local, honest_log.bytes + from, honest_log.end - from);
        durable = honest->answer.wal.durable;
        if (from == honest_log.end)
            continue; /* an append that was said to have failed has not: nobody knew (E_IO) */
        FUZZ_CHECK(!land(honest, from, honest_log.end - from));
        ask_honestly(append);
        if (honest->answer.type == FP_MSG_WAL_STATE)
            durable = honest->answer.wal.durable;
    }
    int failures = 0;
    for (uint64_t at = FP_REDO_LSN_FIRST; at < honest_log.end;) {
        ask_honestly((fp_msg){.type = FP_MSG_LOG_GET, .partition = HONEST, .lsn = at});
        if (honest->answer.type != FP_MSG_LOG) {
            FUZZ_CHECK(++failures < 10); /* the disk fails now and then, not always */
            continue;
        }
        FUZZ_CHECK(honest->answer.data_len);
        FUZZ_CHECK(!memcmp(honest->answer.data, honest_log.bytes + at, honest->answer.data_len));
        at += honest->answer.data_len;
    }
}

/* ---- steps of a script ----------------------------------------------------------------------- */

/* A message of numbers that are likely to meet others', then damaged in up to three places. */
static size_t make_message(fuzz_script *script, uint8_t *bytes)
{
    static fp_msg msg;
    static const enum fp_msg_type often[] = {
        FP_MSG_WAL_OPEN, FP_MSG_WAL_OPEN, FP_MSG_WAL_APPEND,   FP_MSG_WAL_APPEND,
        FP_MSG_LOG_GET,  FP_MSG_WAL_GET,  FP_MSG_MANIFEST_GET, FP_MSG_FILE_GET};
    uint64_t shape = fuzz_number(script, 4);
    unsigned type = shape % 16;
    memset(&msg, 0, offsetof(fp_msg, extents));
    msg.type = type < 14 ? often[type % 8] : (enum fp_msg_type)(1 + (shape >> 8) % FP_MSG_LAST);
    msg.request = (uint32_t)shape;
    msg.partition = (shape >> 4) % PARTITIONS;
    msg.epoch = 1 + (shape >> 6) % 4 / 3;
    msg.bytes = 1 + ((shape >> 9) % 4) * 4000;
    msg.at = (shape >> 20) % 8 < 4 ? 0 : ((shape >> 20) % 8 - 3) * 4000;
    memcpy(msg.hash, hash, sizeof msg.hash);
    uint64_t end = ends[msg.partition] ? ends[msg.partition] : FP_REDO_LSN_FIRST;
    static const int64_t around[] = {0, 0, 40, 40, 80, 8, -8, -40};
    msg.lsn = (shape >> 11) % 2 ? end + (uint64_t)around[(shape >> 12) % 8] : FP_REDO_LSN_FIRST;
    if ((shape >> 17) % 8 == 0) {
        msg.epoch = fuzz_number(script, 8);
        msg.bytes = fuzz_number(script, 8);
        msg.lsn = fuzz_number(script, 8);
    }
    if ((shape >> 25) % 4 == 0) { /* of one of a few forks; now and then the log goes on as that */
        msg.fork = 1 + (shape >> 27) % 4;
        msg.lineage = (fp_lineage){.count = 1, .forks = {{msg.fork, msg.lsn}}};
        msg.type = (shape >> 29) % 4 ? msg.type : FP_MSG_WAL_JOIN;
    }
    size_t len = fp_wire_encode(&msg, bytes, FP_NET_MESSAGE_MAX);
    for (uint64_t n = (shape >> 21) % 16; n > 13; n--) {
        uint64_t where = fuzz_number(script, 2);
        bytes[(where >> 8) % len] = (uint8_t)where;
    }
    return len;
}

static void send_step(client *c, fuzz_script *script, bool raw)
{
    static uint8_t bytes[FP_NET_MESSAGE_MAX];
    static fp_msg msg;
    size_t len;
    if (raw) {
        const uint8_t *from = fuzz_bytes(script, fuzz_number(script, 1) % 64, &len);
        memcpy(bytes, from, len);
    } else {
        len = make_message(script, bytes);
    }
    bool sound = !fp_wire_decode(bytes, len, &msg);
    if (c->conn && !(sound && msg.partition == HONEST)) /* nothing forbids a stranger that */
        send_bytes(c, bytes, len);
}

/* Lands a frame that fits, or anything else, by a key that it was given: which works only while it is the one who
 * appends. */
static void land_step(client *c, fuzz_script *script)
{
    uint64_t shape = fuzz_number(script, 2);
    settle();
    if (!c->conn || !c->landing.len)
        return;
    const fp_stored *log = log_with_key(c->landing);
    bool entitled = is_streamer(c, log);
    uint64_t lsn = fuzz_number(script, 2), len = 1 + shape % 5000;
    memset(local, (int)shape, sizeof local);
    if (log && shape >> 15 && fp_wal_end(log->wal) < 1 << 20) {
        wal_log one;
        lsn = fp_wal_end(log->wal);
        wal_log_open(&one, log->partition, lsn);
        wal_log_frame(&one, 1 + (shape >> 13) % 2, 40, 0);
        len = one.end - lsn;
        memcpy(local, one.bytes + lsn, len);
        wal_log_close(&one);
    }
    int rc = land(c, lsn, len);
    FUZZ_CHECK(!rc ? entitled : rc == FARPOOL_E_ACCESS);
    FUZZ_CHECK(!entitled || !rc);
}

/* Asks for a manifest and for bytes of a file that one named, some of them at a time, and perhaps goes away meanwhile. */
static void copy_step(client *c, fuzz_script *script)
{
    uint64_t shape = fuzz_number(script, 2);
    fp_msg msg = {.type = FP_MSG_MANIFEST_GET, .partition = HONEST};
    msg.lsn = honest_log.end;
    if (!c->conn)
        connect_client(c);
    if (shape >> 1 & 3)
        send_msg(c, msg);
    if (shape >> 3 & 1)
        settle();
    if (!c->conn)
        return;
    msg.type = FP_MSG_FILE_GET;
    memcpy(msg.hash, hash, sizeof msg.hash);
    for (unsigned n = (unsigned)(shape >> 4) % 4; n; n--) {
        msg.at = (shape >> 6) % 4 * n * 2000;
        send_msg(c, msg);
    }
    if ((shape >> 8) % 8 == 0)
        close_client(c);
}

static void fail_step(uint64_t what)
{
    static const enum fp_disk_kind kinds[] = {FP_DISK_WRITE, FP_DISK_SYNC, FP_DISK_RENAME,
                                              FP_DISK_OPEN};
    fp_disk_sim_fail(storage.medium, kinds[what % 4], 1 + (unsigned)(what >> 2) % 3,
                     what >> 6 & 1 ? ENOSPC : EIO);
}

static void step(fuzz_script *script)
{
    uint64_t what = fuzz_number(script, 1);
    client *c = &clients[what % CONNS];
    switch (fuzz_number(script, 1) % 16) {
    case 0:
        close_client(c);
        break;
    case 1:
        send_step(c, script, true);
        break;
    case 2:
        fail_step(what);
        break;
    case 3:
        check_honest();
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        land_step(c, script);
        break;
    case 8:
    case 9:
        copy_step(c, script);
        break;
    default:
        if (!c->conn)
            connect_client(c);
        send_step(c, script, false);
    }
    if (what >= 128)
        settle();
}

/* ---- one input ------------------------------------------------------------------------------- */

void fuzz_one(const uint8_t *data, size_t len)
{
    fuzz_script script = {data, data + len};
    fp_sim_config config = {.late = true};
    fp_mem mem = {local, sizeof local, -1, 4096};
    FUZZ_CHECK(!fp_sim_world_open(fuzz_number(&script, 4), &config, &world));
    fp_net_options options = {.world = world};
    fp_log_set_level(FP_LOG_ERROR);
    sim_storage_open(&storage, world, 0);
    FUZZ_CHECK(!fp_net_open("sim://client", &options, &net));
    FUZZ_CHECK(!fp_net_poller_open(net, &poller));
    FUZZ_CHECK(!fp_net_register(net, &mem, FP_NET_LOCAL, &local_mr));
    memset(clients, 0, sizeof clients);
    memset(ends, 0, sizeof ends);
    wal_log_open(&honest_log, HONEST, FP_REDO_LSN_FIRST);
    check_honest();
    for (int i = 0; i < STEPS_MAX && script.at < script.end; i++)
        step(&script);
    settle();
    for (enum fp_disk_kind kind = 0; kind < FP_DISK_KINDS; kind++)
        fp_disk_sim_fail(storage.medium, kind, 0, 0);
    check_honest();
    for (client *c = clients; c <= honest; c++)
        close_client(c);
    fp_net_unregister(local_mr);
    fp_net_poller_close(poller);
    fp_net_close(net);
    sim_storage_close(&storage);
    fp_sim_world_close(world);
    wal_log_close(&honest_log);
}

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    return fuzz_noise(random, data, capacity, 100, 699);
}
