/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a volume:
 *
 *   1. LIST
 *   2. manifests  each is read, and holds its files
 *   3. strays     files that nobody holds: of which partition each is stands in its footer. Those of a partition that
 *                 has a good manifest are left from a crash. Others are kept: they are all that is left of it
 *   4. rewrite    the manifests of partitions that have such files. A manifest that can be read may not be durable
 *                 (D8); if it were to give way to the one before it, files that this one has would be needed again
 *   5. remove     those files, and what has a temporary name
 *
 * Files are not looked into here: fp_store_open does that. Until 4 nothing is changed.
 */
#include <stdlib.h>
#include <string.h>

#include "common/faultpoint.h"
#include "common/log.h"
#include "storagenode/volume_inside.h"

typedef struct fp_volume_opening {
    fp_volume *volume;
    fp_volume_req *caller;
    fp_disk_req req;
    fp_disk_file *file;
    char *names;
    const char *next;
    uint8_t *buffer;
    uint64_t bytes; /* of the file being read */
    fp_kept error;
    bool strays; /* 3; before it: 2 */
    bool keep;   /* a manifest could not be rewritten, so nothing is removed but temporary files */
    fp_pages *pages;
    fp_maker maker;
} fp_volume_opening;

void fp_volume_open_free(fp_volume *volume)
{
    fp_volume_opening *o = volume->opening;
    if (!o)
        return;
    fp_maker_free(&o->maker);
    free(o->buffer);
    free(o->names);
    free(o);
    volume->opening = NULL;
}

static void over(fp_volume_opening *o, int status)
{
    fp_volume_req *caller = o->caller;
    caller->status = status;
    fp_volume_open_free(o->volume);
    caller->done(caller);
}

static void submit(fp_volume_opening *o, enum fp_disk_kind kind, void (*done)(fp_disk_req *))
{
    o->req.kind = kind;
    o->req.mode = FP_DISK_READ_ONLY;
    o->req.file = o->file;
    o->req.name = o->next;
    o->req.done = done;
    o->req.user = o;
    fp_disk_submit(o->volume->disk, &o->req);
}

static void skip(fp_volume_opening *o) { o->next += strlen(o->next) + 1; }

/* ---- 5 remove -------------------------------------------------------------------------------- */

/* UNLINKs it, or forgets it again. */
static void let_go(fp_volume_opening *o)
{
    uint8_t hash[FP_FILE_HASH_BYTES];
    fp_file *file = fp_file_parse(o->next, hash) ? fp_volume_find(o->volume, hash) : NULL;
    if (!file || file->refs || file->going)
        return;
    file->refs = 1;
    if (o->keep)
        return;
    fp_file_unref(file);
}

static void remove_next(fp_disk_req *req)
{
    fp_volume_opening *o = req->user;
    for (; *o->next; skip(o)) {
        if (!fp_file_is_temporary(o->next)) {
            let_go(o);
            continue;
        }
        submit(o, FP_DISK_UNLINK, remove_next); /* what cannot be removed: the next time */
        skip(o);
        return;
    }
    FP_FAULT_POINT(FILES_CLEANED);
    over(o, 0);
}

/* ---- 4 rewrite ------------------------------------------------------------------------------- */

static void rewrite_next(fp_volume_opening *o);

static void rewritten(fp_maker *maker)
{
    fp_volume_opening *o = maker->user;
    o->keep = o->keep || maker->error.status; /* nothing is removed; all else is as it should be */
    fp_maker_free(maker);
    FP_FAULT_POINT(FILES_REWRITTEN);
    o->pages = o->pages->next;
    rewrite_next(o);
}

static void rewrite(fp_volume_opening *o)
{
    size_t bytes = 0;
    o->maker = (fp_maker){.volume = o->volume, .done = rewritten, .user = o};
    fp_manifest_name(o->pages->partition, o->maker.name);
    uint8_t *file = fp_manifest_put(&o->pages->manifest, &bytes);
    int rc = file ? fp_maker_add(&o->maker, file, bytes) : FARPOOL_E_NOMEM;
    free(file);
    if (!rc) {
        fp_maker_finish(&o->maker);
        return;
    }
    fp_maker_free(&o->maker);
    over(o, fp_volume_say(o->volume, rc, "no memory to write a manifest"));
}

