/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Appends.
 *
 * fp_wal_append checks frames where they have landed and puts the request into the queue. When nothing is under way
 * all appends at the head of the queue become one group: the blocks from the one that contains `durable` to the last
 * are written from the landing ring to their segments, one segment after the other, WRITEs then SYNC; then all are
 * acknowledged. The block in which the group begins is written again. Its durable bytes are the same in both
 * versions, so it does not matter which of its sectors a crash keeps; the peer must therefore leave it in the ring.
 * Bytes behind `upto` in the last block are whatever stands in the ring: the end of a log is where no frame is valid.
 *
 * With each group goes the segment's header block, which says what was durable before (the mark), so that what is
 * missing after a restart can be told from what had never been finished. A segment that is full gets a last mark that
 * lies behind its end, and is closed; so that the loss of its successor is noticed.
 *
 * A segment is made in the background as soon as something is written to the one before (wal_make.c). An append that
 * needs one that is not there yet waits; if it cannot be made, it fails.
 *
 * A failed WRITE (but for E_NOSPACE) or SYNC fails the WAL for good, by D8: what was acknowledged is not in question,
 * for only blocks with new bytes were written, but nobody knows about the rest until it has been written to another
 * file. fp_wal_open does that (wal_open.c).
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "common/redo.h"
#include "storagenode/wal_inside.h"

/* ---- segments -------------------------------------------------------------------------------- */

fp_wal_segment *fp_wal_segment_of(const fp_wal *wal, uint64_t number)
{
    if (number < wal->base || number - wal->base >= wal->segment_count)
        return NULL;
    return &wal->segments[number - wal->base];
}

int fp_wal_need_segments(fp_wal *wal, uint64_t number)
{
    if (number > UINT32_MAX || number - wal->base >= FP_WAL_SEGMENTS_MAX)
        return fp_wal_say(wal, FARPOOL_E_TOO_BIG,
                          "segment %08llx is too far from the first, %08x: at most %d; trim it",
                          (unsigned long long)number, wal->base, FP_WAL_SEGMENTS_MAX);
    uint32_t count = (uint32_t)(number - wal->base) + 1;
    if (count <= wal->segment_count)
        return 0;
    if (count > wal->segment_room) {
        uint32_t room = count + count / 2 + 8;
        fp_wal_segment *grown = realloc(wal->segments, room * sizeof *grown);
        if (!grown)
            return fp_wal_say(wal, FARPOOL_E_NOMEM, "no memory for %u segments", room);
        wal->segments = grown;
        wal->segment_room = room;
    }
    memset(wal->segments + wal->segment_count, 0,
           (count - wal->segment_count) * sizeof *wal->segments);
    wal->segment_count = count;
    return 0;
}

int fp_wal_note_frame(fp_wal *wal, uint64_t from, uint64_t to)
{
    uint64_t first = fp_wal_number(wal, from) + 1, last = fp_wal_number(wal, to);
    if (first > last)
        return 0;
    int rc = fp_wal_need_segments(wal, last);
    for (uint64_t n = first; n <= last && !rc; n++)
        fp_wal_segment_of(wal, n)->first_frame = to;
    return rc;
}

void fp_wal_fill_header(const fp_wal *wal, uint32_t number, uint8_t *block)
{
    const fp_wal_segment *segment = fp_wal_segment_of(wal, number);
    fp_wal_header header = {.number = number,
                            .partition = wal->state.partition,
                            .segment_bytes = wal->state.segment_bytes,
                            .epoch = wal->state.promise,
                            .first_frame = segment->first_frame};
    fp_wal_mark mark = {.era = wal->state.era, .durable = wal->durable};
    fp_wal_put_header(block, header, mark);
}

/* ---- preparing the next segment -------------------------------------------------------------- */

static void prepared(fp_wal_make *make)
{
    fp_wal *wal = make->wal;
    wal->prepare_failed = make->error.status;
    if (!make->error.status) {
        fp_wal_segment *segment = fp_wal_segment_of(wal, wal->prepare_number);
        segment->file = make->file;
        segment->exists = segment->has_header = true;
        segment->bytes = wal->state.segment_bytes;
    } else if (!wal->busy && wal->head && wal->head->own.kind == FP_WAL_APPEND) {
        fp_wal_fail_appends(wal, &make->error); /* it waited for this */
    }
    fp_wal_kick(wal);
}

