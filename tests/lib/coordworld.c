/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/coordworld.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/require.h"

static const char uris[] = "sim://k0,sim://k1,sim://k2";

uint64_t cw_now(const cw *w) { return fp_sim_now_ns(w->world); }

uint64_t cw_draw(cw *w, uint64_t below)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return w->random % below;
}

/* ---- coordinators ---------------------------------------------------------------------------- */

void cw_coordinator_start(cw *w, cw_coordinator *k)
{
    char store[32];
    const char *bound;
    const fp_meta_options meta = {.service = w->service, .timeout_ms = 300};
    const fp_coordinator_config config = {.name = k->name,
                                          .metastore = store,
                                          .meta = &meta,
                                          .boot_id = ++w->boots,
                                          .settings = {.replace_storage_ms = 6000},
                                          .lease_ms = 1000};
    snprintf(store, sizeof store, "sim:%s", k->name);
    test_must(fp_coordinator_open(&config, &k->c), "coordinator");
    k->net = (fp_net_options){.world = w->world, .node = k->name};
    test_must(fp_coordinator_listen(k->c, k->uri, &k->net, &bound), "its address");
    k->up = true;
    k->paused_until_ns = 0;
}

void cw_coordinator_crash(cw *w, cw_coordinator *k)
{
    if (!k->up)
        return;
    fp_meta_sim_crash(fp_coordinator_meta(k->c));
    fp_sim_crash(w->world, k->name);
    fp_coordinator_close(k->c);
    k->c = NULL;
    k->up = false;
}

cw_coordinator *cw_leader(cw *w)
{
    cw_coordinator *leader = NULL;
    for (unsigned i = 0; i < CW_COORDINATORS; i++) {
        cw_coordinator *k = &w->coordinators[i];
        if (!k->up || !fp_coordinator_leads(k->c))
            continue;
        uint64_t term = fp_coordinator_model(k->c)->term;
        if (!leader || term > fp_coordinator_model(leader->c)->term)
            leader = k;
    }
    return leader;
}

/* 4: what the one who leads last says is what is kept. */
static void check_epochs(cw *w)
{
    cw_coordinator *leader = cw_leader(w);
    if (!leader)
        return;
    const fp_model *model = fp_coordinator_model(leader->c);
    if (model->term < w->term)
        return;
    w->term = model->term;
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part_record *r = &model->parts[i]->r;
        REQUIRE(r->id < CW_PARTS);
        cw_truth *truth = &w->truth[r->id];
        REQUIRE(r->epoch >= truth->epoch);
        REQUIRE(!truth->name[0] || !strcmp(truth->name, r->name));
        snprintf(truth->name, sizeof truth->name, "%.31s", r->name);
        truth->epoch = r->epoch;
        if (r->stored)
            truth->vouched = r->epoch;
    }
}

/* ---- nodes ----------------------------------------------------------------------------------- */

void cw_node_start(cw_node *node)
{
    cw *w = node->world;
    const fp_agent_config config = {.coordinators = uris,
                                    .name = node->name,
                                    .net = &node->net,
                                    .card = cw_node_card,
                                    .actual = cw_node_actual,
                                    .duties = cw_node_duties,
                                    .owner = node};
    node->net = (fp_net_options){.world = w->world, .node = node->name};
    node->boot_id = ++w->boots;
    node->up = true;
    node->paused_until_ns = 0;
    if (node->role != FP_ROLE_STORAGE)
        memset(node->held, 0, sizeof node->held);
    test_must(fp_agent_open(&config, &node->agent), "agent");
}

void cw_node_crash(cw_node *node)
{
    if (!node->up)
        return;
    fp_sim_crash(node->world->world, node->name);
    fp_agent_close(node->agent);
    node->agent = NULL;
    node->up = false;
}

/* ---- all ------------------------------------------------------------------------------------- */

static void add_nodes(cw *w, enum fp_role role, unsigned count, const char *prefix, unsigned *at)
{
    for (unsigned i = 0; i < count; i++) {
        cw_node *node = &w->nodes[(*at)++];
        *node = (cw_node){.world = w, .role = role, .number = i};
        snprintf(node->name, sizeof node->name, "%s%u", prefix, i);
        snprintf(node->zone, sizeof node->zone, "z%u", i % 3);
        cw_node_start(node);
    }
}

