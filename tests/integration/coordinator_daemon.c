/* SPDX-License-Identifier: Apache-2.0 */
/* Shows farpool-coordinator as processes, two of them, over SQLite and over three members of etcd: memory nodes join,
 * partitions are created, fenced, assigned and opened; a compute node is lost; the coordinator who leads is killed, and
 * stopped and let go on: its partitions, owners and epochs are what they were, and no number is given twice; a memory
 * node that is ended is not waited for. */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cluster/agent.h"
#include "tests/lib/etcd.h"
#include "tests/lib/process.h"

enum { COORDINATORS = 2, MEMORY = 3, COMPUTES = 2, WAIT_MS = 60000, ASK_MS = 1500, PARTS = 8 };
enum { FIRST_PID = 1 }; /* pid 0 is a map page */

/* A compute node in this process: opens what it is told to, and counts in the first page of it. */
typedef struct compute {
    char name[8];
    fp_agent *agent;
    farpool_pool *pool;
    uint64_t boot_id;
    unsigned count;
    struct opened {
        uint64_t id, epoch;
        farpool_partition *partition; /* NULL: could not be opened */
        farpool_pid pid;
        int rc;
    } parts[PARTS];
} compute;

static test_process coordinators[COORDINATORS], memory[MEMORY];
static compute computes[COMPUTES];
static fp_agent *person;
static char uris[600], metastore[600];

/* ---- compute nodes --------------------------------------------------------------------------- */

static json_t *card(void *owner)
{
    const compute *c = owner;
    char boot[17];
    snprintf(boot, sizeof boot, "%016" PRIx64, c->boot_id);
    return json_pack("{s:s, s:s, s:s, s:[], s:s, s:b}", "role", "compute", "name", c->name,
                     "boot_id", boot, "uris", "address", "here", "standby", 1);
}

static json_t *actual(void *owner)
{
    const compute *c = owner;
    json_t *list = json_array();
    for (unsigned i = 0; i < c->count; i++)
        json_array_append_new(
            list,
            json_pack("{s:I, s:I, s:s, s:i, s:s}", "id", (json_int_t)c->parts[i].id, "epoch",
                      (json_int_t)c->parts[i].epoch, "state", c->parts[i].rc ? "failed" : "open",
                      "code", c->parts[i].rc, "text", c->parts[i].rc ? farpool_errmsg() : ""));
    return json_pack("{s:o}", "partitions", list);
}

static int count_up(const struct opened *o, uint64_t *value)
{
    farpool_mtr *mtr;
    void *page;
    int rc = farpool_mtr_begin(o->partition, 0, &mtr);
    if (rc)
        return rc;
    rc = farpool_mtr_fix(mtr, o->pid, &page);
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    *value = ++*(uint64_t *)page;
    return farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
}

/* The page to count in is the first one that there is. */
static int make_page(struct opened *o)
{
    farpool_mtr *mtr;
    void *page;
    test_must(farpool_mtr_begin(o->partition, 0, &mtr), "a mini-transaction");
    test_must(farpool_mtr_alloc(mtr, 0, &o->pid, &page), "a page");
    return farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
}

static int open_part(compute *c, struct opened *o, const json_t *duty)
{
    farpool_partition_options options;
    const char *memnodes[MEMORY];
    const json_t *list = json_object_get(duty, "memnodes");
    bool made = json_is_true(json_object_get(duty, "made"));
    REQUIRE(json_array_size(list) == MEMORY);
    for (unsigned i = 0; i < MEMORY; i++)
        memnodes[i] = json_string_value(json_array_get(list, i));
    farpool_partition_options_init(&options);
    options.id = o->id;
    options.epoch = o->epoch;
    options.memnodes = memnodes;
    options.memnode_count = MEMORY;
    options.timeout_ms = 20000;
    options.slab_bytes = (size_t)json_integer_value(json_object_get(duty, "slab_bytes"));
    options.space_bytes = (size_t)json_integer_value(json_object_get(duty, "space_bytes"));
    options.log_copies = 3;
    options.log_ring_bytes = (uint64_t)json_integer_value(json_object_get(duty, "log_ring_bytes"));
    options.recover = made ? FARPOOL_RECOVER : FARPOOL_NEW;
    int rc = farpool_partition_open(c->pool, &options, &o->partition);
    if (rc) {
        o->partition = NULL;
        return rc;
    }
    o->pid = FIRST_PID;
    return made ? 0 : make_page(o);
}

static void close_part(struct opened *o)
{
    if (o->partition && farpool_partition_close(o->partition))
        printf("closing: %s\n", farpool_errmsg()); /* it is another one's by now */
    o->partition = NULL;
}

