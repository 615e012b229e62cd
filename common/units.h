/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A buddy allocator over numbers: blocks of 2^order consecutive units, aligned to their size (Knowlton,
 * CACM 1965). Used for frames of the pool, pids of a partition and slots of a slab alike. Free blocks
 * are bits, so that a unit costs about two bits whatever it stands for.
 */
#ifndef FP_COMMON_UNITS_H
#define FP_COMMON_UNITS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/mem.h"
#include "farpool.h"

enum { FP_UNITS_ORDERS = FARPOOL_ORDER_MAX + 1 };
#define FP_UNIT_NONE UINT64_MAX

typedef struct fp_units {
    pthread_mutex_t lock; /* guards all below */
    uint64_t total;       /* immutable after open */
    uint64_t next;        /* units from here on have never been given out */
    uint64_t used;        /* units given out */
    struct {
        uint64_t *bits;    /* bit i: block i of this order is free */
        uint64_t *summary; /* bit i: bits[i] is not 0 */
        uint64_t summary_words;
        uint64_t free;  /* bits set */
        uint64_t first; /* no summary word below this one is other than 0 */
    } order[FP_UNITS_ORDERS];
    fp_mem mem;
} fp_units;

int fp_units_open(fp_units *units, uint64_t total) FARPOOL_MUST_CHECK;
void fp_units_close(fp_units *units);

/* The first unit of a free block, or FP_UNIT_NONE. Any thread. */
uint64_t fp_units_alloc(fp_units *units, unsigned order);
void fp_units_free(fp_units *units, uint64_t unit, unsigned order);
/* Takes exactly this block; false: some of it has been given out, or there is no such block. */
bool fp_units_take(fp_units *units, uint64_t unit, unsigned order);

/* Up to max single units under one lock; returns how many. */
size_t fp_units_alloc_many(fp_units *units, uint32_t *out, size_t max);
void fp_units_free_many(fp_units *units, const uint32_t *in, size_t count);

uint64_t fp_units_used(fp_units *units);
/* Bytes of bitmap touched so far, at most. */
uint64_t fp_units_bytes(fp_units *units);

#endif
