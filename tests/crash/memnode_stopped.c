/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what a memory node does to a partition when its process is stopped (SIGSTOP) and not killed, so that its system
 * goes on and no connection breaks: commits go on, another node takes its place, pages that it had are had from the storage
 * node, nothing hangs, and when it goes on it has no say. Over tcp, where its process has a part in each transfer. It is
 * the one that was started first, and so the one of them that appends to the log on the storage node, as a rule.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/clock.h"
#include "farpool.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"

enum { NODES = 4, RINGS = 3, STOPPED = 0, PAGES = 600, POOL_BYTES = 1 << 20, NODE_KIB = 24 << 10 };

static test_process storage, nodes[NODES];
static farpool_partition *part;
static farpool_pid pids[PAGES];

static void start(const char *volume)
{
    test_process_start_storage(&storage, "tcp", volume);
    for (int i = 0; i < NODES; i++)
        test_process_start_spilling(&nodes[i], "tcp", NODE_KIB, storage.uri);
}

static void open_partition(farpool_pool *pool)
{
    const char *uris[RINGS], *stored[] = {storage.uri};
    for (int i = 0; i < RINGS; i++)
        uris[i] = nodes[i].uri;
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.memnodes = uris;
    options.memnode_count = RINGS;
    options.storagenodes = stored;
    options.storagenode_count = 1;
    options.slab_bytes = 12 << 20;
    options.log_copies = RINGS;
    options.log_ring_bytes = 4 << 20;
    test_must(farpool_partition_open(pool, &options, &part), "opening the partition");
}

static void write_page(unsigned i, uint64_t value, enum farpool_durability durability)
{
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(part, 0, &mtr), "beginning");
    test_must(pids[i] ? farpool_mtr_fix(mtr, pids[i], &page)
                      : farpool_mtr_alloc(mtr, 0, &pids[i], &page),
              "fixing a page");
    ((uint64_t *)page)[0] = i;
    ((uint64_t *)page)[1] = value;
    test_must(farpool_mtr_commit(mtr, durability, NULL), "committing");
}

static void check_pages(uint64_t value)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        test_must(farpool_fix(part, pids[i], FARPOOL_SHARED, &page), "reading");
        REQUIRE(((uint64_t *)page)[0] == i && ((uint64_t *)page)[1] == value);
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
    }
}

int main(void)
{
    char volume[] = "/var/tmp/farpool-stopped.XXXXXX";
    farpool_pool *pool;
    REQUIRE(mkdtemp(volume));
    start(volume);
    pool = test_pool_new(FARPOOL_MAPPING_AUTO, POOL_BYTES);
    open_partition(pool);
    for (unsigned i = 0; i < PAGES; i++)
        write_page(i, 1, i + 1 < PAGES ? FARPOOL_DURABLE_MEMORY : FARPOOL_DURABLE_STORAGE);
    REQUIRE(!kill(nodes[STOPPED].pid, SIGSTOP));
    uint64_t begin = fp_now_ns();
    for (unsigned i = 1; i <= 100;
         i++) /* a page that is in the pool: no fault waits for the node */
        write_page(PAGES - 1, i + 1, FARPOOL_DURABLE_MEMORY);
    uint64_t committed = fp_now_ns();
    write_page(PAGES - 1, 1, FARPOOL_DURABLE_STORAGE); /* the keeper waits for the node's line */
    uint64_t stored = fp_now_ns();
    const char *uris[] = {nodes[RINGS].uri, nodes[1].uri, nodes[2].uri};
    test_must(farpool_partition_reconfigure(part, 2, uris, RINGS), "taking another node");
    uint64_t changed = fp_now_ns();
    check_pages(1);
    for (unsigned i = 0; i < PAGES; i++)
        write_page(i, 2, FARPOOL_DURABLE_MEMORY);
    REQUIRE(!kill(nodes[STOPPED].pid, SIGCONT));
    check_pages(2);
    test_must(farpool_partition_close(part), "closing");
    test_must(farpool_pool_close(pool), "closing the pool");
    for (int i = 0; i < NODES; i++)
        REQUIRE(test_process_end(&nodes[i], SIGTERM) == 0);
    REQUIRE(test_process_end(&storage, SIGTERM) == 0);
    char command[sizeof volume + 16];
    snprintf(command, sizeof command, "rm -rf %s", volume);
    REQUIRE(!system(command));
    printf("beside the stopped node: 100 commits in %.1f ms, one to storage in %.1f s; another "
           "node in "
           "its place in %.1f s\n",
           (double)(committed - begin) / 1e6, (double)(stored - committed) / 1e9,
           (double)(changed - stored) / 1e9);
    return 0;
}
