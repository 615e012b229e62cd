/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that threads which fix, read optimistically, prefetch, allocate and free the same pages of a pool
 * much smaller than the data never see a page torn, lost or mixed up. Each page carries two counters that
 * writers raise together and a stamp of its pid; at the end the counters add up to the writes made.
 */
#include "farpool.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <setjmp.h>

#include <cmocka.h>

#include "tests/lib/racy.h"
#include "tests/lib/testnode.h"

enum { THREADS = 4, PAGES = 1200, OPS = 6000, POOL_BYTES = 1 << 20, LAST = 500 };

typedef struct content { /* word 0 of each page, and its last words */
    uint64_t pid, count;
} content;

static farpool_pool *pool;
static farpool_partition *part;
static farpool_pid pids[PAGES];
static uint64_t seed;
static _Atomic uint64_t writes, optimistic, restarted;

static void check(const content *first, const content *last, farpool_pid pid)
{
    assert_int_equal(first->pid, pid);
    assert_int_equal(last->pid, pid);
    assert_int_equal(first->count, last->count);
}

static void write_page(farpool_pid pid)
{
    void *page;
    assert_int_equal(farpool_fix(part, pid, FARPOOL_EXCLUSIVE, &page), 0);
    content *first = page, *last = (content *)((uint64_t *)page + LAST);
    check(first, last, pid);
    first->count++;
    last->count++;
    farpool_unfix(part, pid, FARPOOL_EXCLUSIVE);
    atomic_fetch_add(&writes, 1);
}

static void read_page(farpool_pid pid)
{
    void *page;
    assert_int_equal(farpool_fix(part, pid, FARPOOL_SHARED, &page), 0);
    check(page, (content *)((uint64_t *)page + LAST), pid);
    farpool_unfix(part, pid, FARPOOL_SHARED);
}

static int try_optimistic(farpool_pid pid, content *first, content *last)
{
    const void *page;
    uint64_t version;
    int rc = farpool_read_begin(part, pid, &page, &version);
    if (rc)
        return rc;
    const uint64_t *words = page;
    first->pid = racy_load(&words[0]);
    first->count = racy_load(&words[1]);
    last->pid = racy_load(&words[LAST]);
    last->count = racy_load(&words[LAST + 1]);
    return farpool_read_check(part, pid, version);
}

static void read_optimistic(farpool_pid pid)
{
    farpool_section section;
    content first, last;
    volatile int rc = FARPOOL_E_RETRY;
    do {
        rc = FARPOOL_E_RETRY;
        if (farpool_section_enter(&section)) {
            atomic_fetch_add(&restarted, 1);
            continue;
        }
        rc = try_optimistic(pid, &first, &last);
        farpool_section_leave(&section);
    } while (rc == FARPOOL_E_RETRY);
    assert_int_equal(rc, 0);
    check(&first, &last, pid);
    atomic_fetch_add(&optimistic, 1);
}

/* Pages of this thread's own come and go, of several sizes. */
static void churn(uint64_t *random)
{
    farpool_pid pid;
    void *page;
    unsigned order = (unsigned)(test_random(random) % 3);
    assert_int_equal(farpool_page_alloc(part, order, &pid, &page), 0);
    uint64_t *words = page;
    assert_int_equal(words[LAST], 0);
    words[LAST] = pid;
    farpool_unfix(part, pid, FARPOOL_EXCLUSIVE);
    assert_int_equal(farpool_fix(part, pid, FARPOOL_EXCLUSIVE, &page), 0);
    assert_int_equal(((uint64_t *)page)[LAST], pid);
    farpool_page_free(part, pid);
}

