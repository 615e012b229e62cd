/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fuzzy checkpoint: in small steps, between which everybody works on. Every change that was in the log when it began
 * is in the slabs when it has ended:
 *
 *   recover    pages of which redo has not been applied yet (compute/recovery.h) are faulted
 *   sweep      each frame is visited once; a page that is dirty then is written back. A page that is latched
 *              exclusively may have a change in the log that does not show yet, so it is visited again
 *
 * A page that changes places meanwhile was written back when it was evicted. The log's end is noted first: whose
 * change is before it had its page latched, and named in the frame table, before that.
 */
#ifndef FP_COMPUTE_CHECKPOINT_H
#define FP_COMPUTE_CHECKPOINT_H

#include "compute/pool.h"

typedef struct fp_checkpoint {
    bool running;
    uint64_t lsn;           /* the log's end when it began */
    size_t record;          /* of the recovery, to be looked at next */
    bool recovered;         /* all of them, by this checkpoint or an earlier one */
    uint64_t frame;         /* to be visited next */
    uint64_t pending;       /* bit i: frame + i has to be visited */
    uint64_t tell_again_ns; /* fp_log_again: why a page cannot be recovered */
} fp_checkpoint;

void fp_checkpoint_begin(fp_checkpoint *checkpoint, farpool_partition *partition);
/* Goes on for a while; `running` is false when it has ended. Waits for the network. By a thread that holds no
 * latches. False: nothing could be done just now. */
bool fp_checkpoint_step(fp_checkpoint *checkpoint, farpool_partition *partition);

#endif
