/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a WAL does with single requests, refuses, and finds at opening; on io_uring and on a simulated disk.
 * unit/wal_damage has what rot does to it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/redo.h"
#include "tests/lib/disk_scope.h"
#include "tests/lib/require.h"
#include "tests/lib/wal_log.h"

enum { BLOCK = FP_DISK_ALIGN, SEGMENT = 4 * BLOCK, RING = 16 * BLOCK, PARTITION = 7, START = 6000 };

typedef struct fixture {
    fp_disk *disk;
    fp_wal_options options;
    wal_log log;
    fp_wal *wal;
    uint8_t *buffer;
} fixture;

static int reopen(fixture *f) { return wal_open(f->disk, &f->options, &f->wal); }

static void die_and_reopen(fixture *f)
{
    fp_wal *dead = f->wal;
    f->disk = disk_again(f->disk);
    fp_wal_free(dead);
    assert_int_equal(reopen(f), 0);
}

static fixture begin(void)
{
    fixture f = {.disk = disk_begin(NULL),
                 .options = {.partition = PARTITION,
                             .landing = disk_buffer(RING, 0),
                             .landing_bytes = RING,
                             .start = START,
                             .segment_bytes = SEGMENT},
                 .buffer = disk_buffer(64 * BLOCK, 0)};
    wal_log_open(&f.log, PARTITION, START);
    assert_int_equal(reopen(&f), 0);
    return f;
}

static void end(fixture *f)
{
    if (f->wal)
        assert_int_equal(wal_close(f->disk, f->wal), 0);
    disk_end(f->disk);
    wal_log_close(&f->log);
    free(f->options.landing);
    free(f->buffer);
}

/* Lands all of the log that the WAL has not. */
static void land(fixture *f)
{
    wal_log_land(&f->log, f->options.landing, RING, fp_wal_end(f->wal), f->log.end);
}

static int append(fixture *f, unsigned frames, size_t bytes)
{
    for (unsigned i = 0; i < frames; i++)
        wal_log_frame(&f->log, 1, bytes, i);
    land(f);
    return wal_append(f->disk, f->wal, f->log.end);
}

static void expect_all(fixture *f)
{
    uint64_t start = fp_wal_start(f->wal), upto;
    assert_int_equal(fp_wal_damage_found(f->wal)->kind, FP_WAL_UNDAMAGED);
    assert_int_equal(fp_wal_end(f->wal), f->log.end);
    assert_int_equal(fp_wal_durable(f->wal), f->log.end);
    test_must(wal_read(f->disk, f->wal, start, f->log.end, f->buffer, &upto), "read");
    assert_int_equal(upto, f->log.end);
    assert_memory_equal(f->buffer + start % BLOCK, f->log.bytes + start, upto - start);
}

static bool there_is(fixture *f, const char *name)
{
    fp_disk_req req = {.kind = FP_DISK_OPEN, .name = name, .mode = FP_DISK_READ_ONLY};
    return !disk_do(f->disk, &req) && !disk_close_file(f->disk, req.file);
}

/* ---- what goes well -------------------------------------------------------------------------- */

static void what_was_appended_is_there_again(void **state)
{
    (void)state;
    fixture f = begin();
    for (unsigned i = 0; i < 30; i++) { /* over many segments, and the ring's end several times */
        assert_int_equal(append(&f, 3, 100 + i * 90), 0);
        assert_int_equal(fp_wal_durable(f.wal), f.log.end);
        assert_int_equal(fp_wal_landing_free(f.wal), f.log.end / BLOCK * BLOCK + RING);
        if (i % 10 == 9) {
            assert_int_equal(wal_close(f.disk, f.wal), 0);
            memset(f.options.landing, 0x55, RING);
            assert_int_equal(reopen(&f), 0);
        }
    }
    assert_int_equal(fp_wal_start(f.wal), START);
    assert_int_equal(wal_trim(f.disk, f.wal, wal_log_after(&f.log, 4 * SEGMENT, 1)), 0);
    expect_all(&f);
    end(&f);
}

static void a_frame_may_be_longer_than_a_segment(void **state)
{
    (void)state;
    fixture f = begin();
    assert_int_equal(append(&f, 1, 3 * SEGMENT), 0);
    assert_int_equal(append(&f, 1, 100), 0);
    assert_int_equal(append(&f, 1, 2 * SEGMENT), 0);
    expect_all(&f);
    assert_int_equal(wal_close(f.disk, f.wal), 0);
    assert_int_equal(reopen(&f), 0);
    expect_all(&f);
    end(&f);
}

