/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that mini-transactions of many threads are atomic over pages, and that who waits for durability gets it: threads
 * move amounts between accounts, each on a page of its own, while pages come and go in a small pool; the sum never
 * changes, neither here nor for new owners who take the partition over in the midst of it and find all that was
 * acknowledged. Both mappings, with one ring and with three.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "farpool.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"

enum {
    NODES = 3,
    THREADS = 6,
    ACCOUNTS = 400, /* 1.5 times what the pool holds */
    POOL_BYTES = 1 << 20,
    RING_BYTES = 32 << 20,
    NODE_BYTES = 128 << 20,
    START = 1000, /* in each account */
    OWNERS = 4,
    COMMITS = 1500, /* of an owner, before the next one comes */
};

static test_node *nodes[NODES];
static farpool_pid pids[ACCOUNTS];
static uint64_t seed;

/* One owner and its threads. */
typedef struct owner {
    farpool_pool *pool;
    farpool_partition *part;
    _Atomic unsigned commits;
    pthread_t threads[THREADS];
} owner;

/* Each thread counts its durable commits on a page of its own; what was acknowledged stands here. */
static farpool_pid counters[THREADS];
static _Atomic uint64_t acknowledged[THREADS];

typedef struct job {
    owner *of;
    unsigned number;
} job;

/* Unless *rc says that something failed before. */
static uint64_t *fix(farpool_mtr *mtr, farpool_pid pid, int *rc)
{
    static uint64_t nothing[FARPOOL_UNIT_BYTES / 8];
    void *page = nothing;
    if (!*rc)
        *rc = farpool_mtr_fix(mtr, pid, &page);
    return *rc ? nothing : page;
}

/* Latches in the order of accounts; counters come behind all of them. */
static int move(owner *of, unsigned thread, uint64_t *random, uint64_t *count)
{
    unsigned a = (unsigned)(test_random(random) % ACCOUNTS),
             b = (unsigned)(test_random(random) % ACCOUNTS);
    uint64_t amount = test_random(random) % 100;
    size_t at = test_random(random) % 8; /* the balance is the sum of eight words */
    farpool_mtr *mtr;
    if (a == b)
        return 0;
    test_must(farpool_mtr_begin(of->part, 0, &mtr), "beginning");
    int rc = 0;
    uint64_t *low = fix(mtr, pids[a < b ? a : b], &rc), *high = fix(mtr, pids[a < b ? b : a], &rc);
    uint64_t *counter = fix(mtr, counters[thread], &rc);
    if (!rc)
        low[at * 60] += amount;
    if (rc || test_random(random) % 10 == 0) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    high[at * 60] -= amount;
    *count = ++*counter;
    bool wait = test_random(random) % 4 == 0;
    rc = farpool_mtr_commit(mtr, wait ? FARPOOL_DURABLE_MEMORY : FARPOOL_DURABLE_LATER, NULL);
    if (!rc && wait)
        atomic_store(&acknowledged[thread], *count);
    return rc;
}

static void *work(void *arg)
{
    job *mine = arg;
    uint64_t random = seed * 1000 + mine->number + (uint64_t)(uintptr_t)mine->of->part, count = 0;
    int rc = 0;
    while (!rc) {
        rc = move(mine->of, mine->number, &random, &count);
        atomic_fetch_add(&mine->of->commits, 1);
    }
    REQUIRE(rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED); /* somebody else has the partition */
    free(mine);
    return NULL;
}

static void open_owner(owner *of, uint64_t epoch, enum farpool_mapping mapping, unsigned copies)
{
    const char *uris[NODES];
    for (unsigned i = 0; i < NODES; i++)
        uris[i] = test_node_uri(nodes[i]);
    of->pool = test_pool_new(mapping, POOL_BYTES);
    test_must(test_partition_open(of->pool, uris, NODES, epoch, epoch > 1, copies, RING_BYTES,
                                  24 << 20, &of->part),
              "opening the partition");
}

static void fill(owner *of)
{
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(of->part, 0, &mtr), "beginning");
    for (unsigned i = 0; i < THREADS; i++)
        test_must(farpool_mtr_alloc(mtr, 0, &counters[i], &page), "allocating");
    test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "committing");
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        test_must(farpool_mtr_begin(of->part, 0, &mtr), "beginning");
        test_must(farpool_mtr_alloc(mtr, 0, &pids[i], &page), "allocating");
        *(uint64_t *)page = START;
        test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL), "committing");
    }
    test_must(farpool_wait_durable(of->part, UINT64_MAX, FARPOOL_DURABLE_MEMORY), "waiting");
}

static const uint64_t *read_page(owner *of, farpool_pid pid)
{
    void *page;
    test_must(farpool_fix(of->part, pid, FARPOOL_SHARED, &page), "reading");
    return page;
}

/* By a new owner, before its threads begin. */
static void check(owner *of)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < ACCOUNTS; i++) {
        const uint64_t *words = read_page(of, pids[i]);
        for (unsigned w = 0; w < 8; w++)
            sum += words[w * 60];
        farpool_unfix(of->part, pids[i], FARPOOL_SHARED);
    }
    REQUIRE(sum == (uint64_t)ACCOUNTS * START);
    for (unsigned i = 0; i < THREADS; i++) {
        REQUIRE(*read_page(of, counters[i]) >= atomic_load(&acknowledged[i]));
        farpool_unfix(of->part, counters[i], FARPOOL_SHARED);
    }
}

static void run(enum farpool_mapping mapping, unsigned copies)
{
    static owner owners[OWNERS];
    memset(owners, 0, sizeof owners);
    memset((void *)acknowledged, 0, sizeof acknowledged);
    for (unsigned i = 0; i < NODES; i++)
        nodes[i] = test_node_start("shm", NODE_BYTES);
    for (unsigned o = 0; o < OWNERS; o++) {
        owner *now = &owners[o];
        open_owner(now, o + 1, mapping, copies);
        if (o)
            check(now);
        else
            fill(now);
        for (unsigned t = 0; t < THREADS && o + 1 < OWNERS; t++) {
            job *mine = malloc(sizeof *mine);
            REQUIRE(mine);
            *mine = (job){now, t};
            REQUIRE(!pthread_create(&now->threads[t], NULL, work, mine));
        }
        while (o + 1 < OWNERS && atomic_load(&now->commits) < COMMITS)
            sched_yield();
    }
    for (unsigned o = 0; o + 1 < OWNERS; o++) {
        for (unsigned t = 0; t < THREADS; t++)
            pthread_join(owners[o].threads[t], NULL);
        /* What it had not flushed never will be. */
        int rc = farpool_partition_close(owners[o].part);
        REQUIRE(!rc || rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED);
        test_must(farpool_pool_close(owners[o].pool), "closing");
    }
    test_pool_close(owners[OWNERS - 1].pool, owners[OWNERS - 1].part);
    for (unsigned i = 0; i < NODES; i++)
        test_node_stop(nodes[i]);
}

int main(void)
{
    seed = test_seed(20261121);
    run(FARPOOL_MAPPING_FRAMES, 3);
    run(FARPOOL_MAPPING_VM, 1);
    printf("%d owners each with %d threads, twice: the sum stayed\n", OWNERS, THREADS);
    return 0;
}
