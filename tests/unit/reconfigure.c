/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what an open partition does when it gets other memory nodes: a node that takes a lost one's place counts in the
 * next quorum and for the next owner, what cannot be done is refused and leaves everything as it was, and an owner who has
 * been taken over touches nothing of his successor's. And that pages come to a new node's slots, and to those of an owner
 * who has recovered them, though nobody asks for them: then the storage node may go.
 */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "compute/fill.h"
#include "compute/keeper.h"
#include "compute/slab.h"
#include "compute/storage.h"
#include "memnode/node.h"
#include "tests/lib/require.h"
#include "tests/lib/simpool.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { NODES = 3, SPARE = NODES, PAGES = 300, RING_BYTES = 1 << 20 };

typedef struct world {
    sim_setup sim;
    sim_storage storage;
    unsigned storages; /* named when a partition is opened */
    farpool_pool *pool, *next_pool;
    farpool_partition *part, *next; /* next: of the owner after */
    farpool_pid pids[PAGES];
    uint64_t values[PAGES];
    uint64_t random;
} world;

static void open_as(world *w, const char *name, uint64_t epoch, const unsigned *uses,
                    farpool_pool **pool, farpool_partition **part)
{
    farpool_partition_options options;
    const char *uris[NODES], *storages[] = {w->storage.uri};
    sim_pool_open(&w->sim, name, FARPOOL_MAPPING_FRAMES, pool);
    sim_partition_options(&w->sim, epoch, &options);
    for (unsigned i = 0; i < NODES; i++)
        uris[i] = w->sim.uris[uses[i]];
    options.memnodes = uris;
    options.memnode_count = options.log_copies = NODES;
    options.log_ring_bytes = RING_BYTES;
    options.storagenodes = storages;
    options.storagenode_count = w->storages;
    options.recover = epoch > 1 ? FARPOOL_RECOVER : FARPOOL_NEW;
    test_must(farpool_partition_open(*pool, &options, part), "opening");
}

static int change(world *w, unsigned i)
{
    farpool_mtr *mtr;
    void *page;
    uint64_t value = test_random(&w->random);
    int rc = farpool_mtr_begin(w->part, 0, &mtr);
    if (rc)
        return rc;
    rc = farpool_mtr_fix(mtr, w->pids[i], &page);
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    *(uint64_t *)page = value;
    rc = farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
    if (!rc)
        w->values[i] = value;
    return rc;
}

static void change_all(world *w)
{
    for (unsigned i = 0; i < PAGES; i++)
        test_must(change(w, i), "changing");
}

static void compare_all(const world *w, farpool_partition *part)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        test_must(farpool_fix(part, w->pids[i], FARPOOL_SHARED, &page), "reading");
        assert_true(*(uint64_t *)page == w->values[i]);
        farpool_unfix(part, w->pids[i], FARPOOL_SHARED);
    }
}

static int reconfigure(world *w, uint64_t epoch, unsigned a, unsigned b, unsigned c)
{
    const char *uris[NODES] = {w->sim.uris[a], w->sim.uris[b], w->sim.uris[c]};
    return farpool_partition_reconfigure(w->part, epoch, uris, NODES);
}

static void kill_node(world *w, unsigned i) { sim_node_crash(&w->sim.nodes[i]); }

static void restart_node(world *w, unsigned i)
{
    while (!sim_node_restart(&w->sim.nodes[i]))
        sim_pass(&w->sim, 1);
    w->sim.nodes[i].lost = false;
}