static int read_last(fixture *f, uint64_t from)
{
    uint64_t upto;
    int rc = wal_read(f->disk, f->wal, from, f->log.end, f->buffer, &upto);
    if (!rc) {
        assert_int_equal(upto, f->log.end);
        assert_memory_equal(f->buffer + from % BLOCK, f->log.bytes + from, upto - from);
    }
    return rc;
}

static void what_is_kept_is_read_from_the_ring(void **state)
{
    (void)state;
    fixture f = begin();
    uint64_t kept = START;
    fp_wal_keep(f.wal, kept);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(append(&f, 1, 3000), 0);
        assert_int_equal(fp_wal_landing_free(f.wal), kept / BLOCK * BLOCK + RING);
        uint8_t *in_ring = (uint8_t *)f.options.landing + kept % RING;
        *in_ring ^= 1; /* it is there that it is looked for */
        assert_int_equal(read_last(&f, kept), FARPOOL_E_CORRUPT);
        *in_ring ^= 1;
        assert_int_equal(read_last(&f, kept), 0);
        fp_wal_keep(f.wal, f.log.end);
        assert_int_equal(fp_wal_landing_free(f.wal), f.log.end / BLOCK * BLOCK + RING);
        if (kept / BLOCK < f.log.end / BLOCK)
            *in_ring ^= 1; /* others may land there now */
        assert_int_equal(read_last(&f, kept), 0);
        kept = f.log.end;
    }
    /* What is further behind than a quarter of the ring is not kept, and read from the files. */
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(append(&f, 1, 6000), 0);
    assert_int_equal(fp_wal_landing_free(f.wal), (f.log.end - RING / 4) / BLOCK * BLOCK + RING);
    *((uint8_t *)f.options.landing + kept % RING) ^= 1;
    assert_int_equal(read_last(&f, kept), 0);
    end(&f);
}

/* A peer may land where what is kept from now on was: that is read from the files. */
static void what_was_not_kept_in_time_is_read_from_files(void **state)
{
    (void)state;
    fixture f = begin();
    assert_int_equal(append(&f, 1, 3000), 0);
    assert_int_equal(append(&f, 1, 6000), 0);
    uint64_t upto, end_before = f.log.end, told = fp_wal_landing_free(f.wal);
    wal_log_frame(&f.log, 1, told - end_before - 200, 3);
    assert_true(f.log.end <= told);
    land(&f);
    fp_wal_keep(f.wal, START);
    test_must(wal_read(f.disk, f.wal, START, end_before, f.buffer, &upto), "read");
    assert_int_equal(upto, end_before);
    assert_memory_equal(f.buffer + START % BLOCK, f.log.bytes + START, upto - START);
    end(&f);
}

typedef struct told {
    fp_wal_req req;
    unsigned *count;
    unsigned order;
} told;

static void tell(fp_wal_req *req)
{
    told *t = req->user;
    t->order = ++*t->count;
}

static void appends_that_wait_go_together(void **state)
{
    (void)state;
    enum { N = 20 };
    fixture f = begin();
    unsigned count = 0;
    told tolds[N];
    for (unsigned i = 0; i < N; i++)
        wal_log_frame(&f.log, 1, 500, i);
    land(&f);
    for (unsigned i = 0; i < N; i++) {
        tolds[i] = (told){.req = {.done = tell, .user = &tolds[i]}, .count = &count};
        uint64_t upto = wal_log_after(&f.log, fp_wal_end(f.wal), 1);
        assert_int_equal(fp_wal_append(f.wal, upto, &tolds[i].req), 0);
        assert_int_equal(count, 0); /* never from within the call */
    }
    disk_wait(f.disk, &count, N);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(tolds[i].req.status, 0);
        assert_int_equal(tolds[i].order, i + 1);
        assert_int_equal(tolds[i].req.lsn, tolds[N - 1].req.lsn); /* one segment, one group */
    }
    expect_all(&f);
    end(&f);
}

