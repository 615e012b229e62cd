/* SPDX-License-Identifier: Apache-2.0 */
/* test-timeout: 400
 *
 * Shows that a cluster of real processes loses nothing that it has acknowledged, whichever of them are killed with
 * kill -9: round after round a worker recovers the partition, compares all of its B+-tree with what the workers before it
 * have noted in shared memory, and goes on writing with several threads, over a small pool and small log rings that are
 * used many times over. Killed are, at random moments, and also while others recover:
 *
 *   - the worker. The next one finds every acknowledged write
 *   - a memory node: the worker goes on; the node comes back empty and is used by the next worker, or this one takes it in
 *     again while it works. Then another one is killed: the first counts as if it had never been away
 *   - storage nodes: the worker goes on, at the latest when they are back
 *   - a storage node with all that is on its volume: it gets that from the others
 *   - two memory nodes, or all, or everything: FARPOOL_RECOVER refuses, and FARPOOL_RECOVER_STORED finds each thread's
 *     writes up to one that is not before the last it was told was on stable media
 *
 * A worker that gets nothing done for three minutes is a failure, with its stacks. ROUNDS=n and SEED=n; LIMIT_S=n: no round
 * begins later than that, for each transport (50, or none if ROUNDS is given);
 * FARPOOL_TEST_SCHEME picks the transport, FARPOOL_TEST_STORAGES the number of storage nodes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/cluster_work.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    NODES = CLUSTER_NODES,
    NODE_KIB = 96 << 10,
    SLAB_BYTES = 48 << 20,
    ACKS_MAX = 2000, /* between two events */
    LIMIT_S = 50,
    EMULATED_REST_US = 5000, /* where looking around costs what the cluster needs */
};

static cluster_work *work;
static test_cluster cluster;
static uint64_t random_state;
static unsigned disasters, reads;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

static void work_on(const char *what) { cluster_work_on(work, what, 1 + draw(ACKS_MAX)); }

