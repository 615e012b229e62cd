/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what mini-transactions promise one thread: all changes or none, found or declared, in both mappings, with a
 * redo log and without; and that a new owner finds every page as the last commit left it, as long as enough log
 * rings are left, and else is told so. */
#include "farpool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memnode/server.h"
#include "tests/lib/testnode.h"

enum { NODES = 3, NODE_BYTES = 64 << 20, POOL_BYTES = 1 << 20, RING_BYTES = 8 << 20 };

static test_node *nodes[NODES];
static char addresses[NODES][128];
static const char *const uris[NODES] = {addresses[0], addresses[1], addresses[2]};

static int start_nodes(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NODES; i++) {
        nodes[i] = test_node_start("shm", NODE_BYTES);
        strcpy(addresses[i], test_node_uri(nodes[i]));
    }
    return 0;
}

static void stop_node(unsigned i)
{
    if (nodes[i])
        test_node_stop(nodes[i]);
    nodes[i] = NULL;
}

static int stop_nodes(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NODES; i++)
        stop_node(i);
    return 0;
}

static farpool_pool *open_pool(enum farpool_mapping mapping)
{
    return test_pool_new(mapping, POOL_BYTES);
}

/* With copies = 0 without a log. */
static int try_open(farpool_pool *pool, uint64_t epoch, unsigned copies, bool recover,
                    farpool_partition **part)
{
    return test_partition_open(pool, uris, NODES, epoch, recover, copies, RING_BYTES, 24 << 20,
                               part);
}

/* ---- one mini-transaction -------------------------------------------------------------------- */

static farpool_pid new_page(farpool_partition *part, unsigned order)
{
    farpool_mtr *mtr;
    farpool_pid pid;
    void *page;
    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    assert_int_equal(farpool_mtr_alloc(mtr, order, &pid, &page), 0);
    assert_int_equal(farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL), 0);
    return pid;
}

static uint8_t *fix(farpool_mtr *mtr, farpool_pid pid)
{
    void *page;
    assert_int_equal(farpool_mtr_fix(mtr, pid, &page), 0);
    return page;
}

static uint8_t byte_of(farpool_partition *part, farpool_pid pid, size_t at)
{
    void *page;
    assert_int_equal(farpool_fix(part, pid, FARPOOL_SHARED, &page), 0);
    uint8_t byte = ((uint8_t *)page)[at];
    farpool_unfix(part, pid, FARPOOL_SHARED);
    return byte;
}

static void all_or_nothing(farpool_partition *part)
{
    farpool_pid a = new_page(part, 0), b = new_page(part, 2), c;
    farpool_mtr *mtr;
    void *page;
    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    fix(mtr, a)[0] = 1;
    fix(mtr, b)[16383] = 2;
    assert_ptr_equal(fix(mtr, a), fix(mtr, a));
    uint64_t lsn = 77;
    assert_int_equal(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, &lsn), 0);
    assert_true(byte_of(part, a, 0) == 1 && byte_of(part, b, 16383) == 2);

    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    memset(fix(mtr, a), 9, FARPOOL_UNIT_BYTES);
    assert_int_equal(farpool_mtr_fix_declared(mtr, b, &page), 0);
    for (unsigned i = 0; i < 3; i++) { /* overlapping */
        assert_int_equal(farpool_mtr_declare(mtr, b, 100 + i, 8), 0);
        memset((char *)page + 100 + i, 8 + (int)i, 8);
    }
    assert_int_equal(farpool_mtr_declare(mtr, b, 16384, 1), FARPOOL_E_INVAL);
    assert_int_equal(farpool_mtr_declare(mtr, b, 16383, 2), FARPOOL_E_INVAL);
    assert_int_equal(farpool_mtr_declare(mtr, b + 99, 0, 1), FARPOOL_E_INVAL);
    assert_int_equal(farpool_mtr_alloc(mtr, 1, &c, &page), 0);
    farpool_mtr_abandon(mtr);
    assert_true(byte_of(part, a, 0) == 1 && byte_of(part, a, 1) == 0);
    assert_true(byte_of(part, b, 101) == 0 && byte_of(part, b, 16383) == 2);
    assert_int_equal(farpool_fix(part, c, FARPOOL_SHARED, &page), FARPOOL_E_NOTFOUND);

    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    assert_int_equal(farpool_mtr_free(mtr, a), 0);
    farpool_mtr_abandon(mtr);
    assert_int_equal(byte_of(part, a, 0), 1);
    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    assert_int_equal(farpool_mtr_fix(mtr, a + 5000, &page), FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_mtr_free(mtr, a), 0);
    assert_int_equal(farpool_mtr_alloc(mtr, 0, &c, &page), 0);
    assert_int_equal(farpool_mtr_free(mtr, c), 0);
    assert_int_equal(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, &lsn), 0);
    assert_int_equal(farpool_fix(part, a, FARPOOL_SHARED, &page), FARPOOL_E_NOTFOUND);
    assert_int_equal(farpool_fix(part, c, FARPOOL_SHARED, &page), FARPOOL_E_NOTFOUND);
}

