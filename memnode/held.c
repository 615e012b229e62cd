/* SPDX-License-Identifier: Apache-2.0 */
/* What partitions have here, which clients use it, and how it is taken from these. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/log.h"
#include "memnode/node.h"

const char *const fp_use_names[FP_USES] = {"slab", "log ring"};

fp_grant *fp_grant_find(const fp_memnode *node, uint64_t partition, enum fp_use use)
{
    fp_grant *grant = node->grants;
    while (grant && (grant->partition != partition || grant->use != use))
        grant = grant->next;
    return grant;
}

static uint32_t attached_at(const fp_client *client, const fp_grant *grant)
{
    uint32_t i = 0;
    while (i < client->attached_count && client->attached[i] != grant)
        i++;
    return i;
}

static void detach(fp_client *client, const fp_grant *grant)
{
    uint32_t i = attached_at(client, grant);
    if (i < client->attached_count)
        client->attached[i] = client->attached[--client->attached_count];
}

int fp_grant_attach(fp_client *client, fp_grant *grant)
{
    if (attached_at(client, grant) < client->attached_count)
        return 0;
    if (client->attached_count == client->attached_room) {
        uint32_t room = client->attached_room ? client->attached_room * 2 : 4;
        fp_grant **grown = realloc(client->attached, room * sizeof *grown);
        if (!grown)
            return fp_error(FARPOOL_E_NOMEM,
                            "the memory node has no memory for another attachment");
        client->attached = grown;
        client->attached_room = room;
    }
    client->attached[client->attached_count++] = grant;
    return 0;
}

/* Cuts off everyone who uses the grant, except one. */
static uint32_t fence(fp_memnode *node, const fp_grant *grant, const fp_client *except)
{
    uint32_t cut = 0;
    fp_client *next;
    for (fp_client *client = fp_node_first_client(node); client; client = next) {
        next = fp_client_next(client);
        if (client == except || attached_at(client, grant) == client->attached_count)
            continue;
        fp_server_drop(&node->server, &client->at);
        cut++;
    }
    return cut;
}

static void free_grant(fp_memnode *node, fp_grant *grant)
{
    for (fp_client *client = fp_node_first_client(node); client; client = fp_client_next(client))
        detach(client, grant);
    fp_grant **link = &node->grants;
    while (*link != grant)
        link = &(*link)->next;
    *link = grant->next;
    if (node->spill && grant->use == FP_USE_RING)
        fp_spill_remove_ring(node->spill, grant->partition);
    free(grant->extents);
    free(grant);
}

void fp_grant_release(fp_memnode *node, fp_grant *grant)
{
    fp_epochs_note(&node->released, grant->partition, grant->epoch);
    fp_extents_give(&node->extents, grant->extents, grant->count);
    free_grant(node, grant);
}

void fp_node_free_grants(fp_memnode *node)
{
    while (node->grants)
        free_grant(node, node->grants);
    fp_epochs_free(&node->released);
}

/* Takes it away from an owner before: connections are cut, and keys die, which over verbs would work from any other
 * connection. Neither depends on the owner's help. */
int fp_node_raise(fp_memnode *node, uint64_t partition, uint64_t epoch, uint64_t held,
                  const char *owner, const fp_client *except, uint32_t *cut)
{
    int failed = 0;
    bool raised = false;
    for (fp_grant *g = node->grants; g; g = g->next) {
        bool stays = g->epoch >= epoch || (held && g->epoch == held);
        if (g->partition != partition || (stays && !g->keyless))
            continue;
        uint32_t fenced = fence(node, g, except);
        *cut += fenced;
        node->fenced += fenced;
        int rc = fp_extents_renew_keys(&node->extents, g->extents, g->count);
        failed = failed ? failed : rc;
        g->keyless = rc != 0;
        g->claimed = stays && g->claimed;
        if (stays)
            continue;
        g->epoch = epoch;
        snprintf(g->owner, sizeof g->owner, "%s", owner);
        raised = true;
    }
    node->epochs_raised += raised;
    return failed;
}

void fp_node_drop(fp_memnode *node, uint64_t partition, uint64_t epoch)
{
    for (int use = 0; use < FP_USES; use++) {
        fp_grant *of = fp_grant_find(node, partition, (enum fp_use)use);
        if (!of || of->epoch > epoch)
            continue;
        fp_log(FP_LOG_INFO,
               "partition %" PRIu64 " epoch %" PRIu64 ": %s is not to be here any more", partition,
               of->epoch, fp_use_names[use]);
        fp_grant_release(node, of);
    }
}
