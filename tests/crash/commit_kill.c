/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that no acknowledged commit is lost when the compute process is killed with kill -9 at any moment of a B+-tree
 * workload, and that nothing appears which was not written: round after round a worker process recovers the
 * partition from its three log rings, compares all of it with what the workers before it have noted in shared
 * memory, and goes on writing with several threads until it is killed. Every few rounds a memory node is killed as
 * well, one at a time, and a new one takes its place. ROUNDS=n and SEED=n; FARPOOL_TEST_SCHEME picks the transport.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "farpool.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"

enum {
    NODES = 3,
    THREADS = 3,
    KEYS = 150, /* of each thread */
    VALUE_MAX = 9000,
    POOL_BYTES = 1 << 20, /* so that pages come and go */
    RING_BYTES = 64 << 20,
    NODE_KIB = 192 << 10,
    ACKS_MAX = 400, /* of a round, before the kill */
};

/* Shared with the workers, so it outlives them. A key's writes are numbered; a thread writes one at a time, so what
 * is in the tree is the write acknowledged last or the one after it. */
typedef struct notes {
    farpool_pid root;
    uint64_t epoch;
    _Atomic uint64_t acks;
    uint64_t
        enough; /* acks, in this round: where the killer gets no processor for long, the rings would fill up */
    _Atomic bool ready;
    struct {
        _Atomic uint32_t tried, acknowledged;
    } keys[THREADS * KEYS];
} notes;

static notes *shared;
static test_process nodes[NODES];
static farpool_partition *part;
static farpool_btree *tree;
static uint64_t seed;

/* ---- what a write puts ----------------------------------------------------------------------- */

static bool is_delete(uint32_t number) { return number % 5 == 0; } /* 0: not written yet */

static size_t value_of(unsigned key, uint32_t number, uint8_t *value)
{
    uint64_t random = ((uint64_t)key << 32) + number;
    uint64_t r = test_random(&random);
    size_t len = 8 + (r % 16 == 0 ? r / 16 % (VALUE_MAX - 8) : r / 16 % 200);
    memset(value, (int)(r >> 56), len);
    memcpy(value, &key, 4);
    memcpy(value + 4, &number, 4);
    return len;
}

static farpool_slice key_of(unsigned key, char *text)
{
    int len = sprintf(text, "%u/%u", key * 7919 % (THREADS * KEYS), key);
    return (farpool_slice){text, (size_t)len};
}

/* ---- a worker -------------------------------------------------------------------------------- */

static bool matches(unsigned key, uint32_t number, int rc, const uint8_t *found, size_t len)
{
    static uint8_t wanted[VALUE_MAX];
    if (is_delete(number))
        return rc == FARPOOL_E_NOTFOUND;
    return rc == 0 && len == value_of(key, number, wanted) && !memcmp(found, wanted, len);
}

static void compare_all(void)
{
    static uint8_t found[VALUE_MAX];
    char text[32];
    for (unsigned key = 0; key < THREADS * KEYS; key++) {
        uint32_t acknowledged = atomic_load(&shared->keys[key].acknowledged);
        uint32_t tried = atomic_load(&shared->keys[key].tried);
        size_t len;
        int rc = farpool_btree_lookup(tree, key_of(key, text), found, sizeof found, &len);
        REQUIRE(!rc || rc == FARPOOL_E_NOTFOUND);
        bool last = matches(key, acknowledged, rc, found, len);
        REQUIRE(last || matches(key, tried, rc, found, len));
        /* What was tried last and is there now is as good as acknowledged: it was recovered. */
        atomic_store(&shared->keys[key].tried, last ? acknowledged : tried);
        atomic_store(&shared->keys[key].acknowledged, last ? acknowledged : tried);
    }
}

static int count_one(void *arg, farpool_slice key, farpool_slice value)
{
    (void)key, (void)value;
    ++*(unsigned *)arg;
    return 0;
}

static void compare_count(void)
{
    unsigned found = 0, wanted = 0;
    test_must(farpool_btree_scan(tree, (farpool_slice){NULL, 0}, 0, count_one, &found), "scan");
    for (unsigned key = 0; key < THREADS * KEYS; key++)
        wanted += !is_delete(atomic_load(&shared->keys[key].acknowledged));
    REQUIRE(found == wanted);
}

