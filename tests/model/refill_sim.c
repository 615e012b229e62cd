/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that a ring which a recovery has filled only in part never passes for the log: of three rings one has all
 * commits, one is on a node that has restarted, one has missed the last commits. A new owner fills them, commits more,
 * and is cut off at a moment of the world's time, tried out one after the other until it is through before; then another
 * owner comes, who cannot reach the ring that has all. It must find every commit or say that too few rings can tell.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/lib/require.h"
#include "tests/lib/simpool.h"
#include "tests/lib/testnode.h"

enum {
    NODES = 3,
    EXTENTS = 4,
    RING_BYTES = 1 << 20,
    COMMITS = 40,   /* the second half of them misses the third ring */
    STEP_NS = 5000, /* an operation takes 1000 to 10000 */
    STEP_NS_QUICK = 20000,
    STEPS_MAX = 4000,
};

static sim_setup sim;

static int open_part(const char *name, uint64_t epoch, farpool_pool **pool,
                     farpool_partition **part)
{
    farpool_partition_options options;
    sim_pool_open(&sim, name, FARPOOL_MAPPING_FRAMES, pool);
    sim_partition_options(&sim, epoch, &options);
    options.log_copies = NODES;
    options.log_ring_bytes = RING_BYTES;
    options.recover = epoch > 1;
    return farpool_partition_open(*pool, &options, part);
}

/* Fills the page, which it makes if need be, with a number. */
static int commit(farpool_partition *part, farpool_pid *pid, unsigned number)
{
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(part, 0, &mtr), "beginning");
    int rc = *pid == FARPOOL_PID_NONE ? farpool_mtr_alloc(mtr, 0, pid, &page)
                                      : farpool_mtr_fix(mtr, *pid, &page);
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    memset(page, (int)number, FARPOOL_UNIT_BYTES);
    return farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
}

/* What is there is the commit acknowledged last, or the one after it. */
static void check(farpool_partition *part, farpool_pid pid, unsigned acknowledged)
{
    void *page;
    test_must(farpool_fix(part, pid, FARPOOL_SHARED, &page), "reading");
    const uint8_t *bytes = page;
    REQUIRE(bytes[0] == acknowledged || bytes[0] == acknowledged + 1);
    for (unsigned i = 0; i < FARPOOL_UNIT_BYTES; i++)
        REQUIRE(bytes[i] == bytes[0]);
    farpool_unfix(part, pid, FARPOOL_SHARED);
}

static void close_all(farpool_pool *pool, farpool_partition *part)
{
    int rc = part ? farpool_partition_close(part) : 0;
    REQUIRE(!rc || rc == FARPOOL_E_NODE);
    test_must(farpool_pool_close(pool), "closing a pool");
}

static void cut_second_off(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < NODES; i++) {
        fp_sim_reset(sim.world, "second", sim.uris[i] + strlen("sim://"));
        fp_sim_cut(sim.world, "second", sim.uris[i] + strlen("sim://"));
    }
}

/* Whether the second owner was through before it was cut off. *found: the third one found the log. */
static bool run(uint64_t seed, uint64_t cut_after_ns, bool *found)
{
    fp_sim_config config = {.torn = true};
    farpool_pool *first, *second, *third;
    farpool_partition *part[3] = {NULL};
    sim_setup_open(&sim, seed, &config, NODES, EXTENTS);
    test_must(open_part("first", 1, &first, &part[0]), "the first owner");
    farpool_pid pid = FARPOOL_PID_NONE;
    unsigned done = 0;
    while (done < COMMITS) {
        if (done == COMMITS / 2)
            fp_sim_cut(sim.world, "first", "node2");
        test_must(commit(part[0], &pid, ++done), "committing");
    }
    sim_node_crash(&sim.nodes[1]);
    sim_node_restart(&sim.nodes[1]);

    fp_sim_at(sim.world, fp_sim_now_ns(sim.world) + cut_after_ns, cut_second_off, NULL);
    int rc = open_part("second", 2, &second, &part[1]);
    while (!rc &&
           done < 2 * COMMITS) { /* meanwhile the rings that were not awaited are filled, too */
        rc = commit(part[1], &pid, done + 1);
        done += !rc;
    }
    bool through = !rc;

    fp_sim_cut(sim.world, "third", "node0");
    rc = open_part("third", 3, &third, &part[2]);
    REQUIRE(!rc || rc == FARPOOL_E_NODE);
    *found = !rc;
    if (!rc)
        check(part[2], pid, done);
    close_all(first, part[0]);
    close_all(second, part[1]);
    close_all(third, part[2]);
    sim_setup_close(&sim);
    return through;
}

int main(void)
{
    alarm(300); /* a hang fails */
    fp_log_set_level(FP_LOG_ERROR);
    uint64_t seed = test_seed(1);
    uint64_t step_ns = getenv("FARPOOL_TEST_QUICK") ? STEP_NS_QUICK : STEP_NS;
    unsigned step = 0, found = 0, found_first = 0;
    bool through = false, once;
    for (; !through; step++) {
        REQUIRE(step < STEPS_MAX);
        through = run(seed, step * step_ns, &once);
        found += once;
        if (once && !found_first)
            found_first = step;
    }
    REQUIRE(found && found_first); /* else nothing was shown */
    printf("cut off at %u moments: the next owner found all commits in %u of them\n", step, found);
    return 0;
}
