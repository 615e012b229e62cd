/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpool: a buffer manager whose pages live in other machines' memory.
 *
 * The only installed header. A program opens a pool (the local cache), opens partitions in it (page
 * spaces whose pages rest in the DRAM of memory nodes), and then fixes, reads and changes pages.
 *
 * Conventions
 *   - A function that can fail returns 0 or a negative FARPOOL_E_* code; farpool_errmsg() then holds
 *     a sentence for people about the last failure of the calling thread.
 *   - Every function may be called from any thread unless its comment says otherwise.
 *   - Sizes are bytes, times are nanoseconds, unless the name says otherwise.
 *   - The library starts two threads for each partition with a redo log, a third one if it names storage nodes, and
 *     two for each pool that has joined a cluster, in which all signals are blocked; it imposes no allocator and blocks no signals in others. The first pool with
 *     mapping "vm" installs one handler for SIGBUS and SIGSEGV; faults that are not the library's own
 *     are passed on to the handler that was installed before.
 */
#ifndef FARPOOL_H
#define FARPOOL_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FARPOOL_VERSION_MAJOR 0
#define FARPOOL_VERSION_MINOR 1
#define FARPOOL_VERSION_PATCH 0

#define FARPOOL_API __attribute__((visibility("default")))
#define FARPOOL_MUST_CHECK __attribute__((warn_unused_result))

/* ---- errors ---------------------------------------------------------------------------------- */

/* code name, value, text. The list is the one source of codes, names and texts. */
#define FARPOOL_ERRORS(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(E_INVAL, -1, "invalid argument")                                                             \
    X(E_NOMEM, -2, "out of memory")                                                                \
    X(E_SYS, -3, "a system call failed")                                                           \
    X(E_NODE, -4, "a memory node cannot be reached")                                               \
    X(E_PROTO, -5, "the peer does not speak this protocol")                                        \
    X(E_REFUSED, -6, "the peer refused the request")                                               \
    X(E_FENCED, -7, "the epoch is no longer current")                                              \
    X(E_ACCESS, -8, "remote memory access denied")                                                 \
    X(E_CORRUPT, -9, "a checksum or header does not match")                                        \
    X(E_NOSPACE, -10, "no space left in the slab or page space")                                   \
    X(E_POOL_FULL, -11, "every frame of the pool is in use")                                       \
    X(E_NOTFOUND, -12, "not found")                                                                \
    X(E_EXISTS, -13, "exists already")                                                             \
    X(E_RETRY, -14, "the optimistic read was overtaken by a writer")                               \
    X(E_TIMEOUT, -15, "timed out")                                                                 \
    X(E_CLOSED, -16, "the connection is closed")                                                   \
    X(E_BUSY, -17, "in use")                                                                       \
    X(E_UNSUPPORTED, -18, "not supported on this machine or by this build")                        \
    X(E_TOO_BIG, -19, "too large")                                                                 \
    X(E_IO, -20, "a device failed")                                                                \
    X(E_UNKNOWN, -21, "whether it was done is not known")                                          \
    X(E_COMPACTED, -22, "that part of the history is gone")                                        \
    X(E_READONLY, -23, "the partition is read-only")

enum farpool_error {
#define FARPOOL_ERROR_ENUM(name, value, text) FARPOOL_##name = value,
    FARPOOL_ERRORS(FARPOOL_ERROR_ENUM)
#undef FARPOOL_ERROR_ENUM
};

/* The fixed text of a code; "unknown error" for any other number. Never NULL. Static storage. */
FARPOOL_API const char *farpool_strerror(int code);

/* What the calling thread's last failed call tried, on what, and what to do about it. Never NULL;
 * valid until the thread's next failing farpool call. */
FARPOOL_API const char *farpool_errmsg(void);

/* ---- pools ----------------------------------------------------------------------------------- */

#define FARPOOL_UNIT_BYTES 4096u /* pages are 2^order units of this size */
#define FARPOOL_ORDER_MAX 10u    /* largest page: 4 MiB */
#define FARPOOL_PID_NONE UINT64_MAX
#define FARPOOL_PARTITIONS_MAX 64u            /* open in a pool at a time */
#define FARPOOL_SPACE_MAX (UINT64_C(1) << 44) /* bytes of a partition's page space */

typedef struct farpool_pool farpool_pool;
typedef struct farpool_partition farpool_partition;
typedef uint64_t farpool_pid; /* number of a page's first unit in its partition */

