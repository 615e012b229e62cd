/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what docs/redo.md promises of commits, whatever the network, the memory nodes and other owners do: every
 * successful recovery finds the changes of all acknowledged commits, those of all commits before one that is found,
 * whole ones, and nothing else, also not later what an earlier recovery has not found; it succeeds if enough rings are
 * left to tell, and else says E_NODE; after it no commit of an earlier owner is acknowledged, whose keys are dead;
 * no page is on a memory node before its redo is durable; and nothing hangs.
 *
 * Each seed is a simulated world with 1 to 5 memory nodes, k rings and a quorum w. Owners follow one another, each
 * with random work on a model (tests/lib/redo_model.h), while the last one goes on, and while a third one opens in
 * the midst of an opening. What goes wrong depends on the seed. SEED=n replays one, twice, and both runs must be the
 * same to the last step; SEED=n SEEDS=m runs m from there on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "compute/redo_log.h"
#include "memnode/node.h"
#include "tests/lib/redo_model.h"
#include "tests/lib/seeds.h"
#include "tests/lib/simtrouble.h"
#include "tests/lib/testnode.h"

enum {
    SEEDS = 600,
    SEEDS_QUICK = 150,
    OWNERS_MIN = 3,
    OWNERS_MORE = 5,
    OPS_MAX = 60,
    OPS_BIG = 400, /* which fill the log */
    OPEN_TRIES = 30,
    RING_BYTES = 1 << 20,
    OPENING_NS = 500000, /* about what one takes */
    OP_SECONDS_MAX = 30  /* of the world's time */
};

static const unsigned schedule[] = {0,
                                    RESETS,
                                    CUTS,
                                    CUTS | CRASHES,
                                    LOSSES,
                                    RESETS | CRASHES,
                                    CUTS | CRASHES,
                                    CRASHES,
                                    CUTS | LOSSES,
                                    CUTS | CRASHES,
                                    15,
                                    CUTS | RESETS | CRASHES};

typedef struct owner {
    char name[16];
    uint64_t epoch;
    farpool_pool *pool;
    farpool_partition *part;
    farpool_btree *tree;
    bool done;                       /* its log has failed, or its tree is in doubt */
    bool contested;                  /* another one has tried to open */
    unsigned crashes[SIM_NODES_MAX]; /* of each node before it opened */
} owner;

typedef struct run {
    uint64_t seed, random, hash;
    unsigned copies, quorum;
    bool nested;    /* somebody does something in the midst of it */
    uint64_t epoch; /* the last one given away */
    sim_setup sim;
    sim_trouble trouble;
    owner *current, *old; /* NULL: none */
    redo_model model;
} run;

