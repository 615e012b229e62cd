/* SPDX-License-Identifier: Apache-2.0 */
/* Shows how a memory node's spiller takes logs out of rings to a storage node: what it sends, what it says in the ring,
 * and how it goes on when the storage node, the owner or another memory node does not. Over shm and tcp, with a storage
 * node in this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "memnode/spill_inside.h"
#include "tests/lib/logclient.h"
#include "tests/lib/require.h"
#include "tests/lib/spill_stage.h"

static void what_is_durable_in_memory_is_spilled(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill_usage usage;
    fp_spill *spill = spiller();
    assert_int_equal(fp_spill_start(spill), 0);
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    add(spill, &o, 0);
    ring_owner_frame(&o, 0, 0);
    ring_owner_grow(&o, 20000, 700);
    until(NULL, &o, 0, o.durable);
    ring_owner_grow(&o, 50000, 3000);
    until(NULL, &o, 0, o.durable);
    /* What is not durable is not spilled, though it is here. */
    uint64_t durable = o.durable;
    ring_owner_frame(&o, 500, 0);
    ring_owner_write(&o, 0, o.log.end);
    idle(NULL, 50);
    assert_int_equal(spilled(&o, 0), durable);
    fp_spill_stop(spill);
    fp_spill_step(spill);
    fp_spill_usage_get(spill, &usage);
    assert_true(usage.lag == 0 && usage.gaps == 0);
    fp_spill_close(spill);
    wal_is(&o, durable);
    ring_owner_close(&o);
}

