/* SPDX-License-Identifier: Apache-2.0 */
/* Free frames: a small stock per thread in front of the pool's buddy allocator. Called by whoever owns
 * the thread (fp_thread.busy). */
#ifndef FP_COMPUTE_FRAMES_H
#define FP_COMPUTE_FRAMES_H

#include "compute/pool.h"

/* A free run of 2^order frames, or false: then something must be evicted. */
bool fp_frames_take(fp_thread *thread, unsigned order, uint32_t *frame);
void fp_frames_put(fp_thread *thread, uint32_t frame, unsigned order);

/* Gives the thread's stock back, so that its frames can become part of larger runs. */
void fp_frames_flush(fp_thread *thread);

/* Does the same for the next `count` threads of the pool, in turn: a thread that has fallen idle must not
 * keep its stock for ever. Those that somebody owns just now are passed over. */
void fp_frames_gather(farpool_pool *pool, unsigned count);

#endif
