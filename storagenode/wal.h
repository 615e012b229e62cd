/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The WAL: the redo log of one partition on a volume. Bytes are added at its end, read from anywhere, and dropped
 * from its beginning in whole segments. docs/storage.md has the files and what a crash leaves of them.
 *
 * The landing ring is memory in which byte l of the log stands at l modulo its size. Whoever has the log (a peer,
 * by one-sided WRITEs) puts bytes there, up to fp_wal_landing_free, then fp_wal_append makes them part of the WAL:
 * it checks that they are whole frames, writes them from where they are, and says when they are on stable media.
 * Appends that come while others are being written go together into the next WRITE and SYNC.
 *
 * Everything is of the thread that polls the disk. Nothing blocks. A function that returns 0 has taken the request:
 * its done() is called exactly once, later, by fp_disk_poll or fp_disk_close, in the order of the calls but for
 * reads. One that returns an error has not, and done() is never called. During done() farpool_errmsg() says what
 * went wrong. done() may call everything here but fp_wal_free.
 *
 * When a WRITE or SYNC of the log fails the WAL has failed for good: nothing is acknowledged any more (E_IO), what
 * is durable can still be read. fp_wal_close, fp_wal_free and fp_wal_open bring it back; they lose nothing that was
 * acknowledged. E_NOSPACE is not that: appends fail, and succeed again when there is space.
 */
#ifndef FP_STORAGENODE_WAL_H
#define FP_STORAGENODE_WAL_H

#include "common/disk/disk.h"
#include "common/lineage.h"
#include "farpool.h"

enum {
    FP_WAL_SEGMENTS_MAX = 1 << 20, /* of one WAL at a time */
    FP_WAL_NAME_MAX = 64,
};

#define FP_WAL_SEGMENT_BYTES (64ull << 20) /* unless the creator says otherwise */
#define FP_WAL_KEPT_MAX ((size_t)16 << 20)

typedef struct fp_wal fp_wal;
typedef struct fp_wal_req fp_wal_req;

typedef struct fp_wal_options {
    uint64_t partition;
    /* A multiple of FP_DISK_ALIGN, aligned to it. A frame is at most FP_DISK_ALIGN shorter than it. It is the WAL's
     * until fp_wal_free; peers WRITE to it once the WAL is open. */
    void *landing;
    size_t landing_bytes;
    /* If there is no such WAL: one is created that begins at this LSN (>= FP_REDO_LSN_FIRST, a multiple of
     * FP_REDO_ALIGN), in segments of segment_bytes (a multiple of FP_DISK_ALIGN; 0: FP_WAL_SEGMENT_BYTES). start 0:
     * fp_wal_open ends with E_NOTFOUND. */
    uint64_t start, segment_bytes;
    fp_lineage lineage; /* of the log that is created, or that fp_wal_restart begins anew */
} fp_wal_options;

/* Behind it segments, even small ones, have no numbers any more. */
#define FP_WAL_LSN_MAX (1ull << 47)

enum fp_wal_damage_kind {
    FP_WAL_UNDAMAGED, /* a torn tail, which a crash leaves of what was not acknowledged, is no damage */
    FP_WAL_BAD_FRAME,
    FP_WAL_BAD_HEADER, /* of a segment: damaged, or another one's */
    FP_WAL_CUT_FILE,   /* a segment that is not as long as it was made */
    FP_WAL_MISSING,    /* a segment */
};

/* What fp_wal_open found wrong. The WAL is open and ends before it; the first append overwrites it and all that is
 * behind. To fetch that part from another copy is the caller's business. */
typedef struct fp_wal_damage {
    enum fp_wal_damage_kind kind;
    char file[FP_WAL_NAME_MAX];
    uint64_t offset; /* in the file */
    uint64_t lsn;    /* the WAL's end */
    uint64_t
        upto; /* so far, at least, it was durable; lsn if nothing that was is known to be lost */
    uint64_t behind; /* bytes of valid frames found behind it */
} fp_wal_damage;

struct fp_wal_req {
    void (*done)(fp_wal_req *req); /* set by the caller, as is user */
    void *user;
    int status;
    uint64_t
        lsn; /* APPEND, FENCE, SEAL: durable up to here; TRIM: where the WAL begins now; READ: see there */
    uint64_t needed; /* READ */
    struct {         /* the WAL's */
        int kind;
        uint64_t upto, epoch;
        fp_wal_req *next;
    } own;
};

/* Finds the WAL's end, or creates it. *wal is there at once, for fp_wal_free; to be used once done() has said 0.
 * done: E_NOTFOUND, E_CORRUPT (the state file is lost, or the log is a stray one; nothing is changed), E_UNSUPPORTED (a version not known here;
 * nothing is changed), what LIST, OPEN and READ give, E_NOMEM.
 * Returns: E_INVAL, E_NOMEM. */
int fp_wal_open(fp_disk *disk, const fp_wal_options *options, fp_wal_req *req,
                fp_wal **wal) FARPOOL_MUST_CHECK;
/* Begins a WAL that is not open anew, at options->start: nothing that was in it counts any more, but what was promised
 * and sealed, if its state can be read. It is for a log whose part before that LSN is durable elsewhere on the volume. A
 * crash leaves the one or the other. *wal is for fp_wal_free; then fp_wal_open. done, returns: as fp_wal_open. */
int fp_wal_restart(fp_disk *disk, const fp_wal_options *options, fp_wal_req *req,
                   fp_wal **wal) FARPOOL_MUST_CHECK;
/* Lets everything before it finish, notes that all of it is durable, and closes the files. Then only fp_wal_free. */
void fp_wal_close(fp_wal *wal, fp_wal_req *req);
/* Nothing is under way: every done() has been called, or the disk is closed. NULL is allowed. */
void fp_wal_free(fp_wal *wal);

