/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a crash leaves of a simulated disk: a file written, synced, renamed and dir-synced always survives whole;
 * without any one of these steps some seed loses something. And that the same seed is the same run. */
#include "common/disk/sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/disk_scope.h"

enum { BLOCK = FP_DISK_ALIGN, LEN = 4 * BLOCK, SEEDS = 200, SECTOR = 512, WHOLE = LEN / SECTOR };

typedef struct volume {
    fp_sim_world *world;
    fp_disk_medium *medium;
    fp_disk *disk;
} volume;

static void open_disk(volume *v)
{
    assert_int_equal(fp_disk_open("sim", &(fp_disk_options){.medium = v->medium}, &v->disk), 0);
}

static void open_volume(volume *v, uint64_t seed, const fp_disk_sim_config *config)
{
    static const fp_disk_sim_config plain = {0};
    assert_int_equal(fp_sim_world_open(seed, &(fp_sim_config){0}, &v->world), 0);
    assert_int_equal(fp_disk_medium_open(v->world, config ? config : &plain, &v->medium), 0);
    open_disk(v);
}

static void close_volume(volume *v)
{
    fp_disk_close(v->disk);
    fp_disk_medium_close(v->medium);
    fp_sim_world_close(v->world);
}

/* The power fails; the node starts again. */
static void crash(volume *v)
{
    fp_disk_sim_crash(v->medium);
    fp_disk_close(v->disk);
    open_disk(v);
}

static int sync_dir(volume *v)
{
    fp_disk_req req = {.kind = FP_DISK_SYNC_DIR};
    return disk_do(v->disk, &req);
}

static bool there_is(volume *v, const char *name)
{
    fp_disk_req req = {.kind = FP_DISK_OPEN, .name = name, .mode = FP_DISK_EXISTING};
    if (disk_do(v->disk, &req) == FARPOOL_E_NOTFOUND)
        return false;
    assert_int_equal(req.status, 0);
    assert_int_equal(disk_close_file(v->disk, req.file), 0);
    return true;
}

/* How many of the WHOLE sectors of the file are full of `fill`; -1: it is shorter, -2: it is not there. */
static int sectors_of(volume *v, const char *name, int fill)
{
    static _Alignas(BLOCK) uint8_t buffer[LEN];
    if (!there_is(v, name))
        return -2;
    fp_disk_file *file = disk_open_file(v->disk, name, FP_DISK_READ_ONLY);
    int rc = disk_read(v->disk, file, 0, buffer, LEN), count = 0;
    assert_int_equal(disk_close_file(v->disk, file), 0);
    if (rc)
        return -1;
    for (size_t at = 0; at < LEN; at += SECTOR) {
        assert_memory_equal(buffer + at, buffer + at + 1, SECTOR - 1); /* sectors are not torn */
        count += buffer[at] == fill;
    }
    return count;
}

static fp_disk_file *write_file(volume *v, const char *name, int fill)
{
    void *data = disk_buffer(LEN, fill);
    fp_disk_file *file = disk_open_file(v->disk, name, FP_DISK_CREATE);
    assert_int_equal(disk_write(v->disk, file, 0, data, LEN), 0);
    free(data);
    return file;
}

/* ---- the recipe ------------------------------------------------------------------------------ */

enum leave_out { NOTHING, THE_SYNC, THE_SYNC_DIR, THE_RIGHT_SYNC };

/* Replaces "file", which is durable and full of 1, by one full of 2; then the power fails. */
static int replace_and_crash(uint64_t seed, enum leave_out without, bool *old)
{
    volume v;
    open_volume(&v, seed, NULL);
    fp_disk_file *file = write_file(&v, "file", 1);
    assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0);
    assert_int_equal(sync_dir(&v), 0);
    fp_disk_file *new = write_file(&v, "file.tmp", 2);
    if (without == THE_RIGHT_SYNC)
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0); /* another one's */
    else if (without != THE_SYNC)
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, new, 0), 0);
    assert_int_equal(disk_rename(v.disk, "file.tmp", "file", true), 0);
    if (without != THE_SYNC_DIR)
        assert_int_equal(sync_dir(&v), 0);
    crash(&v);
    int sectors = sectors_of(&v, "file", 2);
    *old = sectors_of(&v, "file", 1) == WHOLE;
    if (without == NOTHING)
        assert_false(there_is(&v, "file.tmp"));
    close_volume(&v);
    return sectors;
}

static void the_whole_recipe_survives(void **state)
{
    (void)state;
    bool old;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        assert_int_equal(replace_and_crash(seed, NOTHING, &old), WHOLE);
}

static void each_missing_step_is_found_out(void **state)
{
    (void)state;
    unsigned olds = 0, news = 0;
    bool old;
    for (int without = THE_SYNC; without <= THE_RIGHT_SYNC; without++) {
        unsigned torn = 0, whole = 0, shorter = 0;
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            int sectors = replace_and_crash(seed, (enum leave_out)without, &old);
            if (without == THE_SYNC_DIR) { /* D7: one or the other, whole */
                assert_true(old || sectors == WHOLE);
                olds += old;
                news += !old;
                continue;
            }
            torn += sectors > 0 && sectors < WHOLE;
            whole += sectors == WHOLE;
            shorter += sectors == -1;
        }
        if (without != THE_SYNC_DIR)
            assert_true(torn > 0 && whole > 0 && shorter > 0);
    }
    assert_true(olds > 10 && news > 10);
}