static void an_upgrade_belongs_to_it(farpool_partition *part)
{
    farpool_pid pid = new_page(part, 0);
    farpool_mtr *mtr;
    const void *page;
    void *same;
    uint64_t version;
    farpool_section section;
    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    assert_int_equal(farpool_section_enter(&section), 0);
    assert_int_equal(farpool_read_begin(part, pid, &page, &version), 0);
    farpool_section_leave(&section);
    assert_int_equal(farpool_mtr_upgrade(mtr, pid, version + 1, &same), FARPOOL_E_RETRY);
    assert_int_equal(farpool_mtr_upgrade(mtr, pid, version, &same), 0);
    assert_ptr_equal(same, page);
    ((uint8_t *)same)[7] = 7;
    assert_int_equal(farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL), 0);
    assert_int_equal(byte_of(part, pid, 7), 7);
}

static void without_a_log(void **state)
{
    (void)state;
    for (int mapping = FARPOOL_MAPPING_FRAMES; mapping <= FARPOOL_MAPPING_VM; mapping++) {
        farpool_pool *pool = open_pool((enum farpool_mapping)mapping);
        farpool_partition *part;
        uint64_t lsn = 5;
        farpool_mtr *mtr;
        assert_int_equal(try_open(pool, 1, 0, false, &part), 0);
        all_or_nothing(part);
        an_upgrade_belongs_to_it(part);
        assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
        assert_int_equal(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, &lsn), 0);
        assert_int_equal(lsn, 0);
        test_pool_close(pool, part);
    }
}

static void with_a_log(void **state)
{
    (void)state;
    for (int mapping = FARPOOL_MAPPING_FRAMES; mapping <= FARPOOL_MAPPING_VM; mapping++) {
        farpool_pool *pool = open_pool((enum farpool_mapping)mapping);
        farpool_partition *part;
        bool again = mapping != FARPOOL_MAPPING_FRAMES;
        if (again)
            assert_int_equal(try_open(pool, 2, NODES, false, &part), FARPOOL_E_EXISTS);
        assert_int_equal(try_open(pool, again ? 3 : 1, NODES, again, &part), 0);
        all_or_nothing(part);
        an_upgrade_belongs_to_it(part);
        farpool_pid pid = new_page(part, 0);
        const void *page;
        void *same;
        uint64_t version;
        assert_int_equal(farpool_fix(part, pid, FARPOOL_EXCLUSIVE, &same), FARPOOL_E_INVAL);
        assert_int_equal(farpool_page_alloc(part, 0, &pid, &same), FARPOOL_E_INVAL);
        assert_non_null(strstr(farpool_errmsg(), "farpool_mtr_begin"));
        assert_int_equal(farpool_read_begin(part, pid, &page, &version), 0);
        assert_int_equal(farpool_read_upgrade(part, pid, version, &same), FARPOOL_E_INVAL);
        test_pool_close(pool, part);
    }
}

/* ---- owners one after the other -------------------------------------------------------------- */

enum { PAGES_MAX = 600, STEPS = 3000 };

/* What the pages hold: page i is all of its stamp, as 64-bit words. */
typedef struct model {
    farpool_pid pids[PAGES_MAX];
    unsigned orders[PAGES_MAX];
    uint64_t stamps[PAGES_MAX];
    unsigned count;
    uint64_t random;
} model;

static size_t words_of(const model *m, unsigned i)
{
    return ((size_t)FARPOOL_UNIT_BYTES << m->orders[i]) / 8;
}

