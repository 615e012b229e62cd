/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a storage node gets from a peer what is missing on its volume: the end of a log that it has not been given,
 * all of a partition whose log the peer has let go of, the pages from before its log began, and whatever is damaged. Then
 * every page is what it is at the peer, and the check finds nothing. Over shm and tcp, on real disks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "storagenode/wal.h"
#include "tests/lib/logclient.h"
#include "tests/lib/pages_client.h"
#include "tests/lib/require.h"
#include "tests/lib/teststorage.h"

enum { P = 7, CONVERT_BYTES = 128 << 10 };

typedef struct site {
    char volume[256], uri[FP_NET_URI_MAX];
    test_storage *node; /* NULL: it does not run */
    logclient client;
} site;

static const char *scheme;
static site a, b; /* each the other's peer, from start_both on */
static page_log owner;

/* ---- nodes ----------------------------------------------------------------------------------- */

static void start(site *s, const char *const *peers, unsigned count)
{
    static unsigned number;
    fp_storagenode_config config = {
        .convert_bytes = CONVERT_BYTES, .peers = peers, .peer_count = count};
    if (!s->uri[0] && !strcmp(scheme, "shm"))
        snprintf(s->uri, sizeof s->uri, "shm:///tmp/farpool-refill-%d-%u.sock", (int)getpid(),
                 ++number);
    else if (!s->uri[0])
        snprintf(s->uri, sizeof s->uri, "tcp://127.0.0.1:0");
    s->node = test_storage_start_as(s->uri, s->volume, &config);
    snprintf(s->uri, sizeof s->uri, "%s", test_storage_uri(s->node));
    test_must(logclient_open(&s->client, s->uri, NULL), "connecting");
}

static void stop(site *s)
{
    logclient_close(&s->client);
    test_storage_stop(s->node);
    s->node = NULL;
}

/* With both as peers, itself among them: it is to find that out. */
static void start_with_peers(site *s)
{
    const char *peers[] = {s->uri, s == &a ? b.uri : a.uri};
    start(s, peers, 2);
}

static int setup(void **state)
{
    (void)state;
    page_log_open(&owner, P, FP_REDO_LSN_FIRST, 1);
    site *both[] = {&a, &b};
    for (unsigned i = 0; i < 2; i++) {
        *both[i] = (site){0};
        test_volume_make(both[i]->volume);
        start(both[i], NULL, 0);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    site *both[] = {&a, &b};
    for (unsigned i = 0; i < 2; i++) {
        if (both[i]->node)
            stop(both[i]);
        test_volume_remove(both[i]->volume);
    }
    page_log_close(&owner);
    return 0;
}

/* ---- logs and pages -------------------------------------------------------------------------- */

static int get_wal(site *s)
{
    return logclient_ask(&s->client, (fp_msg){.type = FP_MSG_WAL_GET, .partition = P});
}

static int open_wal(site *s, uint64_t from)
{
    return logclient_wal_open(&s->client, P, 1, PAGES_CLIENT_FRAME, from);
}

static void leave(site *s)
{
    assert_int_equal(logclient_wal_open(&s->client, P, 1, 0, FP_REDO_LSN_FIRST), FP_MSG_WAL_STATE);
}

static void grow(unsigned frames) { page_log_frames(&owner, 1, frames); }

/* It has log up to there and all its pages. A gap is told as a spiller does: from `from` on there is a ring. */
static bool is_whole(site *s, uint64_t upto, uint64_t from)
{
    if (from)
        (void)open_wal(s, from);
    int rc = get_wal(s);
    return rc == FP_MSG_WAL_STATE && s->client.msg.wal.durable >= upto &&
           !test_pages_compare(&s->client, &owner, upto);
}

static void check_same(void)
{
    assert_int_equal(test_pages_compare(&a.client, &owner, owner.log.end), 0);
    assert_int_equal(test_pages_compare(&b.client, &owner, owner.log.end), 0);
    stop(&a);
    stop(&b);
    test_pages_check(a.volume);
    test_pages_check(b.volume);
}

/* ---- what is missing ------------------------------------------------------------------------- */

static void test_gap(void **state)
{
    (void)state;
    grow(30);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    uint64_t before = owner.log.end;
    grow(30);
    uint64_t start = owner.log.end;
    grow(5);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    leave(&b);
    assert_int_equal(open_wal(&b, start), FARPOOL_E_NOTFOUND);
    stop(&b);
    start_with_peers(&b);
    assert_int_equal(get_wal(&b), FP_MSG_WAL_STATE);
    assert_int_equal(b.client.msg.wal.end, before); /* it does not know yet */
    AWAIT(is_whole(&b, owner.log.end, start));
    assert_int_equal(logclient_compare(&b.client, &owner.log, FP_REDO_LSN_FIRST), owner.log.end);
    grow(20);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, start);
    check_same();
}

