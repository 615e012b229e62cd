/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A coordinator without its process (docs/coordinator.md). No threads, no waiting, no clock but its transport's: whoever
 * drives it (the daemon's loop, or a simulated world) calls fp_coordinator_step when a poller or the metastore may have
 * something, and at fp_coordinator_next_ns. All functions of one coordinator belong to one thread at a time.
 */
#ifndef FP_COORDINATOR_SERVER_H
#define FP_COORDINATOR_SERVER_H

#include "common/daemon/server.h"
#include "common/metrics.h"
#include "coordinator/metastore.h"
#include "coordinator/model.h"

typedef struct fp_coordinator_config {
    const char *name;            /* copied */
    const char *metastore;       /* its address (metastore.h) */
    const fp_meta_options *meta; /* of the metastore; may be NULL */
    uint64_t boot_id;            /* 0: random */
    const fp_auth *auth;         /* as of fp_server_open */
    fp_settings settings;        /* 0: the default of each */
    unsigned lease_ms;           /* of who leads; 0: 2000 */
} fp_coordinator_config;

enum {
    FP_HEARTBEAT_MS = 250,
    FP_GRACE_MS = 100,
    FP_LOST_MS = 2000,
    FP_REPLACE_MS = 5000,
    FP_REPLACE_STORAGE_MS = 60000,
    FP_LEASE_MS = 2000,
};

typedef struct fp_coordinator fp_coordinator;

/* Blocks as fp_meta_open. Errors: of that and of fp_server_open, E_INVAL, E_NOMEM. */
int fp_coordinator_open(const fp_coordinator_config *config,
                        fp_coordinator **coordinator) FARPOOL_MUST_CHECK;
/* Cuts all connections off. Its lease goes on until it ends, unless fp_coordinator_resign came before. */
void fp_coordinator_close(fp_coordinator *coordinator);
/* Leads no more, so that another one need not wait for the end of the lease; waits for that at most wait_ms. */
void fp_coordinator_resign(fp_coordinator *coordinator, int wait_ms);

/* As fp_server_listen. It does not try to lead before it has an address. */
int fp_coordinator_listen(fp_coordinator *coordinator, const char *uri,
                          const fp_net_options *options, const char **bound) FARPOOL_MUST_CHECK;
unsigned fp_coordinator_fds(const fp_coordinator *coordinator, int fds[FP_SERVER_NETS_MAX]);
/* The metastore, for its descriptor and its driver. */
fp_meta *fp_coordinator_meta(const fp_coordinator *coordinator);

/* Goes on with everything. Returns 1 if there may be more at once, 0 if descriptors and time may be waited for, or a
 * negative code if a transport or the metastore has become unusable. */
int fp_coordinator_step(fp_coordinator *coordinator) FARPOOL_MUST_CHECK;
/* When to step next if nothing comes, by the transport's clock. */
uint64_t fp_coordinator_next_ns(const fp_coordinator *coordinator);
uint64_t fp_coordinator_now_ns(const fp_coordinator *coordinator);

uint64_t fp_coordinator_boot_id(const fp_coordinator *coordinator);
bool fp_coordinator_leads(const fp_coordinator *coordinator);
/* Whether somebody leads, as far as is known here. */
bool fp_coordinator_knows_leader(const fp_coordinator *coordinator);
void fp_coordinator_metrics(const fp_coordinator *coordinator, fp_metrics *metrics);
/* What it knows, for its owner to look at; empty unless it leads. */
const fp_model *fp_coordinator_model(const fp_coordinator *coordinator);

#endif
