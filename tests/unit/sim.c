/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that the simulated network repeats itself for the same seed, tears what may be torn, and completes every
 * operation once whatever is lost, cut off or crashed; and that each node has a clock of its own. */
#include "common/net/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"

typedef struct pair {
    fp_sim_world *world;
    fp_net *nets[2];
    fp_poller *pollers[2];
    fp_listener *listener;
    fp_conn *conns[2]; /* of the client, of the server */
    fp_mem mem[2];
    fp_mr *mrs[2];
} pair;

static void pair_open(pair *p, uint64_t seed, const fp_sim_config *config)
{
    const char *uris[] = {"sim://client", "sim://server"};
    memset(p, 0, sizeof *p);
    assert_int_equal(fp_sim_world_open(seed, config, &p->world), 0);
    fp_net_options options = {.world = p->world};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fp_net_open(uris[i], &options, &p->nets[i]), 0);
        assert_int_equal(fp_net_poller_open(p->nets[i], &p->pollers[i]), 0);
        assert_int_equal(fp_mem_open(1 << 20, 0, -1, &p->mem[i]), 0);
        assert_int_equal(fp_net_register(p->nets[i], &p->mem[i],
                                         FP_NET_REMOTE_READ | FP_NET_REMOTE_WRITE, &p->mrs[i]),
                         0);
    }
    assert_int_equal(fp_net_listen(p->pollers[1], uris[1], &p->listener), 0);
    assert_int_equal(fp_net_connect(p->pollers[0], uris[1], &p->conns[0]), 0);
    fp_net_event event;
    assert_int_equal(fp_net_poll(p->pollers[1], &event, 1, 1), 1);
    assert_int_equal(event.kind, FP_NET_ACCEPTED);
    p->conns[1] = event.conn;
    assert_int_equal(fp_net_share(p->conns[1], p->mrs[1]), 0);
}

static void pair_close(pair *p)
{
    fp_net_conn_close(p->conns[0]);
    fp_net_conn_close(p->conns[1]);
    fp_net_listener_close(p->listener);
    for (int i = 0; i < 2; i++) {
        fp_net_poller_close(p->pollers[i]);
        fp_net_unregister(p->mrs[i]);
        fp_net_close(p->nets[i]);
        fp_mem_close(&p->mem[i]);
    }
    fp_sim_world_close(p->world);
}

static fp_net_op op_write(pair *p, uint32_t len, uint64_t cookie)
{
    fp_net_op op = {.kind = FP_NET_WRITE, .cookie = cookie, .sge_count = 1};
    op.remote_key = fp_net_rkey(p->mrs[1]).key;
    op.remote_addr = fp_net_rkey(p->mrs[1]).addr;
    op.sge[0] = (fp_sge){p->mem[0].addr, len, p->mrs[0]};
    return op;
}

/* Posts 64 WRITEs and polls until all are completed; counts those that failed. */
static unsigned exchange(pair *p)
{
    unsigned done = 0, failed = 0, closed = 0;
    for (uint64_t i = 0; i < 64; i++) {
        fp_net_op op = op_write(p, 4096, i);
        assert_int_equal(fp_net_post(p->conns[0], &op, 1), 0);
    }
    fp_net_event event;
    while (done < 64 && fp_net_poll(p->pollers[0], &event, 1, 1000) == 1) {
        if (event.kind == FP_NET_CLOSED) {
            closed++;
            continue;
        }
        assert_int_equal(event.kind, FP_NET_DONE);
        assert_int_equal(event.cookie, done); /* N2, each once */
        done++;
        failed += event.status != 0;
    }
    assert_int_equal(done, 64);
    if (failed && !closed) {
        assert_int_equal(fp_net_poll(p->pollers[0], &event, 1, 1000), 1);
        assert_int_equal(event.kind, FP_NET_CLOSED);
    }
    return failed;
}

static void the_same_seed_is_the_same_run(void **state)
{
    (void)state;
    fp_sim_config config = {.loss_per_million = 5000, .torn = true};
    uint64_t hashes[3];
    uint64_t seeds[3] = {7, 7, 8};
    for (int i = 0; i < 3; i++) {
        pair p;
        pair_open(&p, seeds[i], &config);
        exchange(&p);
        hashes[i] = fp_sim_trace_hash(p.world);
        pair_close(&p);
    }
    assert_true(hashes[0] == hashes[1]);
    assert_true(hashes[0] != hashes[2]);
}

static void everything_completes_once(void **state)
{
    (void)state;
    fp_sim_config config = {.loss_per_million = 3000, .torn = true};
    unsigned broken = 0, whole = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        pair p;
        pair_open(&p, seed, &config);
        if (exchange(&p))
            broken++;
        else
            whole++;
        pair_close(&p);
    }
    assert_true(broken > 20 && whole > 20);
}

static void writes_are_torn(void **state)
{
    (void)state;
    fp_sim_config config = {.torn = true};
    unsigned torn = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        pair p;
        pair_open(&p, seed, &config);
        memset(p.mem[0].addr, 1, 4096);
        fp_net_op op = op_write(&p, 4096, 0);
        assert_int_equal(fp_net_post(p.conns[0], &op, 1), 0);
        fp_net_event event;
        const char *there = p.mem[1].addr;
        while (fp_net_poll(p.pollers[0], &event, 1, 0) == 0)
            torn += there[0] != there[4095];
        assert_int_equal(there[4095], 1);
        pair_close(&p);
    }
    assert_true(torn > 0);
}

