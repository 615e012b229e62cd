/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a partition gets other memory nodes while threads work on it: they move amounts between accounts on pages that
 * come and go in a small pool, and none of them ever sees an error or a sum that is wrong, while again and again all nodes
 * get a new epoch and are filled, one is replaced by another one, or is killed and replaced, or is killed and taken in again empty. In the
 * end another of the old nodes is killed: commits go on with the one that was taken in last, and the next owner finds
 * everything that was acknowledged. When all nodes have been filled, the storage node may be killed: all is read without it.
 * All of that in both mappings.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "compute/redo_log.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    NODES = 3,
    THREADS = 4,
    ACCOUNTS = 500, /* twice what the pool holds */
    POOL_BYTES = 1 << 20,
    RING_BYTES = 4 << 20,
    NODE_KIB = 64 << 10,
    SLAB_BYTES = 24 << 20,
    START = 1000,
    ROUNDS = 24,
    ROUNDS_QUICK = 10,
    COMMITS = 100, /* between two changes, at least */
};

static test_process nodes[NODES + 1], storage; /* the last node is to spare */
static farpool_pid pids[ACCOUNTS], counters[THREADS];
static farpool_pool *pool;
static farpool_partition *part;
static _Atomic uint64_t commits, acknowledged[THREADS];
static _Atomic bool stop;
static uint64_t random_state;
static enum farpool_mapping mapping;

static uint64_t *fix(farpool_mtr *mtr, farpool_pid pid)
{
    void *page;
    test_must(farpool_mtr_fix(mtr, pid, &page), "fixing");
    return page;
}

/* Latches in the order of accounts; counters come behind all of them. */
static void move(unsigned thread, uint64_t *random)
{
    unsigned a = (unsigned)(test_random(random) % ACCOUNTS),
             b = (unsigned)(test_random(random) % ACCOUNTS);
    uint64_t amount = test_random(random) % 100;
    farpool_mtr *mtr;
    if (a == b)
        return;
    test_must(farpool_mtr_begin(part, 0, &mtr), "beginning");
    *fix(mtr, pids[a < b ? a : b]) += amount;
    *fix(mtr, pids[a < b ? b : a]) -= amount;
    uint64_t count = ++*fix(mtr, counters[thread]);
    test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "committing");
    atomic_store(&acknowledged[thread], count);
    atomic_fetch_add(&commits, 1);
}

static void *work(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = random_state + 1 + thread;
    while (!atomic_load(&stop)) {
        farpool_pid some[4];
        for (unsigned i = 0; i < 4; i++)
            some[i] = pids[test_random(&random) % ACCOUNTS];
        farpool_prefetch(part, some, 4);
        move(thread, &random);
    }
    return NULL;
}

static void open_partition(uint64_t epoch)
{
    const char *uris[NODES], *storages[] = {storage.uri};
    farpool_partition_options options;
    for (unsigned i = 0; i < NODES; i++)
        uris[i] = nodes[i].uri;
    farpool_partition_options_init(&options);
    options.epoch = epoch;
    options.slab_bytes = SLAB_BYTES;
    options.memnodes = uris;
    options.memnode_count = NODES;
    options.log_copies = NODES;
    options.log_ring_bytes = RING_BYTES;
    options.storagenodes = storages;
    options.storagenode_count = 1;
    options.recover = epoch > 1 ? FARPOOL_RECOVER : FARPOOL_NEW;
    pool = test_pool_new(mapping, POOL_BYTES);
    test_must(farpool_partition_open(pool, &options, &part), "opening the partition");
}

static void fill(void)
{
    farpool_mtr *mtr;
    void *page;
    for (unsigned i = 0; i < ACCOUNTS + THREADS; i++) {
        test_must(farpool_mtr_begin(part, 0, &mtr), "beginning");
        test_must(
            farpool_mtr_alloc(mtr, 0, i < ACCOUNTS ? &pids[i] : &counters[i - ACCOUNTS], &page),
            "allocating");
        *(uint64_t *)page = i < ACCOUNTS ? START : 0;
        test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL), "committing");
    }
    test_must(farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
}

static uint64_t value_of(farpool_pid pid)
{
    void *page;
    test_must(farpool_fix(part, pid, FARPOOL_SHARED, &page), "reading");
    uint64_t value = *(uint64_t *)page;
    farpool_unfix(part, pid, FARPOOL_SHARED);
    return value;
}

static void check(void)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < ACCOUNTS; i++)
        sum += value_of(pids[i]);
    REQUIRE(sum == (uint64_t)ACCOUNTS * START);
    for (unsigned i = 0; i < THREADS; i++)
        REQUIRE(value_of(counters[i]) >= atomic_load(&acknowledged[i]));
}

static void wait_commits(void)
{
    uint64_t before = atomic_load(&commits);
    AWAIT(atomic_load(&commits) >= before + COMMITS);
}

static farpool_stats stats_now(void)
{
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    return stats;
}

static void wait_filled(void) { AWAIT(!stats_now().fill_left); }

