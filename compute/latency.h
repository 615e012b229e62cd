/* SPDX-License-Identifier: Apache-2.0 */
/* Log-linear histogram of fault latencies: 8 buckets for each power of two (farpool_latency). */
#ifndef FP_COMPUTE_LATENCY_H
#define FP_COMPUTE_LATENCY_H

#include "compute/pool.h"

static inline unsigned fp_latency_bucket(uint64_t ns)
{
    if (ns < 8)
        return (unsigned)ns;
    unsigned log = 63 - (unsigned)__builtin_clzll(ns);
    unsigned bucket = (log - 2) * 8 + ((unsigned)(ns >> (log - 3)) & 7);
    return bucket < FARPOOL_LATENCY_BUCKETS ? bucket : FARPOOL_LATENCY_BUCKETS - 1;
}

/* The largest value that falls into a bucket. */
static inline uint64_t fp_latency_bucket_max(unsigned bucket)
{
    if (bucket < 8)
        return bucket;
    unsigned log = bucket / 8 + 2;
    return ((9ull + bucket % 8) << (log - 3)) - 1;
}

/* Called by the counters' owner. */
static inline void fp_latency_add(fp_counters *count, uint64_t ns)
{
    fp_count(&count->fault_buckets[fp_latency_bucket(ns)], 1);
    fp_count(&count->fault_count, 1);
    fp_count(&count->fault_sum_ns, ns);
    if (ns > atomic_load_explicit(&count->fault_max_ns, memory_order_relaxed))
        atomic_store_explicit(&count->fault_max_ns, ns, memory_order_relaxed);
}

#endif
