/* SPDX-License-Identifier: Apache-2.0 */
/* What a WAL is tested with: the owner of a log, who has all of it in memory and lands it in a ring; and requests
 * that are waited for. */
#ifndef FP_TESTS_LIB_WAL_LOG_H
#define FP_TESTS_LIB_WAL_LOG_H

#include "common/redo.h"
#include "storagenode/wal.h"

typedef struct wal_log {
    uint64_t partition, end;
    uint8_t *bytes; /* byte l is bytes[l] */
    size_t room;
    uint64_t *ends; /* of its frames */
    size_t count, ends_room;
} wal_log;

void wal_log_open(wal_log *log, uint64_t partition, uint64_t start);
void wal_log_close(wal_log *log);
/* Adds a frame with these records, or without any. */
void wal_log_add(wal_log *log, uint64_t epoch, const fp_redo_build *build);
/* Adds a frame of about so many bytes, which differ with `salt`. */
void wal_log_frame(wal_log *log, uint64_t epoch, size_t bytes, uint64_t salt);
/* Forgets frames that end behind lsn, itself a frame's end or the start. */
void wal_log_truncate(wal_log *log, uint64_t lsn);
/* The end of the n-th frame after lsn, or of the last. */
uint64_t wal_log_after(const wal_log *log, uint64_t lsn, unsigned n);
/* Copies [from, to) to a ring. */
void wal_log_land(const wal_log *log, void *ring, size_t ring_bytes, uint64_t from, uint64_t to);

/* ---- waiting; each returns req.status, or what the call returned ---------------------------------- */

/* *wal is NULL if it could not be opened. */
int wal_open(fp_disk *disk, const fp_wal_options *options, fp_wal **wal);
int wal_restart(fp_disk *disk, const fp_wal_options *options);
int wal_append(fp_disk *disk, fp_wal *wal, uint64_t upto);
int wal_fence(fp_disk *disk, fp_wal *wal, uint64_t epoch);
int wal_fence_from(fp_disk *disk, fp_wal *wal, uint64_t epoch, uint64_t lsn);
int wal_seal(fp_disk *disk, fp_wal *wal);
int wal_trim(fp_disk *disk, fp_wal *wal, uint64_t lsn);
int wal_read(fp_disk *disk, fp_wal *wal, uint64_t from, uint64_t to, void *buffer, uint64_t *end);
/* Closes and frees. */
int wal_close(fp_disk *disk, fp_wal *wal);

#endif
