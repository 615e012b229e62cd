/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong in the world of tests/lib/simwhole.h. Each thing is drawn, and so is its time; some of it is aimed, for
 * by chance it would hardly ever come together: two coordinators that believe to lead, and what is in simwhole_change.c.
 *
 * Whoever stands still does so with all that its process has; writes and reads in its memory go on, as a NIC goes on. Its clock
 * goes on as well, or stands still, as that of a machine that was suspended.
 */
#include <string.h>

#include "coordinator/server.h"
#include "tests/lib/simwhole.h"

enum {
    TROUBLE_MS = 250,
    BACK_MS = 2500, /* who has crashed or stands still is back within this */
    AIMED_MS = 1500,
    HEAL_MS = 1500,  /* two are cut off from a leader for so long */
    JUMP_MS = 1000,  /* of a clock, most often */
    HOURS_BITS = 13, /* of a clock, else: up to so many seconds' bits */
    CUTS_MOST = 24,  /* one-way */
    AGAIN_NS = 10000,
    OPENING_BITS = 22, /* ns: opening takes about so long */
};

static uint64_t after(whole *w, uint64_t most_ms)
{
    return whole_now(w) + 1 + whole_draw(w, most_ms * WHOLE_MS);
}

void whole_aimed(whole *w) { w->aimed_until_ns = whole_now(w) + AIMED_MS * (uint64_t)WHOLE_MS; }

static void later(whole *w, void (*call)(void *), void *arg)
{
    fp_sim_at(w->sim.world, after(w, BACK_MS), call, arg);
}

/* ---- cuts ------------------------------------------------------------------------------------- */

void whole_heal(whole *w)
{
    fp_sim_heal(w->sim.world);
    w->cuts = 0;
    for (unsigned i = 0; i < w->coordinator_count; i++)
        if (w->coordinators[i].c)
            fp_meta_sim_cut(fp_coordinator_meta(w->coordinators[i].c), false);
}

static void heal(void *world) { whole_heal(world); }

static void reset(whole *w, const char *a, const char *b)
{
    fp_sim_reset(w->sim.world, a, b);
    fp_sim_reset(w->sim.world, b, a);
}

void whole_cut(whole *w, const char *a, const char *b, bool one_way)
{
    if (w->cuts + 2 > CUTS_MOST)
        return;
    w->cuts += 2;
    if (one_way)
        fp_sim_cut_one_way(w->sim.world, a, b);
    else
        fp_sim_cut(w->sim.world, a, b);
}

static const char *some_name(whole *w)
{
    unsigned memory = w->sim.node_count, storage = w->storage_count;
    uint64_t i = whole_draw(w, 2 * memory + storage + w->compute_count + w->coordinator_count);
    if (i < memory)
        return w->memory[i].name;
    if ((i -= memory) < memory)
        return w->sim.nodes[i].spiller;
    if ((i -= memory) < storage)
        return w->storage[i].name;
    if ((i -= storage) < w->compute_count)
        return w->computes[i].name;
    return w->coordinators[i - w->compute_count].name;
}

static void trouble_links(whole *w)
{
    const char *a =
        whole_draw(w, 2) ? w->computes[whole_draw(w, w->compute_count)].name : some_name(w);
    const char *b = some_name(w);
    switch (whole_draw(w, 6)) {
    case 0:
    case 1:
        whole_heal(w);
        break;
    case 2:
        whole_cut(w, a, b, false);
        break;
    case 3:
        whole_cut(w, a, b, true);
        break;
    case 4:
        whole_cut(w, b, a, true);
        break;
    default:
        reset(w, a, b);
    }
}

/* ---- clocks ----------------------------------------------------------------------------------- */

static void move_clock(whole *w, const char *node, int64_t ns)
{
    fp_sim_move_clock(w->sim.world, node, ns);
    for (unsigned i = 0; i < w->sim.node_count; i++)
        if (!strcmp(node, w->memory[i].name))
            fp_sim_move_clock(w->sim.world, w->sim.nodes[i].spiller, ns);
}

static void trouble_clock(whole *w)
{
    uint64_t ns = whole_draw(w, 3) ? 1 + whole_draw(w, JUMP_MS * (uint64_t)WHOLE_MS)
                                   : 1000000000ull << whole_draw(w, HOURS_BITS);
    move_clock(w, some_name(w), (int64_t)ns);
}

/* Until when. */
static uint64_t stand_still(whole *w, const char *node, uint64_t ns)
{
    if (whole_draw(w, 2))
        move_clock(w, node, -(int64_t)ns);
    return whole_now(w) + ns;
}

/* ---- compute nodes ---------------------------------------------------------------------------- */

