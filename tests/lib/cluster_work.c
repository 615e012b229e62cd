/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/cluster_work.h"

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
#include "tests/lib/logclient.h"
#include "tests/lib/testnode.h"

enum {
    POOL_BYTES = 1 << 20,
    HANG_S = 180,
    BATCH_MAX = 50,
    FULL_LOAD_S = 3,
    EASED_US = 200000,
    LONG_S = 5
};

/* ---- a worker -------------------------------------------------------------------------------- */

static cluster_work *shared; /* the worker's */
static farpool_pool *pool;
static farpool_partition *part;
static farpool_btree *tree;

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

/* False: nothing more can be noted before the round is over. */
static bool write_one(unsigned thread, uint64_t *random, written_op *op)
{
    int rc;
    uint32_t key = (uint32_t)(test_random(random) % WRITTEN_KEYS);
    if (!written_begin(&shared->written, thread, key, op))
        return false;
    do
        rc = written_do(op, tree);
    while (rc && again(rc));
    test_must(rc, "writing");
    return true;
}

/* Waits after each write, or after several: then pages may be evicted of which the log is not durable yet. */
static void *write_for_ever(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = shared->seed + thread + shared->epoch * 1000;
    written_op op;
    for (;;) {
        unsigned batch =
            test_random(&random) % 4 ? 1 : 1 + (unsigned)(test_random(&random) % BATCH_MAX);
        bool stored = test_random(&random) % CLUSTER_STORED_EACH == 0;
        unsigned count = 0;
        while (count < batch && write_one(thread, &random, &op))
            count++;
        while (!count)
            pause(); /* until it is killed */
        int rc = farpool_wait_durable(part, UINT64_MAX,
                                      stored ? FARPOOL_DURABLE_STORAGE : FARPOOL_DURABLE_MEMORY);
        if (rc)
            again(rc);
        test_must(rc, "waiting");
        written_acknowledge(&op, stored);
        atomic_fetch_add(&shared->acks, count);
        atomic_fetch_add(&shared->stored, stored);
        if (atomic_load(&shared->eased))
            usleep(EASED_US);
    }
    return NULL;
}

static int open_once(enum farpool_recover recover)
{
    const test_cluster *cluster = shared->cluster;
    const char *uris[CLUSTER_NODES], *storage_uris[CLUSTER_STORAGES_MAX];
    farpool_partition_options options;
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        uris[i] = cluster->nodes[i].uri;
    for (unsigned i = 0; i < cluster->storage_count; i++)
        storage_uris[i] = cluster->storages[i].uri;
    farpool_partition_options_init(&options);
    options.epoch = ++shared->epoch;
    options.slab_bytes = shared->slab_bytes;
    options.memnodes = uris;
    options.memnode_count = CLUSTER_NODES;
    options.log_copies = CLUSTER_NODES;
    options.log_ring_bytes = shared->ring_bytes;
    options.storagenodes = storage_uris;
    options.storagenode_count = cluster->storage_count;
    options.storage_quorum = shared->storage_quorum;
    options.recover = recover;
    return farpool_partition_open(pool, &options, &part);
}

/* With too few rings FARPOOL_RECOVER says so; or it has all. */
static int recover(void)
{
    int rc = FARPOOL_E_NODE;
    if (!atomic_load(&shared->lossy) || !shared->tried_stored) {
        rc = open_once(FARPOOL_RECOVER);
        if (!rc)
            atomic_store(&shared->lossy, false);
        if (rc && atomic_load(&shared->lossy))
            REQUIRE(rc == FARPOOL_E_NODE || rc == FARPOOL_E_NOTFOUND);
    }
    if (rc && atomic_load(&shared->lossy)) {
        shared->tried_stored = true;
        rc = open_once(FARPOOL_RECOVER_STORED);
        atomic_fetch_add(&shared->from_storage, !rc);
    }
    return rc;
}

static void open_partition(void)
{
    int rc = recover();
    while ((rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT) && atomic_load(&shared->shaky)) {
        atomic_fetch_add(&shared->failed_opens, 1);
        usleep(5000);
        rc = recover();
    }
    test_must(rc, "opening the partition");
}

