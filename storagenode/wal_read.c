/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log's bytes from files. A read has handles of its own: the segment may be trimmed or closed by the writer
 * meanwhile. The block in which the WAL ends may be written again while it is read: of that READ sees a mixture, in
 * which the durable bytes, all that is looked at, are the same (D2).
 */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/racy.h"
#include "common/redo.h"
#include "storagenode/wal_inside.h"

/* ---- blocks ---------------------------------------------------------------------------------- */

static void submit(fp_wal_load *load, enum fp_disk_kind kind)
{
    load->req.kind = kind;
    load->req.file = load->file;
    fp_disk_submit(load->wal->disk, &load->req);
}

static void load_next(fp_wal_load *load)
{
    if (load->at >= load->to || load->error.status) {
        load->done(load);
        return;
    }
    fp_wal_segment_name(load->wal->state.partition, (uint32_t)fp_wal_number(load->wal, load->at),
                        load->name);
    load->req.name = load->name;
    load->req.mode = FP_DISK_READ_ONLY;
    submit(load, FP_DISK_OPEN);
}

static void load_piece(fp_wal_load *load)
{
    const fp_wal *wal = load->wal;
    uint64_t end = fp_wal_begin_of(wal, fp_wal_number(wal, load->at) + 1);
    end = end < load->to ? end : load->to;
    load->req.offset = FP_WAL_BLOCK + load->at % wal->state.segment_bytes;
    load->req.buffer = load->buffer + (load->at - load->from);
    load->req.len = end - load->at;
    submit(load, FP_DISK_READ);
    load->at = end;
}

static void load_step(fp_disk_req *req)
{
    fp_wal_load *load = req->user;
    if (req->status && !load->error.status)
        fp_wal_error_set(&load->error, req->status);
    if (req->kind == FP_DISK_OPEN && !req->status) {
        load->file = req->file;
        load_piece(load);
    } else if (req->kind == FP_DISK_READ) {
        submit(load, FP_DISK_CLOSE);
    } else {
        load->file = NULL;
        load_next(load);
    }
}

void fp_wal_load_start(fp_wal_load *load)
{
    load->at = load->from;
    load->error.status = 0;
    load->file = NULL;
    load->req.done = load_step;
    load->req.user = load;
    load_next(load);
}

/* ---- frames ---------------------------------------------------------------------------------- */

typedef struct reading {
    fp_wal_load load;
    fp_wal_req *req;
    uint64_t from, to;
} reading;

/* Sets req->lsn and needed. 0 or E_CORRUPT. */
static int check_frames(const reading *r)
{
    const fp_wal *wal = r->load.wal;
    fp_redo_expect expect = {wal->state.partition, r->from, 0};
    fp_redo_frame frame;
    while (expect.lsn < r->to) {
        const uint8_t *at = r->load.buffer + (expect.lsn - r->load.from);
        uint64_t available = r->to - expect.lsn;
        size_t needed = fp_redo_needed(at, available, &expect);
        if (needed > available && needed <= wal->durable - expect.lsn) {
            r->req->needed = needed;
            break;
        }
        size_t len = fp_redo_check(at, available, &expect);
        if (!len) {
            char name[FP_WAL_NAME_MAX];
            uint64_t offset = FP_WAL_BLOCK + expect.lsn % wal->state.segment_bytes;
            r->req->lsn = expect.lsn;
            fp_wal_segment_name(wal->state.partition, (uint32_t)fp_wal_number(wal, expect.lsn),
                                name);
            return fp_wal_say(wal, FARPOOL_E_CORRUPT,
                              "no valid frame at LSN %llu ('%s', offset %llu): read it from "
                              "another copy, and open the WAL again to have this one repaired",
                              (unsigned long long)expect.lsn, name, (unsigned long long)offset);
        }
        memcpy(&frame, at, sizeof frame);
        expect.epoch_min = frame.epoch;
        expect.lsn += len;
    }
    r->req->lsn = expect.lsn;
    return 0;
}

static void read_done(fp_wal_load *load)
{
    reading *r = load->user;
    fp_wal *wal = load->wal;
    fp_wal_req *req = r->req;
    req->status = load->error.status;
    if (!req->status)
        req->status = check_frames(r);
    else
        fp_error(req->status, "%s", load->error.reason);
    free(r);
    wal->reads--;
    req->done(req);
    fp_wal_kick(wal); /* to close it may have waited for this */
}

static void took_landed(fp_disk_req *req)
{
    reading *r = req->user;
    read_done(&r->load);
}

/* All of it is in the landing ring, where nobody may land anything else yet: no file has to be read. It is checked like
 * everything that is read, in the copy. */
static void take_landed(reading *r)
{
    fp_wal_load *load = &r->load;
    const fp_wal *wal = load->wal;
    for (uint64_t lsn = r->from, bytes; lsn < r->to; lsn += bytes) {
        uint64_t at = lsn % wal->options.landing_bytes, to_end = wal->options.landing_bytes - at;
        bytes = r->to - lsn < to_end ? r->to - lsn : to_end;
        fp_racy_copy(load->buffer + (lsn - load->from), (const uint8_t *)wal->options.landing + at,
                     bytes);
    }
    load->req = (fp_disk_req){.kind = FP_DISK_NOP, .done = took_landed, .user = r};
    fp_disk_submit(wal->disk, &load->req);
}

bool fp_wal_is_landed(const fp_wal *wal, uint64_t from)
{
    return from >= wal->landed && from >= fp_wal_window(wal);
}

int fp_wal_read(fp_wal *wal, uint64_t from, uint64_t to, void *buffer, fp_wal_req *req)
{
    if (from < wal->state.start || to > wal->durable || from >= to || wal->closing)
        return fp_wal_say(wal, FARPOOL_E_INVAL, "LSN %llu to %llu cannot be read; %llu to %llu can",
                          (unsigned long long)from, (unsigned long long)to,
                          (unsigned long long)wal->state.start, (unsigned long long)wal->durable);
    FP_ASSERT((uintptr_t)buffer % FP_WAL_BLOCK == 0);
    reading *r = calloc(1, sizeof *r);
    if (!r)
        return fp_wal_say(wal, FARPOOL_E_NOMEM, "no memory for a read");
    r->req = req;
    r->from = from;
    r->to = to;
    r->load = (fp_wal_load){.wal = wal,
                            .from = fp_wal_floor(from),
                            .to = fp_wal_ceil(to),
                            .buffer = buffer,
                            .done = read_done,
                            .user = r};
    req->lsn = from;
    req->needed = 0;
    wal->reads++;
    if (fp_wal_is_landed(wal, from))
        take_landed(r);
    else
        fp_wal_load_start(&r->load);
    return 0;
}
