/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what the pool promises a single thread: pages survive eviction bit by bit, in every size and both
 * mappings; freed pages are gone; bad arguments and full slabs are errors; optimistic reads notice. */
#include "farpool.h"

#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "compute/pool.h"
#include "compute/remote.h"
#include "tests/lib/testnode.h"

enum { POOL_BYTES = 2 << 20, SLAB_BYTES = 32 << 20, NODE_BYTES = 64 << 20 };

typedef struct fixture {
    test_node *nodes[2];
    farpool_pool *pool;
    farpool_partition *part;
} fixture;

/* Called by the tests themselves, not as a cmocka fixture: cmocka puts its own handlers for SIGBUS and
 * SIGSEGV in place around each function that it calls. */
static void with_pool(enum farpool_mapping mapping, void (*test)(fixture *f))
{
    fixture f;
    f.nodes[0] = test_node_start("shm", NODE_BYTES);
    f.nodes[1] = test_node_start("shm", NODE_BYTES);
    test_pool_open(f.nodes, 2, mapping, POOL_BYTES, SLAB_BYTES, &f.pool, &f.part);
    test(&f);
    test_pool_close(f.pool, f.part);
    test_node_stop(f.nodes[0]);
    test_node_stop(f.nodes[1]);
}

/* Fills a page with what only this page has, and checks it. */
static void stamp(void *page, farpool_pid pid, unsigned order, uint64_t round)
{
    uint64_t *words = page;
    for (size_t i = 0; i < (FARPOOL_UNIT_BYTES << order) / 8; i++)
        words[i] = pid * 0x9E3779B97F4A7C15ull + i + (round << 48);
}

static void check_stamp(const void *page, farpool_pid pid, unsigned order, uint64_t round)
{
    const uint64_t *words = page;
    for (size_t i = 0; i < (FARPOOL_UNIT_BYTES << order) / 8; i++)
        assert_true(words[i] == pid * 0x9E3779B97F4A7C15ull + i + (round << 48));
}

static void pages_come_back(fixture *f)
{
    enum { PAGES = 2000 };
    farpool_pid pids[PAGES];
    unsigned orders[PAGES];
    for (unsigned i = 0; i < PAGES; i++) {
        orders[i] = i % 50 == 0 ? 5 : i % 10 == 0 ? 2 : 0;
        void *page;
        assert_int_equal(farpool_page_alloc(f->part, orders[i], &pids[i], &page), 0);
        for (size_t b = 0; b < FARPOOL_UNIT_BYTES << orders[i]; b += 512)
            assert_int_equal(((char *)page)[b], 0);
        stamp(page, pids[i], orders[i], 0);
        farpool_unfix(f->part, pids[i], FARPOOL_EXCLUSIVE);
    }
    for (uint64_t round = 0; round < 3; round++) {
        for (unsigned i = 0; i < PAGES; i++) {
            void *page;
            assert_int_equal(farpool_fix(f->part, pids[i], FARPOOL_SHARED, &page), 0);
            check_stamp(page, pids[i], orders[i], round);
            assert_int_equal(farpool_page_order(f->part, pids[i]), orders[i]);
            farpool_unfix(f->part, pids[i], FARPOOL_SHARED);
            assert_int_equal(farpool_fix(f->part, pids[i], FARPOOL_EXCLUSIVE, &page), 0);
            stamp(page, pids[i], orders[i], round + 1);
            farpool_unfix(f->part, pids[i], FARPOOL_EXCLUSIVE);
        }
    }
    farpool_stats stats;
    farpool_stats_get(f->pool, &stats);
    assert_true(stats.misses > PAGES);
    assert_true(stats.evictions > PAGES);
    assert_true(stats.written_back > PAGES);
    assert_int_equal(stats.fault.count, stats.misses);
    assert_true(farpool_latency_quantile(&stats.fault, 0.5) > 0);
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        assert_int_equal(farpool_fix(f->part, pids[i], FARPOOL_EXCLUSIVE, &page), 0);
        farpool_page_free(f->part, pids[i]);
        assert_int_equal(farpool_fix(f->part, pids[i], FARPOOL_SHARED, &page), FARPOOL_E_NOTFOUND);
    }
    farpool_stats_get(f->pool, &stats);
    assert_true(stats.frames_used <= 64); /* a thread's stock of free frames */
}