/* D6: a SYNC says nothing about the name. */
static void a_new_name_needs_its_own_sync(void **state)
{
    (void)state;
    unsigned gone = 0, there = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        fp_disk_file *file = write_file(&v, "file", 1);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0);
        crash(&v);
        int sectors = sectors_of(&v, "file", 1);
        assert_true(sectors == -2 || sectors == WHOLE);
        gone += sectors == -2;
        there += sectors == WHOLE;
        close_volume(&v);
    }
    assert_true(gone > 10 && there > 10);
}

/* D7: each on its own, so a later one may be kept and an earlier one lost. */
static void directory_operations_are_kept_out_of_order(void **state)
{
    (void)state;
    unsigned both = 0, neither = 0, first = 0, second = 0, back = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        write_file(&v, "old", 1);
        assert_int_equal(sync_dir(&v), 0);
        write_file(&v, "a", 1);
        write_file(&v, "b", 1);
        assert_int_equal(disk_unlink(v.disk, "old"), 0);
        crash(&v);
        bool a = there_is(&v, "a"), b = there_is(&v, "b");
        both += a && b;
        neither += !a && !b;
        first += a && !b;
        second += !a && b;
        back += there_is(&v, "old");
        close_volume(&v);
    }
    assert_true(both && neither && first && second && back && back < SEEDS);
}

/* ---- what a SYNC covers ---------------------------------------------------------------------- */

static void count(fp_disk_req *req) { ++*(unsigned *)req->user; }

/* D6: what completed before it was submitted, whatever is overwritten while it is under way. */
static void a_sync_covers_what_completed_before_it(void **state)
{
    (void)state;
    unsigned newer = 0, mixed = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        fp_disk_file *file = write_file(&v, "file", 1);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0);
        assert_int_equal(sync_dir(&v), 0);
        void *two = disk_buffer(LEN, 2), *three = disk_buffer(LEN, 3);
        assert_int_equal(disk_write(v.disk, file, 0, two, LEN), 0);
        unsigned done = 0, synced = 0;
        fp_disk_req sync = {.kind = FP_DISK_SYNC, .file = file, .done = count, .user = &synced};
        fp_disk_req write = {.kind = FP_DISK_WRITE,
                             .file = file,
                             .buffer = three,
                             .len = LEN,
                             .done = count,
                             .user = &done};
        fp_disk_submit(v.disk, &sync);
        fp_disk_submit(v.disk, &write);
        disk_wait(v.disk, &synced, 1);
        crash(&v); /* the WRITE may be under way */
        int twos = sectors_of(&v, "file", 2), threes = sectors_of(&v, "file", 3);
        assert_int_equal(twos + threes, WHOLE);
        newer += threes == WHOLE;
        mixed += threes && twos;
        assert_int_equal(done, 1);
        free(two);
        free(three);
        close_volume(&v);
    }
    assert_true(newer && mixed);
}

/* Sizes go the same way; what was cut off may come back. */
static void sizes_are_kept_or_lost(void **state)
{
    (void)state;
    unsigned shorter = 0, longer = 0, back = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        fp_disk_file *file = write_file(&v, "file", 1);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0);
        assert_int_equal(sync_dir(&v), 0);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_TRUNCATE, file, 0), 0);
        if (seed % 2)
            assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_TRUNCATE, file, LEN), 0);
        if (seed % 4 == 1)
            assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0);
        crash(&v);
        int sectors = sectors_of(&v, "file", 1);
        if (seed % 2) /* that it was cut is durable */
            assert_true(sectors <= 0);
        if (seed % 4 == 1)
            assert_int_equal(sectors, 0);
        shorter += sectors == -1;
        longer += sectors == 0;
        back += sectors > 0;
        close_volume(&v);
    }
    assert_true(shorter && longer && back);
}

/* D8 */
static void after_a_failed_sync_nothing_is_sure(void **state)
{
    (void)state;
    unsigned gone_at_once = 0, gone_later = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        fp_disk_file *file = disk_open_file(v.disk, "file", FP_DISK_CREATE);
        void *data = disk_buffer(BLOCK, 1);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_TRUNCATE, file, LEN), 0);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0);
        assert_int_equal(sync_dir(&v), 0);
        assert_int_equal(disk_write(v.disk, file, 0, data, BLOCK), 0);
        fp_disk_sim_fail(v.medium, FP_DISK_SYNC, 1, EIO);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), FARPOOL_E_IO);
        int before = sectors_of(&v, "file", 1);
        assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, file, 0), 0); /* it says */
        crash(&v);
        int after = sectors_of(&v, "file", 1);
        assert_true(after <= before);
        gone_at_once += before < BLOCK / SECTOR;
        gone_later += after < before;
        free(data);
        close_volume(&v);
    }
    assert_true(gone_at_once && gone_later);
}

static void after_a_failed_sync_dir_nothing_is_sure(void **state)
{
    (void)state;
    unsigned gone = 0, there = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        write_file(&v, "file", 1);
        fp_disk_sim_fail(v.medium, FP_DISK_SYNC_DIR, 1, EIO);
        assert_int_equal(sync_dir(&v), FARPOOL_E_IO);
        assert_true(there_is(&v, "file"));
        assert_int_equal(sync_dir(&v), 0);
        crash(&v);
        gone += !there_is(&v, "file");
        there += there_is(&v, "file");
        close_volume(&v);
    }
    assert_true(gone && there);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_whole_recipe_survives),
        cmocka_unit_test(each_missing_step_is_found_out),
        cmocka_unit_test(a_new_name_needs_its_own_sync),
        cmocka_unit_test(directory_operations_are_kept_out_of_order),
        cmocka_unit_test(a_sync_covers_what_completed_before_it),
        cmocka_unit_test(sizes_are_kept_or_lost),
        cmocka_unit_test(after_a_failed_sync_nothing_is_sure),
        cmocka_unit_test(after_a_failed_sync_dir_nothing_is_sure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
