/* SPDX-License-Identifier: Apache-2.0 */
/* What a run found out, as a table for people or one JSON object. */
#ifndef FP_CLI_REPORT_H
#define FP_CLI_REPORT_H

#include "compute/cli/nodes.h"
#include "compute/cli/survive.h"
#include "compute/cli/workload.h"

typedef struct cli_report {
    const char *source, *transport, *mapping;
    const cli_input *input;
    size_t pool_bytes;
    unsigned threads;
    cli_result results[CLI_PHASES];
    unsigned count;
    bool verified;            /* a phase compared every record */
    bool kept;                /* ... but some pages had not left the pool before it */
    double node_cpu_seconds;  /* negative: unknown */
    uint64_t node_data_bytes; /* page bytes moved by the memory nodes' CPUs */
    bool survive;             /* that phase belongs to this run */
    cli_survived survived;
} cli_report;

void cli_report_table(const cli_report *report);
int cli_report_json(const cli_report *report) FARPOOL_MUST_CHECK;

#endif
