/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated metastore. A request is copied and sent: after a drawn time it arrives and takes effect in the service's
 * tables, unless it was lost; after another its answer is back, unless that was lost. At its timeout it is over for who
 * has asked; it may arrive even later. Watches look into the tables a drawn time after each change.
 */
#include "coordinator/sim.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/net/sim_device.h"
#include "coordinator/sim_copy.h"
#include "coordinator/sqlite_db.h"

enum { NS_PER_MS = 1000000, CUT_LOOK_NS = 20 * NS_PER_MS };

static const fp_meta_sim_config defaults = {.latency_min_ns = 200000,
                                            .latency_max_ns = 3000000,
                                            .lease_late_ns = UINT64_C(2000000000),
                                            .history = 10000};
static const size_t none = 0;

typedef struct sim_meta sim_meta;

struct fp_meta_service {
    fp_sim_world *world;
    fp_meta_sim_config config;
    fp_meta_db *db;
    sim_meta *stores;
    struct sim_op *abandoned; /* under way, though nobody waits for them any more */
    uint64_t lease_at;        /* when the leases are looked at next; UINT64_MAX: nobody will */
};

typedef struct sim_op {
    sim_meta *meta; /* NULL: closed; the request may still arrive */
    fp_meta_service *service;
    fp_meta_req *asked; /* NULL: over for who has asked */
    fp_meta_req *copy;  /* what travels; NULL when it is back */
    bool sent_off;      /* a step of the world has it */
    bool answered;
    int status;
    char words[320];
    struct sim_op *next;
} sim_op;

struct sim_meta {
    fp_meta base;
    fp_meta_service *service;
    fp_sim_source source;
    size_t ready; /* answers and looks that wait for the poll */
    bool cut;
    sim_op *ops, **ops_end; /* in order of submission */
    sim_meta *next;
};

typedef struct sim_watch {
    fp_meta_watch *watch;
    uint64_t next;
    bool coming; /* a step will set due */
    bool due;
} sim_watch;

static bool chance(fp_sim_world *world, uint32_t per_million)
{
    return per_million && fp_sim_draw(world) % 1000000 < per_million;
}

static uint64_t arrival(fp_meta_service *service)
{
    const fp_meta_sim_config *config = &service->config;
    uint64_t span = config->latency_max_ns - config->latency_min_ns + 1;
    uint64_t time = fp_sim_now_ns(service->world) + config->latency_min_ns;
    time += fp_sim_draw(service->world) % span;
    if (chance(service->world, config->slow_per_million))
        time += fp_sim_draw(service->world) % (config->slow_ns + 1);
    return time;
}

/* ---- watches --------------------------------------------------------------------------------- */

static void look_step(void *arg)
{
    sim_watch *own = arg;
    sim_meta *meta = (sim_meta *)own->watch->own.meta;
    if (meta->cut) {
        fp_sim_at(meta->service->world, fp_sim_now_ns(meta->service->world) + CUT_LOOK_NS,
                  look_step, own);
        return;
    }
    own->coming = false;
    if (!own->due)
        meta->ready++;
    own->due = true;
}

static void call_for_look(sim_watch *own)
{
    sim_meta *meta = (sim_meta *)own->watch->own.meta;
    if (own->coming)
        return;
    own->coming = true;
    fp_sim_at(meta->service->world, arrival(meta->service), look_step, own);
}

static void sim_watch_start(fp_meta *base, fp_meta_watch *watch)
{
    (void)base;
    sim_watch *own = calloc(1, sizeof *own);
    FP_ASSERT(own); /* a simulation without memory is over */
    *own = (sim_watch){.watch = watch, .next = watch->from};
    watch->own.state = own;
    call_for_look(own);
}

static void sim_watch_stop(fp_meta_watch *watch)
{
    sim_watch *own = watch->own.state;
    sim_meta *meta = (sim_meta *)watch->own.meta;
    fp_sim_forget(meta->service->world, own);
    if (own->due)
        meta->ready--;
    free(own);
    watch->own.state = NULL;
}

static void changed(fp_meta_service *service)
{
    for (sim_meta *meta = service->stores; meta; meta = meta->next)
        for (fp_meta_watch *watch = meta->base.watches; watch && !meta->base.dead;
             watch = watch->own.next)
            call_for_look(watch->own.state);
}

