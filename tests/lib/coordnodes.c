/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/coordworld.h"
#include "tests/lib/require.h"

static uint64_t number_of(const json_t *object, const char *field)
{
    return (uint64_t)json_integer_value(json_object_get(object, field));
}

static cw_node *memory_node(cw *w, unsigned i) { return &w->nodes[i]; } /* they are the first */

/* ---- what they say --------------------------------------------------------------------------- */

json_t *cw_node_card(void *arg)
{
    const cw_node *node = arg;
    char boot[17], uri[32];
    snprintf(boot, sizeof boot, "%016" PRIx64, node->boot_id);
    snprintf(uri, sizeof uri, "sim://%s-data", node->name);
    return json_pack("{s:s, s:s, s:s, s:[s], s:s, s:s, s:I, s:b}", "role",
                     fp_role_names[node->role], "name", node->name, "boot_id", boot, "uris", uri,
                     "zone", node->zone, "host", node->name, "bytes", (json_int_t)1 << 30,
                     "standby", 1);
}

static json_t *held_json(const cw_node *node, unsigned id)
{
    static const char *const states[] = {"closed", "opening", "open", "failed"};
    const cw_held *h = &node->held[id];
    if (node->role == FP_ROLE_MEMORY) /* a fence that waits for its owner is not told */
        return json_pack("{s:i, s:I, s:i, s:i}", "id", (int)id, "epoch",
                         (json_int_t)(h->granted ? h->granted : h->fence), "ring",
                         h->ring ? 1 << 20 : 0, "slab", h->ring ? 1 << 20 : 0);
    if (node->role == FP_ROLE_STORAGE)
        return json_pack("{s:i, s:i, s:b}", "id", (int)id, "epoch", 0, "whole",
                         cw_now(node->world) >= h->whole_ns);
    json_t *lost = json_array();
    for (unsigned i = 0; i < h->memnode_count && h->state == CW_OPEN; i++) {
        if (!(h->rings & 1u << h->memnodes[i]))
            json_array_append_new(lost, json_integer(i));
    }
    return json_pack("{s:i, s:I, s:s, s:i, s:s, s:o}", "id", (int)id, "epoch", (json_int_t)h->epoch,
                     "state", states[h->state], "code", h->code, "text", "so it was drawn", "lost",
                     lost);
}

json_t *cw_node_actual(void *arg)
{
    const cw_node *node = arg;
    json_t *list = json_array();
    for (unsigned id = 0; id < CW_PARTS; id++) {
        const cw_held *h = &node->held[id];
        if (h->known && (node->role != FP_ROLE_COMPUTE || h->state != CW_IDLE))
            json_array_append_new(list, held_json(node, id));
    }
    return json_pack("{s:o}", "partitions", list);
}

/* ---- memory nodes ---------------------------------------------------------------------------- */

static void take_fence(cw_node *node, const json_t *fence)
{
    uint64_t id = number_of(fence, "partition"), epoch = number_of(fence, "epoch");
    uint64_t held = number_of(fence, "held");
    cw_held *h = &node->held[id];
    h->known = true;
    if (epoch <= h->fence)
        return;
    h->fence = epoch;
    snprintf(h->owner, sizeof h->owner, "%s", json_string_value(json_object_get(fence, "owner")));
    if (!held || h->granted != held)
        h->granted = 0; /* cut off */
    uint64_t *raised = &node->world->truth[id].raised[node->number];
    if (!h->granted && epoch > *raised)
        *raised = epoch;
}

static void memory_duties(cw_node *node, const json_t *duties)
{
    size_t i;
    const json_t *item;
    json_array_foreach(json_object_get(duties, "fences"), i, item) take_fence(node, item);
    json_array_foreach(json_object_get(duties, "drop"), i, item)
    {
        cw_held *h = &node->held[number_of(item, "partition")];
        if (h->fence <= number_of(item, "epoch"))
            *h = (cw_held){.known = true, .fence = number_of(item, "epoch")};
    }
}

/* Can it be reached, and does it run? */
static bool answers(const cw_node *node)
{
    return node->up && cw_now(node->world) >= node->paused_until_ns;
}

/* GRANT, to go on with what is held under that epoch (0: whatever there is). */
static bool grant(cw_node *memory, const cw_node *owner, unsigned id, uint64_t epoch, uint64_t held)
{
    cw_held *h = &memory->held[id];
    if (!answers(memory) || h->fence != epoch || strcmp(h->owner, owner->name) != 0 ||
        h->granted >= epoch || (held && h->granted != held && h->ring))
        return false;
    if (!h->ring)
        *h = (cw_held){.known = true, .fence = epoch, .ring = true};
    snprintf(h->owner, sizeof h->owner, "%s", owner->name);
    h->granted = epoch;
    fp_agent_changed(memory->agent);
    return true;
}

/* ---- compute nodes --------------------------------------------------------------------------- */

