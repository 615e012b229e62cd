/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that WALs on a simulated disk never lose what they acknowledged, nor invent anything: several of them are
 * appended to, fenced, trimmed and read while requests fail, space runs out and the power fails at any moment, also
 * in the midst of opening. An owner has its whole log in memory and knows every LSN that was acknowledged. Prints the
 * seed that fails; SEED=n runs that one. The same without faults, ended by the process's death or in order, is done
 * on io_uring. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "tests/lib/seeds.h"
#include "tests/lib/wal_owner.h"

enum {
    BLOCK = FP_DISK_ALIGN,
    LIVES = 7,
    SEEDS = 300,
};

static const fp_disk_sim_config plain = {0};

/* ---- opening, and what is found -------------------------------------------------------------- */

static void count_one(fp_wal_req *req) { ++*(unsigned *)req->user; }

/* False: something failed, or the power has. */
static bool try_open(owner *o, uint64_t until)
{
    unsigned count = 0;
    fp_wal_req req = {.done = count_one, .user = &count};
    memset(o->options.landing, 0xa5, o->options.landing_bytes);
    CHECK(!fp_wal_open(o->run->disk, &o->options, &req, &o->wal));
    while (!count && !o->run->dead && wal_now(o->run) < until)
        CHECK(fp_disk_poll(o->run->disk, 1) >= 0);
    if (count && !req.status)
        return true;
    CHECK(!count || req.status == FARPOOL_E_IO);
    fp_disk_close(o->run->disk); /* done() of what is under way, if that is so */
    CHECK(count == 1);
    fp_wal_free(o->wal);
    o->wal = NULL;
    return false;
}

static void crash(void *arg)
{
    run *r = arg;
    if (!r->armed)
        return; /* meant for an earlier life, which has ended otherwise */
    r->crashes++;
    r->armed = false;
    r->dead = true;
    fp_disk_sim_crash(r->medium);
}

static void open_disk(run *r)
{
    r->armed = r->dead = false;
    CHECK(!fp_disk_open("sim", &(fp_disk_options){.medium = r->medium}, &r->disk));
}

static void draw_faults(fp_disk_sim_config *config)
{
    *config = (fp_disk_sim_config){.slow_per_million = 50000, .slow_ns = 500000};
    for (int kind = 0; kind < FP_DISK_KINDS && wal_seed % 3 == 0; kind++)
        config->eio_per_million[kind] = 3000;
}

/* Opening fails or is cut short a few times, then succeeds. */
static void open_all(run *r)
{
    fp_disk_sim_config faulty;
    for (unsigned tries = 0; tries < 3; tries++) {
        open_disk(r);
        uint64_t until = fp_sim_now_ns(r->world) + wal_draw(r, 5000000);
        draw_faults(&faulty);
        fp_disk_sim_configure(r->medium, &faulty);
        r->armed = wal_draw(r, 2);
        if (r->armed)
            fp_sim_at(r->world, until, crash, r);
        if (try_open(&r->owners[tries % WALS], until)) {
            while (!r->dead && fp_sim_now_ns(r->world) < until)
                CHECK(fp_disk_poll(r->disk, 1) >= 0);
            fp_disk_close(r->disk);
            fp_wal_free(r->owners[tries % WALS].wal);
        }
        fp_disk_sim_configure(r->medium, &plain);
    }
    open_disk(r);
    for (unsigned i = 0; i < WALS; i++) {
        CHECK(try_open(&r->owners[i], UINT64_MAX));
        check_all(&r->owners[i]);
    }
}

/* ---- lives ----------------------------------------------------------------------------------- */

static void poll_until(run *r, uint64_t until)
{
    while (!r->dead && fp_sim_now_ns(r->world) <= until)
        poll_once(r);
}

/* Ends by a power failure, by the death of the process, or by an orderly close. */
static void live(run *r, uint64_t lifetime_ns)
{
    fp_disk_sim_config faulty;
    uint64_t end = fp_sim_now_ns(r->world) + lifetime_ns, way = wal_draw(r, 4);
    draw_faults(&faulty);
    if (wal_draw(r, 3) == 0)
        faulty.capacity_bytes = (50 + wal_draw(r, 200)) * BLOCK;
    fp_disk_sim_configure(r->medium, &faulty);
    r->armed = way < 2;
    if (r->armed)
        fp_sim_at(r->world, end, crash, r);
    start_owners(r);
    poll_until(r, end);
    r->stop = true;
    r->armed = false;
    fp_disk_sim_configure(r->medium, &plain);
    if (way == 3) {
        while (!wal_idle(r))
            CHECK(fp_disk_poll(r->disk, 1) >= 0);
        for (unsigned i = 0; i < WALS; i++) {
            int rc = wal_close(r->disk, r->owners[i].wal);
            CHECK(!rc);
            r->owners[i].wal = NULL;
        }
    }
    fp_disk_close(r->disk);
    CHECK(wal_idle(r));
    for (unsigned i = 0; i < WALS; i++)
        fp_wal_free(r->owners[i].wal);
    r->armed = way == 2 && wal_draw(r, 2);
    crash(r); /* the machine, soon after the process */
}

