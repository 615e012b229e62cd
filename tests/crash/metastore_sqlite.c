/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that the metastore in a SQLite file loses nothing when its writers are killed, that several processes may have
 * it, and that a file which is locked, damaged, read-only, of somebody else or on a full device gives a clear error. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "common/clock.h"
#include "tests/lib/disk_scope.h"
#include "tests/lib/meta.h"

enum { WRITERS = 3, ROUNDS = 6, PAGE = 4096 };

static char dir[256], path[300], uri[320];
static meta_log seen;

static void new_dir(const char *where)
{
    snprintf(dir, sizeof dir, "%s/metastore-XXXXXX", where);
    REQUIRE(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/meta.db", dir);
    snprintf(uri, sizeof uri, "sqlite:%s", path);
}

static void in_build(void)
{
    const char *build = getenv("FARPOOL_BUILD");
    new_dir(build ? build : "build");
}

static void remove_dir(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    REQUIRE(!system(command));
}

static int open_store(fp_meta **meta)
{
    return fp_meta_open(uri, &(fp_meta_options){.timeout_ms = 1000}, meta);
}

static fp_meta *must_open(void)
{
    fp_meta *meta;
    test_must(fp_meta_open(uri, NULL, &meta), uri);
    return meta;
}

/* ---- several processes, killed --------------------------------------------------------------- */

/* Counts, and says so on the pipe, until it is killed. */
static void count(int fd)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fp_meta *meta = must_open();
    for (;;) {
        int rc = meta_increment(meta, "counter");
        REQUIRE(!rc || rc == FARPOOL_E_EXISTS || rc == FARPOOL_E_BUSY);
        if (!rc)
            REQUIRE(write(fd, "+", 1) == 1);
    }
}

static void killed_writers_lose_nothing(void **state)
{
    (void)state;
    in_build();
    fp_meta *meta = must_open();
    meta_log_start(meta, &seen, "counter", 1);
    unsigned said = 0, killed = 0;
    for (int round = 0; round < ROUNDS; round++) {
        pid_t pids[WRITERS];
        int fds[2];
        char bytes[4096];
        REQUIRE(!pipe2(fds, O_NONBLOCK));
        for (int i = 0; i < WRITERS; i++) {
            pids[i] = fork();
            REQUIRE(pids[i] >= 0);
            if (!pids[i]) {
                fcntl(fds[1], F_SETFL, 0);
                count(fds[1]);
            }
        }
        unsigned wanted = said + 40;
        for (int i = 0; i < WRITERS; killed++, i++) {
            while (said < wanted) { /* they work; we watch */
                REQUIRE(fp_meta_poll(meta, 5) >= 0);
                ssize_t n = read(fds[0], bytes, sizeof bytes);
                said += n > 0 ? (unsigned)n : 0;
            }
            wanted += 20;
            REQUIRE(!kill(pids[i], SIGKILL) && waitpid(pids[i], NULL, 0) == pids[i]);
        }
        for (ssize_t n; (n = read(fds[0], bytes, sizeof bytes)) > 0;)
            said += (unsigned)n;
        close(fds[0]);
        close(fds[1]);
    }
    unsigned counted = (unsigned)atoi(meta_get(meta, "counter", NULL));
    assert_true(counted >= said && counted <= said + killed);
    meta_wait(meta, &seen.count, counted);
    for (unsigned i = 0; i < counted; i++)
        assert_int_equal(atoi(seen.changes[i].value), i + 1);
    fp_meta_close(meta);
    meta = must_open();
    assert_int_equal(atoi(meta_get(meta, "counter", NULL)), counted);
    fp_meta_close(meta);
    remove_dir();
}

