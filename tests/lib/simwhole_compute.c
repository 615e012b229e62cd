/* SPDX-License-Identifier: Apache-2.0 */
/* Compute nodes of tests/lib/simwhole.h: programs that follow the coordinators, and what must be true of what they find. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster/agent_inside.h"
#include "common/error.h"
#include "compute/cluster_inside.h"
#include "compute/fill.h"
#include "compute/keeper.h"
#include "tests/lib/require.h"
#include "tests/lib/simwhole.h"

enum {
    TIMEOUT_MS = 150,       /* of the partitions */
    NEXT_NS = 2 * WHOLE_MS, /* from one thing that a program does to the next, about */
    AGAIN_NS = 10000,
};

whole_counts whole_count;

static whole_truth *truth_of(const whole_compute *c, const whole_view *v)
{
    return &c->world->truth[v - c->views];
}

/* ---- life ------------------------------------------------------------------------------------ */

void whole_compute_start(whole_compute *c)
{
    whole *w = c->world;
    farpool_cluster_options options;
    if (c->pool || w->closing)
        return;
    c->crashed = false;
    c->paused_until_ns = 0;
    c->term = 0;
    sim_pool_open(&w->sim, c->name, FARPOOL_MAPPING_FRAMES, &c->pool);
    farpool_cluster_options_init(&options);
    options.coordinators = w->coordinator_uris;
    options.host = c->name;
    options.timeout_ms = TIMEOUT_MS;
    test_must(farpool_cluster_join(c->pool, &options, &c->cluster), "joining");
}

static void close_view(whole_compute *c, whole_view *v)
{
    if (v->tree)
        farpool_btree_close(v->tree);
    v->tree = NULL;
    farpool_partition *part = v->part;
    v->part = NULL;
    whole_note(c->world, part ? (uint64_t)farpool_partition_close(part) : 0);
}

/* Its process has ended; what the library has is freed, of which others see nothing. */
static void bury(whole_compute *c)
{
    farpool_stats stats;
    c->busy = true;
    for (unsigned i = 0; i < c->world->part_count; i++)
        close_view(c, &c->views[i]);
    c->cluster->connected = false; /* it does not take its leave */
    farpool_cluster *cluster = c->cluster;
    c->cluster = NULL;
    MODEL_CHECK(!farpool_cluster_leave(cluster));
    farpool_stats_get(c->pool, &stats);
    whole_count.faults += stats.misses;
    whole_count.from_storage_nodes += stats.stored_reads;
    whole_count.written_back += stats.written_back;
    MODEL_CHECK(!farpool_pool_close(c->pool));
    c->pool = NULL;
    c->busy = false;
}

void whole_compute_crash(whole_compute *c)
{
    if (!c->pool || c->crashed)
        return;
    c->crashed = true;
    fp_sim_kill(c->world->sim.world, c->name);
    if (!c->busy)
        bury(c);
}

void whole_compute_close(whole_compute *c)
{
    whole_compute_crash(c);
    while (c->pool)
        whole_pass(c->world, 1);
}

void whole_compute_talk(whole_compute *c)
{
    if (!c->cluster || c->crashed || whole_now(c->world) < c->paused_until_ns)
        return;
    (void)fp_cluster_step(c->cluster);
    json_int_t term = fp_cluster_agent(c->cluster)->term;
    MODEL_CHECK(term >= c->term); /* 7 */
    c->term = term;
}

/* ---- who has what ---------------------------------------------------------------------------- */

/* By the address at which coordinators have named it. */
static uint32_t bit_of(const whole *w, const char *uri)
{
    for (unsigned n = 0; n < w->sim.node_count; n++) {
        char named[FP_NET_URI_MAX];
        test_must(fp_uri_with_name(w->sim.uris[n], w->memory[n].name, named), "an address");
        if (!strcmp(uri, named))
            return 1u << n;
    }
    fprintf(stderr, "no memory node is at %s\n", uri);
    exit(1);
}

