/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What threads write to a B+-tree, noted in memory that outlives their process, and whether a tree that was recovered
 * is as they left it at some moment. Each thread writes keys of its own, one after the other, and each write has a
 * number that is never used again. So what a recovered tree has of a thread's keys must be its writes up to one of them,
 * no earlier than the last that was acknowledged, and none that an earlier recovery has found to be lost.
 */
#ifndef FP_TESTS_LIB_WRITTEN_H
#define FP_TESTS_LIB_WRITTEN_H

#include <stdatomic.h>
#include <stdbool.h>

#include "farpool.h"

enum {
    WRITTEN_THREADS = 4,
    WRITTEN_KEYS = 800, /* of each thread */
    WRITTEN_LIST = 1 << 16,
    WRITTEN_VALUE_MAX = 9000,
};

/* Numbers of writes begin with 1; 0 stands for no record. */
typedef struct written_thread {
    uint32_t
        base[WRITTEN_KEYS]; /* each key's write before those in the list; all of them are stored */
    struct {
        uint32_t key, number;
    } list[WRITTEN_LIST];
    _Atomic uint32_t tried, acked, stored; /* as many of the list, from its beginning */
    uint32_t last;                         /* number */
} written_thread;

typedef struct written {
    written_thread threads[WRITTEN_THREADS];
    _Atomic uint64_t compared; /* keys, in all */
} written;

/* Notes the next write of a key, a deletion if its number says so; then does it. What the tree returns; with an error
 * the same write may be done again. */
typedef struct written_op {
    written_thread *thread;
    unsigned index; /* of the thread */
    uint32_t key, number, upto;
} written_op;

bool written_begin(written *w, unsigned thread, uint32_t key, written_op *op); /* false: no room */
int written_do(const written_op *op, farpool_btree *tree);
/* It is durable. */
void written_acknowledge(const written_op *op, bool stored);

/* Compares all of the tree, and takes what is there as acknowledged. stored: only what was stored must be there. Ends
 * the process with a message if it is wrong. again() says whether a look-up that failed is to be tried once more. */
void written_check(written *w, farpool_btree *tree, bool stored, bool (*again)(int rc));
/* All that is acknowledged is stored. */
void written_all_stored(written *w);
/* Makes room in the lists. Nobody else is using them. */
void written_fold(written *w);

#endif
