/* SPDX-License-Identifier: Apache-2.0 */
/* The phases of a run: load, verify, lookups, scans, mixed, verify again; each measured and checked. */
#ifndef FP_CLI_WORKLOAD_H
#define FP_CLI_WORKLOAD_H

#include <stdbool.h>

#include "compute/cli/input.h"

typedef struct cli_target {
    farpool_pool *pool;
    farpool_partition *partition;
    farpool_btree *tree;
    const cli_input *input;
    uint64_t *updates; /* per record, how often it was updated; see workload.c */
    unsigned threads;
    double seconds;        /* of each phase that has no natural end */
    double zipf;           /* skew of the Zipfian phases, 0 < theta < 1 */
    unsigned read_percent; /* of the mixed phase */
    bool quiet;            /* no progress */
} cli_target;

enum cli_phase {
    CLI_LOAD,
    CLI_VERIFY,
    CLI_UNIFORM,
    CLI_ZIPF,
    CLI_SCAN,
    CLI_MIXED,
    CLI_AGAIN, /* verifies what the mixed load left */
    CLI_PHASES
};

typedef struct cli_result {
    const char *name;
    uint64_t ops;
    double seconds;
    farpool_stats delta; /* what the pool did meanwhile */
    bool kept; /* load, mixed: not every page could be sent out afterwards (slab too small) */
} cli_result;

/* Runs one phase with progress on stderr. Every record that is read is compared with the input:
 * E_CORRUPT if it differs, with its key. After the phases that write, every page is sent out of the pool,
 * so that whoever verifies reads what came back from the memory nodes. */
int cli_phase_run(const cli_target *target, enum cli_phase phase,
                  cli_result *result) FARPOOL_MUST_CHECK;

/* A step that has no divisor in common with the count, so that steps of it meet each record once. */
size_t cli_scattering_step(size_t count);

#endif
