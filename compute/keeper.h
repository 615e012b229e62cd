/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has to be done for a redo log beside appending and flushing it, so that its rings never fill up:
 *
 *   - tell the memory nodes, by the owner's line of each ring, what is durable, so that they may spill it
 *   - learn from the nodes' lines how far that is on stable media
 *   - when a quarter of the ring is in use, make a checkpoint (Mohan et al., ARIES, TODS 1992, section 5.4, fuzzy):
 *     note the log's end, then write back every page that is dirty, one by one, whoever works on others. What was
 *     logged before that end is in the slabs then
 *   - let go of log that is both behind a checkpoint and on stable media: first in the rings' lines, then here
 *
 * That is the work of two threads of the library for each partition with a redo log, in which all signals are blocked:
 * one for lines, with connections of its own, which waits for no latch, for whoever has one may be waiting for it;
 * and one for checkpoints. In a simulated world there are no threads: who waits for them does their work, and others
 * may call fp_keeper_step.
 */
#ifndef FP_COMPUTE_KEEPER_H
#define FP_COMPUTE_KEEPER_H

#include "compute/redo_log.h"

typedef struct fp_keeper fp_keeper;

/* The log has been opened. E_NOMEM, E_SYS. */
int fp_keeper_open(fp_redo_log *log, fp_keeper **keeper) FARPOOL_MUST_CHECK;
/* The keeper begins to work: the partition can be seen by others. */
int fp_keeper_start(fp_keeper *keeper) FARPOOL_MUST_CHECK;
/* Tells the nodes what is durable now, and ends the thread. */
void fp_keeper_stop(fp_keeper *keeper);
void fp_keeper_close(fp_keeper *keeper); /* NULL is allowed */

/* Waits for the round under way; no other one begins until resume. Before the flusher's place is taken. */
void fp_keeper_pause(fp_keeper *keeper);
/* thread: its connections from now on, if not NULL; then the ones before are returned, the caller's. */
fp_thread *fp_keeper_resume(fp_keeper *keeper, fp_thread *thread);

/* There is something to do, in case it sleeps. Cheap. NULL is allowed: then there is none yet. Any thread. */
void fp_keeper_rouse(fp_keeper *keeper);
/* Whether somebody waits for storage nodes to take log in. A hint. */
bool fp_keeper_is_waited_for(const fp_keeper *keeper);
/* Whether any memory node of the log's rings spills them. NULL: false. */
bool fp_keeper_has_storage(const fp_keeper *keeper);

/* In a simulated world: does what is to be done now. Waits for the network and takes page latches; for somebody who
 * holds none. Returns whether there is more to do. */
bool fp_keeper_step(fp_keeper *keeper);

/* Returns when the log has room for an ordinary mini-transaction, at once if it will not get any by waiting. The
 * caller holds no latches. E_NODE and others: the log has failed. */
int fp_keeper_wait_room(fp_keeper *keeper) FARPOOL_MUST_CHECK;
/* Returns when all before lsn, which is in w rings, is on stable media. timeout_ms 0: waits for ever; a pause of the
 * keeper, and what was waited before it, does not count. E_UNSUPPORTED:
 * no memory node of its rings has a storage node. E_TIMEOUT. E_NODE: rings that are lost
 * leave too few storage nodes that can get it, or that get what they miss from others within a minute; or the log has failed,
 * as with others. */
int fp_keeper_wait_stored(fp_keeper *keeper, uint64_t lsn, unsigned timeout_ms) FARPOOL_MUST_CHECK;

/* Statistics: times that wait_room waited, and for how long. */
void fp_keeper_stats(const fp_keeper *keeper, farpool_stats *stats);

#endif
