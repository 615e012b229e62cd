/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that partitions of one pool come and go while others are in use: opening, filling, evicting each
 * other's pages, statistics and closing do not disturb one another. */
#include "farpool.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <setjmp.h>

#include <cmocka.h>

#include "tests/lib/testnode.h"

enum { THREADS = 4, ROUNDS = 40, PAGES = 300 };

static test_node *node;
static farpool_pool *pool;
static _Atomic bool over;

static void fill_and_read(farpool_partition *part, bool leave_prefetches)
{
    farpool_pid pids[PAGES];
    void *page;
    for (unsigned i = 0; i < PAGES; i++) {
        assert_int_equal(farpool_page_alloc(part, 0, &pids[i], &page), 0);
        *(farpool_pid *)page = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
    for (unsigned i = 0; i < PAGES; i++) {
        assert_int_equal(farpool_fix(part, pids[i], FARPOOL_SHARED, &page), 0);
        assert_int_equal(*(farpool_pid *)page, pids[i]);
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
    }
    if (leave_prefetches)
        farpool_prefetch(part, pids, PAGES);
}

static void *come_and_go(void *arg)
{
    const char *uri = test_node_uri(node);
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.id = (uintptr_t)arg + 1;
    options.memnodes = &uri;
    options.memnode_count = 1;
    options.slab_bytes = 4 << 20;
    options.space_bytes = 8 << 20;
    for (unsigned round = 0; round < ROUNDS; round++) {
        farpool_partition *part;
        int rc = farpool_partition_open(pool, &options, &part);
        if (rc)
            print_error("%s\n", farpool_errmsg());
        assert_int_equal(rc, 0);
        fill_and_read(part, round % 2);
        assert_int_equal(farpool_partition_close(part), 0);
        options.epoch++;
    }
    return NULL;
}

static void *look(void *arg)
{
    farpool_stats stats;
    while (!atomic_load(&over)) {
        farpool_stats_get(pool, &stats);
        assert_true(stats.frames_used <= stats.frames);
    }
    return arg;
}

static void run(enum farpool_mapping mapping)
{
    node = test_node_start("shm", 64 << 20);
    farpool_pool_options options;
    farpool_pool_options_init(&options);
    options.pool_bytes = 2 << 20;
    options.mapping = mapping;
    assert_int_equal(farpool_pool_open(&options, &pool), 0);
    pthread_t threads[THREADS], looker;
    atomic_store(&over, false);
    assert_int_equal(pthread_create(&looker, NULL, look, NULL), 0);
    for (uintptr_t t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, come_and_go, (void *)t), 0);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    atomic_store(&over, true);
    pthread_join(looker, NULL);
    assert_int_equal(farpool_pool_close(pool), 0);
    test_node_stop(node);
}

static void frames(void **state) { (void)state, run(FARPOOL_MAPPING_FRAMES); }
static void vm(void **state) { (void)state, run(FARPOOL_MAPPING_VM); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames),
        cmocka_unit_test(vm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
