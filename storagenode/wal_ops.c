/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests in their order. One queue: appends become groups (wal.c), everything else is done alone, when all before it
 * is over. So a fence, a seal and a trim know that what is durable is all there is.
 *
 * What must be known after a restart is in the state file, which is replaced by the recipe of wal_make.c. If that
 * fails nobody knows whether the old or the new one will be found; both are true: a promise or a seal holds here from
 * the call on anyway, and files that a trim no longer needs are removed only when the new state is durable.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "storagenode/wal_inside.h"

int fp_wal_say(const fp_wal *wal, int code, const char *format, ...)
{
    char text[FP_WAL_REASON_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fp_error(code, "volume %.200s: WAL of partition %016llx: %s", fp_disk_path(wal->disk),
                    (unsigned long long)wal->options.partition, text);
}

/* ---- the queue ------------------------------------------------------------------------------- */

void fp_wal_enqueue(fp_wal *wal, fp_wal_req *req, enum fp_wal_kind kind)
{
    req->own.kind = kind;
    req->own.next = NULL;
    *wal->tail = req;
    wal->tail = &req->own.next;
    fp_wal_kick(wal);
}

fp_wal_req *fp_wal_take(fp_wal *wal, bool appends_only, uint64_t upto)
{
    fp_wal_req *list = NULL, **last = &list, **link = &wal->head;
    while (*link) {
        fp_wal_req *req = *link;
        bool append = req->own.kind == FP_WAL_APPEND;
        if (append ? req->own.upto > upto : appends_only || req->own.kind == FP_WAL_CLOSE) {
            link = &req->own.next;
            continue;
        }
        *link = req->own.next;
        req->own.next = NULL;
        *last = req;
        last = &req->own.next;
    }
    wal->tail = link;
    return list;
}

void fp_wal_finish(fp_wal *wal, fp_wal_req *list, const fp_wal_error *error)
{
    wal->calls++;
    while (list) {
        fp_wal_req *req = list;
        list = req->own.next;
        req->status = error->status;
        req->lsn = req->own.kind == FP_WAL_TRIM ? wal->state.start : wal->durable;
        if (req->status)
            fp_error(req->status, "%s", error->reason);
        req->done(req);
    }
    wal->calls--;
    fp_wal_kick(wal);
}

void fp_wal_fail_appends(fp_wal *wal, const fp_wal_error *error)
{
    fp_wal_error copy = *error; /* done() may start what uses the original */
    wal->end = wal->durable;
    wal->epoch = wal->durable_epoch;
    fp_wal_finish(wal, fp_wal_take(wal, true, UINT64_MAX), &copy);
}

void fp_wal_fail(fp_wal *wal, const fp_wal_error *error)
{
    wal->failed = *error;
    wal->end = wal->durable;
    wal->epoch = wal->durable_epoch;
    fp_wal_finish(wal, fp_wal_take(wal, false, UINT64_MAX), &wal->failed);
}

static bool is_ready(const fp_wal *wal, uint64_t number)
{
    const fp_wal_segment *segment = fp_wal_segment_of(wal, number);
    return segment && segment->file;
}

static void begin_appends(fp_wal *wal)
{
    uint64_t upto = 0;
    for (const fp_wal_req *req = wal->head; req && req->own.kind == FP_WAL_APPEND;
         req = req->own.next)
        if (is_ready(wal, fp_wal_number(wal, req->own.upto - 1)))
            upto = req->own.upto;
    uint64_t wanted = wal->oldest_open;
    while (is_ready(wal, wanted))
        wanted++;
    bool in_advance = upto && fp_wal_number(wal, upto - 1) + 1 == wanted;
    if (!wal->prepare.busy && (!upto || (in_advance && !wal->prepare_failed)))
        fp_wal_prepare_start(wal, (uint32_t)wanted);
    if (upto)
        fp_wal_group_begin(wal, upto);
}

void fp_wal_kick(fp_wal *wal)
{
    if (!wal->opened || wal->calls || wal->busy || !wal->head)
        return;
    if (wal->head->own.kind != FP_WAL_APPEND)
        fp_wal_begin(wal);
    else if (wal->cut_needed)
        fp_wal_begin_cut(wal);
    else
        begin_appends(wal);
}

/* ---- the state file -------------------------------------------------------------------------- */

static void state_written(fp_wal_make *make)
{
    fp_wal *wal = make->wal;
    if (make->error.status)
        fp_error(make->error.status, "%s", make->error.reason);
    else
        (void)fp_wal_get_state(make->head, wal->options.partition, &wal->state); /* as written */
    FP_FAULT_POINT(WAL_STATE_WRITTEN);
    wal->after_state(wal, make->error.status);
}

void fp_wal_write_state(fp_wal *wal, fp_wal_state state, void (*after)(fp_wal *wal, int status))
{
    fp_wal_make *make = &wal->make;
    uint8_t *blocks = wal->blocks + (size_t)3 * FP_WAL_BLOCK;
    wal->after_state = after;
    /* That more was durable is forgotten when the damage is overwritten. */
    state.durable = wal->cut_needed ? wal->damage.upto : wal->durable;
    fp_wal_put_state(blocks, state);
    fp_wal_state_name(wal->options.partition, make->name);
    make->head = blocks;
    make->head_bytes = make->size = FP_WAL_STATE_BYTES;
    make->copy_from = make->copy_to = 0;
    make->keep_open = false;
    make->done = state_written;
    fp_wal_make_start(make);
}

/* ---- requests that are not appends ----------------------------------------------------------- */

static void head_done(fp_wal *wal, int status)
{
    if (status && !wal->error.status)
        fp_wal_error_set(&wal->error, status);
    fp_wal_req *req = wal->head;
    wal->head = req->own.next;
    if (!wal->head)
        wal->tail = &wal->head;
    req->own.next = NULL;
    wal->busy = false;
    fp_wal_error error = wal->error;
    fp_wal_finish(wal, req, &error);
}

static void unlink_segment(fp_wal *wal, void (*done)(fp_disk_req *req))
{
    fp_wal_segment_name(wal->state.partition, wal->at, wal->name);
    wal->req = (fp_disk_req){.kind = FP_DISK_UNLINK, .name = wal->name, .done = done, .user = wal};
    fp_disk_submit(wal->disk, &wal->req);
}

static void sync_dir(fp_wal *wal, void (*done)(fp_disk_req *req))
{
    wal->req = (fp_disk_req){.kind = FP_DISK_SYNC_DIR, .done = done, .user = wal};
    fp_disk_submit(wal->disk, &wal->req);
}

/* Trim: the beginning in memory moves when the state has; files go from the oldest on. */

static void trim_synced(fp_disk_req *req)
{
    FP_FAULT_POINT(WAL_TRIM_SYNCED);
    head_done(req->user, req->status);
}

static void trim_next(fp_wal *wal);

static void trim_unlinked(fp_disk_req *req)
{
    fp_wal *wal = req->user;
    if (req->status && req->status != FARPOOL_E_NOTFOUND && !wal->error.status)
        fp_wal_error_set(&wal->error, req->status); /* fp_wal_open tries again */
    FP_FAULT_POINT(WAL_TRIM_UNLINKED);
    wal->at++;
    trim_next(wal);
}

static void trim_next(fp_wal *wal)
{
    if (wal->at < wal->base)
        unlink_segment(wal, trim_unlinked);
    else
        sync_dir(wal, trim_synced);
}

static void trim_state(fp_wal *wal, int status)
{
    if (status) {
        head_done(wal, status);
        return;
    }
    FP_FAULT_POINT(WAL_TRIM_STATE);
    wal->at = wal->base;
    uint32_t base = (uint32_t)fp_wal_number(wal, wal->state.start), gone = base - wal->base;
    memmove(wal->segments, wal->segments + gone,
            (wal->segment_count - gone) * sizeof *wal->segments);
    wal->segment_count -= gone;
    wal->base = base;
    trim_next(wal);
}

/* The beginning of the log after a trim: of the first frame in a segment of which something is still needed. */
static uint64_t start_after_trim(const fp_wal *wal, uint64_t lsn)
{
    uint64_t n = fp_wal_number(wal, lsn);
    n = n < wal->oldest_open ? n : wal->oldest_open; /* that one is still to get its last mark */
    for (; n > wal->base; n--) {
        const fp_wal_segment *segment = fp_wal_segment_of(wal, n);
        if (segment && segment->first_frame && segment->first_frame <= lsn &&
            fp_wal_number(wal, segment->first_frame) == n)
            return segment->first_frame;
    }
    return wal->state.start;
}

/* Close. */

static void close_next(fp_wal *wal);

static void file_closed(fp_disk_req *req)
{
    fp_wal *wal = req->user;
    fp_wal_segment_of(wal, wal->at)->file = NULL;
    close_next(wal);
}

static void close_next(fp_wal *wal)
{
    for (uint32_t i = 0; i < wal->segment_count; i++) {
        if (!wal->segments[i].file)
            continue;
        wal->at = wal->base + i;
        wal->req = (fp_disk_req){
            .kind = FP_DISK_CLOSE, .file = wal->segments[i].file, .done = file_closed, .user = wal};
        fp_disk_submit(wal->disk, &wal->req);
        return;
    }
    wal->closed = true;
    head_done(wal, 0);
}

static void close_state(fp_wal *wal, int status)
{
    if (status)
        fp_wal_error_set(&wal->error, status);
    close_next(wal);
}

void fp_wal_begin(fp_wal *wal)
{
    fp_wal_req *req = wal->head;
    fp_wal_state state = wal->state;
    if (!state.stray)
        state.lineage = wal->lineage; /* also one whose JOIN has failed: appends go by it */
    if (req->own.kind == FP_WAL_CLOSE && (wal->prepare.busy || wal->reads))
        return;
    wal->busy = true;
    wal->error.status = 0;
    switch (req->own.kind) {
    case FP_WAL_FENCE:
        state.promise = req->own.epoch;
        state.promised_at = req->own.upto;
        fp_wal_write_state(wal, state, head_done);
        break;
    case FP_WAL_JOIN:
        fp_wal_write_state(wal, state, head_done);
        break;
    case FP_WAL_DISOWN:
        state.stray = 1;
        state.lineage = wal->other;
        fp_wal_write_state(wal, state, head_done);
        break;
    case FP_WAL_SEAL:
        state.sealed = 1;
        fp_wal_write_state(wal, state, head_done);
        break;
    case FP_WAL_TRIM:
        state.start = start_after_trim(wal, req->own.upto);
        fp_wal_write_state(wal, state, trim_state);
        break;
    default:
        if (wal->failed.status) /* what is not durable must stay in doubt */
            close_next(wal);
        else
            fp_wal_write_state(wal, state, close_state);
    }
}

/* ---- the first append after damage ----------------------------------------------------------- */

/* What is behind the end goes before anything takes its place: the newest segment first, so that no crash leaves a
 * part of it that looks whole; then a new era begins, in which what the marks said counts no more. */

static void cut_over(fp_wal *wal, int status)
{
    if (status)
        fp_wal_error_set(&wal->error, status);
    wal->busy = false;
    wal->cut_needed = status;
    if (status)
        fp_wal_fail_appends(wal, &wal->error);
    else
        fp_wal_kick(wal);
}

static void cut_state(fp_wal *wal)
{
    fp_wal_state state = wal->state;
    state.era++;
    wal->cut_needed = false;
    fp_wal_write_state(wal, state, cut_over);
}

static void cut_copied(fp_wal_make *make)
{
    fp_wal *wal = make->wal;
    if (make->error.status) {
        cut_over(wal, fp_error(make->error.status, "%s", make->error.reason));
        return;
    }
    fp_wal_segment *segment = fp_wal_segment_of(wal, fp_wal_number(wal, wal->durable));
    segment->file = make->file;
    segment->exists = segment->has_header = true;
    segment->bytes = wal->state.segment_bytes;
    cut_state(wal);
}

/* A segment that has been cut and holds the log's last bytes: they go into one of full length. */
static void cut_copy(fp_wal *wal, uint32_t number)
{
    fp_wal_make *make = &wal->make;
    uint8_t *block = wal->blocks + (size_t)2 * FP_WAL_BLOCK;
    fp_wal_fill_header(wal, number, block);
    fp_wal_segment_name(wal->state.partition, number, make->name);
    make->head = block;
    make->head_bytes = FP_WAL_BLOCK;
    make->size = FP_WAL_BLOCK + wal->state.segment_bytes;
    make->copy_from = fp_wal_log_begin(wal, number);
    make->copy_to = wal->durable;
    make->keep_open = true;
    make->done = cut_copied;
    fp_wal_make_start(make);
}

static void cut_synced(fp_disk_req *req)
{
    fp_wal *wal = req->user;
    uint64_t number = fp_wal_number(wal, wal->durable);
    const fp_wal_segment *segment = fp_wal_segment_of(wal, number);
    int status = req->status;
    if (!status && fp_disk_dir_failures(wal->disk) != wal->dir_failures)
        status = fp_wal_say(wal, FARPOOL_E_IO, "another sync of the directory failed");
    if (status)
        cut_over(wal, status);
    else if (segment && segment->exists && !segment->file)
        cut_copy(wal, (uint32_t)number);
    else
        cut_state(wal);
}

static void cut_next(fp_wal *wal);

static void cut_unlinked(fp_disk_req *req)
{
    fp_wal *wal = req->user;
    if (req->status && req->status != FARPOOL_E_NOTFOUND) {
        cut_over(wal, req->status);
        return;
    }
    fp_wal_segment *segment = fp_wal_segment_of(wal, wal->at);
    segment->exists = false;
    segment->bytes = 0;
    cut_next(wal);
}

/* Down to the segment in which the log ends, and that too if nothing in it counts. */
static void cut_next(fp_wal *wal)
{
    uint64_t n = fp_wal_number(wal, wal->durable);
    uint64_t last = wal->durable > fp_wal_log_begin(wal, n) ? n + 1 : n;
    for (uint64_t i = wal->base + (uint64_t)wal->segment_count; i-- > last;) {
        const fp_wal_segment *segment = fp_wal_segment_of(wal, i);
        if (!segment->exists)
            continue;
        wal->at = (uint32_t)i;
        unlink_segment(wal, cut_unlinked);
        return;
    }
    sync_dir(wal, cut_synced);
}

void fp_wal_begin_cut(fp_wal *wal)
{
    wal->busy = true;
    wal->error.status = 0;
    wal->dir_failures = fp_disk_dir_failures(wal->disk);
    cut_next(wal);
}

/* ---- taking requests ------------------------------------------------------------------------- */

static int may_take(const fp_wal *wal)
{
    FP_ASSERT(wal->opened && !wal->closing);
    return wal->failed.status ? fp_wal_say(wal, wal->failed.status,
                                           "it has failed, open it again: %s", wal->failed.reason)
                              : 0;
}

int fp_wal_fence(fp_wal *wal, uint64_t epoch, uint64_t from, fp_wal_req *req)
{
    int rc = may_take(wal);
    if (rc)
        return rc;
    if (epoch < wal->promise)
        return fp_wal_say(wal, FARPOOL_E_FENCED, "epoch %llu was asked for, %llu is promised",
                          (unsigned long long)epoch, (unsigned long long)wal->promise);
    from = from > wal->end ? from : wal->end;
    if (epoch > wal->promise || (from > wal->promised_at && wal->epoch < epoch))
        wal->promised_at = from;
    wal->promise = epoch;
    req->own.epoch = epoch;
    req->own.upto = wal->promised_at;
    fp_wal_enqueue(wal, req, FP_WAL_FENCE);
    return 0;
}

int fp_wal_join(fp_wal *wal, const fp_lineage *lineage, fp_wal_req *req)
{
    int rc = may_take(wal);
    if (rc)
        return rc;
    wal->lineage = *lineage;
    fp_wal_enqueue(wal, req, FP_WAL_JOIN);
    return 0;
}

int fp_wal_disown(fp_wal *wal, const fp_lineage *lineage, fp_wal_req *req)
{
    int rc = may_take(wal);
    if (rc)
        return rc;
    wal->sealed = true;
    wal->other = *lineage;
    fp_wal_enqueue(wal, req, FP_WAL_DISOWN);
    return 0;
}

int fp_wal_seal(fp_wal *wal, fp_wal_req *req)
{
    int rc = may_take(wal);
    if (rc)
        return rc;
    wal->sealed = true;
    fp_wal_enqueue(wal, req, FP_WAL_SEAL);
    return 0;
}

int fp_wal_trim(fp_wal *wal, uint64_t lsn, fp_wal_req *req)
{
    int rc = may_take(wal);
    if (rc)
        return rc;
    if (lsn > wal->durable)
        return fp_wal_say(wal, FARPOOL_E_INVAL, "a trim up to LSN %llu, but only %llu is durable",
                          (unsigned long long)lsn, (unsigned long long)wal->durable);
    req->own.upto = lsn;
    fp_wal_enqueue(wal, req, FP_WAL_TRIM);
    return 0;
}

void fp_wal_close(fp_wal *wal, fp_wal_req *req)
{
    FP_ASSERT(wal->opened && !wal->closing);
    wal->closing = true;
    fp_wal_enqueue(wal, req, FP_WAL_CLOSE);
}
