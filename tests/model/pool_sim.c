/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that whatever the network and the memory nodes do, a page read is what was written last or an error that
 * names a node which is to blame, that nothing hangs, and that pages come back when the nodes can be reached again.
 * A pool in a simulated world, random operations, a model of what every page holds. What goes wrong depends on the
 * seed: nothing (a third of the seeds: the model test of the pool alone), losses with torn WRITEs, cuts as well,
 * a node that crashes and perhaps comes back empty, another owner with a higher epoch. SEED=n replays one, twice,
 * and both runs must be the same to the last step.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "tests/lib/seeds.h"
#include "tests/lib/simpool.h"
#include "tests/lib/testnode.h"

enum {
    SEEDS = 300,
    SEEDS_QUICK = 100,
    OPS = 250,
    NODES_MAX = 2,
    PAGES_MAX = 300, /* 2.5 times what the pool holds, two thirds of one node's slots */
    HELD_MAX = 8,
    FRAMES_STUCK_MIN = 180, /* of 256; the rest may be fixed or on their way */
    OP_SECONDS_MAX = 10,    /* of the world's time */
};

enum trouble { NONE, LOSS, CUTS, CRASH, RIVAL, TROUBLES };
static const enum trouble schedule[] = {NONE, LOSS, CUTS, NONE, CRASH, LOSS, NONE, RIVAL, CRASH};

typedef struct model_page {
    farpool_pid pid;
    unsigned order;
    uint64_t version; /* of what it holds */
} model_page;

typedef struct run {
    uint64_t seed, random, hash, versions;
    enum trouble trouble;
    bool quiet; /* nothing may fail but for what is lost */
    bool fenced;
    sim_setup sim;
    farpool_pool *pool;
    farpool_partition *part;
    model_page pages[PAGES_MAX];
    unsigned count;
} run;

static run r; /* the one under way */
static uint64_t reads, failures, evictions, prefetched;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "SEED=%llu: line %d: %s is false (last error: %s)\n",                  \
                    (unsigned long long)r.seed, __LINE__, #condition, farpool_errmsg());           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t draw(uint64_t below) { return test_random(&r.random) % below; }

static void note(uint64_t what) { r.hash = (r.hash ^ what) * 0x100000001B3ull; /* FNV-1a */ }

/* ---- what pages hold ------------------------------------------------------------------------- */

static uint64_t word_of(const model_page *page, size_t i)
{
    return (page->pid * 0x9E3779B97F4A7C15ull ^ page->version << 20) + i;
}

static size_t words_of(const model_page *page)
{
    return ((size_t)FARPOOL_UNIT_BYTES << page->order) / sizeof(uint64_t);
}

static void fill(model_page *page, uint64_t *words)
{
    page->version = ++r.versions;
    for (size_t i = 0; i < words_of(page); i++)
        words[i] = word_of(page, i);
}

static bool holds(const model_page *page, const uint64_t *words)
{
    for (size_t i = 0; i < words_of(page); i++)
        if (words[i] != word_of(page, i))
            return false;
    reads++;
    return true;
}

/* ---- errors ---------------------------------------------------------------------------------- */

static bool to_blame(const sim_node *node)
{
    return node->lost || r.fenced || (!r.quiet && (r.trouble == LOSS || r.trouble == CUTS));
}

static bool trouble_possible(void)
{
    bool possible = false;
    for (unsigned i = 0; i < r.sim.node_count; i++)
        possible |= to_blame(&r.sim.nodes[i]);
    return possible;
}

/* Whether it succeeded. Otherwise it must be the fault of a node, and say so. */
static bool succeeded(int rc)
{
    note((uint64_t)rc);
    if (!rc)
        return true;
    failures++;
    CHECK(rc == FARPOOL_E_NODE || (r.fenced && rc == FARPOOL_E_FENCED));
    bool named = false;
    for (unsigned i = 0; i < r.sim.node_count; i++)
        named |= to_blame(&r.sim.nodes[i]) && strstr(farpool_errmsg(), r.sim.nodes[i].uri) != NULL;
    CHECK(named);
    return false;
}

