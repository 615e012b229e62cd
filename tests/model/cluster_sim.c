/* SPDX-License-Identifier: Apache-2.0 */
/* test-timeout: 600
 *
 * Shows that a whole cluster loses nothing that it has acknowledged: compute nodes that follow one another, memory
 * nodes with small log rings that are used many times over, their spillers, and storage nodes on simulated disks,
 * all in one process, in one simulated world.
 *
 *   - what was acknowledged as durable in memory is there after every recovery, as long as no more memory nodes have
 *     forgotten what they held than docs/redo.md allows, whatever else is lost, and whatever has been overwritten
 *   - what was acknowledged as durable on storage is there also when every memory node has forgotten everything
 *   - every page has exactly the content that belongs to that state, also if its copy was on a node that is gone
 *   - commits that wait for storage go on when it is there again; nothing hangs
 *
 * Each seed draws the cluster's size and what goes wrong: connections reset, cut and lost, memory nodes that crash and
 * come back empty, storage nodes whose power fails, and all at once. SEED=n replays one, twice, and both runs must be
 * the same to the last step; SEED=n SEEDS=m runs m from there on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "compute/keeper.h"
#include "memnode/node.h"
#include "tests/lib/redo_model.h"
#include "tests/lib/simtrouble.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    SEEDS = 500,
    SEEDS_QUICK = 60,
    SEED_SECONDS_MAX = 300, /* of real time; under a sanitizer a seed takes a few */
    STORAGES_MAX = 3,
    OWNERS_MIN = 2,
    OWNERS_MORE = 4,
    OPS_MAX = 150,
    OPS_BIG = 500, /* for which the rings are used several times over */
    RING_BYTES = 1 << 20,
    OPEN_TRIES = 30,
    CALM_TRIES = 10,
    OP_SECONDS_MAX = 60, /* of the world's time */
    MEND_NS = 1000000000 /* within this what was cut or without power is back */
};

static const unsigned schedule[] = {
    0, CRASHES, RESETS, CUTS, CRASHES, CUTS | CRASHES, LOSSES, CRASHES, CUTS | RESETS | CRASHES};

typedef struct owner {
    char name[16];
    uint64_t epoch;
    farpool_pool *pool;
    farpool_partition *part;
    farpool_btree *tree;
    bool done;                       /* its log has failed, or its tree is in doubt */
    unsigned crashes[SIM_NODES_MAX]; /* of each node before it opened */
} owner;

static struct {
    uint64_t seed, random, hash, epoch;
    unsigned copies, quorum, storage_quorum, storage_count;
    bool powers;      /* storage nodes' power fails */
    bool base_stored; /* what the model begins with is on stable media */
    sim_setup sim;
    sim_storage storages[STORAGES_MAX];
    const char *storage_uris[STORAGES_MAX];
    sim_trouble trouble;
    owner *current;
    redo_model model;
} r;

static struct {
    uint64_t acked, stored, recoveries, from_storage, powers, laps, fetched;
} count;

void model_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "SEED=%llu: %s:%d: %s is false (last error: %s)\n", (unsigned long long)r.seed,
            file, line, what, farpool_errmsg());
    exit(1);
}

static uint64_t draw(uint64_t below) { return test_random(&r.random) % below; }

static void note(uint64_t what) { r.hash = (r.hash ^ what) * 0x100000001B3ull; /* FNV-1a */ }

static void check_time(uint64_t start)
{
    MODEL_CHECK(fp_sim_now_ns(r.sim.world) - start < OP_SECONDS_MAX * 1000000000ull);
    note(fp_sim_now_ns(r.sim.world));
}

/* ---- storage nodes come and go --------------------------------------------------------------- */

static void storage_back(void *arg)
{
    sim_storage *s = arg;
    if (s->lost)
        sim_storage_restart(s);
}

