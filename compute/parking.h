/* SPDX-License-Identifier: Apache-2.0 */
/* Parking lot: where threads sleep that wait for a page's latch. A fixed table of futexes keyed by the
 * entry's address, so that waiting costs the page word one bit and no memory of its own. */
#ifndef FP_COMPUTE_PARKING_H
#define FP_COMPUTE_PARKING_H

#include "compute/page_word.h"

/* Sleeps until somebody wakes the entry's sleepers, at most timeout_us, if the word still is `word`
 * but for the waiters bit. May return early; the caller looks again. */
void fp_park(fp_entry *entry, uint64_t word, unsigned timeout_us);

/* Wakes all that sleep on the entry: called by whoever removed the waiters bit (W5). */
void fp_unpark(fp_entry *entry);

#endif
