/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fault needs, in this order: a transport (one per scheme and pool, with the pool's memory registered),
 * a poller (per thread and transport), a connection (per thread and node) that has come through the
 * handshake, and for each partition an ATTACH, after which the node lets the connection use the slab's extents.
 *
 * When a connection breaks, its transfers complete with an error. It is closed, and the thread's next
 * transfer to that node connects again. After a failed attempt one thread at a time tries, RETRY_AFTER_NS
 * after the last one at the earliest, so that a dead node costs each fault nothing but its error. A node
 * that has restarted has another boot id than when it granted the slab and has lost its pages: that is
 * said, and stays an error for that partition.
 */
#include "compute/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/greet.h"
#include "compute/slab.h"

enum { RETRY_AFTER_NS = 1000000000, EVENTS = 64 };

static int open_transport_locked(farpool_pool *pool, const char *uri, unsigned timeout_ms,
                                 unsigned *index)
{
    unsigned count = atomic_load_explicit(&pool->transport_count, memory_order_relaxed);
    for (unsigned i = 0; i < count; i++) {
        const char *scheme = fp_net_scheme(pool->transports[i].net);
        size_t len = strlen(scheme);
        if (!strncmp(uri, scheme, len) && uri[len] == ':') {
            *index = i;
            return 0;
        }
    }
    if (count == FP_TRANSPORTS_MAX)
        return fp_error(FARPOOL_E_BUSY, "pool %s uses %u transports already", pool->name, count);
    fp_transport *transport = &pool->transports[count];
    fp_net_options options = pool->net_options;
    options.connect_timeout_ms = timeout_ms;
    int rc = fp_net_open(uri, &options, &transport->net);
    if (rc)
        return rc;
    rc = fp_net_register(transport->net, &pool->xfer, FP_NET_LOCAL, &transport->xfer_mr);
    if (rc)
        goto err_after_net;
    rc = fp_net_register(transport->net, &pool->headers, FP_NET_LOCAL, &transport->header_mr);
    if (rc)
        goto err_after_xfer;
    atomic_store_explicit(&pool->transport_count, count + 1, memory_order_release);
    *index = count;
    return 0;
err_after_xfer:
    fp_net_unregister(transport->xfer_mr);
err_after_net:
    fp_net_close(transport->net);
    return rc;
}

int fp_remote_node(farpool_pool *pool, const char *uri, unsigned timeout_ms, unsigned *node)
{
    fp_uri parsed;
    int rc = fp_uri_parse(uri, &parsed);
    if (rc)
        return rc;
    pthread_mutex_lock(&pool->lock);
    unsigned i = 0;
    while (i < pool->node_count && strcmp(pool->nodes[i].uri, uri) != 0)
        i++;
    if (i == FP_NODES_MAX) {
        rc = fp_error(FARPOOL_E_BUSY,
                      "pool %s has used %d addresses of memory and storage nodes, and can use no "
                      "more: open it anew",
                      pool->name, FP_NODES_MAX);
    } else if (i == pool->node_count) {
        rc = open_transport_locked(pool, uri, timeout_ms, &pool->nodes[i].transport);
        if (!rc) {
            strcpy(pool->nodes[i].uri, uri); /* its length was checked by fp_uri_parse */
            pool->node_count++;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    *node = i;
    return rc;
}

void fp_remote_unregister(fp_mr *mrs[FP_TRANSPORTS_MAX])
{
    for (unsigned t = 0; t < FP_TRANSPORTS_MAX; t++)
        if (mrs[t])
            fp_net_unregister(mrs[t]);
}

void fp_remote_fini(farpool_pool *pool)
{
    unsigned count = atomic_load_explicit(&pool->transport_count, memory_order_relaxed);
    for (unsigned i = 0; i < count; i++) {
        fp_net_unregister(pool->transports[i].header_mr);
        fp_net_unregister(pool->transports[i].xfer_mr);
        fp_net_close(pool->transports[i].net);
    }
}

/* ---- completions ----------------------------------------------------------------------------- */

static int node_error(int rc) { return rc == FARPOOL_E_CLOSED ? FARPOOL_E_NODE : rc; }

void fp_remote_complete(fp_thread *thread, fp_io *io, int status)
{
    FP_ASSERT(!io->done);
    io->done = true;
    io->status = node_error(status);
    io->next = thread->completed;
    thread->completed = io;
}

static void take_reply(fp_thread *thread, const fp_net_event *event)
{
    if (!thread->reply || thread->replied || event->conn != thread->reply_conn)
        return; /* the answer to a request that timed out, perhaps to another node */
    int rc = fp_wire_decode(event->data, event->len, thread->reply);
    if (!rc && thread->reply->request != thread->request)
        return;
    thread->replied = true;
    thread->reply_status = rc;
}

static bool is_attached(const fp_thread *thread, unsigned partition, unsigned node)
{
    return thread->attached[partition].nodes[node / 64] >> node % 64 & 1;
}

static void mark_attached(fp_thread *thread, unsigned partition, unsigned node, bool attached)
{
    uint64_t *word = &thread->attached[partition].nodes[node / 64], bit = 1ull << node % 64;
    *word = attached ? *word | bit : *word & ~bit;
}

static void close_conn(fp_thread *thread, fp_conn *conn)
{
    for (unsigned n = 0; n < FP_NODES_MAX; n++) {
        if (thread->conns[n] != conn)
            continue;
        thread->conns[n] = NULL;
        for (unsigned p = 0; p < FP_PARTITIONS_MAX; p++)
            mark_attached(thread, p, n, false);
    }
    fp_net_conn_close(conn);
}

static void take_event(fp_thread *thread, const fp_net_event *event)
{
    fp_io *io = (fp_io *)(uintptr_t)event->cookie;
    switch (event->kind) {
    case FP_NET_DONE:
        if (!io)
            break;                                       /* a request; what matters is its answer */
        if (event->status && io->kind != FP_IO_PREFETCH) /* whose errors nobody is told */
            fp_error(event->status, "memory node %s: %s", fp_net_conn_peer(event->conn),
                     fp_net_conn_reason(event->conn));
        fp_remote_complete(thread, io, event->status);
        break;
    case FP_NET_RECV:
        take_reply(thread, event);
        break;
    case FP_NET_CLOSED:
        /* Another connection's end must not speak for the one that is waited for. */
        if (thread->reply && !thread->replied && event->conn == thread->reply_conn) {
            fp_error(event->status, "memory node %s: %s", fp_net_conn_peer(event->conn),
                     fp_net_conn_reason(event->conn));
            thread->replied = true;
            thread->reply_status = event->status;
        }
        close_conn(thread, event->conn);
        break;
    case FP_NET_RECV_IMM:
    case FP_NET_ACCEPTED:
        break; /* memory nodes send no such thing; harmless */
    }
}

void fp_remote_poll(fp_thread *thread, int timeout_ms)
{
    fp_net_event events[EVENTS];
    unsigned count = atomic_load_explicit(&thread->pool->transport_count, memory_order_acquire),
             open = 0;
    for (unsigned i = 0; i < count; i++)
        open += thread->pollers[i] != NULL;
    for (unsigned i = 0; i < count; i++) {
        if (!thread->pollers[i])
            continue;
        /* With several transports none may keep the others waiting. */
        int n = fp_net_poll(thread->pollers[i], events, EVENTS, open == 1 ? timeout_ms : 0);
        for (int e = 0; e < n; e++)
            take_event(thread, &events[e]);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

int fp_remote_send(fp_thread *thread, unsigned node, const fp_net_op *ops, size_t count)
{
    if (thread->conns[node]) {
        int rc = fp_net_post(thread->conns[node], ops, count);
        if (rc != FARPOOL_E_CLOSED)
            return rc;
        fp_remote_poll(thread, 0);
    }
    return fp_error(FARPOOL_E_CLOSED, "memory node %s: the connection was lost",
                    thread->pool->nodes[node].uri);
}

/* Sends msg and waits for the answer, of whatever type, which replaces it. E_CLOSED: nothing was sent. */
static int exchange(fp_thread *thread, unsigned node, unsigned timeout_ms, fp_msg *msg)
{
    uint8_t buffer[FP_NET_MESSAGE_MAX];
    const char *peer = thread->pool->nodes[node].uri;
    const fp_net *net = thread->pool->transports[thread->pool->nodes[node].transport].net;
    msg->request = ++thread->request;
    msg->use = thread->use;
    fp_net_op op = fp_net_message(buffer, fp_wire_encode(msg, buffer, sizeof buffer));
    int rc = fp_remote_send(thread, node, &op, 1);
    if (rc)
        return rc;
    uint64_t deadline = fp_net_now_ns(net) + timeout_ms * 1000000ull;
    thread->reply = msg;
    thread->reply_conn = thread->conns[node];
    thread->replied = false;
    while (!thread->replied && fp_net_now_ns(net) < deadline)
        fp_remote_poll(thread, 100);
    thread->reply = NULL;
    if (!thread->replied)
        return fp_error(FARPOOL_E_TIMEOUT, "node %s: no answer within %u ms", peer, timeout_ms);
    return thread->reply_status;
}

/* The same for an answer of one type. One of type ERROR becomes its code. */
static int request(fp_thread *thread, unsigned node, unsigned timeout_ms, fp_msg *msg,
                   enum fp_msg_type expected)
{
    const char *peer = thread->pool->nodes[node].uri;
    int rc = exchange(thread, node, timeout_ms, msg);
    if (rc)
        return rc;
    if (msg->type == FP_MSG_ERROR)
        return fp_error(msg->code < 0 ? msg->code : FARPOOL_E_PROTO, "node %s: %s", peer,
                        msg->text);
    if (msg->type != expected)
        return fp_error(FARPOOL_E_PROTO, "node %s: answered with message type %d, not %d", peer,
                        (int)msg->type, (int)expected);
    return 0;
}

static int say_hello(fp_thread *thread, unsigned index, unsigned timeout_ms)
{
    fp_node *node = &thread->pool->nodes[index];
    const fp_auth *auth = thread->pool->net_options.auth;
    fp_greet greet;
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "connecting to %s: no memory", node->uri);
    int rc = fp_greet_begin(&greet, auth, thread->pool->name,
                            fp_net_conn_wanted(thread->conns[index]), msg);
    rc = rc ? rc : 1;
    while (rc > 0) {
        rc = exchange(thread, index, timeout_ms, msg);
        if (rc)
            break;
        rc = fp_greet_take(&greet, msg);
        if (rc < 0)
            fp_error(rc, "node %s: %s", node->uri, farpool_errmsg());
    }
    if (!rc)
        thread->boots[index] = msg->boot_id;
    free(msg);
    return rc;
}

/* Whether this thread may try to connect now. While a node is down nobody else does until it is done. */
static bool may_connect(fp_node *node, const fp_net *net, unsigned timeout_ms)
{
    uint64_t now = fp_net_now_ns(net);
    uint64_t until = atomic_load_explicit(&node->down_until_ns, memory_order_relaxed);
    if (!until)
        return true;                                   /* it was there the last time */
    uint64_t mine = now + 2 * timeout_ms * 1000000ull; /* to connect, and for HELLO */
    return now >= until &&
           atomic_compare_exchange_strong_explicit(&node->down_until_ns, &until, mine,
                                                   memory_order_relaxed, memory_order_relaxed);
}

static int connect_node(fp_thread *thread, unsigned index, unsigned timeout_ms)
{
    farpool_pool *pool = thread->pool;
    fp_node *node = &pool->nodes[index];
    fp_transport *transport = &pool->transports[node->transport];
    if (!may_connect(node, transport->net, timeout_ms))
        return fp_error(FARPOOL_E_NODE, "node %s cannot be reached; trying again soon", node->uri);
    int rc = 0;
    if (!thread->pollers[node->transport])
        rc = fp_net_poller_open(transport->net, &thread->pollers[node->transport]);
    fp_conn *conn;
    if (!rc)
        rc = fp_net_connect(thread->pollers[node->transport], node->uri, &conn);
    if (!rc) {
        thread->conns[index] = conn;
        pthread_mutex_lock(&pool->lock);
        thread->connected[index] = pool->next_set_serial;
        pthread_mutex_unlock(&pool->lock);
        rc = say_hello(thread, index, timeout_ms);
        if (rc && thread->conns[index]) /* not closed by an event meanwhile */
            close_conn(thread, conn);
    }
    uint64_t until = rc ? fp_net_now_ns(transport->net) + RETRY_AFTER_NS : 0;
    atomic_store_explicit(&node->down_until_ns, until, memory_order_relaxed);
    return rc;
}

int fp_remote_ask(fp_thread *thread, unsigned node, unsigned timeout_ms, fp_msg *msg,
                  enum fp_msg_type expected)
{
    int rc = FARPOOL_E_CLOSED;
    for (int tries = 0; rc == FARPOOL_E_CLOSED && tries < 2; tries++) {
        rc = thread->conns[node] ? 0 : connect_node(thread, node, timeout_ms);
        if (!rc)
            rc = request(thread, node, timeout_ms, msg, expected);
    }
    return node_error(rc);
}

int fp_remote_connect(fp_thread *thread, unsigned index, unsigned timeout_ms)
{
    if (thread->conns[index])
        return 0;
    atomic_store_explicit(&thread->pool->nodes[index].down_until_ns, 0, memory_order_relaxed);
    return node_error(connect_node(thread, index, timeout_ms));
}

/* What is asked of a node for a partition. */
typedef struct node_ask {
    farpool_partition *partition;
    fp_node_set *set;
    unsigned node;
    fp_msg *msg;
} node_ask;

/* GRANT, or ATTACH, then ATTACH again for the rest of a long list. With extents NULL the list is only
 * walked, so that the node shares all of them with this connection. */
static int walk_extents(fp_thread *thread, const node_ask *ask, fp_rkey **extents)
{
    farpool_partition *partition = ask->partition;
    fp_msg *msg = ask->msg;
    uint64_t held = msg->held;
    uint32_t seen = 0;
    do {
        msg->partition = partition->id;
        msg->epoch = ask->set->epoch;
        msg->first = seen;
        msg->held = held;
        int rc = request(thread, ask->node, partition->timeout_ms, msg, FP_MSG_EXTENTS);
        if (rc)
            return rc;
        if (msg->first != seen || !msg->count || msg->count > msg->total - seen ||
            msg->total > (1u << 24))
            return fp_error(
                FARPOOL_E_PROTO, "memory node %s: extents %u+%u of %u where %u was asked",
                partition->pool->nodes[ask->node].uri, msg->first, msg->count, msg->total, seen);
        if (extents) {
            fp_rkey *grown = realloc(*extents, msg->total * sizeof **extents);
            if (!grown)
                return fp_error(FARPOOL_E_NOMEM, "no memory for a list of %u extents", msg->total);
            *extents = grown;
            memcpy(grown + seen, msg->extents, msg->count * sizeof *grown);
        }
        seen += msg->count;
        msg->type = FP_MSG_ATTACH;
    } while (seen < msg->total);
    if (thread->conns[ask->node]) /* it may have broken right behind the answer */
        mark_attached(thread, partition->index, ask->node, true);
    return 0;
}

static int forgotten(const node_ask *ask)
{
    fp_slab_retire(ask->partition, ask->set, ask->node);
    return fp_error(FARPOOL_E_NODE, "memory node %s was restarted and has lost the pages it held",
                    ask->partition->pool->nodes[ask->node].uri);
}

static int attach(fp_thread *thread, const node_ask *ask, enum fp_msg_type type, fp_rkey **extents)
{
    farpool_partition *partition = ask->partition;
    fp_node_set *set = ask->set;
    unsigned node = ask->node;
    if (thread->attached[partition->index].serial != set->serial) {
        thread->attached[partition->index].serial = set->serial;
        memset(thread->attached[partition->index].nodes, 0,
               sizeof thread->attached[partition->index].nodes);
    }
    if (!thread->conns[node]) {
        int rc = connect_node(thread, node, partition->timeout_ms);
        if (rc)
            return rc;
    }
    if (type == FP_MSG_ATTACH && is_attached(thread, partition->index, node))
        return 0;
    /* The slab's GRANT comes first, and a ring must not hide that the node has forgotten it since. */
    if (type == FP_MSG_GRANT && (thread->use == FP_USE_SLAB || !set->boots[node]))
        set->boots[node] = thread->boots[node];
    bool is_other = set->boots[node] != thread->boots[node];
    bool is_newer = thread->connected[node] >= set->serial;
    if (is_other && (is_newer || type == FP_MSG_GRANT))
        return forgotten(ask);
    ask->msg->type = type;
    int rc = walk_extents(thread, ask, extents);
    /* The connection may be older than the set, and the node that it led to gone: then it ends, and the next one tells. */
    if (is_other && rc)
        return thread->conns[node] ? forgotten(ask) : FARPOOL_E_CLOSED;
    return rc;
}

int fp_remote_grant(fp_thread *thread, farpool_partition *partition, fp_node_set *set,
                    uint64_t held, fp_share *share)
{
    share->extents = NULL;
    node_ask ask = {partition, set, share->node, calloc(1, sizeof *ask.msg)};
    if (!ask.msg)
        return fp_error(FARPOOL_E_NOMEM, "opening partition: no memory for a message");
    /* A connection that was idle may have been cut off with another partition, or this one's owner before, and a GRANT
     * that was sent is not sent again. */
    fp_remote_poll(thread, 0);
    int rc = FARPOOL_E_CLOSED;
    for (int tries = 0; rc == FARPOOL_E_CLOSED && tries < 2; tries++) {
        ask.msg->bytes = share->bytes;
        ask.msg->held = held;
        rc = attach(thread, &ask, FP_MSG_GRANT, &share->extents);
        if (ask.msg->type == FP_MSG_ATTACH)
            break; /* it was sent */
    }
    share->count = ask.msg->total;
    share->extent_bytes = ask.msg->extent_bytes;
    free(ask.msg);
    if (rc) {
        free(share->extents);
        share->extents = NULL;
    }
    return node_error(rc);
}

int fp_remote_release(fp_thread *thread, farpool_partition *partition, fp_node_set *set,
                      unsigned node)
{
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "closing partition: no memory for a message");
    int rc = FARPOOL_E_CLOSED;
    for (int tries = 0; rc == FARPOOL_E_CLOSED && tries < 2; tries++) {
        rc = attach(thread, &(node_ask){partition, set, node, msg}, FP_MSG_ATTACH, NULL);
        if (rc)
            continue;
        msg->type = FP_MSG_RELEASE;
        msg->partition = partition->id;
        msg->epoch = set->epoch;
        rc = request(thread, node, partition->timeout_ms, msg, FP_MSG_RELEASE_OK);
    }
    mark_attached(thread, partition->index, node, false);
    free(msg);
    return node_error(rc);
}

int fp_remote_ready(fp_thread *thread, farpool_partition *partition, fp_node_set *set,
                    unsigned node)
{
    if (__builtin_expect(thread->attached[partition->index].serial == set->serial &&
                             is_attached(thread, partition->index, node),
                         1))
        return 0;
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "connecting: no memory for a message");
    int rc = attach(thread, &(node_ask){partition, set, node, msg}, FP_MSG_ATTACH, NULL);
    free(msg);
    if (rc == FARPOOL_E_NOTFOUND) /* which to our callers means that there is no such page */
        rc = fp_error(FARPOOL_E_FENCED,
                      "memory node %s: partition %llu was taken over and has been released since",
                      thread->pool->nodes[node].uri, (unsigned long long)partition->id);
    return rc;
}
