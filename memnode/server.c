/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a memory node. Every request is answered within the step that reads it, except a GRANT that has to
 * wait for released memory to be cleared. Page reads and writes do not come by here: they are one-sided.
 */
#include "memnode/server.h"

#include <stdlib.h>
#include <time.h>

#include "common/error.h"
#include "memnode/node.h"

_Static_assert((int)FP_EXTENT_NETS_MAX >= (int)FP_SERVER_NETS_MAX, "keys for each transport");

static int net_opened(void *owner, fp_net *net, unsigned index)
{
    fp_memnode *node = owner;
    unsigned registered;
    int rc = fp_extents_register(&node->extents, net, &registered);
    FP_ASSERT(rc || registered == index);
    return rc;
}

static void dropped(void *node, fp_server_client *gone)
{
    fp_client *client = (fp_client *)gone;
    fp_node_forget_pending(node, client);
    free(client->attached);
}

/* The owner of some ring waits for stable media, and has written its line. */
static void signalled(void *owner)
{
    const fp_memnode *node = owner;
    if (node->spill)
        fp_spill_wake(node->spill);
}

static const fp_server_ops ops = {
    .client_bytes = sizeof(fp_client),
    .net_opened = net_opened,
    .request = fp_node_request,
    .dropped = dropped,
    .signalled = signalled,
};

int fp_memnode_open(const fp_memnode_config *config, fp_memnode **out)
{
    fp_memnode *node = calloc(1, sizeof *node);
    if (!node)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a memory node");
    node->pending_tail = &node->pending;
    node->spill = config->spill;
    node->in_cluster = config->in_cluster;
    int rc = fp_server_open(&node->server, &ops, node, config->name, config->boot_id, config->auth);
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
    fp_server_stop(&node->server);
    fp_extents_unregister(&node->extents);
    fp_server_close(&node->server);
    fp_node_free_grants(node);
    fp_node_free_fences(node);
    fp_extents_close(&node->extents);
    free(node);
}

int fp_memnode_listen(fp_memnode *node, const char *uri, const fp_net_options *options,
                      const char **bound)
{
    return fp_server_listen(&node->server, uri, options, bound);
}

unsigned fp_memnode_fds(const fp_memnode *node, int fds[FP_SERVER_NETS_MAX])
{
    return fp_server_fds(&node->server, fds);
}

fp_poller *fp_memnode_poller(const fp_memnode *node, unsigned i)
{
    return fp_server_poller(&node->server, i);
}

int fp_memnode_step(fp_memnode *node)
{
    int more = fp_server_step(&node->server);
    if (more < 0)
        return more;
    if (node->extents.dirty && fp_extents_clear_step(&node->extents))
        fp_node_retry_pending(node);
    return more || node->extents.dirty;
}

const fp_server *fp_memnode_server(const fp_memnode *node) { return &node->server; }
uint64_t fp_memnode_boot_id(const fp_memnode *node) { return node->server.boot_id; }

void fp_memnode_usage_get(const fp_memnode *node, fp_memnode_usage *usage)
{
    const fp_extents *extents = &node->extents;
    *usage = (fp_memnode_usage){
        .bytes_total = extents->count * extents->extent_bytes,
        .bytes_clearing = extents->dirty * extents->extent_bytes,
        .connections = node->server.client_count,
        .pending = node->pending_count,
        .extents = extents->count,
        .extent_bytes = extents->extent_bytes,
        .data_bytes = fp_server_data_bytes(&node->server),
    };
    if (node->spill)
        fp_spill_usage_get(node->spill, &usage->spill);
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
    struct timespec cpu;
    if (!clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu))
        usage->cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
}

void fp_node_tell_usage(fp_memnode *node, fp_client *client)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    node->server.answer.type = FP_MSG_USAGE_OK;
    node->server.answer.usage.bytes_total = usage.bytes_total;
    node->server.answer.usage.bytes_granted = usage.bytes_granted;
    node->server.answer.usage.partitions = usage.partitions;
    node->server.answer.usage.connections = usage.connections;
    node->server.answer.usage.cpu_ns = usage.cpu_ns;
    node->server.answer.usage.data_bytes = usage.data_bytes;
    node->server.answer.usage.spill_lag = usage.spill.lag;
    fp_server_answer(&node->server, &client->at, node->server.request.request);
}
