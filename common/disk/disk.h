/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk contract: one volume directory, everything asynchronous. One conformance suite
 * (tests/conformance/disk.c) runs it against every backend.
 *
 * The way of a request: the caller fills in an fp_disk_req of its own and submits it; fp_disk_poll calls its
 * done(). How to write a file that is whole or not there: OPEN (create) under a temporary name, WRITE, SYNC,
 * RENAME, SYNC_DIR, each after the one before it has completed.
 *
 * Rules that every backend keeps (numbered, cited from code and tests)
 *   D1  Every request submitted completes exactly once: done() is called by fp_disk_poll or fp_disk_close,
 *       never from within fp_disk_submit. All errors arrive there, in status; submit itself cannot fail.
 *   D2  Requests in flight together take effect in any order. Who needs an order submits the second when the
 *       first has completed. What overlapping READs and WRITEs in flight together see or leave is a mixture.
 *   D3  The request, its buffer and its names belong to the disk from submit until done() is called. In done()
 *       they are the caller's again, to free or to submit anew.
 *   D4  READ and WRITE are whole or an error. Memory, offset and length are multiples of FP_DISK_ALIGN, and so
 *       are the sizes given to ALLOCATE and TRUNCATE. After a failed WRITE each 512-byte sector of the range is
 *       the old or the new one. A READ that reaches beyond the file's end is FARPOOL_E_CORRUPT: the caller
 *       knows how long its files are, so the file has been cut. What a failed READ leaves in the buffer is
 *       undefined.
 *   D5  A READ sees every WRITE that completed before it was submitted.
 *   D6  A SYNC with status 0 makes durable what WRITE, ALLOCATE and TRUNCATE did to its file and completed
 *       before the SYNC was submitted. After a crash, of everything else each sector on its own is the old or
 *       the new one, and the size an old or the new one. Sectors themselves are not torn. A SYNC says nothing
 *       about the file's name.
 *   D7  A SYNC_DIR with status 0 makes durable every OPEN (create), RENAME and UNLINK that completed before it
 *       was submitted. After a crash each other one has happened or not, whatever became of earlier ones. A
 *       RENAME is atomic: new_name is always the old or the new file, whole as far as D6 says.
 *   D8  After a failed SYNC or SYNC_DIR nobody knows what of the things it should have covered is durable, even
 *       if READ shows them and a later SYNC succeeds. They have to be written again, to another file.
 *   D9  status is 0 or: E_NOSPACE (volume or quota full), E_IO (the device failed), E_REFUSED (permission,
 *       read-only), E_NOTFOUND, E_EXISTS, E_INVAL (no name for a file), E_CORRUPT (D4), E_TOO_BIG,
 *       E_UNSUPPORTED (by the file system), E_CLOSED (the disk was closed before the request began), E_NOMEM,
 *       E_SYS. sys_errno is the system's number, if any. During done(), farpool_errmsg() names operation,
 *       volume, file, offset and what to do.
 *   D10 fp_disk_submit and fp_disk_poll with timeout 0 do not block, with two exceptions inside the poll, for
 *       which io_uring has no operation: LIST reads the directory (at most FP_DISK_LIST_MAX names), and
 *       TRUNCATE before Linux 6.9 is ftruncate(2). fp_disk_open and fp_disk_close block.
 *   D11 fp_disk_close completes requests that have not begun with E_CLOSED, waits for the others, and calls
 *       done() for all of them. What done() submits then completes with E_CLOSED. Files still open are closed.
 *   D12 Any number of requests may be submitted; those beyond the depth wait inside, in order.
 *   D13 A disk belongs to one thread at a time (the caller serialises). done() may submit; it may not poll or
 *       close the disk.
 *   D14 work() of a WORK is called by a thread of the disk's own, which does nothing else; of one disk one at a time.
 *       What it reads and writes nobody else may write, or write or read, between submit and done(); there all that
 *       it did is seen, and all that was done before submit in it. It asks nothing of the disk, and sets no status:
 *       what became of it stands in memory of the caller's. Status 0: it was called, once; otherwise perhaps, but not
 *       any more. On a simulated disk it is called by the thread that submits or polls, at either end of that time, as the
 *       seed draws.
 */
#ifndef FP_COMMON_DISK_DISK_H
#define FP_COMMON_DISK_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "farpool.h"

enum {
    FP_DISK_ALIGN = 4096,
    FP_DISK_NAME_MAX = 255,     /* bytes; no '/', not "." or ".." */
    FP_DISK_LIST_MAX = 1 << 20, /* names in a directory; more: LIST gives E_TOO_BIG */
    FP_DISK_DEPTH_MAX = 4096,
};

typedef struct fp_disk fp_disk;
typedef struct fp_disk_file fp_disk_file;
typedef struct fp_disk_req fp_disk_req;

enum fp_disk_kind {
    FP_DISK_OPEN, /* name, mode -> file */
    FP_DISK_CLOSE, /* file: no other request of it may be in flight; gone afterwards, whatever the status */
    FP_DISK_READ,     /* file, offset, len, buffer */
    FP_DISK_WRITE,    /* file, offset, len, buffer; beyond the end the file grows */
    FP_DISK_ALLOCATE, /* file, size: space for [0, size) is reserved, the file is at least so long */
    FP_DISK_TRUNCATE, /* file, size: shorter, or longer by zeros that have no space yet */
    FP_DISK_SIZE,     /* file -> size */
    FP_DISK_SYNC,     /* file: fdatasync. To put several into one is the caller's business */
    FP_DISK_RENAME,   /* name, new_name, replace: false: E_EXISTS if there is one */
    FP_DISK_UNLINK,   /* name; open files stay usable */
    FP_DISK_SYNC_DIR,
    FP_DISK_LIST, /* -> names, size (their number) */
    FP_DISK_NOP,  /* nothing: for answers that need no disk, but may not come from within a call */
    FP_DISK_WORK, /* work: what takes the processor for long, aside from the disk's thread: D14 */
    FP_DISK_KINDS,
};

