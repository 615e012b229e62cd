/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Evens out what nodes are used for when others have joined: one step for each time somebody asks, and none while a
 * partition is on its way. Each step makes what it compares less, and none makes what comes before it more, so they come to
 * an end:
 *
 *   memory     how many memory nodes of a partition share a zone, rack, host; then the fill of the fuller of two nodes
 *   storage    as fp_place_better_storage
 *   owners     how many partitions the busier of two compute nodes has
 *
 * Partitions that are not as they should be stay as they are, and so do those with which a step came to nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/decide.h"
#include "coordinator/place.h"

/* ---- what may be moved -------------------------------------------------------------------------- */

static bool is_whole(const fp_model *model, const fp_part *part, const char *storage)
{
    const fp_member *member = fp_model_member(model, storage);
    const fp_told *told = fp_model_told(model, storage, part->r.id);
    return member && fp_member_up(model, member) && told && told->whole;
}

/* Storage nodes that are there get its log and pages. */
static bool is_copied(const fp_model *model, const fp_part *part)
{
    fp_list wanted;
    fp_decide_storagenodes(model, &part->r.memnodes, part->r.log_copies, &wanted);
    for (unsigned i = 0; i < wanted.count; i++) {
        const fp_member *member = fp_model_member(model, wanted.names[i]);
        if (member && fp_member_up(model, member) && !is_whole(model, part, wanted.names[i]))
            return true;
    }
    return false;
}

static int check_calm(const fp_model *model)
{
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part_record *r = &model->parts[i]->r;
        if (r->phase == FP_FENCING || r->phase == FP_ASSIGNED || r->phase == FP_CHANGING)
            return fp_error(FARPOOL_E_BUSY, "partition %s is %s", r->name,
                            fp_phase_names[r->phase]);
        if (r->phase == FP_OPEN && is_copied(model, model->parts[i]))
            return fp_error(FARPOOL_E_BUSY, "partition %s is being copied to storage nodes",
                            r->name);
    }
    return 0;
}

/* Is it open, says its owner, and does nothing stand in the way of another change? */
static bool is_well(const fp_model *model, const fp_part *part)
{
    const fp_member *owner = fp_model_member(model, part->r.owner);
    const fp_told *told = fp_model_told(model, part->r.owner, part->r.id);
    return part->r.phase == FP_OPEN && owner && fp_member_up(model, owner) && told &&
           told->epoch == part->r.epoch && told->state == FP_TOLD_OPEN && !told->code &&
           model->now_ns >= part->retry_at_ns;
}

/* What a memory node gives up is there elsewhere: in the other memory nodes and on all storage nodes. */
static bool may_change(const fp_model *model, const fp_part *part)
{
    const fp_part_record *r = &part->r;
    bool may = is_well(model, part) && r->storagenodes.count && !part->avoid[0];
    for (unsigned i = 0; i < r->memnodes.count && may; i++) {
        const fp_member *member = fp_model_member(model, r->memnodes.names[i]);
        may = member && fp_member_up(model, member) && !fp_decide_is_hollow(model, part, i);
    }
    for (unsigned i = 0; i < r->storagenodes.count && may; i++)
        may = is_whole(model, part, r->storagenodes.names[i]);
    return may;
}

/* ---- memory ------------------------------------------------------------------------------------ */

typedef struct step {
    const fp_part *part;
    unsigned at;
    fp_member *to;
    bool spreads;
    double gain; /* how much less full it is then than the one that stood there was */
} step;

/* What the partition takes of the node that stands there: what it was granted may be more than it asked for. */
static uint64_t moved_bytes(const fp_member *now, const fp_part *part, unsigned at)
{
    const fp_told *told = fp_member_told(now, part->r.id);
    uint64_t granted = told ? told->ring + told->slab : 0;
    uint64_t promised = fp_place_bytes(&part->r, at);
    return granted > promised ? granted : promised;
}

/* What another node in place `at` is good for. To be worth moving the bytes it has to have been less full by one and a half
 * times as much. */
