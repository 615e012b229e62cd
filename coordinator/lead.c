/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/lead.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"

enum { REST_MS = 200, SAY_AGAIN_MS = 60000, MS = 1000000 };

static void look(fp_lead *lead);

/* ---- states ---------------------------------------------------------------------------------- */

static void stop_watching(fp_lead *lead)
{
    if (lead->watching)
        fp_meta_watch_stop(&lead->watch);
    lead->watching = false;
}

static void rest(fp_lead *lead)
{
    stop_watching(lead);
    lead->state = FP_LEAD_REST;
    lead->next_ns = lead->now_ns + REST_MS * (uint64_t)MS;
}

/* Told once a minute, not five times a second. */
static void failed(fp_lead *lead, int status)
{
    if (lead->troubled && lead->now_ns < lead->say_again_ns)
        return;
    fp_log(FP_LOG_WARN, "nobody can lead without the metastore, which is tried on: %s (%s)",
           farpool_errmsg(), fp_error_name(status));
    lead->say_again_ns = lead->now_ns + SAY_AGAIN_MS * (uint64_t)MS;
    lead->troubled = true;
}

/* It does all that is wanted of it: on a full disk looking goes well, and claiming does not. */
static void goes_well(fp_lead *lead)
{
    if (lead->troubled)
        fp_log(FP_LOG_INFO, "the metastore does what it is asked again");
    lead->troubled = false;
}

static void set_leader(fp_lead *lead, const char *value)
{
    free(lead->leader);
    lead->leader = value ? strdup(value) : NULL;
}

static void submit(fp_lead *lead, fp_meta_req req, void (*done)(fp_meta_req *))
{
    lead->req = req;
    lead->req.done = done;
    lead->req.user = lead;
    lead->asked_ns = lead->now_ns;
    fp_meta_submit(lead->meta, &lead->req);
}

static bool lease_holds(const fp_lead *lead)
{
    return lead->lease && lead->now_ns < lead->kept_ns + lead->lease_ns;
}

static void revoked(fp_meta_req *req) { ((fp_lead *)req->user)->revoking = false; }

static void give_lease_back(fp_lead *lead)
{
    uint64_t lease = lead->lease;
    lead->lease = 0;
    if (!lease || lead->revoking)
        return;
    lead->revoke =
        (fp_meta_req){.kind = FP_META_LEASE_REVOKE, .lease = lease, .done = revoked, .user = lead};
    lead->revoking = true;
    fp_meta_submit(lead->meta, &lead->revoke);
}

void fp_lead_resign(fp_lead *lead, const char *why)
{
    if (!fp_lead_leads(lead))
        return;
    fp_log(FP_LOG_WARN, "leads no more: %s", why);
    lead->term = 0;
    set_leader(lead, NULL);
    give_lease_back(lead);
    rest(lead);
}

/* ---- claiming -------------------------------------------------------------------------------- */

static void begin_leading(fp_lead *lead, uint64_t term)
{
    lead->state = FP_LEAD_LEAD;
    lead->term = term;
    lead->next_ns = lead->now_ns;
    set_leader(lead, lead->self);
    goes_well(lead);
    fp_log(FP_LOG_INFO, "leads: term %llu", (unsigned long long)term);
}

static void claimed(fp_meta_req *req)
{
    fp_lead *lead = req->user;
    free(req->kvs);
    if (req->status == FARPOOL_E_CLOSED)
        return;
    if (!req->status && req->succeeded && lease_holds(lead)) {
        begin_leading(lead, req->revision);
        return;
    }
    if (req->status)
        failed(lead, req->status);
    if (req->status == FARPOOL_E_NOTFOUND)
        lead->lease = 0;
    if (req->status || req->succeeded) /* perhaps it leads and does not know */
        rest(lead);
    else
        look(lead);
}

static void claim(fp_lead *lead)
{
    lead->compare = (fp_meta_compare){.kind = FP_META_ABSENT, .key = "leader"};
    lead->op = (fp_meta_op){.kind = FP_META_PUT,
                            .key = "leader",
                            .value = lead->self,
                            .len = strlen(lead->self),
                            .lease = lead->lease};
    submit(lead,
           (fp_meta_req){.kind = FP_META_TXN,
                         .compares = &lead->compare,
                         .compare_count = 1,
                         .ops = &lead->op,
                         .op_count = 1},
           claimed);
}

/* It has failed, or the metastore is being closed: nothing is to be made of it. */
static bool is_over(fp_lead *lead, const fp_meta_req *req)
{
    if (!req->status)
        return false;
    if (req->status != FARPOOL_E_CLOSED) {
        failed(lead, req->status);
        rest(lead);
    }
    return true;
}

static void granted(fp_meta_req *req)
{
    fp_lead *lead = req->user;
    if (is_over(lead, req))
        return;
    lead->lease = req->lease;
    lead->lease_ns = req->ttl_ms * MS;
    lead->kept_ns = lead->asked_ns;
    claim(lead);
}

