/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A partition's redo log as its owner writes it: appended to a mirror here, and WRITTEN from there to k
 * log rings on k memory nodes in parallel. What w of them have (the write quorum) is durable in memory.
 *
 * Append copies a frame into the mirror under a lock: LSNs follow the order of appending, so who appends
 * while holding the pages' latches has each page's changes in the log in their order. Flush is group
 * commit (DeWitt et al., SIGMOD 1984): one committer is the flusher and writes all that was appended
 * until then, also for those who wait meanwhile; when it is done, the next of them is. No thread is
 * needed, and a lone committer waits for nobody but the rings.
 *
 * Each ring gets one batch at a time and the next one when that is acknowledged: a slow ring gets larger
 * batches and keeps nobody up, as long as the others are a quorum. A ring that fails is lost until the
 * partition is opened under another epoch. With fewer than w left the log has failed, and with it all
 * changes of the partition: whether the last ones count is decided by whoever recovers it.
 */
#ifndef FP_COMPUTE_REDO_LOG_H
#define FP_COMPUTE_REDO_LOG_H

#include "common/redo.h"
#include "common/ring.h"
#include "compute/pool.h"

enum { FP_RINGS_MAX = 7 };

typedef struct fp_ring {
    fp_share
        at; /* where it is; changed by who has the flusher's place and the keeper's rounds (reconfigure.c) */
    /* the flusher's: */
    uint64_t posted, acked; /* everything before these LSNs is on its way, or there */
    unsigned inflight;      /* WRITEs of the batch under way */
    _Atomic bool lost;      /* atomic, relaxed: written by the flusher, read by the keeper */
    /* What it had when it was opened is not the log, or ends before the log's start. The owner's line is written to
     * it behind all that was recovered; until then what it has says nothing to whoever recovers the log next. */
    bool blank;
    /* It has this owner's first frame, and before it the log: now a line of his may be there, by which what it has is
     * spilled. Set by release by the flusher, read by acquire by the keeper. */
    _Atomic bool speaks;
    /* Relaxed: the keeper cannot reach its node, so whoever is the flusher next has to find out if it is lost, though
     * nothing may be left to write: who waits for room appends nothing. */
    _Atomic bool doubted;
    /* the keeper's: */
    uint64_t told_start, told_durable; /* what its owner's line says */
    uint64_t told_slabs;               /* the version that it has */
    uint64_t volume, spilled;          /* what its node's line says, if it has one, */
    bool worthless;                    /* as this */
    bool heard, spills;                /* the node's line was read; there is one */
} fp_ring;

typedef struct fp_redo_log {
    farpool_partition *partition; /* immutable after open, as all up to the lock */
    uint64_t ring_bytes;
    /* Byte l of the log is at l % ring_bytes; [floor, end) written under lock, then read only. Behind the log there
     * is a line for each ring, which is the keeper's. */
    fp_mem mirror;
    fp_mr *mrs[FP_TRANSPORTS_MAX]; /* the mirror's */
    fp_thread *thread;             /* the rings' connections: the flusher's */
    fp_ring rings[FP_RINGS_MAX];
    unsigned ring_count, quorum;
    uint64_t own;   /* LSN behind the owner's first frame; written before anything is flushed */
    uint64_t first; /* LSN from which on there was log when it was opened */
    unsigned storage_quorum;
    fp_lineage lineage; /* slabs.lineage, for those who hold no lock */
    bool from_storage;  /* storage nodes had to say what the log is: the slabs may be ahead of it */
    fp_ring_slabs
        slabs; /* which count; written by the keeper under lock, read by it and under lock */
    struct fp_keeper *keeper; /* NULL while it is being opened */

    pthread_mutex_t lock; /* of those who append */
    /* Of frames and lines. Written under lock by who has the flusher's place and the keeper's rounds; read with any. */
    uint64_t epoch;
    _Atomic uint64_t end; /* written under lock; release: the frames before it are in the mirror */
    /* 1: somebody is the flusher, who owns thread and the rings. Taken by acquire, left by release; */
    _Atomic uint32_t flushing;
    uint64_t gathered, group,
        round_ns; /* the flusher's: frames when its last round began, how many were new then, how long it took */
    _Atomic uint32_t rounds; /* counts the times it was left: a futex for those who wait for that */
    _Atomic uint32_t
        sleepers; /* on that; seq_cst with rounds: who counts after a flusher has looked sees the new round */
    _Atomic uint64_t
        group_end; /* written by the flusher (release): the log's end when its round began; a hint */
    char reason[256];   /* why the log has failed: written by the flusher before */
    _Atomic int failed; /* 0 becomes the code, by release: nothing more will be durable */
    /* written by the flusher; release: the frames before it are in w rings. Never falls. */
    _Atomic uint64_t durable;
    _Atomic uint64_t acked_all; /* " in all rings that are not lost */
    /* written by the keeper; release: what is below needs no ring any more, and may be overwritten here and there */
    _Atomic uint64_t floor;
    _Atomic uint64_t
        stored; /* written by the keeper, release: is on stable media in storage_quorum volumes */
    _Atomic uint64_t
        start; /* written by the keeper, relaxed: what the rings' owner's line is to say */
    _Atomic uint64_t frames, batches; /* statistics, relaxed: appended; posted to a ring */
} fp_redo_log;

/* Asks log_copies of the partition's memory nodes for a ring each, and recovers what is in them (see
 * redo_recover.h). Blocks. */
int fp_redo_open(farpool_partition *partition, const farpool_partition_options *options,
                 fp_redo_log **log) FARPOOL_MUST_CHECK;
/* Flushes nothing. No other thread is using it. NULL is allowed. */
void fp_redo_close(fp_redo_log *log);

