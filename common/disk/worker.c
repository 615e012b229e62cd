/* SPDX-License-Identifier: Apache-2.0 */
#include "common/disk/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/error.h"
#include "common/spawn.h"

struct fp_disk_worker {
    int fd; /* immutable */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t added, worked;
    /* Guarded by lock: */
    fp_disk_req *oldest, *newest; /* not taken yet; linked by own.next */
    fp_disk_req *next;            /* the first of them whose work() has not returned; NULL: none */
    bool stop;
};

static void count_one(int fd)
{
    const uint64_t one = 1;
    ssize_t n;
    do
        n = write(fd, &one, sizeof one);
    while (n < 0 && errno == EINTR);
    FP_ASSERT(n == (ssize_t)sizeof one); /* it is never full */
}

static void *run(void *arg)
{
    fp_disk_worker *worker = arg;
    pthread_mutex_lock(&worker->lock);
    for (;;) {
        while (!worker->next && !worker->stop)
            pthread_cond_wait(&worker->added, &worker->lock);
        fp_disk_req *req = worker->next;
        if (!req)
            break;
        pthread_mutex_unlock(&worker->lock);
        req->work(req);
        pthread_mutex_lock(&worker->lock);
        worker->next = req->own.next;
        pthread_cond_signal(&worker->worked);
        count_one(worker->fd);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

int fp_disk_worker_open(const char *path, fp_disk_worker **out)
{
    fp_disk_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return fp_error(FARPOOL_E_NOMEM, "volume %s: no memory", path);
    worker->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    if (worker->fd < 0) {
        int rc = fp_error_sys("volume %s: making an eventfd", path);
        free(worker);
        return rc;
    }
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->added, NULL);
    pthread_cond_init(&worker->worked, NULL);
    errno = fp_spawn(&worker->thread, run, worker);
    if (errno) {
        int rc = fp_error_sys("volume %s: starting its thread for work", path);
        close(worker->fd);
        free(worker);
        return rc;
    }
    *out = worker;
    return 0;
}

void fp_disk_worker_close(fp_disk_worker *worker)
{
    if (!worker)
        return;
    pthread_mutex_lock(&worker->lock);
    FP_ASSERT(!worker->oldest);
    worker->stop = true;
    pthread_cond_signal(&worker->added);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    pthread_cond_destroy(&worker->worked);
    pthread_cond_destroy(&worker->added);
    pthread_mutex_destroy(&worker->lock);
    close(worker->fd);
    free(worker);
}

void fp_disk_worker_add(fp_disk_worker *worker, fp_disk_req *req)
{
    req->own.next = NULL;
    pthread_mutex_lock(&worker->lock);
    if (worker->oldest)
        worker->newest->own.next = req;
    else
        worker->oldest = req;
    worker->newest = req;
    if (!worker->next)
        worker->next = req;
    pthread_cond_signal(&worker->added);
    pthread_mutex_unlock(&worker->lock);
}

fp_disk_req *fp_disk_worker_take(fp_disk_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    fp_disk_req *req = worker->oldest;
    FP_ASSERT(req);
    while (worker->next == req)
        pthread_cond_wait(&worker->worked, &worker->lock);
    worker->oldest = req->own.next;
    pthread_mutex_unlock(&worker->lock);
    return req;
}

int fp_disk_worker_fd(const fp_disk_worker *worker) { return worker->fd; }
