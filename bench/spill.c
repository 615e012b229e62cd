/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spill: how fast a burst of redo log gets out of a memory node's ring to stable media of a storage node, which makes layers
 * of it when it can, and how long one commit takes that waits for it, against fio (package fio) writing as much to a file of
 * the same file system in the same way as the storage node does: sequential, O_DIRECT, io_uring, one at a time, an fdatasync
 * after each. And the last part of the way alone: appends of 1 MiB to a WAL. They take turns, each with a new volume. It is in
 * $FARPOOL_BUILD or build/: the file system that is measured is that one.
 *
 * The log is in the ring before its way begins, for the storage node stands still while it is made: so it is the spiller
 * that is measured, not who commits. Before that the storage node has rested. What it does with log that never ends is shown by
 * the benchmark convert.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench/lib/disk.h"
#include "bench/lib/node.h"
#include "common/clock.h"
#include "common/crc.h"
#include "common/error.h"
#include "common/mem.h"
#include "common/redo.h"
#include "storagenode/wal.h"

enum {
    BATCH = 1 << 20,
    ROUNDS = 3,
    BATCHES = 160, /* less than a storage node lets lie before layers are made beside appends */
    WARM_UP =
        120, /* batches, after which memory of the nodes is in use that they use again and again */
    PARTITION = 1,
    /* the WAL alone */
    FRAME = 16384,
    LANDING = 8 << 20,
    /* the whole way */
    RING_BYTES = 512 << 20, /* all the log, and not more than half of it */
    SLAB_BYTES = 48 << 20,
    NODE_BYTES = 640 << 20,
    ORDER = 4, /* of pages that are written whole */
    PAGE = FARPOOL_UNIT_BYTES << ORDER,
    PAGES = BATCH / PAGE, /* that one mini-transaction writes */
    COMMIT = 256,
    COMMITS = 400,
};

static char dir[BENCH_PATH_MAX], volume[BENCH_PATH_MAX + 8];

static void make_volume(void)
{
    bench_check(mkdir(volume, 0700) ? fp_error_sys("%s", volume) : 0, "a directory");
}

/* ---- the whole way --------------------------------------------------------------------------- */

static uint64_t commit_ns[ROUNDS * (COMMITS + 20)];
static unsigned commit_count;
static double layers_seconds; /* until all is in layers as well */

/* Changes `bytes` of each of the pages. Its log's end. */
static uint64_t commit(farpool_partition *partition, const farpool_pid *pids, unsigned count,
                       uint32_t bytes, enum farpool_durability durability)
{
    static int value;
    farpool_mtr *mtr;
    void *page;
    uint64_t lsn;
    bench_check(farpool_mtr_begin(partition, 0, &mtr), "mini-transaction");
    value++;
    for (unsigned i = 0; i < count; i++) {
        bench_check(farpool_mtr_fix_declared(mtr, pids[i], &page), "fixing a page");
        bench_check(farpool_mtr_declare(mtr, pids[i], 0, bytes), "declaring a change");
        memset(page, value, bytes);
    }
    bench_check(farpool_mtr_commit(mtr, durability, &lsn), "commit");
    return lsn;
}

/* Seconds from when the storage node goes on until all is on stable media; *bytes of log. */
static double stream(farpool_partition *partition, const bench_node *storage, unsigned batches,
                     unsigned commits, uint64_t *bytes)
{
    farpool_pid pids[PAGES];
    farpool_mtr *mtr;
    void *page;
    uint64_t from, end = 0;
    bench_check(farpool_mtr_begin(partition, 0, &mtr), "allocating pages");
    for (unsigned i = 0; i < PAGES; i++)
        bench_check(farpool_mtr_alloc(mtr, ORDER, &pids[i], &page), "allocating a page");
    bench_check(farpool_mtr_commit(mtr, FARPOOL_DURABLE_STORAGE, &from), "allocating pages");
    for (unsigned i = 0; i < commits; i++) {
        uint64_t start = fp_now_ns();
        from = commit(partition, pids, 1, COMMIT, FARPOOL_DURABLE_STORAGE);
        commit_ns[commit_count++] = fp_now_ns() - start;
    }
    for (unsigned i = 0; i < WARM_UP * PAGES; i++)
        from = commit(partition, &pids[i % PAGES], 1, PAGE, FARPOOL_DURABLE_MEMORY);
    bench_check(farpool_wait_durable(partition, from, FARPOOL_DURABLE_STORAGE), "waiting");
    (void)bench_node_rest(storage);
    kill(storage->pid, SIGSTOP);
    for (unsigned i = 0; i < batches * PAGES; i++)
        end = commit(partition, &pids[i % PAGES], 1, PAGE, FARPOOL_DURABLE_MEMORY);
    uint64_t start = fp_now_ns();
    kill(storage->pid, SIGCONT);
    bench_check(farpool_wait_durable(partition, end, FARPOOL_DURABLE_STORAGE), "waiting");
    *bytes += end - from;
    double seconds = (double)(fp_now_ns() - start) / 1e9;
    layers_seconds += seconds + bench_node_catch_up(storage);
    return seconds;
}