/* The one who appends has been left behind by the log's owner. */
static void test_gap_of_who_appends(void **state)
{
    (void)state;
    stop(&b);
    start_with_peers(&b);
    grow(30);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    grow(30);
    uint64_t start = owner.log.end;
    grow(5);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    AWAIT(is_whole(&b, owner.log.end, start));
    check_same();
}

/* The peer has let go of the log that it would take. */
static uint64_t make_long_gap(void)
{
    grow(30);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    uint64_t before = owner.log.end;
    leave(&b);
    do {
        grow(300);
        test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
        assert_int_equal(get_wal(&a), FP_MSG_WAL_STATE);
    } while (a.client.msg.wal.start <= before);
    stop(&b);
    start_with_peers(&b);
    return before;
}

static void test_long_gap(void **state)
{
    (void)state;
    uint64_t before = make_long_gap();
    AWAIT(is_whole(&b, owner.log.end, owner.log.end));
    assert_int_equal(get_wal(&b), FP_MSG_WAL_STATE);
    assert_true(b.client.msg.wal.start > before);
    grow(20);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    check_same();
}

/* Stopped in the middle of a refill it ends well, and has it all after the last start. */
static void test_stopped_at_any_time(void **state)
{
    enum { STOPS = 40 };
    (void)state;
    (void)make_long_gap();
    for (unsigned i = 0; i < STOPS; i++) {
        for (unsigned k = 0; k < i; k++)
            (void)open_wal(&b, owner.log.end);
        stop(&b);
        start_with_peers(&b);
    }
    AWAIT(is_whole(&b, owner.log.end, owner.log.end));
    check_same();
}

/* The pages have come, but the WAL cannot begin anew behind them, until what hinders it is gone. Then nobody has to ask for
 * it. */
static void test_no_new_wal(void **state)
{
    char hindrance[512];
    int rc;
    (void)state;
    (void)make_long_gap();
    snprintf(hindrance, sizeof hindrance, "%s/wal-%016x-state.tmp", b.volume, (unsigned)P);
    assert_int_equal(get_wal(&b), FP_MSG_WAL_STATE); /* it is open: that would be hindered too */
    assert_int_equal(mkdir(hindrance, 0700), 0);
    uint64_t deadline = fp_now_ns() + AWAIT_S * 1000000000ull;
    do {
        assert_true(fp_now_ns() < deadline);
        (void)open_wal(&b, owner.log.end);
        rc = get_wal(&b);
    } while (rc == FP_MSG_WAL_STATE);
    assert_int_equal(rmdir(hindrance), 0);
    AWAIT(is_whole(&b, owner.log.end, 0));
    check_same();
}

