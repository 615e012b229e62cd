/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New files of the page store, by the recipe of docs/storage.md: temporary name, ALLOCATE, WRITE, SYNC, RENAME,
 * SYNC_DIR. Bytes are added in order and written as they come, so that a file costs no more memory than is added
 * between two flushes, twice. A file without a name of its own is named by the hash of its bytes.
 */
#ifndef FP_STORAGENODE_MAKER_H
#define FP_STORAGENODE_MAKER_H

#include "common/kept.h"
#include "storagenode/file_format.h"

enum {
    FP_MAKER_PIECE = 1 << 20,     /* what should be written at a time, */
    FP_MAKER_PIECE_MAX = 4 << 20, /* and may be, by who would have to wait for more than the disk */
};

struct fp_volume;
struct fp_file;

typedef struct fp_maker {
    struct fp_volume *volume;    /* set by the caller, as is all that follows until user */
    char name[FP_FILE_NAME_MAX]; /* what there is under it is replaced; "": by the hash */
    uint64_t expected;           /* bytes, about; space for them is reserved */
    const uint8_t
        *wanted; /* hash that a file without a name of its own must have, or NULL; else E_CORRUPT */
    void (*done)(struct fp_maker *maker); /* of flush, finish and abandon */
    void *user;
    fp_kept error; /* then the temporary file is gone, as far as that worked */
    struct fp_file *
        file; /* without a name of its own: what was made, with a reference of the caller's. One that is
                       `rotten` has been replaced: its `fresh` is what was made */
    uint64_t bytes; /* added so far */
    struct {        /* the maker's */
        fp_disk_req req;
        fp_disk_file *handle;
        uint8_t *buffer; /* what was added, until it is being written: */
        size_t used, room;
        uint8_t *flying;
        size_t flying_room;
        uint64_t written, allocated, dir_failures;
        void *hash;    /* XXH3_state_t */
        size_t hashed; /* of the buffer, so much is in it already */
        uint8_t digest[FP_FILE_HASH_BYTES];
        struct fp_file *replaced; /* rotten, held while it is */
        bool busy;                /* on the way of a file, or with a WRITE */
        bool failed;              /* when nobody waited: told with the next call */
        bool flushing, pushing, finishing, abandoned; /* who waits */
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
/* Writes whole blocks of what was added; done() when they are written. */
void fp_maker_flush(fp_maker *maker);
/* Hashes whole blocks of what was added, which is otherwise done when they are written. */
void fp_maker_hash(fp_maker *maker);
/* Like a flush, but more may be added while they are being written: true, at once, or false, and from done() on. An error
 * is told by a later call. Between them, fp_maker_add, _fill and _hash touch nothing that the maker does: they may be
 * called in another thread (FP_DISK_WORK), but not while fp_maker_flush or _finish is under way. */
bool fp_maker_push(fp_maker *maker) FARPOOL_MUST_CHECK;
/* Writes the rest, whole blocks, and makes the file durable under its name. */
void fp_maker_finish(fp_maker *maker);
void fp_maker_abandon(fp_maker *maker);
/* The file that had the same bytes and was being removed is gone. */
void fp_maker_again(fp_maker *maker);
/* Of one that is over, or whose disk is closed. */
void fp_maker_free(fp_maker *maker);

#endif
