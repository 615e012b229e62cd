/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and closing partitions. Opening asks every memory node for its share of the slab (GRANT), cuts
 * the extents granted into pieces that just hold the largest page, and deals them out node by node, so
 * that neighbouring slots lie on different nodes and load spreads from the first page on.
 *
 * If a node refuses, the shares granted so far are given back. If this process dies, memory nodes keep
 * the slabs until the partition is opened under a higher epoch.
 */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/mem.h"
#include "compute/evict.h"
#include "compute/io.h"
#include "compute/keeper.h"
#include "compute/mapping.h"
#include "compute/recovery.h"
#include "compute/remote.h"
#include "compute/thread.h"

enum { NODES_MAX = sizeof((farpool_partition *)0)->nodes / sizeof(unsigned) };

/* What one node granted. */
typedef struct share {
    fp_rkey *extents;
    uint32_t count;
    uint64_t extent_bytes;
} share;

void farpool_partition_options_init(farpool_partition_options *options)
{
    *options = (farpool_partition_options){
        .struct_size = sizeof *options,
        .id = 1,
        .epoch = 1,
        .space_bytes = 64ull << 30,
        .slab_bytes = 256ull << 20,
        .timeout_ms = 5000,
        .log_ring_bytes = 64ull << 20,
        .storage_quorum = 1,
    };
}

static int check_log_options(const farpool_partition_options *options)
{
    unsigned long long id = options->id;
    if (!options->log_copies && options->recover)
        return fp_error(FARPOOL_E_INVAL,
                        "partition %llu: without a redo log (log_copies = 0) there is "
                        "nothing to recover",
                        id);
    if (!options->log_copies)
        return 0;
    if (options->log_copies > FP_RINGS_MAX || options->log_copies > options->memnode_count)
        return fp_error(
            FARPOOL_E_INVAL,
            "partition %llu: log_copies %u: at most %d, and one on each of its %zu memory "
            "nodes",
            id, options->log_copies, FP_RINGS_MAX, options->memnode_count);
    if (options->log_quorum > options->log_copies)
        return fp_error(FARPOOL_E_INVAL, "partition %llu: log_quorum %u of %u log rings", id,
                        options->log_quorum, options->log_copies);
    if (!options->storage_quorum || options->storage_quorum > options->log_copies)
        return fp_error(FARPOOL_E_INVAL,
                        "partition %llu: storage_quorum %u: must be 1 to log_copies (%u)", id,
                        options->storage_quorum, options->log_copies);
    if (options->log_ring_bytes < 1 << 20 || options->log_ring_bytes > FP_RING_BYTES_MAX)
        return fp_error(FARPOOL_E_INVAL,
                        "partition %llu: log_ring_bytes %llu: must be 1 MiB to %llu GiB", id,
                        (unsigned long long)options->log_ring_bytes,
                        (unsigned long long)(FP_RING_BYTES_MAX >> 30));
    return 0;
}

static int check_options(const farpool_partition_options *options)
{
    if (!options || options->struct_size != sizeof *options)
        return fp_error(FARPOOL_E_INVAL,
                        "partition options: call farpool_partition_options_init first (or the "
                        "program was compiled for another version of farpool.h)");
    if (!options->id || !options->epoch)
        return fp_error(FARPOOL_E_INVAL, "partition id and epoch must not be 0");
    if (!options->memnode_count || options->memnode_count > NODES_MAX || !options->memnodes)
        return fp_error(FARPOOL_E_INVAL, "partition %llu: %zu memory nodes; must be 1 to %d",
                        (unsigned long long)options->id, options->memnode_count, (int)NODES_MAX);
    for (size_t i = 0; i < options->memnode_count; i++)
        for (size_t k = 0; k < i; k++)
            if (!strcmp(options->memnodes[i], options->memnodes[k]))
                return fp_error(FARPOOL_E_INVAL, "partition %llu: memory node %s is named twice",
                                (unsigned long long)options->id, options->memnodes[i]);
    if (options->space_bytes < FARPOOL_UNIT_BYTES || options->space_bytes > 1ull << 44)
        return fp_error(FARPOOL_E_INVAL, "space_bytes %llu: must be 4 KiB to 16 TiB",
                        (unsigned long long)options->space_bytes);
    if (!options->slab_bytes || !options->timeout_ms)
        return fp_error(FARPOOL_E_INVAL, "slab_bytes and timeout_ms must not be 0");
    return check_log_options(options);
}