static uint64_t totals[3];

static uint64_t run_seed(uint64_t seed)
{
    wal_seed = seed;
    run *r = calloc(1, sizeof *r);
    CHECK(r);
    r->random = wal_seed * 0x9e3779b97f4a7c15 + 1;
    CHECK(!fp_sim_world_open(wal_seed, &(fp_sim_config){.late = wal_seed % 2}, &r->world));
    CHECK(!fp_disk_medium_open(r->world, &plain, &r->medium));
    for (unsigned i = 0; i < WALS; i++)
        open_owner(r, i);
    for (unsigned i = 0; i < LIVES; i++) {
        open_all(r);
        for (unsigned k = 0; k < WALS; k++)
            take_over(&r->owners[k]);
        live(r, 100000 + wal_draw(r, 40) * wal_draw(r, 1000000));
    }
    open_all(r);
    uint64_t hash = fp_sim_trace_hash(r->world);
    totals[0] += r->acknowledged;
    totals[1] += r->crashes;
    totals[2] += r->failed;
    fp_disk_close(r->disk);
    for (unsigned i = 0; i < WALS; i++) {
        fp_wal_free(r->owners[i].wal);
        wal_owner_close(&r->owners[i]);
    }
    fp_disk_medium_close(r->medium);
    fp_sim_world_close(r->world);
    free(r);
    return hash;
}

/* ---- on io_uring ----------------------------------------------------------------------------- */

static void remove_directory(run *r, const char *dir)
{
    fp_disk_req list = {.kind = FP_DISK_LIST};
    CHECK(!disk_do(r->disk, &list));
    for (char *name = list.names; *name; name += strlen(name) + 1)
        CHECK(!disk_unlink(r->disk, name));
    free(list.names);
    fp_disk_close(r->disk);
    CHECK(!rmdir(dir));
}

static void live_for_real(run *r, bool in_order)
{
    uint64_t enough = r->acknowledged + 60;
    start_owners(r);
    while (r->acknowledged < enough)
        poll_once(r);
    r->stop = true;
    for (unsigned i = 0; i < WALS && in_order; i++) {
        CHECK(!wal_close(r->disk, r->owners[i].wal));
        r->owners[i].wal = NULL;
    }
    fp_disk_close(r->disk);
    CHECK(wal_idle(r));
    for (unsigned i = 0; i < WALS; i++)
        fp_wal_free(r->owners[i].wal);
}

static void run_for_real(void)
{
    const char *build = getenv("FARPOOL_BUILD");
    char dir[256];
    run r = {.random = 1};
    snprintf(dir, sizeof dir, "%s/farpool-wal-XXXXXX", build ? build : "build");
    CHECK(mkdtemp(dir));
    for (unsigned i = 0; i < WALS; i++)
        open_owner(&r, i);
    for (unsigned life = 0; life <= LIVES; life++) {
        int rc = fp_disk_open(dir, NULL, &r.disk);
        if (rc == FARPOOL_E_UNSUPPORTED) {
            printf("not run on io_uring: %s\n", farpool_errmsg());
            rmdir(dir);
            break;
        }
        CHECK(!rc);
        for (unsigned i = 0; i < WALS; i++) {
            CHECK(try_open(&r.owners[i], UINT64_MAX));
            check_all(&r.owners[i]);
            take_over(&r.owners[i]);
        }
        if (life < LIVES) {
            live_for_real(&r, life % 2);
            continue;
        }
        for (unsigned i = 0; i < WALS; i++)
            CHECK(!wal_close(r.disk, r.owners[i].wal));
        remove_directory(&r, dir);
    }
    for (unsigned i = 0; i < WALS; i++)
        wal_owner_close(&r.owners[i]);
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS, .twice = 50};
    bool all = test_seeds_run(&seeds, run_seed);
    printf("%llu appends acknowledged, %llu power failures, %llu requests failed\n",
           (unsigned long long)totals[0], (unsigned long long)totals[1],
           (unsigned long long)totals[2]);
    if (all)
        run_for_real();
    CHECK(!all || (totals[0] > 10000 && totals[1] > 500 && totals[2] > 500));
    return 0;
}
