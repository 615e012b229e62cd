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
 *   - a storage node that was away when a log was taken from the others, and has more than that, gets the right one from
 *     them, and is neither counted nor chosen before
 *   - an owner takes memory nodes in again that have forgotten, or another one instead, while it goes on: from then on
 *     these count like all others, whatever goes wrong meanwhile
 *   - pages come to the new nodes in the background, whatever goes wrong meanwhile; when that is done, all can be read
 *     without any storage node
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
#include "compute/fill.h"
#include "compute/keeper.h"
#include "memnode/node.h"
#include "tests/lib/seeds.h"
#include "tests/lib/simcluster.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    SEEDS = 500,
    SEEDS_QUICK = 60,
    OWNERS_MIN = 2,
    OWNERS_MORE = 4,
    OPS_MAX = 150,
    OPS_FEW = 4,              /* of an owner of whom one ring is to know nothing */
    OPS_BIG = 500,            /* for which the rings are used several times over */
    CONVERT_BYTES = 32 << 10, /* a layer's; or the usual, of which a log here is too short */
    OPEN_TRIES = 30,
    CALM_TRIES = 10,
    MEND_NS = 1000000000 /* within this what was cut or without power is back */
};

static const unsigned schedule[] = {
    0, CRASHES, RESETS, CUTS, CRASHES, CUTS | CRASHES, LOSSES, CRASHES, CUTS | RESETS | CRASHES};

static struct {
    uint64_t acked, stored, recoveries, from_storage, away, powers, laps, changed, unchanged,
        failed, filled;
} count;

void model_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "SEED=%llu: %s:%d: %s is false (last error: %s)\n", (unsigned long long)r.seed,
            file, line, what, farpool_errmsg());
    exit(1);
}

/* ---- storage nodes come and go --------------------------------------------------------------- */

static void storage_fails(void *arg)
{
    sim_storage *s = arg;
    if (s->lost || r.trouble.quiet)
        return;
    count.powers++;
    sim_storage_crash(s);
    fp_sim_at(r.sim.world, fp_sim_now_ns(r.sim.world) + 1000 + draw(MEND_NS), cluster_storage_back,
              s);
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
        cluster_storage_back(&r.storages[i]);
    sim_pass(&r.sim, draw(2) ? 1500 : 1); /* memory nodes may still have much to spill */
}

/* ---- other memory nodes ---------------------------------------------------------------------- */

/* What the nodes that the partition has now can tell about. Rings that were given back have forgotten everything. */
static void note_changed(owner *o, const unsigned *uses, int rc)
{
    fp_redo_log *log = o->part->redo;
    bool failed = atomic_load(&log->failed) != 0;
    if (rc && !failed)
        return; /* nothing has changed */
    for (unsigned i = 0; i < r.copies; i++) {
        const fp_ring *ring = &log->rings[i];
        bool whole = rc ? !ring->lost && !ring->blank && ring->acked >= atomic_load(&log->floor)
                        : !ring->lost && ring->speaks;
        if (!rc)
            MODEL_CHECK(ring->lost || ring->speaks); /* it is filled when the call returns */
        r.trouble.tells[r.uses[i]] &= r.uses[i] == uses[i] && whole;
    }
    memcpy(r.uses, uses, sizeof r.uses);
}

/* Or nothing would be durable on storage any more. */
static bool have_storages(const unsigned *uses)
{
    unsigned seen = 0;
    for (unsigned i = 0; i < r.copies; i++)
        seen |= 1u << uses[i] % r.storage_count;
    return (unsigned)__builtin_popcount(seen) >= r.storage_quorum;
}

/* Whether it has succeeded. */
static bool reconfigure(owner *o)
{
    const char *uris[SIM_NODES_MAX];
    unsigned uses[SIM_NODES_MAX], crashes[SIM_NODES_MAX], victim = (unsigned)draw(r.nodes);
    uint64_t start = fp_sim_now_ns(r.sim.world);
    memcpy(uses, r.uses, sizeof uses);
    memcpy(crashes, r.trouble.crashes, sizeof crashes);
    if (draw(2)) { /* the last one is to spare */
        uses[victim] = r.uses[r.nodes];
        uses[r.nodes] = r.uses[victim];
    }
    if (!have_storages(uses))
        memcpy(uses, r.uses, sizeof uses);
    for (unsigned i = 0; i < r.nodes; i++)
        uris[i] = r.sim.uris[uses[i]];
    unsigned stay = 0;
    bool away = false;
    for (unsigned i = 0; i < r.nodes; i++)
        away |= r.sim.nodes[uses[i]].lost;
    for (unsigned i = 0; i < r.copies; i++)
        stay += !o->part->redo->rings[i].lost && uses[i] == r.uses[i];
    int rc = farpool_partition_reconfigure(o->part, ++r.epoch, uris, r.nodes);
    note((uint64_t)rc);
    check_time(start);
    MODEL_CHECK(!rc || r.trouble.kinds || r.powers || away || stay < r.quorum);
    MODEL_CHECK(!rc || rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT || rc == FARPOOL_E_NOSPACE);
    note_changed(o, uses, rc);
    if (!atomic_load(&o->part->redo->failed))
        sim_watch_changed(&r.watch);
    if (!rc)
        memcpy(o->crashes, crashes, sizeof o->crashes);
    count.changed += !rc;
    count.unchanged += rc && !atomic_load(&o->part->redo->failed);
    count.failed += rc && atomic_load(&o->part->redo->failed);
    return !rc;
}

