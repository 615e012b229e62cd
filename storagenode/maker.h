/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New files of the page store, by the recipe of docs/storage.md: temporary name, ALLOCATE, WRITE, SYNC, RENAME,
 * SYNC_DIR. Bytes are added in order and written as they come, so that a file costs no more memory than is added
 * between two flushes. A file without a name of its own is named by the hash of its bytes.
 */
#ifndef FP_STORAGENODE_MAKER_H
#define FP_STORAGENODE_MAKER_H

#include "storagenode/file_format.h"
#include "storagenode/kept.h"

enum { FP_MAKER_PIECE = 1 << 20 }; /* what should be written at a time */

struct fp_volume;
struct fp_file;

typedef struct fp_maker {
    struct fp_volume *volume;             /* set by the caller, as is all that follows until user */
    char name[FP_FILE_NAME_MAX];          /* what there is under it is replaced; "": by the hash */
    uint64_t expected;                    /* bytes, about; space for them is reserved */
    void (*done)(struct fp_maker *maker); /* of flush, finish and abandon */
    void *user;
    fp_kept error; /* then the temporary file is gone, as far as that worked */
    struct fp_file
        *file;      /* without a name of its own: what was made, with a reference of the caller's */
    uint64_t bytes; /* added so far */
    struct {        /* the maker's */
        fp_disk_req req;
        fp_disk_file *handle;
        uint8_t *buffer;
        size_t used, room;
        uint64_t written, allocated, dir_failures;
        void *hash; /* XXH3_state_t */
        uint8_t digest[FP_FILE_HASH_BYTES];
        bool finishing;
        char temporary[FP_FILE_NAME_MAX]; /* what has to be removed if it fails; "": nothing */
        char final[FP_FILE_NAME_MAX];     /* the name by the hash */
    } own;
} fp_maker;

/* Copies the bytes. E_NOMEM. */
int fp_maker_add(fp_maker *maker, const void *data, size_t len) FARPOOL_MUST_CHECK;
/* Zeros up to a whole block. */
int fp_maker_fill(fp_maker *maker) FARPOOL_MUST_CHECK;
static inline bool fp_maker_is_full(const fp_maker *maker)
{
    return maker->own.used >= FP_MAKER_PIECE;
}
/* Writes whole blocks of what was added. */
void fp_maker_flush(fp_maker *maker);
/* Writes the rest, whole blocks, and makes the file durable under its name. */
void fp_maker_finish(fp_maker *maker);
void fp_maker_abandon(fp_maker *maker);
/* The file that had the same bytes and was being removed is gone. */
void fp_maker_again(fp_maker *maker);
/* Of one that is over, or whose disk is closed. */
void fp_maker_free(fp_maker *maker);

#endif
