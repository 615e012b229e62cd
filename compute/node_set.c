/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/node_set.h"

#include <stdlib.h>

#include "common/error.h"
#include "common/futex.h"

int fp_node_set_new(farpool_partition *partition, uint64_t epoch, fp_node_set **out)
{
    farpool_pool *pool = partition->pool;
    fp_node_set *set = calloc(1, sizeof *set);
    if (!set)
        return fp_error(FARPOOL_E_NOMEM, "partition %llu: no memory for its list of memory nodes",
                        (unsigned long long)partition->id);
    set->epoch = epoch;
    pthread_mutex_lock(&pool->lock);
    set->serial = ++pool->next_set_serial;
    pthread_mutex_unlock(&pool->lock);
    *out = set;
    return 0;
}

void fp_node_set_free(fp_node_set *set)
{
    while (set) {
        fp_node_set *before = set->before;
        for (unsigned i = 0; i < FP_PARTITION_NODES_MAX; i++)
            free(set->shares[i].extents);
        free(set->extents);
        free(set);
        set = before;
    }
}

unsigned fp_node_set_find(const farpool_partition *partition, const fp_node_set *set, unsigned node)
{
    unsigned i = 0;
    while (i < partition->share_count && set->shares[i].node != node)
        i++;
    return i < partition->share_count ? i : FP_PARTITION_NODES_MAX;
}

static uint32_t wait_settled(farpool_partition *partition)
{
    for (;;) {
        uint32_t changes = atomic_load_explicit(&partition->changes, memory_order_acquire);
        if (__builtin_expect(!(changes & 1), 1))
            return changes;
        fp_futex_wait(&partition->changes, changes, 0);
    }
}

uint32_t fp_node_set_begin(farpool_partition *partition) { return wait_settled(partition); }

bool fp_node_set_changed(farpool_partition *partition, uint32_t begun)
{
    return wait_settled(partition) != begun;
}

void fp_node_set_change(farpool_partition *partition)
{
    atomic_fetch_add_explicit(&partition->changes, 1, memory_order_acq_rel);
}

void fp_node_set_settle(farpool_partition *partition, fp_node_set *set)
{
    set->before = fp_node_set_now(partition);
    atomic_store_explicit(&partition->set, set, memory_order_release);
    atomic_fetch_add_explicit(&partition->changes, 1, memory_order_release);
    fp_futex_wake_all(&partition->changes);
}
