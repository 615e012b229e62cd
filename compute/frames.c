/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/frames.h"

#include "compute/thread.h"

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

void fp_frames_gather(farpool_pool *pool, unsigned count)
{
    while (count--) {
        uint32_t turn = atomic_fetch_add_explicit(&pool->gather_turn, 1, memory_order_relaxed);
        fp_thread *thread =
            atomic_load_explicit(&pool->threads[turn % FP_THREADS_MAX], memory_order_acquire);
        if (!thread || !fp_thread_try_own(thread))
            continue;
        fp_frames_flush(thread);
        fp_thread_disown(thread);
    }
}
