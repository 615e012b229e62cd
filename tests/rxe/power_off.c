/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests/rxe/power_off.sh runs in a VM whose power it cuts:
 *
 *   power_off work NOTES VOLUMES SEED   memory nodes, storage nodes with volumes in the directory VOLUMES, and an owner.
 *                                       It recovers the partition from the storage nodes, for all memory is gone,
 *                                       compares everything in its B+-tree with what was acknowledged in earlier
 *                                       rounds, and writes with several threads and FARPOOL_DURABLE_STORAGE until the
 *                                       power fails
 *   power_off end NOTES VOLUMES SEED    the same, but writes only a little and ends in order
 *   power_off fold NOTES                on the host, between rounds: makes room in the notes
 *
 * NOTES is memory of the host that outlives the VM: each store to it by itself, so what takes several is the host's. The
 * storage nodes have small segments and layers, so that files are made, renamed and removed all the time.
 */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/btree_check.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"
#include "tests/lib/written.h"

enum {
    NODES = 3,
    STORAGES_MAX = 2,
    NODE_KIB = 12 << 10,
    SLAB_BYTES = 12 << 20,
    POOL_BYTES = 1 << 20,
    CONVERT_BYTES = 128 << 10,
    BURST_MAX = 16, /* writes of a thread before it waits */
    BURSTS_AT_END = 5,
};

/* Begins as zeros. */
static struct notes {
    written written;
    bool made; /* there is a tree, on stable media */
    farpool_pid root;
    uint64_t epoch, ring_bytes;
    unsigned storages;
    uint64_t openings;
    _Atomic uint64_t waits; /* for storage that were over */
} * notes;
_Static_assert(sizeof(struct notes) <= 4 << 20, "what power_off.sh gives");

static uint64_t random_state;
static unsigned bursts_max; /* of each thread */
static test_process nodes[NODES];
static test_storage *storages[STORAGES_MAX];
static farpool_pool *pool;
static farpool_partition *part;
static farpool_btree *tree;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

/* Nothing fails here that could be tried again. */
static bool never(int rc)
{
    (void)rc;
    return false;
}

static void map_notes(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0);
    notes = mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(notes != MAP_FAILED);
    close(fd);
}

/* Tells the host how far it is. */
static void mark(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/run/vm/%s", name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    REQUIRE(fd >= 0 && close(fd) == 0);
}

/* ---- the cluster ----------------------------------------------------------------------------- */

static void start_cluster(const char *volumes)
{
    for (unsigned i = 0; i < notes->storages; i++) {
        char volume[256];
        snprintf(volume, sizeof volume, "%s/%u", volumes, i);
        REQUIRE(notes->made || mkdir(volume, 0755) == 0);
        storages[i] = test_storage_start_converting("verbs", volume, CONVERT_BYTES);
    }
    for (unsigned i = 0; i < NODES; i++)
        test_process_start_spilling(&nodes[i], "verbs", NODE_KIB,
                                    test_storage_uri(storages[i % notes->storages]));
}

static void stop_cluster(void)
{
    for (unsigned i = 0; i < NODES; i++)
        test_process_end(&nodes[i], SIGTERM);
    for (unsigned i = 0; i < notes->storages; i++)
        test_storage_stop(storages[i]);
}

static void open_partition(void)
{
    const char *uris[NODES], *storage_uris[STORAGES_MAX];
    farpool_partition_options options;
    for (unsigned i = 0; i < NODES; i++)
        uris[i] = nodes[i].uri;
    for (unsigned i = 0; i < notes->storages; i++)
        storage_uris[i] = test_storage_uri(storages[i]);
    farpool_partition_options_init(&options);
    options.epoch = ++notes->epoch;
    options.slab_bytes = SLAB_BYTES;
    options.memnodes = uris;
    options.memnode_count = NODES;
    options.log_copies = NODES;
    options.log_ring_bytes = notes->ring_bytes;
    options.storagenodes = storage_uris;
    options.storagenode_count = notes->storages;
    options.storage_quorum = 1; /* so each volume may be the only one that has a commit */
    options.recover = notes->made ? FARPOOL_RECOVER_STORED : FARPOOL_NEW;
    pool = test_pool_new(FARPOOL_MAPPING_AUTO, POOL_BYTES);
    test_must(farpool_partition_open(pool, &options, &part), "opening the partition");
}

