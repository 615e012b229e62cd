/* SPDX-License-Identifier: Apache-2.0 */
/* Shows each error of the disk contract that can be provoked, and that its message names what it is about (D4, D9);
 * how a volume opens where it cannot. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "tests/lib/disk_scope.h"

enum { BLOCK = FP_DISK_ALIGN };

/* The last message contains each of them; NULL ends. */
static void check_message(const char *first, ...)
{
    va_list args;
    va_start(args, first);
    for (const char *word = first; word; word = va_arg(args, const char *))
        if (!strstr(farpool_errmsg(), word))
            fail_msg("'%s' is not in: %s", word, farpool_errmsg());
    va_end(args);
}

static int open_status(fp_disk *disk, const char *name, enum fp_disk_mode mode)
{
    fp_disk_req req = {.kind = FP_DISK_OPEN, .name = name, .mode = mode};
    return disk_do(disk, &req);
}

static void files_that_are_there_or_not(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL);
    assert_int_equal(open_status(disk, "data", FP_DISK_EXISTING), FARPOOL_E_NOTFOUND);
    check_message("open of 'data'", disk_dir(), NULL);
    assert_int_equal(open_status(disk, "data", FP_DISK_READ_ONLY), FARPOOL_E_NOTFOUND);
    disk_open_file(disk, "data", FP_DISK_CREATE);
    assert_int_equal(open_status(disk, "data", FP_DISK_CREATE), FARPOOL_E_EXISTS);
    assert_int_equal(disk_unlink(disk, "nobody"), FARPOOL_E_NOTFOUND);
    check_message("unlink of 'nobody'", disk_dir(), NULL);
    assert_int_equal(disk_rename(disk, "nobody", "data", true), FARPOOL_E_NOTFOUND);
    check_message("rename of 'nobody' to 'data'", NULL);
    disk_end(disk);
}

static void names_that_are_none(void **state)
{
    (void)state;
    char long_name[FP_DISK_NAME_MAX + 2];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    const char *names[] = {"", ".", "..", "a/b", "/", "../data", long_name};
    fp_disk *disk = disk_begin(NULL);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(open_status(disk, names[i], FP_DISK_CREATE), FARPOOL_E_INVAL);
        assert_int_equal(disk_unlink(disk, names[i]), FARPOOL_E_INVAL);
        assert_int_equal(disk_rename(disk, "data", names[i], true), FARPOOL_E_INVAL);
        check_message("rename of 'data'", "without '/'", NULL);
    }
    long_name[FP_DISK_NAME_MAX] = 0; /* the longest */
    assert_int_equal(open_status(disk, long_name, FP_DISK_CREATE), 0);
    disk_end(disk);
}

/* A file of this size that is no whole number of blocks, as only an accident makes it. */
static void cut_file(fp_disk *disk, const char *name, uint64_t size)
{
    char path[600];
    if (disk_is_sim()) {
        assert_true(fp_disk_sim_cut(disk_medium(), name, size));
        return;
    }
    (void)disk;
    snprintf(path, sizeof path, "%s/%s", disk_dir(), name);
    assert_int_equal(truncate(path, (off_t)size), 0);
}

/* D4 */
static void a_read_beyond_the_end_is_an_error(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL);
    fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
    uint8_t *blocks = disk_buffer(4 * BLOCK, 7);
    assert_int_equal(disk_read(disk, file, 0, blocks, BLOCK), FARPOOL_E_CORRUPT);
    assert_int_equal(disk_write(disk, file, 0, blocks, 3 * BLOCK), 0);
    assert_int_equal(disk_read(disk, file, 2 * BLOCK, blocks, BLOCK), 0);
    assert_int_equal(disk_read(disk, file, 2 * BLOCK, blocks, 2 * BLOCK), FARPOOL_E_CORRUPT);
    check_message("read of 'data'", "8192 bytes at offset 8192", "ends before", disk_dir(), NULL);
    assert_int_equal(disk_read(disk, file, 100 * BLOCK, blocks, BLOCK), FARPOOL_E_CORRUPT);
    cut_file(disk, "data", 6000);
    assert_int_equal(disk_read(disk, file, 0, blocks, BLOCK), 0);
    assert_int_equal(disk_read(disk, file, 0, blocks, 2 * BLOCK), FARPOOL_E_CORRUPT);
    assert_int_equal(disk_read(disk, file, BLOCK, blocks, BLOCK), FARPOOL_E_CORRUPT);
    assert_int_equal(disk_write(disk, file, BLOCK, blocks, BLOCK), 0);
    assert_int_equal(disk_read(disk, file, 0, blocks, 2 * BLOCK), 0);
    free(blocks);
    disk_end(disk);
}

