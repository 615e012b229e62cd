/* SPDX-License-Identifier: Apache-2.0 */
/* Replacement: which pages leave the pool. Called by whoever owns the thread (fp_thread.busy), with at
 * most the latch of the page that needs room held: eviction only ever tries latches. */
#ifndef FP_COMPUTE_EVICT_H
#define FP_COMPUTE_EVICT_H

#include "compute/pool.h"

enum fp_evict_effort {
    FP_EVICT_ONCE,      /* for a hint: one lap of the clock */
    FP_EVICT_THOROUGHLY /* as long as frames may become free */
};

/* A free run of 2^order frames for a page of the partition, evicting a batch of other pages for it if need be.
 * E_POOL_FULL: all are fixed, or dirty pages of another partition are in the way and can't be written back. E_NODE,
 * E_FENCED and the like: dirty ones of this partition. */
int fp_evict_take(fp_thread *thread, const farpool_partition *partition, unsigned order,
                  enum fp_evict_effort effort, uint32_t *frame) FARPOOL_MUST_CHECK;

enum { FP_EVICT_STRETCH = 64 /* frames looked at in one go */ };

/* Writes back what is dirty of the partition in the frames first + i of which bit i is set in `which`. Returns those
 * of which nothing can be said yet: the page there is latched, or could not be written. */
uint64_t fp_evict_clean(fp_thread *thread, const farpool_partition *partition, uint64_t first,
                        uint64_t which);

/* Up to FP_WRITES_MAX pages come to their slots: what is dirty is written, and, if bit i of `hollow` is set, page i also
 * if it is clean. Returns those whose slot has them now; of these the ones in `leave` leave the pool, unless somebody is at
 * them. The others are latched, have left meanwhile, or could not be written; *error if that was so, else unchanged. */
uint64_t fp_evict_store(fp_thread *thread, farpool_partition *partition, const farpool_pid *pids,
                        unsigned count, uint64_t hollow, uint64_t leave, int *error);

/* Takes all pages of a partition out of the pool without writing them back. E_BUSY: one is fixed. */
int fp_evict_partition(fp_thread *thread, farpool_partition *partition) FARPOOL_MUST_CHECK;

#endif
