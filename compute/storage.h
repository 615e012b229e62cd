/* SPDX-License-Identifier: Apache-2.0 */
/* Storage nodes as a partition's owner sees them: whence pages come that no slab has, and the log when no ring has it.
 * All functions that take a thread are called by whoever owns it (fp_thread.busy), and block. */
#ifndef FP_COMPUTE_STORAGE_H
#define FP_COMPUTE_STORAGE_H

#include "compute/pool.h"

/* The pool's numbers for the nodes named. */
int fp_storage_open(farpool_partition *partition,
                    const farpool_partition_options *options) FARPOOL_MUST_CHECK;

/* The page as it was at some LSN not below `least`, from any of the nodes. E_NODE: none can be reached that has
 * the log so far. E_CORRUPT: no copy is good. */
int fp_storage_fetch(fp_thread *thread, farpool_partition *partition, farpool_pid pid,
                     unsigned order, uint64_t least, void *page) FARPOOL_MUST_CHECK;

/* Whether there was such a page at the LSN `at` or later. E_NOTFOUND: there was not, and there is not now unless the
 * log from there on says so. */
int fp_storage_probe(fp_thread *thread, farpool_partition *partition, farpool_pid pid,
                     uint64_t at) FARPOOL_MUST_CHECK;

/* What a node has of the log. */
typedef struct fp_stored_log {
    uint64_t start, durable, epoch; /* epoch: promised */
} fp_stored_log;

/* E_NOTFOUND: nothing. */
int fp_storage_ask(fp_thread *thread, farpool_partition *partition, unsigned index,
                   fp_stored_log *found) FARPOOL_MUST_CHECK;
/* From now on the node appends nothing of a lower epoch than the partition's at `from` or behind it. *found: what it
 * has then. */
int fp_storage_fence(fp_thread *thread, farpool_partition *partition, unsigned index, uint64_t from,
                     fp_stored_log *found) FARPOOL_MUST_CHECK;
/* Bytes [from, to) of the log. */
int fp_storage_read_log(fp_thread *thread, farpool_partition *partition, unsigned index,
                        uint64_t from, uint64_t to, void *bytes) FARPOOL_MUST_CHECK;

#endif