static fp_disk *open_at(const char *path)
{
    fp_disk *disk;
    assert_int_equal(fp_disk_open(path, NULL, &disk), 0);
    return disk;
}

/* Fills a volume of 1 MiB; what fails for want of space does so as a whole or is as D4 has it. */
static void fill(fp_disk *disk)
{
    uint8_t *big = disk_buffer(512 * BLOCK, 7);
    fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
    assert_int_equal(disk_write(disk, file, 0, big, 512 * BLOCK), FARPOOL_E_NOSPACE);
    check_message("write of 'data'", "2097152 bytes at offset 0", "free space", NULL);
    assert_int_equal(disk_file_op(disk, FP_DISK_TRUNCATE, file, 0), 0);
    assert_int_equal(disk_write(disk, file, 0, big, 100 * BLOCK), 0);
    assert_int_equal(disk_file_op(disk, FP_DISK_ALLOCATE, file, 512 * BLOCK), FARPOOL_E_NOSPACE);
    check_message("allocate of 'data' to 2097152 bytes", NULL);
    assert_int_equal(disk_close_file(disk, file), 0);
    assert_int_equal(disk_unlink(disk, "data"), 0);
    file = disk_open_file(disk, "data", FP_DISK_CREATE);
    assert_int_equal(disk_write(disk, file, 0, big, 200 * BLOCK), 0);
    assert_int_equal(disk_close_file(disk, file), 0);
    free(big);
}

static void no_space(void **state)
{
    (void)state;
    char path[256];
    if (disk_is_sim()) {
        fp_disk *disk = disk_begin(NULL);
        fp_disk_sim_configure(disk_medium(), &(fp_disk_sim_config){.capacity_bytes = 1 << 20});
        fill(disk);
        disk_end(disk);
        return;
    }
    if (disk_mount("tmpfs", "size=1m", path)) {
        fp_disk *disk = open_at(path);
        fill(disk);
        fp_disk_close(disk);
        umount(path);
        rmdir(path);
        return;
    }
    fp_disk *disk = open_at("/dev");
    void *block = disk_buffer(BLOCK, 1);
    fp_disk_file *full = disk_open_file(disk, "full", FP_DISK_EXISTING);
    assert_int_equal(disk_write(disk, full, 0, block, BLOCK), FARPOOL_E_NOSPACE);
    check_message("write of 'full'", "volume /dev", NULL);
    free(block);
    fp_disk_close(disk);
}

static void read_only_volume(void **state)
{
    (void)state;
    char path[256];
    if (disk_is_sim()) {
        fp_disk *disk = disk_begin(NULL);
        fp_disk_sim_fail(disk_medium(), FP_DISK_OPEN, 1, EROFS);
        assert_int_equal(open_status(disk, "data", FP_DISK_CREATE), FARPOOL_E_REFUSED);
        disk_end(disk);
        return;
    }
    if (!disk_mount("tmpfs", NULL, path)) {
        print_message("no tmpfs can be mounted here\n");
        skip();
    }
    assert_int_equal(mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    fp_disk *disk = open_at(path);
    assert_int_equal(open_status(disk, "data", FP_DISK_CREATE), FARPOOL_E_REFUSED);
    check_message("open of 'data'", path, "mounted read-write", NULL);
    fp_disk_close(disk);
    umount(path);
    rmdir(path);
}

/* The process's own memory is a file whose holes are read with EIO. */
static void a_device_that_fails(void **state)
{
    (void)state;
    fp_disk *disk = disk_is_sim() ? disk_begin(NULL) : open_at("/proc/self");
    fp_disk_file *file =
        disk_open_file(disk, "mem", disk_is_sim() ? FP_DISK_CREATE : FP_DISK_READ_ONLY);
    if (disk_is_sim())
        fp_disk_sim_fail(disk_medium(), FP_DISK_READ, 1, EIO);
    void *block = disk_buffer(BLOCK, 1);
    fp_disk_req req = {.kind = FP_DISK_READ, .file = file, .buffer = block, .len = BLOCK};
    assert_int_equal(disk_do(disk, &req), FARPOOL_E_IO);
    assert_int_equal(req.sys_errno, EIO);
    check_message("read of 'mem'", "4096 bytes at offset 0", "kernel's log", NULL);
    free(block);
    if (disk_is_sim())
        disk_end(disk);
    else
        fp_disk_close(disk);
}

static void larger_than_is_allowed(void **state)
{
    (void)state;
    struct rlimit old;
    fp_disk *disk = disk_begin(NULL);
    fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
    void *block = disk_buffer(BLOCK, 1);
    if (disk_is_sim())
        fp_disk_sim_fail(disk_medium(), FP_DISK_WRITE, 1, EFBIG);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 20, old.rlim_max}), 0);
    assert_int_equal(disk_write(disk, file, 1 << 20, block, BLOCK), FARPOOL_E_TOO_BIG);
    check_message("write of 'data'", "at offset 1048576", NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    free(block);
    disk_end(disk);
}