static void rewrite_next(fp_volume_opening *o)
{
    while (o->pages && !o->pages->has_garbage)
        o->pages = o->pages->next;
    if (o->pages) {
        rewrite(o);
        return;
    }
    o->next = o->names;
    o->req.user = o;
    remove_next(&o->req);
}

/* ---- reading a file -------------------------------------------------------------------------- */

static void next_file(fp_volume_opening *o);

static void closed(fp_disk_req *req)
{
    fp_volume_opening *o = req->user;
    o->file = NULL;
    if (o->error.status) {
        over(o, fp_kept_tell(&o->error));
        return;
    }
    skip(o);
    next_file(o);
}

static void have_manifest(fp_volume_opening *o, fp_pages *pages)
{
    const char *why;
    int rc = fp_manifest_get(o->buffer, o->bytes, pages->partition, &pages->manifest, &why);
    if (rc == FARPOOL_E_CORRUPT)
        fp_kept_set(&pages->damage, fp_volume_say(o->volume, rc,
                                                  "manifest '%s': %s, offset 0: restore it from "
                                                  "another copy",
                                                  o->next, why));
    else if (rc == FARPOOL_E_UNSUPPORTED)
        fp_kept_set(&pages->damage,
                    fp_volume_say(o->volume, rc,
                                  "manifest '%s': %s: it was written by another version of "
                                  "farpool-storagenode; run that one",
                                  o->next, why));
    else if (rc)
        fp_kept_set(&o->error, fp_volume_say(o->volume, rc, "no memory for '%s'", o->next));
    for (uint32_t i = 0; !rc && i < pages->manifest.header.count; i++) {
        const fp_manifest_entry *entry = &pages->manifest.entries[i];
        fp_file *file = fp_volume_find(o->volume, entry->hash);
        if (file)
            fp_file_ref(file);
        else
            file = fp_volume_add(o->volume, entry->hash, entry->bytes);
        rc = file ? fp_pages_hold(pages, &file, 1) : fp_error(FARPOOL_E_NOMEM, "no memory");
        if (rc)
            fp_kept_set(&o->error, rc);
        fp_file_unref(file); /* the manifest holds it */
    }
}

/* A file without a holder. */
static void have_footer(fp_volume_opening *o)
{
    uint8_t hash[FP_FILE_HASH_BYTES];
    fp_footer footer;
    if (fp_footer_get(o->buffer, o->bytes, &footer))
        return; /* whatever that is; not left from a crash, for those are whole */
    fp_pages *pages = fp_volume_pages(o->volume, footer.partition);
    bool garbage = pages && pages->has_manifest && !pages->damage.status;
    fp_file *file = NULL;
    if (garbage && fp_file_parse(o->next, hash))
        file = fp_volume_add(o->volume, hash, o->bytes);
    if (!pages || (garbage && !file)) {
        fp_kept_set(&o->error, fp_volume_say(o->volume, FARPOOL_E_NOMEM, "no memory"));
    } else if (garbage) {
        file->refs = 0;
        pages->has_garbage = true;
    } else {
        pages->has_strays = true;
    }
}

/* The device cannot read it: that is damage like any other, and no reason to be without all other partitions' pages. */
static void have_nothing(fp_volume_opening *o)
{
    fp_kept why = {0};
    fp_kept_set(&why, FARPOOL_E_IO); /* with the disk's words */
    if (o->pages)
        fp_kept_set(&o->pages->damage,
                    fp_volume_say(o->volume, FARPOOL_E_CORRUPT,
                                  "manifest '%s': %s: restore it from another copy", o->next,
                                  why.reason));
    else
        fp_log(FP_LOG_WARN, "volume %s: '%s', which no manifest names, stays: %s",
               fp_disk_path(o->volume->disk), o->next, why.reason);
}