/* ---- what it does ---------------------------------------------------------------------------- */

static void wait_for_storage(void)
{
    test_must(farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_STORAGE), "waiting");
}

static void make_tree(void)
{
    open_partition();
    test_must(farpool_btree_create(part, &notes->root, &tree), "creating a tree");
    wait_for_storage();
    notes->made = true;
}

/* Everything acknowledged is there, every page fits the others; and what was found is stable again, so that the next
 * power cut may not take any of it. */
static void recover_and_compare(void)
{
    open_partition();
    notes->openings++;
    test_must(farpool_btree_open(part, notes->root, &tree), "opening the tree");
    written_check(&notes->written, tree, true, never);
    test_btree_shape shape = test_btree_check(part, notes->root);
    wait_for_storage();
    written_all_stored(&notes->written);
    printf("%llu records on %llu leaves are right\n", (unsigned long long)shape.records,
           (unsigned long long)shape.leaves);
    fflush(stdout);
}

static void *write_bursts(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = random_state + thread;
    for (unsigned n = 0; n < bursts_max; n++) {
        written_op op;
        unsigned writes = test_random(&random) % 2 ? 1 : 1 + test_random(&random) % BURST_MAX;
        for (unsigned i = 0; i < writes; i++) {
            uint32_t key = (uint32_t)(test_random(&random) % WRITTEN_KEYS);
            while (!written_begin(&notes->written, thread, key, &op))
                pause(); /* the list is full: until the power fails */
            test_must(written_do(&op, tree), "writing");
        }
        wait_for_storage();
        written_acknowledge(&op, true);
        atomic_fetch_add(&notes->waits, 1);
    }
    return NULL;
}

static void work(void)
{
    pthread_t threads[WRITTEN_THREADS];
    mark("ready");
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        REQUIRE(!pthread_create(&threads[i], NULL, write_bursts, (void *)(uintptr_t)i));
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        REQUIRE(!pthread_join(threads[i], NULL));
}

static void finish(void)
{
    unsigned long long writes = 0;
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        writes += notes->written.threads[i].last;
    farpool_btree_close(tree);
    test_pool_close(pool, part);
    stop_cluster();
    mark("ended");
    printf("%llu writes of %u threads, %llu times acknowledged as stored; %llu recoveries; "
           "%u storage nodes, rings of %llu bytes\n",
           writes, WRITTEN_THREADS, (unsigned long long)atomic_load(&notes->waits),
           (unsigned long long)notes->openings, notes->storages,
           (unsigned long long)notes->ring_bytes);
}

static int be_in_vm(const char *volumes)
{
    if (!notes->made) {
        notes->storages = 1 + (unsigned)draw(STORAGES_MAX);
        notes->ring_bytes = 1ull << (20 + draw(2));
    }
    start_cluster(volumes);
    mark("opening");
    if (notes->made)
        recover_and_compare();
    else
        make_tree();
    work();
    finish();
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (argc == 3 && !strcmp(mode, "fold")) {
        map_notes(argv[2]);
        written_fold(&notes->written);
        return 0;
    }
    if (argc == 5 && (!strcmp(mode, "work") || !strcmp(mode, "end"))) {
        map_notes(argv[2]);
        random_state = strtoull(argv[4], NULL, 10);
        bursts_max = !strcmp(mode, "end") ? BURSTS_AT_END : UINT_MAX;
        return be_in_vm(argv[3]);
    }
    fprintf(stderr, "usage: power_off work|end NOTES VOLUMES SEED, or fold NOTES\n");
    return 2;
}