static double whole_way(const bench_options *options, unsigned batches, unsigned commits,
                        uint64_t *bytes)
{
    bench_node storage, memory;
    farpool_pool *pool;
    farpool_partition *partition;
    make_volume();
    bench_storage_start(&storage, options->transport, volume);
    bench_node_start(&memory, options->transport, NODE_BYTES, storage.uri);
    bench_log_open(options, &memory, 1, 1, SLAB_BYTES, RING_BYTES, &pool, &partition);
    double seconds = stream(partition, &storage, batches, commits, bytes);
    bench_pool_close(pool, partition);
    bench_node_stop(&memory);
    bench_node_stop(&storage);
    bench_dir_remove(volume);
    return seconds;
}

/* ---- the WAL alone --------------------------------------------------------------------------- */

static fp_disk *disk;

static void counted(fp_wal_req *req) { ++*(unsigned *)req->user; }

static void wait_for(const unsigned *count, const fp_wal_req *req, const char *what)
{
    while (!*count) {
        int n = fp_disk_poll(disk, -1);
        bench_check(n < 0 ? n : 0, "polling");
    }
    bench_check(req->status, what);
}

static uint8_t payload[FRAME];

/* One frame at lsn; the ring is a multiple of FRAME, and so are frames, but the log begins at 64. */
static void land_frame(uint8_t *ring, uint64_t lsn)
{
    enum { RECORD = sizeof(fp_redo_record), HEADER = sizeof(fp_redo_frame) };
    static uint8_t bytes[FRAME];
    fp_redo_frame frame = {
        .lsn = lsn, .epoch = 1, .partition = PARTITION, .kind = FP_REDO_MTR, .records = 1};
    fp_redo_record record = {.page = 3ull << 48 | 1ull << 56, .len = FRAME - HEADER - RECORD};
    memcpy(bytes + HEADER, &record, RECORD);
    memcpy(bytes + HEADER + RECORD, payload, record.len);
    fp_redo_seal(&frame, fp_crc32c(0, bytes + HEADER, FRAME - HEADER), FRAME - HEADER);
    memcpy(bytes, &frame, HEADER);
    size_t at = lsn % LANDING, n = LANDING - at < FRAME ? LANDING - at : FRAME;
    memcpy(ring + at, bytes, n);
    memcpy(ring, bytes + n, FRAME - n);
}

/* Seconds for so many batches; what lands them is a peer's work and does not count. */
static double append_batches(unsigned batches)
{
    fp_mem mem;
    fp_wal *wal;
    unsigned count = 0;
    fp_wal_req req = {.done = counted, .user = &count};
    make_volume();
    bench_check(fp_disk_open(volume, NULL, &disk), "a volume");
    bench_check(fp_mem_open(LANDING, FP_MEM_POPULATE, -1, &mem), "memory");
    fp_wal_options options = {.partition = PARTITION,
                              .landing = mem.addr,
                              .landing_bytes = LANDING,
                              .start = FP_REDO_LSN_FIRST};
    bench_check(fp_wal_open(disk, &options, &req, &wal), "opening a WAL");
    wait_for(&count, &req, "opening a WAL");
    uint64_t ns = 0;
    for (unsigned i = 0; i < batches; i++) {
        uint64_t from = fp_wal_end(wal);
        for (uint64_t lsn = from; lsn < from + BATCH; lsn += FRAME)
            land_frame(mem.addr, lsn);
        uint64_t start = fp_now_ns();
        count = 0;
        bench_check(fp_wal_append(wal, from + BATCH, &req), "appending");
        wait_for(&count, &req, "appending");
        ns += fp_now_ns() - start;
    }
    count = 0;
    fp_wal_close(wal, &req);
    wait_for(&count, &req, "closing the WAL");
    fp_wal_free(wal);
    fp_mem_close(&mem);
    fp_disk_close(disk);
    bench_dir_remove(volume);
    return (double)ns / 1e9;
}

