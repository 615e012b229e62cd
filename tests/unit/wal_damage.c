/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what opening a WAL says about files that are rotten, cut, lost or mixed up; that it ends before the damage
 * and can be appended to again; and that what a crash leaves of an unfinished append is no damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/redo.h"
#include "tests/lib/disk_scope.h"
#include "tests/lib/wal_log.h"

enum { BLOCK = FP_DISK_ALIGN, SEGMENT = 4 * BLOCK, RING = 16 * BLOCK, PARTITION = 7, START = 6000 };

#define FILE_OF(number) "wal-0000000000000007-0000000" number

typedef struct fixture {
    fp_disk *disk;
    fp_wal_options options;
    wal_log log;
    fp_wal *wal;
} fixture;

static void append_rest(fixture *f)
{
    while (fp_wal_end(f->wal) < f->log.end) {
        uint64_t end = fp_wal_end(f->wal), upto = wal_log_after(&f->log, end, 10);
        wal_log_land(&f->log, f->options.landing, RING, end, upto);
        assert_int_equal(wal_append(f->disk, f->wal, upto), 0);
    }
}

static int reopen(fixture *f) { return wal_open(f->disk, &f->options, &f->wal); }

/* Segments 0 to 3 are full of frames, 4 has some. */
static fixture begin(void)
{
    fixture f = {.disk = disk_begin(NULL),
                 .options = {.partition = PARTITION,
                             .landing = disk_buffer(RING, 0),
                             .landing_bytes = RING,
                             .start = START,
                             .segment_bytes = SEGMENT}};
    wal_log_open(&f.log, PARTITION, START);
    assert_int_equal(reopen(&f), 0);
    while (f.log.end < 4 * SEGMENT + 2 * BLOCK) {
        wal_log_frame(&f.log, 1, 1000, 0);
        append_rest(&f);
    }
    return f;
}

static void end(fixture *f)
{
    if (f->wal)
        assert_int_equal(wal_close(f->disk, f->wal), 0);
    disk_end(f->disk);
    wal_log_close(&f->log);
    free(f->options.landing);
}

static void close_wal(fixture *f)
{
    assert_int_equal(wal_close(f->disk, f->wal), 0);
    f->wal = NULL;
}

/* Without a word: its last state file says little. */
static void kill_wal(fixture *f)
{
    fp_wal *dead = f->wal;
    f->disk = disk_again(f->disk);
    fp_wal_free(dead);
    f->wal = NULL;
}

/* ---- rot ------------------------------------------------------------------------------------- */

static void change_block(fixture *f, const char *name, uint64_t offset, uint64_t flip_at, bool zero)
{
    uint8_t *block = disk_buffer(BLOCK, 0);
    fp_disk_file *file = disk_open_file(f->disk, name, FP_DISK_EXISTING);
    assert_int_equal(disk_read(f->disk, file, offset, block, BLOCK), 0);
    block[flip_at] ^= 4;
    if (zero)
        memset(block, 0, BLOCK);
    assert_int_equal(disk_write(f->disk, file, offset, block, BLOCK), 0);
    assert_int_equal(disk_close_file(f->disk, file), 0);
    free(block);
}

static void flip(fixture *f, uint64_t lsn)
{
    const char *const names[] = {FILE_OF("0"), FILE_OF("1"), FILE_OF("2"), FILE_OF("3"),
                                 FILE_OF("4")};
    change_block(f, names[lsn / SEGMENT], BLOCK + lsn % SEGMENT / BLOCK * BLOCK, lsn % BLOCK,
                 false);
}

static void cut(fixture *f, const char *name, uint64_t size)
{
    fp_disk_file *file = disk_open_file(f->disk, name, FP_DISK_EXISTING);
    assert_int_equal(disk_file_op(f->disk, FP_DISK_TRUNCATE, file, size), 0);
    assert_int_equal(disk_close_file(f->disk, file), 0);
}

static void copy_over(fixture *f, const char *from, const char *to)
{
    uint8_t *all = disk_buffer(BLOCK + SEGMENT, 0);
    fp_disk_file *file = disk_open_file(f->disk, from, FP_DISK_READ_ONLY);
    assert_int_equal(disk_read(f->disk, file, 0, all, BLOCK + SEGMENT), 0);
    assert_int_equal(disk_close_file(f->disk, file), 0);
    file = disk_open_file(f->disk, to, FP_DISK_EXISTING);
    assert_int_equal(disk_write(f->disk, file, 0, all, BLOCK + SEGMENT), 0);
    assert_int_equal(disk_close_file(f->disk, file), 0);
    free(all);
}

/* ---- what is said ---------------------------------------------------------------------------- */

/* The end of the last frame that ends at or before lsn. */
static uint64_t frame_before(const fixture *f, uint64_t lsn)
{
    uint64_t found = START;
    for (size_t i = 0; i < f->log.count && f->log.ends[i] <= lsn; i++)
        found = f->log.ends[i];
    return found;
}