enum farpool_mapping {
    FARPOOL_MAPPING_AUTO,   /* the fastest one here: frames */
    FARPOOL_MAPPING_FRAMES, /* one arena of frames; addresses are valid only while fixed */
    FARPOOL_MAPPING_VM,     /* address = base + pid * 4096, by userfaultfd (Linux 5.11 and later) */
};

typedef struct farpool_pool_options {
    size_t struct_size;           /* set by farpool_pool_options_init */
    size_t pool_bytes;            /* local memory for pages; at least 1 MiB. Default 64 MiB */
    enum farpool_mapping mapping; /* default FARPOOL_MAPPING_AUTO */
    unsigned eviction_batch;      /* pages evicted at a time, 1 to 512; 0 (default): chosen */
    const char
        *name; /* for messages and statistics, and in a cluster its name there, which no other
                                    process has; at most 63 bytes count; copied. Default "pool" */
    /* A file with the key by which nodes know this program, or with the cluster's secret: then it is known as `name`.
     * Without one it speaks only to nodes that have no secret. Copied. Default NULL: none */
    const char *key_file;
} farpool_pool_options;

FARPOOL_API void farpool_pool_options_init(farpool_pool_options *options);

/* Opens a pool. *pool is the caller's until farpool_pool_close. Errors: E_INVAL, E_NOMEM, E_SYS,
 * E_UNSUPPORTED. */
FARPOOL_API int farpool_pool_open(const farpool_pool_options *options,
                                  farpool_pool **pool) FARPOOL_MUST_CHECK;

/* Closes a pool. All its partitions must be closed, and its cluster left (else E_BUSY, and nothing happens) and no
 * other thread may be using it. */
FARPOOL_API int farpool_pool_close(farpool_pool *pool);

/* ---- partitions ------------------------------------------------------------------------------ */

enum farpool_recover {
    FARPOOL_NEW, /* (default) there is no such partition yet; it fails if a log ring or a storage node has a log of it */
    FARPOOL_RECOVER, /* go on with what its log rings hold; it fails if an acknowledged commit may be missing */
    FARPOOL_RECOVER_STORED, /* if too few log rings are left to tell: go on with what the storage nodes have.
                                    Commits that were acknowledged as durable in memory only may be lost */
};

typedef struct farpool_partition_options {
    size_t struct_size;   /* set by farpool_partition_options_init */
    uint64_t id;          /* cluster-wide number of the partition, not 0. Default 1 */
    uint64_t epoch;       /* fencing token: higher than any earlier owner's. Default 1 */
    uint64_t space_bytes; /* size of the page space (addresses only). Default 64 GiB */
    uint64_t slab_bytes;  /* memory asked for, over all memory nodes. Default 256 MiB */
    /* URIs: verbs://HOST:PORT, tcp://HOST:PORT, shm:///PATH; with NAME@ behind the slashes only the node of that name
     * is spoken to */
    const char *const *memnodes;
    size_t memnode_count; /* at least 1, at most 16 */
    unsigned timeout_ms;  /* for connecting and control requests. Default 5000 */
    unsigned
        log_copies; /* k: the first k memory nodes hold a log ring each, at most 7. 0 (default):
                                    no redo log, what is in the partition is lost with this process */
    unsigned log_quorum; /* w: a commit is durable when w rings have it. 0 (default): k / 2 + 1 */
    uint64_t log_ring_bytes; /* size of each ring, 1 MiB to 16 GiB. Default 64 MiB */
    unsigned storage_quorum; /* FARPOOL_DURABLE_STORAGE: so many storage nodes have it. Default 1 */
    const char *const
        *storagenodes; /* URIs of the storage nodes to which the memory nodes of its rings spill;
                                    without them what only they have cannot be read. Default none */
    size_t storagenode_count;     /* at most 16 */
    enum farpool_recover recover; /* the options of the log must be what they were */
} farpool_partition_options;

FARPOOL_API void farpool_partition_options_init(farpool_partition_options *options);

/* Opens a partition, empty or recovered, on the memory nodes named. A memory node that knows the partition
 * under a lower epoch cuts that owner's connections off; under the same or a higher one it refuses
 * (E_FENCED). An attempt that fails has perhaps cut that owner off, and has used its epoch up: the next
 * one needs a higher one. Errors: E_INVAL, E_NODE, E_TIMEOUT, E_REFUSED, E_FENCED, E_PROTO, E_NOSPACE,
 * E_NOMEM, E_SYS. Of the log: E_EXISTS (FARPOOL_NEW, but there are commits), E_NOTFOUND (FARPOOL_RECOVER, but
 * all rings are empty), E_NODE (too few rings can be read, or storage nodes asked), E_INVAL (it was made with other options),
 * E_CORRUPT. */