static void two_wals_share_a_volume(void **state)
{
    (void)state;
    fixture f = begin();
    fp_wal_options options = f.options;
    fp_wal *other;
    wal_log log;
    options.partition = PARTITION + 1;
    options.landing = disk_buffer(RING, 0);
    assert_int_equal(wal_open(f.disk, &options, &other), 0);
    wal_log_open(&log, PARTITION + 1, START);
    wal_log_frame(&log, 1, 9000, 0);
    wal_log_land(&log, options.landing, RING, START, log.end);
    assert_int_equal(append(&f, 5, 1000), 0);
    assert_int_equal(wal_append(f.disk, other, log.end), 0);
    assert_int_equal(wal_close(f.disk, other), 0);
    expect_all(&f);
    assert_int_equal(wal_open(f.disk, &options, &other), 0);
    assert_int_equal(fp_wal_end(other), log.end);
    assert_int_equal(wal_close(f.disk, other), 0);
    wal_log_close(&log);
    free(options.landing);
    end(&f);
}

static void reads_end_with_whole_frames(void **state)
{
    (void)state;
    fixture f = begin();
    uint64_t upto;
    assert_int_equal(append(&f, 10, 1000), 0);
    uint64_t first = f.log.ends[0], second = f.log.ends[1];
    assert_int_equal(wal_read(f.disk, f.wal, first, second + 999, f.buffer, &upto), 0);
    assert_int_equal(upto, second);
    assert_memory_equal(f.buffer + first % BLOCK, f.log.bytes + first, second - first);
    unsigned count = 0;
    told t = {.req = {.done = tell, .user = &t}, .count = &count};
    assert_int_equal(fp_wal_read(f.wal, first, second - 8, f.buffer, &t.req), 0);
    disk_wait(f.disk, &count, 1);
    assert_int_equal(t.req.status, 0);
    assert_int_equal(t.req.lsn, first);
    assert_int_equal(t.req.needed, second - first);
    assert_int_equal(wal_read(f.disk, f.wal, first + 8, f.log.end, f.buffer, &upto),
                     FARPOOL_E_CORRUPT);
    assert_int_equal(upto, first + 8);
    assert_int_equal(wal_read(f.disk, f.wal, START - 8, f.log.end, f.buffer, &upto),
                     FARPOOL_E_INVAL);
    assert_int_equal(wal_read(f.disk, f.wal, START, f.log.end + 8, f.buffer, &upto),
                     FARPOOL_E_INVAL);
    end(&f);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void what_is_no_frame_is_refused(void **state)
{
    (void)state;
    fixture f = begin();
    uint8_t *ring = f.options.landing;
    assert_int_equal(wal_append(f.disk, f.wal, START + 40), FARPOOL_E_CORRUPT); /* zeros */
    wal_log_frame(&f.log, 3, 1000, 0);
    wal_log_frame(&f.log, 3, 1000, 1);
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end - 8), FARPOOL_E_CORRUPT);
    assert_non_null(strstr(farpool_errmsg(), "partition 0000000000000007"));
    assert_non_null(strstr(farpool_errmsg(), "LSN 70")); /* the second one's */
    assert_int_equal(wal_append(f.disk, f.wal, START), FARPOOL_E_INVAL);
    assert_int_equal(wal_append(f.disk, f.wal, fp_wal_landing_free(f.wal) + 8), FARPOOL_E_INVAL);
    ring[START + 100] ^= 1;
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), FARPOOL_E_CORRUPT);
    ring[START + 100] ^= 1;
    wal_log other; /* another partition's */
    wal_log_open(&other, PARTITION + 1, START);
    wal_log_frame(&other, 3, 1000, 0);
    wal_log_land(&other, ring, RING, START, other.end);
    assert_int_equal(wal_append(f.disk, f.wal, other.end), FARPOOL_E_CORRUPT);
    wal_log_close(&other);
    assert_false(there_is(&f, "wal-0000000000000007-00000000")); /* nothing was written */
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), 0);
    wal_log_frame(&f.log, 2, 100, 0); /* an epoch that falls */
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), FARPOOL_E_FENCED);
    wal_log_truncate(&f.log, fp_wal_end(f.wal));
    expect_all(&f);
    end(&f);
}

static void options_are_checked(void **state)
{
    (void)state;
    fixture f = begin();
    fp_wal *wal;
    fp_wal_options options = f.options;
    options.partition = 9;
    options.start = 0;
    assert_int_equal(wal_open(f.disk, &options, &wal), FARPOOL_E_NOTFOUND);
    options.start = 68;
    assert_int_equal(wal_open(f.disk, &options, &wal), FARPOOL_E_INVAL);
    options.start = 8;
    assert_int_equal(wal_open(f.disk, &options, &wal), FARPOOL_E_INVAL);
    options.start = 64;
    options.segment_bytes = 5000;
    assert_int_equal(wal_open(f.disk, &options, &wal), FARPOOL_E_INVAL);
    options.segment_bytes = 0;
    options.landing_bytes = BLOCK;
    assert_int_equal(wal_open(f.disk, &options, &wal), FARPOOL_E_INVAL);
    end(&f);
}

