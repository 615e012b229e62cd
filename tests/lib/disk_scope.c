/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/disk_scope.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/lib/require.h"

static char base[200], dir[256];
static fp_sim_world *world;
static fp_disk_medium *medium;
static const fp_disk_sim_config plain = {0};

bool disk_is_sim(void) { return world; }
fp_sim_world *disk_world(void) { return world; }
fp_disk_medium *disk_medium(void) { return medium; }
const char *disk_dir(void) { return dir; }

static void make_base(const char *where)
{
    REQUIRE(snprintf(base, sizeof base, "%s/farpool-disk-XXXXXX", where) < (int)sizeof base);
    REQUIRE(mkdtemp(base));
}

static const char *build_dir(void)
{
    const char *build = getenv("FARPOOL_BUILD");
    return build ? build : "build";
}

bool disk_mount(const char *type, const char *options, char path[256])
{
    static bool own_namespace;
    if (!own_namespace) {
        if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
            return false;
        own_namespace = true;
    }
    snprintf(path, 256, "%s/farpool-mount-XXXXXX", build_dir());
    REQUIRE(mkdtemp(path));
    if (!mount("farpool-test", path, type, 0, options))
        return true;
    rmdir(path);
    return false;
}

static bool there_is_uring(void)
{
    fp_disk *disk;
    int rc = fp_disk_open("/", NULL, &disk);
    if (!rc)
        fp_disk_close(disk);
    else
        printf("not run on uring: %s\n", farpool_errmsg());
    return rc != FARPOOL_E_UNSUPPORTED;
}

static int uring_groups(int (*group)(const char *name))
{
    int failures = 0;
    char mounted[256];
    make_base(build_dir());
    failures += group("uring");
    rmdir(base);
    make_base("/dev/shm");
    failures += group("uring, in memory");
    rmdir(base);
    if (disk_mount("ramfs", NULL, mounted)) {
        make_base(mounted);
        failures += group("uring, without O_DIRECT");
        umount(mounted);
        rmdir(mounted);
    } else {
        printf("not run without O_DIRECT: no ramfs can be mounted here\n");
    }
    return failures;
}

int disk_for_each(int (*group)(const char *name))
{
    alarm(900); /* a test that hangs fails */
    int failures = there_is_uring() ? uring_groups(group) : 0;
    const char *seed = getenv("SEED");
    fp_sim_config config = {.late = true};
    test_must(fp_sim_world_open(seed ? strtoull(seed, NULL, 10) : 1, &config, &world), "world");
    snprintf(base, sizeof base, "simulated");
    int failed = group("sim");
    if (!failed) /* a test that has failed leaves its disk open */
        fp_sim_world_close(world);
    return failures + failed;
}

static fp_disk *open_volume(const fp_disk_options *options)
{
    fp_disk_options with_medium = {0};
    if (options)
        with_medium = *options;
    with_medium.medium = medium;
    fp_disk *disk;
    test_must(fp_disk_open(dir, &with_medium, &disk), "fp_disk_open");
    return disk;
}

fp_disk *disk_begin(const fp_disk_options *options)
{
    static unsigned count;
    snprintf(dir, sizeof dir, "%s/volume-%u", base, ++count);
    if (world)
        test_must(fp_disk_medium_open(world, &plain, &medium), "medium");
    else
        REQUIRE(!mkdir(dir, 0750));
    return open_volume(options);
}

fp_disk *disk_again(fp_disk *disk)
{
    fp_disk_close(disk);
    return open_volume(NULL);
}

void disk_end(fp_disk *disk)
{
    if (world) {
        fp_disk_close(disk);
        fp_disk_medium_close(medium);
        medium = NULL;
        return;
    }
    fp_disk_req list = {.kind = FP_DISK_LIST};
    test_must(disk_do(disk, &list), "list");
    for (char *name = list.names; *name; name += strlen(name) + 1)
        test_must(disk_unlink(disk, name), "unlink");
    free(list.names);
    fp_disk_close(disk);
    REQUIRE(!rmdir(dir));
}

/* ---- requests -------------------------------------------------------------------------------- */

static void count_one(fp_disk_req *req) { ++*(unsigned *)req->user; }

void disk_wait(fp_disk *disk, const unsigned *counter, unsigned wanted)
{
    uint64_t end = fp_now_ns() + DISK_WAIT_MS * UINT64_C(1000000);
    while (*counter < wanted) {
        REQUIRE(fp_now_ns() < end);
        REQUIRE(fp_disk_poll(disk, 100) >= 0);
    }
}

int disk_do(fp_disk *disk, fp_disk_req *req)
{
    unsigned done = 0;
    req->done = count_one;
    req->user = &done;
    fp_disk_submit(disk, req);
    disk_wait(disk, &done, 1);
    REQUIRE(done == 1);
    return req->status;
}

fp_disk_file *disk_open_file(fp_disk *disk, const char *name, enum fp_disk_mode mode)
{
    fp_disk_req req = {.kind = FP_DISK_OPEN, .name = name, .mode = mode};
    test_must(disk_do(disk, &req), name);
    return req.file;
}

int disk_close_file(fp_disk *disk, fp_disk_file *file)
{
    fp_disk_req req = {.kind = FP_DISK_CLOSE, .file = file};
    return disk_do(disk, &req);
}

int disk_write(fp_disk *disk, fp_disk_file *file, uint64_t offset, const void *data, size_t len)
{
    fp_disk_req req = {.kind = FP_DISK_WRITE,
                       .file = file,
                       .offset = offset,
                       .buffer = (void *)(uintptr_t)data,
                       .len = len};
    return disk_do(disk, &req);
}

int disk_read(fp_disk *disk, fp_disk_file *file, uint64_t offset, void *data, size_t len)
{
    fp_disk_req req = {
        .kind = FP_DISK_READ, .file = file, .offset = offset, .buffer = data, .len = len};
    return disk_do(disk, &req);
}

int disk_file_op(fp_disk *disk, enum fp_disk_kind kind, fp_disk_file *file, uint64_t size)
{
    fp_disk_req req = {.kind = kind, .file = file, .size = size};
    return disk_do(disk, &req);
}

int disk_rename(fp_disk *disk, const char *name, const char *new_name, bool replace)
{
    fp_disk_req req = {
        .kind = FP_DISK_RENAME, .name = name, .new_name = new_name, .replace = replace};
    return disk_do(disk, &req);
}

int disk_unlink(fp_disk *disk, const char *name)
{
    fp_disk_req req = {.kind = FP_DISK_UNLINK, .name = name};
    return disk_do(disk, &req);
}

void *disk_buffer(size_t len, int fill)
{
    void *buffer = aligned_alloc(FP_DISK_ALIGN, len);
    REQUIRE(buffer);
    memset(buffer, fill, len);
    return buffer;
}