static uint64_t incomplete(site *s)
{
    assert_int_equal(logclient_ask(&s->client, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    return s->client.msg.usage.incomplete;
}

/* Somebody says once that he has log from far behind the end on. Nobody has any there. */
static void test_no_gap(void **state)
{
    (void)state;
    grow(30);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    stop(&b);
    start_with_peers(&b);
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    leave(&b);
    assert_int_equal(open_wal(&b, FP_WAL_LSN_MAX + 8), FARPOOL_E_INVAL);
    assert_int_equal(open_wal(&b, owner.log.end + 4), FARPOOL_E_INVAL);
    assert_int_equal(incomplete(&b), 0);
    assert_int_equal(open_wal(&b, FP_WAL_LSN_MAX), FARPOOL_E_NOTFOUND);
    assert_int_equal(incomplete(&b), 1);
    AWAIT(!incomplete(&b));
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    check_same();
}

/* An empty volume takes a log in from its middle on, and gets what was before. */
static void test_no_beginning(void **state)
{
    (void)state;
    grow(700);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    uint64_t start = owner.log.end;
    grow(20);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, start);
    assert_int_equal(test_pages_compare(&b.client, &owner, 0),
                     FARPOOL_E_CORRUPT); /* nothing wrong, and not all */
    stop(&b);
    start_with_peers(&b);
    AWAIT(is_whole(&b, owner.log.end, 0));
    assert_int_equal(get_wal(&b), FP_MSG_WAL_STATE);
    assert_int_equal(b.client.msg.wal.start, start);
    for (unsigned i = 0; i < 10; i++) {
        grow(100);
        test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
        test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    }
    check_same();
}

/* While somebody appends all the time. */
static void test_no_beginning_in_use(void **state)
{
    (void)state;
    grow(700);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    uint64_t start = owner.log.end;
    stop(&b);
    start_with_peers(&b);
    uint64_t deadline = fp_now_ns() + AWAIT_S * 1000000000ull;
    do {
        grow(3);
        test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
        test_pages_give(&b.client, &owner, start);
        assert_true(fp_now_ns() < deadline);
    } while (test_pages_compare(&b.client, &owner, owner.log.end));
    check_same();
}

/* ---- what is damaged ------------------------------------------------------------------------- */

static void begin_damage(void)
{
    grow(700);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    assert_int_equal(test_pages_compare(&b.client, &owner, 0), 0);
    stop(&b);
}

static void end_damage(void)
{
    start_with_peers(&b);
    AWAIT(is_whole(&b, owner.log.end, 0));
    grow(100);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    test_pages_give(&b.client, &owner, FP_REDO_LSN_FIRST);
    check_same();
}

static void test_damaged_chunk(void **state)
{
    (void)state;
    begin_damage();
    test_pages_hurt(b.volume, "file-*", 100, 50);
    end_damage();
}

static void test_damaged_footer(void **state)
{
    (void)state;
    begin_damage();
    test_pages_hurt(b.volume, "file-*", -4096, 50);
    end_damage();
}

static void test_damaged_manifest(void **state)
{
    (void)state;
    begin_damage();
    test_pages_hurt(b.volume, "pages-*", 0, 100);
    test_pages_hurt(b.volume, "pages-*", 4096, 100);
    end_damage();
}

static void test_damaged_state(void **state)
{
    (void)state;
    begin_damage();
    test_pages_hurt(b.volume, "wal-*-state", 0, 100);
    test_pages_hurt(b.volume, "wal-*-state", 4096, 100);
    end_damage();
}

static void test_damaged_log(void **state)
{
    (void)state;
    begin_damage();
    test_pages_hurt(b.volume, "wal-*-0*", 4096, TEST_SEGMENT_BYTES);
    end_damage();
}

/* The layers of one are those of the other: only what is damaged is fetched. */
static void test_same_layers(void **state)
{
    (void)state;
    begin_damage();
    test_volume_remove(b.volume);
    test_volume_make(b.volume);
    start_with_peers(&b);
    test_pages_give(&b.client, &owner, owner.log.end);
    AWAIT(is_whole(&b, owner.log.end, 0));
    stop(&b);
    for (unsigned i = 0; i < 3; i++) {
        test_pages_hurt(b.volume, "file-*", i == 1 ? -4096 : 64, 10);
        start_with_peers(&b);
        AWAIT(is_whole(&b, owner.log.end, 0));
        stop(&b);
        test_pages_check(b.volume);
    }
    start_with_peers(&b);
    check_same();
}

/* The peer is not there at first, and has nothing better than this node at last. */
static void test_no_peer(void **state)
{
    (void)state;
    grow(100);
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    uint64_t start = owner.log.end;
    grow(10);
    stop(&a);
    stop(&b);
    start_with_peers(&b);
    test_pages_give(&b.client, &owner, start);
    assert_int_equal(test_pages_compare(&b.client, &owner, 0), FARPOOL_E_CORRUPT);
    start_with_peers(&a);
    usleep(100000);
    assert_int_equal(test_pages_compare(&b.client, &owner, 0),
                     FARPOOL_E_CORRUPT); /* its log ends where this one begins */
    test_pages_give(&a.client, &owner, FP_REDO_LSN_FIRST);
    AWAIT(is_whole(&b, owner.log.end, 0));
    check_same();
}

int main(void)
{
    static const char *const schemes[] = {"shm", "tcp"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gap_of_who_appends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stopped_at_any_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_new_wal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_beginning, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_beginning_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_chunk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_footer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_manifest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_layers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_peer, setup, teardown),
    };
    int failures = 0;
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    fp_log_set_level(getenv("VERBOSE") ? FP_LOG_DEBUG : FP_LOG_ERROR);
    for (unsigned i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        scheme = schemes[i];
        failures += cmocka_run_group_tests_name(scheme, tests, NULL, NULL);
    }
    return failures;
}
