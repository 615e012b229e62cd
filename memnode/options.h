/* SPDX-License-Identifier: Apache-2.0 */
/* What farpool-memnode can be told, by file and flags. */
#ifndef FP_MEMNODE_OPTIONS_H
#define FP_MEMNODE_OPTIONS_H

#include <stdio.h>

#include "common/daemon/daemon.h"
#include "memnode/extents.h"

typedef struct fp_memnode_options {
    fp_daemon_options daemon;
    uint64_t memory_bytes;
    int extent_order;             /* -1: chosen */
    int numa_node;                /* -1: not bound */
    char storage[FP_NET_URI_MAX]; /* empty: logs are not spilled */
} fp_memnode_options;

/* Command line and the file it names. Errors: E_INVAL or E_SYS with a sentence. */
int fp_memnode_options_parse(int argc, char **argv, fp_memnode_options *options) FARPOOL_MUST_CHECK;
void fp_memnode_options_help(FILE *out);

#endif
