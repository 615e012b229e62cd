/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/coordalone.h"

#include <string.h>

#include "tests/lib/require.h"

#define MS ((uint64_t)1000000)
enum { LEADS_MS = 10000, ASK_MS = 5000 };

static void step(void *arg)
{
    coord_alone *a = arg;
    a->ticks = 0;
    REQUIRE(fp_coordinator_step(a->c) >= 0);
}

static void tick(void *arg)
{
    coord_alone *a = arg;
    a->ticks = 1;
    fp_sim_at(a->world, fp_sim_now_ns(a->world) + MS, tick, a);
}

static void start(coord_alone *a)
{
    const char *bound;
    const fp_meta_options meta = {.service = a->service};
    const fp_coordinator_config config = {
        .name = "k", .metastore = "sim:k", .meta = &meta, .boot_id = ++a->boots, .auth = a->auth};
    test_must(fp_coordinator_open(&config, &a->c), "coordinator");
    a->net = (fp_net_options){.world = a->world, .node = "k", .auth = a->auth};
    test_must(fp_coordinator_listen(a->c, COORDINATOR_URI, &a->net, &bound), "its address");
}

static void await_leading(coord_alone *a)
{
    for (unsigned ms = 0; !fp_coordinator_leads(a->c); ms++) {
        REQUIRE(ms < LEADS_MS);
        coord_alone_pass(a, 1);
    }
}

void coord_alone_restart(coord_alone *a)
{
    fp_meta_sim_crash(fp_coordinator_meta(a->c));
    fp_sim_crash(a->world, "k");
    fp_coordinator_close(a->c);
    start(a);
    await_leading(a);
}

void coord_alone_open(coord_alone *a, uint64_t seed, const fp_auth *auth)
{
    const fp_sim_config world = {0};
    const fp_meta_sim_config store = {0};
    memset(a, 0, sizeof *a);
    test_must(fp_sim_world_open(seed, &world, &a->world), "world");
    test_must(fp_meta_service_open(a->world, &store, &a->service), "service");
    a->clock_net = (fp_net_options){.world = a->world, .node = "clock"};
    test_must(fp_net_open("sim://clock", &a->clock_net, &a->clock), "clock");
    test_must(fp_net_poller_open(a->clock, &a->poller), "clock");
    a->auth = auth;
    start(a);
    a->source = (fp_sim_source){.ready = &a->ticks, .driver = step, .driver_arg = a};
    fp_sim_source_add(a->world, &a->source);
    fp_sim_at(a->world, fp_sim_now_ns(a->world) + MS, tick, a);
    await_leading(a);
}

void coord_alone_close(coord_alone *a)
{
    fp_sim_source_remove(a->world, &a->source);
    fp_sim_forget(a->world, a);
    fp_coordinator_close(a->c);
    fp_net_poller_close(a->poller);
    fp_net_close(a->clock);
    fp_meta_service_close(a->service);
    fp_sim_world_close(a->world);
}

void coord_alone_pass(coord_alone *a, unsigned ms)
{
    uint64_t until = fp_sim_now_ns(a->world) + ms * MS;
    while (fp_sim_now_ns(a->world) < until) {
        fp_net_event event;
        REQUIRE(fp_net_poll(a->poller, &event, 1, 1) == 0);
    }
}

fp_agent *coord_alone_client(coord_alone *a, const char *name, const fp_auth *auth,
                             fp_net_options *net, const char *node)
{
    fp_agent *agent;
    *net = (fp_net_options){.world = a->world, .node = node};
    const fp_agent_config config = {
        .coordinators = COORDINATOR_URI, .name = name, .auth = auth, .net = net};
    test_must(fp_agent_open(&config, &agent), "agent");
    return agent;
}

int coord_alone_ask(fp_agent *client, json_t *call)
{
    json_t *answer = NULL;
    int rc = fp_agent_call(client, call, ASK_MS, &answer);
    json_decref(answer);
    return rc;
}