/* ---- operations ------------------------------------------------------------------------------ */

static model_page *any_page(void) { return &r.pages[draw(r.count)]; }

static void op_alloc(void)
{
    static const unsigned orders[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                      0, 0, 0, 0, 0, 1, 1, 2, 3, 4};
    if (r.count == PAGES_MAX)
        return;
    model_page *page = &r.pages[r.count];
    void *words;
    page->order = orders[draw(sizeof orders / sizeof orders[0])];
    int rc = farpool_page_alloc(r.part, page->order, &page->pid, &words);
    if (rc == FARPOOL_E_NOSPACE && page->order) /* no run that long is left in the slab */
        return;
    if (!succeeded(rc))
        return;
    for (size_t i = 0; i < words_of(page); i++)
        CHECK(((uint64_t *)words)[i] == 0);
    CHECK(farpool_page_order(r.part, page->pid) == page->order);
    fill(page, words);
    farpool_unfix(r.part, page->pid, FARPOOL_EXCLUSIVE);
    r.count++;
}

static bool op_write(model_page *page)
{
    void *words;
    if (!succeeded(farpool_fix(r.part, page->pid, FARPOOL_EXCLUSIVE, &words)))
        return false;
    CHECK(holds(page, words));
    fill(page, words);
    farpool_unfix(r.part, page->pid, FARPOOL_EXCLUSIVE);
    return true;
}

/* Frames that can not become free, because their pages can not be written: the node is lost. */
static unsigned frames_stuck(void)
{
    unsigned frames = 0;
    for (unsigned i = 0; i < r.count; i++) {
        uint64_t word = fp_word_load(&r.part->entries[r.pages[i].pid]);
        if (fp_word_state(word) > FP_EVICTED && (word & FP_WORD_DIRTY) &&
            sim_page_node(&r.sim, r.part, r.pages[i].pid)->lost)
            frames += 1u << r.pages[i].order;
    }
    return frames;
}

static bool op_read(const model_page *page)
{
    void *words;
    if (!succeeded(farpool_fix(r.part, page->pid, FARPOOL_SHARED, &words))) {
        /* Not the fault of the page's own node: then there must be no room for it. */
        bool own = to_blame(sim_page_node(&r.sim, r.part, page->pid));
        CHECK(own || page->order || frames_stuck() > FRAMES_STUCK_MIN);
        return false;
    }
    CHECK(holds(page, words));
    farpool_unfix(r.part, page->pid, FARPOOL_SHARED);
    return true;
}

static void op_free(void)
{
    model_page *page = any_page();
    void *words;
    if (!succeeded(farpool_fix(r.part, page->pid, FARPOOL_EXCLUSIVE, &words)))
        return;
    CHECK(holds(page, words));
    farpool_page_free(r.part, page->pid);
    CHECK(farpool_fix(r.part, page->pid, FARPOOL_SHARED, &words) == FARPOOL_E_NOTFOUND);
    *page = r.pages[--r.count];
}

/* Some pages stay fixed while others come and go. */
static void op_hold(void)
{
    const model_page *held[HELD_MAX];
    const void *words[HELD_MAX];
    unsigned n = 0, first = (unsigned)draw(r.count);
    for (unsigned i = 0; i < HELD_MAX && first + i < r.count; i++) {
        void *at;
        const model_page *page = &r.pages[first + i];
        if (!succeeded(farpool_fix(r.part, page->pid, FARPOOL_SHARED, &at)))
            continue;
        held[n] = page;
        words[n++] = at;
    }
    for (unsigned i = 0; i < 15; i++)
        op_read(any_page()); /* perhaps one of those: shared twice */
    while (n--) {
        CHECK(holds(held[n], words[n]));
        farpool_unfix(r.part, held[n]->pid, FARPOOL_SHARED);
    }
}

static void op_prefetch(void)
{
    farpool_pid pids[64];
    size_t n = 1 + draw(64);
    for (size_t i = 0; i < n; i++)
        pids[i] = any_page()->pid;
    farpool_prefetch(r.part, pids, n);
}

