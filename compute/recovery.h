/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery on demand: what a new owner knows of the pages that earlier owners left. Pages come from the slots in
 * which they are, as the slabs' directories say, and get their redo when they are first faulted; so the first
 * page is served as soon as the log and the directories have been read, however much redo there is.
 *
 *   opening     the log's records are sorted by page; each page of which a slot has a copy gets that slot. All
 *               groups of the page space count as full, as far as there is anything in the log or a slab; if the
 *               log's beginning has been let go of, all of them, for only storage nodes may know the rest
 *   a group     is opened when somebody asks for a page of it that is not known: its map page, itself recovered
 *               like any other, says which pages there are; those become EVICTED, the other units free
 *   a fault     brings the page from its slot, or begins with zeros if there is none, and applies its redo;
 *               the page is dirty then
 *
 * Entries meanwhile: FREE with FP_WORD_DIRTY is a page of a group that is not open, of which `slot` has a copy
 * (order, slot and checksum as in EVICTED); EVICTED with FP_WORD_DIRTY has no copy: it begins as zeros.
 */
#ifndef FP_COMPUTE_RECOVERY_H
#define FP_COMPUTE_RECOVERY_H

#include "compute/redo_log.h"

typedef struct fp_recovery fp_recovery;

/* After the log has been found. Blocks. */
int fp_recovery_open(farpool_partition *partition) FARPOOL_MUST_CHECK;
void fp_recovery_close(fp_recovery *recovery); /* NULL is allowed */

/* The page's entry is FREE: opens its group if that is not open. E_RETRY: look again. E_NOTFOUND: there is no
 * such page. Takes latches of map pages; waits for the network. */
int fp_recovery_find(farpool_partition *partition, farpool_pid pid) FARPOOL_MUST_CHECK;

/* Opens one more group, if any is left: what is free in it can be given out then. E_NOTFOUND: all are open. As above. */
int fp_recovery_open_next(farpool_partition *partition) FARPOOL_MUST_CHECK;

/* Applies the page's redo; it has just come and is latched exclusively. *changed: there was some. */
int fp_recovery_redo(farpool_partition *partition, farpool_pid pid, unsigned order, void *page,
                     bool *changed) FARPOOL_MUST_CHECK;
/* Faults up to `pages` pages of which there is redo, beginning with the record *at; SIZE_MAX afterwards: that was the
 * last. By a thread that holds no latches. */
int fp_recovery_finish(farpool_partition *partition, unsigned pages, size_t *at) FARPOOL_MUST_CHECK;
/* Whether there is redo that has not been applied: the page was not here yet. The caller has it latched exclusively. */
bool fp_recovery_is_pending(const fp_recovery *recovery, farpool_pid pid);
/* Whether there is redo, applied or not. Any thread. NULL: false. */
bool fp_recovery_has_redo(const fp_recovery *recovery, farpool_pid pid);
/* Whether its allocation is in its redo, so that it needs no copy. */
bool fp_recovery_is_whole(const fp_recovery *recovery, farpool_pid pid);

#endif
