/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "compute/fill.h"
#include "compute/keeper.h"
#include "compute/latency.h"

static uint64_t get(_Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void add_thread(fp_counters *count, farpool_stats *stats)
{
    stats->hits += get(&count->hits);
    stats->misses += get(&count->misses);
    stats->prefetched += get(&count->prefetched);
    stats->evictions += get(&count->evictions);
    stats->written_back += get(&count->written_back);
    stats->bytes_read += get(&count->bytes_read);
    stats->bytes_written += get(&count->bytes_written);
    stats->stored_reads += get(&count->stored_reads);
    stats->fault_errors += get(&count->fault_errors);
    stats->restarts += get(&count->restarts);
    stats->latch_waits += get(&count->latch_waits);
    stats->fault.count += get(&count->fault_count);
    stats->fault.sum_ns += get(&count->fault_sum_ns);
    uint64_t max = get(&count->fault_max_ns);
    if (max > stats->fault.max_ns)
        stats->fault.max_ns = max;
    for (unsigned b = 0; b < FARPOOL_LATENCY_BUCKETS; b++)
        stats->fault.buckets[b] += get(&count->fault_buckets[b]);
}

static void add_redo(const fp_redo_log *redo, farpool_stats *stats)
{
    stats->redo_frames += atomic_load_explicit(&redo->frames, memory_order_relaxed);
    stats->redo_batches += atomic_load_explicit(&redo->batches, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&redo->end, memory_order_relaxed);
    uint64_t stored = atomic_load_explicit(&redo->stored, memory_order_relaxed);
    uint64_t floor = atomic_load_explicit(&redo->floor, memory_order_relaxed);
    stats->redo_bytes += end - floor;
    stats->redo_unstored += end - (stored > floor ? stored : floor);
    fp_keeper_stats(redo->keeper, stats);
    stats->redo_ring_bytes += redo->ring_bytes;
}

void farpool_stats_get(farpool_pool *pool, farpool_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats->struct_size = sizeof *stats;
    stats->frames = pool->frame_count;
    stats->frames_used = fp_units_used(&pool->frames);
    for (unsigned i = 0; i < FP_THREADS_MAX; i++) {
        fp_thread *thread = atomic_load_explicit(&pool->threads[i], memory_order_acquire);
        if (!thread)
            break; /* they are filled in order */
        add_thread(&thread->count, stats);
    }
    stats->metadata_bytes =
        pool->frame_count * (sizeof *pool->owners + sizeof *pool->crcs_or_lsns) +
        fp_units_bytes(&pool->frames);
    pthread_rwlock_rdlock(&pool->partitions_lock);
    for (unsigned i = 0; i < FP_PARTITIONS_MAX; i++) {
        farpool_partition *partition = pool->partitions[i];
        if (!partition)
            continue;
        stats->metadata_bytes += fp_units_used(&partition->pids) * sizeof(fp_entry) +
                                 fp_units_bytes(&partition->pids) +
                                 partition->extent_count * sizeof(fp_extent);
        for (unsigned k = 0; k < partition->share_count; k++)
            stats->metadata_bytes += fp_units_bytes(&partition->slots[k].units);
        if (partition->redo)
            add_redo(partition->redo, stats);
        fp_fill_stats(partition->fill, stats);
    }
    pthread_rwlock_unlock(&pool->partitions_lock);
}

uint64_t farpool_latency_quantile(const farpool_latency *latency, double q)
{
    if (!latency->count)
        return 0;
    if (q < 0)
        q = 0;
    uint64_t rank = (uint64_t)(q * (double)latency->count);
    uint64_t seen = 0;
    for (unsigned b = 0; b < FARPOOL_LATENCY_BUCKETS; b++) {
        seen += latency->buckets[b];
        if (seen > rank) {
            uint64_t bound = fp_latency_bucket_max(b);
            return bound < latency->max_ns ? bound : latency->max_ns;
        }
    }
    return latency->max_ns;
}