enum fp_disk_mode {
    FP_DISK_CREATE,    /* a new file, E_EXISTS if there is one; read and write */
    FP_DISK_EXISTING,  /* read and write */
    FP_DISK_READ_ONLY, /* existing; WRITE, ALLOCATE and TRUNCATE may not be asked for */
};

/* Zeroed by the caller, but for what the kind needs. */
struct fp_disk_req {
    enum fp_disk_kind kind;
    enum fp_disk_mode mode;
    bool replace;
    fp_disk_file *file;
    const char *name, *new_name;
    void *buffer;
    size_t len;
    uint64_t offset;
    uint64_t size;
    char *
        names; /* LIST: sorted, each with its 0 byte, one after the other; the caller's to free() */
    int status, sys_errno;
    void (*work)(fp_disk_req *req); /* WORK */
    void (*done)(fp_disk_req *req);
    void *user;
    struct { /* the disk's */
        fp_disk *disk;
        fp_disk_req *next;
        size_t moved;
        unsigned tries;
        bool in_flight;
    } own;
};

struct fp_disk_medium; /* common/disk/sim.h */

typedef struct fp_disk_options {
    unsigned depth;                /* requests given to the kernel at a time; 0: 128 */
    struct fp_disk_medium *medium; /* a simulated disk, on this medium */
} fp_disk_options;

/* Opens the directory, which exists; with a medium, path is only its name in messages. Options may be NULL.
 * Files are used with O_DIRECT; where the file system cannot, that is logged once and they are buffered.
 * Errors: E_NOTFOUND, E_REFUSED, E_UNSUPPORTED (no io_uring here; the sentence says why), E_INVAL, E_BUSY
 * (medium), E_NOMEM, E_SYS. */
int fp_disk_open(const char *path, const fp_disk_options *options,
                 fp_disk **disk) FARPOOL_MUST_CHECK;
void fp_disk_close(fp_disk *disk); /* D11 */
const char *fp_disk_path(const fp_disk *disk);
/* How many SYNC_DIRs have failed. The directory is everybody's: by D8 a RENAME that completed before somebody else's
 * SYNC_DIR failed is not made durable by one's own that succeeds. So whoever relies on that compares this number
 * from before the RENAME with that after the SYNC_DIR. */
uint64_t fp_disk_dir_failures(const fp_disk *disk);
/* The name under which a file is known to this disk: RENAMEs made here are followed. */
const char *fp_disk_file_name(const fp_disk_file *file);

void fp_disk_submit(fp_disk *disk, fp_disk_req *req);

/* Begins what was submitted and calls done() of what has completed; returns how many. timeout_ms 0: only looks;
 * > 0: waits so long for a first one, or less (signals); -1: as 0 < for ever (not allowed on sim). A negative
 * code: the disk is unusable. */
int fp_disk_poll(fp_disk *disk, int timeout_ms);

/* A descriptor that polls readable when fp_disk_poll has something to do, for event loops, or -1 (sim). Spurious
 * readiness is allowed, a lost one is not, provided that fp_disk_poll(timeout 0) was called until it returned 0
 * before waiting. */
int fp_disk_fd(const fp_disk *disk);

/* ---- for backends ---------------------------------------------------------------------------- */

struct fp_disk_file {
    fp_disk *disk; /* these are kept by disk.c */
    struct fp_disk_file *next;
    enum fp_disk_mode mode;
    size_t in_flight;
    bool closing;
    char name[FP_DISK_NAME_MAX + 1];
};

typedef struct fp_disk_ops {
    int (*open)(const char *path, const fp_disk_options *options, fp_disk **disk);
    /* Nothing is in flight and no file open. */
    void (*close)(fp_disk *disk);
    int (*fd)(const fp_disk *disk);
    /* The request has been checked. Later, not here, the backend calls fp_disk_finish. */
    void (*submit)(fp_disk *disk, fp_disk_req *req);
    /* Finishes what it can; waits, if told to, for the first. 0 or a negative code. */
    int (*poll)(fp_disk *disk, int timeout_ms);
    /* Finishes everything: with ECANCELED what has not begun, the rest when it is over. */
    void (*drain)(fp_disk *disk);
    /* Frees a file; closes it if that has not been done by CLOSE. */
    void (*file_free)(fp_disk_file *file);
} fp_disk_ops;

struct fp_disk {
    const fp_disk_ops *ops; /* set by disk.c, as is the rest */
    char *path;
    size_t in_flight; /* submitted, done() not yet called */
    fp_disk_req *finished, *finished_last;
    size_t finished_count;
    fp_disk_file *files;
    bool closing, calling;
    uint64_t dir_failures;
    bool dead; /* set by the backend: its node has lost its power and learns nothing any more */
};

extern const fp_disk_ops fp_disk_uring, fp_disk_sim;

enum { FP_DISK_PAST_END = -1 }; /* for fp_disk_finish: D4 */
/* The request is over: error is 0, an errno or FP_DISK_PAST_END. Outputs are in the request; a file opened is in
 * req->file. done() follows from the next fp_disk_poll. */
void fp_disk_finish(fp_disk_req *req, int error);

/* For LIST: sorts the names and packs them into the request. 0 or ENOMEM. */
int fp_disk_put_names(fp_disk_req *req, const char **names, size_t count);

#endif
