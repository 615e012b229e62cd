/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/simcluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/checkpoint.h"
#include "compute/keeper.h"
#include "storagenode/node.h"
#include "tests/lib/testnode.h"

enum { CHECKPOINT_STEPS = 10, STORAGE_TICK_NS = 2000000, AHEAD_COMMITS = 6, AHEAD_MS = 50 };

sim_cluster r;

uint64_t draw(uint64_t below) { return test_random(&r.random) % below; }

void note(uint64_t what) { r.hash = (r.hash ^ what) * 0x100000001B3ull; /* FNV-1a */ }

void check_time(uint64_t start)
{
    MODEL_CHECK(fp_sim_now_ns(r.sim.world) - start < OP_SECONDS_MAX * 1000000000ull);
    note(fp_sim_now_ns(r.sim.world));
}

/* ---- storage nodes --------------------------------------------------------------------------- */

static void tick(void *arg)
{
    for (unsigned i = 0; i < r.storage_count; i++)
        sim_storage_step(&r.storages[i]);
    fp_sim_at(r.sim.world, fp_sim_now_ns(r.sim.world) + STORAGE_TICK_NS, tick, arg);
}

void cluster_storages_peer(void)
{
    for (unsigned i = 0; i < r.storage_count && r.storage_count > 1; i++) {
        r.storages[i].peer = r.storages[(i + 1) % r.storage_count].uri;
        sim_storage_restart(&r.storages[i]);
    }
    if (r.storage_count > 1)
        fp_sim_at(r.sim.world, fp_sim_now_ns(r.sim.world) + STORAGE_TICK_NS, tick, NULL);
}

void cluster_storage_back(void *arg)
{
    sim_storage *s = arg;
    if (s->lost)
        sim_storage_restart(s);
}

/* Nobody is being refilled: who is does not tell anything either. */
static bool storages_are_whole(void)
{
    for (unsigned i = 0; i < r.storage_count; i++) {
        fp_storagenode_usage usage;
        if (!r.storages[i].serves)
            return false;
        fp_storagenode_usage_get(r.storages[i].node, &usage);
        if (usage.broken || usage.incomplete)
            return false;
    }
    return true;
}

/* Commits would wait for storage nodes that are away. */
static bool ring_has_room(const owner *o)
{
    const fp_redo_log *log = o->part->redo;
    return atomic_load(&log->end) - atomic_load(&log->floor) < log->ring_bytes / 2;
}

void cluster_storage_ahead(const owner *o)
{
    unsigned stays = (unsigned)draw(r.storage_count);
    for (unsigned i = 0; i < r.storage_count; i++)
        if (i != stays && !r.storages[i].lost)
            sim_storage_crash(&r.storages[i]);
    for (uint64_t times = 1 + draw(AHEAD_COMMITS);
         times && r.model.count + MODEL_CHANGES <= MODEL_STEPS && ring_has_room(o); times--)
        (void)model_commit(&r.model, o->part, FARPOOL_DURABLE_LATER);
    (void)model_wait(&r.model, o->part);
    for (unsigned i = 0; i < AHEAD_MS; i++) {
        (void)fp_keeper_step(o->part->redo->keeper);
        sim_pass(&r.sim, 1);
    }
}

static uint64_t log_end(const sim_storage *s)
{
    const fp_stored *log = s->node->logs;
    return log && log->state == FP_STORED_OPEN ? fp_wal_durable(log->wal) : 0;
}

bool cluster_storage_away(uint64_t most_ns)
{
    if (r.storage_quorum < 2 || draw(4) == 0 || !storages_are_whole())
        return false;
    sim_storage *s = &r.storages[draw(r.storage_count)];
    for (unsigned i = 0; i < r.storage_count; i++)
        if (log_end(&r.storages[i]) > log_end(s))
            s = &r.storages[i];
    sim_storage_crash(s);
    fp_sim_at(r.sim.world, fp_sim_now_ns(r.sim.world) + most_ns / 2 + draw(most_ns / 2),
              cluster_storage_back, s);
    return true;
}

/* ---- owners ---------------------------------------------------------------------------------- */