void fp_wal_prepare_start(fp_wal *wal, uint32_t number)
{
    fp_wal_make *make = &wal->prepare;
    uint8_t *block = wal->blocks + FP_WAL_BLOCK;
    wal->prepare_number = number;
    fp_wal_fill_header(wal, number, block);
    fp_wal_segment_name(wal->state.partition, number, make->name);
    make->head = block;
    make->head_bytes = FP_WAL_BLOCK;
    make->size = FP_WAL_BLOCK + wal->state.segment_bytes;
    make->copy_from = make->copy_to = 0;
    make->keep_open = true;
    make->done = prepared;
    fp_wal_make_start(make);
}

/* ---- a group --------------------------------------------------------------------------------- */

static void write_segment(fp_wal *wal);

static void group_failed(fp_wal *wal)
{
    fp_wal_error error = wal->group.error;
    wal->busy = false;
    if (error.status == FARPOOL_E_NOSPACE)
        fp_wal_fail_appends(wal, &error);
    else
        fp_wal_fail(wal, &error);
}

static void group_done(fp_wal *wal)
{
    static const fp_wal_error none = {0};
    fp_wal_req *list = fp_wal_take(wal, true, wal->group.upto);
    wal->durable = wal->group.upto;
    for (const fp_wal_req *req = list; req; req = req->own.next)
        wal->durable_epoch = req->own.epoch;
    wal->busy = false;
    FP_FAULT_POINT(WAL_SYNCED);
    fp_wal_finish(wal, list, &none);
    FP_FAULT_POINT(WAL_ACKNOWLEDGED);
}

static void next_segment(fp_wal *wal)
{
    if (++wal->group.segment > fp_wal_number(wal, wal->group.upto - 1))
        group_done(wal);
    else
        write_segment(wal);
}

static void group_step(fp_disk_req *req)
{
    fp_wal *wal = req->user;
    fp_wal_group *group = &wal->group;
    fp_wal_segment *segment = fp_wal_segment_of(wal, group->segment);
    if (req->kind == FP_DISK_CLOSE) { /* after a SYNC it has nothing to say */
        FP_FAULT_POINT(WAL_SEGMENT_CLOSED);
        segment->file = NULL;
        wal->oldest_open++;
        next_segment(wal);
        return;
    }
    if (req->status && !group->error.status) {
        fp_wal_error_set(&group->error, req->status);
        if (req->kind == FP_DISK_SYNC && req->status == FARPOOL_E_NOSPACE)
            group->error.status = FARPOOL_E_IO; /* D8 makes no difference between them */
    }
    if (--group->pending)
        return;
    if (group->error.status) {
        group_failed(wal);
        return;
    }
    if (req->kind == FP_DISK_WRITE)
        FP_FAULT_POINT(WAL_WRITTEN);
    if (req->kind == FP_DISK_SYNC && fp_wal_begin_of(wal, group->segment + 1) >= group->from) {
        next_segment(wal);
        return;
    }
    fp_disk_req *next = &group->reqs[0];
    next->kind = req->kind == FP_DISK_SYNC ? FP_DISK_CLOSE : FP_DISK_SYNC;
    next->file = segment->file;
    group->pending = 1;
    fp_disk_submit(wal->disk, next);
}

static fp_disk_req *add_write(fp_wal *wal, uint64_t offset, void *buffer, uint64_t len)
{
    fp_wal_group *group = &wal->group;
    fp_disk_req *req = &group->reqs[group->pending++];
    *req = (fp_disk_req){.kind = FP_DISK_WRITE,
                         .file = fp_wal_segment_of(wal, group->segment)->file,
                         .offset = offset,
                         .buffer = buffer,
                         .len = len,
                         .done = group_step,
                         .user = wal};
    return req;
}

static void write_segment(fp_wal *wal)
{
    fp_wal_group *group = &wal->group;
    uint64_t begin = fp_wal_begin_of(wal, group->segment);
    uint64_t end = fp_wal_begin_of(wal, group->segment + 1);
    uint64_t from = fp_wal_floor(group->from), to = fp_wal_ceil(group->upto);
    uint64_t ring = wal->options.landing_bytes;
    from = from > begin ? from : begin;
    to = to < end ? to : end;
    group->pending = 0;
    fp_wal_fill_header(wal, group->segment, group->header);
    add_write(wal, 0, group->header, FP_WAL_BLOCK);
    while (from < to) { /* twice at most: a group is not longer than the ring */
        uint64_t len = ring - from % ring;
        len = len < to - from ? len : to - from;
        add_write(wal, FP_WAL_BLOCK + from - begin, (uint8_t *)wal->options.landing + from % ring,
                  len);
        from += len;
    }
    for (unsigned i = 0, count = group->pending; i < count; i++)
        fp_disk_submit(wal->disk, &group->reqs[i]);
}

