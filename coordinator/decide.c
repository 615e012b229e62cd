/* SPDX-License-Identifier: Apache-2.0 */
/*
 *     unowned --> fencing --> assigned --> open <--> changing
 *                  ^  ^___________|__________|__________|      another owner, a higher epoch
 *
 * and from each of them to deleting. A partition in fencing stays there until enough rings have told of its epoch; no
 * other step waits for anybody but the owner.
 */
#include "coordinator/decide.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/place.h"

enum { PAUSE_MS = 50, PAUSE_MAX_MS = 10000, CALM_MS = 5000, CHANGE_PAUSE = 20 };

/* Why an owner is to be replaced. */
enum fate { FIT, LOST, REBORN, FAILED, CLOSED, DRAINED };

/* ---- epochs ---------------------------------------------------------------------------------- */

static void find_highest(const fp_model *model, const fp_part *part, const fp_list *list,
                         uint64_t *epoch)
{
    for (unsigned i = 0; i < list->count; i++) {
        const fp_told *told = fp_model_told(model, list->names[i], part->r.id);
        if (told && told->epoch > *epoch && told->epoch <= FP_EPOCH_TOLD_MAX)
            *epoch = told->epoch;
    }
}

/* Higher than any that is known: also than those of a metastore that was lost. */
static uint64_t next_epoch(const fp_model *model, const fp_part *part)
{
    uint64_t epoch = part->r.epoch;
    find_highest(model, part, &part->r.memnodes, &epoch);
    find_highest(model, part, &part->r.before, &epoch);
    find_highest(model, part, &part->r.storagenodes, &epoch);
    return epoch + 1;
}

fp_fences fp_decide_fences(const fp_model *model, const fp_part *part, const fp_list *list)
{
    fp_fences fences = {0};
    for (unsigned i = 0; i < fp_part_rings(&part->r, list); i++) {
        const fp_told *told = fp_model_told(model, list->names[i], part->r.id);
        if (told && told->epoch >= part->r.epoch) {
            fences.told++;
            fences.logs += told->ring > 0 && !told->blank;
        } else {
            fences.silent++;
        }
    }
    return fences;
}

static bool list_told(const fp_model *model, const fp_part *part, const fp_list *list)
{
    for (unsigned i = 0; i < list->count; i++) {
        const fp_member *member = fp_model_member(model, list->names[i]);
        if (member && fp_member_up(model, member) && member->seen < part->epoch_revision)
            return false;
    }
    return true;
}

bool fp_decide_all_told(const fp_model *model, const fp_part *part)
{
    return model->now_ns >= part->since_ns + fp_ms(model->settings.grace_ms) ||
           (list_told(model, part, &part->r.memnodes) && list_told(model, part, &part->r.before) &&
            list_told(model, part, &part->r.storagenodes));
}

/* ---- owners ---------------------------------------------------------------------------------- */

/* The owner says that he could not open it under this epoch. */
static bool was_in_vain(const fp_part *part, const fp_member *owner)
{
    const fp_told *told = owner ? fp_member_told(owner, part->r.id) : NULL;
    return told && owner->r.boot_id == part->r.owner_boot && told->epoch == part->r.epoch &&
           told->state == FP_TOLD_FAILED && told->held != told->epoch &&
           told->code != FARPOOL_E_EXISTS;
}

fp_part_record *fp_decide_owner(const fp_model *model, fp_changes *changes, const fp_part *part,
                                fp_member *owner, const char *kind, const char *why)
{
    fp_part_record *r = fp_change_part(changes, &part->r);
    if (r->doubt == r->epoch && was_in_vain(part, fp_model_member(model, r->owner)))
        r->doubt = 0;
    r->epoch = next_epoch(model, part);
    r->phase = FP_FENCING;
    r->owner_boot = owner->r.boot_id;
    strcpy(r->owner, owner->r.name);
    r->wish[0] = 0;
    owner->planned.parts++;
    fp_change_event(changes, kind, r->owner, r->id, "%s: %s gets it under epoch %" PRIu64 ": %s",
                    r->name, r->owner, r->epoch, why);
    return r;
}

/* What the owner has told of this epoch, or, of a change that it was told of, of the one before. */
static const fp_told *told_by_owner(const fp_part *part, const fp_member *owner)
{
    const fp_told *told = fp_member_told(owner, part->r.id);
    if (told && (told->epoch == part->r.epoch ||
                 (part->r.phase == FP_CHANGING && told->epoch >= part->r.opened)))
        return told;
    return NULL;
}

