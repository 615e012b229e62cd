/* SPDX-License-Identifier: Apache-2.0 */
/* test-timeout: 400
 *
 * Shows that a cluster of real processes loses nothing that it has acknowledged, whichever of them are killed with
 * kill -9: round after round a worker recovers the partition, compares all of its B+-tree with what the workers before it
 * have noted in shared memory, and goes on writing with several threads, over a small pool and small log rings that are
 * used many times over. Killed are, at random moments, and also while others recover:
 *
 *   - the worker. The next one finds every acknowledged write
 *   - a memory node: the worker goes on; the node comes back empty and is used by the next worker
 *   - storage nodes: the worker goes on, at the latest when they are back
 *   - two memory nodes, or all, or everything: FARPOOL_RECOVER refuses, and FARPOOL_RECOVER_STORED finds each thread's
 *     writes up to one that is not before the last it was told was on stable media
 *
 * A worker that gets nothing done for a minute is a failure, with its stacks. ROUNDS=n and SEED=n;
 * FARPOOL_TEST_SCHEME picks the transport, FARPOOL_TEST_STORAGES the number of storage nodes.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "compute/redo_log.h"
#include "tests/lib/cluster.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"
#include "tests/lib/written.h"

enum {
    NODES = CLUSTER_NODES,
    POOL_BYTES = 1 << 20,
    NODE_KIB = 96 << 10,
    SLAB_BYTES = 48 << 20,
    ACKS_MAX = 2000,  /* between two events */
    STORED_EACH = 12, /* of so many writes one waits for storage */
    HANG_S = 60,
    OPEN_TRIES = 20,
};

/* Shared with the workers, so it outlives them. */
static struct shared {
    written written;
    farpool_pid root;
    uint64_t epoch, ring_bytes;
    _Atomic uint64_t acks, stored, laps, retries, from_storage;
    _Atomic bool ready;
    _Atomic bool lossy; /* too few rings are left: only what was stored must be there */
    bool tried_stored;  /* since then */
    _Atomic bool dying; /* all may fail from now on */
    _Atomic bool
        troubled; /* a storage node was killed in this worker's life, so that pages may be out of reach */
    _Atomic bool whole[NODES];  /* the ring has all that a recovery needs */
    _Atomic bool behind[NODES]; /* the ring's storage node has less than the log's beginning */
    char rings[1024];           /* the worker's last look at them, as text */
} * shared;

static test_cluster cluster;
static pid_t worker; /* 0: none */
static uint64_t seed, random_state;
static unsigned killed_workers, disasters;

static farpool_partition *part;
static farpool_btree *tree;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

/* ---- a worker -------------------------------------------------------------------------------- */

/* An error that the test allows, for now: the same is to be tried again. */
static bool again(int rc)
{
    if (atomic_load(&shared->dying))
        for (;;)
            pause();
    if ((rc != FARPOOL_E_NODE && rc != FARPOOL_E_TIMEOUT) || !atomic_load(&shared->troubled) ||
        fp_redo_failure(part->redo))
        return false;
    atomic_fetch_add(&shared->retries, 1);
    usleep(5000);
    return true;
}

static void *write_for_ever(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = seed + thread + shared->epoch * 1000;
    written_op op;
    for (;;) {
        while (!written_begin(&shared->written, thread,
                              (uint32_t)(test_random(&random) % WRITTEN_KEYS), &op))
            pause(); /* until the round is over */
        bool stored = test_random(&random) % STORED_EACH == 0;
        int rc;
        do
            rc = written_do(&op, tree);
        while (rc && again(rc));
        test_must(rc, "writing");
        rc = farpool_wait_durable(part, UINT64_MAX,
                                  stored ? FARPOOL_DURABLE_STORAGE : FARPOOL_DURABLE_MEMORY);
        if (rc)
            again(rc);
        test_must(rc, "waiting");
        written_acknowledge(&op, stored);
        atomic_fetch_add(&shared->acks, 1);
        atomic_fetch_add(&shared->stored, stored);
    }
    return NULL;
}

static int open_partition(enum farpool_recover recover)
{
    const char *uris[NODES], *storage_uris[CLUSTER_STORAGES_MAX];
    farpool_partition_options options;
    for (unsigned i = 0; i < NODES; i++)
        uris[i] = cluster.nodes[i].uri;
    for (unsigned i = 0; i < cluster.storage_count; i++)
        storage_uris[i] = cluster.storages[i].uri;
    farpool_partition_options_init(&options);
    options.epoch = ++shared->epoch;
    options.slab_bytes = SLAB_BYTES;
    options.memnodes = uris;
    options.memnode_count = NODES;
    options.log_copies = NODES;
    options.log_ring_bytes = shared->ring_bytes;
    options.storagenodes = storage_uris;
    options.storagenode_count = cluster.storage_count;
    options.storage_quorum = (cluster.storage_count + 1) / 2;
    options.recover = recover;
    return farpool_partition_open(test_pool_new(FARPOOL_MAPPING_AUTO, POOL_BYTES), &options, &part);
}

