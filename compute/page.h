/* SPDX-License-Identifier: Apache-2.0 */
/* Pages as mini-transactions and recovery use them: the same as in farpool.h, also in partitions with a redo log,
 * where programs may change pages by mini-transactions only. */
#ifndef FP_COMPUTE_PAGE_H
#define FP_COMPUTE_PAGE_H

#include "compute/pool.h"

int fp_page_fix_exclusive(farpool_partition *partition, farpool_pid pid,
                          void **page) FARPOOL_MUST_CHECK;
int fp_page_upgrade(farpool_partition *partition, farpool_pid pid, uint64_t version,
                    void **page) FARPOOL_MUST_CHECK;
int fp_page_alloc(farpool_partition *partition, unsigned order, farpool_pid *pid,
                  void **page) FARPOOL_MUST_CHECK;
void fp_page_free(farpool_partition *partition, farpool_pid pid);

/* Slot, frame and zeros for a page whose units are the caller's; it is fixed exclusively then. */
int fp_page_occupy(farpool_partition *partition, farpool_pid pid, unsigned order,
                   void **page) FARPOOL_MUST_CHECK;
/* The opposite: the units stay the caller's. */
void fp_page_vacate(farpool_partition *partition, farpool_pid pid);

/* For a page that the caller has fixed exclusively: its last change ends at this LSN of the redo log. */
void fp_page_note_lsn(farpool_partition *partition, farpool_pid pid, uint64_t lsn);
/* Unfixes it; it counts as changed only if that is said. */
void fp_page_leave(farpool_partition *partition, farpool_pid pid, bool changed);

#endif
