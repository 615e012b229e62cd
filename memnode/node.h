/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the memory node: shared by server.c (its life), grants.c (requests), held.c (what
 * partitions have here) and duties.c (what coordinators say). */
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
        claimed; /* granted under this epoch; false: it passed on with another of the partition's, or was fenced */
    bool
        keyless; /* it has passed on, but some new key could not be made; the next GRANT tries again */
    char owner[FP_WIRE_TEXT_MAX +
               1];  /* who has proven this name has it, or is to; "": nobody has proven anything */
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
    uint64_t partition, epoch, bytes, held;
    enum fp_use use;
} fp_pending;

/* Under which epoch, and by whom, a partition may be granted memory, as a coordinator has said. */
typedef struct fp_fence {
    uint64_t partition, epoch;
    char *owner;
} fp_fence;

/* Everything belongs to the thread that drives the node. */
struct fp_memnode {
    fp_server server; /* its clients are fp_client */
    fp_extents extents;
    fp_spill *spill; /* NULL: none */
    fp_grant *grants;
    fp_epochs released;
    fp_pending *pending, **pending_tail;
    uint32_t pending_count;
    bool in_cluster, told; /* told: its duties, at least once */
    fp_fence *fences;
    uint32_t fence_count;
    uint64_t granted, grants_refused, epochs_raised, fenced; /* so far, for figures */
};

static inline fp_client *fp_node_first_client(const fp_memnode *node)
{
    return (fp_client *)node->server.clients;
}
static inline fp_client *fp_client_next(const fp_client *client)
{
    return (fp_client *)client->at.next;
}

/* server.c: answers USAGE. The client may be gone afterwards. */
void fp_node_tell_usage(fp_memnode *node, fp_client *client);

/* grants.c */

/* Answers node->server.request. The client may be gone afterwards. */
void fp_node_request(void *node, fp_server_client *client);
/* Tries the waiting GRANTs again. */
void fp_node_retry_pending(fp_memnode *node);
/* A client goes: forgets its waiting GRANT. */
void fp_node_forget_pending(fp_memnode *node, const fp_client *client);

/* held.c */

extern const char *const fp_use_names[FP_USES];
fp_grant *fp_grant_find(const fp_memnode *node, uint64_t partition, enum fp_use use); /* or NULL */
/* The client uses it from now on. E_NOMEM. */
int fp_grant_attach(fp_client *client, fp_grant *grant) FARPOOL_MUST_CHECK;
/* Its memory is given back, and the partition's epoch remembered. */
void fp_grant_release(fp_memnode *node, fp_grant *grant);
void fp_node_free_grants(fp_memnode *node);
/* All that the partition has under a lower epoch passes to this one and this owner, but what is under the epoch `held` (0: none), and those who
 * used it are cut off, but `except` (NULL: nobody), and counted. E_NOMEM: some keys could not be renewed; the old ones are dead
 * nevertheless. */
int fp_node_raise(fp_memnode *node, uint64_t partition, uint64_t epoch, uint64_t held,
                  const char *owner, const fp_client *except, uint32_t *cut);
/* Gives back what the partition has under this epoch or a lower one. */
void fp_node_drop(fp_memnode *node, uint64_t partition, uint64_t epoch);

/* duties.c */

/* Whether the coordinators have said that this client may be granted memory for the partition under this epoch. */
int fp_node_check_told(const fp_memnode *node, const char *client, uint64_t partition,
                       uint64_t epoch) FARPOOL_MUST_CHECK;
void fp_node_free_fences(fp_memnode *node);

#endif
