/* SPDX-License-Identifier: Apache-2.0 */
/* The slots that have copies of pages, read from the slabs' directories. */
#ifndef FP_COMPUTE_RECOVERY_SLAB_H
#define FP_COMPUTE_RECOVERY_SLAB_H

#include "compute/io.h"

typedef struct fp_found_slot {
    farpool_pid pid;
    uint64_t lsn;
    uint32_t slot, page_crc;
    unsigned order;
} fp_found_slot;

typedef struct fp_found_slots {
    fp_found_slot
        *list; /* newest first: of two that overlap or have the same page the first is right */
    size_t count, room;
} fp_found_slots;

/* *found starts as zero; freed by the caller also on error. What is on nodes that cannot be reached is left out.
 * E_NOMEM, E_SYS. Blocks. */
int fp_found_slots_read(farpool_partition *partition, fp_found_slots *found) FARPOOL_MUST_CHECK;
void fp_found_slots_free(fp_found_slots *found);

#endif
