/* SPDX-License-Identifier: Apache-2.0 */
/* What stands in the files of a WAL besides the log. Little-endian; each structure has a sector of its own, which
 * no crash tears (D6), and a CRC-32C of all fields before crc. docs/storage.md */
#ifndef FP_STORAGENODE_WAL_FORMAT_H
#define FP_STORAGENODE_WAL_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "storagenode/wal.h"

enum {
    FP_WAL_VERSION = 2,
    FP_WAL_BLOCK = FP_DISK_ALIGN,
    FP_WAL_MARK_AT = 512,    /* in the header block */
    FP_WAL_STATE_COPIES = 2, /* one block each, so that one bad block loses nothing */
    FP_WAL_STATE_BYTES = FP_WAL_STATE_COPIES * FP_WAL_BLOCK,
};

/* The state file: that the WAL exists, and what must survive whatever becomes of its segments. */
typedef struct fp_wal_state {
    uint64_t magic;
    uint32_t version;
    uint32_t
        era; /* raised when damage is overwritten: marks of earlier ones say nothing about this log */
    uint64_t partition, segment_bytes;
    uint64_t start;       /* of the first frame */
    uint64_t durable;     /* when this was written */
    uint64_t promise;     /* epoch; 0: none yet */
    uint64_t promised_at; /* from this LSN on no frame is of a lower epoch */
    uint32_t sealed;
    uint32_t stray; /* 1: the log is not the partition's any more: only fp_wal_restart may follow */
    fp_lineage lineage; /* of the log; if it is stray, of the partition's */
    uint32_t zero, crc;
} fp_wal_state;

/* At the beginning of a segment. Written when the segment is made, and again with the first bytes of log in it. */
typedef struct fp_wal_header {
    uint64_t magic;
    uint32_t version, number;
    uint64_t partition, segment_bytes;
    uint64_t epoch; /* promised when it was made */
    uint64_t
        first_frame; /* LSN of the first that begins in it or later; 0: there is nothing in it */
    uint32_t zero, crc;
} fp_wal_header;

/* At FP_WAL_MARK_AT of a segment: a true saying about what was durable when it was written. */
typedef struct fp_wal_mark {
    uint64_t magic;
    uint32_t era, number;
    uint64_t partition;
    uint64_t durable;
    uint32_t zero, crc;
} fp_wal_mark;

_Static_assert(sizeof(fp_wal_state) == 224 && sizeof(fp_wal_header) == 56, "WAL format");
_Static_assert(sizeof(fp_wal_mark) == 40, "WAL format");

/* Fill in what is the same in all of them (magic, version, zeros, crc) and write the blocks. */
void fp_wal_put_state(uint8_t *blocks, fp_wal_state state);
void fp_wal_put_header(uint8_t *block, fp_wal_header header, fp_wal_mark mark);

/* False: none of this partition is there, and *state is zero. */
bool fp_wal_get_state(const uint8_t *blocks, uint64_t partition, fp_wal_state *state);
/* The version of a state that is there, but not in the version known here; 0: there is none. */
uint32_t fp_wal_other_version(const uint8_t *blocks);
/* False: it is not that of this segment. */
bool fp_wal_get_header(const uint8_t *block, const fp_wal_state *state, uint32_t number,
                       fp_wal_header *header);
/* What the mark says, 0 if it is not one of this segment and era. */
uint64_t fp_wal_get_mark(const uint8_t *block, const fp_wal_state *state, uint32_t number);

void fp_wal_state_name(uint64_t partition, char name[FP_WAL_NAME_MAX]);
void fp_wal_segment_name(uint64_t partition, uint32_t number, char name[FP_WAL_NAME_MAX]);

enum fp_wal_name_kind {
    FP_WAL_NAME_OTHER,
    FP_WAL_NAME_STATE,
    FP_WAL_NAME_SEGMENT,
    FP_WAL_NAME_TMP
};
/* Whose file it is. *number: of a SEGMENT. */
enum fp_wal_name_kind fp_wal_parse_name(const char *name, uint64_t partition, uint32_t *number);

static inline uint64_t fp_wal_floor(uint64_t lsn) { return lsn & ~(uint64_t)(FP_WAL_BLOCK - 1); }
static inline uint64_t fp_wal_ceil(uint64_t lsn) { return fp_wal_floor(lsn + FP_WAL_BLOCK - 1); }

#endif
