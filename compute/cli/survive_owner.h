/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the demo's phase "survive": what its processes share, and those that open the partition. */
#ifndef FP_CLI_SURVIVE_OWNER_H
#define FP_CLI_SURVIVE_OWNER_H

#include <stdatomic.h>

#include "compute/cli/nodes.h"
#include "compute/cli/survive.h"

typedef struct note {
    _Atomic uint32_t tried, acknowledged; /* numbers of writes */
} note;

typedef struct notes {
    _Atomic unsigned reached;  /* the owner has come so far: number of comparisons done */
    _Atomic bool writing;      /* it writes */
    _Atomic bool enough;       /* it shall stop writing, and go on */
    _Atomic bool take_in;      /* it shall take memory nodes in that are back, while it writes */
    _Atomic uint64_t taken_ns; /* how long that took */
    _Atomic uint64_t
        filled_ns; /* and then until all pages were there; 0: they were not before it had written enough */
    _Atomic uint64_t acknowledged;
    _Atomic uint64_t last_ns, pause_ns; /* of acknowledgements */
    farpool_pid root;
    cli_comeback found; /* by the comparison done last */
    int rc;             /* it has failed: with this */
    char message[512];
    note records[];
} notes;

typedef struct survive {
    const cli_survive *plan;
    notes *notes;
    size_t notes_bytes;
    char volume[256];
    cli_nodes memnodes, storage;
    uint64_t slab_bytes, ring_bytes;
    size_t longest; /* value, with its number */
    size_t step;    /* of the scattered order */
    uint64_t epoch; /* of the owner that is running, or was last */
    pid_t owner;    /* 0: none */
} survive;

/* In a process of its own: opens the partition, compares, writes, ends the process. Which owner it is tells
 * s->epoch: 1, 2, or later, for another set of memory nodes takes an epoch, too. */
_Noreturn void cli_survive_own(survive *s);
/* Bytes of a record's value that are written, the number not counted. */
size_t cli_survive_length(const cli_record *record);

#endif
