/* SPDX-License-Identifier: Apache-2.0 */
/* Memory nodes, and a storage node, that a command starts for itself and stops at its end. */
#ifndef FP_CLI_NODES_H
#define FP_CLI_NODES_H

#include <stdint.h>
#include <sys/types.h>

#include "common/wire.h"
#include "farpool.h"

enum { CLI_NODES_MAX = 16 };

typedef struct cli_nodes {
    const char *uris[CLI_NODES_MAX];
    pid_t pids[CLI_NODES_MAX]; /* 0: not ours, or killed */
    unsigned count;
    char texts[CLI_NODES_MAX][256]; /* of uris, if they are ours */
    uint64_t bytes_each;
    const char *storage; /* URI of the storage node to which they spill, or NULL */
    const char *volume;  /* then they are storage nodes; else NULL */
    fp_auth *auth;       /* for those that are not ours and have a secret, or NULL */
} cli_nodes;

#define CLI_NAME "farpool" /* ours, to nodes */

/* Starts farpool-memnode (which stands beside this program) count times, with so many bytes each. host:
 * where to listen, for tcp and verbs. storage (or NULL) is used until cli_nodes_stop. Waits until they serve. */
int cli_nodes_start(cli_nodes *nodes, unsigned count, const char *transport, const char *host,
                    uint64_t bytes_each, const char *storage) FARPOOL_MUST_CHECK;
/* The same for one farpool-storagenode on a volume, whose path is used until cli_nodes_stop. */
int cli_storage_start(cli_nodes *nodes, const char *transport, const char *host,
                      const char *volume) FARPOOL_MUST_CHECK;
/* kill -9 of one that is ours; waits until it is gone. */
void cli_nodes_kill(cli_nodes *nodes, unsigned i);
/* Starts one that was killed again, at the address that it had. */
int cli_nodes_restart(cli_nodes *nodes, unsigned i) FARPOOL_MUST_CHECK;
void cli_nodes_stop(cli_nodes *nodes);

/* CPU time used so far by those that are ours, in seconds; negative: they are not ours, so unknown. */
double cli_nodes_cpu(const cli_nodes *nodes);
/* Asks a node of either kind for USAGE: msg->usage. auth may be NULL. */
int cli_node_usage(const char *uri, const fp_auth *auth, fp_msg *msg) FARPOOL_MUST_CHECK;
/* Page bytes that their CPUs have moved, asked from the nodes; negative code if one does not say. */
int cli_nodes_data_bytes(const cli_nodes *nodes, uint64_t *bytes) FARPOOL_MUST_CHECK;

#endif
