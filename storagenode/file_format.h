/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of the page store: layers and manifests; docs/storage.md. Little-endian; checksums are CRC-32C.
 *
 * A layer is a file that never changes. It is named by the XXH3-128 of all its bytes:
 *
 *   data, filled up to whole blocks | index, filled up to whole blocks | footer, one block
 *
 * Delta: records sorted by page and LSN, in chunks of FP_DELTA_CHUNK bytes which they go across; the index has the
 * pages, then each chunk's checksum. Image: whole pages, each at a multiple of a block; the index has their checksums.
 */
#ifndef FP_STORAGENODE_FILE_FORMAT_H
#define FP_STORAGENODE_FILE_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/disk/disk.h"
#include "common/redo.h"
#include "farpool.h"

enum {
    FP_FILE_VERSION = 2,
    FP_FILE_BLOCK = FP_DISK_ALIGN,
    FP_FILE_NAME_MAX = 64,
    FP_FILE_HASH_BYTES = 16,
    FP_DELTA_CHUNK = 16384, /* what is read at least for a page's records */
    FP_MANIFEST_COPIES = 2,
};

#define FP_PID_MAX ((1ull << 48) - 1)

static inline uint64_t fp_file_ceil(uint64_t bytes)
{
    return (bytes + FP_FILE_BLOCK - 1) & ~(uint64_t)(FP_FILE_BLOCK - 1);
}

enum fp_layer_kind { FP_LAYER_DELTA = 1, FP_LAYER_IMAGE };

/* What one frame did to one page; followed by the bytes, filled up to a multiple of FP_REDO_ALIGN. */
typedef struct fp_delta_record {
    uint64_t lsn; /* the frame's end */
    fp_redo_record redo;
} fp_delta_record;

/* Sorted by pid. A page's records go from offset to that of the next page, or to the data's end. */
typedef struct fp_delta_entry {
    uint64_t pid;
    uint32_t offset, reserved;
} fp_delta_entry;

#define FP_IMAGE_LOST UINT32_MAX /* as block: the log did not have the page's beginning */

/* Sorted by pid. */
typedef struct fp_image_entry {
    uint64_t page;  /* pid | order << 48 */
    uint64_t lsn;   /* end of the last frame that changed it */
    uint32_t block; /* where it begins */
    uint32_t crc;
} fp_image_entry;

typedef struct fp_footer {
    uint64_t magic;
    uint32_t version, kind;
    uint64_t partition;
    uint64_t lsn_from, lsn_to; /* delta: frames of [from, to); image: as of to, from is the same */
    uint64_t pid_first, pid_last;
    uint64_t data_bytes;
    uint32_t count, chunks; /* of the index; image: 0 chunks */
    uint32_t index_crc;     /* of entries and chunk checksums */
    uint32_t crc;           /* of all before it */
} fp_footer;

/* A layer in a manifest. */
typedef struct fp_manifest_entry {
    uint8_t hash[FP_FILE_HASH_BYTES];
    uint32_t kind, reserved;
    uint64_t lsn_from, lsn_to, pid_first, pid_last;
    uint64_t bytes; /* of the file */
} fp_manifest_entry;

/* At the beginning of each copy of a manifest; entries follow. */
typedef struct fp_manifest_header {
    uint64_t magic;
    uint32_t version, count;
    uint64_t partition, generation;
    uint64_t base;      /* all images are as of this LSN; what was before cannot be read any more */
    uint64_t converted; /* the log up to here is in layers */
    uint64_t sequence;  /* of manifests of this partition */
    /* The log was here from this LSN on. FP_REDO_LSN_FIRST: all of it; else pages not changed since are missing. */
    uint64_t beginning;
    uint32_t entries_crc, crc; /* crc: of the header before it */
} fp_manifest_header;

_Static_assert(sizeof(fp_delta_record) == 24 && sizeof(fp_delta_entry) == 16, "delta layer");
_Static_assert(sizeof(fp_image_entry) == 24 && sizeof(fp_footer) == 80, "layer");
_Static_assert(sizeof(fp_manifest_entry) == 64 && sizeof(fp_manifest_header) == 72, "manifest");

static inline uint64_t fp_image_pid(const fp_image_entry *e) { return e->page & FP_PID_MAX; }
static inline unsigned fp_image_order(const fp_image_entry *e) { return (unsigned)(e->page >> 48); }

typedef struct fp_manifest {
    fp_manifest_header header;
    fp_manifest_entry *entries; /* images by pid, then deltas by LSN */
} fp_manifest;

/* ---- layers ---------------------------------------------------------------------------------- */

/* Sets what is the same in all footers, and writes the block. */
void fp_footer_put(uint8_t *block, fp_footer footer);
/* NULL, or what is wrong with it for a file of so many bytes. */
const char *fp_footer_get(const uint8_t *block, uint64_t file_bytes, fp_footer *footer);
/* Whether a footer that was got is good, but of another version. Later versions keep the places of magic, version and crc. */
bool fp_footer_is_foreign(const fp_footer *footer);
uint64_t fp_index_bytes(const fp_footer *footer);
/* NULL, or what is wrong with the index. */
const char *fp_index_check(const void *index, const fp_footer *footer);

/* ---- manifests ------------------------------------------------------------------------------- */

/* All copies, in memory that the caller frees; *bytes is that of the file. NULL: no memory. */
uint8_t *fp_manifest_put(fp_manifest *manifest, size_t *bytes);
/* 0, E_CORRUPT (no copy is valid; *why says of the first what is wrong), E_UNSUPPORTED (the same, but one is of another
 * version) or E_NOMEM (*why is NULL). */
int fp_manifest_get(const uint8_t *file, uint64_t bytes, uint64_t partition, fp_manifest *manifest,
                    const char **why);

/* ---- names ----------------------------------------------------------------------------------- */

void fp_file_name(const uint8_t hash[FP_FILE_HASH_BYTES], char name[FP_FILE_NAME_MAX]);
bool fp_file_parse(const char *name, uint8_t hash[FP_FILE_HASH_BYTES]);
void fp_manifest_name(uint64_t partition, char name[FP_FILE_NAME_MAX]);
bool fp_manifest_parse(const char *name, uint64_t *partition);
/* An unfinished file of the page store. */
bool fp_file_is_temporary(const char *name);

#endif
