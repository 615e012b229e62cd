/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/slab.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "common/kept.h"
#include "compute/remote.h"
#include "compute/storage.h"
#include "compute/thread.h"

_Static_assert((int)FP_RING_SLABS_MAX == (int)FP_PARTITION_NODES_MAX, "a place for each node");

/* ---- shares ---------------------------------------------------------------------------------- */

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

static int grant(fp_thread *thread, farpool_partition *partition, fp_node_set *set, fp_share *share)
{
    int rc = fp_remote_grant(thread, partition, set, 0, share);
    return rc ? rc : check_share(partition, share);
}

static void mark_absent(fp_node_set *set, unsigned share)
{
    set->absent |= 1u << share;
    atomic_fetch_or_explicit(&set->retired, 1u << share, memory_order_relaxed);
}

static int grant_shares(fp_thread *thread, farpool_partition *partition, fp_node_set *set,
                        const farpool_partition_options *options)
{
    int rc = 0, missing = 0;
    unsigned present = 0;
    for (size_t i = 0; i < options->memnode_count; i++) {
        fp_share *share = &set->shares[i];
        share->bytes = (options->slab_bytes - 1) / options->memnode_count + 1;
        rc = fp_remote_node(partition->pool, options->memnodes[i], options->timeout_ms,
                            &share->node);
        partition->share_count++;
        if (!rc)
            rc = grant(thread, partition, set, share);
        bool is_missing = options->recover && (rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT);
        if (!share->extents)
            mark_absent(set, (unsigned)i);
        if (rc && !is_missing)
            return rc;
        FP_FAULT_POINT(RECOVER_SLAB_GRANTED);
        missing = rc ? rc : missing;
        present += !rc;
    }
    return present ? 0 : missing;
}