static void *work(void *arg)
{
    uint64_t random = seed + (uint64_t)(uintptr_t)arg * 7919;
    for (unsigned i = 0; i < OPS; i++) {
        uint64_t r = test_random(&random);
        farpool_pid pid = pids[(r >> 8) % PAGES];
        switch (r % 16) {
        case 0 ... 4:
            write_page(pid);
            break;
        case 5 ... 8:
            read_page(pid);
            break;
        case 9:
            churn(&random);
            break;
        case 10:
            farpool_prefetch(part, pids + (r >> 8) % (PAGES - 32), 32);
            break;
        default:
            read_optimistic(pid);
        }
    }
    return NULL;
}

static void run(const char *scheme, enum farpool_mapping mapping)
{
    test_node *nodes[2] = {test_node_start(scheme, 32 << 20), test_node_start(scheme, 32 << 20)};
    test_pool_open(nodes, 2, mapping, POOL_BYTES, 40 << 20, &pool, &part);
    atomic_store(&writes, 0);
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        assert_int_equal(farpool_page_alloc(part, 0, &pids[i], &page), 0);
        ((content *)page)->pid = pids[i];
        ((content *)((uint64_t *)page + LAST))->pid = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, work, (void *)t), 0);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    uint64_t sum = 0;
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        assert_int_equal(farpool_fix(part, pids[i], FARPOOL_SHARED, &page), 0);
        sum += ((content *)page)->count;
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
    }
    assert_int_equal(sum, atomic_load(&writes));
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    assert_true(stats.evictions > PAGES && stats.fault_errors == 0);
    printf("%s: %llu misses, %llu prefetched, %llu restarts, %llu latch waits\n", scheme,
           (unsigned long long)stats.misses, (unsigned long long)stats.prefetched,
           (unsigned long long)atomic_load(&restarted), (unsigned long long)stats.latch_waits);
    test_pool_close(pool, part);
    test_node_stop(nodes[0]);
    test_node_stop(nodes[1]);
}

static void shm_frames(void **state) { (void)state, run("shm", FARPOOL_MAPPING_FRAMES); }
static void shm_vm(void **state) { (void)state, run("shm", FARPOOL_MAPPING_VM); }
static void tcp_frames(void **state) { (void)state, run("tcp", FARPOOL_MAPPING_FRAMES); }
static void tcp_vm(void **state) { (void)state, run("tcp", FARPOOL_MAPPING_VM); }

static _Atomic bool written;

static void *read_on(void *arg)
{
    while (!atomic_load(&written)) {
        void *page;
        assert_int_equal(farpool_fix(part, pids[0], FARPOOL_SHARED, &page), 0);
        for (unsigned i = 0; i < 2000;
             i++) /* long enough for another reader to come before this one goes */
            assert_int_equal(racy_load(page), pids[0]);
        farpool_unfix(part, pids[0], FARPOOL_SHARED);
    }
    return arg;
}

/* There is always a reader, and yet a writer gets in. */
static void readers_let_a_writer_in(void **state)
{
    (void)state;
    test_node *node = test_node_start("shm", 8 << 20);
    test_pool_open(&node, 1, FARPOOL_MAPPING_FRAMES, POOL_BYTES, 4 << 20, &pool, &part);
    void *page;
    assert_int_equal(farpool_page_alloc(part, 0, &pids[0], &page), 0);
    *(farpool_pid *)page = pids[0];
    farpool_unfix(part, pids[0], FARPOOL_EXCLUSIVE);
    pthread_t readers[THREADS];
    atomic_store(&written, false);
    for (unsigned t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&readers[t], NULL, read_on, NULL), 0);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(farpool_fix(part, pids[0], FARPOOL_EXCLUSIVE, &page), 0);
        farpool_unfix(part, pids[0], FARPOOL_EXCLUSIVE);
    }
    atomic_store(&written, true);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(readers[t], NULL);
    test_pool_close(pool, part);
    test_node_stop(node);
}

int main(void)
{
    seed = test_seed(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shm_frames),
        cmocka_unit_test(shm_vm),
        cmocka_unit_test(tcp_frames),
        cmocka_unit_test(tcp_vm),
        cmocka_unit_test(readers_let_a_writer_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
