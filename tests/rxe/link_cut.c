/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_cut URI CUT RESTORE LAST_CUT: faults pages from the memory node at URI in several threads, cuts the link by the
 * shell command CUT in the midst of that, and checks that every fault ends in time with an error that names the node
 * and why; then brings the link back by RESTORE and checks that faults connect again and that every page is right.
 * Then LAST_CUT, after which the pool is closed with the link down. Prefetches are in flight, too, and pairs of
 * threads want the same pages, so that some wait for another's fetch.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "farpool.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"

enum { THREADS = 4, PAGES = 1500, AHEAD = 4, FAULTS_BEFORE = 400, EARLY_MAX = 200 };

/* The transport's settings (common/net): 5 retries after the first try, each after at most four times (InfiniBand
 * Architecture Specification, C9-140) 4.096 us * 2^12. Who waited for another thread's fetch of the same page tries
 * for itself when that has failed, so it is twice as long. The rest is for an emulated machine. */
enum { TRY_US = 4 * 16777, TRIES = 6, MARGIN_MS = 10000 };
enum { BOUND_MS = 2 * TRIES * TRY_US / 1000 + MARGIN_MS };
/* Back again: one try to connect may have begun just before the link came up, and the next begins a second after
 * its end. */
enum { CONNECT_MS = 5000, BACK_MS = CONNECT_MS + 1000 + CONNECT_MS + MARGIN_MS };

static farpool_pool *pool;
static farpool_partition *part;
static farpool_pid pids[PAGES];
static const char *uri;
static _Atomic unsigned faults, errors, early;
static _Atomic uint64_t slowest_ns, back_ns;
static atomic_bool cut_begun;
static pthread_barrier_t barrier;

static void note_most(_Atomic uint64_t *most, uint64_t value)
{
    uint64_t now = atomic_load(most);
    while (value > now && !atomic_compare_exchange_weak(most, &now, value))
        ;
}

/* One access, with prefetches in flight at the same time. */
static int access_one(uint64_t *random)
{
    farpool_pid ahead[AHEAD];
    for (unsigned i = 0; i < AHEAD; i++)
        ahead[i] = pids[test_random(random) % PAGES];
    farpool_prefetch(part, ahead, AHEAD);
    farpool_pid pid = pids[test_random(random) % PAGES];
    void *page;
    int rc = farpool_fix(part, pid, FARPOOL_SHARED, &page);
    if (rc) {
        REQUIRE(rc == FARPOOL_E_NODE);
        REQUIRE(strstr(farpool_errmsg(), uri));
        atomic_fetch_add(&errors, 1);
        return rc;
    }
    REQUIRE(((farpool_pid *)page)[0] == pid && ((farpool_pid *)page)[511] == pid);
    farpool_unfix(part, pid, FARPOOL_SHARED);
    atomic_fetch_add(&faults, 1);
    return 0;
}

/* Many in a row: a single one may have been for a page that is still here. */
static void until_it_works(uint64_t *random)
{
    uint64_t start = fp_now_ns();
    for (unsigned good = 0; good < 20; good++) {
        while (access_one(random)) {
            good = 0;
            REQUIRE((fp_now_ns() - start) / 1000000 <= BACK_MS);
            usleep(1000);
        }
    }
    note_most(&back_ns, fp_now_ns() - start);
}

static bool met_the_cut(const char *message)
{
    return strstr(message, "RETRY_EXC: ") || strstr(message, "LOC_QP_OP: ");
}

static void until_it_fails(unsigned t, uint64_t *random)
{
    uint64_t last, took;
    for (;;) {
        do {
            last = fp_now_ns();
        } while (!access_one(random));
        took = fp_now_ns() - last;
        if (atomic_load(&cut_begun))
            break;
        /* An emulated machine may stand still for longer than the retries last. */
        printf("thread %u: without a cut: %s\n", t, farpool_errmsg());
        REQUIRE(atomic_fetch_add(&early, 1) < EARLY_MAX);
        until_it_works(random);
    }
    printf("thread %u, %.1f ms: %s\n", t, (double)took / 1e6, farpool_errmsg());
    if (met_the_cut(farpool_errmsg())) { /* why, in words and by name */
        REQUIRE(took / 1000000 <= BOUND_MS);
        note_most(&slowest_ns, took);
    } else { /* a prefetch of this thread met it, and the fault tried to connect */
        REQUIRE(strstr(farpool_errmsg(), "cannot connect") ||
                strstr(farpool_errmsg(), "cannot be reached"));
        REQUIRE(took / 1000000 <= BOUND_MS + CONNECT_MS);
    }
}

