/* SPDX-License-Identifier: Apache-2.0 */
/* A set of changes of records, made from the model, to become one transaction; and the model after it. */
#ifndef FP_COORDINATOR_CHANGE_H
#define FP_COORDINATOR_CHANGE_H

#include "coordinator/metastore.h"
#include "coordinator/model.h"

enum {
    FP_CHANGE_ITEMS_MAX = 40, /* records in one transaction: three operations each at most */
    FP_EVENTS_KEPT = 10000,
    FP_KEY_ROOM = 96,
};

typedef struct fp_event {
    uint64_t seq, partition; /* partition 0: of none */
    char kind[24], node[FP_ID_ROOM], text[400];
} fp_event;

typedef struct fp_change {
    enum { FP_CHANGE_MEMBER, FP_CHANGE_REMOVE_MEMBER, FP_CHANGE_PART } what;
    union {
        fp_member_record member;
        fp_part_record part;
    };
    fp_event event; /* kind "": none */
} fp_change;

typedef struct fp_changes {
    fp_change *items; /* room for FP_CHANGE_ITEMS_MAX */
    size_t count;
} fp_changes;

/* E_NOMEM. */
int fp_changes_open(fp_changes *changes) FARPOOL_MUST_CHECK;
void fp_changes_close(fp_changes *changes);
static inline bool fp_changes_full(const fp_changes *changes)
{
    return changes->count == FP_CHANGE_ITEMS_MAX;
}

/* Each begins with what is kept, to be changed; there is room. No record twice. */
fp_part_record *fp_change_part(fp_changes *changes, const fp_part_record *now);
fp_member_record *fp_change_member(fp_changes *changes, const fp_member_record *now);
void fp_change_remove(fp_changes *changes, const fp_member_record *now);
/* The event that goes with the change made last. */
void fp_change_event(fp_changes *changes, const char *kind, const char *node, uint64_t partition,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The transaction: all of it that compares and changes. Freed by fp_txn_close. It compares the leader's term, and the
 * revision of `next`, which each transaction puts: one of whose outcome nothing is known may be applied late, but not
 * behind another one. */
typedef struct fp_txn {
    fp_meta_req req;
    fp_meta_compare compare[2 + FP_CHANGE_ITEMS_MAX];
    fp_meta_op ops[FP_META_OPS_MAX];
    char keys[FP_META_OPS_MAX][FP_KEY_ROOM];
    char *values[FP_META_OPS_MAX];
    uint64_t next_partition, next_event;
} fp_txn;

/* Fills in compares and operations for the leader of this term. time_ms: of the events, since 1970. E_NOMEM. */
int fp_txn_make(fp_txn *txn, const fp_model *model, fp_changes *changes,
                uint64_t time_ms) FARPOOL_MUST_CHECK;
void fp_txn_close(fp_txn *txn);
/* It has succeeded: so does the model. E_NOMEM: read everything again. */
int fp_txn_apply(const fp_txn *txn, fp_model *model, const fp_changes *changes) FARPOOL_MUST_CHECK;

#endif
