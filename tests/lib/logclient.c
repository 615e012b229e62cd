/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/logclient.h"

#include <stdio.h>
#include <string.h>

#include "common/greet.h"
#include "tests/lib/require.h"
#include "tests/lib/secret.h"

enum { BUFFER_BYTES = 256 << 10, WAIT_MS = 1000, WAITS_MAX = 60 };

static void look(logclient *c)
{
    fp_net_event events[8];
    int n = fp_net_poll(c->poller, events, 8, WAIT_MS);
    REQUIRE(n >= 0);
    for (int i = 0; i < n; i++) {
        if (events[i].kind == FP_NET_RECV) {
            REQUIRE(!fp_wire_decode(events[i].data, events[i].len, &c->msg));
            c->answered++;
            if (c->msg.type == FP_MSG_WAL_STATE)
                c->landing_free = c->msg.wal.landing_free;
        } else if (events[i].kind == FP_NET_CLOSED) {
            c->closed = events[i].status;
        } else if (events[i].kind == FP_NET_DONE && events[i].cookie) {
            c->writes--;
            if (events[i].status)
                c->write_status = events[i].status;
        }
    }
}

bool logclient_wait(logclient *c, uint32_t answered)
{
    for (int i = 0; c->answered < answered && !c->closed; i++) {
        uint32_t before = c->answered;
        look(c);
        i = c->answered > before ? 0 : i;
        REQUIRE(i < WAITS_MAX);
    }
    return c->answered >= answered;
}

void logclient_send_bytes(logclient *c, const void *bytes, size_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = (void *)(uintptr_t)bytes, .len = (uint32_t)len};
    int rc = fp_net_post(c->conn, &op, 1);
    REQUIRE(!rc || rc == FARPOOL_E_CLOSED);
    c->sent++;
}

void logclient_send(logclient *c, fp_msg *msg)
{
    uint8_t buffer[FP_NET_MESSAGE_MAX];
    msg->request = c->sent + 1;
    logclient_send_bytes(c, buffer, fp_wire_encode(msg, buffer, sizeof buffer));
}

int logclient_ask(logclient *c, fp_msg msg)
{
    logclient_send(c, &msg);
    if (!logclient_wait(c, c->sent))
        return c->closed;
    REQUIRE(c->msg.request == c->sent);
    return c->msg.type == FP_MSG_ERROR ? c->msg.code : (int)c->msg.type;
}

int logclient_open(logclient *c, const char *uri, const fp_net_options *options)
{
    char address[FP_NET_URI_MAX];
    memset(c, 0, sizeof *c);
    snprintf(address, sizeof address, "%s", uri);
    if (options && options->node)
        snprintf(address, sizeof address, "sim://%s", options->node);
    fp_net_options with_auth = {0};
    if (options)
        with_auth = *options;
    if (!with_auth.auth)
        with_auth.auth = test_secret_auth();
    test_must(fp_net_open(address, &with_auth, &c->net), "opening a net");
    test_must(fp_net_poller_open(c->net, &c->poller), "opening a poller");
    test_must(fp_mem_open(BUFFER_BYTES, 0, -1, &c->mem), "memory");
    test_must(fp_net_register(c->net, &c->mem, FP_NET_LOCAL, &c->mr), "registering");
    int rc = fp_net_connect(c->poller, uri, &c->conn);
    fp_greet greet;
    if (!rc) {
        rc = fp_greet_begin(&greet, with_auth.auth, "logclient", "", &c->msg);
        rc = rc ? rc : 1;
    }
    while (rc > 0) {
        rc = logclient_ask(c, c->msg);
        if (rc > 0)
            rc = fp_greet_take(&greet, &c->msg);
    }
    if (rc)
        logclient_close(c);
    return rc;
}

void logclient_close(logclient *c)
{
    if (c->conn)
        fp_net_conn_close(c->conn);
    c->conn = NULL;
    fp_net_poller_close(c->poller);
    fp_net_unregister(c->mr);
    fp_net_close(c->net);
    fp_mem_close(&c->mem);
}

int logclient_wal_open(logclient *c, uint64_t partition, uint64_t epoch, uint64_t bytes,
                       uint64_t lsn)
{
    int rc = logclient_ask(c, (fp_msg){.type = FP_MSG_WAL_OPEN,
                                       .partition = partition,
                                       .epoch = epoch,
                                       .bytes = bytes,
                                       .lsn = lsn});
    if (rc == FP_MSG_WAL_STATE) {
        c->partition = partition;
        c->epoch = epoch;
        c->landed = c->msg.wal.end;
        c->landing = c->msg.wal.landing;
    }
    return rc;
}

int logclient_get(logclient *c, uint64_t partition, uint64_t lsn)
{
    return logclient_ask(c, (fp_msg){.type = FP_MSG_LOG_GET, .partition = partition, .lsn = lsn});
}

int logclient_land(logclient *c, const wal_log *log, uint64_t to)
{
    while (c->landed < to) {
        uint64_t at = c->landed % c->landing.len, n = c->landing.len - at;
        n = n < to - c->landed ? n : to - c->landed;
        n = n < c->mem.len ? n : c->mem.len;
        memcpy(c->mem.addr, log->bytes + c->landed, n);
        fp_net_op op = {.kind = FP_NET_WRITE,
                        .cookie = 1,
                        .remote_key = c->landing.key,
                        .remote_addr = c->landing.addr + at,
                        .sge_count = 1};
        op.sge[0] = (fp_sge){.addr = c->mem.addr, .len = (uint32_t)n, .mr = c->mr};
        c->write_status = 0;
        int rc = fp_net_post(c->conn, &op, 1);
        if (rc)
            return rc;
        c->writes++;
        for (int i = 0; c->writes; i++) {
            REQUIRE(i < WAITS_MAX);
            look(c);
        }
        if (c->write_status)
            return c->write_status;
        c->landed += n;
    }
    return 0;
}

void logclient_append(logclient *c, uint64_t lsn)
{
    fp_msg msg = {
        .type = FP_MSG_WAL_APPEND, .partition = c->partition, .epoch = c->epoch, .lsn = lsn};
    logclient_send(c, &msg);
}

int logclient_stream(logclient *c, const wal_log *log, uint64_t to)
{
    int rc = logclient_land(c, log, to);
    if (rc)
        return rc;
    logclient_append(c, to);
    if (!logclient_wait(c, c->sent))
        return c->closed;
    return c->msg.type == FP_MSG_ERROR ? c->msg.code : (int)c->msg.type;
}

uint64_t logclient_compare(logclient *c, const wal_log *log, uint64_t from)
{
    for (;;) {
        int rc = logclient_get(c, log->partition, from);
        REQUIRE(rc == FP_MSG_LOG && c->msg.lsn == from);
        if (!c->msg.data_len)
            return from;
        REQUIRE(from + c->msg.data_len <= log->end);
        REQUIRE(!memcmp(c->msg.data, log->bytes + from, c->msg.data_len));
        from += c->msg.data_len;
    }
}