/* Opens it: the log ends with the last frame before `lsn`. Then goes on from there, and all is well again. */
static void expect_damage(fixture *f, enum fp_wal_damage_kind kind, const char *file,
                          uint64_t offset, uint64_t lsn, bool more_behind)
{
    uint64_t at = frame_before(f, lsn), upto;
    assert_int_equal(reopen(f), 0);
    fp_wal_damage damage = *fp_wal_damage_found(f->wal);
    assert_int_equal(damage.kind, kind);
    assert_string_equal(damage.file, file);
    assert_int_equal(damage.offset, offset);
    assert_int_equal(damage.lsn, at);
    assert_int_equal(fp_wal_end(f->wal), at);
    assert_true(damage.upto > at && damage.upto <= f->log.end);
    assert_int_equal(damage.behind > 0, more_behind);
    assert_true(damage.behind < f->log.end - at);
    kill_wal(f); /* before anything is appended nothing changes */
    assert_int_equal(reopen(f), 0);
    assert_memory_equal(fp_wal_damage_found(f->wal), &damage, sizeof damage);
    append_rest(f);
    kill_wal(f);
    assert_int_equal(reopen(f), 0);
    assert_int_equal(fp_wal_damage_found(f->wal)->kind, FP_WAL_UNDAMAGED);
    assert_int_equal(fp_wal_end(f->wal), f->log.end);
    uint8_t *all = disk_buffer(8 * SEGMENT, 0);
    assert_int_equal(wal_read(f->disk, f->wal, START, f->log.end, all, &upto), 0);
    assert_int_equal(upto, f->log.end);
    assert_memory_equal(all + START % BLOCK, f->log.bytes + START, upto - START);
    free(all);
}

/* Each in a WAL that was closed, and in one that was not. */
#define TWICE(f)                                                                                   \
    for (int twice = 0; twice < 2; twice++)                                                        \
        for (fixture f = begin(); f.disk; end(&f), f.disk = NULL)                                  \
            for (bool once = (twice ? close_wal(&f) : kill_wal(&f), true); once; once = false)

static uint64_t offset_of(uint64_t lsn) { return BLOCK + lsn % SEGMENT; }

static void a_flipped_bit(void **state)
{
    (void)state;
    TWICE(f)
    {
        flip(&f, 2 * SEGMENT + 5000);
        uint64_t at = frame_before(&f, 2 * SEGMENT + 5000);
        expect_damage(&f, FP_WAL_BAD_FRAME, FILE_OF("2"), offset_of(at), at, true);
    }
    TWICE(f) /* the first frame */
    {
        flip(&f, START + 8);
        expect_damage(&f, FP_WAL_BAD_FRAME, FILE_OF("0"), offset_of(START), START, true);
    }
    fixture f = begin(); /* the last frame of a WAL that was closed */
    close_wal(&f);
    flip(&f, f.log.end - 8);
    uint64_t at = frame_before(&f, f.log.end - 8);
    expect_damage(&f, FP_WAL_BAD_FRAME, FILE_OF("4"), offset_of(at), at, false);
    end(&f);
}

static void a_hole(void **state)
{
    (void)state;
    TWICE(f)
    {
        change_block(&f, FILE_OF("3"), 2 * BLOCK, 0, true);
        uint64_t at = frame_before(&f, 3 * SEGMENT + BLOCK);
        expect_damage(&f, FP_WAL_BAD_FRAME, FILE_OF("3"), offset_of(at), at, true);
    }
}

static void a_bad_header(void **state)
{
    (void)state;
    TWICE(f)
    {
        change_block(&f, FILE_OF("2"), 0, 20, false);
        expect_damage(&f, FP_WAL_BAD_HEADER, FILE_OF("2"), 0, 2 * SEGMENT, true);
    }
    TWICE(f)
    {
        change_block(&f, FILE_OF("0"), 0, 0, true);
        expect_damage(&f, FP_WAL_BAD_HEADER, FILE_OF("0"), 0, START, true);
    }
    TWICE(f) /* the last that has something */
    {
        change_block(&f, FILE_OF("4"), 0, 0, true);
        expect_damage(&f, FP_WAL_BAD_HEADER, FILE_OF("4"), 0, 4 * SEGMENT, false);
    }
}

static void a_file_that_was_cut(void **state)
{
    (void)state;
    TWICE(f)
    {
        cut(&f, FILE_OF("1"), 3 * BLOCK);
        expect_damage(&f, FP_WAL_CUT_FILE, FILE_OF("1"), 3 * BLOCK, SEGMENT + 2 * BLOCK, true);
    }
    TWICE(f)
    {
        cut(&f, FILE_OF("1"), 0);
        expect_damage(&f, FP_WAL_BAD_HEADER, FILE_OF("1"), 0, SEGMENT, true);
    }
}