/* It was open once, and its owner does not speak of it any more. */
static bool forgotten(const fp_model *model, const fp_part *part, const fp_member *owner)
{
    return (part->r.phase == FP_OPEN || part->r.phase == FP_CHANGING) && owner->joined &&
           owner->heard_of && !fp_member_told(owner, part->r.id) &&
           owner->told_ns >= part->since_ns + fp_ms(model->settings.lost_ms);
}

static enum fate fate_of(const fp_model *model, const fp_part *part, const fp_member *owner,
                         char *why, size_t room)
{
    const char *name = part->r.owner;
    if (!owner || fp_member_lost(model, owner)) {
        snprintf(why, room, "%s is lost", name);
        return LOST;
    }
    if (owner->r.boot_id != part->r.owner_boot) {
        snprintf(why, room, "%s is another process now", name);
        return REBORN;
    }
    if (part->r.phase == FP_FENCING)
        return FIT;
    const fp_told *told = told_by_owner(part, owner);
    if (told && told->state == FP_TOLD_FAILED) {
        snprintf(why, room, "%s could not use it under epoch %" PRIu64 ": %s", name, told->epoch,
                 told->text);
        return FAILED;
    }
    if (told && told->state == FP_TOLD_CLOSED) {
        snprintf(why, room, "%s has closed it", name);
        return CLOSED;
    }
    if (forgotten(model, part, owner)) {
        snprintf(why, room, "%s has it no more", name);
        return FAILED;
    }
    snprintf(why, room, "%s is being drained", name);
    return owner->r.state == FP_MEMBER ? FIT : DRAINED;
}

/* Notes a failure under this epoch, once. Until retry_at_ns nothing is tried. */
static void note_failure(const fp_model *model, fp_part *part, unsigned times, const char *why)
{
    if (part->failed_epoch == part->r.epoch)
        return;
    part->failed_epoch = part->r.epoch;
    if (model->now_ns >= part->since_ns + fp_ms(CALM_MS))
        part->failures = 0;
    uint64_t pause = (uint64_t)PAUSE_MS << (part->failures < 10 ? part->failures : 10);
    part->failures++;
    pause *= times;
    part->retry_at_ns = model->now_ns + fp_ms(pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS);
    snprintf(part->failure, sizeof part->failure, "%s", why);
}

/* Somebody else, or, where that helps, the same again. True: decided, be it that nobody is there. */
static bool replace_owner(const fp_model *model, fp_changes *changes, fp_part *part)
{
    char why[256];
    fp_member *owner = fp_model_member(model, part->r.owner);
    enum fate fate = fate_of(model, part, owner, why, sizeof why);
    if (fate == FIT)
        return false;
    const fp_told *told = owner ? told_by_owner(part, owner) : NULL;
    bool exists = fate == FAILED && told && told->code == FARPOOL_E_EXISTS && !part->r.made;
    if (fate == FAILED && !exists) {
        strcpy(part->declined, part->r.owner);
        note_failure(model, part, 1, why);
        if (model->now_ns < part->retry_at_ns)
            return true;
    }
    fp_member *next = exists ? owner : fp_place_owner(model, fate == REBORN ? "" : part->r.owner);
    if (!next && (fate == FAILED || fate == REBORN) && fp_place_may(model, owner, FP_ROLE_COMPUTE))
        next = owner;
    if (!next) /* a drained one keeps what nobody else can take */
        return fate != DRAINED;
    fp_part_record *r =
        fp_decide_owner(model, changes, part, next, fate == DRAINED ? "move" : "failover", why);
    r->made = r->made || exists;
    if (fp_part_is_new(r))
        (void)fp_decide_choose(model, part, r);
    return true;
}

/* Its nodes are chosen as soon as there are enough, and anew as long as nobody was told of them. */
static void find_owner(const fp_model *model, fp_changes *changes, fp_part *part)
{
    fp_part_record chosen = part->r;
    if (!fp_decide_choose(model, part, &chosen))
        return;
    fp_member *owner =
        part->r.wish[0] ? fp_model_member(model, part->r.wish) : fp_place_owner(model, "");
    bool given = owner && fp_place_may(model, owner, FP_ROLE_COMPUTE) &&
                 fp_decide_can_be_new(model, &chosen.storagenodes);
    if (!given && fp_list_same(&chosen.memnodes, &part->r.memnodes) &&
        fp_list_same(&chosen.storagenodes, &part->r.storagenodes))
        return;
    fp_part_record *r = given ? fp_decide_owner(model, changes, part, owner, "assign", "it is new")
                              : fp_change_part(changes, &part->r);
    r->memnodes = chosen.memnodes;
    r->storagenodes = chosen.storagenodes;
}

/* ---- phases ---------------------------------------------------------------------------------- */