void fp_wal_group_begin(fp_wal *wal, uint64_t upto)
{
    wal->busy = true;
    FP_FAULT_POINT(WAL_BEGUN);
    wal->group.from = wal->durable;
    wal->group.upto = upto;
    wal->group.segment = wal->oldest_open;
    wal->group.header = wal->blocks;
    wal->group.error.status = 0;
    write_segment(wal);
}

/* ---- checking what has landed ---------------------------------------------------------------- */

/* The length of the frame expected, which ends at or before upto, 0 if there is none, or E_NOMEM. The frame that goes
 * over the ring's end is put together first. */
static int64_t check_frame(const fp_wal *wal, uint64_t upto, const fp_redo_expect *expect,
                           fp_redo_frame *frame)
{
    const uint8_t *ring = wal->options.landing;
    uint64_t bytes = wal->options.landing_bytes, available = upto - expect->lsn;
    uint64_t at = expect->lsn % bytes, straight = bytes - at;
    if (available < sizeof *frame)
        return 0;
    uint64_t part = straight < sizeof *frame ? straight : sizeof *frame;
    memcpy(frame, ring + at, part);
    memcpy((uint8_t *)frame + part, ring, sizeof *frame - part);
    size_t needed = fp_redo_needed(frame, sizeof *frame, expect);
    if (!needed || needed > available)
        return 0;
    if (needed <= straight)
        return (int64_t)fp_redo_check(ring + at, needed, expect);
    uint8_t *whole = malloc(needed);
    if (!whole)
        return fp_wal_say(wal, FARPOOL_E_NOMEM, "no memory to check a frame of %zu bytes", needed);
    memcpy(whole, ring + at, straight);
    memcpy(whole + straight, ring, needed - straight);
    size_t len = fp_redo_check(whole, needed, expect);
    free(whole);
    return (int64_t)len;
}

/* *epoch: of the last frame. */
static int check_frames(fp_wal *wal, uint64_t upto, uint64_t *epoch)
{
    fp_redo_expect expect = {wal->state.partition, wal->end, 0};
    fp_redo_frame frame;
    *epoch = wal->epoch;
    while (expect.lsn < upto) {
        int64_t len = check_frame(wal, upto, &expect, &frame);
        if (len < 0)
            return (int)len;
        if (!len)
            return fp_wal_say(wal, FARPOOL_E_CORRUPT,
                              "what has landed at LSN %llu is no valid frame that ends by %llu",
                              (unsigned long long)expect.lsn, (unsigned long long)upto);
        uint64_t least = fp_lineage_reached(&wal->lineage, expect.lsn);
        least = *epoch > least ? *epoch : least;
        least = fp_wal_least(least, expect.lsn, wal->promise, wal->promised_at);
        /* A fence that puts a promise off counts when it is durable. */
        least = fp_wal_least(least, expect.lsn, wal->state.promise, wal->state.promised_at);
        if (frame.epoch < least)
            return fp_wal_say(wal, FARPOOL_E_FENCED,
                              "the frame at LSN %llu is of epoch %llu, but %llu has come",
                              (unsigned long long)expect.lsn, (unsigned long long)frame.epoch,
                              (unsigned long long)least);
        int rc = fp_wal_note_frame(wal, expect.lsn, expect.lsn + (uint64_t)len);
        if (rc)
            return rc;
        *epoch = frame.epoch;
        expect.lsn += (uint64_t)len;
    }
    return 0;
}

