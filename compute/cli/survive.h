/* SPDX-License-Identifier: Apache-2.0 */
/* The demo's phase "survive": processes are killed under load, and every acknowledged record has to be there. */
#ifndef FP_CLI_SURVIVE_H
#define FP_CLI_SURVIVE_H

#include "compute/cli/input.h"

enum { CLI_SURVIVE_NODES = 3, CLI_SURVIVE_QUORUM = 2 };

typedef struct cli_survive {
    const cli_input *input;
    const char *transport, *host; /* of the nodes that it starts */
    uint64_t pool_bytes;
    uint64_t slab_bytes; /* that all records need */
    double seconds;      /* of writing before each kill */
    unsigned threads;
    bool vm;    /* mapping */
    bool quiet; /* no progress */
} cli_survive;

/* What there was after one kill. */
typedef struct cli_comeback {
    uint64_t writes;         /* acknowledged before the kill; of a memory node: after it */
    uint64_t records;        /* with at least one acknowledged write: all compared */
    uint64_t from_storage;   /* pages that came from the storage node for that */
    double open_ms;          /* until the partition was open; from the beginning of that, as is */
    double first_ms;         /* ... until the first record was read. Not of a memory node */
    double compared_seconds; /* for reading and comparing all records */
    double
        pause_ms; /* of a memory node: longest time between two acknowledgements, from before the kill on */
    double taken_ms; /* of a memory node: for taking it in again, */
    double
        filled_seconds; /* and from then on until it had all pages again; 0: it had not while there were writes */
} cli_comeback;

typedef struct cli_survived {
    bool ran;
    char left_out[512]; /* if it did not run: why, a sentence */
    cli_comeback compute, memnode, all;
} cli_survived;

/* Starts memory nodes with log rings and a storage node, on a volume in $TMPDIR (or /tmp) that is removed at the
 * end, and compute processes that write the records of the input, which are killed with kill -9: first one of these,
 * then a memory node while the next one writes, which takes it in again, then another memory node, then all of them. Each time every record is compared with what was
 * acknowledged. No pool may have been open in this process, for it forks. If the storage node does not
 * start here, survived->left_out says so, and 0 is returned. E_CORRUPT: a record is not as it was acknowledged;
 * or any error that stopped a process. */
int cli_survive_run(const cli_survive *plan, cli_survived *survived) FARPOOL_MUST_CHECK;

#endif
