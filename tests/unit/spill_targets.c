/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a memory node's spiller makes of a storage node that lies, and how it goes over to another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <poll.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/daemon/server.h"
#include "common/racy.h"
#include "tests/lib/spill_stage.h"

/* ---- a storage node that says what it likes -------------------------------------------------- */

typedef struct liar {
    fp_server server;
    uint64_t random;
    unsigned answers;
    ring_owner *o;
} liar;

static uint64_t some_lsn(liar *l)
{
    static const uint64_t edges[] = {0, 8, 64, 72, 1 << 20, UINT64_MAX, UINT64_MAX - 7, 1ull << 63};
    uint64_t kind = test_random(&l->random) % 4;
    return kind == 0   ? edges[test_random(&l->random) % 8]
           : kind == 1 ? test_random(&l->random)
                       : wal_log_after(&l->o->log, test_random(&l->random) % l->o->log.end, 1);
}

static void lie(void *arg, fp_server_client *c)
{
    liar *l = arg;
    fp_msg *answer = &l->server.answer;
    uint32_t request = l->server.request.request;
    l->answers++;
    bool sane = test_random(&l->random) % 4;
    answer->type = FP_MSG_WAL_STATE;
    answer->partition = sane || test_random(&l->random) % 4 ? 5 : 6;
    answer->epoch = test_random(&l->random) % 4;
    answer->wal.volume = sane ? 1 : test_random(&l->random) % 4;
    answer->wal.start = sane ? 64 : some_lsn(l);
    answer->wal.durable = sane ? wal_log_after(&l->o->log, 64, 1) : some_lsn(l);
    answer->wal.end = sane ? answer->wal.durable : some_lsn(l);
    answer->wal.streaming = test_random(&l->random) % 4 != 0;
    answer->wal.landing =
        (fp_rkey){.key = test_random(&l->random), .len = sane ? 1 << 20 : some_lsn(l) % (1 << 21)};
    answer->wal.landing_free = sane ? answer->wal.durable + answer->wal.landing.len : some_lsn(l);
    if (test_random(&l->random) % 16 == 0) { /* also to what should have been something else */
        answer->type = test_random(&l->random) % 2 ? FP_MSG_ERROR : FP_MSG_RELEASE_OK;
        answer->code = -(int)(test_random(&l->random) % 30);
        strcpy(answer->text, "nonsense");
    }
    fp_server_answer(&l->server, c, request + (test_random(&l->random) % 64 == 0));
}

static void gone(void *arg, fp_server_client *c)
{
    (void)arg;
    (void)c;
}

static void a_storage_node_is_not_trusted(void **state)
{
    (void)state;
    enum { LIVES = 15, LIFE_NS = 150000000, ANSWERS = 3 };
    static const fp_server_ops ops = {
        .client_bytes = sizeof(fp_server_client), .request = lie, .dropped = gone};
    static liar l;
    ring_owner o;
    const char *bound;
    storage_stop(); /* it lies at its address */
    l = (liar){.random = test_seed(1), .o = &o};
    assert_int_equal(fp_server_open(&l.server, &ops, &l, "liar", 1, NULL), 0);
    assert_int_equal(fp_server_listen(&l.server, uri, NULL, &bound), 0);
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    o.epoch = 3;
    ring_owner_grow(&o, 200000, 500);
    for (unsigned i = 0; i < LIVES;
         i++) { /* each begins without the patience that lies have taught it */
        fp_spill *spill = spiller();
        add(spill, &o, 0);
        assert_int_equal(fp_spill_start(spill), 0);
        uint64_t until = fp_now_ns() + LIFE_NS, deadline = until + WAIT_S * (uint64_t)WAIT_NS;
        unsigned before = l.answers;
        while (fp_now_ns() < until || (l.answers < before + ANSWERS && fp_now_ns() < deadline))
            if (!fp_server_step(&l.server))
                poll(NULL, 0, 1);
        fp_spill_stop(spill);
        fp_spill_close(spill);
    }
    fp_server_stop(&l.server);
    fp_server_close(&l.server);
    assert_true(l.answers >= ANSWERS * LIVES);
    ring_owner_close(&o);
}

/* ---- another one ----------------------------------------------------------------------------- */

