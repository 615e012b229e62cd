/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a program with threads of its own follows coordinators whatever these decide, in any order: one thread takes
 * events, one asks for routes, and one for each partition opens it, commits all the time, and closes it when it is
 * revoked. The scripted coordinator gives partitions other epochs, takes them away and gives them back,
 * makes them read-only, and goes away itself. Each owner finds what was acknowledged before it.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/lib/process.h"
#include "tests/lib/testcoordinator.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { NODES = 3, PARTS = 3, NODE_KIB = 192 << 10, ROUNDS = 60, ROUNDS_QUICK = 20 };

/* What the program knows of a partition. */
typedef struct part {
    uint64_t id;
    pthread_t thread;
    bool started; /* the event thread's */
    _Atomic bool stop;
    farpool_pid pid; /* its runners', one after the other */
    uint64_t least;  /* acknowledged */
    _Atomic uint64_t commits;
} part;

/* What the coordinator has decided. */
static struct {
    uint64_t epoch;
    const char *phase; /* NULL: it is nobody's */
    bool read_only, made;
} wanted[PARTS];

static test_process nodes[NODES], storage;
static part parts[PARTS];
static farpool_cluster *cluster;
static test_coordinator *coordinator;
static _Atomic bool over;
static unsigned failures; /* to open one */
static uint64_t random_state;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

/* ---- the program ----------------------------------------------------------------------------- */

static int commit_once(farpool_partition *p, part *one)
{
    farpool_mtr *mtr;
    void *page;
    int rc = farpool_mtr_begin(p, 0, &mtr);
    if (rc)
        return rc;
    farpool_pid pid = one->pid;
    rc = pid ? farpool_mtr_fix(mtr, pid, &page) : farpool_mtr_alloc(mtr, 0, &pid, &page);
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    uint64_t value = ++*(uint64_t *)page;
    rc = farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
    if (rc)
        return rc;
    one->pid = pid;
    REQUIRE(value > one->least);
    one->least = value;
    atomic_fetch_add(&one->commits, 1);
    return 0;
}

static void *run_partition(void *arg)
{
    part *one = arg;
    farpool_partition *p;
    int rc = farpool_cluster_open(cluster, one->id, &p);
    if (rc) { /* taken away, or assigned anew, meanwhile; or a connection was cut for its old epoch */
        REQUIRE(rc == FARPOOL_E_NOTFOUND || rc == FARPOOL_E_FENCED || rc == FARPOOL_E_NODE);
        return NULL;
    }
    if (one->pid) {
        void *page;
        test_must(farpool_fix(p, one->pid, FARPOOL_SHARED, &page), "reading");
        REQUIRE(*(uint64_t *)page >= one->least);
        farpool_unfix(p, one->pid, FARPOOL_SHARED);
    }
    while (!atomic_load(&one->stop)) {
        rc = commit_once(p, one);
        REQUIRE(!rc || rc == FARPOOL_E_READONLY);
        if (rc)
            test_nap();
    }
    test_must(farpool_partition_close(p), "closing");
    return NULL;
}

static void end_runner(part *one)
{
    if (!one->started)
        return;
    atomic_store(&one->stop, true);
    pthread_join(one->thread, NULL);
    one->started = false;
}

static void *take_events(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        farpool_cluster_event event;
        int rc = farpool_cluster_next(cluster, 20, &event);
        REQUIRE(!rc || rc == FARPOOL_E_TIMEOUT);
        if (rc || !event.partition)
            continue;
        part *one = &parts[event.partition - 1];
        if (event.kind == FARPOOL_CLUSTER_REVOKED || event.kind == FARPOOL_CLUSTER_ASSIGNED)
            end_runner(one);
        if (event.kind != FARPOOL_CLUSTER_ASSIGNED)
            continue;
        atomic_store(&one->stop, false);
        REQUIRE(!pthread_create(&one->thread, NULL, run_partition, one));
        one->started = true;
    }
    for (unsigned i = 0; i < PARTS; i++)
        end_runner(&parts[i]);
    return NULL;
}

static void *ask_routes(void *arg)
{
    unsigned *answers = arg;
    while (!atomic_load(&over)) {
        farpool_route route;
        int rc = farpool_cluster_route(cluster, "1", 1000, &route);
        *answers += !rc;
        test_nap();
    }
    return NULL;
}

/* ---- the coordinator ------------------------------------------------------------------------- */

static void tell(void)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < PARTS; i++) {
        if (!wanted[i].phase)
            continue;
        json_t *one = test_duty(parts[i].id, wanted[i].epoch, wanted[i].phase, wanted[i].made,
                                json_pack("[s, s, s]", nodes[0].uri, nodes[1].uri, nodes[2].uri),
                                json_pack("[s]", storage.uri));
        if (wanted[i].read_only)
            json_object_set_new(one, "state", json_string("read-only"));
        json_array_append_new(list, one);
    }
    test_coordinator_assign(coordinator, list);
}

static void start_coordinator(const char *uri)
{
    coordinator = test_coordinator_start(uri);
    test_coordinator_answer(coordinator,
                            json_pack("{s:i, s:s, s:s, s:s, s:i}", "id", 1, "name", "orders",
                                      "state", "active", "phase", "open", "epoch", 1));
    tell();
}