/* A new one needs all of its memory nodes. As long as nobody can have made it they may be others. */
static bool place_anew(const fp_model *model, fp_changes *changes, const fp_part *part)
{
    fp_part_record chosen = part->r;
    if (!fp_part_is_new(&part->r) || !fp_decide_lacks_memory(model, part) ||
        !fp_decide_choose(model, part, &chosen))
        return false;
    fp_part_record *r = fp_decide_owner(model, changes, part, fp_model_member(model, part->r.owner),
                                        "assign", "on other memory nodes");
    r->memnodes = chosen.memnodes;
    r->storagenodes = chosen.storagenodes;
    return true;
}

void fp_decide_go_back(const fp_model *model, const fp_part *part, fp_part_record *r)
{
    unsigned need = fp_part_need(&part->r);
    if (fp_decide_fences(model, part, &part->r.memnodes).logs >= need ||
        fp_decide_fences(model, part, &part->r.before).logs < need)
        return;
    r->memnodes = part->r.before;
    r->before.count = 0;
}

/* Of the nodes before a change that was not confirmed enough have the log. Can so many of the new ones have got what none
 * of these has that a commit was acknowledged? Not those that have a ring and never had a log in it. One without a ring
 * may have lost it. */
static bool can_go_back(const fp_model *model, const fp_part *part, unsigned logs_before)
{
    unsigned others = 0;
    if (!part->r.before.count || logs_before < fp_part_need(&part->r))
        return false;
    for (unsigned i = 0; i < fp_part_rings(&part->r, &part->r.memnodes); i++) {
        const char *name = part->r.memnodes.names[i];
        const fp_told *told = fp_model_told(model, name, part->r.id);
        bool knows = told && told->epoch >= part->r.epoch && told->ring > 0;
        int at = fp_list_index(&part->r.before, name);
        bool was_there = at >= 0 && (unsigned)at < part->r.log_copies;
        others += !knows || told->blank == was_there;
    }
    return others < part->r.log_quorum;
}

/* Are the owners before cut off from so many rings that they can neither commit nor be followed wrongly, and can the next
 * one find the log? */
static void fence(const fp_model *model, fp_changes *changes, const fp_part *part)
{
    unsigned need = fp_part_need(&part->r);
    bool changed = part->r.before.count > 0;
    fp_fences now = fp_decide_fences(model, part, &part->r.memnodes);
    fp_fences past = fp_decide_fences(model, part, &part->r.before);
    if (place_anew(model, changes, part) || now.told < need || (changed && past.told < need))
        return;
    bool gone = part->r.made && !part->r.stored && now.logs < need;
    bool back = gone && can_go_back(model, part, past.logs);
    if (gone && !back) {
        /* Those who are silent may have it. If that is too few as well, what was in memory is gone, unless those have
         * it who were there before a change that the owner did not get through. */
        bool may_come = now.logs + now.silent >= need ||
                        (changed && past.logs < need && past.logs + past.silent >= need);
        if (may_come || part->r.when_lost != FP_LOST_STORAGE || !part->r.storagenodes.count)
            return;
    }
    fp_part_record *r = fp_change_part(changes, &part->r);
    r->phase = FP_ASSIGNED;
    r->stored = r->stored || (gone && !back);
    r->made = r->made || now.logs >= need; /* who was to make it did, and could not tell */
    if (fp_part_is_new(r))
        r->doubt = r->epoch;
    if (gone)
        fp_decide_go_back(model, part, r);
    fp_change_event(changes, "fenced", r->owner, r->id,
                    "%s: %u of %u rings know epoch %" PRIu64 ", %s may open it%s", r->name,
                    now.told, r->log_copies, r->epoch, r->owner,
                    r->stored ? " from what storage nodes have" : "");
}

static void confirm(fp_changes *changes, fp_part *part)
{
    fp_part_record *r = fp_change_part(changes, &part->r);
    bool changed = r->phase == FP_CHANGING;
    r->phase = FP_OPEN;
    r->opened = r->epoch;
    r->made = true;
    r->stored = false;
    r->doubt = 0;
    r->before.count = 0;
    part->failure[0] = 0;
    fp_change_event(changes, changed ? "changed" : "open", r->owner, r->id,
                    changed ? "%s: %s goes on with other memory nodes under epoch %" PRIu64
                            : "%s: %s has opened it under epoch %" PRIu64,
                    r->name, r->owner, r->epoch);
}

