/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/decide.h"
#include "coordinator/inside.h"

/* ---- life ------------------------------------------------------------------------------------ */

static void dropped(void *owner, fp_server_client *client)
{
    fp_coordinator *c = owner;
    fp_session *session = (fp_session *)client;
    fp_calls_forget(c, session);
    fp_nodes_gone(c, session);
    fp_call_drop(&session->in);
}

static const fp_server_ops server_ops = {
    .client_bytes = sizeof(fp_session),
    .request = fp_calls_take,
    .dropped = dropped,
};

static unsigned or_default(unsigned value, unsigned otherwise) { return value ? value : otherwise; }

static void set_settings(fp_coordinator *c, const fp_coordinator_config *config)
{
    const fp_settings *s = &config->settings;
    c->model.settings = (fp_settings){
        .heartbeat_ms = or_default(s->heartbeat_ms, FP_HEARTBEAT_MS),
        .grace_ms = or_default(s->grace_ms, FP_GRACE_MS),
        .lost_ms = or_default(s->lost_ms, FP_LOST_MS),
        .replace_ms = or_default(s->replace_ms, FP_REPLACE_MS),
        .replace_storage_ms = or_default(s->replace_storage_ms, FP_REPLACE_STORAGE_MS),
    };
    c->lease_ms = or_default(config->lease_ms, FP_LEASE_MS);
}

int fp_coordinator_open(const fp_coordinator_config *config, fp_coordinator **coordinator)
{
    fp_coordinator *c = calloc(1, sizeof *c);
    if (!c)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a coordinator");
    set_settings(c, config);
    c->calls_end = &c->calls;
    int rc = fp_changes_open(&c->changes);
    if (rc)
        goto err_after_memory;
    rc = fp_server_open(&c->server, &server_ops, c, config->name, config->boot_id, config->auth);
    if (rc)
        goto err_after_changes;
    rc = fp_meta_open(config->metastore, config->meta, &c->meta);
    if (rc)
        goto err_after_changes;
    *coordinator = c;
    return 0;
err_after_changes:
    fp_changes_close(&c->changes);
err_after_memory:
    free(c);
    return rc;
}

void fp_coordinator_close(fp_coordinator *c)
{
    if (!c)
        return;
    c->closing = true;
    fp_server_stop(&c->server);
    fp_meta_close(c->meta);
    fp_calls_drop(c);
    fp_lead_close(&c->lead);
    fp_server_close(&c->server);
    fp_model_clear(&c->model);
    fp_changes_close(&c->changes);
    free(c);
}

void fp_coordinator_resign(fp_coordinator *c, int wait_ms)
{
    fp_lead_resign(&c->lead, "it ends");
    if (c->lead.revoking)
        fp_meta_poll(c->meta, wait_ms);
}

/* What it says of itself when it leads. The boot id tells it from all others. */
static char *self_text(const fp_coordinator *c)
{
    char boot[17];
    snprintf(boot, sizeof boot, "%016" PRIx64, c->server.boot_id);
    json_t *uris = json_array();
    for (unsigned i = 0; i < c->server.listener_count; i++)
        json_array_append_new(uris, json_string(fp_net_listener_uri(c->server.listeners[i])));
    json_t *self =
        json_pack("{s:s, s:s, s:o}", "name", c->server.name, "boot_id", boot, "uris", uris);
    char *text = self ? json_dumps(self, JSON_COMPACT) : NULL;
    json_decref(self);
    return text;
}

int fp_coordinator_listen(fp_coordinator *c, const char *uri, const fp_net_options *options,
                          const char **bound)
{
    int rc = fp_server_listen(&c->server, uri, options, bound);
    if (rc || c->lead.state != FP_LEAD_REST)
        return rc;
    char *self = self_text(c);
    if (!self)
        return fp_error(FARPOOL_E_INVAL, "%s: the name or an address cannot be put into JSON",
                        c->server.name);
    free(c->lead.self);
    fp_lead_open(&c->lead, c->meta, self, c->lease_ms);
    return 0;
}

