/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A partition's slab: what its memory nodes have granted it for pages. Opening asks every memory node for its share
 * (GRANT), and cuts the extents granted into pieces that just hold the largest page. Slots are given out in turns of as
 * many as a piece has, node by node, so that load spreads over the nodes.
 *
 * If a node refuses, the shares granted so far are given back. If this process dies, memory nodes keep the slabs until
 * the partition is opened under a higher epoch. Slots are numbered share by share; another node may take a share's place
 * later (reconfigure.c), and then each slot of it is empty, but keeps its number: whoever finds nothing there gets the
 * page from a storage node, and writes it there the next time.
 */
#ifndef FP_COMPUTE_SLAB_H
#define FP_COMPUTE_SLAB_H

#include "common/ring.h"
#include "compute/node_set.h"

/* For whoever opens or closes the partition, or changes its set. */

/* Asks all memory nodes, for partition.set, which is made. Recovery goes on without those that cannot be reached.
 * Blocks. */
int fp_slab_grant(farpool_partition *partition,
                  const farpool_partition_options *options) FARPOOL_MUST_CHECK;
/* Shares of nodes that are not among those whose slabs count are given back and asked for anew: they are empty then.
 * Blocks. */
int fp_slab_renew(farpool_partition *partition, const fp_ring_slabs *counting) FARPOOL_MUST_CHECK;
/* The nodes whose shares are in use. */
void fp_slab_list(const farpool_partition *partition, const fp_node_set *set, fp_ring_slabs *slabs);
/* Makes slots of the shares. E_TOO_BIG, E_NOMEM. */
int fp_slab_deal(farpool_partition *partition) FARPOOL_MUST_CHECK;
/* Whether what a node has granted is as much as the slots of that share need. E_PROTO. */
int fp_slab_check(const farpool_partition *partition, const fp_node_set *set,
                  unsigned share) FARPOOL_MUST_CHECK;
/* Says where the slots of a set are. set->extents has room for partition->extent_count. */
void fp_slab_place(const farpool_partition *partition, fp_node_set *set);
/* What is asked of a node that takes a share's place. */
uint64_t fp_slab_share_bytes(const farpool_partition *partition, unsigned share);
/* Gives all shares back. The thread is the caller's; *rc gets the first error if it is 0. */
void fp_slab_release(fp_thread *thread, farpool_partition *partition, int *rc);
void fp_slab_close(farpool_partition *partition);

/* ---- slots, for anybody ---------------------------------------------------------------------- */
/*
 * A memory node that has forgotten its share, or cannot be reached when a page is to be written to it, is retired: its
 * slots are used no more, pages come from storage nodes, and are written elsewhere. That is for partitions with a redo
 * log and storage nodes; in others there is nowhere to turn to.
 */

static inline const fp_extent *fp_slot_extent(const farpool_partition *partition,
                                              const fp_node_set *set, uint32_t slot)
{
    return &set->extents[slot >> partition->extent_shift];
}

static inline bool fp_slab_is_retired(const fp_node_set *set, unsigned share)
{
    return atomic_load_explicit(&set->retired, memory_order_relaxed) >> share & 1;
}

/* The node has forgotten its share: another boot id says so. */
void fp_slab_retire(const farpool_partition *partition, fp_node_set *set, unsigned node);

/* A free slot. E_NOSPACE. */
int fp_slot_take(farpool_partition *partition, unsigned order, uint32_t *slot) FARPOOL_MUST_CHECK;
/* Takes exactly this slot; false: some of it has been given out. */
bool fp_slot_claim(farpool_partition *partition, uint32_t slot, unsigned order);
void fp_slot_free(farpool_partition *partition, uint32_t slot, unsigned order);
/* A page could not be written to its slot: if its node is gone, the page gets another one, where it can be written to.
 * Returns whether that is so. By whoever writes it back. */
bool fp_slot_move(farpool_partition *partition, farpool_pid pid, unsigned order);

#endif
