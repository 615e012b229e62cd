/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/frames.h"

bool fp_frames_take(fp_thread *thread, unsigned order, uint32_t *frame)
{
    farpool_pool *pool = thread->pool;
    if (order) {
        uint64_t unit = fp_units_alloc(&pool->frames, order);
        *frame = (uint32_t)unit;
        return unit != FP_UNIT_NONE;
    }
    if (!thread->cached)
        thread->cached = (unsigned)fp_units_alloc_many(&pool->frames, thread->cache, pool->batch);
    if (!thread->cached)
        return false;
    *frame = thread->cache[--thread->cached];
    return true;
}

void fp_frames_put(fp_thread *thread, uint32_t frame, unsigned order)
{
    farpool_pool *pool = thread->pool;
    if (order) {
        fp_units_free(&pool->frames, frame, order);
        return;
    }
    if (thread->cached == 2 * pool->batch) { /* keep the lower half */
        thread->cached = pool->batch;
        fp_units_free_many(&pool->frames, thread->cache + pool->batch, pool->batch);
    }
    thread->cache[thread->cached++] = frame;
}

void fp_frames_flush(fp_thread *thread)
{
    fp_units_free_many(&thread->pool->frames, thread->cache, thread->cached);
    thread->cached = 0;
}