/* 5: is enough of the partition fenced for this owner? By the record of the one who leads, if it is the same epoch. */
static void check_fenced(cw *w, unsigned id, uint64_t epoch)
{
    const cw_coordinator *leader = cw_leader(w);
    const fp_part *part = leader ? fp_model_part(fp_coordinator_model(leader->c), id) : NULL;
    if (!part || part->r.epoch != epoch || part->r.phase != FP_ASSIGNED ||
        w->truth[id].vouched == epoch)
        return;
    const fp_list *lists[] = {&part->r.memnodes, &part->r.before};
    for (unsigned l = 0; l < 2; l++) {
        unsigned raised = 0;
        for (unsigned i = 0; i < lists[l]->count && i < part->r.log_copies; i++)
            raised += w->truth[id].raised[atoi(lists[l]->names[i] + 1)] >= epoch;
        REQUIRE(!lists[l]->count || raised >= part->r.log_copies - part->r.log_quorum + 1);
    }
}

static void take_duty(cw_node *node, const json_t *duty)
{
    cw *w = node->world;
    unsigned id = (unsigned)number_of(duty, "id");
    uint64_t epoch = number_of(duty, "epoch");
    cw_held *h = &node->held[id];
    cw_truth *truth = &w->truth[id];
    h->told = true;
    if (h->known && epoch <= h->epoch)
        return;
    if (epoch == truth->told_epoch)
        REQUIRE(truth->told_boot == node->boot_id); /* 1 */
    if (epoch > truth->told_epoch) {
        truth->told_epoch = epoch;
        truth->told_boot = node->boot_id;
    }
    bool changing = !strcmp(json_string_value(json_object_get(duty, "phase")), "changing");
    if (!changing)
        check_fenced(w, id, epoch);
    if (!changing || h->state != CW_OPEN)
        *h = (cw_held){.told = true};
    h->known = true;
    h->epoch = epoch;
    h->state = CW_OPENING;
    h->due_ns = cw_now(w) + cw_draw(w, 60) * CW_MS;
    h->made = json_is_true(json_object_get(duty, "made"));
    h->stored = json_is_true(json_object_get(duty, "stored"));
    h->copies = (unsigned)number_of(duty, "log_copies");
    h->quorum = (unsigned)number_of(duty, "log_quorum");
    h->memnode_count = 0;
    size_t i;
    const json_t *uri;
    json_array_foreach(json_object_get(duty, "memnodes"), i, uri) h->memnodes[h->memnode_count++] =
        (unsigned)atoi(json_string_value(uri) + 7);
}

static void compute_duties(cw_node *node, const json_t *duties)
{
    size_t i;
    const json_t *duty;
    for (unsigned id = 0; id < CW_PARTS; id++)
        node->held[id].told = false;
    json_array_foreach(json_object_get(duties, "partitions"), i, duty) take_duty(node, duty);
    for (unsigned id = 0; id < CW_PARTS; id++) {
        if (!node->held[id].told)
            node->held[id].state = CW_IDLE; /* somebody else's now */
    }
}

static void fail(cw_node *node, cw_held *h, int code)
{
    h->state = CW_FAILED;
    h->code = code;
    fp_agent_changed(node->agent);
}

static void write_ring(cw_node *memory, unsigned id, uint64_t epoch, uint64_t length)
{
    cw_held *r = &memory->held[id];
    r->has_log = true;
    r->log = length;
    r->log_epoch = epoch;
}

/* The best log of those rings, and how many have one. */
static unsigned read_rings(cw *w, const cw_held *h, unsigned id, uint32_t rings, uint64_t *length)
{
    unsigned logs = 0;
    uint64_t epoch = 0;
    for (unsigned i = 0; i < h->copies; i++) {
        const cw_held *r = &memory_node(w, h->memnodes[i])->held[id];
        if (!(rings & 1u << h->memnodes[i]) || !r->has_log)
            continue;
        if (!logs++ || r->log_epoch > epoch || (r->log_epoch == epoch && r->log > *length)) {
            *length = r->log;
            epoch = r->log_epoch;
        }
    }
    return logs;
}

static void finish_open(cw_node *node, unsigned id)
{
    cw *w = node->world;
    cw_held *h = &node->held[id];
    cw_truth *truth = &w->truth[id];
    uint32_t rings = 0;
    unsigned granted = 0;
    for (unsigned i = 0; i < h->copies; i++) {
        if (grant(memory_node(w, h->memnodes[i]), node, id, h->epoch, 0)) {
            rings |= 1u << h->memnodes[i];
            granted++;
        }
    }
    uint64_t length = 0;
    unsigned logs = read_rings(w, h, id, rings, &length);
    bool enough =
        h->made ? logs > h->copies - h->quorum && granted >= h->quorum : granted == h->copies;
    if (!h->made && logs && length) {
        fail(node, h, FARPOOL_E_EXISTS);
        return;
    }
    if (h->stored && granted >= h->quorum) {
        enough = true;
        length = logs ? length : 0;
        truth->acked = length; /* what only memory had is gone */
    }
    if (!enough || cw_draw(w, 100) < w->fail_percent) {
        fail(node, h, FARPOOL_E_NODE);
        return;
    }
    REQUIRE(length >= truth->acked);    /* 3 */
    REQUIRE(h->epoch >= truth->opened); /* by 2 */
    truth->acked = length;
    truth->opened = h->epoch;
    for (unsigned i = 0; i < h->copies; i++) {
        if (rings & 1u << h->memnodes[i])
            write_ring(memory_node(w, h->memnodes[i]), id, h->epoch, length);
    }
    h->rings = rings;
    h->length = length;
    h->opened = h->epoch;
    h->state = CW_OPEN;
    w->openings++;
    fp_agent_changed(node->agent);
}

