/* SPDX-License-Identifier: Apache-2.0 */
/* For tests/crash/fault_points.c: at which fault point who dies, and what makes it come there. */
#ifndef FP_TESTS_CRASH_FAULT_PLANS_H
#define FP_TESTS_CRASH_FAULT_PLANS_H

#include <stdbool.h>

#include "common/faultpoint.h"
#include "tests/lib/cluster.h"

enum how {
    NOT_PLANNED,
    WORKER,        /* recovers and works */
    WORKER_BLANK,  /* one of the rings is blank */
    WORKER_CUT,    /* a memory node is killed while it works */
    WORKER_STORED, /* all rings are blank */
    NODE,          /* a memory node, with a new worker */
    NODE_SPILLS,   /* the only one that spills */
    STORAGE,       /* a storage node, with a worker that goes on, or a new one */
    STORAGE_OWNER, /* with a new one */
    STORAGE_DOUBT, /* one that was killed between a group and the next mark, perhaps */
    STORAGE_LEFT,  /* one that has layers without a manifest */
    STORAGE_NEW,   /* one without a volume */
};

typedef struct plan {
    enum how how;
    unsigned most;  /* it dies the n-th time, n from 1 to that, */
    unsigned after; /* and so many later */
    bool shm_only;
    bool again; /* passed at each start after a death: good for a second one */
} plan;

