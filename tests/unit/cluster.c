/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a pool follows what coordinators say, with a scripted one and real memory and storage nodes: partitions are
 * assigned, opened, given other nodes while threads commit, made read-only, and taken away; the coordinator is told all of
 * it; who was taken over is told so, and touches nothing of the successor's; and without a coordinator all goes on. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "compute/cluster_inside.h"
#include "compute/storage.h"
#include "tests/lib/process.h"
#include "tests/lib/require.h"
#include "tests/lib/testcoordinator.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { NODES = 4, COPIES = 3, STORAGES = 2, NODE_KIB = 96 << 10, POOL_BYTES = 2 << 20 };

static test_process nodes[NODES], storages[STORAGES];
static char volumes[STORAGES][256];
static uint64_t next_id = 1; /* each test has a partition of its own */

typedef struct bed {
    test_coordinator *coordinator;
    farpool_pool *pool;
    farpool_cluster *cluster;
    uint64_t id;
    farpool_partition *part;
    farpool_pid pid; /* of a page with a counter */
} bed;

/* ---- the bed --------------------------------------------------------------------------------- */

static int join(bed *b, unsigned join_ms, farpool_cluster **cluster)
{
    farpool_cluster_options options;
    farpool_cluster_options_init(&options);
    options.coordinators = test_coordinator_uri(b->coordinator);
    options.zone = "z1";
    options.address = "here:1";
    options.join_ms = join_ms;
    return farpool_cluster_join(b->pool, &options, cluster);
}

static void say(const farpool_cluster_event *event)
{
    print_message("event %d of partition %llu, epoch %llu: %s\n", (int)event->kind,
                  (unsigned long long)event->partition, (unsigned long long)event->epoch,
                  event->reason);
}

static farpool_cluster_event expect(bed *b, enum farpool_cluster_event_kind kind)
{
    farpool_cluster_event event;
    test_must(farpool_cluster_next(b->cluster, AWAIT_S * 1000, &event), "waiting for an event");
    if (event.kind != kind)
        say(&event);
    assert_int_equal(event.kind, kind);
    if (kind != FARPOOL_CLUSTER_CONNECTED && kind != FARPOOL_CLUSTER_DISCONNECTED)
        assert_int_equal(event.partition, b->id);
    return event;
}

static void expect_none(bed *b)
{
    farpool_cluster_event event;
    int rc = farpool_cluster_next(b->cluster, 0, &event);
    if (!rc)
        say(&event);
    assert_int_equal(rc, FARPOOL_E_TIMEOUT);
}

static int set_up(void **state)
{
    bed *b = calloc(1, sizeof *b);
    for (unsigned i = 0; i < NODES; i++)
        test_process_start_spilling(&nodes[i], "shm", NODE_KIB, storages[0].uri);
    b->coordinator = test_coordinator_start("tcp://127.0.0.1:0");
    b->pool = test_pool_new(FARPOOL_MAPPING_FRAMES, POOL_BYTES);
    b->id = next_id++;
    test_must(join(b, AWAIT_S * 1000, &b->cluster), "joining");
    expect(b, FARPOOL_CLUSTER_CONNECTED);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    bed *b = *state;
    if (b->part)
        (void)farpool_partition_close(b->part);
    if (b->cluster)
        test_must(farpool_cluster_leave(b->cluster), "leaving");
    test_must(farpool_pool_close(b->pool), "closing");
    if (b->coordinator)
        test_coordinator_stop(b->coordinator);
    for (unsigned i = 0; i < NODES; i++)
        test_process_end(&nodes[i], SIGTERM);
    free(b);
    return 0;
}

static json_t *memnodes(unsigned a, unsigned b, unsigned c)
{
    return json_pack("[s, s, s]", nodes[a].uri, nodes[b].uri, nodes[c].uri);
}

static json_t *storagenodes(unsigned count)
{
    return count == 1 ? json_pack("[s]", storages[0].uri)
                      : json_pack("[s, s]", storages[0].uri, storages[1].uri);
}

static json_t *duty(const bed *b, uint64_t epoch, const char *phase)
{
    return test_duty(b->id, epoch, phase, epoch > 1, memnodes(0, 1, 2), storagenodes(1));
}

static void assign(bed *b, json_t *one)
{
    test_coordinator_assign(b->coordinator, one ? json_pack("[o]", one) : json_array());
}