static void *write_for_ever(void *arg)
{
    unsigned first = (unsigned)(uintptr_t)arg * KEYS;
    uint64_t random = seed + first + shared->epoch * 1000;
    uint8_t value[VALUE_MAX];
    char text[32];
    for (;;) {
        while (atomic_load(&shared->acks) > shared->enough)
            pause();
        unsigned key = first + (unsigned)(test_random(&random) % KEYS);
        uint32_t number = atomic_load(&shared->keys[key].tried) + 1;
        atomic_store(&shared->keys[key].tried, number);
        int rc;
        if (is_delete(number))
            rc = farpool_btree_delete(tree, key_of(key, text));
        else
            rc = farpool_btree_put(tree, key_of(key, text),
                                   (farpool_slice){value, value_of(key, number, value)});
        test_must(rc, "writing");
        test_must(farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_MEMORY), "waiting");
        atomic_store(&shared->keys[key].acknowledged, number);
        atomic_fetch_add(&shared->acks, 1);
    }
    return NULL;
}

static void open_tree(bool recover)
{
    const char *uris[NODES];
    for (unsigned i = 0; i < NODES; i++)
        uris[i] = nodes[i].uri;
    test_must(test_partition_open(test_pool_new(FARPOOL_MAPPING_AUTO, POOL_BYTES), uris, NODES,
                                  shared->epoch, recover, NODES, RING_BYTES, 96 << 20, &part),
              "opening the partition");
    if (recover) {
        test_must(farpool_btree_open(part, shared->root, &tree), "opening the tree");
        return;
    }
    test_must(farpool_btree_create(part, &shared->root, &tree), "creating a tree");
    test_must(farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_MEMORY), "waiting");
}

static void be_worker(bool recover)
{
    pthread_t threads[THREADS];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    open_tree(recover);
    compare_all();
    compare_count();
    atomic_store(&shared->ready, true);
    for (unsigned i = 0; i < THREADS; i++)
        REQUIRE(!pthread_create(&threads[i], NULL, write_for_ever, (void *)(uintptr_t)i));
    pthread_join(threads[0], NULL);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static bool still_runs(pid_t worker)
{
    int status;
    return waitpid(worker, &status, WNOHANG) == 0;
}

/* A round: until so many writes were acknowledged, then a little more. */
static void one_round(unsigned round, uint64_t *random)
{
    uint64_t until = atomic_load(&shared->acks) + test_random(random) % ACKS_MAX;
    shared->epoch++;
    shared->enough = until + ACKS_MAX;
    atomic_store(&shared->ready, false);
    pid_t worker = fork();
    REQUIRE(worker >= 0);
    if (!worker) {
        be_worker(round > 0);
        _exit(1);
    }
    while (!atomic_load(&shared->ready) && still_runs(worker))
        sched_yield();
    REQUIRE(atomic_load(&shared->ready)); /* otherwise the worker has said why */
    while (atomic_load(&shared->acks) < until)
        REQUIRE(still_runs(worker));
    for (uint64_t spin = test_random(random) % 200000; spin; spin--)
        atomic_load(&shared->ready);
    kill(worker, SIGKILL);
    REQUIRE(waitpid(worker, NULL, 0) == worker);
}

static void run(const char *scheme)
{
    const char *text = getenv("ROUNDS");
    unsigned rounds = text ? (unsigned)atoi(text) : getenv("FARPOOL_TEST_QUICK") ? 15 : 100;
    uint64_t random = seed;
    memset(shared, 0, sizeof *shared);
    for (unsigned i = 0; i < NODES; i++)
        test_process_start(&nodes[i], scheme, NODE_KIB);
    for (unsigned round = 0; round < rounds; round++) {
        one_round(round, &random);
        if (round % 4 == 3) { /* its ring is empty then, and is filled again by recovery */
            unsigned victim = (unsigned)(test_random(&random) % NODES);
            test_process_end(&nodes[victim], SIGKILL);
            test_process_start(&nodes[victim], nodes[victim].uri, NODE_KIB);
        }
    }
    for (unsigned i = 0; i < NODES; i++)
        test_process_end(&nodes[i], SIGTERM);
    printf("%s: %u rounds, %llu commits acknowledged, none lost\n", scheme, rounds,
           (unsigned long long)atomic_load(&shared->acks));
}

int main(void)
{
    alarm(600); /* a hang fails */
    seed = test_seed(20261121);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
    test_process_schemes(run);
    return 0;
}