static const json_t *duty_of(const json_t *duties, uint64_t id)
{
    size_t i;
    const json_t *duty;
    json_array_foreach(json_object_get(duties, "partitions"), i, duty)
    {
        if ((uint64_t)json_integer_value(json_object_get(duty, "id")) == id)
            return duty;
    }
    return NULL;
}

static void take_duties(void *owner, const json_t *duties)
{
    compute *c = owner;
    size_t i;
    const json_t *duty;
    for (unsigned j = c->count; j-- > 0;) {
        duty = duty_of(duties, c->parts[j].id);
        if (duty &&
            (uint64_t)json_integer_value(json_object_get(duty, "epoch")) == c->parts[j].epoch)
            continue;
        close_part(&c->parts[j]);
        c->parts[j] = c->parts[--c->count];
    }
    json_array_foreach(json_object_get(duties, "partitions"), i, duty)
    {
        struct opened o = {.id = (uint64_t)json_integer_value(json_object_get(duty, "id")),
                           .epoch = (uint64_t)json_integer_value(json_object_get(duty, "epoch"))};
        bool known = false;
        for (unsigned j = 0; j < c->count; j++)
            known = known || c->parts[j].id == o.id;
        if (known)
            continue;
        REQUIRE(c->count < PARTS);
        o.rc = open_part(c, &o, duty);
        c->parts[c->count++] = o;
    }
    fp_agent_changed(c->agent);
}

static void join(compute *c, const char *name)
{
    const fp_agent_config config = {.coordinators = uris,
                                    .name = name,
                                    .card = card,
                                    .actual = actual,
                                    .duties = take_duties,
                                    .owner = c};
    farpool_pool_options pool;
    *c = (compute){.boot_id = fp_now_ns()};
    snprintf(c->name, sizeof c->name, "%s", name);
    farpool_pool_options_init(&pool);
    pool.pool_bytes = 1 << 20;
    pool.name = name;
    test_must(farpool_pool_open(&pool, &c->pool), "a pool");
    test_must(fp_agent_open(&config, &c->agent), "joining");
}

static void leave(compute *c)
{
    fp_agent_close(c->agent);
    for (unsigned i = 0; i < c->count; i++)
        close_part(&c->parts[i]);
    test_must(farpool_pool_close(c->pool), "closing a pool");
    *c = (compute){0};
}

static void step_computes(void)
{
    for (unsigned i = 0; i < COMPUTES; i++) {
        while (computes[i].agent && fp_agent_step(computes[i].agent))
            ;
    }
}

/* ---- asking ---------------------------------------------------------------------------------- */

typedef struct asked {
    bool over;
    int status;
    json_t *answer;
} asked;

static void was_answered(void *arg, int status, const json_t *answer)
{
    *(asked *)arg = (asked){true, status, json_deep_copy(answer)};
}

/* Everybody else goes on meanwhile. The answer, or NULL and *status. */
static json_t *ask(json_t *call, unsigned timeout_ms, int *status)
{
    asked a = {0};
    fp_agent_ask(person, call, timeout_ms, was_answered, &a);
    while (!a.over) {
        struct pollfd fds[COMPUTES + 1] = {{.fd = fp_agent_fd(person), .events = POLLIN}};
        nfds_t count = 1;
        for (unsigned i = 0; i < COMPUTES; i++) {
            if (computes[i].agent)
                fds[count++] =
                    (struct pollfd){.fd = fp_agent_fd(computes[i].agent), .events = POLLIN};
        }
        fp_agent_step(person);
        step_computes();
        if (!a.over)
            REQUIRE(poll(fds, count, WAIT_MS) > 0);
    }
    *status = a.status;
    return a.answer;
}

static json_t *must_ask(json_t *call)
{
    int status;
    json_t *answer = ask(call, WAIT_MS, &status);
    REQUIRE(status == 0 && answer);
    return answer;
}

static json_int_t create(const char *name)
{
    json_t *answer = must_ask(json_pack("{s:s, s:s, s:I, s:I}", "method", "partition.create",
                                        "name", name, "slab_bytes", (json_int_t)4 << 20,
                                        "log_ring_bytes", (json_int_t)1 << 20));
    json_int_t id = json_integer_value(json_object_get(answer, "id"));
    json_decref(answer);
    return id;
}

static void say_status(void)
{
    json_t *status = must_ask(json_pack("{s:s}", "method", "status"));
    json_dumpf(status, stdout, JSON_INDENT(1));
    fflush(stdout);
    json_decref(status);
}

