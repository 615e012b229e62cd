/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking the pages of a partition from another volume. Everything that comes is checked before it counts: the manifest
 * as one that is read from a volume is, files by their hash before they get their names, and by their footers. What
 * has a name already is believed only after all of it was read.
 */
#include <stdlib.h>
#include <string.h>

#include "storagenode/copy.h"
#include "storagenode/file_hash.h"
#include "storagenode/volume_inside.h"
#include "storagenode/wal.h"

#define LAYER_BYTES_MAX (16ull << 30) /* more than any index and data can have */

typedef struct taking {
    fp_take take;
    fp_volume *volume;
    fp_file **files; /* of the entries, held; NULL: not here yet */
    uint32_t at;     /* entry being looked at */
    fp_file *file;   /* that is here and being read, held */
    fp_disk_req req;
    fp_disk_file *handle;
    uint8_t *buffer;
    uint64_t read;
    XXH3_state_t *hash;
    fp_maker maker;
    bool finishing;  /* the last bytes of a file are on their way */
    bool installing; /* it is being made the partition's */
    bool closing;    /* by fp_take_close: as soon as what is under way is over */
} taking;

static void over(taking *t, int status)
{
    if (status)
        fp_kept_set(&t->take.error, status);
    t->take.done(&t->take);
}

static const fp_manifest_entry *entry_of(const taking *t)
{
    return &t->take.manifest.entries[t->at];
}

static bool is_lsn(uint64_t lsn)
{
    return lsn >= FP_REDO_LSN_FIRST && lsn <= FP_WAL_LSN_MAX && lsn % FP_REDO_ALIGN == 0;
}

/* NULL, or why it is none from which the pages could be had. That the LSNs of its layers follow one another, from base to
 * converted, has been seen. */
static const char *find_fault(const fp_manifest *manifest)
{
    const fp_manifest_header *header = &manifest->header;
    if (header->beginning != FP_REDO_LSN_FIRST)
        return "it does not have all pages itself";
    bool possible = is_lsn(header->base) && is_lsn(header->converted);
    for (uint32_t i = 0; i < header->count; i++) {
        const fp_manifest_entry *entry = &manifest->entries[i];
        possible &=
            entry->bytes <= LAYER_BYTES_MAX && is_lsn(entry->lsn_from) && is_lsn(entry->lsn_to);
    }
    return possible ? NULL : "it names LSNs where no frame begins, or impossible layers";
}

/* By fp_take_close, and what was under way is over. */
static bool given_up(taking *t)
{
    if (!t->closing)
        return false;
    fp_take_close(&t->take);
    return true;
}

int fp_take_open(fp_volume *volume, uint64_t partition, const uint8_t *manifest, size_t bytes,
                 fp_take **out)
{
    const char *why;
    taking *t = calloc(1, sizeof *t);
    if (!t)
        return fp_volume_say(volume, FARPOOL_E_NOMEM, "no memory to take pages");
    int rc = fp_manifest_get(manifest, bytes, partition, &t->take.manifest, &why);
    if (!rc && (why = find_fault(&t->take.manifest))) {
        free(t->take.manifest.entries);
        rc = FARPOOL_E_CORRUPT;
    }
    if (rc) {
        free(t);
        return fp_volume_say(volume, rc, "the manifest of another node: %s",
                             why ? why : "no memory for it");
    }
    t->volume = volume;
    t->files = calloc(t->take.manifest.header.count + (size_t)1, sizeof(fp_file *));
    t->buffer = aligned_alloc(FP_FILE_BLOCK, FP_COPY_PIECE);
    t->hash = XXH3_createState();
    *out = &t->take;
    if (t->files && t->buffer && t->hash)
        return 0;
    fp_take_close(&t->take);
    return fp_volume_say(volume, FARPOOL_E_NOMEM, "no memory to take pages");
}

void fp_take_close(fp_take *take)
{
    taking *t = (taking *)take;
    if (!t)
        return;
    if ((t->installing || t->maker.own.handle) && !t->closing) {
        t->closing = true;
        if (!t->installing)
            fp_maker_abandon(&t->maker);
        return;
    }
    for (uint32_t i = 0; t->files && i < take->manifest.header.count; i++)
        fp_file_unref(t->files[i]);
    fp_file_unref(t->file);
    fp_maker_free(&t->maker);
    XXH3_freeState(t->hash);
    free(take->manifest.entries);
    free(t->files);
    free(t->buffer);
    free(t);
}

/* ---- what is here already -------------------------------------------------------------------- */

