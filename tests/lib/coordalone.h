/* SPDX-License-Identifier: Apache-2.0 */
/* One coordinator over a metastore in a simulated world, and clients of it. It is stepped every millisecond. Failures end
 * the process. */
#ifndef FP_TESTS_LIB_COORDALONE_H
#define FP_TESTS_LIB_COORDALONE_H

#include "common/cluster/agent.h"
#include "common/net/sim_device.h"
#include "coordinator/server.h"
#include "coordinator/sim.h"

#define COORDINATOR_URI "sim://k"

typedef struct coord_alone {
    fp_sim_world *world;
    fp_meta_service *service;
    fp_coordinator *c;
    fp_net_options net, clock_net;
    fp_net *clock;
    fp_poller *poller;
    fp_sim_source source;
    size_t ticks;
    const fp_auth *auth;
    uint64_t boots;
} coord_alone;

/* It leads. auth: NULL, or the secret. */
void coord_alone_open(coord_alone *a, uint64_t seed, const fp_auth *auth);
void coord_alone_close(coord_alone *a);
/* It dies, and another process leads, over what was kept. */
void coord_alone_restart(coord_alone *a);
void coord_alone_pass(coord_alone *a, unsigned ms);

/* Someone of that name, at a node `node` of the world: an agent that asks. net is to outlive it. */
fp_agent *coord_alone_client(coord_alone *a, const char *name, const fp_auth *auth,
                             fp_net_options *net, const char *node);
/* Asks, waits, forgets the answer: the status. Takes call. */
int coord_alone_ask(fp_agent *client, json_t *call);

#endif
