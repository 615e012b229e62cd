/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that a high tree of long keys stays whole, and loses no page, while threads fill and empty it again and
 * again, so that splits, merges and changes of the root meet, and while its slab is full. Each thread knows what
 * its own keys hold. At the end the pages in use are those that the tree's walk finds.
 */
#include "farpool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compute/pool.h"
#include "tests/lib/btree_check.h"
#include "tests/lib/testnode.h"

enum { THREADS = 6, KEYS = 6000, OPS = 6000, POOL_BYTES = 1 << 20, LARGE = 9000 };

static farpool_partition *part;
static farpool_btree *tree;
static uint64_t seed;
static size_t lens[KEYS]; /* guarded by: only the owner of the key writes; 0: not there */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "not true: %s (line %d): %s\n", #condition, __LINE__,                  \
                    farpool_errmsg());                                                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Keys that differ by their last byte, eight at a time: a node holds few, and many separators are long. */
static farpool_slice make_key(unsigned number, uint8_t *key)
{
    size_t len = number % 3 ? FARPOOL_KEY_MAX : 300;
    memset(key, 'k', len);
    key[0] = (uint8_t)(number >> 11);
    key[1] = (uint8_t)(number >> 3);
    key[len - 1] = (uint8_t)(number & 7);
    return (farpool_slice){key, len};
}

static bool full(int rc) { return rc == FARPOOL_E_NOSPACE; }

static void write_one(unsigned number, uint64_t random, uint8_t *value, bool may_be_full)
{
    uint8_t bytes[FARPOOL_KEY_MAX];
    farpool_slice key = make_key(number, bytes);
    size_t len = 1 + (random % 30 ? random % 200 : random % LARGE);
    memset(value, (int)(number * 7 + len), len);
    farpool_slice v = {value, len};
    int rc = random & 64    ? farpool_btree_put(tree, key, v)
             : lens[number] ? farpool_btree_update(tree, key, v)
                            : farpool_btree_insert(tree, key, v);
    CHECK(rc == 0 || (may_be_full && full(rc)));
    if (!rc)
        lens[number] = len;
}

static void delete_one(unsigned number)
{
    uint8_t bytes[FARPOOL_KEY_MAX];
    int rc = farpool_btree_delete(tree, make_key(number, bytes));
    CHECK(rc == (lens[number] ? 0 : FARPOOL_E_NOTFOUND));
    lens[number] = 0;
}

static void check_value(unsigned number, const uint8_t *value, size_t len)
{
    CHECK(len == lens[number]);
    for (size_t i = 0; i < len; i++)
        CHECK(value[i] == (uint8_t)(number * 7 + len));
}

static void look_up(unsigned number, uint8_t *value)
{
    uint8_t bytes[FARPOOL_KEY_MAX];
    size_t len;
    int rc = farpool_btree_lookup(tree, make_key(number, bytes), value, LARGE, &len);
    CHECK(rc == (lens[number] ? 0 : FARPOOL_E_NOTFOUND));
    if (!rc)
        check_value(number, value, len);
}

typedef struct walk {
    unsigned thread, seen;
    uint8_t last[FARPOOL_KEY_MAX];
    size_t last_len;
    bool backward;
} walk;

static int on_record(void *arg, farpool_slice key, farpool_slice value)
{
    walk *self = arg;
    const uint8_t *k = key.data;
    unsigned number = (unsigned)k[0] << 11 | (unsigned)k[1] << 3 | k[key.len - 1];
    if (number % THREADS == self->thread) {
        check_value(number, value.data, value.len);
        self->seen++;
    }
    size_t shorter = key.len < self->last_len ? key.len : self->last_len;
    int c = memcmp(self->last, key.data, shorter);
    c = c ? c : (self->last_len > key.len) - (self->last_len < key.len);
    CHECK(!self->last_len || (self->backward ? c > 0 : c < 0));
    memcpy(self->last, key.data, key.len);
    self->last_len = key.len;
    return 0;
}

static void scan(unsigned thread, bool backward)
{
    walk self = {.thread = thread, .backward = backward};
    CHECK(farpool_btree_scan(tree, (farpool_slice){NULL, 0}, backward, on_record, &self) == 0);
    unsigned there = 0;
    for (unsigned n = thread; n < KEYS; n += THREADS)
        there += lens[n] != 0;
    CHECK(self.seen == there);
}

static bool slab_is_small;

static void *work(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = seed + thread * 7919;
    uint8_t *value = malloc(LARGE + 1);
    CHECK(value);
    for (unsigned i = 0; i < OPS; i++) {
        uint64_t r = test_random(&random);
        unsigned number = (unsigned)(r >> 20) % (KEYS / THREADS) * THREADS + thread;
        bool growing = i / 500 % 2 == 0;
        unsigned dice = r % 16;
        if (dice < 3)
            look_up(number, value);
        else if (growing ? dice < 14 : dice < 5)
            write_one(number, r >> 8, value, slab_is_small);
        else
            delete_one(number);
        if (i % 500 == 499)
            scan(thread, i % 1000 == 499);
    }
    free(value);
    return NULL;
}

static void empty_it(unsigned threads)
{
    for (unsigned n = 0; n < KEYS; n++)
        if (lens[n] && threads)
            delete_one(n);
}

static void check_pages(farpool_pid root)
{
    test_btree_shape shape = test_btree_check(part, root);
    uint64_t pages = 0;
    for (uint64_t pid = 0; pid < part->units; pid++)
        pages += fp_word_state(fp_word_load(&part->entries[pid])) != FP_FREE;
    printf("%llu records, height %u, %llu pages\n", (unsigned long long)shape.records, shape.height,
           (unsigned long long)pages);
    CHECK(pages == shape.leaves + shape.inner + shape.overflow_pages);
}

static void run(enum farpool_mapping mapping, uint64_t slab_bytes)
{
    farpool_pool *pool;
    farpool_pid root;
    test_node *node = test_node_start("shm", 32 << 20);
    test_pool_open(&node, 1, mapping, POOL_BYTES, slab_bytes, &pool, &part);
    CHECK(farpool_btree_create(part, &root, &tree) == 0);
    memset(lens, 0, sizeof lens);
    slab_is_small = slab_bytes < 4 << 20;
    void *page;
    farpool_pid filler[2000];
    unsigned fillers = 0;
    if (slab_is_small) /* what is granted is a whole extent */
        while (fp_units_used(&part->slots[0].units) + 200 < part->slots[0].units.total) {
            CHECK(farpool_page_alloc(part, 0, &filler[fillers++], &page) == 0);
            farpool_unfix(part, filler[fillers - 1], FARPOOL_EXCLUSIVE);
        }
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++)
        CHECK(pthread_create(&threads[t], NULL, work, (void *)t) == 0);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    while (fillers--) {
        CHECK(farpool_fix(part, filler[fillers], FARPOOL_EXCLUSIVE, &page) == 0);
        farpool_page_free(part, filler[fillers]);
    }
    check_pages(root);
    empty_it(1);
    check_pages(root);
    farpool_btree_close(tree);
    test_pool_close(pool, part);
    test_node_stop(node);
}

int main(void)
{
    seed = test_seed(1);
    run(FARPOOL_MAPPING_FRAMES, 16 << 20);
    run(FARPOOL_MAPPING_VM, 16 << 20);
    run(FARPOOL_MAPPING_FRAMES, 1 << 20);
    run(FARPOOL_MAPPING_VM, 1 << 20);
    return 0;
}