/* Until the partition is open at this owner ("": at any); the epoch. */
static json_int_t wait_open(json_int_t id, const char *owner)
{
    uint64_t end = fp_now_ns() + WAIT_MS * 1000000ull;
    for (;;) {
        json_t *route = must_ask(json_pack("{s:s, s:I}", "method", "route", "partition", id));
        json_int_t epoch = json_integer_value(json_object_get(route, "epoch"));
        bool open =
            !strcmp(json_string_value(json_object_get(route, "phase")), "open") &&
            (!owner[0] || !strcmp(json_string_value(json_object_get(route, "owner")), owner));
        json_decref(route);
        if (open)
            return epoch;
        if (fp_now_ns() >= end)
            say_status();
        REQUIRE(fp_now_ns() < end);
    }
}

/* The number of the coordinator who leads now. One that was stopped answers nothing: another one is asked then. */
static unsigned leader(void)
{
    uint64_t end = fp_now_ns() + WAIT_MS * 1000000ull;
    int rc;
    json_t *status = NULL;
    while (!status) {
        REQUIRE(fp_now_ns() < end);
        status = ask(json_pack("{s:s}", "method", "status"), ASK_MS, &rc);
    }
    const char *name =
        json_string_value(json_object_get(json_object_get(status, "leader"), "name"));
    REQUIRE(name && name[0] == 'k');
    unsigned number = (unsigned)atoi(name + 1);
    json_decref(status);
    return number;
}

/* ---- processes ------------------------------------------------------------------------------- */

static void start_coordinator(unsigned i, const char *uri)
{
    char name[8];
    snprintf(name, sizeof name, "k%u", i);
    /* A machine that stands still for two seconds loses nobody. */
    const char *const options[] = {"--name",     name,   "--metastore", metastore,
                                   "--lease-ms", "4000", "--grace-ms",  "3000",
                                   "--lost-ms",  "9000", NULL};
    test_process_start_program(&coordinators[i], uri, "farpool-coordinator", options);
}

static void start_memory(unsigned i)
{
    char name[8];
    snprintf(name, sizeof name, "m%u", i);
    const char *const options[] = {
        "--name", name, "--coordinators", uris, "--memory", "64m", "--zone", name, NULL};
    test_process_start_program(&memory[i], "tcp", "farpool-memnode", options);
}

static void start_all(void)
{
    uris[0] = 0;
    for (unsigned i = 0; i < COORDINATORS; i++) {
        start_coordinator(i, "tcp");
        snprintf(uris + strlen(uris), sizeof uris - strlen(uris), "%s%s", i ? "," : "",
                 coordinators[i].uri);
    }
    for (unsigned i = 0; i < MEMORY; i++)
        start_memory(i);
    join(&computes[0], "c0");
    join(&computes[1], "c1");
    const fp_agent_config config = {.coordinators = uris, .name = "person"};
    test_must(fp_agent_open(&config, &person), "asking");
}

static void stop_all(void)
{
    for (unsigned i = 0; i < COMPUTES; i++)
        leave(&computes[i]);
    fp_agent_close(person);
    for (unsigned i = 0; i < MEMORY; i++)
        test_process_end(&memory[i], SIGKILL);
    for (unsigned i = 0; i < COORDINATORS; i++) /* as it is to end */
        REQUIRE(test_process_end(&coordinators[i], SIGTERM) == 0);
}

/* ---- what is shown ----------------------------------------------------------------------------- */

static unsigned owner_of(json_int_t id)
{
    json_t *route = must_ask(json_pack("{s:s, s:I}", "method", "route", "partition", id));
    unsigned number = (unsigned)atoi(json_string_value(json_object_get(route, "owner")) + 1);
    json_decref(route);
    return number;
}

static struct opened *opened(compute *c, json_int_t id)
{
    for (unsigned i = 0; i < c->count; i++) {
        if (c->parts[i].id == (uint64_t)id)
            return &c->parts[i];
    }
    REQUIRE(!"it has the partition");
    return NULL;
}

/* It is silent, but still there, with everything open: it finds out that another one has it. */
static void a_compute_node_is_lost(json_int_t id)
{
    json_int_t before = wait_open(id, "");
    unsigned lost = owner_of(id);
    compute *old = &computes[lost], *next = &computes[1 - lost];
    uint64_t value = 0, last = 0;
    for (unsigned i = 0; i < 10; i++)
        test_must(count_up(opened(old, id), &last), "counting");
    uint64_t since = fp_now_ns();
    fp_agent_close(old->agent);
    old->agent = NULL;
    json_int_t after = wait_open(id, next->name);
    printf("another compute node has it after %" PRIu64 " ms\n", (fp_now_ns() - since) / 1000000);
    REQUIRE(after > before);
    int rc = count_up(opened(old, id), &value);
    printf("the one before: %s\n", farpool_errmsg());
    REQUIRE(rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED);
    test_must(count_up(opened(next, id), &value), "counting on");
    REQUIRE(value == last + 1);
    leave(old);
    join(old, lost ? "c1" : "c0");
}

