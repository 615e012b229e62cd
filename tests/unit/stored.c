/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that a partition which has lost its rings comes back from its storage nodes only when these are enough to prove
 * what was on stable media: one whose volume was lost is not among them. And that one that was away, with more log than
 * the partition has gone on from, is neither counted nor chosen afterwards, and gets the right log from another one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compute/keeper.h"
#include "tests/lib/require.h"
#include "tests/lib/simpool.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { NODES = 3, RING_BYTES = 1 << 20 };

typedef struct world {
    sim_setup sim;
    sim_storage storages[NODES];
    farpool_pool *pool;
    farpool_partition *part;
    uint64_t epoch;
} world;

static int open_next(world *w, enum farpool_recover recover)
{
    farpool_partition_options options;
    const char *storages[NODES];
    for (unsigned i = 0; i < NODES; i++)
        storages[i] = w->storages[i].uri;
    sim_pool_open(&w->sim, w->epoch ? "next" : "owner", FARPOOL_MAPPING_FRAMES, &w->pool);
    sim_partition_options(&w->sim, ++w->epoch, &options);
    options.log_copies = NODES;
    options.log_ring_bytes = RING_BYTES;
    options.storagenodes = storages;
    options.storagenode_count = NODES;
    options.storage_quorum = 2;
    options.recover = recover;
    int rc = farpool_partition_open(w->pool, &options, &w->part);
    if (rc)
        test_must(farpool_pool_close(w->pool), "closing");
    return rc;
}

static int set_up(void **state)
{
    static const fp_sim_config config = {.torn = true, .late = true};
    world *w = calloc(1, sizeof *w);
    REQUIRE(w);
    sim_setup_open(&w->sim, test_seed(20261123), &config, NODES, 3);
    for (unsigned i = 0; i < NODES; i++) {
        sim_storage_open(&w->storages[i], w->sim.world, i);
        sim_node_spill(&w->sim.nodes[i], w->storages[i].uri);
    }
    test_must(open_next(w, FARPOOL_NEW), "opening");
    *state = w;
    return 0;
}

static void close_owner(world *w)
{
    (void)farpool_partition_close(w->part); /* nodes may be gone */
    test_must(farpool_pool_close(w->pool), "closing");
}

static int tear_down(void **state)
{
    world *w = *state;
    close_owner(w);
    for (unsigned i = 0; i < NODES; i++)
        sim_node_crash(&w->sim.nodes[i]);
    for (unsigned i = 0; i < NODES; i++)
        sim_storage_close(&w->storages[i]);
    sim_setup_close(&w->sim);
    free(w);
    return 0;
}

static int try_write(world *w, uint64_t value, enum farpool_durability durability, farpool_pid *pid)
{
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(w->part, 0, &mtr), "beginning");
    test_must(farpool_mtr_alloc(mtr, 0, pid, &page), "allocating");
    *(uint64_t *)page = value;
    return farpool_mtr_commit(mtr, durability, NULL);
}

static int wait_stored(const world *w)
{
    fp_redo_log *log = w->part->redo;
    return fp_keeper_wait_stored(log->keeper, atomic_load(&log->end), 3000);
}

static farpool_pid write_page(world *w, uint64_t value)
{
    farpool_pid pid;
    test_must(try_write(w, value, FARPOOL_DURABLE_STORAGE, &pid), "committing");
    return pid;
}

static void check_page(world *w, farpool_pid pid, uint64_t value)
{
    void *page;
    test_must(farpool_fix(w->part, pid, FARPOOL_SHARED, &page), "reading");
    assert_true(*(uint64_t *)page == value);
    farpool_unfix(w->part, pid, FARPOOL_SHARED);
}