/* ---- fio ------------------------------------------------------------------------------------- */

/* Seconds; 0 if there is no fio. */
static double fio_stream(unsigned batches)
{
    char text[128];
    double ms = 0;
    snprintf(text, sizeof text, "--rw=write --bs=%d --size=%u --fdatasync=1", BATCH,
             batches * BATCH);
    json_t *job = bench_fio(dir, text);
    if (job && json_unpack(job, "{s:{s:F}}", "write", "runtime", &ms))
        bench_progress("fio does not say how long it took");
    json_decref(job);
    return ms / 1000;
}

/* Medians in us of writing 4 KiB, and of the fdatasync after it. */
static void fio_commits(unsigned count, double *write, double *sync)
{
    char text[192];
    double write_ns = 0, sync_ns = 0;
    snprintf(text, sizeof text,
             "--rw=write --bs=4096 --size=%u --fdatasync=1 --lat_percentiles=1 "
             "--clat_percentiles=0 --percentile_list=50",
             count * 4096);
    json_t *job = bench_fio(dir, text);
    if (job &&
        json_unpack(job, "{s:{s:{s:{s:F}}}, s:{s:{s:{s:F}}}}", "write", "lat_ns", "percentile",
                    "50.000000", &write_ns, "sync", "lat_ns", "percentile", "50.000000", &sync_ns))
        bench_progress("fio does not say its latencies");
    json_decref(job);
    *write += write_ns / 1000 / ROUNDS;
    *sync += sync_ns / 1000 / ROUNDS;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void add_commits(double write, double sync)
{
    qsort(commit_ns, commit_count, sizeof *commit_ns, bench_compare_u64);
    double p50 = (double)commit_ns[commit_count / 2] / 1000;
    bench_add("us", p50, "spill.commit_p50");
    if (sync <= 0)
        return;
    bench_add("us", write, "spill.fio_write_4k_p50");
    bench_add("us", sync, "spill.fio_fdatasync_4k_p50");
    bench_add("ratio", p50 / sync, "spill.commit_p50_ratio");
    bench_add("ratio", p50 / (write + sync), "spill.commit_p50_ratio_to_write_and_fdatasync");
}

int main(int argc, char **argv)
{
    bench_options options;
    bench_parse(argc, argv, "spill: redo log on its way to stable media, against fio", &options);
    bench_dir_make(dir, "spill");
    snprintf(volume, sizeof volume, "%s/volume", dir);
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 2654435761u >> 13);
    double scale = options.scale < 1 ? options.scale : 1;
    unsigned batches = (unsigned)(BATCHES * scale) + 8;
    unsigned commits = (unsigned)(COMMITS * scale) + 20;
    double whole = 0, wal = 0, other = 0, write = 0, sync = 0;
    uint64_t bytes = 0;
    for (int round = 0; round < ROUNDS; round++) {
        bench_progress("round %d: %u MiB each, %u commits", round + 1, batches, commits);
        other += fio_stream(batches);
        whole += whole_way(&options, batches, commits, &bytes);
        fio_commits(commits, &write, &sync);
        wal += append_batches(batches);
    }
    double mb = (double)ROUNDS * batches * BATCH / 1e6, rate = (double)bytes / 1e6 / whole;
    bench_add("MB/s", rate, "spill.rate");
    bench_add("MB/s", (double)bytes / 1e6 / layers_seconds, "spill.rate_with_layers");
    bench_add("MB/s", mb / wal, "spill.wal");
    bench_add("us", wal * 1e6 / (ROUNDS * batches), "spill.append_1m");
    if (other > 0) {
        bench_add("MB/s", mb / other, "spill.fio");
        bench_add("ratio", rate / (mb / other), "spill.fio_ratio");
        bench_add("ratio", other / wal, "spill.wal_fio_ratio");
    }
    add_commits(write, sync);
    bench_print(&options, "spill");
    bench_dir_remove(dir);
    return 0;
}
