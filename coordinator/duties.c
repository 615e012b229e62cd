/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/duties.h"

#include <string.h>

#include "coordinator/decide.h"
#include "coordinator/record.h"

static const char *choose(const fp_member *from, const fp_member *to)
{
    bool same = from->r.host[0] && !strcmp(from->r.host, to->r.host);
    for (unsigned i = 0; i < to->r.uri_count; i++) {
        if (!strncmp(to->r.uris[i], "shm:", 4) == same)
            return to->r.uris[i];
    }
    return to->r.uri_count ? to->r.uris[0] : "";
}

/* The address by which `from` is to reach `to`, and nobody else: past the network if they share a host. */
static json_t *address(const fp_member *from, const fp_member *to)
{
    char named[FP_NET_URI_MAX];
    bool good = to && !fp_uri_with_name(choose(from, to), to->r.name, named);
    return json_string(good ? named : ""); /* it joined with others */
}

/* Addresses of those in the list, in its order. */
static json_t *addresses(const fp_model *model, const fp_member *from, const fp_list *list)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < list->count; i++) {
        const fp_member *to = fp_model_member(model, list->names[i]);
        if (json_array_append_new(array, address(from, to))) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* ---- memory nodes ---------------------------------------------------------------------------- */

static json_t *fence(const fp_part *part)
{
    json_t *object = json_pack("{s:I, s:I, s:s}", "partition", (json_int_t)part->r.id, "epoch",
                               (json_int_t)part->r.epoch, "owner", part->r.owner);
    if (part->r.phase == FP_CHANGING &&
        json_object_set_new(object, "held", json_integer((json_int_t)part->r.opened))) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* What it has, and is to have no more, under whatever epoch that is known. A memory node gives back what an owner has
 * left; a storage node keeps its copy until all who are to have one do, and for good if it stays: it may be wanted
 * again, and what it has spares it a refill. */
static bool is_to_drop(const fp_model *model, const fp_member *member, const fp_part *part)
{
    const fp_told *told = fp_member_told(member, part->r.id);
    if (!told)
        return false;
    if (part->r.state == FP_DELETED)
        return true;
    if (member->r.role == FP_ROLE_MEMORY)
        return !fp_part_uses(part, member->r.name) && (told->ring || told->slab);
    return member->r.state != FP_MEMBER && !fp_list_has(&part->r.storagenodes, member->r.name) &&
           fp_decide_can_replace(model, part, &part->r.storagenodes, member->r.name);
}

static json_t *drops(const fp_model *model, const fp_member *member)
{
    json_t *array = json_array();
    for (size_t i = 0; i < member->told_count; i++) {
        const fp_part *part = fp_model_part(model, member->told[i].id);
        if (part && is_to_drop(model, member, part))
            json_array_append_new(array,
                                  json_pack("{s:I, s:I}", "partition", (json_int_t)part->r.id,
                                            "epoch", (json_int_t)part->r.epoch));
    }
    return array;
}

static json_t *memory_duties(const fp_model *model, const fp_member *member)
{
    json_t *fences = json_array();
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part *part = model->parts[i];
        if (part->r.epoch && part->r.state != FP_DELETED && fp_part_uses(part, member->r.name))
            json_array_append_new(fences, fence(part));
    }
    const fp_member *storage = fp_model_member(model, member->r.storage);
    json_t *uri = storage ? address(member, storage) : json_null();
    return json_pack("{s:o, s:o, s:o}", "storage", uri, "fences", fences, "drop",
                     drops(model, member));
}

/* ---- storage and compute nodes --------------------------------------------------------------- */

static bool spills_to(const fp_model *model, const fp_part *part, const fp_list *memnodes,
                      const char *storage)
{
    fp_list list;
    fp_decide_storagenodes(model, memnodes, part->r.log_copies, &list);
    return fp_list_has(&list, storage);
}

/* A partition whose log it has, or may be given. */
static bool concerns(const fp_model *model, const fp_member *storage, const fp_part *part)
{
    const char *name = storage->r.name;
    return part->r.epoch && part->r.state != FP_DELETED &&
           (fp_list_has(&part->r.storagenodes, name) || fp_member_told(storage, part->r.id) ||
            spills_to(model, part, &part->r.memnodes, name) ||
            spills_to(model, part, &part->r.before, name));
}

/* While its memory nodes change the owner has it under the epoch before as well, and rings of both lists are spilled. */
static json_t *access(const fp_part *part)
{
    json_t *rings = json_array();
    const fp_list *lists[] = {&part->r.memnodes, &part->r.before};
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < fp_part_rings(&part->r, lists[k]); i++)
            if (!k || !fp_list_has(lists[0], lists[k]->names[i]))
                json_array_append_new(rings, json_string(lists[k]->names[i]));
    uint64_t least = part->r.phase == FP_CHANGING ? part->r.opened : part->r.epoch;
    return json_pack("{s:I, s:I, s:I, s:s, s:o}", "partition", (json_int_t)part->r.id, "epoch",
                     (json_int_t)part->r.epoch, "least", (json_int_t)least, "owner", part->r.owner,
                     "rings", rings);
}

