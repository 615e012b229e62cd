/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New files.
 *
 *   OPEN (create) under a temporary name -> ALLOCATE the full size -> copy what an older file of the name has
 *   -> WRITE the head -> SYNC -> RENAME over the name -> SYNC_DIR
 *
 * so a file with a final name is always whole; an unfinished one has a temporary name, and fp_wal_open removes it. If
 * a step fails the temporary file is removed (as far as that works) and the next try makes another file, which is what
 * D8 asks for. By D8, too, a RENAME is not durable if anybody's SYNC_DIR failed between it and ours: the directory is
 * shared with other WALs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "storagenode/wal_inside.h"

void fp_wal_error_set(fp_wal_error *error, int status)
{
    error->status = status;
    snprintf(error->reason, sizeof error->reason, "%s", farpool_errmsg());
}

static void step(fp_disk_req *req);

static void submit(fp_wal_make *make, enum fp_disk_kind kind)
{
    make->req.kind = kind;
    make->req.file = make->file;
    make->req.name = make->temporary;
    fp_disk_submit(make->wal->disk, &make->req);
}

static void finish(fp_wal_make *make)
{
    free(make->copy_buffer);
    make->copy_buffer = NULL;
    make->busy = false;
    make->done(make);
}

/* ---- failing --------------------------------------------------------------------------------- */

/* What becomes of the remains is of no interest: they are looked for when the WAL is opened. */
static void cleaned(fp_disk_req *req)
{
    fp_wal_make *make = req->user;
    if (req->kind != FP_DISK_CLOSE) {
        finish(make);
        return;
    }
    make->file = NULL;
    submit(make, FP_DISK_UNLINK);
}

static void give_up(fp_wal_make *make, int status)
{
    fp_wal_error_set(&make->error, status);
    make->req.done = cleaned;
    submit(make, make->file ? FP_DISK_CLOSE : FP_DISK_UNLINK);
}

/* ---- the way of a file ----------------------------------------------------------------------- */

static void write_head(fp_wal_make *make)
{
    make->req.offset = 0;
    make->req.buffer = (void *)(uintptr_t)make->head;
    make->req.len = make->head_bytes;
    submit(make, FP_DISK_WRITE);
}

static void loaded(fp_wal_load *load)
{
    fp_wal_make *make = load->user;
    if (load->error.status) {
        fp_error(load->error.status, "%s", load->error.reason);
        give_up(make, load->error.status);
        return;
    }
    if (load->to > make->copy_to) /* what stands behind is not known to be durable, or is damaged */
        memset(make->copy_buffer + (make->copy_to - load->from), 0, load->to - make->copy_to);
    make->req.offset = FP_WAL_BLOCK + load->from % make->wal->state.segment_bytes;
    make->req.buffer = make->copy_buffer;
    make->req.len = load->to - load->from;
    submit(make, FP_DISK_WRITE);
}

/* The next piece, or the head, which is written last. */
static void copy(fp_wal_make *make)
{
    if (make->copied >= make->copy_to) {
        write_head(make);
        return;
    }
    uint64_t to = fp_wal_ceil(make->copy_to);
    fp_wal_load *load = &make->load;
    load->wal = make->wal;
    load->from = fp_wal_floor(make->copied);
    load->to = to - load->from < FP_WAL_COPY_BYTES ? to : load->from + FP_WAL_COPY_BYTES;
    load->buffer = make->copy_buffer;
    load->done = loaded;
    load->user = make;
    fp_wal_load_start(load);
}

static void begin_copy(fp_wal_make *make)
{
    make->copied = make->copy_from;
    if (make->copy_from < make->copy_to) {
        make->copy_buffer = aligned_alloc(FP_WAL_BLOCK, FP_WAL_COPY_BYTES);
        if (!make->copy_buffer) {
            give_up(make, fp_error(FARPOOL_E_NOMEM, "no memory to copy '%s'", make->name));
            return;
        }
    }
    copy(make);
}

static void synced_dir(fp_wal_make *make)
{
    if (fp_disk_dir_failures(make->wal->disk) == make->dir_failures) {
        FP_FAULT_POINT(WAL_FILE_MADE);
        finish(make);
        return;
    }
    give_up(make, fp_error(FARPOOL_E_IO,
                           "volume %s: whether '%s' has its name for good is not known, because "
                           "another sync of the directory failed",
                           fp_disk_path(make->wal->disk), make->name));
}

static void rename_it(fp_wal_make *make)
{
    make->dir_failures = fp_disk_dir_failures(make->wal->disk);
    make->req.new_name = make->name;
    make->req.replace = true;
    submit(make, FP_DISK_RENAME);
}

static void step(fp_disk_req *req)
{
    fp_wal_make *make = req->user;
    if (req->kind == FP_DISK_CLOSE)
        make->file = NULL;
    if (req->kind == FP_DISK_OPEN && req->status == FARPOOL_E_EXISTS && !make->retried) {
        make->retried = true;
        submit(make, FP_DISK_UNLINK);
        return;
    }
    if (req->kind == FP_DISK_ALLOCATE && req->status == FARPOOL_E_UNSUPPORTED) {
        submit(make, FP_DISK_TRUNCATE); /* then WRITEs may find no space, and fail so */
        return;
    }
    if (req->status) {
        give_up(make, req->status);
        return;
    }
    switch (req->kind) {
    case FP_DISK_UNLINK:
        submit(make, FP_DISK_OPEN);
        break;
    case FP_DISK_OPEN:
        make->file = req->file;
        make->req.size = make->size;
        submit(make, FP_DISK_ALLOCATE);
        break;
    case FP_DISK_ALLOCATE:
    case FP_DISK_TRUNCATE:
        FP_FAULT_POINT(WAL_FILE_ALLOCATED);
        begin_copy(make);
        break;
    case FP_DISK_WRITE:
        if (req->offset == 0) {
            submit(make, FP_DISK_SYNC);
            break;
        }
        make->copied = make->load.to;
        copy(make);
        break;
    case FP_DISK_SYNC:
        FP_FAULT_POINT(WAL_FILE_SYNCED);
        if (make->keep_open)
            rename_it(make);
        else
            submit(make, FP_DISK_CLOSE);
        break;
    case FP_DISK_CLOSE:
        rename_it(make);
        break;
    case FP_DISK_RENAME:
        FP_FAULT_POINT(WAL_FILE_RENAMED);
        submit(make, FP_DISK_SYNC_DIR);
        break;
    default:
        synced_dir(make);
    }
}

void fp_wal_make_start(fp_wal_make *make)
{
    FP_ASSERT(!make->busy);
    make->busy = true;
    make->error.status = 0;
    make->file = NULL;
    make->retried = false;
    make->req.mode = FP_DISK_CREATE;
    make->req.done = step;
    make->req.user = make;
    snprintf(make->temporary, sizeof make->temporary, "%s.tmp", make->name);
    submit(make, FP_DISK_OPEN);
}
