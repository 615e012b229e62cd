/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding the end of the log, and what is wrong with it.
 *
 * Frames are followed from the beginning until none is valid: there the log ends. Is it a torn tail, or damage? Of
 * a torn tail nothing was acknowledged, though valid frames may stand behind it, for the sectors of a group reach the
 * medium in any order. So what stands there proves nothing; what was once durable does. It is damage if the log ends
 * below `known` (the highest mark), or if a segment behind the end is not as it was made: it got its name when it was
 * whole. Only then the scan goes on, to count the valid frames behind; a frame says its own LSN and partition, so it
 * is found at any place without knowing where frames begin.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/redo.h"
#include "storagenode/wal_inside.h"

enum { WINDOW_BYTES = 1 << 20, HEADER = sizeof(fp_redo_frame) };

static uint64_t known_bytes(const fp_wal *wal, uint64_t number)
{
    const fp_wal_segment *segment = fp_wal_segment_of(wal, number);
    return segment ? segment->bytes : 0;
}

/* Where the good files end that hold lsn and what follows it; at or below lsn if no good file holds it. */
static uint64_t limit_of(const fp_wal *wal, uint64_t lsn)
{
    uint64_t n = fp_wal_number(wal, lsn);
    while (known_bytes(wal, n) == wal->state.segment_bytes)
        n++;
    return fp_wal_begin_of(wal, n) + known_bytes(wal, n);
}

static void finish(fp_wal_scan *scan)
{
    free(scan->window);
    scan->done(scan);
}

/* ---- the window ------------------------------------------------------------------------------ */

static void scan_go_on(fp_wal_scan *scan);

static void window_loaded(fp_wal_load *load)
{
    fp_wal_scan *scan = load->user;
    if (load->error.status) {
        scan->error = load->error;
        finish(scan);
        return;
    }
    scan->window_from = load->from;
    scan->window_to = load->to;
    scan_go_on(scan);
}

static void load_window(fp_wal_scan *scan, size_t bytes)
{
    uint64_t from = fp_wal_floor(scan->at), to = fp_wal_ceil(scan->at + bytes);
    to = to - from > WINDOW_BYTES ? to : from + WINDOW_BYTES;
    to = to < scan->limit ? to : scan->limit;
    if (scan->window_bytes < to - from) {
        free(scan->window);
        scan->window_bytes = to - from;
        scan->window = aligned_alloc(FP_WAL_BLOCK, scan->window_bytes);
    }
    if (!scan->window) {
        fp_wal_error_set(&scan->error, fp_wal_say(scan->wal, FARPOOL_E_NOMEM,
                                                  "no memory to look at %zu bytes", bytes));
        finish(scan);
        return;
    }
    scan->window_to = 0; /* nothing, until it is loaded */
    scan->load = (fp_wal_load){.wal = scan->wal,
                               .from = from,
                               .to = to,
                               .buffer = scan->window,
                               .done = window_loaded,
                               .user = scan};
    fp_wal_load_start(&scan->load);
}