/* What happens between the two ends of an optimistic read: nothing, a writer, perhaps an eviction, an upgrade. */
enum between { QUIET, WRITER, OTHERS, UPGRADE, BETWEENS };

static void read_in_section(model_page *page, enum between between)
{
    const void *words;
    void *same;
    uint64_t version;
    bool changed = false;
    if (!succeeded(farpool_read_begin(r.part, page->pid, &words, &version)))
        return;
    if (between == WRITER)
        changed = op_write(page);
    for (unsigned i = 0; between == OTHERS && i < 20; i++)
        op_read(any_page());
    if (between == UPGRADE) {
        CHECK(farpool_read_upgrade(r.part, page->pid, version, &same) == 0 && same == words);
        CHECK(holds(page, same));
        fill(page, same);
        farpool_unfix(r.part, page->pid, FARPOOL_EXCLUSIVE);
        changed = true;
    }
    bool same_as_model = holds(page, words);
    int rc = farpool_read_check(r.part, page->pid, version);
    note((uint64_t)rc);
    if (changed)
        CHECK(rc == FARPOOL_E_RETRY);
    else
        CHECK(rc == 0 ? same_as_model : rc == FARPOOL_E_RETRY && between != QUIET);
}

static void op_optimistic(void)
{
    farpool_section section;
    enum between between = (enum between)draw(BETWEENS);
    model_page *page = any_page();
    if (farpool_section_enter(&section)) {
        note(between); /* vm: the page was gone while being looked at */
        return;
    }
    read_in_section(page, between);
    farpool_section_leave(&section);
}

/* Bytes of a page at the node that are not what was written: never taken for it. */
static void op_spoil(void)
{
    const model_page *page = any_page();
    uint64_t word = fp_word_load(&r.part->entries[page->pid]);
    const sim_node *node = sim_page_node(&r.sim, r.part, page->pid);
    if (fp_word_state(word) != FP_EVICTED || trouble_possible())
        return;
    uint8_t *slot = sim_page_slot(&r.sim, r.part, page->pid);
    size_t at = FP_SLOT_HEADER_BYTES + draw(words_of(page) * 8);
    void *words;
    slot[at] ^= 0x40;
    int rc = farpool_fix(r.part, page->pid, FARPOOL_SHARED, &words);
    slot[at] ^= 0x40;
    if (rc != FARPOOL_E_CORRUPT)
        CHECK(!succeeded(rc)); /* a node has crashed meanwhile */
    else
        CHECK(strstr(farpool_errmsg(), node->uri) && (op_read(page) || trouble_possible()));
}

static void operate(void)
{
    uint64_t start = fp_sim_now_ns(r.sim.world), kind = draw(100);
    if (!r.count || kind < 25)
        op_alloc();
    else if (kind < 45)
        op_write(any_page());
    else if (kind < 65)
        op_read(any_page());
    else if (kind < 80)
        op_optimistic();
    else if (kind < 85)
        op_free();
    else if (kind < 92)
        op_prefetch();
    else if (kind < 96)
        op_hold();
    else
        op_spoil();
    CHECK(fp_sim_now_ns(r.sim.world) - start < OP_SECONDS_MAX * 1000000000ull);
    note(fp_sim_now_ns(r.sim.world));
}

/* ---- troubles -------------------------------------------------------------------------------- */

static void disturb(void *arg)
{
    const char *node = ((sim_node *)arg)->uri + strlen("sim://");
    if (r.trouble == LOSS || draw(2))
        fp_sim_reset(r.sim.world, "pool", node);
    else if (draw(2))
        fp_sim_cut(r.sim.world, "pool", node);
    else
        fp_sim_heal(r.sim.world);
}

