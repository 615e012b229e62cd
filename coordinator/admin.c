/* SPDX-License-Identifier: Apache-2.0 */
/* The methods of people and programs. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/decide.h"
#include "coordinator/duties.h"
#include "coordinator/inside.h"
#include "coordinator/place.h"
#include "coordinator/record.h"

#define MIB (1ull << 20)
#define SPACE_BYTES (65536 * MIB)

static fp_reader reader_of(const fp_call *call)
{
    return (fp_reader){
        .object = call->params, .where = call->method->name, .code = FARPOOL_E_INVAL};
}

/* Who asks may leave the partition's name as a number. */
static int part_of(const fp_coordinator *c, const fp_call *call, fp_part **part)
{
    char text[FP_ID_ROOM];
    const json_t *number = json_object_get(call->params, "partition");
    fp_reader in = reader_of(call);
    if (json_is_integer(number))
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(number));
    else
        fp_read_text(&in, "partition", text, sizeof text, NULL);
    if (in.rc)
        return in.rc;
    *part = fp_model_part_called(&c->model, text);
    return *part ? 0 : fp_error(FARPOOL_E_NOTFOUND, "there is no partition '%s'", text);
}

static int member_of(const fp_coordinator *c, const fp_call *call, fp_member **member)
{
    char name[FP_ID_ROOM];
    fp_reader in = reader_of(call);
    fp_read_text(&in, "name", name, sizeof name, NULL);
    if (in.rc)
        return in.rc;
    *member = fp_model_member(&c->model, name);
    return *member ? 0 : fp_error(FARPOOL_E_NOTFOUND, "there is no node '%s'", name);
}

/* ---- looking --------------------------------------------------------------------------------- */

static int run_route(fp_coordinator *c, fp_call *call)
{
    fp_part *part;
    int rc = part_of(c, call, &part);
    if (!rc)
        call->answer = fp_status_route(&c->model, part);
    return rc;
}

static int run_status(fp_coordinator *c, fp_call *call)
{
    call->answer = json_pack("{s:o, s:I, s:s, s:o, s:o, s:o}", "leader",
                             json_loads(c->lead.self, 0, NULL), "term", (json_int_t)c->model.term,
                             "cluster", c->model.cluster_kept ? c->model.cluster : "", "nodes",
                             fp_status_members(&c->model), "partitions", fp_status_parts(&c->model),
                             "stalled", fp_status_stalled(&c->model));
    return 0;
}

static int run_node_list(fp_coordinator *c, fp_call *call)
{
    call->answer = json_pack("{s:o}", "nodes", fp_status_members(&c->model));
    return 0;
}

