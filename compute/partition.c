/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing partitions. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/mem.h"
#include "compute/cluster.h"
#include "compute/evict.h"
#include "compute/fill.h"
#include "compute/io.h"
#include "compute/keeper.h"
#include "compute/mapping.h"
#include "compute/recovery.h"
#include "compute/slab.h"
#include "compute/storage.h"
#include "compute/thread.h"

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
    if (options->recover < FARPOOL_NEW || options->recover > FARPOOL_RECOVER_STORED)
        return fp_error(FARPOOL_E_INVAL, "partition %llu: recover %d is none of farpool_recover",
                        id, (int)options->recover);
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
    if (!options->memnode_count || options->memnode_count > FP_PARTITION_NODES_MAX ||
        !options->memnodes)
        return fp_error(FARPOOL_E_INVAL, "partition %llu: %zu memory nodes; must be 1 to %d",
                        (unsigned long long)options->id, options->memnode_count,
                        (int)FP_PARTITION_NODES_MAX);
    for (size_t i = 0; i < options->memnode_count; i++)
        for (size_t k = 0; k < i; k++)
            if (!strcmp(options->memnodes[i], options->memnodes[k]))
                return fp_error(FARPOOL_E_INVAL, "partition %llu: memory node %s is named twice",
                                (unsigned long long)options->id, options->memnodes[i]);
    if (options->space_bytes < FARPOOL_UNIT_BYTES || options->space_bytes > FARPOOL_SPACE_MAX)
        return fp_error(FARPOOL_E_INVAL, "space_bytes %llu: must be 4 KiB to 16 TiB",
                        (unsigned long long)options->space_bytes);
    if (!options->slab_bytes || !options->timeout_ms)
        return fp_error(FARPOOL_E_INVAL, "slab_bytes and timeout_ms must not be 0");
    return check_log_options(options);
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
        fp_slab_release(thread, partition, &rc);
    fp_thread_disown(thread);
    give_index_back(partition);
    fp_redo_close(partition->redo);
    fp_recovery_close(partition->recovery);
    fp_fill_close(partition->fill);
    pool->mapping->partition_close(partition);
    fp_slab_close(partition);
    fp_storage_close(partition);
    fp_units_close(&partition->pids);
    fp_mem_close(&partition->entries_mem);
    pthread_mutex_destroy(&partition->changes_lock);
    free(partition);
    return rc;
}

/* The library's own; or in a simulated world none. */
static int start_threads(farpool_partition *partition)
{
    int rc = fp_keeper_start(partition->redo->keeper);
    if (rc)
        return rc;
    rc = fp_fill_start(partition->fill);
    if (rc)
        fp_keeper_stop(partition->redo->keeper);
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
    partition->timeout_ms = options->timeout_ms;
    partition->units = options->space_bytes / FARPOOL_UNIT_BYTES;
    if (pthread_mutex_init(&partition->changes_lock, NULL)) {
        rc = fp_error(FARPOOL_E_NOMEM, "opening a partition: no memory for a lock");
        goto err_after_partition;
    }
    rc = fp_mem_open(partition->units * sizeof(fp_entry), FP_MEM_RESERVE, -1,
                     &partition->entries_mem);
    if (rc)
        goto err_after_lock;
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
    rc = fp_storage_open(partition, options);
    if (!rc)
        rc = fp_slab_grant(partition, options);
    if (rc)
        goto err_after_index;
    if (options->log_copies)
        rc = fp_redo_open(partition, options, &partition->redo);
    if (!rc)
        rc = fp_slab_deal(partition);
    if (!rc && partition->redo)
        rc = fp_fill_open(partition, &partition->fill);
    if (rc)
        goto err_after_slab;
    show(partition, true);
    if (options->recover)
        rc = fp_recovery_open(partition);
    if (!rc && partition->redo)
        rc = start_threads(partition);
    if (rc)
        goto err_after_redo;
    *out = partition;
    return 0;
err_after_redo:
    close_now(partition);
    return rc;
err_after_slab:
    fp_redo_close(partition->redo);
    fp_slab_close(partition);
err_after_index:
    fp_storage_close(partition);
    give_index_back(partition);
err_after_mapping:
    pool->mapping->partition_close(partition);
err_after_pids:
    fp_units_close(&partition->pids);
err_after_entries:
    fp_mem_close(&partition->entries_mem);
err_after_lock:
    pthread_mutex_destroy(&partition->changes_lock);
err_after_partition:
    free(partition);
    return rc;
}

int farpool_partition_close(farpool_partition *partition)
{
    fp_assignment *assignment = partition->assignment;
    if (assignment)
        fp_cluster_let_go(partition);
    int flushed = partition->redo ? fp_redo_flush_all(partition->redo) : 0;
    fp_fill_stop(partition->fill); /* which have pages latched now and then */
    if (partition->redo)
        fp_keeper_stop(partition->redo->keeper);
    int rc = close_now(partition);
    if (assignment && rc == FARPOOL_E_BUSY)
        fp_cluster_take_back(partition);
    else if (assignment)
        fp_cluster_closed(assignment);
    return rc ? rc : flushed;
}