static uint32_t node_bits(const whole *w, const fp_uris *uris, unsigned copies)
{
    uint32_t bits = 0;
    for (unsigned i = 0; i < uris->count && i < copies; i++)
        bits |= bit_of(w, uris->list[i]);
    return bits;
}

static fp_assignment *assignment_of(whole_compute *c, const whole_view *v)
{
    return fp_cluster_find_locked(c->cluster, (uint64_t)(v - c->views) + 1);
}

static unsigned count_raised(const whole *w, const whole_truth *t, uint32_t nodes, uint64_t epoch)
{
    unsigned raised = 0;
    for (unsigned n = 0; n < w->sim.node_count; n++)
        raised += (nodes >> n & 1) && t->raised[n] >= epoch;
    return raised;
}

/* 1. A person who has said that storage nodes are to be gone on with has answered for the owner before; in the midst of a
 * change of memory nodes the owner before was this process itself. */
static void check_told(whole_compute *c, const whole_view *v, const fp_duty *duty)
{
    if (duty->phase == FP_DUTY_CHANGING)
        return;
    whole *w = c->world;
    whole_truth *t = truth_of(c, v);
    unsigned need = duty->log_copies - duty->log_quorum + 1;
    const uint32_t lists[] = {node_bits(w, &duty->memnodes, duty->log_copies), t->uses, t->wants};
    for (unsigned i = 0; i < 3 && !duty->stored; i++)
        if (lists[i])
            MODEL_CHECK(count_raised(w, t, lists[i], duty->epoch) >= need);
}

/* 3, 4 */
static void check_acked(const whole_compute *c, whole_view *v)
{
    whole_truth *t = truth_of(c, v);
    if (!v->known || t->owner == v)
        return;
    MODEL_CHECK(v->m.acked <= v->limit);
    if (t->before == v && t->left.acked < v->m.acked) {
        t->left.acked = v->m.acked;
        whole_count.late++;
    }
}

/* What the owner before has left is what the next one has to find. */
static void succeed(whole_compute *c, whole_view *v, uint64_t epoch)
{
    whole_truth *t = truth_of(c, v);
    MODEL_CHECK(epoch > t->opened); /* 2 */
    t->opened = epoch;
    for (unsigned i = 0; i < c->world->compute_count;
         i++) /* also who is about to find what it holds */
        c->world->computes[i].views[v - c->views].m.over = true;
    if (t->owner) {
        model_leave(&t->owner->m, &t->left);
        t->left_stored = t->owner->stored;
        t->owner->limit = t->left.count;
        t->before = t->owner;
        t->owner = NULL;
    }
    if (t->before == v)
        t->before = NULL;
}

static bool is_last(const whole_compute *c, const whole_view *v)
{
    return truth_of(c, v)->opened == v->epoch;
}

static int create(whole_compute *c, whole_view *v)
{
    whole_truth *t = truth_of(c, v);
    int rc = model_create(&v->m, v->part, &c->world->random);
    if (!rc)
        rc = farpool_btree_open(v->part, v->m.root, &v->tree);
    if (rc || !is_last(c, v))
        return rc;
    v->m.big = whole_draw(c->world, 2);
    t->made = v->known = true;
    t->owner = v;
    return 0;
}

static int take_over(whole_compute *c, whole_view *v, bool from_storage)
{
    whole_truth *t = truth_of(c, v);
    int rc = farpool_btree_open(v->part, t->left.root, &v->tree);
    if (rc)
        return rc;
    v->m = t->left;
    if (from_storage) { /* the rest may be lost: that is what this is for */
        v->m.acked = t->left.acked = v->m.stored;
        t->before = NULL;
        whole_count.from_storage++;
    }
    rc = model_take_over(&v->m, v->part, v->tree);
    if (rc || !is_last(c, v))
        return rc;
    MODEL_CHECK(v->m.found >= t->left.acked); /* 3: and what was acknowledged since */
    if (t->before)
        t->before->limit = v->m.found;
    t->before = NULL;
    t->owner = v;
    v->known = true;
    whole_count.taken++;
    return 0;
}

