/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which units of a logged partition's page space are pages. That stands in map pages: the first unit of each
 * group of 4096 is one, with a byte for each unit of the group: 0 no page begins here, n a page of order n - 1
 * does. They are pages like all others, so the log, slabs and recovery know nothing of them. A mini-transaction
 * changes them at its commit, when it has all other latches, in ascending order; whoever has a map page latched
 * waits for nothing but map pages further on and the network.
 */
#ifndef FP_COMPUTE_SPACE_H
#define FP_COMPUTE_SPACE_H

#include "compute/pool.h"

enum { FP_GROUP_UNITS = FARPOOL_UNIT_BYTES };

static inline farpool_pid fp_map_of(farpool_pid pid)
{
    return pid & ~(farpool_pid)(FP_GROUP_UNITS - 1);
}
static inline bool fp_is_map(farpool_pid pid) { return fp_map_of(pid) == pid; }

/* Units for a page, whose group has a map page. E_NOSPACE, and what making a map page may give. */
int fp_space_take(farpool_partition *partition, unsigned order,
                  farpool_pid *pid) FARPOOL_MUST_CHECK;

#endif