static void a_lost_file(void **state)
{
    (void)state;
    TWICE(f)
    {
        assert_int_equal(disk_unlink(f.disk, FILE_OF("1")), 0);
        expect_damage(&f, FP_WAL_MISSING, FILE_OF("1"), 0, SEGMENT, true);
    }
    TWICE(f) /* the last that has something: the mark of the one before is behind its own end */
    {
        assert_int_equal(disk_unlink(f.disk, FILE_OF("4")), 0);
        fp_disk_req req = {.kind = FP_DISK_UNLINK, .name = FILE_OF("5")}; /* if it is there yet */
        (void)disk_do(f.disk, &req);
        expect_damage(&f, FP_WAL_MISSING, FILE_OF("4"), 0, 4 * SEGMENT, false);
    }
}

static void another_ones_file(void **state)
{
    (void)state;
    TWICE(f)
    {
        copy_over(&f, FILE_OF("1"), FILE_OF("3"));
        expect_damage(&f, FP_WAL_BAD_HEADER, FILE_OF("3"), 0, 3 * SEGMENT, true);
    }
}

static void the_state_file(void **state)
{
    (void)state;
    fixture f = begin();
    const char *name = "wal-0000000000000007-state";
    close_wal(&f);
    change_block(&f, name, 0, 40, false);
    assert_int_equal(reopen(&f), 0); /* there are two copies of it */
    assert_int_equal(fp_wal_end(f.wal), f.log.end);
    assert_int_equal(fp_wal_damage_found(f.wal)->kind, FP_WAL_UNDAMAGED);
    close_wal(&f);
    change_block(&f, name, 0, 40, false);
    change_block(&f, name, BLOCK, 0, true);
    assert_int_equal(reopen(&f), FARPOOL_E_CORRUPT);
    assert_non_null(strstr(farpool_errmsg(), name));
    assert_int_equal(disk_unlink(f.disk, name), 0);
    assert_int_equal(reopen(&f), FARPOOL_E_CORRUPT);
    end(&f);
}

/* It is no damage, and the WAL is not begun anew over it. */
static void a_state_of_another_version(void **state)
{
    (void)state;
    enum { VERSION_AT = 8 };
    fixture f = begin();
    const char *name = "wal-0000000000000007-state";
    close_wal(&f);
    change_block(&f, name, 0, VERSION_AT, false);
    change_block(&f, name, BLOCK, VERSION_AT, false);
    assert_int_equal(reopen(&f), FARPOOL_E_UNSUPPORTED);
    assert_non_null(strstr(farpool_errmsg(), name));
    assert_non_null(strstr(farpool_errmsg(), "version 6"));
    assert_int_equal(wal_restart(f.disk, &f.options), FARPOOL_E_UNSUPPORTED);
    change_block(&f, name, 0, VERSION_AT, false);
    assert_int_equal(reopen(&f), 0);
    assert_int_equal(fp_wal_end(f.wal), f.log.end);
    end(&f);
}

/* Frames behind the end that never were acknowledged: one is torn, the next is whole. */
static void a_torn_tail_is_no_damage(void **state)
{
    (void)state;
    TWICE(f)
    {
        uint64_t at = f.log.end, segment = at / SEGMENT * SEGMENT, to = at;
        uint8_t *all = disk_buffer(SEGMENT, 0);
        for (int i = 0; i < 5; i++, to = f.log.end)
            wal_log_frame(&f.log, 1, 500, 0);
        memcpy(all, f.log.bytes + segment, to - segment);
        all[at - segment + 100] ^= 1;
        fp_disk_file *file = disk_open_file(f.disk, FILE_OF("4"), FP_DISK_EXISTING);
        assert_int_equal(disk_write(f.disk, file, BLOCK, all, SEGMENT), 0);
        assert_int_equal(disk_close_file(f.disk, file), 0);
        free(all);
        assert_int_equal(reopen(&f), 0);
        assert_int_equal(fp_wal_end(f.wal), at);
        assert_int_equal(fp_wal_damage_found(f.wal)->kind, FP_WAL_UNDAMAGED);
        append_rest(&f);
        kill_wal(&f);
        assert_int_equal(reopen(&f), 0);
        assert_int_equal(fp_wal_end(f.wal), f.log.end);
    }
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flipped_bit),
        cmocka_unit_test(a_hole),
        cmocka_unit_test(a_bad_header),
        cmocka_unit_test(a_file_that_was_cut),
        cmocka_unit_test(a_lost_file),
        cmocka_unit_test(another_ones_file),
        cmocka_unit_test(the_state_file),
        cmocka_unit_test(a_state_of_another_version),
        cmocka_unit_test(a_torn_tail_is_no_damage),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