static void submit(taking *t, enum fp_disk_kind kind, void (*done)(fp_disk_req *req))
{
    t->req.kind = kind;
    t->req.file = t->handle;
    t->req.done = done;
    t->req.user = t;
    fp_disk_submit(t->volume->disk, &t->req);
}

static void looked_at(taking *t, bool good)
{
    if (good) {
        t->files[t->at++] = t->file;
    } else {
        t->file->rotten = true;
        fp_file_unref(t->file);
    }
    t->file = NULL;
    if (good) {
        fp_take_next(&t->take);
        return;
    }
    t->take.missing = entry_of(t);
    over(t, 0);
}

static void closed(fp_disk_req *req)
{
    taking *t = req->user;
    XXH128_canonical_t hash;
    t->handle = NULL;
    if (t->take.error.status) {
        over(t, 0);
        return;
    }
    XXH128_canonicalFromHash(&hash, XXH3_128bits_digest(t->hash));
    looked_at(t, t->read == entry_of(t)->bytes &&
                     !memcmp(hash.digest, entry_of(t)->hash, FP_FILE_HASH_BYTES));
}

static void read_on(taking *t);

static void have_read(fp_disk_req *req)
{
    taking *t = req->user;
    if (req->status && req->status != FARPOOL_E_CORRUPT) /* that: it is cut off */
        fp_kept_set(&t->take.error, req->status);
    if (req->status) {
        submit(t, FP_DISK_CLOSE, closed);
        return;
    }
    XXH3_128bits_update(t->hash, t->buffer, req->len);
    t->read += req->len;
    read_on(t);
}

static void read_on(taking *t)
{
    uint64_t left = entry_of(t)->bytes - t->read;
    if (!left) {
        submit(t, FP_DISK_CLOSE, closed);
        return;
    }
    t->req.offset = t->read;
    t->req.len = left < FP_COPY_PIECE ? left : FP_COPY_PIECE;
    t->req.buffer = t->buffer;
    submit(t, FP_DISK_READ, have_read);
}

static void sized(fp_disk_req *req)
{
    taking *t = req->user;
    if (req->status)
        fp_kept_set(&t->take.error, req->status);
    if (req->status || req->size != entry_of(t)->bytes)
        submit(t, FP_DISK_CLOSE, closed);
    else
        read_on(t);
}

static void opened(fp_disk_req *req)
{
    taking *t = req->user;
    if (req->status && req->status != FARPOOL_E_NOTFOUND) {
        over(t, req->status);
    } else if (req->status) {
        looked_at(t, false);
    } else {
        t->handle = req->file;
        submit(t, FP_DISK_SIZE, sized);
    }
}

static void nothing(fp_disk_req *req)
{
    taking *t = req->user;
    over(t, req->status);
}

void fp_take_next(fp_take *take)
{
    taking *t = (taking *)take;
    take->missing = NULL;
    take->added = 0;
    if (t->at == take->manifest.header.count) {
        submit(t, FP_DISK_NOP, nothing);
        return;
    }
    t->file = fp_volume_find(t->volume, entry_of(t)->hash);
    if (!t->file || t->file->going) {
        t->file = NULL;
        take->missing = entry_of(t);
        submit(t, FP_DISK_NOP, nothing);
        return;
    }
    fp_file_ref(t->file);
    t->read = 0;
    XXH3_128bits_reset(t->hash);
    t->req.name = t->file->name;
    t->req.mode = FP_DISK_READ_ONLY;
    submit(t, FP_DISK_OPEN, opened);
}

/* ---- what is not ----------------------------------------------------------------------------- */

static void made(fp_maker *maker)
{
    taking *t = maker->user;
    if (given_up(t))
        return;
    if (!maker->error.status && t->finishing) {
        t->files[t->at++] = maker->file;
        t->take.missing = NULL;
    }
    if (maker->error.status || t->finishing) {
        fp_kept error = maker->error;
        fp_maker_free(maker);
        t->maker = (fp_maker){0};
        over(t, fp_kept_tell(&error));
        return;
    }
    over(t, 0);
}

/* The last block says what layer it is. */
static int check_footer(const taking *t, const uint8_t *block)
{
    const fp_manifest_entry *entry = entry_of(t);
    fp_footer footer;
    const char *why = fp_footer_get(block, entry->bytes, &footer);
    if (!why &&
        (footer.partition != t->take.manifest.header.partition || footer.kind != entry->kind ||
         footer.lsn_from != entry->lsn_from || footer.lsn_to != entry->lsn_to ||
         footer.pid_first != entry->pid_first || footer.pid_last != entry->pid_last))
        why = "it is another layer than its manifest says";
    return why ? fp_volume_say(t->volume, FARPOOL_E_CORRUPT, "a layer of another node: %s", why)
               : 0;
}