/* Before an operation, so that it happens in its midst. */
static void make_trouble(unsigned op)
{
    sim_node *node = &r.sim.nodes[draw(r.sim.node_count)];
    uint64_t soon = fp_sim_now_ns(r.sim.world) + draw(60000);
    if ((r.trouble == CUTS || r.trouble == LOSS) && draw(10) == 0)
        for (uint64_t times = 1 + draw(4); times; times--, soon += draw(60000))
            fp_sim_at(r.sim.world, soon, disturb, node);
    if (r.trouble == CRASH && op == OPS / 2)
        fp_sim_at(r.sim.world, soon, sim_node_crash, node);
    if (draw(40) == 0)
        sim_pass(&r.sim, 1 + (unsigned)draw(1500)); /* long enough to try again */
    for (unsigned i = 0; i < r.sim.node_count; i++)
        if (r.sim.nodes[i].lost && r.seed % 2 && draw(60) == 0)
            sim_node_restart(&r.sim.nodes[i]);
}

/* Every page, twice, is what the model says or, on a node that is lost, an error that names that one. */
static void check_all_pages(void)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < r.count; i++) {
            bool there = op_read(&r.pages[i]);
            CHECK(there || trouble_possible());
        }
    }
}

/* Another owner takes the partition; what it writes is never seen here. */
static void take_over(void)
{
    farpool_pool *pool;
    farpool_partition *part;
    sim_partition_open(&r.sim, "rival", 2, FARPOOL_MAPPING_FRAMES, &pool, &part);
    r.fenced = true;
    for (unsigned i = 0; i < PAGES_MAX; i++) {
        farpool_pid pid;
        void *page;
        CHECK(farpool_page_alloc(part, 0, &pid, &page) == 0);
        memset(page, (int)i, FARPOOL_UNIT_BYTES);
        farpool_unfix(part, pid, FARPOOL_EXCLUSIVE);
        operate();
    }
    CHECK(failures);
    CHECK(farpool_partition_close(part) == 0 && farpool_pool_close(pool) == 0);
}

static void settle(void)
{
    sim_pass(&r.sim, 1); /* whatever is still to be cut is cut now */
    fp_sim_set_loss(r.sim.world, 0);
    fp_sim_heal(r.sim.world);
    sim_pass(&r.sim, 1500);
    r.quiet = true;
    check_all_pages();
    for (unsigned i = 0; i < OPS / 5; i++)
        operate();
    if (r.trouble == RIVAL)
        take_over();
    check_all_pages();
}

/* ---- a seed ---------------------------------------------------------------------------------- */

static void count_stats(void)
{
    farpool_stats stats;
    farpool_stats_get(r.pool, &stats);
    evictions += stats.evictions;
    prefetched += stats.prefetched;
}

static uint64_t run_seed(uint64_t seed)
{
    memset(&r, 0, sizeof r);
    r.seed = r.random = seed;
    r.trouble = schedule[seed % (sizeof schedule / sizeof schedule[0])];
    r.quiet = r.trouble == NONE || r.trouble == CRASH || r.trouble == RIVAL;
    fp_sim_config config = {.torn = seed % 4 != 0, .late = seed % 3 != 0};
    sim_setup_open(&r.sim, seed, &config, 1 + (unsigned)draw(NODES_MAX), 1);
    if (!r.quiet)
        fp_sim_set_loss(r.sim.world, 500u << draw(8));
    sim_partition_open(&r.sim, "pool", 1, draw(3) ? FARPOOL_MAPPING_FRAMES : FARPOOL_MAPPING_VM,
                       &r.pool, &r.part);
    for (unsigned i = 0; i < PAGES_MAX * 3 / 4; i++)
        op_alloc(); /* more than fits */
    for (unsigned op = 0; op < OPS; op++) {
        make_trouble(op);
        operate();
    }
    settle();
    count_stats();
    int rc = farpool_partition_close(r.part);
    note((uint64_t)rc);
    CHECK(rc == 0 || r.trouble == RIVAL || r.trouble == CRASH);
    CHECK(farpool_pool_close(r.pool) == 0);
    note(fp_sim_trace_hash(r.sim.world));
    sim_setup_close(&r.sim);
    return r.hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 20};
    fp_log_set_level(FP_LOG_ERROR);
    test_seeds_run(&seeds, run_seed);
    printf("%llu pages read, %llu operations failed, %llu pages evicted, %llu prefetched\n",
           (unsigned long long)reads, (unsigned long long)failures, (unsigned long long)evictions,
           (unsigned long long)prefetched);
    return 0;
}
