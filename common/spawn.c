/* SPDX-License-Identifier: Apache-2.0 */
#include "common/spawn.h"

#include <signal.h>
#include <time.h>

int fp_spawn(pthread_t *thread, void *(*run)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    int error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error)
        return error;
    error = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

int fp_lock_open(pthread_mutex_t *lock, pthread_cond_t *turned)
{
    pthread_condattr_t attr;
    int error = pthread_condattr_init(&attr);
    if (error)
        return error;
    error = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    error = error ? error : pthread_cond_init(turned, &attr);
    pthread_condattr_destroy(&attr);
    if (error)
        return error;
    error = pthread_mutex_init(lock, NULL);
    if (error)
        pthread_cond_destroy(turned);
    return error;
}

void fp_lock_close(pthread_mutex_t *lock, pthread_cond_t *turned)
{
    pthread_cond_destroy(turned);
    pthread_mutex_destroy(lock);
}