static const plan plans[FP_FAULT_COUNT] = {
    [FP_FAULT_SHM_WRITE_HALF] = {.how = WORKER, .most = 300, .shm_only = true},
    [FP_FAULT_SHM_WRITTEN] = {.how = WORKER, .most = 600, .shm_only = true, .again = true},
    [FP_FAULT_MTR_APPENDED] = {.how = WORKER, .most = 300},
    [FP_FAULT_LOG_POSTED] = {.how = WORKER, .most = 300, .again = true},
    [FP_FAULT_LOG_POSTED_ALL] = {.how = WORKER, .most = 300},
    [FP_FAULT_LOG_DURABLE] = {.how = WORKER, .most = 300},
    [FP_FAULT_LINES_POSTED] = {.how = WORKER, .most = 20},
    [FP_FAULT_LINE_TOLD] = {.how = WORKER, .most = 20},
    [FP_FAULT_SLABS_CHANGED] = {.how = WORKER_CUT, .most = 1},
    [FP_FAULT_SLABS_TOLD] = {.how = WORKER_CUT, .most = 2, .after = CLUSTER_NODES},
    [FP_FAULT_START_MOVED] = {.how = WORKER, .most = 5},
    [FP_FAULT_FLOOR_MOVED] = {.how = WORKER, .most = 5},
    [FP_FAULT_CHECKPOINT_BEGUN] = {.how = WORKER, .most = 3},
    [FP_FAULT_CHECKPOINT_STEPPED] = {.how = WORKER, .most = 10},
    [FP_FAULT_CHECKPOINT_ENDED] = {.how = WORKER, .most = 3},
    [FP_FAULT_EVICT_POSTED] = {.how = WORKER, .most = 40},
    [FP_FAULT_EVICT_WRITTEN] = {.how = WORKER, .most = 200},
    [FP_FAULT_EVICT_DROPPED] = {.how = WORKER, .most = 40},
    [FP_FAULT_RECOVER_SLAB_GRANTED] = {.how = WORKER, .most = CLUSTER_NODES, .again = true},
    [FP_FAULT_RECOVER_RING_GRANTED] = {.how = WORKER, .most = CLUSTER_NODES, .again = true},
    [FP_FAULT_RECOVER_CHOSEN] = {.how = WORKER, .most = 1, .again = true},
    [FP_FAULT_RECOVER_SLAB_RELEASED] = {.how = WORKER_BLANK, .most = 1},
    [FP_FAULT_RECOVER_SLABS_SETTLED] = {.how = WORKER, .most = 1, .again = true},
    [FP_FAULT_RECOVER_ANNOUNCED] = {.how = WORKER_STORED, .most = CLUSTER_NODES},
    [FP_FAULT_RECOVER_OWN_FRAME] = {.how = WORKER, .most = 1, .again = true},
    [FP_FAULT_RECOVER_OWN_DURABLE] = {.how = WORKER, .most = 1, .again = true},
    [FP_FAULT_RECOVER_LINE_POSTED] = {.how = WORKER_BLANK, .most = 1},
    [FP_FAULT_RECOVER_PLACED] = {.how = WORKER, .most = 1, .again = true},
    [FP_FAULT_RECOVER_GROUP] = {.how = WORKER, .most = 1, .again = true},
    [FP_FAULT_RECOVER_REDONE] = {.how = WORKER, .most = 2},
    [FP_FAULT_RECOVER_FINISHED] = {.how = WORKER, .most = 1},
    [FP_FAULT_STORED_FENCED] = {.how = WORKER_STORED, .most = 1},
    [FP_FAULT_STORED_AGREED] = {.how = WORKER_STORED, .most = 1},
    [FP_FAULT_STORED_READ] = {.how = WORKER_STORED, .most = 1},
    [FP_FAULT_GRANT_FENCED] = {.how = NODE, .most = 2},
    [FP_FAULT_GRANT_MADE] = {.how = NODE, .most = 2},
    [FP_FAULT_GRANT_ANSWERED] = {.how = NODE, .most = 2},
    [FP_FAULT_RELEASED] = {.how = NODE, .most = 1},
    [FP_FAULT_SPILL_OPENED] = {.how = NODE_SPILLS, .most = 1},
    [FP_FAULT_SPILL_COPIED] = {.how = NODE_SPILLS, .most = 20},
    [FP_FAULT_SPILL_SENT] = {.how = NODE_SPILLS, .most = 20},
    [FP_FAULT_SPILL_ANSWERED] = {.how = NODE_SPILLS, .most = 20},
    [FP_FAULT_SPILL_LINE_WRITTEN] = {.how = NODE_SPILLS, .most = 20},
    [FP_FAULT_VOLUME_SYNCED] = {.how = STORAGE_NEW, .most = 1},
    [FP_FAULT_VOLUME_RENAMED] = {.how = STORAGE_NEW, .most = 1},
    [FP_FAULT_WAL_BEGUN] = {.how = STORAGE, .most = 50},
    [FP_FAULT_WAL_WRITTEN] = {.how = STORAGE, .most = 50},
    [FP_FAULT_WAL_SYNCED] = {.how = STORAGE, .most = 50},
    [FP_FAULT_WAL_ACKNOWLEDGED] = {.how = STORAGE, .most = 50},
    [FP_FAULT_WAL_SEGMENT_CLOSED] = {.how = STORAGE, .most = 8},
    [FP_FAULT_WAL_FILE_ALLOCATED] = {.how = STORAGE, .most = 12},
    [FP_FAULT_WAL_FILE_SYNCED] = {.how = STORAGE, .most = 12},
    [FP_FAULT_WAL_FILE_RENAMED] = {.how = STORAGE, .most = 12, .again = true},
    [FP_FAULT_WAL_FILE_MADE] = {.how = STORAGE, .most = 12},
    [FP_FAULT_WAL_STATE_WRITTEN] = {.how = STORAGE, .most = 5, .again = true},
    [FP_FAULT_WAL_PROMISED] = {.how = STORAGE_OWNER, .most = 1},
    [FP_FAULT_WAL_TRIM_STATE] = {.how = STORAGE, .most = 4},
    [FP_FAULT_WAL_TRIM_UNLINKED] = {.how = STORAGE, .most = 4},
    [FP_FAULT_WAL_TRIM_SYNCED] = {.how = STORAGE, .most = 4},
    [FP_FAULT_WAL_OPEN_SCANNED] = {.how = STORAGE, .most = 1, .again = true},
    [FP_FAULT_WAL_OPEN_REWRITTEN] = {.how = STORAGE_DOUBT, .most = 1},
    [FP_FAULT_WAL_OPEN_STATE] = {.how = STORAGE, .most = 1, .again = true},
    [FP_FAULT_WAL_OPEN_CLEANED] = {.how = STORAGE, .most = 1, .again = true},
    [FP_FAULT_LAYER_WRITTEN] = {.how = STORAGE, .most = 20},
    [FP_FAULT_LAYER_SYNCED] = {.how = STORAGE, .most = 12},
    [FP_FAULT_LAYER_RENAMED] = {.how = STORAGE, .most = 12},
    [FP_FAULT_LAYER_MADE] = {.how = STORAGE, .most = 12},
    [FP_FAULT_MANIFEST_SYNCED] = {.how = STORAGE, .most = 12},
    [FP_FAULT_MANIFEST_RENAMED] = {.how = STORAGE, .most = 12, .again = true},
    [FP_FAULT_MANIFEST_MADE] = {.how = STORAGE, .most = 12},
    [FP_FAULT_STORE_OPENED] = {.how = STORAGE, .most = 1, .again = true},
    [FP_FAULT_CONVERTED] = {.how = STORAGE, .most = 10},
    [FP_FAULT_TRIM_DUE] = {.how = STORAGE, .most = 8},
    [FP_FAULT_MERGE_BEGUN] = {.how = STORAGE, .most = 2},
    [FP_FAULT_MERGE_LAYER] = {.how = STORAGE, .most = 2},
    [FP_FAULT_MERGE_READY] = {.how = STORAGE, .most = 2},
    [FP_FAULT_MERGED] = {.how = STORAGE, .most = 2},
    [FP_FAULT_LAYER_REMOVED] = {.how = STORAGE, .most = 15},
    [FP_FAULT_FILES_REWRITTEN] = {.how = STORAGE_LEFT, .most = 1},
    [FP_FAULT_FILES_CLEANED] = {.how = STORAGE, .most = 1, .again = true},
};

static const char *const names[FP_FAULT_COUNT] = {
#define X(name) #name,
    FP_FAULT_POINTS(X)
#undef X
};

#endif
