/* SPDX-License-Identifier: Apache-2.0 */
/* Misses: bringing pages in, waiting for latches. Called without owning the thread. */
#ifndef FP_COMPUTE_FAULT_H
#define FP_COMPUTE_FAULT_H

#include "compute/pool.h"

/* The caller has moved the entry from EVICTED to EXCLUSIVE. On success the page is here and the entry is
 * still EXCLUSIVE; on error the entry is EVICTED again. */
int fp_fault(farpool_partition *partition, farpool_pid pid) FARPOOL_MUST_CHECK;

/* The entry is in a state that the caller can't use: spins, helps transfers on, sleeps. *spins starts
 * at 0 and is kept between calls. */
void fp_latch_wait(farpool_partition *partition, fp_entry *entry, uint64_t word, unsigned *spins);

#endif