FARPOOL_API int farpool_partition_open(farpool_pool *pool, const farpool_partition_options *options,
                                       farpool_partition **partition) FARPOOL_MUST_CHECK;

/* Goes on with these memory nodes, under a higher epoch, while others use the partition: one that was lost is replaced
 * by another one, or taken in again empty, and counts from then on. memnodes[i] takes the place of number i; as many as
 * there are. Commits and faults wait for some milliseconds meanwhile. At least log_quorum of the log rings stay where they
 * are; what was on nodes that go comes from storage nodes: at its first fault, or before that in the background (fill_left of
 * the statistics). Nodes that stay, but cannot be reached, are left out.
 * From the call on, whoever opens the partition names these nodes: what is acknowledged later may be on no others.
 * E_INVAL, E_UNSUPPORTED (without a redo log or storage nodes). E_NODE, E_NOSPACE and others: a new node failed, or too few
 * rings would stay. E_BUSY: a pool uses at most 256 addresses of nodes in its life. E_FENCED: the epoch is not higher, or another owner has the partition. Nothing has changed then but that
 * this epoch is used up, unless commits fail from now on, with the same code. The caller has nothing latched. */
FARPOOL_API int farpool_partition_reconfigure(farpool_partition *partition, uint64_t epoch,
                                              const char *const *memnodes,
                                              size_t count) FARPOOL_MUST_CHECK;

/* Drops all pages of the partition and gives its slabs back. No other thread may be using it. E_BUSY: a
 * page is still fixed (its pages are gone, but the handle is kept). With any other error the handle is
 * gone, and a memory node could not be told: it keeps its share until a higher epoch comes. */
FARPOOL_API int farpool_partition_close(farpool_partition *partition);

/* ---- pages: allocate, fix, read -------------------------------------------------------------- */
/*
 * A fixed page is latched and stays where it is until unfixed. Latches are not recursive and belong
 * to the calling thread. A thread that fixes several pages must do so in an order that all threads
 * share (a tree: root to leaf); the library detects no deadlocks.
 */

enum farpool_latch {
    FARPOOL_SHARED,    /* up to 250 readers at once */
    FARPOOL_EXCLUSIVE, /* one writer; the page counts as changed */
};

/* Allocates a page of 2^order units, zeroed and fixed exclusively. E_NOSPACE when slab or page space
 * are full, E_POOL_FULL when every frame is fixed. */
FARPOOL_API int farpool_page_alloc(farpool_partition *partition, unsigned order, farpool_pid *pid,
                                   void **page) FARPOOL_MUST_CHECK;

/* Frees a page that the calling thread has fixed exclusively; that also unfixes it. */
FARPOOL_API void farpool_page_free(farpool_partition *partition, farpool_pid pid);

/* Fixes a page, faulting it from its memory node if it is not here. *page is valid until unfixed.
 * E_NOTFOUND: no such page. E_NODE, E_ACCESS, E_FENCED: its memory node cannot give it. E_CORRUPT:
 * what arrived is not that page. E_POOL_FULL. */
FARPOOL_API int farpool_fix(farpool_partition *partition, farpool_pid pid, enum farpool_latch latch,
                            void **page) FARPOOL_MUST_CHECK;
FARPOOL_API void farpool_unfix(farpool_partition *partition, farpool_pid pid,
                               enum farpool_latch latch);

/* Size of an allocated page as its order; the caller has it fixed or may be told an old value. */
FARPOOL_API unsigned farpool_page_order(farpool_partition *partition, farpool_pid pid);

