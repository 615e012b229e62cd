/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what a pool sees of a memory node that was killed with kill -9 and started again at the same address: its
 * memory is gone, so every page that was there is an error that says so, never other bytes; also when somebody else
 * has been given the same partition there under the same epoch meanwhile, whose pages the first pool neither reads
 * nor overwrites. The first pool can open another partition on the node as it is now. FARPOOL_TEST_SCHEME picks the transport (default: shm, then tcp).
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "farpool.h"
#include "tests/lib/process.h"
#include "tests/lib/secret.h"
#include "tests/lib/testnode.h"

enum { THREADS = 4, PAGES = 1200, NODE_KIB = 24 << 10, AFTER = 50 };

typedef struct owner {
    farpool_pool *pool;
    farpool_partition *part;
    farpool_pid pids[PAGES];
    uint64_t mark; /* in each of its pages, beside the pid */
} owner;

static owner first, second;
static test_process node;
static _Atomic unsigned faults;
static atomic_bool killed;

static void open_pool(owner *o)
{
    farpool_pool_options options;
    farpool_pool_options_init(&options);
    options.pool_bytes = 1 << 20;
    options.key_file = test_secret_file();
    REQUIRE(farpool_pool_open(&options, &o->pool) == 0);
}

static void fill(owner *o, uint64_t partition, uint64_t mark)
{
    const char *uri = node.uri;
    farpool_partition_options options;
    farpool_partition_options_init(&options); /* the same epoch for all */
    options.id = partition;
    options.memnodes = &uri;
    options.memnode_count = 1;
    options.slab_bytes = 8 << 20;
    REQUIRE(farpool_partition_open(o->pool, &options, &o->part) == 0);
    o->mark = mark;
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        REQUIRE(farpool_page_alloc(o->part, 0, &o->pids[i], &page) == 0);
        ((uint64_t *)page)[0] = o->pids[i];
        ((uint64_t *)page)[1] = mark;
        farpool_unfix(o->part, o->pids[i], FARPOOL_EXCLUSIVE);
    }
}

/* Every third access changes the page, so that there is always something to be written back. */
static int access_page(owner *o, uint64_t random)
{
    farpool_pid pid = o->pids[random % PAGES];
    enum farpool_latch mode = random / PAGES % 3 ? FARPOOL_SHARED : FARPOOL_EXCLUSIVE;
    void *page;
    int rc = farpool_fix(o->part, pid, mode, &page);
    if (rc)
        return rc;
    REQUIRE(((uint64_t *)page)[0] == pid && ((uint64_t *)page)[1] == o->mark);
    if (mode == FARPOOL_EXCLUSIVE)
        ((uint64_t *)page)[2]++;
    farpool_unfix(o->part, pid, mode);
    atomic_fetch_add(&faults, 1);
    return 0;
}

/* Until it has been told often enough that the pages are gone. */
static void *use(void *arg)
{
    uint64_t random = 1 + (uint64_t)(uintptr_t)arg;
    for (unsigned told = 0; told < AFTER;) {
        int rc = access_page(&first, test_random(&random) >> 1);
        if (!rc)
            continue;
        REQUIRE(rc == FARPOOL_E_NODE && atomic_load(&killed));
        REQUIRE(strstr(farpool_errmsg(), node.uri));
        if (strstr(farpool_errmsg(), "restarted and has lost"))
            told++;
        else
            usleep(1000);
    }
    return NULL;
}

static void run(const char *scheme)
{
    test_process_start(&node, scheme, NODE_KIB);
    atomic_store(&faults, 0);
    atomic_store(&killed, false);
    open_pool(&first);
    open_pool(&second);
    fill(&first, 7, 1);
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++)
        REQUIRE(pthread_create(&threads[t], NULL, use, (void *)t) == 0);
    AWAIT(atomic_load(&faults) >= 2000); /* all of them are at it */
    atomic_store(&killed, true);
    test_process_end(&node, SIGKILL);
    char uri[sizeof node.uri];
    snprintf(uri, sizeof uri, "%s", node.uri);
    test_process_start(&node, uri, NODE_KIB);
    REQUIRE(!strcmp(uri, node.uri));
    fill(&second, 7, 2);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    for (uint64_t i = 0; i < PAGES; i++)
        REQUIRE(access_page(&second, i) == 0);
    REQUIRE(farpool_partition_close(first.part) == FARPOOL_E_NODE);
    fill(&first, 8, 3);
    for (uint64_t i = 0; i < PAGES; i++)
        REQUIRE(access_page(&first, i) == 0);
    REQUIRE(farpool_partition_close(first.part) == 0);
    REQUIRE(farpool_pool_close(first.pool) == 0);
    for (uint64_t i = 0; i < PAGES; i++)
        REQUIRE(access_page(&second, i) == 0);
    REQUIRE(farpool_partition_close(second.part) == 0);
    REQUIRE(farpool_pool_close(second.pool) == 0);
    REQUIRE(test_process_end(&node, SIGTERM) == 0);
    printf("%s: %u accesses; %d threads were told that the pages are lost\n", scheme,
           atomic_load(&faults), THREADS);
}

int main(void)
{
    test_process_schemes(run);
    return 0;
}