static int check_share(farpool_partition *partition, const share *from, const char *uri)
{
    uint64_t units = from->extent_bytes / FP_EXTENT_UNIT_BYTES;
    if (!units || (units & (units - 1)) || from->extent_bytes % FP_EXTENT_UNIT_BYTES)
        return fp_error(FARPOOL_E_PROTO,
                        "memory node %s: extents of %llu bytes are no power "
                        "of two of slots",
                        uri, (unsigned long long)from->extent_bytes);
    unsigned shift = (unsigned)__builtin_ctzll(units);
    if (shift < partition->extent_shift)
        partition->extent_shift = shift;
    return 0;
}

/* Recovery goes on without memory nodes that cannot be reached. */
static int grant_shares(fp_thread *thread, farpool_partition *partition,
                        const farpool_partition_options *options, share *shares)
{
    uint64_t bytes = (options->slab_bytes - 1) / options->memnode_count + 1;
    int rc = 0;
    for (size_t i = 0; i < options->memnode_count; i++) {
        unsigned node;
        share *from = &shares[partition->node_count];
        rc = fp_remote_node(partition->pool, options->memnodes[i], options->timeout_ms, &node);
        if (!rc)
            rc = fp_remote_grant(thread, partition, node, bytes, &from->extents, &from->count,
                                 &from->extent_bytes);
        if (options->recover && (rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT))
            continue;
        if (rc)
            return rc;
        partition->nodes[partition->node_count++] = node;
        rc = check_share(partition, from, options->memnodes[i]);
        if (rc)
            return rc;
    }
    return partition->node_count ? 0 : rc;
}

/* Cuts the shares into extents of 2^extent_shift slots and deals them out node by node. */
static int deal_extents(farpool_partition *partition, const share *shares)
{
    unsigned shift = partition->extent_shift;
    uint64_t per_extent[NODES_MAX], total = 0, most = 0;
    for (unsigned i = 0; i < partition->node_count; i++) {
        per_extent[i] = (shares[i].extent_bytes / FP_EXTENT_UNIT_BYTES) >> shift;
        uint64_t pieces = shares[i].count * per_extent[i];
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
        for (unsigned i = 0; i < partition->node_count; i++) {
            if (p >= shares[i].count * per_extent[i])
                continue;
            const fp_rkey *extent = &shares[i].extents[p / per_extent[i]];
            uint64_t unit = p % per_extent[i] << shift;
            uint64_t entries = extent->addr + (per_extent[i] << shift) * FP_SLOT_UNIT_BYTES;
            partition->extents[partition->extent_count++] = (fp_extent){
                .key = extent->key,
                .addr = extent->addr + unit * FP_SLOT_UNIT_BYTES,
                .entries_addr = entries + unit * FP_SLOT_ENTRY_BYTES,
                .node = partition->nodes[i],
            };
        }
    }
    return fp_units_open(&partition->slots, total << shift);
}

static void release_shares(fp_thread *thread, farpool_partition *partition, int *rc)
{
    for (unsigned i = 0; i < partition->node_count; i++) {
        int failed = fp_remote_release(thread, partition, partition->nodes[i]);
        if (failed && !*rc)
            *rc = failed;
    }
}