int fp_wal_append(fp_wal *wal, uint64_t upto, fp_wal_req *req)
{
    FP_ASSERT(wal->opened && !wal->closing);
    uint64_t epoch;
    if (wal->failed.status)
        return fp_wal_say(wal, wal->failed.status, "it has failed, open it again: %s",
                          wal->failed.reason);
    if (wal->sealed)
        return fp_wal_say(wal, FARPOOL_E_REFUSED, "it is sealed");
    if (upto <= wal->end || upto > fp_wal_landing_free(wal))
        return fp_wal_say(wal, FARPOOL_E_INVAL,
                          "an append up to LSN %llu, which is not above %llu and at most %llu",
                          (unsigned long long)upto, (unsigned long long)wal->end,
                          (unsigned long long)fp_wal_landing_free(wal));
    int rc = check_frames(wal, upto, &epoch);
    if (!rc)
        rc = fp_wal_need_segments(wal,
                                  fp_wal_number(wal, upto) + 1); /* also for the one in advance */
    if (rc)
        return rc;
    wal->end = upto;
    wal->epoch = epoch;
    req->own.upto = upto;
    req->own.epoch = epoch;
    fp_wal_enqueue(wal, req, FP_WAL_APPEND);
    return 0;
}

/* ---- what it is ------------------------------------------------------------------------------ */

uint64_t fp_wal_window(const fp_wal *wal)
{
    uint64_t most = fp_wal_landing_kept(wal->options.landing_bytes);
    uint64_t from = wal->kept < wal->durable ? wal->kept : wal->durable;
    uint64_t least = wal->durable > most ? wal->durable - most : 0;
    return fp_wal_floor(from > least ? from : least);
}

uint64_t fp_wal_landing_free(const fp_wal *wal)
{
    return fp_wal_window(wal) + wal->options.landing_bytes;
}

void fp_wal_keep(fp_wal *wal, uint64_t lsn)
{
    if (wal->kept == UINT64_MAX)
        wal->landed = wal->durable; /* what is before may have been landed over: it was not kept */
    if (wal->kept == UINT64_MAX || lsn > wal->kept)
        wal->kept = lsn;
}

void fp_wal_set_landing(fp_wal *wal, void *landing, size_t landing_bytes)
{
    FP_ASSERT(wal->opened && wal->end == wal->durable);
    FP_ASSERT(landing_bytes >= (size_t)2 * FP_WAL_BLOCK && landing_bytes % FP_WAL_BLOCK == 0);
    uint64_t tail = fp_wal_floor(wal->end);
    /* The next append writes this block again. */
    memcpy((uint8_t *)landing + tail % landing_bytes,
           (uint8_t *)wal->options.landing + tail % wal->options.landing_bytes, FP_WAL_BLOCK);
    wal->options.landing = landing;
    wal->options.landing_bytes = landing_bytes;
    wal->landed = wal->durable;
}

uint64_t fp_wal_frame_before(const fp_wal *wal, uint64_t lsn)
{
    uint64_t n = fp_wal_number(wal, lsn);
    for (; n > wal->base; n--) {
        const fp_wal_segment *segment = fp_wal_segment_of(wal, n);
        if (segment && segment->first_frame && segment->first_frame <= lsn)
            return segment->first_frame;
    }
    return wal->state.start;
}

uint64_t fp_wal_start(const fp_wal *wal) { return wal->state.start; }
uint64_t fp_wal_end(const fp_wal *wal) { return wal->end; }
uint64_t fp_wal_durable(const fp_wal *wal) { return wal->durable; }
uint64_t fp_wal_epoch(const fp_wal *wal) { return wal->promise; }
uint64_t fp_wal_reached(const fp_wal *wal)
{
    return wal->epoch > wal->promise ? wal->epoch : wal->promise;
}
uint64_t fp_wal_promised(const fp_wal *wal) { return wal->state.promise; }
uint64_t fp_wal_promised_at(const fp_wal *wal) { return wal->state.promised_at; }
const fp_lineage *fp_wal_lineage(const fp_wal *wal) { return &wal->lineage; }
const fp_lineage *fp_wal_joined(const fp_wal *wal) { return &wal->state.lineage; }
uint64_t fp_wal_disowned_for(const fp_wal *wal)
{
    return wal->state.stray ? fp_lineage_number(&wal->state.lineage) : 0;
}
bool fp_wal_is_appending(const fp_wal *wal)
{
    return wal->head && wal->head->own.kind == FP_WAL_APPEND;
}
bool fp_wal_is_sealed(const fp_wal *wal) { return wal->sealed; }
bool fp_wal_has_failed(const fp_wal *wal) { return wal->failed.status; }
const fp_wal_damage *fp_wal_damage_found(const fp_wal *wal) { return &wal->damage; }
