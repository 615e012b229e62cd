/* SPDX-License-Identifier: Apache-2.0 */
/* test-timeout: 900
 *
 * Shows that a whole cluster (tests/lib/simwhole.h) keeps its promises, whatever fails: compute nodes crash, stand still
 * in the midst of a commit and go on, memory nodes come back empty, storage nodes lose their power, coordinators crash and
 * stand still, the metastore does not answer or does not say what became of a transaction, any two of them are cut off
 * from each other, also one way, clocks jump by hours or stand still, and people move, drain and fail over
 * (tests/lib/simwhole_trouble.c). Nothing that was acknowledged is lost, nobody commits after
 * somebody else has begun to; and when all is calm, every partition is soon open again and can be written.
 *
 * SEED=n replays one, twice, and both runs must be the same to the last step; SEED=n SEEDS=m runs m from there on.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "coordinator/duties.h"
#include "coordinator/server.h"
#include "tests/lib/seeds.h"
#include "tests/lib/simwhole.h"

enum {
    SEEDS_QUICK = 60,
#ifdef __SANITIZE_ADDRESS__
    SEEDS = SEEDS_QUICK, /* each takes four times as long */
#else
    SEEDS = 500,
#endif
    BEGIN_MS = 20000,
    LIVE_MS = 5000,
    CALM_MS = 40000,
    HELP_MS = 2000,
};

static const char *const names[WHOLE_PARTS] = {"p0", "p1"};
static whole w;

void model_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "SEED=%llu: %.3f s: %s:%d: %s is false (last error: %s)\n",
            (unsigned long long)w.seed, (double)whole_now(&w) / 1e9, file, line, what,
            farpool_errmsg());
    exit(1);
}

static uint64_t draw(uint64_t below) { return whole_draw(&w, below); }

/* ---- calm ------------------------------------------------------------------------------------ */

static whole_view *writer_of(unsigned part)
{
    whole_view *v = w.truth[part].owner;
    return v && v->part && !v->done && v->stored ? v : NULL;
}

/* It is lost only if that was said. */
static bool is_settled(unsigned part)
{
    const whole_coordinator *leader = whole_leader(&w);
    const fp_part *p = leader ? fp_model_part(fp_coordinator_model(leader->c), part + 1) : NULL;
    const whole_view *v = writer_of(part);
    return w.truth[part].lost ||
           (p && v && p->r.phase == FP_OPEN && p->r.state == FP_ACTIVE && p->r.epoch == v->epoch);
}

static void dump_views(unsigned part)
{
    for (unsigned i = 0; i < w.compute_count; i++) {
        const whole_compute *c = &w.computes[i];
        const whole_view *v = &c->views[part];
        fprintf(stderr, "%s: %s%s, %s under %llu%s%s\n", c->name, c->pool ? "up" : "down",
                c->busy ? ", busy" : "", v->part ? "open" : "not open",
                (unsigned long long)v->epoch, v->done ? ", done" : "", v->stored ? ", stored" : "");
    }
}

static void dump(void)
{
    const whole_coordinator *leader = whole_leader(&w);
    json_t *stalled = leader ? fp_status_stalled(fp_coordinator_model(leader->c)) : NULL;
    fprintf(stderr, "leader %s\n", leader ? leader->name : "none");
    if (stalled)
        json_dumpf(stalled, stderr, JSON_INDENT(1));
    json_decref(stalled);
    for (unsigned i = 0; leader && i < w.part_count; i++) {
        json_t *part = fp_status_part(fp_coordinator_model(leader->c),
                                      fp_model_part(fp_coordinator_model(leader->c), i + 1));
        json_dumpf(part, stderr, JSON_INDENT(1));
        json_decref(part);
        fprintf(stderr, "\nopened under %llu, %s\n", (unsigned long long)w.truth[i].opened,
                w.truth[i].owner ? "known" : "not known");
        dump_views(i);
    }
}

/* What was asked before may have been lost. A partition whose log is gone waits for somebody who says what to do. */
static void help(const fp_coordinator *leader)
{
    const fp_model *model = fp_coordinator_model(leader);
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part *p = model->parts[i];
        bool waits = p->r.phase == FP_FENCING && p->r.made &&
                     p->since_ns + HELP_MS * (uint64_t)WHOLE_MS < fp_coordinator_now_ns(leader);
        if (p->r.state == FP_READ_ONLY)
            whole_ask(&w, json_pack("{s:s, s:I, s:b}", "method", "partition.read_only", "partition",
                                    (json_int_t)p->r.id, "on", 0));
        if (waits) {
            w.truth[p->r.id - 1].helped = true;
            whole_ask(&w, json_pack("{s:s, s:I, s:b}", "method", "failover", "partition",
                                    (json_int_t)p->r.id, "from_storage", 1));
        }
    }
    for (size_t i = 0; i < model->member_count; i++)
        if (model->members[i]->r.state != FP_MEMBER)
            whole_ask(&w, json_pack("{s:s, s:s}", "method", "node.undrain", "name",
                                    model->members[i]->r.name));
}

/* A log of which memory nodes have too little, and storage nodes do not know enough: that is said. */
static bool is_stuck(unsigned part)
{
    const whole_coordinator *leader = whole_leader(&w);
    json_t *stalled = leader ? fp_status_stalled(fp_coordinator_model(leader->c)) : NULL;
    bool said = false;
    size_t i;
    const json_t *sentence;
    char name[32];
    snprintf(name, sizeof name, "partition %s", names[part]);
    json_array_foreach(stalled, i, sentence) said |=
        strstr(json_string_value(sentence), name) != NULL;
    json_decref(stalled);
    return w.truth[part].helped && said;
}