static void give(sim_meta *meta, fp_meta_watch *watch)
{
    fp_meta_kv *changes;
    size_t count;
    sim_watch *own = watch->own.state;
    own->due = false;
    meta->ready--;
    int rc = fp_meta_db_changes(meta->service->db, watch->prefix, &own->next, &changes, &count,
                                &watch->compacted);
    if (rc) {
        fp_meta_watch_end(watch, rc);
        return;
    }
    fp_sim_trace(meta->service->world, own->next, count);
    if (count && fp_meta_watch_give(watch, changes, count))
        call_for_look(own); /* there may be more */
    free(changes);
}

static void give_all(sim_meta *meta)
{
again:
    for (fp_meta_watch *watch = meta->base.watches; watch; watch = watch->own.next)
        if (((sim_watch *)watch->own.state)->due) {
            give(meta, watch);
            goto again; /* the list may be another now */
        }
}

/* ---- leases ---------------------------------------------------------------------------------- */

static void lease_step(void *arg);

/* A lease may have come: it is looked when the first one is over, or a while later. */
static void plan_leases(fp_meta_service *service)
{
    uint64_t next_ns, now = fp_sim_now_ns(service->world), late = service->config.lease_late_ns;
    /* Nobody else has the tables, so this cannot fail but for memory. */
    FP_ASSERT(!fp_meta_db_expire(service->db, 0, &next_ns));
    if (next_ns == UINT64_MAX ||
        (service->lease_at >= next_ns && service->lease_at - next_ns <= late))
        return;
    fp_sim_forget(service->world, service);
    service->lease_at = (next_ns > now ? next_ns : now) + fp_sim_draw(service->world) % (late + 1);
    fp_sim_at(service->world, service->lease_at, lease_step, service);
}

