/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a storage node answers to each request, whom it lets append, what it refuses and in which words, and
 * what it does with clients that go away or break the rules: over shm and tcp on a real disk, and simulated. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "common/redo.h"
#include "tests/lib/logclient.h"
#include "tests/lib/teststorage.h"

enum { P = 7, FRAME = 3000 };
#define FIRST FP_REDO_LSN_FIRST

static const char *scheme;
static char volume[256];
static test_storage *real;
static fp_sim_world *world;
static sim_storage sim;
static wal_log owner;

static bool simulated(void) { return !strcmp(scheme, "sim"); }

static void restart(void)
{
    if (simulated()) {
        sim_storage_restart(&sim);
        return;
    }
    test_storage_stop(real);
    real = test_storage_start(scheme, volume);
}

static int setup(void **state)
{
    (void)state;
    static const fp_sim_config config = {.late = true};
    fp_log_set_level(FP_LOG_ERROR);
    wal_log_open(&owner, P, FIRST);
    if (simulated()) {
        assert_int_equal(fp_sim_world_open(1, &config, &world), 0);
        sim_storage_open(&sim, world, 0);
    } else {
        test_volume_make(volume);
        real = test_storage_start(scheme, volume);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (simulated()) {
        sim_storage_close(&sim);
        fp_sim_world_close(world);
    } else {
        test_storage_stop(real);
        test_volume_remove(volume);
    }
    wal_log_close(&owner);
    return 0;
}

static void connect_client(logclient *c)
{
    static unsigned number;
    char name[32];
    snprintf(name, sizeof name, "client%u", ++number);
    fp_net_options options = {.world = world, .node = name};
    assert_int_equal(simulated() ? logclient_open(c, sim.uri, &options)
                                 : logclient_open(c, test_storage_uri(real), NULL),
                     0);
}

static int wal_get(logclient *c)
{
    return logclient_ask(c, (fp_msg){.type = FP_MSG_WAL_GET, .partition = P});
}

static void add_frames(unsigned count, uint64_t epoch)
{
    for (unsigned i = 0; i < count; i++)
        wal_log_frame(&owner, epoch, FRAME, 0);
}

/* A client who appends to the WAL of P under the epoch. */
static void connect_streamer(logclient *c, uint64_t epoch)
{
    connect_client(c);
    do { /* the node may be yet to hear that the one before is gone */
        assert_int_equal(logclient_wal_open(c, P, epoch, FRAME, FIRST), FP_MSG_WAL_STATE);
    } while (!c->msg.wal.streaming);
}

/* One that appends, and another one. */
static void connect_two(logclient *first, logclient *second, uint64_t epoch)
{
    connect_streamer(first, epoch);
    connect_client(second);
}

static bool says(const logclient *c, const char *text) { return strstr(c->msg.text, text); }

/* ---- what it is for -------------------------------------------------------------------------- */

static void test_stream(void **state)
{
    (void)state;
    logclient c;
    connect_client(&c);
    assert_int_equal(wal_get(&c), FARPOOL_E_NOTFOUND);
    assert_int_equal(logclient_wal_open(&c, P, 3, FRAME, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(c.msg.partition, P);
    assert_int_equal(c.msg.epoch, 3);
    assert_int_equal(c.msg.wal.start, FIRST);
    assert_int_equal(c.msg.wal.end, FIRST);
    assert_int_equal(c.msg.wal.durable, FIRST);
    assert_int_not_equal(c.msg.wal.volume, 0);
    assert_true(c.msg.wal.landing.len >= 1 << 20);
    assert_int_equal(c.msg.wal.landing_free, c.msg.wal.landing.len);
    for (int i = 0; i < 40; i++) { /* several segments, the ring once around */
        add_frames(20, 3);
        assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
        assert_int_equal(c.msg.wal.durable, owner.end);
    }
    assert_int_equal(logclient_compare(&c, &owner, FIRST), owner.end);
    assert_int_equal(wal_get(&c), FP_MSG_WAL_STATE);
    assert_int_equal(c.msg.wal.end, owner.end);
    assert_int_equal(c.msg.wal.streaming, 1);
    logclient_close(&c);
}

static void test_read_anywhere(void **state)
{
    (void)state;
    logclient c;
    connect_streamer(&c, 1);
    add_frames(300, 1);
    wal_log_frame(&owner, 1, 50, 0);
    assert_int_equal(logclient_land(&c, &owner, owner.end), 0);
    logclient_append(&c, owner.end);
    assert_true(logclient_wait(&c, c.sent));
    for (uint64_t lsn = owner.end - 1; lsn > FIRST; lsn -= lsn > 50021 ? 50021 : lsn - FIRST) {
        assert_int_equal(logclient_get(&c, P, lsn), FP_MSG_LOG);
        assert_int_equal(c.msg.lsn, lsn);
        assert_in_range(c.msg.data_len, 1, FP_WIRE_DATA_MAX);
        assert_memory_equal(c.msg.data, owner.bytes + lsn, c.msg.data_len);
    }
    assert_int_equal(logclient_get(&c, P, owner.end), FP_MSG_LOG);
    assert_int_equal(c.msg.data_len, 0);
    assert_int_equal(logclient_get(&c, P, owner.end + 8), FARPOOL_E_RETRY);
    assert_int_equal(logclient_get(&c, P, FIRST - 8), FARPOOL_E_NOTFOUND);
    assert_int_equal(logclient_get(&c, P, 0), FARPOOL_E_NOTFOUND);
    assert_int_equal(logclient_get(&c, P, UINT64_MAX), FARPOOL_E_RETRY);
    assert_int_equal(logclient_get(&c, P + 1, FIRST), FARPOOL_E_NOTFOUND);
    logclient_close(&c);
}

/* A frame longer than the landing ring that there is, and than what is read at a time. */
static void test_long_frame(void **state)
{
    (void)state;
    enum { LONG = 3 << 20 };
    logclient c;
    connect_streamer(&c, 1);
    add_frames(3, 1);
    assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
    wal_log_frame(&owner, 1, LONG, 0);
    add_frames(3, 1);
    fp_rkey before = c.landing;
    assert_true(before.len < LONG);
    assert_int_equal(logclient_wal_open(&c, P, 1, LONG + 4096, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(c.msg.wal.streaming, 1);
    assert_true(c.landing.len > LONG && c.landing.key != before.key);
    assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_compare(&c, &owner, FIRST), owner.end);
    logclient_close(&c);
}

static void test_again(void **state)
{
    (void)state;
    logclient c;
    connect_streamer(&c, 4);
    add_frames(10, 4);
    assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
    uint64_t id = c.msg.wal.volume;
    logclient_close(&c);
    restart();
    connect_client(&c);
    assert_int_equal(wal_get(&c), FP_MSG_WAL_STATE);
    assert_int_equal(c.msg.wal.volume, id);
    assert_int_equal(c.msg.wal.end, owner.end);
    assert_int_equal(c.msg.epoch, 4);
    assert_int_equal(logclient_wal_open(&c, P, 3, FRAME, FIRST), FARPOOL_E_FENCED);
    assert_int_equal(logclient_wal_open(&c, P, 4, FRAME, FIRST), FP_MSG_WAL_STATE);
    add_frames(10, 4);
    assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_compare(&c, &owner, FIRST), owner.end);
    assert_int_equal(logclient_ask(&c, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    assert_int_equal(c.msg.usage.partitions, 1);
    assert_int_equal(c.msg.usage.connections, 1);
    assert_int_equal(c.msg.usage.bytes_granted, owner.end - FIRST);
    assert_int_equal(c.msg.usage.spill_lag, owner.end - FIRST); /* too little for a layer */
    assert_true(simulated() || c.msg.usage.bytes_total > 0);
    logclient_close(&c);
}

/* ---- many at a time -------------------------------------------------------------------------- */

static void test_in_order(void **state)
{
    (void)state;
    enum { COUNT = FP_NET_RECV_DEPTH - 2 };
    logclient c;
    connect_streamer(&c, 1);
    add_frames(COUNT, 1);
    assert_int_equal(logclient_land(&c, &owner, owner.end), 0);
    uint32_t first = c.sent + 1;
    for (unsigned i = 0; i < COUNT; i++)
        logclient_append(&c, owner.ends[i]);
    logclient_append(&c, owner.end); /* nothing new: refused, but not before its turn */
    fp_msg get = {.type = FP_MSG_WAL_GET, .partition = P};
    logclient_send(&c, &get);
    for (uint32_t i = 0; i < COUNT + 2; i++) {
        assert_true(logclient_wait(&c, first + i));
        if (c.answered > first + i)
            continue; /* several came together: the last of them is here */
        assert_int_equal(c.msg.request, first + i);
        if (i < COUNT)
            assert_true(c.msg.type == FP_MSG_WAL_STATE && c.msg.wal.durable >= owner.ends[i]);
        else
            assert_true(c.msg.type == (i == COUNT ? FP_MSG_ERROR : FP_MSG_WAL_STATE));
    }
    assert_int_equal(c.msg.wal.durable, owner.end);
    logclient_close(&c);
}

/* More than a client should have unanswered (N11); where there is flow control it is served, or refused. */
static void test_flood(void **state)
{
    (void)state;
    if (simulated())
        skip();
    enum { COUNT = 120 };
    logclient c, other;
    connect_streamer(&c, 1);
    connect_client(&other);
    add_frames(COUNT, 1);
    assert_int_equal(logclient_land(&c, &owner, owner.end), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        logclient_append(&c, owner.ends[i]);
        assert_true(c.sent - c.answered < 100 || logclient_wait(&c, c.answered + 1));
    }
    assert_true(logclient_wait(&c, c.sent));
    assert_int_equal(wal_get(&c), FP_MSG_WAL_STATE);
    if (c.msg.wal.end < owner.end) /* the last were refused: too many were under way */
        assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_compare(&other, &owner, FIRST), owner.end);
    logclient_close(&c);
    logclient_close(&other);
}

/* A client is gone while its appends are under way: they are finished. */
static void test_gone(void **state)
{
    (void)state;
    enum { COUNT = FP_NET_RECV_DEPTH - 1 };
    logclient c, other;
    connect_client(&other);
    for (unsigned round = 0; round < 10; round++) {
        connect_streamer(&c, 1);
        unsigned had = (unsigned)owner.count;
        add_frames(COUNT, 1);
        assert_int_equal(logclient_land(&c, &owner, owner.end), 0);
        for (unsigned i = 0; i < COUNT; i++)
            logclient_append(&c, owner.ends[had + i]);
        fp_msg get = {.type = FP_MSG_LOG_GET, .partition = P, .lsn = FIRST};
        logclient_send(&c, &get);
        if (round % 2)
            assert_true(logclient_wait(&c, c.answered + 1));
        logclient_close(&c);
        /* The next appends where this one's last request took effect. */
        do {
            assert_int_equal(logclient_wal_open(&other, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
        } while (!other.msg.wal.streaming);
        if (other.msg.wal.end < owner.end)
            assert_int_equal(logclient_stream(&other, &owner, owner.end), FP_MSG_WAL_STATE);
        do {
            assert_int_equal(wal_get(&other), FP_MSG_WAL_STATE);
        } while (other.msg.wal.durable < owner.end);
        assert_int_equal(logclient_compare(&other, &owner, FIRST), owner.end);
        logclient_close(&other);
        connect_client(&other);
    }
    logclient_close(&other);
}

/* ---- who appends ----------------------------------------------------------------------------- */

static void test_one_appends(void **state)
{
    (void)state;
    logclient first, second;
    connect_two(&first, &second, 1);
    assert_int_equal(logclient_wal_open(&second, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(second.msg.wal.streaming, 0);
    assert_int_equal(second.msg.wal.landing.len, 0);
    add_frames(5, 1);
    logclient_append(&second, owner.end);
    assert_true(logclient_wait(&second, second.sent));
    assert_int_equal(second.msg.code, FARPOOL_E_REFUSED);
    assert_true(says(&second, "open the WAL first"));
    assert_int_equal(logclient_stream(&first, &owner, owner.end), FP_MSG_WAL_STATE);
    add_frames(5, 1);
    assert_int_equal(logclient_land(&first, &owner, owner.end), 0); /* and not appended */
    fp_rkey old = first.landing;
    logclient_close(&first);
    do {
        assert_int_equal(logclient_wal_open(&second, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
    } while (!second.msg.wal.streaming);
    assert_int_equal(second.msg.wal.end, owner.ends[4]);
    assert_int_not_equal(second.landing.key, old.key);
    wal_log_truncate(&owner, owner.ends[4]);
    wal_log_frame(&owner, 1, FRAME, 1); /* another one than the first had landed */
    assert_int_equal(logclient_stream(&second, &owner, owner.end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_compare(&second, &owner, FIRST), owner.end);
    second.landing = old;
    second.landed = owner.end - 100;
    assert_int_equal(logclient_land(&second, &owner, owner.end), FARPOOL_E_ACCESS);
    logclient_close(&second);
}

/* A process that was stopped keeps its connection. Another one asks all the time, and appends in its place. */
static void test_one_is_silent(void **state)
{
    (void)state;
    logclient first, second;
    connect_two(&first, &second, 1);
    add_frames(5, 1);
    assert_int_equal(logclient_stream(&first, &owner, owner.end), FP_MSG_WAL_STATE);
    unsigned asked = 0;
    do {
        assert_int_equal(logclient_wal_open(&second, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
        asked++;
    } while (!second.msg.wal.streaming);
    assert_true(asked > 10);
    add_frames(5, 1);
    assert_int_equal(logclient_stream(&second, &owner, owner.end), FP_MSG_WAL_STATE);
    logclient_append(&first, owner.end);
    assert_true(logclient_wait(&first, first.sent));
    assert_int_equal(first.msg.code, FARPOOL_E_REFUSED);
    assert_int_equal(logclient_compare(&second, &owner, FIRST), owner.end);
    logclient_close(&first);
    logclient_close(&second);
}

static void test_one_gives_up(void **state)
{
    (void)state;
    logclient first, second;
    connect_two(&first, &second, 1);
    add_frames(5, 1);
    assert_int_equal(logclient_stream(&first, &owner, owner.end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_wal_open(&second, P, 1, 0, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(second.msg.wal.streaming, 0);
    assert_int_equal(logclient_wal_open(&first, P, 1, 0, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(first.msg.wal.streaming, 0);
    assert_int_equal(logclient_wal_open(&second, P, 1, 0, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(second.msg.wal.streaming, 0); /* it does not want to */
    assert_int_equal(logclient_wal_open(&second, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(second.msg.wal.streaming, 1);
    add_frames(5, 1);
    assert_int_equal(logclient_stream(&second, &owner, owner.end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_compare(&first, &owner, FIRST), owner.end);
    logclient_close(&first);
    logclient_close(&second);
}

static void test_epochs(void **state)
{
    (void)state;
    logclient first, second;
    connect_two(&first, &second, 5);
    add_frames(5, 5);
    assert_int_equal(logclient_stream(&first, &owner, owner.end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_wal_open(&second, P, 4, FRAME, FIRST), FARPOOL_E_FENCED);
    assert_true(says(&second, "epoch 5 is promised"));
    assert_int_equal(logclient_wal_open(&second, P, 6, FRAME, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(second.msg.epoch, 6);
    assert_int_equal(second.msg.wal.streaming, 1);
    logclient_append(&first, owner.end + 8);
    assert_true(logclient_wait(&first, first.sent));
    assert_int_equal(first.msg.code, FARPOOL_E_FENCED);
    assert_int_equal(logclient_wal_open(&first, P, 6, FRAME, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(first.msg.wal.streaming, 0);
    /* What has been landed is checked as well. */
    add_frames(1, 5);
    assert_int_equal(logclient_stream(&second, &owner, owner.end), FARPOOL_E_FENCED);
    wal_log_truncate(&owner, owner.ends[4]);
    second.landed = owner.end;
    add_frames(1, 6);
    assert_int_equal(logclient_stream(&second, &owner, owner.end), FP_MSG_WAL_STATE);
    /* Its own next epoch takes nothing away. */
    fp_rkey key = second.landing;
    assert_int_equal(logclient_wal_open(&second, P, 7, FRAME, FIRST), FP_MSG_WAL_STATE);
    assert_true(second.msg.wal.streaming && second.landing.key == key.key);
    /* Who was taken over reads no more pages; who is no owner may. */
    fp_msg get = {.type = FP_MSG_PAGE_GET, .partition = P, .epoch = 6, .pid = 1 << 20};
    assert_int_equal(logclient_ask(&first, get), FARPOOL_E_FENCED);
    get.epoch = 7;
    assert_int_equal(logclient_ask(&first, get), FARPOOL_E_NOTFOUND);
    get.epoch = 0;
    assert_int_equal(logclient_ask(&first, get), FARPOOL_E_NOTFOUND);
    logclient_close(&first);
    logclient_close(&second);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    (void)state;
    logclient c;
    connect_client(&c);
    assert_int_equal(logclient_wal_open(&c, 0, 1, FRAME, FIRST), FARPOOL_E_INVAL);
    assert_int_equal(logclient_wal_open(&c, P, 1, FRAME, 0), FARPOOL_E_INVAL);
    assert_int_equal(logclient_wal_open(&c, P, 1, FRAME, FIRST + 1), FARPOOL_E_INVAL);
    assert_int_equal(logclient_wal_open(&c, P, 1, FRAME, UINT64_MAX - 7), FARPOOL_E_INVAL);
    assert_int_equal(logclient_wal_open(&c, P, 1ull << 63, FRAME, FIRST), FARPOOL_E_INVAL);
    assert_int_equal(logclient_wal_open(&c, P, 1, FP_REDO_FRAME_BYTES_MAX + 1, FIRST),
                     FARPOOL_E_TOO_BIG);
    assert_int_equal(wal_get(&c), FARPOOL_E_NOTFOUND); /* nothing was made */
    c.partition = P;
    logclient_append(&c, FIRST + 8);
    assert_true(logclient_wait(&c, c.sent));
    assert_int_equal(c.msg.code, FARPOOL_E_NOTFOUND);
    assert_int_equal(logclient_ask(&c, (fp_msg){.type = FP_MSG_PAGE_GET, .partition = P}),
                     FARPOOL_E_NOTFOUND);
    assert_int_equal(logclient_ask(&c, (fp_msg){.type = FP_MSG_GRANT, .partition = P}),
                     FARPOOL_E_UNSUPPORTED);
    assert_true(says(&c, "is a storage node"));
    assert_int_equal(logclient_wal_open(&c, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
    add_frames(2, 1);
    assert_int_equal(logclient_wal_open(&c, P, 1, FRAME, owner.end), FARPOOL_E_NOTFOUND);
    assert_true(says(&c, "ends at LSN 64, and what begins at 6"));
    assert_int_equal(logclient_wal_open(&c, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
    owner.bytes[FIRST + 100] ^= 1;
    assert_int_equal(logclient_stream(&c, &owner, owner.end), FARPOOL_E_CORRUPT);
    owner.bytes[FIRST + 100] ^= 1;
    c.landed = FIRST;
    assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
    static const uint64_t bad[] = {0, FIRST, UINT64_MAX, UINT64_MAX - 7};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        logclient_append(&c, bad[i]);
        assert_true(logclient_wait(&c, c.sent));
        assert_int_equal(c.msg.code, FARPOOL_E_INVAL);
    }
    assert_int_equal(logclient_compare(&c, &owner, FIRST), owner.end);
    logclient_close(&c);
}

static void test_strangers(void **state)
{
    (void)state;
    logclient c, good;
    connect_streamer(&good, 1);
    connect_client(&c);
    logclient_send_bytes(&c, "what is this?", 13);
    assert_true(logclient_wait(&c, c.sent));
    assert_int_equal(c.msg.code, FARPOOL_E_PROTO);
    assert_int_equal(c.msg.request, 0);
    fp_msg answer = {.type = FP_MSG_WAL_STATE, .partition = P};
    logclient_send(&c, &answer);
    assert_false(logclient_wait(&c, c.sent)); /* cut off */
    logclient_close(&c);
    /* Beyond the ring, and with a key that is nobody's. */
    connect_client(&c);
    add_frames(1, 1);
    c.landing = good.landing;
    c.landing.key += 12345;
    c.landed = FIRST;
    assert_int_equal(logclient_land(&c, &owner, owner.end), FARPOOL_E_ACCESS);
    logclient_close(&c);
    assert_int_equal(logclient_stream(&good, &owner, owner.end), FP_MSG_WAL_STATE);
    good.landing.addr += good.landing.len;
    good.landed = 0;
    assert_int_equal(logclient_land(&good, &owner, owner.end), FARPOOL_E_ACCESS);
    logclient_close(&good);
}

/* ---- volumes --------------------------------------------------------------------------------- */

static void test_volume(void **state)
{
    (void)state;
    if (simulated())
        skip();
    fp_storagenode *node = NULL;
    fp_storagenode_config config = {.name = "second", .volume = volume};
    assert_int_equal(fp_storagenode_open(&config, &node), FARPOOL_E_BUSY);
    assert_non_null(strstr(farpool_errmsg(), "another process serves it"));
    config.volume = "/no/such/place";
    assert_int_equal(fp_storagenode_open(&config, &node), FARPOOL_E_NOTFOUND);
}

/* One WAL is damaged, another has lost its state: the third is served. */
static void test_damage(void **state)
{
    (void)state;
    if (!simulated())
        skip();
    logclient c;
    wal_log logs[3];
    connect_client(&c);
    for (unsigned i = 0; i < 3; i++) {
        wal_log_open(&logs[i], i + 1, FIRST);
        assert_int_equal(logclient_wal_open(&c, i + 1, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
        for (unsigned k = 0; k < 10; k++) {
            wal_log_frame(&logs[i], 1, FRAME, 0);
            assert_int_equal(logclient_stream(&c, &logs[i], logs[i].end), FP_MSG_WAL_STATE);
        }
    }
    logclient_close(&c);
    sim_storage_restart(&sim); /* in order: the state knows the end */
    sim_storage_crash(&sim);
    assert_true(fp_disk_sim_flip(sim.medium, "wal-0000000000000001-00000000",
                                 4096 + logs[0].ends[4] + 50, 3));
    assert_true(fp_disk_sim_zero(sim.medium, "wal-0000000000000002-state", 0, 8192));
    sim_storage_restart(&sim);
    connect_client(&c);
    assert_int_equal(logclient_compare(&c, &logs[2], FIRST), logs[2].end);
    assert_int_equal(logclient_get(&c, 2, FIRST), FARPOOL_E_CORRUPT);
    assert_true(says(&c, "no copy of the state"));
    assert_int_equal(logclient_wal_open(&c, 2, 1, FRAME, FIRST), FARPOOL_E_CORRUPT);
    /* The damaged one ends before the damage, and can be filled up by who has the rest. */
    assert_int_equal(logclient_compare(&c, &logs[0], FIRST), logs[0].ends[4]);
    assert_int_equal(logclient_wal_open(&c, 1, 1, FRAME, logs[0].ends[6]), FARPOOL_E_NOTFOUND);
    assert_int_equal(logclient_wal_open(&c, 1, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_stream(&c, &logs[0], logs[0].end), FP_MSG_WAL_STATE);
    assert_int_equal(logclient_compare(&c, &logs[0], FIRST), logs[0].end);
    assert_int_equal(logclient_ask(&c, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    assert_int_equal(c.msg.usage.partitions, 3);
    logclient_close(&c);
    for (unsigned i = 0; i < 3; i++)
        wal_log_close(&logs[i]);
}

/* What coordinators are told of the partition. */
static bool tells_of(const char *words)
{
    json_t *actual = fp_storagenode_actual(sim.node);
    const json_t *first = json_array_get(json_object_get(actual, "partitions"), 0);
    const char *text = json_string_value(json_object_get(first, "text"));
    bool found = text && (words[0] ? strstr(text, words) != NULL : !text[0]);
    json_decref(actual);
    return found;
}

/* The device fails once: the WAL is opened again, and the one who appends goes on. */
static void test_device_fails(void **state)
{
    (void)state;
    if (!simulated())
        skip();
    logclient c;
    connect_streamer(&c, 1);
    for (unsigned round = 0; round < 6; round++) {
        add_frames(5, 1);
        assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
        assert_true(tells_of(""));
        add_frames(5, 1);
        bool full = round % 3 == 2;
        fp_disk_sim_fail(sim.medium, round % 3 == 1 ? FP_DISK_SYNC : FP_DISK_WRITE, 1,
                         full ? ENOSPC : EIO);
        int rc = logclient_stream(&c, &owner, owner.end);
        if (rc != FP_MSG_WAL_STATE) { /* it was not the file of the next segment that failed */
            assert_int_equal(rc, full ? FARPOOL_E_NOSPACE : FARPOOL_E_IO);
            assert_true(tells_of("an append failed"));
            assert_int_equal(logclient_wal_open(&c, P, 1, FRAME, FIRST), FP_MSG_WAL_STATE);
            assert_int_equal(c.msg.wal.streaming, 1);
            if (c.msg.wal.end < owner.end)
                assert_int_equal(logclient_stream(&c, &owner, owner.end), FP_MSG_WAL_STATE);
        }
        assert_int_equal(logclient_compare(&c, &owner, FIRST), owner.end);
    }
    logclient_close(&c);
}

int main(void)
{
    static const char *const schemes[] = {"shm", "tcp", "sim"};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_frame, setup, teardown),
        cmocka_unit_test_setup_teardown(test_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_appends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_is_silent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_gives_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_epochs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_volume, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_device_fails, setup, teardown),
    };
    int failures = 0;
    for (unsigned i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        scheme = schemes[i];
        if (!simulated() && !test_storage_possible()) {
            printf("not run over %s: %s\n", scheme, farpool_errmsg());
            continue;
        }
        failures += cmocka_run_group_tests_name(scheme, tests, NULL, NULL);
    }
    return failures;
}
