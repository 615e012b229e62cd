/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to another node, for whoever must not wait: connecting may block, so a thread does it, for one attempt
 * at a time; all else is of the owner's thread.
 *
 *   of the thread while `dialing`, else of the owner's   net, poller, conn, error
 *   atomic `dialed`                                      set by the thread (release) when it has done, read by the owner's
 *                                                        (acquire), which joins it
 */
#ifndef FP_COMMON_CLUSTER_DIAL_H
#define FP_COMMON_CLUSTER_DIAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/cluster/wake.h"
#include "common/kept.h"
#include "common/net/net.h"

/* Begins as zero with what the owner sets. */
typedef struct fp_dial {
    /* The owner's. */
    const fp_net_options *net_options; /* NULL, or of a simulated world: there no thread connects */
    const struct fp_auth *auth;        /* outlives it, or NULL */
    unsigned timeout_ms;               /* of an attempt; closing may have to wait for it */
    const fp_wake
        *wake; /* outlives it: its poller is added there; woken when the thread has done */
    char uri[FP_NET_URI_MAX]; /* changed only while it neither dials nor is connected */

    fp_net *net;
    fp_poller *poller;
    fp_conn *conn; /* NULL: none */
    fp_kept error; /* why there is none */
    bool dialing;
    _Atomic bool dialed;
    pthread_t thread;
} fp_dial;

/* Begins to connect; it neither dials nor is connected. */
void fp_dial_start(fp_dial *dial);
/* Connected: 1; not yet: 0; or why it is not: a code, with a sentence. 0 without its having been started: not tried. */
int fp_dial_state(fp_dial *dial);
/* Gives the connection up, for farpool_errmsg(). */
void fp_dial_cut(fp_dial *dial, int code);
void fp_dial_close(fp_dial *dial); /* waits for the thread */

#endif
