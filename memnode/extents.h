/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A memory node's memory: extents of equal size, each a mapping (and memfd) of its own which is
 * registered with every transport, so that a partition can be given exactly its own extents and
 * no key to anything else.
 *
 *            take                      give                  clear, new keys
 *   FREE  ----------->  GRANTED  ----------------->  DIRTY  ----------------->  FREE
 *                                                      \------- (failed) ---->  LOST
 *
 * All zero is what FREE means: a released extent is zeroed before anyone else gets it, so that
 * no partition sees another's data, and registered anew, so that the keys handed out for it
 * before are dead. That happens in small steps between other work. An extent whose partition passes
 * to another owner keeps its content and gets new keys at once.
 */
#ifndef FP_MEMNODE_EXTENTS_H
#define FP_MEMNODE_EXTENTS_H

#include "common/mem.h"
#include "common/net/net.h"
#include "common/wire.h"

enum {
    FP_EXTENT_ORDER_MIN = FARPOOL_ORDER_MAX, /* log2 of slot units: the largest page must fit */
    FP_EXTENT_ORDER_MAX = 20,
    FP_EXTENT_ORDER_DEFAULT = 15, /* 131 MiB, half of the last huge page is not used */
    FP_EXTENT_SPREAD = 8,         /* a small node gets smaller extents, so that it has this many */
    FP_EXTENT_NETS_MAX = 4,
    FP_EXTENT_STEP_BYTES = 4 << 20, /* cleared in one step: about 1 ms */
};

enum fp_extent_state { FP_EXTENT_FREE, FP_EXTENT_GRANTED, FP_EXTENT_DIRTY, FP_EXTENT_LOST };

typedef struct fp_extent_memory {
    fp_mem mem; /* len is what is registered: the extent's bytes, without the mapping's rounding */
    size_t mapped_bytes;
    fp_mr *mrs[FP_EXTENT_NETS_MAX];
    enum fp_extent_state state;
} fp_extent_memory;

typedef struct fp_extents {
    fp_extent_memory *list;
    uint32_t count, free, dirty;
    uint64_t extent_bytes;
    fp_net *nets[FP_EXTENT_NETS_MAX];
    unsigned net_count;
    uint32_t clearing;      /* the extent being cleared, if dirty > 0 */
    uint64_t cleared_bytes; /* of it */
} fp_extents;

/* Maps and touches memory_bytes, rounded down to whole extents. order: log2 of slot units per
 * extent, or -1 to choose. Says on stderr what kind of memory it is, and how far it is if that
 * takes long. Errors: E_INVAL, E_NOMEM, E_SYS. */
int fp_extents_open(uint64_t memory_bytes, int order, int numa_node,
                    fp_extents *extents) FARPOOL_MUST_CHECK;
void fp_extents_close(fp_extents *extents);

/* Registers everything with one more transport, whose index in mrs[] is returned. On failure
 * nothing stays registered with it. */
int fp_extents_register(fp_extents *extents, fp_net *net, unsigned *index) FARPOOL_MUST_CHECK;
/* Undoes all registrations; the transports can be closed afterwards. */
void fp_extents_unregister(fp_extents *extents);

/* Takes count FREE extents; the caller has seen that there are as many. */
void fp_extents_take(fp_extents *extents, uint32_t count, uint32_t *out);
/* Gives GRANTED extents back. */
void fp_extents_give(fp_extents *extents, const uint32_t *list, uint32_t count);
/* New keys for GRANTED extents, whose content stays: when it returns, the old ones are dead, also if it
 * fails (E_NOMEM, E_SYS); then some extents have no key, until another call gives them one. */
int fp_extents_renew_keys(fp_extents *extents, const uint32_t *list,
                          uint32_t count) FARPOOL_MUST_CHECK;
/* One step of clearing. Returns true when an extent has become FREE or LOST by it. */
bool fp_extents_clear_step(fp_extents *extents);

#endif