static void have_read(fp_disk_req *req)
{
    fp_volume_opening *o = req->user;
    uint64_t partition;
    if (req->status == FARPOOL_E_IO)
        have_nothing(o);
    else if (req->status)
        fp_kept_set(&o->error, req->status);
    else if (!fp_manifest_parse(o->next, &partition))
        have_footer(o);
    else if (o->pages)
        have_manifest(o, o->pages);
    submit(o, FP_DISK_CLOSE, closed);
}

/* Of a manifest all, of a layer the footer. */
static void have_size(fp_disk_req *req)
{
    fp_volume_opening *o = req->user;
    uint64_t partition, size = req->size / FP_FILE_BLOCK * FP_FILE_BLOCK, from = 0;
    bool manifest = fp_manifest_parse(o->next, &partition);
    o->pages = manifest ? fp_volume_pages(o->volume, partition) : NULL;
    if (o->pages)
        o->pages->has_manifest = true;
    if (req->status || (manifest && !o->pages)) {
        fp_kept_set(&o->error, req->status ? req->status : FARPOOL_E_NOMEM);
        submit(o, FP_DISK_CLOSE, closed);
        return;
    }
    o->bytes = req->size;
    if (!size) {
        if (manifest)
            fp_kept_set(&o->pages->damage,
                        fp_volume_say(o->volume, FARPOOL_E_CORRUPT,
                                      "manifest '%s': it is cut off, offset %llu: restore it from "
                                      "another copy",
                                      o->next, (unsigned long long)req->size));
        submit(o, FP_DISK_CLOSE, closed);
        return;
    }
    if (!manifest)
        from = size - FP_FILE_BLOCK;
    free(o->buffer);
    o->buffer = aligned_alloc(FP_FILE_BLOCK, size - from);
    if (!o->buffer) {
        fp_kept_set(&o->error,
                    fp_volume_say(o->volume, FARPOOL_E_NOMEM, "no memory to read '%s'", o->next));
        submit(o, FP_DISK_CLOSE, closed);
        return;
    }
    o->req.offset = from;
    o->req.buffer = o->buffer;
    o->req.len = size - from;
    submit(o, FP_DISK_READ, have_read);
}

static void opened(fp_disk_req *req)
{
    fp_volume_opening *o = req->user;
    if (req->status) {
        over(o, req->status);
        return;
    }
    o->file = req->file;
    submit(o, FP_DISK_SIZE, have_size);
}

/* ---- 3 strays, 2 manifests, 1 list ----------------------------------------------------------- */

static bool is_wanted(const fp_volume_opening *o)
{
    uint8_t hash[FP_FILE_HASH_BYTES];
    uint64_t partition;
    if (!o->strays)
        return fp_manifest_parse(o->next, &partition);
    return fp_file_parse(o->next, hash) && !fp_volume_find(o->volume, hash);
}

static void next_file(fp_volume_opening *o)
{
    while (*o->next && !is_wanted(o))
        skip(o);
    if (*o->next) {
        submit(o, FP_DISK_OPEN, opened);
    } else if (!o->strays) {
        o->strays = true;
        o->next = o->names;
        next_file(o);
    } else {
        o->pages = o->volume->pages;
        rewrite_next(o);
    }
}

static void listed(fp_disk_req *req)
{
    fp_volume_opening *o = req->user;
    if (req->status) {
        over(o, req->status);
        return;
    }
    o->next = o->names = req->names;
    next_file(o);
}

int fp_volume_open(fp_disk *disk, fp_volume_req *req, fp_volume **out)
{
    fp_volume *volume = calloc(1, sizeof *volume);
    fp_volume_opening *o = calloc(1, sizeof *o);
    if (!volume || !o) {
        free(volume);
        free(o);
        return fp_error(FARPOOL_E_NOMEM, "volume %s: no memory", fp_disk_path(disk));
    }
    volume->disk = disk;
    volume->opening = o;
    o->volume = volume;
    o->caller = req;
    *out = volume;
    submit(o, FP_DISK_LIST, listed);
    return 0;
}
