/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows a cluster of real processes that have a secret, over shm and over tcp with TLS: memory nodes spill to storage
 * nodes, which refill from each other, a worker commits and is killed, the next one recovers all of it, also after a memory
 * node came back and a storage node has lost its volume. Pools without a key, with one of another cluster, and with the key
 * of one who is not the owner get nothing; nor does a worker whose nodes have no secret. SEED=n.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/cluster_work.h"
#include "tests/lib/secret.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { NODE_KIB = 96 << 10, RING_BYTES = 4 << 20, SLAB_BYTES = 48 << 20, WRITES = 1500 };

static const char secret_text[] = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
static const char other_text[] = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n";
static cluster_work *work;
static test_cluster cluster;

/* What opening the cluster's partition, or another one, gives to a pool with that key file. */
static int try_open(const char *key_file, uint64_t partition, uint64_t epoch)
{
    farpool_pool *pool;
    farpool_partition *opened;
    farpool_pool_options of_pool;
    farpool_pool_options_init(&of_pool);
    of_pool.pool_bytes = 1 << 20;
    of_pool.key_file = key_file;
    test_must(farpool_pool_open(&of_pool, &pool), "opening a pool");
    const char *uris[] = {cluster.nodes[0].uri};
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.id = partition;
    options.epoch = epoch;
    options.memnodes = uris;
    options.memnode_count = 1;
    options.slab_bytes = 1 << 20;
    int rc = farpool_partition_open(pool, &options, &opened);
    if (!rc)
        test_must(farpool_partition_close(opened), "closing a partition");
    test_must(farpool_pool_close(pool), "closing a pool");
    return rc;
}

/* In a process of its own, for the workers are forked. */
static void refuse_strangers(void)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (!child) {
        char other[64], key[64], text[FP_AUTH_TEXT_MAX + 1];
        test_secret_write(other, other_text);
        test_must(fp_auth_key_text(test_secret_auth(), "somebody else", text), "making a key");
        test_secret_write(key, text);
        REQUIRE(try_open(NULL, 77, 1) == FARPOOL_E_REFUSED);
        REQUIRE(try_open(other, 77, 1) == FARPOOL_E_REFUSED);
        REQUIRE(try_open(key, 77, 1) == 0);
        REQUIRE(try_open(key, 1, work->epoch) == FARPOOL_E_FENCED); /* the worker's */
        unlink(other);
        unlink(key);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
}

static void lose_volume(void)
{
    atomic_store(&work->troubled, true);
    test_cluster_kill_storage(&cluster, 0);
    test_volume_remove(cluster.volumes[0]);
    REQUIRE(!mkdir(cluster.volumes[0], 0755));
    test_cluster_start_storage(&cluster, 0);
    cluster_work_on(work, "working after a storage node has lost its volume", WRITES);
    cluster_work_wait_refills(work);
}

static void run(const char *scheme)
{
    test_cluster_start(&cluster, scheme, 2, NODE_KIB);
    cluster_work_begin(work, &cluster, test_seed(fp_now_ns() | 1));
    work->slab_bytes = SLAB_BYTES;
    work->ring_bytes = RING_BYTES;
    work->storage_quorum = 1;
    cluster_work_start(work, NULL);
    cluster_work_wait_ready(work);
    cluster_work_store(work, "storing", 100);
    refuse_strangers();
    cluster_work_on(work, "working beside strangers", WRITES);
    for (unsigned i = 1; i < CLUSTER_NODES; i++)
        cluster_work_wait_whole(work, i);
    test_cluster_kill_node(&cluster, 0);
    cluster_work_on(work, "working without a memory node", WRITES);
    test_cluster_start_node(&cluster, 0);
    cluster_work_take_in(work, 0);
    cluster_work_kill(work);
    cluster_work_start(work, NULL);
    cluster_work_wait_ready(work);
    lose_volume();
    cluster_work_kill(work);
    test_cluster_stop(&cluster);
    printf("%s: %llu writes, %llu of them stored, %llu keys compared\n", scheme,
           (unsigned long long)atomic_load(&work->acks),
           (unsigned long long)atomic_load(&work->stored),
           (unsigned long long)atomic_load(&work->written.compared));
}

int main(void)
{
    char secret[64];
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    test_secret_write(secret, secret_text);
    setenv("FARPOOL_TEST_SECRET", secret, 1);
    const char *scheme = getenv("FARPOOL_TEST_SCHEME");
    work = cluster_work_new();
    run(scheme ? scheme : "tcp");
    if (!scheme) {
        work = cluster_work_new();
        run("shm");
    }
    unlink(secret);
    return 0;
}
