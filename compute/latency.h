/* SPDX-License-Identifier: Apache-2.0 */
/* Log-linear histogram of fault latencies: 8 buckets for each power of two (farpool_latency). */
#ifndef FP_COMPUTE_LATENCY_H
#define FP_COMPUTE_LATENCY_H

#include "common/clock.h"
#include "compute/pool.h"

/* Two readings of clock_gettime are a tenth of a fault over shm, so where the processor has a time-stamp
 * counter of constant rate (CPUID 80000007h) that is read instead. Nanoseconds per tick in 1/2^32; 0: there
 * is none. Set by fp_latency_init, before any thread faults. */
extern uint64_t fp_latency_scale;

/* Once per process: half a millisecond. Thread-safe. */
void fp_latency_init(void);

static inline uint64_t fp_latency_begin(void)
{
#ifdef __x86_64__
    if (__builtin_expect(fp_latency_scale != 0, 1))
        return __builtin_ia32_rdtsc();
#endif
    return fp_now_ns();
}

/* Nanoseconds since fp_latency_begin, by the same thread. */
static inline uint64_t fp_latency_end(uint64_t begin)
{
#ifdef __x86_64__
    if (__builtin_expect(fp_latency_scale != 0, 1)) {
        /* Not rdtscp, which waits for all before it and so costs what it measures: this may be taken some
         * tens of nanoseconds early. */
        int64_t ticks = (int64_t)(__builtin_ia32_rdtsc() - begin);
        return ticks < 0 ? 0 : (uint64_t)((unsigned __int128)ticks * fp_latency_scale >> 32);
    }
#endif
    return fp_now_ns() - begin;
}

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
