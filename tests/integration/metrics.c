/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what a memory node, a storage node and the library tell Prometheus while a program works: the text is as it
 * should be, the figures are those of what was done, and docs/operations.md tells of each.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "farpool.h"
#include "tests/lib/process.h"
#include "tests/lib/promtext.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    PARTITION = 77,
    PAGES = 600,
    POOL_BYTES = 1 << 20, /* 256 frames */
    RING_BYTES = 4 << 20,
    SLAB_BYTES = 8 << 20,
    NODE_KIB = 64 << 10,
};

static test_process memory = {.watched = true}, storage = {.watched = true};
static farpool_pool *pool;
static farpool_partition *part;
static farpool_pid pids[PAGES];

static double number(const char *text, const char *series)
{
    double value = -1;
    if (!promtext_value(text, series, &value)) {
        fprintf(stderr, "there is no %s in:\n%s", series, text);
        REQUIRE(!"a series");
    }
    return value;
}

/* The operator's guide names each metric, in backticks, by what follows its prefix, perhaps with its label. */
static void check_documented(const char *text, const char *prefix)
{
    static char guide[1 << 18];
    FILE *file = fopen("docs/operations.md", "r");
    REQUIRE(file);
    guide[fread(guide, 1, sizeof guide - 1, file)] = 0;
    fclose(file);
    for (const char *line = text; (line = strstr(line, "# TYPE ")); line++) {
        char name[200], ticked[204];
        REQUIRE(sscanf(line, "# TYPE %199s", name) == 1);
        const char *rest = strncmp(name, prefix, strlen(prefix)) ? name : name + strlen(prefix);
        snprintf(ticked, sizeof ticked, "`%s", rest);
        const char *place = guide;
        while ((place = strstr(place, ticked)) && !strchr("`{", place[strlen(ticked)]))
            place++;
        if (!place)
            fprintf(stderr, "docs/operations.md does not tell of %s\n", name);
        REQUIRE(place);
    }
}

static double ask(const test_process *process, const char *series)
{
    char *text = promtext_get(process->http);
    double value = number(text, series);
    free(text);
    return value;
}

/* What is told is what was looked at last: the truth may take a moment. */
static void await(const test_process *process, const char *series, bool positive)
{
    AWAIT((ask(process, series) > 0) == positive);
}

static int open_partition(farpool_pool *in, uint64_t epoch, bool recover, farpool_partition **out)
{
    farpool_partition_options options;
    const char *memnodes[] = {memory.uri}, *storagenodes[] = {storage.uri};
    farpool_partition_options_init(&options);
    options.id = PARTITION;
    options.epoch = epoch;
    options.slab_bytes = SLAB_BYTES;
    options.memnodes = memnodes;
    options.memnode_count = 1;
    options.log_copies = 1;
    options.log_ring_bytes = RING_BYTES;
    options.storagenodes = storagenodes;
    options.storagenode_count = 1;
    options.recover = recover;
    return farpool_partition_open(in, &options, out);
}

static void change(unsigned i, uint64_t value, enum farpool_durability durability)
{
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(part, 0, &mtr), "a mini-transaction");
    test_must(pids[i] ? farpool_mtr_fix(mtr, pids[i], &page)
                      : farpool_mtr_alloc(mtr, 0, &pids[i], &page),
              "a page");
    for (unsigned k = 0; k < 100; k++)
        ((uint64_t *)page)[k] = value + k;
    test_must(farpool_mtr_commit(mtr, durability, NULL), "a commit");
}

static void work(void)
{
    for (unsigned i = 0; i < PAGES; i++)
        change(i, i, FARPOOL_DURABLE_MEMORY);
    for (unsigned i = 0; i < PAGES; i++)
        change(i, 2 * i, FARPOOL_DURABLE_LATER);
    change(0, 1, FARPOOL_DURABLE_STORAGE);
}

