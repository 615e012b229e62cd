/* SPDX-License-Identifier: Apache-2.0 */
/* A piece of the log in memory, by pages: what is durable in the WAL and not in a layer yet. */
#ifndef FP_STORAGENODE_TAIL_H
#define FP_STORAGENODE_TAIL_H

#include "storagenode/file_format.h"

typedef struct fp_tail_record {
    struct fp_tail_record *next; /* of the page */
    fp_delta_record delta;       /* as it goes into a layer, with the bytes behind it */
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
} fp_tail;

/* NULL: no memory. */
fp_tail *fp_tail_new(uint64_t from);
void fp_tail_ref(fp_tail *tail);
void fp_tail_unref(fp_tail *tail); /* NULL is allowed */
/* Adds all records of a frame that fp_redo_check has accepted, and that begins at `to`. E_NOMEM: some may have been
 * added; to add the frame again changes nothing about what pages become. */
int fp_tail_add(fp_tail *tail, const void *frame) FARPOOL_MUST_CHECK;
/* The first record of the page, or NULL. */
const fp_tail_record *fp_tail_find(const fp_tail *tail, uint64_t pid);
/* Its pages by pid, for the caller to free(); NULL: no memory. */
fp_tail_page *fp_tail_sorted(const fp_tail *tail);

static inline size_t fp_delta_bytes(const fp_delta_record *record)
{
    return sizeof *record + fp_redo_pad(record->redo.len);
}

#endif
