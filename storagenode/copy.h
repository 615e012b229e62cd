/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of a partition on their way from one volume to another: what is given away (fp_copy) and what is taken
 * (fp_take). Threads and done() are as in storagenode/wal.h. docs/storage.md, Refilling.
 */
#ifndef FP_STORAGENODE_COPY_H
#define FP_STORAGENODE_COPY_H

#include "common/kept.h"
#include "storagenode/file_format.h"
#include "storagenode/volume.h"

enum {
    FP_COPY_PIECE = 768 << 10, /* read or written at a time */
    FP_COPY_MANIFEST_MAX = 64 << 20,
};

/* ---- giving ---------------------------------------------------------------------------------- */

/* A manifest that is durable, and all it names: held, whatever becomes of the partition meanwhile. */
typedef struct fp_copy fp_copy;

/* E_NOTFOUND (there is no manifest), E_NOMEM. */
int fp_copy_open(fp_volume *volume, uint64_t partition, fp_copy **copy) FARPOOL_MUST_CHECK;
/* At any time: what it is doing is finished, but done() not called. NULL is allowed. */
void fp_copy_close(fp_copy *copy);
uint64_t fp_copy_partition(const fp_copy *copy);
const uint8_t *fp_copy_manifest(const fp_copy *copy, size_t *bytes);
/* Bytes of a file from `at` on that are at hand: how many, and where. 0: they have to be loaded. E_NOTFOUND: the manifest
 * does not name it; E_INVAL: it is not that long. */
int64_t fp_copy_get(const fp_copy *copy, const uint8_t hash[FP_FILE_HASH_BYTES], uint64_t at,
                    const uint8_t **bytes) FARPOOL_MUST_CHECK;
/* Loads what fp_copy_get has given 0 for; one at a time. done's status: what OPEN and READ give, E_NOMEM. */
void fp_copy_load(fp_copy *copy, const uint8_t hash[FP_FILE_HASH_BYTES], uint64_t at,
                  void (*done)(void *user, int status), void *user);

/* ---- taking ---------------------------------------------------------------------------------- */

/*
 *   fp_take_open -> fp_take_next, done says which file is to be fetched -> fp_take_add, each time after done
 *                -> when all are here: fp_take_install -> fp_take_close
 *
 * Nothing of the partition changes before fp_take_install; files that nobody names yet are removed with the fp_take, or
 * by the next opening of the volume.
 */
typedef struct fp_take fp_take;

struct fp_take {
    void (*done)(fp_take *take); /* set by the caller, as is user */
    void *user;
    fp_kept error;                    /* then only fp_take_close is left */
    const fp_manifest_entry *missing; /* the file whose bytes are to be added; NULL: all are here */
    uint64_t added;                   /* of them so far */
    uint64_t fetched_bytes;           /* of all files */
    fp_manifest manifest;
};

/* A manifest as another node has sent it. E_CORRUPT (it is none of this partition), E_NOMEM. */
int fp_take_open(fp_volume *volume, uint64_t partition, const uint8_t *manifest, size_t bytes,
                 fp_take **take) FARPOOL_MUST_CHECK;
/* Looks for the next file that is not here. What is here is read and must have its hash. done. */
void fp_take_next(fp_take *take);
/* The next bytes of the file that is missing, at most FP_COPY_PIECE: copied. done: with the last of them the file is
 * durable under its name, or E_CORRUPT. */
void fp_take_add(fp_take *take, const uint8_t *bytes, size_t len);
/* Makes the manifest, as one of this generation, the partition's. Its page store is not open. done. */
void fp_take_install(fp_take *take, uint64_t generation);
/* The disk is not closed yet; nothing is under way but for an installation: it is over at the latest when the disk is
 * closed, and done() is not called. NULL is allowed. */
void fp_take_close(fp_take *take);

#endif
