/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/written.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/require.h"
#include "tests/lib/testnode.h"

static bool is_delete(uint32_t number) { return number % 5 == 0; }

static uint32_t shown(uint32_t number) { return is_delete(number) ? 0 : number; }

/* Most values are short, some take pages of their own. */
static size_t value_of(unsigned thread, uint32_t key, uint32_t number, uint8_t *value)
{
    uint64_t random = (uint64_t)number << 20 ^ (uint64_t)key << 4 ^ thread;
    uint64_t r = test_random(&random);
    size_t len = 12 + (r % 16 == 0 ? r / 16 % (WRITTEN_VALUE_MAX - 12) : r / 16 % 400);
    memset(value, (int)(r >> 56), len);
    memcpy(value, &thread, 4);
    memcpy(value + 4, &key, 4);
    memcpy(value + 8, &number, 4);
    return len;
}

/* In an order of their own in the tree, and threads' keys among each other. */
static farpool_slice key_of(unsigned thread, uint32_t key, char text[32])
{
    int len = snprintf(text, 32, "%u/%u/%u", key * 7919 % WRITTEN_KEYS, key, thread);
    return (farpool_slice){text, (size_t)len};
}

/* ---- writing --------------------------------------------------------------------------------- */

bool written_begin(written *w, unsigned thread, uint32_t key, written_op *op)
{
    written_thread *t = &w->threads[thread];
    uint32_t at = atomic_load(&t->tried);
    if (at == WRITTEN_LIST)
        return false;
    *op = (written_op){t, thread, key, ++t->last, at + 1};
    t->list[at].key = key;
    t->list[at].number = op->number;
    atomic_store(&t->tried, at + 1);
    return true;
}

int written_do(const written_op *op, farpool_btree *tree)
{
    uint8_t value[WRITTEN_VALUE_MAX];
    char text[32];
    farpool_slice key = key_of(op->index, op->key, text);
    if (!is_delete(op->number))
        return farpool_btree_put(
            tree, key, (farpool_slice){value, value_of(op->index, op->key, op->number, value)});
    int rc = farpool_btree_delete(tree, key);
    return rc == FARPOOL_E_NOTFOUND ? 0 : rc;
}

void written_acknowledge(const written_op *op, bool stored)
{
    atomic_store(&op->thread->acked, op->upto);
    if (stored)
        atomic_store(&op->thread->stored, op->upto);
}

void written_all_stored(written *w)
{
    for (unsigned i = 0; i < WRITTEN_THREADS; i++)
        atomic_store(&w->threads[i].stored, atomic_load(&w->threads[i].acked));
}

void written_fold(written *w)
{
    for (unsigned i = 0; i < WRITTEN_THREADS; i++) {
        written_thread *t = &w->threads[i];
        uint32_t stored = atomic_load(&t->stored);
        for (uint32_t k = 0; k < stored; k++)
            t->base[t->list[k].key] = t->list[k].number;
        memmove(t->list, t->list + stored, (t->tried - stored) * sizeof t->list[0]);
        t->tried -= stored;
        t->acked -= stored;
        t->stored = 0;
    }
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* The number of the write that is there, 0: none. */
static uint32_t look_up(farpool_btree *tree, unsigned thread, uint32_t key, bool (*again)(int rc))
{
    static uint8_t found[WRITTEN_VALUE_MAX], wanted[WRITTEN_VALUE_MAX];
    char text[32];
    size_t len;
    int rc;
    do
        rc = farpool_btree_lookup(tree, key_of(thread, key, text), found, sizeof found, &len);
    while (rc && rc != FARPOOL_E_NOTFOUND && again(rc));
    if (rc == FARPOOL_E_NOTFOUND)
        return 0;
    test_must(rc, "looking a key up");
    uint32_t number;
    REQUIRE(len >= 12);
    memcpy(&number, found + 8, 4);
    REQUIRE(len == value_of(thread, key, number, wanted) && !memcmp(found, wanted, len));
    return number;
}

/* The last write of the list before `upto` that was of this key. */
static uint32_t written_before(const written_thread *t, uint32_t upto, uint32_t key)
{
    while (upto--)
        if (t->list[upto].key == key)
            return t->list[upto].number;
    return t->base[key];
}

static void complain(const written_thread *t, unsigned thread, uint32_t upto, const uint32_t *there)
{
    fprintf(stderr, "thread %u: %u writes tried, %u acknowledged, %u stored, the last is %u\n",
            thread, t->tried, t->acked, t->stored, t->last);
    unsigned said = 0;
    for (uint32_t key = 0; key < WRITTEN_KEYS && said < 10; key++) {
        uint32_t wanted = written_before(t, upto, key), at = t->tried;
        if (shown(wanted) == there[key])
            continue;
        while (at && t->list[at - 1].number != there[key])
            at--;
        fprintf(stderr,
                "key %u: the first %u writes leave it with number %u, but %u is there, the %u-th\n",
                key, upto, shown(wanted), there[key], at);
        said++;
    }
    fprintf(stderr, "what the tree has of this thread's writes is none of their beginnings\n");
    exit(1);
}

/* As many of the thread's writes as are there. */
static uint32_t find_end(const written_thread *t, unsigned thread, uint32_t least,
                         const uint32_t *there)
{
    uint32_t state[WRITTEN_KEYS], upto = 0;
    unsigned wrong = 0;
    for (uint32_t key = 0; key < WRITTEN_KEYS; key++) {
        state[key] = shown(t->base[key]);
        wrong += state[key] != there[key];
    }
    for (; upto < least || wrong; upto++) {
        if (upto == t->tried)
            complain(t, thread, least, there);
        uint32_t key = t->list[upto].key, number = shown(t->list[upto].number);
        wrong -= state[key] != there[key];
        wrong += number != there[key];
        state[key] = number;
    }
    return upto;
}

typedef struct record_count {
    unsigned records;
    bool ordered;
    char last[32];
} record_count;

static int count_one(void *arg, farpool_slice key, farpool_slice value)
{
    record_count *count = arg;
    char text[32] = "";
    (void)value;
    REQUIRE(key.len < sizeof text);
    memcpy(text, key.data, key.len);
    count->ordered &= strcmp(text, count->last) > 0;
    memcpy(count->last, text, sizeof text);
    count->records++;
    return 0;
}

void written_check(written *w, farpool_btree *tree, bool stored, bool (*again)(int rc))
{
    static uint32_t there[WRITTEN_KEYS];
    unsigned records = 0;
    record_count count;
    int rc;
    for (unsigned i = 0; i < WRITTEN_THREADS; i++) {
        written_thread *t = &w->threads[i];
        for (uint32_t key = 0; key < WRITTEN_KEYS; key++) {
            there[key] = look_up(tree, i, key, again);
            records += there[key] != 0;
            atomic_fetch_add(&w->compared, 1);
        }
        uint32_t end = find_end(t, i, stored ? t->stored : t->acked, there);
        atomic_store(&t->tried, end); /* what is behind it is lost, and must not come back */
        atomic_store(&t->acked, end); /* what was recovered is as good as acknowledged */
    }
    do {
        count = (record_count){.ordered = true};
        rc = farpool_btree_scan(tree, (farpool_slice){NULL, 0}, 0, count_one, &count);
    } while (rc && again(rc));
    test_must(rc, "scanning the tree");
    REQUIRE(count.ordered && count.records == records);
}
