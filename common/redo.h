/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The redo log's format, shared by those who write it, spill it and apply it; docs/redo.md.
 *
 * A log is a sequence of frames, one behind the other. A frame's LSN is its byte position in the log of
 * its partition. One mini-transaction is one frame, so it is in the log whole or not at all. A frame says
 * its own LSN, partition and epoch and carries a CRC-32C: the end of a valid log is where no valid frame
 * with that LSN stands, whatever else stands there; no pointer has to be trusted.
 *
 * On the wire, in rings and in files: little-endian, no padding but zeros.
 */
#ifndef FP_COMMON_REDO_H
#define FP_COMMON_REDO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "farpool.h"

enum {
    FP_REDO_ALIGN = 8, /* frames and records begin at multiples of it */
    FP_REDO_FRAME_BYTES_MAX = 64 << 20,
};

#define FP_REDO_LSN_FIRST 64ull /* of a partition's first frame; 0 means "none" everywhere */

enum fp_redo_kind {
    FP_REDO_MTR = 1, /* records: all of them or none */
    FP_REDO_OWNER,   /* first frame of a new epoch; no records, but the rings' shape */
};

typedef struct fp_redo_frame {
    uint32_t crc; /* of the records, then of this header from len on */
    uint32_t len; /* of the frame, header included; a multiple of FP_REDO_ALIGN */
    uint64_t lsn;
    uint64_t epoch;
    uint64_t partition;
    uint32_t kind;
    uint32_t records; /* OWNER: fp_redo_shape */
} fp_redo_frame;

_Static_assert(sizeof(fp_redo_frame) == 40, "redo frame");

/* How a log is kept in rings, so that nobody goes on with it otherwise: their size, a multiple of FARPOOL_UNIT_BYTES
 * less than 2^26 of them, how many there are and how many of them are a quorum, both below 8. */
static inline uint32_t fp_redo_shape(uint64_t ring_bytes, unsigned copies, unsigned quorum)
{
    return (uint32_t)(ring_bytes / FARPOOL_UNIT_BYTES) << 6 | copies << 3 | quorum;
}

enum fp_redo_type {
    FP_REDO_RANGE = 1, /* len bytes of the page from offset on are these */
    FP_REDO_ALLOC,     /* the page comes into being, all zero */
    FP_REDO_FREE,      /* the page ceases to be */
};

/* Followed by len bytes, filled up with zeros to a multiple of FP_REDO_ALIGN. */
typedef struct fp_redo_record {
    uint64_t page;   /* pid | order << 48 | type << 56 */
    uint32_t offset; /* RANGE; otherwise 0 */
    uint32_t len;    /* " */
} fp_redo_record;

_Static_assert(sizeof(fp_redo_record) == 16, "redo record");

static inline uint64_t fp_redo_pid(const fp_redo_record *r) { return r->page & ((1ull << 48) - 1); }
static inline unsigned fp_redo_order(const fp_redo_record *r) { return r->page >> 48 & 255; }
static inline unsigned fp_redo_type(const fp_redo_record *r) { return (unsigned)(r->page >> 56); }

static inline uint64_t fp_redo_pad(uint64_t len)
{
    return (len + FP_REDO_ALIGN - 1) & ~(uint64_t)(FP_REDO_ALIGN - 1);
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A frame being put together: the records, without the header. Starts as zero; the bytes are freed by
 * fp_redo_build_fini, and kept for the next frame by fp_redo_build_reset. One thread at a time. */
typedef struct fp_redo_build {
    uint8_t *bytes;
    size_t len, room;
    uint32_t records;
} fp_redo_build;

/* Appends a record; data is what RANGE says, else NULL and len 0. E_NOMEM, E_TOO_BIG (the frame); the
 * records so far stay. */
int fp_redo_add(fp_redo_build *build, enum fp_redo_type type, uint64_t pid, unsigned order,
                uint32_t offset, const void *data, uint32_t len) FARPOOL_MUST_CHECK;
void fp_redo_build_reset(fp_redo_build *build);
void fp_redo_build_fini(fp_redo_build *build);

/* The CRC-32C of the records, so that less is left to do under the log's lock. */
uint32_t fp_redo_build_crc(const fp_redo_build *build);

/* Fills in len and crc of a header whose other fields are set. */
void fp_redo_seal(fp_redo_frame *frame, uint32_t records_crc, size_t records_bytes);

/* ---- reading --------------------------------------------------------------------------------- */

/* What the next frame must be like. */
typedef struct fp_redo_expect {
    uint64_t partition, lsn;
    uint64_t epoch_min; /* epochs never fall along a log */
} fp_redo_expect;

/* How many bytes it takes to tell whether the frame expected is at data; 0: it can't be. */
size_t fp_redo_needed(const void *data, size_t available, const fp_redo_expect *expect);

/* The length of the frame at data, of which `available` bytes are there, if it is whole, what was
 * expected, and every record in it can be applied; else 0: the log ends here, as far as these bytes
 * go. Trusts nothing; sets no error message, for an end is no error. */
size_t fp_redo_check(const void *data, size_t available, const fp_redo_expect *expect);

/* Walks the records of a frame that fp_redo_check has accepted. */
typedef struct fp_redo_walk {
    const uint8_t *at, *end;
} fp_redo_walk;

fp_redo_walk fp_redo_walk_start(const void *frame);
/* False at the end. *data: the record's bytes, in the frame. */
bool fp_redo_walk_next(fp_redo_walk *walk, fp_redo_record *record, const void **data);

#endif