static void abandon(taking *t, int status)
{
    fp_kept_set(&t->maker.error, status);
    fp_maker_abandon(&t->maker);
}

void fp_take_add(fp_take *take, const uint8_t *bytes, size_t len)
{
    taking *t = (taking *)take;
    const fp_manifest_entry *entry = entry_of(t);
    FP_ASSERT(take->missing && len && len <= entry->bytes - take->added);
    bool last = take->added + len == entry->bytes;
    if (!take->added)
        t->maker = (fp_maker){.volume = t->volume,
                              .expected = entry->bytes,
                              .wanted = entry->hash,
                              .done = made,
                              .user = t};
    FP_ASSERT(len >= FP_FILE_BLOCK); /* whole blocks come, but for nothing */
    t->finishing = last;
    int rc = last ? check_footer(t, bytes + len - FP_FILE_BLOCK) : 0;
    if (!rc)
        rc = fp_maker_add(&t->maker, bytes, len);
    take->added += len;
    take->fetched_bytes += len;
    if (rc)
        abandon(t, rc);
    else if (last)
        fp_maker_finish(&t->maker);
    else
        fp_maker_flush(&t->maker);
}

/* ---- making it the partition's --------------------------------------------------------------- */

static void installed(fp_maker *maker)
{
    taking *t = maker->user;
    if (given_up(t))
        return;
    t->installing = false;
    fp_kept error = maker->error;
    fp_pages *pages = fp_volume_pages(t->volume, t->take.manifest.header.partition);
    fp_maker_free(maker);
    t->maker = (fp_maker){0};
    if (!error.status) {
        uint32_t count = t->take.manifest.header.count;
        pages->damage.status = 0;
        pages->has_strays =
            false; /* of what the next opening finds it removes what the manifest does not name */
        fp_pages_settle(pages, t->take.manifest, t->files, count);
        for (uint32_t i = 0; i < count; i++)
            fp_file_unref(t->files[i]); /* the manifest holds them */
        t->take.manifest.entries = NULL;
        t->take.manifest.header.count = 0;
    }
    over(t, fp_kept_tell(&error));
}

static void write_manifest(taking *t)
{
    fp_manifest *manifest = &t->take.manifest;
    fp_pages *pages = fp_volume_pages(t->volume, manifest->header.partition);
    size_t bytes = 0;
    t->maker = (fp_maker){.volume = t->volume, .done = installed, .user = t};
    fp_manifest_name(manifest->header.partition, t->maker.name);
    uint8_t *file = pages ? fp_manifest_put(manifest, &bytes) : NULL;
    int rc = file ? fp_pages_hold(pages, t->files, manifest->header.count) : FARPOOL_E_NOMEM;
    if (!rc)
        rc = fp_maker_add(&t->maker, file, bytes);
    free(file);
    if (rc)
        abandon(t, fp_volume_say(t->volume, rc, "no memory for a manifest"));
    else
        fp_maker_finish(&t->maker);
}

static void old_closed(fp_disk_req *req);

/* Files that were rotten are read by the handles of what took their places from now on. */
static void renew(taking *t)
{
    if (given_up(t))
        return;
    for (; t->at < t->take.manifest.header.count; t->at++) {
        fp_file *file = t->files[t->at];
        file->rotten = false;
        if (!file->fresh)
            continue;
        if (file->handle) {
            t->handle = file->handle;
            submit(t, FP_DISK_CLOSE, old_closed);
            return;
        }
        file->handle = file->fresh;
        file->fresh = NULL;
    }
    write_manifest(t);
}

static void old_closed(fp_disk_req *req)
{
    taking *t = req->user;
    t->handle = NULL;
    t->files[t->at]->handle = NULL;
    renew(t);
}

static void renew_first(fp_disk_req *req) { renew(req->user); }

void fp_take_install(fp_take *take, uint64_t generation)
{
    taking *t = (taking *)take;
    const fp_pages *pages = fp_volume_pages(t->volume, take->manifest.header.partition);
    FP_ASSERT(t->at == take->manifest.header.count);
    FP_ASSERT(!pages || !pages->in_use);
    take->manifest.header.generation = generation;
    take->manifest.header.sequence = pages ? pages->manifest.header.sequence + 1 : 1;
    t->at = 0;
    t->installing = true;
    submit(t, FP_DISK_NOP, renew_first);
}
