/* SPDX-License-Identifier: Apache-2.0 */
/* test-build: faults
 * test-timeout: 600
 *
 * Shows that a cluster of real processes loses nothing that it has acknowledged when one of them dies at a fault point
 * (common/faultpoint.h), wherever that is: for each point the process that comes there is started so that it dies the
 * n-th time, in a workload that makes it come there; then it is started again, sometimes to die once more while it
 * recovers, and the next worker recovers the partition and compares all of it. After a storage node has died its volume
 * is checked, and the next worker has to do with what is on storage. A point that is not reached is a failure.
 *
 * ROUNDS=n passes over all points: the first over shm with one storage node, so that nothing is made up for by another
 * one, later ones over tcp, too, and with up to three. SEED=n and POINT=NAME repeat what was seen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/crash/fault_plans.h"
#include "tests/lib/cluster_work.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    NODES = CLUSTER_NODES,
    NODE_KIB = 32 << 10,
    SLAB_BYTES = 24 << 20,
    RING_BYTES = 1 << 20,
    WRITES_MAX = 300, /* between two events */
    STORED_MAX = 10,  /* the same of those that wait for storage */
    PAUSE_MS = 20,    /* between what fails together */
    REACH_S = 120,    /* a point that is not reached in this time is not reached */
    SECOND_EACH = 3,  /* of so many deaths one is followed by another while it recovers */
    TURN_MS = 1500,   /* after which it is helped to come there, if somebody knows how */
    FAULT_MAX = 64,
};

static cluster_work *work;
static test_cluster cluster;
static const char *transport;
static uint64_t random_state;
static unsigned deaths, seconds, recoveries;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

/* ---- dying ----------------------------------------------------------------------------------- */

/* What the environment of the process that dies says. */
static const char *fault_when(unsigned point, unsigned long long times)
{
    static char text[3][FAULT_MAX]; /* those before may still be in use */
    static unsigned turn;
    char *fault = text[turn++ % 3];
    snprintf(fault, FAULT_MAX, "%s:%llu", names[point], times);
    return fault;
}

static const char *fault_at(unsigned point)
{
    return fault_when(point, plans[point].after + 1 + draw(plans[point].most));
}

static bool worker_died(cluster_work *w, uint64_t unused)
{
    return (void)unused, cluster_work_died(w);
}

static bool node_died(cluster_work *w, uint64_t i)
{
    return test_cluster_node_died(w->cluster, (unsigned)i);
}

static bool storage_died(cluster_work *w, uint64_t i)
{
    return test_cluster_storage_died(w->cluster, (unsigned)i);
}

static struct {
    bool (*has_died)(cluster_work *w, uint64_t arg);
    uint64_t arg, reach_ns, turn_ns;
    const char *fault;
    bool dead;
} victim;

static void expect_death(bool (*has_died)(cluster_work *w, uint64_t arg), uint64_t arg,
                         const char *fault)
{
    victim.has_died = has_died;
    victim.arg = arg;
    victim.fault = fault;
    victim.dead = false;
    victim.reach_ns = fp_now_ns() + REACH_S * 1000000000ull;
}

static bool is_over(cluster_work *w, uint64_t unused)
{
    (void)unused;
    uint64_t now = fp_now_ns();
    victim.dead = victim.has_died(w, victim.arg);
    if (!victim.dead && now > victim.reach_ns) {
        fprintf(stderr,
                "%s was not reached within %d s, %llu writes acknowledged since the start\n%s",
                victim.fault, REACH_S, (unsigned long long)atomic_load(&w->acks), w->rings);
        exit(1);
    }
    return victim.dead || now > victim.turn_ns;
}

/* Until it has died, or for a while, after which the caller may help it to come to its point. */
static bool wait_turn(void)
{
    victim.turn_ns = fp_now_ns() + TURN_MS * 1000000ull;
    cluster_work_wait(work, victim.fault, is_over, 0);
    deaths += victim.dead;
    return victim.dead;
}

static void wait_death(bool (*has_died)(cluster_work *w, uint64_t arg), uint64_t arg,
                       const char *fault)
{
    expect_death(has_died, arg, fault);
    while (!wait_turn())
        ;
}

/* A point for a second death, of the same role; or none. */
static unsigned draw_second(enum how how)
{
    unsigned point;
    if (draw(SECOND_EACH))
        return FP_FAULT_COUNT;
    do
        point = (unsigned)draw(FP_FAULT_COUNT);
    while (!plans[point].again || plans[point].how != how ||
           (plans[point].shm_only && strcmp(transport, "shm") != 0));
    seconds++;
    return point;
}

/* ---- the worker ------------------------------------------------------------------------------ */

static void work_on(const char *what) { cluster_work_on(work, what, 1 + draw(WRITES_MAX)); }

