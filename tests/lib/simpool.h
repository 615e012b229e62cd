/* SPDX-License-Identifier: Apache-2.0 */
/* A pool and its memory nodes in a simulated world, all in the calling thread. */
#ifndef FP_TESTS_LIB_SIMPOOL_H
#define FP_TESTS_LIB_SIMPOOL_H

#include "common/net/sim.h"
#include "compute/pool.h"
#include "memnode/server.h"

enum { SIM_NODES_MAX = 5 };

typedef struct sim_node {
    char uri[32];
    fp_memnode *memnode;
    uint64_t boot_id;
    unsigned extents; /* its memory */
    bool lost;        /* has crashed: what it held is gone */
    fp_sim_world *world;
    /* With a storage node its log rings are spilled by somebody of this name in the world. */
    const char *storage;
    char spiller[32];
    fp_spill *spill;
    bool in_cluster; /* coordinators say what it grants, and where it spills to */
    bool ticking, in_step;
    uint64_t paused_until_ns; /* what others write and read in its memory goes on */
} sim_node;

typedef struct sim_setup {
    fp_sim_world *world;
    sim_node nodes[SIM_NODES_MAX];
    const char *uris[SIM_NODES_MAX];
    unsigned node_count;
    fp_net *clock_net; /* a node that only waits */
    fp_poller *clock;
} sim_setup;

/* Each node has so many extents' memory. Ends the process on failure, as everything here. */
void sim_setup_open(sim_setup *s, uint64_t seed, const fp_sim_config *config, unsigned node_count,
                    unsigned extents);
/* The same with nodes that grant, and spill to whom, as their duties say. */
void sim_setup_open_in_cluster(sim_setup *s, uint64_t seed, const fp_sim_config *config,
                               unsigned node_count, unsigned extents);
void sim_setup_close(sim_setup *s);

/* A pool of 1 MiB, named `name` in the world. Mapping vm: if the kernel has it, else frames. */
void sim_pool_open(sim_setup *s, const char *name, enum farpool_mapping mapping,
                   farpool_pool **pool);
/* A partition on all the nodes, whose slab takes one extent of each. */
void sim_partition_options(sim_setup *s, uint64_t epoch, farpool_partition_options *options);
/* A pool with such a partition. The epoch is `epoch` or, where losses make it try again, higher. */
void sim_partition_open(sim_setup *s, const char *name, uint64_t epoch,
                        enum farpool_mapping mapping, farpool_pool **pool,
                        farpool_partition **partition);

/* From now on the node's rings, of which it has none yet, are spilled to the storage node at this address. */
void sim_node_spill(sim_node *node, const char *storage);

void sim_pass(sim_setup *s, unsigned ms); /* lets so much of the world's time pass */
void sim_node_crash(void *node);          /* a sim_node; also for fp_sim_at */
/* After a crash: empty, at the same address. False: not just now, for its spiller is being called. */
bool sim_node_restart(sim_node *node);

/* The node that the page's slot is on, and the slot's bytes there, header first. */
sim_node *sim_page_node(sim_setup *s, farpool_partition *partition, farpool_pid pid);
uint8_t *sim_page_slot(sim_setup *s, farpool_partition *partition, farpool_pid pid);

#endif
