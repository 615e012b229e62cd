/* SPDX-License-Identifier: Apache-2.0 */
/*
 *   OPEN (create) under a temporary name -> ALLOCATE what is expected -> WRITE, as it comes -> TRUNCATE to what it
 *   became -> SYNC -> RENAME -> SYNC_DIR
 *
 * If a step fails the temporary file is removed (as far as that works) and the next try makes another one, which is
 * what D8 asks for. By D8, too, a RENAME is not durable if anybody's SYNC_DIR failed between it and ours.
 */
#include "storagenode/maker.h"

#include <stdlib.h>
#include <string.h>

#include "common/faultpoint.h"
#include "storagenode/file_hash.h"
#include "storagenode/volume_inside.h"

enum { ROOM_MIN = 32 << 10 };

_Static_assert(sizeof(XXH128_canonical_t) == FP_FILE_HASH_BYTES, "content address");

/* ---- adding ---------------------------------------------------------------------------------- */

static int no_memory(const fp_maker *maker, size_t bytes)
{
    return fp_volume_say(maker->volume, FARPOOL_E_NOMEM, "no memory for %zu bytes of a new file",
                         bytes);
}

static int make_room(fp_maker *maker, size_t more)
{
    size_t needed = maker->own.used + more;
    if (needed <= maker->own.room)
        return 0;
    uint64_t expected = maker->expected < FP_MAKER_PIECE_MAX ? maker->expected : FP_MAKER_PIECE_MAX;
    size_t room = maker->own.room ? maker->own.room : (size_t)fp_file_ceil(expected) + ROOM_MIN;
    while (room < needed)
        room *= 2;
    uint8_t *grown = aligned_alloc(FP_FILE_BLOCK, room);
    if (!grown)
        return no_memory(maker, room);
    if (maker->own.used)
        memcpy(grown, maker->own.buffer, maker->own.used);
    free(maker->own.buffer);
    maker->own.buffer = grown;
    maker->own.room = room;
    return 0;
}

int fp_maker_add(fp_maker *maker, const void *data, size_t len)
{
    if (!maker->name[0] && !maker->own.hash) {
        maker->own.hash = XXH3_createState();
        if (!maker->own.hash)
            return no_memory(maker, len);
        XXH3_128bits_reset(maker->own.hash);
    }
    int rc = make_room(maker, len);
    if (rc || !len)
        return rc;
    memcpy(maker->own.buffer + maker->own.used, data, len);
    maker->own.used += len;
    maker->bytes += len;
    return 0;
}

static void hash_blocks(fp_maker *maker, const uint8_t *bytes, size_t len)
{
    if (maker->own.hash && len > maker->own.hashed) {
        XXH3_128bits_update(maker->own.hash, bytes + maker->own.hashed, len - maker->own.hashed);
        maker->own.hashed = len;
    }
}

void fp_maker_hash(fp_maker *maker)
{
    hash_blocks(maker, maker->own.buffer, maker->own.used / FP_FILE_BLOCK * FP_FILE_BLOCK);
}

int fp_maker_fill(fp_maker *maker)
{
    static const uint8_t zeros[FP_FILE_BLOCK];
    return fp_maker_add(maker, zeros, fp_file_ceil(maker->bytes) - maker->bytes);
}

/* ---- the way of a file ----------------------------------------------------------------------- */

static void submit(fp_maker *maker, enum fp_disk_kind kind)
{
    maker->own.req.kind = kind;
    maker->own.req.file = maker->own.handle;
    maker->own.req.name = maker->own.temporary;
    fp_disk_submit(maker->volume->disk, &maker->own.req);
}

/* What becomes of the remains is of no interest: they are looked for when the volume is opened. */
static void cleaned(fp_disk_req *req)
{
    fp_maker *maker = req->user;
    if (req->kind == FP_DISK_CLOSE) {
        maker->own.handle = NULL;
        if (maker->own.temporary[0]) {
            submit(maker, FP_DISK_UNLINK);
            return;
        }
    }
    fp_file_unref(maker->own.replaced);
    maker->own.replaced = NULL;
    maker->done(maker);
}

static void clean(fp_maker *maker)
{
    maker->own.req.done = cleaned;
    if (maker->own.handle)
        submit(maker, FP_DISK_CLOSE);
    else if (maker->own.temporary[0])
        submit(maker, FP_DISK_UNLINK);
    else
        submit(maker, FP_DISK_NOP);
}

static void give_up(fp_maker *maker, int status)
{
    bool awaited =
        maker->own.flushing || maker->own.pushing || maker->own.finishing || maker->own.abandoned;
    fp_kept_set(&maker->error, status);
    maker->own.failed = !awaited;
    maker->own.busy = false;
    if (awaited)
        clean(maker);
}

/* There is a file of the same hash already, of which the caller has a reference. */
static void made_again(fp_maker *maker, fp_file *file)
{
    maker->file = file;
    if (file->rotten && !file->fresh) { /* it is read by its handle until nobody does any more */
        file->fresh = maker->own.handle;
        maker->own.handle = NULL;
        maker->done(maker);
    } else {
        maker->own.temporary[0] = 0; /* the name stays */
        clean(maker);
    }
}