static void storage_fails(void *arg)
{
    sim_storage *s = arg;
    if (s->lost || r.trouble.quiet)
        return;
    count.powers++;
    sim_storage_crash(s);
    fp_sim_at(r.sim.world, fp_sim_now_ns(r.sim.world) + 1000 + draw(MEND_NS), storage_back, s);
}

/* Who waits for storage waits for ever otherwise. */
static void mend(void *arg)
{
    (void)arg;
    fp_sim_heal(r.sim.world);
    r.trouble.cuts = 0;
}

static void make_trouble(uint64_t within)
{
    uint64_t now = fp_sim_now_ns(r.sim.world);
    sim_trouble_make(&r.trouble, within);
    fp_sim_at(r.sim.world, now + within + draw(MEND_NS), mend, NULL);
    if (r.powers && draw(6) == 0)
        fp_sim_at(r.sim.world, now + draw(within), storage_fails,
                  &r.storages[draw(r.storage_count)]);
}

static void calm(void)
{
    sim_trouble_calm(&r.trouble);
    for (unsigned i = 0; i < r.storage_count; i++)
        storage_back(&r.storages[i]);
    sim_pass(&r.sim, 1500);
}

/* ---- owners ---------------------------------------------------------------------------------- */

static void work(owner *o)
{
    uint64_t start = fp_sim_now_ns(r.sim.world), kind = draw(100);
    bool in_doubt = false;
    unsigned acked = r.model.acked, stored = r.model.stored;
    int rc;
    if (o->done)
        return;
    if (kind < 60)
        rc = model_commit(&r.model, o->part,
                          draw(8) == 0 ? FARPOOL_DURABLE_STORAGE
                          : draw(2)    ? FARPOOL_DURABLE_MEMORY
                                       : FARPOOL_DURABLE_LATER);
    else if (kind < 75)
        rc = model_tree_op(&r.model, o->tree, &in_doubt);
    else if (kind < 90)
        rc = model_read(&r.model, o->part);
    else
        rc = model_wait(&r.model, o->part);
    count.acked += r.model.acked - acked;
    count.stored += r.model.stored - stored;
    note((uint64_t)rc);
    MODEL_CHECK(!rc || r.trouble.kinds || r.powers);
    MODEL_CHECK(!rc || rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT || rc == FARPOOL_E_NOSPACE ||
                rc == FARPOOL_E_UNSUPPORTED);
    o->done = in_doubt || r.model.count + MODEL_CHANGES > MODEL_STEPS;
    check_time(start);
}

static owner *new_owner(void)
{
    owner *o = calloc(1, sizeof *o);
    MODEL_CHECK(o);
    o->epoch = ++r.epoch;
    snprintf(o->name, sizeof o->name, "owner%llu", (unsigned long long)o->epoch);
    r.trouble.name = o->name;
    memcpy(o->crashes, r.trouble.crashes, sizeof o->crashes);
    sim_pool_open(&r.sim, o->name, FARPOOL_MAPPING_FRAMES, &o->pool);
    return o;
}

static void close_owner(owner *o)
{
    if (!o)
        return;
    uint64_t start = fp_sim_now_ns(r.sim.world);
    if (o->tree)
        farpool_btree_close(o->tree);
    if (o->part)
        note((uint64_t)farpool_partition_close(o->part));
    MODEL_CHECK(farpool_pool_close(o->pool) == 0);
    check_time(start);
    if (r.trouble.name == o->name)
        r.trouble.name = "nobody";
    free(o);
}

static int open_partition(owner *o, enum farpool_recover recover)
{
    uint64_t start = fp_sim_now_ns(r.sim.world);
    farpool_partition_options options;
    sim_partition_options(&r.sim, o->epoch, &options);
    options.log_copies = r.copies;
    options.log_quorum = r.quorum;
    options.log_ring_bytes = RING_BYTES;
    options.storagenodes = r.storage_uris;
    options.storagenode_count = r.storage_count;
    options.storage_quorum = r.storage_quorum;
    options.recover = recover;
    int rc = farpool_partition_open(o->pool, &options, &o->part);
    note((uint64_t)rc);
    check_time(start);
    return rc;
}