static void prefetch_brings_pages(fixture *f)
{
    enum { PAGES = 1500, AHEAD = 64 };
    farpool_pid pids[PAGES];
    void *page;
    for (unsigned i = 0; i < PAGES; i++) {
        assert_int_equal(farpool_page_alloc(f->part, 0, &pids[i], &page), 0);
        stamp(page, pids[i], 0, 7);
        farpool_unfix(f->part, pids[i], FARPOOL_EXCLUSIVE);
    }
    for (unsigned i = 0; i < PAGES; i += AHEAD) {
        unsigned n = PAGES - i < AHEAD ? PAGES - i : AHEAD;
        farpool_prefetch(f->part, pids + i, n);
        for (unsigned k = i; k < i + n; k++) {
            assert_int_equal(farpool_fix(f->part, pids[k], FARPOOL_SHARED, &page), 0);
            check_stamp(page, pids[k], 0, 7);
            farpool_unfix(f->part, pids[k], FARPOOL_SHARED);
        }
    }
    farpool_stats stats;
    farpool_stats_get(f->pool, &stats);
    assert_true(stats.prefetched > PAGES / 2);
    farpool_pid nonsense[] = {FARPOOL_PID_NONE, 1u << 20, pids[0]};
    farpool_prefetch(f->part, nonsense, 3);
    farpool_prefetch(f->part, pids,
                     PAGES); /* more than can be in flight; left for close to take in */
}

static void optimistic_reads_notice(fixture *f)
{
    farpool_pid pid;
    void *page;
    const void *seen;
    uint64_t version;
    assert_int_equal(farpool_page_alloc(f->part, 0, &pid, &page), 0);
    stamp(page, pid, 0, 1);
    farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    assert_int_equal(farpool_read_begin(f->part, pid, &seen, &version), 0);
    check_stamp(seen, pid, 0, 1);
    assert_int_equal(farpool_read_check(f->part, pid, version), 0);
    assert_int_equal(farpool_fix(f->part, pid, FARPOOL_SHARED, &page), 0);
    assert_int_equal(farpool_read_check(f->part, pid, version), 0); /* readers don't disturb */
    farpool_unfix(f->part, pid, FARPOOL_SHARED);
    assert_int_equal(farpool_fix(f->part, pid, FARPOOL_EXCLUSIVE, &page), 0);
    assert_int_equal(farpool_read_check(f->part, pid, version), FARPOOL_E_RETRY);
    farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    assert_int_equal(farpool_read_check(f->part, pid, version), FARPOOL_E_RETRY);
    assert_int_equal(farpool_read_upgrade(f->part, pid, version, &page), FARPOOL_E_RETRY);
    assert_int_equal(farpool_read_begin(f->part, pid, &seen, &version), 0);
    assert_int_equal(farpool_read_upgrade(f->part, pid, version, &page), 0);
    farpool_page_free(f->part, pid);
    assert_int_equal(farpool_read_check(f->part, pid, version), FARPOOL_E_RETRY);
    assert_int_equal(farpool_read_begin(f->part, pid, &seen, &version), FARPOOL_E_NOTFOUND);
}

static void options_of(const char *const *uris, size_t count, farpool_partition_options *options)
{
    farpool_partition_options_init(options);
    options->memnodes = uris;
    options->memnode_count = count;
}

/* Until there is no room for one more page, all of them fixed at the same time. Why; how many. */
static int fix_as_many_as_fit(farpool_partition *part, unsigned *count)
{
    farpool_pid held[POOL_BYTES / FARPOOL_UNIT_BYTES];
    void *page;
    int rc;
    unsigned n = 0;
    while ((rc = farpool_page_alloc(part, 0, &held[n], &page)) == 0)
        n++;
    *count = n;
    while (n--)
        farpool_unfix(part, held[n], FARPOOL_EXCLUSIVE);
    return rc;
}

/* Pushes everything else out of the pool. */
static void flood(fixture *f)
{
    for (unsigned i = 0; i < 3 * POOL_BYTES / FARPOOL_UNIT_BYTES; i++) {
        farpool_pid pid;
        void *page;
        assert_int_equal(farpool_page_alloc(f->part, 0, &pid, &page), 0);
        farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    }
}

/* A read of a page that has gone meanwhile either restarts (vm) or is told so by the check (frames). */
static void section_survives_eviction(fixture *f)
{
    farpool_pid pid;
    void *page;
    assert_int_equal(farpool_page_alloc(f->part, 0, &pid, &page), 0);
    farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    volatile int restarts = 0;
    volatile bool overtaken = false;
    farpool_section section;
    if (farpool_section_enter(&section)) {
        restarts++;
    } else {
        const void *seen;
        uint64_t version;
        assert_int_equal(farpool_read_begin(f->part, pid, &seen, &version), 0);
        flood(f);
        (void)*(volatile const char *)seen;
        overtaken = farpool_read_check(f->part, pid, version) == FARPOOL_E_RETRY;
        farpool_section_leave(&section);
    }
    assert_int_equal(restarts + overtaken, 1);
}

