/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/testnode.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/log.h"
#include "memnode/server.h"
#include "tests/lib/require.h"
#include "tests/lib/secret.h"

struct test_node {
    pthread_mutex_t lock; /* guards node */
    fp_memnode *node;
    char uri[FP_NET_URI_MAX];
    pthread_t thread;
    int stop_fd;
};

static void *serve(void *arg)
{
    test_node *node = arg;
    int fds[FP_SERVER_NETS_MAX];
    unsigned count = fp_memnode_fds(node->node, fds);
    struct pollfd polls[FP_SERVER_NETS_MAX + 1];
    for (unsigned i = 0; i < count; i++)
        polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    polls[count] = (struct pollfd){.fd = node->stop_fd, .events = POLLIN};
    for (;;) {
        pthread_mutex_lock(&node->lock);
        int more = fp_memnode_step(node->node);
        pthread_mutex_unlock(&node->lock);
        test_must(more < 0 ? more : 0, "serving");
        if (poll(polls, count + 1, more ? 0 : -1) > 0 && polls[count].revents)
            return NULL;
    }
}

test_node *test_node_start(const char *scheme, uint64_t bytes)
{
    return test_node_start_spilling(scheme, bytes, NULL);
}

static test_node *start(const char *scheme, uint64_t bytes, fp_spill *spill, bool in_cluster)
{
    static _Atomic unsigned number;
    fp_log_set_level(FP_LOG_ERROR);
    test_node *node = calloc(1, sizeof *node);
    test_must(node ? 0 : FARPOOL_E_NOMEM, "memory node");
    fp_memnode_config config = {.name = "testnode",
                                .memory_bytes = bytes,
                                .extent_order = -1,
                                .numa_node = -1,
                                .auth = test_secret_auth(),
                                .spill = spill,
                                .in_cluster = in_cluster};
    pthread_mutex_init(&node->lock, NULL);
    test_must(fp_memnode_open(&config, &node->node), "opening a memory node");
    const char *bound;
    char uri[FP_NET_URI_MAX];
    if (!strcmp(scheme, "shm"))
        snprintf(uri, sizeof uri, "shm:///tmp/farpool-test-%d-%u.sock", (int)getpid(), ++number);
    else
        snprintf(uri, sizeof uri, "%s://%s:0", scheme,
                 !strcmp(scheme, "verbs") ? "10.77.0.1" : "127.0.0.1");
    test_must(fp_memnode_listen(node->node, uri, NULL, &bound), "listening");
    snprintf(node->uri, sizeof node->uri, "%s", bound);
    node->stop_fd = eventfd(0, EFD_CLOEXEC);
    test_must(node->stop_fd < 0 ? FARPOOL_E_SYS : 0, "eventfd");
    test_must(pthread_create(&node->thread, NULL, serve, node) ? FARPOOL_E_SYS : 0, "thread");
    return node;
}

test_node *test_node_start_spilling(const char *scheme, uint64_t bytes, fp_spill *spill)
{
    return start(scheme, bytes, spill, false);
}

test_node *test_node_start_in_cluster(const char *scheme, uint64_t bytes, fp_spill *spill)
{
    return start(scheme, bytes, spill, true);
}

fp_memnode *test_node_hold(test_node *node)
{
    pthread_mutex_lock(&node->lock);
    return node->node;
}

void test_node_let_go(test_node *node) { pthread_mutex_unlock(&node->lock); }

const char *test_node_uri(const test_node *node) { return node->uri; }

void test_node_stop(test_node *node)
{
    uint64_t one = 1;
    test_must(write(node->stop_fd, &one, sizeof one) == sizeof one ? 0 : FARPOOL_E_SYS, "stopping");
    pthread_join(node->thread, NULL);
    fp_memnode_close(node->node);
    pthread_mutex_destroy(&node->lock);
    close(node->stop_fd);
    free(node);
}

void test_pool_open(test_node *const *nodes, unsigned count, enum farpool_mapping mapping,
                    uint64_t pool_bytes, uint64_t slab_bytes, farpool_pool **pool,
                    farpool_partition **partition)
{
    const char *uris[8];
    for (unsigned i = 0; i < count; i++)
        uris[i] = nodes[i]->uri;
    test_pool_open_at(uris, count, mapping, pool_bytes, slab_bytes, pool, partition);
}

void test_pool_open_at(const char *const *uris, unsigned count, enum farpool_mapping mapping,
                       uint64_t pool_bytes, uint64_t slab_bytes, farpool_pool **pool,
                       farpool_partition **partition)
{
    *pool = test_pool_new(mapping, pool_bytes);
    test_must(test_partition_open(*pool, uris, count, 1, false, 0, 0, slab_bytes, partition),
              "opening a partition");
}

farpool_pool *test_pool_new(enum farpool_mapping mapping, uint64_t pool_bytes)
{
    farpool_pool *pool;
    farpool_pool_options options;
    farpool_pool_options_init(&options);
    options.pool_bytes = pool_bytes;
    options.mapping = mapping;
    options.key_file = test_secret_file();
    test_must(farpool_pool_open(&options, &pool), "opening a pool");
    return pool;
}

int test_partition_open(farpool_pool *pool, const char *const *uris, unsigned count, uint64_t epoch,
                        bool recover, unsigned copies, uint64_t ring_bytes, uint64_t slab_bytes,
                        farpool_partition **partition)
{
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.epoch = epoch;
    options.slab_bytes = slab_bytes;
    options.memnodes = uris;
    options.memnode_count = count;
    options.log_copies = copies;
    if (copies)
        options.log_ring_bytes = ring_bytes;
    options.recover = recover;
    return farpool_partition_open(pool, &options, partition);
}

void test_pool_close(farpool_pool *pool, farpool_partition *partition)
{
    int rc = farpool_partition_close(partition);
    if (rc != FARPOOL_E_NODE && rc != FARPOOL_E_FENCED && rc != FARPOOL_E_NOTFOUND)
        test_must(rc, "closing a partition");
    test_must(farpool_pool_close(pool), "closing a pool");
}

uint64_t test_seed(uint64_t otherwise)
{
    const char *text = getenv("SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : otherwise;
    printf("SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016 */
uint64_t test_random(uint64_t *state)
{
    uint64_t x = *state ? *state : 0x9E3779B97F4A7C15ull;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1Dull;
}
