/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that coordinators keep their promises (tests/lib/coordworld.h), whatever fails: nodes and coordinators crash,
 * stand still, are cut off, the metastore loses answers; and that, when all is calm, every partition is open and drained
 * nodes have nothing left. SEED=n replays one; SEED=n SEEDS=m runs m from there on.
 * test-timeout: 400 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/coordworld.h"
#include "tests/lib/require.h"
#include "tests/lib/seeds.h"

enum { SEEDS = 300, SEEDS_QUICK = 20, RUN_MS = 20000, CALM_MS = 60000, PARTS_AT_FIRST = 3 };

static cw w;

/* ---- people ---------------------------------------------------------------------------------- */

static void create(void)
{
    char name[32];
    snprintf(name, sizeof name, "p%llu", (unsigned long long)(cw_now(&w) / CW_MS));
    cw_ask(&w, json_pack("{s:s, s:s, s:I, s:I, s:s}", "method", "partition.create", "name", name,
                         "slab_bytes", (json_int_t)8 << 20, "log_ring_bytes", (json_int_t)1 << 20,
                         "when_lost", cw_draw(&w, 2) ? "wait" : "storage"));
}

static json_int_t some_partition(void) { return (json_int_t)(1 + cw_draw(&w, 6)); }

static const char *some_node(void) { return w.nodes[cw_draw(&w, CW_NODES)].name; }

static void want_something(void)
{
    switch (cw_draw(&w, 7)) {
    case 0:
        if (cw_now(&w) < RUN_MS * (uint64_t)CW_MS / 2)
            create();
        break;
    case 1:
        cw_ask(&w,
               json_pack("{s:s, s:I}", "method", "partition.move", "partition", some_partition()));
        break;
    case 2:
        cw_ask(&w, json_pack("{s:s, s:I}", "method", "failover", "partition", some_partition()));
        break;
    case 3:
        cw_ask(&w, json_pack("{s:s, s:s}", "method", "node.drain", "name", some_node()));
        break;
    case 4:
        cw_ask(&w, json_pack("{s:s, s:s}", "method", "node.undrain", "name", some_node()));
        break;
    case 5:
        if (!cw_draw(&w, 4))
            cw_ask(&w, json_pack("{s:s, s:I}", "method", "partition.delete", "partition",
                                 some_partition()));
        break;
    default:
        cw_ask(&w, json_pack("{s:s, s:I, s:b}", "method", "partition.read_only", "partition",
                             some_partition(), "on", (int)cw_draw(&w, 2)));
    }
}

/* ---- what goes wrong -------------------------------------------------------------------------- */

static void trouble_a_node(void)
{
    cw_node *node = &w.nodes[cw_draw(&w, CW_NODES)];
    uint64_t now = cw_now(&w);
    switch (cw_draw(&w, 4)) {
    case 0:
    case 1:
        if (node->up)
            cw_node_crash(node);
        else
            cw_node_start(node);
        break;
    case 2:
        node->paused_until_ns = now + cw_draw(&w, 4000) * CW_MS;
        break;
    default:
        fp_sim_cut(w.world, node->name, w.coordinators[cw_draw(&w, CW_COORDINATORS)].name);
    }
}

static void trouble_a_coordinator(void)
{
    cw_coordinator *k = &w.coordinators[cw_draw(&w, CW_COORDINATORS)];
    switch (cw_draw(&w, 4)) {
    case 0:
        if (k->up)
            cw_coordinator_crash(&w, k);
        else
            cw_coordinator_start(&w, k);
        break;
    case 1:
        k->paused_until_ns = cw_now(&w) + cw_draw(&w, 5000) * CW_MS;
        break;
    case 2:
        if (k->up)
            fp_meta_sim_cut(fp_coordinator_meta(k->c), cw_draw(&w, 2));
        break;
    default:
        fp_meta_service_change_leader(w.service);
    }
}

static void start_all(void)
{
    for (unsigned i = 0; i < CW_NODES; i++) {
        if (!w.nodes[i].up)
            cw_node_start(&w.nodes[i]);
    }
    for (unsigned i = 0; i < CW_COORDINATORS; i++) {
        if (!w.coordinators[i].up)
            cw_coordinator_start(&w, &w.coordinators[i]);
        fp_meta_sim_cut(fp_coordinator_meta(w.coordinators[i].c), false);
    }
    fp_sim_heal(w.world);
}