/* Bytes [end, upto) are in the landing ring. Returns: E_CORRUPT (no whole frames of this partition; nothing is
 * written), E_FENCED (a frame of an epoch below the promised one), E_INVAL (upto is not above the end or is above
 * fp_wal_landing_free), E_REFUSED (sealed), E_NOMEM, E_IO (the WAL has failed). done: E_NOSPACE, E_IO and what else
 * the disk gives; then all appends not yet acknowledged fail, and the end is again what is durable. */
int fp_wal_append(fp_wal *wal, uint64_t upto, fp_wal_req *req) FARPOOL_MUST_CHECK;
/* The highest LSN up to which bytes may be landed now. */
uint64_t fp_wal_landing_free(const fp_wal *wal);
/* Log from lsn on, which never falls, is going to be read: it stays in the landing ring until then, where fp_wal_read
 * finds it, but for what is further behind what is durable than fp_wal_landing_kept. */
void fp_wal_keep(fp_wal *wal, uint64_t lsn);
/* So much of a landing ring may be taken up by what is kept; the rest is for landing. */
static inline size_t fp_wal_landing_kept(size_t landing_bytes)
{
    size_t quarter = landing_bytes / 4;
    return quarter < FP_WAL_KEPT_MAX ? quarter : FP_WAL_KEPT_MAX;
}
/* Another landing ring, as in fp_wal_options, for a WAL whose end is durable. The one before is the caller's again. */
void fp_wal_set_landing(fp_wal *wal, void *landing, size_t landing_bytes);

/* No frame of a lower epoch is appended any more at or behind the LSN `from` (or the end, if that is higher), from the
 * call on, also after a restart once done() has said 0: the promise is in the state file. The same epoch again may only
 * put it off to a higher LSN, as long as there is no frame of that epoch. E_FENCED: a higher one has been promised. */
int fp_wal_fence(fp_wal *wal, uint64_t epoch, uint64_t from, fp_wal_req *req) FARPOOL_MUST_CHECK;
/* From the call on the log is of this lineage, to which the one before leads (fp_lineage_leads_to); also after a restart once
 * done() has said 0. From the last fork on no frame of an owner before it counts, or is appended. */
int fp_wal_join(fp_wal *wal, const fp_lineage *lineage, fp_wal_req *req) FARPOOL_MUST_CHECK;
/* The log is not the partition's, which is of this lineage: no more appends, from the call on, and once done() has said 0 it
 * is never opened again (E_CORRUPT), but for fp_wal_restart. */
int fp_wal_disown(fp_wal *wal, const fp_lineage *lineage, fp_wal_req *req) FARPOOL_MUST_CHECK;
/* Of the last fork of the lineage for which a WAL was disowned that could not be opened, or not again; 0: it was not. */
uint64_t fp_wal_disowned_for(const fp_wal *wal);
/* No more appends, from the call on. What was accepted before it is durable when done() says 0. */
int fp_wal_seal(fp_wal *wal, fp_wal_req *req) FARPOOL_MUST_CHECK;
/* Nothing below lsn (at most what is durable) is needed any more: segments wholly below it go. Appends wait for it. */
int fp_wal_trim(fp_wal *wal, uint64_t lsn, fp_wal_req *req) FARPOOL_MUST_CHECK;

/* Reads whole frames of [from, to), from the first that begins at `from`, a frame's beginning, until the last that
 * ends at or before `to`, at most what is durable. Byte l arrives at buffer + l - from / FP_DISK_ALIGN *
 * FP_DISK_ALIGN; the buffer is aligned and has room for all blocks of [from, to). req->lsn: where the last whole
 * frame ends; if not even the first fits, that is `from`, and req->needed says how long it is.
 * done: E_CORRUPT (frames up to req->lsn are good), what OPEN and READ give. Returns: E_INVAL, E_NOMEM. */
int fp_wal_read(fp_wal *wal, uint64_t from, uint64_t to, void *buffer,
                fp_wal_req *req) FARPOOL_MUST_CHECK;
/* What fp_wal_read, called now, reads from here on comes from the landing ring: of the buffer it changes the bytes of
 * [from, to) only, not whole blocks. */
bool fp_wal_is_landed(const fp_wal *wal, uint64_t from);

uint64_t fp_wal_start(const fp_wal *wal);    /* of the first frame that can be read */
uint64_t fp_wal_end(const fp_wal *wal);      /* of what was appended; the next append begins here */
uint64_t fp_wal_durable(const fp_wal *wal);  /* of what is on stable media */
bool fp_wal_is_appending(const fp_wal *wal); /* some append is not done yet */
uint64_t fp_wal_reached(
    const fp_wal *wal); /* the highest epoch that was promised, or that a frame here has */
uint64_t fp_wal_epoch(const fp_wal *wal);       /* promised, durably or not yet */
uint64_t fp_wal_promised(const fp_wal *wal);    /* durably, */
uint64_t fp_wal_promised_at(const fp_wal *wal); /* from here on */
const fp_lineage *fp_wal_lineage(const fp_wal *wal);
const fp_lineage *fp_wal_joined(const fp_wal *wal); /* the same, as far as it is durable */
bool fp_wal_is_sealed(const fp_wal *wal);
bool fp_wal_has_failed(const fp_wal *wal); /* for good */
/* The highest known beginning of a frame at or below lsn, itself between start and end: not more than about a segment
 * below it. Whoever wants to read from lsn reads from here. */
uint64_t fp_wal_frame_before(const fp_wal *wal, uint64_t lsn);
const fp_wal_damage *fp_wal_damage_found(const fp_wal *wal);

#endif
