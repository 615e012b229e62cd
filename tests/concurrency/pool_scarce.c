/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that a pool does not run out of frames or of staging memory while nobody fixes its pages: not when
 * threads that have fallen idle keep free frames or fetched pages, nor when all of it is just being written
 * back. Each thread has at most one page fixed.
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

#include "tests/lib/testnode.h"

enum { PAGES = 2000, IDLERS_MAX = 200, POOL_BYTES = 1 << 20, SLAB_BYTES = 96 << 20 };

static test_node *node;
static farpool_pool *pool;
static farpool_partition *part;
static farpool_pid pids[PAGES];
static uint64_t seed;
static unsigned page_count;
static unsigned ops; /* of each thread that writes */

static void make_pages(unsigned count, unsigned order)
{
    page_count = count;
    for (unsigned i = 0; i < count; i++) {
        void *page;
        assert_int_equal(farpool_page_alloc(part, order, &pids[i], &page), 0);
        *(farpool_pid *)page = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
}

static void touch(farpool_pid pid, enum farpool_latch latch)
{
    void *page;
    int rc = farpool_fix(part, pid, latch, &page);
    if (rc)
        print_error("page %llu: %s\n", (unsigned long long)pid, farpool_errmsg());
    assert_int_equal(rc, 0);
    assert_int_equal(*(farpool_pid *)page, pid);
    farpool_unfix(part, pid, latch);
}

/* Afterwards no page of the pool is dirty, so that evicting one takes no look at the network. */
static void clean_pages(void)
{
    for (unsigned i = 0; i < 2 * page_count; i++)
        touch(pids[i % page_count], FARPOOL_SHARED);
}

static void open_all(const char *scheme, enum farpool_mapping mapping, uint64_t pool_bytes)
{
    node = test_node_start(scheme, 128 << 20);
    test_pool_open(&node, 1, mapping, pool_bytes, SLAB_BYTES, &pool, &part);
}

static void close_all(void)
{
    test_pool_close(pool, part);
    test_node_stop(node);
}

static void *write_randomly(void *arg)
{
    uint64_t random = seed + (uint64_t)(uintptr_t)arg * 7919;
    for (unsigned i = 0; i < ops; i++)
        touch(pids[test_random(&random) % page_count], FARPOOL_EXCLUSIVE);
    return NULL;
}

static void run_writers(unsigned threads)
{
    pthread_t ids[IDLERS_MAX];
    for (uintptr_t t = 0; t < threads; t++)
        assert_int_equal(pthread_create(&ids[t], NULL, write_randomly, (void *)t), 0);
    for (unsigned t = 0; t < threads; t++)
        pthread_join(ids[t], NULL);
}

/* ---- threads that do something and then nothing, but live on --------------------------------- */

typedef struct idler {
    pthread_t thread;
    unsigned number;
    void (*act)(unsigned number);
    pthread_barrier_t done, leave;
} idler;

static idler idlers[IDLERS_MAX];

static void *idle(void *arg)
{
    idler *self = arg;
    self->act(self->number);
    pthread_barrier_wait(&self->done);
    pthread_barrier_wait(&self->leave);
    return NULL;
}

/* One after the other. */
static void start_idlers(unsigned count, void (*act)(unsigned number))
{
    for (unsigned i = 0; i < count; i++) {
        idlers[i].number = i;
        idlers[i].act = act;
        pthread_barrier_init(&idlers[i].done, NULL, 2);
        pthread_barrier_init(&idlers[i].leave, NULL, 2);
        assert_int_equal(pthread_create(&idlers[i].thread, NULL, idle, &idlers[i]), 0);
        pthread_barrier_wait(&idlers[i].done);
    }
}

static void end_idlers(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        pthread_barrier_wait(&idlers[i].leave);
        pthread_join(idlers[i].thread, NULL);
        pthread_barrier_destroy(&idlers[i].done);
        pthread_barrier_destroy(&idlers[i].leave);
    }
}

static void touch_some(unsigned number)
{
    for (unsigned i = 0; i < 10; i++)
        touch(pids[(number * 10 + i) % PAGES], FARPOOL_SHARED);
}

/* Misses when pages for half of the pool are read again and again. */
static uint64_t misses_of_a_half(void)
{
    enum { HALF = POOL_BYTES / FARPOOL_UNIT_BYTES / 2, ROUNDS = 20 };
    farpool_stats before, after;
    for (unsigned i = 0; i < ROUNDS * HALF; i++)
        touch(pids[i % HALF], FARPOOL_SHARED);
    farpool_stats_get(pool, &before);
    for (unsigned i = 0; i < ROUNDS * HALF; i++)
        touch(pids[i % HALF], FARPOOL_SHARED);
    farpool_stats_get(pool, &after);
    return after.misses - before.misses;
}

