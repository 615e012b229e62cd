/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>

#include "coordinator/decide.h"
#include "coordinator/place.h"

/* ---- memory nodes of a partition ------------------------------------------------------------- */

/* Puts the best that there is into place `at`; false: there is none. */
static bool put_another(const fp_model *model, const fp_part *part, fp_list *list, unsigned at)
{
    fp_member *member = fp_place_memory(model, part, list, at, part->avoid);
    if (!member)
        return false;
    strcpy(list->names[at], member->r.name);
    member->planned.bytes += fp_place_bytes(&part->r, at);
    member->planned.rings += at < part->r.log_copies;
    return true;
}

static void take_back(const fp_model *model, const fp_part *part, const fp_list *list, uint32_t put)
{
    for (unsigned at = 0; at < list->count; at++) {
        if (!(put >> at & 1))
            continue;
        fp_member *member = fp_model_member(model, list->names[at]);
        member->planned.bytes -= fp_place_bytes(&part->r, at);
        member->planned.rings -= at < part->r.log_copies;
    }
}

bool fp_decide_place(const fp_model *model, const fp_part *part, fp_list *list)
{
    uint32_t put = 0; /* bit i: number i is another one */
    for (unsigned at = 0; at < part->r.memnode_count; at++) {
        const fp_member *now = at < list->count ? fp_model_member(model, list->names[at]) : NULL;
        if (now && now->r.state == FP_MEMBER && fp_member_up(model, now))
            continue;
        if (!put_another(model, part, list, at)) {
            take_back(model, part, list, put);
            return false;
        }
        put |= 1u << at;
        if (at == list->count)
            list->count++;
    }
    return true;
}

bool fp_decide_choose(const fp_model *model, const fp_part *part, fp_part_record *r)
{
    fp_list list = r->memnodes;
    if (!fp_decide_place(model, part, &list))
        return false;
    r->memnodes = list;
    fp_decide_storagenodes(model, &list, r->log_copies, &r->storagenodes);
    return true;
}

void fp_decide_replace_lost(const fp_model *model, const fp_part *part, fp_list *list)
{
    for (unsigned at = 0; at < list->count; at++) {
        const fp_member *now = fp_model_member(model, list->names[at]);
        if (!now || fp_member_lost(model, now))
            (void)put_another(model, part, list, at);
    }
}

bool fp_decide_lacks_memory(const fp_model *model, const fp_part *part)
{
    for (unsigned i = 0; i < part->r.memnodes.count; i++) {
        const fp_member *member = fp_model_member(model, part->r.memnodes.names[i]);
        if (!member || member->r.state != FP_MEMBER || fp_member_lost(model, member))
            return true;
    }
    return false;
}

bool fp_decide_is_hollow(const fp_model *model, const fp_part *part, unsigned i)
{
    const fp_member *member = fp_model_member(model, part->r.memnodes.names[i]);
    uint64_t settled = part->since_ns + fp_ms(model->settings.lost_ms);
    if (!member || !fp_member_up(model, member) || model->now_ns < settled)
        return false;
    const fp_told *owners = fp_model_told(model, part->r.owner, part->r.id);
    if (owners && owners->epoch == part->r.epoch && (owners->lost & 1u << i))
        return true;
    const fp_told *told = fp_member_told(member, part->r.id);
    bool holds = told && (i < part->r.log_copies ? told->ring > 0 : told->slab > 0);
    return member->told_ns >= part->since_ns && !holds;
}

static bool is_gone(const fp_model *model, const char *name)
{
    const fp_member *member = fp_model_member(model, name);
    return !member || fp_member_lost_for(model, member, model->settings.replace_ms);
}

/* Rings that would stay if number `leaving` (-1: none) went. */
static unsigned staying(const fp_model *model, const fp_part *part, int leaving)
{
    unsigned count = 0;
    for (unsigned i = 0; i < fp_part_rings(&part->r, &part->r.memnodes); i++) {
        const fp_member *member = fp_model_member(model, part->r.memnodes.names[i]);
        count += (int)i != leaving && member && fp_member_up(model, member) &&
                 !fp_decide_is_hollow(model, part, i);
    }
    return count;
}

