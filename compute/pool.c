/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing pools. */
#include "compute/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/mem.h"
#include "compute/latency.h"
#include "compute/mapping.h"
#include "compute/remote.h"
#include "compute/thread.h"

enum { POOL_BYTES_MIN = 1 << 20, BATCH_DEFAULT = 64 };

void farpool_pool_options_init(farpool_pool_options *options)
{
    *options = (farpool_pool_options){
        .struct_size = sizeof *options,
        .pool_bytes = 64u << 20,
        .mapping = FARPOOL_MAPPING_AUTO,
        .name = "pool",
    };
}

static int check_options(const farpool_pool_options *options)
{
    if (!options || options->struct_size != sizeof *options)
        return fp_error(FARPOOL_E_INVAL,
                        "pool options: call farpool_pool_options_init first (or the program was "
                        "compiled for another version of farpool.h)");
    if (options->pool_bytes < POOL_BYTES_MIN ||
        options->pool_bytes / FARPOOL_UNIT_BYTES > UINT32_MAX)
        return fp_error(FARPOOL_E_INVAL, "pool_bytes %zu: must be 1 MiB to 16 TiB",
                        options->pool_bytes);
    if (options->eviction_batch > FP_BATCH_MAX)
        return fp_error(FARPOOL_E_INVAL, "eviction_batch %u: must be at most %d",
                        options->eviction_batch, FP_BATCH_MAX);
    if (options->mapping != FARPOOL_MAPPING_AUTO && options->mapping != FARPOOL_MAPPING_FRAMES &&
        options->mapping != FARPOOL_MAPPING_VM)
        return fp_error(FARPOOL_E_INVAL, "mapping %d is none of FARPOOL_MAPPING_*",
                        (int)options->mapping);
    return 0;
}

/* Threads keep up to two batches of free frames each: a small part of the pool. */
static unsigned choose_batch(const farpool_pool_options *options, uint64_t frames)
{
    uint64_t batch = options->eviction_batch ? options->eviction_batch : BATCH_DEFAULT;
    if (batch > frames / 64)
        batch = frames / 64;
    return batch ? (unsigned)batch : 1;
}

static int init_locks(farpool_pool *pool)
{
    if (pthread_mutex_init(&pool->lock, NULL))
        return fp_error(FARPOOL_E_NOMEM, "pool %s: creating a lock", pool->name);
    if (pthread_rwlock_init(&pool->partitions_lock, NULL)) {
        pthread_mutex_destroy(&pool->lock);
        return fp_error(FARPOOL_E_NOMEM, "pool %s: creating a lock", pool->name);
    }
    return 0;
}

static int open_tables(farpool_pool *pool)
{
    int rc = fp_units_open(&pool->frames, pool->frame_count);
    if (rc)
        return rc;
    rc = fp_mem_open(pool->frame_count * (sizeof *pool->owners + sizeof *pool->crcs_or_lsns),
                     FP_MEM_RESERVE, -1, &pool->frame_table);
    if (rc)
        goto err_after_frames;
    rc = fp_mem_open(sizeof(fp_slot_header) * FP_THREADS_MAX * FP_IO_MAX, FP_MEM_RESERVE, -1,
                     &pool->headers);
    if (rc)
        goto err_after_frame_table;
    pool->owners = pool->frame_table.addr;
    pool->crcs_or_lsns = (uint32_t *)(pool->owners + pool->frame_count);
    return 0;
err_after_frame_table:
    fp_mem_close(&pool->frame_table);
err_after_frames:
    fp_units_close(&pool->frames);
    return rc;
}

static void close_tables(farpool_pool *pool)
{
    fp_mem_close(&pool->headers);
    fp_mem_close(&pool->frame_table);
    fp_units_close(&pool->frames);
}

int farpool_pool_open(const farpool_pool_options *options, farpool_pool **out)
{
    return fp_pool_open(options, &(fp_net_options){0}, out);
}

int fp_pool_open(const farpool_pool_options *options, const fp_net_options *net_options,
                 farpool_pool **out)
{
    /* atomic: numbers pools, so that a thread's note of a pool can't be mistaken for another's */
    static _Atomic uint64_t serials;
    int rc = check_options(options);
    if (rc)
        return rc;
    fp_latency_init();
    farpool_pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
    if (!pool)
        return fp_error(FARPOOL_E_NOMEM, "opening a pool: no memory for its structure");
    memset(pool, 0, sizeof *pool);
    snprintf(pool->name, sizeof pool->name, "%s", options->name ? options->name : "pool");
    pool->frame_count = options->pool_bytes / FARPOOL_UNIT_BYTES;
    pool->batch = choose_batch(options, pool->frame_count);
    pool->net_options = *net_options;
    pool->mapping = options->mapping == FARPOOL_MAPPING_VM ? &fp_mapping_vm : &fp_mapping_frames;
    pool->serial = atomic_fetch_add_explicit(&serials, 1, memory_order_relaxed) + 1;
    rc = options->key_file ? fp_auth_open(options->key_file, pool->name, &pool->auth) : 0;
    if (rc)
        goto err_after_pool;
    pool->net_options.auth = pool->auth;
    if (pool->auth) /* a key is of a name */
        snprintf(pool->name, sizeof pool->name, "%s", fp_auth_name(pool->auth));
    rc = init_locks(pool);
    if (rc)
        goto err_after_auth;
    rc = open_tables(pool);
    if (rc)
        goto err_after_locks;
    rc = pool->mapping->pool_open(pool, pool->frame_count * FARPOOL_UNIT_BYTES);
    if (rc)
        goto err_after_tables;
    rc = fp_threads_init(pool);
    if (rc)
        goto err_after_mapping;
    *out = pool;
    return 0;
err_after_mapping:
    pool->mapping->pool_close(pool);
err_after_tables:
    close_tables(pool);
err_after_locks:
    pthread_rwlock_destroy(&pool->partitions_lock);
    pthread_mutex_destroy(&pool->lock);
err_after_auth:
    fp_auth_close(pool->auth);
err_after_pool:
    free(pool);
    return rc;
}

int farpool_pool_close(farpool_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    bool joined = pool->cluster != NULL;
    pthread_mutex_unlock(&pool->lock);
    if (joined)
        return fp_error(FARPOOL_E_BUSY, "pool %s: its cluster has not been left", pool->name);
    for (unsigned i = 0; i < FP_PARTITIONS_MAX; i++)
        if (pool->partitions[i])
            return fp_error(FARPOOL_E_BUSY, "pool %s: partition %llu is still open", pool->name,
                            (unsigned long long)pool->partitions[i]->id);
    fp_threads_fini(pool);
    fp_remote_fini(pool);
    pool->mapping->pool_close(pool);
    close_tables(pool);
    pthread_rwlock_destroy(&pool->partitions_lock);
    pthread_mutex_destroy(&pool->lock);
    fp_auth_close(pool->auth);
    free(pool);
    return 0;
}