static void a_promise_outlives_the_process(void **state)
{
    (void)state;
    fixture f = begin();
    assert_int_equal(append(&f, 2, 100), 0);
    assert_int_equal(wal_fence(f.disk, f.wal, 5), 0);
    assert_int_equal(wal_fence(f.disk, f.wal, 4), FARPOOL_E_FENCED);
    assert_int_equal(append(&f, 1, 100), FARPOOL_E_FENCED);
    die_and_reopen(&f);
    assert_int_equal(fp_wal_epoch(f.wal), 5);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), FARPOOL_E_CORRUPT);
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), FARPOOL_E_FENCED);
    wal_log_truncate(&f.log, fp_wal_end(f.wal));
    wal_log_frame(&f.log, 5, 100, 0);
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), 0);
    expect_all(&f);
    end(&f);
}

/* The next state cannot be written, until it is said otherwise. */
static void hinder(fixture *f, bool on)
{
    char path[4200];
    if (disk_is_sim()) {
        fp_disk_sim_fail(disk_medium(), FP_DISK_RENAME, on, ENOSPC);
        return;
    }
    snprintf(path, sizeof path, "%s/wal-%016x-state.tmp", fp_disk_path(f->disk), PARTITION);
    assert_int_equal(on ? mkdir(path, 0700) : rmdir(path), 0);
}

/* Nothing is taken in that would not count after a restart, though the promise stands in memory already. */
static void a_promise_that_is_not_durable_lets_nobody_in(void **state)
{
    (void)state;
    fixture f = begin();
    assert_int_equal(append(&f, 1, 100), 0);
    assert_int_equal(wal_fence(f.disk, f.wal, 5), 0);
    hinder(&f, true);
    assert_int_not_equal(wal_fence_from(f.disk, f.wal, 5, f.log.end + 4096), 0); /* later on */
    hinder(&f, false);
    assert_int_equal(append(&f, 1, 100), FARPOOL_E_FENCED);
    hinder(&f, true);
    assert_int_not_equal(wal_fence(f.disk, f.wal, 6), 0);
    hinder(&f, false);
    assert_int_equal(fp_wal_promised(f.wal), 5);
    assert_int_equal(wal_fence_from(f.disk, f.wal, 6, f.log.end + 4096), 0);
    assert_int_equal(fp_wal_promised(f.wal), 6);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), 0);
    die_and_reopen(&f);
    expect_all(&f);
    end(&f);
}

/* In the last block stands what has landed behind the end; after a fence it must not become part of the log. */
static void what_landed_late_is_not_part_of_the_log(void **state)
{
    (void)state;
    fixture f = begin();
    for (int i = 0; i < 4; i++)
        wal_log_frame(&f.log, 1, 200, (uint64_t)i);
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.ends[1]), 0);
    assert_int_equal(wal_fence(f.disk, f.wal, 2), 0);
    die_and_reopen(&f);
    assert_int_equal(fp_wal_end(f.wal), f.log.ends[1]);
    assert_int_equal(fp_wal_damage_found(f.wal)->kind, FP_WAL_UNDAMAGED);
    end(&f);
}

static void a_sealed_wal_takes_no_more(void **state)
{
    (void)state;
    fixture f = begin();
    assert_int_equal(append(&f, 2, 3000), 0);
    assert_int_equal(wal_seal(f.disk, f.wal), 0);
    assert_int_equal(wal_close(f.disk, f.wal), 0);
    assert_int_equal(reopen(&f), 0);
    assert_true(fp_wal_is_sealed(f.wal));
    expect_all(&f);
    assert_int_equal(append(&f, 1, 100), FARPOOL_E_REFUSED);
    end(&f);
}