/* It is told to be in that state under its epoch; NULL: nothing is told of it. One that could not be opened is assigned
 * again under another epoch, as coordinators do. */
static bool is_told(unsigned i, const char *state)
{
    json_t *told = test_coordinator_told(coordinator, parts[i].id);
    const json_t *epoch = json_object_get(told, "epoch"), *what = json_object_get(told, "state");
    bool is_so = state ? told && (uint64_t)json_integer_value(epoch) == wanted[i].epoch &&
                             !strcmp(json_string_value(what), state)
                       : !told;
    bool failed = told && !is_so && (uint64_t)json_integer_value(epoch) == wanted[i].epoch &&
                  !strcmp(json_string_value(what), "failed");
    json_decref(told);
    if (failed && wanted[i].phase) {
        wanted[i].phase = "assigned";
        wanted[i].epoch++;
        failures++;
        tell();
    }
    return is_so;
}

static void decide(unsigned i)
{
    char uri[256];
    switch (draw(6)) {
    case 0: /* only the memory nodes' epoch changes */
        wanted[i].epoch++;
        wanted[i].phase = "changing";
        tell();
        AWAIT(is_told(i, "open"));
        break;
    case 1: /* another owner has it for a time */
        wanted[i].phase = NULL;
        tell();
        AWAIT(is_told(i, NULL));
        wanted[i].phase = "assigned";
        wanted[i].epoch++;
        break;
    case 2: /* as if it had been told that it could not use it */
        wanted[i].phase = "assigned";
        wanted[i].epoch++;
        tell();
        if (draw(2))
            AWAIT(is_told(i, "open"));
        break;
    case 3:
        wanted[i].read_only = !wanted[i].read_only;
        break;
    case 4: /* it is withdrawn, perhaps while it is being opened */
        wanted[i].phase = NULL;
        tell();
        wanted[i].phase = "assigned";
        wanted[i].epoch++;
        break;
    default:
        snprintf(uri, sizeof uri, "%s", test_coordinator_uri(coordinator));
        test_coordinator_stop(coordinator);
        start_coordinator(uri);
    }
    tell();
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void wait_commits(void)
{
    uint64_t before[PARTS];
    for (unsigned i = 0; i < PARTS; i++)
        before[i] = atomic_load(&parts[i].commits);
    for (unsigned i = 0; i < PARTS; i++)
        AWAIT(atomic_load(&parts[i].commits) >= before[i] + 10);
}

static void live(void)
{
    unsigned rounds = getenv("FARPOOL_TEST_QUICK") ? ROUNDS_QUICK : ROUNDS;
    for (unsigned i = 0; i < rounds; i++)
        decide((unsigned)draw(PARTS));
    for (unsigned i = 0; i < PARTS; i++)
        wanted[i].read_only = false;
    tell();
    for (unsigned i = 0; i < PARTS; i++)
        AWAIT(is_told(i, "open"));
    wait_commits();
}

int main(void)
{
    char volume[256];
    pthread_t events, router;
    unsigned answers = 0;
    farpool_cluster_options options;
    random_state = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    test_volume_make(volume);
    test_process_start_storage(&storage, "shm", volume);
    for (unsigned i = 0; i < NODES; i++)
        test_process_start_spilling(&nodes[i], "shm", NODE_KIB, storage.uri);
    for (unsigned i = 0; i < PARTS; i++) {
        parts[i].id = i + 1;
        wanted[i].epoch = 1;
        wanted[i].phase = "assigned";
    }
    start_coordinator("tcp://127.0.0.1:0");
    farpool_pool *pool = test_pool_new(FARPOOL_MAPPING_FRAMES, 4 << 20);
    farpool_cluster_options_init(&options);
    options.coordinators = test_coordinator_uri(coordinator);
    test_must(farpool_cluster_join(pool, &options, &cluster), "joining");
    REQUIRE(!pthread_create(&events, NULL, take_events, NULL));
    REQUIRE(!pthread_create(&router, NULL, ask_routes, &answers));
    for (unsigned i = 0; i < PARTS; i++) {
        AWAIT(is_told(i, "open"));
        wanted[i].made = true;
    }
    wait_commits();
    live();
    atomic_store(&over, true);
    pthread_join(events, NULL);
    pthread_join(router, NULL);
    test_must(farpool_cluster_leave(cluster), "leaving");
    test_must(farpool_pool_close(pool), "closing");
    test_coordinator_stop(coordinator);
    for (unsigned i = 0; i < NODES; i++)
        test_process_end(&nodes[i], SIGTERM);
    test_process_end(&storage, SIGTERM);
    test_volume_remove(volume);
    uint64_t commits = 0;
    for (unsigned i = 0; i < PARTS; i++)
        commits += parts[i].commits;
    printf("%llu commits, epochs %llu, %llu and %llu, %u routes, %u not opened at once\n",
           (unsigned long long)commits, (unsigned long long)wanted[0].epoch,
           (unsigned long long)wanted[1].epoch, (unsigned long long)wanted[2].epoch, answers,
           failures);
    REQUIRE(answers > 0);
    return 0;
}