/* It stood still when it had it open, and hears of that only now: somebody else has opened it since. Nothing that it does is
 * acknowledged. */
static void open_late(whole_compute *c, whole_view *v)
{
    farpool_mtr *mtr;
    farpool_pid pid;
    void *words;
    if (!farpool_mtr_begin(v->part, 0, &mtr)) {
        if (!farpool_mtr_alloc(mtr, 0, &pid, &words))
            MODEL_CHECK(farpool_mtr_commit(mtr, FARPOOL_DURABLE_MEMORY, NULL)); /* 4 */
        else
            farpool_mtr_abandon(mtr);
    }
    whole_count.opened_late++;
    close_view(c, v);
}

static void open_view(whole_compute *c, whole_view *v)
{
    whole *w = c->world;
    whole_truth *t = truth_of(c, v);
    whole_trouble_opening(c);
    const fp_assignment *a = assignment_of(c, v);
    if (!a || !a->duty.epoch) { /* it is gone already */
        MODEL_CHECK(farpool_cluster_open(c->cluster, (uint64_t)(v - c->views) + 1, &v->part) ==
                    FARPOOL_E_NOTFOUND);
        return;
    }
    if (a->duty.epoch == a->tried)
        return;
    uint64_t epoch = a->duty.epoch;
    bool stored = a->duty.stored;
    uint32_t uses = node_bits(w, &a->duty.memnodes, a->duty.log_copies);
    check_told(c, v, &a->duty);
    int rc = farpool_cluster_open(c->cluster, (uint64_t)(v - c->views) + 1, &v->part);
    whole_note(w, (uint64_t)rc);
    if (rc)
        return;
    v->known = v->done = v->stored = false;
    v->epoch = epoch;
    if (epoch < t->opened) {
        open_late(c, v);
        return;
    }
    whole_count.opened++;
    succeed(c, v, epoch);
    for (unsigned i = 0; i < w->compute_count && stored; i++)
        w->computes[i].views[v - c->views].m.gone = true;
    t->uses = uses;
    t->wants = 0;
    if (stored && t->made && !t->left_stored && !t->lost) {
        t->lost = true;
        whole_count.lost++;
    }
    if (!t->lost)
        rc = t->made ? take_over(c, v, stored) : create(c, v);
    v->done = rc || t->lost || !is_last(c, v);
    if (v->done)
        close_view(c, v);
}

/* ---- what a program does --------------------------------------------------------------------- */

static bool follow(whole_compute *c)
{
    farpool_cluster_event event;
    if (farpool_cluster_next(c->cluster, 0, &event))
        return false;
    whole_note(c->world, event.kind);
    if (!event.partition)
        return true;
    MODEL_CHECK(event.partition <= c->world->part_count);
    whole_view *v = &c->views[event.partition - 1];
    if (event.kind == FARPOOL_CLUSTER_ASSIGNED)
        open_view(c, v);
    else if (event.kind == FARPOOL_CLUSTER_REVOKED && v->part)
        close_view(c, v);
    return true;
}

/* The worker's thread. */
static bool change(whole_compute *c)
{
    whole *w = c->world;
    for (unsigned i = 0; i < w->part_count; i++) {
        const fp_assignment *a = assignment_of(c, &c->views[i]);
        whole_truth *t = &w->truth[i];
        bool last = a && c->views[i].part && is_last(c, &c->views[i]);
        if (last && a->duty.phase == FP_DUTY_CHANGING && a->duty.epoch > a->held)
            t->wants = node_bits(w, &a->duty.memnodes, a->duty.log_copies);
    }
    if (!fp_cluster_work(c->cluster))
        return false;
    for (unsigned i = 0; i < w->part_count; i++) {
        whole_view *v = &c->views[i];
        const fp_assignment *a = assignment_of(c, v);
        if (!a || !v->part || !is_last(c, v))
            continue;
        if (a->held > v->epoch) {
            whole_count.changed++;
            w->truth[i].uses = w->truth[i].wants;
            w->truth[i].opened = v->epoch = a->held;
        }
        w->truth[i].wants = 0;
    }
    return true;
}