/* What the coordinator is told, if it is that; else NULL. */
static json_t *what_is_told(bed *b, uint64_t epoch, const char *state, int code)
{
    json_t *told = test_coordinator_told(b->coordinator, b->id);
    const char *text = json_string_value(json_object_get(told, "state"));
    if (told && (uint64_t)json_integer_value(json_object_get(told, "epoch")) == epoch &&
        !strcmp(text, state) && json_integer_value(json_object_get(told, "code")) == code)
        return told;
    json_decref(told);
    return NULL;
}

static json_t *wait_told(bed *b, uint64_t epoch, const char *state, int code)
{
    json_t *told;
    AWAIT((told = what_is_told(b, epoch, state, code)));
    return told;
}

static void told(bed *b, uint64_t epoch, const char *state, int code)
{
    json_decref(wait_told(b, epoch, state, code));
}

static void open_assigned(bed *b, uint64_t epoch)
{
    assert_int_equal(expect(b, FARPOOL_CLUSTER_ASSIGNED).epoch, epoch);
    test_must(farpool_cluster_open(b->cluster, b->id, &b->part), "opening");
    told(b, epoch, "open", 0);
}

static void assign_and_open(bed *b, uint64_t epoch)
{
    assign(b, duty(b, epoch, "assigned"));
    open_assigned(b, epoch);
}

static int change(farpool_partition *part, farpool_pid *pid, uint64_t value)
{
    farpool_mtr *mtr;
    void *page;
    int rc = farpool_mtr_begin(part, 0, &mtr);
    if (rc)
        return rc;
    rc = *pid ? farpool_mtr_fix(mtr, *pid, &page) : farpool_mtr_alloc(mtr, 0, pid, &page);
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    *(uint64_t *)page = value;
    return farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
}

static uint64_t value_of(farpool_partition *part, farpool_pid pid)
{
    void *page;
    test_must(farpool_fix(part, pid, FARPOOL_SHARED, &page), "reading");
    uint64_t value = *(uint64_t *)page;
    farpool_unfix(part, pid, FARPOOL_SHARED);
    return value;
}

static void close_it(bed *b, int code)
{
    int rc = farpool_partition_close(b->part);
    b->part = NULL; /* the handle is gone, whatever it says */
    assert_int_equal(rc, code);
}

/* Another process, under a higher epoch, as memory nodes see it. */
static void take_over(const bed *b, uint64_t epoch, farpool_pool **pool, farpool_partition **part)
{
    const char *uris[COPIES] = {nodes[0].uri, nodes[1].uri, nodes[2].uri};
    const char *stores[] = {storages[0].uri};
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.id = b->id;
    options.epoch = epoch;
    options.space_bytes = 1 << 30;
    options.slab_bytes = 12 << 20;
    options.memnodes = uris;
    options.memnode_count = options.log_copies = COPIES;
    options.log_quorum = 2;
    options.log_ring_bytes = 4 << 20;
    options.storagenodes = stores;
    options.storagenode_count = 1;
    options.recover = FARPOOL_RECOVER;
    *pool = test_pool_new(FARPOOL_MAPPING_FRAMES, POOL_BYTES);
    test_must(farpool_partition_open(*pool, &options, part), "taking over");
}

/* ---- joining --------------------------------------------------------------------------------- */

static void a_pool_joins_and_leaves(void **state)
{
    bed *b = *state;
    farpool_cluster *another;
    const char *role, *name, *boot_id, *zone, *host, *address;
    int standby;
    json_t *card = test_coordinator_card(b->coordinator);
    assert_int_equal(json_unpack(card, "{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:[]}", "role", &role,
                                 "name", &name, "boot_id", &boot_id, "zone", &zone, "host", &host,
                                 "address", &address, "standby", &standby, "uris"),
                     0);
    assert_string_equal(role, "compute");
    assert_string_equal(name, "pool");
    assert_int_equal(strlen(boot_id), 16);
    assert_string_equal(zone, "z1");
    assert_string_equal(address, "here:1");
    assert_true(host[0] && standby);
    json_decref(card);
    assert_int_equal(join(b, 1, &another), FARPOOL_E_EXISTS);
    assert_int_equal(farpool_pool_close(b->pool), FARPOOL_E_BUSY);
    test_must(farpool_cluster_leave(b->cluster), "leaving");
    assert_int_equal(test_coordinator_others(b->coordinator), 1);
    test_must(join(b, AWAIT_S * 1000, &b->cluster), "joining again");
}