static bool in_window(const fp_wal_scan *scan, size_t bytes)
{
    return scan->at >= scan->window_from && scan->at + bytes <= scan->window_to;
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void blame_segment(const fp_wal *wal, uint64_t number, fp_wal_damage *damage)
{
    const fp_wal_segment *segment = fp_wal_segment_of(wal, number);
    fp_wal_segment_name(wal->state.partition, (uint32_t)number, damage->file);
    if (!segment || !segment->exists) {
        damage->kind = FP_WAL_MISSING;
        damage->offset = 0;
    } else if (!segment->has_header) {
        damage->kind = FP_WAL_BAD_HEADER;
        damage->offset = 0;
    } else {
        damage->kind = FP_WAL_CUT_FILE;
        damage->offset = FP_WAL_BLOCK + segment->bytes;
    }
}

/* A segment from the end on that is not as it was made, or missing before one that is there; UINT64_MAX: none. */
static uint64_t first_bad_segment(const fp_wal *wal)
{
    uint64_t bad = UINT64_MAX, end = wal->base + (uint64_t)wal->segment_count;
    for (uint64_t n = fp_wal_number(wal, wal->end); n < end; n++) {
        const fp_wal_segment *segment = fp_wal_segment_of(wal, n);
        bool good = segment->bytes == wal->state.segment_bytes;
        if (!good && bad == UINT64_MAX)
            bad = n;
        if (segment->exists && (!good || bad != UINT64_MAX))
            return bad;
    }
    return UINT64_MAX;
}

/* The frame at the end is not there. cut: because no good file holds all of it. True: this is damage. */
static bool judge(fp_wal_scan *scan, bool cut)
{
    fp_wal *wal = scan->wal;
    fp_wal_damage *damage = &wal->damage;
    uint64_t bad = first_bad_segment(wal);
    if (scan->known <= wal->end && bad == UINT64_MAX)
        return false;
    damage->lsn = wal->end;
    damage->upto = scan->known > wal->end ? scan->known : wal->end;
    if (scan->known <= wal->end) {
        blame_segment(wal, bad, damage);
    } else if (cut) {
        blame_segment(wal, fp_wal_number(wal, scan->limit), damage);
    } else {
        damage->kind = FP_WAL_BAD_FRAME;
        damage->offset = FP_WAL_BLOCK + wal->end % wal->state.segment_bytes;
        fp_wal_segment_name(wal->state.partition, (uint32_t)fp_wal_number(wal, wal->end),
                            damage->file);
    }
    return true;
}

/* ---- frame after frame ----------------------------------------------------------------------- */

enum result { LOADING, NO_FRAME, CUT, FRAME };

/* Looks for the frame at scan->at, which is below the limit. */
static enum result look(fp_wal_scan *scan, size_t *len)
{
    const fp_wal *wal = scan->wal;
    fp_redo_expect expect = {wal->state.partition, scan->at, wal->epoch};
    expect.epoch_min =
        fp_wal_least(expect.epoch_min, scan->at, wal->state.promise, wal->state.promised_at);
    uint64_t fork = fp_lineage_reached(&wal->state.lineage, scan->at);
    expect.epoch_min = fork > expect.epoch_min ? fork : expect.epoch_min;
    size_t needed = HEADER;
    for (int i = 0; i < 2; i++) { /* the header, then the frame */
        if (needed > scan->limit - scan->at)
            return CUT;
        if (!in_window(scan, needed)) {
            load_window(scan, needed);
            return LOADING;
        }
        needed = fp_redo_needed(scan->window + (scan->at - scan->window_from), needed, &expect);
        if (!needed)
            return NO_FRAME;
    }
    *len = fp_redo_check(scan->window + (scan->at - scan->window_from), needed, &expect);
    return *len ? FRAME : NO_FRAME;
}

/* False: the scan is over, *scan gone. */
static bool follow(fp_wal_scan *scan, enum result result, size_t len)
{
    fp_wal *wal = scan->wal;
    if (result == FRAME) {
        fp_redo_frame frame;
        memcpy(&frame, scan->window + (scan->at - scan->window_from), sizeof frame);
        int rc = fp_wal_note_frame(wal, scan->at, scan->at + len);
        if (rc) {
            fp_wal_error_set(&scan->error, rc);
            finish(scan);
            return false;
        }
        wal->epoch = frame.epoch;
        wal->end = scan->at += len;
        return true;
    }
    if (!judge(scan, result == CUT)) {
        finish(scan);
        return false;
    }
    scan->searching = true;
    scan->at += FP_REDO_ALIGN;
    return true;
}

/* To the next place from which files are good; false: there is none. */
static bool next_good(fp_wal_scan *scan)
{
    const fp_wal *wal = scan->wal;
    uint64_t n = fp_wal_number(wal, scan->at) + 1, end = wal->base + (uint64_t)wal->segment_count;
    n = n > wal->base ? n : wal->base;
    while (n < end && !known_bytes(wal, n))
        n++;
    scan->at = fp_wal_begin_of(wal, n);
    scan->limit = limit_of(wal, scan->at);
    return n < end;
}

static void scan_go_on(fp_wal_scan *scan)
{
    for (;;) {
        size_t len = 0;
        enum result result = CUT;
        if (scan->at >= scan->limit) /* another run of files, perhaps */
            scan->limit = limit_of(scan->wal, scan->at);
        if (scan->at < scan->limit)
            result = look(scan, &len);
        else if (scan->searching && next_good(scan))
            continue;
        else if (scan->searching)
            break;
        if (result == LOADING)
            return;
        if (!scan->searching) {
            if (!follow(scan, result, len))
                return;
            continue;
        }
        scan->wal->damage.behind += len;
        scan->at += result == FRAME ? len : FP_REDO_ALIGN;
    }
    finish(scan);
}

void fp_wal_scan_start(fp_wal_scan *scan)
{
    fp_wal *wal = scan->wal;
    wal->end = scan->at = wal->state.start;
    wal->epoch = 0;
    fp_wal_segment_of(wal, wal->base)->first_frame = wal->state.start;
    scan->limit = limit_of(wal, scan->at);
    scan_go_on(scan);
}
