/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/model.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

const char *const fp_role_names[] = {"memory", "storage", "compute"};
const char *const fp_member_state_names[] = {"member", "draining", "drained"};
const char *const fp_part_state_names[] = {"active", "read-only", "deleted"};
const char *const fp_phase_names[] = {"unowned", "fencing",  "assigned",
                                      "open",    "changing", "deleting"};
const char *const fp_when_lost_names[] = {"wait", "storage"};
const char *const fp_told_state_names[] = {"opening", "open", "failed", "closed"};

int fp_word(const char *const *names, int count, const char *text)
{
    for (int i = 0; i < count; i++) {
        if (!strcmp(names[i], text))
            return i;
    }
    return -1;
}

/* ---- lists and names ------------------------------------------------------------------------- */

int fp_list_index(const fp_list *list, const char *name)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (!strcmp(list->names[i], name))
            return (int)i;
    }
    return -1;
}

bool fp_list_has(const fp_list *list, const char *name) { return fp_list_index(list, name) >= 0; }

bool fp_list_add(fp_list *list, const char *name)
{
    if (list->count == FP_LIST_MAX)
        return false;
    strcpy(list->names[list->count++], name);
    return true;
}

void fp_list_remove(fp_list *list, const char *name)
{
    int i = fp_list_index(list, name);
    if (i < 0)
        return;
    list->count--;
    memmove(list->names[i], list->names[i + 1], (list->count - (unsigned)i) * FP_ID_ROOM);
}

bool fp_list_same(const fp_list *a, const fp_list *b)
{
    if (a->count != b->count)
        return false;
    for (unsigned i = 0; i < a->count; i++) {
        if (strcmp(a->names[i], b->names[i]) != 0)
            return false;
    }
    return true;
}

int fp_name_check(const char *what, const char *name)
{
    size_t len = strlen(name);
    bool good = len > 0 && len < FP_ID_ROOM, number = true;
    for (size_t i = 0; i < len && good; i++) {
        good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
        number = number && isdigit((unsigned char)name[i]);
    }
    if (good && !number)
        return 0;
    return fp_error(
        FARPOOL_E_INVAL,
        "%s '%.80s': a name has 1 to %d letters, digits, '.', '_' or '-', and is no number", what,
        name, FP_ID_ROOM - 1);
}

/* ---- finding --------------------------------------------------------------------------------- */

/* Where what is looked for is in the array, or would be. below: item i is less than that. */
static size_t place(const void *array, size_t count, const void *what,
                    bool (*below)(const void *array, size_t i, const void *what))
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (below(array, middle, what))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool member_below(const void *members, size_t i, const void *name)
{
    return strcmp(((fp_member *const *)members)[i]->r.name, name) < 0;
}

static size_t member_place(const fp_model *model, const char *name)
{
    return place(model->members, model->member_count, name, member_below);
}

static bool part_below(const void *parts, size_t i, const void *id)
{
    return ((fp_part *const *)parts)[i]->r.id < *(const uint64_t *)id;
}

static size_t part_place(const fp_model *model, uint64_t id)
{
    return place(model->parts, model->part_count, &id, part_below);
}

fp_member *fp_model_member(const fp_model *model, const char *name)
{
    size_t i = member_place(model, name);
    return i < model->member_count && !strcmp(model->members[i]->r.name, name) ? model->members[i]
                                                                               : NULL;
}

fp_part *fp_model_part(const fp_model *model, uint64_t id)
{
    size_t i = part_place(model, id);
    return i < model->part_count && model->parts[i]->r.id == id ? model->parts[i] : NULL;
}

fp_part *fp_model_part_named(const fp_model *model, const char *name)
{
    for (size_t i = 0; i < model->part_count; i++) {
        if (model->parts[i]->r.state != FP_DELETED && !strcmp(model->parts[i]->r.name, name))
            return model->parts[i];
    }
    return NULL;
}

fp_part *fp_model_part_called(const fp_model *model, const char *text)
{
    char *end;
    uint64_t id = strtoull(text, &end, 10);
    if (isdigit((unsigned char)text[0]) && !*end) {
        fp_part *part = fp_model_part(model, id);
        return part && part->r.state != FP_DELETED ? part : NULL;
    }
    return fp_model_part_named(model, text);
}

/* ---- changing -------------------------------------------------------------------------------- */

/* Room for one more, at place i. */
static int make_room(void *array, size_t *count, size_t *room, size_t i)
{
    void **items = *(void ***)array;
    if (*count == *room) {
        size_t more = *room ? *room * 2 : 16;
        items = realloc(items, more * sizeof *items);
        if (!items)
            return fp_error(FARPOOL_E_NOMEM, "no memory for %zu records", more);
        *(void ***)array = items;
        *room = more;
    }
    memmove(items + i + 1, items + i, (*count - i) * sizeof *items);
    (*count)++;
    return 0;
}

