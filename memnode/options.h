/* SPDX-License-Identifier: Apache-2.0 */
/* What farpool-memnode can be told, by file and flags. */
#ifndef FP_MEMNODE_OPTIONS_H
#define FP_MEMNODE_OPTIONS_H

#include <stdio.h>

#include "common/log.h"
#include "memnode/node.h"

typedef struct fp_memnode_options {
    char listen[FP_MEMNODE_LISTENERS_MAX][FP_NET_URI_MAX];
    unsigned listen_count;
    bool listen_from_file; /* the first --listen replaces those of the file */
    uint64_t memory_bytes;
    int extent_order; /* -1: chosen */
    int numa_node;    /* -1: not bound */
    char name[FP_WIRE_TEXT_MAX + 1];
    enum fp_log_level log_level;
    int ready_fd; /* -1: none */
    char ready_file[4096];
    bool help, version;
} fp_memnode_options;

/* Command line and the file it names. Errors: E_INVAL or E_SYS with a sentence. */
int fp_memnode_options_parse(int argc, char **argv, fp_memnode_options *options) FARPOOL_MUST_CHECK;
void fp_memnode_options_help(FILE *out);

#endif
