/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/config.h"
#include "coordinator/decide.h"
#include "coordinator/duties.h"
#include "coordinator/place.h"
#include "coordinator/record.h"

/* ---- nodes and partitions -------------------------------------------------------------------- */

enum { FIELDS_MAX = 32, WORDS_MAX = FP_NET_URI_MAX, SENTENCES_MAX = 100 };

/* Numbers and short words of what it has told, and of how many partitions: whatever nodes tell, the answer is to fit into a
 * call, and be read. */
static json_t *summary(const fp_member *member)
{
    const char *key;
    json_t *value, *object = member->actual ? json_object() : NULL;
    if (!object)
        return json_null();
    json_object_foreach(member->actual, key, value)
    {
        bool fits = !json_is_array(value) && !json_is_object(value) &&
                    json_string_length(value) <= WORDS_MAX && strlen(key) <= WORDS_MAX;
        if (fits && json_object_size(object) < FIELDS_MAX)
            json_object_set(object, key, value);
    }
    json_object_set_new(object, "partitions", json_integer((json_int_t)member->told_count));
    return object;
}

static json_t *show_member(const fp_model *model, const fp_member *member)
{
    json_t *object = fp_member_json(&member->r);
    json_t *seen = json_null();
    if (member->heard_ns)
        seen = json_integer((json_int_t)((model->now_ns - member->heard_ns) / 1000000));
    json_object_set_new(object, "up", json_boolean(fp_member_up(model, member)));
    json_object_set_new(object, "lost", json_boolean(fp_member_lost(model, member)));
    json_object_set_new(object, "seen_ms", seen);
    json_object_set_new(object, "actual", summary(member));
    return object;
}

json_t *fp_status_members(const fp_model *model)
{
    json_t *array = json_array();
    for (size_t i = 0; i < model->member_count; i++)
        json_array_append_new(array, show_member(model, model->members[i]));
    return array;
}

json_t *fp_status_part(const fp_model *model, const fp_part *part)
{
    json_t *object = fp_part_json(&part->r);
    json_object_set_new(object, "since_ms",
                        json_integer((json_int_t)((model->now_ns - part->since_ns) / 1000000)));
    json_object_set_new(object, "failure", json_string(part->failure));
    return object;
}

json_t *fp_status_parts(const fp_model *model)
{
    json_t *array = json_array();
    for (size_t i = 0; i < model->part_count; i++) {
        if (fp_part_is_there(model->parts[i]))
            json_array_append_new(array, fp_status_part(model, model->parts[i]));
    }
    return array;
}

json_t *fp_status_route(const fp_model *model, const fp_part *part)
{
    const fp_member *owner = fp_model_member(model, part->r.owner);
    return json_pack("{s:I, s:s, s:s, s:s, s:I, s:s, s:s}", "id", (json_int_t)part->r.id, "name",
                     part->r.name, "state", fp_part_state_names[part->r.state], "phase",
                     fp_phase_names[part->r.phase], "epoch", (json_int_t)part->r.epoch, "owner",
                     part->r.owner, "address", owner ? owner->r.address : "");
}

/* ---- what does not go on by itself ------------------------------------------------------------ */

