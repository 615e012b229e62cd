/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spiller: takes the redo log out of the rings in this node's memory to a storage node, and tells each ring's
 * owner, by the node's line in the ring (common/ring.h), what is there on stable media. docs/redo.md, Spilling.
 *
 * One thread drives it (fp_spill_step, or fp_spill_start's). fp_spill_add_ring, fp_spill_remove_ring, fp_spill_target,
 * fp_spill_reached, fp_spill_usage_get and fp_spill_rings_get are for any other; they wait at most for one chunk to be
 * copied and checked.
 */
#ifndef FP_MEMNODE_SPILL_H
#define FP_MEMNODE_SPILL_H

#include "common/net/net.h"

typedef struct fp_spill fp_spill;

typedef struct fp_spill_config {
    const char *storage; /* the storage node's address: verbs, tcp, shm, sim; NULL: none yet */
    const char *name;    /* this node's, for its messages; copied */
    const fp_net_options
        *net; /* may be NULL; also says how long connecting may block; copied, but for its node */
    unsigned
        timeout_ms; /* a storage node that owes an answer so long is connected to anew; 0: 10000 */
} fp_spill_config;

typedef struct fp_spill_usage {
    uint64_t
        lag; /* bytes of log in the rings, durable in memory, not known to be on stable media */
    uint64_t gaps; /* rings whose log the storage node cannot take: it lacks what is before it */
} fp_spill_usage;

typedef struct fp_spill_ring_usage {
    uint64_t partition;
    uint64_t log_bytes;  /* that it can hold; 0: its owner has not begun */
    uint64_t used_bytes; /* durable log in it */
    uint64_t lag_bytes;  /* of that, not known to be on stable media */
} fp_spill_ring_usage;

/* Opens the transport, if it knows which; does not connect. Errors as fp_net_open, E_NOMEM. */
int fp_spill_open(const fp_spill_config *config, fp_spill **spill) FARPOOL_MUST_CHECK;
/* Its thread, if any, has been stopped. What is under way is given up; rings are forgotten. NULL is allowed. */
void fp_spill_close(fp_spill *spill);

/* From now on the ring of this partition, which has none, is spilled: control block and log, in extents of
 * extent_bytes each, in this order. The memory outlives the ring's removal. E_NOMEM. */
int fp_spill_add_ring(fp_spill *spill, uint64_t partition, void *const *extents, uint32_t count,
                      uint64_t extent_bytes) FARPOOL_MUST_CHECK;
/* When it returns, nothing is written to the ring any more. */
void fp_spill_remove_ring(fp_spill *spill, uint64_t partition);

/* Rings are spilled to this storage node from the next step on; NULL: nowhere, and nobody is to wait for that. */
void fp_spill_target(fp_spill *spill, const char *storage);
/* The address of the one that is connected; "": none is. */
void fp_spill_reached(fp_spill *spill, char storage[FP_NET_URI_MAX]);

/* Some ring's log is waited for: it is looked at now. */
void fp_spill_wake(const fp_spill *spill);

void fp_spill_usage_get(const fp_spill *spill, fp_spill_usage *usage);

/* Of each ring, at most max of them; returns their number. */
uint32_t fp_spill_rings_get(fp_spill *spill, fp_spill_ring_usage *rings, uint32_t max);

/* Does what can be done now, at most one chunk's copy; connecting to the storage node may block, nothing else does.
 * Returns in how many ns it is to be called again at the latest (0: at once; UINT64_MAX: when something has come). */
uint64_t fp_spill_step(fp_spill *spill);

/* A thread of its own that does the steps, with all signals blocked. E_SYS. */
int fp_spill_start(fp_spill *spill) FARPOOL_MUST_CHECK;
/* Waits for it to end. */
void fp_spill_stop(fp_spill *spill);

#endif