static void settle(unsigned part)
{
    for (unsigned ms = 0; !is_settled(part); ms += 50) {
        const whole_coordinator *leader = whole_leader(&w);
        if (leader && ms % HELP_MS == 0)
            help(leader->c);
        if (ms >= CALM_MS && is_stuck(part)) {
            w.truth[part].lost = true;
            whole_count.stuck++;
        } else if (ms >= CALM_MS) {
            dump();
            MODEL_CHECK(!"open again");
        }
        whole_pass(&w, 50);
    }
}

static void wait_settled(void)
{
    for (unsigned i = 0; i < w.part_count; i++)
        settle(i);
}

/* Whoever waits for what was away has it in time. */
static void look(void *arg)
{
    uint64_t *calm_ns = arg;
    if (w.closing)
        return;
    if (whole_now(&w) >= *calm_ns + 3 * CALM_MS * (uint64_t)WHOLE_MS)
        dump();
    MODEL_CHECK(whole_now(&w) < *calm_ns + 3 * CALM_MS * (uint64_t)WHOLE_MS);
    fp_sim_at(w.sim.world, whole_now(&w) + 1000ull * WHOLE_MS, look, calm_ns);
}

/* Somebody may be waiting for ever for what is away. */
static void calm_down(void *arg)
{
    static uint64_t calm_ns;
    (void)arg;
    w.quiet = true;
    calm_ns = whole_now(&w);
    look(&calm_ns);
    whole_heal(&w);
    fp_meta_service_configure(w.service, NULL);
    for (unsigned i = 0; i < w.coordinator_count; i++) {
        whole_coordinator_start(&w, &w.coordinators[i]);
        w.coordinators[i].paused_until_ns = 0;
    }
    for (unsigned i = 0; i < w.sim.node_count; i++)
        whole_memory_back(&w, i);
    for (unsigned i = 0; i < w.storage_count; i++)
        whole_storage_back(&w, i);
}

/* Commits reach stable media again; or it has had its steps, up to the last one. */
static void prove_written(unsigned part)
{
    const whole_view *v = NULL;
    unsigned stored = 0;
    for (unsigned ms = 0; !w.truth[part].lost; ms += 10) {
        settle(
            part); /* an owner may find out only now that his log is gone; a call may have come late */
        if (v && v == writer_of(part) &&
            (v->m.stored > stored || v->m.count + 2 * MODEL_CHANGES > MODEL_STEPS))
            return;
        if (v != writer_of(part)) {
            v = writer_of(part);
            stored = v ? v->m.stored : 0;
        }
        MODEL_CHECK(ms < CALM_MS);
        whole_pass(&w, 10);
    }
}

/* What is written is found by the next owner. */
static void prove(void)
{
    for (unsigned i = 0; i < w.part_count; i++) {
        prove_written(i);
        whole_ask(&w, json_pack("{s:s, s:i}", "method", "failover", "partition", (int)i + 1));
    }
    whole_pass(&w, 1000);
    wait_settled();
}

/* ---- a seed ---------------------------------------------------------------------------------- */

static void begin(void)
{
    unsigned copies = draw(4) ? 3 : 2, storage_quorum = 1 + (unsigned)draw(2);
    whole_coordinator *leader = NULL;
    for (unsigned ms = 0; !leader || fp_coordinator_model(leader->c)->part_count < w.part_count;
         ms += 200) {
        MODEL_CHECK(ms < BEGIN_MS);
        for (unsigned i = 0; i < w.part_count && ms >= 600; i++)
            whole_ask(&w,
                      json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i}", "method", "partition.create",
                                "name", names[i], "slab_bytes", (int)copies << 22, "space_bytes",
                                64 << 20, "log_ring_bytes", 1 << 20, "log_copies", (int)copies,
                                "storage_quorum", (int)storage_quorum));
        whole_pass(&w, 200);
        leader = whole_leader(&w);
    }
    wait_settled();
}

static uint64_t run_seed(uint64_t seed)
{
    memset(&w, 0, sizeof w);
    w.seed = w.random = seed;
    whole_open(&w);
    begin();
    uint64_t end = whole_now(&w) + LIVE_MS * (uint64_t)WHOLE_MS;
    fp_sim_at(w.sim.world, end, calm_down, NULL);
    whole_trouble(&w);
    while (!w.quiet)
        whole_pass(&w, 100);
    wait_settled();
    prove();
    whole_close(&w);
    return w.hash;
}

static void print_counts(void)
{
    const whole_counts *n = &whole_count;
    const struct {
        uint64_t count;
        const char *what;
    } all[] = {
        {n->acked, "steps acknowledged"},
        {n->stored, "of them on storage"},
        {n->late, "of them late"},
        {n->failed, "steps in vain"},
        {n->opened, "times a partition was opened"},
        {n->opened_late, "times that was heard too late"},
        {n->taken, "times all of it was found"},
        {n->from_storage, "of these from storage"},
        {n->changed, "times memory nodes changed"},
        {n->faults, "pages fetched"},
        {n->from_storage_nodes, "of them from storage nodes"},
        {n->written_back, "pages written back"},
        {n->lost, "partitions of which it is not known what storage nodes have"},
        {n->stuck, "of which they do not know it"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        printf("%llu %s\n", (unsigned long long)all[i].count, all[i].what);
}

int main(void)
{
    fp_log_set_level(getenv("LOG") ? FP_LOG_INFO : FP_LOG_ERROR);
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 50};
    test_seeds_run(&seeds, run_seed);
    print_counts();
    return 0;
}
