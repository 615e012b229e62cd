/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log ring as it lies in a memory node's memory: a control block, and behind it the log, of which byte l stands at
 * FP_RING_LOG_AT + l % log_bytes. docs/redo.md.
 *
 * The control block has a line that the partition's owner writes and one that the memory node writes. Both are 64
 * bytes in one cache line, so a one-sided WRITE or READ of a line is not torn (rule N4); one that the node's
 * processor was changing meanwhile has a wrong checksum, and is read again. Little-endian.
 *
 * A ring without a valid owner's line is blank: it has no log, whatever stands there.
 */
#ifndef FP_COMMON_RING_H
#define FP_COMMON_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/lineage.h"

enum {
    FP_RING_OWNER_AT = 0,
    FP_RING_SLABS_AT = 1024,
    FP_RING_SLABS_BYTES = 512, /* of each of the two */
    FP_RING_SLABS_MAX = 16,
    FP_RING_NODE_AT = 2048,
    FP_RING_LOG_AT = 4096,
    FP_RING_LINE_BYTES = 64,
};

#define FP_RING_OWNER_MAGIC 0x6f526646u /* "FfRo" */
#define FP_RING_SLABS_MAGIC 0x73526646u /* "FfRs" */
#define FP_RING_NODE_MAGIC 0x6e526646u  /* "FfRn" */

/* Each value in a ring is true from the moment it stands there on, and start and durable never fall. An owner writes
 * his line to a ring behind (rule N3) everything that he has repaired there and his first frame. So whatever frames
 * of earlier epochs are there in their places once his line is were committed. */
typedef struct fp_ring_owner {
    uint32_t magic, crc; /* crc: CRC-32C of the bytes behind it */
    uint64_t partition;
    uint64_t epoch;     /* of the owner who wrote the line */
    uint64_t log_bytes; /* a multiple of FARPOOL_UNIT_BYTES */
    /* A frame's LSN: no recovery needs anything below, and it may be overwritten once this is here. */
    uint64_t start;
    uint64_t
        durable;    /* everything below is in w rings, and may be spilled; may lie within a frame */
    uint32_t shape; /* fp_redo_shape */
    uint32_t zero;
    uint64_t fork; /* number of the log's last fork, which slabs of this ring say more of; or 0 */
} fp_ring_owner;

_Static_assert(sizeof(fp_ring_owner) == FP_RING_LINE_BYTES, "owner's line");

typedef struct fp_ring_node {
    uint32_t magic, crc;
    uint64_t partition;
    uint64_t
        volume; /* of the storage node that the ring is spilled to; 0: there is one, but it has not been heard of */
    uint64_t spilled; /* everything below is there on stable media */
    uint64_t fork; /* of the log whose last fork has this number; of another one nothing is said */
    /* 1: nothing that the storage node has of the log counts, and log cannot help it: it needs another copy of all of it.
     * spilled is 0 then, and whoever waits for volumes does not wait for this one. */
    uint64_t worthless;
    uint8_t zero[16];
} fp_ring_node;

_Static_assert(sizeof(fp_ring_node) == FP_RING_LINE_BYTES, "node's line");

/* Which memory nodes' slabs count, by their boot ids: others may hold copies of pages that are too old. Written by the
 * owner, version n to place n % 2 of two, so that one is whole. In a log's first owner's rings there may be none. */
typedef struct fp_ring_slabs {
    uint32_t magic, crc;
    uint64_t partition;
    uint64_t epoch, version; /* the highest epoch counts, then the highest version */
    /* Copies with a lower LSN don't count: a later one, perhaps of another page with the same pid, may have been on a node
     * that is gone. */
    uint64_t trusted_from;
    uint64_t boots[FP_RING_SLABS_MAX]; /* 0: not used */
    fp_lineage lineage;                /* of the log */
} fp_ring_slabs;

_Static_assert(sizeof(fp_ring_slabs) <= FP_RING_SLABS_BYTES, "slabs");

void fp_ring_slabs_seal(fp_ring_slabs *slabs);
bool fp_ring_slabs_are_valid(const fp_ring_slabs *slabs, uint64_t partition);

/* Sets magic and crc; the other fields are set. */
void fp_ring_owner_seal(fp_ring_owner *line);
void fp_ring_node_seal(fp_ring_node *line);
/* Whether the line is whole and of that partition. Trusts nothing. */
bool fp_ring_owner_is_valid(const fp_ring_owner *line, uint64_t partition);
bool fp_ring_node_is_valid(const fp_ring_node *line, uint64_t partition);

#endif
