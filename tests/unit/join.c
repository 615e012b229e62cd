/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what a storage node makes of a fork of the log: a beginning of the log goes on as that, and takes no more of the one
 * before; another one is given away no more, whatever crashes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/redo.h"
#include "tests/lib/logclient.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { P = 3, FRAME = 4096, FORK = 5 };

static struct {
    fp_sim_world *world;
    sim_storage storage, peer;
    logclient c;
    wal_log log;
} f;

static void connect_to(const sim_storage *storage)
{
    fp_net_options options = {.world = f.world, .node = "client"};
    test_must(logclient_open(&f.c, storage->uri, &options), "connecting");
}

static int open_as(uint64_t epoch, fp_lineage lineage)
{
    int rc = logclient_ask(&f.c, (fp_msg){.type = FP_MSG_WAL_OPEN,
                                          .partition = P,
                                          .epoch = epoch,
                                          .bytes = FRAME,
                                          .lsn = FP_REDO_LSN_FIRST,
                                          .lineage = lineage});
    f.c.partition = P;
    f.c.epoch = epoch;
    if (rc == FP_MSG_WAL_STATE && f.c.msg.wal.streaming) {
        f.c.landed = f.c.msg.wal.end;
        f.c.landing = f.c.msg.wal.landing;
        f.c.landing_free = f.c.msg.wal.landing_free;
    }
    return rc;
}

static void add(unsigned count, uint64_t epoch)
{
    while (count--)
        wal_log_frame(&f.log, epoch, 200, 0);
}

static int set_up(void **state)
{
    static const fp_sim_config config = {.torn = true};
    (void)state;
    test_must(fp_sim_world_open(test_seed(20261130), &config, &f.world), "opening a world");
    sim_storage_open(&f.storage, f.world, 0);
    sim_storage_open(&f.peer, f.world, 1);
    connect_to(&f.storage);
    wal_log_open(&f.log, P, FP_REDO_LSN_FIRST);
    assert_int_equal(open_as(1, (fp_lineage){0}), FP_MSG_WAL_STATE);
    add(10, 1);
    assert_int_equal(logclient_stream(&f.c, &f.log, f.log.end), FP_MSG_WAL_STATE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    logclient_close(&f.c);
    wal_log_close(&f.log);
    sim_storage_close(&f.storage);
    sim_storage_close(&f.peer);
    fp_sim_world_close(f.world);
    return 0;
}

static void cut_power(void)
{
    logclient_close(&f.c);
    sim_storage_crash(&f.storage);
    sim_storage_restart(&f.storage);
    connect_to(&f.storage);
}

static fp_lineage fork_at(uint64_t lsn) { return (fp_lineage){.count = 1, .forks = {{FORK, lsn}}}; }

static int join(fp_lineage lineage)
{
    return logclient_ask(
        &f.c, (fp_msg){.type = FP_MSG_WAL_JOIN, .partition = P, .epoch = FORK, .lineage = lineage});
}

static int get(enum fp_msg_type type, uint64_t fork)
{
    fp_msg msg = {.type = type, .partition = P, .lsn = f.log.end, .fork = fork};
    return logclient_ask(&f.c, msg);
}

static void a_beginning_of_the_log_goes_on(void **state)
{
    (void)state;
    uint64_t end = f.log.end;
    assert_int_equal(join(fork_at(end)), FP_MSG_WAL_STATE);
    assert_true(fp_lineage_number(&f.c.msg.lineage) == FORK && !f.c.msg.wal.streaming);
    cut_power();
    assert_int_equal(get(FP_MSG_WAL_GET, 0), FP_MSG_WAL_STATE);
    assert_true(fp_lineage_number(&f.c.msg.lineage) == FORK && f.c.msg.wal.end == end);
    assert_int_equal(get(FP_MSG_LOG_GET, 0), FARPOOL_E_RETRY);
    assert_int_equal(get(FP_MSG_PAGE_GET, 0), FARPOOL_E_RETRY);
    assert_int_equal(get(FP_MSG_MANIFEST_GET, 0), FARPOOL_E_RETRY);
    assert_int_equal(get(FP_MSG_LOG_GET, FORK), FP_MSG_LOG);
    assert_int_equal(get(FP_MSG_PAGE_GET, FORK), FARPOOL_E_NOTFOUND);
    assert_int_equal(open_as(FORK, (fp_lineage){0}), FARPOOL_E_RETRY);
    assert_int_equal(join((fp_lineage){0}), FARPOOL_E_FENCED);
    assert_int_equal(open_as(FORK, fork_at(end)), FP_MSG_WAL_STATE);
    add(1, FORK);
    assert_int_equal(logclient_stream(&f.c, &f.log, f.log.end), FP_MSG_WAL_STATE);
}

/* It goes on as the log before, gives that away, and joins when it is told again; whether the new state is there or not. */
static void a_join_that_fails_is_done_again(void **state)
{
    static const enum fp_disk_kind kinds[] = {FP_DISK_OPEN, FP_DISK_WRITE, FP_DISK_SYNC,
                                              FP_DISK_RENAME, FP_DISK_SYNC_DIR};
    (void)state;
    fp_lineage lineage = {0};
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        uint64_t before = fp_lineage_number(&lineage), fork = FORK + k;
        fp_lineage_fork(&lineage, f.log.end, fork);
        fp_disk_sim_fail(f.storage.medium, kinds[k], 1, EIO);
        assert_int_equal(join(lineage), FARPOOL_E_IO);
        assert_int_equal(get(FP_MSG_WAL_GET, 0), FP_MSG_WAL_STATE);
        assert_int_equal(fp_lineage_number(&f.c.msg.lineage), before);
        assert_int_equal(get(FP_MSG_LOG_GET, before), FP_MSG_LOG);
        assert_int_equal(get(FP_MSG_LOG_GET, fork), FARPOOL_E_RETRY);
        assert_int_equal(join(lineage), FP_MSG_WAL_STATE);
        assert_int_equal(fp_lineage_number(&f.c.msg.lineage), fork);
        assert_int_equal(open_as(fork, lineage), FP_MSG_WAL_STATE);
        add(1, fork);
        assert_int_equal(logclient_stream(&f.c, &f.log, f.log.end), FP_MSG_WAL_STATE);
    }
}