static void lease_step(void *arg)
{
    fp_meta_service *service = arg;
    uint64_t next_ns;
    FP_ASSERT(!fp_meta_db_expire(service->db, fp_sim_now_ns(service->world), &next_ns));
    service->lease_at = UINT64_MAX;
    changed(service);
    plan_leases(service);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void free_op(sim_op *op)
{
    if (op->copy) {
        free(op->copy->kvs);
        free(op->copy);
    }
    free(op);
}

static void take_out(sim_op *op)
{
    sim_op **link = &op->meta->ops;
    while (*link != op)
        link = &(*link)->next;
    *link = op->next;
    if (!op->next)
        op->meta->ops_end = link;
}

/* It has arrived, where nobody waits for it. */
static void end_abandoned(sim_op *op)
{
    sim_op **link = &op->service->abandoned;
    while (*link != op)
        link = &(*link)->next;
    *link = op->next;
    free_op(op);
}

/* Over for who has asked; what of it is under way stays so. */
static void finish(sim_op *op, int status)
{
    fp_meta_req *req = op->asked;
    take_out(op);
    fp_sim_trace(op->service->world, (uint64_t)req->kind << 32 | (uint32_t)status, req->revision);
    fp_meta_finish(req, status);
    op->asked = NULL;
    op->meta = NULL;
    if (op->sent_off) {
        op->next = op->service->abandoned;
        op->service->abandoned = op;
    } else {
        free_op(op);
    }
}

static void answer_step(void *arg)
{
    sim_op *op = arg;
    op->sent_off = false;
    if (!op->asked) {
        end_abandoned(op);
        return;
    }
    if (op->meta->cut)
        return; /* lost: the timeout comes */
    op->answered = true;
    op->meta->ready++;
}

static int serve(sim_op *op)
{
    fp_meta_service *service = op->service;
    if (chance(service->world, service->config.no_leader_per_million))
        return fp_error(FARPOOL_E_NODE, "the members have no leader");
    if (fp_meta_req_changes(op->copy) && op->copy->kind != FP_META_LEASE_REVOKE &&
        chance(service->world, service->config.full_per_million))
        return fp_error(FARPOOL_E_NOSPACE, "the quota is full");
    return fp_meta_db_run(service->db, op->copy, fp_sim_now_ns(service->world));
}

static void arrive_step(void *arg)
{
    sim_op *op = arg;
    fp_meta_service *service = op->service;
    op->sent_off = false;
    if ((op->meta && op->meta->cut) || chance(service->world, service->config.loss_per_million)) {
        if (!op->asked)
            end_abandoned(op);
        return;
    }
    op->status = serve(op);
    if (op->status) {
        strncpy(op->words, farpool_errmsg(), sizeof op->words - 1);
    } else if (fp_meta_req_changes(op->copy)) {
        changed(service);
        plan_leases(service);
    }
    if (!op->asked) {
        end_abandoned(op);
        return;
    }
    if (chance(service->world, service->config.loss_per_million))
        return;
    op->sent_off = true;
    fp_sim_at(service->world, arrival(service), answer_step, op);
}

/* The steps of a request are known by its op, its timeout by the request: the one may outlive the other. */
static void timeout_step(void *arg)
{
    fp_meta_req *req = arg;
    sim_op *op = req->own.state;
    if (op->answered)
        return;
    if (req->kind == FP_META_TXN && fp_meta_req_changes(req))
        fp_error(FARPOOL_E_UNKNOWN, "no answer within %u ms: nobody knows whether it was applied",
                 req->timeout_ms);
    else
        fp_error(FARPOOL_E_TIMEOUT, "no answer within %u ms", req->timeout_ms);
    sim_meta *meta = op->meta;
    finish(op, req->kind == FP_META_TXN && fp_meta_req_changes(req) ? FARPOOL_E_UNKNOWN
                                                                    : FARPOOL_E_TIMEOUT);
    meta->ready++; /* taken back by the poll */
}

static void sim_submit(fp_meta *base, fp_meta_req *req)
{
    sim_meta *meta = (sim_meta *)base;
    sim_op *op = calloc(1, sizeof *op);
    FP_ASSERT(op); /* a simulation without memory is over */
    *op = (sim_op){.meta = meta, .service = meta->service, .asked = req};
    op->copy = fp_meta_copy(req);
    req->own.state = op;
    *meta->ops_end = op;
    meta->ops_end = &op->next;
    if (base->dead)
        return;
    fp_sim_world *world = meta->service->world;
    op->sent_off = true;
    fp_sim_at(world, arrival(meta->service), arrive_step, op);
    fp_sim_at(world, fp_sim_now_ns(world) + (uint64_t)req->timeout_ms * NS_PER_MS, timeout_step,
              req);
}

static void deliver_answer(sim_op *op)
{
    fp_meta_req *req = op->asked, *copy = op->copy;
    op->meta->ready--;
    fp_sim_forget(op->service->world, req);
    if (op->status) {
        fp_error(op->status, "%s", op->words);
    } else {
        req->succeeded = copy->succeeded;
        req->more = copy->more;
        req->revision = copy->revision;
        req->lease = copy->lease;
        req->ttl_ms = copy->ttl_ms;
        req->kvs = copy->kvs;
        req->kv_count = copy->kv_count;
        copy->kvs = NULL;
    }
    finish(op, op->status);
}

static int sim_poll(fp_meta *base, int timeout_ms)
{
    sim_meta *meta = (sim_meta *)base;
    fp_sim_wait(meta->service->world, &meta->source, timeout_ms);
    if (base->dead)
        return 0;
    for (sim_op *op = meta->ops, *next; op; op = next) {
        next = op->next;
        if (op->answered)
            deliver_answer(op);
    }
    give_all(meta);
    /* What is left are timeouts, which fp_meta_poll delivers now. */
    size_t left = 0;
    for (fp_meta_watch *watch = base->watches; watch; watch = watch->own.next)
        left += ((sim_watch *)watch->own.state)->due;
    meta->ready = left;
    return 0;
}

static void sim_drain(fp_meta *base)
{
    sim_meta *meta = (sim_meta *)base;
    for (sim_op *op = meta->ops, *next; op; op = next) {
        fp_meta_req *req = op->asked;
        next = op->next;
        fp_sim_forget(meta->service->world, req);
        /* A request that was never sent (its node was dead) is in no step. */
        bool unknown = req->kind == FP_META_TXN && fp_meta_req_changes(req);
        finish(op, fp_error(unknown ? FARPOOL_E_UNKNOWN : FARPOOL_E_CLOSED,
                            "the metastore was closed"));
    }
}

/* ---- open and close -------------------------------------------------------------------------- */

static int sim_open(const char *name, const fp_meta_options *options, fp_meta **out)
{
    if (!options->service)
        return fp_error(FARPOOL_E_INVAL, "metastore sim:%s: there is no service for it", name);
    sim_meta *meta = calloc(1, sizeof *meta);
    if (!meta)
        return fp_error(FARPOOL_E_NOMEM, "metastore sim:%s: no memory", name);
    meta->service = options->service;
    meta->ops_end = &meta->ops;
    meta->source.ready = &meta->ready;
    meta->next = meta->service->stores;
    meta->service->stores = meta;
    fp_sim_source_add(meta->service->world, &meta->source);
    *out = &meta->base;
    return 0;
}

static void sim_close(fp_meta *base)
{
    sim_meta *meta = (sim_meta *)base, **link = &meta->service->stores;
    while (*link != meta)
        link = &(*link)->next;
    *link = meta->next;
    fp_sim_source_remove(meta->service->world, &meta->source);
    free(meta);
}

static int sim_fd(const fp_meta *base)
{
    (void)base;
    return -1;
}

void fp_meta_sim_set_driver(fp_meta *base, void (*driver)(void *), void *arg)
{
    FP_ASSERT(base->ops == &fp_meta_sim);
    sim_meta *meta = (sim_meta *)base;
    meta->source.driver = driver;
    meta->source.driver_arg = arg;
}

void fp_meta_sim_cut(fp_meta *base, bool cut)
{
    FP_ASSERT(base->ops == &fp_meta_sim);
    ((sim_meta *)base)->cut = cut;
}

void fp_meta_sim_crash(fp_meta *base)
{
    FP_ASSERT(base->ops == &fp_meta_sim);
    sim_meta *meta = (sim_meta *)base;
    base->dead = true;
    meta->source.ready = &none;
    for (sim_op *op = meta->ops; op; op = op->next)
        fp_sim_forget(meta->service->world, op->asked);
}

static void fill_in(fp_meta_sim_config *filled, const fp_meta_sim_config *config)
{
    *filled = config ? *config : defaults;
    if (!filled->latency_max_ns) {
        filled->latency_min_ns = defaults.latency_min_ns;
        filled->latency_max_ns = defaults.latency_max_ns;
    }
    if (!filled->lease_late_ns)
        filled->lease_late_ns = defaults.lease_late_ns;
    if (!filled->history)
        filled->history = defaults.history;
}

int fp_meta_service_open(fp_sim_world *world, const fp_meta_sim_config *config,
                         fp_meta_service **out)
{
    fp_meta_service *service = calloc(1, sizeof *service);
    if (!service)
        return fp_error(FARPOOL_E_NOMEM, "simulated metastore: no memory");
    service->world = world;
    service->lease_at = UINT64_MAX;
    fill_in(&service->config, config);
    int rc = fp_meta_db_open(NULL, "simulated", service->config.history, 0, &service->db);
    if (rc) {
        free(service);
        return rc;
    }
    *out = service;
    return 0;
}

void fp_meta_service_close(fp_meta_service *service)
{
    FP_ASSERT(!service->stores);
    fp_sim_forget(service->world, service);
    for (sim_op *op = service->abandoned, *next; op; op = next) {
        next = op->next;
        fp_sim_forget(service->world, op);
        free_op(op);
    }
    fp_meta_db_close(service->db);
    free(service);
}

void fp_meta_service_configure(fp_meta_service *service, const fp_meta_sim_config *config)
{
    fill_in(&service->config, config);
}

void fp_meta_service_change_leader(fp_meta_service *service)
{
    FP_ASSERT(!fp_meta_db_renew_all(service->db, fp_sim_now_ns(service->world)));
}

void fp_meta_service_compact(fp_meta_service *service)
{
    fp_meta_req newest = {.kind = FP_META_RANGE, .key = "", .limit = 1};
    FP_ASSERT(!fp_meta_db_run(service->db, &newest, fp_sim_now_ns(service->world)));
    free(newest.kvs);
    fp_meta_req compact = {.kind = FP_META_COMPACT, .at = newest.revision};
    FP_ASSERT(!fp_meta_db_run(service->db, &compact, fp_sim_now_ns(service->world)));
    changed(service);
}

const fp_meta_ops fp_meta_sim = {
    .scheme = "sim:",
    .open = sim_open,
    .close = sim_close,
    .fd = sim_fd,
    .submit = sim_submit,
    .watch_start = sim_watch_start,
    .watch_stop = sim_watch_stop,
    .poll = sim_poll,
    .drain = sim_drain,
};
