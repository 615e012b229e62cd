/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A partition's slab: what its memory nodes have granted it for pages. Opening asks every memory node for its share
 * (GRANT), cuts the extents granted into pieces that just hold the largest page, and deals them out node by node, so
 * that neighbouring slots lie on different nodes and load spreads from the first page on.
 *
 * If a node refuses, the shares granted so far are given back. If this process dies, memory nodes keep the slabs until
 * the partition is opened under a higher epoch. All functions are for whoever opens or closes the partition.
 */
#ifndef FP_COMPUTE_SLAB_H
#define FP_COMPUTE_SLAB_H

#include "common/ring.h"
#include "compute/pool.h"

/* Asks all memory nodes. Recovery goes on without those that cannot be reached. Blocks. */
int fp_slab_grant(farpool_partition *partition,
                  const farpool_partition_options *options) FARPOOL_MUST_CHECK;
/* Shares of nodes that are not among those whose slabs count are given back and asked for anew: they are empty then.
 * Blocks. */
int fp_slab_renew(farpool_partition *partition, const fp_ring_slabs *counting) FARPOOL_MUST_CHECK;
/* The nodes whose shares the partition uses. */
void fp_slab_list(const farpool_partition *partition, fp_ring_slabs *slabs);
/* Makes slots of the shares. E_TOO_BIG, E_NOMEM. */
int fp_slab_deal(farpool_partition *partition) FARPOOL_MUST_CHECK;
/* Gives all shares back. The thread is the caller's; *rc gets the first error if it is 0. */
void fp_slab_release(fp_thread *thread, farpool_partition *partition, int *rc);
void fp_slab_close(farpool_partition *partition);

/* ---- slots, for anybody ---------------------------------------------------------------------- */
/*
 * A memory node that has forgotten its share, or cannot be reached when a page is to be written to it, is retired: its
 * slots are used no more, pages come from storage nodes, and are written elsewhere. That is for partitions with a redo
 * log and storage nodes; in others there is nowhere to turn to.
 */

static inline unsigned fp_slot_node(const farpool_partition *partition, uint32_t slot)
{
    return partition->extents[slot >> partition->extent_shift].node;
}

static inline bool fp_slab_is_retired(const farpool_partition *partition, unsigned node)
{
    return atomic_load_explicit(&partition->retired, memory_order_relaxed) >> node & 1;
}

/* The node has forgotten its share: another boot id says so. */
void fp_slab_retire(farpool_partition *partition, unsigned node);

/* A free slot. E_NOSPACE. */
int fp_slot_take(farpool_partition *partition, unsigned order, uint32_t *slot) FARPOOL_MUST_CHECK;
/* A page could not be written to its slot: if its node is gone, the page gets another one, where it can be written to.
 * Returns whether that is so. By whoever writes it back. */
bool fp_slot_move(farpool_partition *partition, farpool_pid pid, unsigned order);

#endif
