/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/place.h"

#include <string.h>

/* What makes one node better than another; less is better, the first that differs decides. */
enum { SCORES = 7 };

static bool better(const uint64_t a[SCORES], const uint64_t b[SCORES])
{
    for (int i = 0; i < SCORES; i++) {
        if (a[i] != b[i])
            return a[i] < b[i];
    }
    return false; /* nodes are looked at in the order of their names */
}

void fp_place_afresh(fp_model *model)
{
    for (size_t i = 0; i < model->member_count; i++)
        memset(&model->members[i]->planned, 0, sizeof model->members[i]->planned);
}

bool fp_place_may(const fp_model *model, const fp_member *member, enum fp_role role)
{
    return member->r.role == role && member->r.state == FP_MEMBER && fp_member_up(model, member);
}

/* ---- memory nodes ---------------------------------------------------------------------------- */

uint64_t fp_place_bytes(const fp_part_record *r, unsigned at)
{
    uint64_t share = r->slab_bytes / r->memnode_count + 1;
    return at < r->log_copies ? share + r->log_ring_bytes : share;
}

uint64_t fp_place_used(const fp_model *model, const fp_member *member, const fp_part *but)
{
    uint64_t used = member->planned.bytes;
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part *part = model->parts[i];
        if (part == but)
            continue;
        int at = fp_list_index(&part->r.memnodes, member->r.name);
        if (at < 0)
            at = fp_list_index(&part->r.before, member->r.name);
        /* It may have been granted more than was asked for, and not be given back yet. */
        const fp_told *told = fp_member_told(member, part->r.id);
        uint64_t granted = told ? told->ring + told->slab : 0;
        uint64_t promised = at < 0 ? 0 : fp_place_bytes(&part->r, (unsigned)at);
        used += granted > promised ? granted : promised;
    }
    return used;
}

unsigned fp_place_rings(const fp_model *model, const fp_member *member)
{
    unsigned rings = member->planned.rings;
    for (size_t i = 0; i < model->part_count; i++) {
        int at = fp_list_index(&model->parts[i]->r.memnodes, member->r.name);
        rings += at >= 0 && (unsigned)at < model->parts[i]->r.log_copies;
    }
    return rings;
}

void fp_place_shared(const fp_model *model, const fp_member *member, const fp_part *part,
                     const fp_list *list, unsigned at, uint64_t shared[FP_PLACE_SHARED])
{
    unsigned copies = part->r.log_copies;
    memset(shared, 0, FP_PLACE_SHARED * sizeof *shared);
    for (unsigned i = 0; i < list->count; i++) {
        const fp_member *other = fp_model_member(model, list->names[i]);
        if (i == at || !other)
            continue;
        bool zone = !strcmp(other->r.zone, member->r.zone);
        bool rack = zone && !strcmp(other->r.rack, member->r.rack);
        shared[0] += zone && member->r.zone[0];
        shared[1] += rack && member->r.rack[0];
        shared[2] += !strcmp(other->r.host, member->r.host) && member->r.host[0];
        shared[3] += at < copies && i < copies && member->r.storage[0] &&
                     !strcmp(other->r.storage, member->r.storage);
    }
}

fp_member *fp_place_memory(const fp_model *model, const fp_part *part, const fp_list *list,
                           unsigned at, const char *avoid)
{
    fp_member *best = NULL;
    uint64_t best_scores[SCORES] = {0};
    for (size_t i = 0; i < model->member_count; i++) {
        fp_member *member = model->members[i];
        if (!fp_place_may(model, member, FP_ROLE_MEMORY) || fp_list_has(list, member->r.name))
            continue;
        uint64_t used = fp_place_used(model, member, part), need = fp_place_bytes(&part->r, at);
        if (need > member->r.bytes || used > member->r.bytes - need)
            continue;
        uint64_t scores[SCORES] = {!strcmp(member->r.name, avoid)};
        fp_place_shared(model, member, part, list, at, scores + 1);
        scores[5] = used * 1000 / member->r.bytes;
        scores[6] = fp_place_rings(model, member);
        if (!best || better(scores, best_scores)) {
            best = member;
            memcpy(best_scores, scores, sizeof scores);
        }
    }
    return best;
}