static void many_may_open_a_new_file(void **state)
{
    (void)state;
    enum { OPENERS = 8, TIMES = 12 };
    pid_t pids[OPENERS];
    for (int times = 0; times < TIMES; times++) {
        in_build();
        for (int i = 0; i < OPENERS; i++) {
            pids[i] = fork();
            REQUIRE(pids[i] >= 0);
            if (!pids[i]) {
                fp_meta *meta = must_open();
                int rc;
                while ((rc = meta_increment(meta, "counter")) == FARPOOL_E_EXISTS)
                    ;
                test_must(rc, "count");
                fp_meta_close(meta);
                _exit(0);
            }
        }
        for (int i = 0; i < OPENERS; i++) {
            int status;
            REQUIRE(waitpid(pids[i], &status, 0) == pids[i]);
            assert_int_equal(status, 0);
        }
        fp_meta *meta = must_open();
        assert_int_equal(atoi(meta_get(meta, "counter", NULL)), OPENERS);
        fp_meta_close(meta);
        remove_dir();
    }
}

static void the_lock_is_waited_for(void **state)
{
    (void)state;
    in_build();
    sqlite3 *holder;
    fp_meta *meta = must_open();
    meta_put(meta, "k", "1");
    REQUIRE(!sqlite3_open(path, &holder) && !sqlite3_exec(holder, "BEGIN IMMEDIATE", 0, 0, 0));
    const fp_meta_op put = {.kind = FP_META_PUT, .key = "k", .value = "2", .len = 1};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &put, .op_count = 1, .timeout_ms = 300};
    uint64_t begin = fp_now_ns();
    assert_int_equal(meta_do(meta, &req), FARPOOL_E_BUSY);
    uint64_t took = fp_now_ns() - begin;
    assert_true(took >= 290000000 && took < UINT64_C(30000000000)); /* M6 */
    assert_string_equal(meta_get(meta, "k", NULL), "1");            /* readers need no lock */
    REQUIRE(!sqlite3_exec(holder, "ROLLBACK", 0, 0, 0));
    req.timeout_ms = 20000;
    assert_int_equal(meta_do(meta, &req), 0);
    sqlite3_close(holder);
    fp_meta_close(meta);
    remove_dir();
}

/* ---- leases and reboots ---------------------------------------------------------------------- */