static void idle_threads_keep_no_frames(void **state)
{
    (void)state;
    open_all("shm", FARPOOL_MAPPING_FRAMES, POOL_BYTES);
    make_pages(PAGES, 0);
    start_idlers(IDLERS_MAX, touch_some);
    assert_int_equal(misses_of_a_half(), 0);
    end_idlers(IDLERS_MAX);
    close_all();
}

static void idle_threads_leave_room_for_large_pages(void **state)
{
    (void)state;
    open_all("shm", FARPOOL_MAPPING_FRAMES, POOL_BYTES);
    make_pages(PAGES, 0);
    farpool_pid large;
    void *page;
    assert_int_equal(farpool_page_alloc(part, 8, &large, &page), 0);
    *(farpool_pid *)page = large;
    farpool_unfix(part, large, FARPOOL_EXCLUSIVE);
    start_idlers(8, touch_some);
    touch(large, FARPOOL_SHARED);
    end_idlers(8);
    close_all();
}

/* ---- pages fetched and then left alone --------------------------------------------------------- */

static void prefetch_some(unsigned number)
{
    farpool_prefetch(part, &pids[number * 64 % PAGES], 64);
}

static void idle_prefetches_give_way(void **state)
{
    (void)state;
    open_all("shm", FARPOOL_MAPPING_FRAMES, POOL_BYTES);
    make_pages(PAGES, 0);
    clean_pages();
    start_idlers(6, prefetch_some);
    ops = 10;
    run_writers(2);
    end_idlers(6);
    close_all();
}

/* As much as fills the staging memory of mapping vm. */
static void staged_prefetches_give_way(void **state)
{
    (void)state;
    open_all("shm", FARPOOL_MAPPING_VM, 32 << 20);
    make_pages(300, 6);
    clean_pages();
    start_idlers(1, prefetch_some);
    for (unsigned i = 100; i < 110; i++)
        touch(pids[i], FARPOOL_EXCLUSIVE);
    end_idlers(1);
    close_all();
}

/* What was fetched for a partition, but not looked at, does not outlive it. */
static void idle_prefetches_end_with_their_partition(void **state)
{
    (void)state;
    open_all("shm", FARPOOL_MAPPING_FRAMES, POOL_BYTES);
    make_pages(PAGES, 0);
    start_idlers(2, prefetch_some);
    assert_int_equal(farpool_partition_close(part), 0);
    end_idlers(2);
    assert_int_equal(farpool_pool_close(pool), 0);
    test_node_stop(node);
}

/* ---- much at the same time --------------------------------------------------------------------- */

static void many_writers(const char *scheme, enum farpool_mapping mapping)
{
    open_all(scheme, mapping, POOL_BYTES);
    make_pages(PAGES, 0);
    ops = 100;
    run_writers(100);
    close_all();
}

static void many_writers_frames(void **state)
{
    (void)state;
    many_writers("tcp", FARPOOL_MAPPING_FRAMES);
}

static void many_writers_vm(void **state)
{
    (void)state;
    many_writers("tcp", FARPOOL_MAPPING_VM);
}

/* Pages of an eighth to a half of the pool among small ones. */
static void large_among_small(enum farpool_mapping mapping)
{
    open_all("shm", mapping, 2 << 20);
    make_pages(PAGES, 0);
    for (unsigned i = 0; i < PAGES; i += 50) {
        void *page;
        assert_int_equal(farpool_page_alloc(part, 3 + i / 50 % 6, &pids[i], &page), 0);
        *(farpool_pid *)page = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
    ops = 2000;
    run_writers(5);
    close_all();
}

static void large_among_small_frames(void **state)
{
    (void)state;
    large_among_small(FARPOOL_MAPPING_FRAMES);
}

static void large_among_small_vm(void **state)
{
    (void)state;
    large_among_small(FARPOOL_MAPPING_VM);
}

int main(void)
{
    seed = test_seed(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(idle_threads_keep_no_frames),
        cmocka_unit_test(idle_threads_leave_room_for_large_pages),
        cmocka_unit_test(idle_prefetches_give_way),
        cmocka_unit_test(staged_prefetches_give_way),
        cmocka_unit_test(idle_prefetches_end_with_their_partition),
        cmocka_unit_test(many_writers_frames),
        cmocka_unit_test(many_writers_vm),
        cmocka_unit_test(large_among_small_frames),
        cmocka_unit_test(large_among_small_vm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
