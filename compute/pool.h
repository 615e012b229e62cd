/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pool's structures. Lock order: farpool_partition.changes_lock and the keeper's rounds, taken with nothing else held
 * < thread ownership (fp_thread.busy) < pool.partitions_lock <
 * fp_redo_log.flushing < fp_redo_log.lock < pool.lock < fp_units.lock. Page latches are taken before thread ownership by faults, and only tried
 * (never waited for) by whoever owns a thread structure, so the two can't deadlock.
 */
#ifndef FP_COMPUTE_POOL_H
#define FP_COMPUTE_POOL_H

#include <pthread.h>

#include "common/auth.h"
#include "common/net/net.h"
#include "common/units.h"
#include "common/wire.h"
#include "compute/page_word.h"

enum {
    FP_THREADS_MAX = 256, /* that use one pool at the same time */
    FP_PARTITIONS_MAX = FARPOOL_PARTITIONS_MAX,
    FP_NODES_MAX = 256,          /* addresses of memory and storage nodes that a pool ever uses */
    FP_PARTITION_NODES_MAX = 16, /* memory nodes of one partition, and as many storage nodes */
    FP_TRANSPORTS_MAX = 4,
    FP_IO_MAX = FP_NET_DEPTH_MAX, /* transfers in flight per thread */
    FP_WRITES_MAX = 24,           /* of them for write-back, each with an entry of the directory */
    FP_PREFETCH_MAX = FP_IO_MAX - 2 * FP_WRITES_MAX - 1, /* for prefetching; one is for a fault */
    FP_BATCH_MAX = 512,
};

typedef struct fp_transport {
    fp_net *net;
    fp_mr *xfer_mr;   /* pool.xfer registered with it */
    fp_mr *header_mr; /* pool.headers " */
} fp_transport;

/* A memory node as the pool knows it. Immutable after it was added, but for down_until_ns. */
typedef struct fp_node {
    char uri[FP_NET_URI_MAX];
    unsigned transport;
    /* atomic, relaxed: don't try to connect again before that; 0: it was there the last time */
    _Atomic uint64_t down_until_ns;
} fp_node;

typedef struct fp_extent {
    uint64_t key, addr;
    uint64_t entries_addr; /* of its part of the directory */
    uint16_t node;         /* index in pool.nodes */
    uint16_t share;        /* index in fp_node_set.shares */
} fp_extent;

/* What one memory node has granted. */
typedef struct fp_share {
    unsigned node;  /* index in pool.nodes */
    uint64_t bytes; /* asked for */
    uint32_t count;
    uint64_t extent_bytes;
    fp_rkey *extents; /* NULL: nothing, or they are in use */
} fp_share;

/* The memory nodes of a partition under one epoch (node_set.h). Immutable, but for what is atomic. */
typedef struct fp_node_set {
    struct fp_node_set *before;
    uint64_t epoch;
    uint64_t serial; /* never reused in a pool */
    /* share i takes the place of share i of the set before */
    fp_share shares[FP_PARTITION_NODES_MAX];
    uint32_t absent; /* bit i: share i was not granted */
    /* atomic, relaxed: bit i: share i is gone, or was given up */
    _Atomic uint32_t retired;
    fp_extent
        *extents; /* extent i holds the slots i << extent_shift to ((i+1) << extent_shift) - 1 */
    uint64_t boots[FP_NODES_MAX]; /* by index in pool.nodes: its boot id when it granted */
} fp_node_set;

/* The storage nodes of a partition (storage.h). Immutable. */
typedef struct fp_storages {
    struct fp_storages *before;
    unsigned count;
    unsigned nodes[FP_PARTITION_NODES_MAX]; /* indexes in pool.nodes */
} fp_storages;

/* The slots of one share: the same whichever node has granted it. */
typedef struct fp_share_slots {
    uint32_t first, count; /* extents */
    fp_units units;        /* counted from the first of the share's; has its own lock */
} fp_share_slots;

