/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that log rings are used again and again while somebody spills them, that nothing is overwritten that has not
 * been spilled, that commits wait for that when the rings are full and go on, and that what is needed after a crash is
 * there at every moment. The spilling is played here: what a memory node's line says is what the test has taken out of
 * the ring by then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "common/redo.h"
#include "common/ring.h"
#include "compute/keeper.h"
#include "memnode/node.h"
#include "tests/lib/require.h"
#include "tests/lib/simpool.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    NODES = 3,
    RING_BYTES = 1 << 20,
    PAGES = 400, /* more than the pool holds */
    PAGES_FEW = 50,
    LOG_MAX = 64 << 20,
    LAPS = 12,
    SPILL_EVERY_NS = 200000,
};

typedef struct world {
    sim_setup sim;
    farpool_pool *pool;
    farpool_partition *part;
    farpool_pid pids[PAGES];
    uint64_t values[PAGES]; /* committed */
    uint64_t random;
    bool spilling, has_storage;
    sim_storage storage; /* to which nobody spills */
    bool one_volume;     /* all rings are spilled to it */
    uint32_t still;      /* bits: rings that nobody spills meanwhile */
    bool left_behind;    /* so that they may lack log that is gone */
    uint8_t *log;        /* what was spilled: the same whichever ring it is taken from */
    uint64_t spilled[NODES], most;
} world;

/* ---- the spiller ----------------------------------------------------------------------------- */

static uint8_t *ring_of(const world *w, unsigned i)
{
    const fp_memnode *node = w->sim.nodes[i].memnode;
    for (const fp_grant *g = node->grants; g; g = g->next)
        if (g->use == FP_USE_RING) {
            assert_true(g->count == 1); /* so it is one piece */
            return node->extents.list[g->extents[0]].mem.addr;
        }
    return NULL;
}

/* Takes [from, to) out of the ring: whole frames, the same as others have. */
static void take(world *w, const uint8_t *ring, uint64_t from, uint64_t to)
{
    for (uint64_t lsn = from; lsn < to; lsn++) {
        uint8_t byte = ring[FP_RING_LOG_AT + lsn % RING_BYTES];
        assert_true(lsn >= w->most || w->log[lsn] == byte);
        w->log[lsn] = byte;
    }
    fp_redo_expect expect = {1, from, 0};
    while (expect.lsn < to) {
        size_t len = fp_redo_check(w->log + expect.lsn, to - expect.lsn, &expect);
        assert_true(len);
        expect.lsn += len;
    }
}

static void spill(void *arg)
{
    world *w = arg;
    for (unsigned i = 0; i < NODES && w->spilling; i++) {
        uint8_t *ring = ring_of(w, i);
        fp_ring_owner owner;
        if (!ring)
            continue;
        memcpy(&owner, ring, sizeof owner);
        if (!fp_ring_owner_is_valid(&owner, 1) || w->still >> i & 1)
            continue;
        if (w->left_behind && owner.start > w->spilled[i])
            w->spilled[i] = owner.start; /* from others */
        assert_true(owner.start <= w->spilled[i]);
        assert_true(owner.durable <= LOG_MAX);
        /* A ring that lags has less than is durable; in this world none does for long. */
        take(w, ring, w->spilled[i], owner.durable);
        w->spilled[i] = owner.durable;
        w->most = owner.durable > w->most ? owner.durable : w->most;
        fp_ring_node line = {
            .partition = 1, .volume = w->one_volume ? 7 : 7 + i, .spilled = owner.durable};
        fp_ring_node_seal(&line);
        memcpy(ring + FP_RING_NODE_AT, &line, sizeof line);
    }
    fp_sim_at(w->sim.world, fp_sim_now_ns(w->sim.world) + SPILL_EVERY_NS, spill, w);
}

static void go_on(void *arg) { ((world *)arg)->spilling = true; }

/* ---- the owner ------------------------------------------------------------------------------- */

