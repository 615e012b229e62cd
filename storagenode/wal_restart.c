/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Beginning a WAL anew at another LSN: what was before it is in layers, or is wanted by nobody.
 *
 *   1. LIST      which files there are
 *   2. state     read, for what was promised and sealed. If no copy is valid all segments go first: marks of an era
 *                that is not known could say anything about the new log
 *   3. write     a state with the new beginning and the next era: this is the moment from which it counts
 *   4. remove    all segments: nothing in them counts any more. Those that are left by a crash lie before the
 *                beginning, or are made anew when they are needed (wal_open.c)
 */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "storagenode/wal_inside.h"

/* wal->opening is NULL: this is another way for the same object. */
typedef struct restart {
    fp_wal *wal;
    fp_wal_req *caller;
    fp_disk_req req;
    fp_disk_file *file;
    char *names;
    const char *next;
    bool known;   /* the state was valid */
    bool written; /* the new one is there */
    fp_wal_error error;
    char name[FP_WAL_NAME_MAX];
} restart;

static void over(restart *r, int status)
{
    fp_wal_req *caller = r->caller;
    caller->status = status;
    caller->lsn = r->wal->options.start;
    free(r->names);
    free(r);
    caller->done(caller);
}

static void submit(restart *r, enum fp_disk_kind kind, void (*done)(fp_disk_req *req))
{
    r->req.kind = kind;
    r->req.file = r->file;
    r->req.done = done;
    fp_disk_submit(r->wal->disk, &r->req);
}

/* ---- 4, or before 3: segments ---------------------------------------------------------------- */

static void write_state(restart *r);

static void synced(fp_disk_req *req)
{
    restart *r = req->user;
    if (req->status)
        over(r, req->status);
    else if (r->written)
        over(r, 0);
    else
        write_state(r);
}

static void remove_next(fp_disk_req *req)
{
    restart *r = req->user;
    uint32_t number;
    if (req->kind == FP_DISK_UNLINK && req->status && req->status != FARPOOL_E_NOTFOUND) {
        over(r, req->status);
        return;
    }
    while (*r->next) {
        const char *name = r->next;
        r->next += strlen(name) + 1;
        if (fp_wal_parse_name(name, r->wal->options.partition, &number) != FP_WAL_NAME_SEGMENT)
            continue;
        r->req.name = name;
        submit(r, FP_DISK_UNLINK, remove_next);
        return;
    }
    submit(r, FP_DISK_SYNC_DIR, synced);
}

static void remove_segments(restart *r)
{
    r->next = r->names;
    r->req.kind = FP_DISK_NOP;
    remove_next(&r->req);
}

/* ---- 3 write --------------------------------------------------------------------------------- */

static void state_written(fp_wal *wal, int status)
{
    restart *r = wal->user;
    if (status) {
        over(r, status);
        return;
    }
    r->written = true;
    remove_segments(r);
}

static void write_state(restart *r)
{
    fp_wal *wal = r->wal;
    fp_wal_state state = wal->state;
    state.partition = wal->options.partition;
    state.segment_bytes = wal->options.segment_bytes;
    state.start = wal->durable = wal->options.start;
    state.era++;
    state.lineage = wal->options.lineage;
    state.stray = 0;
    fp_wal_write_state(wal, state, state_written);
}

/* ---- 2 state, 1 list ------------------------------------------------------------------------- */

static void state_closed(fp_disk_req *req)
{
    restart *r = req->user;
    r->file = NULL;
    if (r->error.status)
        over(r, fp_error(r->error.status, "%s", r->error.reason));
    else if (r->known)
        write_state(r);
    else
        remove_segments(r);
}

int fp_wal_say_version(const fp_wal *wal, const char *name)
{
    return fp_wal_say(wal, FARPOOL_E_UNSUPPORTED,
                      "'%s' has version %u, this program knows %d: serve the volume with a program "
                      "that knows that one, or give this node another volume",
                      name, fp_wal_other_version(wal->blocks), FP_WAL_VERSION);
}

static void state_read(fp_disk_req *req)
{
    restart *r = req->user;
    fp_wal *wal = r->wal;
    if (req->status && req->status != FARPOOL_E_CORRUPT) /* that: the file is shorter */
        fp_wal_error_set(&r->error, req->status);
    r->known = !req->status && fp_wal_get_state(wal->blocks, wal->options.partition, &wal->state);
    if (!req->status && !r->known && fp_wal_other_version(wal->blocks))
        fp_wal_error_set(&r->error, fp_wal_say_version(wal, r->name));
    submit(r, FP_DISK_CLOSE, state_closed);
}

static void state_opened(fp_disk_req *req)
{
    restart *r = req->user;
    if (req->status) {
        over(r, req->status);
        return;
    }
    r->file = req->file;
    r->req.offset = 0;
    r->req.buffer = r->wal->blocks;
    r->req.len = FP_WAL_STATE_BYTES;
    submit(r, FP_DISK_READ, state_read);
}

static void listed(fp_disk_req *req)
{
    restart *r = req->user;
    uint32_t number;
    bool there = false;
    if (req->status) {
        over(r, req->status);
        return;
    }
    r->names = req->names;
    for (const char *name = r->names; *name; name += strlen(name) + 1)
        there = there ||
                fp_wal_parse_name(name, r->wal->options.partition, &number) == FP_WAL_NAME_STATE;
    if (!there) {
        remove_segments(r);
        return;
    }
    fp_wal_state_name(r->wal->options.partition, r->name);
    r->req.name = r->name;
    r->req.mode = FP_DISK_READ_ONLY;
    submit(r, FP_DISK_OPEN, state_opened);
}

int fp_wal_restart(fp_disk *disk, const fp_wal_options *options, fp_wal_req *req, fp_wal **out)
{
    fp_wal *wal;
    restart *r = calloc(1, sizeof *r);
    if (!r)
        return fp_error(FARPOOL_E_NOMEM, "volume %s: no memory for a WAL", fp_disk_path(disk));
    int rc = fp_wal_new(disk, options, &wal);
    if (rc) {
        free(r);
        return rc;
    }
    wal->user = r;
    r->wal = wal;
    r->caller = req;
    r->req.user = r;
    *out = wal;
    submit(r, FP_DISK_LIST, listed);
    return 0;
}