static void a_crash_and_a_cut_are_noticed(void **state)
{
    (void)state;
    fp_sim_config config = {0};
    for (int cut = 0; cut < 2; cut++) {
        pair p;
        pair_open(&p, 3, &config);
        if (cut)
            fp_sim_cut(p.world, "client", "server");
        else
            fp_sim_crash(p.world, "server");
        if (cut) {
            assert_int_equal(exchange(&p), 64);
        } else {
            fp_net_event event;
            assert_int_equal(fp_net_poll(p.pollers[0], &event, 1, 10), 1);
            assert_int_equal(event.kind, FP_NET_CLOSED);
            assert_int_equal(event.status, FARPOOL_E_NODE);
        }
        fp_conn *again;
        assert_int_equal(fp_net_connect(p.pollers[0], "sim://server", &again), FARPOOL_E_NODE);
        pair_close(&p);
    }
}

static void reset(void *world) { fp_sim_reset(world, "client", "server"); }

/* The listener's side never hears of it; ours does. */
static void a_reset_before_the_accept_is_ours_alone(void **state)
{
    (void)state;
    fp_sim_config config = {0};
    pair p;
    pair_open(&p, 3, &config);
    fp_conn *early;
    fp_net_event event;
    fp_sim_at(p.world, fp_sim_now_ns(p.world) + 1, reset, p.world);
    assert_int_equal(fp_net_connect(p.pollers[0], "sim://server", &early), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fp_net_poll(p.pollers[0], &event, 1, 10), 1);
        assert_int_equal(event.kind, FP_NET_CLOSED);
    }
    assert_int_equal(fp_net_poll(p.pollers[1], &event, 1, 10), 1);
    assert_ptr_equal(event.conn, p.conns[1]); /* the other one */
    assert_int_equal(fp_net_poll(p.pollers[1], &event, 1, 10), 0);
    fp_net_conn_close(early);
    pair_close(&p);
}

/* What is asked for is done; that it was is not heard of. Those who only hear find out when they say something. */
static void a_cut_one_way_loses_answers(void **state)
{
    (void)state;
    fp_sim_config config = {0};
    pair p;
    fp_net_event event;
    pair_open(&p, 3, &config);
    memset(p.mem[0].addr, 7, 4096);
    fp_net_op op = op_write(&p, 4096, 5);
    fp_sim_cut_one_way(p.world, "server", "client");
    assert_int_equal(fp_net_post(p.conns[0], &op, 1), 0);
    assert_int_equal(fp_net_poll(p.pollers[0], &event, 1, 10), 1);
    assert_int_equal(event.status, FARPOOL_E_NODE);
    assert_int_equal(event.cookie, 5);
    assert_int_equal(((const char *)p.mem[1].addr)[4095], 7);
    assert_int_equal(fp_net_poll(p.pollers[1], &event, 1, 10), 0);
    fp_net_op answer = {
        .kind = FP_NET_SEND, .sge = {{p.mem[1].addr, 64, p.mrs[1]}}, .sge_count = 1};
    assert_int_equal(fp_net_post(p.conns[1], &answer, 1), 0);
    assert_int_equal(fp_net_poll(p.pollers[1], &event, 1, 10), 1);
    assert_int_equal(event.status, FARPOOL_E_NODE);
    fp_conn *again;
    assert_int_equal(fp_net_connect(p.pollers[0], "sim://server", &again), FARPOOL_E_NODE);
    fp_sim_heal(p.world);
    assert_int_equal(fp_net_connect(p.pollers[0], "sim://server", &again), 0);
    fp_net_conn_close(again);
    pair_close(&p);
}

/* Of one node, whose nets may be opened later. */
static void clocks_jump_and_stand_still(void **state)
{
    (void)state;
    enum { MS = 1000000 };
    fp_sim_config config = {0};
    pair p;
    fp_net_event event;
    pair_open(&p, 3, &config);
    fp_sim_move_clock(p.world, "client", 3600000ll * MS);
    uint64_t begin = fp_net_now_ns(p.nets[0]);
    assert_int_equal(begin - fp_net_now_ns(p.nets[1]), 3600000ull * MS);
    assert_int_equal(fp_net_now_ns(p.nets[1]), fp_sim_now_ns(p.world));
    fp_sim_move_clock(p.world, "client", -10 * MS);
    assert_int_equal(fp_net_poll(p.pollers[1], &event, 1, 4), 0);
    assert_int_equal(fp_net_now_ns(p.nets[0]), begin);
    assert_int_equal(fp_net_poll(p.pollers[1], &event, 1, 10), 0);
    assert_int_equal(fp_net_now_ns(p.nets[0]) - begin, 4 * MS);
    assert_int_equal(fp_sim_clock_ns(p.world, "client"), fp_net_now_ns(p.nets[0]));
    pair_close(&p);
}

static void access_is_checked(void **state)
{
    (void)state;
    fp_sim_config config = {0};
    pair p;
    pair_open(&p, 3, &config);
    fp_net_op op = op_write(&p, 4096, 5);
    op.remote_addr += p.mem[1].len - 4095;
    assert_int_equal(fp_net_post(p.conns[0], &op, 1), 0);
    fp_net_event event;
    assert_int_equal(fp_net_poll(p.pollers[0], &event, 1, 10), 1);
    assert_int_equal(event.status, FARPOOL_E_ACCESS);
    assert_int_equal(event.cookie, 5);
    pair_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_is_the_same_run),
        cmocka_unit_test(everything_completes_once),
        cmocka_unit_test(writes_are_torn),
        cmocka_unit_test(a_crash_and_a_cut_are_noticed),
        cmocka_unit_test(a_reset_before_the_accept_is_ours_alone),
        cmocka_unit_test(a_cut_one_way_loses_answers),
        cmocka_unit_test(clocks_jump_and_stand_still),
        cmocka_unit_test(access_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
