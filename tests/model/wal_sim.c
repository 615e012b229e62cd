/* SPDX-License-Identifier: Apache-2.0 */
/* test-timeout: 300
 *
 * Shows that WALs on a simulated disk never lose what they acknowledged, nor invent anything: several of them are
 * appended to, fenced, trimmed and read while requests fail, space runs out and the power fails at any moment, also
 * in the midst of opening. An owner has its whole log in memory and knows every LSN that was acknowledged. Prints the
 * seed that fails; SEED=n runs that one. The same without faults, ended by the process's death or in order, is done
 * on io_uring. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/redo.h"
#include "tests/lib/disk_scope.h"
#include "tests/lib/wal_log.h"

enum {
    BLOCK = FP_DISK_ALIGN,
    WALS = 2,
    REQUESTS = 4, /* of a WAL at a time */
    LIVES = 7,
    SEEDS = 300,
    LSN_MAX = 1 << 20,
};

static uint64_t seed; /* under way */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "SEED=%llu: line %d: %s is false (%s)\n", (unsigned long long)seed,    \
                    __LINE__, #condition, farpool_errmsg());                                       \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const fp_disk_sim_config plain = {0};

struct run;

typedef struct slot {
    fp_wal_req req;
    struct owner *owner;
    enum { IDLE, APPEND, FENCE, TRIM, READ } what;
    uint64_t value; /* upto, epoch, lsn; READ: from */
    uint8_t *buffer;
} slot;

typedef struct owner {
    struct run *run;
    wal_log log;
    fp_wal_options options;
    fp_wal *wal;
    slot slots[REQUESTS];
    uint64_t epoch;        /* of new frames */
    uint64_t acknowledged; /* LSN */
    uint64_t promised;     /* acknowledged */
    uint64_t trimmed;      /* asked for */
    unsigned failures;     /* since the last success */
    bool fencing;          /* nobody appends until it is known whether the fence holds */
    bool over;             /* for this life */
} owner;

typedef struct run {
    fp_sim_world *world;
    fp_disk_medium *medium;
    fp_disk *disk;
    uint64_t random;
    bool stop;
    bool armed, dead; /* the power may fail; it has */
    owner owners[WALS];
    uint64_t acknowledged, crashes, failed; /* altogether */
} run;

static uint64_t draw(run *r, uint64_t below)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return (r->random >> 11) % below;
}

static uint64_t now(const run *r) { return r->world ? fp_sim_now_ns(r->world) : 0; }

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
    if (o->log.end < LSN_MAX && draw(r, 4)) {
        size_t longest = draw(r, 8) ? 3000 : o->options.landing_bytes - BLOCK;
        wal_log_frame(&o->log, o->epoch, 40 + draw(r, longest - 60), seed);
    }
    uint64_t upto = wal_log_after(&o->log, end, 1 + (unsigned)draw(r, 4));
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
    o->fencing = !fp_wal_fence(o->wal, s->value, &s->req);
    return o->fencing;
}

static bool try_trim(slot *s)
{
    owner *o = s->owner;
    uint64_t start = fp_wal_start(o->wal), durable = fp_wal_durable(o->wal);
    s->what = TRIM;
    s->value = start + draw(o->run, durable - start + 1);
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
    s->value = wal_log_after(&o->log, start + draw(o->run, durable - start), 1);
    uint64_t to = s->value + 1 + draw(o->run, 9000);
    to = to < durable ? to : durable;
    return s->value < to && !fp_wal_read(o->wal, s->value, to, s->buffer, &s->req);
}

