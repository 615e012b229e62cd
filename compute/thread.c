/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/thread.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "compute/io.h"

__thread fp_thread_hint fp_thread_last __attribute__((tls_model("initial-exec")));

bool fp_thread_try_own(fp_thread *thread)
{
    uint32_t expected = 0;
    return atomic_compare_exchange_strong_explicit(&thread->busy, &expected, 1,
                                                   memory_order_acquire, memory_order_relaxed);
}

/* Somebody else owns it only for one look at its completions. */
void fp_thread_own(fp_thread *thread)
{
    for (unsigned spins = 0; !fp_thread_try_own(thread); spins++)
        if (spins > 100)
            sched_yield();
}

void fp_thread_disown(fp_thread *thread)
{
    atomic_store_explicit(&thread->busy, 0, memory_order_release);
}

void fp_thread_settle(fp_thread *thread)
{
    fp_thread_own(thread);
    while (thread->prefetching)
        fp_io_progress(thread, 100);
    fp_thread_disown(thread);
}

void fp_threads_settle(farpool_pool *pool)
{
    for (unsigned i = 0; i < FP_THREADS_MAX; i++) {
        fp_thread *thread = atomic_load_explicit(&pool->threads[i], memory_order_acquire);
        if (!thread)
            break; /* they are filled in order */
        if (thread->prefetching)
            fp_thread_settle(thread);
    }
}

/* A thread ends: what it has prefetched is taken in, and its structure waits for another thread. If destructors
 * of the program's own use the pool after this, they get one anew. */
static void on_thread_exit(void *arg)
{
    fp_thread *thread = arg;
    fp_thread_settle(thread);
    fp_thread_last = (fp_thread_hint){0};
    pthread_mutex_lock(&thread->pool->lock);
    thread->in_use = false;
    pthread_mutex_unlock(&thread->pool->lock);
}

fp_thread *fp_thread_new(farpool_pool *pool, enum fp_use use)
{
    fp_thread *thread = aligned_alloc(64, (sizeof *thread + 63) / 64 * 64);
    if (!thread) {
        fp_error(FARPOOL_E_NOMEM, "pool %s: no memory for another thread", pool->name);
        return NULL;
    }
    memset(thread, 0, sizeof *thread);
    thread->pool = pool;
    thread->use = use;
    for (unsigned i = 0; i < FP_IO_MAX; i++)
        thread->free_ios[i] = &thread->ios[i];
    thread->free_io_count = FP_IO_MAX;
    return thread;
}

void fp_thread_free(fp_thread *thread)
{
    for (unsigned n = 0; n < FP_NODES_MAX; n++)
        fp_net_conn_close(thread->conns[n]);
    for (unsigned t = 0; t < FP_TRANSPORTS_MAX; t++)
        fp_net_poller_close(thread->pollers[t]);
    free(thread);
}

static fp_thread *take_structure_locked(farpool_pool *pool)
{
    for (unsigned i = 0; i < FP_THREADS_MAX; i++) {
        fp_thread *thread = atomic_load_explicit(&pool->threads[i], memory_order_relaxed);
        if (thread && thread->in_use)
            continue;
        if (!thread) {
            thread = fp_thread_new(pool, FP_USE_SLAB);
            if (!thread)
                return NULL;
            for (unsigned k = 0; k < FP_IO_MAX; k++)
                thread->ios[k].header = (fp_slot_header *)pool->headers.addr + i * FP_IO_MAX + k;
            atomic_store_explicit(&pool->threads[i], thread, memory_order_release);
        }
        thread->in_use = true;
        return thread;
    }
    fp_error(FARPOOL_E_BUSY, "pool %s is used by %d threads already", pool->name, FP_THREADS_MAX);
    return NULL;
}

fp_thread *fp_thread_make(farpool_pool *pool)
{
    fp_thread *thread = pthread_getspecific(pool->key);
    if (!thread) {
        pthread_mutex_lock(&pool->lock);
        thread = take_structure_locked(pool);
        pthread_mutex_unlock(&pool->lock);
        if (!thread) {
            fp_thread_last =
                (fp_thread_hint){0}; /* the structure there may be gone with its pool */
            return NULL;
        }
        if (pthread_setspecific(pool->key, thread)) {
            pthread_mutex_lock(&pool->lock);
            thread->in_use = false;
            pthread_mutex_unlock(&pool->lock);
            fp_error(FARPOOL_E_NOMEM, "pool %s: no memory for another thread", pool->name);
            return NULL;
        }
    }
    fp_thread_last.thread = thread;
    fp_thread_last.pool_serial = pool->serial;
    return thread;
}

int fp_threads_init(farpool_pool *pool)
{
    if (pthread_key_create(&pool->key, on_thread_exit))
        return fp_error(FARPOOL_E_NOMEM, "pool %s: no thread-specific key left (a process has %d)",
                        pool->name, PTHREAD_KEYS_MAX);
    return 0;
}

void fp_threads_fini(farpool_pool *pool)
{
    pthread_key_delete(pool->key);
    for (unsigned i = 0; i < FP_THREADS_MAX; i++) {
        fp_thread *thread = atomic_load_explicit(&pool->threads[i], memory_order_relaxed);
        if (thread)
            fp_thread_free(thread);
    }
    if (fp_thread_last.pool_serial == pool->serial)
        fp_thread_last = (fp_thread_hint){0};
}