/* ---- optimistic reads ------------------------------------------------------------------------ */
/*
 * A read without a latch: farpool_read_begin waits for writers, faults the page in and returns its
 * address and version; the caller reads whatever it wants, which may be garbage if a writer or an
 * eviction came between, so it must not follow pointers or trust lengths without bounds until
 * farpool_read_check says 0. (Optimistic lock coupling: Leis, Haubenschild, Neumann, IEEE Data Eng.
 * Bulletin 2019.)
 *
 * With mapping "vm" the page may vanish while it is being read. So every optimistic read stands in a
 * section: when a read hits a page that is gone, control goes back to farpool_section_enter, which
 * then returns non-zero for a second time, as sigsetjmp does; the section has then been left.
 *
 *     farpool_section section;
 *     do {
 *         if (farpool_section_enter(&section)) continue;   // overtaken: the section was left
 *         rc = read_something_optimistically(...);         // a function of its own, no latches held
 *         farpool_section_leave(&section);
 *     } while (rc == FARPOOL_E_RETRY);
 *
 * As with setjmp, locals of the function that enters which are changed inside the section must be
 * volatile, and it must not return before leaving. The thread may hold no latch, lock or memory it
 * would lose by jumping. Sections of one thread do not nest. (The loop above must set rc to
 * FARPOOL_E_RETRY before entering.)
 */
typedef struct farpool_section {
    sigjmp_buf env;
} farpool_section;

FARPOOL_API void farpool_section_arm(farpool_section *section); /* use farpool_section_enter */
FARPOOL_API void farpool_section_leave(farpool_section *section);
#define farpool_section_enter(section)                                                             \
    (sigsetjmp((section)->env, 0) ? 1 : (farpool_section_arm(section), 0))

/* Starts reading a page. *page may be read, with the care described above, inside a section;
 * *version is for the two functions below. Errors as farpool_fix. */
FARPOOL_API int farpool_read_begin(farpool_partition *partition, farpool_pid pid, const void **page,
                                   uint64_t *version) FARPOOL_MUST_CHECK;

/* 0: everything read since farpool_read_begin is true; E_RETRY: throw it away. */
FARPOOL_API int farpool_read_check(farpool_partition *partition, farpool_pid pid,
                                   uint64_t version) FARPOOL_MUST_CHECK;

/* Turns an optimistic read into an exclusive fix at the same address if nothing has changed, else
 * E_RETRY. The section must be left before the page is changed. */
FARPOOL_API int farpool_read_upgrade(farpool_partition *partition, farpool_pid pid,
                                     uint64_t version, void **page) FARPOOL_MUST_CHECK;

/* Starts fetching those of the pages which are not here, all READs in flight at once, and returns
 * without waiting for them. A hint: pages that cannot be fetched now are left out, and errors come
 * from the later fix. Never call with a page latched that another thread may be evicting for (i.e.
 * hold no latches). */
FARPOOL_API void farpool_prefetch(farpool_partition *partition, const farpool_pid *pids,
                                  size_t count);

/* ---- mini-transactions ----------------------------------------------------------------------- */
/*
 * Changes to one or more pages which reach the redo log together or not at all, whatever crashes. In a
 * partition with a redo log pages are changed, allocated and freed by them only; in one without they
 * work the same, but nothing is logged.
 *
 *     farpool_mtr *mtr;
 *     must(farpool_mtr_begin(partition, 0, &mtr));
 *     rc = farpool_mtr_fix(mtr, pid, &page);      // any number of pages
 *     if (rc) { farpool_mtr_abandon(mtr); ... }
 *     ... change them ...
 *     rc = farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL);
 *
 * Every page fixed stays latched exclusively until commit or abandon, so what was said of the order of
 * latches counts; fixing a page twice in one mini-transaction is allowed. A mini-transaction belongs to
 * one thread and does not stand inside a section of an optimistic read.
 */
typedef struct farpool_mtr farpool_mtr;

/* What commit waits for. An acknowledgement of a memory node's NIC means that the change is in that
 * node's memory: it survives the death of this process and of w - 1 of the memory nodes whose rings were
 * written, not a power failure of all of them. With k - w rings lost, commits still go on. */
enum farpool_durability {
    FARPOOL_DURABLE_LATER,  /* nothing: see farpool_wait_durable */
    FARPOOL_DURABLE_MEMORY, /* w of k log rings have it */
    FARPOOL_DURABLE_STORAGE, /* and storage_quorum storage nodes, on stable media: it survives any power failure.
                                    E_UNSUPPORTED if no memory node of the rings has a storage node */
};

enum farpool_mtr_flags {
    FARPOOL_MTR_NO_UNDO =
        1, /* the caller does not abandon it, nor unfix a page, after a change: that spares
                                copies where there is no log */
};

/* *mtr is the caller's until commit or abandon. While the log rings are nearly full it waits for storage nodes and
 * checkpoints to free some of them, so the caller holds no latches. E_NOMEM; E_NODE as for commit. E_READONLY: the
 * coordinators have made the partition read-only; mini-transactions that had begun may still commit. */
