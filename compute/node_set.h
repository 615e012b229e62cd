/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which memory nodes a partition uses, and under which epoch. A set never changes; farpool_partition_reconfigure
 * (reconfigure.c) puts another one in its place while others use pages. What they have under way with the old set
 * fails then, for its keys are dead, or its epoch is refused. So whoever moves pages counts changes:
 *
 *     begun = fp_node_set_begin(partition);
 *     ... transfers ...
 *     if (they failed && fp_node_set_changed(partition, begun)) once more
 *
 * Both wait while a change is under way: some milliseconds, with page latches and a thread's structure held. That is no
 * deadlock, for a change takes neither. What it does take, in this order: the keeper's rounds (fp_keeper_pause), the
 * flusher's place (fp_redo_hold). So neither the keeper in a round nor a flusher may wait for a change, and
 * both use the set as it is: it cannot change under them.
 *
 * | partition.set     | release by the change, acquire by all; the sets before stay until the partition is closed |
 * | partition.changes | odd: one is under way. Made odd (release) before the first GRANT of the change, which is what makes
 * |                   | others' transfers fail; even (release) after set. Acquire by all. A futex |
 */
#ifndef FP_COMPUTE_NODE_SET_H
#define FP_COMPUTE_NODE_SET_H

#include "compute/pool.h"

static inline fp_node_set *fp_node_set_now(const farpool_partition *partition)
{
    return atomic_load_explicit(&partition->set, memory_order_acquire);
}

/* An empty one, which is nobody's yet. E_NOMEM. */
int fp_node_set_new(farpool_partition *partition, uint64_t epoch,
                    fp_node_set **set) FARPOOL_MUST_CHECK;
/* And all that were before it. NULL is allowed. */
void fp_node_set_free(fp_node_set *set);

/* The share of a node of pool.nodes; FP_PARTITION_NODES_MAX: it has none. */
unsigned fp_node_set_find(const farpool_partition *partition, const fp_node_set *set,
                          unsigned node);

uint32_t fp_node_set_begin(farpool_partition *partition);
bool fp_node_set_changed(farpool_partition *partition, uint32_t begun);

/* By one thread at a time. */
void fp_node_set_change(farpool_partition *partition);
void fp_node_set_settle(farpool_partition *partition, fp_node_set *set);

#endif