static int open_slab(farpool_partition *partition, const farpool_partition_options *options)
{
    share shares[NODES_MAX] = {0};
    fp_thread *thread = fp_thread_get(partition->pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    partition->extent_shift = FARPOOL_ORDER_MAX;
    fp_thread_own(thread);
    int rc = grant_shares(thread, partition, options, shares);
    if (!rc)
        rc = deal_extents(partition, shares);
    if (rc) {
        char message[512];
        int first = rc;
        strncpy(message, farpool_errmsg(), sizeof message - 1);
        message[sizeof message - 1] = 0;
        release_shares(thread, partition, &rc);
        rc = fp_error(first, "%s", message); /* what went wrong first is what matters */
    }
    fp_thread_disown(thread);
    for (unsigned i = 0; i < NODES_MAX; i++)
        free(shares[i].extents);
    partition->order_max = partition->extent_shift;
    return rc;
}

static int take_index(farpool_pool *pool, farpool_partition *partition)
{
    int rc = fp_error(FARPOOL_E_BUSY, "pool %s has %d partitions open already", pool->name,
                      FP_PARTITIONS_MAX);
    pthread_rwlock_wrlock(&pool->partitions_lock);
    for (unsigned i = 0; i < FP_PARTITIONS_MAX && rc; i++) {
        if (pool->indexes_taken >> i & 1)
            continue;
        pool->indexes_taken |= 1ull << i;
        partition->index = i;
        partition->serial = ++pool->next_partition_serial;
        rc = 0;
    }
    pthread_rwlock_unlock(&pool->partitions_lock);
    return rc;
}

static void give_index_back(farpool_partition *partition)
{
    farpool_pool *pool = partition->pool;
    pthread_rwlock_wrlock(&pool->partitions_lock);
    pool->indexes_taken &= ~(1ull << partition->index);
    pthread_rwlock_unlock(&pool->partitions_lock);
}

/* Lets other threads' evictions and statistics see the partition, or not any more: then none is looking. */
static void show(farpool_partition *partition, bool visible)
{
    farpool_pool *pool = partition->pool;
    pthread_rwlock_wrlock(&pool->partitions_lock);
    pool->partitions[partition->index] = visible ? partition : NULL;
    pthread_rwlock_unlock(&pool->partitions_lock);
}

/* What is in a partition with a redo log stays where it is. */
static int close_now(farpool_partition *partition)
{
    farpool_pool *pool = partition->pool;
    fp_thread *thread = fp_thread_get(pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    fp_threads_settle(pool);
    show(partition, false);
    fp_thread_own(thread);
    int rc = fp_evict_partition(thread, partition);
    if (rc) {
        fp_thread_disown(thread);
        show(partition, true);
        return rc;
    }
    if (!partition->redo)
        release_shares(thread, partition, &rc);
    fp_thread_disown(thread);
    give_index_back(partition);
    fp_redo_close(partition->redo);
    fp_recovery_close(partition->recovery);
    pool->mapping->partition_close(partition);
    free(partition->extents);
    fp_units_close(&partition->slots);
    fp_units_close(&partition->pids);
    fp_mem_close(&partition->entries_mem);
    free(partition);
    return rc;
}

int farpool_partition_open(farpool_pool *pool, const farpool_partition_options *options,
                           farpool_partition **out)
{
    int rc = check_options(options);
    if (rc)
        return rc;
    farpool_partition *partition = calloc(1, sizeof *partition);
    if (!partition)
        return fp_error(FARPOOL_E_NOMEM, "opening a partition: no memory for its structure");
    partition->pool = pool;
    partition->id = options->id;
    partition->epoch = options->epoch;
    partition->timeout_ms = options->timeout_ms;
    partition->units = options->space_bytes / FARPOOL_UNIT_BYTES;
    rc = fp_mem_open(partition->units * sizeof(fp_entry), FP_MEM_RESERVE, -1,
                     &partition->entries_mem);
    if (rc)
        goto err_after_partition;
    partition->entries = partition->entries_mem.addr;
    rc = fp_units_open(&partition->pids, partition->units);
    if (rc)
        goto err_after_entries;
    rc = pool->mapping->partition_open(partition);
    if (rc)
        goto err_after_pids;
    rc = take_index(pool, partition);
    if (rc)
        goto err_after_mapping;
    rc = open_slab(partition, options);
    if (rc)
        goto err_after_index;
    if (options->log_copies)
        rc = fp_redo_open(partition, options, &partition->redo);
    if (rc)
        goto err_after_slab;
    show(partition, true);
    if (options->recover)
        rc = fp_recovery_open(partition);
    if (!rc && partition->redo)
        rc = fp_keeper_start(partition->redo->keeper);
    if (rc)
        goto err_after_redo;
    *out = partition;
    return 0;
err_after_redo:
    close_now(partition);
    return rc;
err_after_slab:
    fp_units_close(&partition->slots);
err_after_index:
    free(partition->extents);
    give_index_back(partition);
err_after_mapping:
    pool->mapping->partition_close(partition);
err_after_pids:
    fp_units_close(&partition->pids);
err_after_entries:
    fp_mem_close(&partition->entries_mem);
err_after_partition:
    free(partition);
    return rc;
}

int farpool_partition_close(farpool_partition *partition)
{
    int flushed = partition->redo ? fp_redo_flush_all(partition->redo) : 0;
    if (partition->redo)
        fp_keeper_stop(partition->redo->keeper); /* which has pages latched now and then */
    int rc = close_now(partition);
    return rc ? rc : flushed;
}
