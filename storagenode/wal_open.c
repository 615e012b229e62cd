/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening:
 *
 *   1. LIST      which files there are. Without the state file there is no WAL: it is created by writing one; segments
 *                are made when something is appended. Segments without it: E_CORRUPT, nothing is touched
 *   2. state     read; each segment's size, header and mark looked at
 *   3. scan      the frames are followed to the end (wal_scan.c)
 *   4. rewrite   what lies between the highest mark and the end has perhaps never been made durable: its SYNC may have
 *                failed, or may not have been asked for. By D8 that it can be read means nothing, so the segments that
 *                hold it are copied to new files, up to the end. (With damage there is nothing to copy: all up to the
 *                end is known to be durable.)
 *   5. state     written again, for the one that was read may not be durable either
 *   6. remove    what has a temporary name or lies before the beginning; not earlier, because of 5
 *   7. tail      the block in which the log ends goes back to the landing ring, for the next append writes it again
 *
 * Until 4 nothing is changed. A crash in between leaves what the next opening does again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "common/redo.h"
#include "storagenode/wal_inside.h"

typedef struct fp_wal_opening {
    fp_wal *wal;
    fp_wal_req *caller;
    fp_disk_req req;
    fp_disk_file *file;
    char *names;      /* of LIST */
    const char *next; /* to look at */
    uint64_t number;  /* segment being looked at or rewritten */
    uint64_t size;    /* of its file */
    fp_wal_error error;
    fp_wal_scan scan;
    fp_wal_load load;
    char name[FP_WAL_NAME_MAX];
} fp_wal_opening;

void fp_wal_open_free(fp_wal *wal)
{
    if (wal->opening)
        free(wal->opening->names);
    free(wal->opening);
    wal->opening = NULL;
}

static void over(fp_wal_opening *o, int status)
{
    fp_wal *wal = o->wal;
    fp_wal_req *caller = o->caller;
    wal->opened = !status;
    wal->landed = wal->durable;
    caller->status = status;
    caller->lsn = wal->end;
    fp_wal_open_free(wal);
    caller->done(caller);
}

static void fail_with(fp_wal_opening *o, const fp_wal_error *error)
{
    over(o, fp_error(error->status, "%s", error->reason));
}

static void submit(fp_wal_opening *o, enum fp_disk_kind kind, void (*done)(fp_disk_req *))
{
    o->req.kind = kind;
    o->req.file = o->file;
    o->req.name = o->name;
    o->req.done = done;
    o->req.user = o;
    fp_disk_submit(o->wal->disk, &o->req);
}

/* ---- 7 tail, 6 remove ------------------------------------------------------------------------ */

static uint8_t *tail_block(const fp_wal *wal)
{
    return (uint8_t *)wal->options.landing + fp_wal_floor(wal->end) % wal->options.landing_bytes;
}

static void tail_loaded(fp_wal_load *load)
{
    fp_wal_opening *o = load->user;
    fp_wal *wal = load->wal;
    if (load->error.status) {
        fail_with(o, &load->error);
        return;
    }
    memset(tail_block(wal) + wal->end % FP_WAL_BLOCK, 0, FP_WAL_BLOCK - wal->end % FP_WAL_BLOCK);
    over(o, 0);
}

static void load_tail(fp_wal_opening *o)
{
    fp_wal *wal = o->wal;
    memset(tail_block(wal), 0, FP_WAL_BLOCK);
    if (wal->end % FP_WAL_BLOCK == 0 || wal->end == wal->state.start) {
        over(o, 0);
        return;
    }
    o->load = (fp_wal_load){.wal = wal,
                            .from = fp_wal_floor(wal->end),
                            .to = fp_wal_ceil(wal->end),
                            .buffer = tail_block(wal),
                            .done = tail_loaded,
                            .user = o};
    fp_wal_load_start(&o->load);
}

static void last_opened(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    if (req->status) {
        over(o, req->status);
        return;
    }
    fp_wal_segment_of(o->wal, o->wal->oldest_open)->file = req->file;
    load_tail(o);
}

/* Segments in which nothing counts are made anew, for nobody knows whether their names are durable. */
static void open_last(fp_wal_opening *o)
{
    fp_wal *wal = o->wal;
    uint64_t n = fp_wal_number(wal, wal->end);
    bool counts = wal->end > fp_wal_log_begin(wal, n);
    fp_wal_segment *segment = fp_wal_segment_of(wal, n);
    for (uint32_t i = 0; i < wal->segment_count && !wal->cut_needed; i++)
        if (wal->base + (uint64_t)i >= n + counts)
            wal->segments[i].exists = false;
    wal->oldest_open = (uint32_t)n;
    o->file = NULL;
    if (!counts || segment->bytes < wal->state.segment_bytes) {
        load_tail(o);
        return;
    }
    fp_wal_segment_name(wal->state.partition, (uint32_t)n, o->name);
    o->req.mode = FP_DISK_EXISTING;
    submit(o, FP_DISK_OPEN, last_opened);
}

