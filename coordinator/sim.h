/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated metastore: a service in a simulated world (common/net/sim.h), on virtual time, and stores opened on it
 * with options.service. Every delay, loss and unknown outcome is drawn from the world's seed. The service is one
 * consistent store that does not die; what its clients see of it is as bad as the contract allows.
 */
#ifndef FP_COORDINATOR_SIM_H
#define FP_COORDINATOR_SIM_H

#include "common/net/sim.h"
#include "coordinator/metastore.h"

typedef struct fp_meta_service fp_meta_service;

typedef struct fp_meta_sim_config {
    uint64_t latency_min_ns, latency_max_ns; /* of a request or an answer; 0, 0: 0.2 to 3 ms */
    uint32_t loss_per_million;               /* of requests, and of answers */
    uint32_t
        slow_per_million; /* chance that one takes slow_ns longer, and may come after its timeout */
    uint64_t slow_ns;
    uint32_t no_leader_per_million; /* chance of E_NODE */
    uint32_t full_per_million;      /* chance of E_NOSPACE */
    uint64_t lease_late_ns;         /* a lease ends up to so much later than it could; 0: 2 s */
    uint64_t history;               /* revisions kept; 0: 10000 */
} fp_meta_sim_config;

/* Errors: E_NOMEM. */
int fp_meta_service_open(fp_sim_world *world, const fp_meta_sim_config *config,
                         fp_meta_service **service) FARPOOL_MUST_CHECK;
/* All its stores are closed. */
void fp_meta_service_close(fp_meta_service *service);

/* Called, while another node waits, when the store has something to give; polls it with timeout 0. */
void fp_meta_sim_set_driver(fp_meta *meta, void (*driver)(void *arg), void *arg);

/* ---- faults: from now on; may be called from fp_sim_at ----------------------------------------- */

void fp_meta_service_configure(fp_meta_service *service, const fp_meta_sim_config *config);
/* Every lease begins anew. */
void fp_meta_service_change_leader(fp_meta_service *service);
/* The history before the newest revision is gone. */
void fp_meta_service_compact(fp_meta_service *service);
/* Nothing reaches the service, or the store, until it is healed. */
void fp_meta_sim_cut(fp_meta *meta, bool cut);
/* The store's node has lost its power: it calls nothing until fp_meta_close does. What it had sent may still arrive. */
void fp_meta_sim_crash(fp_meta *meta);

#endif