static bool weigh(const fp_model *model, step *s)
{
    const fp_part *part = s->part;
    const fp_list *list = &part->r.memnodes;
    const fp_member *now = fp_model_member(model, list->names[s->at]);
    uint64_t before[FP_PLACE_SHARED], after[FP_PLACE_SHARED];
    s->to = fp_place_memory(model, part, list, s->at, "");
    if (!s->to || !fp_decide_may_leave(model, part, (int)s->at))
        return false;
    fp_place_shared(model, now, part, list, s->at, before);
    fp_place_shared(model, s->to, part, list, s->at, after);
    int i = 0;
    while (i < FP_PLACE_DOMAINS && before[i] == after[i])
        i++;
    s->spreads = i < FP_PLACE_DOMAINS && after[i] < before[i];
    bool same = i == FP_PLACE_DOMAINS && after[i] <= before[i];
    uint64_t bytes = moved_bytes(now, part, s->at);
    double room = (double)s->to->r.bytes;
    s->gain = (double)(fp_place_used(model, now, part) + bytes) / (double)now->r.bytes -
              (double)(fp_place_used(model, s->to, part) + bytes) / room;
    return s->spreads || (same && s->gain >= (double)bytes / room / 2);
}

static bool even_memory(const fp_model *model, fp_changes *changes)
{
    step best = {0};
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part *part = model->parts[i];
        unsigned count = may_change(model, part) ? part->r.memnodes.count : 0;
        for (unsigned at = 0; at < count; at++) {
            step s = {.part = part, .at = at};
            if (weigh(model, &s) && (!best.part || s.spreads > best.spreads ||
                                     (s.spreads == best.spreads && s.gain > best.gain)))
                best = s;
        }
    }
    return best.part && fp_decide_change(model, changes, best.part, (int)best.at,
                                         best.spreads ? "stands close to others" : "is fuller");
}

/* ---- storage ----------------------------------------------------------------------------------- */

/* Until the new one has all, the partition's log comes to those alone to whom its other rings are spilled. */
static bool can_do_without(const fp_model *model, const fp_part *part, const char *memory)
{
    fp_list others = part->r.memnodes, left;
    if (others.count > part->r.log_copies)
        others.count = part->r.log_copies;
    if (!fp_list_has(&others, memory))
        return true;
    fp_list_remove(&others, memory);
    fp_decide_storagenodes(model, &others, part->r.log_copies, &left);
    return left.count >= part->r.storage_quorum && may_change(model, part);
}

static bool even_storage(const fp_model *model, fp_changes *changes)
{
    for (size_t i = 0; i < model->member_count; i++) {
        const fp_member *memory = model->members[i];
        const fp_member *now = fp_model_member(model, memory->r.storage);
        bool may = memory->r.role == FP_ROLE_MEMORY && now;
        for (size_t k = 0; k < model->part_count && may; k++)
            may = can_do_without(model, model->parts[k], memory->r.name);
        fp_member *to = may ? fp_place_better_storage(model, memory, now, true) : NULL;
        if (!to)
            continue;
        fp_decide_spill(changes, memory, to);
        return true;
    }
    return false;
}

/* ---- owners ------------------------------------------------------------------------------------ */

static bool even_owners(const fp_model *model, fp_changes *changes)
{
    const fp_part *best = NULL;
    fp_member *to = NULL;
    unsigned many = 0, few = 0;
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part *part = model->parts[i];
        const fp_member *owner = fp_model_member(model, part->r.owner);
        fp_member *least = fp_place_owner(model, part->declined);
        if (!is_well(model, part) || !least || !owner->r.standby)
            continue;
        unsigned has = fp_place_parts(model, owner), had = fp_place_parts(model, least);
        if (has < had + 2 || (best && has - had <= many - few))
            continue;
        best = part;
        to = least;
        many = has;
        few = had;
    }
    if (!best)
        return false;
    char why[200];
    snprintf(why, sizeof why, "%s has %u, %s had %u", best->r.owner, many, to->r.name, few);
    (void)fp_decide_owner(model, changes, best, to, "move", why);
    return true;
}

int fp_balance(fp_model *model, fp_changes *changes)
{
    int rc = check_calm(model);
    fp_place_afresh(model);
    if (!rc && !even_memory(model, changes) && !even_storage(model, changes))
        (void)even_owners(model, changes);
    return rc;
}
