/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a partition with a redo log must hold: some pages and a B+-tree, and the steps (commits) of one owner since its
 * recovery, in their order. A new owner must find the state after one of them, the last acknowledged or a later one.
 * Failures end the process by way of model_fail.
 */
#ifndef FP_TESTS_LIB_REDO_MODEL_H
#define FP_TESTS_LIB_REDO_MODEL_H

#include <stdbool.h>

#include "farpool.h"

enum {
    MODEL_PAGES = 110,
    MODEL_FIELDS = 8,
    MODEL_KEYS = 100,
    MODEL_CHANGES = 5,
    MODEL_STEPS = 1000
};

/* Field i is an eighth of the page, filled according to a number. */
typedef struct model_page {
    bool there;
    farpool_pid pid;
    unsigned order;
    uint64_t fields[MODEL_FIELDS];
} model_page;

typedef struct model_state {
    model_page
        pages[MODEL_PAGES];    /* the first one's first field is the number of the last commit */
    uint64_t keys[MODEL_KEYS]; /* 0: not in the tree; else the number its value is made of */
} model_state;

typedef struct model_change {
    enum model_change_kind { MODEL_ALLOC, MODEL_FREE, MODEL_FIELD, MODEL_KEY } kind;
    unsigned index, field; /* of the page or key */
    uint64_t value;
    farpool_pid pid;
    unsigned order;
} model_change;

typedef struct model_step {
    model_change changes[MODEL_CHANGES];
    unsigned count;
    uint64_t lsn;
} model_step;

typedef struct redo_model {
    model_state base, now;
    model_step steps[MODEL_STEPS];
    unsigned count, acked; /* steps; of them acknowledged */
    unsigned stored;       /* of them acknowledged as being on stable media */
    unsigned found;        /* of the steps of the owner before, by model_take_over */
    model_step pending;    /* being made, if it has changes: may be done already */
    uint64_t *random, numbers;
    bool over; /* somebody else has the partition: what is read may be his */
    bool gone; /* and what was acknowledged may be lost */
    bool big;  /* large changes, which fill the log */
    farpool_pid root;
} redo_model;

void model_fail(const char *file, int line, const char *what) __attribute__((noreturn));
#define MODEL_CHECK(condition) ((condition) ? (void)0 : model_fail(__FILE__, __LINE__, #condition))

/* The first page and an empty tree, acknowledged. An error: of the partition. */
int model_create(redo_model *m, farpool_partition *part, uint64_t *random);

/* A random mini-transaction. 0: committed as asked; else it was not made, or is not known to be durable. */
int model_commit(redo_model *m, farpool_partition *part, enum farpool_durability durability);
/* Waits for one of the steps, or all of them. */
int model_wait(redo_model *m, farpool_partition *part);
/* Puts or deletes a key. *in_doubt: it failed, and no lookup can tell whether it was done: it counts as the last
 * step, and nothing may come after it. */
int model_tree_op(redo_model *m, farpool_btree *tree, bool *in_doubt);
/* A random page is what it should be, or cannot be read. */
int model_read(redo_model *m, farpool_partition *part);

/* What an owner leaves, be it in the midst of a step, to whoever opens the partition now. */
void model_leave(const redo_model *m, redo_model *left);
/* A new owner's view: finds out after which step it is, and goes on from there. E_NODE: not everything can be read,
 * nothing is changed. E_FENCED: m->over, set meanwhile. */
int model_take_over(redo_model *m, farpool_partition *part, farpool_btree *tree);

#endif