static void nobody_answers_and_then_somebody(void **state)
{
    bed *b = *state;
    char uri[FP_NET_URI_MAX];
    snprintf(uri, sizeof uri, "%s", test_coordinator_uri(b->coordinator));
    test_must(farpool_cluster_leave(b->cluster), "leaving");
    test_coordinator_stop(b->coordinator);
    farpool_cluster_options options;
    farpool_cluster_options_init(&options);
    options.coordinators = uri;
    options.join_ms = 50;
    assert_int_equal(farpool_cluster_join(b->pool, &options, &b->cluster), FARPOOL_E_TIMEOUT);
    options.join_ms = 0;
    test_must(farpool_cluster_join(b->pool, &options, &b->cluster), "joining some time");
    expect_none(b);
    b->coordinator = test_coordinator_start(uri);
    expect(b, FARPOOL_CLUSTER_CONNECTED);
    options.coordinators = "";
    assert_int_equal(farpool_cluster_join(b->pool, &options, &b->cluster), FARPOOL_E_INVAL);
}

/* ---- partitions ------------------------------------------------------------------------------ */

static void a_partition_is_opened_and_closed(void **state)
{
    bed *b = *state;
    farpool_partition *twice;
    assert_int_equal(farpool_cluster_open(b->cluster, b->id, &twice), FARPOOL_E_NOTFOUND);
    assign_and_open(b, 1);
    assert_int_equal(farpool_cluster_open(b->cluster, b->id, &twice), FARPOOL_E_BUSY);
    assert_int_equal(farpool_cluster_leave(b->cluster), FARPOOL_E_BUSY);
    assign(b, duty(b, 1, "open"));
    test_must(change(b->part, &b->pid, 41), "a commit");
    close_it(b, 0);
    told(b, 1, "closed", 0);
    assert_int_equal(farpool_cluster_open(b->cluster, b->id, &twice), FARPOOL_E_FENCED);
    expect_none(b);
    assign_and_open(b, 2);
    assert_int_equal(value_of(b->part, b->pid), 41);
}

static void one_that_cannot_be_opened_is_assigned_again(void **state)
{
    bed *b = *state;
    json_t *one = duty(b, 1, "assigned");
    json_object_set_new(one, "memnodes",
                        json_pack("[s, s, s]", nodes[0].uri, nodes[1].uri, "shm:///nowhere"));
    assign(b, one);
    expect(b, FARPOOL_CLUSTER_ASSIGNED);
    assert_int_equal(farpool_cluster_open(b->cluster, b->id, &b->part), FARPOOL_E_NODE);
    json_t *what = wait_told(b, 1, "failed", FARPOOL_E_NODE);
    assert_non_null(strstr(json_string_value(json_object_get(what, "text")), "shm:///nowhere"));
    json_decref(what);
    expect_none(b);
    assign(b, test_duty(b->id, 2, "assigned", false, memnodes(0, 1, 2), storagenodes(1)));
    open_assigned(b, 2);
}

static void one_that_is_withdrawn_is_revoked(void **state)
{
    bed *b = *state;
    assign(b, duty(b, 1, "assigned"));
    expect(b, FARPOOL_CLUSTER_ASSIGNED);
    assign(b, NULL);
    assert_int_equal(expect(b, FARPOOL_CLUSTER_REVOKED).epoch, 1);
    assert_int_equal(farpool_cluster_open(b->cluster, b->id, &b->part), FARPOOL_E_NOTFOUND);
}

static bool is_withdrawn(bed *b)
{
    pthread_mutex_lock(&b->cluster->lock);
    bool is = !fp_cluster_find_locked(b->cluster, b->id)->duty.epoch;
    pthread_mutex_unlock(&b->cluster->lock);
    return is;
}

/* Nodes that it needs were away for a moment; the program has heard of that by trying. */
static void one_that_comes_back_is_assigned_again(void **state)
{
    bed *b = *state;
    assign(b, duty(b, 1, "assigned"));
    expect(b, FARPOOL_CLUSTER_ASSIGNED);
    assign(b, NULL);
    AWAIT(is_withdrawn(b));
    assert_int_equal(farpool_cluster_open(b->cluster, b->id, &b->part), FARPOOL_E_NOTFOUND);
    assign(b, duty(b, 1, "assigned"));
    open_assigned(b, 1);
}

