/* SPDX-License-Identifier: Apache-2.0 */
/* A compute node of the failover tests: follows the coordinators, and while it owns the partition writes to it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/lib/failover.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"

enum { POOL_BYTES = 1 << 20, AGAIN_US = 5000, MARK = FAILOVER_KEYS };

static failover_notes *notes;
static const char *process;
static unsigned rest_us; /* between commits of a thread */

/* The partition that is open here. */
static farpool_partition *part;
static farpool_btree *tree;
static failover_owner *self;
static uint32_t number; /* of self, + 1 */
static pthread_t threads[FAILOVER_THREADS];
static _Atomic bool stop;

/* Events go to the log, with the time. */
static void say(const char *what, const char *more, uint64_t epoch)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(stderr, "%lld.%03ld %s: %s, epoch %llu %s\n", (long long)now.tv_sec,
            now.tv_nsec / 1000000, process, what, (unsigned long long)epoch, more);
}

/* Whether the same is to be tried again: nodes come back, or others take their place. */
static bool again(int rc)
{
    if (rc != FARPOOL_E_NODE && rc != FARPOOL_E_TIMEOUT && rc != FARPOOL_E_RETRY)
        return false;
    atomic_fetch_add(&notes->retries, 1);
    usleep(AGAIN_US);
    return !atomic_load(&stop);
}

static int put(uint32_t key, failover_value value)
{
    char bytes[FAILOVER_VALUE_BYTES] = {0};
    int rc;
    memcpy(bytes, &value, sizeof value);
    do
        rc = farpool_btree_put(tree, (farpool_slice){&key, sizeof key},
                               (farpool_slice){bytes, sizeof bytes});
    while (rc && again(rc));
    return rc;
}

static int durable(void)
{
    int rc;
    do
        rc = farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_MEMORY);
    while (rc && again(rc));
    return rc;
}

static int open_tree(void)
{
    farpool_pid root = atomic_load(&notes->root);
    int rc;
    if (!root) {
        rc = farpool_btree_create(part, &root, &tree);
        rc = rc ? rc : durable();
        /* Somebody else has made one, if this process was fenced and does not know it yet. */
        uint64_t none = 0;
        if (!rc && !atomic_compare_exchange_strong(&notes->root, &none, root))
            rc = fp_error(FARPOOL_E_FENCED, "another owner has made a tree");
        return rc;
    }
    do
        rc = farpool_btree_open(part, root, &tree);
    while (rc && again(rc));
    return rc;
}

/* Reads all keys; then a commit shows that this was the owner meanwhile. */
static int find_all(void)
{
    for (uint32_t key = 0; key < FAILOVER_KEYS; key++) {
        char bytes[FAILOVER_VALUE_BYTES];
        size_t len = 0;
        int rc;
        do
            rc = farpool_btree_lookup(tree, (farpool_slice){&key, sizeof key}, bytes, sizeof bytes,
                                      &len);
        while (rc && again(rc));
        if (rc && rc != FARPOOL_E_NOTFOUND)
            return rc;
        if (!rc && len != sizeof bytes)
            return fp_error(FARPOOL_E_CORRUPT, "key %u has a value of %zu bytes", key, len);
        if (!rc)
            memcpy(&self->found[key], bytes, sizeof self->found[key]);
    }
    int rc = put(MARK, (failover_value){.owner = number});
    rc = rc ? rc : durable();
    if (!rc)
        atomic_store(&self->valid, true);
    return rc;
}

static int write_one(unsigned thread, uint64_t *random)
{
    uint32_t key =
        (uint32_t)(test_random(random) % (FAILOVER_KEYS / FAILOVER_THREADS)) * FAILOVER_THREADS +
        thread;
    uint32_t count = atomic_fetch_add(&self->tried[key], 1) + 1;
    int rc = put(key, (failover_value){number, count});
    rc = rc ? rc : durable();
    if (rc)
        return rc;
    atomic_store(&self->acked[key], count);
    uint64_t none = 0;
    atomic_compare_exchange_strong(&self->first_ns, &none, fp_now_ns());
    atomic_fetch_add(&self->acks, 1);
    atomic_fetch_add(&notes->acks, 1);
    if (rest_us)
        usleep(rest_us);
    return 0;
}

