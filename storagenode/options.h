/* SPDX-License-Identifier: Apache-2.0 */
/* What farpool-storagenode can be told, by file and flags. */
#ifndef FP_STORAGENODE_OPTIONS_H
#define FP_STORAGENODE_OPTIONS_H

#include <stdio.h>

#include "common/daemon/daemon.h"
#include "storagenode/server.h"

typedef struct fp_storagenode_options {
    fp_daemon_options daemon;
    char volume[4096];
    uint64_t segment_bytes; /* 0: FP_WAL_SEGMENT_BYTES */
    uint64_t layer_bytes;   /* 0: as fp_store_options */
    char peers[FP_STORAGENODE_PEERS_MAX][FP_NET_URI_MAX];
    unsigned peer_count;
} fp_storagenode_options;

/* Command line and the file it names. Errors: E_INVAL or E_SYS with a sentence. */
int fp_storagenode_options_parse(int argc, char **argv,
                                 fp_storagenode_options *options) FARPOOL_MUST_CHECK;
void fp_storagenode_options_help(FILE *out);

#endif
