/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections and transports. Every request is answered within the step that reads it, except a
 * GRANT that has to wait for released memory to be cleared. Page reads and writes do not come by
 * here: they are one-sided.
 *
 * A step may cut off any connection (a GRANT under a higher epoch does), also one whose events
 * stand further on in the batch being handled: fp_client_drop takes those out.
 */
#include "memnode/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "common/error.h"
#include "common/log.h"
#include "memnode/node.h"

enum { ROUNDS_MAX = 16 }; /* batches of one transport before the others get their turn */

/* ---- clients --------------------------------------------------------------------------------- */

/* The rest of the batch must not mention a connection that is about to be freed. */
static void close_conn(fp_memnode *node, fp_conn *conn)
{
    for (int i = node->batch_next; i < node->batch_end; i++) {
        if (node->batch[i].conn == conn)
            node->batch[i].conn = NULL;
    }
    fp_net_conn_close(conn);
}

static void accept_client(fp_memnode *node, unsigned net, fp_conn *conn)
{
    fp_client *client = NULL;
    if (node->client_count < FP_MEMNODE_CONNS_MAX)
        client = calloc(1, sizeof *client);
    if (!client) {
        fp_log(FP_LOG_WARN, "%s: refused: %" PRIu32 " connections already", fp_net_conn_peer(conn),
               node->client_count);
        close_conn(node, conn);
        return;
    }
    client->conn = conn;
    client->net = net;
    client->next = node->clients;
    client->link = &node->clients;
    if (client->next)
        client->next->link = &client->next;
    node->clients = client;
    node->client_count++;
    fp_net_conn_set_user(conn, client);
    fp_log(FP_LOG_DEBUG, "%s: connected", fp_net_conn_peer(conn));
}

void fp_client_drop(fp_memnode *node, fp_client *client)
{
    fp_node_forget_pending(node, client);
    close_conn(node, client->conn);
    *client->link = client->next;
    if (client->next)
        client->next->link = client->link;
    node->client_count--;
    free(client->attached);
    free(client);
}