/* The new owner of a partition that was opened: everything is as it should be. */
static int take_over(owner *o)
{
    int rc = farpool_btree_open(o->part, r.model.root, &o->tree);
    if (!rc)
        rc = model_take_over(&r.model, o->part, o->tree);
    MODEL_CHECK(!rc || !r.trouble.quiet);
    return rc;
}

static bool enough_tell(void)
{
    unsigned rings = 0;
    for (unsigned i = 0; i < r.copies; i++)
        rings += r.trouble.tells[i];
    return rings >= r.copies - r.quorum + 1;
}

/* Tries, until somebody has the partition. The one before does not know. False: too few rings tell, and it is not known
 * what the storage nodes have. */
static bool succeed(void)
{
    for (unsigned tries = 0;; tries++) {
        MODEL_CHECK(tries < OPEN_TRIES);
        if (tries >= 2)
            calm();
        owner *o = new_owner();
        bool stored = r.trouble.quiet && !enough_tell();
        if (stored && !r.base_stored) {
            close_owner(o);
            return false;
        }
        if (stored)
            r.model.acked = r.model.stored; /* the rest may be lost: that is what this is for */
        int rc = open_partition(o, stored ? FARPOOL_RECOVER_STORED : FARPOOL_RECOVER);
        MODEL_CHECK(!rc || !r.trouble.quiet);
        if (!rc)
            rc = take_over(o);
        if (!rc) {
            count.recoveries++;
            count.from_storage += o->part->redo->from_storage;
            close_owner(r.current);
            r.current = o;
            r.base_stored = !farpool_wait_durable(o->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE);
            return true;
        }
        MODEL_CHECK(rc == FARPOOL_E_NODE || rc == FARPOOL_E_NOTFOUND || rc == FARPOOL_E_TIMEOUT);
        close_owner(o);
    }
}

/* The owner dies right after what it has done last, and perhaps a memory node with it. */
static void sudden_death(void)
{
    for (unsigned i = 0; i < r.sim.node_count; i++)
        fp_sim_reset(r.sim.world, r.current->name, r.sim.uris[i] + strlen("sim://"));
    r.current->done = true;
    unsigned victim = (unsigned)draw(r.sim.node_count);
    if (r.quorum > 1 && draw(2)) {
        r.trouble.crashes_left++;
        sim_trouble_crash(&r.trouble, victim);
    }
}

/* Every machine loses its power. */
static void disaster(void)
{
    for (unsigned i = 0; i < r.sim.node_count; i++) {
        r.trouble.crashes_left++;
        sim_trouble_crash(&r.trouble, i);
    }
    for (unsigned i = 0; i < r.storage_count; i++)
        storage_fails(&r.storages[i]);
    calm();
}

/* ---- a seed ---------------------------------------------------------------------------------- */

static void note_rings(const owner *o)
{
    for (unsigned i = 0; i < o->part->redo->ring_count; i++) {
        const fp_ring *ring = &o->part->redo->rings[i];
        if (!ring->lost && ring->speaks && o->crashes[i] == r.trouble.crashes[i] &&
            ring->acked >= atomic_load(&o->part->redo->start))
            r.trouble.tells[i] = true;
    }
}

static void begin(void)
{
    r.trouble.quiet = true;
    r.current = new_owner();
    MODEL_CHECK(open_partition(r.current, FARPOOL_NEW) == 0);
    MODEL_CHECK(model_create(&r.model, r.current->part, &r.random) == 0);
    MODEL_CHECK(!farpool_wait_durable(r.current->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE));
    r.base_stored = true;
    r.model.big = r.seed % 4 == 1;
    MODEL_CHECK(farpool_btree_open(r.current->part, r.model.root, &r.current->tree) == 0);
    note_rings(r.current);
}