/* A new page, all of the number. */
static farpool_pid make_constant(uint32_t number)
{
    farpool_mtr *mtr;
    farpool_pid pid;
    void *page;
    test_must(farpool_mtr_begin(part, 0, &mtr), "beginning a mini-transaction");
    test_must(farpool_mtr_alloc(mtr, 0, &pid, &page), "allocating a page");
    for (unsigned i = 0; i < FARPOOL_UNIT_BYTES / sizeof number; i++)
        ((uint32_t *)page)[i] = number;
    test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL), "writing a page");
    return pid;
}

static void make_constants(void)
{
    farpool_pid gaps[CLUSTER_CONSTANTS / CLUSTER_CONSTANT_GAPS];
    unsigned count = 0;
    for (uint32_t i = 0; i < CLUSTER_CONSTANTS; i++) {
        shared->constants[i] = make_constant(i + 1);
        if (i % CLUSTER_CONSTANT_GAPS == 0)
            gaps[count++] = make_constant(0);
    }
    while (count) {
        farpool_mtr *mtr;
        test_must(farpool_mtr_begin(part, 0, &mtr), "beginning a mini-transaction");
        test_must(farpool_mtr_free(mtr, gaps[--count]), "freeing a page");
        test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL), "freeing a page");
    }
}

static void check_constants(void)
{
    for (uint32_t i = 0; i < CLUSTER_CONSTANTS; i++) {
        void *page;
        int rc;
        do
            rc = farpool_fix(part, shared->constants[i], FARPOOL_SHARED, &page);
        while (rc && again(rc));
        test_must(rc, "reading a page that never changes");
        for (unsigned k = 0; k < FARPOOL_UNIT_BYTES / sizeof i; k++)
            REQUIRE(((const uint32_t *)page)[k] == i + 1);
        farpool_unfix(part, shared->constants[i], FARPOOL_SHARED);
        atomic_fetch_add(&shared->written.compared, 1);
    }
}

