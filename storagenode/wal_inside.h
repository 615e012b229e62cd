/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the WAL: wal.c (appends), wal_ops.c (requests in their order, state file), wal_make.c (new files),
 * wal_read.c (the log's bytes from files), wal_open.c and wal_scan.c (finding the end), wal_restart.c (another beginning). */
#ifndef FP_STORAGENODE_WAL_INSIDE_H
#define FP_STORAGENODE_WAL_INSIDE_H

#include "storagenode/wal_format.h"

enum { FP_WAL_REASON_MAX = 512, FP_WAL_COPY_BYTES = 1 << 20 };

/* A sentence kept until somebody is told: other requests complete meanwhile and set farpool_errmsg(). */
typedef struct fp_wal_error {
    int status;
    char reason[FP_WAL_REASON_MAX];
} fp_wal_error;

/* With farpool_errmsg() of now. */
void fp_wal_error_set(fp_wal_error *error, int status);

/* Bytes of the log, whole blocks, from segment files by their names into memory. */
typedef struct fp_wal_load {
    fp_wal *wal;
    uint64_t from, to; /* set by the caller, as is all that follows until user */
    uint8_t *buffer;   /* where `from` goes */
    void (*done)(struct fp_wal_load *load);
    void *user;
    fp_wal_error error;
    uint64_t at;
    fp_disk_req req;
    fp_disk_file *file;
    char name[FP_WAL_NAME_MAX];
} fp_wal_load;

void fp_wal_load_start(fp_wal_load *load);

/* A new file, by the recipe: temporary name, ALLOCATE, WRITE, SYNC, RENAME over what may be there, SYNC_DIR. */
typedef struct fp_wal_make {
    fp_wal *wal;
    char name[FP_WAL_NAME_MAX]; /* set by the caller, as is all that follows until done */
    const uint8_t *head;        /* whole blocks for its beginning */
    size_t head_bytes;
    uint64_t size; /* of the file */
    uint64_t copy_from,
        copy_to;    /* bytes of the log that the file of that name has and the new one gets too */
    bool keep_open; /* then file is it */
    void (*done)(struct fp_wal_make *make);
    fp_wal_error error;
    fp_disk_file *file;
    bool busy;
    bool retried; /* UNLINKed what was left of an earlier one */
    uint64_t copied, dir_failures;
    uint8_t *copy_buffer;
    fp_wal_load load;
    fp_disk_req req;
    char temporary[FP_WAL_NAME_MAX + 8];
} fp_wal_make;

void fp_wal_make_start(fp_wal_make *make);

typedef struct fp_wal_segment {
    uint64_t first_frame; /* LSN of the first frame that begins in it or later; 0: not known yet */
    uint64_t bytes; /* of log that its file has room for: segment_bytes, less if damaged, 0: none */
    fp_disk_file *file; /* open for writing, or NULL */
    bool exists;        /* there is a file of that name, good or bad */
    bool has_header;
} fp_wal_segment;

enum fp_wal_kind {
    FP_WAL_APPEND,
    FP_WAL_FENCE,
    FP_WAL_JOIN,
    FP_WAL_DISOWN,
    FP_WAL_SEAL,
    FP_WAL_TRIM,
    FP_WAL_CLOSE
};

enum { FP_WAL_PIECES = 3 }; /* header, log up to the ring's wrap, log behind it */

/* What is written and synced together: segment after segment, whole blocks from the landing ring. */
typedef struct fp_wal_group {
    uint64_t from, upto; /* from: what was durable at its beginning */
    uint32_t segment;    /* being written */
    unsigned pending;
    fp_wal_error error;
    fp_disk_req reqs[FP_WAL_PIECES];
    uint8_t *header;
} fp_wal_group;

struct fp_wal_opening; /* wal_open.c */

struct fp_wal {
    fp_disk *disk;
    fp_wal_options options;
    fp_wal_state state; /* as it was last written */
    /* From the call of fp_wal_fence on, as is sealed from that of fp_wal_seal. */
    uint64_t promise, promised_at;
    bool sealed;
    fp_lineage lineage; /* from the call of fp_wal_join on */
    fp_lineage other;   /* of fp_wal_disown */
    uint64_t end, durable;
    uint64_t kept;   /* what is to be kept in the landing ring begins here; UINT64_MAX: nothing */
    uint64_t landed; /* from here on the landing ring had what was appended */
    uint64_t epoch, durable_epoch; /* of the last frame before end; before durable */

    uint32_t base; /* number of segments[0], which has the beginning */
    uint32_t segment_count, segment_room;
    fp_wal_segment *segments;
    uint32_t oldest_open; /* number of the first that is open, or will be opened, for writing */

    fp_wal_req *head, **tail; /* accepted and not done, in order */
    unsigned calls;           /* done() being called: nothing new begins until they return */
    bool busy;                /* with a group or with what is not an append */
    bool cut_needed;          /* the first append after damage */
    bool closing, closed;
    bool opened; /* fp_wal_open has ended well */
    unsigned reads;
    fp_wal_error failed; /* for good */
    fp_wal_damage damage;

    fp_wal_group group;
    fp_wal_make prepare; /* the next segment */
    uint32_t prepare_number;
    bool prepare_failed; /* not tried again before an append needs it */
    fp_wal_make make;    /* all else */
    fp_disk_req req;     /* of the request at the head */
    uint32_t at;         /* segment that req is about */
    uint64_t dir_failures;
    fp_wal_error error; /* of the request at the head: the first */
    void (*after_state)(fp_wal *wal, int status);
    uint8_t *blocks; /* aligned: header of the group, of prepare, of make; state */
    char name[FP_WAL_NAME_MAX];
    struct fp_wal_opening *opening;
    void *user; /* of fp_wal_restart */
};

/* The lowest epoch that a frame at lsn may have, which is `least` or more, if this one is promised from `at` on. */
static inline uint64_t fp_wal_least(uint64_t least, uint64_t lsn, uint64_t promise, uint64_t at)
{
    return lsn >= at && promise > least ? promise : least;
}

/* Nothing has been asked of the disk yet. E_INVAL, E_NOMEM. */
int fp_wal_new(fp_disk *disk, const fp_wal_options *options, fp_wal **wal) FARPOOL_MUST_CHECK;

/* ---- segments (wal.c) ------------------------------------------------------------------------ */

static inline uint64_t fp_wal_number(const fp_wal *wal, uint64_t lsn)
{
    return lsn / wal->state.segment_bytes;
}
/* From where on the landing ring keeps what peers have landed. Never falls while it is the same ring. */
uint64_t fp_wal_window(const fp_wal *wal);
/* From where on a segment has log. */
static inline uint64_t fp_wal_log_begin(const fp_wal *wal, uint64_t number)
{
    uint64_t begin = number * wal->state.segment_bytes;
    return begin > wal->state.start ? begin : wal->state.start;
}
static inline uint64_t fp_wal_begin_of(const fp_wal *wal, uint64_t number)
{
    return number * wal->state.segment_bytes;
}
/* NULL: there is none of that number. */
fp_wal_segment *fp_wal_segment_of(const fp_wal *wal, uint64_t number);
/* Makes room for segments up to this one. E_NOMEM, E_TOO_BIG. */
int fp_wal_need_segments(fp_wal *wal, uint64_t number) FARPOOL_MUST_CHECK;
/* A frame ends at `to` that began at `from`: so the first frame of segments between begins at `to`. */
int fp_wal_note_frame(fp_wal *wal, uint64_t from, uint64_t to) FARPOOL_MUST_CHECK;
/* The header block of a segment as it is to be now. */
void fp_wal_fill_header(const fp_wal *wal, uint32_t number, uint8_t *block);

/* ---- requests (wal_ops.c) -------------------------------------------------------------------- */

/* Sets the sentence "volume V: WAL of partition P: ..." and returns the code. */
int fp_wal_say(const fp_wal *wal, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void fp_wal_enqueue(fp_wal *wal, fp_wal_req *req, enum fp_wal_kind kind);
/* Ends requests taken out of the queue. */
void fp_wal_finish(fp_wal *wal, fp_wal_req *list, const fp_wal_error *error);
/* Takes the appends up to this LSN out of the queue, or all requests but CLOSE (NULL: there are none). */
fp_wal_req *fp_wal_take(fp_wal *wal, bool appends_only, uint64_t upto);
/* All appends in the queue fail; the end is what is durable. */
void fp_wal_fail_appends(fp_wal *wal, const fp_wal_error *error);
void fp_wal_fail(fp_wal *wal, const fp_wal_error *error); /* for good */
/* Starts what can be started; wherever something has ended. */
void fp_wal_kick(fp_wal *wal);
/* Begins a request at the head that is not an append. */
void fp_wal_begin(fp_wal *wal);
void fp_wal_begin_cut(fp_wal *wal);
/* A new state file; after(status) has farpool_errmsg(). */
void fp_wal_write_state(fp_wal *wal, fp_wal_state state, void (*after)(fp_wal *wal, int status));

void fp_wal_group_begin(fp_wal *wal, uint64_t upto);
void fp_wal_prepare_start(fp_wal *wal, uint32_t number);

/* ---- finding the end ------------------------------------------------------------------------- */

/* Follows the frames from state.start on to the end. done: end, epoch, first_frame of segments, and damage are set,
 * unless there is an error. */
typedef struct fp_wal_scan {
    fp_wal *wal;
    uint64_t known; /* set by the caller, as are wal and done: so far it was durable */
    void (*done)(struct fp_wal_scan *scan);
    fp_wal_error error;
    uint64_t at, limit; /* files that are good end at limit */
    bool searching;     /* behind the end */
    uint8_t *window;
    size_t window_bytes;
    uint64_t window_from, window_to;
    fp_wal_load load;
} fp_wal_scan;

void fp_wal_scan_start(fp_wal_scan *scan);
void fp_wal_open_free(fp_wal *wal);
/* That the state just read into wal->blocks, from the file of that name, is of another version. */
int fp_wal_say_version(const fp_wal *wal, const char *name);

#endif