int fp_slab_grant(farpool_partition *partition, const farpool_partition_options *options)
{
    fp_node_set *set;
    fp_thread *thread = fp_thread_get(partition->pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    int rc = fp_node_set_new(partition, options->epoch, &set);
    if (rc)
        return rc;
    atomic_store_explicit(&partition->set, set, memory_order_release);
    partition->extent_shift = FARPOOL_ORDER_MAX;
    fp_thread_own(thread);
    rc = grant_shares(thread, partition, set, options);
    if (rc) {
        fp_kept first = {0}; /* what went wrong first is what matters */
        fp_kept_set(&first, rc);
        /* What is to be recovered is left as it is for the next one who tries: nobody else may have those pages. */
        if (!options->recover)
            fp_slab_release(thread, partition, &rc);
        rc = fp_kept_tell(&first);
        fp_slab_close(partition);
    }
    fp_thread_disown(thread);
    partition->order_max = partition->extent_shift;
    return rc;
}

static bool counts(const fp_node_set *set, const fp_share *share, const fp_ring_slabs *counting)
{
    for (unsigned i = 0; i < FP_RING_SLABS_MAX; i++)
        if (counting->boots[i] == set->boots[share->node])
            return true;
    return false;
}

int fp_slab_renew(farpool_partition *partition, const fp_ring_slabs *counting)
{
    fp_node_set *set = fp_node_set_now(partition);
    fp_thread *thread = fp_thread_get(partition->pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    int rc = 0;
    fp_thread_own(thread);
    for (unsigned i = 0; i < partition->share_count && !rc; i++) {
        fp_share *share = &set->shares[i];
        if ((set->absent >> i & 1) || counts(set, share, counting))
            continue;
        rc = fp_remote_release(thread, partition, set, share->node);
        FP_FAULT_POINT(RECOVER_SLAB_RELEASED);
        free(share->extents);
        share->extents = NULL;
        if (!rc)
            rc = grant(thread, partition, set, share);
    }
    fp_thread_disown(thread);
    return rc;
}

void fp_slab_list(const farpool_partition *partition, const fp_node_set *set, fp_ring_slabs *slabs)
{
    unsigned n = 0;
    memset(slabs->boots, 0, sizeof slabs->boots);
    for (unsigned i = 0; i < partition->share_count; i++)
        if (!fp_slab_is_retired(set, i))
            slabs->boots[n++] = set->boots[set->shares[i].node];
}

void fp_slab_release(fp_thread *thread, farpool_partition *partition, int *rc)
{
    fp_node_set *set = fp_node_set_now(partition);
    for (unsigned i = 0; i < partition->share_count; i++) {
        if (set->absent >> i & 1)
            continue;
        int failed = fp_remote_release(thread, partition, set, set->shares[i].node);
        if (failed && !*rc)
            *rc = failed;
    }
}

/* ---- from shares to slots -------------------------------------------------------------------- */

/* Extents of 2^extent_shift slots in one that a node has granted. */
static uint64_t pieces_in(const farpool_partition *partition, const fp_share *share)
{
    return (share->extent_bytes / FP_EXTENT_UNIT_BYTES) >> partition->extent_shift;
}

static uint64_t piece_bytes(const farpool_partition *partition)
{
    return (uint64_t)FP_EXTENT_UNIT_BYTES << partition->extent_shift;
}

uint64_t fp_slab_share_bytes(const farpool_partition *partition, unsigned share)
{
    return partition->slots[share].count * piece_bytes(partition);
}

int fp_slab_check(const farpool_partition *partition, const fp_node_set *set, unsigned i)
{
    const fp_share *share = &set->shares[i];
    if (share->extent_bytes && share->extent_bytes % piece_bytes(partition) == 0 &&
        share->count * pieces_in(partition, share) >= partition->slots[i].count)
        return 0;
    return fp_error(
        FARPOOL_E_PROTO,
        "memory node %s: %u extents of %llu bytes where %u of %llu, or larger ones, are "
        "needed",
        partition->pool->nodes[share->node].uri, share->count,
        (unsigned long long)share->extent_bytes, partition->slots[i].count,
        (unsigned long long)piece_bytes(partition));
}

void fp_slab_place(const farpool_partition *partition, fp_node_set *set)
{
    for (unsigned i = 0; i < partition->share_count; i++) {
        fp_share *share = &set->shares[i];
        const fp_share_slots *slots = &partition->slots[i];
        uint64_t per_extent = share->extents ? pieces_in(partition, share) : 0;
        for (uint32_t p = 0; p < slots->count; p++) {
            fp_extent *piece = &set->extents[slots->first + p];
            *piece = (fp_extent){.node = (uint16_t)share->node, .share = (uint16_t)i};
            if (!share->extents)
                continue;
            const fp_rkey *extent = &share->extents[p / per_extent];
            uint64_t unit = p % per_extent << partition->extent_shift;
            uint64_t entries =
                extent->addr + share->extent_bytes / FP_EXTENT_UNIT_BYTES * FP_SLOT_UNIT_BYTES;
            piece->key = extent->key;
            piece->addr = extent->addr + unit * FP_SLOT_UNIT_BYTES;
            piece->entries_addr = entries + unit * FP_SLOT_ENTRY_BYTES;
        }
        free(share->extents);
        share->extents = NULL;
    }
}

/* A share that is absent has as many slots as it would have had. */
static uint64_t count_pieces(const farpool_partition *partition, const fp_share *share)
{
    if (share->extents)
        return share->count * pieces_in(partition, share);
    return (share->bytes - 1) / piece_bytes(partition) + 1;
}

int fp_slab_deal(farpool_partition *partition)
{
    fp_node_set *set = fp_node_set_now(partition);
    uint64_t total = 0;
    for (unsigned i = 0; i < partition->share_count; i++)
        total += count_pieces(partition, &set->shares[i]);
    if (total << partition->extent_shift > UINT32_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "partition %llu: more than 2^32 slots",
                        (unsigned long long)partition->id);
    for (unsigned i = 0; i < partition->share_count; i++) {
        fp_share_slots *slots = &partition->slots[i];
        slots->first = (uint32_t)partition->extent_count;
        slots->count = (uint32_t)count_pieces(partition, &set->shares[i]);
        partition->extent_count += slots->count;
        int rc = fp_units_open(&slots->units, (uint64_t)slots->count << partition->extent_shift);
        if (rc)
            return rc;
    }
    set->extents = calloc(total, sizeof *set->extents);
    if (!set->extents)
        return fp_error(FARPOOL_E_NOMEM, "partition %llu: no memory for its list of extents",
                        (unsigned long long)partition->id);
    fp_slab_place(partition, set);
    return 0;
}

void fp_slab_close(farpool_partition *partition)
{
    fp_node_set_free(fp_node_set_now(partition));
    atomic_store_explicit(&partition->set, NULL, memory_order_release);
    for (unsigned i = 0; i < partition->share_count; i++)
        fp_units_close(&partition->slots[i].units);
}

/* ---- slots ----------------------------------------------------------------------------------- */

void fp_slab_retire(const farpool_partition *partition, fp_node_set *set, unsigned node)
{
    unsigned share = fp_node_set_find(partition, set, node);
    if (share < FP_PARTITION_NODES_MAX && partition->redo && fp_storage_count(partition))
        atomic_fetch_or_explicit(&set->retired, 1u << share, memory_order_relaxed);
}

static fp_share_slots *slots_of(farpool_partition *partition, uint32_t slot, uint64_t *unit)
{
    const fp_node_set *set = fp_node_set_now(partition);
    fp_share_slots *slots = &partition->slots[fp_slot_extent(partition, set, slot)->share];
    *unit = slot - ((uint64_t)slots->first << partition->extent_shift);
    return slots;
}

int fp_slot_take(farpool_partition *partition, unsigned order, uint32_t *slot)
{
    const fp_node_set *set = fp_node_set_now(partition);
    uint64_t turn =
        atomic_fetch_add_explicit(&partition->slot_turn, 1ull << order, memory_order_relaxed);
    for (unsigned i = 0; i < partition->share_count; i++) {
        unsigned share =
            (unsigned)(((turn >> partition->extent_shift) + i) % partition->share_count);
        fp_share_slots *slots = &partition->slots[share];
        if (fp_slab_is_retired(set, share))
            continue;
        uint64_t unit = fp_units_alloc(&slots->units, order);
        if (unit == FP_UNIT_NONE)
            continue;
        *slot = (uint32_t)(((uint64_t)slots->first << partition->extent_shift) + unit);
        return 0;
    }
    return fp_error(FARPOOL_E_NOSPACE, "partition %llu: its slab of %llu slots is full",
                    (unsigned long long)partition->id,
                    (unsigned long long)partition->extent_count << partition->extent_shift);
}

bool fp_slot_claim(farpool_partition *partition, uint32_t slot, unsigned order)
{
    uint64_t unit;
    fp_share_slots *slots = slots_of(partition, slot, &unit);
    return fp_units_take(&slots->units, unit, order);
}

void fp_slot_free(farpool_partition *partition, uint32_t slot, unsigned order)
{
    uint64_t unit;
    fp_share_slots *slots = slots_of(partition, slot, &unit);
    fp_units_free(&slots->units, unit, order);
}

bool fp_slot_move(farpool_partition *partition, farpool_pid pid, unsigned order)
{
    fp_node_set *set = fp_node_set_now(partition);
    fp_entry *entry = &partition->entries[pid];
    uint32_t before = atomic_load_explicit(&entry->slot, memory_order_relaxed), slot;
    const fp_extent *extent = fp_slot_extent(partition, set, before);
    if (atomic_load_explicit(&partition->pool->nodes[extent->node].down_until_ns,
                             memory_order_relaxed))
        fp_slab_retire(partition, set, extent->node);
    if (!fp_slab_is_retired(set, extent->share) || fp_slot_take(partition, order, &slot))
        return false;
    atomic_store_explicit(&entry->slot, slot, memory_order_relaxed);
    fp_slot_free(partition, before, order);
    return true;
}