/* Of the last of so many steps whose LSN is known; 0: there is none. */
static uint64_t lsn_of(unsigned steps)
{
    while (steps && !r.model.steps[steps - 1].lsn)
        steps--;
    return steps ? r.model.steps[steps - 1].lsn : 0;
}

/* Also where nothing else goes wrong a memory node may have crashed with the owner before: its ring is lost, or its storage
 * node ends below where the log begins, and has no peer here to get the rest from. Then not all can have a commit. */
static bool lacks_rings(const owner *o)
{
    const fp_redo_log *log = o->part->redo;
    bool any = false;
    for (unsigned i = 0; i < log->ring_count; i++)
        any |= log->rings[i].lost || log->rings[i].worthless ||
               (log->rings[i].volume && log->rings[i].spilled < atomic_load(&log->start));
    return any;
}

static void work(owner *o)
{
    uint64_t start = fp_sim_now_ns(r.sim.world), kind = draw(100);
    bool in_doubt = false;
    unsigned acked = r.model.acked, stored = r.model.stored;
    int rc;
    if (o->done)
        return;
    if (!atomic_load(&o->part->redo->failed) && draw(30) == 0)
        (void)reconfigure(o);
    if (draw(8) == 0)
        note(fp_fill_step(o->part->fill));
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
    sim_watch_look(&r.watch, lsn_of(r.model.acked), lsn_of(r.model.stored));
    count.acked += r.model.acked - acked;
    count.stored += r.model.stored - stored;
    note((uint64_t)rc);
    MODEL_CHECK(!rc || r.trouble.kinds || r.powers || (rc == FARPOOL_E_NODE && lacks_rings(o)));
    MODEL_CHECK(!rc || rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT || rc == FARPOOL_E_NOSPACE ||
                rc == FARPOOL_E_UNSUPPORTED);
    o->done = in_doubt || r.model.count + MODEL_CHANGES > MODEL_STEPS;
    check_time(start);
}

static uint64_t fill_left(owner *o)
{
    farpool_stats stats;
    farpool_stats_get(o->pool, &stats);
    return stats.fill_left;
}