static void errors_are_told(fixture *f)
{
    void *page;
    farpool_pid pid;
    assert_int_equal(farpool_fix(f->part, 12345, FARPOOL_SHARED, &page), FARPOOL_E_NOTFOUND);
    assert_non_null(strstr(farpool_errmsg(), "12345"));
    assert_int_equal(farpool_fix(f->part, FARPOOL_PID_NONE, FARPOOL_SHARED, &page),
                     FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_page_alloc(f->part, FARPOOL_ORDER_MAX + 1, &pid, &page),
                     FARPOOL_E_TOO_BIG);
    assert_int_equal(farpool_pool_close(f->pool), FARPOOL_E_BUSY);

    const char *uris[2] = {test_node_uri(f->nodes[0]), test_node_uri(f->nodes[1])};
    farpool_partition_options options;
    options_of(uris, 2, &options);
    options.id = 2;
    options.slab_bytes = UINT64_MAX;
    farpool_partition *huge;
    assert_int_equal(farpool_partition_open(f->pool, &options, &huge), FARPOOL_E_NOSPACE);

    /* another node than the one that is named answers there */
    char named[FP_NET_URI_MAX];
    uris[0] = named;
    options.slab_bytes = 1 << 20;
    assert_int_equal(fp_uri_with_name(test_node_uri(f->nodes[0]), "nobody", named), 0);
    assert_int_equal(farpool_partition_open(f->pool, &options, &huge), FARPOOL_E_NODE);
    assert_non_null(strstr(farpool_errmsg(), "'testnode' answers there instead of 'nobody'"));
    assert_int_equal(fp_uri_with_name(test_node_uri(f->nodes[0]), "testnode", named), 0);
    assert_int_equal(farpool_partition_open(f->pool, &options, &huge), 0);
    assert_int_equal(farpool_partition_close(huge), 0);

    /* every frame fixed: the next page has no place, and says so; then it has again */
    unsigned n;
    int rc;
    assert_int_equal(fix_as_many_as_fit(f->part, &n), FARPOOL_E_POOL_FULL);
    assert_true(n > POOL_BYTES / FARPOOL_UNIT_BYTES - 16);

    while ((rc = farpool_page_alloc(f->part, 0, &pid, &page)) == 0)
        farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    assert_int_equal(rc, FARPOOL_E_NOSPACE);
    assert_non_null(strstr(farpool_errmsg(), "slab"));
}

static void epochs_fence(fixture *f)
{
    const char *uris[] = {test_node_uri(f->nodes[0])};
    farpool_pool_options pool_options;
    farpool_pool_options_init(&pool_options);
    farpool_pool *other;
    assert_int_equal(farpool_pool_open(&pool_options, &other), 0);
    farpool_partition_options options;
    options_of(uris, 1, &options);
    options.slab_bytes = 1 << 20;
    farpool_partition *part;
    assert_int_equal(farpool_partition_open(other, &options, &part), FARPOOL_E_FENCED);
    options.epoch = 2;
    assert_int_equal(farpool_partition_open(other, &options, &part), 0);
    /* now the first owner's connections to that node are dead */
    int rc = 0;
    for (unsigned i = 0; i < 3000 && !rc; i++) {
        farpool_pid pid;
        void *page;
        rc = farpool_page_alloc(f->part, 0, &pid, &page);
        if (!rc)
            farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    }
    assert_true(rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED);
    assert_int_equal(farpool_partition_close(part), 0);
    assert_int_equal(farpool_pool_close(other), 0);

    /* its pages are in the way of others, who are told so, and not that they are fenced */
    options.id = 2;
    assert_int_equal(farpool_partition_open(f->pool, &options, &part), 0);
    unsigned n;
    assert_int_equal(fix_as_many_as_fit(part, &n), FARPOOL_E_POOL_FULL);
    assert_non_null(strstr(farpool_errmsg(), "partition 1: changed pages"));
    assert_int_equal(farpool_partition_close(part), 0);
}

/* A node that comes after many others is used as any other. */
static void many_addresses(fixture *f)
{
    char uri[64];
    unsigned number = 0;
    for (unsigned i = 0; i < FP_NODES_MAX - 3; i++) {
        snprintf(uri, sizeof uri, "shm:///no/such/%u", i);
        assert_int_equal(fp_remote_node(f->pool, uri, 1000, &number), 0);
    }
    assert_int_equal(number, FP_NODES_MAX - 2); /* behind the two of the fixture */
    test_node *last = test_node_start("shm", NODE_BYTES);
    const char *uris[] = {test_node_uri(last)};
    farpool_partition_options options;
    options_of(uris, 1, &options);
    options.id = 2;
    options.slab_bytes = SLAB_BYTES;
    fixture other = *f;
    assert_int_equal(farpool_partition_open(f->pool, &options, &other.part), 0);
    pages_come_back(&other);
    assert_int_equal(farpool_partition_close(other.part), 0);
    test_node_stop(last);
    assert_int_equal(fp_remote_node(f->pool, "shm:///one/more", 1000, &number), FARPOOL_E_BUSY);
}