static int set_up_with(unsigned storages, void **state)
{
    static const unsigned uses[NODES] = {0, 1, 2};
    fp_sim_config config = {.torn = true, .late = true};
    world *w = calloc(1, sizeof *w);
    REQUIRE(w);
    w->storages = storages;
    w->random = test_seed(20261122);
    sim_setup_open(&w->sim, w->random, &config, NODES + 1, 3);
    sim_storage_open(&w->storage, w->sim.world, 0);
    for (unsigned i = 0; i <= NODES; i++)
        sim_node_spill(&w->sim.nodes[i], w->storage.uri);
    open_as(w, "owner", 1, uses, &w->pool, &w->part);
    for (unsigned i = 0; i < PAGES; i++) {
        farpool_mtr *mtr;
        void *page;
        test_must(farpool_mtr_begin(w->part, 0, &mtr), "begin");
        test_must(farpool_mtr_alloc(mtr, 0, &w->pids[i], &page), "alloc");
        test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "commit");
    }
    change_all(w);
    *state = w;
    return 0;
}

static int set_up(void **state) { return set_up_with(1, state); }
static int set_up_without_storage(void **state) { return set_up_with(0, state); }

static int tear_down(void **state)
{
    world *w = *state;
    (void)farpool_partition_close(w->part); /* memory nodes are gone, or it was taken over */
    test_must(farpool_pool_close(w->pool), "closing");
    if (w->next) {
        (void)farpool_partition_close(w->next);
        test_must(farpool_pool_close(w->next_pool), "closing");
    }
    for (unsigned i = 0; i <= NODES; i++)
        kill_node(w, i); /* or they go on while the storage node closes */
    sim_storage_close(&w->storage);
    sim_setup_close(&w->sim);
    free(w);
    return 0;
}

/* The point of it all: two of the three nodes of the beginning may be lost, one after the other. */
static void a_replacement_counts(void **state)
{
    static const unsigned uses[NODES] = {0, SPARE, 2};
    world *w = *state;
    kill_node(w, 1);
    change_all(w);
    assert_int_equal(reconfigure(w, 2, 0, SPARE, 2), 0);
    change_all(w);
    kill_node(w, 0);
    change_all(w);
    compare_all(w, w->part);
    open_as(w, "next", 3, uses, &w->next_pool, &w->next);
    compare_all(w, w->next);
    assert_int_equal(change(w, 0), FARPOOL_E_FENCED); /* the owner before has been cut off */
}

static void a_node_that_has_forgotten_is_taken_in_again(void **state)
{
    world *w = *state;
    for (uint64_t epoch = 2; epoch < 8; epoch++) {
        unsigned victim = (unsigned)(epoch % NODES);
        kill_node(w, victim);
        change_all(w);
        restart_node(w, victim);
        assert_int_equal(reconfigure(w, epoch, 0, 1, 2), 0);
        change_all(w);
        compare_all(w, w->part);
    }
    for (unsigned i = 0; i < NODES; i++)
        assert_false(fp_slab_is_retired(fp_node_set_now(w->part), i));
}

static void a_node_that_is_well_may_leave(void **state)
{
    world *w = *state;
    assert_int_equal(reconfigure(w, 2, 0, 1, SPARE), 0);
    assert_null(w->sim.nodes[2].memnode->grants); /* it keeps nothing */
    change_all(w);
    assert_int_equal(reconfigure(w, 3, 0, 1, 2), 0);
    assert_null(w->sim.nodes[SPARE].memnode->grants);
    change_all(w);
    compare_all(w, w->part);
}

/* Each leaves the partition as it was. */
static void what_cannot_be_done_changes_nothing(void **state)
{
    world *w = *state;
    const char *uris[NODES] = {w->sim.uris[0], w->sim.uris[1], w->sim.uris[2]};
    assert_int_equal(reconfigure(w, 1, 0, 1, 2), FARPOOL_E_FENCED);
    assert_int_equal(reconfigure(w, 9, 0, 1, 1), FARPOOL_E_INVAL);
    assert_int_equal(reconfigure(w, 9, 1, 0, 2), FARPOOL_E_INVAL);
    assert_int_equal(farpool_partition_reconfigure(w->part, 9, uris, 2), FARPOOL_E_INVAL);
    uris[1] = "sim://nobody:1";
    assert_int_equal(farpool_partition_reconfigure(w->part, 9, uris, NODES), FARPOOL_E_NODE);
    uris[0] = w->sim.uris[SPARE];
    assert_int_equal(farpool_partition_reconfigure(w->part, 10, uris, NODES), FARPOOL_E_NODE);
    assert_null(w->sim.nodes[SPARE].memnode->grants); /* it was given back */
    kill_node(w, 1);
    assert_int_equal(change(w, 0), 0);
    sim_pass(&w->sim, 10);
    assert_int_equal(reconfigure(w, 11, SPARE, 1, 2), FARPOOL_E_NODE); /* one ring would stay */
    assert_null(w->sim.nodes[SPARE].memnode->grants);
    change_all(w);
    compare_all(w, w->part);
    assert_true(fp_node_set_now(w->part)->epoch == 1);
    assert_int_equal(reconfigure(w, 12, 0, SPARE, 2), 0);
    change_all(w);
}