static void lose_everything(world *w)
{
    for (unsigned i = 0; i < NODES; i++) {
        sim_node_crash(&w->sim.nodes[i]);
        sim_storage_crash(&w->storages[i]);
    }
    close_owner(w);
    for (unsigned i = 0; i < NODES; i++) {
        while (!sim_node_restart(&w->sim.nodes[i]))
            sim_pass(&w->sim, 1);
        w->sim.nodes[i].lost = false;
    }
}

static void start(world *w, unsigned i)
{
    sim_storage_restart(&w->storages[i]);
    sim_pass(&w->sim, 100);
    REQUIRE(w->storages[i].serves);
}

/* All is lost but what storage nodes a and b have. That is enough, and the pages are there. */
static void recover_from(world *w, unsigned a, unsigned b, farpool_pid early, farpool_pid late,
                         uint64_t late_value)
{
    lose_everything(w);
    start(w, a);
    start(w, b);
    test_must(open_next(w, FARPOOL_RECOVER_STORED), "opening");
    check_page(w, early, 1);
    check_page(w, late, late_value);
}

/* The page is on nodes 0 and 1 only; 0 forgets it, 1 is away. 0 and 2 are no quorum. */
static void a_volume_that_was_lost_proves_nothing(void **state)
{
    world *w = *state;
    farpool_pid early = write_page(w, 1);
    sim_storage_crash(&w->storages[2]);
    farpool_pid late = write_page(w, 2);
    lose_everything(w);
    sim_storage_lose_volume(&w->storages[0]);
    start(w, 0);
    start(w, 2);
    assert_int_equal(open_next(w, FARPOOL_RECOVER_STORED), FARPOOL_E_NODE);
    start(w, 1);
    test_must(open_next(w, FARPOOL_RECOVER_STORED), "opening");
    check_page(w, early, 1);
    check_page(w, late, 2);
}

static void a_partition_that_nobody_stored_is_not_found(void **state)
{
    world *w = *state;
    for (unsigned i = 0; i < NODES; i++)
        sim_storage_crash(&w->storages[i]);
    for (unsigned i = 0; i < NODES; i++)
        sim_storage_lose_volume(&w->storages[i]);
    lose_everything(w);
    for (unsigned i = 0; i < NODES; i++)
        start(w, i);
    assert_int_equal(open_next(w, FARPOOL_RECOVER_STORED), FARPOOL_E_NOTFOUND);
    test_must(open_next(w, FARPOOL_NEW), "opening");
}

