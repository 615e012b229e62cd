/* SPDX-License-Identifier: Apache-2.0 */
/* The owner of a log and its rings, which lie in this process's memory, for tests of the spiller: he writes frames and
 * his line as a compute node would by one-sided WRITEs, and reads the node's. */
#ifndef FP_TESTS_LIB_RING_OWNER_H
#define FP_TESTS_LIB_RING_OWNER_H

#include "common/ring.h"
#include "tests/lib/wal_log.h"

enum { RING_COPIES_MAX = 3, RING_EXTENTS_MAX = 4 };

typedef struct ring_copy {
    void *extents[RING_EXTENTS_MAX];
    uint32_t extent_count;
    uint64_t have; /* the log's bytes below are here, or were */
} ring_copy;

typedef struct ring_owner {
    wal_log log;
    uint64_t epoch, start, durable; /* of the lines to come */
    uint64_t log_bytes, extent_bytes;
    ring_copy copies[RING_COPIES_MAX];
    unsigned copy_count;
    bool elsewhere; /* the memory is somebody else's */
} ring_owner;

/* The rings are blank; each is in pieces of extent_bytes, as many as it takes. */
void ring_owner_open(ring_owner *o, uint64_t partition, unsigned copies, uint64_t log_bytes,
                     uint64_t extent_bytes);
void ring_owner_close(ring_owner *o);
/* A frame of about so many bytes, of the current epoch, in the log; in no ring yet. */
void ring_owner_frame(ring_owner *o, size_t bytes, uint64_t salt);
/* Puts the log's bytes up to `upto` into the ring. */
void ring_owner_write(ring_owner *o, unsigned copy, uint64_t upto);
/* Writes the line with start, durable and epoch. */
void ring_owner_tell(ring_owner *o, unsigned copy);
/* Frames of `bytes` until the log has grown by so much; in all rings and durable. */
void ring_owner_grow(ring_owner *o, uint64_t more, size_t bytes);
/* The bytes of the ring from offset on: control block, then the log. */
void *ring_owner_place(const ring_owner *o, unsigned copy, uint64_t offset);
/* What the node says; false: no valid line. */
bool ring_owner_node(const ring_owner *o, unsigned copy, fp_ring_node *line);

#endif
