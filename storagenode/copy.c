/* SPDX-License-Identifier: Apache-2.0 */
/* Giving the pages of a partition away. It has handles of its own: a file may be replaced, if it is found to be rotten,
 * while it is being read here. */
#include "storagenode/copy.h"

#include <stdlib.h>
#include <string.h>

#include "storagenode/volume_inside.h"

struct fp_copy {
    fp_volume *volume;
    uint64_t partition;
    uint8_t *manifest;
    size_t manifest_bytes;
    fp_file **files; /* held */
    uint32_t count;
    /* What was read last: bytes [from, to) of this file. */
    fp_file *file;
    fp_disk_file *handle; /* of it; NULL: not open */
    uint8_t *buffer;
    uint64_t from, to;
    fp_disk_req req;
    bool busy, gone;
    fp_file *wanted; /* being loaded: from here on */
    uint64_t wanted_at;
    int status;
    void (*done)(void *user, int status);
    void *user;
};

static int hold_files(fp_copy *copy, const fp_manifest *manifest)
{
    copy->files = calloc(manifest->header.count + (size_t)1, sizeof(fp_file *));
    for (uint32_t i = 0; copy->files && i < manifest->header.count; i++) {
        fp_file *file = fp_volume_find(copy->volume, manifest->entries[i].hash);
        FP_ASSERT(file); /* the manifest holds it */
        fp_file_ref(file);
        copy->files[copy->count++] = file;
    }
    return copy->files ? 0 : FARPOOL_E_NOMEM;
}

int fp_copy_open(fp_volume *volume, uint64_t partition, fp_copy **out)
{
    fp_pages *pages = fp_volume_pages(volume, partition);
    fp_copy *copy = calloc(1, sizeof *copy);
    int rc = pages && copy ? 0 : FARPOOL_E_NOMEM;
    if (!rc && (!pages->has_manifest || pages->damage.status))
        rc = fp_volume_say(volume, FARPOOL_E_NOTFOUND, "there is no manifest to be given away");
    if (!rc) {
        copy->volume = volume;
        copy->partition = partition;
        copy->buffer = aligned_alloc(FP_FILE_BLOCK, FP_COPY_PIECE);
        copy->manifest = fp_manifest_put(&pages->manifest, &copy->manifest_bytes);
        rc = copy->buffer && copy->manifest ? hold_files(copy, &pages->manifest) : FARPOOL_E_NOMEM;
    }
    if (rc) {
        if (rc == FARPOOL_E_NOMEM)
            (void)fp_volume_say(volume, rc, "no memory to give pages away");
        fp_copy_close(copy);
        return rc;
    }
    *out = copy;
    return 0;
}

static void free_copy(fp_copy *copy)
{
    for (uint32_t i = 0; i < copy->count; i++)
        fp_file_unref(copy->files[i]);
    free(copy->files);
    free(copy->manifest);
    free(copy->buffer);
    free(copy);
}

static void handle_closed(fp_disk_req *req) { free_copy(req->user); }

void fp_copy_close(fp_copy *copy)
{
    if (!copy)
        return;
    copy->gone = true;
    if (copy->busy)
        return;
    if (!copy->handle) {
        free_copy(copy);
        return;
    }
    copy->req = (fp_disk_req){
        .kind = FP_DISK_CLOSE, .file = copy->handle, .done = handle_closed, .user = copy};
    fp_disk_submit(copy->volume->disk, &copy->req);
}

uint64_t fp_copy_partition(const fp_copy *copy) { return copy->partition; }

const uint8_t *fp_copy_manifest(const fp_copy *copy, size_t *bytes)
{
    *bytes = copy->manifest_bytes;
    return copy->manifest;
}

/* ---- files ----------------------------------------------------------------------------------- */

static fp_file *find(const fp_copy *copy, const uint8_t *hash)
{
    for (uint32_t i = 0; i < copy->count; i++)
        if (!memcmp(copy->files[i]->hash, hash, FP_FILE_HASH_BYTES))
            return copy->files[i];
    return NULL;
}

int64_t fp_copy_get(const fp_copy *copy, const uint8_t hash[FP_FILE_HASH_BYTES], uint64_t at,
                    const uint8_t **bytes)
{
    const fp_file *file = copy->file;
    if (!file || memcmp(file->hash, hash, FP_FILE_HASH_BYTES) != 0)
        file = find(copy, hash);
    if (!file)
        return fp_volume_say(copy->volume, FARPOOL_E_NOTFOUND,
                             "the manifest that was given away names no such file");
    if (at >= file->bytes)
        return fp_volume_say(copy->volume, FARPOOL_E_INVAL,
                             "'%s' has %llu bytes; some from %llu on were asked for", file->name,
                             (unsigned long long)file->bytes, (unsigned long long)at);
    if (file != copy->file || at < copy->from || at >= copy->to)
        return 0;
    *bytes = copy->buffer + (at - copy->from);
    return (int64_t)(copy->to - at);
}

static void loaded(fp_copy *copy, int status)
{
    copy->busy = false;
    copy->status = status;
    if (status)
        copy->to = copy->from;
    if (copy->gone)
        fp_copy_close(copy);
    else
        copy->done(copy->user, status);
}

static void step(fp_disk_req *req);

static void submit(fp_copy *copy, enum fp_disk_kind kind)
{
    copy->req = (fp_disk_req){.kind = kind,
                              .file = copy->handle,
                              .name = copy->file->name,
                              .mode = FP_DISK_READ_ONLY,
                              .offset = copy->from,
                              .len = copy->to - copy->from,
                              .buffer = copy->buffer,
                              .done = step,
                              .user = copy};
    fp_disk_submit(copy->volume->disk, &copy->req);
}

static void begin_read(fp_copy *copy)
{
    copy->from = copy->wanted_at & ~(uint64_t)(FP_FILE_BLOCK - 1);
    copy->to = copy->file->bytes - copy->from < FP_COPY_PIECE ? copy->file->bytes
                                                              : copy->from + FP_COPY_PIECE;
    submit(copy, FP_DISK_READ);
}

static void step(fp_disk_req *req)
{
    fp_copy *copy = req->user;
    if (req->kind == FP_DISK_CLOSE) {
        copy->handle = NULL;
        copy->file = copy->wanted;
        submit(copy, FP_DISK_OPEN);
    } else if (req->status || req->kind == FP_DISK_READ) {
        loaded(copy, req->status);
    } else {
        copy->handle = req->file;
        begin_read(copy);
    }
}

void fp_copy_load(fp_copy *copy, const uint8_t hash[FP_FILE_HASH_BYTES], uint64_t at,
                  void (*done)(void *user, int status), void *user)
{
    FP_ASSERT(!copy->busy);
    copy->busy = true;
    copy->done = done;
    copy->user = user;
    copy->wanted = find(copy, hash);
    copy->wanted_at = at;
    copy->from = copy->to = 0; /* nothing, until it is read */
    if (copy->handle && copy->file == copy->wanted) {
        begin_read(copy);
    } else if (copy->handle) {
        submit(copy, FP_DISK_CLOSE);
    } else {
        copy->file = copy->wanted;
        submit(copy, FP_DISK_OPEN);
    }
}