/* As a compute node does it. */
static bool is_spilled_nowhere(const ring_owner *o)
{
    fp_ring_node line;
    fp_racy_copy(&line, ring_owner_place(o, 0, FP_RING_NODE_AT), sizeof line);
    return fp_ring_node_is_valid(&line, o->log.partition) && !line.volume && line.worthless;
}

/* The first has some of the log, and others go on without it. */
static void another_storage_node_takes_its_place(void **state)
{
    (void)state;
    ring_owner o;
    char first[FP_NET_URI_MAX], reached[FP_NET_URI_MAX], other_volume[256];
    fp_ring_node line;
    fp_spill *spill = spiller();
    assert_int_equal(fp_spill_start(spill), 0);
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    add(spill, &o, 0);
    ring_owner_grow(&o, 20000, 700);
    until(NULL, &o, 0, o.durable);
    strcpy(first, uri);
    fp_spill_reached(spill, reached);
    assert_string_equal(reached, first);

    test_storage *before = storage_change(other_volume);
    fp_spill_target(spill, uri);
    /* Until it is heard of, the line says so: the owner lets go of nothing. */
    while (ring_owner_node(&o, 0, &line) && line.volume == test_storage_volume_id(before))
        go_on(NULL);
    until(NULL, &o, 0, o.durable);
    fp_spill_reached(spill, reached);
    assert_string_equal(reached, uri);
    ring_owner_grow(&o, 20000, 700);
    until(NULL, &o, 0, o.durable);

    /* Nowhere: nobody waits for that. Rings that come then say nothing. */
    fp_spill_usage usage;
    ring_owner fresh;
    fp_spill_target(spill, NULL);
    ring_owner_open(&fresh, 6, 1, LOG_BYTES, RING_EXTENT_BYTES);
    while (!is_spilled_nowhere(&o))
        go_on(NULL);
    add(spill, &fresh, 0);
    ring_owner_grow(&o, 1000, 700);
    ring_owner_grow(&fresh, 1000, 700);
    idle(NULL, 50);
    fp_spill_reached(spill, reached);
    assert_string_equal(reached, "");
    fp_spill_usage_get(spill, &usage);
    assert_true(usage.lag == 0 && usage.gaps == 0);
    assert_false(ring_owner_node(&fresh, 0, &line));

    /* And back, while it is away. */
    test_storage_stop(before);
    fp_spill_target(spill, first);
    idle(NULL, 50);
    fp_spill_target(spill, uri);
    until(NULL, &o, 0, o.durable);
    until(NULL, &fresh, 0, fresh.durable);
    fp_spill_stop(spill);
    fp_spill_close(spill);
    storage_stop();
    test_volume_remove(other_volume);
    ring_owner_close(&fresh);
    ring_owner_close(&o);
}

/* All of it is on the first storage node, and the ring has nothing that could be sent to another one. */
static void a_log_that_is_quiet_is_told_to_another_storage_node(void **state)
{
    (void)state;
    ring_owner o;
    char other_volume[256];
    fp_spill *spill = spiller();
    ring_owner_open(&o, 5, 1, LOG_BYTES, RING_EXTENT_BYTES);
    add(spill, &o, 0);
    ring_owner_grow(&o, 20000, 700);
    until(spill, &o, 0, o.durable);
    o.start = o.durable;
    ring_owner_tell(&o, 0);
    test_storage_stop(storage_change(other_volume));
    fp_spill_target(spill, uri);
    go_on(spill); /* the line says nothing of the first any more */
    fp_ring_node line;
    uint64_t deadline = fp_now_ns() + WAIT_S * (uint64_t)WAIT_NS;
    while (!ring_owner_node(&o, 0, &line) && fp_now_ns() < deadline)
        go_on(spill);
    assert_int_equal(spilled(&o, 0), o.durable);
    fp_spill_close(spill);
    storage_stop();
    test_volume_remove(other_volume);
    ring_owner_close(&o);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_begin, stage_end)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(a_storage_node_is_not_trusted),
        TEST(another_storage_node_takes_its_place),
        TEST(a_log_that_is_quiet_is_told_to_another_storage_node),
    };
    return stage_run(tests, sizeof tests / sizeof tests[0]);
}