static void live(void)
{
    for (unsigned owners = OWNERS_MIN + (unsigned)draw(OWNERS_MORE); owners; owners--) {
        sim_trouble_rouse(&r.trouble);
        for (uint64_t ops = draw(r.model.big ? OPS_BIG : OPS_MAX); ops; ops--) {
            if (draw(10) == 0)
                make_trouble(2000000);
            work(r.current);
            note_rings(r.current);
        }
        count.laps += atomic_load(&r.current->part->redo->end) / RING_BYTES;
        if (draw(2))
            sudden_death();
        if (draw(4) == 0)
            disaster();
        make_trouble(500000);
        if (!succeed())
            return;
        note_rings(r.current);
    }
}

static uint64_t run_seed(uint64_t seed)
{
    memset(&r, 0, sizeof r);
    r.seed = r.random = seed;
    r.trouble.kinds = schedule[seed % (sizeof schedule / sizeof schedule[0])];
    r.trouble.name = "nobody";
    r.trouble.crashes_left = (unsigned)draw(5);
    r.powers = draw(2);
    fp_sim_config config = {.torn = seed % 5 != 0, .late = seed % 3 != 0};
    unsigned nodes = 1 + (unsigned)draw(4);
    r.copies = nodes < 3 ? nodes : 3;
    r.quorum = r.copies / 2 + 1;
    r.storage_count = 1 + (unsigned)draw(nodes < STORAGES_MAX ? nodes : STORAGES_MAX);
    r.storage_quorum = 1 + (unsigned)draw(r.storage_count < r.copies ? r.storage_count : r.copies);
    r.trouble.copies = r.copies;
    r.trouble.sim = &r.sim;
    r.trouble.random = &r.random;
    r.trouble.loss = 100u << seed % 5;
    sim_setup_open(&r.sim, seed, &config, nodes, 3);
    for (unsigned i = 0; i < r.storage_count; i++) {
        sim_storage_open(&r.storages[i], r.sim.world, i);
        r.storage_uris[i] = r.storages[i].uri;
    }
    for (unsigned i = 0; i < nodes; i++)
        sim_node_spill(&r.sim.nodes[i], r.storages[i % r.storage_count].uri);
    begin();
    live();
    calm();
    close_owner(r.current);
    note(fp_sim_trace_hash(r.sim.world));
    for (unsigned i = 0; i < nodes; i++)
        sim_node_crash(&r.sim.nodes[i]); /* or they go on while storage nodes close */
    for (unsigned i = 0; i < r.storage_count; i++)
        sim_storage_close(&r.storages[i]);
    sim_setup_close(&r.sim);
    return r.hash;
}

int main(void)
{
    fp_log_set_level(FP_LOG_ERROR);
    const char *text = getenv("SEED");
    uint64_t first = text ? strtoull(text, NULL, 10) : 1;
    const char *seeds = getenv("SEEDS");
    uint64_t some = getenv("FARPOOL_TEST_QUICK") ? SEEDS_QUICK : SEEDS;
    uint64_t more = seeds ? strtoull(seeds, NULL, 10) : text ? 1 : some;
    for (uint64_t seed = first; seed < first + more; seed++) {
        alarm(SEED_SECONDS_MAX); /* a hang fails */
        uint64_t hash = run_seed(seed);
        if (more == 1 || seed % 50 == 0)
            MODEL_CHECK(run_seed(seed) == hash);
        if ((seed - first + 1) % 50 == 0)
            fprintf(stderr, "%llu of %llu seeds\n", (unsigned long long)(seed - first + 1),
                    (unsigned long long)more);
    }
    printf("%llu steps acknowledged, %llu of them on storage; %llu recoveries, %llu of them from "
           "storage; %llu power "
           "failures of storage nodes, %llu laps of rings\n",
           (unsigned long long)count.acked, (unsigned long long)count.stored,
           (unsigned long long)count.recoveries, (unsigned long long)count.from_storage,
           (unsigned long long)count.powers, (unsigned long long)count.laps);
    return 0;
}