static void pages_come_back_locked(fixture *f)
{
    assert_int_equal(mlockall(MCL_CURRENT), 0);
    pages_come_back(f);
}

/* A host program that locks its memory, before the pool is opened or after. */
static void locked_memory_vm(void **state)
{
    (void)state;
    if (mlockall(MCL_FUTURE)) {
        print_message("mlockall is not allowed here (ulimit -l)\n");
        skip();
    }
    with_pool(FARPOOL_MAPPING_VM, pages_come_back);
    munlockall();
    with_pool(FARPOOL_MAPPING_VM, pages_come_back_locked);
    munlockall();
}

/* A page of which a part cannot be mapped is not here, and can be fetched when the obstacle has gone. */
static void half_mapped_pages_leave(fixture *f)
{
    void *page;
    farpool_pid pid;
    assert_int_equal(farpool_page_alloc(f->part, 1, &pid, &page), 0);
    stamp(page, pid, 1, 1);
    farpool_unfix(f->part, pid, FARPOOL_EXCLUSIVE);
    flood(f);
    char *obstacle = (char *)page + FARPOOL_UNIT_BYTES;
    struct uffdio_zeropage zero = {.range = {(uintptr_t)obstacle, FARPOOL_UNIT_BYTES}};
    assert_int_equal(ioctl(f->pool->uffd, UFFDIO_ZEROPAGE, &zero), 0);
    assert_int_equal(farpool_fix(f->part, pid, FARPOOL_SHARED, &page), FARPOOL_E_SYS);
    madvise(obstacle, FARPOOL_UNIT_BYTES, MADV_DONTNEED);
    assert_int_equal(farpool_fix(f->part, pid, FARPOOL_SHARED, &page), 0);
    check_stamp(page, pid, 1, 1);
    farpool_unfix(f->part, pid, FARPOOL_SHARED);
}

static void half_mapped_pages_leave_vm(void **state)
{
    (void)state;
    with_pool(FARPOOL_MAPPING_VM, half_mapped_pages_leave);
}

static sigjmp_buf host_env;

static void host_handler(int signal_number)
{
    (void)signal_number;
    siglongjmp(host_env, 1);
}

static void hosts_faults_are_passed_on(fixture *f)
{
    volatile uint8_t *hole =
        mmap(NULL, FARPOOL_UNIT_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile unsigned caught = 0;
    for (volatile unsigned i = 0; i < 3; i++) {
        if (sigsetjmp(host_env, 1))
            caught++;
        else
            *hole = 1;
        section_survives_eviction(f);
    }
    assert_int_equal(caught, 3);
    munmap((void *)hole, FARPOOL_UNIT_BYTES);
}

/* A host program whose own handler leaves by a jump, again and again. */
static void jumping_host_vm(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = host_handler}, before;
    sigaction(SIGSEGV, &action, &before);
    with_pool(FARPOOL_MAPPING_VM, hosts_faults_are_passed_on);
    sigaction(SIGSEGV, &before, NULL);
}

#define BOTH(test)                                                                                 \
    static void test##_frames(void **state)                                                        \
    {                                                                                              \
        (void)state;                                                                               \
        with_pool(FARPOOL_MAPPING_FRAMES, test);                                                   \
    }                                                                                              \
    static void test##_vm(void **state)                                                            \
    {                                                                                              \
        (void)state;                                                                               \
        with_pool(FARPOOL_MAPPING_VM, test);                                                       \
    }
BOTH(pages_come_back)
BOTH(prefetch_brings_pages)
BOTH(optimistic_reads_notice)
BOTH(section_survives_eviction)
BOTH(errors_are_told)
BOTH(epochs_fence)

static void many_addresses_frames(void **state)
{
    (void)state;
    with_pool(FARPOOL_MAPPING_FRAMES, many_addresses);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_back_frames),
        cmocka_unit_test(pages_come_back_vm),
        cmocka_unit_test(locked_memory_vm),
        cmocka_unit_test(half_mapped_pages_leave_vm),
        cmocka_unit_test(jumping_host_vm),
        cmocka_unit_test(prefetch_brings_pages_frames),
        cmocka_unit_test(prefetch_brings_pages_vm),
        cmocka_unit_test(optimistic_reads_notice_frames),
        cmocka_unit_test(optimistic_reads_notice_vm),
        cmocka_unit_test(section_survives_eviction_frames),
        cmocka_unit_test(section_survives_eviction_vm),
        cmocka_unit_test(errors_are_told_frames),
        cmocka_unit_test(errors_are_told_vm),
        cmocka_unit_test(epochs_fence_frames),
        cmocka_unit_test(epochs_fence_vm),
        cmocka_unit_test(many_addresses_frames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