static void the_leader_is_killed(json_int_t id)
{
    json_int_t before = wait_open(id, "");
    unsigned owner = owner_of(id), dead = leader();
    uint64_t since = fp_now_ns();
    test_process_end(&coordinators[dead], SIGKILL);
    REQUIRE(leader() == 1 - dead);
    printf("another coordinator leads after %" PRIu64 " ms\n", (fp_now_ns() - since) / 1000000);
    REQUIRE(create("second") == id + 1);
    wait_open(id + 1, "");
    REQUIRE(wait_open(id, computes[owner].name) == before); /* nobody has noticed */
    start_coordinator(dead, coordinators[dead].uri);
}

/* When it goes on it takes itself for the one who leads, and must change nothing. */
static void the_leader_is_stopped(json_int_t id)
{
    unsigned stopped = leader();
    REQUIRE(kill(coordinators[stopped].pid, SIGSTOP) == 0);
    REQUIRE(leader() == 1 - stopped);
    REQUIRE(create("third") == id + 2);
    json_int_t epoch = wait_open(id, "");
    REQUIRE(kill(coordinators[stopped].pid, SIGCONT) == 0);
    int status;
    json_t *answer = ask(json_pack("{s:s, s:s}", "method", "partition.create", "name", "third"),
                         WAIT_MS, &status);
    REQUIRE(status == FARPOOL_E_EXISTS && !answer);
    REQUIRE(create("fourth") == id + 3);
    wait_open(id + 3, "");
    REQUIRE(leader() == 1 - stopped);
    REQUIRE(wait_open(id, "") == epoch);
}

/* It says so, and is lost at once: what could be removed, but for its duties, is not waited for to come back. */
static void a_memory_node_is_ended(void)
{
    int status;
    test_process_end(&memory[0], SIGTERM);
    json_t *answer =
        ask(json_pack("{s:s, s:s}", "method", "node.remove", "name", "m0"), WAIT_MS, &status);
    printf("m0 has ended: %s\n", farpool_errmsg());
    REQUIRE(status == FARPOOL_E_BUSY && !answer);
    REQUIRE(strstr(farpool_errmsg(), "has still to do with partition"));
    start_memory(0);
}

static void everything_is_in_the_events(void)
{
    json_t *answer =
        must_ask(json_pack("{s:s, s:i, s:i}", "method", "events", "from", 1, "limit", 1000));
    size_t i;
    const json_t *event;
    json_int_t next = 1;
    unsigned created = 0;
    json_array_foreach(json_object_get(answer, "events"), i, event)
    {
        REQUIRE(json_integer_value(json_object_get(event, "seq")) == next++);
        created += !strcmp(json_string_value(json_object_get(event, "kind")), "create");
    }
    REQUIRE(created == 4 && json_integer_value(json_object_get(answer, "next")) == next);
    json_decref(answer);
    uint64_t since = fp_now_ns();
    answer =
        must_ask(json_pack("{s:s, s:I, s:i}", "method", "events", "from", next, "wait_ms", 300));
    REQUIRE(fp_now_ns() - since >= 250000000 || json_array_size(json_object_get(answer, "events")));
    json_decref(answer);
}

static void run(const char *name)
{
    printf("%s\n", name);
    fflush(stdout);
    start_all();
    json_int_t id = create("first");
    REQUIRE(id == 1);
    wait_open(id, "");
    a_compute_node_is_lost(id);
    the_leader_is_killed(id);
    the_leader_is_stopped(id);
    everything_is_in_the_events();
    a_memory_node_is_ended();
    stop_all();
}

static void run_etcd(void)
{
    if (!test_etcd_there())
        return;
    test_etcd etcd = {.count = 3};
    test_etcd_start(&etcd);
    test_etcd_leader(&etcd);
    snprintf(metastore, sizeof metastore, "%s", test_etcd_uri(&etcd, "/cluster"));
    run("etcd");
    test_etcd_stop(&etcd);
}

int main(void)
{
    char dir[] = "/tmp/farpool-coordinator-XXXXXX", command[100];
    REQUIRE(mkdtemp(dir));
    snprintf(metastore, sizeof metastore, "sqlite:%s/meta.db", dir);
    run("sqlite");
    snprintf(command, sizeof command, "rm -rf %s", dir);
    REQUIRE(system(command) == 0);
    run_etcd();
    return 0;
}