/* Changes a few words of some pages, allocates and frees some; remembered only if committed. */
static int random_mtr(farpool_partition *part, model *m)
{
    static model after;
    farpool_mtr *mtr;
    void *page;
    after = *m;
    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    for (uint64_t n = 1 + test_random(&after.random) % 4; n; n--) {
        uint64_t what = test_random(&after.random);
        unsigned i = after.count ? (unsigned)(what >> 8) % after.count : 0;
        if ((what % 4 == 0 || !after.count) && after.count < PAGES_MAX) {
            i = after.count++;
            after.orders[i] = what % 64 ? 0 : (unsigned)(what >> 40) % 4;
            after.stamps[i] = 0;
            assert_int_equal(farpool_mtr_alloc(mtr, after.orders[i], &after.pids[i], &page), 0);
        } else if (what % 16 == 1) {
            assert_int_equal(farpool_mtr_free(mtr, after.pids[i]), 0);
            after.count--;
            after.pids[i] = after.pids[after.count];
            after.orders[i] = after.orders[after.count];
            after.stamps[i] = after.stamps[after.count];
            continue;
        }
        uint64_t *words = (uint64_t *)(void *)fix(mtr, after.pids[i]);
        size_t at = (what >> 16) % words_of(&after, i);
        after.stamps[i] -= words[at]; /* the stamp is the sum of the words */
        words[at] = what;
        after.stamps[i] += what;
    }
    m->random = after.random;
    if (test_random(&m->random) % 8 == 0) {
        farpool_mtr_abandon(mtr);
        return 0;
    }
    int rc = farpool_mtr_commit(
        mtr, test_random(&m->random) % 8 ? FARPOOL_DURABLE_LATER : FARPOOL_DURABLE_MEMORY, NULL);
    after.random = m->random;
    if (!rc)
        *m = after;
    return rc;
}

static void check_model(farpool_partition *part, const model *m)
{
    for (unsigned i = 0; i < m->count; i++) {
        void *page;
        uint64_t sum = 0;
        assert_int_equal(farpool_fix(part, m->pids[i], FARPOOL_SHARED, &page), 0);
        assert_int_equal(farpool_page_order(part, m->pids[i]), m->orders[i]);
        for (size_t w = 0; w < words_of(m, i); w++)
            sum += ((const uint64_t *)page)[w];
        assert_true(sum == m->stamps[i]);
        farpool_unfix(part, m->pids[i], FARPOOL_SHARED);
    }
}

static void a_new_owner_finds_what_was_committed(void **state)
{
    (void)state;
    static model m;
    memset(&m, 0, sizeof m);
    m.random = test_seed(20261121);
    farpool_pool *pools[4];
    farpool_partition *parts[4], *none;
    farpool_pid pid;
    void *page;
    uint64_t lsn;
    for (unsigned owner = 0; owner < 4; owner++) {
        pools[owner] = open_pool(owner % 2 ? FARPOOL_MAPPING_VM : FARPOOL_MAPPING_FRAMES);
        if (owner) /* not yet */
            assert_int_equal(try_open(pools[owner], owner, NODES, true, &none), FARPOOL_E_FENCED);
        assert_int_equal(try_open(pools[owner], owner + 1, NODES, owner > 0, &parts[owner]), 0);
        check_model(parts[owner], &m);
        for (unsigned i = 0; i < STEPS / 4; i++)
            assert_int_equal(random_mtr(parts[owner], &m), 0);
        farpool_mtr *last;
        assert_int_equal(farpool_mtr_begin(parts[owner], 0, &last), 0);
        fix(last, m.pids[0]);
        assert_int_equal(farpool_mtr_commit(last, FARPOOL_DURABLE_MEMORY, &lsn), 0);
        assert_int_equal(lsn, 0); /* nothing was changed */
        assert_int_equal(farpool_mtr_begin(parts[owner], 0, &last), 0);
        uint64_t *words = (uint64_t *)(void *)fix(last, m.pids[0]);
        words[0]++;
        m.stamps[0]++;
        assert_int_equal(farpool_mtr_commit(last, FARPOOL_DURABLE_MEMORY, &lsn), 0);
        check_model(parts[owner], &m);
    }
    /* The earlier owners learn of it at the first thing that they do. */
    for (unsigned owner = 0; owner < 3; owner++) {
        farpool_mtr *mtr;
        assert_int_equal(farpool_mtr_begin(parts[owner], 0, &mtr), 0);
        assert_int_equal(farpool_mtr_alloc(mtr, 0, &pid, &page), 0);
        int rc = farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
        assert_true(rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED);
        rc = farpool_partition_close(parts[owner]); /* it may have had nothing left to flush */
        assert_true(!rc || rc == FARPOOL_E_NODE);
        assert_int_equal(farpool_pool_close(pools[owner]), 0);
    }
    check_model(parts[3], &m);
    test_pool_close(pools[3], parts[3]);
}