static void act(slot *s)
{
    uint64_t choice = draw(s->owner->run, 100);
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

/* ---- opening, and what is found -------------------------------------------------------------- */

static void check_all(owner *o)
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

static void count_one(fp_wal_req *req) { ++*(unsigned *)req->user; }

/* False: something failed, or the power has. */
static bool try_open(owner *o, uint64_t until)
{
    unsigned count = 0;
    fp_wal_req req = {.done = count_one, .user = &count};
    memset(o->options.landing, 0xa5, o->options.landing_bytes);
    CHECK(!fp_wal_open(o->run->disk, &o->options, &req, &o->wal));
    while (!count && !o->run->dead && now(o->run) < until)
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
    for (int kind = 0; kind < FP_DISK_KINDS && seed % 3 == 0; kind++)
        config->eio_per_million[kind] = 3000;
}

/* Opening fails or is cut short a few times, then succeeds. */
static void open_all(run *r)
{
    fp_disk_sim_config faulty;
    for (unsigned tries = 0; tries < 3; tries++) {
        open_disk(r);
        uint64_t until = fp_sim_now_ns(r->world) + draw(r, 5000000);
        draw_faults(&faulty);
        fp_disk_sim_configure(r->medium, &faulty);
        r->armed = draw(r, 2);
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

/* A new owner's log goes on where the WAL ends; the old one goes on with its own. */
static void take_over(owner *o)
{
    o->acknowledged = fp_wal_end(o->wal);
    o->epoch = fp_wal_epoch(o->wal) > o->epoch ? fp_wal_epoch(o->wal) : o->epoch;
    if (draw(o->run, 2) || fp_wal_epoch(o->wal) == o->epoch) {
        wal_log_truncate(&o->log, fp_wal_end(o->wal));
        o->epoch++;
        CHECK(!wal_fence(o->run->disk, o->wal, o->epoch));
        o->promised = o->epoch;
    }
}

/* ---- lives ----------------------------------------------------------------------------------- */

static void start_owners(run *r)
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

static bool idle(const run *r)
{
    for (unsigned i = 0; i < WALS; i++)
        for (unsigned k = 0; k < REQUESTS; k++)
            if (r->owners[i].slots[k].what != IDLE)
                return false;
    return true;
}

static void poll_once(run *r)
{
    CHECK(fp_disk_poll(r->disk, 1) >= 0);
    for (unsigned i = 0; i < WALS; i++) /* who found nothing to do tries again */
        if (!r->owners[i].over && r->owners[i].slots[0].what == IDLE && !r->stop)
            act(&r->owners[i].slots[0]);
}

static void poll_until(run *r, uint64_t until)
{
    while (!r->dead && fp_sim_now_ns(r->world) <= until)
        poll_once(r);
}

/* Ends by a power failure, by the death of the process, or by an orderly close. */
static void live(run *r, uint64_t lifetime_ns)
{
    fp_disk_sim_config faulty;
    uint64_t end = fp_sim_now_ns(r->world) + lifetime_ns, way = draw(r, 4);
    draw_faults(&faulty);
    if (draw(r, 3) == 0)
        faulty.capacity_bytes = (50 + draw(r, 200)) * BLOCK;
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
        while (!idle(r))
            CHECK(fp_disk_poll(r->disk, 1) >= 0);
        for (unsigned i = 0; i < WALS; i++) {
            int rc = wal_close(r->disk, r->owners[i].wal);
            CHECK(!rc);
            r->owners[i].wal = NULL;
        }
    }
    fp_disk_close(r->disk);
    CHECK(idle(r));
    for (unsigned i = 0; i < WALS; i++)
        fp_wal_free(r->owners[i].wal);
    r->armed = way == 2 && draw(r, 2);
    crash(r); /* the machine, soon after the process */
}

static void open_owner(run *r, unsigned index)
{
    owner *o = &r->owners[index];
    uint64_t start = FP_REDO_LSN_FIRST + 8 * draw(r, 3000);
    size_t ring = (4 + draw(r, 12)) * BLOCK;
    o->run = r;
    o->options = (fp_wal_options){.partition = 7 + index,
                                  .landing = disk_buffer(ring, 0),
                                  .landing_bytes = ring,
                                  .start = start,
                                  .segment_bytes = (1 + draw(r, 6)) * BLOCK};
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

static void close_owner(owner *o)
{
    for (unsigned k = 0; k < REQUESTS; k++)
        free(o->slots[k].buffer);
    free(o->options.landing);
    wal_log_close(&o->log);
}

static uint64_t totals[3];

static uint64_t run_seed(void)
{
    run *r = calloc(1, sizeof *r);
    CHECK(r);
    r->random = seed * 0x9e3779b97f4a7c15 + 1;
    CHECK(!fp_sim_world_open(seed, &(fp_sim_config){.late = seed % 2}, &r->world));
    CHECK(!fp_disk_medium_open(r->world, &plain, &r->medium));
    for (unsigned i = 0; i < WALS; i++)
        open_owner(r, i);
    for (unsigned i = 0; i < LIVES; i++) {
        open_all(r);
        for (unsigned k = 0; k < WALS; k++)
            take_over(&r->owners[k]);
        live(r, 100000 + draw(r, 40) * draw(r, 1000000));
    }
    open_all(r);
    uint64_t hash = fp_sim_trace_hash(r->world);
    totals[0] += r->acknowledged;
    totals[1] += r->crashes;
    totals[2] += r->failed;
    fp_disk_close(r->disk);
    for (unsigned i = 0; i < WALS; i++) {
        fp_wal_free(r->owners[i].wal);
        close_owner(&r->owners[i]);
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
    CHECK(idle(r));
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
        close_owner(&r.owners[i]);
}

int main(void)
{
    const char *given = getenv("SEED");
    uint64_t first = given ? strtoull(given, NULL, 10) : 1, last = given ? first : SEEDS;
    for (seed = first; seed <= last; seed++) {
        uint64_t hash = run_seed();
        if (seed % 50 == 0)
            CHECK(hash == run_seed());
    }
    printf("%llu appends acknowledged, %llu power failures, %llu requests failed\n",
           (unsigned long long)totals[0], (unsigned long long)totals[1],
           (unsigned long long)totals[2]);
    if (!given)
        run_for_real();
    CHECK(given || (totals[0] > 10000 && totals[1] > 500 && totals[2] > 500));
    return 0;
}