/* ---- storage and compute nodes --------------------------------------------------------------- */

static unsigned spillers(const fp_model *model, const fp_member *storage)
{
    unsigned count = storage->planned.spillers;
    for (size_t i = 0; i < model->member_count; i++)
        count += model->members[i]->r.role == FP_ROLE_MEMORY &&
                 !strcmp(model->members[i]->r.storage, storage->r.name);
    return count;
}

/* How many of the log rings that stand beside its own would share a storage node with others if it spilled to that one. A
 * partition whose log is on fewer storage nodes than its quorum outweighs all that are only not spread. */
static uint64_t crowding(const fp_model *model, const fp_member *memory, const char *storage)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < model->part_count; i++) {
        const fp_part_record *r = &model->parts[i]->r;
        unsigned rings = fp_part_rings(r, &r->memnodes);
        int at = fp_list_index(&r->memnodes, memory->r.name);
        if (r->state == FP_DELETED || at < 0 || (unsigned)at >= rings)
            continue;
        fp_list has = {0};
        for (unsigned k = 0; k < rings; k++) {
            const fp_member *member = fp_model_member(model, r->memnodes.names[k]);
            const char *to = (int)k == at ? storage : member ? member->r.storage : "";
            if (to[0] && !fp_list_has(&has, to))
                fp_list_add(&has, to);
        }
        sum += rings - has.count;
        if (has.count < r->storage_quorum)
            sum += (r->storage_quorum - has.count) * (uint64_t)FP_PARTS_MAX * FP_LIST_MAX;
    }
    return sum;
}

static void score_storage(const fp_model *model, const fp_member *memory, const fp_member *storage,
                          uint64_t scores[SCORES])
{
    bool here = !strcmp(memory->r.storage, storage->r.name);
    scores[0] = crowding(model, memory, storage->r.name);
    scores[1] = strcmp(storage->r.zone, memory->r.zone) != 0;
    scores[2] = spillers(model, storage) + !here;
}

static fp_member *find_storage(const fp_model *model, const fp_member *memory,
                               uint64_t best_scores[SCORES])
{
    fp_member *best = NULL;
    for (size_t i = 0; i < model->member_count; i++) {
        fp_member *member = model->members[i];
        if (!fp_place_may(model, member, FP_ROLE_STORAGE) ||
            !strcmp(member->r.name, memory->r.storage))
            continue;
        uint64_t scores[SCORES] = {0};
        score_storage(model, memory, member, scores);
        if (!best || better(scores, best_scores)) {
            best = member;
            memcpy(best_scores, scores, sizeof scores);
        }
    }
    return best;
}

fp_member *fp_place_storage(const fp_model *model, const fp_member *memory)
{
    uint64_t scores[SCORES];
    return find_storage(model, memory, scores);
}

fp_member *fp_place_better_storage(const fp_model *model, const fp_member *memory,
                                   const fp_member *now, bool all)
{
    uint64_t old[SCORES] = {0}, new[SCORES] = {0};
    score_storage(model, memory, now, old);
    bool idle = all || !fp_place_rings(model, memory);
    fp_member *best = idle || old[0] ? find_storage(model, memory, new) : NULL;
    return best && (new[0] < old[0] || (idle && better(new, old))) ? best : NULL;
}

unsigned fp_place_parts(const fp_model *model, const fp_member *member)
{
    unsigned parts = member->planned.parts;
    for (size_t i = 0; i < model->part_count; i++)
        parts += model->parts[i]->r.state != FP_DELETED &&
                 !strcmp(model->parts[i]->r.owner, member->r.name);
    return parts;
}

fp_member *fp_place_owner(const fp_model *model, const char *but)
{
    fp_member *best = NULL;
    unsigned best_parts = 0;
    for (size_t i = 0; i < model->member_count; i++) {
        fp_member *member = model->members[i];
        if (!fp_place_may(model, member, FP_ROLE_COMPUTE) || !member->r.standby ||
            !strcmp(member->r.name, but))
            continue;
        unsigned parts = fp_place_parts(model, member);
        if (parts < FARPOOL_PARTITIONS_MAX && (!best || parts < best_parts)) {
            best = member;
            best_parts = parts;
        }
    }
    return best;
}