static json_t *storage_duties(const fp_model *model, const fp_member *member)
{
    json_t *peers = json_array(), *nodes = json_array(), *partitions = json_array();
    for (size_t i = 0; i < model->member_count; i++) {
        const fp_member *other = model->members[i];
        if (other->r.role != FP_ROLE_STORAGE || other == member)
            continue;
        json_array_append_new(peers, address(member, other));
        json_array_append_new(nodes, json_string(other->r.name));
    }
    for (size_t i = 0; i < model->part_count; i++)
        if (concerns(model, member, model->parts[i]))
            json_array_append_new(partitions, access(model->parts[i]));
    return json_pack("{s:o, s:o, s:o, s:o}", "peers", peers, "nodes", nodes, "partitions",
                     partitions, "drop", drops(model, member));
}

/* May the owner be told of the partition's last change? Who tells of it himself has been, by this coordinator or one
 * before. */
static bool may_know(const fp_model *model, const fp_member *owner, const fp_part *part)
{
    const fp_told *told = fp_member_told(owner, part->r.id);
    return (told && told->epoch >= part->r.epoch) || fp_decide_all_told(model, part);
}

/* A change of which memory nodes may not have heard is not told yet: then all is as before. */
static json_t *owned(const fp_model *model, const fp_member *member, const fp_part *part)
{
    const fp_part_record *r = &part->r;
    bool before = r->phase == FP_CHANGING && !may_know(model, member, part);
    const fp_list *memnodes = before && r->before.count ? &r->before : &r->memnodes;
    json_t *object = json_pack(
        "{s:I, s:s, s:I, s:s, s:s, s:b, s:b, s:o, s:o}", "id", (json_int_t)r->id, "name", r->name,
        "epoch", (json_int_t)(before ? r->opened : r->epoch), "phase",
        fp_phase_names[before ? FP_OPEN : r->phase], "state", fp_part_state_names[r->state], "made",
        (int)r->made, "stored", (int)r->stored, "memnodes", addresses(model, member, memnodes),
        "storagenodes", addresses(model, member, &r->storagenodes));
    return fp_part_add_numbers(object, r);
}

static json_t *compute_duties(const fp_model *model, const fp_member *member)
{
    json_t *array = json_array();
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part *part = model->parts[i];
        const fp_part_record *r = &part->r;
        bool told = r->phase == FP_OPEN || r->phase == FP_CHANGING ||
                    (r->phase == FP_ASSIGNED && may_know(model, member, part));
        if (told && !strcmp(r->owner, member->r.name) && r->owner_boot == member->r.boot_id)
            json_array_append_new(array, owned(model, member, part));
    }
    return json_pack("{s:o}", "partitions", array);
}

json_t *fp_duties(const fp_model *model, const fp_member *member)
{
    switch (member->r.role) {
    case FP_ROLE_MEMORY:
        return memory_duties(model, member);
    case FP_ROLE_STORAGE:
        return storage_duties(model, member);
    default:
        return compute_duties(model, member);
    }
}