static void step_all(void *arg)
{
    cw *w = arg;
    uint64_t now = cw_now(w);
    w->ticks = 0;
    for (unsigned i = 0; i < CW_COORDINATORS; i++) {
        cw_coordinator *k = &w->coordinators[i];
        if (k->up && now >= k->paused_until_ns)
            REQUIRE(fp_coordinator_step(k->c) >= 0);
    }
    check_epochs(w);
    for (unsigned i = 0; i < CW_NODES; i++) {
        cw_node *node = &w->nodes[i];
        if (!node->up || now < node->paused_until_ns)
            continue;
        fp_agent_step(node->agent);
        cw_node_step(node);
    }
    fp_agent_step(w->person);
}

static void tick(void *arg)
{
    cw *w = arg;
    w->ticks = 1;
    fp_sim_at(w->world, cw_now(w) + CW_MS, tick, w);
}

void cw_open(cw *w, uint64_t seed)
{
    const fp_sim_config config = {0};
    const fp_meta_sim_config store = {.loss_per_million = 5000,
                                      .slow_per_million = 10000,
                                      .slow_ns = 500 * (uint64_t)CW_MS,
                                      .no_leader_per_million = 5000};
    memset(w, 0, sizeof *w);
    w->random = seed * 2654435761u + 1;
    w->fail_percent = 15;
    test_must(fp_sim_world_open(seed, &config, &w->world), "world");
    test_must(fp_meta_service_open(w->world, &store, &w->service), "service");
    w->clock_options = (fp_net_options){.world = w->world, .node = "clock"};
    test_must(fp_net_open("sim://clock", &w->clock_options, &w->clock_net), "clock");
    test_must(fp_net_poller_open(w->clock_net, &w->clock), "clock");
    for (unsigned i = 0; i < CW_COORDINATORS; i++) {
        cw_coordinator *k = &w->coordinators[i];
        snprintf(k->name, sizeof k->name, "k%u", i);
        snprintf(k->uri, sizeof k->uri, "sim://k%u", i);
        cw_coordinator_start(w, k);
    }
    w->source = (fp_sim_source){.ready = &w->ticks, .driver = step_all, .driver_arg = w};
    fp_sim_source_add(w->world, &w->source);
    fp_sim_at(w->world, cw_now(w) + CW_MS, tick, w);
    unsigned at = 0;
    add_nodes(w, FP_ROLE_MEMORY, CW_MEMORY, "m", &at);
    add_nodes(w, FP_ROLE_STORAGE, CW_STORAGE, "s", &at);
    add_nodes(w, FP_ROLE_COMPUTE, CW_COMPUTE, "c", &at);
    w->person_net = (fp_net_options){.world = w->world, .node = "person"};
    const fp_agent_config person = {.coordinators = uris, .name = "person", .net = &w->person_net};
    test_must(fp_agent_open(&person, &w->person), "person");
}

void cw_close(cw *w)
{
    fp_sim_source_remove(w->world, &w->source);
    fp_sim_forget(w->world, w);
    fp_agent_close(w->person);
    for (unsigned i = 0; i < CW_NODES; i++)
        cw_node_crash(&w->nodes[i]);
    for (unsigned i = 0; i < CW_COORDINATORS; i++)
        cw_coordinator_crash(w, &w->coordinators[i]);
    fp_net_poller_close(w->clock);
    fp_net_close(w->clock_net);
    fp_meta_service_close(w->service);
    fp_sim_world_close(w->world);
}

void cw_pass(cw *w, unsigned ms)
{
    uint64_t until = cw_now(w) + ms * (uint64_t)CW_MS;
    while (cw_now(w) < until) {
        fp_net_event event;
        REQUIRE(fp_net_poll(w->clock, &event, 1, 1) == 0);
    }
}

static void answered(void *arg, int status, const json_t *answer)
{
    (void)arg;
    (void)status;
    (void)answer;
}

void cw_ask(cw *w, json_t *call) { fp_agent_ask(w->person, call, 2000, answered, w); }