static void open_as(world *w, const char *name, uint64_t epoch)
{
    farpool_partition_options options;
    sim_pool_open(&w->sim, name, FARPOOL_MAPPING_FRAMES, &w->pool);
    sim_partition_options(&w->sim, epoch, &options);
    options.log_copies = NODES;
    options.log_ring_bytes = RING_BYTES;
    options.storage_quorum = w->one_volume ? 1 : 2;
    /* With one, which knows nothing, pages move away from memory nodes that are gone. */
    const char *storages[] = {w->storage.uri};
    options.storagenodes = storages;
    options.storagenode_count = w->has_storage;
    options.recover = epoch > 1 ? FARPOOL_RECOVER : FARPOOL_NEW;
    test_must(farpool_partition_open(w->pool, &options, &w->part), "opening");
}

static int set_up_world(void **state, bool has_storage, bool one_volume)
{
    world *w = calloc(1, sizeof *w);
    REQUIRE(w);
    w->has_storage = has_storage;
    w->one_volume = one_volume;
    fp_sim_config config = {.torn = true, .late = true};
    w->random = test_seed(20261121);
    w->log = malloc(LOG_MAX);
    REQUIRE(w->log);
    for (unsigned i = 0; i < NODES; i++)
        w->spilled[i] = FP_REDO_LSN_FIRST;
    sim_setup_open(&w->sim, w->random, &config, NODES, 2);
    if (has_storage)
        sim_storage_open(&w->storage, w->sim.world, 0);
    w->spilling = true;
    spill(w);
    open_as(w, "owner", 1);
    for (unsigned i = 0; i < PAGES; i++) {
        farpool_mtr *mtr;
        void *page;
        test_must(farpool_mtr_begin(w->part, 0, &mtr), "begin");
        test_must(farpool_mtr_alloc(mtr, 0, &w->pids[i], &page), "alloc");
        test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "commit");
    }
    *state = w;
    return 0;
}

static int set_up(void **state) { return set_up_world(state, false, false); }
static int set_up_with_storage(void **state) { return set_up_world(state, true, false); }
static int set_up_one_volume(void **state) { return set_up_world(state, false, true); }

static int tear_down(void **state)
{
    world *w = *state;
    w->spilling = false;
    if (w->part && !w->has_storage)
        test_must(farpool_partition_close(w->part), "closing");
    else if (w->part) /* a memory node cannot be told */
        (void)farpool_partition_close(w->part);
    test_must(farpool_pool_close(w->pool), "closing");
    if (w->has_storage)
        sim_storage_close(&w->storage);
    sim_setup_close(&w->sim);
    free(w->log);
    free(w);
    return 0;
}

/* A page is filled with a number. */
static int change_of(world *w, unsigned i, enum farpool_durability durability)
{
    uint64_t value = test_random(&w->random);
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(w->part, 0, &mtr), "begin");
    test_must(farpool_mtr_fix(mtr, w->pids[i], &page), "fix");
    for (unsigned k = 0; k < FARPOOL_UNIT_BYTES / sizeof value; k++)
        ((uint64_t *)page)[k] = value;
    int rc = farpool_mtr_commit(mtr, durability, NULL);
    if (!rc)
        w->values[i] = value;
    return rc;
}

static int change(world *w, enum farpool_durability durability)
{
    return change_of(w, (unsigned)(test_random(&w->random) % PAGES), durability);
}

static void compare_all(const world *w)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        test_must(farpool_fix(w->part, w->pids[i], FARPOOL_SHARED, &page), "fix");
        assert_true(((uint64_t *)page)[0] == w->values[i]);
        assert_true(((uint64_t *)page)[511] == w->values[i]);
        farpool_unfix(w->part, w->pids[i], FARPOOL_SHARED);
    }
}

static uint64_t log_end(const world *w) { return atomic_load(&w->part->redo->end); }

/* ---- tests ----------------------------------------------------------------------------------- */

static void rings_are_used_again(void **state)
{
    world *w = *state;
    farpool_stats stats;
    while (log_end(w) < (uint64_t)LAPS * RING_BYTES) {
        test_must(change(w, FARPOOL_DURABLE_MEMORY), "change");
        sim_pass(&w->sim, 0);
    }
    farpool_stats_get(w->pool, &stats);
    assert_true(stats.redo_checkpoints >= LAPS && stats.redo_bytes <= RING_BYTES);
    compare_all(w);
}