FARPOOL_API int farpool_mtr_begin(farpool_partition *partition, unsigned flags,
                                  farpool_mtr **mtr) FARPOOL_MUST_CHECK;

/* Fixes a page exclusively. What is changed in it until commit is found by comparing it with a copy.
 * Errors as farpool_fix, and E_NOMEM; the mini-transaction goes on without the page. */
FARPOOL_API int farpool_mtr_fix(farpool_mtr *mtr, farpool_pid pid, void **page) FARPOOL_MUST_CHECK;

/* The same for a caller who tells each range by farpool_mtr_declare before changing it, which spares the
 * copy and the comparing. What is changed elsewhere in the page is not logged. */
FARPOOL_API int farpool_mtr_fix_declared(farpool_mtr *mtr, farpool_pid pid,
                                         void **page) FARPOOL_MUST_CHECK;
FARPOOL_API int farpool_mtr_declare(farpool_mtr *mtr, farpool_pid pid, uint32_t offset,
                                    uint32_t len) FARPOOL_MUST_CHECK;

/* farpool_read_upgrade, for this mini-transaction. E_RETRY, E_NOMEM. */
FARPOOL_API int farpool_mtr_upgrade(farpool_mtr *mtr, farpool_pid pid, uint64_t version,
                                    void **page) FARPOOL_MUST_CHECK;

/* Puts one page back as it was when it was fixed, and unfixes it. Not for pages allocated or freed. */
FARPOOL_API void farpool_mtr_unfix(farpool_mtr *mtr, farpool_pid pid);

/* farpool_page_alloc and _free. An abandoned mini-transaction has allocated and freed nothing; a page
 * freed stays latched until commit. */
FARPOOL_API int farpool_mtr_alloc(farpool_mtr *mtr, unsigned order, farpool_pid *pid,
                                  void **page) FARPOOL_MUST_CHECK;
FARPOOL_API int farpool_mtr_free(farpool_mtr *mtr, farpool_pid pid) FARPOOL_MUST_CHECK;

/* Appends the changes to the log, unfixes all pages, frees mtr, and waits as asked. *lsn (may be NULL):
 * the end of its redo, 0 if there is none. E_NOSPACE (the log rings are full, and waiting would not help),
 * E_TOO_BIG, E_NOMEM: nothing was changed, the pages are as they were. E_NODE, E_FENCED: too few rings are left, or another owner has them; others see
 * the change, but it will never be durable, or is already: whoever recovers the partition decides. After that
 * every commit fails. */
FARPOOL_API int farpool_mtr_commit(farpool_mtr *mtr, enum farpool_durability durability,
                                   uint64_t *lsn) FARPOOL_MUST_CHECK;

/* Puts all pages back as they were, unfixes them and frees mtr. */
FARPOOL_API void farpool_mtr_abandon(farpool_mtr *mtr);

/* Waits until everything up to lsn is as durable as asked; lsn UINT64_MAX: everything committed so far, by
 * whomever. E_NODE as above. */
FARPOOL_API int farpool_wait_durable(farpool_partition *partition, uint64_t lsn,
                                     enum farpool_durability durability) FARPOOL_MUST_CHECK;

/* ---- clusters -------------------------------------------------------------------------------- */
/*
 * A process that follows the coordinators (farpool-coordinator): they say which partitions it owns, under which epoch and
 * on which nodes, and are told what has become of that. So the program chooses neither epochs nor nodes:
 *
 *     must(farpool_cluster_join(pool, &options, &cluster));
 *     while (going_on) {
 *         rc = farpool_cluster_next(cluster, 1000, &event);
 *         if (rc == FARPOOL_E_TIMEOUT) continue;
 *         if (event.kind == FARPOOL_CLUSTER_ASSIGNED) ... farpool_cluster_open(cluster, event.partition, &partition);
 *         if (event.kind == FARPOOL_CLUSTER_REVOKED) ... stop using it, farpool_partition_close(partition);
 *     }
 *     must(farpool_cluster_leave(cluster)); // after all of its partitions have been closed
 *
 * Other memory nodes for a partition that is open (farpool_partition_reconfigure), and other storage nodes, are the
 * library's own business: commits and faults wait some milliseconds, and go on.
 *
 * While no coordinator can be reached all open partitions go on; there is no lease that could end. What keeps two processes
 * from owning a partition is that memory nodes refuse the earlier one. Who was taken over, for instance because it had
 * been stopped for some time, is told so by its next commit (E_FENCED) and by REVOKED. Until then it may read pages in its
 * pool as they were.
 */
