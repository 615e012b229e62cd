/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/simtrouble.h"

#include <string.h>

#include "common/redo.h"
#include "memnode/node.h"
#include "tests/lib/testnode.h"

enum { CUTS_AT_ONCE = 10 };

static uint64_t draw(sim_trouble *t, uint64_t below) { return test_random(t->random) % below; }

void sim_trouble_restart(sim_trouble *t, unsigned i)
{
    if (t->sim->nodes[i].lost && sim_node_restart(&t->sim->nodes[i]))
        t->sim->nodes[i].lost = false;
}

void sim_trouble_crash(sim_trouble *t, unsigned i)
{
    if (t->sim->nodes[i].lost || !t->crashes_left)
        return;
    t->crashes_left--;
    t->crashes[i]++;
    t->tells[i] = false;
    sim_node_crash(&t->sim->nodes[i]);
}

void sim_trouble_cut(sim_trouble *t, unsigned i)
{
    if (t->cuts++ == CUTS_AT_ONCE) {
        fp_sim_heal(t->sim->world);
        t->cuts = 1;
    }
    fp_sim_cut(t->sim->world, t->name, t->sim->uris[i] + strlen("sim://"));
}

static void disturb(void *arg)
{
    sim_trouble *t = arg;
    if (t->quiet)
        return;
    unsigned i = (unsigned)draw(t, t->sim->node_count), kind = (unsigned)draw(t, 8);
    if (kind < 3 && (t->kinds & RESETS))
        fp_sim_reset(t->sim->world, t->name, t->sim->uris[i] + strlen("sim://"));
    else if (kind < 5 && (t->kinds & CUTS))
        sim_trouble_cut(t, i);
    else if (kind == 5 && (t->kinds & CUTS))
        fp_sim_heal(t->sim->world);
    else if (kind == 6 && (t->kinds & CRASHES))
        sim_trouble_crash(t, i);
    else if (kind == 7)
        sim_trouble_restart(t, i);
}

/* Of a node's ring, what would not be zero with any redo in it; NULL: it has no ring. */
static const uint8_t *ring_start(const sim_trouble *t, unsigned i)
{
    const fp_memnode *node = t->sim->nodes[i].memnode;
    for (const fp_grant *g = node->grants; g; g = g->next)
        if (g->use == FP_USE_RING)
            return (uint8_t *)node->extents.list[g->extents[0]].mem.addr + FP_REDO_LSN_FIRST;
    return NULL;
}

static bool is_blank(const sim_trouble *t, unsigned i)
{
    static const uint8_t zeros[256];
    const uint8_t *start = ring_start(t, i);
    return !start || !memcmp(start, zeros, sizeof zeros);
}

/* Looks again and again whether a ring that was blank is being written, and then perhaps kills who does it. */
static void watch(void *arg)
{
    sim_trouble *t = arg;
    bool written = false;
    if (!t->opening || t->quiet)
        return;
    for (unsigned i = 0; i < t->copies; i++)
        written |= (t->blank >> i & 1) && !is_blank(t, i);
    for (unsigned i = 0; i < t->sim->node_count && written; i++)
        fp_sim_reset(t->sim->world, t->name, t->sim->uris[i] + strlen("sim://"));
    if (!written)
        fp_sim_at(t->sim->world, fp_sim_now_ns(t->sim->world) + 500 + draw(t, 3000), watch, t);
}

void sim_trouble_watch(sim_trouble *t)
{
    t->blank = 0;
    for (unsigned i = 0; i < t->copies; i++)
        t->blank |= (unsigned)is_blank(t, i) << i;
    if (t->blank)
        fp_sim_at(t->sim->world, fp_sim_now_ns(t->sim->world) + 1, watch, t);
}

void sim_trouble_make(sim_trouble *t, uint64_t within)
{
    for (uint64_t times = draw(t, 4); times && t->kinds; times--)
        fp_sim_at(t->sim->world, fp_sim_now_ns(t->sim->world) + draw(t, within), disturb, t);
}

void sim_trouble_calm(sim_trouble *t)
{
    t->quiet = true;
    fp_sim_set_loss(t->sim->world, 0);
    fp_sim_heal(t->sim->world);
    t->cuts = 0;
    for (unsigned i = 0; i < t->sim->node_count; i++)
        while (t->sim->nodes[i].lost) {
            sim_trouble_restart(t, i);
            sim_pass(t->sim, 1);
        }
    sim_pass(t->sim, 1500); /* nobody tries again within a second */
}

void sim_trouble_rouse(sim_trouble *t)
{
    t->quiet = false;
    if (t->kinds & LOSSES)
        fp_sim_set_loss(t->sim->world, t->loss);
}