static void check_memory_node(void)
{
    char *text = promtext_get(memory.http);
    check_documented(text, "farpool_memnode_");
    REQUIRE(number(text, "farpool_memnode_partitions") == 1);
    REQUIRE(number(text, "farpool_memnode_partition_epoch{partition=\"77\"}") == 3);
    double slab = number(text, "farpool_memnode_slab_bytes{partition=\"77\"}");
    double ring = number(text, "farpool_memnode_ring_bytes{partition=\"77\"}");
    REQUIRE(slab >= SLAB_BYTES && ring >= RING_BYTES);
    REQUIRE(number(text, "farpool_memnode_granted_bytes") == slab + ring);
    REQUIRE(number(text, "farpool_memnode_memory_bytes") > slab + ring);
    REQUIRE(number(text, "farpool_memnode_ring_log_bytes{partition=\"77\"}") > RING_BYTES / 2);
    REQUIRE(number(text, "farpool_memnode_ring_used_bytes{partition=\"77\"}") >= 0);
    REQUIRE(number(text, "farpool_memnode_grants_total") == 2);
    REQUIRE(number(text, "farpool_memnode_grants_refused_total") == 0);
    REQUIRE(number(text, "farpool_memnode_requests_total{type=\"GRANT\"}") == 2);
    REQUIRE(number(text, "farpool_memnode_requests_total{type=\"HELLO\"}") >= 2);
    REQUIRE(number(text, "farpool_memnode_connections") >= 2);
    REQUIRE(number(text, "farpool_memnode_spill_gap_rings") == 0);
    REQUIRE(number(text, "process_cpu_seconds_total") > 0);
    REQUIRE(number(text, "process_open_fds") > 5);
    REQUIRE(number(text, "process_resident_memory_bytes") > 1 << 20);
    REQUIRE(number(text, "process_start_time_seconds") > 1.6e9);
    free(text);
    await(&memory, "farpool_memnode_spill_lag_bytes", false);
    await(&memory, "farpool_memnode_ring_spill_lag_bytes{partition=\"77\"}", false);
}

static void check_storage_node(void)
{
    await(&storage, "farpool_storagenode_partition_converted_bytes_total{partition=\"77\"}", true);
    await(&storage, "farpool_storagenode_partition_written_bytes_total{partition=\"77\"}", true);
    await(&storage, "farpool_storagenode_partition_delta_layers{partition=\"77\"}", true);
    char *text = promtext_get(storage.http);
    check_documented(text, "farpool_storagenode_");
    REQUIRE(number(text, "farpool_storagenode_partitions") == 1);
    REQUIRE(number(text, "farpool_storagenode_broken_partitions") == 0);
    REQUIRE(number(text, "farpool_storagenode_refills_total") == 0);
    REQUIRE(number(text, "farpool_storagenode_partition_epoch{partition=\"77\"}") == 3);
    double durable = number(text, "farpool_storagenode_partition_durable_lsn{partition=\"77\"}");
    REQUIRE(durable > 2 * PAGES * 800);
    double converted =
        number(text, "farpool_storagenode_partition_converted_lsn{partition=\"77\"}");
    REQUIRE(converted > 0 && converted <= durable);
    REQUIRE(number(text, "farpool_storagenode_partition_delta_layers{partition=\"77\"}") +
                number(text, "farpool_storagenode_partition_image_layers{partition=\"77\"}") >
            0);
    REQUIRE(number(text, "farpool_storagenode_partition_delta_bytes{partition=\"77\"}") +
                number(text, "farpool_storagenode_partition_image_bytes{partition=\"77\"}") >
            0);
    double taken =
        number(text, "farpool_storagenode_partition_converted_bytes_total{partition=\"77\"}");
    REQUIRE(taken > 0 && taken <= durable);
    REQUIRE(number(text, "farpool_storagenode_partition_written_bytes_total{partition=\"77\"}") >
            0);
    REQUIRE(number(text, "farpool_storagenode_log_bytes") > 0);
    REQUIRE(number(text, "farpool_storagenode_volume_bytes") >=
            number(text, "farpool_storagenode_volume_free_bytes"));
    REQUIRE(number(text, "farpool_storagenode_requests_total{type=\"WAL_APPEND\"}") > 0);
    free(text);
}

