/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that whoever keeps to the metastore's contract counts right, whatever the simulated one does: answers are lost
 * or late, members have no leader, history goes, clients are cut off and crash. And that a seed repeats a run exactly.
 * SEED=n replays one; SEED=n SEEDS=m runs m from there on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/sim.h"
#include "tests/lib/require.h"
#include "tests/lib/seeds.h"

enum { CLIENTS = 3, ADDS_MAX = 4096, MS = 1000000, RUN_MS = 8000, CALM_MS = 4000 };
enum { SEEDS = 300, SEEDS_QUICK = 60 };

typedef struct client {
    struct run *run;
    fp_meta *meta;
    fp_meta_req req;
    fp_meta_op op;
    fp_meta_compare compare;
    fp_meta_watch watch;
    fp_meta_req list;
    char value[40], uri[16];
    unsigned number, add;
    uint64_t watched; /* the last revision known */
    long long last;   /* and the count there */
    bool busy, listing;
} client;

typedef struct run {
    fp_sim_world *world;
    fp_meta_service *service;
    client clients[CLIENTS];
    enum { OPEN, DONE, IN_DOUBT, LOST } outcomes[ADDS_MAX];
    uint64_t revisions[ADDS_MAX]; /* where each was seen; 0: nowhere */
    unsigned adds;
    bool calm;
} run;

static void go_on(client *c);

/* ---- who follows by a watch ------------------------------------------------------------------ */

static void take_count(client *c, const fp_meta_kv *kv)
{
    long long count;
    unsigned add;
    REQUIRE(sscanf(kv->value, "%lld %u", &count, &add) == 2 && add < c->run->adds);
    uint64_t *revision = &c->run->revisions[add];
    REQUIRE(!*revision || *revision == kv->revision); /* M5: applied once at most */
    *revision = kv->revision;
    c->last = count;
    c->watched = kv->revision;
}

static void changes_came(fp_meta_watch *watch, const fp_meta_kv *changes, size_t count)
{
    client *c = watch->user;
    for (size_t i = 0; i < count; i++) {
        long long before = c->last;
        REQUIRE(changes[i].revision > c->watched); /* M8: in order and once */
        take_count(c, &changes[i]);
        REQUIRE(c->last == before + 1); /* and none is missing */
    }
}

static void list_again(client *c);

static void watch_ended(fp_meta_watch *watch)
{
    client *c = watch->user;
    if (watch->status == FARPOOL_E_CLOSED)
        return;
    REQUIRE(watch->status == FARPOOL_E_COMPACTED);
    list_again(c);
}

static void listed(fp_meta_req *req)
{
    client *c = req->user;
    c->listing = false;
    if (req->status == FARPOOL_E_CLOSED)
        return;
    if (req->status) {
        list_again(c);
        return;
    }
    if (req->kv_count) {
        REQUIRE(req->kvs[0].revision >= c->watched);
        take_count(c, &req->kvs[0]);
    }
    free(req->kvs);
    c->watch = (fp_meta_watch){.prefix = "n",
                               .from = req->revision + 1,
                               .events = changes_came,
                               .ended = watch_ended,
                               .user = c};
    fp_meta_watch_start(c->meta, &c->watch);
}

static void list_again(client *c)
{
    c->listing = true;
    c->list = (fp_meta_req){.kind = FP_META_RANGE, .key = "n", .done = listed, .user = c};
    fp_meta_submit(c->meta, &c->list);
}

/* ---- who counts ------------------------------------------------------------------------------ */

static void was_written(fp_meta_req *req)
{
    client *c = req->user;
    c->busy = false;
    if (req->status == FARPOOL_E_UNKNOWN)
        c->run->outcomes[c->add] = IN_DOUBT;
    else
        c->run->outcomes[c->add] = !req->status && req->succeeded ? DONE : LOST;
    if (req->status != FARPOOL_E_CLOSED)
        go_on(c);
}

static void was_read(fp_meta_req *req)
{
    client *c = req->user;
    c->busy = false;
    if (req->status == FARPOOL_E_CLOSED)
        return;
    if (req->status) {
        go_on(c);
        return;
    }
    uint64_t revision = req->kvs[0].revision;
    long long count = revision ? strtoll(req->kvs[0].value, NULL, 10) : 0;
    free(req->kvs);
    REQUIRE(c->run->adds < ADDS_MAX);
    c->add = c->run->adds++;
    snprintf(c->value, sizeof c->value, "%lld %u", count + 1, c->add);
    c->compare = (fp_meta_compare){
        .kind = revision ? FP_META_REVISION_IS : FP_META_ABSENT, .key = "n", .revision = revision};
    c->op =
        (fp_meta_op){.kind = FP_META_PUT, .key = "n", .value = c->value, .len = strlen(c->value)};
    c->req = (fp_meta_req){.kind = FP_META_TXN,
                           .compares = &c->compare,
                           .compare_count = 1,
                           .ops = &c->op,
                           .op_count = 1,
                           .done = was_written,
                           .user = c};
    c->busy = true;
    fp_meta_submit(c->meta, &c->req);
}

