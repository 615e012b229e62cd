/* SPDX-License-Identifier: Apache-2.0 */
/* The statistics as Prometheus reads them. */
#include "common/error.h"
#include "common/metrics.h"
#include "compute/latency.h"

/* Of the histogram's powers of two, those from 256 ns to 8.6 s: finer ones would be many series for nothing. */
enum { FIRST_LOG = 8, LAST_LOG = 33, BUCKETS = LAST_LOG - FIRST_LOG + 1 };

static void fault_latency(const farpool_latency *latency, fp_metrics *m)
{
    uint64_t upto[BUCKETS], counts[BUCKETS], beyond = 0;
    unsigned b = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        upto[i] = (1ull << (FIRST_LOG + i)) - 1;
        counts[i] = 0;
        for (; b < FARPOOL_LATENCY_BUCKETS && fp_latency_bucket_max(b) <= upto[i]; b++)
            counts[i] += latency->buckets[b];
    }
    for (; b < FARPOOL_LATENCY_BUCKETS; b++)
        beyond += latency->buckets[b];
    fp_metrics_histogram(m, "fault_seconds", "Faults, from the miss to the page's being usable.",
                         upto, counts, BUCKETS, beyond, latency->sum_ns);
}

static void pages(const farpool_stats *s, fp_metrics *m)
{
    fp_metrics_gauge(m, "pool_bytes", "Memory of the pool for pages.",
                     s->frames * FARPOOL_UNIT_BYTES);
    fp_metrics_gauge(m, "pool_used_bytes", "Of it, holding pages.",
                     s->frames_used * FARPOOL_UNIT_BYTES);
    fp_metrics_gauge(m, "metadata_bytes", "Page words, frame table and free maps.",
                     s->metadata_bytes);
    fp_metrics_counter(m, "hits_total", "Fixes and optimistic reads that found their page.",
                       s->hits);
    fp_metrics_counter(m, "misses_total", "Those that had to fault it.", s->misses);
    fp_metrics_counter(m, "prefetched_pages_total", "Pages fetched ahead.", s->prefetched);
    fp_metrics_counter(m, "evicted_pages_total", "Pages dropped from the pool.", s->evictions);
    fp_metrics_counter(m, "written_back_pages_total", "Dirty pages written to memory nodes.",
                       s->written_back);
    fp_metrics_counter(m, "read_bytes_total", "Read from memory nodes.", s->bytes_read);
    fp_metrics_counter(m, "written_bytes_total", "Written to memory nodes.", s->bytes_written);
    fp_metrics_counter(m, "stored_pages_total", "Pages fetched from storage nodes.",
                       s->stored_reads);
    fp_metrics_counter(m, "fault_errors_total", "Faults that ended in an error.", s->fault_errors);
    fp_metrics_counter(m, "optimistic_restarts_total", "Optimistic sections whose page vanished.",
                       s->restarts);
    fp_metrics_counter(m, "latch_waits_total", "Times that a thread slept for a latch.",
                       s->latch_waits);
    fp_metrics_gauge(m, "fill_left_pages",
                     "Pages that the library has yet to bring to memory nodes.", s->fill_left);
    fault_latency(&s->fault, m);
}

static void redo(const farpool_stats *s, fp_metrics *m)
{
    fp_metrics_counter(m, "redo_frames_total", "Mini-transactions appended.", s->redo_frames);
    fp_metrics_counter(m, "redo_batches_total", "Writes to rings that took them there.",
                       s->redo_batches);
    fp_metrics_counter(m, "redo_checkpoints_total", "Checkpoints made.", s->redo_checkpoints);
    fp_metrics_gauge(m, "redo_ring_bytes", "Log that the rings can hold, each log counted once.",
                     s->redo_ring_bytes);
    fp_metrics_gauge(m, "redo_used_bytes", "Log that is in them.", s->redo_bytes);
    fp_metrics_gauge(m, "redo_unstored_bytes",
                     "Of it, what storage_quorum storage nodes do not have yet.", s->redo_unstored);
    fp_metrics_counter(m, "redo_waits_total", "Mini-transactions that waited for room in rings.",
                       s->redo_waits);
    fp_metrics_counter_ns(m, "redo_wait_seconds_total", "For how long in all.", s->redo_wait_ns);
}

int farpool_stats_prometheus(farpool_pool *pool, char *buffer, size_t capacity, size_t *len)
{
    farpool_stats stats;
    fp_metrics metrics = {.buffer = buffer, .capacity = capacity, .prefix = "farpool_"};
    farpool_stats_get(pool, &stats);
    pages(&stats, &metrics);
    redo(&stats, &metrics);
    *len = fp_metrics_end(&metrics);
    if (*len < capacity)
        return 0;
    return fp_error(FARPOOL_E_TOO_BIG, "the statistics take %zu bytes of text, the buffer has %zu",
                    *len + 1, capacity);
}