static void read_only_is_what_it_is_now(void **state)
{
    bed *b = *state;
    farpool_mtr *mtr;
    void *page;
    assign_and_open(b, 1);
    test_must(change(b->part, &b->pid, 1), "a commit");
    test_must(farpool_mtr_begin(b->part, 0, &mtr), "beginning");
    for (unsigned i = 0; i < 3; i++) {
        json_t *one = duty(b, 1, "open");
        json_object_set_new(one, "state", json_string(i % 2 ? "active" : "read-only"));
        assign(b, one);
    }
    expect(b, FARPOOL_CLUSTER_READ_ONLY);
    /* The first of the three has been told, and then the second. */
    AWAIT(change(b->part, &b->pid, 2) == FARPOOL_E_READONLY);
    test_must(farpool_mtr_fix(mtr, b->pid, &page), "fixing");
    *(uint64_t *)page = 3;
    test_must(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL), "what had begun");
    assert_int_equal(value_of(b->part, b->pid), 3);
    assign(b, duty(b, 1, "open"));
    farpool_cluster_event event;
    do
        test_must(farpool_cluster_next(b->cluster, AWAIT_S * 1000, &event), "an event");
    while (event.kind != FARPOOL_CLUSTER_WRITABLE || change(b->part, &b->pid, 4));
}

static void what_cannot_be_understood_changes_nothing(void **state)
{
    bed *b = *state;
    assign_and_open(b, 1);
    json_t *one = duty(b, 1, "open");
    json_object_set_new(one, "phase", json_string("levitating"));
    assign(b, one);
    uint64_t id = b->id;
    b->id = next_id++; /* what comes behind it in the list is taken */
    test_coordinator_assign(b->coordinator,
                            json_pack("[{s:I, s:s}, {s:s}, o]", "id", (json_int_t)id, "phase", "?",
                                      "name", "nobody's", duty(b, 1, "assigned")));
    expect(b, FARPOOL_CLUSTER_ASSIGNED);
    test_must(change(b->part, &b->pid, 5), "a commit");
    expect_none(b);
}

/* ---- other nodes ----------------------------------------------------------------------------- */

static _Atomic bool enough;
static _Atomic uint64_t committed;

static void *commit_all_the_time(void *arg)
{
    bed *b = arg;
    uint64_t value = atomic_load(&committed);
    int rc = 0;
    while (!rc && !atomic_load(&enough)) {
        rc = change(b->part, &b->pid, ++value);
        if (!rc)
            atomic_store(&committed, value);
    }
    return (void *)(intptr_t)rc;
}

static void wait_commits(uint64_t count)
{
    uint64_t from = atomic_load(&committed);
    AWAIT(atomic_load(&committed) >= from + count);
}

static pthread_t start_commits(bed *b)
{
    pthread_t thread;
    atomic_store(&enough, false);
    atomic_store(&committed, 0);
    test_must(change(b->part, &b->pid, 0), "a commit");
    REQUIRE(!pthread_create(&thread, NULL, commit_all_the_time, b));
    wait_commits(10);
    return thread;
}

static int end_commits(pthread_t thread)
{
    void *rc;
    atomic_store(&enough, true);
    pthread_join(thread, &rc);
    return (int)(intptr_t)rc;
}

static void other_memory_nodes_come_while_threads_commit(void **state)
{
    bed *b = *state;
    assign_and_open(b, 1);
    pthread_t thread = start_commits(b);
    /* One that cannot be had: it goes on as before. */
    assign(b, test_duty(b->id, 2, "changing", true,
                        json_pack("[s, s, s]", nodes[0].uri, nodes[1].uri, "shm:///nowhere"),
                        storagenodes(1)));
    told(b, 2, "open", FARPOOL_E_NODE);
    wait_commits(10);
    assign(b, test_duty(b->id, 3, "changing", true, memnodes(0, 1, 2), storagenodes(1)));
    told(b, 3, "open", 0);
    wait_commits(10);
    assign(b, test_duty(b->id, 4, "changing", true, memnodes(0, 1, 3), storagenodes(1)));
    told(b, 4, "open", 0);
    assign(b, test_duty(b->id, 4, "open", true, memnodes(0, 1, 3), storagenodes(2)));
    wait_commits(10);
    expect_none(b);
    assert_int_equal(end_commits(thread), 0);
    assert_int_equal(value_of(b->part, b->pid), atomic_load(&committed));
    AWAIT(fp_storage_count(b->part) == 2);
    assert_string_equal(b->pool->nodes[fp_storages_now(b->part)->nodes[1]].uri, storages[1].uri);
    assert_int_equal(b->part->set->epoch, 4);
}

static bool first_is_told_lost(bed *b)
{
    json_t *what = test_coordinator_told(b->coordinator, b->id);
    const json_t *lost = json_object_get(what, "lost");
    bool told = json_array_size(lost) == 1 && !json_integer_value(json_array_get(lost, 0));
    json_decref(what);
    return told;
}