/* Its pages come from slabs and the end of the log, whatever was dirty. */
static void a_new_owner_finds_everything(void **state)
{
    world *w = *state;
    char name[16];
    for (uint64_t epoch = 2; epoch < 12; epoch++) {
        farpool_pool *old_pool = w->pool;
        farpool_partition *old = w->part;
        uint64_t until = log_end(w) + test_random(&w->random) % (2 * RING_BYTES);
        while (log_end(w) < until)
            test_must(change(w, FARPOOL_DURABLE_MEMORY), "change");
        snprintf(name, sizeof name, "owner%llu", (unsigned long long)epoch);
        open_as(w, name, epoch); /* the old one is fenced, as if it had died */
        compare_all(w);
        (void)farpool_partition_close(old);
        test_must(farpool_pool_close(old_pool), "closing");
    }
    assert_true(w->part->redo->first > FP_REDO_LSN_FIRST);
}

static void full_rings_make_commits_wait(void **state)
{
    world *w = *state;
    farpool_stats stats;
    w->spilling = false;
    uint64_t before = fp_sim_now_ns(w->sim.world), until = log_end(w) + 2 * RING_BYTES;
    fp_sim_at(w->sim.world, before + 3000000000ull, go_on, w);
    /* The event that spills ends when there is nothing to do, so it is begun anew. */
    while (log_end(w) < until)
        test_must(change(w, FARPOOL_DURABLE_MEMORY), "change");
    farpool_stats_get(w->pool, &stats);
    assert_true(stats.redo_waits > 0 && stats.redo_wait_ns > 1000000000ull);
    assert_true(fp_sim_now_ns(w->sim.world) - before >= 3000000000ull);
    compare_all(w);
}

static void cut_off(void *arg)
{
    world *w = arg;
    fp_sim_cut(w->sim.world, "owner", w->sim.uris[1] + strlen("sim://"));
}

/* All wait for room, so nobody writes to the ring that is out of reach, and it is what they wait for. A connection with
 * nothing under way does not notice. */
static void a_node_out_of_reach_while_rings_are_full_holds_nobody_up(void **state)
{
    world *w = *state;
    for (unsigned i = 0; i < PAGES_FEW; i++) /* so they are here, and need not be read */
        test_must(change_of(w, i, FARPOOL_DURABLE_MEMORY), "change");
    w->spilling = false;
    uint64_t before = fp_sim_now_ns(w->sim.world), until = log_end(w) + 4 * RING_BYTES;
    fp_sim_at(w->sim.world, before + 1000000000ull, cut_off, w);
    fp_sim_at(w->sim.world, before + 3000000000ull, go_on, w);
    for (unsigned i = 0; log_end(w) < until; i++) {
        test_must(change_of(w, i % PAGES_FEW, FARPOOL_DURABLE_MEMORY), "change");
        assert_true(fp_sim_now_ns(w->sim.world) - before < 20000000000ull);
    }
    assert_true(atomic_load(&w->part->redo->rings[1].lost));
}

static void go_on_with_all(void *arg) { ((world *)arg)->still = 0; }

/* Nobody waits long for one storage node as long as as many as the quorum go on; if fewer do, all wait. */
static void a_storage_node_that_stands_still_is_left_behind(void **state)
{
    world *w = *state;
    const fp_redo_log *log = w->part->redo;
    w->still = 1;
    w->left_behind = true;
    uint64_t before = fp_sim_now_ns(w->sim.world), until = log_end(w) + 4 * RING_BYTES;
    while (log_end(w) < until)
        test_must(change(w, FARPOOL_DURABLE_STORAGE), "change");
    assert_true(atomic_load(&log->start) > w->spilled[0]);
    assert_true(fp_sim_now_ns(w->sim.world) - before < 10000000000ull);
    w->still = 3;
    before = fp_sim_now_ns(w->sim.world);
    until = log_end(w) + 2 * RING_BYTES;
    fp_sim_at(w->sim.world, before + 5000000000ull, go_on_with_all, w);
    while (log_end(w) < until)
        test_must(change(w, FARPOOL_DURABLE_MEMORY), "change");
    assert_true(fp_sim_now_ns(w->sim.world) - before >= 5000000000ull);
    compare_all(w);
}