/* It goes on as the log before up to the fork, and no further. */
static void a_shorter_one_gets_what_is_missing(void **state)
{
    (void)state;
    wal_log behind;
    add(5, 1);
    uint64_t fork = f.log.end;
    assert_int_equal(join(fork_at(fork)), FP_MSG_WAL_STATE);
    assert_int_equal(open_as(1, fork_at(fork)), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_stream(&f.c, &f.log, fork), FP_MSG_WAL_STATE);
    wal_log_open(&behind, P, fork);
    wal_log_frame(&behind, 1, 200, 0);
    assert_int_equal(logclient_stream(&f.c, &behind, behind.end), FARPOOL_E_FENCED);
    wal_log_close(&behind);
    f.c.landed = fork;
    add(1, FORK);
    assert_int_equal(logclient_stream(&f.c, &f.log, f.log.end), FP_MSG_WAL_STATE);
}

/* The last block was written with what had landed in it: a crash finds it there, but it is not of this log. */
static void what_has_landed_of_the_log_before_does_not_count(void **state)
{
    (void)state;
    add(1, 1);
    uint64_t fork = f.log.end;
    add(3, 1);
    assert_int_equal(logclient_land(&f.c, &f.log, f.log.end), 0);
    uint32_t before = f.c.sent;
    logclient_append(&f.c, fork);
    assert_true(logclient_wait(&f.c, before + 1));
    assert_int_equal(f.c.msg.wal.durable, fork);
    assert_int_equal(join(fork_at(fork)), FP_MSG_WAL_STATE);
    cut_power();
    assert_int_equal(get(FP_MSG_WAL_GET, 0), FP_MSG_WAL_STATE);
    assert_int_equal(f.c.msg.wal.end, fork);
}

