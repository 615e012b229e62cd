/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A partition's pages are deleted, so that a crash leaves them as they were, or a partition whose files are cleaned up when
 * the volume is opened, or nothing of them:
 *
 *   1. a manifest that names no files is made durable: whoever is left of its files now is garbage
 *   2. its files go; when they have, SYNC_DIR: none can come back
 *   3. the manifest goes, SYNC_DIR
 */
#include <stdlib.h>

#include "common/redo.h"
#include "storagenode/volume_inside.h"

struct fp_volume_drop {
    struct fp_volume_drop *next; /* of those that wait for files to go */
    fp_volume *volume;
    fp_volume_req *caller;
    fp_pages *pages;
    fp_maker maker;
    fp_disk_req req;
    bool unlinked;
    char name[FP_FILE_NAME_MAX];
};

static void over(fp_volume_drop *drop, int status)
{
    fp_volume_req *caller = drop->caller;
    caller->status = status;
    free(drop);
    caller->done(caller);
}

static void submit(fp_volume_drop *drop, enum fp_disk_kind kind, void (*done)(fp_disk_req *))
{
    drop->req = (fp_disk_req){.kind = kind, .name = drop->name, .done = done, .user = drop};
    fp_disk_submit(drop->volume->disk, &drop->req);
}

static void synced(fp_disk_req *req);

static void unlinked(fp_disk_req *req)
{
    fp_volume_drop *drop = req->user;
    if (req->status && req->status != FARPOOL_E_NOTFOUND) {
        over(drop, req->status);
        return;
    }
    drop->unlinked = true;
    submit(drop, FP_DISK_SYNC_DIR, synced);
}

static void synced(fp_disk_req *req)
{
    fp_volume_drop *drop = req->user;
    if (req->status) {
        over(drop, req->status);
    } else if (!drop->unlinked) {
        submit(drop, FP_DISK_UNLINK, unlinked);
    } else {
        fp_pages_forget(drop->pages);
        over(drop, 0);
    }
}

void fp_volume_drops_go_on(fp_volume *volume)
{
    while (volume->drops && !volume->going) {
        fp_volume_drop *drop = volume->drops;
        volume->drops = drop->next;
        submit(drop, FP_DISK_SYNC_DIR, synced);
    }
}

void fp_volume_drops_free(fp_volume *volume)
{
    while (volume->drops) {
        fp_volume_drop *drop = volume->drops;
        volume->drops = drop->next;
        free(drop);
    }
}

/* One that names no files. Whoever met with it would know that pages from before are missing. */
static fp_manifest no_files(const fp_pages *pages)
{
    fp_manifest none = {.header = pages->manifest.header};
    none.header.partition = pages->partition; /* that of a damaged one is not known, */
    if (!none.header.converted)               /* nor is this */
        none.header.converted = FP_REDO_LSN_FIRST;
    none.header.count = 0;
    none.header.base = none.header.beginning = none.header.converted;
    return none;
}

static void emptied(fp_maker *maker)
{
    fp_volume_drop *drop = maker->user;
    fp_volume *volume = drop->volume;
    fp_kept error = maker->error;
    fp_maker_free(maker);
    if (error.status) {
        over(drop, fp_kept_tell(&error));
        return;
    }
    fp_pages_settle(drop->pages, no_files(drop->pages), NULL, 0);
    drop->next = volume->drops;
    volume->drops = drop;
    fp_volume_drops_go_on(volume);
}

/* Of a partition without a manifest nothing is known to be here. */
static void nothing(fp_disk_req *req) { over(req->user, req->status); }

int fp_volume_drop_pages(fp_volume *volume, uint64_t partition, fp_volume_req *req)
{
    size_t bytes = 0;
    fp_volume_drop *drop = calloc(1, sizeof *drop);
    fp_pages *pages = drop ? fp_volume_pages(volume, partition) : NULL;
    if (!pages) {
        free(drop);
        return fp_volume_say(volume, FARPOOL_E_NOMEM, "no memory to delete pages");
    }
    FP_ASSERT(!pages->in_use);
    *drop = (fp_volume_drop){.volume = volume, .caller = req, .pages = pages};
    fp_manifest_name(partition, drop->name);
    if (!pages->has_manifest) {
        submit(drop, FP_DISK_NOP, nothing);
        return 0;
    }
    fp_manifest none = no_files(pages);
    drop->maker = (fp_maker){.volume = volume, .done = emptied, .user = drop};
    fp_manifest_name(partition, drop->maker.name);
    uint8_t *file = fp_manifest_put(&none, &bytes);
    int rc = file ? fp_maker_add(&drop->maker, file, bytes) : FARPOOL_E_NOMEM;
    free(file);
    if (rc) {
        fp_maker_free(&drop->maker);
        free(drop);
        return fp_volume_say(volume, rc, "no memory to write a manifest");
    }
    fp_maker_finish(&drop->maker);
    return 0;
}
