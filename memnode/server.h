/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A memory node without its process: memory, transports, and the answers to control messages. No
 * threads, no waiting, no clock: whoever drives it (the daemon's loop, or a simulated world)
 * calls fp_memnode_step when a poller may have something. All functions of one node belong to
 * one thread at a time.
 */
#ifndef FP_MEMNODE_SERVER_H
#define FP_MEMNODE_SERVER_H

#include <jansson.h>

#include "common/daemon/server.h"
#include "common/metrics.h"
#include "memnode/extents.h"
#include "memnode/spill.h"

typedef struct fp_memnode_config {
    const char *name;      /* for messages; copied */
    uint64_t memory_bytes; /* rounded down to whole extents */
    int extent_order;      /* log2 of slot units per extent; -1: chosen by memory_bytes */
    int numa_node;         /* -1: not bound */
    uint64_t boot_id;      /* 0: random */
    const fp_auth *auth;   /* with the secret; outlives the node. NULL: whoever comes is served */
    fp_spill *
        spill; /* log rings are given to it; closed after the node, its thread stopped before. NULL: none */
    bool in_cluster; /* coordinators say what it grants to whom, and where it spills to */
} fp_memnode_config;

typedef struct fp_memnode fp_memnode;

typedef struct fp_memnode_usage {
    uint64_t bytes_total, bytes_granted, bytes_clearing, bytes_lost;
    uint64_t partitions, connections, pending;
    uint64_t extents, extent_bytes;
    uint64_t cpu_ns, data_bytes;
    fp_spill_usage spill;
} fp_memnode_usage;

/* Blocks while memory is mapped and touched. Errors as fp_extents_open. */
int fp_memnode_open(const fp_memnode_config *config, fp_memnode **node) FARPOOL_MUST_CHECK;
/* Cuts all connections off. */
void fp_memnode_close(fp_memnode *node);

/* Listens on one more address. The first of each scheme opens that transport (with options,
 * which may be NULL) and registers the memory with it, which blocks. *bound, valid until the
 * node is closed, is the address with its port. Errors as fp_net_open, fp_net_register and
 * fp_net_listen. */
int fp_memnode_listen(fp_memnode *node, const char *uri, const fp_net_options *options,
                      const char **bound) FARPOOL_MUST_CHECK;

/* The pollers' descriptors, one per transport; Returns their number. */
unsigned fp_memnode_fds(const fp_memnode *node, int fds[FP_SERVER_NETS_MAX]);

/* The poller of the i-th transport: a simulated world drives the node by it (fp_sim_set_driver). */
fp_poller *fp_memnode_poller(const fp_memnode *node, unsigned i);

/* Handles what has come in and does a little of the clearing that is due. Never waits. Returns 1
 * if there is more to do at once, 0 if the descriptors may be waited for, or a negative code if
 * a transport has become unusable. */
int fp_memnode_step(fp_memnode *node) FARPOOL_MUST_CHECK;

void fp_memnode_usage_get(const fp_memnode *node, fp_memnode_usage *usage);
/* Writes all figures, some of them for each partition. Waits as fp_spill_rings_get. */
void fp_memnode_metrics(const fp_memnode *node, fp_metrics *metrics);
uint64_t fp_memnode_boot_id(const fp_memnode *node);
const fp_server *fp_memnode_server(const fp_memnode *node);

/* In a cluster (docs/coordinator.md, What is said): what it is to be from now on, and what it is: a new object, NULL: no
 * memory. */
void fp_memnode_duties(fp_memnode *node, const json_t *duties);
json_t *fp_memnode_actual(const fp_memnode *node);

#endif
