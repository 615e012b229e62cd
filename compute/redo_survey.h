/* SPDX-License-Identifier: Apache-2.0 */
/* What recovery has found of a log: redo_recover.c (in rings), redo_stored.c (on storage nodes). */
#ifndef FP_COMPUTE_REDO_SURVEY_H
#define FP_COMPUTE_REDO_SURVEY_H

#include "compute/redo_log.h"

/* A log as one ring has it: bytes from `start` on, one behind the other. */
typedef struct fp_found_log {
    fp_mem mem;
    fp_mr *mrs[FP_TRANSPORTS_MAX];
    uint64_t start;
    uint64_t have;  /* read so far, as an LSN */
    uint64_t end;   /* of what is valid */
    uint64_t epoch; /* of the last frame, without any of the owner's line; 0: the ring is blank */
    uint64_t line_epoch;
    uint64_t line_durable; /* the end of the last frame that its line says is durable; 0: none */
    fp_lineage lineage;    /* of that log */
    bool used;             /* there are others than owners' first frames, or were */
} fp_found_log;

/* What all rings have. */
typedef struct fp_survey {
    fp_found_log found[2];
    unsigned best;       /* found[best] is the log */
    unsigned telling;    /* rings that have a log at all */
    uint64_t start;      /* the highest: nobody needs what is below */
    uint64_t line_epoch; /* the highest */
    bool used;           /* any ring has commits */
    fp_ring_slabs slabs; /* the newest; version 0: there are none */
    uint32_t
        joining; /* bit i: storage node i has told what it has; it is to go on with the log chosen */
} fp_survey;

static inline uint8_t *fp_found_at(const fp_found_log *found, uint64_t lsn)
{
    return (uint8_t *)found->mem.addr + (lsn - found->start);
}

/* If what the rings tell is not enough: the log that they have, or that of the storage nodes, whichever has more of the later
 * fork, as the best that was found; it forks where it ends. Of the storage nodes' no ring has anything. They append nothing of earlier owners any more, and log->from_storage is
 * set, also if a ring that is left has more: slabs have what was durable in rings that are not. E_NODE: too few storage
 * nodes can be reached to be sure of what is on stable media. */
int fp_redo_consult_storage(fp_redo_log *log, fp_survey *all) FARPOOL_MUST_CHECK;
/* Of a log that is to be a new one, as the rings say. E_EXISTS: storage nodes have more of it. E_NODE: not all of them can
 * be reached: what one of them has would be mixed with what is new. */
int fp_redo_check_none_stored(fp_redo_log *log, const fp_survey *all) FARPOOL_MUST_CHECK;
/* The log is in w rings now: the storage nodes that were asked go on with it. Who does not hear of it here hears it from
 * whoever spills a ring. */
void fp_redo_join_storage(fp_redo_log *log, const fp_survey *all);

#endif
