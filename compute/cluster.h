/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pool that follows the coordinators (farpool.h, clusters). Two threads of the library's: one has the conversation
 * with the coordinators (common/cluster/agent.h) and never waits for anything else, so heartbeats go on; one does what
 * waits: other memory nodes and storage nodes for partitions that are open. In a simulated world there are no threads: tests
 * call fp_cluster_step and fp_cluster_work.
 *
 * A partition that was opened by farpool_cluster_open has an assignment, and tells it that it is being closed:
 *
 *     fp_cluster_let_go(partition);        the threads do not touch it any more
 *     ... it is closed, and freed ...
 *     fp_cluster_closed(assignment);       or fp_cluster_take_back(partition), if it could not be
 */
#ifndef FP_COMPUTE_CLUSTER_H
#define FP_COMPUTE_CLUSTER_H

#include "compute/pool.h"

typedef struct fp_assignment fp_assignment;

/* Waits while its memory nodes are being changed. */
void fp_cluster_let_go(farpool_partition *partition);
void fp_cluster_take_back(farpool_partition *partition);
void fp_cluster_closed(fp_assignment *assignment);

/* In a simulated world: goes on with the conversation. Never waits. Returns whether there may be more at once. */
bool fp_cluster_step(farpool_cluster *cluster);
/* Does one thing that waits for the network. False: there is nothing to do. */
bool fp_cluster_work(farpool_cluster *cluster);
/* The conversation's (fp_agent_poller, fp_agent_next_ns). */
struct fp_agent *fp_cluster_agent(farpool_cluster *cluster);

#endif