static void compute_back(void *arg)
{
    whole_compute *c = arg;
    whole_compute_start(c);
    if (!c->pool || c->crashed) /* it is not buried yet */
        later(c->world, compute_back, c);
}

void whole_lose_compute(void *arg)
{
    whole_compute *c = arg;
    if (!c->pool || c->crashed || c->world->quiet)
        return;
    later(c->world, compute_back, c);
    whole_compute_crash(c);
}

/* Whoever is in the midst of something stays there: while this waits, nothing of it goes on but what is on its way. */
void whole_pause_compute(void *arg)
{
    whole_compute *c = arg;
    whole *w = c->world;
    unsigned ms = 1 + (unsigned)whole_draw(w, BACK_MS);
    if (w->quiet || whole_is_stepping(w))
        return;
    c->paused_until_ns = stand_still(w, c->name, ms * (uint64_t)WHOLE_MS);
    if (c->busy)
        whole_pass(w, ms);
}

void whole_trouble_opening(whole_compute *c)
{
    whole *w = c->world;
    if (w->quiet)
        return;
    uint64_t at = whole_now(w) + 1 + whole_draw(w, 1ull << whole_draw(w, OPENING_BITS));
    switch (whole_draw(w, 10)) {
    case 0:
        whole_pause_compute(c);
        break;
    case 1:
        fp_sim_at(w->sim.world, at, whole_pause_compute, c);
        break;
    case 2:
        fp_sim_at(w->sim.world, at, whole_lose_compute, c);
    }
}

static void trouble_compute(whole *w)
{
    whole_compute *c = &w->computes[whole_draw(w, w->compute_count)];
    if (whole_draw(w, 2))
        whole_pause_compute(c);
    else
        whole_lose_compute(c);
}

/* ---- memory and storage nodes ----------------------------------------------------------------- */

static void memory_back(void *arg)
{
    whole_member *m = arg;
    whole_memory_back(m->world, m->number);
    if (m->world->sim.nodes[m->number].lost)
        later(m->world, memory_back, m);
}

void whole_lose_memory(whole_member *m)
{
    if (m->world->sim.nodes[m->number].lost)
        return;
    whole_memory_crash(m->world, m->number);
    later(m->world, memory_back, m);
}

static void trouble_memory(whole *w)
{
    whole_member *m = &w->memory[whole_draw(w, w->sim.node_count)];
    uint64_t ns = whole_draw(w, BACK_MS) * WHOLE_MS;
    switch (whole_draw(w, 3)) {
    case 0: /* it does not speak with coordinators alone */
        m->paused_until_ns = whole_now(w) + ns;
        break;
    case 1:
        m->paused_until_ns = stand_still(w, m->name, ns);
        w->sim.nodes[m->number].paused_until_ns = m->paused_until_ns;
        break;
    default:
        whole_lose_memory(m);
    }
}

static void storage_back(void *arg)
{
    whole_member *m = arg;
    whole_storage_back(m->world, m->number);
}

static void trouble_storage(whole *w)
{
    whole_member *m = &w->storage[whole_draw(w, w->storage_count)];
    uint64_t ns = whole_draw(w, BACK_MS) * WHOLE_MS;
    switch (whole_draw(w, 6)) {
    case 0:
        m->paused_until_ns = whole_now(w) + ns;
        break;
    case 1:
        m->paused_until_ns = stand_still(w, m->name, ns);
        w->storages[m->number].paused_until_ns = m->paused_until_ns;
        break;
    default:
        if (w->storages[m->number].lost)
            break;
        whole_storage_crash(w, m->number);
        later(w, storage_back, m);
    }
}

/* ---- coordinators ----------------------------------------------------------------------------- */

static void coordinator_back(void *arg)
{
    whole_coordinator *k = arg;
    whole_coordinator_start(k->world, k);
}

static void trouble_coordinator(whole *w)
{
    whole_coordinator *k = &w->coordinators[whole_draw(w, w->coordinator_count)];
    if (!k->c)
        return;
    switch (whole_draw(w, 4)) {
    case 0:
        whole_coordinator_crash(w, k);
        later(w, coordinator_back, k);
        break;
    case 1:
        k->paused_until_ns = stand_still(w, k->name, whole_draw(w, BACK_MS) * WHOLE_MS);
        break;
    case 2:
        fp_meta_sim_cut(fp_coordinator_meta(k->c), whole_draw(w, 2));
        break;
    default:
        fp_meta_service_change_leader(w->service);
    }
}

/* Some do not reach who leads now, and look for another one. */
static void mislead(whole *w, const char *name, const whole_coordinator *leader)
{
    if (whole_draw(w, 2)) {
        whole_cut(w, name, leader->name, false);
        reset(w, name, leader->name);
    }
}

