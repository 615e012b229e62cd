/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what a memory node killed with kill -9 does to those who fault pages from it at that moment: every
 * waiting fault returns an error that names the node, nothing hangs, pages of the other node stay readable,
 * and the pool can be closed. FARPOOL_TEST_SCHEME picks the transport (default: shm, then tcp).
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
#include "tests/lib/testnode.h"

enum { THREADS = 4, PAGES = 1500, POOL_BYTES = 1 << 20, NODE_KIB = 24 << 10 };

static farpool_partition *part;
static farpool_pid pids[PAGES];
static _Atomic unsigned faults, failed;
static _Atomic bool readable_after; /* a page of the node that lives was read after the kill */
static _Atomic bool killed;
static const char *victim;

/* Reads pages at random until one cannot be had, then looks for one that still can. */
static void *read_until_it_fails(void *arg)
{
    uint64_t random = 1 + (uint64_t)(uintptr_t)arg;
    int rc = 0;
    void *page;
    while (!rc) {
        farpool_pid pid = pids[test_random(&random) % PAGES];
        rc = farpool_fix(part, pid, FARPOOL_SHARED, &page);
        if (!rc) {
            REQUIRE(*(farpool_pid *)page == pid);
            farpool_unfix(part, pid, FARPOOL_SHARED);
            atomic_fetch_add(&faults, 1);
        }
    }
    REQUIRE(atomic_load(&killed));
    REQUIRE(rc == FARPOOL_E_NODE);
    REQUIRE(strstr(farpool_errmsg(), victim));
    atomic_fetch_add(&failed, 1);
    for (unsigned i = 0; i < PAGES; i++) {
        if (farpool_fix(part, pids[i], FARPOOL_SHARED, &page))
            continue;
        REQUIRE(*(farpool_pid *)page == pids[i]);
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
        atomic_store(&readable_after, true);
    }
    return NULL;
}

static void fill(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        REQUIRE(farpool_page_alloc(part, 0, &pids[i], &page) == 0);
        *(farpool_pid *)page = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
    for (unsigned i = 0; i < PAGES; i++) { /* clean copies: a dead node must not stop eviction */
        void *page;
        REQUIRE(farpool_fix(part, pids[i], FARPOOL_SHARED, &page) == 0);
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
    }
}

static void run(const char *scheme)
{
    test_process nodes[2] = {0};
    const char *uris[2];
    for (int i = 0; i < 2; i++) {
        test_process_start(&nodes[i], scheme, NODE_KIB);
        uris[i] = nodes[i].uri;
    }
    farpool_pool *pool;
    test_pool_open_at(uris, 2, FARPOOL_MAPPING_AUTO, POOL_BYTES, 16 << 20, &pool, &part);
    fill();
    victim = uris[0];
    atomic_store(&faults, 0);
    atomic_store(&failed, 0);
    atomic_store(&killed, false);
    atomic_store(&readable_after, false);
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++)
        REQUIRE(pthread_create(&threads[t], NULL, read_until_it_fails, (void *)t) == 0);
    while (atomic_load(&faults) < 2000) /* all of them are at it */
        sched_yield();
    atomic_store(&killed, true);
    test_process_end(&nodes[0], SIGKILL);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    REQUIRE(atomic_load(&failed) == THREADS);
    REQUIRE(atomic_load(&readable_after));
    REQUIRE(farpool_partition_close(part) == FARPOOL_E_NODE); /* that node could not be told */
    REQUIRE(farpool_pool_close(pool) == 0);
    REQUIRE(test_process_end(&nodes[1], SIGTERM) == 0);
    printf("%s: %u faults, then %d threads told which node is gone\n", scheme, atomic_load(&faults),
           THREADS);
}

int main(void)
{
    test_process_schemes(run);
    return 0;
}