static void memory_nodes_that_are_lost_are_told(void **state)
{
    bed *b = *state;
    char uri[sizeof nodes[3].uri];
    assign(b, test_duty(b->id, 1, "assigned", false, memnodes(3, 1, 2), storagenodes(1)));
    open_assigned(b, 1);
    pthread_t thread = start_commits(b);
    snprintf(uri, sizeof uri, "%s", nodes[3].uri);
    REQUIRE(WTERMSIG(test_process_end(&nodes[3], SIGKILL)) == SIGKILL);
    AWAIT(first_is_told_lost(b));
    test_process_start_spilling(&nodes[3], uri, NODE_KIB, storages[0].uri);
    assign(b, test_duty(b->id, 2, "changing", true, memnodes(3, 1, 2), storagenodes(1)));
    json_t *what = wait_told(b, 2, "open", 0);
    assert_null(json_object_get(what, "lost"));
    json_decref(what);
    assert_int_equal(end_commits(thread), 0);
}

/* ---- taken away ------------------------------------------------------------------------------ */

static void who_is_taken_over_is_told(void **state)
{
    bed *b = *state;
    farpool_pool *pool;
    farpool_partition *next;
    assign_and_open(b, 1);
    pthread_t thread = start_commits(b);
    take_over(b, 2, &pool, &next);
    void *rc;
    pthread_join(thread, &rc);
    assert_int_equal((int)(intptr_t)rc, FARPOOL_E_FENCED);
    farpool_cluster_event event = expect(b, FARPOOL_CLUSTER_REVOKED);
    assert_int_equal(event.code, FARPOOL_E_FENCED);
    assert_int_equal(event.epoch, 1);
    assert_true(event.reason[0]);
    told(b, 1, "failed", FARPOOL_E_FENCED);
    uint64_t found = value_of(next, b->pid);
    assert_in_range(found, atomic_load(&committed), atomic_load(&committed) + 1);
    assign(b, NULL);
    int code = farpool_partition_close(b->part);
    b->part = NULL;
    assert_true(code == FARPOOL_E_FENCED || code == FARPOOL_E_NODE); /* of its log, or of a slab */
    /* Nothing of the successor's was touched. */
    for (uint64_t i = 0; i < 100; i++)
        test_must(change(next, &b->pid, found + i), "the successor's commit");
    assert_int_equal(value_of(next, b->pid), found + 99);
    expect_none(b);
    test_must(farpool_partition_close(next), "closing the successor's");
    test_must(farpool_pool_close(pool), "closing");
}

static void another_epoch_comes_after_the_one_before_is_closed(void **state)
{
    bed *b = *state;
    assign_and_open(b, 1);
    test_must(change(b->part, &b->pid, 7), "a commit");
    assign(b, duty(b, 2, "assigned"));
    farpool_cluster_event event = expect(b, FARPOOL_CLUSTER_REVOKED);
    assert_int_equal(event.epoch, 1);
    assert_int_equal(event.code, 0);
    expect_none(b);
    close_it(b, 0);
    open_assigned(b, 2);
    assert_int_equal(value_of(b->part, b->pid), 7);
    assign(b, NULL);
    assert_int_equal(expect(b, FARPOOL_CLUSTER_REVOKED).epoch, 2);
    close_it(b, 0);
    expect_none(b);
}

static uint64_t epoch_said(bed *b)
{
    pthread_mutex_lock(&b->cluster->lock);
    uint64_t epoch = fp_cluster_find_locked(b->cluster, b->id)->duty.epoch;
    pthread_mutex_unlock(&b->cluster->lock);
    return epoch;
}

/* A coordinator that has just begun to lead does not know yet that the owner went on under a later epoch. */
static void an_epoch_from_before_takes_nothing_away(void **state)
{
    bed *b = *state;
    assign(b, test_duty(b->id, 2, "assigned", false, memnodes(0, 1, 2), storagenodes(1)));
    open_assigned(b, 2);
    assign(b, duty(b, 1, "open"));
    AWAIT(epoch_said(b) == 1);
    expect_none(b);
    test_must(change(b->part, &b->pid, 7), "a commit");
    assign(b, duty(b, 2, "open"));
    expect_none(b);
    assign(b, NULL);
    assert_int_equal(expect(b, FARPOOL_CLUSTER_REVOKED).epoch, 2);
    close_it(b, 0);
}

