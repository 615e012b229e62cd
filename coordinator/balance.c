/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Evens out what nodes are used for when others have joined: one step for each time somebody asks, and none while an earlier
 * one, or anything else, is under way. Each step makes what it compares less, and none makes what comes before it more, so
 * they come to an end:
 *
 *   memory     how many memory nodes of a partition share a zone, rack, host; then the fill of the fuller of two nodes
 *   storage    as fp_place_better_storage
 *   owners     how many partitions the busier of two compute nodes has
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/decide.h"
#include "coordinator/place.h"

/* ---- whether anything is under way ------------------------------------------------------------ */

static int check_part(const fp_model *model, const fp_part *part)
{
    const fp_part_record *r = &part->r;
    const fp_member *owner = fp_model_member(model, r->owner);
    fp_list wanted;
    if (r->phase != FP_OPEN || !owner || !fp_member_up(model, owner))
        return fp_error(FARPOOL_E_BUSY, "partition %s is %s%s", r->name, fp_phase_names[r->phase],
                        r->phase == FP_OPEN ? ", and its owner is away" : "");
    if (model->now_ns < part->retry_at_ns)
        return fp_error(FARPOOL_E_BUSY, "partition %s: a change came to nothing: %s", r->name,
                        part->failure);
    for (unsigned i = 0; i < r->memnodes.count; i++) {
        const fp_member *member = fp_model_member(model, r->memnodes.names[i]);
        if (!member || !fp_member_up(model, member) || fp_decide_is_hollow(model, part, i))
            return fp_error(FARPOOL_E_BUSY, "partition %s does not have all of memory node %s",
                            r->name, r->memnodes.names[i]);
    }
    fp_decide_storagenodes(model, &r->memnodes, r->log_copies, &wanted);
    bool same = wanted.count == r->storagenodes.count;
    for (unsigned i = 0; i < wanted.count; i++)
        same = same && fp_list_has(&r->storagenodes, wanted.names[i]);
    return same ? 0
                : fp_error(FARPOOL_E_BUSY, "partition %s is being copied to other storage nodes",
                           r->name);
}

static int check_calm(const fp_model *model)
{
    int rc = 0;
    for (size_t i = 0; i < model->part_count && !rc; i++) {
        const fp_part *part = model->parts[i];
        if (part->r.state != FP_DELETED && part->r.epoch)
            rc = check_part(model, part);
    }
    for (size_t i = 0; i < model->member_count && !rc; i++) {
        const fp_member *member = model->members[i];
        if (member->r.state == FP_DRAINING)
            rc = fp_error(FARPOOL_E_BUSY, "node %s is being drained", member->r.name);
    }
    return rc;
}

/* ---- memory ------------------------------------------------------------------------------------ */

typedef struct step {
    fp_part *part;
    unsigned at;
    fp_member *to;
    bool spreads;
    double gain; /* how much less full it is then than the one that stood there was */
} step;

/* What another node in place `at` is good for. To be worth moving the bytes it has to have been less full by one and a half
 * times as much. */
static bool weigh(const fp_model *model, step *s)
{
    const fp_part *part = s->part;
    const fp_list *list = &part->r.memnodes;
    const fp_member *now = fp_model_member(model, list->names[s->at]);
    uint64_t need = fp_place_bytes(&part->r, s->at);
    uint64_t before[FP_PLACE_SHARED], after[FP_PLACE_SHARED];
    s->to = fp_place_memory(model, part, list, s->at, part->avoid);
    if (!s->to || !strcmp(s->to->r.name, part->avoid) ||
        !fp_decide_may_leave(model, part, (int)s->at))
        return false;
    fp_place_shared(model, now, part, list, s->at, before);
    fp_place_shared(model, s->to, part, list, s->at, after);
    int i = 0;
    while (i < FP_PLACE_DOMAINS && before[i] == after[i])
        i++;
    s->spreads = i < FP_PLACE_DOMAINS && after[i] < before[i];
    bool same = i == FP_PLACE_DOMAINS && after[i] <= before[i];
    double bytes = (double)s->to->r.bytes;
    s->gain = (double)fp_place_used(model, now, NULL) / (double)now->r.bytes -
              (double)(fp_place_used(model, s->to, part) + need) / bytes;
    return s->spreads || (same && s->gain >= (double)need / bytes / 2);
}

static bool even_memory(const fp_model *model, fp_changes *changes)
{
    step best = {0};
    for (size_t i = 0; i < model->part_count; i++) {
        for (unsigned at = 0; at < model->parts[i]->r.memnodes.count; at++) {
            step s = {.part = model->parts[i], .at = at};
            if (model->parts[i]->r.phase == FP_OPEN && weigh(model, &s) &&
                (!best.part || s.spreads > best.spreads ||
                 (s.spreads == best.spreads && s.gain > best.gain)))
                best = s;
        }
    }
    return best.part && fp_decide_change(model, changes, best.part, (int)best.at,
                                         best.spreads ? "stands close to others" : "is fuller");
}

/* ---- storage, owners --------------------------------------------------------------------------- */

static bool even_storage(fp_model *model, fp_changes *changes)
{
    for (size_t i = 0; i < model->member_count; i++) {
        fp_member *memory = model->members[i];
        const fp_member *now = fp_model_member(model, memory->r.storage);
        fp_member *to = memory->r.role == FP_ROLE_MEMORY && now
                            ? fp_place_better_storage(model, memory, now, true)
                            : NULL;
        if (!to)
            continue;
        fp_decide_spill(changes, memory, to);
        return true;
    }
    return false;
}

/* One that another node could not open just now stays where it has come back to. */
static bool even_owners(const fp_model *model, fp_changes *changes)
{
    char why[200];
    const fp_member *most = NULL;
    fp_member *least = fp_place_owner(model, "");
    for (size_t i = 0; i < model->member_count; i++) {
        const fp_member *member = model->members[i];
        if (fp_place_may(model, member, FP_ROLE_COMPUTE) && member->r.standby &&
            (!most || fp_place_parts(model, member) > fp_place_parts(model, most)))
            most = member;
    }
    unsigned many = most ? fp_place_parts(model, most) : 0;
    unsigned few = least ? fp_place_parts(model, least) : many;
    for (size_t i = 0; i < model->part_count && many > few + 1; i++) {
        const fp_part *part = model->parts[i];
        bool failed = part->failed_epoch && part->failed_epoch + 1 == part->r.epoch;
        if (part->r.phase != FP_OPEN || failed || strcmp(part->r.owner, most->r.name) != 0)
            continue;
        snprintf(why, sizeof why, "%s has %u, %s had %u", part->r.owner, many, least->r.name, few);
        (void)fp_decide_owner(model, changes, part, least, "move", why);
        return true;
    }
    return false;
}

int fp_balance(fp_model *model, fp_changes *changes)
{
    int rc = check_calm(model);
    fp_place_afresh(model);
    if (!rc && !even_memory(model, changes) && !even_storage(model, changes))
        (void)even_owners(model, changes);
    return rc;
}