/* When all memory nodes are there and have been filled, no storage node is needed to read everything. */
static void fill_and_read(owner *o)
{
    calm();
    if (o->done || atomic_load(&o->part->redo->failed))
        return;
    if (!reconfigure(o) || farpool_wait_durable(o->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE))
        return;
    uint64_t start = fp_sim_now_ns(r.sim.world);
    while (fill_left(o)) {
        if (!fp_fill_step(o->part->fill))
            sim_pass(&r.sim, 10);
        check_time(start);
    }
    for (unsigned i = 0; i < r.storage_count; i++)
        sim_storage_crash(&r.storages[i]);
    MODEL_CHECK(model_take_over(&r.model, o->part, o->tree) == 0);
    r.base_stored = true;
    count.filled++;
    calm();
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
        rings += r.trouble.tells[r.uses[i]];
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
        if (r.hides && !r.trouble.quiet)
            sim_trouble_cut(&r.trouble, r.hidden);
        bool stored = r.trouble.quiet && !enough_tell();
        if (stored && !r.base_stored) {
            close_owner(o);
            return false;
        }
        if (stored)
            r.model.acked = r.model.stored; /* the rest may be lost: that is what this is for */
        if (stored)
            count.away += cluster_storage_away(MEND_NS);
        int rc = open_partition(o, stored ? FARPOOL_RECOVER_STORED : FARPOOL_RECOVER);
        MODEL_CHECK(!rc || !r.trouble.quiet);
        if (!rc)
            rc = take_over(o);
        if (!rc) {
            count.recoveries++;
            count.from_storage += o->part->redo->from_storage;
            if (r.trouble.quiet)
                come_late(o);
            outlive(r.current);
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

/* One ring gets what no other has. The next owner does not reach it, does little and dies as well: the one after him finds
 * the ring longer than the log. */
static void hide_ring(owner *o)
{
    unsigned ring = (unsigned)draw(r.copies);
    for (unsigned i = 0; i < r.copies; i++)
        if (i != ring)
            sim_trouble_cut(&r.trouble, r.uses[i]);
    for (unsigned times = 3; times && !o->done && r.model.count + MODEL_CHANGES <= MODEL_STEPS;
         times--)
        (void)model_commit(&r.model, o->part, FARPOOL_DURABLE_LATER);
    if (!o->done)
        (void)model_wait(&r.model, o->part);
    sim_watch_look(&r.watch, lsn_of(r.model.acked), lsn_of(r.model.stored));
    fp_sim_heal(r.sim.world);
    r.trouble.cuts = 0;
    r.hidden = r.uses[ring];
    r.hides = o->done = true;
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
    if (atomic_load(&o->part->redo->failed)) /* perhaps while rings were being changed */
        return;
    for (unsigned i = 0; i < o->part->redo->ring_count; i++) {
        const fp_ring *ring = &o->part->redo->rings[i];
        unsigned node = r.uses[i];
        if (!ring->lost && ring->speaks && o->crashes[node] == r.trouble.crashes[node] &&
            ring->acked >= atomic_load(&o->part->redo->start))
            r.trouble.tells[node] = true;
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
    r.model.big = r.seed % 2;
    MODEL_CHECK(farpool_btree_open(r.current->part, r.model.root, &r.current->tree) == 0);
    note_rings(r.current);
}

static void live(void)
{
    for (unsigned owners = OWNERS_MIN + (unsigned)draw(OWNERS_MORE); owners; owners--) {
        sim_trouble_rouse(&r.trouble);
        uint64_t most = r.hides ? OPS_FEW : r.seed % 4 == 1 ? OPS_BIG : OPS_MAX;
        bool hid = r.hides;
        for (uint64_t ops = draw(most); ops; ops--) {
            if (draw(10) == 0)
                make_trouble(2000000);
            work(r.current);
            note_rings(r.current);
        }
        count.laps += atomic_load(&r.current->part->redo->end) / RING_BYTES;
        r.hides = false;
        if (!hid && draw(3) == 0)
            fill_and_read(r.current);
        sim_trouble_rouse(&r.trouble);
        if (!hid && r.quorum > 1 && r.trouble.kinds && draw(3) == 0)
            hide_ring(r.current);
        else if (draw(2))
            sudden_death();
        bool ahead = r.storage_quorum > 1 && !r.current->done && draw(3) == 0;
        if (ahead)
            cluster_storage_ahead(r.current);
        if (ahead || draw(4) == 0)
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
    r.nodes = nodes;
    for (unsigned i = 0; i < SIM_NODES_MAX; i++)
        r.uses[i] = i;
    r.copies = nodes < 3 ? nodes : 3;
    r.quorum = r.copies / 2 + 1;
    r.storage_count = 1 + (unsigned)draw(nodes < STORAGES_MAX ? nodes : STORAGES_MAX);
    r.storage_quorum = 1 + (unsigned)draw(r.storage_count < r.copies ? r.storage_count : r.copies);
    r.trouble.copies = r.copies;
    r.trouble.sim = &r.sim;
    r.trouble.random = &r.random;
    r.trouble.loss = 100u << seed % 5;
    uint64_t convert_bytes = draw(2) ? CONVERT_BYTES : 0;
    sim_setup_open(&r.sim, seed, &config, nodes + 1, 3);
    r.watch = (sim_watch){.sim = &r.sim,
                          .storages = r.storages,
                          .storage_count = r.storage_count,
                          .storage_quorum = r.storage_quorum,
                          .partition = 1};
    for (unsigned i = 0; i < r.storage_count; i++) {
        sim_storage_open_converting(&r.storages[i], r.sim.world, i, convert_bytes);
        r.storage_uris[i] = r.storages[i].uri;
    }
    cluster_storages_peer();
    for (unsigned i = 0; i <= nodes; i++)
        sim_node_spill(&r.sim.nodes[i], r.storages[i % r.storage_count].uri);
    sim_watch_begin(&r.watch);
    begin();
    live();
    calm();
    sim_watch_end(&r.watch);
    close_owner(r.current);
    note(fp_sim_trace_hash(r.sim.world));
    for (unsigned i = 0; i <= nodes; i++)
        sim_node_crash(&r.sim.nodes[i]); /* or they go on while storage nodes close */
    for (unsigned i = 0; i < r.storage_count; i++)
        sim_storage_close(&r.storages[i]);
    sim_setup_close(&r.sim);
    return r.hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 50};
    fp_log_set_level(FP_LOG_ERROR);
    test_seeds_run(&seeds, run_seed);
    printf("%llu steps acknowledged, %llu of them on storage; %llu recoveries, %llu of them from "
           "storage, %llu of these without one that was away; %llu power "
           "failures of storage nodes, %llu laps of rings; memory nodes changed %llu times, %llu "
           "times in vain, %llu times the log failed of it, %llu times all were filled\n",
           (unsigned long long)count.acked, (unsigned long long)count.stored,
           (unsigned long long)count.recoveries, (unsigned long long)count.from_storage,
           (unsigned long long)count.away, (unsigned long long)count.powers,
           (unsigned long long)count.laps, (unsigned long long)count.changed,
           (unsigned long long)count.unchanged, (unsigned long long)count.failed,
           (unsigned long long)count.filled);
    return 0;
}
