/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that pollers in several threads, each with connections of its own, share a net without
 * harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/mem.h"
#include "tests/lib/peer_pair.h"

enum { THREADS = 4, CONNS = 2, ROUNDS = 300, PART = 1 << 20, DEPTH = 16 };

typedef struct worker {
    fp_net *net;
    fp_mem *mem;
    fp_mr *mr;
    const char *uri;
    size_t number;
    pthread_t thread;
    const char *failure;
} worker;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            w->failure = #condition;                                                               \
            return;                                                                                \
        }                                                                                          \
    } while (0)

static void drain(worker *w, fp_poller *poller, int wanted)
{
    fp_net_event events[8];
    for (int done = 0, idle = 0; done < wanted;) {
        int n = fp_net_poll(poller, events, 8, 100);
        CHECK(n >= 0);
        idle = n ? 0 : idle + 1;
        CHECK(idle < 200);
        for (int i = 0; i < n; i++) {
            CHECK(events[i].kind == FP_NET_DONE && events[i].status == 0);
            done++;
        }
    }
}

static void exercise(worker *w, fp_poller *poller, fp_conn **conns, const peer_keys *keys)
{
    char *local = (char *)w->mem->addr + w->number * PART;
    for (uint32_t round = 0; round < ROUNDS && !w->failure; round++) {
        /* Each thread writes a part of its own and reads it back through the other connection. */
        fp_net_op ops[DEPTH];
        memset(local, (int)(round + w->number), DEPTH * 4096);
        for (uint32_t i = 0; i < DEPTH; i++) {
            ops[i] = (fp_net_op){.kind = FP_NET_WRITE,
                                 .remote_key = keys->rw.key,
                                 .remote_addr = keys->rw.addr + w->number * PART + i * 4096,
                                 .sge_count = 1,
                                 .sge = {{local + i * 4096, 4096, w->mr}}};
        }
        CHECK(fp_net_post(conns[0], ops, DEPTH) == 0);
        drain(w, poller, DEPTH);
        for (uint32_t i = 0; i < DEPTH; i++) {
            ops[i].kind = FP_NET_READ;
            ops[i].sge[0].addr = local + (DEPTH + i) * 4096;
        }
        CHECK(fp_net_post(conns[1], ops, DEPTH) == 0);
        drain(w, poller, DEPTH);
        CHECK(w->failure || !memcmp(local, local + DEPTH * 4096, DEPTH * 4096));
    }
}

static void work(worker *w)
{
    fp_poller *poller;
    fp_conn *conns[CONNS];
    peer_keys keys = {0};
    CHECK(fp_net_poller_open(w->net, &poller) == 0);
    for (int i = 0; i < CONNS; i++) {
        CHECK(fp_net_connect(poller, w->uri, &conns[i]) == 0);
        fp_net_event event;
        CHECK(fp_net_poll(poller, &event, 1, PEER_WAIT_MS) == 1 && event.kind == FP_NET_RECV);
        memcpy(&keys, event.data, sizeof keys);
    }
    exercise(w, poller, conns, &keys);
    for (int i = 0; i < CONNS; i++)
        fp_net_conn_close(conns[i]);
    fp_net_poller_close(poller);
}

static void *thread_main(void *arg)
{
    work(arg);
    return NULL;
}

static void run_workers(fp_net *net, fp_mem *mem, fp_mr *mr, const char *uri)
{
    worker workers[THREADS] = {0};
    for (size_t i = 0; i < THREADS; i++) {
        workers[i] = (worker){.net = net, .mem = mem, .mr = mr, .uri = uri, .number = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, thread_main, &workers[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    for (size_t i = 0; i < THREADS; i++) {
        if (workers[i].failure)
            fail_msg("thread %zu: %s", i, workers[i].failure);
    }
}

static void pollers_in_threads(void **state)
{
    (void)state;
    peer_applies(__func__);
    run_workers(c.net, &c.mem, c.mr, server.uri);
}

/* The same while memory is registered and withdrawn, and connections come and go, in another
 * poller. */
static void pollers_beside_registration(void **state)
{
    (void)state;
    peer_applies(__func__);
    worker w = {.net = c.net, .mem = &c.mem, .mr = c.mr, .uri = server.uri, .number = 1};
    assert_int_equal(pthread_create(&w.thread, NULL, thread_main, &w), 0);
    fp_conn *first = c.conn;
    for (int i = 0; i < 30; i++) {
        fp_mem mem;
        fp_mr *mr;
        assert_int_equal(fp_mem_open(65536, FP_MEM_SHARED, -1, &mem), 0);
        assert_int_equal(fp_net_register(c.net, &mem, FP_NET_REMOTE_READ, &mr), 0);
        assert_int_equal(fp_net_share(first, mr), 0);
        assert_int_equal(client_connect(&c, server.uri), 0);
        assert_int_equal(fp_net_share(c.conn, mr), 0);
        fp_net_op op = op_read(&c, c.keys.ro, 0, 0, 4096);
        op.sge[0] = (fp_sge){mem.addr, 4096, mr};
        assert_int_equal(client_do(&c, op), 0);
        assert_int_equal(memcmp(mem.addr, server.parts[0].addr, 4096), 0);
        fp_net_unregister(mr);
        fp_mem_close(&mem);
        fp_net_conn_close(c.conn);
        c.conn = first;
    }
    pthread_join(w.thread, NULL);
    if (w.failure)
        fail_msg("%s", w.failure);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        PEER_TEST(pollers_in_threads),
        PEER_TEST(pollers_beside_registration),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return peer_for_each(group); }