static void a_page_that_is_fixed_keeps_it_open(void **state)
{
    bed *b = *state;
    void *page;
    assign_and_open(b, 1);
    test_must(change(b->part, &b->pid, 7), "a commit");
    test_must(farpool_fix(b->part, b->pid, FARPOOL_SHARED, &page), "fixing");
    assert_int_equal(farpool_partition_close(b->part), FARPOOL_E_BUSY);
    assert_int_equal(farpool_cluster_leave(b->cluster), FARPOOL_E_BUSY);
    farpool_unfix(b->part, b->pid, FARPOOL_SHARED);
    close_it(b, 0);
    told(b, 1, "closed", 0);
}

/* ---- coordinators ---------------------------------------------------------------------------- */

static void without_a_coordinator_all_goes_on(void **state)
{
    bed *b = *state;
    char uri[FP_NET_URI_MAX];
    farpool_route route;
    assign_and_open(b, 1);
    snprintf(uri, sizeof uri, "%s", test_coordinator_uri(b->coordinator));
    pthread_t thread = start_commits(b);
    test_coordinator_stop(b->coordinator);
    b->coordinator = NULL;
    assert_true(expect(b, FARPOOL_CLUSTER_DISCONNECTED).reason[0]);
    assert_int_not_equal(farpool_cluster_route(b->cluster, "orders", 50, &route), 0);
    wait_commits(100);
    b->coordinator = test_coordinator_start(uri);
    assign(b, duty(b, 1, "open"));
    expect(b, FARPOOL_CLUSTER_CONNECTED);
    told(b, 1, "open", 0);
    wait_commits(10);
    assert_int_equal(end_commits(thread), 0);
    expect_none(b);
}

static void routes_are_asked_for(void **state)
{
    bed *b = *state;
    farpool_route route;
    test_coordinator_answer(b->coordinator,
                            json_pack("{s:i, s:s, s:s, s:s, s:i, s:s, s:s}", "id", 12, "name",
                                      "orders", "state", "read-only", "phase", "open", "epoch", 3,
                                      "owner", "c1", "address", "db1:5432"));
    test_must(farpool_cluster_route(b->cluster, "orders", 0, &route), "asking");
    assert_int_equal(route.id, 12);
    assert_int_equal(route.epoch, 3);
    assert_string_equal(route.name, "orders");
    assert_string_equal(route.owner, "c1");
    assert_string_equal(route.address, "db1:5432");
    assert_true(route.open && route.read_only);
    test_coordinator_answer(b->coordinator,
                            json_pack("{s:i, s:s, s:s, s:s, s:i, s:n}", "id", 13, "name", "old",
                                      "state", "deleted", "phase", "unowned", "epoch", 9, "owner"));
    assert_int_equal(farpool_cluster_route(b->cluster, "13", 0, &route), FARPOOL_E_NOTFOUND);
    test_coordinator_answer(b->coordinator, json_pack("{s:i}", "id", 13));
    assert_int_equal(farpool_cluster_route(b->cluster, "13", 0, &route), FARPOOL_E_PROTO);
    assert_int_equal(farpool_cluster_route(b->cluster, "", 0, &route), FARPOOL_E_INVAL);
    test_coordinator_answer(b->coordinator, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(a_pool_joins_and_leaves),
        TEST(nobody_answers_and_then_somebody),
        TEST(a_partition_is_opened_and_closed),
        TEST(one_that_cannot_be_opened_is_assigned_again),
        TEST(one_that_is_withdrawn_is_revoked),
        TEST(one_that_comes_back_is_assigned_again),
        TEST(read_only_is_what_it_is_now),
        TEST(what_cannot_be_understood_changes_nothing),
        TEST(other_memory_nodes_come_while_threads_commit),
        TEST(memory_nodes_that_are_lost_are_told),
        TEST(who_is_taken_over_is_told),
        TEST(another_epoch_comes_after_the_one_before_is_closed),
        TEST(an_epoch_from_before_takes_nothing_away),
        TEST(a_page_that_is_fixed_keeps_it_open),
        TEST(without_a_coordinator_all_goes_on),
        TEST(routes_are_asked_for),
    };
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    for (unsigned i = 0; i < STORAGES; i++) {
        test_volume_make(volumes[i]);
        test_process_start_storage(&storages[i], "shm", volumes[i]);
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (unsigned i = 0; i < STORAGES; i++) {
        test_process_end(&storages[i], SIGTERM);
        test_volume_remove(volumes[i]);
    }
    return failed;
}