static void go_on(client *c)
{
    if (c->run->calm)
        return;
    c->op = (fp_meta_op){.kind = FP_META_GET, .key = "n"};
    c->req = (fp_meta_req){
        .kind = FP_META_TXN, .ops = &c->op, .op_count = 1, .done = was_read, .user = c};
    c->busy = true;
    fp_meta_submit(c->meta, &c->req);
}

static void drive(void *arg) { REQUIRE(fp_meta_poll(((client *)arg)->meta, 0) >= 0); }

static void open_client(client *c)
{
    const fp_meta_options options = {.service = c->run->service, .timeout_ms = 300};
    snprintf(c->uri, sizeof c->uri, "sim:%u", c->number);
    test_must(fp_meta_open(c->uri, &options, &c->meta), "store");
    fp_meta_sim_set_driver(c->meta, drive, c);
    c->last = 0;
    c->watched = 0;
    list_again(c);
    go_on(c);
}

/* ---- what goes wrong ------------------------------------------------------------------------- */

static uint64_t draw(uint64_t *random, uint64_t below)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random % below;
}

static void make_trouble(run *r, uint64_t *random)
{
    client *c = &r->clients[draw(random, CLIENTS)];
    switch (draw(random, 6)) {
    case 0:
        fp_meta_service_compact(r->service);
        break;
    case 1:
        fp_meta_service_change_leader(r->service);
        break;
    case 2:
        fp_meta_sim_cut(c->meta, true);
        break;
    case 3:
        fp_meta_sim_crash(c->meta);
        fp_meta_close(c->meta);
        open_client(c);
        break;
    default:
        for (unsigned i = 0; i < CLIENTS; i++)
            fp_meta_sim_cut(r->clients[i].meta, false);
    }
}

/* What was acknowledged is counted; what is in doubt may be; what was said not to be applied is not. */
static void check_history(run *r, const client *c)
{
    unsigned done = 0, doubtful = 0;
    for (unsigned i = 0; i < r->adds; i++) {
        done += r->outcomes[i] == DONE;
        doubtful += r->outcomes[i] == IN_DOUBT || r->outcomes[i] == OPEN;
    }
    REQUIRE(c->last >= done && c->last <= done + doubtful);
    for (unsigned i = 0; i < r->adds; i++)
        REQUIRE(r->outcomes[i] != LOST || !r->revisions[i]);
}

static uint64_t run_seed(uint64_t seed)
{
    static run r;
    const fp_sim_config world = {.late = true};
    const fp_meta_sim_config bad = {.loss_per_million = 30000,
                                    .slow_per_million = 50000,
                                    .slow_ns = 900 * (uint64_t)MS,
                                    .no_leader_per_million = 30000,
                                    .full_per_million = 10000,
                                    .history = 50};
    uint64_t random = seed * 2654435761u + 1;
    memset(&r, 0, sizeof r);
    test_must(fp_sim_world_open(seed, &world, &r.world), "world");
    test_must(fp_meta_service_open(r.world, &bad, &r.service), "service");
    for (unsigned i = 0; i < CLIENTS; i++) {
        r.clients[i] = (client){.run = &r, .number = i};
        open_client(&r.clients[i]);
    }
    uint64_t trouble = 0;
    while (fp_sim_now_ns(r.world) < RUN_MS * (uint64_t)MS) {
        REQUIRE(fp_meta_poll(r.clients[0].meta, 10) >= 0);
        if (fp_sim_now_ns(r.world) < trouble)
            continue;
        trouble = fp_sim_now_ns(r.world) + draw(&random, 200) * MS;
        make_trouble(&r, &random);
    }
    r.calm = true;
    for (unsigned i = 0; i < CLIENTS; i++)
        fp_meta_sim_cut(r.clients[i].meta, false);
    fp_meta_service_configure(r.service, NULL);
    uint64_t calm = fp_sim_now_ns(r.world) + CALM_MS * (uint64_t)MS;
    while (fp_sim_now_ns(r.world) < calm)
        REQUIRE(fp_meta_poll(r.clients[0].meta, 100) >= 0);
    for (unsigned i = 0; i < CLIENTS; i++) {
        REQUIRE(!r.clients[i].busy && !r.clients[i].listing);
        REQUIRE(r.clients[i].last == r.clients[0].last); /* all have seen the same end */
    }
    check_history(&r, &r.clients[0]);
    REQUIRE(r.clients[0].last > 10);
    for (unsigned i = 0; i < CLIENTS; i++)
        fp_meta_close(r.clients[i].meta);
    uint64_t hash = fp_sim_trace_hash(r.world) ^ (uint64_t)r.clients[0].last << 32 ^ r.adds;
    fp_meta_service_close(r.service);
    fp_sim_world_close(r.world);
    return hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 10};
    test_seeds_run(&seeds, run_seed);
    return 0;
}
