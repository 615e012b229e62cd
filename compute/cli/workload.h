/* SPDX-License-Identifier: Apache-2.0 */
/* The phases of a run: load, verify, lookups, scans, mixed; each measured and checked. */
#ifndef FP_CLI_WORKLOAD_H
#define FP_CLI_WORKLOAD_H

#include <stdbool.h>

#include "compute/cli/input.h"

typedef struct cli_target {
    farpool_pool *pool;
    farpool_btree *tree;
    const cli_input *input;
    unsigned threads;
    double seconds;        /* of each phase that has no natural end */
    double zipf;           /* skew of the Zipfian phases, 0 < theta < 1 */
    unsigned read_percent; /* of the mixed phase */
    bool quiet;            /* no progress */
} cli_target;

enum cli_phase { CLI_LOAD, CLI_VERIFY, CLI_UNIFORM, CLI_ZIPF, CLI_SCAN, CLI_MIXED, CLI_PHASES };

typedef struct cli_result {
    const char *name;
    uint64_t ops;
    double seconds;
    farpool_stats delta; /* what the pool did meanwhile */
} cli_result;

/* Runs one phase with progress on stderr. Every record that is read is compared with the input:
 * E_CORRUPT if it differs, with its key. */
int cli_phase_run(const cli_target *target, enum cli_phase phase,
                  cli_result *result) FARPOOL_MUST_CHECK;

#endif
