/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/wal_owner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/redo.h"

enum { BLOCK = FP_DISK_ALIGN, LSN_MAX = 1 << 20 };

uint64_t wal_seed;

void wal_check_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "SEED=%llu: %s:%d: %s is false (%s)\n", (unsigned long long)wal_seed, file,
            line, condition, farpool_errmsg());
    exit(1);
}

uint64_t wal_draw(run *r, uint64_t below)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return (r->random >> 11) % below;
}

uint64_t wal_now(const run *r) { return r->world ? fp_sim_now_ns(r->world) : 0; }

/* ---- what an owner does ---------------------------------------------------------------------- */

static void act(slot *s);

static void check_read(const slot *s)
{
    const owner *o = s->owner;
    const uint8_t *at = s->buffer + s->value % BLOCK;
    CHECK(s->req.lsn >= s->value && s->req.lsn <= o->log.end);
    CHECK(!memcmp(at, o->log.bytes + s->value, s->req.lsn - s->value));
}

static void done(fp_wal_req *req)
{
    slot *s = req->user;
    owner *o = s->owner;
    int status = req->status;
    bool read = s->what == READ;
    if (!status && s->what == APPEND) {
        CHECK(req->lsn >= s->value && req->lsn <= o->log.end);
        o->run->acknowledged++;
        o->acknowledged = req->lsn > o->acknowledged ? req->lsn : o->acknowledged;
    } else if (s->what == FENCE) {
        o->fencing = false;
        if (!status) { /* the new owner's log goes on where the WAL ends */
            o->promised = o->epoch = s->value;
            wal_log_truncate(&o->log, fp_wal_end(o->wal));
        }
    } else if (!status && read) {
        check_read(s);
    }
    CHECK(status != FARPOOL_E_CORRUPT && status != FARPOOL_E_INVAL);
    s->what = IDLE;
    o->failures = status ? o->failures + 1 : 0;
    o->run->failed += status != 0;
    if (status == FARPOOL_E_CLOSED || (status == FARPOOL_E_IO && !read) || o->failures > 20)
        o->over = true;
    for (int i = 0; i < REQUESTS && !o->over && !o->run->stop; i++)
        if (o->slots[i].what == IDLE)
            act(&o->slots[i]);
}

static bool try_append(slot *s)
{
    owner *o = s->owner;
    run *r = o->run;
    uint64_t end = fp_wal_end(o->wal), room = fp_wal_landing_free(o->wal);
    if (o->fencing)
        return false;
    if (o->log.end < LSN_MAX && wal_draw(r, 4)) {
        size_t longest = wal_draw(r, 8) ? 3000 : o->options.landing_bytes - BLOCK;
        wal_log_frame(&o->log, o->epoch, 40 + wal_draw(r, longest - 60), wal_seed);
    }
    uint64_t upto = wal_log_after(&o->log, end, 1 + (unsigned)wal_draw(r, 4));
    if (upto > room)
        upto = wal_log_after(&o->log, end, 1);
    if (upto <= end || upto > room)
        return false;
    /* More lands than is appended, as far as there is room, and not always whole frames. */
    wal_log_land(&o->log, o->options.landing, o->options.landing_bytes, end,
                 o->log.end < room ? o->log.end : room);
    s->what = APPEND;
    s->value = upto;
    int rc = fp_wal_append(o->wal, upto, &s->req); /* FENCED: a fence has failed */
    CHECK(!rc || rc == FARPOOL_E_FENCED || rc == FARPOOL_E_IO);
    return !rc;
}

static bool try_fence(slot *s)
{
    owner *o = s->owner;
    if (o->fencing)
        return false;
    s->what = FENCE;
    s->value = o->epoch + 1;
    o->fencing = !fp_wal_fence(o->wal, s->value, 0, &s->req);
    return o->fencing;
}

static bool try_trim(slot *s)
{
    owner *o = s->owner;
    uint64_t start = fp_wal_start(o->wal), durable = fp_wal_durable(o->wal);
    s->what = TRIM;
    s->value = start + wal_draw(o->run, durable - start + 1);
    s->value = o->failures ? durable : s->value;
    o->trimmed = s->value > o->trimmed ? s->value : o->trimmed;
    return !fp_wal_trim(o->wal, s->value, &s->req);
}