static bool may_be(int rc)
{
    switch (rc) {
    case 0:
    case FARPOOL_E_NODE:
    case FARPOOL_E_TIMEOUT:
    case FARPOOL_E_NOSPACE:
    case FARPOOL_E_UNSUPPORTED:
    case FARPOOL_E_FENCED:
    case FARPOOL_E_READONLY:
        return true;
    default:
        return false;
    }
}

static int do_step(whole_compute *c, whole_view *v)
{
    uint64_t kind = whole_draw(c->world, 100);
    bool in_doubt = false;
    int rc;
    if (v->m.count + MODEL_CHANGES > MODEL_STEPS)
        kind = 80;
    if (kind < 60)
        rc = model_commit(&v->m, v->part,
                          kind < 8    ? FARPOOL_DURABLE_STORAGE
                          : kind < 34 ? FARPOOL_DURABLE_MEMORY
                                      : FARPOOL_DURABLE_LATER);
    else if (kind < 75)
        rc = model_tree_op(&v->m, v->tree, &in_doubt);
    else if (kind < 90)
        rc = model_read(&v->m, v->part);
    else
        rc = model_wait(&v->m, v->part);
    v->done = in_doubt;
    return rc;
}

static void use(whole_compute *c, whole_view *v)
{
    whole *w = c->world;
    unsigned acked = v->m.acked, stored = v->m.stored;
    int rc;
    if (!v->stored) {
        rc = farpool_wait_durable(v->part, UINT64_MAX, FARPOOL_DURABLE_STORAGE);
        v->stored = !rc && is_last(c, v);
        if (v->stored)
            v->m.stored = v->m.acked = v->m.count;
    } else {
        rc = do_step(c, v);
    }
    whole_note(w, (uint64_t)rc);
    MODEL_CHECK(may_be(rc) || (rc == FARPOOL_E_CORRUPT && v->m.over));
    check_acked(c, v);
    whole_count.acked += v->m.acked - acked;
    whole_count.stored += v->m.stored - stored;
    whole_count.failed += rc != 0;
    if (v->done) /* its tree is in doubt: somebody else may look */
        close_view(c, v);
}

static void work(whole_compute *c)
{
    if (follow(c) || change(c))
        return;
    for (unsigned i = 0; i < c->world->part_count && !c->crashed; i++) {
        whole_view *v = &c->views[i];
        if (!v->part || v->done)
            continue;
        if (whole_draw(c->world, 4) == 0)
            (void)fp_keeper_step(v->part->redo->keeper);
        if (whole_draw(c->world, 8) == 0 && v->part->fill)
            (void)fp_fill_step(v->part->fill);
        use(c, v);
    }
}

void whole_compute_work(void *arg)
{
    whole_compute *c = arg;
    whole *w = c->world;
    uint64_t start = whole_now(w);
    if (w->closing)
        return;
    if (whole_is_stepping(w)) {
        fp_sim_at(w->sim.world, start + AGAIN_NS, whole_compute_work, c);
        return;
    }
    if (c->pool && !c->busy && !c->crashed && start >= c->paused_until_ns) {
        c->busy = true;
        work(c);
        c->busy = false;
        whole_note(w, whole_now(w));
        MODEL_CHECK(whole_now(w) - start < WHOLE_OP_SECONDS * 1000000000ull);
        if (c->crashed)
            bury(c);
    }
    fp_sim_at(w->sim.world, whole_now(w) + 1 + whole_draw(w, 2 * NEXT_NS), whole_compute_work, c);
}