typedef struct farpool_cluster farpool_cluster;

typedef struct farpool_cluster_options {
    size_t struct_size;       /* set by farpool_cluster_options_init */
    const char *coordinators; /* URIs of some or all of them, with commas between them. Required */
    const char *zone, *rack;  /* where this process runs, for placement: any text. Default "" */
    const char *host;         /* default: the host's name */
    const char *
        address; /* where others ask this program: any text, for farpool_cluster_route. Default "" */
    int standby;         /* it may be given partitions. Default 1 */
    unsigned timeout_ms; /* of its partitions: for connecting and control requests. Default 5000 */
    unsigned join_ms;    /* farpool_cluster_join waits so long to be a member. Default 10000 */
} farpool_cluster_options;

FARPOOL_API void farpool_cluster_options_init(farpool_cluster_options *options);

/* Joins under the pool's name; a pool joins one cluster at a time. The strings are copied. *cluster is the caller's until
 * farpool_cluster_leave. With join_ms 0 it returns at once and goes on trying: FARPOOL_CLUSTER_CONNECTED tells.
 * E_INVAL, E_NOMEM, E_SYS; E_EXISTS: the pool has joined one. E_TIMEOUT: it was not taken within join_ms, the sentence says
 * why (for instance, another process of this name is there); it has given up then. */
FARPOOL_API int farpool_cluster_join(farpool_pool *pool, const farpool_cluster_options *options,
                                     farpool_cluster **cluster) FARPOOL_MUST_CHECK;

/* Tells the coordinators that this process goes, waits for their answer for a second at most, and frees cluster. No other
 * thread may be using it. E_BUSY: a partition of it is open, being opened or being closed, and nothing happens. */
FARPOOL_API int farpool_cluster_leave(farpool_cluster *cluster);

enum farpool_cluster_event_kind {
    FARPOOL_CLUSTER_CONNECTED, /* it is a member; */
    FARPOOL_CLUSTER_DISCONNECTED, /* no coordinator can be reached, or none takes it: it goes on trying */
    FARPOOL_CLUSTER_ASSIGNED, /* the partition is this process's: farpool_cluster_open */
    FARPOOL_CLUSTER_REVOKED, /* it is not any more: close it, if it is open; its commits fail, now or soon */
    FARPOOL_CLUSTER_READ_ONLY, /* farpool_mtr_begin is refused from now on; */
    FARPOOL_CLUSTER_WRITABLE,  /* it is not any more */
};

typedef struct farpool_cluster_event {
    size_t struct_size; /* set by farpool_cluster_next */
    enum farpool_cluster_event_kind kind;
    uint64_t partition, epoch; /* 0: of none */
    char name[256];            /* the partition's */
    int read_only;             /* ASSIGNED: it begins so */
    int code;         /* REVOKED: E_FENCED and others, if its redo log has failed; else 0 */
    char reason[256]; /* REVOKED, DISCONNECTED: a sentence */
} farpool_cluster_event;

/* The next thing that the program does not know yet. What has changed twice is told once, as it is now; nothing is lost. A
 * partition that was assigned is revoked before it is assigned again, and that waits until it has been closed. After an
 * attempt to open it has failed it is assigned again under another epoch. E_TIMEOUT: nothing within timeout_ms (0: does
 * not wait). */
FARPOOL_API int farpool_cluster_next(farpool_cluster *cluster, unsigned timeout_ms,
                                     farpool_cluster_event *event) FARPOOL_MUST_CHECK;

/* Opens a partition that is assigned, as the coordinators say, and tells them that it is open or why it is not. Waits for
 * the network, as farpool_partition_open does, with its errors. E_NOTFOUND: it is not assigned; E_BUSY: it is open, or being
 * opened or closed; E_FENCED also: this epoch was tried before, and another one has not come yet. *partition is closed by
 * farpool_partition_close, of which the coordinators are told as well. */
FARPOOL_API int farpool_cluster_open(farpool_cluster *cluster, uint64_t id,
                                     farpool_partition **partition) FARPOOL_MUST_CHECK;

