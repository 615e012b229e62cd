/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/slab.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "compute/remote.h"
#include "compute/thread.h"

_Static_assert((int)FP_RING_SLABS_MAX == (int)FP_PARTITION_NODES_MAX, "a place for each node");

static int check_share(farpool_partition *partition, const fp_share *share)
{
    uint64_t units = share->extent_bytes / FP_EXTENT_UNIT_BYTES;
    if (!units || (units & (units - 1)) || share->extent_bytes % FP_EXTENT_UNIT_BYTES)
        return fp_error(
            FARPOOL_E_PROTO, "memory node %s: extents of %llu bytes are no power of two of slots",
            partition->pool->nodes[share->node].uri, (unsigned long long)share->extent_bytes);
    unsigned shift = (unsigned)__builtin_ctzll(units);
    if (shift < partition->extent_shift)
        partition->extent_shift = shift;
    return 0;
}

static int grant(fp_thread *thread, farpool_partition *partition, fp_share *share)
{
    int rc = fp_remote_grant(thread, partition, share->node, partition->share_bytes,
                             &share->extents, &share->count, &share->extent_bytes);
    return rc ? rc : check_share(partition, share);
}

static int grant_shares(fp_thread *thread, farpool_partition *partition,
                        const farpool_partition_options *options)
{
    int rc = 0;
    for (size_t i = 0; i < options->memnode_count; i++) {
        fp_share *share = &partition->shares[partition->share_count];
        *share = (fp_share){0};
        rc = fp_remote_node(partition->pool, options->memnodes[i], options->timeout_ms,
                            &share->node);
        if (!rc)
            rc = grant(thread, partition, share);
        if (options->recover && (rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT))
            continue;
        if (rc && !share->extents)
            return rc;
        partition->share_count++;
        if (rc)
            return rc;
    }
    return partition->share_count ? 0 : rc;
}

static void free_shares(farpool_partition *partition)
{
    for (unsigned i = 0; i < partition->share_count; i++) {
        free(partition->shares[i].extents);
        partition->shares[i].extents = NULL;
    }
}

