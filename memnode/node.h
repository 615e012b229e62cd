/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the memory node: shared by server.c (its life) and grants.c (requests). */
#ifndef FP_MEMNODE_NODE_H
#define FP_MEMNODE_NODE_H

#include "memnode/epochs.h"
#include "memnode/server.h"

/* What a partition has here for one use. It outlives its connections. All of a partition's are under the
 * same epoch. */
typedef struct fp_grant {
    struct fp_grant *next;
    uint64_t partition, epoch;
    enum fp_use use;
    bool
        claimed; /* granted under this epoch; false: it passed on with another of the partition's */
    uint32_t count; /* extents */
    uint32_t *extents;
} fp_grant;

/* A connection of a client. */
typedef struct fp_client {
    fp_server_client at;
    fp_grant **attached; /* whose extents it was given */
    uint32_t attached_count, attached_room;
} fp_client;

/* A GRANT that waits for released extents to be cleared. At most one per client. */
typedef struct fp_pending {
    struct fp_pending *next;
    fp_client *client;
    uint32_t request;
    uint64_t partition, epoch, bytes;
    enum fp_use use;
} fp_pending;

/* Everything belongs to the thread that drives the node. */
struct fp_memnode {
    fp_server server; /* its clients are fp_client */
    fp_extents extents;
    fp_spill *spill; /* NULL: none */
    fp_grant *grants;
    fp_epochs released;
    fp_pending *pending, **pending_tail;
    uint32_t pending_count;
};

static inline fp_client *fp_node_first_client(const fp_memnode *node)
{
    return (fp_client *)node->server.clients;
}
static inline fp_client *fp_client_next(const fp_client *client)
{
    return (fp_client *)client->at.next;
}

/* grants.c */

/* Answers node->server.request. The client may be gone afterwards. */
void fp_node_request(void *node, fp_server_client *client);
/* Tries the waiting GRANTs again. */
void fp_node_retry_pending(fp_memnode *node);
/* A client goes: forgets its waiting GRANT. */
void fp_node_forget_pending(fp_memnode *node, const fp_client *client);
void fp_node_free_grants(fp_memnode *node);

#endif
