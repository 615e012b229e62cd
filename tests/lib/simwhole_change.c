/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong in the world of tests/lib/simwhole.h when an owner is to change his memory nodes: neither he nor enough of
 * those before have heard of it when somebody else is to get the partition; or a ring was granted and is not filled yet when
 * he dies, and another ring with him; or it has been filled, and he gets no further.
 */
#include <string.h>

#include "common/racy.h"
#include "common/ring.h"
#include "coordinator/server.h"
#include "memnode/node.h"
#include "tests/lib/simwhole.h"

enum {
    DEAF_MS = 2500,
    LOOK_NS = 5000, /* for a ring that is being filled */
};

static whole_member *memory_of(whole *w, const char *name)
{
    for (unsigned i = 0; i < w->sim.node_count; i++)
        if (!strcmp(w->memory[i].name, name))
            return &w->memory[i];
    return NULL;
}

static whole_compute *owner_of(whole *w, const fp_part_record *r)
{
    for (unsigned i = 0; i < w->compute_count; i++)
        if (!strcmp(w->computes[i].name, r->owner))
            return &w->computes[i];
    return NULL;
}

/* Those with whom the owner can go on as before it: the one that is to go, and so many others that they are a quorum. */
static void deafen(whole *w, const fp_part_record *r)
{
    unsigned left = r->log_quorum;
    uint64_t until = whole_now(w) + DEAF_MS * (uint64_t)WHOLE_MS;
    for (int stays = 0; stays < 2; stays++)
        for (unsigned i = 0; i < r->before.count && i < r->log_copies && left; i++) {
            whole_member *m = memory_of(w, r->before.names[i]);
            if (fp_list_has(&r->memnodes, r->before.names[i]) != stays || !m)
                continue;
            m->paused_until_ns = until;
            left--;
        }
}

/* The owner does not hear of the change, and goes on, or stands still; others are to get the partition. */
static void lose_owner(whole *w, const fp_part_record *r)
{
    whole_compute *c = owner_of(w, r);
    whole_aimed(w);
    deafen(w, r);
    if (!c)
        return;
    if (whole_draw(w, 2)) {
        c->paused_until_ns = whole_now(w) + DEAF_MS * (uint64_t)WHOLE_MS;
        return;
    }
    for (unsigned i = 0; i < w->coordinator_count; i++)
        whole_cut(w, c->name, w->coordinators[i].name, false);
}

/* Whether he has granted a ring; whether something is in it. */
static void look_at_ring(const fp_memnode *node, uint64_t partition, bool *granted, bool *filled)
{
    for (const fp_grant *g = node->grants; g; g = g->next) {
        fp_ring_owner line;
        if (g->partition != partition || g->use != FP_USE_RING)
            continue;
        fp_racy_copy(&line,
                     (uint8_t *)node->extents.list[g->extents[0]].mem.addr + FP_RING_OWNER_AT,
                     sizeof line);
        *granted = true;
        *filled = fp_ring_owner_is_valid(&line, partition);
    }
}

static void look_at_rings(whole *w, const fp_part_record *r, bool *granted, bool *filled)
{
    for (unsigned i = 0; i < r->memnodes.count && i < r->log_copies; i++) {
        const whole_member *m = memory_of(w, r->memnodes.names[i]);
        if (!fp_list_has(&r->before, m->name) && !w->sim.nodes[m->number].lost)
            look_at_ring(w->sim.nodes[m->number].memnode, r->id, granted, filled);
    }
}

/* Who comes in has a ring. Its owner dies while nothing is in it, and another memory node; or he stands still as soon as
 * something is. True: that is done. */
static bool stop_filling(whole *w, const fp_part_record *r, bool dies)
{
    whole_compute *c = owner_of(w, r);
    bool granted = false, filled = false;
    look_at_rings(w, r, &granted, &filled);
    if (!(dies ? granted : filled) || !c)
        return false;
    whole_aimed(w);
    if (!dies) {
        deafen(w, r);
        whole_pause_compute(c);
        return true;
    }
    whole_lose_compute(c);
    for (unsigned i = 0; i < r->memnodes.count && i < r->log_copies; i++)
        if (fp_list_has(&r->before, r->memnodes.names[i])) {
            whole_lose_memory(memory_of(w, r->memnodes.names[i]));
            break;
        }
    return true;
}

static void look_at_change(whole *w, unsigned part, const fp_part_record *r)
{
    whole_aim *aim = &w->aims[part];
    if (r->phase != FP_CHANGING || !r->before.count)
        aim->filling = false;
    else if (aim->filling)
        aim->filling = !stop_filling(w, r, aim->dies);
    if (r->phase != FP_CHANGING || r->epoch == aim->epoch)
        return;
    *aim = (whole_aim){.epoch = r->epoch, .dies = whole_draw(w, 2)};
    uint64_t what = r->before.count ? whole_draw(w, 4) : 3;
    if (what < 2)
        aim->filling = true;
    else if (what == 2)
        lose_owner(w, r);
}

void whole_trouble_changes(void *arg)
{
    whole *w = arg;
    uint64_t next = WHOLE_MS;
    if (w->quiet)
        return;
    for (unsigned i = 0; i < w->part_count && !whole_is_stepping(w); i++) {
        const whole_coordinator *leader = whole_leader(w);
        const fp_part *p = leader ? fp_model_part(fp_coordinator_model(leader->c), i + 1) : NULL;
        if (p) {
            fp_part_record r = p->r; /* time may pass, and the leader forget all or die */
            look_at_change(w, i, &r);
        }
    }
    for (unsigned i = 0; i < w->part_count; i++)
        next = w->aims[i].filling ? LOOK_NS : next;
    fp_sim_at(w->sim.world, whole_now(w) + next, whole_trouble_changes, w);
}