/* ---- volumes that do not open ----------------------------------------------------------------- */

static void not_a_directory(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL), *other;
    if (disk_is_sim()) {
        fp_disk_options options = {.medium = disk_medium()};
        assert_int_equal(fp_disk_open("again", &options, &other), FARPOOL_E_BUSY);
    } else {
        char path[300];
        snprintf(path, sizeof path, "%s/nobody", disk_dir());
        assert_int_equal(fp_disk_open(path, NULL, &other), FARPOOL_E_NOTFOUND);
        check_message(path, NULL);
        assert_int_equal(fp_disk_open("/dev/null", NULL, &other), FARPOOL_E_NOTFOUND);
    }
    fp_disk_options deep = {.depth = FP_DISK_DEPTH_MAX + 1, .medium = disk_medium()};
    assert_int_equal(fp_disk_open("deep", &deep, &other), FARPOOL_E_INVAL);
    disk_end(disk);
}

/* From now on io_uring_setup fails with this errno in this process. */
static void forbid_uring(int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        _exit(77);
}

static void no_uring_here(void **state)
{
    (void)state;
    static const int errors[] = {ENOSYS, EPERM};
    for (size_t i = 0; i < 2 && !disk_is_sim(); i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            fp_disk *disk;
            forbid_uring(errors[i]);
            int rc = fp_disk_open("/tmp", NULL, &disk);
            bool said = strstr(farpool_errmsg(), "seccomp") &&
                        strstr(farpool_errmsg(), "io_uring_disabled") &&
                        strstr(farpool_errmsg(), "volume /tmp");
            _exit(rc == FARPOOL_E_UNSUPPORTED && said ? 0 : 1);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFEXITED(how));
        if (WEXITSTATUS(how) == 77)
            print_message("no seccomp filter can be set here\n");
        else
            assert_int_equal(WEXITSTATUS(how), 0);
    }
}

/* What is logged while a volume's two files are opened. */
static void without_o_direct_it_says_so_once(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL);
    char text[4096];
    int pipes[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe2(pipes, O_NONBLOCK), 0);
    dup2(pipes[1], STDERR_FILENO);
    disk_open_file(disk, "a", FP_DISK_CREATE);
    disk_open_file(disk, "b", FP_DISK_CREATE);
    dup2(saved, STDERR_FILENO);
    ssize_t len = read(pipes[0], text, sizeof text - 1);
    text[len > 0 ? len : 0] = 0;
    if (strstr(disk_dir(), "farpool-mount")) { /* ramfs */
        assert_non_null(strstr(text, "no O_DIRECT"));
        assert_ptr_equal(strchr(text, '\n'), strrchr(text, '\n'));
    } else {
        assert_true(!text[0] || (!disk_is_sim() && strstr(text, "no O_DIRECT")));
    }
    close(saved);
    close(pipes[0]);
    close(pipes[1]);
    disk_end(disk);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_that_are_there_or_not),
        cmocka_unit_test(names_that_are_none),
        cmocka_unit_test(a_read_beyond_the_end_is_an_error),
        cmocka_unit_test(no_space),
        cmocka_unit_test(read_only_volume),
        cmocka_unit_test(a_device_that_fails),
        cmocka_unit_test(larger_than_is_allowed),
        cmocka_unit_test(not_a_directory),
        cmocka_unit_test(no_uring_here),
        cmocka_unit_test(without_o_direct_it_says_so_once),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
