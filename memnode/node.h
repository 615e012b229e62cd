/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the memory node: shared by server.c (connections, transports) and grants.c
 * (requests). */
#ifndef FP_MEMNODE_NODE_H
#define FP_MEMNODE_NODE_H

#include "memnode/epochs.h"
#include "memnode/server.h"

enum { FP_MEMNODE_LISTENERS_MAX = 16, FP_MEMNODE_BATCH = 64 };

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
    struct fp_client *next, **link; /* in the node's list; *link points here */
    fp_conn *conn;
    unsigned net;        /* index of its transport */
    bool greeted;        /* has said HELLO */
    fp_grant **attached; /* whose extents it was given */
    uint32_t attached_count, attached_room;
    char name[FP_WIRE_TEXT_MAX + 1];
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
    char name[FP_WIRE_TEXT_MAX + 1];
    uint64_t boot_id;
    fp_extents extents;
    struct {
        fp_net *net;
        fp_poller *poller;
    } nets[FP_EXTENT_NETS_MAX];
    unsigned net_count;
    fp_listener *listeners[FP_MEMNODE_LISTENERS_MAX];
    unsigned listener_count;

    fp_client *clients;
    uint32_t client_count;
    fp_grant *grants;
    fp_epochs released;
    fp_pending *pending, **pending_tail;
    uint32_t pending_count;

    fp_net_event batch[FP_MEMNODE_BATCH]; /* being handled: from batch_next to batch_end */
    int batch_next, batch_end;
    fp_msg request, answer;
    uint8_t buffer[FP_NET_MESSAGE_MAX];
};

/* server.c */

/* Cuts a client off, frees it, and takes its events out of the batch being handled. */
void fp_client_drop(fp_memnode *node, fp_client *client);
/* Sends node->answer. A client that can not be answered is dropped: returns false, client is
 * gone. */
bool fp_client_answer(fp_memnode *node, fp_client *client, uint32_t request);

/* grants.c */

/* Answers node->request. The client may be gone afterwards. */
void fp_node_request(fp_memnode *node, fp_client *client);
/* Answers with an error and farpool_errmsg(). The client may be gone afterwards. */
void fp_node_refuse(fp_memnode *node, fp_client *client, uint32_t request, int code);
/* Tries the waiting GRANTs again. */
void fp_node_retry_pending(fp_memnode *node);
/* A client goes: forgets its waiting GRANT. */
void fp_node_forget_pending(fp_memnode *node, const fp_client *client);
void fp_node_free_grants(fp_memnode *node);

#endif