/* With too few rings FARPOOL_RECOVER says so; or it has all. */
static void recover(void)
{
    int rc = FARPOOL_E_NODE;
    if (!atomic_load(&shared->lossy) || !shared->tried_stored) {
        rc = open_partition(FARPOOL_RECOVER);
        if (!rc)
            atomic_store(&shared->lossy, false);
        if (rc && atomic_load(&shared->lossy))
            REQUIRE(rc == FARPOOL_E_NODE || rc == FARPOOL_E_NOTFOUND);
    }
    if (rc && atomic_load(&shared->lossy)) {
        shared->tried_stored = true;
        rc = open_partition(FARPOOL_RECOVER_STORED);
        atomic_fetch_add(&shared->from_storage, !rc);
    }
    test_must(rc, "opening the partition");
}

static void open_tree(bool first)
{
    if (first) {
        test_must(open_partition(FARPOOL_NEW), "opening the partition");
        test_must(farpool_btree_create(part, &shared->root, &tree), "creating a tree");
        test_must(farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
        return;
    }
    int rc;
    recover();
    do
        rc = farpool_btree_open(part, shared->root, &tree);
    while (rc && again(rc));
    test_must(rc, "opening the tree");
}

/* For people who look for the reason of a hang. */
static void describe_rings(const fp_redo_log *log)
{
    int n = snprintf(shared->rings, sizeof shared->rings,
                     "start %llu floor %llu stored %llu durable %llu end %llu failed %d\n",
                     (unsigned long long)atomic_load(&log->start),
                     (unsigned long long)atomic_load(&log->floor),
                     (unsigned long long)atomic_load(&log->stored),
                     (unsigned long long)atomic_load(&log->durable),
                     (unsigned long long)atomic_load(&log->end), atomic_load(&log->failed));
    for (unsigned i = 0; i < log->ring_count; i++) {
        const fp_ring *ring = &log->rings[i];
        n += snprintf(
            shared->rings + n, sizeof shared->rings - (size_t)n,
            "ring %u: posted %llu acked %llu, in flight %u, lost %d blank %d speaks %d, told start "
            "%llu durable %llu, volume %llx spilled %llu\n",
            i, (unsigned long long)ring->posted, (unsigned long long)ring->acked, ring->inflight,
            atomic_load(&ring->lost), ring->blank, atomic_load(&ring->speaks),
            (unsigned long long)ring->told_start, (unsigned long long)ring->told_durable,
            (unsigned long long)ring->volume, (unsigned long long)ring->spilled);
    }
}

/* Also of a ring that is lost, if no other is spilled to that storage node. */
static bool is_behind(const fp_redo_log *log, unsigned index)
{
    uint64_t most = 0;
    for (unsigned i = 0; i < NODES; i++)
        if (i % cluster.storage_count == index % cluster.storage_count &&
            log->rings[i].spilled > most)
            most = log->rings[i].spilled;
    return most && most < atomic_load(&log->start);
}

static void note_rings(void)
{
    const fp_redo_log *log = part->redo;
    static uint64_t laps, looks;
    for (unsigned i = 0; i < NODES; i++)
        if (atomic_load(&log->rings[i].speaks) && !atomic_load(&log->rings[i].lost) &&
            *(volatile const uint64_t *)&log->rings[i].acked >= atomic_load(&log->start))
            atomic_store(&shared->whole[i], true);
    for (unsigned i = 0; i < NODES; i++)
        atomic_store(&shared->behind[i], is_behind(log, i));
    uint64_t now = (atomic_load(&log->end) - log->first) / log->ring_bytes;
    atomic_fetch_add(&shared->laps, now - laps);
    laps = now;
    if (looks++ % 10 == 0)
        describe_rings(log);
}

static void be_worker(bool first)
{
    pthread_t threads[WRITTEN_THREADS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    open_tree(first);
    written_check(&shared->written, tree, atomic_load(&shared->lossy), again);
    atomic_store(&shared->ready, true);
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        REQUIRE(!pthread_create(&threads[i], NULL, write_for_ever, (void *)(uintptr_t)i));
    for (;; usleep(1000))
        note_rings();
}

/* ---- watching it ----------------------------------------------------------------------------- */

static bool has_ended(pid_t pid)
{
    int status;
    return waitpid(pid, &status, WNOHANG) != 0;
}

static void look_after_processes(void)
{
    test_cluster_look_after(&cluster);
    if (worker && has_ended(worker)) {
        fprintf(stderr, "the worker has ended; a little before:\n%s", shared->rings);
        exit(1);
    }
}

static void complain_of_hang(const char *what)
{
    char command[128];
    fprintf(
        stderr,
        "nothing happened for a minute: %s; ready %d, %llu acknowledged, rings whole %d %d %d\n",
        what, atomic_load(&shared->ready), (unsigned long long)atomic_load(&shared->acks),
        atomic_load(&shared->whole[0]), atomic_load(&shared->whole[1]),
        atomic_load(&shared->whole[2]));
    fprintf(stderr, "%s", shared->rings);
    snprintf(command, sizeof command, "gdb -batch -p %d -ex 'thread apply all bt' >&2",
             (int)worker);
    if (system(command))
        fprintf(stderr, "no gdb, no stacks\n");
    exit(1);
}

/* Passes time until it is true, or so many milliseconds. */
static void wait_until(const char *what, bool (*is_true)(uint64_t arg), uint64_t arg)
{
    uint64_t moved = fp_now_ns(), before = 0;
    while (!is_true(arg)) {
        look_after_processes();
        uint64_t now = atomic_load(&shared->acks) + atomic_load(&shared->written.compared);
        if (now != before)
            moved = fp_now_ns();
        before = now;
        if (fp_now_ns() - moved > HANG_S * 1000000000ull)
            complain_of_hang(what);
        usleep(200);
    }
}

static bool is_later(uint64_t ns) { return fp_now_ns() >= ns; }
static bool is_ready(uint64_t unused) { return (void)unused, atomic_load(&shared->ready); }
static bool is_whole(uint64_t node) { return atomic_load(&shared->whole[node]); }

/* Or the lists are full. */
static bool has_acked(uint64_t acks)
{
    bool full = true;
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        full &= atomic_load(&shared->written.threads[i].acked) == WRITTEN_LIST;
    return full || atomic_load(&shared->acks) >= acks;
}

static void pass_ms(uint64_t ms)
{
    wait_until("passing time", is_later, fp_now_ns() + ms * 1000000);
}

static void work_on(const char *what)
{
    wait_until(what, has_acked, atomic_load(&shared->acks) + 1 + draw(ACKS_MAX));
}

/* ---- killing and starting -------------------------------------------------------------------- */

static void start_worker(bool first)
{
    atomic_store(&shared->ready, false);
    atomic_store(&shared->dying, false);
    atomic_store(&shared->troubled, false);
    for (unsigned i = 0; i < NODES; i++)
        atomic_store(&shared->whole[i], false);
    written_fold(&shared->written);
    worker = fork();
    REQUIRE(worker >= 0);
    if (!worker) {
        be_worker(first);
        _exit(1);
    }
}

static void kill_worker(void)
{
    test_process process = {.pid = worker};
    killed_workers++;
    worker = 0;
    REQUIRE(WTERMSIG(test_process_end(&process, SIGKILL)) == SIGKILL);
}

static void kill_storage(unsigned i)
{
    atomic_store(&shared->troubled, true);
    test_cluster_kill_storage(&cluster, i);
}

static void mend_storages(void)
{
    for (unsigned i = 0; i < NODES; i++) {
        if (!atomic_load(&shared->behind[i]))
            continue;
        unsigned good = 0;
        while (good < NODES - 1 && atomic_load(&shared->behind[good]))
            good++;
        REQUIRE(!atomic_load(&shared->behind[good]));
        test_cluster_copy_volume(&cluster, good % cluster.storage_count, i % cluster.storage_count);
        for (unsigned k = 0; k < NODES; k++)
            if (k % cluster.storage_count == i % cluster.storage_count)
                atomic_store(&shared->behind[k], false);
    }
}

/* ---- rounds ---------------------------------------------------------------------------------- */

enum { WORKER, NODE, STORAGE, NODE_AND_STORAGE, TWO_NODES, EVERYTHING, PLANS };

/* One memory node, when both others have all that counts; the worker goes on without it, then it comes back. */
static void lose_node(bool and_storage)
{
    unsigned lost = (unsigned)draw(NODES), storage = (unsigned)draw(cluster.storage_count);
    for (unsigned i = 0; i < NODES; i++)
        if (i != lost)
            wait_until("a log ring that gets what it misses", is_whole, i);
    if (and_storage && draw(2))
        kill_storage(storage);
    test_cluster_kill_node(&cluster, lost);
    if (and_storage && cluster.storage_up[storage])
        kill_storage(storage);
    if (and_storage) {
        pass_ms(draw(500));
        test_cluster_start_storage(&cluster, storage);
    }
    work_on("working without a memory node");
    test_cluster_start_node(&cluster, lost);
    work_on("working while a memory node is back");
}

static bool somebody_is_behind(void)
{
    bool behind = false;
    for (unsigned i = 0; i < NODES; i++)
        behind |= atomic_load(&shared->behind[i]);
    return behind;
}

static void lose_storages(void)
{
    unsigned first = (unsigned)draw(cluster.storage_count),
             count = 1 + (unsigned)draw(cluster.storage_count);
    for (unsigned i = 0; i < count; i++)
        kill_storage((first + i) % cluster.storage_count);
    pass_ms(draw(1000));
    for (unsigned i = 0; i < count; i++) {
        test_cluster_start_storage(&cluster, (first + i) % cluster.storage_count);
        pass_ms(draw(50));
    }
    work_on("working after storage nodes came back");
}

/* In any order. */
static void lose_much(bool all)
{
    unsigned order = (unsigned)draw(8), spared = (unsigned)draw(NODES);
    disasters++;
    atomic_store(&shared->dying, true);
    atomic_store(&shared->lossy, true);
    shared->tried_stored = false;
    for (unsigned step = 0; step < 3; step++) {
        unsigned what = (order + step) % 3;
        if (what == 0)
            kill_worker();
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
    static const char *const names[PLANS] = {"worker",           "node",      "storage",
                                             "node and storage", "two nodes", "everything"};
    bool first = round == 0;
    unsigned plan = first ? WORKER : (unsigned)draw(PLANS);
    printf("%u: %s\n", round, names[plan]);
    fflush(stdout);
    test_cluster_start_all(&cluster);
    mend_storages();
    start_worker(first);
    if (!first && draw(8) == 0) {
        usleep((unsigned)draw(100000)); /* while it recovers, or a little later */
        kill_worker();
        return;
    }
    uint64_t begin = fp_now_ns();
    wait_until("recovering", is_ready, 0);
    printf("%u: recovered and compared in %.1f s\n", round, (double)(fp_now_ns() - begin) / 1e9);
    fflush(stdout);
    atomic_store(&shared->lossy, false);
    work_on("working");
    if ((plan == NODE || plan == NODE_AND_STORAGE) && !somebody_is_behind())
        lose_node(plan == NODE_AND_STORAGE);
    else if (plan == STORAGE)
        lose_storages();
    if (plan == TWO_NODES || plan == EVERYTHING) {
        lose_much(plan == EVERYTHING);
        return;
    }
    kill_worker();
}

static void run(const char *scheme)
{
    const char *text = getenv("ROUNDS"), *some = getenv("FARPOOL_TEST_STORAGES");
    unsigned rounds = text ? (unsigned)atoi(text) : getenv("FARPOOL_TEST_QUICK") ? 8 : 50;
    unsigned storages = 1 + (unsigned)draw(CLUSTER_STORAGES_MAX);
    memset(shared, 0, sizeof *shared);
    killed_workers = disasters = 0;
    shared->ring_bytes = 1ull << (20 + draw(3));
    storages = some ? (unsigned)atoi(some) : storages;
    printf("%s: %u storage nodes, rings of %llu bytes\n", scheme, storages,
           (unsigned long long)shared->ring_bytes);
    fflush(stdout);
    test_cluster_start(&cluster, scheme, storages, NODE_KIB);
    for (unsigned round = 0; round < rounds; round++)
        one_round(round);
    test_cluster_stop(&cluster);
    printf("%s: %u rounds, %llu commits acknowledged, %llu of them on storage, none lost; killed "
           "%u workers, %u memory "
           "nodes, %u storage nodes, much at once %u times; %llu recoveries from storage, %u "
           "volumes copied, %llu laps of "
           "rings, %llu tries repeated\n",
           scheme, rounds, (unsigned long long)atomic_load(&shared->acks),
           (unsigned long long)atomic_load(&shared->stored), killed_workers, cluster.killed_nodes,
           cluster.killed_storages, disasters,
           (unsigned long long)atomic_load(&shared->from_storage), cluster.copies,
           (unsigned long long)atomic_load(&shared->laps),
           (unsigned long long)atomic_load(&shared->retries));
}

int main(void)
{
    random_state = seed = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
    test_process_schemes(run);
    return 0;
}