/* A worker that does not die: it compares, and all rings are as they should be. */
static void recover(void)
{
    cluster_work_start(work, NULL);
    cluster_work_wait_ready(work);
    atomic_store(&work->lossy, false);
    atomic_store(&work->shaky, false);
    recoveries++;
    cluster_work_wait_refills(work);
    for (unsigned i = 0; i < NODES; i++)
        cluster_work_wait_whole(work, i);
    work_on("working");
}

static void restart_node(unsigned i)
{
    test_cluster_kill_node(&cluster, i);
    test_cluster_start_node(&cluster, i);
}

/* All memory fails; what was stored is left. */
static void lose_memory(void)
{
    atomic_store(&work->dying, true);
    if (work->worker)
        cluster_work_kill(work);
    atomic_store(&work->lossy, true);
    work->tried_stored = false;
    for (unsigned i = 0; i < NODES; i++)
        restart_node(i);
}

static void die_again(void)
{
    unsigned point = draw_second(WORKER);
    if (point == FP_FAULT_COUNT)
        return;
    const char *fault = fault_at(point);
    printf("    then %s\n", fault);
    cluster_work_start(work, fault);
    wait_death(worker_died, 0, fault);
}

static void kill_at_worker(unsigned point, const char *fault)
{
    unsigned node = (unsigned)draw(NODES);
    cluster_work_kill(work);
    if (plans[point].how == WORKER_BLANK)
        restart_node(node);
    if (plans[point].how == WORKER_STORED)
        lose_memory();
    cluster_work_start(work, fault);
    if (plans[point].how == WORKER_CUT) {
        cluster_work_wait_ready(work);
        for (unsigned i = 0; i < NODES; i++)
            cluster_work_wait_whole(work, i);
        test_cluster_kill_node(&cluster, node);
    }
    wait_death(worker_died, 0, fault);
    test_cluster_start_all(&cluster);
    die_again();
    recover();
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static void kill_at_node(const char *fault)
{
    unsigned node = (unsigned)draw(NODES);
    cluster_work_kill(work);
    test_cluster_kill_node(&cluster, node);
    test_cluster_doom_node(&cluster, node, fault);
    atomic_store(&work->shaky, true);
    cluster_work_start(work, NULL);
    wait_death(node_died, node, fault);
    cluster_work_wait_ready(work);
    work_on("working without a memory node");
    test_cluster_start_node(&cluster, node);
    cluster_work_kill(work);
    recover();
}

/* In a cluster of which only the first memory node spills. Without it nothing can get onto stable media any more, of
 * which the worker may complain. */
static void kill_at_spiller(const char *fault)
{
    cluster_work_kill(work);
    test_cluster_kill_node(&cluster, 0);
    test_cluster_doom_node(&cluster, 0, fault);
    atomic_store(&work->shaky, true);
    cluster_work_start(work, NULL);
    atomic_store(&work->dying, true);
    wait_death(node_died, 0, fault);
    cluster_work_kill(work);
    test_cluster_start_node(&cluster, 0);
    if (draw(2))
        lose_memory();
    recover();
}

static void check_volume(unsigned i)
{
    char command[1024];
    const char *build = getenv("FARPOOL_BUILD");
    int len = snprintf(command, sizeof command, "'%s/farpool-storagenode' check '%s' >/dev/null",
                       build ? build : "build-faults", cluster.volumes[i]);
    REQUIRE(len < (int)sizeof command && system(command) == 0);
}

/* Starts it so that it dies. */
static void doom_storage(unsigned i, const char *fault)
{
    atomic_store(&work->troubled, true);
    test_cluster_doom_storage(&cluster, i, fault);
}

/* Each storage node gets what is written. */
static void work_until_stored(void)
{
    cluster_work_store(work, "working until something is stored", 1 + draw(STORED_MAX));
    cluster_work_wait_refills(work);
}

static void kill_at_storage(unsigned point, const char *fault)
{
    unsigned storage = (unsigned)draw(cluster.storage_count);
    work_until_stored();
    atomic_store(&work->troubled, true);
    test_cluster_kill_storage(&cluster, storage);
    if (plans[point].how == STORAGE_LEFT) {
        const char *before = fault_at(draw(2) ? FP_FAULT_MERGED : FP_FAULT_LAYER_MADE);
        printf("    after %s\n", before);
        doom_storage(storage, before);
        wait_death(storage_died, storage, before);
    }
    doom_storage(storage, fault);
    if (plans[point].how == STORAGE_OWNER || draw(2)) {
        cluster_work_kill(work);
        cluster_work_start(work, NULL);
        atomic_store(&work->troubled, true);
    }
    expect_death(storage_died, storage, fault);
    while (!wait_turn()) {
        if (plans[point].how != STORAGE_DOUBT)
            continue;
        test_cluster_kill_storage(&cluster, storage);
        doom_storage(storage, fault);
    }
    bool all = draw(2); /* fail before it comes back */
    if (all) {
        cluster_work_pass_ms(work, draw(PAUSE_MS));
        lose_memory();
    }
    check_volume(storage);
    unsigned second = draw_second(STORAGE);
    if (second < FP_FAULT_COUNT) {
        const char *again = fault_when(second, 1); /* nobody works, perhaps */
        printf("    then %s\n", again);
        doom_storage(storage, again);
        wait_death(storage_died, storage, again);
        check_volume(storage);
    }
    test_cluster_start_storage(&cluster, storage);
    if (!all) {
        cluster_work_wait_ready(work);
        work_on("working after a storage node came back");
        lose_memory();
    }
    recover();
}

/* Of a cluster that nobody has used yet. */
static void kill_at_new_storage(const char *fault)
{
    test_cluster_kill_storage(&cluster, 0);
    test_volume_remove(cluster.volumes[0]);
    test_volume_make(cluster.volumes[0]);
    test_cluster_doom_storage(&cluster, 0, fault);
    wait_death(storage_died, 0, fault);
    test_cluster_start_storage(&cluster, 0);
}

/* ---- passes ---------------------------------------------------------------------------------- */

static bool is_wanted(unsigned point)
{
    const char *only = getenv("POINT");
    return (!only || !strcmp(only, names[point])) &&
           (!plans[point].shm_only || !strcmp(transport, "shm"));
}

static void kill_at(unsigned point)
{
    const char *fault = fault_at(point);
    uint64_t begin = fp_now_ns();
    printf("%s\n", fault);
    fflush(stdout);
    switch (plans[point].how) {
    case NOT_PLANNED:
        fprintf(stderr, "nobody has planned how to come to %s\n", names[point]);
        exit(1);
    case NODE:
        kill_at_node(fault);
        break;
    case NODE_SPILLS:
        kill_at_spiller(fault);
        break;
    case STORAGE:
    case STORAGE_OWNER:
    case STORAGE_DOUBT:
    case STORAGE_LEFT:
        kill_at_storage(point, fault);
        break;
    case STORAGE_NEW:
        kill_at_new_storage(fault);
        break;
    default:
        kill_at_worker(point, fault);
    }
    printf("    %.1f s\n", (double)(fp_now_ns() - begin) / 1e9);
}

/* All points that are wanted and come early, or late. Returns how many. */
static unsigned kill_at_each(uint64_t seed, bool spills, bool new_storage)
{
    unsigned points = 0;
    for (unsigned point = 0; point < FP_FAULT_COUNT; point++) {
        enum how how = plans[point].how;
        if (!is_wanted(point) || (how == NODE_SPILLS) != spills ||
            (how == STORAGE_NEW) != new_storage)
            continue;
        random_state = seed + point; /* so that a point alone does what it did among others */
        kill_at(point);
        points++;
    }
    return points;
}

static unsigned pass(unsigned number, bool spills, uint64_t seed)
{
    random_state = seed;
    deaths = seconds = recoveries = 0;
    transport = number % 2 ? "tcp" : "shm";
    bool one = spills || !number;
    cluster = (test_cluster){.storage_count = one ? 1 : 1 + (unsigned)draw(CLUSTER_STORAGES_MAX),
                             .spillers = spills ? 1 : NODES,
                             .memory_kib = NODE_KIB,
                             .file_size = "64k"};
    test_cluster_start_as_set(&cluster, transport);
    cluster_work_begin(work, &cluster, seed);
    work->ring_bytes = RING_BYTES;
    work->slab_bytes = SLAB_BYTES;
    work->storage_quorum = 1; /* nothing is made up for by another storage node */
    unsigned points = kill_at_each(seed, spills, true);
    recover();
    points += kill_at_each(seed, spills, false);
    cluster_work_kill(work);
    test_cluster_stop(&cluster);
    printf("%s, %u storage nodes, %u memory nodes that spill: %u points, %u deaths at them, %u of "
           "these while recovering from another; %u recoveries, %llu of them from storage; %llu "
           "commits acknowledged, %llu of them on storage, none lost\n",
           transport, cluster.storage_count, cluster.spillers, points, deaths, seconds, recoveries,
           (unsigned long long)atomic_load(&work->from_storage),
           (unsigned long long)atomic_load(&work->acks),
           (unsigned long long)atomic_load(&work->stored));
    fflush(stdout);
    return points;
}

int main(void)
{
#ifndef FARPOOL_FAULTS
    printf("this build has no fault points (make FAULTS=1)\n");
    return 77;
#endif
    const char *text = getenv("ROUNDS");
    unsigned rounds = text ? (unsigned)atoi(text) : 1;
    unsigned points = 0;
    uint64_t seed = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    work = cluster_work_new();
    for (unsigned i = 0; i < rounds; i++) {
        points += pass(i, false, seed + 2 * i * FP_FAULT_COUNT);
        points += pass(i, true, seed + 2 * i * FP_FAULT_COUNT);
    }
    REQUIRE(points); /* or POINT is none */
    return 0;
}