/* A node without room for it. */
static void a_replacement_that_is_too_small_is_refused(void **state)
{
    world *w = *state;
    kill_node(w, SPARE);
    w->sim.nodes[SPARE].extents = 1;
    restart_node(w, SPARE);
    kill_node(w, 1);
    assert_int_equal(reconfigure(w, 2, 0, SPARE, 2), FARPOOL_E_NOSPACE);
    assert_null(w->sim.nodes[SPARE].memnode->grants);
    change_all(w);
    compare_all(w, w->part);
}

static void who_was_taken_over_touches_nothing(void **state)
{
    static const unsigned uses[NODES] = {0, 1, 2};
    world *w = *state;
    open_as(w, "next", 2, uses, &w->next_pool, &w->next);
    compare_all(w, w->next);
    assert_int_equal(reconfigure(w, 3, 0, 1, 2), FARPOOL_E_FENCED); /* though 3 is higher than 2 */
    world successor = *w;
    successor.part = w->next;
    change_all(&successor);
    compare_all(&successor, w->next);
    assert_int_equal(change(w, 0), FARPOOL_E_FENCED);
}

/* One node that listens at two addresses. */
static void a_node_has_one_address(void **state)
{
    world *w = *state;
    const char *bound;
    fp_net_options net = {.world = w->sim.world, .node = w->sim.nodes[0].uri + strlen("sim://")};
    const char *uris[NODES] = {w->sim.uris[0], "sim://node0:2", w->sim.uris[2]};
    test_must(fp_memnode_listen(w->sim.nodes[0].memnode, "sim://node0:2", &net, &bound), "listen");
    assert_int_equal(farpool_partition_reconfigure(w->part, 2, uris, NODES), FARPOOL_E_INVAL);
    change_all(w);
    compare_all(w, w->part);
}

/* Pages come from storage nodes when the log is longer than what LSNs of pages can count. */
static void a_long_log(void **state)
{
    world *w = *state;
    change_all(w);
    w->part->redo->first -=
        20ull << 30; /* as if so much had been logged since the partition was opened */
    kill_node(w, 0);
    assert_int_equal(reconfigure(w, 2, SPARE, 1, 2), 0);
    for (int i = 0; i < 4; i++)
        compare_all(w, w->part);
    change_all(w);
    compare_all(w, w->part);
}

/* A memory node that brings back what it had is found out, also by an owner who has recovered the partition. */
static void older_copies_are_not_taken(void **state)
{
    static const unsigned uses[NODES] = {0, 1, 2};
    static uint8_t old[PAGES][64 + 4096]; /* slots: header and page */
    world *w = *state;
    open_as(w, "next", 2, uses, &w->next_pool, &w->next);
    world successor = *w;
    successor.part = w->next;
    change_all(&successor);
    for (int i = 0; i < 6; i++) /* all go out */
        compare_all(&successor, w->next);
    for (unsigned i = 0; i < PAGES; i++)
        memcpy(old[i], sim_page_slot(&w->sim, w->next, w->pids[i]), sizeof old[i]);
    change_all(&successor);
    for (int i = 0; i < 6; i++)
        compare_all(&successor, w->next);
    for (unsigned i = 0; i < PAGES; i++)
        memcpy(sim_page_slot(&w->sim, w->next, w->pids[i]), old[i], sizeof old[i]);
    compare_all(&successor, w->next); /* they come from the storage nodes */
}