/* Other memory nodes: those that stay are asked for what is held under the epoch that was opened. */
static void finish_change(cw_node *node, unsigned id)
{
    cw *w = node->world;
    cw_held *h = &node->held[id];
    uint32_t rings = 0;
    unsigned stay = 0, usable = 0;
    for (unsigned i = 0; i < h->copies; i++) {
        const cw_node *m = memory_node(w, h->memnodes[i]);
        usable +=
            answers(m) && (h->rings & 1u << h->memnodes[i]) && m->held[id].granted == h->opened;
    }
    h->state = CW_OPEN;
    h->code = 0;
    fp_agent_changed(node->agent);
    if (usable < h->quorum || cw_draw(w, 100) < w->fail_percent) {
        h->code = FARPOOL_E_NOSPACE; /* nothing has changed */
        return;
    }
    for (unsigned i = 0; i < h->copies; i++) {
        cw_node *m = memory_node(w, h->memnodes[i]);
        bool stays = (h->rings & 1u << h->memnodes[i]) && m->held[id].granted == h->opened;
        if (!grant(m, node, id, h->epoch, stays ? h->opened : 0))
            continue;
        rings |= 1u << h->memnodes[i];
        stay += stays;
    }
    if (stay < h->quorum) {
        fail(node, h, FARPOOL_E_NODE);
        return;
    }
    for (unsigned i = 0; i < h->copies; i++) {
        if (rings & 1u << h->memnodes[i])
            write_ring(memory_node(w, h->memnodes[i]), id, h->epoch, h->length);
    }
    h->rings = rings;
    h->opened = h->epoch;
    w->truth[id].opened = h->epoch;
    w->changes++;
}

static void commit(cw_node *node, unsigned id)
{
    cw *w = node->world;
    cw_held *h = &node->held[id];
    unsigned acks = 0;
    for (unsigned i = 0; i < h->copies; i++) {
        cw_node *m = memory_node(w, h->memnodes[i]);
        cw_held *r = &m->held[id];
        if (!(h->rings & 1u << h->memnodes[i]) || !m->up || r->granted != h->opened) {
            h->rings &= ~(1u << h->memnodes[i]); /* lost until another epoch */
            continue;
        }
        write_ring(m, id, h->opened, h->length + 1);
        acks++;
    }
    if (acks < h->quorum) {
        fail(node, h, FARPOOL_E_NODE);
        return;
    }
    cw_truth *truth = &w->truth[id];
    REQUIRE(truth->opened == h->opened); /* 2 */
    truth->acked = ++h->length;
    w->commits++;
}

static void compute_step(cw_node *node, unsigned id)
{
    cw_held *h = &node->held[id];
    bool open = h->state == CW_OPEN || (h->state == CW_OPENING && h->opened);
    if (h->state == CW_OPENING && cw_now(node->world) >= h->due_ns) {
        if (h->opened)
            finish_change(node, id);
        else
            finish_open(node, id);
    } else if (open && !cw_draw(node->world, 20)) {
        commit(node, id);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

static void storage_duties(cw_node *node, const json_t *duties)
{
    size_t i;
    const json_t *item;
    json_array_foreach(json_object_get(duties, "drop"), i, item)
        node->held[number_of(item, "partition")]
            .known = false;
}

void cw_node_duties(void *arg, const json_t *duties)
{
    cw_node *node = arg;
    if (node->role == FP_ROLE_MEMORY)
        memory_duties(node, duties);
    else if (node->role == FP_ROLE_STORAGE)
        storage_duties(node, duties);
    else
        compute_duties(node, duties);
    fp_agent_changed(node->agent);
}

/* It is being spilled to: sooner or later a storage node has what was committed. */
static void storage_step(cw_node *node)
{
    cw *w = node->world;
    unsigned id = (unsigned)cw_draw(w, CW_PARTS);
    const cw_coordinator *leader = cw_leader(w);
    const fp_part *part = leader ? fp_model_part(fp_coordinator_model(leader->c), id) : NULL;
    if (!part || node->held[id].known || !part->r.made || part->r.state == FP_DELETED ||
        !fp_list_has(&part->r.storagenodes, node->name))
        return;
    node->held[id].known = true;
    node->held[id].whole_ns = cw_now(w) + cw_draw(w, 1000) * CW_MS;
    fp_agent_changed(node->agent);
}

void cw_node_step(cw_node *node)
{
    for (unsigned id = 0; id < CW_PARTS && node->role == FP_ROLE_COMPUTE; id++) {
        if (node->held[id].state != CW_IDLE)
            compute_step(node, id);
    }
    if (node->role == FP_ROLE_STORAGE && !cw_draw(node->world, 10))
        storage_step(node);
}
