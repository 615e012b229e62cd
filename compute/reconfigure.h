/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a change of a partition's memory nodes: shared by reconfigure.c, which says what is done, and
 * reconfigure_prepare.c. */
#ifndef FP_COMPUTE_RECONFIGURE_H
#define FP_COMPUTE_RECONFIGURE_H

#include "compute/node_set.h"
#include "compute/redo_log.h"

/* What becomes of one memory node. */
typedef struct fp_reconf_place {
    bool is_new;    /* it begins with nothing */
    bool reachable; /* or it is lost */
    bool keeps;     /* its ring */
    bool was_there; /* the node before, as far as is known */
    bool is_ours;   /* it stays, and says that we are the owner still */
    bool confirmed; /* and has taken a GRANT that said so */
    fp_share ring;  /* as it was granted; extents NULL: it was not */
} fp_reconf_place;

typedef struct fp_reconf {
    farpool_partition *partition;
    fp_redo_log *log;
    fp_node_set *old, *set;
    fp_thread *slabs, *rings,
        *lines; /* connections; the last two become the log's and its keeper's */
    fp_reconf_place at[FP_PARTITION_NODES_MAX];
    bool lost_copies; /* of pages: a share is not what it was */
    uint32_t emptied; /* bit i: share i has nothing of what it had, or had lost it before */
} fp_reconf;

static inline bool fp_reconf_has_ring(const fp_reconf *c, unsigned i)
{
    return i < c->log->ring_count;
}

/* Step 1. An error: fp_reconf_give_back, then nothing has changed. */
int fp_reconf_prepare(fp_reconf *c, const char *const *memnodes) FARPOOL_MUST_CHECK;
void fp_reconf_give_back(fp_reconf *c);
/* An empty ring, or share of the slab, at node number i, whatever there was. */
int fp_reconf_empty_ring(fp_reconf *c, unsigned i) FARPOOL_MUST_CHECK;
int fp_reconf_empty_share(fp_reconf *c, unsigned i) FARPOOL_MUST_CHECK;
/* Only so many rings would stay: E_NODE. */
int fp_reconf_too_few(const fp_reconf *c, unsigned kept) FARPOOL_MUST_CHECK;

#endif
