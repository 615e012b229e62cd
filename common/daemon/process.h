/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of any daemon: of its process, and of its server of control messages. */
#ifndef FP_COMMON_DAEMON_PROCESS_H
#define FP_COMMON_DAEMON_PROCESS_H

#include "common/daemon/server.h"
#include "common/metrics.h"

/* The names that Prometheus' own client libraries have for a process, and farpool_build_info. */
void fp_process_metrics(fp_metrics *m);
/* Under the prefix of the role, which is set. */
void fp_server_metrics(const fp_server *server, fp_metrics *m);

#endif