static farpool_stats stats_of(farpool_pool *pool)
{
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    return stats;
}

static void fill(world *w, farpool_pool *pool, farpool_partition *part)
{
    while (stats_of(pool).fill_left) {
        (void)fp_fill_step(part->fill); /* somebody else may have to do something first */
        sim_pass(&w->sim, 1);
    }
}

/* Reads all pages so often that each has gone out and come again; none comes from the storage node, which is gone. */
static void compare_without_storage(world *w, farpool_pool *pool, farpool_partition *part)
{
    farpool_stats before = stats_of(pool);
    sim_storage_crash(&w->storage);
    for (int i = 0; i < 6; i++)
        compare_all(w, part);
    farpool_stats after = stats_of(pool);
    assert_true(after.misses - before.misses >= 2 * PAGES);
    assert_true(after.stored_reads == before.stored_reads);
    sim_storage_restart(&w->storage);
    sim_pass(&w->sim, 1500);
}

/* And those that stay in the pool keep their place there: it needs a batch of frames, and no more. */
static void a_new_nodes_share_is_filled(void **state)
{
    world *w = *state;
    uint64_t left = 0;
    change_all(w);
    compare_all(w, w->part);
    assert_true(stats_of(w->pool).fill_left == 0);
    kill_node(w, 0);
    assert_int_equal(reconfigure(w, 2, SPARE, 1, 2), 0);
    assert_true(stats_of(w->pool).fill_left > 0);
    for (unsigned i = 0; i < PAGES; i++)
        left += sim_page_node(&w->sim, w->part, w->pids[i]) == &w->sim.nodes[SPARE];
    farpool_stats before = stats_of(w->pool);
    assert_true(fp_fill_step(w->part->fill));
    assert_true(stats_of(w->pool).fill_left > left / 2 && stats_of(w->pool).fill_left <= left);
    fill(w, w->pool, w->part);
    farpool_stats after = stats_of(w->pool);
    assert_true(after.stored_reads > before.stored_reads);
    assert_true(after.evictions - before.evictions <= after.misses - before.misses + 128);
    compare_without_storage(w, w->pool, w->part);
    change_all(w);
    compare_all(w, w->part);
}

/* Whatever has been filled and changed until then, and also if the share that was being filled is lost again. */
static void filling_begins_anew(void **state)
{
    world *w = *state;
    kill_node(w, 0);
    assert_int_equal(reconfigure(w, 2, SPARE, 1, 2), 0);
    for (int i = 0; i < 3; i++)
        assert_true(fp_fill_step(w->part->fill));
    kill_node(w, SPARE);
    for (int i = 0; i < 20; i++)
        (void)fp_fill_step(w->part->fill); /* what it writes goes elsewhere, or nowhere */
    restart_node(w, 0);
    assert_int_equal(reconfigure(w, 3, 0, 1, 2), 0);
    (void)fp_fill_step(w->part->fill);
    change_all(w);
    kill_node(w, 0);
    restart_node(w, SPARE);
    assert_int_equal(reconfigure(w, 4, SPARE, 1, 2), 0);
    fill(w, w->pool, w->part);
    compare_without_storage(w, w->pool, w->part);
}

static struct {
    sem_t done, end;
} prefetcher;

static void *prefetch(void *arg)
{
    world *w = arg;
    farpool_prefetch(w->part, w->pids, PAGES);
    sem_post(&prefetcher.done);
    sem_wait(&prefetcher.end);
    return NULL;
}

