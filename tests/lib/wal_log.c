/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/wal_log.h"

#include <stdlib.h>
#include <string.h>

#include "common/redo.h"
#include "tests/lib/disk_scope.h"
#include "tests/lib/require.h"

void wal_log_open(wal_log *log, uint64_t partition, uint64_t start)
{
    *log = (wal_log){.partition = partition, .end = start};
}

void wal_log_close(wal_log *log)
{
    free(log->bytes);
    free(log->ends);
}

static void make_room(wal_log *log, size_t bytes)
{
    if (log->end + bytes > log->room) {
        log->room = 2 * (log->end + bytes);
        log->bytes = realloc(log->bytes, log->room);
        REQUIRE(log->bytes);
    }
    if (log->count == log->ends_room) {
        log->ends_room = 2 * log->ends_room + 64;
        log->ends = realloc(log->ends, log->ends_room * sizeof *log->ends);
        REQUIRE(log->ends);
    }
}

void wal_log_add(wal_log *log, uint64_t epoch, const fp_redo_build *build)
{
    fp_redo_frame frame = {.lsn = log->end,
                           .epoch = epoch,
                           .partition = log->partition,
                           .kind = build->len ? FP_REDO_MTR : FP_REDO_OWNER,
                           .records = build->records};
    fp_redo_seal(&frame, fp_redo_build_crc(build), build->len);
    make_room(log, frame.len);
    memcpy(log->bytes + log->end, &frame, sizeof frame);
    if (build->len)
        memcpy(log->bytes + log->end + sizeof frame, build->bytes, build->len);
    log->end += frame.len;
    log->ends[log->count++] = log->end;
}

void wal_log_frame(wal_log *log, uint64_t epoch, size_t bytes, uint64_t salt)
{
    enum { OVERHEAD = sizeof(fp_redo_frame) + sizeof(fp_redo_record) };
    fp_redo_build build = {0};
    if (bytes > OVERHEAD) {
        size_t len = bytes - OVERHEAD;
        uint8_t *data = malloc(len);
        REQUIRE(data);
        uint64_t x = (log->end ^ epoch << 40 ^ salt << 20) * 2654435761u + 1;
        for (size_t i = 0; i < len; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            data[i] = (uint8_t)x;
        }
        unsigned order = 0;
        while (((size_t)FARPOOL_UNIT_BYTES << order) < len)
            order++;
        REQUIRE(!fp_redo_add(&build, FP_REDO_RANGE, log->end, order, 0, data, (uint32_t)len));
        free(data);
    }
    wal_log_add(log, epoch, &build);
    fp_redo_build_fini(&build);
}

void wal_log_truncate(wal_log *log, uint64_t lsn)
{
    while (log->count && log->ends[log->count - 1] > lsn)
        log->count--;
    REQUIRE(lsn <= log->end);
    log->end = lsn;
}

uint64_t wal_log_after(const wal_log *log, uint64_t lsn, unsigned n)
{
    size_t low = 0, high = log->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (log->ends[middle] > lsn)
            high = middle;
        else
            low = middle + 1;
    }
    if (low == log->count)
        return log->end;
    return log->ends[low + n - 1 < log->count ? low + n - 1 : log->count - 1];
}

void wal_log_land(const wal_log *log, void *ring, size_t ring_bytes, uint64_t from, uint64_t to)
{
    while (from < to) {
        size_t at = from % ring_bytes, n = ring_bytes - at;
        n = n < to - from ? n : to - from;
        memcpy((uint8_t *)ring + at, log->bytes + from, n);
        from += n;
    }
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void count_one(fp_wal_req *req) { ++*(unsigned *)req->user; }

static int wait_for(fp_disk *disk, int rc, fp_wal_req *req)
{
    if (rc)
        return rc;
    disk_wait(disk, req->user, 1);
    return req->status;
}

#define REQUEST                                                                                    \
    unsigned done = 0;                                                                             \
    fp_wal_req req = {.done = count_one, .user = &done}

int wal_open(fp_disk *disk, const fp_wal_options *options, fp_wal **wal)
{
    REQUEST;
    *wal = NULL;
    int rc = wait_for(disk, fp_wal_open(disk, options, &req, wal), &req);
    if (rc) {
        fp_wal_free(*wal);
        *wal = NULL;
    }
    return rc;
}

int wal_restart(fp_disk *disk, const fp_wal_options *options)
{
    REQUEST;
    fp_wal *wal = NULL;
    int rc = wait_for(disk, fp_wal_restart(disk, options, &req, &wal), &req);
    fp_wal_free(wal);
    return rc;
}

int wal_append(fp_disk *disk, fp_wal *wal, uint64_t upto)
{
    REQUEST;
    return wait_for(disk, fp_wal_append(wal, upto, &req), &req);
}

int wal_fence_from(fp_disk *disk, fp_wal *wal, uint64_t epoch, uint64_t lsn)
{
    REQUEST;
    return wait_for(disk, fp_wal_fence(wal, epoch, lsn, &req), &req);
}

int wal_fence(fp_disk *disk, fp_wal *wal, uint64_t epoch)
{
    return wal_fence_from(disk, wal, epoch, 0);
}

int wal_seal(fp_disk *disk, fp_wal *wal)
{
    REQUEST;
    return wait_for(disk, fp_wal_seal(wal, &req), &req);
}

int wal_trim(fp_disk *disk, fp_wal *wal, uint64_t lsn)
{
    REQUEST;
    return wait_for(disk, fp_wal_trim(wal, lsn, &req), &req);
}

int wal_read(fp_disk *disk, fp_wal *wal, uint64_t from, uint64_t to, void *buffer, uint64_t *end)
{
    REQUEST;
    int rc = wait_for(disk, fp_wal_read(wal, from, to, buffer, &req), &req);
    *end = req.lsn;
    return rc;
}

int wal_close(fp_disk *disk, fp_wal *wal)
{
    REQUEST;
    fp_wal_close(wal, &req);
    int rc = wait_for(disk, 0, &req);
    fp_wal_free(wal);
    return rc;
}
