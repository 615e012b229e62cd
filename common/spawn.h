/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FP_COMMON_SPAWN_H
#define FP_COMMON_SPAWN_H

#include <pthread.h>

#include "farpool.h"

/* A thread of our own, with all signals blocked: the program's handlers run in the program's threads. Returns 0 or an
 * errno. */
int fp_spawn(pthread_t *thread, void *(*run)(void *), void *arg) FARPOOL_MUST_CHECK;

/* A lock, and a condition whose times are those of fp_now_ns. 0 or an errno: there is neither. */
int fp_lock_open(pthread_mutex_t *lock, pthread_cond_t *turned) FARPOOL_MUST_CHECK;
void fp_lock_close(pthread_mutex_t *lock, pthread_cond_t *turned);

#endif