static void made(fp_maker *maker)
{
    if (maker->name[0]) {
        FP_FAULT_POINT(MANIFEST_MADE);
        maker->done(maker);
        return;
    }
    fp_file *file = maker->own.replaced;
    maker->own.replaced = NULL;
    if (!file) {
        file =
            fp_volume_find(maker->volume, maker->own.digest); /* made meanwhile by another maker */
        if (file && file->going) {
            give_up(maker, fp_volume_say(maker->volume, FARPOOL_E_BUSY,
                                         "'%s' was removed while it was made; it is made again",
                                         maker->own.final));
            return;
        }
        if (file)
            fp_file_ref(file);
    }
    if (file) {
        made_again(maker, file);
        return;
    }
    maker->file = fp_volume_add(maker->volume, maker->own.digest, maker->bytes);
    if (!maker->file) {
        give_up(maker, no_memory(maker, sizeof *maker->file));
        return;
    }
    maker->file->handle = maker->own.handle;
    maker->own.handle = NULL;
    FP_FAULT_POINT(LAYER_MADE);
    maker->done(maker);
}

static void rename_it(fp_maker *maker)
{
    maker->own.dir_failures = fp_disk_dir_failures(maker->volume->disk);
    maker->own.req.new_name = maker->name[0] ? maker->name : maker->own.final;
    maker->own.req.replace = true;
    submit(maker, FP_DISK_RENAME);
}

static void rename_by_hash(fp_maker *maker)
{
    XXH128_canonical_t hash;
    XXH128_canonicalFromHash(&hash, XXH3_128bits_digest(maker->own.hash));
    memcpy(maker->own.digest, hash.digest, sizeof maker->own.digest);
    if (maker->wanted && memcmp(maker->wanted, hash.digest, sizeof hash.digest) != 0) {
        give_up(maker, fp_volume_say(maker->volume, FARPOOL_E_CORRUPT,
                                     "the bytes of a new file have another hash than they should"));
        return;
    }
    fp_file *file = fp_volume_find(maker->volume, maker->own.digest);
    if (file && file->going) {
        FP_ASSERT(!file->waiter);
        file->waiter = maker;
    } else if (file && (!file->rotten || file->fresh)) { /* the same bytes are there */
        fp_file_ref(file);
        maker->file = file;
        clean(maker);
    } else {
        /* A rotten one is held until it is replaced: who lets go of it last removes what has its name. */
        if (file)
            fp_file_ref(file);
        maker->own.replaced = file;
        fp_file_name(maker->own.digest, maker->own.final);
        rename_it(maker);
    }
}

void fp_maker_again(fp_maker *maker) { rename_by_hash(maker); }

static void renamed(fp_maker *maker)
{
    if (maker->name[0])
        FP_FAULT_POINT(MANIFEST_RENAMED);
    else
        FP_FAULT_POINT(LAYER_RENAMED);
    memcpy(maker->own.temporary, maker->own.final, sizeof maker->own.temporary);
    submit(maker, FP_DISK_SYNC_DIR);
}

static void synced_dir(fp_maker *maker)
{
    if (fp_disk_dir_failures(maker->volume->disk) == maker->own.dir_failures)
        made(maker);
    else
        give_up(maker,
                fp_volume_say(maker->volume, FARPOOL_E_IO,
                              "whether '%s' has its name for good is not known, because another "
                              "sync of the directory failed",
                              maker->own.req.new_name));
}

/* Whole blocks leave the buffer; the rest, and what is added from now on, is in the other one. */
static size_t take_blocks(fp_maker *maker)
{
    size_t len = maker->own.used / FP_FILE_BLOCK * FP_FILE_BLOCK, rest = maker->own.used - len;
    uint8_t *full = maker->own.buffer;
    size_t room = maker->own.room;
    if (!maker->own.flying) {
        maker->own.flying = aligned_alloc(FP_FILE_BLOCK, room);
        maker->own.flying_room = room;
    }
    if (!maker->own.flying)
        return 0;
    memcpy(maker->own.flying, full + len, rest);
    maker->own.buffer = maker->own.flying;
    maker->own.room = maker->own.flying_room;
    maker->own.used = rest;
    maker->own.flying = full;
    maker->own.flying_room = room;
    return len;
}

static void write_blocks(fp_maker *maker)
{
    size_t len = take_blocks(maker);
    if (!len) {
        give_up(maker, no_memory(maker, maker->own.room));
        return;
    }
    hash_blocks(maker, maker->own.flying, len); /* as it comes it would be in small pieces */
    maker->own.hashed = 0;
    maker->own.req.offset = maker->own.written;
    maker->own.req.buffer = maker->own.flying;
    maker->own.req.len = len;
    submit(maker, FP_DISK_WRITE);
}