unsigned fp_coordinator_fds(const fp_coordinator *c, int fds[FP_SERVER_NETS_MAX])
{
    return fp_server_fds(&c->server, fds);
}

fp_meta *fp_coordinator_meta(const fp_coordinator *c) { return c->meta; }
uint64_t fp_coordinator_boot_id(const fp_coordinator *c) { return c->server.boot_id; }
const fp_model *fp_coordinator_model(const fp_coordinator *c) { return &c->model; }

bool fp_coordinator_leads(const fp_coordinator *c)
{
    return fp_lead_leads(&c->lead) && c->kept == FP_KEPT_READ;
}

bool fp_coordinator_knows_leader(const fp_coordinator *c) { return c->lead.leader != NULL; }

uint64_t fp_coordinator_now_ns(const fp_coordinator *c)
{
    return c->server.net_count ? fp_net_now_ns(c->server.nets[0].net) : 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void decide(fp_coordinator *c)
{
    if (c->writing || c->kept != FP_KEPT_READ || c->model.now_ns < c->decide_at_ns)
        return;
    if (!c->doubt)
        fp_decide(&c->model, &c->changes);
    c->decided_last = true;
    if (c->changes.count || c->doubt)
        fp_kept_write(c);
}

/* Owners are told of some decisions when others have been told, or time has passed. */
static bool somebody_waits(const fp_model *model)
{
    for (size_t i = 0; i < model->part_count; i++) {
        enum fp_phase phase = model->parts[i]->r.phase;
        if (phase == FP_ASSIGNED || phase == FP_CHANGING)
            return true;
    }
    return false;
}

/* Decisions and calls take turns when both want to write. */
static void lead_on(fp_coordinator *c)
{
    bool tick = c->model.now_ns >= c->tick_ns;
    if (tick) {
        c->tick_ns = c->model.now_ns + fp_ms(FP_TICK_MS);
        c->version += somebody_waits(&c->model);
    }
    if (c->doubt || (tick && !c->decided_last))
        decide(c);
    fp_calls_run(c);
    if (tick)
        decide(c);
    if (c->kept != FP_KEPT_READ)
        return;
    fp_events_look(c);
    fp_nodes_answer_waits(c);
}

static void step_leading(fp_coordinator *c)
{
    bool leads = fp_lead_leads(&c->lead);
    bool known = c->kept == FP_KEPT_READ;
    if (known && (!leads || c->model.term != c->lead.term)) {
        fp_kept_forget(c);
        known = false;
    }
    if (leads && c->kept == FP_KEPT_NOT && c->model.now_ns >= c->read_at_ns)
        fp_kept_read(c);
    if (!leads)
        fp_calls_send_away(c);
    if (leads && known)
        lead_on(c);
}

int fp_coordinator_step(fp_coordinator *c)
{
    if (!c->server.listener_count)
        return 0;
    uint64_t before = c->model.now_ns;
    c->model.now_ns = fp_coordinator_now_ns(c);
    if (fp_lead_leads(&c->lead) && c->model.now_ns - before > fp_ms(c->model.settings.heartbeat_ms))
        fp_model_stood_still(&c->model, before);
    fp_lead_step(&c->lead, c->model.now_ns); /* first: after a pause it leads no more */
    int more = fp_server_step(&c->server);
    if (more < 0)
        return more;
    int given = fp_meta_poll(c->meta, 0);
    if (given < 0)
        return given;
    step_leading(c);
    /* What was submitted just now may be over already, and nothing else would tell. */
    int late = fp_meta_poll(c->meta, 0);
    if (late < 0)
        return late;
    return more || given || late;
}

uint64_t fp_coordinator_next_ns(const fp_coordinator *c)
{
    uint64_t next = fp_lead_next_ns(&c->lead);
    if (!fp_lead_leads(&c->lead))
        return next;
    uint64_t tick = c->kept == FP_KEPT_READ ? c->tick_ns : c->model.now_ns + fp_ms(FP_TICK_MS);
    return tick < next ? tick : next;
}