static void *work(void *arg)
{
    unsigned number = (unsigned)(uintptr_t)arg;
    uint64_t random = 1 + number / 2; /* pairs go the same way */
    until_it_fails(number, &random);
    pthread_barrier_wait(&barrier); /* all have failed */
    pthread_barrier_wait(&barrier); /* the link is back */
    until_it_works(&random);
    pthread_barrier_wait(&barrier); /* all work again */
    until_it_fails(number, &random);
    pthread_barrier_wait(&barrier);
    return NULL;
}

/* Not yet, or no longer, in a race with a cut: see until_it_fails. */
static void succeed(int rc)
{
    if (!rc)
        return;
    REQUIRE(rc == FARPOOL_E_NODE && atomic_fetch_add(&early, 1) < EARLY_MAX);
    printf("without a cut: %s\n", farpool_errmsg());
    usleep(100000);
}

static void fill(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        int rc;
        do
            succeed(rc = farpool_page_alloc(part, 0, &pids[i], &page));
        while (rc);
        ((farpool_pid *)page)[0] = ((farpool_pid *)page)[511] = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
}

/* Every page, so that none was left behind in a fetch that never ended. */
static void check_all(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        int rc;
        do {
            rc = farpool_fix(part, pids[i], FARPOOL_SHARED, &page);
            atomic_fetch_add(&errors, rc != 0);
            succeed(rc);
        } while (rc);
        REQUIRE(((farpool_pid *)page)[0] == pids[i] && ((farpool_pid *)page)[511] == pids[i]);
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
    }
}

static void cut(const char *command)
{
    unsigned before = atomic_load(&faults);
    while (atomic_load(&faults) < before + FAULTS_BEFORE) /* all of them are at it */
        usleep(1000);
    atomic_store(&slowest_ns, 0);
    atomic_store(&cut_begun, true);
    REQUIRE(system(command) == 0);
    pthread_barrier_wait(&barrier);
    REQUIRE(atomic_load(&slowest_ns)); /* at least one met the cut itself */
    printf("'%s': the slowest error after %.0f ms (allowed: %d)\n", command,
           (double)atomic_load(&slowest_ns) / 1e6, BOUND_MS);
}

static void restore(const char *command)
{
    atomic_store(&back_ns, 0);
    REQUIRE(system(command) == 0);
    atomic_store(&cut_begun, false);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    printf("back after %.0f ms (allowed: %d)\n", (double)atomic_load(&back_ns) / 1e6, BACK_MS);
}

static void open_all(void)
{
    farpool_pool_options pool_options;
    farpool_pool_options_init(&pool_options);
    pool_options.pool_bytes = 1 << 20;
    REQUIRE(farpool_pool_open(&pool_options, &pool) == 0);
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.memnodes = &uri;
    options.memnode_count = 1;
    options.slab_bytes = 8 << 20;
    options.timeout_ms = CONNECT_MS;
    REQUIRE(farpool_partition_open(pool, &options, &part) == 0);
}

int main(int argc, char **argv)
{
    REQUIRE(argc == 5);
    alarm(150); /* a hang is a failure */
    setvbuf(stdout, NULL, _IOLBF, 0);
    uri = argv[1];
    open_all();
    fill();
    check_all();
    pthread_t threads[THREADS];
    REQUIRE(pthread_barrier_init(&barrier, NULL, THREADS + 1) == 0);
    for (uintptr_t t = 0; t < THREADS; t++)
        REQUIRE(pthread_create(&threads[t], NULL, work, (void *)t) == 0);
    cut(argv[2]);
    restore(argv[3]);
    check_all();
    cut(argv[4]);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    REQUIRE(stats.fault_errors == atomic_load(&errors)); /* each error reached one fault, once */
    REQUIRE(farpool_partition_close(part) == FARPOOL_E_NODE);
    REQUIRE(farpool_pool_close(pool) == 0);
    printf("%u accesses, %u errors, %u of them without a cut\n", atomic_load(&faults),
           atomic_load(&errors), atomic_load(&early));
    return 0;
}