/* Who makes it anew would lose what is stored: rings that have lost all look like new ones. */
static void nobody_begins_anew_what_is_stored(void **state)
{
    world *w = *state;
    farpool_pid early = write_page(w, 1);
    test_must(farpool_wait_durable(w->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
    lose_everything(w);
    sim_storage_lose_volume(&w->storages[0]);
    start(w, 0);
    assert_int_equal(open_next(w, FARPOOL_NEW), FARPOOL_E_NODE); /* the others may know better */
    start(w, 1);
    start(w, 2);
    assert_int_equal(open_next(w, FARPOOL_NEW), FARPOOL_E_EXISTS);
    assert_non_null(strstr(farpool_errmsg(), "FARPOOL_RECOVER_STORED"));
    test_must(open_next(w, FARPOOL_RECOVER_STORED), "opening");
    check_page(w, early, 1);
}

/* ---- one that was away, with log that never was ---------------------------------------------- */

enum { GONE = 100, MORE = 10 };

/* Node 2 gets `extra` pages that the others lack, and is away when these go on from what they have. */
static farpool_pid leave_out(world *w, unsigned extra)
{
    farpool_pid gone, early = write_page(w, 1);
    test_must(farpool_wait_durable(w->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
    sim_storage_crash(&w->storages[0]);
    sim_storage_crash(&w->storages[1]);
    for (unsigned i = 0; i < extra; i++)
        test_must(try_write(w, GONE + i, FARPOOL_DURABLE_MEMORY, &gone), "committing");
    assert_int_equal(wait_stored(w), FARPOOL_E_TIMEOUT);
    lose_everything(w);
    start(w, 0);
    start(w, 1);
    test_must(open_next(w, FARPOOL_RECOVER_STORED), "opening");
    return early;
}

static farpool_pid write_more(world *w)
{
    farpool_pid last = 0;
    for (unsigned i = 0; i < MORE; i++)
        last = write_page(w, 2 + i);
    return last;
}

static void a_log_that_never_was_does_not_count(world *w, unsigned extra)
{
    farpool_pid pid, early = leave_out(w, extra), late = write_more(w);
    start(w, 2);
    sim_pass(&w->sim, 2000);
    sim_storage_crash(&w->storages[1]);
    test_must(try_write(w, 3, FARPOOL_DURABLE_MEMORY, &pid), "committing");
    assert_int_equal(wait_stored(w), FARPOOL_E_TIMEOUT);
    lose_everything(w);
    start(w, 0);
    start(w, 2);
    assert_int_equal(open_next(w, FARPOOL_RECOVER_STORED), FARPOOL_E_NODE);
    start(w, 1);
    test_must(open_next(w, FARPOOL_RECOVER_STORED), "opening");
    check_page(w, early, 1);
    check_page(w, late, 1 + MORE);
}

static void a_longer_log_that_never_was(void **state)
{
    a_log_that_never_was_does_not_count(*state, 3 * MORE);
}

static void a_shorter_log_that_never_was(void **state)
{
    a_log_that_never_was_does_not_count(*state, 1);
}

/* Nobody has told it before it is asked, so it answers as it always did. */
static void a_longer_log_is_not_chosen(void **state)
{
    world *w = *state;
    farpool_pid early = leave_out(w, 3 * MORE), late = write_page(w, 2);
    recover_from(w, 0, 2, early, late, 2);
    start(w, 1); /* it was away for the second fork, but has no more than the partition */
    late = write_page(w, 3);
    recover_from(w, 0, 1, early, late, 3);
}

static void it_gets_the_right_log_from_a_peer(void **state)
{
    world *w = *state;
    farpool_pid pid;
    w->storages[2].peer = w->storages[0].uri;
    farpool_pid early = leave_out(w, 3 * MORE), late = write_more(w);
    start(w, 2);
    for (unsigned i = 0; i < 100; i++) {
        sim_storage_step(&w->storages[2]);
        sim_pass(&w->sim, 50);
    }
    sim_storage_crash(&w->storages[1]);
    test_must(try_write(w, 3, FARPOOL_DURABLE_MEMORY, &pid), "committing");
    test_must(wait_stored(w), "waiting");
    recover_from(w, 1, 2, early, late, 1 + MORE);
    check_page(w, pid, 3);
}

/* Whoever has made the fork is gone, rings tell the next owner all, and no spiller has reached the node yet. */
static void a_fork_is_told_by_who_wants_a_page(void **state)
{
    world *w = *state;
    farpool_pid early = write_page(w, 1);
    test_must(farpool_wait_durable(w->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
    sim_pass(&w->sim, 100); /* the third has it, too */
    for (unsigned i = 0; i < NODES; i++)
        w->sim.nodes[i].storage = "sim://nobody"; /* from its next start on */
    recover_from(w, 0, 1, early, early, 1);
    close_owner(w);
    sim_storage_crash(&w->storages[0]);
    sim_storage_crash(&w->storages[1]);
    start(w, 2);
    test_must(open_next(w, FARPOOL_RECOVER), "opening");
    check_page(w, early, 1);
}

/* ---- one whose log counts for nothing -------------------------------------------------------- */

/* Commits as much as the rings hold several times; there is room again and again, though nobody waits for it. */
static void fill_rings(world *w)
{
    enum { LAPS = 4, TRIES = 2000 };
    fp_redo_log *log = w->part->redo;
    farpool_mtr *mtr;
    void *page;
    farpool_pid pid = write_page(w, 1);
    uint64_t until = atomic_load(&log->end) + LAPS * RING_BYTES;
    for (int fill = 1; atomic_load(&log->end) < until; fill++) {
        test_must(farpool_mtr_begin(w->part, 0, &mtr), "beginning");
        test_must(farpool_mtr_fix(mtr, pid, &page), "fixing");
        memset(page, fill, FARPOOL_UNIT_BYTES);
        test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "committing");
        int tries = 0;
        while (atomic_load(&log->end) - atomic_load(&log->floor) > RING_BYTES / 2) {
            assert_true(++tries < TRIES);
            (void)fp_keeper_step(log->keeper);
            sim_pass(&w->sim, 1);
        }
    }
    test_must(wait_stored(w), "waiting");
}

/* Its memory node is new, and has never heard which volume it is. */
static void a_stray_log_holds_nobody_up(void **state)
{
    world *w = *state;
    farpool_pid early = leave_out(w, 3 * MORE), late = write_more(w);
    start(w, 2);
    sim_pass(&w->sim, 2000);
    recover_from(w, 0, 1, early, late, 1 + MORE);
    start(w, 2);
    fill_rings(w);
    recover_from(w, 0, 1, early, late, 1 + MORE);
}

/* Its memory node has said before how far it was. */
static void a_log_that_is_damaged_holds_nobody_up(void **state)
{
    world *w = *state;
    farpool_pid early = write_page(w, 1);
    test_must(wait_stored(w), "waiting");
    sim_storage_crash(&w->storages[2]);
    REQUIRE(fp_disk_sim_zero(w->storages[2].medium, "wal-0000000000000001-state", 0, 8192));
    start(w, 2);
    fill_rings(w);
    recover_from(w, 0, 1, early, early, 1);
}

/* Storage node 2 is away for so long that the rings let go of what it misses; then a memory node is lost. */
static void make_gap(world *w)
{
    const fp_redo_log *log = w->part->redo;
    farpool_pid pid = write_page(w, 1);
    sim_storage_crash(&w->storages[2]);
    for (unsigned i = 0; atomic_load(&log->start) <= log->rings[2].spilled; i++) {
        farpool_mtr *mtr;
        void *page;
        REQUIRE(i < 20000);
        test_must(farpool_mtr_begin(w->part, 0, &mtr), "beginning");
        test_must(farpool_mtr_fix(mtr, pid, &page), "changing");
        memset(page, (int)i, FARPOOL_UNIT_BYTES);
        test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "committing");
        sim_pass(&w->sim, 1);
    }
    sim_node_crash(&w->sim.nodes[0]);
}

/* What the rings have let go of it gets from others, and then what is waited for from the ring. */
static void a_gap_is_waited_for(void **state)
{
    world *w = *state;
    make_gap(w);
    assert_int_equal(wait_stored(w), FARPOOL_E_TIMEOUT);
    w->storages[2].peer = w->storages[0].uri;
    start(w, 2);
    for (unsigned i = 0; i < 100; i++) {
        sim_storage_step(&w->storages[2]);
        sim_pass(&w->sim, 50);
    }
    test_must(wait_stored(w), "waiting");
}

static void but_not_for_ever(void **state)
{
    world *w = *state;
    make_gap(w);
    const fp_redo_log *log = w->part->redo;
    assert_int_equal(fp_keeper_wait_stored(log->keeper, atomic_load(&log->end), 90000),
                     FARPOOL_E_NODE);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_volume_that_was_lost_proves_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nobody_begins_anew_what_is_stored, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_longer_log_that_never_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_shorter_log_that_never_was, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_longer_log_is_not_chosen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_gets_the_right_log_from_a_peer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_fork_is_told_by_who_wants_a_page, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stray_log_holds_nobody_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_log_that_is_damaged_holds_nobody_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_gap_is_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(but_not_for_ever, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_partition_that_nobody_stored_is_not_found, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