static int run_part_list(fp_coordinator *c, fp_call *call)
{
    call->answer = json_pack("{s:o}", "partitions", fp_status_parts(&c->model));
    return 0;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static int set_state(fp_coordinator *c, fp_call *call, enum fp_member_state state, const char *kind)
{
    fp_member *member;
    int rc = member_of(c, call, &member);
    if (rc || member->r.state == state || (state == FP_DRAINING && member->r.state == FP_DRAINED))
        return rc;
    fp_change_member(call->changes, &member->r)->state = state;
    fp_change_event(call->changes, kind, member->r.name, 0, "%s", member->r.name);
    return 0;
}

static int run_drain(fp_coordinator *c, fp_call *call)
{
    return set_state(c, call, FP_DRAINING, "drain");
}

static int run_undrain(fp_coordinator *c, fp_call *call)
{
    return set_state(c, call, FP_MEMBER, "undrain");
}

static int run_remove(fp_coordinator *c, fp_call *call)
{
    fp_member *member;
    int rc = member_of(c, call, &member);
    if (rc)
        return rc;
    const char *name = member->r.name;
    if (member->r.state != FP_DRAINED && !fp_member_lost(&c->model, member))
        return fp_error(FARPOOL_E_BUSY, "node %s is there: drain it first, or stop it", name);
    for (size_t i = 0; i < c->model.part_count; i++) {
        const fp_part *part = c->model.parts[i];
        if (part->r.state != FP_DELETED && fp_part_concerns(part, name))
            return fp_error(FARPOOL_E_BUSY, "node %s has still to do with partition %s", name,
                            part->r.name);
    }
    for (size_t i = 0; i < c->model.member_count; i++) {
        if (!strcmp(c->model.members[i]->r.storage, name))
            return fp_error(FARPOOL_E_BUSY, "memory node %s still spills to node %s",
                            c->model.members[i]->r.name, name);
    }
    fp_change_remove(call->changes, &member->r);
    fp_change_event(call->changes, "removed", name, 0, "%s", name);
    return 0;
}

/* ---- partitions ------------------------------------------------------------------------------ */

/* Room for pages of all sizes side by side: twice the slab. */
static uint64_t default_space(const fp_part_record *r)
{
    uint64_t twice = r->slab_bytes < FARPOOL_SPACE_MAX / 2 ? 2 * r->slab_bytes : FARPOOL_SPACE_MAX;
    return twice > SPACE_BYTES ? twice : SPACE_BYTES;
}

static int read_create(const fp_call *call, fp_part_record *r)
{
    fp_reader in = reader_of(call);
    fp_read_text(&in, "name", r->name, sizeof r->name, NULL);
    fp_read_text(&in, "owner", r->wish, sizeof r->wish, "");
    r->when_lost =
        (enum fp_when_lost)fp_read_word(&in, "when_lost", fp_when_lost_names, FP_WHEN_LOSTS, 0);
    r->slab_bytes = fp_read_number(&in, "slab_bytes", MIB, INT64_MAX / 4, 256 * MIB);
    r->space_bytes = fp_read_number(&in, "space_bytes", MIB, FARPOOL_SPACE_MAX, default_space(r));
    r->log_copies = (unsigned)fp_read_number(&in, "log_copies", 1, FP_COPIES_MAX, 3);
    r->log_quorum =
        (unsigned)fp_read_number(&in, "log_quorum", 1, r->log_copies, r->log_copies / 2 + 1);
    r->log_ring_bytes = fp_read_number(&in, "log_ring_bytes", MIB, 16384 * MIB, 64 * MIB);
    r->storage_quorum = (unsigned)fp_read_number(&in, "storage_quorum", 1, r->log_copies, 1);
    r->memnode_count =
        (unsigned)fp_read_number(&in, "memnode_count", r->log_copies, FP_LIST_MAX, r->log_copies);
    if (!in.rc && r->space_bytes < r->slab_bytes)
        return fp_error(FARPOOL_E_INVAL,
                        "partition.create: space_bytes (%" PRIu64 ") must not be less than "
                        "slab_bytes (%" PRIu64 "): pages without a number never fill the rest",
                        r->space_bytes, r->slab_bytes);
    return in.rc ? in.rc : fp_name_check("partition", r->name);
}

static int check_room(const fp_model *model)
{
    unsigned count = 0;
    for (size_t i = 0; i < model->part_count; i++)
        count += model->parts[i]->r.state != FP_DELETED;
    return count < FP_PARTS_MAX
               ? 0
               : fp_error(FARPOOL_E_NOSPACE, "a cluster has %d partitions at most: delete one",
                          FP_PARTS_MAX);
}

static int run_create(fp_coordinator *c, fp_call *call)
{
    fp_part_record r = {.phase = FP_UNOWNED, .id = fp_model_next_part(&c->model)};
    int rc = read_create(call, &r);
    if (!rc)
        rc = check_room(&c->model);
    if (rc)
        return rc;
    if (fp_model_part_named(&c->model, r.name))
        return fp_error(FARPOOL_E_EXISTS, "there is a partition '%s' already", r.name);
    const fp_member *wish = r.wish[0] ? fp_model_member(&c->model, r.wish) : NULL;
    if (r.wish[0] && (!wish || wish->r.role != FP_ROLE_COMPUTE))
        return fp_error(FARPOOL_E_NOTFOUND, "there is no compute node '%s'", r.wish);
    fp_change_part(call->changes, &r);
    fp_change_event(call->changes, "create", "", r.id, "%s", r.name);
    call->answer = json_pack("{s:I}", "id", (json_int_t)r.id);
    return 0;
}

/* Who is to have it: the one that is named, or the best one. */
static int next_owner(fp_coordinator *c, const fp_call *call, const fp_part *part, bool same,
                      fp_member **owner)
{
    char to[FP_ID_ROOM];
    fp_reader in = reader_of(call);
    fp_read_text(&in, "to", to, sizeof to, "");
    if (in.rc)
        return in.rc;
    *owner = to[0] ? fp_model_member(&c->model, to) : fp_place_owner(&c->model, part->r.owner);
    if (!*owner && !to[0] && same)
        *owner = fp_model_member(&c->model, part->r.owner);
    if (!*owner || (*owner)->r.role != FP_ROLE_COMPUTE) {
        int code = to[0] ? FARPOOL_E_NOTFOUND : FARPOOL_E_BUSY;
        return to[0] ? fp_error(code, "there is no compute node '%s'", to)
                     : fp_error(code, "no other compute node is up that takes partition %s",
                                part->r.name);
    }
    if (!fp_place_may(&c->model, *owner, FP_ROLE_COMPUTE))
        return fp_error(FARPOOL_E_BUSY, "compute node %s is not up, or is drained",
                        (*owner)->r.name);
    if (strcmp((*owner)->r.name, part->r.owner) != 0 &&
        fp_place_parts(&c->model, *owner) >= FARPOOL_PARTITIONS_MAX)
        return fp_error(FARPOOL_E_BUSY, "compute node %s has %u partitions, as many as it can have",
                        (*owner)->r.name, FARPOOL_PARTITIONS_MAX);
    if (!part->r.epoch)
        return fp_error(FARPOOL_E_BUSY, "partition %s was given to nobody yet: see the status",
                        part->r.name);
    return 0;
}

static int run_move(fp_coordinator *c, fp_call *call)
{
    fp_part *part;
    fp_member *owner;
    int rc = part_of(c, call, &part);
    if (!rc)
        rc = next_owner(c, call, part, false, &owner);
    if (!rc && !strcmp(owner->r.name, part->r.owner))
        rc = fp_error(FARPOOL_E_EXISTS, "partition %s is at %s", part->r.name, owner->r.name);
    if (rc)
        return rc;
    uint64_t epoch =
        fp_decide_owner(&c->model, call->changes, part, owner, "move", "somebody wants it there")
            ->epoch;
    call->answer =
        json_pack("{s:I, s:I}", "id", (json_int_t)part->r.id, "epoch", (json_int_t)epoch);
    return 0;
}

static int run_failover(fp_coordinator *c, fp_call *call)
{
    fp_part *part;
    fp_member *owner;
    fp_reader in = reader_of(call);
    bool stored = fp_read_bool(&in, "from_storage", 0);
    int rc = in.rc ? in.rc : part_of(c, call, &part);
    if (!rc)
        rc = next_owner(c, call, part, true, &owner);
    if (!rc && stored && !(part->r.made && part->r.storagenodes.count))
        rc = fp_error(FARPOOL_E_BUSY, "partition %s has nothing on storage nodes", part->r.name);
    if (rc)
        return rc;
    fp_part_record *r = fp_decide_owner(&c->model, call->changes, part, owner, "failover",
                                        stored ? "somebody says that the one before is dead, "
                                                 "and that storage nodes are to be gone on with"
                                               : "somebody wants it");
    if (stored) { /* nobody is waited for; with too few nodes nobody could open it */
        r->phase = FP_ASSIGNED;
        r->stored = true;
        fp_decide_go_back(&c->model, part, r); /* they have more of it than storage nodes */
        fp_decide_replace_lost(&c->model, part, &r->memnodes);
    }
    call->answer = json_pack("{s:I, s:I}", "id", (json_int_t)r->id, "epoch", (json_int_t)r->epoch);
    return 0;
}

static int run_read_only(fp_coordinator *c, fp_call *call)
{
    fp_part *part;
    fp_reader in = reader_of(call);
    bool on = fp_read_bool(&in, "on", -1);
    int rc = in.rc ? in.rc : part_of(c, call, &part);
    enum fp_part_state state = on ? FP_READ_ONLY : FP_ACTIVE;
    if (rc || part->r.state == state)
        return rc;
    fp_change_part(call->changes, &part->r)->state = state;
    fp_change_event(call->changes, on ? "read-only" : "active", "", part->r.id, "%s", part->r.name);
    return 0;
}

static int run_delete(fp_coordinator *c, fp_call *call)
{
    fp_part *part;
    int rc = part_of(c, call, &part);
    if (rc)
        return rc;
    fp_decide_delete(&c->model, call->changes, part);
    call->answer = json_pack("{s:I}", "id", (json_int_t)part->r.id);
    return 0;
}

static int run_balance(fp_coordinator *c, fp_call *call)
{
    int rc = fp_balance(&c->model, call->changes);
    if (!rc)
        call->answer = json_pack("{s:s}", "step",
                                 call->changes->count ? call->changes->items[0].event.text : "");
    return rc;
}

const fp_method fp_admin_methods[] = {
    {"route", FP_MAY_ALL, false, run_route, NULL},
    {"status", FP_MAY_ALL, false, run_status, NULL},
    {"node.list", FP_MAY_ALL, false, run_node_list, NULL},
    {"node.drain", FP_MAY_ADMIN, true, run_drain, NULL},
    {"node.undrain", FP_MAY_ADMIN, true, run_undrain, NULL},
    {"node.remove", FP_MAY_ADMIN, true, run_remove, NULL},
    {"partition.create", FP_MAY_ADMIN, true, run_create, NULL},
    {"partition.list", FP_MAY_ALL, false, run_part_list, NULL},
    {"partition.move", FP_MAY_ADMIN, true, run_move, NULL},
    {"partition.read_only", FP_MAY_ADMIN, true, run_read_only, NULL},
    {"partition.delete", FP_MAY_ADMIN, true, run_delete, NULL},
    {"failover", FP_MAY_ADMIN, true, run_failover, NULL},
    {"balance", FP_MAY_ADMIN, true, run_balance, NULL},
    {"events", FP_MAY_ALL, false, fp_events_run, NULL},
};
const size_t fp_admin_method_count = sizeof fp_admin_methods / sizeof fp_admin_methods[0];
