/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has to be true of a simulated cluster at every moment, checked at every step of its world, by looking into the
 * memory of memory nodes and at the durable part of media: not only after a crash that happens to show it. A partition
 * with a redo log and its storage nodes; docs/redo.md, docs/storage.md.
 *
 *   A  what the owner says is durable (fp_redo_log.durable) is in w rings, byte by byte; rings of nodes that have crashed
 *      since are believed
 *   B  a new owner's log begins with all that was ever durable so; one that was recovered from storage nodes, with all
 *      that was durable there
 *   C  no page is written to a slab whose LSN is above what is durable (WAL before page)
 *   D  what a memory node's line says is spilled, of the log with its last fork, is in the durable files of that volume's WAL, byte by byte
 *   E  what the owner says is stored (fp_redo_log.stored) is so on storage_quorum volumes
 *   F  when the log's start moves, all before it is so on the volume of each ring that the owner has not lost, but those
 *      that it had left behind before; where half of a ring is in use, on storage_quorum volumes and one at least
 *   G  the floor, below which rings are used again, is at most the start that the line in each such ring says, and no
 *      WRITE to a ring touches what its own line says is needed
 *   H  start, durable and epoch of a ring's line never fall; no line, and no page, of an owner before the one to whom the
 *      node has granted arrives; a node's epoch never falls
 *   I  a durable manifest names durable layers; the WAL is not trimmed behind where they end; a manifest that the page
 *      store takes for durable is
 *
 * A failure ends the process by way of model_fail, with the letter.
 */
#ifndef FP_TESTS_LIB_SIMWATCH_H
#define FP_TESTS_LIB_SIMWATCH_H

#include "compute/redo_log.h"
#include "tests/lib/simpool.h"
#include "tests/lib/teststorage.h"

enum { SIM_WATCH_STORAGES_MAX = 8 };

/* As far as a memory node has been looked at. */
typedef struct sim_watch_node {
    uint64_t boot_id, epoch; /* what it has granted, since that boot */
    uint64_t trusted_boot;   /* when the owner's set was made: its acknowledgements are checked */
    fp_ring_owner owner;     /* the lines in its ring; magic 0: none */
    fp_ring_node line;
} sim_watch_node;

typedef struct sim_watch_volume {
    uint64_t proved; /* so far its durable WAL has been compared with the log */
    uint64_t dir_version, wal_start, claimed;
} sim_watch_volume;

typedef struct sim_watch {
    sim_setup *sim; /* set by the caller, as is all until: */
    sim_storage *storages;
    unsigned storage_count, storage_quorum;
    uint64_t partition;
    fp_redo_log *log; /* the owner's; NULL: nobody has opened it, or he is about to close it */
    uint64_t since;   /* epoch under which somebody has begun to open it last */
    bool fallen;      /* somebody has asked for what storage nodes have: a log's start may fall */
    /* All that was ever durable in memory: byte l is bytes[l], from `from` to `end`. */
    uint8_t *bytes;
    uint64_t from, end, room;
    uint64_t stored_end;                    /* of it on storage_quorum volumes */
    uint64_t durable, start, floor, stored; /* the owner's, when it was looked at last */
    sim_watch_node nodes[SIM_NODES_MAX];
    sim_watch_volume volumes[SIM_WATCH_STORAGES_MAX];
} sim_watch;

void sim_watch_begin(sim_watch *w);
void sim_watch_end(sim_watch *w);

/* Somebody is about to open the partition under this epoch; from now on nobody has it. */
void sim_watch_opening(sim_watch *w, uint64_t epoch, bool stored);
/* Somebody has. */
void sim_watch_opened(sim_watch *w, fp_redo_log *log);
/* The owner has been given other nodes. */
void sim_watch_changed(sim_watch *w);
/* Now, before time passes: something has been acknowledged up to this LSN, or nothing (0). */
void sim_watch_look(sim_watch *w, uint64_t acked, uint64_t stored);

#endif