static void make_trouble(void)
{
    switch (cw_draw(&w, 8)) {
    case 0:
    case 1:
        trouble_a_node();
        break;
    case 2:
        trouble_a_coordinator();
        break;
    case 3:
        start_all();
        break;
    case 4:
        fp_sim_heal(w.world);
        break;
    default:
        want_something();
    }
}

/* ---- calm ------------------------------------------------------------------------------------ */

static bool is_settled(const fp_model *model)
{
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part_record *r = &model->parts[i]->r;
        if (r->state == FP_DELETED ? r->phase != FP_UNOWNED : r->phase != FP_OPEN)
            return false;
    }
    for (size_t i = 0; i < model->member_count; i++) {
        if (model->members[i]->r.state == FP_DRAINING || !fp_member_up(model, model->members[i]))
            return false;
    }
    return model->member_count == CW_NODES;
}

/* A partition whose log is gone waits for somebody who says what to do, a node to be drained for others. */
static void help(const fp_model *model)
{
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part_record *r = &model->parts[i]->r;
        if (r->phase == FP_UNOWNED || r->phase == FP_OPEN || r->phase == FP_DELETING)
            continue;
        if (r->made)
            cw_ask(&w, json_pack("{s:s, s:I, s:b}", "method", "failover", "partition",
                                 (json_int_t)r->id, "from_storage", 1));
        else /* some node may have forgotten that it has begun */
            cw_ask(&w,
                   json_pack("{s:s, s:I}", "method", "failover", "partition", (json_int_t)r->id));
    }
    for (size_t i = 0; i < model->member_count; i++) {
        if (model->members[i]->r.state != FP_MEMBER && cw_draw(&w, 2))
            cw_ask(&w, json_pack("{s:s, s:s}", "method", "node.undrain", "name",
                                 model->members[i]->r.name));
    }
}

static void dump(const fp_model *model)
{
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part *p = model->parts[i];
        printf("partition %llu %s: %s %s, epoch %llu, owner %s, made %d, stored %d, %s\n",
               (unsigned long long)p->r.id, p->r.name, fp_part_state_names[p->r.state],
               fp_phase_names[p->r.phase], (unsigned long long)p->r.epoch, p->r.owner, p->r.made,
               p->r.stored, p->failure);
    }
    for (size_t i = 0; i < model->member_count; i++)
        printf("%s %s up %d\n", model->members[i]->r.name,
               fp_member_state_names[model->members[i]->r.state],
               fp_member_up(model, model->members[i]));
}

static void calm_down(void)
{
    start_all();
    fp_meta_service_configure(w.service, NULL);
    w.fail_percent = 0;
    uint64_t end = cw_now(&w) + CALM_MS * (uint64_t)CW_MS;
    for (unsigned round = 1;; round++) {
        cw_pass(&w, 500);
        cw_coordinator *leader = cw_leader(&w);
        if (leader && is_settled(fp_coordinator_model(leader->c)))
            break;
        if (leader && cw_now(&w) >= end)
            dump(fp_coordinator_model(leader->c));
        REQUIRE(cw_now(&w) < end);
        if (leader && round % 20 == 0)
            help(fp_coordinator_model(leader->c));
    }
}

static uint64_t run_seed(uint64_t seed)
{
    cw_open(&w, seed);
    cw_pass(&w, 1500);
    for (unsigned i = 0; i < PARTS_AT_FIRST; i++) {
        create();
        cw_pass(&w, 50);
    }
    cw_pass(&w, 1500);
    while (cw_now(&w) < RUN_MS * (uint64_t)CW_MS) {
        cw_pass(&w, 1 + (unsigned)cw_draw(&w, 600));
        make_trouble();
    }
    calm_down();
    uint64_t hash = fp_sim_trace_hash(w.world) ^ w.commits << 32 ^ w.openings;
    REQUIRE(w.commits > 0);
    printf("%llu commits, %llu openings, %llu changes\n", (unsigned long long)w.commits,
           (unsigned long long)w.openings, (unsigned long long)w.changes);
    cw_close(&w);
    return hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 50};
    test_seeds_run(&seeds, run_seed);
    return 0;
}
