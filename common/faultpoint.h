/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fault points: places between two steps whose order decides what a crash leaves. In a build for tests (make FAULTS=1,
 * into build-faults/) a process dies at one as by kill -9 if the environment says so:
 *
 *   FARPOOL_FAULT_POINT=WAL_SYNCED      when it comes there
 *   FARPOOL_FAULT_POINT=WAL_SYNCED:12   the 12th time
 *
 * In any other build a point is no code. Each is listed here and passed at one place (scripts/check-faultpoints), and
 * tests/crash/fault_points.c has a workload that comes there.
 */
#ifndef FP_COMMON_FAULTPOINT_H
#define FP_COMMON_FAULTPOINT_H

/* clang-format off */
#define FP_FAULT_POINTS(X)                                                                         \
    /* any process, over shm */                                                                    \
    X(SHM_WRITE_HALF)        /* the first piece of a one-sided WRITE is there, not the rest */     \
    X(SHM_WRITTEN)           /* one WRITE of a batch is there */                                   \
    /* compute: commits */                                                                         \
    X(MTR_APPENDED)          /* the frame is in the log; nothing was sent */                       \
    X(LOG_POSTED)            /* a batch is on its way to one ring */                               \
    X(LOG_POSTED_ALL)        /* to all that wanted one */                                          \
    X(LOG_DURABLE)           /* a quorum has acknowledged; nobody was told */                      \
    /* compute: the keeper */                                                                      \
    X(LINES_POSTED)          /* the owner's lines are on their way to a ring */                    \
    X(LINE_TOLD)             /* a ring has the owner's line */                                     \
    X(SLABS_CHANGED)         /* a share has been retired; the rings do not know */                 \
    X(SLABS_TOLD)            /* a ring knows */                                                    \
    X(START_MOVED)           /* the log's beginning; no ring knows */                              \
    X(FLOOR_MOVED)           /* all rings know; the space is used again from now on */             \
    X(CHECKPOINT_BEGUN)                                                                            \
    X(CHECKPOINT_STEPPED)    /* a stretch of frames is clean */                                    \
    X(CHECKPOINT_ENDED)      /* all is; the keeper does not know */                                \
    /* compute: eviction */                                                                        \
    X(EVICT_POSTED)          /* directory entries and pages are on their way */                    \
    X(EVICT_WRITTEN)         /* a page is in its slot */                                           \
    X(EVICT_DROPPED)         /* pages have left the pool */                                        \
    /* compute: opening a partition again */                                                       \
    X(RECOVER_SLAB_GRANTED)  /* a memory node has given its share; earlier owners are cut off */   \
    X(RECOVER_RING_GRANTED)  /* a memory node has given its ring */                                \
    X(RECOVER_CHOSEN)        /* the rings are read and the log is known; nothing is written */     \
    X(RECOVER_SLAB_RELEASED) /* a share that does not count is given back, not asked for anew */   \
    X(RECOVER_SLABS_SETTLED) /* shares that do not count are empty */                              \
    X(RECOVER_ANNOUNCED)     /* a ring has slabs and lineage; nothing of the log, if that forks */ \
    X(RECOVER_OWN_FRAME)     /* the owner's first frame is appended, not sent */                   \
    X(RECOVER_OWN_DURABLE)   /* a quorum has the log and that frame */                             \
    X(RECOVER_LINE_POSTED)   /* a ring that was blank has its line on the way, after all else */   \
    X(RECOVER_PLACED)        /* the directories are read; the partition is about to be open */     \
    X(RECOVER_GROUP)         /* a map page is recovered; its group is not open yet */              \
    X(RECOVER_REDONE)        /* a page has got its redo */                                         \
    X(RECOVER_FINISHED)      /* all pages have, for the first checkpoint */                        \
    /* compute: opening it from storage nodes */                                                   \
    X(STORED_FENCED)         /* one storage node has promised */                                   \
    X(STORED_AGREED)         /* all have; the log is not read yet */                               \
    X(STORED_READ)           /* it is read; no ring has it */                                      \
    /* memory node */                                                                              \
    X(GRANT_FENCED)          /* earlier owners are cut off, nothing is given yet */                \
    X(GRANT_MADE)            /* given; the answer is not sent */                                   \
    X(GRANT_ANSWERED)                                                                              \
    X(RELEASED)              /* given back; the answer is not sent */                              \
    X(SPILL_OPENED)          /* it is this node that appends */                                    \
    X(SPILL_COPIED)          /* a chunk is copied out of the ring */                               \
    X(SPILL_SENT)            /* it is on its way, with the append */                               \
    X(SPILL_ANSWERED)        /* it is durable; the ring does not say so */                         \
    X(SPILL_LINE_WRITTEN)    /* it does */                                                         \
    /* storage node: WAL */                                                                        \
    X(VOLUME_SYNCED)         /* the file that names a new volume is whole, under another name */   \
    X(VOLUME_RENAMED)        /* it has its name; the directory is not synced */                    \
    X(WAL_BEGUN)             /* a group is about to be written */                                 \
    X(WAL_WRITTEN)           /* it is written, not synced */                                       \
    X(WAL_SYNCED)            /* and synced, not acknowledged */                                    \
    X(WAL_ACKNOWLEDGED)      /* and acknowledged */                                                \
    X(WAL_SEGMENT_CLOSED)    /* a full segment is closed; the next has nothing */                  \
    X(WAL_FILE_ALLOCATED)    /* a new segment or state, under another name: no bytes in it yet */  \
    X(WAL_FILE_SYNCED)       /* whole */                                                           \
    X(WAL_FILE_RENAMED)      /* it has its name; the directory is not synced */                    \
    X(WAL_FILE_MADE)         /* and synced */                                                      \
    X(WAL_STATE_WRITTEN)     /* a new state is durable; nothing has followed from it */            \
    X(WAL_PROMISED)          /* a promise is durable; its asker does not know */                   \
    X(WAL_TRIM_STATE)        /* the beginning has moved; all segments are there */                 \
    X(WAL_TRIM_UNLINKED)     /* one is gone */                                                     \
    X(WAL_TRIM_SYNCED)       /* all are, for good */                                               \
    X(WAL_OPEN_SCANNED)      /* opening: the end is known; nothing is written */                   \
    X(WAL_OPEN_REWRITTEN)    /* a segment with log that was in doubt is copied */                  \
    X(WAL_OPEN_STATE)        /* the state is durable; remains are not removed */                   \
    X(WAL_OPEN_CLEANED)      /* they are */                                                        \
    /* storage node: page store */                                                                 \
    X(LAYER_WRITTEN)         /* a piece of a new layer */                                          \
    X(LAYER_SYNCED)          /* whole, under another name */                                       \
    X(LAYER_RENAMED)         /* it has its name; the directory is not synced */                    \
    X(LAYER_MADE)            /* and synced; no manifest has it */                                  \
    X(MANIFEST_SYNCED)       /* whole, under another name */                                       \
    X(MANIFEST_RENAMED)      /* it has its name; the directory is not synced */                    \
    X(MANIFEST_MADE)         /* and synced */                                                      \
    X(STORE_OPENED)          /* its first manifest is durable; nothing is read */                  \
    X(CONVERTED)             /* a manifest with the new delta is durable; the WAL is not trimmed */ \
    X(TRIM_DUE)              /* the WAL is about to be */                                          \
    X(MERGE_BEGUN)                                                                                 \
    X(MERGE_LAYER)           /* one image layer of a merge is made */                              \
    X(MERGE_READY)           /* all are; the manifest is not begun */                              \
    X(MERGED)                /* it is durable; the old layers are there */                         \
    X(LAYER_REMOVED)         /* one is gone */                                                     \
    X(FILES_REWRITTEN)       /* opening: a manifest, before what it does not name is removed */    \
    X(FILES_CLEANED)         /* opening: all of that is gone */
/* clang-format on */

enum fp_fault_point {
#define X(name) FP_FAULT_##name,
    FP_FAULT_POINTS(X)
#undef X
        FP_FAULT_COUNT
};

#ifdef FARPOOL_FAULTS
void fp_fault_pass(enum fp_fault_point point);
#define FP_FAULT_POINT(name) fp_fault_pass(FP_FAULT_##name)
#else
#define FP_FAULT_POINT(name) ((void)FP_FAULT_##name)
#endif

#endif