bool fp_decide_may_leave(const fp_model *model, const fp_part *part, int leaving)
{
    return staying(model, part, leaving) >= part->r.log_quorum;
}

bool fp_decide_change(const fp_model *model, fp_changes *changes, const fp_part *part, int leaving,
                      const char *why)
{
    fp_list list = part->r.memnodes;
    if (!fp_decide_may_leave(model, part, leaving))
        return false;
    const char *old = "";
    if (leaving >= 0) {
        old = part->r.memnodes.names[leaving];
        if (!put_another(model, part, &list, (unsigned)leaving))
            return false;
    }
    fp_part_record *r = fp_change_part(changes, &part->r);
    r->before = r->memnodes;
    r->memnodes = list;
    r->epoch++;
    r->phase = FP_CHANGING;
    if (leaving >= 0)
        fp_change_event(changes, "change", old, r->id,
                        "%s: memory node %s takes the place of %s, which %s", r->name,
                        list.names[leaving], old, why);
    else
        fp_change_event(changes, "change", "", r->id, "%s: %s", r->name, why);
    return true;
}

/* Number i is up and the owner does not use it. The second time it is of no use to him: he may not reach it, or it grants
 * him nothing. */
static bool fill_hollow(const fp_model *model, fp_changes *changes, fp_part *part, unsigned i)
{
    const char *name = part->r.memnodes.names[i];
    if (strcmp(part->hollow, name) != 0) {
        bool changed = fp_decide_change(model, changes, part, -1,
                                        "memory nodes that hold nothing of it are taken in anew");
        if (changed)
            strcpy(part->hollow, name);
        return changed;
    }
    if (fp_decide_change(model, changes, part, (int)i, "its owner cannot use"))
        return true;
    part->hollow[0] = 0; /* nobody can take its place: once more, later */
    part->retry_at_ns = model->now_ns + fp_ms(model->settings.replace_ms);
    return false;
}

bool fp_decide_memory(const fp_model *model, fp_changes *changes, fp_part *part)
{
    const fp_list *list = &part->r.memnodes;
    const fp_member *owner = fp_model_member(model, part->r.owner);
    if (!part->r.storagenodes.count || !owner || !fp_member_up(model, owner))
        return false;
    for (unsigned i = 0; i < list->count; i++) {
        if (fp_decide_is_hollow(model, part, i))
            return fill_hollow(model, changes, part, i);
    }
    if (model->now_ns >= part->since_ns + fp_ms(model->settings.lost_ms))
        part->hollow[0] = 0;
    for (unsigned i = 0; i < list->count; i++) {
        if (is_gone(model, list->names[i]) &&
            fp_decide_change(model, changes, part, (int)i, "is lost"))
            return true;
    }
    for (unsigned i = 0; i < list->count; i++) {
        const fp_member *member = fp_model_member(model, list->names[i]);
        if (member && member->r.state != FP_MEMBER &&
            fp_decide_change(model, changes, part, (int)i, "is being drained"))
            return true;
    }
    return false;
}

/* ---- storage nodes of a partition ------------------------------------------------------------ */

void fp_decide_storagenodes(const fp_model *model, const fp_list *memnodes, unsigned rings,
                            fp_list *list)
{
    list->count = 0;
    for (unsigned i = 0; i < memnodes->count && i < rings; i++) {
        const fp_member *member = fp_model_member(model, memnodes->names[i]);
        if (member && member->r.storage[0] && !fp_list_has(list, member->r.storage))
            fp_list_add(list, member->r.storage);
    }
}

bool fp_decide_can_be_new(const fp_model *model, const fp_list *storagenodes)
{
    for (unsigned i = 0; i < storagenodes->count; i++) {
        const fp_member *member = fp_model_member(model, storagenodes->names[i]);
        if (!member || !fp_member_up(model, member))
            return false;
    }
    return true;
}