/* Appends a frame of these records; *end is the LSN behind it. Any thread, with latches held or not.
 * E_NOSPACE: the rings are full; or why the log has failed. Then nothing was appended. */
int fp_redo_append(fp_redo_log *log, enum fp_redo_kind kind, const fp_redo_build *build,
                   uint64_t *end) FARPOOL_MUST_CHECK;

/* Returns when all before lsn is in w rings. Any thread; waits for the network, takes no latches. An
 * error: it may be or not, and nothing appended later ever will be. */
int fp_redo_flush(fp_redo_log *log, uint64_t lsn) FARPOOL_MUST_CHECK;

/* Everything that has been appended. */
int fp_redo_flush_all(fp_redo_log *log) FARPOOL_MUST_CHECK;

/* The mirror gets a log found elsewhere: bytes [start, end), which count as appended. */
void fp_redo_take_in(fp_redo_log *log, const void *bytes, uint64_t start, uint64_t end);
/* Nothing more will be durable, for the reason in farpool_errmsg(); if somebody is the flusher, nothing is done: once
 * more later. */
void fp_redo_fail(fp_redo_log *log, int code);
/* The code of that, with a sentence; 0: it has not failed. */
int fp_redo_failure(const fp_redo_log *log) FARPOOL_MUST_CHECK;
/* The flusher's place for whoever changes the rings: nobody writes to them, and nothing more becomes durable, until
 * release. Waits. */
void fp_redo_hold(fp_redo_log *log);
void fp_redo_release(fp_redo_log *log);
/* By who holds it: */
/* All before lsn is in w rings. E_NODE: too few are left; the log has not failed of it. */
int fp_redo_write(fp_redo_log *log, uint64_t lsn) FARPOOL_MUST_CHECK;
/* From now on frames are of this epoch, and lines; its first frame is behind log->own. E_NOSPACE: nothing has changed. */
int fp_redo_begin_epoch(fp_redo_log *log, uint64_t epoch) FARPOOL_MUST_CHECK;
/* Nothing more will be durable, for the reason in farpool_errmsg(). */
void fp_redo_give_up(fp_redo_log *log, int code);
/* The log can be written to rings on this node. */
int fp_redo_register(fp_redo_log *log, unsigned node) FARPOOL_MUST_CHECK;

/* Returns when each ring has this owner's first frame, and with it all before, or is lost: then each counts. By anybody.
 * An error: the log has failed. */
int fp_redo_fill(fp_redo_log *log) FARPOOL_MUST_CHECK;
/* If nobody is the flusher: starts and takes in what rings miss that nobody waits for. Waits up to timeout_ms for
 * something to come. By the keeper. */
void fp_redo_nudge(fp_redo_log *log, int timeout_ms);
/* What this owner's first frame says of the rings. */
uint32_t fp_redo_log_shape(const fp_redo_log *log);
/* Copies from the mirror. */
void fp_redo_copy_out(const fp_redo_log *log, uint64_t lsn, void *to, size_t len);

/* ---- redo_ring.c: the flusher's, or of who opens the log -------------------------------------- */

/* How much of [lsn, upto) can be one transfer: it ends where the ring does, or one of its extents. */
uint64_t fp_ring_piece(const fp_redo_log *log, const fp_ring *ring, uint64_t lsn, uint64_t upto);
/* A transfer of a piece that begins at lsn, but for its local side. */
fp_net_op fp_ring_op(const fp_redo_log *log, const fp_ring *ring, enum fp_net_kind kind,
                     uint64_t lsn, fp_io *io);
/* Of a line of the control block; WRITE: of the owner's, as it is to be now, which is put to *line. READ: into the
 * ring's line behind the mirror. */
fp_net_op fp_ring_line_op(const fp_redo_log *log, const fp_ring *ring, enum fp_net_kind kind,
                          unsigned at, fp_ring_owner *line, fp_io *io);
/* Of the list of slabs of that version, from or to its place behind the mirror, which is op.sge[0].addr. */
fp_net_op fp_ring_slabs_op(const fp_redo_log *log, const fp_ring *ring, enum fp_net_kind kind,
                           uint64_t version, fp_io *io);
/* Where a READ puts it. */
void *fp_ring_line(const fp_redo_log *log, const fp_ring *ring);

/* Whether what a node has granted is enough for a ring. E_PROTO. */
int fp_ring_check(const fp_redo_log *log, const fp_share *at) FARPOOL_MUST_CHECK;
/* Starts a batch on each ring that has none under way and misses something. */
void fp_rings_post(fp_redo_log *log);
/* Takes completions in, waiting for one up to timeout_ms. Updates durable. */
void fp_rings_poll(fp_redo_log *log, int timeout_ms);
unsigned fp_rings_alive(const fp_redo_log *log);

/* ---- LSNs of pages --------------------------------------------------------------------------- */
/*
 * A dirty page's LSN, the end of the frame of its last change, is kept in 32 bits, in units of
 * FP_REDO_ALIGN. That is enough because no ring is larger than half of what they count.
 */
#define FP_RING_BYTES_MAX (((uint64_t)1 << 31) * FP_REDO_ALIGN)

static inline uint32_t fp_page_lsn_short(uint64_t lsn) { return (uint32_t)(lsn / FP_REDO_ALIGN); }

/* The whole of it, given any LSN less than FP_RING_BYTES_MAX away. */
static inline uint64_t fp_page_lsn_whole(uint32_t lsn, uint64_t near)
{
    return near + (uint64_t)((int64_t)(int32_t)(lsn - fp_page_lsn_short(near)) * FP_REDO_ALIGN);
}

#endif