static void remove_next(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    fp_wal *wal = o->wal;
    for (uint32_t number = 0; *o->next;) {
        const char *name = o->next;
        o->next += strlen(name) + 1;
        enum fp_wal_name_kind kind = fp_wal_parse_name(name, wal->state.partition, &number);
        if (kind != FP_WAL_NAME_TMP && (kind != FP_WAL_NAME_SEGMENT || number >= wal->base))
            continue;
        o->req.kind = FP_DISK_UNLINK;
        o->req.name = name;
        o->req.done = remove_next; /* what cannot be removed is tried again the next time */
        fp_disk_submit(wal->disk, &o->req);
        return;
    }
    FP_FAULT_POINT(WAL_OPEN_CLEANED);
    open_last(o);
}

/* ---- 5 state, 4 rewrite ---------------------------------------------------------------------- */

static void state_is_durable(fp_wal *wal, int status)
{
    fp_wal_opening *o = wal->opening;
    if (status) {
        over(o, status);
        return;
    }
    FP_FAULT_POINT(WAL_OPEN_STATE);
    o->next = o->names;
    o->req.user = o;
    remove_next(&o->req);
}

static void rewrite_next(fp_wal_opening *o);

static void rewritten(fp_wal_make *make)
{
    fp_wal_opening *o = make->wal->opening;
    if (make->error.status) {
        fail_with(o, &make->error);
        return;
    }
    fp_wal_segment *segment = fp_wal_segment_of(o->wal, o->number);
    segment->has_header = true;
    segment->bytes = o->wal->state.segment_bytes;
    FP_FAULT_POINT(WAL_OPEN_REWRITTEN);
    o->number++;
    rewrite_next(o);
}

/* wal->durable is what is known until all is rewritten: it goes into the marks of the new files. */
static void rewrite_next(fp_wal_opening *o)
{
    fp_wal *wal = o->wal;
    fp_wal_make *make = &wal->make;
    if (wal->durable >= wal->end || o->number > fp_wal_number(wal, wal->end - 1)) {
        wal->durable = wal->end;
        fp_wal_write_state(wal, wal->state, state_is_durable);
        return;
    }
    uint64_t end = fp_wal_begin_of(wal, o->number + 1);
    uint8_t *block = wal->blocks + (size_t)2 * FP_WAL_BLOCK;
    fp_wal_fill_header(wal, (uint32_t)o->number, block);
    fp_wal_segment_name(wal->state.partition, (uint32_t)o->number, make->name);
    make->head = block;
    make->head_bytes = FP_WAL_BLOCK;
    make->size = FP_WAL_BLOCK + wal->state.segment_bytes;
    make->copy_from = fp_wal_log_begin(wal, o->number);
    make->copy_to = end < wal->end ? end : wal->end;
    make->keep_open = false;
    make->done = rewritten;
    fp_wal_make_start(make);
}

static void scanned(fp_wal_scan *scan)
{
    fp_wal_opening *o = (fp_wal_opening *)((char *)scan - offsetof(fp_wal_opening, scan));
    fp_wal *wal = o->wal;
    if (scan->error.status) {
        fail_with(o, &scan->error);
        return;
    }
    FP_FAULT_POINT(WAL_OPEN_SCANNED);
    wal->cut_needed = wal->damage.kind != FP_WAL_UNDAMAGED;
    wal->durable = scan->known < wal->end ? scan->known : wal->end;
    if (wal->durable < wal->state.start)
        wal->durable = wal->state.start;
    wal->durable_epoch = wal->epoch;
    wal->promise = wal->state.promise;
    wal->promised_at = wal->state.promised_at;
    wal->sealed = wal->state.sealed;
    wal->lineage = wal->state.lineage;
    o->number = fp_wal_number(wal, wal->durable);
    rewrite_next(o);
}

/* ---- 2 segments ------------------------------------------------------------------------------ */

static void next_segment(fp_wal_opening *o);

static void segment_closed(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    o->file = NULL;
    if (o->error.status) {
        fail_with(o, &o->error);
        return;
    }
    o->number++;
    next_segment(o);
}