/* Where a memory node is lost, too, the other storage node alone is no quorum: log is kept, and commits that want storage
 * wait, but do not fail. */
static void a_storage_node_is_waited_for_if_too_few_others_go_on(void **state)
{
    world *w = *state;
    uint64_t before = fp_sim_now_ns(w->sim.world), until = log_end(w) + 2 * RING_BYTES;
    fp_sim_cut(w->sim.world, "owner", w->sim.uris[2] + strlen("sim://"));
    w->still = 1;
    fp_sim_at(w->sim.world, before + 5000000000ull, go_on_with_all, w);
    while (log_end(w) < until)
        test_must(change(w, FARPOOL_DURABLE_MEMORY), "change");
    assert_true(fp_sim_now_ns(w->sim.world) - before >= 5000000000ull);
    test_must(change(w, FARPOOL_DURABLE_STORAGE), "change");
    assert_true(atomic_load(&w->part->redo->rings[2].lost));
}

/* What the volume has said to one memory node it has, also when that is lost and the others have not heard of it. */
static void what_a_volume_has_counts_for_all_rings(void **state)
{
    world *w = *state;
    w->still = 3;
    w->left_behind = true;
    uint64_t until = log_end(w) + 4 * RING_BYTES;
    while (log_end(w) < until)
        test_must(change(w, FARPOOL_DURABLE_STORAGE), "change");
    fp_sim_cut(w->sim.world, "owner", w->sim.uris[2] + strlen("sim://"));
    fp_sim_at(w->sim.world, fp_sim_now_ns(w->sim.world) + 2000000000ull, go_on_with_all, w);
    test_must(change_of(w, 0, FARPOOL_DURABLE_STORAGE), "change");
    assert_true(atomic_load(&w->part->redo->rings[2].lost));
}

static void storage_durability_is_waited_for(void **state)
{
    world *w = *state;
    for (unsigned i = 0; i < 20; i++) {
        test_must(change(w, FARPOOL_DURABLE_STORAGE), "change");
        unsigned have = 0;
        for (unsigned k = 0; k < NODES; k++)
            have += w->spilled[k] >= log_end(w);
        assert_true(have >= 2);
    }
}

static void a_checkpoint_waits_for_whoever_works_on_a_page(void **state)
{
    world *w = *state;
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(w->part, 0, &mtr), "begin");
    test_must(farpool_mtr_fix(mtr, w->pids[0], &page), "fix");
    *(uint64_t *)page = 1;
    uint64_t floor = atomic_load(&w->part->redo->floor), end = log_end(w);
    for (unsigned i = 0; i < 200; i++)
        fp_keeper_step(w->part->redo->keeper);
    farpool_mtr_abandon(mtr);
    assert_true(atomic_load(&w->part->redo->floor) == floor || floor == end);
    while (log_end(w) < end + RING_BYTES)
        test_must(change(w, FARPOOL_DURABLE_MEMORY), "change");
    assert_true(atomic_load(&w->part->redo->floor) > end);
    compare_all(w);
}

int main(void)
{
    fp_log_set_level(FP_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rings_are_used_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_new_owner_finds_everything, set_up, tear_down),
        cmocka_unit_test_setup_teardown(full_rings_make_commits_wait, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_node_out_of_reach_while_rings_are_full_holds_nobody_up,
                                        set_up_with_storage, tear_down),
        cmocka_unit_test_setup_teardown(a_storage_node_that_stands_still_is_left_behind, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_storage_node_is_waited_for_if_too_few_others_go_on,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_volume_has_counts_for_all_rings, set_up_one_volume,
                                        tear_down),
        cmocka_unit_test_setup_teardown(storage_durability_is_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_checkpoint_waits_for_whoever_works_on_a_page, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
