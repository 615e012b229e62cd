/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that page stores on a simulated disk always give the right page, or none: two partitions on one volume are
 * appended to, read, flushed and fenced while requests fail, space runs out and the power fails at any moment, also in
 * the midst of opening. The model knows each page after each frame. After each failure everything that was durable is
 * there. Prints the seed that fails; SEED=n runs that one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "tests/lib/page_store.h"
#include "tests/lib/seeds.h"
#include "tests/lib/wal_owner.h"

enum { BLOCK = FP_DISK_ALIGN, STORES = 2, GETS = 3, LIVES = 3, SEEDS = 300, LSN_MAX = 3 << 17 };

static const fp_disk_sim_config plain = {0};

struct side;

typedef struct getter {
    fp_store_req req;
    struct side *side;
    bool busy;
} getter;

typedef struct side {
    struct world *world;
    page_store s;
    getter gets[GETS];
    fp_wal_req append;
    fp_store_req flush, fence;
    bool appending, flushing, fencing;
    uint64_t epoch, acknowledged, generation;
} side;

typedef struct world {
    run r; /* its random numbers, medium and disk */
    side sides[STORES];
} world;

static uint64_t totals[5]; /* pages checked, of them refused, crashes, merges, requests failed */

/* ---- what is asked for ----------------------------------------------------------------------- */

static bool is_excused(int status)
{
    return status == FARPOOL_E_IO || status == FARPOOL_E_NOSPACE || status == FARPOOL_E_CLOSED ||
           status == FARPOOL_E_INVAL;
}

static void check_got(const side *d, const fp_store_req *req)
{
    static uint8_t page[PAGE_LOG_BYTES_MAX];
    unsigned order = 0;
    bool there = page_log_page(&d->s.log, req->pid, req->lsn, page, &order);
    totals[0]++;
    if (is_excused(req->status)) {
        totals[1]++;
        return;
    }
    CHECK(req->status == (there ? 0 : FARPOOL_E_NOTFOUND));
    CHECK(!there ||
          (req->order == order && !memcmp(page, req->page, (size_t)FARPOOL_UNIT_BYTES << order)));
    free(req->page);
}

static void got(fp_store_req *req)
{
    getter *g = req->user;
    g->busy = false;
    check_got(g->side, req);
}

static void appended(fp_wal_req *req)
{
    side *d = req->user;
    d->appending = false;
    if (!req->status && req->lsn > d->acknowledged)
        d->acknowledged = req->lsn;
    totals[4] += req->status != 0;
    if (d->s.store) /* it is closed before the WAL */
        fp_store_log_durable(d->s.store);
}

static void flushed(fp_store_req *req)
{
    side *d = req->user;
    d->flushing = false;
    totals[3] += !req->status;
    totals[4] += req->status != 0;
}

static void fenced(fp_store_req *req)
{
    side *d = req->user;
    d->fencing = false;
    if (!req->status)
        d->generation = req->own.generation;
}

static void start_append(side *d)
{
    run *r = &d->world->r;
    uint64_t end = fp_wal_end(d->s.wal), room = fp_wal_landing_free(d->s.wal);
    if (d->s.log.log.end < LSN_MAX && d->s.log.log.end < end + 20000)
        page_log_frames(&d->s.log, d->epoch, 1 + (unsigned)wal_draw(r, 4));
    uint64_t upto = wal_log_after(&d->s.log.log, end, 1 + (unsigned)wal_draw(r, 6));
    if (upto > room)
        upto = wal_log_after(&d->s.log.log, end, 1);
    if (upto <= end || upto > room)
        return;
    wal_log_land(&d->s.log.log, d->s.wal_options.landing, d->s.wal_options.landing_bytes, end,
                 upto);
    d->append = (fp_wal_req){.done = appended, .user = d};
    d->appending = !fp_wal_append(d->s.wal, upto, &d->append);
}

static void start_get(side *d, getter *g)
{
    run *r = &d->world->r;
    fp_store_stats stats = page_store_stats(&d->s);
    uint64_t span =
        fp_wal_durable(d->s.wal) > stats.base ? fp_wal_durable(d->s.wal) - stats.base : 0;
    g->req = (fp_store_req){.done = got,
                            .user = g,
                            .pid = page_log_pid((unsigned)wal_draw(r, PAGE_LOG_PAGES)),
                            .lsn = wal_draw(r, 2) ? 0 : stats.base + wal_draw(r, span + 1)};
    g->busy = !fp_store_get(d->s.store, &g->req);
}

