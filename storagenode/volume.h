/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the page stores of one volume share: its files, with their references, and the manifests of all partitions.
 * Opened once for a disk, before the stores. Threads, done() and errors as in storagenode/wal.h.
 *
 * A file is held by each manifest that names it and by each layer in memory. It is removed when nobody holds it any
 * more: what a manifest names is held until a manifest without it is durable. Files that nobody holds when the volume
 * is opened are left from a crash, and go; but not those of a partition whose manifest is lost or damaged.
 */
#ifndef FP_STORAGENODE_VOLUME_H
#define FP_STORAGENODE_VOLUME_H

#include "common/disk/disk.h"
#include "farpool.h"

typedef struct fp_volume fp_volume;
typedef struct fp_volume_req fp_volume_req;

struct fp_volume_req {
    void (*done)(fp_volume_req *req); /* set by the caller, as is user */
    void *user;
    int status;
};

/* *volume is there at once, for fp_volume_free; to be used once done() has said 0. done: what LIST, OPEN and READ
 * give, E_NOMEM. A damaged manifest is no error here: fp_store_open of that partition gives it. Returns: E_NOMEM. */
int fp_volume_open(fp_disk *disk, fp_volume_req *req, fp_volume **volume) FARPOOL_MUST_CHECK;
/* Deletes what the volume has of a partition's pages, whose store is not open. done: 0: durably; what RENAME, UNLINK, SYNC_DIR
 * give: some of it is still there. Returns: E_NOMEM. */
int fp_volume_drop_pages(fp_volume *volume, uint64_t partition,
                         fp_volume_req *req) FARPOOL_MUST_CHECK;
/* Its stores are closed. Waits until files that nobody needs any more are removed. */
void fp_volume_close(fp_volume *volume, fp_volume_req *req);
/* It is closed, or the disk is; its stores are freed. NULL is allowed. */
void fp_volume_free(fp_volume *volume);

#endif