bool fp_client_answer(fp_memnode *node, fp_client *client, uint32_t request)
{
    node->answer.request = request;
    size_t len = fp_wire_encode(&node->answer, node->buffer, sizeof node->buffer);
    fp_net_op op = {.kind = FP_NET_SEND, .sge_count = 1};
    op.sge[0] = (fp_sge){.addr = node->buffer, .len = (uint32_t)len};
    int rc = fp_net_post(client->conn, &op, 1);
    if (!rc)
        return true;
    /* Broken, or it sends requests and takes no answers. */
    fp_log(FP_LOG_INFO, "%s: cut off: %s", fp_net_conn_peer(client->conn), farpool_errmsg());
    fp_client_drop(node, client);
    return false;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void receive(fp_memnode *node, fp_client *client, const fp_net_event *event)
{
    int rc = fp_wire_decode(event->data, event->len, &node->request);
    if (!rc) {
        fp_node_request(node, client);
        return;
    }
    fp_log(FP_LOG_WARN, "%s: bad message of %" PRIu32 " bytes: %s", fp_net_conn_peer(client->conn),
           event->len, farpool_errmsg());
    fp_node_refuse(node, client, 0, rc);
}

static void take_event(fp_memnode *node, unsigned net, const fp_net_event *event)
{
    if (!event->conn)
        return; /* dropped by an earlier event of the batch */
    if (event->kind == FP_NET_ACCEPTED) {
        accept_client(node, net, event->conn);
        return;
    }
    fp_client *client = fp_net_conn_user(event->conn);
    FP_ASSERT(client);
    switch (event->kind) {
    case FP_NET_RECV:
        receive(node, client, event);
        break;
    case FP_NET_CLOSED:
        fp_log(FP_LOG_DEBUG, "%s: disconnected: %s", fp_net_conn_peer(event->conn),
               fp_net_conn_reason(event->conn));
        fp_client_drop(node, client);
        break;
    case FP_NET_DONE:     /* an answer has left, or FP_NET_CLOSED is about to come */
    case FP_NET_RECV_IMM: /* nobody has a use for one yet; its WRITE was allowed */
    case FP_NET_ACCEPTED:
        break;
    }
}

/* Returns 1 if there may be more, 0 if not. */
static int drain(fp_memnode *node, unsigned net)
{
    for (int round = 0; round < ROUNDS_MAX; round++) {
        int n = fp_net_poll(node->nets[net].poller, node->batch, FP_MEMNODE_BATCH, 0);
        if (n <= 0)
            return n;
        node->batch_end = n;
        for (int i = 0; i < n; i++) {
            node->batch_next = i + 1;
            take_event(node, net, &node->batch[i]);
        }
        node->batch_next = node->batch_end = 0;
    }
    return 1;
}

int fp_memnode_step(fp_memnode *node)
{
    int more = 0;
    for (unsigned i = 0; i < node->net_count; i++) {
        int rc = drain(node, i);
        if (rc < 0)
            return rc;
        more |= rc;
    }
    if (node->extents.dirty && fp_extents_clear_step(&node->extents))
        fp_node_retry_pending(node);
    return more || node->extents.dirty;
}

/* ---- life ------------------------------------------------------------------------------------ */

int fp_memnode_open(const fp_memnode_config *config, fp_memnode **out)
{
    fp_memnode *node = calloc(1, sizeof *node);
    if (!node)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a memory node");
    snprintf(node->name, sizeof node->name, "%s", config->name);
    node->pending_tail = &node->pending;
    node->boot_id = config->boot_id;
    int rc = 0;
    while (!rc && !node->boot_id) {
        if (getrandom(&node->boot_id, sizeof node->boot_id, 0) != sizeof node->boot_id)
            rc = fp_error_sys("drawing a boot id");
    }
    if (!rc)
        rc = fp_extents_open(config->memory_bytes, config->extent_order, config->numa_node,
                             &node->extents);
    if (rc) {
        free(node);
        return rc;
    }
    *out = node;
    return 0;
}

void fp_memnode_close(fp_memnode *node)
{
    if (!node)
        return;
    for (unsigned i = 0; i < node->listener_count; i++)
        fp_net_listener_close(node->listeners[i]);
    while (node->clients)
        fp_client_drop(node, node->clients);
    for (unsigned i = 0; i < node->net_count; i++)
        fp_net_poller_close(node->nets[i].poller);
    fp_extents_unregister(&node->extents);
    for (unsigned i = 0; i < node->net_count; i++)
        fp_net_close(node->nets[i].net);
    fp_node_free_grants(node);
    fp_extents_close(&node->extents);
    free(node);
}

/* The index of the transport that serves uri, opened now if it is the first of its scheme. */
static int net_for(fp_memnode *node, const char *uri, const fp_net_options *options,
                   unsigned *index)
{
    fp_uri parsed;
    int rc = fp_uri_parse(uri, &parsed);
    if (rc)
        return rc;
    for (unsigned i = 0; i < node->net_count; i++) {
        if (!strcmp(parsed.scheme, fp_net_scheme(node->nets[i].net))) {
            *index = i;
            return 0;
        }
    }
    FP_ASSERT(node->net_count < FP_EXTENT_NETS_MAX); /* as many as there are schemes */
    unsigned n = node->net_count;
    rc = fp_net_open(uri, options, &node->nets[n].net);
    if (rc)
        return rc;
    rc = fp_net_poller_open(node->nets[n].net, &node->nets[n].poller);
    if (rc)
        goto err_after_net;
    rc = fp_extents_register(&node->extents, node->nets[n].net, index);
    if (rc)
        goto err_after_poller;
    FP_ASSERT(*index == n);
    node->net_count++;
    return 0;
err_after_poller:
    fp_net_poller_close(node->nets[n].poller);
err_after_net:
    fp_net_close(node->nets[n].net);
    return rc;
}

int fp_memnode_listen(fp_memnode *node, const char *uri, const fp_net_options *options,
                      const char **bound)
{
    if (node->listener_count == FP_MEMNODE_LISTENERS_MAX)
        return fp_error(FARPOOL_E_INVAL, "%s: a node listens on at most %d addresses", uri,
                        FP_MEMNODE_LISTENERS_MAX);
    unsigned net;
    int rc = net_for(node, uri, options, &net);
    if (rc)
        return rc;
    fp_listener *listener;
    rc = fp_net_listen(node->nets[net].poller, uri, &listener);
    if (rc)
        return rc;
    node->listeners[node->listener_count++] = listener;
    *bound = fp_net_listener_uri(listener);
    return 0;
}

fp_poller *fp_memnode_poller(fp_memnode *node, unsigned i)
{
    FP_ASSERT(i < node->net_count);
    return node->nets[i].poller;
}

unsigned fp_memnode_fds(fp_memnode *node, int *fds)
{
    for (unsigned i = 0; i < node->net_count; i++)
        fds[i] = fp_net_poller_fd(node->nets[i].poller);
    return node->net_count;
}

uint64_t fp_memnode_boot_id(const fp_memnode *node) { return node->boot_id; }

void fp_memnode_usage_get(const fp_memnode *node, fp_memnode_usage *usage)
{
    const fp_extents *extents = &node->extents;
    *usage = (fp_memnode_usage){
        .bytes_total = extents->count * extents->extent_bytes,
        .bytes_clearing = extents->dirty * extents->extent_bytes,
        .connections = node->client_count,
        .pending = node->pending_count,
        .extents = extents->count,
        .extent_bytes = extents->extent_bytes,
    };
    uint32_t granted = 0;
    for (const fp_grant *grant = node->grants; grant; grant = grant->next) {
        granted += grant->count;
        const fp_grant *first = node->grants;
        while (first->partition != grant->partition)
            first = first->next;
        usage->partitions += first == grant; /* once, however many uses it has */
    }
    uint32_t lost = extents->count - extents->free - extents->dirty - granted;
    usage->bytes_granted = granted * extents->extent_bytes;
    usage->bytes_lost = lost * extents->extent_bytes;
    for (unsigned i = 0; i < node->net_count; i++)
        usage->data_bytes += fp_net_data_bytes(node->nets[i].net);
    struct timespec cpu;
    if (!clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu))
        usage->cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
}
