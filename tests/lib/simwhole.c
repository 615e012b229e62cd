/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/simwhole.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/server.h"
#include "memnode/node.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"

enum { CONVERT_BYTES = 32 << 10, META_MS = 300, LEASE_MS = 1000 };

static const fp_settings settings = {.heartbeat_ms = 100,
                                     .grace_ms = 100,
                                     .lost_ms = 400,
                                     .replace_ms = WHOLE_REPLACE_MS,
                                     .replace_storage_ms = 2500};

uint64_t whole_now(const whole *w) { return fp_sim_now_ns(w->sim.world); }
uint64_t whole_draw(whole *w, uint64_t below) { return test_random(&w->random) % below; }
void whole_note(whole *w, uint64_t what) { w->hash = (w->hash ^ what) * 0x100000001B3ull; }
void whole_pass(whole *w, unsigned ms) { sim_pass(&w->sim, ms); }

/* ---- coordinators ---------------------------------------------------------------------------- */

void whole_coordinator_start(whole *w, whole_coordinator *k)
{
    char store[24];
    const char *bound;
    const fp_meta_options meta = {.service = w->service, .timeout_ms = META_MS};
    const fp_coordinator_config config = {.name = k->name,
                                          .metastore = store,
                                          .meta = &meta,
                                          .boot_id = ++w->boots,
                                          .settings = settings,
                                          .lease_ms = LEASE_MS};
    if (k->c)
        return;
    snprintf(store, sizeof store, "sim:%s", k->name);
    test_must(fp_coordinator_open(&config, &k->c), "coordinator");
    k->net = (fp_net_options){.world = w->sim.world, .node = k->name};
    test_must(fp_coordinator_listen(k->c, k->uri, &k->net, &bound), "its address");
    k->paused_until_ns = 0;
}

void whole_coordinator_crash(whole *w, whole_coordinator *k)
{
    if (!k->c)
        return;
    fp_meta_sim_crash(fp_coordinator_meta(k->c));
    fp_sim_crash(w->sim.world, k->name);
    fp_coordinator_close(k->c);
    k->c = NULL;
}

whole_coordinator *whole_leader(whole *w)
{
    whole_coordinator *leader = NULL;
    for (unsigned i = 0; i < w->coordinator_count; i++) {
        whole_coordinator *k = &w->coordinators[i];
        if (!k->c || !fp_coordinator_leads(k->c))
            continue;
        if (!leader || fp_coordinator_model(k->c)->term > fp_coordinator_model(leader->c)->term)
            leader = k;
    }
    return leader;
}

/* 7 */
static void check_kept(whole *w)
{
    whole_coordinator *leader = whole_leader(w);
    const fp_model *model = leader ? fp_coordinator_model(leader->c) : NULL;
    if (!model || model->term < w->term)
        return;
    w->term = model->term;
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part_record *r = &model->parts[i]->r;
        MODEL_CHECK(r->id >= 1 && r->id <= w->part_count);
        whole_truth *t = &w->truth[r->id - 1];
        MODEL_CHECK(r->epoch >= t->kept && r->epoch >= t->opened);
        t->kept = r->epoch;
    }
}

/* ---- memory and storage nodes ---------------------------------------------------------------- */

static json_t *card(void *arg)
{
    const whole_member *m = arg;
    char boot[17], uri[32], zone[16];
    snprintf(boot, sizeof boot, "%016" PRIx64, m->boot_id);
    snprintf(uri, sizeof uri, "sim://%s", m->name);
    snprintf(zone, sizeof zone, "z%u", m->number % 3);
    return json_pack("{s:s, s:s, s:s, s:[s], s:s, s:s, s:I, s:b}", "role",
                     m->is_storage ? "storage" : "memory", "name", m->name, "boot_id", boot, "uris",
                     uri, "zone", zone, "host", m->name, "bytes", (json_int_t)1 << 30, "standby",
                     0);
}

static json_t *actual(void *arg)
{
    const whole_member *m = arg;
    return m->is_storage ? fp_storagenode_actual(m->world->storages[m->number].node)
                         : fp_memnode_actual(m->world->sim.nodes[m->number].memnode);
}

static void note_raised(whole *w, unsigned i)
{
    const fp_memnode *node = w->sim.nodes[i].memnode;
    for (uint32_t f = 0; f < node->fence_count; f++) {
        MODEL_CHECK(node->fences[f].partition <= w->part_count);
        uint64_t *raised = &w->truth[node->fences[f].partition - 1].raised[i];
        *raised = node->fences[f].epoch > *raised ? node->fences[f].epoch : *raised;
    }
}

