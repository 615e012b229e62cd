/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A piece of the log in memory, by pages: what is durable in the WAL and not in a layer yet. The log stays as it was
 * read, so that it is copied once only; records are found in it. A tail to which nothing is added any more does not
 * change: then fp_tail_sorted and what it gives may be used by another thread than the store's (FP_DISK_WORK).
 */
#ifndef FP_STORAGENODE_TAIL_H
#define FP_STORAGENODE_TAIL_H

#include <string.h>

#include "storagenode/file_format.h"

/* Memory into which log is read, by store_index.c: held by it while there is room, and by tails with frames in it. */
typedef struct fp_log_piece {
    unsigned refs;
    size_t used, room;
    uint8_t *bytes; /* aligned to FP_FILE_BLOCK. What is in use does not change */
} fp_log_piece;

/* NULL: no memory. */
fp_log_piece *fp_log_piece_new(size_t bytes);
void fp_log_piece_unref(fp_log_piece *piece); /* NULL is allowed */

typedef struct fp_tail_record {
    struct fp_tail_record *next; /* of the page */
    uint64_t lsn;                /* the frame's end */
    const uint8_t *redo;         /* in a piece */
} fp_tail_record;

typedef struct fp_tail_page {
    uint64_t pid;
    fp_tail_record *first, *last; /* in the log's order; NULL: an empty place */
} fp_tail_page;

struct fp_tail_block;

typedef struct fp_tail {
    unsigned refs;
    uint64_t from, to;   /* frames of [from, to) */
    uint64_t bytes;      /* of records, as in a layer */
    fp_tail_page *pages; /* hashed by pid; 2^bits places */
    unsigned bits;
    uint32_t count;
    struct fp_tail_block *blocks; /* memory of the records */
    fp_log_piece **pieces;        /* held */
    size_t piece_count, piece_room;
} fp_tail;

/* NULL: no memory. */
fp_tail *fp_tail_new(uint64_t from);
void fp_tail_ref(fp_tail *tail);
void fp_tail_unref(fp_tail *tail); /* NULL is allowed */
/* Adds all records of a frame in the piece that fp_redo_check has accepted, and that begins at `to`. E_NOMEM: some may
 * have been added; to add the frame again changes nothing about what pages become. */
int fp_tail_add(fp_tail *tail, fp_log_piece *piece, const uint8_t *frame) FARPOOL_MUST_CHECK;
/* The first record of the page, or NULL. */
const fp_tail_record *fp_tail_find(const fp_tail *tail, uint64_t pid);
/* Its pages by pid, for the caller to free(); NULL: no memory. */
fp_tail_page *fp_tail_sorted(const fp_tail *tail);

/* As it goes into a layer; *data: the bytes that follow it there. */
static inline fp_delta_record fp_tail_delta(const fp_tail_record *record, const uint8_t **data)
{
    fp_delta_record delta = {.lsn = record->lsn};
    memcpy(&delta.redo, record->redo, sizeof delta.redo);
    *data = record->redo + sizeof delta.redo;
    return delta;
}

static inline size_t fp_delta_bytes(const fp_delta_record *record)
{
    return sizeof *record + fp_redo_pad(record->redo.len);
}

#endif
