/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that threads which insert, update, delete, look up and scan the same tree in a pool much smaller than
 * it never see a record torn, lost or out of order. Each thread has keys that only it writes, and knows what
 * they hold; the rest everybody writes. Values describe themselves: key number, stamp, and bytes made from both.
 * The last two runs let half of the threads, then all, go the way of those who were overtaken too often.
 */
#include "farpool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/btree_check.h"
#include "tests/lib/require.h"
#include "tests/lib/testtree.h"

enum {
    THREADS = 4,
    KEYS = 16000, /* key n belongs to thread n % 8, if there is such a thread, else to everybody */
    OPS = 6000,
    LONG_VALUE = 6000,
    POOL_BYTES = 1 << 20,
};

typedef struct value_head {
    uint64_t number, stamp;
    uint32_t len, fill;
} value_head;

static test_tree here;
static __thread farpool_btree *tree; /* this thread's handle */
static unsigned latched_threads;     /* these take latches at once */
static uint64_t seed;
static uint64_t stamps[KEYS];       /* guarded by: only the owner of the key writes; 0: not there */
static _Atomic uint64_t operations; /* atomic: for the closing line */

static size_t make_key(uint64_t number, char *key)
{
    /* neighbours belong to different threads; some keys are long */
    return (size_t)sprintf(key, "%s%06llu", number % 7 ? "key-" : "key-with-a-long-beginning-",
                           (unsigned long long)number);
}

static size_t make_value(uint64_t number, uint64_t stamp, uint8_t *value)
{
    uint32_t len = (uint32_t)(sizeof(value_head) + (stamp % 40 ? stamp % 300 : LONG_VALUE));
    value_head head = {number, stamp, len, (uint32_t)((number * 31 + stamp) & 0xFF)};
    memcpy(value, &head, sizeof head);
    memset(value + sizeof head, (int)head.fill, len - sizeof head);
    return len;
}

static uint64_t check_value(farpool_slice key, const uint8_t *value, size_t len)
{
    value_head head;
    char expected[64];
    REQUIRE(len >= sizeof head);
    memcpy(&head, value, sizeof head);
    REQUIRE(head.len == len && head.fill == ((head.number * 31 + head.stamp) & 0xFF));
    REQUIRE(key.len == make_key(head.number, expected) && !memcmp(key.data, expected, key.len));
    for (size_t i = sizeof head; i < len; i++)
        REQUIRE(value[i] == head.fill);
    return head.stamp;
}

static bool owned_by(uint64_t number, unsigned thread) { return number % 8 == thread; }

static bool shared(uint64_t number) { return number % 8 >= THREADS; }

static void write_one(uint64_t number, uint64_t random, unsigned how)
{
    char key_bytes[64];
    uint8_t value[sizeof(value_head) + LONG_VALUE];
    farpool_slice key = {key_bytes, make_key(number, key_bytes)};
    uint64_t stamp = random | 1, before = shared(number) ? 0 : stamps[number];
    farpool_slice v = {value, make_value(number, stamp, value)};
    int rc = how == 0   ? farpool_btree_insert(tree, key, v)
             : how == 1 ? farpool_btree_update(tree, key, v)
             : how == 2 ? farpool_btree_put(tree, key, v)
                        : farpool_btree_delete(tree, key);
    if (shared(number)) {
        REQUIRE(rc == 0 || rc == FARPOOL_E_EXISTS || rc == FARPOOL_E_NOTFOUND);
        return;
    }
    int expected = how == 0 && before                  ? FARPOOL_E_EXISTS
                   : (how == 1 || how == 3) && !before ? FARPOOL_E_NOTFOUND
                                                       : 0;
    REQUIRE(rc == expected);
    if (!rc)
        stamps[number] = how == 3 ? 0 : stamp;
}

static void look_up(uint64_t number, unsigned thread)
{
    char key_bytes[64];
    uint8_t value[sizeof(value_head) + LONG_VALUE];
    farpool_slice key = {key_bytes, make_key(number, key_bytes)};
    size_t len;
    int rc = farpool_btree_lookup(tree, key, value, sizeof value, &len);
    REQUIRE(rc == 0 || rc == FARPOOL_E_NOTFOUND);
    uint64_t stamp = rc ? 0 : check_value(key, value, len);
    REQUIRE(!owned_by(number, thread) || stamp == stamps[number]);
}