static void header_read(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    fp_wal *wal = o->wal;
    fp_wal_segment *segment = fp_wal_segment_of(wal, o->number);
    fp_wal_header header;
    if (req->status && req->status != FARPOOL_E_CORRUPT) { /* that: the file is shorter */
        fp_wal_error_set(&o->error, req->status);
    } else if (!req->status &&
               fp_wal_get_header(wal->blocks, &wal->state, (uint32_t)o->number, &header)) {
        uint64_t mark = fp_wal_get_mark(wal->blocks, &wal->state, (uint32_t)o->number);
        o->scan.known = mark > o->scan.known ? mark : o->scan.known;
        segment->has_header = true;
        segment->bytes = fp_wal_floor(o->size - FP_WAL_BLOCK);
        if (segment->bytes > wal->state.segment_bytes)
            segment->bytes = wal->state.segment_bytes;
    }
    submit(o, FP_DISK_CLOSE, segment_closed);
}

static void segment_sized(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    if (req->status) {
        fp_wal_error_set(&o->error, req->status);
        submit(o, FP_DISK_CLOSE, segment_closed);
        return;
    }
    o->size = req->size;
    o->req.offset = 0;
    o->req.buffer = o->wal->blocks;
    o->req.len = FP_WAL_BLOCK;
    submit(o, FP_DISK_READ, header_read);
}

static void segment_opened(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    if (req->status) {
        over(o, req->status);
        return;
    }
    o->file = req->file;
    submit(o, FP_DISK_SIZE, segment_sized);
}

static void next_segment(fp_wal_opening *o)
{
    fp_wal *wal = o->wal;
    uint64_t end = wal->base + (uint64_t)wal->segment_count;
    while (o->number < end && !fp_wal_segment_of(wal, o->number)->exists)
        o->number++;
    if (o->number == end) {
        o->scan.wal = wal;
        o->scan.done = scanned;
        fp_wal_scan_start(&o->scan);
        return;
    }
    fp_wal_segment_name(wal->state.partition, (uint32_t)o->number, o->name);
    o->req.mode = FP_DISK_READ_ONLY;
    submit(o, FP_DISK_OPEN, segment_opened);
}

static int list_segments(fp_wal_opening *o)
{
    fp_wal *wal = o->wal;
    uint32_t number;
    wal->base = (uint32_t)fp_wal_number(wal, wal->state.start);
    int rc = fp_wal_need_segments(wal, fp_wal_number(wal, wal->state.start));
    for (const char *name = o->names; *name && !rc; name += strlen(name) + 1) {
        if (fp_wal_parse_name(name, wal->state.partition, &number) != FP_WAL_NAME_SEGMENT ||
            number < wal->base)
            continue;
        rc = fp_wal_need_segments(wal, number);
        if (!rc)
            fp_wal_segment_of(wal, number)->exists = true;
    }
    o->number = wal->base;
    return rc;
}

/* ---- 2 state, 1 list ------------------------------------------------------------------------- */

static void state_closed(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    fp_wal *wal = o->wal;
    o->file = NULL;
    if (o->error.status) {
        fail_with(o, &o->error);
        return;
    }
    o->scan.known = wal->state.durable;
    int rc = list_segments(o);
    if (rc)
        over(o, rc);
    else
        next_segment(o);
}

static int take_state(fp_wal_opening *o)
{
    fp_wal *wal = o->wal;
    bool valid = fp_wal_get_state(wal->blocks, wal->options.partition, &wal->state) &&
                 fp_wal_number(wal, wal->state.start) <= UINT32_MAX;
    if (!valid && fp_wal_other_version(wal->blocks))
        return fp_wal_say_version(wal, o->name);
    if (!valid)
        return fp_wal_say(wal, FARPOOL_E_CORRUPT,
                          "no copy of the state in '%s' is valid: replace this WAL by another "
                          "copy, under a new epoch",
                          o->name);
    if (wal->state.stray)
        return fp_wal_say(wal, FARPOOL_E_CORRUPT,
                          "it is not the partition's log any more: a storage node that has that "
                          "has to give all of it (farpool-storagenode --peer)");
    return 0;
}

static void state_read(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    int rc = req->status ? req->status : take_state(o);
    if (rc)
        fp_wal_error_set(&o->error, rc);
    submit(o, FP_DISK_CLOSE, state_closed);
}

static void state_opened(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    if (req->status) {
        over(o, req->status);
        return;
    }
    o->file = req->file;
    o->req.offset = 0;
    o->req.buffer = o->wal->blocks;
    o->req.len = FP_WAL_STATE_BYTES;
    submit(o, FP_DISK_READ, state_read);
}

static void create(fp_wal_opening *o)
{
    fp_wal *wal = o->wal;
    const fp_wal_options *options = &wal->options;
    wal->state = (fp_wal_state){.partition = options->partition,
                                .segment_bytes = options->segment_bytes,
                                .start = options->start,
                                .lineage = options->lineage};
    wal->lineage = options->lineage;
    wal->base = (uint32_t)fp_wal_number(wal, options->start);
    wal->end = wal->durable = options->start;
    int rc = fp_wal_need_segments(wal, fp_wal_number(wal, options->start));
    if (rc) {
        over(o, rc);
        return;
    }
    wal->segments[0].first_frame = options->start;
    fp_wal_write_state(wal, wal->state, state_is_durable);
}

