/* SPDX-License-Identifier: Apache-2.0 */
/*
 * getpage: a page store that has all its pages in images, cold: single pages at random, one at a time, against fio
 * (package fio) reading 4 KiB at random from a file of the same directory in the same way: O_DIRECT, io_uring, one at a
 * time. Before it: how fast log becomes layers, and what is written and kept for it. The directory is in $FARPOOL_BUILD
 * or build/: the file system that is measured is that one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lib/disk.h"
#include "bench/lib/report.h"
#include "common/clock.h"
#include "common/crc.h"
#include "common/mem.h"
#include "common/redo.h"
#include "storagenode/store.h"

enum { BATCH = 1 << 20, RING = 8 << 20, PARTITION = 1, PAGE = 4096, CHANGE = 256, GETS = 20000 };

static char dir[BENCH_PATH_MAX];
static fp_disk *disk;
static fp_volume *volume;
static fp_mem ring;
static fp_wal *wal;
static fp_store *store;
static uint64_t random_state = 1, wal_bytes;

static void poll_until(const unsigned *count)
{
    while (!*count) {
        int n = fp_disk_poll(disk, -1);
        bench_check(n < 0 ? n : 0, "polling");
    }
}

static void count_volume(fp_volume_req *req) { ++*(unsigned *)req->user; }
static void count_wal(fp_wal_req *req) { ++*(unsigned *)req->user; }
static void count_store(fp_store_req *req) { ++*(unsigned *)req->user; }

/* ---- a volume -------------------------------------------------------------------------------- */

static void open_all(void)
{
    unsigned count = 0;
    fp_volume_req volume_req = {.done = count_volume, .user = &count};
    bench_check(fp_disk_open(dir, NULL, &disk), "a volume");
    bench_check(fp_volume_open(disk, &volume_req, &volume), "a volume");
    poll_until(&count);
    bench_check(volume_req.status, "a volume");
    count = 0;
    fp_wal_req wal_req = {.done = count_wal, .user = &count};
    fp_wal_options options = {.partition = PARTITION,
                              .landing = ring.addr,
                              .landing_bytes = RING,
                              .start = FP_REDO_LSN_FIRST};
    bench_check(fp_wal_open(disk, &options, &wal_req, &wal), "a WAL");
    poll_until(&count);
    bench_check(wal_req.status, "a WAL");
    count = 0;
    fp_store_req req = {.done = count_store, .user = &count};
    bench_check(fp_store_open(volume, wal,
                              &(fp_store_options){.partition = PARTITION, .generation = 1}, &req,
                              &store),
                "a page store");
    poll_until(&count);
    bench_check(req.status, "a page store");
}

static void close_all(void)
{
    unsigned count = 0;
    fp_store_req req = {.done = count_store, .user = &count};
    fp_store_close(store, &req);
    poll_until(&count);
    fp_store_free(store);
    count = 0;
    fp_wal_req wal_req = {.done = count_wal, .user = &count};
    fp_wal_close(wal, &wal_req);
    poll_until(&count);
    fp_wal_free(wal);
    count = 0;
    fp_volume_req volume_req = {.done = count_volume, .user = &count};
    fp_volume_close(volume, &volume_req);
    poll_until(&count);
    fp_volume_free(volume);
    fp_disk_close(disk);
}

/* ---- the log --------------------------------------------------------------------------------- */

static void land(const void *data, uint64_t lsn, size_t len)
{
    size_t at = lsn % RING, n = RING - at < len ? RING - at : len;
    memcpy((uint8_t *)ring.addr + at, data, n);
    memcpy(ring.addr, (const uint8_t *)data + n, len - n);
}

/* A frame about one page: it begins, or some of it changes. Returns its length. */
static size_t land_frame(fp_redo_build *build, uint64_t lsn, uint64_t pid, bool first)
{
    static uint8_t data[PAGE];
    fp_redo_frame frame = {
        .lsn = lsn, .epoch = 1, .partition = PARTITION, .kind = FP_REDO_MTR, .records = 1u + first};
    fp_redo_build_reset(build);
    memset(data, (int)(pid ^ lsn), sizeof data);
    if (first)
        bench_check(fp_redo_add(build, FP_REDO_ALLOC, pid, 0, 0, NULL, 0), "redo");
    uint32_t offset = first ? 0 : (uint32_t)(bench_random(&random_state) % (PAGE - CHANGE));
    bench_check(fp_redo_add(build, FP_REDO_RANGE, pid, 0, offset, data, first ? PAGE : CHANGE),
                "redo");
    fp_redo_seal(&frame, fp_redo_build_crc(build), build->len);
    land(&frame, lsn, sizeof frame);
    land(build->bytes, lsn + sizeof frame, build->len);
    return frame.len;
}