typedef struct scan_state {
    char last[64];
    size_t last_len;
    int backward;
    unsigned left, thread;
    uint64_t seen;
} scan_state;

static int on_record(void *arg, farpool_slice key, farpool_slice value)
{
    scan_state *state = arg;
    uint64_t number;
    check_value(key, value.data, value.len);
    memcpy(&number, value.data, sizeof number);
    REQUIRE(key.len < sizeof state->last);
    if (state->last_len) {
        size_t len = key.len < state->last_len ? key.len : state->last_len;
        int c = memcmp(key.data, state->last, len);
        REQUIRE(state->backward ? c < 0 : c > 0);
    }
    memcpy(state->last, key.data, key.len);
    state->last_len = key.len;
    if (owned_by(number, state->thread))
        state->seen++;
    return --state->left == 0;
}

static void scan_some(uint64_t number, uint64_t random, unsigned thread)
{
    char key_bytes[64];
    scan_state state = {.backward = random & 1, .left = 1 + random / 2 % 200, .thread = thread};
    farpool_slice key = {key_bytes, make_key(number, key_bytes)};
    REQUIRE(farpool_btree_scan(tree, key, state.backward, on_record, &state) == 0);
}

/* All the records that only this thread writes are seen, whatever the others do. */
static void scan_all(int backward, unsigned thread)
{
    scan_state state = {.backward = backward, .left = UINT32_MAX, .thread = thread};
    uint64_t mine = 0;
    for (uint64_t n = thread; n < KEYS; n += 8)
        mine += stamps[n] != 0;
    REQUIRE(farpool_btree_scan(tree, (farpool_slice){NULL, 0}, backward, on_record, &state) == 0);
    REQUIRE(state.seen == mine);
}

static void *work(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    uint64_t random = seed + thread * 7919;
    tree = test_tree_handle(&here, thread < latched_threads);
    for (unsigned i = 0; i < OPS; i++) {
        uint64_t r = test_random(&random), number = test_random(&random) % KEYS;
        if (!shared(number))
            number = number / 8 * 8 + (r % 3 ? thread : number % 8);
        bool may_write = shared(number) || owned_by(number, thread);
        bool shrinking = i / 1500 % 2;
        unsigned what = r >> 8 & 15;
        if (what < 8 && may_write)
            write_one(number, r >> 16, what < 3 ? what : shrinking || what > 6 ? 3 : 2);
        else if (what < 15)
            look_up(number, thread);
        else
            scan_some(number, r >> 16, thread);
        if (i % 1500 == 1499)
            scan_all(i / 1500 % 2, thread);
        atomic_fetch_add_explicit(&operations, 1, memory_order_relaxed);
    }
    farpool_btree_close(tree);
    return NULL;
}

static void run(enum farpool_mapping mapping, unsigned latched)
{
    test_tree_open(&here, mapping, POOL_BYTES, 100u << 20);
    tree = here.tree;
    latched_threads = latched;
    memset(stamps, 0, sizeof stamps);
    for (uint64_t n = 0; n < KEYS; n += 1 + n % 3) /* two of three keys; more than the pool holds */
        write_one(n, n * 2654435761u, 0);
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++)
        REQUIRE(pthread_create(&threads[t], NULL, work, (void *)t) == 0);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    test_btree_shape shape = test_btree_check(here.part, here.root);
    for (unsigned thread = 0; thread < THREADS; thread++) {
        scan_all(0, thread);
        scan_all(1, thread);
        for (uint64_t n = thread; n < KEYS; n += 8)
            look_up(n, thread);
    }
    farpool_stats stats;
    farpool_stats_get(here.pool, &stats);
    REQUIRE(stats.misses > 0);
    printf(
        "mapping %d, %u of %d threads with latches: %llu operations, %llu records in %llu leaves, "
        "%llu misses, %llu restarts\n",
        (int)mapping, latched, THREADS, (unsigned long long)atomic_load(&operations),
        (unsigned long long)shape.records, (unsigned long long)shape.leaves,
        (unsigned long long)stats.misses, (unsigned long long)stats.restarts);
    test_tree_close(&here);
}

int main(void)
{
    seed = test_seed(1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    run(FARPOOL_MAPPING_FRAMES, 0);
    run(FARPOOL_MAPPING_VM, 0);
    run(FARPOOL_MAPPING_VM, THREADS / 2);
    run(FARPOOL_MAPPING_FRAMES, THREADS);
    return 0;
}