bool fp_decide_can_replace(const fp_model *model, const fp_part *part, const fp_list *list,
                           const char *leaving)
{
    const fp_member *old = fp_model_member(model, leaving);
    const fp_told *had = old ? fp_member_told(old, part->r.id) : NULL;
    if (old && !old->heard_of && !fp_member_lost(model, old))
        return false; /* it is about to say what it has */
    if (had && !had->whole && !had->durable && fp_member_up(model, old))
        return false; /* it is about to look, after a restart */
    for (unsigned i = 0; i < list->count; i++) {
        const fp_member *member = fp_model_member(model, list->names[i]);
        const fp_told *told = member ? fp_member_told(member, part->r.id) : NULL;
        if (!told || !told->whole || !fp_member_up(model, member) ||
            (had && told->durable < had->durable))
            return false;
    }
    return list->count > 0;
}

bool fp_decide_storage(const fp_model *model, fp_changes *changes, const fp_part *part)
{
    fp_list wanted, next = part->r.storagenodes;
    fp_decide_storagenodes(model, &part->r.memnodes, part->r.log_copies, &wanted);
    for (unsigned i = 0; i < wanted.count; i++) {
        if (!fp_list_has(&next, wanted.names[i]))
            fp_list_add(&next, wanted.names[i]);
    }
    for (unsigned i = next.count; i-- > 0;) {
        if (!fp_list_has(&wanted, next.names[i]) &&
            fp_decide_can_replace(model, part, &wanted, next.names[i]))
            fp_list_remove(&next, next.names[i]);
    }
    if (fp_list_same(&next, &part->r.storagenodes))
        return false;
    fp_part_record *r = fp_change_part(changes, &part->r);
    r->storagenodes = next;
    fp_change_event(changes, "storage", "", r->id, "%s: its log is on %u storage nodes now",
                    r->name, next.count);
    return true;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* Is there nothing left that keeps a draining node? */
static bool is_drained(const fp_model *model, const fp_member *member)
{
    const char *name = member->r.name;
    for (size_t i = 0; i < model->part_count; i++) {
        if (fp_part_concerns(model->parts[i], name))
            return false;
    }
    for (size_t i = 0; i < model->member_count; i++) {
        if (!strcmp(model->members[i]->r.storage, name))
            return false;
    }
    for (size_t i = 0; i < member->told_count && fp_member_up(model, member); i++) {
        const fp_told *told = &member->told[i];
        bool copy = member->r.role == FP_ROLE_STORAGE && fp_model_part(model, told->id);
        if (told->ring || told->slab || copy)
            return false;
    }
    return true;
}

/* Should a memory node spill to another storage node, or to one at all? Many that were there before all storage nodes were,
 * or have lost theirs, spill to one: only one of them is moved at a time, and looks at what has become of the others. */
static fp_member *other_storage(const fp_model *model, const fp_member *memory)
{
    const fp_member *now = fp_model_member(model, memory->r.storage);
    if (!now || now->r.state != FP_MEMBER ||
        fp_member_lost_for(model, now, model->settings.replace_storage_ms))
        return fp_place_storage(model, memory);
    for (size_t i = 0; i < model->member_count; i++) {
        if (model->members[i]->planned.spillers)
            return NULL;
    }
    return fp_place_better_storage(model, memory, now, false);
}

void fp_decide_spill(fp_changes *changes, const fp_member *memory, fp_member *storage)
{
    storage->planned.spillers++;
    strcpy(fp_change_member(changes, &memory->r)->storage, storage->r.name);
    fp_change_event(changes, "storage", memory->r.name, 0, "%s spills to %s, no more to %s",
                    memory->r.name, storage->r.name,
                    memory->r.storage[0] ? memory->r.storage : "none");
}

void fp_decide_member(fp_model *model, fp_changes *changes, fp_member *member)
{
    if (member->r.state == FP_DRAINING && is_drained(model, member)) {
        fp_change_member(changes, &member->r)->state = FP_DRAINED;
        fp_change_event(changes, "drained", member->r.name, 0, "%s has nothing left",
                        member->r.name);
        return;
    }
    fp_member *storage = member->r.role == FP_ROLE_MEMORY ? other_storage(model, member) : NULL;
    if (storage)
        fp_decide_spill(changes, member, storage);
}