/* Key l is there under a lease of another boot, whose clock is a year ahead of this one's. */
static uint64_t reboot(unsigned ttl_ms)
{
    sqlite3 *other;
    fp_meta *meta = must_open();
    fp_meta_req req = {.kind = FP_META_LEASE_GRANT, .ttl_ms = ttl_ms};
    assert_int_equal(meta_do(meta, &req), 0);
    uint64_t lease = req.lease;
    const fp_meta_op put = {
        .kind = FP_META_PUT, .key = "l", .value = "v", .len = 1, .lease = lease};
    req = (fp_meta_req){.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    assert_int_equal(meta_do(meta, &req), 0);
    fp_meta_close(meta);
    REQUIRE(!sqlite3_open(path, &other));
    REQUIRE(
        !sqlite3_exec(other, "UPDATE state SET boot = 'before'", 0, 0, 0) &&
        !sqlite3_exec(other, "UPDATE lease SET ends_ns = ends_ns + 31536000000000000", 0, 0, 0));
    sqlite3_close(other);
    return lease;
}

static void leases_begin_anew_after_a_reboot(void **state)
{
    (void)state;
    in_build();
    uint64_t lease = reboot(60000);
    fp_meta *meta = must_open();
    fp_meta_req req = {.kind = FP_META_LEASE_KEEP, .lease = lease};
    assert_int_equal(meta_do(meta, &req), 0);
    req = (fp_meta_req){.kind = FP_META_LEASE_LEFT, .lease = lease};
    assert_int_equal(meta_do(meta, &req), 0);
    assert_true(req.ttl_ms > 30000 && req.ttl_ms <= 60000);
    assert_string_equal(meta_get(meta, "l", NULL), "v");
    fp_meta_close(meta);
    remove_dir();
}

/* Of coordinators nobody writes as long as the key of the one that led is there. */
static void leases_end_after_a_reboot_though_all_only_look(void **state)
{
    (void)state;
    in_build();
    (void)reboot(1000);
    fp_meta *meta = must_open();
    uint64_t begin = fp_now_ns();
    for (size_t count = 1; count;) {
        fp_meta_req req = {.kind = FP_META_RANGE, .key = "l"};
        assert_int_equal(meta_do(meta, &req), 0);
        count = req.kv_count;
        free(req.kvs);
        assert_true(fp_now_ns() - begin < UINT64_C(30000000000));
    }
    fp_meta_close(meta);
    remove_dir();
}

/* ---- files that are bad ---------------------------------------------------------------------- */

static void fill(unsigned keys)
{
    fp_meta *meta = must_open();
    char key[16], value[201];
    for (unsigned i = 0; i < keys; i++) {
        snprintf(key, sizeof key, "key/%04u", i);
        memset(value, 'A' + (int)(i % 26), 200);
        value[200] = 0;
        meta_put(meta, key, value);
    }
    fp_meta_close(meta); /* the last one: the log goes into the file */
}

/* Opens and reads all; the first error. */
static int read_all(void)
{
    fp_meta *meta;
    int rc = open_store(&meta);
    if (rc)
        return rc;
    fp_meta_req req = {.kind = FP_META_RANGE, .key = ""};
    rc = meta_do(meta, &req);
    free(req.kvs);
    fp_meta_close(meta);
    return rc;
}

/* Every page in turn is damaged: the damage is told, or was where nothing is. Wrong values are never given. */
static void damage_is_told(void **state)
{
    (void)state;
    in_build();
    fill(120);
    struct stat status;
    unsigned told = 0, pages;
    char bytes[PAGE];
    REQUIRE(!stat(path, &status));
    pages = (unsigned)(status.st_size / PAGE);
    for (unsigned page = 0; page < pages; page++) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        REQUIRE(pread(fd, bytes, PAGE, (off_t)page * PAGE) == PAGE);
        char was = bytes[PAGE / 2 + 77];
        bytes[PAGE / 2 + 77] = (char)(was ^ 0x20);
        REQUIRE(pwrite(fd, bytes, PAGE, (off_t)page * PAGE) == PAGE);
        int rc = read_all();
        assert_true(rc == 0 || rc == FARPOOL_E_CORRUPT);
        told += rc != 0;
        bytes[PAGE / 2 + 77] = was;
        REQUIRE(pwrite(fd, bytes, PAGE, (off_t)page * PAGE) == PAGE);
        close(fd);
    }
    assert_true(told > pages / 4); /* values' pages at least */
    assert_int_equal(read_all(), 0);
    for (off_t size = status.st_size - PAGE; size > 0; size -= 7 * PAGE) {
        REQUIRE(!truncate(path, size));
        assert_int_equal(read_all(), FARPOOL_E_CORRUPT);
    }
    int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    memset(bytes, 'x', PAGE);
    REQUIRE(write(fd, bytes, PAGE) == PAGE);
    close(fd);
    assert_int_equal(read_all(), FARPOOL_E_CORRUPT);
    remove_dir();
}

static void files_of_others_are_left_alone(void **state)
{
    (void)state;
    in_build();
    sqlite3 *other;
    fp_meta *meta;
    REQUIRE(!sqlite3_open(path, &other));
    REQUIRE(!sqlite3_exec(other, "CREATE TABLE theirs (x)", 0, 0, 0));
    assert_int_equal(open_store(&meta), FARPOOL_E_INVAL);
    REQUIRE(!sqlite3_exec(other, "INSERT INTO theirs VALUES (1)", 0, 0, 0));
    sqlite3_close(other);
    remove_dir();
    in_build();
    fill(1);
    REQUIRE(!sqlite3_open(path, &other));
    REQUIRE(!sqlite3_exec(other, "PRAGMA user_version = 2", 0, 0, 0));
    sqlite3_close(other);
    assert_int_equal(open_store(&meta), FARPOOL_E_UNSUPPORTED);
    remove_dir();
    assert_int_equal(open_store(&meta), FARPOOL_E_REFUSED); /* no such directory */
}