int fp_model_put_member(fp_model *model, const fp_member_record *record, uint64_t revision)
{
    fp_member *member = fp_model_member(model, record->name);
    if (!member) {
        member = calloc(1, sizeof *member);
        size_t i = member_place(model, record->name);
        if (!member || make_room(&model->members, &model->member_count, &model->member_room, i)) {
            free(member);
            return fp_error(FARPOOL_E_NOMEM, "no memory for node %s", record->name);
        }
        member->lost_at_ns = model->now_ns + fp_ms(model->settings.lost_ms);
        model->members[i] = member;
    }
    member->r = *record;
    member->revision = revision;
    return 0;
}

int fp_model_put_part(fp_model *model, const fp_part_record *record, uint64_t revision)
{
    fp_part *part = fp_model_part(model, record->id);
    if (!part) {
        part = calloc(1, sizeof *part);
        size_t i = part_place(model, record->id);
        if (!part || make_room(&model->parts, &model->part_count, &model->part_room, i)) {
            free(part);
            return fp_error(FARPOOL_E_NOMEM, "no memory for partition %s", record->name);
        }
        model->parts[i] = part;
        part->since_ns = model->now_ns;
        part->epoch_revision = revision;
    }
    if (part->r.phase != record->phase || part->r.epoch != record->epoch)
        part->since_ns = model->now_ns;
    if (part->r.epoch != record->epoch)
        part->epoch_revision = revision;
    part->r = *record;
    return 0;
}

uint64_t fp_model_next_part(const fp_model *model)
{
    uint64_t next = model->next_partition;
    for (size_t i = 0; i < model->member_count; i++) {
        const fp_member *member = model->members[i];
        uint64_t last = member->told_count ? member->told[member->told_count - 1].id : 0;
        if (last >= next && last < INT64_MAX / 2 && member->r.role != FP_ROLE_COMPUTE)
            next = last + 1;
    }
    return next;
}

void fp_member_forget_told(fp_member *member)
{
    json_decref(member->actual);
    free(member->told);
    member->actual = NULL;
    member->told = NULL;
    member->told_count = 0;
    member->told_ns = 0;
}

static void free_member(fp_member *member)
{
    fp_member_forget_told(member);
    free(member);
}

void fp_model_remove_member(fp_model *model, const char *name)
{
    size_t i = member_place(model, name);
    if (i == model->member_count || strcmp(model->members[i]->r.name, name) != 0)
        return;
    free_member(model->members[i]);
    model->member_count--;
    memmove(model->members + i, model->members + i + 1,
            (model->member_count - i) * sizeof *model->members);
}

void fp_model_clear(fp_model *model)
{
    for (size_t i = 0; i < model->member_count; i++)
        free_member(model->members[i]);
    for (size_t i = 0; i < model->part_count; i++)
        free(model->parts[i]);
    free(model->members);
    free(model->parts);
    *model = (fp_model){.settings = model->settings, .now_ns = model->now_ns};
}

/* ---- what nodes tell ------------------------------------------------------------------------- */

void fp_member_heard(fp_model *model, fp_member *member)
{
    member->heard_ns = model->now_ns;
    member->lost_at_ns = model->now_ns + fp_ms(model->settings.lost_ms);
}

void fp_model_stood_still(fp_model *model, uint64_t since_ns)
{
    model->patient_ns = model->now_ns + fp_ms(model->settings.lost_ms);
    for (size_t i = 0; i < model->member_count; i++) {
        fp_member *member = model->members[i];
        if (member->lost_at_ns > since_ns && member->lost_at_ns < model->patient_ns)
            member->lost_at_ns = model->patient_ns;
    }
}

void fp_member_gone(fp_model *model, fp_member *member, bool left)
{
    uint64_t at = model->now_ns + (left ? 0 : fp_ms(model->settings.grace_ms));
    if (!left && at < model->patient_ns)
        at = model->patient_ns;
    member->joined = false;
    if (at < member->lost_at_ns)
        member->lost_at_ns = at;
}

bool fp_member_lost_for(const fp_model *model, const fp_member *member, unsigned ms)
{
    return model->now_ns >= member->lost_at_ns + fp_ms(ms);
}

static bool told_below(const void *told, size_t i, const void *id)
{
    return ((const fp_told *)told)[i].id < *(const uint64_t *)id;
}

const fp_told *fp_member_told(const fp_member *member, uint64_t id)
{
    size_t i = place(member->told, member->told_count, &id, told_below);
    return i < member->told_count && member->told[i].id == id ? &member->told[i] : NULL;
}

const fp_told *fp_model_told(const fp_model *model, const char *name, uint64_t id)
{
    const fp_member *member = fp_model_member(model, name);
    return member ? fp_member_told(member, id) : NULL;
}
