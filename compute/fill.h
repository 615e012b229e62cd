/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages whose slot does not have them are brought there in the background, so that each costs one READ again, and
 * storage nodes may go:
 *
 *   - after another set of memory nodes (reconfigure.c): those whose slot is in a share that is empty now, or absent.
 *     Of these the absent ones get slots elsewhere
 *   - after a recovery: those of which no slot has a good copy, and those that have redo. Groups of the page space that
 *     nobody has asked for are opened for that
 *
 * The walk goes over the entries, a few pages at a time. A page that is not in the pool is faulted like anybody's,
 * written to its slot if it did not come from there, and leaves the pool at once. One that is in the pool is written to
 * its slot, for nobody knows any more whether it was since the change. A page that somebody has latched, or that cannot be written,
 * is tried again; one that cannot be had is put off until the others are done. Another change begins the walk anew.
 *
 * That is the work of a thread of the library's for each partition with a redo log, in which all signals
 * are blocked; it sleeps while there is nothing to fill. In a simulated world there is no thread: tests call fp_fill_step.
 */
#ifndef FP_COMPUTE_FILL_H
#define FP_COMPUTE_FILL_H

#include "compute/pool.h"

typedef struct fp_fill fp_fill;

/* For a partition that is being opened. E_NOMEM. */
int fp_fill_open(farpool_partition *partition, fp_fill **fill) FARPOOL_MUST_CHECK;
/* The partition can be used. E_SYS. */
int fp_fill_start(fp_fill *fill) FARPOOL_MUST_CHECK;
/* Ends the thread, which may be waiting for one page. NULL is allowed, as below. */
void fp_fill_stop(fp_fill *fill);
void fp_fill_close(fp_fill *fill);

/* Bit i: share i has nothing any more of what it had. The set in which that is so is in place. */
void fp_fill_ask(fp_fill *fill, uint32_t shares);

/* In a simulated world: goes on for a few pages. Waits for the network and takes page latches; for somebody who holds
 * none. False: there is nothing to fill, or it cannot be now. */
bool fp_fill_step(fp_fill *fill);

void fp_fill_stats(const fp_fill *fill, farpool_stats *stats);

#endif
