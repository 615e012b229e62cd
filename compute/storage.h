/* SPDX-License-Identifier: Apache-2.0 */
/* Storage nodes as a partition's owner sees them: whence pages come that no slab has, and the log when no ring has it.
 * All functions that take a thread are called by whoever owns it (fp_thread.busy), and block. */
#ifndef FP_COMPUTE_STORAGE_H
#define FP_COMPUTE_STORAGE_H

#include "common/lineage.h"
#include "compute/pool.h"

/* A partition's list may change while others use it: each of the functions below that goes through the list takes it
 * once, so it asks the nodes of one list or of the other. An index is that of the list of now: whoever uses one knows that
 * nobody changes the list meanwhile, for the partition is being opened. */
static inline const fp_storages *fp_storages_now(const farpool_partition *partition)
{
    return atomic_load_explicit(&partition->storages, memory_order_acquire);
}
static inline unsigned fp_storage_count(const farpool_partition *partition)
{
    return fp_storages_now(partition)->count;
}

/* The first list. */
int fp_storage_open(farpool_partition *partition,
                    const farpool_partition_options *options) FARPOOL_MUST_CHECK;
/* Another one, of at least one node. The same nodes in the same order: nothing is done. Blocks; the caller holds no
 * other lock than changes_lock. E_INVAL, E_BUSY (a pool uses so many addresses only) and others: the list is as it was. */
int fp_storage_change_locked(farpool_partition *partition, const char *const *uris,
                             size_t count) FARPOOL_MUST_CHECK;
void fp_storage_close(farpool_partition *partition);

/* For messages. */
const char *fp_storage_uri(const farpool_partition *partition, unsigned index);

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
    fp_lineage lineage;
} fp_stored_log;

/* E_NOTFOUND: nothing. */
int fp_storage_ask(fp_thread *thread, farpool_partition *partition, unsigned index,
                   fp_stored_log *found) FARPOOL_MUST_CHECK;
/* From now on the node appends nothing of a lower epoch than the partition's at `from` or behind it. *found: what it
 * has then. */
int fp_storage_fence(fp_thread *thread, farpool_partition *partition, unsigned index, uint64_t from,
                     fp_stored_log *found) FARPOOL_MUST_CHECK;
/* From now on what the node has is of this log, if it is a beginning of it. Otherwise E_CORRUPT: all of it counts no more,
 * until it has been refilled. */
int fp_storage_join(fp_thread *thread, farpool_partition *partition, unsigned index,
                    const fp_lineage *lineage, fp_stored_log *found) FARPOOL_MUST_CHECK;
/* Bytes [from, to) of the log whose last fork there is this one. */
int fp_storage_read_log(fp_thread *thread, farpool_partition *partition, unsigned index,
                        uint64_t fork, uint64_t from, uint64_t to, void *bytes) FARPOOL_MUST_CHECK;

#endif