/* 6 */
static void check_granted(whole *w, unsigned i)
{
    const fp_memnode *node = w->sim.nodes[i].memnode;
    for (const fp_grant *g = node->grants; g; g = g->next) {
        MODEL_CHECK(g->partition >= 1 && g->partition <= w->part_count);
        uint64_t *granted = &w->truth[g->partition - 1].granted[i][g->use];
        MODEL_CHECK(g->epoch >= *granted);
        *granted = g->epoch;
    }
}

static void duties(void *arg, const json_t *told)
{
    whole_member *m = arg;
    whole *w = m->world;
    json_int_t term = json_integer_value(json_object_get(told, "term"));
    MODEL_CHECK(term >= m->term); /* 7 */
    m->term = term;
    if (m->is_storage) {
        fp_storagenode_duties(w->storages[m->number].node, told);
    } else {
        fp_memnode_duties(w->sim.nodes[m->number].memnode, told);
        note_raised(w, m->number);
    }
    fp_agent_changed(m->agent);
}

static void member_open(whole_member *m)
{
    whole *w = m->world;
    const fp_agent_config config = {.coordinators = w->coordinator_uris,
                                    .name = m->name,
                                    .net = &m->net,
                                    .card = card,
                                    .actual = actual,
                                    .duties = duties,
                                    .owner = m};
    m->net = (fp_net_options){.world = w->sim.world, .node = m->name};
    m->boot_id = m->is_storage ? w->storages[m->number].boot_id : w->sim.nodes[m->number].boot_id;
    m->paused_until_ns = 0;
    m->term = 0;
    test_must(fp_agent_open(&config, &m->agent), "agent");
}

static void member_close(whole_member *m)
{
    fp_agent_close(m->agent);
    m->agent = NULL;
}

static bool is_up(const whole_member *m)
{
    if (!m->is_storage)
        return !m->world->sim.nodes[m->number].lost;
    const sim_storage *s = &m->world->storages[m->number];
    return s->serves && !s->lost && !s->opening;
}

/* A storage node that is in the midst of a step is not asked what it has. */
static void member_step(whole_member *m)
{
    if (is_up(m) && !m->agent)
        member_open(m);
    bool driven = m->is_storage && m->world->storages[m->number].driven;
    if (m->agent && !driven && whole_now(m->world) >= m->paused_until_ns)
        (void)fp_agent_step(m->agent);
}

void whole_memory_crash(whole *w, unsigned i)
{
    if (w->sim.nodes[i].lost)
        return;
    sim_node_crash(&w->sim.nodes[i]);
    member_close(&w->memory[i]);
    for (unsigned part = 0; part < w->part_count; part++)
        memset(w->truth[part].granted[i], 0, sizeof w->truth[part].granted[i]);
}

void whole_memory_back(whole *w, unsigned i)
{
    sim_node *node = &w->sim.nodes[i];
    if (node->lost && sim_node_restart(node))
        node->lost = false;
}

void whole_storage_crash(whole *w, unsigned i)
{
    if (w->storages[i].lost)
        return;
    sim_storage_crash(&w->storages[i]);
    member_close(&w->storage[i]);
}

void whole_storage_back(whole *w, unsigned i)
{
    if (w->storages[i].lost && !w->closing)
        sim_storage_restart(&w->storages[i]);
}

/* Also its clock wants something now and then. May wait. */
static void tick_storages(void *arg)
{
    whole *w = arg;
    for (unsigned i = 0; i < w->storage_count; i++)
        sim_storage_step(&w->storages[i]);
    fp_sim_at(w->sim.world, whole_now(w) + 2 * WHOLE_MS, tick_storages, w);
}

bool whole_is_stepping(const whole *w)
{
    bool stepping = false;
    for (unsigned i = 0; i < w->sim.node_count; i++)
        stepping |= w->sim.nodes[i].in_step;
    for (unsigned i = 0; i < w->storage_count; i++)
        stepping |= w->storages[i].driven || w->storages[i].opening;
    return stepping;
}

/* ---- all ------------------------------------------------------------------------------------- */

static void step_all(void *arg)
{
    whole *w = arg;
    w->ticks = 0;
    for (unsigned i = 0; i < w->coordinator_count; i++) {
        whole_coordinator *k = &w->coordinators[i];
        if (k->c && whole_now(w) >= k->paused_until_ns)
            MODEL_CHECK(fp_coordinator_step(k->c) >= 0);
    }
    check_kept(w);
    for (unsigned i = 0; i < w->sim.node_count; i++) {
        member_step(&w->memory[i]);
        if (!w->sim.nodes[i].lost)
            check_granted(w, i);
    }
    for (unsigned i = 0; i < w->storage_count; i++)
        member_step(&w->storage[i]);
    for (unsigned i = 0; i < w->compute_count; i++)
        whole_compute_talk(&w->computes[i]);
    (void)fp_agent_step(w->person);
}