/* Threads go on, or wait for room in the log until it is back. */
static void read_without_storage(const char *volume)
{
    char uri[sizeof storage.uri];
    wait_filled();
    uint64_t before = stats_now().stored_reads;
    REQUIRE(WTERMSIG(test_process_end(&storage, SIGKILL)) == SIGKILL);
    for (unsigned i = 0; i < ACCOUNTS; i++)
        (void)value_of(pids[i]);
    REQUIRE(stats_now().stored_reads == before);
    snprintf(uri, sizeof uri, "%s", storage.uri);
    test_process_start_storage(&storage, uri, volume);
    wait_commits();
}

static void kill_node(unsigned i)
{
    test_process copy = nodes[i];
    REQUIRE(WTERMSIG(test_process_end(&copy, SIGKILL)) == SIGKILL);
}

static void start_node(unsigned i, const char *uri)
{
    char at[sizeof nodes[i].uri];
    snprintf(at, sizeof at, "%s", uri);
    test_process_start_spilling(&nodes[i], at, NODE_KIB, storage.uri);
}

static void swap_with_spare(unsigned i)
{
    test_process node = nodes[i];
    nodes[i] = nodes[NODES];
    nodes[NODES] = node;
}

/* Returns how long the call took, in ns. */
static uint64_t reconfigure(uint64_t epoch)
{
    const char *uris[NODES];
    for (unsigned i = 0; i < NODES; i++)
        uris[i] = nodes[i].uri;
    uint64_t begin = fp_now_ns();
    test_must(farpool_partition_reconfigure(part, epoch, uris, NODES), "reconfiguring");
    uint64_t took = fp_now_ns() - begin;
    for (unsigned i = 0; i < NODES; i++)
        REQUIRE(atomic_load(&part->redo->rings[i].speaks) &&
                !atomic_load(&part->redo->rings[i].lost));
    return took;
}

static uint64_t change(uint64_t epoch)
{
    unsigned victim = (unsigned)(test_random(&random_state) % NODES);
    switch (test_random(&random_state) % 4) {
    case 0: /* only the epoch */
        return reconfigure(epoch);
    case 1: /* one that is well leaves */
        swap_with_spare(victim);
        return reconfigure(epoch);
    case 2: /* another one takes its place */
        kill_node(victim);
        wait_commits();
        swap_with_spare(victim);
        uint64_t took = reconfigure(epoch);
        start_node(NODES, nodes[NODES].uri);
        return took;
    default: /* it comes back empty */
        kill_node(victim);
        wait_commits();
        start_node(victim, nodes[victim].uri);
        return reconfigure(epoch);
    }
}

static void run_mapping(const char *scheme)
{
    pthread_t threads[THREADS];
    char volume[256];
    uint64_t epoch = 1, longest = 0, sum = 0;
    unsigned rounds = getenv("FARPOOL_TEST_QUICK") ? ROUNDS_QUICK : ROUNDS;
    test_volume_make(volume);
    test_process_start_storage(&storage, scheme, volume);
    for (unsigned i = 0; i <= NODES; i++)
        start_node(i, scheme);
    memset((void *)acknowledged, 0, sizeof acknowledged);
    atomic_store(&stop, false);
    open_partition(epoch++);
    fill();
    for (unsigned t = 0; t < THREADS; t++)
        REQUIRE(!pthread_create(&threads[t], NULL, work, (void *)(uintptr_t)t));
    for (unsigned i = 0; i < rounds; i++) {
        wait_commits();
        uint64_t took = change(epoch++);
        if (test_random(&random_state) % 4 == 0)
            wait_filled();
        sum += took;
        longest = took > longest ? took : longest;
    }
    read_without_storage(volume);
    kill_node(0);
    swap_with_spare(0);
    reconfigure(epoch++);
    kill_node(1); /* the new one makes the quorum */
    wait_commits();
    atomic_store(&stop, true);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    check();
    farpool_pool *old_pool = pool;
    farpool_partition *old = part;
    open_partition(epoch++); /* from the new one and the other old one */
    check();
    int rc =
        farpool_partition_reconfigure(old, epoch, (const char *[]){"shm:///a", "shm:///b", "c"}, 3);
    REQUIRE(rc != 0);
    (void)farpool_partition_close(old);
    test_must(farpool_pool_close(old_pool), "closing");
    (void)farpool_partition_close(part); /* a memory node is gone */
    test_must(farpool_pool_close(pool), "closing");
    test_process_end(&nodes[0], SIGTERM);
    test_process_end(&nodes[2], SIGTERM);
    test_process_end(&storage, SIGTERM);
    test_volume_remove(volume);
    printf("%s, %s: %u changes of memory nodes, in %.1f ms each, at most %.1f, %llu commits\n",
           scheme, mapping == FARPOOL_MAPPING_VM ? "vm" : "frames", rounds,
           (double)sum / rounds / 1e6, (double)longest / 1e6,
           (unsigned long long)atomic_load(&commits));
}

static void run(const char *scheme)
{
    mapping = FARPOOL_MAPPING_FRAMES;
    run_mapping(scheme);
    mapping = FARPOOL_MAPPING_VM;
    run_mapping(scheme);
}

int main(void)
{
    random_state = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    test_process_schemes(run);
    return 0;
}