/* ---- rings that are lost --------------------------------------------------------------------- */

static int commit_one(farpool_partition *part, farpool_pid pid, uint8_t value)
{
    farpool_mtr *mtr;
    assert_int_equal(farpool_mtr_begin(part, 0, &mtr), 0);
    fix(mtr, pid)[0] = value;
    return farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
}

static void a_minority_of_rings_may_be_lost(void **state)
{
    (void)state;
    farpool_pool *pool = open_pool(FARPOOL_MAPPING_FRAMES);
    farpool_partition *part, *next;
    assert_int_equal(try_open(pool, 1, NODES, false, &part), 0);
    farpool_pid pid = new_page(part, 0);
    assert_int_equal(commit_one(part, pid, 1), 0);
    stop_node(2);
    for (uint8_t i = 2; i < 50; i++)
        assert_int_equal(commit_one(part, pid, i), 0);
    farpool_pool *other = open_pool(FARPOOL_MAPPING_FRAMES);
    assert_int_equal(try_open(other, 2, NODES, false, &next), FARPOOL_E_NODE); /* for the slab */
    assert_int_equal(try_open(other, 3, NODES, true, &next), 0);
    assert_int_equal(byte_of(next, pid, 0), 49);
    int rc = commit_one(part, pid, 99);
    assert_true(rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED); /* whoever noticed first */
    assert_int_equal(commit_one(next, pid, 50), 0);
    (void)farpool_partition_close(part); /* an error, if the change was appended */
    stop_node(1);
    assert_int_equal(commit_one(next, pid, 51), FARPOOL_E_NODE);
    assert_non_null(strstr(farpool_errmsg(), "1 of 3 log rings are left, 2 are needed"));
    assert_int_equal(commit_one(next, pid, 52), FARPOOL_E_NODE);
    (void)farpool_partition_close(next); /* as above */
    assert_int_equal(try_open(other, 4, NODES, true, &next), FARPOOL_E_NODE);
    assert_int_equal(farpool_pool_close(pool), 0);
    assert_int_equal(farpool_pool_close(other), 0);
}

/* A ring full: nothing is lost, nothing changes, and what is there stays readable, also for another owner. */
static void a_full_ring_refuses(void **state)
{
    (void)state;
    static model m;
    memset(&m, 0, sizeof m);
    m.random = test_seed(7);
    farpool_pool *pool = open_pool(FARPOOL_MAPPING_FRAMES);
    farpool_partition *part;
    assert_int_equal(try_open(pool, 1, 1, false, &part), 0);
    int rc = 0;
    while (!rc)
        rc = random_mtr(part, &m);
    assert_int_equal(rc, FARPOOL_E_NOSPACE);
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    assert_int_equal(stats.redo_ring_bytes, RING_BYTES);
    assert_in_range(stats.redo_bytes, RING_BYTES / 2, RING_BYTES);
    assert_true(stats.redo_frames > 100 && stats.redo_batches > 0);
    check_model(part, &m);
    test_pool_close(pool, part);
    for (uint64_t epoch = 2; epoch < 5; epoch++) {
        pool = open_pool(FARPOOL_MAPPING_FRAMES);
        assert_int_equal(try_open(pool, epoch, 1, true, &part), 0);
        check_model(part, &m);
        test_pool_close(pool, part);
    }
}