static void begin_claiming(fp_lead *lead)
{
    stop_watching(lead);
    set_leader(lead, NULL);
    lead->state = FP_LEAD_CLAIM;
    if (lease_holds(lead))
        claim(lead);
    else
        submit(lead, (fp_meta_req){.kind = FP_META_LEASE_GRANT, .ttl_ms = lead->ttl_ms}, granted);
}

/* ---- following ------------------------------------------------------------------------------- */

static void leader_changed(fp_meta_watch *watch, const fp_meta_kv *changes, size_t count)
{
    fp_lead *lead = watch->user;
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(changes[i].key, "leader"))
            set_leader(lead, changes[i].value);
    }
    if (!lead->leader)
        begin_claiming(lead);
}

static void watch_ended(fp_meta_watch *watch)
{
    fp_lead *lead = watch->user;
    lead->watching = false;
    if (watch->status != FARPOOL_E_CLOSED)
        rest(lead);
}

static void follow(fp_lead *lead, const fp_meta_kv *kv, uint64_t revision)
{
    goes_well(lead);
    set_leader(lead, kv->value);
    lead->state = FP_LEAD_FOLLOW;
    lead->watch = (fp_meta_watch){.prefix = "leader",
                                  .from = revision + 1,
                                  .events = leader_changed,
                                  .ended = watch_ended,
                                  .user = lead};
    lead->watching = true;
    fp_meta_watch_start(lead->meta, &lead->watch);
}

static void looked(fp_meta_req *req)
{
    fp_lead *lead = req->user;
    if (is_over(lead, req))
        return;
    const fp_meta_kv *kv = NULL;
    for (size_t i = 0; i < req->kv_count; i++) {
        if (!strcmp(req->kvs[i].key, "leader"))
            kv = &req->kvs[i];
    }
    if (!kv)
        begin_claiming(lead);
    else if (kv->lease == lead->lease && lease_holds(lead) && !strcmp(kv->value, lead->self))
        begin_leading(lead, kv->revision); /* its claim's answer was lost */
    else
        follow(lead, kv, req->revision);
    free(req->kvs);
}

static void look(fp_lead *lead)
{
    lead->state = FP_LEAD_LOOK;
    submit(lead, (fp_meta_req){.kind = FP_META_RANGE, .key = "leader"}, looked);
}

/* ---- leading --------------------------------------------------------------------------------- */

static void kept(fp_meta_req *req)
{
    fp_lead *lead = req->user;
    lead->keeping = false;
    if (req->status == FARPOOL_E_CLOSED || req->lease != lead->lease)
        return;
    if (!req->status) {
        goes_well(lead);
        lead->kept_ns = lead->asked_ns;
    } else if (req->status == FARPOOL_E_NOTFOUND) {
        fp_lead_resign(lead, "its lease has ended");
    } else {
        failed(lead, req->status);
        lead->next_ns = lead->now_ns + lead->lease_ns / 10;
    }
}

static void keep(fp_lead *lead)
{
    if (!lease_holds(lead)) {
        fp_lead_resign(lead, "it could not keep its lease");
        return;
    }
    if (lead->now_ns < lead->next_ns || lead->keeping)
        return;
    lead->keep = (fp_meta_req){.kind = FP_META_LEASE_KEEP,
                               .lease = lead->lease,
                               .timeout_ms = (unsigned)(lead->ttl_ms / 2),
                               .done = kept,
                               .user = lead};
    lead->keeping = true;
    lead->asked_ns = lead->now_ns;
    lead->next_ns = lead->now_ns + lead->lease_ns / 3;
    fp_meta_submit(lead->meta, &lead->keep);
}

/* ---- all ------------------------------------------------------------------------------------- */

void fp_lead_open(fp_lead *lead, fp_meta *meta, char *self, unsigned ttl_ms)
{
    *lead = (fp_lead){.meta = meta, .self = self, .ttl_ms = ttl_ms};
}

void fp_lead_close(fp_lead *lead)
{
    free(lead->self);
    free(lead->leader);
    *lead = (fp_lead){0};
}

void fp_lead_step(fp_lead *lead, uint64_t now_ns)
{
    lead->now_ns = now_ns;
    if (lead->state == FP_LEAD_LEAD)
        keep(lead);
    else if (lead->state == FP_LEAD_REST && now_ns >= lead->next_ns)
        look(lead);
}

uint64_t fp_lead_next_ns(const fp_lead *lead)
{
    if (lead->state == FP_LEAD_LEAD) {
        uint64_t end = lead->kept_ns + lead->lease_ns;
        return lead->keeping || end < lead->next_ns ? end : lead->next_ns;
    }
    return lead->state == FP_LEAD_REST ? lead->next_ns : UINT64_MAX;
}
