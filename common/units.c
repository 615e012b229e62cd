/* SPDX-License-Identifier: Apache-2.0 */
#include "common/units.h"

#include <stdbool.h>
#include <string.h>

#include "common/error.h"
#include "common/mem.h"

static uint64_t words_for(uint64_t bits) { return (bits + 63) / 64; }

int fp_units_open(fp_units *units, uint64_t total)
{
    memset(units, 0, sizeof *units);
    units->total = total;
    uint64_t words = 0;
    for (unsigned o = 0; o < FP_UNITS_ORDERS; o++) {
        uint64_t bits = (total >> o) + 1;
        words += words_for(bits) + words_for(words_for(bits));
    }
    int rc = fp_mem_open(words * sizeof(uint64_t), FP_MEM_RESERVE, -1, &units->mem);
    if (rc)
        return rc;
    uint64_t *at = units->mem.addr;
    for (unsigned o = 0; o < FP_UNITS_ORDERS; o++) {
        uint64_t n = words_for((total >> o) + 1);
        units->order[o].bits = at;
        units->order[o].summary = at + n;
        units->order[o].summary_words = words_for(n);
        at += n + words_for(n);
    }
    if (pthread_mutex_init(&units->lock, NULL)) {
        fp_mem_close(&units->mem);
        return fp_error(FARPOOL_E_NOMEM, "creating the lock of a free map");
    }
    return 0;
}

void fp_units_close(fp_units *units)
{
    if (!units->mem.addr)
        return;
    pthread_mutex_destroy(&units->lock);
    fp_mem_close(&units->mem);
}

static void set_free_locked(fp_units *units, unsigned o, uint64_t block)
{
    uint64_t word = block / 64;
    units->order[o].bits[word] |= 1ull << (block % 64);
    units->order[o].summary[word / 64] |= 1ull << (word % 64);
    if (word / 64 < units->order[o].first)
        units->order[o].first = word / 64;
    units->order[o].free++;
}

static void clear_free_locked(fp_units *units, unsigned o, uint64_t block)
{
    uint64_t word = block / 64;
    FP_ASSERT(units->order[o].bits[word] & (1ull << (block % 64)));
    units->order[o].bits[word] &= ~(1ull << (block % 64));
    if (!units->order[o].bits[word])
        units->order[o].summary[word / 64] &= ~(1ull << (word % 64));
    units->order[o].free--;
}

static bool is_free_locked(const fp_units *units, unsigned o, uint64_t block)
{
    return units->order[o].bits[block / 64] >> (block % 64) & 1;
}

static uint64_t first_free_locked(fp_units *units, unsigned o)
{
    uint64_t i = units->order[o].first;
    while (!units->order[o].summary[i])
        i++; /* ends: the caller knows that free > 0 */
    units->order[o].first = i;
    uint64_t word = i * 64 + (uint64_t)__builtin_ctzll(units->order[o].summary[i]);
    return word * 64 + (uint64_t)__builtin_ctzll(units->order[o].bits[word]);
}

static void free_locked(fp_units *units, uint64_t unit, unsigned order)
{
    uint64_t block = unit >> order;
    FP_ASSERT(!is_free_locked(units, order, block));
    while (order + 1 < FP_UNITS_ORDERS && is_free_locked(units, order, block ^ 1)) {
        clear_free_locked(units, order, block ^ 1);
        block >>= 1;
        order++;
    }
    set_free_locked(units, order, block);
}

/* Takes never-used units; those skipped for alignment become free blocks. */
static uint64_t extend_locked(fp_units *units, unsigned order)
{
    uint64_t size = 1ull << order;
    uint64_t unit = (units->next + size - 1) & ~(size - 1);
    if (unit + size > units->total)
        return FP_UNIT_NONE;
    while (units->next < unit) {
        unsigned o = (unsigned)__builtin_ctzll(units->next);
        uint64_t at = units->next;
        units->next += 1ull << o;
        free_locked(units, at, o);
    }
    units->next = unit + size;
    return unit;
}

static uint64_t alloc_locked(fp_units *units, unsigned order)
{
    unsigned o = order;
    while (o < FP_UNITS_ORDERS && !units->order[o].free)
        o++;
    uint64_t unit;
    if (o < FP_UNITS_ORDERS) {
        uint64_t block = first_free_locked(units, o);
        clear_free_locked(units, o, block);
        while (o > order) {
            o--;
            block <<= 1;
            set_free_locked(units, o, block + 1);
        }
        unit = block << order;
    } else {
        unit = extend_locked(units, order);
    }
    if (unit != FP_UNIT_NONE)
        units->used += 1ull << order;
    return unit;
}

uint64_t fp_units_alloc(fp_units *units, unsigned order)
{
    pthread_mutex_lock(&units->lock);
    uint64_t unit = alloc_locked(units, order);
    pthread_mutex_unlock(&units->lock);
    return unit;
}

/* All units below `end` are given out or free blocks then. */
static void extend_to_locked(fp_units *units, uint64_t end)
{
    while (units->next < end) {
        unsigned o = 0;
        while (o + 1 < FP_UNITS_ORDERS && !(units->next & ((2ull << o) - 1)) &&
               units->next + (2ull << o) <= end)
            o++;
        uint64_t at = units->next;
        units->next += 1ull << o;
        free_locked(units, at, o);
    }
}

bool fp_units_take(fp_units *units, uint64_t unit, unsigned order)
{
    uint64_t size = 1ull << order;
    if (order >= FP_UNITS_ORDERS || unit % size || unit >= units->total ||
        size > units->total - unit)
        return false;
    pthread_mutex_lock(&units->lock);
    extend_to_locked(units, unit + size);
    unsigned o = order;
    while (o < FP_UNITS_ORDERS && !is_free_locked(units, o, unit >> o))
        o++;
    bool found = o < FP_UNITS_ORDERS;
    if (found) {
        clear_free_locked(units, o, unit >> o);
        while (o-- > order) /* the halves beside the way down */
            set_free_locked(units, o, (unit >> o) ^ 1);
        units->used += size;
    }
    pthread_mutex_unlock(&units->lock);
    return found;
}

void fp_units_free(fp_units *units, uint64_t unit, unsigned order)
{
    pthread_mutex_lock(&units->lock);
    units->used -= 1ull << order;
    free_locked(units, unit, order);
    pthread_mutex_unlock(&units->lock);
}

size_t fp_units_alloc_many(fp_units *units, uint32_t *out, size_t max)
{
    size_t n = 0;
    pthread_mutex_lock(&units->lock);
    for (; n < max; n++) {
        uint64_t unit = alloc_locked(units, 0);
        if (unit == FP_UNIT_NONE)
            break;
        out[n] = (uint32_t)unit;
    }
    pthread_mutex_unlock(&units->lock);
    return n;
}

void fp_units_free_many(fp_units *units, const uint32_t *in, size_t count)
{
    pthread_mutex_lock(&units->lock);
    units->used -= count;
    for (size_t i = 0; i < count; i++)
        free_locked(units, in[i], 0);
    pthread_mutex_unlock(&units->lock);
}

uint64_t fp_units_used(fp_units *units)
{
    pthread_mutex_lock(&units->lock);
    uint64_t used = units->used;
    pthread_mutex_unlock(&units->lock);
    return used;
}

uint64_t fp_units_bytes(fp_units *units)
{
    pthread_mutex_lock(&units->lock);
    uint64_t bytes = units->next / 4 + units->next / 128; /* two bits a unit, and their summaries */
    pthread_mutex_unlock(&units->lock);
    return bytes;
}