static void a_ring_may_lag_behind_the_quorum(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill_usage usage;
    fp_spill *spill = spiller();
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    add(spill, &o, 0);
    ring_owner_grow(&o, 5000, 300);
    uint64_t here = o.log.end;
    for (unsigned i = 0; i < 100; i++)
        ring_owner_frame(&o, 400, i);
    o.durable = o.log.end;
    ring_owner_tell(&o, 0);
    until(spill, &o, 0, here);
    ring_owner_write(&o, 0, here + 100); /* a part of a frame */
    idle(spill, 30);
    assert_int_equal(spilled(&o, 0), here);
    fp_spill_usage_get(spill, &usage);
    assert_int_equal(usage.lag, o.durable - here);
    uint64_t some = wal_log_after(&o.log, here, 3);
    ring_owner_write(&o, 0, some + 200);
    until(spill, &o, 0, some);
    ring_owner_write(&o, 0, o.log.end);
    until(spill, &o, 0, o.durable);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void a_ring_is_used_again_and_again(void **state)
{
    (void)state;
    ring_owner o;
    uint64_t random = test_seed(1);
    fp_spill *spill = spiller();
    assert_int_equal(fp_spill_start(spill), 0);
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    add(spill, &o, 0);
    while (o.log.end < 10 * LOG_BYTES) {
        size_t bytes = 100 + test_random(&random) % (LOG_BYTES / 8);
        if (o.log.end + bytes + 64 <= o.start + LOG_BYTES) {
            ring_owner_grow(&o, 1, bytes);
            continue;
        }
        uint64_t upto = spilled(&o, 0);
        if (upto > o.start)
            o.start = upto;
        ring_owner_tell(&o, 0); /* before anything is overwritten */
        go_on(NULL);
    }
    until(NULL, &o, 0, o.durable);
    fp_spill_stop(spill);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void a_storage_node_comes_back(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill *spill = spiller();
    assert_int_equal(fp_spill_start(spill), 0);
    ring_owner_open(&o, 5, 1, 4 << 20, 5 << 20);
    add(spill, &o, 0);
    for (unsigned i = 0; i < 6; i++) {
        ring_owner_grow(&o, 300000, 2000); /* appends are under way when it ends */
        storage_stop();
        ring_owner_grow(&o, 1000, 500);
        storage_start();
        if (i % 2)
            until(NULL, &o, 0, o.durable);
    }
    fp_spill_stop(spill);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

/* In the midst of an append, at each step. */
static void a_connection_that_is_cut_is_made_anew(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill *spill = spiller();
    ring_owner_open(&o, 5, 1, 4 << 20, 5 << 20);
    add(spill, &o, 0);
    for (unsigned steps = 1; steps < 40; steps += 3) {
        ring_owner_grow(&o, 50000, 2000);
        for (unsigned i = 0; i < steps; i++)
            go_on(spill);
        if (spill->conn)
            fp_spill_cut(spill, fp_now_ns(), "the test wants it so");
        assert_true(spilled(&o, 0) <= o.durable);
    }
    until(spill, &o, 0, o.durable);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void a_spiller_goes_on_where_another_one_ended(void **state)
{
    (void)state;
    ring_owner o;
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    for (unsigned i = 0; i < 4; i++) {
        fp_spill *spill = spiller();
        add(spill, &o, 0);
        ring_owner_grow(&o, 40000, 1000);
        if (i == 2) { /* with something under way */
            while (!spill->rings->sent || spill->rings->phase != FP_SPILL_STREAMING ||
                   !spill->rings->asked)
                go_on(spill);
        } else {
            until(spill, &o, 0, o.durable);
        }
        fp_spill_close(spill);
    }
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void one_node_appends_and_another_takes_over(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill *spills[2] = {spiller(), spiller()};
    ring_owner_open(&o, 5, 2, LOG_BYTES, RING_EXTENT_BYTES);
    add(spills[0], &o, 0);
    add(spills[1], &o, 1);
    ring_owner_grow(&o, 20000, 1000);
    until(spills[0], &o, 0, o.durable);
    until(spills[1], &o, 1, o.durable);
    ring_owner_grow(&o, 20000, 1000);
    until(spills[0], &o, 0, o.durable); /* it still appends; the other one hears of it */
    until(spills[1], &o, 1, o.durable);
    assert_int_not_equal(spills[1]->rings->phase, FP_SPILL_STREAMING);
    ring_owner_grow(&o, 20000, 1000);
    fp_spill_close(spills[0]);
    until(spills[1], &o, 1, o.durable);
    assert_int_equal(spills[1]->rings->phase, FP_SPILL_STREAMING);
    fp_spill_close(spills[1]);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

/* A ring that its owner has lost is never written to again: the node that has it lets others append. */
static void a_node_with_nothing_new_does_not_keep_others_out(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill *spills[2] = {spiller(), spiller()};
    ring_owner_open(&o, 5, 2, LOG_BYTES, RING_EXTENT_BYTES);
    add(spills[0], &o, 0);
    ring_owner_grow(&o, 20000, 1000);
    until(spills[0], &o, 0, o.durable);
    ring_owner_frame(&o, 1000, 0);
    o.durable = o.log.end;
    ring_owner_write(&o, 1, o.log.end);
    ring_owner_tell(&o, 0); /* whose frame never comes */
    ring_owner_tell(&o, 1);
    add(spills[1], &o, 1);
    uint64_t deadline = fp_now_ns() + WAIT_S * (uint64_t)WAIT_NS;
    while (spilled(&o, 1) < o.durable && fp_now_ns() < deadline) {
        go_on(spills[0]);
        go_on(spills[1]);
    }
    until(spills[1], &o, 1, o.durable);
    until(spills[0], &o, 0, o.durable); /* what the other has appended */
    for (unsigned i = 0; i < 2; i++)
        fp_spill_close(spills[i]);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

/* The old owner's last frames were never durable, but are in the ring, behind the new one's first frame. */
static void another_owner_goes_on_with_the_log(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill *spill = spiller();
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    add(spill, &o, 0);
    ring_owner_grow(&o, 10000, 500);
    until(spill, &o, 0, o.durable);
    ring_owner_grow(&o, 10000, 500); /* durable, but not spilled under him */
    for (unsigned i = 0; i < 10; i++)
        ring_owner_frame(&o, 40, i);
    ring_owner_write(&o, 0, o.log.end);
    wal_log_truncate(&o.log, o.durable);
    o.copies[0].have = o.durable;
    o.epoch = 7;
    ring_owner_frame(&o, 0, 0);
    ring_owner_grow(&o, 1, 40);
    uint64_t durable = o.durable;
    o.durable += 200; /* so far the ring has frames of the old one */
    ring_owner_tell(&o, 0);
    until(spill, &o, 0, durable);
    idle(spill, 20);
    assert_int_equal(spilled(&o, 0), durable);
    o.durable = durable;
    ring_owner_grow(&o, 10000, 500);
    until(spill, &o, 0, o.durable);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void an_old_owners_ring_waits_for_the_new_one(void **state)
{
    (void)state;
    ring_owner o;
    ring_owner_open(&o, 5, 2, LOG_BYTES, RING_EXTENT_BYTES);
    ring_owner_grow(&o, 3000, 500);
    uint64_t first = o.durable;
    fp_spill *newer = spiller(), *older = spiller();
    o.epoch = 9;
    ring_owner_frame(&o, 0, 0);
    ring_owner_write(&o, 0, o.log.end);
    o.durable = o.log.end;
    ring_owner_tell(&o, 0);
    add(newer, &o, 0);
    until(newer, &o, 0, o.durable);
    fp_spill_close(newer);
    add(older, &o, 1);
    until(older, &o, 1, o.durable); /* it may say so, though its own log ends before */
    assert_true(first < o.durable);
    /* A frame that is committed, but its owner's line is the old one's still. */
    o.epoch = 1;
    ring_owner_write(&o, 1, o.log.end);
    uint64_t durable = o.durable;
    o.epoch = 9;
    ring_owner_frame(&o, 300, 0);
    ring_owner_write(&o, 1, o.log.end);
    o.durable = o.log.end;
    o.epoch = 1;
    ring_owner_tell(&o, 1);
    AWAIT((go_on(older), older->rings->said == FARPOOL_E_FENCED));
    idle(older, 50);
    assert_int_equal(spilled(&o, 1), durable);
    assert_int_equal(older->rings->said, FARPOOL_E_FENCED);
    o.epoch = 9;
    ring_owner_tell(&o, 1);
    until(older, &o, 1, o.durable);
    fp_spill_close(older);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

/* A storage node that had the log has dropped it, and is wanted again: whoever appended there makes it anew from its
 * beginning, under the epoch of the frame that he has next. */
static void a_log_made_anew_takes_what_is_of_owners_before(void **state)
{
    (void)state;
    ring_owner o;
    logclient c;
    fp_spill *spill = spiller();
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    ring_owner_grow(&o, 3000, 500);
    o.epoch = 9;
    ring_owner_frame(&o, 0, 0);
    ring_owner_grow(&o, 3000, 500);
    assert_int_equal(logclient_open(&c, uri, NULL), 0);
    fp_msg open = {.type = FP_MSG_WAL_OPEN,
                   .partition = 5,
                   .epoch = 9,
                   .bytes = 4096,
                   .lsn = FP_REDO_LSN_FIRST};
    assert_int_equal(logclient_ask(&c, open), FP_MSG_WAL_STATE);
    logclient_close(&c);
    add(spill, &o, 0);
    until(spill, &o, 0, o.durable);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void until_gaps(fp_spill *spill, uint64_t gaps)
{
    fp_spill_usage usage;
    AWAIT((go_on(spill), fp_spill_usage_get(spill, &usage), usage.gaps == gaps));
}

static void a_gap_is_reported(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill_usage usage;
    fp_spill *spills[2] = {spiller(), spiller()};
    ring_owner_open(&o, 5, 2, LOG_BYTES, RING_EXTENT_BYTES);
    add(spills[0], &o, 0);
    ring_owner_grow(&o, 3000, 500);
    uint64_t first = o.durable;
    until(spills[0], &o, 0, first);
    ring_owner_grow(&o, 3000, 500);
    uint64_t start = o.durable;
    ring_owner_grow(&o, 3000, 500);
    o.start = start;
    ring_owner_tell(&o, 1); /* some other storage node has what is before, he thinks */
    fp_spill_close(spills[0]);
    add(spills[1], &o, 1);
    until_gaps(spills[1], 1);
    idle(spills[1], 50);
    assert_int_equal(spilled(&o, 1), first);
    fp_spill_usage_get(spills[1], &usage);
    assert_int_equal(usage.gaps, 1);
    assert_int_equal(usage.lag, o.durable - start);
    spills[0] = spiller(); /* a ring that still has it */
    add(spills[0], &o, 0);
    o.start = FP_REDO_LSN_FIRST;
    ring_owner_tell(&o, 0);
    until(spills[0], &o, 0, o.durable);
    until(spills[1], &o, 1, o.durable);
    until_gaps(spills[1], 0);
    fp_spill_usage_get(spills[1], &usage);
    assert_true(usage.lag == 0);
    for (unsigned i = 0; i < 2; i++)
        fp_spill_close(spills[i]);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void a_frame_may_be_longer_than_a_chunk(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill *spill = spiller();
    ring_owner_open(&o, 5, 1, 16 << 20, 5 << 20);
    add(spill, &o, 0);
    ring_owner_grow(&o, 1, 500);
    for (unsigned i = 0; i < 5; i++) {
        ring_owner_grow(&o, 1, 3 << 20);
        ring_owner_grow(&o, 10000, 500);
        until(spill, &o, 0, o.durable);
        o.start = o.durable;
        ring_owner_tell(&o, 0);
    }
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void lines_that_are_no_lines_are_ignored(void **state)
{
    (void)state;
    ring_owner o;
    fp_spill *spill = spiller();
    uint64_t random = test_seed(1);
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    add(spill, &o, 0);
    ring_owner_grow(&o, 3000, 500);
    uint8_t *at = ring_owner_place(&o, 0, FP_RING_OWNER_AT), good[FP_RING_LINE_BYTES];
    memcpy(good, at, sizeof good);
    for (unsigned i = 0; i < 2000; i++) {
        fp_ring_owner line;
        memcpy(&line, good, sizeof line);
        if (i % 4 == 0) /* torn, or rotten */
            ((uint8_t *)&line)[test_random(&random) % sizeof line] ^=
                (uint8_t)(1 + test_random(&random) % 255);
        else if (i % 4 == 1)
            line.partition = 6;
        else if (i % 4 == 2)
            line.log_bytes = o.copies[0].extent_count * o.extent_bytes;
        else
            line.start = line.durable + 8 * (1 + test_random(&random) % 1000);
        if (i % 4)
            fp_ring_owner_seal(&line);
        memcpy(at, &line, sizeof line);
        fp_spill_step(spill);
    }
    idle(spill, 50);
    assert_int_equal(spilled(&o, 0), 0);
    memcpy(at, good, sizeof good);
    until(spill, &o, 0, o.durable);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

static void many_rings_share_the_connection(void **state)
{
    (void)state;
    enum { RINGS = 20 };
    ring_owner o[RINGS];
    fp_spill *spill = spiller();
    assert_int_equal(fp_spill_start(spill), 0);
    for (unsigned i = 0; i < RINGS; i++) {
        ring_owner_open(&o[i], i + 1, 1, LOG_BYTES, RING_EXTENT_BYTES);
        add(spill, &o[i], 0);
        ring_owner_grow(&o[i], 30000, 700);
    }
    for (unsigned i = 0; i < RINGS; i++) {
        ring_owner_grow(&o[i], 30000, 900);
        if (i % 3 == 0) {
            fp_spill_remove_ring(spill, i + 1);
            memset(ring_owner_place(&o[i], 0, FP_RING_NODE_AT), 0, FP_RING_LINE_BYTES);
        }
    }
    for (unsigned i = 0; i < RINGS; i++)
        if (i % 3)
            until(NULL, &o[i], 0, o[i].durable);
    for (unsigned i = 0; i < RINGS; i += 3)
        assert_int_equal(spilled(&o[i], 0), 0);
    fp_spill_stop(spill);
    fp_spill_close(spill);
    wal_is(&o[1], o[1].durable);
    for (unsigned i = 0; i < RINGS; i++)
        ring_owner_close(&o[i]);
}

static void a_ring_that_is_granted_is_spilled_until_it_is_released(void **state)
{
    fp_spill *spill = spiller();
    ring_owner o;
    client c;
    fp_ring_node line = {0};
    fp_msg ring = {
        .type = FP_MSG_GRANT, .use = FP_USE_RING, .partition = 5, .epoch = 1, .bytes = LOG_BYTES};
    setup_spilling(state, spill);
    assert_int_equal(fp_spill_start(spill), 0);
    connect_client(&c);
    ring_owner_open(&o, 5, 1, LOG_BYTES, 2 * LOG_BYTES);
    while (o.log.end < 4000 - 200)
        ring_owner_frame(&o, 100, 0);
    ring_owner_write(&o, 0, o.log.end);
    o.durable = o.log.end;
    ring_owner_tell(&o, 0);
    assert_int_equal(ask(&c, ring), FP_MSG_EXTENTS);
    fp_rkey extent = c.msg.extents[0];
    memcpy(memory.addr, ring_owner_place(&o, 0, FP_RING_LOG_AT), 4096);
    assert_int_equal(transfer(&c, FP_NET_WRITE, extent, FP_RING_LOG_AT), 0);
    memcpy(memory.addr, ring_owner_place(&o, 0, 0), 4096);
    assert_int_equal(transfer(&c, FP_NET_WRITE, extent, 0), 0);
    uint64_t deadline = fp_now_ns() + WAIT_S * (uint64_t)WAIT_NS;
    while ((!fp_ring_node_is_valid(&line, 5) || line.spilled < o.durable) &&
           fp_now_ns() < deadline) {
        assert_int_equal(transfer(&c, FP_NET_READ, extent, 0), 0);
        memcpy(&line, (char *)memory.addr + FP_RING_NODE_AT, sizeof line);
    }
    assert_int_equal(line.spilled, o.durable);
    do {
        assert_int_equal(ask(&c, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    } while (c.msg.usage.spill_lag && fp_now_ns() < deadline);
    assert_int_equal(c.msg.usage.spill_lag, 0);
    ring.type = FP_MSG_RELEASE;
    assert_int_equal(ask(&c, ring), FP_MSG_RELEASE_OK);
    assert_null(spill->rings);
    disconnect(&c);
    fp_spill_stop(spill);
    teardown(state);
    fp_spill_close(spill);
    wal_is(&o, o.durable);
    ring_owner_close(&o);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_begin, stage_end)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(what_is_durable_in_memory_is_spilled),
        TEST(a_ring_may_lag_behind_the_quorum),
        TEST(a_ring_is_used_again_and_again),
        TEST(a_storage_node_comes_back),
        TEST(a_connection_that_is_cut_is_made_anew),
        TEST(a_spiller_goes_on_where_another_one_ended),
        TEST(one_node_appends_and_another_takes_over),
        TEST(a_node_with_nothing_new_does_not_keep_others_out),
        TEST(another_owner_goes_on_with_the_log),
        TEST(an_old_owners_ring_waits_for_the_new_one),
        TEST(a_log_made_anew_takes_what_is_of_owners_before),
        TEST(a_gap_is_reported),
        TEST(a_frame_may_be_longer_than_a_chunk),
        TEST(lines_that_are_no_lines_are_ignored),
        TEST(many_rings_share_the_connection),
        TEST(a_ring_that_is_granted_is_spilled_until_it_is_released),
    };
    return stage_run(tests, sizeof tests / sizeof tests[0]);
}