static void two_lead(void *arg)
{
    whole_coordinator *before = arg;
    whole *w = before->world;
    const whole_coordinator *leader = whole_leader(w);
    if (w->quiet || !before->c || !leader || leader == before)
        return;
    for (unsigned i = 0; i < w->sim.node_count; i++)
        mislead(w, w->memory[i].name, leader);
    for (unsigned i = 0; i < w->compute_count; i++)
        mislead(w, w->computes[i].name, leader);
    whole_aimed(w);
    fp_sim_at(w->sim.world, after(w, HEAL_MS), heal, w);
}

/* When it wakes up it believes that it still leads, for its clock stood still; also, perhaps, because nobody can tell it
 * otherwise. */
static void leader_sleeps(whole *w)
{
    whole_coordinator *k = whole_leader(w);
    uint64_t ns = (BACK_MS / 2 + whole_draw(w, BACK_MS)) * WHOLE_MS;
    if (!k || w->coordinator_count < 2)
        return;
    move_clock(w, k->name, -(int64_t)ns);
    k->paused_until_ns = whole_now(w) + ns;
    if (whole_draw(w, 2))
        fp_meta_sim_cut(fp_coordinator_meta(k->c), true);
    fp_sim_at(w->sim.world, k->paused_until_ns, two_lead, k);
}

/* ---- what people want -------------------------------------------------------------------------- */

static json_int_t some_partition(whole *w)
{
    return (json_int_t)(1 + whole_draw(w, w->part_count));
}

/* Memory nodes more often than others: for them alone an owner has to do something. */
static const char *some_node(whole *w)
{
    unsigned memory = w->sim.node_count;
    uint64_t i =
        whole_draw(w, whole_draw(w, 2) ? memory : memory + w->storage_count + w->compute_count);
    if (i < memory)
        return w->memory[i].name;
    i -= memory;
    return i < w->storage_count ? w->storage[i].name : w->computes[i - w->storage_count].name;
}

static void ask_of(whole *w, const char *method, const char *key, json_t *value)
{
    whole_ask(w, json_pack("{s:s, s:o}", "method", method, key, value));
}

static void want_something(whole *w)
{
    switch (whole_draw(w, 7)) {
    case 0:
        ask_of(w, "partition.move", "partition", json_integer(some_partition(w)));
        break;
    case 1:
        ask_of(w, "failover", "partition", json_integer(some_partition(w)));
        break;
    case 2:
    case 3:
        ask_of(w, "node.drain", "name", json_string(some_node(w)));
        break;
    case 4:
        ask_of(w, "node.undrain", "name", json_string(some_node(w)));
        break;
    case 5:
        whole_ask(w, json_pack("{s:s}", "method", "balance"));
        break;
    default:
        whole_ask(w, json_pack("{s:s, s:I, s:b}", "method", "partition.read_only", "partition",
                               some_partition(w), "on", whole_draw(w, 4) == 0));
    }
}

/* One of a partition's memory nodes is to go, and another one is there. */
static void change_memory(whole *w)
{
    const whole_coordinator *leader = whole_leader(w);
    const fp_part *p =
        leader ? fp_model_part(fp_coordinator_model(leader->c), (uint64_t)some_partition(w)) : NULL;
    if (!p || p->r.phase != FP_OPEN || !p->r.memnodes.count)
        return;
    unsigned goes = (unsigned)whole_draw(w, p->r.memnodes.count);
    for (unsigned i = 0; i < w->sim.node_count; i++) {
        bool this = !strcmp(w->memory[i].name, p->r.memnodes.names[goes]);
        ask_of(w, this ? "node.drain" : "node.undrain", "name", json_string(w->memory[i].name));
    }
}

/* ---- all -------------------------------------------------------------------------------------- */

/* Begins anew before it does something that waits. */
static void trouble(void *arg)
{
    static void (*const kinds[])(whole *) = {
        trouble_compute, trouble_compute,     trouble_compute, trouble_memory, trouble_memory,
        trouble_storage, trouble_coordinator, trouble_links,   trouble_clock,  leader_sleeps,
        change_memory,   change_memory,       want_something,  want_something};
    whole *w = arg;
    bool stepping = whole_is_stepping(w);
    if (w->quiet)
        return;
    uint64_t most = stepping ? AGAIN_NS : TROUBLE_MS * (uint64_t)WHOLE_MS;
    fp_sim_at(w->sim.world, whole_now(w) + 1 + whole_draw(w, most), trouble, w);
    if (!stepping && whole_now(w) >= w->aimed_until_ns)
        kinds[whole_draw(w, sizeof kinds / sizeof *kinds)](w);
}

void whole_trouble(whole *w)
{
    whole_trouble_changes(w);
    trouble(w);
}
