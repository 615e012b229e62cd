/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A log ring as it lies in a memory node's memory: a control block, and behind it the log, of which byte l stands at
 * FP_RING_LOG_AT + l % log_bytes. docs/redo.md.
 *
 * The control block has a line that the partition's owner writes and one that the memory node writes. Both are 64
 * bytes in one cache line, so a one-sided WRITE or READ of a line is not torn (rule N4); one that the node's
 * processor was changing meanwhile has a wrong checksum, and is read again. Little-endian.
 *
 * A ring without a valid owner's line is blank: nothing has ever been acknowledged that only it has.
 */
#ifndef FP_COMMON_RING_H
#define FP_COMMON_RING_H

#include <stdbool.h>
#include <stdint.h>

enum {
    FP_RING_OWNER_AT = 0,
    FP_RING_SLABS_AT = 1024,
    FP_RING_NODE_AT = 2048,
    FP_RING_LOG_AT = 4096,
    FP_RING_LINE_BYTES = 64,
};

#define FP_RING_OWNER_MAGIC 0x6f526646u /* "FfRo" */
#define FP_RING_NODE_MAGIC 0x6e526646u  /* "FfRn" */

/* Each value in a ring is true from the moment it stands there on, and start and durable never fall. An owner writes
 * his line to a ring behind (rule N3) everything that he has repaired there and his first frame. So whatever frames
 * of earlier epochs are there in their places once his line is were committed. */
typedef struct fp_ring_owner {
    uint32_t magic, crc; /* crc: CRC-32C of the bytes behind it */
    uint64_t partition;
    uint64_t epoch;     /* of the owner who wrote the line */
    uint64_t log_bytes; /* a multiple of FARPOOL_UNIT_BYTES */
    uint64_t
        start; /* a frame's LSN. No recovery needs anything below; it may be overwritten once this is here */
    uint64_t durable; /* a frame's end: everything below is in w rings, and may be spilled */
    uint8_t zero[16];
} fp_ring_owner;

_Static_assert(sizeof(fp_ring_owner) == FP_RING_LINE_BYTES, "owner's line");

typedef struct fp_ring_node {
    uint32_t magic, crc;
    uint64_t partition;
    uint64_t volume; /* of the storage node that the ring is spilled to; 0: none was heard of yet */
    uint64_t spilled; /* everything below is there on stable media */
    uint8_t zero[32];
} fp_ring_node;

_Static_assert(sizeof(fp_ring_node) == FP_RING_LINE_BYTES, "node's line");

/* Sets magic and crc; the other fields are set. */
void fp_ring_owner_seal(fp_ring_owner *line);
void fp_ring_node_seal(fp_ring_node *line);
/* Whether the line is whole and of that partition. Trusts nothing. */
bool fp_ring_owner_is_valid(const fp_ring_owner *line, uint64_t partition);
bool fp_ring_node_is_valid(const fp_ring_node *line, uint64_t partition);

#endif
