/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the owners of a partition have found in it and written to it, one after the other, noted in a file that all of
 * them map; and whether that can be: nothing acknowledged was lost, and nobody has written after another one had taken
 * over. An owner that was only paused, and goes on later, spoils no notes but its own.
 *
 * A partition holds a tree of FAILOVER_KEYS keys. A value says who wrote it and how often that owner had written the key
 * by then. Each opening of the partition is an owner of its own, with notes of its own. It begins with reading all keys;
 * then it commits something. Once that is acknowledged, what it has read was the partition's contents, for it was the
 * owner all the time, and it may write.
 */
#ifndef FP_TESTS_LIB_FAILOVER_H
#define FP_TESTS_LIB_FAILOVER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "farpool.h"

enum {
    FAILOVER_KEYS = 1000,
    FAILOVER_OWNERS = 200,
    FAILOVER_THREADS = 2,
    FAILOVER_VALUE_BYTES = 300, /* so that the tree does not fit in the pool */
};

typedef struct failover_value {
    uint32_t owner; /* number + 1; 0: the key was not there */
    uint32_t count;
} failover_value;

typedef struct failover_owner {
    uint64_t epoch; /* of the opening */
    char process[32];
    failover_value found[FAILOVER_KEYS];
    _Atomic bool valid; /* it has all that it found, and was the owner then */
    _Atomic uint32_t tried[FAILOVER_KEYS], acked[FAILOVER_KEYS]; /* counts */
    _Atomic uint64_t acks;
    _Atomic uint64_t first_ns; /* when its first write was acknowledged; 0: not yet */
    _Atomic int ended;         /* with which code its writing ended; 0: it has not */
    _Atomic bool closed;
    char reason[300];
} failover_owner;

typedef struct failover_notes {
    _Atomic uint64_t root; /* of the tree; 0: there is none */
    _Atomic uint32_t owners;
    _Atomic uint64_t acks, retries;
    failover_owner owner[FAILOVER_OWNERS];
} failover_notes;

/* Maps the file; made is whether it is a new one. Ends the process on failure. */
failover_notes *failover_map(const char *path, bool make);

/* The valid owner with the highest epoch; NULL: there is none. */
failover_owner *failover_last(failover_notes *notes);
/* Ends the process with a message unless all is as it has to be. May be called again and again, while they go on. */
void failover_verify(failover_notes *notes);

/* A process that owns the partition when the coordinators say so, until it is killed. */
int failover_work(int argc, char **argv);

#endif
