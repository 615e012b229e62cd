/* SPDX-License-Identifier: Apache-2.0 */
/* Files of a volume and who holds them. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/faultpoint.h"
#include "storagenode/volume_inside.h"

int fp_volume_say(const fp_volume *volume, int code, const char *format, ...)
{
    char text[FP_KEPT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fp_error(code, "volume %.200s: %s", fp_disk_path(volume->disk), text);
}

/* ---- files ----------------------------------------------------------------------------------- */

static fp_file **bucket_of(fp_volume *volume, const uint8_t *hash)
{
    uint32_t number;
    memcpy(&number, hash, sizeof number);
    return &volume->buckets[number % FP_VOLUME_BUCKETS];
}

fp_file *fp_volume_find(const fp_volume *volume, const uint8_t hash[FP_FILE_HASH_BYTES])
{
    fp_file *file = *bucket_of((fp_volume *)(uintptr_t)volume, hash);
    while (file && memcmp(file->hash, hash, FP_FILE_HASH_BYTES) != 0)
        file = file->next;
    return file;
}

fp_file *fp_volume_add(fp_volume *volume, const uint8_t hash[FP_FILE_HASH_BYTES], uint64_t bytes)
{
    fp_file *file = calloc(1, sizeof *file), **bucket = bucket_of(volume, hash);
    if (!file)
        return NULL;
    file->volume = volume;
    memcpy(file->hash, hash, FP_FILE_HASH_BYTES);
    fp_file_name(hash, file->name);
    file->bytes = bytes;
    file->refs = 1;
    file->next = *bucket;
    *bucket = file;
    return file;
}

void fp_file_ref(fp_file *file)
{
    FP_ASSERT(!file->going);
    file->refs++;
}

static void drop(fp_file *file)
{
    fp_file **link = bucket_of(file->volume, file->hash);
    while (*link != file)
        link = &(*link)->next;
    *link = file->next;
    free(file);
}

static void removed(fp_disk_req *req);

/* What it has open is closed, then it is removed. */
static void remove_step(fp_file *file)
{
    fp_disk_file **open = file->handle ? &file->handle : &file->fresh;
    file->req = (fp_disk_req){.kind = *open ? FP_DISK_CLOSE : FP_DISK_UNLINK,
                              .file = *open,
                              .name = file->name,
                              .done = removed,
                              .user = file};
    *open = NULL;
    fp_disk_submit(file->volume->disk, &file->req);
}

static void removed(fp_disk_req *req)
{
    fp_file *file = req->user;
    fp_volume *volume = file->volume;
    if (req->kind == FP_DISK_CLOSE) {
        remove_step(file);
        return;
    }
    FP_FAULT_POINT(LAYER_REMOVED);
    fp_maker *waiter = file->waiter; /* what could not be removed goes at the next opening */
    drop(file);
    volume->going--;
    if (waiter)
        fp_maker_again(waiter);
    fp_volume_drops_go_on(volume);
    if (!volume->going && volume->closing) {
        fp_volume_req *closing = volume->closing;
        volume->closing = NULL;
        closing->status = 0;
        closing->done(closing);
    }
}

void fp_file_unref(fp_file *file)
{
    if (!file || --file->refs)
        return;
    fp_volume *volume = file->volume;
    if (volume->gone)
        return; /* fp_volume_free frees it */
    file->going = true;
    volume->going++;
    remove_step(file);
}

/* ---- manifests ------------------------------------------------------------------------------- */

fp_pages *fp_volume_pages(fp_volume *volume, uint64_t partition)
{
    for (fp_pages *pages = volume->pages; pages; pages = pages->next)
        if (pages->partition == partition)
            return pages;
    fp_pages *pages = calloc(1, sizeof *pages);
    if (!pages)
        return NULL;
    pages->partition = partition;
    pages->next = volume->pages;
    volume->pages = pages;
    return pages;
}

int fp_pages_hold(fp_pages *pages, fp_file *const *files, size_t count)
{
    if (!count)
        return 0;
    if (pages->named_count + count > pages->named_room) {
        size_t room = 2 * (pages->named_count + count);
        fp_file **grown = realloc(pages->named, room * sizeof(fp_file *));
        if (!grown)
            return fp_error(FARPOOL_E_NOMEM, "no memory for the names of %zu files", room);
        pages->named = grown;
        pages->named_room = room;
    }
    uint64_t mark = ++files[0]->volume->mark;
    for (size_t i = 0; i < pages->named_count; i++)
        pages->named[i]->mark = mark;
    for (size_t i = 0; i < count; i++) {
        if (files[i]->mark == mark)
            continue;
        fp_file_ref(files[i]);
        files[i]->mark = mark;
        pages->named[pages->named_count++] = files[i];
    }
    return 0;
}

void fp_pages_settle(fp_pages *pages, fp_manifest manifest, fp_file *const *files, size_t count)
{
    FP_ASSERT(count <= pages->named_room); /* by fp_pages_hold */
    for (size_t i = 0; i < count; i++)
        fp_file_ref(files[i]);
    for (size_t i = 0; i < pages->named_count; i++)
        fp_file_unref(pages->named[i]);
    for (size_t i = 0; i < count; i++)
        pages->named[i] = files[i];
    pages->named_count = count;
    free(pages->manifest.entries);
    pages->manifest = manifest;
    pages->has_manifest = true;
}

void fp_pages_forget(fp_pages *pages)
{
    FP_ASSERT(!pages->named_count);
    free(pages->manifest.entries);
    pages->manifest = (fp_manifest){0};
    pages->has_manifest = pages->has_strays = false;
    pages->damage.status = 0;
}

/* ---- the end --------------------------------------------------------------------------------- */

static void nothing_to_wait_for(fp_disk_req *req)
{
    fp_volume_req *closing = req->user;
    closing->status = 0;
    closing->done(closing);
}

void fp_volume_close(fp_volume *volume, fp_volume_req *req)
{
    for (const fp_pages *pages = volume->pages; pages; pages = pages->next)
        FP_ASSERT(!pages->in_use);
    if (volume->going) {
        volume->closing = req;
        return;
    }
    volume->nop = (fp_disk_req){.kind = FP_DISK_NOP, .done = nothing_to_wait_for, .user = req};
    fp_disk_submit(volume->disk, &volume->nop);
}

void fp_volume_free(fp_volume *volume)
{
    if (!volume)
        return;
    FP_ASSERT(!volume->going);
    fp_volume_open_free(volume);
    fp_volume_drops_free(volume);
    for (fp_pages *pages = volume->pages, *next; pages; pages = next) {
        next = pages->next;
        free(pages->manifest.entries);
        free(pages->named);
        free(pages);
    }
    for (unsigned i = 0; i < FP_VOLUME_BUCKETS; i++) {
        for (fp_file *file = volume->buckets[i], *next; file; file = next) {
            next = file->next;
            free(file);
        }
    }
    free(volume);
}
