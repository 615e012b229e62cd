/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that works on a partition of a cluster (tests/lib/cluster.h): it recovers the partition, compares all of its
 * B+-tree with what the workers before it have noted, and writes with several threads until it is killed. Before there
 * was a tree, pages were written that never change: they take slots on each memory node and leave gaps between them, so
 * that the tree is on all nodes, too, and are compared as well. It is forked; what it notes is in memory shared with the test. A worker that gets nothing done for three minutes is a failure,
 * with its stacks. One cluster at a time.
 */
#ifndef FP_TESTS_LIB_CLUSTER_WORK_H
#define FP_TESTS_LIB_CLUSTER_WORK_H

#include "tests/lib/cluster.h"
#include "tests/lib/written.h"

enum {
    CLUSTER_STORED_EACH = 12,  /* of so many writes one waits for storage */
    CLUSTER_CONSTANTS = 1800,  /* pages that never change */
    CLUSTER_CONSTANT_GAPS = 3, /* behind so many there is room for a page of the tree */
};

typedef struct cluster_work {
    written written;
    test_cluster *cluster;
    uint64_t seed, ring_bytes, slab_bytes; /* set by the test before the first worker, */
    unsigned storage_quorum;               /* as is this */
    unsigned rest_us;  /* between looks at how far all is; the test may set it before the first */
    pid_t worker;      /* 0: none */
    const char *fault; /* not NULL: the worker is to die of that */
    unsigned killed, refills;
    farpool_pid root, constants[CLUSTER_CONSTANTS];
    uint64_t epoch;
    bool tried_stored; /* since it is lossy */
    _Atomic uint64_t acks, stored, laps, retries, from_storage, failed_opens;
    _Atomic bool ready;    /* it has recovered and compared */
    _Atomic bool lossy;    /* too few rings are left: only what was stored must be there */
    _Atomic bool dying;    /* all may fail from now on */
    _Atomic bool troubled; /* a storage node was killed in this worker's life, so that pages may be
                              out of reach */
    _Atomic bool
        shaky; /* a memory node may die while it opens the partition; then it opens it anew */
    _Atomic bool eased;                /* writers leave most of the processors to others */
    _Atomic bool whole[CLUSTER_NODES]; /* the ring has all that a recovery needs */
    _Atomic uint64_t fill_left;        /* of the worker's statistics, since it is ready */
    _Atomic bool read;                 /* the worker is to read all pages that never change */
    _Atomic bool take_in;              /* the worker is to take in memory nodes that are back */
    _Atomic uint64_t taken_in, taken_ns;
    _Atomic bool
        behind[CLUSTER_NODES]; /* the ring's storage node has less than the log's beginning */
    char rings[1024];          /* the worker's last look at them, as text */
} cluster_work;

/* Shared memory for it. */
cluster_work *cluster_work_new(void);
/* A new partition of this cluster, which is started. */
void cluster_work_begin(cluster_work *work, test_cluster *cluster, uint64_t seed);

/* The first one makes the partition. fault: NULL, or where it is to die (common/faultpoint.h). */
void cluster_work_start(cluster_work *work, const char *fault);
void cluster_work_kill(cluster_work *work);
/* Whether one that was to die at a fault point has. */
bool cluster_work_died(cluster_work *work);

/* Passes time until it is true; nobody may end meanwhile. */
void cluster_work_wait(cluster_work *work, const char *what,
                       bool (*is_true)(cluster_work *work, uint64_t arg), uint64_t arg);
void cluster_work_wait_ready(cluster_work *work);
void cluster_work_wait_whole(cluster_work *work, unsigned node);
/* The worker takes in memory nodes that are back; until that is done and this one's ring has everything. */
void cluster_work_take_in(cluster_work *work, unsigned node);
/* Until all pages are on memory nodes. */
void cluster_work_wait_filled(cluster_work *work);
/* The worker reads each page that never changes. */
void cluster_work_read(cluster_work *work);
void cluster_work_pass_ms(cluster_work *work, uint64_t ms);
/* Until so many writes have been acknowledged. */
void cluster_work_on(cluster_work *work, const char *what, uint64_t writes);
/* The same of writes that are on stable media. */
void cluster_work_store(cluster_work *work, const char *what, uint64_t writes);

/* What a storage node has missed while its memory node was not there, or has lost, comes from the others. All run. */
void cluster_work_wait_refills(cluster_work *work);

#endif