/* What is to be written next, or has to be done when there is nothing. */
static void go_on(fp_maker *maker)
{
    if (maker->own.used >= FP_FILE_BLOCK) {
        write_blocks(maker);
    } else if (maker->own.allocated > maker->own.written) {
        maker->own.req.size = maker->own.written;
        submit(maker, FP_DISK_TRUNCATE);
    } else {
        submit(maker, FP_DISK_SYNC);
    }
}

/* Who pushes may add more as soon as the buffer is free. */
static void let_push(fp_maker *maker)
{
    if (!maker->own.pushing || !maker->own.busy)
        return;
    maker->own.pushing = false;
    maker->done(maker);
}

static void wrote(fp_maker *maker)
{
    FP_FAULT_POINT(LAYER_WRITTEN);
    maker->own.written += maker->own.req.len;
    if (maker->own.abandoned) {
        clean(maker);
    } else if (maker->own.finishing) {
        go_on(maker);
    } else if (maker->own.pushing) {
        write_blocks(maker);
        let_push(maker);
    } else {
        maker->own.busy = false;
        if (maker->own.flushing) {
            maker->own.flushing = false;
            maker->done(maker);
        }
    }
}

static void open_it(fp_maker *maker)
{
    snprintf(maker->own.temporary, sizeof maker->own.temporary, "file-%llu.tmp",
             (unsigned long long)maker->volume->temporaries++);
    maker->own.req.mode = FP_DISK_CREATE;
    submit(maker, FP_DISK_OPEN);
}

static void allocate(fp_maker *maker)
{
    uint64_t size = maker->expected > maker->bytes ? maker->expected : maker->bytes;
    maker->own.handle = maker->own.req.file;
    maker->own.req.size = maker->own.allocated = fp_file_ceil(size);
    submit(maker, FP_DISK_ALLOCATE);
}

static void synced(fp_maker *maker)
{
    if (maker->name[0]) {
        FP_FAULT_POINT(MANIFEST_SYNCED);
        submit(maker, FP_DISK_CLOSE);
    } else {
        FP_FAULT_POINT(LAYER_SYNCED);
        rename_by_hash(maker);
    }
}

static void step(fp_disk_req *req)
{
    fp_maker *maker = req->user;
    if (req->kind == FP_DISK_CLOSE)
        maker->own.handle = NULL;
    if (req->kind == FP_DISK_OPEN && req->status == FARPOOL_E_EXISTS) {
        open_it(maker); /* left from an earlier one that could not be removed */
        return;
    }
    if (req->kind == FP_DISK_ALLOCATE && req->status == FARPOOL_E_UNSUPPORTED) {
        maker->own.allocated = 0; /* then WRITEs may find no space, and fail so */
        req->status = 0;
    }
    if (req->status) {
        if (req->kind == FP_DISK_OPEN)
            maker->own.temporary[0] = 0;
        give_up(maker, req->status);
        return;
    }
    switch (req->kind) {
    case FP_DISK_OPEN:
        allocate(maker);
        break;
    case FP_DISK_ALLOCATE:
        write_blocks(maker);
        let_push(maker);
        break;
    case FP_DISK_WRITE:
        wrote(maker);
        break;
    case FP_DISK_TRUNCATE:
        submit(maker, FP_DISK_SYNC);
        break;
    case FP_DISK_SYNC:
        synced(maker);
        break;
    case FP_DISK_CLOSE:
        rename_it(maker);
        break;
    case FP_DISK_RENAME:
        renamed(maker);
        break;
    default:
        synced_dir(maker);
    }
}

static void begin(fp_maker *maker)
{
    maker->own.req.done = step;
    maker->own.req.user = maker;
    maker->own.busy = true;
    if (!maker->own.handle)
        open_it(maker);
    else
        go_on(maker);
}

void fp_maker_flush(fp_maker *maker)
{
    FP_ASSERT(maker->own.used >= FP_FILE_BLOCK && !maker->own.busy);
    maker->own.flushing = true;
    begin(maker);
}

bool fp_maker_push(fp_maker *maker)
{
    FP_ASSERT(maker->own.used >= FP_FILE_BLOCK);
    if (maker->own.failed) {
        clean(maker);
        return false;
    }
    if (!maker->own.busy && maker->own.handle) {
        begin(maker);
        return true;
    }
    maker->own.pushing = true;
    if (!maker->own.busy)
        begin(maker);
    return false;
}

void fp_maker_finish(fp_maker *maker)
{
    FP_ASSERT(maker->bytes && maker->bytes % FP_FILE_BLOCK == 0);
    maker->own.finishing = true;
    if (maker->own.failed)
        clean(maker);
    else if (!maker->own.busy)
        begin(maker);
}

void fp_maker_abandon(fp_maker *maker)
{
    maker->own.req.user = maker;
    maker->own.abandoned = true;
    if (!maker->own.busy)
        clean(maker);
}

void fp_maker_free(fp_maker *maker)
{
    free(maker->own.buffer);
    free(maker->own.flying);
    XXH3_freeState(maker->own.hash);
    maker->own.buffer = maker->own.flying = NULL;
    maker->own.hash = NULL;
}