/* Frames for these pages, in batches that are waited for, until all is in layers; seconds. What lands them does not
 * count. first: each once. */
static double write_log(uint64_t pages, uint64_t frames, bool first)
{
    fp_redo_build build = {0};
    uint64_t landing = 0, start = fp_now_ns();
    for (uint64_t done = 0; done < frames;) {
        uint64_t from = fp_wal_end(wal), end = from, before = fp_now_ns();
        for (; done < frames && end - from < BATCH; done++)
            end +=
                land_frame(&build, end, first ? done : bench_random(&random_state) % pages, first);
        landing += fp_now_ns() - before;
        unsigned count = 0;
        fp_wal_req req = {.done = count_wal, .user = &count};
        bench_check(fp_wal_append(wal, end, &req), "appending");
        poll_until(&count);
        bench_check(req.status, "appending");
        wal_bytes += end - from;
        fp_store_log_durable(store);
    }
    unsigned count = 0;
    fp_store_req flush = {.done = count_store, .user = &count};
    bench_check(fp_store_flush(store, &flush), "flushing");
    poll_until(&count);
    bench_check(flush.status, "flushing");
    fp_redo_build_fini(&build);
    return (double)(fp_now_ns() - start - landing) / 1e9;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Median, in us. */
static double get_pages(uint64_t pages)
{
    static uint64_t ns[GETS];
    for (unsigned i = 0; i < GETS; i++) {
        unsigned count = 0;
        fp_store_req req = {
            .done = count_store, .user = &count, .pid = bench_random(&random_state) % pages};
        uint64_t start = fp_now_ns();
        bench_check(fp_store_get(store, &req), "a page");
        poll_until(&count);
        ns[i] = fp_now_ns() - start;
        bench_check(req.status, "a page");
        free(req.page);
    }
    qsort(ns, GETS, sizeof *ns, bench_compare_u64);
    return (double)ns[GETS / 2] / 1000;
}

/* Median in us, from submission to completion; 0 if there is no fio. */
static double fio(uint64_t bytes)
{
    char text[256];
    double ns = 0;
    snprintf(text, sizeof text,
             "--rw=randread --bs=%d --size=%llu --number_ios=%d --lat_percentiles=1 "
             "--clat_percentiles=0 --percentile_list=50",
             PAGE, (unsigned long long)bytes, GETS);
    json_t *job = bench_fio(dir, text);
    if (job &&
        json_unpack(job, "{s:{s:{s:{s:F}}}}", "read", "lat_ns", "percentile", "50.000000", &ns))
        bench_progress("fio does not say its latency");
    json_decref(job);
    return ns / 1000;
}

int main(int argc, char **argv)
{
    bench_options options;
    bench_parse(argc, argv, "getpage: pages from a cold page store, against fio", &options);
    bench_dir_make(dir, "getpage");
    bench_check(fp_mem_open(RING, FP_MEM_POPULATE, -1, &ring), "memory");
    uint64_t pages = (uint64_t)(65536 * options.scale) + 4096, changes = 8 * pages;
    fp_store_stats before, after;
    open_all();
    bench_progress("%llu pages are made", (unsigned long long)pages);
    double made = write_log(pages, pages, true);
    bench_add("MB/s", (double)wal_bytes / 1e6 / made, "getpage.load_log");
    wal_bytes = 0;
    fp_store_get_stats(store, &before);
    bench_progress("and changed %llu times", (unsigned long long)changes);
    double changed = write_log(pages, changes, false);
    fp_store_get_stats(store, &after);
    double log = (double)wal_bytes, written = (double)(after.written_bytes - before.written_bytes);
    bench_add("MB/s", log / 1e6 / changed, "getpage.change_log");
    bench_add("ratio", (log + written) / log, "getpage.write_amplification");
    bench_add("ratio", (double)(after.image_bytes + after.delta_bytes) / (double)after.page_bytes,
              "getpage.space_amplification");
    double own = 0, other = 0;
    for (int round = 0; round < 3; round++) {
        close_all();
        open_all(); /* cold: it knows where pages are, and has none */
        bench_progress("round %d: %d pages each", round + 1, GETS);
        own += get_pages(pages) / 3;
        other += fio(pages * PAGE) / 3;
    }
    bench_add("us", own, "getpage.p50");
    if (other > 0) {
        bench_add("us", other, "getpage.fio_p50");
        bench_add("ratio", own / other, "getpage.fio_p50_ratio");
    }
    bench_print(&options, "getpage");
    close_all();
    fp_mem_close(&ring);
    bench_dir_remove(dir);
    return 0;
}