static void a_stray_log_is_given_away_no_more(void **state)
{
    (void)state;
    uint64_t fork = f.log.ends[5];
    assert_int_equal(join(fork_at(fork)), FARPOOL_E_CORRUPT);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(get(FP_MSG_WAL_GET, 0), FARPOOL_E_CORRUPT);
        for (uint64_t number = 0; number <= FORK; number += FORK) {
            assert_int_equal(get(FP_MSG_LOG_GET, number), FARPOOL_E_CORRUPT);
            assert_int_equal(get(FP_MSG_PAGE_GET, number), FARPOOL_E_CORRUPT);
            assert_int_equal(get(FP_MSG_MANIFEST_GET, number), FARPOOL_E_CORRUPT);
        }
        assert_int_equal(open_as(1, (fp_lineage){0}), FARPOOL_E_CORRUPT);
        assert_int_equal(open_as(FORK, fork_at(fork)), FARPOOL_E_CORRUPT);
        cut_power();
    }
}

/* ---- a peer ---------------------------------------------------------------------------------- */

static void turn_to(const sim_storage *storage)
{
    logclient_close(&f.c);
    connect_to(storage);
}

/* A while in which the storage node gets what it can. What it says of its WAL then. */
static int let_refill(void)
{
    turn_to(&f.storage);
    for (unsigned i = 0; i < 500; i++) {
        sim_storage_step(&f.storage);
        (void)fp_net_poll(f.c.poller, &(fp_net_event){0}, 1, 10);
    }
    return get(FP_MSG_WAL_GET, 0);
}

/* The peer has the right log, but has not heard of the fork; so it may be that its own is about to become a stray one. */
static void a_stray_log_waits_for_one_that_has_the_fork(void **state)
{
    (void)state;
    uint64_t fork = f.log.ends[5];
    assert_int_equal(join(fork_at(fork)), FARPOOL_E_CORRUPT);
    turn_to(&f.peer);
    wal_log_truncate(&f.log, fork);
    assert_int_equal(open_as(1, (fp_lineage){0}), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_stream(&f.c, &f.log, fork), FP_MSG_WAL_STATE);
    f.storage.peer = f.peer.uri;
    cut_power();
    assert_int_equal(let_refill(), FARPOOL_E_CORRUPT);
    turn_to(&f.peer);
    assert_int_equal(join(fork_at(fork)), FP_MSG_WAL_STATE);
    assert_int_equal(open_as(FORK, fork_at(fork)), FP_MSG_WAL_STATE);
    add(5, FORK);
    assert_int_equal(logclient_stream(&f.c, &f.log, f.log.end), FP_MSG_WAL_STATE);
    assert_int_equal(let_refill(), FP_MSG_WAL_STATE);
    assert_true(fp_lineage_number(&f.c.msg.lineage) == FORK && f.c.msg.wal.durable == f.log.end);
}

static void flip_versions(void)
{
    for (unsigned block = 0; block < 2; block++)
        assert_true(fp_disk_sim_flip(f.storage.medium, "wal-0000000000000003-state",
                                     (uint64_t)block * FP_DISK_ALIGN + 8, 0));
}

static void a_log_of_another_version_is_not_replaced(void **state)
{
    (void)state;
    turn_to(&f.peer);
    assert_int_equal(open_as(1, (fp_lineage){0}), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_stream(&f.c, &f.log, f.log.end), FP_MSG_WAL_STATE);
    f.storage.peer = f.peer.uri;
    sim_storage_crash(&f.storage);
    flip_versions();
    sim_storage_restart(&f.storage);
    assert_int_equal(let_refill(), FARPOOL_E_UNSUPPORTED);
    assert_int_equal(open_as(1, (fp_lineage){0}), FARPOOL_E_UNSUPPORTED);
    sim_storage_crash(&f.storage);
    flip_versions();
    sim_storage_restart(&f.storage);
    assert_int_equal(let_refill(), FP_MSG_WAL_STATE);
    assert_int_equal(f.c.msg.wal.durable, f.log.end);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_beginning_of_the_log_goes_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_join_that_fails_is_done_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_shorter_one_gets_what_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_has_landed_of_the_log_before_does_not_count, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_stray_log_is_given_away_no_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stray_log_waits_for_one_that_has_the_fork, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_log_of_another_version_is_not_replaced, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
