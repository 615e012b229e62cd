/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/parking.h"

#include "common/futex.h"

enum { BUCKETS = 256 };

/* atomic: a waiter reads seq, then sets the waiters bit by CAS; a waker clears the bit by RMW, then
 * changes seq. If the CAS came first the waker sees the bit and the futex sees the new seq. */
static struct {
    _Alignas(64) _Atomic uint32_t seq;
} lot[BUCKETS];

static _Atomic uint32_t *bucket_of(fp_entry *entry)
{
    uint64_t hash = (uint64_t)(uintptr_t)entry * 0x9E3779B97F4A7C15ull;
    return &lot[hash >> 56].seq;
}

void fp_park(fp_entry *entry, uint64_t word, unsigned timeout_us)
{
    _Atomic uint32_t *bucket = bucket_of(entry);
    uint32_t seq = atomic_load_explicit(bucket, memory_order_acquire);
    if (!(word & FP_WORD_WAITERS) && !fp_word_cas(entry, &word, word | FP_WORD_WAITERS))
        return;
    if ((fp_word_load(entry) & FP_WORD_WAITERS) == 0)
        return;
    fp_futex_wait(bucket, seq, timeout_us);
}

void fp_unpark(fp_entry *entry)
{
    _Atomic uint32_t *bucket = bucket_of(entry);
    atomic_fetch_add_explicit(bucket, 1, memory_order_acq_rel);
    fp_futex_wake_all(bucket);
}
