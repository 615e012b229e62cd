/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a file which takes the place of a rotten one keeps its name, whenever the last who held that lets go of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storagenode/volume_inside.h"
#include "tests/lib/disk_scope.h"

enum { BYTES = 3 * FP_FILE_BLOCK, STEPS = 16 };

static void count_volume(fp_volume_req *req) { ++*(unsigned *)req->user; }
static void count_maker(fp_maker *maker) { ++*(unsigned *)maker->user; }

static fp_volume *open_volume(fp_disk *disk)
{
    fp_volume *volume;
    unsigned done = 0;
    fp_volume_req req = {.done = count_volume, .user = &done};
    assert_int_equal(fp_volume_open(disk, &req, &volume), 0);
    disk_wait(disk, &done, 1);
    assert_int_equal(req.status, 0);
    return volume;
}

static void close_volume(fp_disk *disk, fp_volume *volume)
{
    unsigned done = 0;
    fp_volume_req req = {.done = count_volume, .user = &done};
    fp_volume_close(volume, &req);
    disk_wait(disk, &done, 1);
    fp_volume_free(volume);
}

static void start(fp_maker *maker, fp_volume *volume, unsigned *done)
{
    uint8_t *bytes = disk_buffer(BYTES, 5);
    *maker = (fp_maker){.volume = volume, .expected = BYTES, .done = count_maker, .user = done};
    assert_int_equal(fp_maker_add(maker, bytes, BYTES), 0);
    fp_maker_finish(maker);
    free(bytes);
}

static fp_file *finish(fp_disk *disk, fp_maker *maker, const unsigned *done)
{
    disk_wait(disk, done, 1);
    assert_int_equal(maker->error.status, 0);
    fp_maker_free(maker);
    return maker->file;
}

static bool is_there(fp_disk *disk, const char *wanted)
{
    fp_disk_req list = {.kind = FP_DISK_LIST};
    assert_int_equal(disk_do(disk, &list), 0);
    bool found = false;
    for (const char *name = list.names; *name; name += strlen(name) + 1)
        found |= !strcmp(name, wanted);
    free(list.names);
    return found;
}

/* After so many steps of the new one's maker. */
static void let_go_after(unsigned steps)
{
    char name[FP_FILE_NAME_MAX];
    unsigned old_done = 0, new_done = 0;
    fp_maker old, new;
    fp_disk *disk = disk_begin(NULL);
    fp_volume *volume = open_volume(disk);
    start(&old, volume, &old_done);
    fp_file *rotten = finish(disk, &old, &old_done);
    rotten->rotten = true;
    snprintf(name, sizeof name, "%s", rotten->name);
    start(&new, volume, &new_done);
    for (unsigned i = 0; i < steps && !new_done; i++)
        assert_true(fp_disk_poll(disk, 100) >= 0);
    fp_file_unref(rotten);
    fp_file *fresh = finish(disk, &new, &new_done);
    while (volume->going) /* whatever is still being removed */
        assert_true(fp_disk_poll(disk, 100) >= 0);
    assert_true(is_there(disk, name));
    fp_file_unref(fresh);
    close_volume(disk, volume);
    assert_false(is_there(disk, name));
    disk_end(disk);
}

static void who_lets_go_takes_no_name_away(void **state)
{
    (void)state;
    for (unsigned steps = 0; steps < STEPS; steps++)
        let_go_after(steps);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(who_lets_go_takes_no_name_away)};
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