/* Who has a partition. */
typedef struct farpool_route {
    size_t struct_size; /* set by farpool_cluster_route */
    uint64_t id, epoch;
    char name[256];
    char owner[256], address[256]; /* of the process that owns it, "": nobody does; as it joined */
    int open;                      /* it has opened it: it may be asked */
    int read_only;
} farpool_route;

/* Asks the coordinators; partition is a name, or an id in digits. Waits, timeout_ms at most (0: 5000). E_NOTFOUND: there
 * is none, or it is deleted. E_NODE, E_TIMEOUT and others: no coordinator answers. */
FARPOOL_API int farpool_cluster_route(farpool_cluster *cluster, const char *partition,
                                      unsigned timeout_ms, farpool_route *route) FARPOOL_MUST_CHECK;

/* ---- statistics ------------------------------------------------------------------------------ */

#define FARPOOL_LATENCY_BUCKETS 256

/* Log-linear: bucket b < 8 holds b ns; after that 8 buckets for each power of two. */
typedef struct farpool_latency {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns;
    uint64_t buckets[FARPOOL_LATENCY_BUCKETS];
} farpool_latency;

typedef struct farpool_stats {
    size_t struct_size;     /* set by farpool_stats_get */
    uint64_t frames;        /* frames of 4 KiB in the pool */
    uint64_t frames_used;   /* frames that hold a page now */
    uint64_t hits;          /* fixes and optimistic reads that found their page here */
    uint64_t misses;        /* ... that had to fault it (prefetched pages are not misses) */
    uint64_t prefetched;    /* pages fetched by farpool_prefetch */
    uint64_t evictions;     /* pages dropped from the pool */
    uint64_t written_back;  /* dirty pages written to their slots */
    uint64_t bytes_read;    /* from memory nodes */
    uint64_t bytes_written; /* to memory nodes, slot headers included */
    uint64_t stored_reads; /* pages fetched from storage nodes, as no memory node had a good copy */
    uint64_t fault_errors; /* faults that ended in an error */
    uint64_t restarts;     /* optimistic sections restarted because their page vanished */
    uint64_t latch_waits;  /* times that a thread slept for a latch */
    uint64_t metadata_bytes; /* page words, frame table and free maps, as touched so far */
    /* of the redo logs of all partitions open now: */
    uint64_t redo_frames;     /* mini-transactions appended */
    uint64_t redo_batches;    /* of them, written to a ring together */
    uint64_t redo_bytes;      /* in the rings now (each log counted once) */
    uint64_t redo_ring_bytes; /* that they can hold */
    uint64_t redo_unstored;   /* bytes of them that storage_quorum storage nodes do not have yet */
    uint64_t redo_checkpoints;
    uint64_t redo_waits;   /* mini-transactions that had to wait for room in full rings, */
    uint64_t redo_wait_ns; /* and for how long in all */
    /* Pages that the library has yet to bring to their memory nodes from storage nodes, or whose redo it has yet to apply,
     * after another set of memory nodes or a recovery; an estimate, but 0 only when there are none: then no page needs a storage
     * node, unless another memory node is lost. */
    uint64_t fill_left;
    farpool_latency fault; /* from the miss to the page's being usable */
} farpool_stats;

/* Sums the counters of all threads; they may be a little behind for threads that are running. */
FARPOOL_API void farpool_stats_get(farpool_pool *pool, farpool_stats *stats);

/* Writes the same, but for max_ns, as text that Prometheus reads (version 0.0.4), to be served by the host among its own: metrics
 * farpool_*, without labels, so of one pool of a process; docs/operations.md has the list. *len is the text's length,
 * without the zero byte behind it. E_TOO_BIG: *len is what it needed, capacity must be greater; buffer then holds a part. 16 KiB are
 * enough. */
FARPOOL_API int farpool_stats_prometheus(farpool_pool *pool, char *buffer, size_t capacity,
                                         size_t *len) FARPOOL_MUST_CHECK;

/* The latency in ns below which the fraction q (0 to 1) of the samples lie; 0 without samples. */
FARPOOL_API uint64_t farpool_latency_quantile(const farpool_latency *latency, double q);