/* Immutable after open, but for what its own fields guard. */
struct farpool_partition {
    farpool_pool *pool;
    char *window;      /* vm: page address = window + pid * 4096; frames: NULL */
    fp_entry *entries; /* one per unit of the page space */
    uint64_t units;
    unsigned index; /* in pool.partitions */
    uint64_t id;
    unsigned timeout_ms;
    fp_units pids;
    _Atomic(fp_node_set *) set;   /* see node_set.h, as the next; NULL until it is opened */
    _Atomic uint32_t changes;     /* of set */
    pthread_mutex_t changes_lock; /* held by who changes the set or the next, all the time */
    /* Release by the change, acquire by all; the lists before stay until the partition is closed. Never NULL. */
    _Atomic(fp_storages *) storages;
    uint64_t extent_count;
    unsigned extent_shift;
    unsigned order_max;
    unsigned share_count; /* memory nodes */
    fp_share_slots slots[FP_PARTITION_NODES_MAX];
    _Atomic uint64_t slot_turn;       /* relaxed: units given out so far: whose turn it is */
    struct fp_redo_log *redo;         /* NULL: changes are not logged */
    struct fp_recovery *recovery;     /* NULL: there was no earlier owner */
    struct fp_fill *fill;             /* NULL: without a redo log or storage nodes */
    struct fp_assignment *assignment; /* cluster.h; NULL: the program has chosen epoch and nodes */
    _Atomic bool read_only;           /* atomic, relaxed: no mini-transaction begins */
    fp_mem entries_mem;
};

enum fp_io_kind { FP_IO_FAULT, FP_IO_PREFETCH, FP_IO_WRITE, FP_IO_RING };

/* One transfer between a frame and a slot, or (FP_IO_RING) from the redo log's mirror to a ring. Guarded
 * by its thread's ownership. */
typedef struct fp_io {
    enum fp_io_kind kind;
    bool done;
    bool with_header; /* FP_IO_FAULT: the slot's header is read as well */
    int status;
    unsigned order;
    uint32_t frame;
    farpool_partition *partition;
    farpool_pid pid;
    uint32_t crc;  /* FP_IO_WRITE: of the page as it is written */
    uint64_t lsn;  /* FP_IO_WRITE: of the page's last change; FP_IO_RING: what the ring has then */
    unsigned ring; /* FP_IO_RING: its number */
    void *page;    /* in pool.xfer */
    fp_slot_header *header; /* in pool.headers */
    struct fp_io *next;     /* of fp_thread.completed */
} fp_io;

/* What one thread has of its own in one pool. Counters are written by the owner (relaxed atomics: read
 * by farpool_stats_get at any time). */
typedef struct fp_counters {
    _Atomic uint64_t hits, misses, prefetched, evictions, written_back, bytes_read, bytes_written,
        stored_reads, fault_errors, restarts, latch_waits;
    _Atomic uint64_t fault_sum_ns, fault_max_ns, fault_count;
    _Atomic uint64_t fault_buckets[FARPOOL_LATENCY_BUCKETS];
} fp_counters;

typedef struct fp_thread {
    farpool_pool *pool;
    enum fp_use use; /* of partitions' memory; immutable */
    bool in_use;     /* guarded by pool.lock */
    /* atomic: taken by acquire, left by release; all below is guarded by it, but the counters. Its
     * thread waits for it; others, who want to help its prefetches on, only try. */
    _Atomic uint32_t busy;
    fp_poller *pollers[FP_TRANSPORTS_MAX];
    fp_conn *conns[FP_NODES_MAX];
    uint64_t boots[FP_NODES_MAX]; /* boot id of the node at the other end of conns[] */
    uint64_t connected
        [FP_NODES_MAX]; /* sets with a serial up to this were there when conns[] was made */
    struct {
        uint64_t serial;                   /* of the partition's set */
        uint64_t nodes[FP_NODES_MAX / 64]; /* bit n: its slab on node n may be used on conns[n] */
    } attached[FP_PARTITIONS_MAX];
    uint32_t cache[2 * FP_BATCH_MAX]; /* free frames */
    unsigned cached;
    fp_io ios[FP_IO_MAX];
    fp_io *free_ios[FP_IO_MAX];
    unsigned free_io_count;
    fp_io *completed;             /* transfers that are done, newest first */
    _Atomic unsigned prefetching; /* of its ios; anybody may look without owning */
    fp_msg *reply;                /* where the answer to the request in progress goes, or NULL */
    fp_conn *reply_conn;          /* whence it must come */
    uint32_t request;             /* number of that request */
    bool replied;
    int reply_status;
    _Alignas(64) fp_counters count;
} fp_thread;

