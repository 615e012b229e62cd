/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lines by which a log's owner and the memory nodes of its rings speak (common/ring.h): the owner's, with what is durable
 * and where the log begins, which slabs count, and the node's, with what is spilled. All is the keeper's (keeper.h), in its
 * round.
 */
#ifndef FP_COMPUTE_KEEPER_LINES_H
#define FP_COMPUTE_KEEPER_LINES_H

#include "compute/keeper.h"

/* Tells each ring what it has not been told yet, and reads its node's line into it. thread: the keeper's connections. Waits for
 * the network. A ring that cannot be reached is doubted; an owner who was fenced finds out: the log fails. */
void fp_lines_exchange(fp_redo_log *log, fp_thread *thread, const fp_keeper *keeper);
/* Whether lines are exchanged with this ring: it counts, and is not lost. */
bool fp_lines_may(const fp_ring *ring);
/* Whether the rings know which slabs count. A checkpoint counts on those that it has written to, so they have to know first. */
bool fp_lines_slabs_told(const fp_redo_log *log);

#endif