/* ---- B+-tree --------------------------------------------------------------------------------- */
/*
 * Variable-length keys ordered by memcmp, then by length; variable-length values. Built on the
 * functions above and nothing else. All functions may be called by many threads at once. Each change of
 * the tree is a mini-transaction, so a crash leaves a whole tree; it is committed with
 * FARPOOL_DURABLE_LATER, and farpool_wait_durable(partition, UINT64_MAX, ...) makes it durable.
 * Keys: 1 to FARPOOL_KEY_MAX bytes. Values: 0 to FARPOOL_VALUE_MAX bytes; those that would not leave
 * room for four records in a node go to pages of their own.
 * Any failure leaves the record as it was or as it should be, and the tree whole. A record that is not
 * there, is there already or does not fit a buffer (E_NOTFOUND, E_EXISTS, E_TOO_BIG) is a usual answer:
 * farpool_errmsg() says nothing about it.
 */
#define FARPOOL_KEY_MAX 512u
#define FARPOOL_VALUE_MAX ((FARPOOL_UNIT_BYTES << FARPOOL_ORDER_MAX) - 64u)

typedef struct farpool_btree farpool_btree;

typedef struct farpool_slice {
    const void *data;
    size_t len;
} farpool_slice;

/* Creates an empty tree; *root names it for farpool_btree_open and never changes. */
FARPOOL_API int farpool_btree_create(farpool_partition *partition, farpool_pid *root,
                                     farpool_btree **tree) FARPOOL_MUST_CHECK;
FARPOOL_API int farpool_btree_open(farpool_partition *partition, farpool_pid root,
                                   farpool_btree **tree) FARPOOL_MUST_CHECK;
/* Frees the handle, not the pages. No other thread may be using it. */
FARPOOL_API void farpool_btree_close(farpool_btree *tree);

/* E_EXISTS if the key is there. E_TOO_BIG, E_NOSPACE. */
FARPOOL_API int farpool_btree_insert(farpool_btree *tree, farpool_slice key,
                                     farpool_slice value) FARPOOL_MUST_CHECK;
/* Replaces the value; E_NOTFOUND if the key is not there. */
FARPOOL_API int farpool_btree_update(farpool_btree *tree, farpool_slice key,
                                     farpool_slice value) FARPOOL_MUST_CHECK;
/* Inserts or replaces. */
FARPOOL_API int farpool_btree_put(farpool_btree *tree, farpool_slice key,
                                  farpool_slice value) FARPOOL_MUST_CHECK;
FARPOOL_API int farpool_btree_delete(farpool_btree *tree, farpool_slice key) FARPOOL_MUST_CHECK;

/* Copies the value to buffer and its length to *len. If it is longer than capacity: E_TOO_BIG, *len
 * tells the length and the buffer's content is undefined. E_NOTFOUND. */
FARPOOL_API int farpool_btree_lookup(farpool_btree *tree, farpool_slice key, void *buffer,
                                     size_t capacity, size_t *len) FARPOOL_MUST_CHECK;

/* Called for each record in order; key and value are valid during the call only. It is called with nothing
 * latched, so it may take its time, and read and change the tree. Return 0 to go on, anything else to end
 * the scan. */
typedef int (*farpool_scan_fn)(void *arg, farpool_slice key, farpool_slice value);

/* Visits the records from the first with key >= from (forward) or the last with key <= from
 * (backward); from.data == NULL means from the end. Returns 0 at the end, or when fn ended it.
 * The whole scan is no snapshot: each leaf is seen as it was at one moment, and what changes in it while fn
 * is given its records is not seen, except values on pages of their own. These are fetched when their
 * record's turn comes: if it was updated meanwhile, fn is given the new value, if deleted, it is left out.
 * A record that is there during the whole scan is seen once, whatever happens to others. */
FARPOOL_API int farpool_btree_scan(farpool_btree *tree, farpool_slice from, int backward,
                                   farpool_scan_fn fn, void *arg) FARPOOL_MUST_CHECK;

/* Fills an empty tree from a source in ascending key order, leaves filled to fill_percent (50 to
 * 100). next() puts the next record to *key and *value (valid until its next call) and returns 1, 0
 * at the end, or a negative code which ends the load. That, a key that is not above the one before it
 * (E_INVAL) and a record that is too large (E_TOO_BIG) leave the records before it in the tree. After any
 * other failure the tree is as it was: E_NOSPACE, what was taken is free again; E_EXISTS, the tree is not
 * empty, or no longer. */
typedef int (*farpool_bulk_fn)(void *arg, farpool_slice *key, farpool_slice *value);
FARPOOL_API int farpool_btree_bulk_load(farpool_btree *tree, farpool_bulk_fn next, void *arg,
                                        unsigned fill_percent) FARPOOL_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