static void *write_for_ever(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = number * 1000 + thread;
    int rc = 0;
    if (!thread) {
        rc = open_tree();
        rc = rc ? rc : find_all();
        say(rc ? "could not read it" : "has read it", rc ? farpool_errmsg() : "", self->epoch);
    }
    while (!rc && !atomic_load(&stop) && !atomic_load(&self->valid) && !atomic_load(&self->ended))
        usleep(AGAIN_US);
    while (!rc && !atomic_load(&stop) && atomic_load(&self->valid))
        rc = write_one(thread, &random);
    int none = 0;
    if (rc && atomic_compare_exchange_strong(&self->ended, &none, rc)) {
        snprintf(self->reason, sizeof self->reason, "%s", farpool_errmsg());
        say("ends", self->reason, self->epoch);
    }
    return NULL;
}

static void begin(farpool_cluster *cluster, const farpool_cluster_event *event)
{
    int rc = farpool_cluster_open(cluster, event->partition, &part);
    say(rc ? "cannot open it" : "has opened it", rc ? farpool_errmsg() : "", event->epoch);
    if (rc)
        return;
    number = atomic_fetch_add(&notes->owners, 1) + 1;
    REQUIRE(number <= FAILOVER_OWNERS);
    self = &notes->owner[number - 1];
    self->epoch = event->epoch;
    snprintf(self->process, sizeof self->process, "%s", process);
    atomic_store(&stop, false);
    for (unsigned i = 0; i < FAILOVER_THREADS; i++)
        REQUIRE(!pthread_create(&threads[i], NULL, write_for_ever, (void *)(uintptr_t)i));
}

static void end(const farpool_cluster_event *event)
{
    say("is revoked", event->reason, event->epoch);
    if (!part)
        return;
    atomic_store(&stop, true);
    for (unsigned i = 0; i < FAILOVER_THREADS; i++)
        pthread_join(threads[i], NULL);
    if (tree)
        farpool_btree_close(tree);
    tree = NULL;
    int rc = farpool_partition_close(part);
    say("has closed it", rc ? farpool_errmsg() : "", self->epoch);
    atomic_store(&self->closed, true);
    part = NULL;
}

/* --NAME VALUE */
static const char *option(int argc, char **argv, const char *name)
{
    for (int i = 0; i + 1 < argc; i++) {
        if (!strcmp(argv[i], name))
            return argv[i + 1];
    }
    return "";
}

int failover_work(int argc, char **argv)
{
    farpool_pool *pool;
    farpool_pool_options pool_options;
    farpool_cluster *cluster;
    farpool_cluster_options options;
    notes = failover_map(option(argc, argv, "--notes"), false);
    process = option(argc, argv, "--name");
    rest_us = (unsigned)atoi(option(argc, argv, "--rest-us"));
    farpool_pool_options_init(&pool_options);
    pool_options.pool_bytes = POOL_BYTES;
    pool_options.name = process;
    test_must(farpool_pool_open(&pool_options, &pool), "opening a pool");
    farpool_cluster_options_init(&options);
    options.coordinators = option(argc, argv, "--coordinators");
    options.zone = option(argc, argv, "--zone");
    options.host = option(argc, argv, "--host");
    options.join_ms = 0;
    test_must(farpool_cluster_join(pool, &options, &cluster), "joining the cluster");
    for (;;) {
        farpool_cluster_event event;
        int rc = farpool_cluster_next(cluster, 1000, &event);
        if (rc == FARPOOL_E_TIMEOUT)
            continue;
        test_must(rc, "waiting for events");
        if (event.kind == FARPOOL_CLUSTER_ASSIGNED)
            begin(cluster, &event);
        else if (event.kind == FARPOOL_CLUSTER_REVOKED)
            end(&event);
        else
            say(event.kind == FARPOOL_CLUSTER_DISCONNECTED ? "is disconnected" : "is told",
                event.reason, event.epoch);
    }
}