static void read_only_and_full(void **state)
{
    (void)state;
    enum { BYTES = 100000 };
    char mounted[256];
    fp_meta *meta;
    if (!disk_mount("tmpfs", "size=1m", mounted)) {
        print_message("not run: no tmpfs can be mounted here\n");
        return;
    }
    new_dir(mounted);
    char *big = calloc(1, BYTES);
    char key[16];
    fp_meta_op put = {.kind = FP_META_PUT, .key = key, .value = big, .len = BYTES};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    unsigned keys = 0;
    meta = must_open();
    do {
        snprintf(key, sizeof key, "k%03u", keys);
    } while (!meta_do(meta, &req) && ++keys < 100);
    assert_int_equal(req.status, FARPOOL_E_NOSPACE);
    fp_meta_req list = {.kind = FP_META_RANGE, .key = ""};
    assert_int_equal(meta_do(meta, &list), 0); /* what was said is there, and nothing else */
    assert_int_equal(list.kv_count, keys);
    free(list.kvs);
    REQUIRE(!mount(NULL, mounted, NULL, MS_REMOUNT, "size=8m"));
    assert_int_equal(meta_do(meta, &req), 0);
    fp_meta_close(meta);
    REQUIRE(!mount(NULL, mounted, NULL, MS_REMOUNT | MS_RDONLY, NULL));
    assert_int_equal(open_store(&meta), FARPOOL_E_REFUSED);
    free(big);
    umount(mounted);
    rmdir(mounted);
}

/* What is written to a file that nobody can open again is not kept. */
static void a_file_that_is_removed_is_told(void **state)
{
    (void)state;
    char away[310];
    in_build();
    fp_meta *meta = must_open();
    fp_meta_op put = {.kind = FP_META_PUT, .key = "a", .value = "1", .len = 1};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    assert_int_equal(meta_do(meta, &req), 0);
    snprintf(away, sizeof away, "%s.away", path);
    REQUIRE(!rename(path, away));
    assert_int_equal(meta_do(meta, &req), FARPOOL_E_REFUSED);
    assert_non_null(strstr(farpool_errmsg(), "removed or replaced"));
    REQUIRE(!rename(away, path));
    assert_int_equal(meta_do(meta, &req), 0);
    fp_meta_close(meta);
    remove_dir();
}

/* ---- history --------------------------------------------------------------------------------- */

static void history_is_trimmed(void **state)
{
    (void)state;
    in_build();
    fp_meta *meta;
    char value[16];
    test_must(fp_meta_open(uri, &(fp_meta_options){.history = 20}, &meta), uri);
    uint64_t first = meta_put(meta, "once", "kept");
    for (int i = 0; i < 200; i++) {
        snprintf(value, sizeof value, "%d", i);
        meta_put(meta, "often", value);
    }
    meta_log_start(meta, &seen, "", first);
    meta_wait(meta, &seen.ended, 1);
    assert_int_equal(seen.watch.status, FARPOOL_E_COMPACTED);
    assert_true(seen.watch.compacted > first + 150 && seen.watch.compacted <= first + 180);
    meta_log_start(meta, &seen, "", first + 181);
    meta_wait(meta, &seen.count, 20);
    assert_string_equal(seen.changes[19].value, "199");
    assert_string_equal(meta_get(meta, "once", NULL), "kept");
    fp_meta_close(meta);
    sqlite3 *other;
    sqlite3_stmt *rows;
    REQUIRE(!sqlite3_open(path, &other) &&
            !sqlite3_prepare_v2(other, "SELECT count(*) FROM change", -1, &rows, NULL));
    REQUIRE(sqlite3_step(rows) == SQLITE_ROW);
    assert_true(sqlite3_column_int(rows, 0) <= 2 + 25);
    sqlite3_finalize(rows);
    sqlite3_close(other);
    remove_dir();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_writers_lose_nothing),
        cmocka_unit_test(many_may_open_a_new_file),
        cmocka_unit_test(the_lock_is_waited_for),
        cmocka_unit_test(leases_begin_anew_after_a_reboot),
        cmocka_unit_test(leases_end_after_a_reboot_though_all_only_look),
        cmocka_unit_test(damage_is_told),
        cmocka_unit_test(files_of_others_are_left_alone),
        cmocka_unit_test(history_is_trimmed),
        cmocka_unit_test(read_only_and_full),
        cmocka_unit_test(a_file_that_is_removed_is_told),
    };
    return cmocka_run_group_tests_name("sqlite", tests, NULL, NULL);
}