int fp_slab_grant(farpool_partition *partition, const farpool_partition_options *options)
{
    fp_thread *thread = fp_thread_get(partition->pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    partition->extent_shift = FARPOOL_ORDER_MAX;
    partition->share_bytes = (options->slab_bytes - 1) / options->memnode_count + 1;
    fp_thread_own(thread);
    int rc = grant_shares(thread, partition, options);
    if (rc) {
        char message[512];
        int first = rc;
        strncpy(message, farpool_errmsg(), sizeof message - 1);
        message[sizeof message - 1] = 0;
        fp_slab_release(thread, partition, &rc);
        rc = fp_error(first, "%s", message); /* what went wrong first is what matters */
        free_shares(partition);
    }
    fp_thread_disown(thread);
    partition->order_max = partition->extent_shift;
    return rc;
}

static bool counts(const farpool_partition *partition, const fp_share *share,
                   const fp_ring_slabs *counting)
{
    for (unsigned i = 0; i < FP_RING_SLABS_MAX; i++)
        if (counting->boots[i] == partition->boots[share->node])
            return true;
    return false;
}

int fp_slab_renew(farpool_partition *partition, const fp_ring_slabs *counting)
{
    fp_thread *thread = fp_thread_get(partition->pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    int rc = 0;
    fp_thread_own(thread);
    for (unsigned i = 0; i < partition->share_count && !rc; i++) {
        fp_share *share = &partition->shares[i];
        if (counts(partition, share, counting))
            continue;
        rc = fp_remote_release(thread, partition, share->node);
        free(share->extents);
        share->extents = NULL;
        if (!rc)
            rc = grant(thread, partition, share);
    }
    fp_thread_disown(thread);
    return rc;
}

void fp_slab_list(const farpool_partition *partition, fp_ring_slabs *slabs)
{
    unsigned n = 0;
    memset(slabs->boots, 0, sizeof slabs->boots);
    for (unsigned i = 0; i < partition->share_count; i++)
        if (!fp_slab_is_retired(partition, partition->shares[i].node))
            slabs->boots[n++] = partition->boots[partition->shares[i].node];
}

/* Cuts the shares into extents of 2^extent_shift slots and deals them out node by node. */
int fp_slab_deal(farpool_partition *partition)
{
    unsigned shift = partition->extent_shift;
    uint64_t per_extent[FP_PARTITION_NODES_MAX], total = 0, most = 0;
    for (unsigned i = 0; i < partition->share_count; i++) {
        const fp_share *share = &partition->shares[i];
        per_extent[i] = (share->extent_bytes / FP_EXTENT_UNIT_BYTES) >> shift;
        uint64_t pieces = share->count * per_extent[i];
        total += pieces;
        most = pieces > most ? pieces : most;
    }
    if (total << shift > UINT32_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "partition %llu: more than 2^32 slots",
                        (unsigned long long)partition->id);
    partition->extents = calloc(total, sizeof *partition->extents);
    if (!partition->extents)
        return fp_error(FARPOOL_E_NOMEM, "partition %llu: no memory for its list of extents",
                        (unsigned long long)partition->id);
    for (uint64_t p = 0; p < most; p++) {
        for (unsigned i = 0; i < partition->share_count; i++) {
            const fp_share *share = &partition->shares[i];
            if (p >= share->count * per_extent[i])
                continue;
            const fp_rkey *extent = &share->extents[p / per_extent[i]];
            uint64_t unit = p % per_extent[i] << shift;
            uint64_t entries = extent->addr + (per_extent[i] << shift) * FP_SLOT_UNIT_BYTES;
            partition->extents[partition->extent_count++] = (fp_extent){
                .key = extent->key,
                .addr = extent->addr + unit * FP_SLOT_UNIT_BYTES,
                .entries_addr = entries + unit * FP_SLOT_ENTRY_BYTES,
                .node = share->node,
            };
        }
    }
    free_shares(partition);
    return fp_units_open(&partition->slots, total << shift);
}

void fp_slab_release(fp_thread *thread, farpool_partition *partition, int *rc)
{
    for (unsigned i = 0; i < partition->share_count; i++) {
        int failed = fp_remote_release(thread, partition, partition->shares[i].node);
        if (failed && !*rc)
            *rc = failed;
    }
}

/* ---- slots ----------------------------------------------------------------------------------- */

void fp_slab_retire(farpool_partition *partition, unsigned node)
{
    if (partition->redo && partition->storage_count)
        atomic_fetch_or_explicit(&partition->retired, 1u << node, memory_order_relaxed);
}

int fp_slot_take(farpool_partition *partition, unsigned order, uint32_t *slot)
{
    uint64_t taken;
    do /* what is free on a retired node is taken for good */
        taken = fp_units_alloc(&partition->slots, order);
    while (taken != FP_UNIT_NONE &&
           fp_slab_is_retired(partition, fp_slot_node(partition, (uint32_t)taken)));
    if (taken == FP_UNIT_NONE)
        return fp_error(FARPOOL_E_NOSPACE, "partition %llu: its slab of %llu slots is full",
                        (unsigned long long)partition->id,
                        (unsigned long long)partition->slots.total);
    *slot = (uint32_t)taken;
    return 0;
}

bool fp_slot_move(farpool_partition *partition, farpool_pid pid, unsigned order)
{
    fp_entry *entry = &partition->entries[pid];
    uint32_t slot = atomic_load_explicit(&entry->slot, memory_order_relaxed);
    unsigned node = fp_slot_node(partition, slot);
    if (atomic_load_explicit(&partition->pool->nodes[node].down_until_ns, memory_order_relaxed))
        fp_slab_retire(partition, node);
    if (!fp_slab_is_retired(partition, node) || fp_slot_take(partition, order, &slot))
        return false;
    atomic_store_explicit(&entry->slot, slot, memory_order_relaxed);
    return true;
}

void fp_slab_close(farpool_partition *partition)
{
    free_shares(partition);
    free(partition->extents);
    fp_units_close(&partition->slots);
}