static void open_tree(void)
{
    pool = test_pool_new(FARPOOL_MAPPING_AUTO, POOL_BYTES);
    if (!shared->root) {
        test_must(open_once(FARPOOL_NEW), "opening the partition");
        make_constants();
        test_must(farpool_btree_create(part, &shared->root, &tree), "creating a tree");
        test_must(farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
        return;
    }
    int rc;
    open_partition();
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
    unsigned storages = shared->cluster->storage_count;
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        if (i % storages == index % storages && log->rings[i].spilled > most)
            most = log->rings[i].spilled;
    return most && most < atomic_load(&log->start);
}

static void note_rings(void)
{
    const fp_redo_log *log = part->redo;
    static uint64_t laps, looks;
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        if (atomic_load(&log->rings[i].speaks) && !atomic_load(&log->rings[i].lost) &&
            *(volatile const uint64_t *)&log->rings[i].acked >= atomic_load(&log->start))
            atomic_store(&shared->whole[i], true);
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        atomic_store(&shared->behind[i], is_behind(log, i));
    uint64_t now = (atomic_load(&log->end) - log->first) / log->ring_bytes;
    atomic_fetch_add(&shared->laps, now - laps);
    laps = now;
    if (looks++ % 10 == 0)
        describe_rings(log);
}

static void note_fill(void)
{
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    atomic_store(&shared->fill_left, stats.fill_left);
}

static void take_in(void)
{
    const char *uris[CLUSTER_NODES];
    if (!atomic_load(&shared->take_in))
        return;
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        uris[i] = shared->cluster->nodes[i].uri;
    uint64_t begin = fp_now_ns();
    test_must(farpool_partition_reconfigure(part, ++shared->epoch, uris, CLUSTER_NODES),
              "taking memory nodes in again");
    atomic_fetch_add(&shared->taken_ns, fp_now_ns() - begin);
    atomic_fetch_add(&shared->taken_in, 1);
    note_fill();
    atomic_store(&shared->take_in, false);
}

static void be_worker(cluster_work *work, const char *fault)
{
    pthread_t threads[WRITTEN_THREADS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (fault)
        setenv("FARPOOL_FAULT_POINT", fault, 1);
    shared = work;
    open_tree();
    written_check(&shared->written, tree, atomic_load(&shared->lossy), again);
    check_constants();
    note_fill();
    atomic_store(&shared->ready, true);
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        REQUIRE(!pthread_create(&threads[i], NULL, write_for_ever, (void *)(uintptr_t)i));
    for (;; usleep(5 * shared->rest_us)) {
        take_in();
        note_rings();
        note_fill();
        if (atomic_load(&shared->read)) {
            check_constants();
            atomic_store(&shared->read, false);
        }
    }
}

/* ---- starting and killing it ----------------------------------------------------------------- */

cluster_work *cluster_work_new(void)
{
    cluster_work *work =
        mmap(NULL, sizeof *work, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(work != MAP_FAILED);
    return work;
}

void cluster_work_begin(cluster_work *work, test_cluster *cluster, uint64_t seed)
{
    memset(work, 0, sizeof *work);
    work->cluster = cluster;
    work->seed = seed;
    work->rest_us = 200;
}

void cluster_work_start(cluster_work *work, const char *fault)
{
    REQUIRE(!work->worker);
    atomic_store(&work->ready, false);
    atomic_store(&work->dying, false);
    atomic_store(&work->troubled, false);
    atomic_store(&work->take_in, false);
    atomic_store(&work->read, false);
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        atomic_store(&work->whole[i], false);
    written_fold(&work->written);
    work->fault = fault;
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (!pid) {
        be_worker(work, fault);
        _exit(1);
    }
    work->worker = pid;
}

void cluster_work_kill(cluster_work *work)
{
    test_process process = {.pid = work->worker};
    work->killed++;
    work->worker = 0;
    REQUIRE(WTERMSIG(test_process_end(&process, SIGKILL)) == SIGKILL);
}

bool cluster_work_died(cluster_work *work)
{
    int status;
    REQUIRE(work->fault && work->worker);
    pid_t ended = waitpid(work->worker, &status, WNOHANG);
    if (!ended)
        return false;
    REQUIRE(ended == work->worker && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    work->worker = 0;
    return true;
}

/* ---- watching it ----------------------------------------------------------------------------- */

static void look_after_processes(cluster_work *work)
{
    int status;
    test_cluster_look_after(work->cluster);
    if (work->worker && !work->fault && waitpid(work->worker, &status, WNOHANG) != 0) {
        fprintf(stderr, "the worker has ended; a little before:\n%s", work->rings);
        exit(1);
    }
}

static void complain_of_hang(const cluster_work *work, const char *what)
{
    char command[128];
    fprintf(stderr,
            "nothing happened for three minutes: %s; ready %d, %llu acknowledged, %llu pages to "
            "fill, rings whole %d %d %d\n",
            what, atomic_load(&work->ready), (unsigned long long)atomic_load(&work->acks),
            (unsigned long long)atomic_load(&work->fill_left), atomic_load(&work->whole[0]),
            atomic_load(&work->whole[1]), atomic_load(&work->whole[2]));
    fprintf(stderr, "%s", work->rings);
    snprintf(command, sizeof command, "gdb -batch -p %d -ex 'thread apply all bt' >&2",
             (int)work->worker);
    if (system(command))
        fprintf(stderr, "no gdb, no stacks\n");
    exit(1);
}

/* ease: writers are under full load first. Where processors are few, in an emulator, they then would make log about as
 * fast as others get it. */
static void wait_until(cluster_work *work, const char *what,
                       bool (*is_true)(cluster_work *work, uint64_t arg), uint64_t arg, bool ease)
{
    uint64_t begin = fp_now_ns(), moved = begin, before = 0;
    while (!is_true(work, arg)) {
        if (ease && fp_now_ns() - begin > FULL_LOAD_S * 1000000000ull)
            atomic_store(&work->eased, true);
        look_after_processes(work);
        uint64_t now = atomic_load(&work->acks) + atomic_load(&work->written.compared) -
                       atomic_load(&work->fill_left);
        if (now != before)
            moved = fp_now_ns();
        before = now;
        if (fp_now_ns() - moved > HANG_S * 1000000000ull)
            complain_of_hang(work, what);
        usleep(work->rest_us);
    }
    atomic_store(&work->eased, false);
    if (fp_now_ns() - begin > LONG_S * 1000000000ull) {
        printf("   %s: %.0f s\n", what, (double)(fp_now_ns() - begin) / 1e9);
        fflush(stdout);
    }
}

void cluster_work_wait(cluster_work *work, const char *what,
                       bool (*is_true)(cluster_work *work, uint64_t arg), uint64_t arg)
{
    wait_until(work, what, is_true, arg, false);
}

static bool is_ready(cluster_work *work, uint64_t unused)
{
    return (void)unused, atomic_load(&work->ready);
}

static bool is_whole(cluster_work *work, uint64_t node) { return atomic_load(&work->whole[node]); }

static bool is_later(cluster_work *work, uint64_t ns) { return (void)work, fp_now_ns() >= ns; }

/* Or the lists are full. */
static bool has_acked(cluster_work *work, uint64_t acks)
{
    bool full = true;
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        full &= atomic_load(&work->written.threads[i].acked) == WRITTEN_LIST;
    return full || atomic_load(&work->acks) >= acks;
}

void cluster_work_wait_ready(cluster_work *work)
{
    cluster_work_wait(work, "recovering", is_ready, 0);
}

void cluster_work_wait_whole(cluster_work *work, unsigned node)
{
    wait_until(work, "a log ring that gets what it misses", is_whole, node, true);
}

static bool is_taken_in(cluster_work *work, uint64_t unused)
{
    return (void)unused, !atomic_load(&work->take_in);
}

void cluster_work_take_in(cluster_work *work, unsigned node)
{
    atomic_store(&work->whole[node], false);
    atomic_store(&work->take_in, true);
    cluster_work_wait(work, "taking a memory node in again", is_taken_in, 0);
    cluster_work_wait_whole(work, node);
}

static bool is_filled(cluster_work *work, uint64_t unused)
{
    return (void)unused, !atomic_load(&work->fill_left);
}

void cluster_work_wait_filled(cluster_work *work)
{
    wait_until(work, "filling memory nodes", is_filled, 0, true);
}

static bool is_read(cluster_work *work, uint64_t unused)
{
    return (void)unused, !atomic_load(&work->read);
}

void cluster_work_read(cluster_work *work)
{
    atomic_store(&work->read, true);
    cluster_work_wait(work, "reading", is_read, 0);
}

void cluster_work_pass_ms(cluster_work *work, uint64_t ms)
{
    cluster_work_wait(work, "passing time", is_later, fp_now_ns() + ms * 1000000);
}

void cluster_work_on(cluster_work *work, const char *what, uint64_t writes)
{
    cluster_work_wait(work, what, has_acked, atomic_load(&work->acks) + writes);
}

static bool has_stored(cluster_work *work, uint64_t stored)
{
    return has_acked(work, UINT64_MAX) || atomic_load(&work->stored) >= stored;
}

void cluster_work_store(cluster_work *work, const char *what, uint64_t writes)
{
    cluster_work_wait(work, what, has_stored, atomic_load(&work->stored) + writes);
}

/* By a process of its own: verbs that have been used here could not be used by workers, which are forked. */
static bool say_they_are_whole(const test_cluster *cluster)
{
    int status;
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    bool whole = true;
    for (unsigned i = 0; !pid && i < cluster->storage_count && whole; i++) {
        logclient c;
        test_must(logclient_open(&c, cluster->storages[i].uri, NULL), "connecting");
        REQUIRE(logclient_ask(&c, (fp_msg){.type = FP_MSG_USAGE}) == FP_MSG_USAGE_OK);
        whole = !c.msg.usage.incomplete;
        logclient_close(&c);
    }
    if (!pid)
        _exit(whole ? 0 : 77);
    REQUIRE(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77);
    return WEXITSTATUS(status) == 0;
}

/* No storage node lacks log or pages. */
static bool all_are_whole(cluster_work *work, uint64_t unused)
{
    bool whole = true;
    (void)unused;
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        whole &= !atomic_load(&work->behind[i]);
    whole = whole && say_they_are_whole(work->cluster);
    if (!whole)
        usleep(50 * work->rest_us);
    return whole;
}

void cluster_work_wait_refills(cluster_work *work)
{
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        if (atomic_load(&work->behind[i])) {
            work->refills++;
            break;
        }
    wait_until(work, "a storage node that gets what it has missed", all_are_whole, 0, true);
}