static void kill_storage(unsigned i)
{
    atomic_store(&work->troubled, true);
    test_cluster_kill_storage(&cluster, i);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

enum { WORKER, NODE, STORAGE, NODE_AND_STORAGE, VOLUME, TWO_NODES, EVERYTHING, PLANS };

/* All pages are on memory nodes again, so no page needs a storage node. */
static void read_without_storages(void)
{
    cluster_work_wait_filled(work);
    for (unsigned i = 0; i < cluster.storage_count; i++)
        test_cluster_kill_storage(&cluster, i);
    cluster_work_read(work);
    reads++;
    atomic_store(&work->troubled, true);
    for (unsigned i = 0; i < cluster.storage_count; i++)
        test_cluster_start_storage(&cluster, i);
    work_on("working after all storage nodes came back");
}

/* The worker takes a memory node in that is back, and then another one is killed: the first one is needed. */
static void lose_another(unsigned back)
{
    cluster_work_take_in(work, back);
    work_on("working with a memory node that was taken in again");
    if (draw(2))
        read_without_storages();
    cluster_work_wait_refills(work);
    unsigned another = (back + 1 + (unsigned)draw(NODES - 1)) % NODES;
    test_cluster_kill_node(&cluster, another);
    work_on("working without another memory node");
    test_cluster_start_node(&cluster, another);
}

/* One memory node, when both others have all that counts; the worker goes on without it, then it comes back. */
static void lose_node(bool and_storage)
{
    unsigned lost = (unsigned)draw(NODES), storage = (unsigned)draw(cluster.storage_count);
    for (unsigned i = 0; i < NODES; i++)
        if (i != lost)
            cluster_work_wait_whole(work, i);
    if (and_storage && draw(2))
        kill_storage(storage);
    test_cluster_kill_node(&cluster, lost);
    if (and_storage && cluster.storage_up[storage])
        kill_storage(storage);
    if (and_storage) {
        cluster_work_pass_ms(work, draw(500));
        test_cluster_start_storage(&cluster, storage);
    }
    work_on("working without a memory node");
    test_cluster_start_node(&cluster, lost);
    work_on("working while a memory node is back");
    if (draw(2))
        lose_another(lost);
}

static void lose_storages(void)
{
    unsigned first = (unsigned)draw(cluster.storage_count),
             count = 1 + (unsigned)draw(cluster.storage_count);
    for (unsigned i = 0; i < count; i++)
        kill_storage((first + i) % cluster.storage_count);
    cluster_work_pass_ms(work, draw(1000));
    for (unsigned i = 0; i < count; i++) {
        test_cluster_start_storage(&cluster, (first + i) % cluster.storage_count);
        cluster_work_pass_ms(work, draw(50));
    }
    work_on("working after storage nodes came back");
}

/* Its memory node goes on; commits wait for storage as before. */
static void lose_volume(void)
{
    unsigned i = (unsigned)draw(cluster.storage_count);
    kill_storage(i);
    test_volume_remove(cluster.volumes[i]);
    REQUIRE(!mkdir(cluster.volumes[i], 0755));
    cluster_work_pass_ms(work, draw(300));
    test_cluster_start_storage(&cluster, i);
    work_on("working after a storage node has lost its volume");
    cluster_work_wait_refills(work);
    work->refills++;
    work_on("working after it was refilled");
}

/* In any order. */
static void lose_much(bool all)
{
    unsigned order = (unsigned)draw(8), spared = (unsigned)draw(NODES);
    disasters++;
    atomic_store(&work->dying, true);
    atomic_store(&work->lossy, true);
    work->tried_stored = false;
    for (unsigned step = 0; step < 3; step++) {
        unsigned what = (order + step) % 3;
        if (what == 0)
            cluster_work_kill(work);
        for (unsigned i = 0; i < NODES && what == 1; i++)
            if (all || i != spared)
                test_cluster_kill_node(&cluster, i);
        for (unsigned i = 0; i < cluster.storage_count && what == 2 && all; i++)
            kill_storage(i);
        if (draw(2))
            usleep((unsigned)draw(3000));
    }
}

static void one_round(unsigned round)
{
    static const char *const names[PLANS] = {"worker", "node",      "storage",   "node and storage",
                                             "volume", "two nodes", "everything"};
    bool first = round == 0;
    unsigned plan = first ? WORKER : (unsigned)draw(PLANS);
    printf("%u: %s\n", round, names[plan]);
    fflush(stdout);
    test_cluster_start_all(&cluster);
    cluster_work_start(work, NULL);
    if (!first && draw(8) == 0) {
        usleep((unsigned)draw(100000)); /* while it recovers, or a little later */
        cluster_work_kill(work);
        return;
    }
    uint64_t begin = fp_now_ns();
    cluster_work_wait_ready(work);
    printf("%u: recovered and compared in %.1f s\n", round, (double)(fp_now_ns() - begin) / 1e9);
    fflush(stdout);
    atomic_store(&work->lossy, false);
    work_on("working");
    cluster_work_wait_refills(work);
    if (plan == NODE || plan == NODE_AND_STORAGE)
        lose_node(plan == NODE_AND_STORAGE);
    else if (plan == STORAGE)
        lose_storages();
    else if (plan == VOLUME && cluster.storage_count > 1)
        lose_volume();
    if (plan == TWO_NODES || plan == EVERYTHING) {
        lose_much(plan == EVERYTHING);
        return;
    }
    cluster_work_kill(work);
}

static void run(const char *scheme)
{
    const char *text = getenv("ROUNDS"), *some = getenv("FARPOOL_TEST_STORAGES");
    const char *limit = getenv("LIMIT_S");
    unsigned rounds = text                           ? (unsigned)atoi(text)
                      : getenv("FARPOOL_TEST_QUICK") ? 8
                                                     : 50,
             round = 0;
    uint64_t end = limit || !text
                       ? fp_now_ns() + (limit ? strtoull(limit, NULL, 10) : LIMIT_S) * 1000000000
                       : UINT64_MAX;
    unsigned storages = 1 + (unsigned)draw(CLUSTER_STORAGES_MAX);
    disasters = reads = 0;
    cluster_work_begin(work, &cluster, random_state);
    work->slab_bytes = SLAB_BYTES;
    if (!strcmp(scheme, "verbs"))
        work->rest_us = EMULATED_REST_US;
    work->ring_bytes = 1ull << (20 + draw(3));
    storages = some ? (unsigned)atoi(some) : storages;
    work->storage_quorum = (storages + 1) / 2;
    printf("%s: %u storage nodes, rings of %llu bytes\n", scheme, storages,
           (unsigned long long)work->ring_bytes);
    fflush(stdout);
    test_cluster_start(&cluster, scheme, storages, NODE_KIB);
    while (round < rounds && fp_now_ns() < end)
        one_round(round++);
    test_cluster_stop(&cluster);
    printf("%s: %u rounds, %llu commits acknowledged, %llu of them on storage, none lost; killed "
           "%u workers, %u memory "
           "nodes, %u storage nodes, much at once %u times; %llu recoveries from storage, %u "
           "times a storage node was refilled, %llu laps of "
           "rings, %llu tries repeated; %llu times memory nodes taken in again, in %.1f ms each; "
           "read without storage nodes %u times\n",
           scheme, round, (unsigned long long)atomic_load(&work->acks),
           (unsigned long long)atomic_load(&work->stored), work->killed, cluster.killed_nodes,
           cluster.killed_storages, disasters, (unsigned long long)atomic_load(&work->from_storage),
           work->refills, (unsigned long long)atomic_load(&work->laps),
           (unsigned long long)atomic_load(&work->retries),
           (unsigned long long)atomic_load(&work->taken_in),
           (double)atomic_load(&work->taken_ns) / 1e6 /
               (double)(atomic_load(&work->taken_in) + !atomic_load(&work->taken_in)),
           reads);
}

int main(void)
{
    random_state = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    work = cluster_work_new();
    test_process_schemes(run);
    return 0;
}