static void who_prefetches_and_then_rests_holds_nobody_up(void **state)
{
    world *w = *state;
    pthread_t thread;
    REQUIRE(!sem_init(&prefetcher.done, 0, 0) && !sem_init(&prefetcher.end, 0, 0));
    kill_node(w, 0);
    assert_int_equal(reconfigure(w, 2, SPARE, 1, 2), 0);
    REQUIRE(!pthread_create(&thread, NULL, prefetch, w));
    sem_wait(&prefetcher.done);
    for (int i = 0; i < 5000 && stats_of(w->pool).fill_left; i++) {
        (void)fp_fill_step(w->part->fill);
        sim_pass(&w->sim, 1);
    }
    uint64_t left = stats_of(w->pool).fill_left;
    sem_post(&prefetcher.end);
    REQUIRE(!pthread_join(thread, NULL));
    assert_true(left == 0);
}

/* The place of a node that is not taken in is filled elsewhere, as far as there is room. */
static void what_an_absent_node_had_is_filled_elsewhere(void **state)
{
    world *w = *state;
    kill_node(w, 0);
    sim_pass(&w->sim, 10);
    assert_int_equal(reconfigure(w, 2, 0, 1, 2), 0);
    fill(w, w->pool, w->part);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(sim_page_node(&w->sim, w->part, w->pids[i]) != &w->sim.nodes[0]);
    compare_without_storage(w, w->pool, w->part);
}

static void filling_waits_for_a_storage_node(void **state)
{
    world *w = *state;
    compare_all(w, w->part);
    test_must(farpool_wait_durable(w->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
    kill_node(w, 0);
    assert_int_equal(reconfigure(w, 2, SPARE, 1, 2), 0);
    sim_storage_crash(&w->storage);
    for (int i = 0; i < 100; i++) {
        (void)fp_fill_step(w->part->fill);
        sim_pass(&w->sim, 20);
    }
    assert_true(stats_of(w->pool).fill_left > 0);
    sim_storage_restart(&w->storage);
    fill(w, w->pool, w->part);
    compare_without_storage(w, w->pool, w->part);
}

/* What its directories and its log do not have comes from the storage node, what they have gets its redo. */
static void a_new_owner_fills_what_it_recovers(void **state)
{
    static const unsigned uses[NODES] = {0, 1, 2};
    world *w = *state;
    for (int i = 0; i < 20; i++)
        change_all(w);
    kill_node(w, 0);
    open_as(w, "next", 2, uses, &w->next_pool, &w->next);
    assert_true(stats_of(w->next_pool).fill_left > 0);
    fill(w, w->next_pool, w->next);
    compare_without_storage(w, w->next_pool, w->next);
}

static void who_gets_storage_nodes_later_fills_from_them(void **state)
{
    world *w = *state;
    const char *storages[] = {w->storage.uri};
    pthread_mutex_lock(&w->part->changes_lock);
    test_must(fp_storage_change_locked(w->part, storages, 1), "naming a storage node");
    pthread_mutex_unlock(&w->part->changes_lock);
    test_must(farpool_wait_durable(w->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
    kill_node(w, 0);
    assert_int_equal(reconfigure(w, 2, SPARE, 1, 2), 0);
    assert_true(stats_of(w->pool).fill_left > 0);
    fill(w, w->pool, w->part);
    compare_without_storage(w, w->pool, w->part);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    fp_log_set_level(FP_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        TEST(a_replacement_counts),
        TEST(a_new_nodes_share_is_filled),
        TEST(filling_begins_anew),
        TEST(who_prefetches_and_then_rests_holds_nobody_up),
        TEST(what_an_absent_node_had_is_filled_elsewhere),
        TEST(filling_waits_for_a_storage_node),
        TEST(a_new_owner_fills_what_it_recovers),
        cmocka_unit_test_setup_teardown(who_gets_storage_nodes_later_fills_from_them,
                                        set_up_without_storage, tear_down),
        TEST(a_long_log),
        TEST(a_node_has_one_address),
        TEST(older_copies_are_not_taken),
        TEST(a_node_that_has_forgotten_is_taken_in_again),
        TEST(a_node_that_is_well_may_leave),
        TEST(what_cannot_be_done_changes_nothing),
        TEST(a_replacement_that_is_too_small_is_refused),
        TEST(who_was_taken_over_touches_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
