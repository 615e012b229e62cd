/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that a memory node's processor takes no part in page reads: its process uses no more processor time (user and
 * system) for a million of them than for a tenth as many. FARPOOL_TEST_SCHEME picks the transport (default: shm; not
 * tcp, which has no one-sided reads), FARPOOL_TEST_READS the tenth. tests/rxe/cpu_flat.sh does it over verbs.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "farpool.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"

enum {
    PAGES = 2048,
    POOL_BYTES = 1 << 20, /* an eighth of the pages: all are gone when their turn comes again */
    BATCH = 32,
    NODE_KIB = 24 << 10,
    TICKS_MORE = 10,
};

static test_process node;
static farpool_pool *pool;
static farpool_partition *part;
static farpool_pid pids[PAGES];

static void open_all(void)
{
    const char *uri = node.uri;
    test_pool_open_at(&uri, 1, FARPOOL_MAPPING_AUTO, POOL_BYTES, 12 << 20, &pool, &part);
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        REQUIRE(farpool_page_alloc(part, 0, &pids[i], &page) == 0);
        *(farpool_pid *)page = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
}

static uint64_t pages_read(void)
{
    farpool_stats stats;
    farpool_stats_get(pool, &stats);
    return stats.misses + stats.prefetched;
}

/* Ticks of processor time of the node's process: fields 14 and 15, after its name in brackets. */
static unsigned long node_ticks(void)
{
    char path[64], line[1024];
    unsigned long user, system;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)node.pid);
    FILE *file = fopen(path, "r");
    REQUIRE(file && fgets(line, sizeof line, file));
    fclose(file);
    REQUIRE(sscanf(strrchr(line, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                   &user, &system) == 2);
    return user + system;
}

/* Reads at least that many pages; the ticks that the node has used for it. */
static unsigned long read_pages(uint64_t count)
{
    static unsigned at;
    unsigned long ticks = node_ticks();
    uint64_t before = pages_read(), start = fp_now_ns();
    while (pages_read() - before < count) {
        farpool_prefetch(part, pids + at, BATCH);
        for (unsigned i = 0; i < BATCH; i++) {
            void *page;
            REQUIRE(farpool_fix(part, pids[at + i], FARPOOL_SHARED, &page) == 0);
            REQUIRE(*(farpool_pid *)page == pids[at + i]);
            farpool_unfix(part, pids[at + i], FARPOOL_SHARED);
        }
        at = (at + BATCH) % PAGES;
    }
    ticks = node_ticks() - ticks;
    printf("%llu pages read in %.1f s: the memory node used %lu ticks of 1/%ld s\n",
           (unsigned long long)(pages_read() - before), (double)(fp_now_ns() - start) / 1e9, ticks,
           sysconf(_SC_CLK_TCK));
    return ticks;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *scheme = getenv("FARPOOL_TEST_SCHEME"), *reads = getenv("FARPOOL_TEST_READS");
    uint64_t usual = getenv("FARPOOL_TEST_QUICK") ? 10000 : 100000;
    uint64_t few = reads ? strtoull(reads, NULL, 10) : usual;
    test_process_start(&node, scheme ? scheme : "shm", NODE_KIB);
    open_all();
    read_pages(PAGES); /* the last of what was written goes out, and connections are made */
    unsigned long ticks = read_pages(few);
    REQUIRE(read_pages(10 * few) <= ticks + TICKS_MORE);
    test_pool_close(pool, part);
    REQUIRE(test_process_end(&node, SIGTERM) == 0);
    return 0;
}
