/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/lib/owner.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/lib/report.h"
#include "common/clock.h"
#include "farpool.h"

enum { KEYS = 20000, VALUE_BYTES = 256, POOL_BYTES = 16 << 20, AGAIN_US = 500 };

static bench_owner_notes *notes;
static bench_owner *self;
static farpool_partition *partition;
static farpool_btree *tree;
static pthread_t threads[BENCH_OWNER_THREADS];
static _Atomic bool stop;

bench_owner_notes *bench_owner_map(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    void *at = MAP_FAILED;
    if (fd >= 0 && !ftruncate(fd, sizeof *notes))
        at = mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    close(fd);
    return at;
}

/* Each time another value, or there is nothing to log. */
static int put(uint64_t key)
{
    char value[VALUE_BYTES];
    memset(value, (int)atomic_load(&self->commits), sizeof value);
    int rc = farpool_btree_put(tree, (farpool_slice){&key, sizeof key},
                               (farpool_slice){value, sizeof value});
    return rc ? rc : farpool_wait_durable(partition, UINT64_MAX, FARPOOL_DURABLE_MEMORY);
}

static void note_commit(unsigned thread)
{
    uint64_t now = fp_now_ns(), none = 0, last = atomic_exchange(&self->last_ns[thread], now);
    if (last && now - last > atomic_load(&self->pause_ns[thread]))
        atomic_store(&self->pause_ns[thread], now - last);
    atomic_compare_exchange_strong(&self->first_ns, &none, now);
    atomic_fetch_add(&self->commits, 1);
}

static void *write_for_ever(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = fp_now_ns() | 1;
    while (!atomic_load(&stop)) {
        int rc = put(bench_random(&random) % KEYS);
        if (!rc)
            note_commit(thread);
        else if (rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT || rc == FARPOOL_E_RETRY)
            usleep(AGAIN_US); /* nodes come back, or others take their place */
        else
            break; /* it is revoked, or will be */
    }
    return NULL;
}

static void begin(farpool_cluster *cluster, const farpool_cluster_event *event)
{
    atomic_store(&self->first_ns, 0);
    atomic_store(&self->opened_ns, 0);
    atomic_store(&self->assigned_ns, fp_now_ns());
    for (unsigned i = 0; i < BENCH_OWNER_THREADS; i++)
        atomic_store(&self->last_ns[i], 0);
    if (farpool_cluster_open(cluster, event->partition, &partition))
        return; /* it is assigned again */
    atomic_store(&self->opened_ns, fp_now_ns());
    farpool_pid root = atomic_load(&notes->root);
    bench_check(root ? farpool_btree_open(partition, root, &tree)
                     : farpool_btree_create(partition, &root, &tree),
                "the tree");
    atomic_store(&notes->root, root);
    atomic_store(&stop, false);
    for (uintptr_t i = 0; i < BENCH_OWNER_THREADS; i++) {
        if (pthread_create(&threads[i], NULL, write_for_ever, (void *)i))
            abort();
    }
}

static void end(void)
{
    if (!partition)
        return;
    atomic_store(&stop, true);
    for (unsigned i = 0; i < BENCH_OWNER_THREADS; i++)
        pthread_join(threads[i], NULL);
    farpool_btree_close(tree);
    (void)farpool_partition_close(partition);
    partition = NULL;
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

void bench_owner_run(int argc, char **argv)
{
    farpool_pool *pool;
    farpool_pool_options pool_options;
    farpool_cluster *cluster;
    farpool_cluster_options options;
    const char *name = option(argc, argv, "--name");
    notes = bench_owner_map(option(argc, argv, "--notes"));
    self = &notes->owners[strtoul(name + strcspn(name, "0123456789"), NULL, 10) % BENCH_OWNERS];
    memset(self, 0, sizeof *self);
    atomic_store(&self->pid, getpid());
    farpool_pool_options_init(&pool_options);
    pool_options.pool_bytes = POOL_BYTES;
    pool_options.name = name;
    bench_check(farpool_pool_open(&pool_options, &pool), "opening a pool");
    farpool_cluster_options_init(&options);
    options.coordinators = option(argc, argv, "--coordinators");
    options.zone = option(argc, argv, "--zone");
    options.host = option(argc, argv, "--host");
    options.join_ms = 0;
    bench_check(farpool_cluster_join(pool, &options, &cluster), "joining the cluster");
    for (;;) {
        farpool_cluster_event event;
        int rc = farpool_cluster_next(cluster, 1000, &event);
        if (rc == FARPOOL_E_TIMEOUT)
            continue;
        bench_check(rc, "waiting for events");
        if (event.kind == FARPOOL_CLUSTER_ASSIGNED)
            begin(cluster, &event);
        else if (event.kind == FARPOOL_CLUSTER_REVOKED)
            end();
    }
}
