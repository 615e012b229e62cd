/* SPDX-License-Identifier: Apache-2.0 */
/* Each thread's own part of a pool: connections, free frames, transfers in flight, counters. */
#ifndef FP_COMPUTE_THREAD_H
#define FP_COMPUTE_THREAD_H

#include "compute/pool.h"

/* The calling thread's structure, made at first use. NULL: more than FP_THREADS_MAX threads use the
 * pool, or no memory; farpool_errmsg() says which. */
fp_thread *fp_thread_make(farpool_pool *pool);

/* The pool that the calling thread used last, and its structure there. */
typedef struct fp_thread_hint {
    uint64_t pool_serial;
    fp_thread *thread;
} fp_thread_hint;
extern __thread fp_thread_hint fp_thread_last __attribute__((tls_model("initial-exec")));

static inline fp_thread *fp_thread_get(farpool_pool *pool)
{
    if (__builtin_expect(fp_thread_last.pool_serial == pool->serial, 1))
        return fp_thread_last.thread;
    return fp_thread_make(pool);
}

/* Ownership of a thread's structure (see fp_thread.busy). */
void fp_thread_own(fp_thread *thread);
bool fp_thread_try_own(fp_thread *thread);
void fp_thread_disown(fp_thread *thread);

/* Takes in what the thread has prefetched; waits for it. Owns no thread when called. */
void fp_thread_settle(fp_thread *thread);
/* The same for all threads of the pool, as far as they have begun before the call. */
void fp_threads_settle(farpool_pool *pool);

/* A structure that belongs to no thread: whoever owns it may use it, for connections and transfers, not for
 * pages. */
fp_thread *fp_thread_new(farpool_pool *pool, enum fp_use use);
/* Closes its connections. Its transfers have ended or are forgotten. */
void fp_thread_free(fp_thread *thread);

int fp_threads_init(farpool_pool *pool) FARPOOL_MUST_CHECK;
/* Closes all connections and frees all structures; no thread is using the pool any more. */
void fp_threads_fini(farpool_pool *pool);

#endif