struct fp_mapping_ops;

struct farpool_pool {
    const struct fp_mapping_ops *mapping; /* immutable after open, as all up to "shared" */
    fp_mem xfer;                          /* what the NIC reads and writes: arena or staging */
    uint64_t frame_count;
    /* What the pool knows of a frame, 12 bytes: fp_owner() of the page in it, 0: none; relaxed, a hint (what
     * counts is the entry under its latch); */
    _Atomic uint64_t *owners;
    /* and the CRC-32C of the page's copy in its slot, or while it is dirty the LSN of its last change
     * (fp_page_lsn_short); guarded by the page's latch: written under EXCLUSIVE, or under the one SHARED of
     * write-back. */
    uint32_t *crcs_or_lsns;
    unsigned batch;
    uint64_t serial;
    fp_net_options
        net_options; /* its transports are opened with these and their partition's timeout */
    pthread_key_t key;
    int uffd, pidfd;    /* vm: userfaultfd; ourselves, for process_madvise */
    bool batch_madvise; /* vm: process_madvise works on ourselves */
    char name[64];
    fp_auth *auth; /* NULL: none; net_options has it, too */
    fp_mem headers, frame_table;

    /* shared */
    fp_units frames;                    /* has its own lock */
    fp_units stage;                     /* vm: units of xfer; has its own lock */
    _Alignas(64) _Atomic uint64_t hand; /* of the clock; relaxed */
    _Atomic uint32_t gather_turn; /* the thread that fp_frames_gather looks at next; relaxed */
    _Alignas(64) _Atomic uint32_t
        prefetches; /* in flight in all threads; relaxed, a hint for waiters */
    _Alignas(64)
        pthread_rwlock_t partitions_lock; /* guards the next two; read while sweeping frames */
    farpool_partition *partitions[FP_PARTITIONS_MAX]; /* NULL also while one opens or closes */
    uint64_t indexes_taken; /* bit i: partition i is open, opens or closes */
    pthread_mutex_t lock;   /* guards what follows */
    uint64_t next_set_serial;
    struct farpool_cluster *cluster; /* that it has joined; NULL: none */
    fp_transport transports[FP_TRANSPORTS_MAX];
    _Atomic unsigned transport_count; /* release after the transport is ready, acquire by readers */
    fp_node nodes[FP_NODES_MAX];
    unsigned node_count;
    _Atomic(fp_thread *) threads[FP_THREADS_MAX]; /* written under lock; release/acquire */
};

/* farpool_pool_open with options for the transports: sim's world and the pool's name in it. A pool over sim
 * belongs to the world's thread; where it waits for the network, the world moves on. */
int fp_pool_open(const farpool_pool_options *options, const fp_net_options *net_options,
                 farpool_pool **pool) FARPOOL_MUST_CHECK;

static inline uint64_t fp_owner(const farpool_partition *partition, farpool_pid pid)
{
    return (uint64_t)(partition->index + 1) << 48 | pid;
}

static inline void *fp_frame_addr(const farpool_pool *pool, uint32_t frame)
{
    return (char *)pool->xfer.addr + (uint64_t)frame * FARPOOL_UNIT_BYTES;
}

/* Where a resident page is. Without its latch, the word has to be looked at again (W7). */
static inline void *fp_page_addr(const farpool_partition *partition, farpool_pid pid,
                                 fp_entry *entry)
{
    if (partition->window)
        return partition->window + pid * FARPOOL_UNIT_BYTES;
    return fp_frame_addr(partition->pool,
                         atomic_load_explicit(&entry->frame_or_crc, memory_order_acquire));
}

static inline void fp_count(_Atomic uint64_t *counter, uint64_t n)
{
    uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

#endif