static void act(side *d)
{
    run *r = &d->world->r;
    uint64_t choice = wal_draw(r, 100);
    if (choice < 60 && !d->appending)
        start_append(d);
    for (unsigned i = 0; i < GETS && choice >= 30; i++)
        if (!d->gets[i].busy && wal_draw(r, 3) == 0)
            start_get(d, &d->gets[i]);
    if (choice == 1 && !d->flushing) {
        d->flush = (fp_store_req){.done = flushed, .user = d};
        d->flushing = !fp_store_flush(d->s.store, &d->flush);
    } else if (choice == 2 && !d->fencing) {
        d->fence = (fp_store_req){.done = fenced, .user = d};
        d->s.options.generation++;
        d->fencing = !fp_store_fence(d->s.store, d->s.options.generation, &d->fence);
    } else if (choice == 3) {
        fp_store_keep(d->s.store, wal_draw(r, 2) ? UINT64_MAX : fp_wal_durable(d->s.wal));
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

static void crash(void *arg)
{
    run *r = arg;
    if (!r->armed)
        return;
    r->armed = false;
    r->dead = true;
    totals[2]++;
    fp_disk_sim_crash(r->medium);
}

static void count_store(fp_store_req *req) { ++*(unsigned *)req->user; }
static void count_volume(fp_volume_req *req) { ++*(unsigned *)req->user; }
static void count_wal(fp_wal_req *req) { ++*(unsigned *)req->user; }

static bool wait_until(run *r, const unsigned *count, const int *status)
{
    while (!*count && !r->dead)
        CHECK(fp_disk_poll(r->disk, 1) >= 0);
    CHECK(!*count || !*status || *status == FARPOOL_E_IO || *status == FARPOOL_E_NOSPACE);
    return *count && !*status;
}

/* The requests outlive the disk, if that dies. */
static bool open_volume(world *w, fp_volume **volume)
{
    static fp_volume_req req;
    static unsigned count;
    count = 0;
    req = (fp_volume_req){.done = count_volume, .user = &count};
    CHECK(!fp_volume_open(w->r.disk, &req, volume));
    return wait_until(&w->r, &count, &req.status);
}

static bool open_side(side *d)
{
    static fp_wal_req wal_req;
    static fp_store_req req;
    static unsigned count;
    run *r = &d->world->r;
    count = 0;
    wal_req = (fp_wal_req){.done = count_wal, .user = &count};
    memset(d->s.wal_options.landing, 0xa5, d->s.wal_options.landing_bytes);
    CHECK(!fp_wal_open(r->disk, &d->s.wal_options, &wal_req, &d->s.wal));
    if (!wait_until(r, &count, &wal_req.status))
        return false;
    count = 0;
    req = (fp_store_req){.done = count_store, .user = &count};
    CHECK(!fp_store_open(d->s.volume, d->s.wal, &d->s.options, &req, &d->s.store));
    return wait_until(r, &count, &req.status);
}

static void forget(world *w)
{
    w->r.armed = false;
    fp_disk_close(w->r.disk);
    for (unsigned i = 0; i < STORES; i++) {
        page_store *s = &w->sides[i].s;
        CHECK(!w->sides[i].appending && !w->sides[i].flushing && !w->sides[i].fencing);
        for (unsigned k = 0; k < GETS; k++)
            CHECK(!w->sides[i].gets[k].busy);
        fp_store_free(s->store);
        fp_wal_free(s->wal);
        s->store = NULL;
        s->wal = NULL;
    }
    fp_volume_free(w->sides[0].s.volume);
    for (unsigned i = 0; i < STORES; i++)
        w->sides[i].s.volume = NULL;
}

static bool open_all(world *w)
{
    run *r = &w->r;
    fp_volume *volume = NULL;
    r->dead = false;
    CHECK(!fp_disk_open("sim", &(fp_disk_options){.medium = r->medium}, &r->disk));
    bool opened = open_volume(w, &volume);
    for (unsigned i = 0; i < STORES; i++) {
        w->sides[i].s.disk = r->disk;
        w->sides[i].s.volume = volume;
        opened = opened && open_side(&w->sides[i]);
    }
    return opened;
}

static void draw_faults(const run *r, fp_disk_sim_config *config)
{
    (void)r;
    *config = (fp_disk_sim_config){.slow_per_million = 50000, .slow_ns = 500000};
    for (int kind = 0; kind < FP_DISK_KINDS && wal_seed % 3 == 0; kind++)
        config->eio_per_million[kind] = 3000;
}

/* What is found: the log goes on from what is durable, under a new epoch. */
static void take_over_side(side *d)
{
    run *r = &d->world->r;
    uint64_t end = fp_wal_end(d->s.wal);
    CHECK(fp_wal_damage_found(d->s.wal)->kind == FP_WAL_UNDAMAGED);
    CHECK(end >= d->acknowledged && end <= d->s.log.log.end);
    page_log_truncate(&d->s.log, end);
    d->acknowledged = end;
    fp_store_stats stats = page_store_stats(&d->s);
    CHECK(!stats.damaged && stats.converted <= end);
    d->epoch++;
    CHECK(!wal_fence(r->disk, d->s.wal, d->epoch));
    for (unsigned i = 0; i < PAGE_LOG_PAGES; i++) {
        int rc = page_store_check(&d->s, page_log_pid(i), 0);
        CHECK(!rc);
        rc = page_store_check(&d->s, page_log_pid(i),
                              stats.base + wal_draw(r, end - stats.base + 1));
        CHECK(!rc);
    }
}

static void open_in_the_end(world *w)
{
    run *r = &w->r;
    fp_disk_sim_config faulty;
    for (unsigned tries = 0; tries < 2; tries++) {
        draw_faults(r, &faulty);
        fp_disk_sim_configure(r->medium, &faulty);
        r->armed = wal_draw(r, 2);
        if (r->armed)
            fp_sim_at(r->world, fp_sim_now_ns(r->world) + wal_draw(r, 6000000), crash, r);
        (void)open_all(w);
        forget(w);
        fp_disk_sim_configure(r->medium, &plain);
    }
    CHECK(open_all(w));
    for (unsigned i = 0; i < STORES; i++)
        take_over_side(&w->sides[i]);
}

/* ---- lives ----------------------------------------------------------------------------------- */

static void close_in_order(world *w)
{
    fp_volume *volume = w->sides[0].s.volume;
    for (unsigned i = 0; i < STORES; i++) { /* there is space again, and the disk works */
        int rc = page_store_flush(&w->sides[i].s);
        /* What began before may be told now, of a conversion, of a merge and of a manifest. */
        for (unsigned tries = 0; rc && tries < 3; tries++)
            rc = page_store_flush(&w->sides[i].s);
        CHECK(!rc);
        page_store_check_all(&w->sides[i].s, 0);
    }
    for (unsigned i = 0; i < STORES; i++) {
        int rc = page_store_close(&w->sides[i].s, i == STORES - 1);
        CHECK(!rc || rc == FARPOOL_E_IO || rc == FARPOOL_E_NOSPACE);
        w->sides[i].s.volume = i == STORES - 1 ? NULL : volume;
    }
    for (unsigned i = 0; i < STORES; i++)
        w->sides[i].s.volume = NULL;
}

/* Ends by a power failure, by the death of the process and then the machine, or by an orderly close. */
static void live(world *w)
{
    run *r = &w->r;
    fp_disk_sim_config faulty;
    uint64_t end = fp_sim_now_ns(r->world) + 1000000 + wal_draw(r, 30) * wal_draw(r, 3000000);
    uint64_t way = wal_draw(r, 4);
    draw_faults(r, &faulty);
    if (wal_draw(r, 3) == 0)
        faulty.capacity_bytes = (100 + wal_draw(r, 300)) * BLOCK;
    fp_disk_sim_configure(r->medium, &faulty);
    r->armed = way < 2;
    if (r->armed)
        fp_sim_at(r->world, end, crash, r);
    while (!r->dead && fp_sim_now_ns(r->world) <= end) {
        for (unsigned i = 0; i < STORES; i++)
            act(&w->sides[i]);
        CHECK(fp_disk_poll(r->disk, 1) >= 0);
    }
    r->armed = false;
    fp_disk_sim_configure(r->medium, &plain);
    if (way == 3 && !r->dead)
        close_in_order(w);
    forget(w);
    r->armed = way == 2 && wal_draw(r, 2);
    crash(r);
}

static world *open_world(void)
{
    world *w = calloc(1, sizeof *w);
    CHECK(w);
    run *r = &w->r;
    r->random = wal_seed * 0x9e3779b97f4a7c15 + 1;
    CHECK(!fp_sim_world_open(wal_seed, &(fp_sim_config){.late = wal_seed % 2}, &r->world));
    CHECK(!fp_disk_medium_open(r->world, &plain, &r->medium));
    for (unsigned i = 0; i < STORES; i++) {
        side *d = &w->sides[i];
        page_store_init(&d->s, NULL, 7 + i, wal_seed + 1000 * i);
        d->s.options.convert_bytes = (1 + wal_draw(r, 4)) * BLOCK;
        d->s.options.image_bytes = (4 + wal_draw(r, 20)) * BLOCK;
        d->s.options.merge_layers = 1 + (unsigned)wal_draw(r, 4);
        d->world = w;
        d->epoch = 1;
        d->acknowledged = FP_REDO_LSN_FIRST;
        for (unsigned k = 0; k < GETS; k++)
            d->gets[k].side = d;
    }
    return w;
}

static void close_world(world *w)
{
    for (unsigned i = 0; i < STORES; i++)
        page_store_fini(&w->sides[i].s);
    fp_disk_medium_close(w->r.medium);
    fp_sim_world_close(w->r.world);
    free(w);
}

/* Manifests whose SYNC_DIR fails are read by the next process, but may not be durable: the power fails when the volume
 * has been opened, or the stores as well, and the layers of the one before must still be there. */
static void doubtful_manifests(void)
{
    world *w = open_world();
    run *r = &w->r;
    CHECK(open_all(w));
    for (unsigned round = 0; round < 4; round++) {
        side *d = &w->sides[0];
        for (unsigned i = 0; i < STORES; i++)
            take_over_side(&w->sides[i]);
        page_log_frames(&d->s.log, d->epoch, 60);
        CHECK(!page_store_append(&d->s));
        d->acknowledged = d->s.log.log.end;
        fp_disk_sim_fail(r->medium, FP_DISK_SYNC_DIR, 2 + (unsigned)wal_draw(r, 20), EIO);
        (void)page_store_flush(&d->s);
        forget(w);
        fp_disk_sim_fail(r->medium, FP_DISK_SYNC_DIR, 0, 0);
        fp_volume *volume = NULL;
        if (wal_draw(r, 2)) {
            CHECK(open_all(w));
        } else {
            CHECK(!fp_disk_open("sim", &(fp_disk_options){.medium = r->medium}, &r->disk));
            CHECK(open_volume(w, &volume));
            w->sides[0].s.volume = volume;
        }
        r->armed = true;
        crash(r);
        forget(w);
        CHECK(open_all(w));
    }
    for (unsigned i = 0; i < STORES; i++)
        take_over_side(&w->sides[i]);
    forget(w);
    close_world(w);
}

static uint64_t run_seed(uint64_t seed)
{
    wal_seed = seed;
    world *w = open_world();
    run *r = &w->r;
    for (unsigned i = 0; i < LIVES; i++) {
        open_in_the_end(w);
        live(w);
    }
    open_in_the_end(w);
    forget(w);
    uint64_t hash = fp_sim_trace_hash(r->world);
    close_world(w);
    doubtful_manifests();
    return hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS, .twice = 50};
    bool all = test_seeds_run(&seeds, run_seed);
    printf("%llu pages checked, %llu refused; %llu power failures, %llu flushes, %llu requests "
           "failed\n",
           (unsigned long long)totals[0], (unsigned long long)totals[1],
           (unsigned long long)totals[2], (unsigned long long)totals[3],
           (unsigned long long)totals[4]);
    CHECK(!all || (totals[0] > 100000 && totals[2] > 300 && totals[3] > 300 && totals[4] > 100));
    return 0;
}