/* Other options of the log than it was made with are refused, and nothing is lost by the attempt. */
static void a_log_keeps_its_shape(void **state)
{
    (void)state;
    static const struct {
        unsigned copies, quorum;
        uint64_t ring_bytes;
    } other[] = {
        {2, 2, RING_BYTES}, {3, 3, RING_BYTES}, {3, 2, RING_BYTES / 2}, {3, 2, 8 * RING_BYTES}};
    farpool_pool *pool = open_pool(FARPOOL_MAPPING_FRAMES);
    farpool_partition *part;
    assert_int_equal(try_open(pool, 1, NODES, false, &part), 0);
    farpool_pid pid = new_page(part, 0);
    assert_int_equal(commit_one(part, pid, 1), 0);
    assert_int_equal(farpool_partition_close(part), 0);
    farpool_partition_options o;
    farpool_partition_options_init(&o);
    o.memnodes = uris;
    o.memnode_count = NODES;
    o.slab_bytes = 24 << 20;
    o.recover = 1;
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        o.epoch++;
        o.log_copies = other[i].copies;
        o.log_quorum = other[i].quorum;
        o.log_ring_bytes = other[i].ring_bytes;
        assert_int_equal(farpool_partition_open(pool, &o, &part), FARPOOL_E_INVAL);
    }
    assert_int_equal(try_open(pool, o.epoch + 1, NODES, true, &part), 0);
    assert_int_equal(byte_of(part, pid, 0), 1);
    test_pool_close(pool, part);
}

static uint64_t granted_by(unsigned node)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(test_node_hold(nodes[node]), &usage);
    test_node_let_go(nodes[node]);
    return usage.bytes_granted;
}

/* One node refuses the attempt: the others keep what they have, for it may be nowhere else. */
static void an_attempt_in_vain_leaves_slabs(void **state)
{
    (void)state;
    farpool_pool *pool = open_pool(FARPOOL_MAPPING_FRAMES);
    farpool_partition *part;
    assert_int_equal(try_open(pool, 1, NODES, false, &part), 0);
    farpool_pid pid = new_page(part, 0);
    assert_int_equal(commit_one(part, pid, 1), 0);
    assert_int_equal(farpool_partition_close(part), 0);
    uint64_t before[NODES];
    for (unsigned i = 0; i < NODES; i++)
        before[i] = granted_by(i);
    /* Somebody else comes to nothing as well, and one node knows his epoch. */
    assert_int_not_equal(
        test_partition_open(pool, &uris[2], 1, 9, true, 1, RING_BYTES, 24 << 20, &part), 0);
    assert_int_equal(try_open(pool, 5, NODES, true, &part), FARPOOL_E_FENCED);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(granted_by(i), before[i]);
    assert_int_equal(try_open(pool, 10, NODES, true, &part), 0);
    assert_int_equal(byte_of(part, pid, 0), 1);
    test_pool_close(pool, part);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    farpool_pool *pool = open_pool(FARPOOL_MAPPING_FRAMES);
    farpool_partition *part;
    farpool_partition_options o;
    farpool_partition_options_init(&o);
    o.memnodes = uris;
    o.memnode_count = NODES;
    o.slab_bytes = 1 << 20;
    o.log_ring_bytes = RING_BYTES;
    assert_int_equal(try_open(pool, 1, NODES + 1, false, &part), FARPOOL_E_INVAL);
    o.recover = 1;
    assert_int_equal(farpool_partition_open(pool, &o, &part), FARPOOL_E_INVAL); /* without a log */
    o.log_copies = 3;
    assert_int_equal(farpool_partition_open(pool, &o, &part), FARPOOL_E_NOTFOUND);
    o.log_quorum = 4;
    assert_int_equal(farpool_partition_open(pool, &o, &part), FARPOOL_E_INVAL);
    o.log_quorum = 0;
    o.log_ring_bytes = 1 << 19;
    assert_int_equal(farpool_partition_open(pool, &o, &part), FARPOOL_E_INVAL);
    o.log_ring_bytes = 17ull << 30;
    assert_int_equal(farpool_partition_open(pool, &o, &part), FARPOOL_E_INVAL);
    assert_int_equal(farpool_pool_close(pool), 0);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, start_nodes, stop_nodes)
    const struct CMUnitTest tests[] = {
        T(without_a_log),
        T(with_a_log),
        T(a_new_owner_finds_what_was_committed),
        T(a_minority_of_rings_may_be_lost),
        T(a_full_ring_refuses),
        T(a_log_keeps_its_shape),
        T(an_attempt_in_vain_leaves_slabs),
        T(nonsense_is_refused),
    };
#undef T
    return cmocka_run_group_tests(tests, NULL, NULL);
}