static void tick(void *arg)
{
    whole *w = arg;
    w->ticks = 1;
    fp_sim_at(w->sim.world, whole_now(w) + WHOLE_MS, tick, w);
}

static void answered(void *arg, int status, const json_t *answer)
{
    (void)arg;
    (void)status;
    (void)answer;
}

void whole_ask(whole *w, json_t *call) { fp_agent_ask(w->person, call, 1000, answered, w); }

static void open_coordinators(whole *w)
{
    static const fp_meta_sim_config store = {.loss_per_million = 5000,
                                             .slow_per_million = 10000,
                                             .slow_ns = 400 * (uint64_t)WHOLE_MS,
                                             .no_leader_per_million = 5000,
                                             .lease_late_ns = 300 * (uint64_t)WHOLE_MS};
    test_must(fp_meta_service_open(w->sim.world, &store, &w->service), "service");
    for (unsigned i = 0; i < w->coordinator_count; i++) {
        whole_coordinator *k = &w->coordinators[i];
        k->world = w;
        snprintf(k->name, sizeof k->name, "k%u", i);
        snprintf(k->uri, sizeof k->uri, "sim://k%u", i);
        size_t used = strlen(w->coordinator_uris);
        snprintf(w->coordinator_uris + used, sizeof w->coordinator_uris - used, "%s%s",
                 used ? "," : "", k->uri);
        whole_coordinator_start(w, k);
    }
}

void whole_open(whole *w)
{
    const fp_sim_config config = {.torn = w->seed % 5 != 0, .late = w->seed % 3 != 0};
    unsigned memory = 3 + (unsigned)whole_draw(w, SIM_NODES_MAX - 2);
    w->coordinator_count = 1 + (unsigned)whole_draw(w, WHOLE_COORDINATORS);
    w->storage_count = 2 + (unsigned)whole_draw(w, WHOLE_STORAGES - 1);
    w->compute_count = 2 + (unsigned)whole_draw(w, WHOLE_COMPUTES - 1);
    w->part_count = whole_draw(w, 3) ? 1 : WHOLE_PARTS;
    sim_setup_open_in_cluster(&w->sim, w->seed, &config, memory, 1 + 2 * w->part_count);
    open_coordinators(w);
    for (unsigned i = 0; i < memory; i++) {
        w->memory[i] = (whole_member){.world = w, .number = i};
        snprintf(w->memory[i].name, sizeof w->memory[i].name, "node%u", i);
    }
    for (unsigned i = 0; i < w->storage_count; i++) {
        w->storage[i] = (whole_member){.world = w, .number = i, .is_storage = true};
        snprintf(w->storage[i].name, sizeof w->storage[i].name, "storage%u", i);
        sim_storage_open_converting(&w->storages[i], w->sim.world, i, CONVERT_BYTES);
        w->storages[i].in_cluster = true;
        sim_storage_restart(&w->storages[i]);
    }
    for (unsigned i = 0; i < w->compute_count; i++) {
        w->computes[i] = (whole_compute){.world = w, .number = i};
        snprintf(w->computes[i].name, sizeof w->computes[i].name, "c%u", i);
        whole_compute_start(&w->computes[i]);
        fp_sim_at(w->sim.world, whole_now(w) + WHOLE_MS, whole_compute_work, &w->computes[i]);
    }
    w->person_net = (fp_net_options){.world = w->sim.world, .node = "person"};
    const fp_agent_config person = {
        .coordinators = w->coordinator_uris, .name = "person", .net = &w->person_net};
    test_must(fp_agent_open(&person, &w->person), "person");
    w->source = (fp_sim_source){.ready = &w->ticks, .driver = step_all, .driver_arg = w};
    fp_sim_source_add(w->sim.world, &w->source);
    tick(w);
    tick_storages(w);
}

void whole_close(whole *w)
{
    w->closing = true;
    for (unsigned i = 0; i < w->compute_count; i++)
        whole_compute_close(&w->computes[i]);
    whole_note(w, fp_sim_trace_hash(w->sim.world));
    fp_sim_source_remove(w->sim.world, &w->source);
    fp_sim_forget(w->sim.world, w);
    for (unsigned i = 0; i < w->compute_count; i++)
        fp_sim_forget(w->sim.world, &w->computes[i]);
    fp_agent_close(w->person);
    for (unsigned i = 0; i < w->sim.node_count; i++)
        whole_memory_crash(w, i); /* or they go on while storage nodes close */
    for (unsigned i = 0; i < w->storage_count; i++)
        member_close(&w->storage[i]);
    for (unsigned i = 0; i < w->coordinator_count; i++)
        whole_coordinator_crash(w, &w->coordinators[i]);
    for (unsigned i = 0; i < w->storage_count; i++)
        sim_storage_close(&w->storages[i]);
    fp_meta_service_close(w->service);
    sim_setup_close(&w->sim);
}