/* A change came to nothing: the list is what it was, under a higher epoch. */
static void revert(const fp_model *model, fp_changes *changes, fp_part *part, const fp_told *told)
{
    char why[256];
    snprintf(why, sizeof why, "its memory nodes could not be changed: %s", told->text);
    note_failure(model, part, CHANGE_PAUSE, why);
    if (!part->r.before.count && model->now_ns < part->retry_at_ns)
        return;
    for (unsigned i = 0; part->r.before.count && i < part->r.memnodes.count; i++) {
        if (!fp_list_has(&part->r.before, part->r.memnodes.names[i]))
            strcpy(part->avoid, part->r.memnodes.names[i]);
    }
    fp_part_record *r = fp_change_part(changes, &part->r);
    r->epoch = next_epoch(model, part);
    if (r->before.count)
        r->memnodes = r->before;
    r->before.count = 0;
    fp_change_event(changes, "change-failed", r->owner, r->id, "%s: %s", r->name, why);
}

static void decide_owned(const fp_model *model, fp_changes *changes, fp_part *part)
{
    size_t before = changes->count;
    if (replace_owner(model, changes, part)) {
        if (part->r.phase == FP_OPEN && changes->count == before) /* a drain needs no owner */
            (void)fp_decide_storage(model, changes, part);
        return;
    }
    const fp_told *told = fp_model_told(model, part->r.owner, part->r.id);
    bool open = told && told->epoch == part->r.epoch && told->state == FP_TOLD_OPEN;
    switch (part->r.phase) {
    case FP_FENCING:
        fence(model, changes, part);
        break;
    case FP_ASSIGNED:
        if (open)
            confirm(changes, part);
        break;
    case FP_CHANGING:
        if (open && !told->code)
            confirm(changes, part);
        else if (open)
            revert(model, changes, part, told);
        break;
    case FP_OPEN:
        if (!fp_decide_storage(model, changes, part) && model->now_ns >= part->retry_at_ns)
            fp_decide_memory(model, changes, part);
        break;
    case FP_UNOWNED:
    case FP_DELETING:
    case FP_PHASES:
        break;
    }
}

/* ---- deleting -------------------------------------------------------------------------------- */

void fp_decide_delete(const fp_model *model, fp_changes *changes, const fp_part *part)
{
    fp_part_record *r = fp_change_part(changes, &part->r);
    bool given = r->epoch > 0; /* else nobody was told of it */
    if (!given)
        r->memnodes.count = r->storagenodes.count = 0;
    r->epoch = next_epoch(model, part);
    r->state = FP_DELETED;
    r->phase = given ? FP_DELETING : FP_UNOWNED;
    r->owner[0] = r->wish[0] = 0;
    r->owner_boot = 0;
    fp_change_event(changes, "delete", "", r->id, "%s is being deleted", r->name);
}

/* Has the node nothing of it any more? A memory node must also have heard that nobody is to have it there. */
static bool has_dropped(const fp_model *model, const fp_part *part, const char *name)
{
    const fp_member *member = fp_model_member(model, name);
    if (!member)
        return true;
    const fp_told *told = fp_member_told(member, part->r.id);
    if (!fp_member_up(model, member))
        return false;
    if (member->r.role != FP_ROLE_MEMORY)
        return !told;
    return member->seen >= part->epoch_revision && (!told || (!told->ring && !told->slab));
}

static bool shrink(const fp_model *model, const fp_part *part, fp_list *list)
{
    bool changed = false;
    for (unsigned i = list->count; i-- > 0;) {
        if (has_dropped(model, part, list->names[i])) {
            fp_list_remove(list, list->names[i]);
            changed = true;
        }
    }
    return changed;
}

static void decide_deleting(const fp_model *model, fp_changes *changes, const fp_part *part)
{
    fp_part_record next = part->r;
    bool changed = shrink(model, part, &next.memnodes);
    changed = shrink(model, part, &next.before) || changed;
    changed = shrink(model, part, &next.storagenodes) || changed;
    bool empty = !next.memnodes.count && !next.before.count && !next.storagenodes.count;
    if (!changed && !empty)
        return;
    fp_part_record *r = fp_change_part(changes, &next);
    if (!empty)
        return;
    r->phase = FP_UNOWNED;
    fp_change_event(changes, "deleted", "", r->id, "%s is deleted", r->name);
}

/* ---- all ------------------------------------------------------------------------------------- */

void fp_decide(fp_model *model, fp_changes *changes)
{
    fp_place_afresh(model);
    for (size_t i = 0; i < model->member_count && !fp_changes_full(changes); i++)
        fp_decide_member(model, changes, model->members[i]);
    for (size_t i = 0; i < model->part_count && !fp_changes_full(changes); i++) {
        fp_part *part = model->parts[i];
        if (part->r.phase == FP_DELETING)
            decide_deleting(model, changes, part);
        else if (part->r.state == FP_DELETED)
            continue;
        else if (part->r.phase == FP_UNOWNED)
            find_owner(model, changes, part);
        else
            decide_owned(model, changes, part);
    }
}
