/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread behind FP_DISK_WORK (common/disk/disk.h, D14) where there are threads: it calls work() of one request after
 * the other, in the order in which they were added. Nothing of the disk's is shared with it but the list here.
 */
#ifndef FP_COMMON_DISK_WORKER_H
#define FP_COMMON_DISK_WORKER_H

#include "common/disk/disk.h"

typedef struct fp_disk_worker fp_disk_worker;

/* All signals are blocked in the thread. E_NOMEM, E_SYS. */
int fp_disk_worker_open(const char *path, fp_disk_worker **worker) FARPOOL_MUST_CHECK;
/* All that was added has been taken. NULL is allowed. */
void fp_disk_worker_close(fp_disk_worker *worker);

void fp_disk_worker_add(fp_disk_worker *worker, fp_disk_req *req);
/* The first that was added and not taken yet, when its work() has returned: it is waited for. What work() has written
 * is seen from then on. */
fp_disk_req *fp_disk_worker_take(fp_disk_worker *worker);
/* An eventfd: a READ of it ends for each work() that has returned, once. */
int fp_disk_worker_fd(const fp_disk_worker *worker);

#endif