static void listed(fp_disk_req *req)
{
    fp_wal_opening *o = req->user;
    fp_wal *wal = o->wal;
    const char *segment = NULL;
    bool there = false;
    uint32_t number;
    o->names = req->names;
    if (req->status) {
        o->names = NULL;
        over(o, req->status);
        return;
    }
    for (const char *name = o->names; *name; name += strlen(name) + 1) {
        enum fp_wal_name_kind kind = fp_wal_parse_name(name, wal->options.partition, &number);
        there = there || kind == FP_WAL_NAME_STATE;
        segment = kind == FP_WAL_NAME_SEGMENT ? name : segment;
    }
    fp_wal_state_name(wal->options.partition, o->name);
    o->req.mode = FP_DISK_READ_ONLY;
    if (there)
        submit(o, FP_DISK_OPEN, state_opened);
    else if (segment)
        over(o, fp_wal_say(wal, FARPOOL_E_CORRUPT,
                           "there is '%s' but no '%s': replace this WAL by another copy", segment,
                           o->name));
    else if (!wal->options.start)
        over(o, fp_wal_say(wal, FARPOOL_E_NOTFOUND, "it is not on this volume"));
    else
        create(o);
}

/* ---- the WAL itself -------------------------------------------------------------------------- */

static int check_options(const fp_wal *wal)
{
    const fp_wal_options *options = &wal->options;
    if (!options->landing || (uintptr_t)options->landing % FP_WAL_BLOCK ||
        options->landing_bytes < (size_t)2 * FP_WAL_BLOCK || options->landing_bytes % FP_WAL_BLOCK)
        return fp_wal_say(wal, FARPOOL_E_INVAL,
                          "a landing ring of %zu bytes: at least two blocks of %d, aligned, whole",
                          options->landing_bytes, FP_WAL_BLOCK);
    if (options->segment_bytes % FP_WAL_BLOCK || options->segment_bytes > INT64_MAX / 2)
        return fp_wal_say(wal, FARPOOL_E_INVAL, "segments of %llu bytes: whole blocks of %d",
                          (unsigned long long)options->segment_bytes, FP_WAL_BLOCK);
    if (options->start && (options->start < FP_REDO_LSN_FIRST || options->start % FP_REDO_ALIGN ||
                           options->start / options->segment_bytes > UINT32_MAX))
        return fp_wal_say(wal, FARPOOL_E_INVAL, "it cannot begin at LSN %llu",
                          (unsigned long long)options->start);
    return 0;
}

int fp_wal_new(fp_disk *disk, const fp_wal_options *options, fp_wal **out)
{
    fp_wal *wal = calloc(1, sizeof *wal);
    uint8_t *blocks = aligned_alloc(FP_WAL_BLOCK, 3 * FP_WAL_BLOCK + FP_WAL_STATE_BYTES);
    int rc = FARPOOL_E_NOMEM;
    if (!wal || !blocks) {
        fp_error(rc, "volume %s: no memory for a WAL", fp_disk_path(disk));
        goto err;
    }
    wal->disk = disk;
    wal->kept = UINT64_MAX;
    wal->options = *options;
    if (!wal->options.segment_bytes)
        wal->options.segment_bytes = FP_WAL_SEGMENT_BYTES;
    rc = check_options(wal);
    if (rc)
        goto err;
    wal->blocks = blocks;
    wal->tail = &wal->head;
    wal->make.wal = wal->prepare.wal = wal;
    *out = wal;
    return 0;
err:
    free(blocks);
    free(wal);
    return rc;
}

int fp_wal_open(fp_disk *disk, const fp_wal_options *options, fp_wal_req *req, fp_wal **out)
{
    fp_wal_opening *o = calloc(1, sizeof *o);
    if (!o)
        return fp_error(FARPOOL_E_NOMEM, "volume %s: no memory for a WAL", fp_disk_path(disk));
    int rc = fp_wal_new(disk, options, &o->wal);
    if (rc) {
        free(o);
        return rc;
    }
    o->wal->opening = o;
    o->caller = req;
    *out = o->wal;
    submit(o, FP_DISK_LIST, listed);
    return 0;
}

void fp_wal_free(fp_wal *wal)
{
    if (!wal)
        return;
    FP_ASSERT(!wal->head && !wal->busy && !wal->prepare.busy && !wal->reads);
    fp_wal_open_free(wal);
    free(wal->segments);
    free(wal->blocks);
    free(wal);
}