static run r; /* the one under way */
static struct {
    uint64_t acked, recoveries, refused, stale, nested, lost, full;
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

/* ---- what owners do -------------------------------------------------------------------------- */

/* Which rings have redo now, as far as the owner knows it to be so. */
static void note_rings(const owner *o)
{
    for (unsigned i = 0; i < o->part->redo->ring_count; i++) {
        const fp_ring *ring = &o->part->redo->rings[i];
        if (!ring->lost && ring->acked > FP_REDO_LSN_FIRST && o->crashes[i] == r.trouble.crashes[i])
            r.trouble.tells[i] = true;
    }
}

/* WAL: a page that was written to its slot has redo that is durable. */
static void check_slots(const owner *o)
{
    for (unsigned i = 0; i < r.sim.node_count; i++)
        if (o->crashes[i] != r.trouble.crashes[i])
            return;
    uint64_t durable = atomic_load(&o->part->redo->durable);
    for (unsigned i = 0; i < MODEL_PAGES && !o->contested; i++) {
        const model_page *page = &r.model.now.pages[i];
        if (!page->there || fp_word_state(fp_word_load(&o->part->entries[page->pid])) != FP_EVICTED)
            continue;
        fp_slot_header header;
        memcpy(&header, sim_page_slot(&r.sim, o->part, page->pid), sizeof header);
        MODEL_CHECK(header.lsn && header.lsn <= durable);
    }
}

static void work(owner *o)
{
    uint64_t start = fp_sim_now_ns(r.sim.world), kind = draw(100);
    bool in_doubt = false;
    unsigned acked = r.model.acked;
    int rc;
    if (o->done)
        return;
    if (kind < 50)
        rc = model_commit(&r.model, o->part,
                          draw(2) ? FARPOOL_DURABLE_MEMORY : FARPOOL_DURABLE_LATER);
    else if (kind < 75)
        rc = model_tree_op(&r.model, o->tree, &in_doubt);
    else if (kind < 90)
        rc = model_read(&r.model, o->part);
    else
        rc = model_wait(&r.model, o->part);
    count.acked += r.model.acked - acked;
    count.full += rc == FARPOOL_E_NOSPACE;
    note((uint64_t)rc);
    MODEL_CHECK(
        !rc || (rc == FARPOOL_E_NODE && r.trouble.kinds) ||
        (rc == FARPOOL_E_NOSPACE && r.model.big) || o->contested ||
        (rc == FARPOOL_E_FENCED && r.epoch > o->epoch)); /* tried in the midst of its opening */
    MODEL_CHECK(!rc || rc == FARPOOL_E_NODE || rc == FARPOOL_E_NOSPACE || rc == FARPOOL_E_FENCED);
    o->done = in_doubt || r.model.count + MODEL_CHANGES > MODEL_STEPS;
    note_rings(o);
    check_slots(o);
    check_time(start);
}

/* An owner whose partition was taken over changes something: it is never durable. */
static void work_in_vain(const owner *o)
{
    farpool_mtr *mtr;
    void *page;
    uint64_t start = fp_sim_now_ns(r.sim.world);
    int rc = farpool_mtr_begin(o->part, 0, &mtr);
    bool begun = !rc;
    if (begun)
        rc = farpool_mtr_fix(mtr, r.model.base.pages[0].pid, &page);
    if (begun && rc) {
        farpool_mtr_abandon(mtr);
    } else if (begun) {
        ((uint64_t *)page)[0]++;
        rc = farpool_mtr_commit(mtr, (enum farpool_durability)draw(2), NULL);
        if (!rc)
            rc = farpool_wait_durable(o->part, UINT64_MAX, FARPOOL_DURABLE_MEMORY);
    }
    MODEL_CHECK(rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED || rc == FARPOOL_E_NOSPACE);
    count.stale++;
    note((uint64_t)rc);
    check_time(start);
}

/* No key that o has works at a node that has granted the ring to another since. */
static void check_keys(const owner *o, const owner *now)
{
    for (unsigned i = 0; i < r.copies; i++) {
        const fp_ring *before = &o->part->redo->rings[i], *after = &now->part->redo->rings[i];
        if (!before->at.count || !after->at.count || r.trouble.crashes[i] != o->crashes[i])
            continue;
        const fp_extents *extents = &r.sim.nodes[i].memnode->extents;
        for (uint32_t e = 0; e < extents->count; e++)
            for (uint32_t k = 0; k < before->at.count; k++)
                MODEL_CHECK(fp_net_rkey(extents->list[e].mrs[0]).key != before->at.extents[k].key);
    }
}

/* ---- owners come and go ---------------------------------------------------------------------- */

static owner *new_owner(void)
{
    owner *o = calloc(1, sizeof *o);
    MODEL_CHECK(o);
    o->epoch = ++r.epoch;
    snprintf(o->name, sizeof o->name, "owner%llu", (unsigned long long)o->epoch);
    memcpy(o->crashes, r.trouble.crashes, sizeof o->crashes);
    r.trouble.name = o->name;
    sim_pool_open(&r.sim, o->name, FARPOOL_MAPPING_FRAMES, &o->pool);
    return o;
}

static void close_owner(owner *o)
{
    if (!o)
        return;
    uint64_t start = fp_sim_now_ns(r.sim.world);
    farpool_btree_close(o->tree);
    if (o->part)
        note((uint64_t)farpool_partition_close(o->part));
    MODEL_CHECK(farpool_pool_close(o->pool) == 0);
    check_time(start);
    if (r.trouble.name == o->name)
        r.trouble.name = "nobody";
    free(o);
}

static int open_partition(owner *o, bool recover)
{
    uint64_t start = fp_sim_now_ns(r.sim.world);
    farpool_partition_options options;
    sim_partition_options(&r.sim, o->epoch, &options);
    options.log_copies = r.copies;
    options.log_quorum = r.quorum;
    options.log_ring_bytes = RING_BYTES;
    options.recover = recover;
    bool outermost = !r.trouble.opening;
    r.trouble.opening = true;
    int rc = farpool_partition_open(o->pool, &options, &o->part);
    r.trouble.opening = !outermost;
    note((uint64_t)rc);
    check_time(start);
    return rc;
}

static unsigned telling(void)
{
    unsigned rings = 0;
    for (unsigned i = 0; i < r.copies; i++)
        rings += r.trouble.tells[i];
    return rings;
}

static bool enough_tell(void) { return telling() >= r.copies - r.quorum + 1; }

/* A new owner tries once to open; who had the partition is told nothing. Whether it has it now. */
static bool try_take_over(void)
{
    owner *o = new_owner();
    r.current->contested = true;
    int rc = open_partition(o, true);
    bool overtaken = r.current->epoch > o->epoch;
    bool fenced = r.epoch > o->epoch; /* by one who perhaps could not open it either */
    if (rc) {
        MODEL_CHECK(rc == FARPOOL_E_NODE || (rc == FARPOOL_E_FENCED && fenced) ||
                    (rc == FARPOOL_E_NOTFOUND && !telling()));
        MODEL_CHECK(!r.trouble.quiet || !enough_tell());
        count.refused++;
    } else if (overtaken) {
        work_in_vain(o);
    } else {
        rc = farpool_btree_open(o->part, r.model.root, &o->tree);
        if (!rc)
            rc = model_take_over(&r.model, o->part, o->tree);
        /* Pages come when they are asked for, and then it may be too late. */
        MODEL_CHECK(!rc || (rc == FARPOOL_E_NODE && !r.trouble.quiet) ||
                    (rc == FARPOOL_E_FENCED && fenced));
    }
    if (rc || overtaken) {
        close_owner(o);
        return false;
    }
    count.recoveries++;
    note_rings(o);
    check_keys(r.current, o);
    close_owner(r.old);
    r.old = r.current;
    r.current = o;
    work_in_vain(r.old);
    return true;
}

/* ---- in the midst of an opening: */

static void old_goes_on(void *arg)
{
    (void)arg;
    if (!r.trouble.opening || r.nested || r.trouble.quiet)
        return;
    r.nested = true;
    work(r.current);
    r.nested = false;
}

static void third_comes(void *arg)
{
    (void)arg;
    if (!r.trouble.opening || r.nested || r.trouble.quiet)
        return;
    r.nested = true;
    count.nested += try_take_over();
    r.nested = false;
}

static void take_over_somehow(void)
{
    uint64_t now = fp_sim_now_ns(r.sim.world);
    char next[16];
    sim_trouble_make(&r.trouble, OPENING_NS);
    for (uint64_t times = draw(6); times; times--)
        fp_sim_at(r.sim.world, now + draw(OPENING_NS), old_goes_on, NULL);
    if (draw(4) == 0)
        fp_sim_at(r.sim.world, now + draw(OPENING_NS), third_comes, NULL);
    if (r.trouble.kinds & CUTS) { /* who comes next reaches other nodes */
        fp_sim_heal(r.sim.world);
        snprintf(next, sizeof next, "owner%llu", (unsigned long long)r.epoch + 1);
        r.trouble.name = next;
        r.trouble.cuts = 0;
        for (unsigned i = 0; i < r.sim.node_count; i++)
            if (draw(3) == 0)
                sim_trouble_cut(&r.trouble, i);
    }
    if ((r.trouble.kinds & CRASHES) && draw(2)) {
        unsigned i = (unsigned)draw(r.sim.node_count);
        sim_trouble_crash(&r.trouble, i);
        sim_trouble_restart(&r.trouble, i);
        sim_trouble_watch(&r.trouble);
    }
    try_take_over();
}

/* ---- a seed ---------------------------------------------------------------------------------- */

/* The first owner. Whatever stopped one that tried before it, it can be tried again. */
static bool begin(void)
{
    int rc = FARPOOL_E_NODE;
    owner *o = NULL;
    for (unsigned tries = 0; rc && tries < OPEN_TRIES; tries++) {
        close_owner(o);
        if (tries > 3)
            sim_trouble_calm(&r.trouble);
        else
            sim_trouble_make(&r.trouble, OPENING_NS);
        o = new_owner();
        rc = open_partition(o, false);
        MODEL_CHECK(!rc || (rc == FARPOOL_E_NODE && !r.trouble.quiet));
    }
    r.current = o;
    sim_trouble_calm(&r.trouble);
    rc = model_create(&r.model, o->part, &r.random);
    if (rc) {
        MODEL_CHECK(rc == FARPOOL_E_NODE && r.trouble.kinds); /* its rings have broken by now */
        return false;
    }
    r.model.big = r.seed % 8 == 5;
    rc = farpool_btree_open(o->part, r.model.root, &o->tree);
    MODEL_CHECK(rc == 0);
    note_rings(o);
    return true;
}

static void live(void)
{
    for (unsigned owners = OWNERS_MIN + (unsigned)draw(OWNERS_MORE); owners; owners--) {
        sim_trouble_rouse(&r.trouble);
        if ((r.trouble.kinds & CUTS) && draw(2))
            sim_trouble_cut(&r.trouble,
                            (unsigned)draw(r.sim.node_count)); /* one ring falls behind */
        for (uint64_t ops = draw(r.model.big ? OPS_BIG : OPS_MAX); ops; ops--) {
            if (draw(r.model.big ? 60 : 6) == 0)
                sim_trouble_make(&r.trouble, 60000);
            work(r.current);
            if (r.old && draw(20) == 0)
                work_in_vain(r.old);
        }
        for (uint64_t times = 1 + draw(3); times; times--)
            take_over_somehow();
        if (draw(3) && !r.current->contested)
            continue;
        sim_trouble_calm(&r.trouble);
        if (!try_take_over()) {
            count.lost++; /* not enough rings tell, and never will */
            return;
        }
    }
}

static uint64_t run_seed(uint64_t seed)
{
    memset(&r, 0, sizeof r);
    r.seed = r.random = seed;
    r.trouble.kinds = schedule[seed % (sizeof schedule / sizeof schedule[0])];
    r.trouble.name = "nobody";
    r.trouble.crashes_left = (unsigned)draw(6);
    fp_sim_config config = {.torn = seed % 5 != 0, .late = seed % 3 != 0};
    unsigned nodes = 1 + (unsigned)draw(SIM_NODES_MAX);
    r.copies = nodes - (unsigned)draw(nodes) / 2;
    r.quorum = draw(2) ? r.copies / 2 + 1 : 1 + (unsigned)draw(r.copies);
    r.trouble.copies = r.copies;
    r.trouble.sim = &r.sim;
    r.trouble.random = &r.random;
    r.trouble.loss = 200u << seed % 7;
    sim_setup_open(&r.sim, seed, &config, nodes, 2);
    sim_trouble_rouse(&r.trouble);
    if (begin())
        live();
    sim_trouble_calm(&r.trouble);
    close_owner(r.old);
    close_owner(r.current);
    note(fp_sim_trace_hash(r.sim.world));
    sim_setup_close(&r.sim);
    return r.hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 20};
    fp_log_set_level(FP_LOG_ERROR);
    test_seeds_run(&seeds, run_seed);
    printf("%llu steps acknowledged, %llu recoveries (%llu in the midst of another), %llu refused, "
           "%llu times in vain, "
           "%llu times full, %llu worlds lost\n",
           (unsigned long long)count.acked, (unsigned long long)count.recoveries,
           (unsigned long long)count.nested, (unsigned long long)count.refused,
           (unsigned long long)count.stale, (unsigned long long)count.full,
           (unsigned long long)count.lost);
    return 0;
}