owner *new_owner(void)
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

void close_owner(owner *o)
{
    if (!o)
        return;
    uint64_t start = fp_sim_now_ns(r.sim.world);
    if (o->tree)
        farpool_btree_close(o->tree);
    if (o->part && r.watch.log == o->part->redo)
        r.watch.log = NULL;
    if (o->part)
        note((uint64_t)farpool_partition_close(o->part));
    MODEL_CHECK(farpool_pool_close(o->pool) == 0);
    check_time(start);
    if (r.trouble.name == o->name)
        r.trouble.name = "nobody";
    free(o);
}

static void fill_options(uint64_t epoch, const char **uris, farpool_partition_options *options)
{
    sim_partition_options(&r.sim, epoch, options);
    for (unsigned i = 0; i < r.nodes; i++)
        uris[i] = r.sim.uris[r.uses[i]];
    options->memnodes = uris;
    options->memnode_count = r.nodes;
    options->slab_bytes = options->slab_bytes / r.sim.node_count * r.nodes;
    options->log_copies = r.copies;
    options->log_quorum = r.quorum;
    options->log_ring_bytes = RING_BYTES;
    options->storagenodes = r.storage_uris;
    options->storagenode_count = r.storage_count;
    options->storage_quorum = r.storage_quorum;
}

int open_partition(owner *o, enum farpool_recover recover)
{
    uint64_t start = fp_sim_now_ns(r.sim.world);
    farpool_partition_options options;
    const char *uris[SIM_NODES_MAX];
    fill_options(o->epoch, uris, &options);
    options.recover = recover;
    sim_watch_opening(&r.watch, o->epoch, recover == FARPOOL_RECOVER_STORED);
    int rc = farpool_partition_open(o->pool, &options, &o->part);
    if (!rc)
        sim_watch_opened(&r.watch, o->part->redo);
    note((uint64_t)rc);
    check_time(start);
    return rc;
}

/* Tells the rings what he believes is durable, writes pages back, reads others, and commits. */
static bool go_on(farpool_partition *part, farpool_pid changed, const farpool_pid *pages,
                  unsigned count)
{
    farpool_mtr *mtr;
    void *words;
    fp_checkpoint checkpoint = {0};
    (void)fp_keeper_step(part->redo->keeper);
    fp_checkpoint_begin(&checkpoint, part);
    for (unsigned i = 0; i < CHECKPOINT_STEPS && checkpoint.running; i++)
        (void)fp_checkpoint_step(&checkpoint, part);
    for (unsigned i = 0; i < count; i++)
        if (!farpool_fix(part, pages[i], FARPOOL_SHARED, &words))
            farpool_unfix(part, pages[i], FARPOOL_SHARED);
    if (farpool_mtr_begin(part, 0, &mtr))
        return false;
    if (farpool_mtr_fix(mtr, changed, &words)) {
        farpool_mtr_abandon(mtr);
        return false;
    }
    memset(words, 0xEE, FARPOOL_UNIT_BYTES);
    return !farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
}

void outlive(const owner *o)
{
    uint64_t start = fp_sim_now_ns(r.sim.world);
    farpool_pid pids[MODEL_PAGES];
    unsigned count_pids = 0;
    for (unsigned i = 0; i < MODEL_PAGES && draw(2); i++)
        if (r.model.base.pages[i].there)
            pids[count_pids++] = r.model.base.pages[i].pid;
    MODEL_CHECK(!go_on(o->part, r.model.base.pages[0].pid, pids, count_pids));
    check_time(start);
}

void come_late(const owner *now)
{
    farpool_partition_options options;
    farpool_partition *part;
    farpool_pool *pool;
    sim_pool_open(&r.sim, "late", FARPOOL_MAPPING_FRAMES, &pool);
    const char *uris[SIM_NODES_MAX];
    fill_options(now->epoch - 1, uris, &options);
    options.recover = FARPOOL_RECOVER;
    MODEL_CHECK(farpool_partition_open(pool, &options, &part) != 0);
    MODEL_CHECK(farpool_pool_close(pool) == 0);
}
