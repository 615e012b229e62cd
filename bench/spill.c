/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spill: appends of 1 MiB to a WAL, each waited for, against fio (package fio) writing as much to a file of the same
 * directory in the same way: sequential, O_DIRECT, io_uring, one at a time, an fdatasync after each. They take turns.
 * The directory is in $FARPOOL_BUILD or build/: the file system that is measured is that one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/report.h"
#include "common/clock.h"
#include "common/crc.h"
#include "common/error.h"
#include "common/mem.h"
#include "common/redo.h"
#include "storagenode/wal.h"

enum { BATCH = 1 << 20, FRAME = 16384, RING = 8 << 20, ROUNDS = 3, BATCHES = 256, PARTITION = 1 };

static char dir[256];
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

/* ---- the WAL --------------------------------------------------------------------------------- */

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
    size_t at = lsn % RING, n = RING - at < FRAME ? RING - at : FRAME;
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
    bench_check(fp_mem_open(RING, FP_MEM_POPULATE, -1, &mem), "memory");
    fp_wal_options options = {.partition = PARTITION,
                              .landing = mem.addr,
                              .landing_bytes = RING,
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
    return (double)ns / 1e9;
}

static void counted_req(fp_disk_req *req) { ++*(unsigned *)req->user; }

static void do_disk(fp_disk_req *req)
{
    unsigned count = 0;
    req->done = counted_req;
    req->user = &count;
    fp_disk_submit(disk, req);
    while (!count)
        bench_check(fp_disk_poll(disk, -1) < 0 ? FARPOOL_E_SYS : 0, "polling");
    bench_check(req->status, "the directory");
}

static void remove_files(void)
{
    fp_disk_req list = {.kind = FP_DISK_LIST};
    do_disk(&list);
    for (const char *name = list.names; *name; name += strlen(name) + 1) {
        fp_disk_req gone = {.kind = FP_DISK_UNLINK, .name = name};
        do_disk(&gone);
    }
    free(list.names);
}

/* ---- fio ------------------------------------------------------------------------------------- */

/* Seconds, or 0 if there is no fio. Of its terse line the 50th field is the writing's time in ms. */
static double fio(unsigned batches)
{
    char command[768], line[4096];
    snprintf(command, sizeof command,
             "fio --minimal --name=spill --filename=%s/fio --rw=write --bs=%d --size=%u --direct=1 "
             "--ioengine=io_uring --iodepth=1 --fdatasync=1 --unlink=1 2>/dev/null",
             dir, BATCH, batches * BATCH);
    FILE *out = popen(command, "r");
    bench_check(out ? 0 : FARPOOL_E_SYS, "fio");
    double ms = 0;
    while (fgets(line, sizeof line, out)) {
        char *save, *word = strtok_r(line, ";", &save);
        for (int i = 1; word && i < 50; i++)
            word = strtok_r(NULL, ";", &save);
        ms = word ? strtod(word, NULL) : ms;
    }
    pclose(out);
    return ms / 1000;
}

int main(int argc, char **argv)
{
    bench_options options;
    bench_parse(argc, argv, "spill: appends of 1 MiB to a WAL, against fio", &options);
    const char *build = getenv("FARPOOL_BUILD");
    snprintf(dir, sizeof dir, "%s/spill-XXXXXX", build ? build : "build");
    bench_check(mkdtemp(dir) ? 0 : fp_error_sys("%s", dir), "a directory");
    bench_check(fp_disk_open(dir, NULL, &disk), "a volume");
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 2654435761u >> 13);
    unsigned batches = (unsigned)(BATCHES * options.scale) + 8;
    double wal = 0, other = 0;
    for (int round = 0; round < ROUNDS; round++) {
        bench_progress("round %d: %u MiB each", round + 1, batches);
        other += fio(batches);
        wal += append_batches(batches);
        remove_files();
    }
    double mb = (double)ROUNDS * batches * BATCH / 1e6;
    bench_add("MB/s", mb / wal, "spill.wal");
    bench_add("us", wal * 1e6 / (ROUNDS * batches), "spill.append_1m");
    if (other > 0) {
        bench_add("MB/s", mb / other, "spill.fio");
        bench_add("ratio", other / wal, "spill.fio_ratio");
    } else {
        bench_progress("no figures from fio (package fio)");
    }
    bench_print(&options, "spill");
    fp_disk_close(disk);
    rmdir(dir);
    return 0;
}