static void say(json_t *array, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(json_t *array, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    json_array_append_new(array, json_vsprintf(format, args));
    va_end(args);
}

/* Names of those in the list who are not up, or have not told of the epoch. */
static const char *absent(const fp_model *model, const fp_part *part, const fp_list *list,
                          unsigned count, char *text, size_t room)
{
    size_t used = 0;
    text[0] = 0;
    for (unsigned i = 0; i < list->count && i < count && used < room; i++) {
        const fp_told *told = fp_model_told(model, list->names[i], part->r.id);
        if (!told || told->epoch < part->r.epoch)
            used += (size_t)snprintf(text + used, room - used, "%s%s", used ? ", " : "",
                                     list->names[i]);
    }
    return text;
}

static void say_fencing(const fp_model *model, const fp_part *part, json_t *array)
{
    char who[400];
    unsigned need = fp_part_need(&part->r);
    fp_fences now = fp_decide_fences(model, part, &part->r.memnodes);
    fp_fences before = fp_decide_fences(model, part, &part->r.before);
    if (part->r.made && !part->r.stored && now.told >= need && now.logs + now.silent < need) {
        say(array,
            "partition %s: %u of its %u log rings have lost their content, so commits that only "
            "memory had are gone; "
            "'farpoolctl failover %s --from-storage' goes on with what storage nodes have",
            part->r.name, part->r.log_copies - now.logs - now.silent, part->r.log_copies,
            part->r.name);
        return;
    }
    const fp_list *list = now.told >= need && now.logs >= need && before.told < need
                              ? &part->r.before
                              : &part->r.memnodes;
    say(array,
        "partition %s waits until %u of its %u log rings know epoch %" PRIu64
        "%s: %u do. Not told yet: %s",
        part->r.name, need, part->r.log_copies, part->r.epoch,
        part->r.made ? " and still have a log" : "", part->r.made ? now.logs : now.told,
        absent(model, part, list, part->r.log_copies, who, sizeof who));
}

static void say_unowned(const fp_model *model, const fp_part *part, json_t *array)
{
    unsigned up = 0;
    uint64_t room = 0; /* the most that one has */
    for (size_t i = 0; i < model->member_count; i++) {
        const fp_member *member = model->members[i];
        if (!fp_place_may(model, member, FP_ROLE_MEMORY))
            continue;
        uint64_t used = fp_place_used(model, member, part);
        up++;
        if (used < member->r.bytes && member->r.bytes - used > room)
            room = member->r.bytes - used;
    }
    char need_text[32], room_text[32];
    if (part->r.memnodes.count < part->r.memnode_count)
        say(array,
            "partition %s waits for memory nodes: it needs %u with %s free, %u are up, and the "
            "most that one has free is %s",
            part->r.name, part->r.memnode_count,
            fp_config_size_text(fp_place_bytes(&part->r, 0), need_text, sizeof need_text), up,
            fp_config_size_text(room, room_text, sizeof room_text));
    else if (!fp_decide_can_be_new(model, &part->r.storagenodes))
        say(array,
            "partition %s waits for its storage nodes: whether it is new is to be asked of them",
            part->r.name);
    else if (part->r.wish[0])
        say(array, "partition %s waits for compute node %s, who is to have it first", part->r.name,
            part->r.wish);
    else
        say(array, "partition %s waits for a compute node that takes partitions", part->r.name);
}

static void say_open(const fp_model *model, const fp_part *part, json_t *array)
{
    for (unsigned i = 0; i < part->r.memnodes.count; i++) {
        const char *name = part->r.memnodes.names[i];
        const fp_member *member = fp_model_member(model, name);
        bool lost = !member || fp_member_lost(model, member);
        bool drained = member && member->r.state != FP_MEMBER;
        if (!lost && !drained)
            continue;
        const char *why = "no other memory node is up that has room";
        if (!part->r.storagenodes.count)
            why = "without storage nodes its memory nodes cannot be changed";
        else if (i < part->r.log_copies && part->r.log_quorum == part->r.log_copies)
            why = "every ring is in its quorum, so none can be changed";
        else if (fp_place_memory(model, part, &part->r.memnodes, i, ""))
            why = "another one is going to take its place";
        say(array, "partition %s: memory node %s is %s: %s", part->r.name, name,
            lost ? "lost" : "to be drained", why);
    }
}

static void say_storage(const fp_model *model, const fp_part *part, json_t *array)
{
    fp_list list;
    fp_decide_storagenodes(model, &part->r.memnodes, part->r.log_copies, &list);
    if (list.count < part->r.storage_quorum)
        say(array,
            "partition %s: its memory nodes spill to %u storage nodes, fewer than its "
            "storage_quorum, %u: no commit can be on stable media as it asks for",
            part->r.name, list.count, part->r.storage_quorum);
}

static void say_part(const fp_model *model, const fp_part *part, json_t *array)
{
    const fp_member *owner = fp_model_member(model, part->r.owner);
    char who[400];
    if (part->r.phase == FP_DELETING) {
        say(array, "partition %s is being deleted: %u memory and %u storage nodes have it still",
            part->r.name, part->r.memnodes.count + part->r.before.count,
            part->r.storagenodes.count);
    } else if (part->r.phase == FP_UNOWNED) {
        say_unowned(model, part, array);
    } else if (!owner || fp_member_lost(model, owner)) {
        say(array, "partition %s: compute node %s is lost, and no other one can take it",
            part->r.name, part->r.owner);
    } else if (part->r.phase == FP_FENCING) {
        say_fencing(model, part, array);
    } else if (part->r.phase == FP_ASSIGNED) {
        absent(model, part, &part->r.memnodes, FP_LIST_MAX, who, sizeof who);
        say(array, "partition %s: compute node %s is to open it under epoch %" PRIu64 "%s%s%s%s",
            part->r.name, part->r.owner, part->r.epoch,
            who[0] ? "; memory nodes not told yet: " : "", who,
            part->failure[0] ? "; before that: " : "", part->failure);
    } else {
        const fp_told *told = fp_member_told(owner, part->r.id);
        if (told && told->state == FP_TOLD_CLOSED)
            say(array, "partition %s: %s has closed it, and no other compute node can take it",
                part->r.name, part->r.owner);
        say_open(model, part, array);
        say_storage(model, part, array);
    }
}

static void say_trouble(const fp_model *model, const fp_member *member, json_t *array)
{
    for (size_t i = 0; i < member->told_count; i++) {
        const fp_told *told = &member->told[i];
        const fp_part *part = told->text[0] ? fp_model_part(model, told->id) : NULL;
        if (part && fp_part_is_there(part))
            say(array, "partition %s: storage node %s: %s", part->r.name, member->r.name,
                told->text);
    }
}

static void say_member(const fp_model *model, const fp_member *member, json_t *array)
{
    if (fp_member_lost(model, member))
        say(array, "%s node %s is lost", fp_role_names[member->r.role], member->r.name);
    else if (member->r.state == FP_DRAINING)
        say(array, "%s node %s is being drained", fp_role_names[member->r.role], member->r.name);
    if (member->r.role == FP_ROLE_STORAGE && fp_member_up(model, member))
        say_trouble(model, member, array);
}

json_t *fp_status_stalled(const fp_model *model)
{
    json_t *array = json_array();
    for (size_t i = 0; i < model->member_count; i++)
        say_member(model, model->members[i], array);
    for (size_t i = 0; i < model->part_count; i++) {
        if (fp_part_is_there(model->parts[i]))
            say_part(model, model->parts[i], array);
    }
    size_t more =
        json_array_size(array) > SENTENCES_MAX ? json_array_size(array) - SENTENCES_MAX : 0;
    for (size_t i = 0; i < more; i++)
        json_array_remove(array, SENTENCES_MAX);
    if (more)
        say(array, "and %zu more", more);
    return array;
}