static bool try_read(slot *s)
{
    owner *o = s->owner;
    uint64_t start = fp_wal_start(o->wal), durable = fp_wal_durable(o->wal);
    if (start == durable)
        return false;
    s->what = READ;
    s->value = wal_log_after(&o->log, start + wal_draw(o->run, durable - start), 1);
    uint64_t to = s->value + 1 + wal_draw(o->run, 9000);
    to = to < durable ? to : durable;
    return s->value < to && !fp_wal_read(o->wal, s->value, to, s->buffer, &s->req);
}

static void act(slot *s)
{
    uint64_t choice = wal_draw(s->owner->run, 100);
    bool taken;
    if (choice < 80)
        taken = try_append(s);
    else if (choice < 83)
        taken = try_fence(s);
    else if (choice < 88)
        taken = try_trim(s);
    else
        taken = try_read(s);
    if (!taken)
        s->what = IDLE;
}

/* ---- opened again ---------------------------------------------------------------------------- */

void check_all(owner *o)
{
    uint64_t start = fp_wal_start(o->wal), end = fp_wal_end(o->wal), read_to;
    const fp_wal_damage *damage = fp_wal_damage_found(o->wal);
    CHECK(damage->kind == FP_WAL_UNDAMAGED);
    CHECK(end >= o->acknowledged && end <= o->log.end && end == fp_wal_durable(o->wal));
    CHECK(fp_wal_epoch(o->wal) >= o->promised);
    CHECK(start <= o->trimmed);
    if (start == end)
        return;
    uint8_t *buffer = disk_buffer(end / BLOCK * BLOCK + BLOCK - start / BLOCK * BLOCK, 0);
    CHECK(!wal_read(o->run->disk, o->wal, start, end, buffer, &read_to));
    CHECK(read_to == end);
    CHECK(!memcmp(buffer + start % BLOCK, o->log.bytes + start, end - start));
    free(buffer);
}

void take_over(owner *o)
{
    o->acknowledged = fp_wal_end(o->wal);
    o->epoch = fp_wal_epoch(o->wal) > o->epoch ? fp_wal_epoch(o->wal) : o->epoch;
    if (wal_draw(o->run, 2) || fp_wal_epoch(o->wal) == o->epoch) {
        wal_log_truncate(&o->log, fp_wal_end(o->wal));
        o->epoch++;
        CHECK(!wal_fence(o->run->disk, o->wal, o->epoch));
        o->promised = o->epoch;
    }
}

/* ---- all of them ----------------------------------------------------------------------------- */

void start_owners(run *r)
{
    r->stop = false;
    for (unsigned i = 0; i < WALS; i++) {
        owner *o = &r->owners[i];
        o->over = false;
        o->failures = 0;
        o->fencing = false;
        for (unsigned k = 0; k < REQUESTS; k++)
            o->slots[k].what = IDLE;
        for (unsigned k = 0; k < REQUESTS; k++)
            act(&o->slots[k]);
    }
}

bool wal_idle(const run *r)
{
    for (unsigned i = 0; i < WALS; i++)
        for (unsigned k = 0; k < REQUESTS; k++)
            if (r->owners[i].slots[k].what != IDLE)
                return false;
    return true;
}

void poll_once(run *r)
{
    CHECK(fp_disk_poll(r->disk, 1) >= 0);
    for (unsigned i = 0; i < WALS; i++) /* who found nothing to do tries again */
        if (!r->owners[i].over && r->owners[i].slots[0].what == IDLE && !r->stop)
            act(&r->owners[i].slots[0]);
}

void open_owner(run *r, unsigned index)
{
    owner *o = &r->owners[index];
    uint64_t start = FP_REDO_LSN_FIRST + 8 * wal_draw(r, 3000);
    size_t ring = (4 + wal_draw(r, 12)) * BLOCK;
    o->run = r;
    o->options = (fp_wal_options){.partition = 7 + index,
                                  .landing = disk_buffer(ring, 0),
                                  .landing_bytes = ring,
                                  .start = start,
                                  .segment_bytes = (1 + wal_draw(r, 6)) * BLOCK};
    wal_log_open(&o->log, 7 + index, start);
    o->acknowledged = o->trimmed = start;
    o->epoch = 1;
    for (unsigned k = 0; k < REQUESTS; k++) {
        slot *s = &o->slots[k];
        s->owner = o;
        s->buffer = disk_buffer(4 * BLOCK, 0);
        s->req = (fp_wal_req){.done = done, .user = s};
    }
}

void wal_owner_close(owner *o)
{
    for (unsigned k = 0; k < REQUESTS; k++)
        free(o->slots[k].buffer);
    free(o->options.landing);
    wal_log_close(&o->log);
}