static void a_trim_removes_whole_segments(void **state)
{
    (void)state;
    fixture f = begin();
    assert_int_equal(append(&f, 20, 2000), 0);
    assert_int_equal(append(&f, 1, 2000), 0); /* the segments before are closed */
    uint64_t lsn = wal_log_after(&f.log, 2 * SEGMENT, 1);
    assert_int_equal(wal_trim(f.disk, f.wal, f.log.end + 8), FARPOOL_E_INVAL);
    assert_int_equal(wal_trim(f.disk, f.wal, lsn), 0);
    assert_int_equal(fp_wal_start(f.wal), lsn); /* the first that begins there */
    assert_false(there_is(&f, "wal-0000000000000007-00000000"));
    assert_false(there_is(&f, "wal-0000000000000007-00000001"));
    assert_true(there_is(&f, "wal-0000000000000007-00000002"));
    expect_all(&f);
    assert_int_equal(wal_trim(f.disk, f.wal, START), 0); /* changes nothing */
    assert_int_equal(wal_close(f.disk, f.wal), 0);
    assert_int_equal(reopen(&f), 0);
    assert_int_equal(fp_wal_start(f.wal), lsn);
    expect_all(&f);
    end(&f);
}

/* ---- failures of the disk -------------------------------------------------------------------- */

static void a_full_volume_is_no_end(void **state)
{
    (void)state;
    if (!disk_is_sim())
        return;
    fixture f = begin();
    fp_disk_sim_config small = {.capacity_bytes = 20 * BLOCK};
    fp_disk_sim_configure(disk_medium(), &small); /* three segments and the state, twice */
    uint64_t acknowledged = START;
    while (!append(&f, 1, 3000))
        acknowledged = f.log.end;
    assert_true(acknowledged > 2 * SEGMENT);
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), FARPOOL_E_NOSPACE);
    assert_int_equal(fp_wal_end(f.wal), acknowledged);
    assert_int_equal(wal_trim(f.disk, f.wal, wal_log_after(&f.log, 2 * SEGMENT, 1)), 0);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), 0);
    expect_all(&f);
    end(&f);
}

static void fails_for_good(enum fp_disk_kind kind)
{
    fixture f = begin();
    assert_int_equal(append(&f, 3, 2000), 0);
    for (int i = 0; i < 8; i++) /* meanwhile the next segment is made */
        assert_int_equal(append(&f, 1, 40), 0);
    uint64_t acknowledged = f.log.end;
    fp_disk_sim_fail(disk_medium(), kind, 1, EIO);
    assert_int_equal(append(&f, 1, 300), FARPOOL_E_IO);
    assert_int_equal(fp_wal_end(f.wal), acknowledged);
    land(&f);
    assert_int_equal(wal_append(f.disk, f.wal, f.log.end), FARPOOL_E_IO);
    assert_non_null(strstr(farpool_errmsg(), "open it again"));
    assert_int_equal(wal_close(f.disk, f.wal), 0);
    assert_int_equal(reopen(&f), 0);
    assert_true(fp_wal_end(f.wal) == acknowledged || fp_wal_end(f.wal) == f.log.end);
    land(&f);
    if (fp_wal_end(f.wal) < f.log.end)
        assert_int_equal(wal_append(f.disk, f.wal, f.log.end), 0);
    fp_disk_sim_crash(disk_medium());
    die_and_reopen(&f);
    expect_all(&f);
    end(&f);
}

static void a_failed_write_or_sync_is_the_end(void **state)
{
    (void)state;
    if (!disk_is_sim())
        return;
    for (int i = 0; i < 10; i++) {
        fails_for_good(FP_DISK_WRITE);
        fails_for_good(FP_DISK_SYNC);
    }
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_appended_is_there_again),
        cmocka_unit_test(a_frame_may_be_longer_than_a_segment),
        cmocka_unit_test(what_is_kept_is_read_from_the_ring),
        cmocka_unit_test(what_was_not_kept_in_time_is_read_from_files),
        cmocka_unit_test(appends_that_wait_go_together),
        cmocka_unit_test(two_wals_share_a_volume),
        cmocka_unit_test(reads_end_with_whole_frames),
        cmocka_unit_test(what_is_no_frame_is_refused),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(a_promise_outlives_the_process),
        cmocka_unit_test(a_promise_that_is_not_durable_lets_nobody_in),
        cmocka_unit_test(what_landed_late_is_not_part_of_the_log),
        cmocka_unit_test(a_sealed_wal_takes_no_more),
        cmocka_unit_test(a_trim_removes_whole_segments),
        cmocka_unit_test(a_full_volume_is_no_end),
        cmocka_unit_test(a_failed_write_or_sync_is_the_end),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