static void check_library(void)
{
    static char text[16384];
    size_t len, needed;
    farpool_stats stats;
    test_must(farpool_stats_prometheus(pool, text, sizeof text, &len), "the statistics");
    REQUIRE(len == strlen(text));
    const char *wrong = promtext_error(text);
    if (wrong)
        fprintf(stderr, "%s\n", wrong);
    REQUIRE(!wrong);
    check_documented(text, "farpool_");
    farpool_stats_get(pool, &stats);
    REQUIRE(number(text, "farpool_pool_bytes") == POOL_BYTES);
    REQUIRE(number(text, "farpool_misses_total") > 0);
    REQUIRE(number(text, "farpool_misses_total") <= (double)stats.misses);
    REQUIRE(number(text, "farpool_fault_seconds_count") > 0);
    REQUIRE(number(text, "farpool_fault_seconds_bucket{le=\"8.589934591\"}") > 0);
    REQUIRE(number(text, "farpool_fault_seconds_bucket{le=\"+Inf\"}") ==
            number(text, "farpool_fault_seconds_count"));
    REQUIRE(number(text, "farpool_fault_seconds_sum") > 0);
    REQUIRE(number(text, "farpool_redo_frames_total") >= 2 * PAGES);
    REQUIRE(number(text, "farpool_redo_ring_bytes") > RING_BYTES / 2);
    char little[100];
    REQUIRE(farpool_stats_prometheus(pool, little, sizeof little, &needed) == FARPOOL_E_TOO_BIG);
    REQUIRE(needed > 1000 && strlen(little) == sizeof little - 1);
    REQUIRE(!strncmp(little, text, sizeof little - 1));
    REQUIRE(farpool_stats_prometheus(pool, NULL, 0, &needed) == FARPOOL_E_TOO_BIG);
}

/* The same epoch again is refused, a higher one cuts us off. */
static void check_fencing(void)
{
    farpool_pool *other = test_pool_new(FARPOOL_MAPPING_AUTO, POOL_BYTES);
    farpool_partition *late;
    REQUIRE(open_partition(other, 3, true, &late) == FARPOOL_E_FENCED);
    REQUIRE(ask(&memory, "farpool_memnode_grants_refused_total") >= 1);
    REQUIRE(ask(&memory, "farpool_memnode_refused_total{code=\"E_FENCED\"}") >= 1);
    REQUIRE(ask(&memory, "farpool_memnode_epochs_raised_total") == 0);
    test_must(open_partition(other, 4, true, &late), "taking over");
    REQUIRE(ask(&memory, "farpool_memnode_epochs_raised_total") == 1);
    REQUIRE(ask(&memory, "farpool_memnode_fenced_connections_total") >= 2);
    REQUIRE(ask(&memory, "farpool_memnode_partition_epoch{partition=\"77\"}") == 4);
    test_pool_close(other, late);
    test_pool_close(pool, part);
}

int main(void)
{
    char volume[256];
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    test_volume_make(volume);
    const char *nobody[] = {"tcp://127.0.0.1:1"};
    test_process_start_peer(&storage, "shm", volume, "64k", nobody, 1);
    test_process_start_spilling(&memory, "shm", NODE_KIB, storage.uri);
    char *answer = http_request(storage.http, "GET", "/readyz");
    REQUIRE(!strncmp(answer, "HTTP/1.1 200 ", 13));
    free(answer);
    pool = test_pool_new(FARPOOL_MAPPING_AUTO, POOL_BYTES);
    test_must(open_partition(pool, 3, false, &part), "opening a partition");
    work();
    check_library();
    check_memory_node();
    check_storage_node();
    check_fencing();
    test_process_end(&memory, SIGTERM);
    test_process_end(&storage, SIGTERM);
    test_volume_remove(volume);
    printf("figures of a memory node, a storage node and the library are as they should be\n");
    return 0;
}
