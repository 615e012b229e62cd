/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/record.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster/call.h"
#include "common/error.h"

/* ---- fields ---------------------------------------------------------------------------------- */

static void wrong(fp_reader *reader, const char *field, const char *what)
{
    if (!reader->rc)
        reader->rc = fp_error(reader->code, "%s: '%s' %s", reader->where, field, what);
}

/* The field, or NULL if it is missing. */
static const json_t *field_of(fp_reader *reader, const char *field, bool needed)
{
    const json_t *value = reader->rc ? NULL : json_object_get(reader->object, field);
    if (!value && needed)
        wrong(reader, field, "is missing");
    return json_is_null(value) && !needed ? NULL : value;
}

static bool take_text(fp_reader *reader, const char *field, const json_t *value, char *text,
                      size_t room)
{
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value) ||
        json_string_length(value) >= room) {
        wrong(reader, field, "is no text, or too long");
        return false;
    }
    strcpy(text, json_string_value(value));
    return true;
}

void fp_read_text(fp_reader *reader, const char *field, char *text, size_t room,
                  const char *missing)
{
    const json_t *value = field_of(reader, field, !missing);
    text[0] = 0;
    if (value)
        take_text(reader, field, value, text, room);
    else if (missing)
        snprintf(text, room, "%s", missing);
}

uint64_t fp_read_number(fp_reader *reader, const char *field, uint64_t min, uint64_t max,
                        uint64_t missing)
{
    const json_t *value = field_of(reader, field, missing == UINT64_MAX);
    if (!value)
        return missing == UINT64_MAX ? min : missing;
    json_int_t number = json_integer_value(value);
    if (json_is_integer(value) && number >= 0 && (uint64_t)number >= min && (uint64_t)number <= max)
        return (uint64_t)number;
    char what[100];
    snprintf(what, sizeof what, "is no number from %" PRIu64 " to %" PRIu64, min, max);
    wrong(reader, field, what);
    return min;
}

bool fp_read_bool(fp_reader *reader, const char *field, int missing)
{
    const json_t *value = field_of(reader, field, missing < 0);
    if (!value)
        return missing > 0;
    if (!json_is_boolean(value))
        wrong(reader, field, "is neither true nor false");
    return json_is_true(value);
}

int fp_read_word(fp_reader *reader, const char *field, const char *const *names, int count,
                 int missing)
{
    const json_t *value = field_of(reader, field, missing < 0);
    if (!value)
        return missing < 0 ? 0 : missing;
    int word = json_is_string(value) ? fp_word(names, count, json_string_value(value)) : -1;
    if (word < 0)
        wrong(reader, field, "is none of the words that are known");
    return word < 0 ? 0 : word;
}

/* 16 hex digits. */
static uint64_t read_hex(fp_reader *reader, const char *field)
{
    char text[17] = "";
    fp_read_text(reader, field, text, sizeof text, NULL);
    if (strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16)
        return strtoull(text, NULL, 16);
    wrong(reader, field, "is not 16 hex digits");
    return 0;
}

/* At most max texts, room bytes each, one behind the other; their number. Missing: none. */
static unsigned read_texts(fp_reader *reader, const char *field, char *texts, size_t room,
                           unsigned max)
{
    const json_t *value = field_of(reader, field, false);
    if (!value)
        return 0;
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count > max) {
        wrong(reader, field, "is no list, or too long");
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (!take_text(reader, field, json_array_get(value, i), texts + i * room, room))
            return 0;
    }
    return (unsigned)count;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static json_t *texts_json(const char *texts, size_t room, unsigned count)
{
    json_t *array = json_array();
    for (unsigned i = 0; i < count; i++) {
        if (json_array_append_new(array, json_string(texts + i * room))) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

json_t *fp_member_json(const fp_member_record *r)
{
    char boot[17];
    snprintf(boot, sizeof boot, "%016" PRIx64, r->boot_id);
    return json_pack("{s:s, s:s, s:o, s:s, s:s, s:s, s:I, s:s, s:s, s:b, s:s, s:s}", "name",
                     r->name, "role", fp_role_names[r->role], "uris",
                     texts_json(r->uris[0], sizeof r->uris[0], r->uri_count), "zone", r->zone,
                     "rack", r->rack, "host", r->host, "bytes", (json_int_t)r->bytes, "boot_id",
                     boot, "address", r->address, "standby", (int)r->standby, "state",
                     fp_member_state_names[r->state], "storage", r->storage);
}

/* What a node joins with, and what is kept of that: there all has to be. */
static void read_card(fp_reader *in, bool kept, fp_member_record *r)
{
    const char *text = kept ? NULL : "";
    fp_read_text(in, "name", r->name, sizeof r->name, NULL);
    r->role = (enum fp_role)fp_read_word(in, "role", fp_role_names, FP_ROLES, -1);
    r->boot_id = read_hex(in, "boot_id");
    r->uri_count = read_texts(in, "uris", r->uris[0], sizeof r->uris[0], FP_MEMBER_URIS_MAX);
    fp_read_text(in, "zone", r->zone, sizeof r->zone, text);
    fp_read_text(in, "rack", r->rack, sizeof r->rack, text);
    fp_read_text(in, "host", r->host, sizeof r->host, text);
    r->bytes = fp_read_number(in, "bytes", 0, INT64_MAX, kept ? UINT64_MAX : 0);
    fp_read_text(in, "address", r->address, sizeof r->address, text);
    r->standby = fp_read_bool(in, "standby", kept ? -1 : 0);
}

int fp_card_read(const json_t *params, fp_member_record *r)
{
    fp_reader in = {.object = params, .where = "join", .code = FARPOOL_E_INVAL};
    *r = (fp_member_record){0};
    read_card(&in, false, r);
    int rc = in.rc ? in.rc : fp_name_check("join: name", r->name);
    if (!rc && r->role != FP_ROLE_COMPUTE && !r->uri_count)
        rc = fp_error(FARPOOL_E_INVAL, "join: node %s has no address", r->name);
    for (unsigned i = 0; !rc && i < r->uri_count; i++)
        rc = fp_uri_with_name(r->uris[i], r->name, (char[FP_NET_URI_MAX]){0});
    return rc;
}

int fp_member_read(const char *where, const json_t *object, fp_member_record *r)
{
    fp_reader in = {.object = object, .where = where, .code = FARPOOL_E_CORRUPT};
    *r = (fp_member_record){0};
    read_card(&in, true, r);
    r->state = (enum fp_member_state)fp_read_word(&in, "state", fp_member_state_names,
                                                  FP_MEMBER_STATES, -1);
    fp_read_text(&in, "storage", r->storage, sizeof r->storage, NULL);
    return in.rc;
}

/* ---- partitions ------------------------------------------------------------------------------ */

static json_t *list_json(const fp_list *list)
{
    return texts_json(list->names[0], FP_ID_ROOM, list->count);
}

json_t *fp_part_add_numbers(json_t *object, const fp_part_record *r)
{
    json_t *numbers =
        json_pack("{s:I, s:I, s:i, s:i, s:I, s:i}", "slab_bytes", (json_int_t)r->slab_bytes,
                  "space_bytes", (json_int_t)r->space_bytes, "log_copies", (int)r->log_copies,
                  "log_quorum", (int)r->log_quorum, "log_ring_bytes", (json_int_t)r->log_ring_bytes,
                  "storage_quorum", (int)r->storage_quorum);
    if (!object || !numbers || json_object_update(object, numbers)) {
        json_decref(object);
        object = NULL;
    }
    json_decref(numbers);
    return object;
}

json_t *fp_part_json(const fp_part_record *r)
{
    char boot[17];
    snprintf(boot, sizeof boot, "%016" PRIx64, r->owner_boot);
    json_t *object = json_pack(
        "{s:I, s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:b, s:b, s:I, s:s}",
        "id", (json_int_t)r->id, "name", r->name, "state", fp_part_state_names[r->state], "phase",
        fp_phase_names[r->phase], "epoch", (json_int_t)r->epoch, "opened", (json_int_t)r->opened,
        "owner", r->owner, "owner_boot", boot, "wish", r->wish, "memnode_count",
        (int)r->memnode_count, "memnodes", list_json(&r->memnodes), "before", list_json(&r->before),
        "storagenodes", list_json(&r->storagenodes), "made", (int)r->made, "stored", (int)r->stored,
        "doubt", (json_int_t)r->doubt, "when_lost", fp_when_lost_names[r->when_lost]);
    return fp_part_add_numbers(object, r);
}

static void read_list(fp_reader *in, const char *field, fp_list *list)
{
    list->count = read_texts(in, field, list->names[0], FP_ID_ROOM, FP_LIST_MAX);
}

int fp_part_read(const char *where, const json_t *object, fp_part_record *r)
{
    fp_reader in = {.object = object, .where = where, .code = FARPOOL_E_CORRUPT};
    *r = (fp_part_record){0};
    r->id = fp_read_number(&in, "id", 1, INT64_MAX, UINT64_MAX);
    fp_read_text(&in, "name", r->name, sizeof r->name, NULL);
    r->state =
        (enum fp_part_state)fp_read_word(&in, "state", fp_part_state_names, FP_PART_STATES, -1);
    r->phase = (enum fp_phase)fp_read_word(&in, "phase", fp_phase_names, FP_PHASES, -1);
    r->epoch = fp_read_number(&in, "epoch", 0, INT64_MAX, UINT64_MAX);
    r->opened = fp_read_number(&in, "opened", 0, r->epoch, UINT64_MAX);
    fp_read_text(&in, "owner", r->owner, sizeof r->owner, NULL);
    r->owner_boot = read_hex(&in, "owner_boot");
    fp_read_text(&in, "wish", r->wish, sizeof r->wish, NULL);
    r->memnode_count = (unsigned)fp_read_number(&in, "memnode_count", 1, FP_LIST_MAX, UINT64_MAX);
    read_list(&in, "memnodes", &r->memnodes);
    read_list(&in, "before", &r->before);
    read_list(&in, "storagenodes", &r->storagenodes);
    r->made = fp_read_bool(&in, "made", -1);
    r->stored = fp_read_bool(&in, "stored", -1);
    r->doubt = fp_read_number(&in, "doubt", 0, r->epoch, UINT64_MAX);
    r->when_lost =
        (enum fp_when_lost)fp_read_word(&in, "when_lost", fp_when_lost_names, FP_WHEN_LOSTS, -1);
    r->slab_bytes = fp_read_number(&in, "slab_bytes", 1, INT64_MAX, UINT64_MAX);
    r->space_bytes = fp_read_number(&in, "space_bytes", 1, INT64_MAX, UINT64_MAX);
    r->log_copies = (unsigned)fp_read_number(&in, "log_copies", 1, FP_COPIES_MAX, UINT64_MAX);
    r->log_quorum = (unsigned)fp_read_number(&in, "log_quorum", 1, r->log_copies, UINT64_MAX);
    r->log_ring_bytes = fp_read_number(&in, "log_ring_bytes", 1, INT64_MAX, UINT64_MAX);
    r->storage_quorum = (unsigned)fp_read_number(&in, "storage_quorum", 1, FP_LIST_MAX, UINT64_MAX);
    return in.rc;
}

/* ---- what nodes tell ------------------------------------------------------------------------- */

static void read_lost(fp_reader *in, fp_told *told)
{
    size_t i;
    json_t *value;
    json_array_foreach(json_object_get(in->object, "lost"), i, value)
    {
        json_int_t number = json_integer_value(value);
        if (!json_is_integer(value) || number < 0 || number >= FP_LIST_MAX)
            wrong(in, "lost", "is no list of numbers of memory nodes");
        else
            told->lost |= 1u << number;
    }
}

static int read_told(const fp_member *member, const json_t *object, fp_told *told)
{
    fp_reader in = {.object = object, .where = member->r.name, .code = FARPOOL_E_PROTO};
    const json_t *text = json_object_get(object, "text");
    *told = (fp_told){0};
    if (json_is_string(text))
        fp_call_words(told->text, sizeof told->text, json_string_value(text));
    told->id = fp_read_number(&in, "id", 1, INT64_MAX, UINT64_MAX);
    told->epoch = fp_read_number(&in, "epoch", 0, INT64_MAX, UINT64_MAX);
    if (member->r.role == FP_ROLE_MEMORY) {
        told->ring = fp_read_number(&in, "ring", 0, INT64_MAX, UINT64_MAX);
        told->slab = fp_read_number(&in, "slab", 0, INT64_MAX, UINT64_MAX);
        told->blank = fp_read_bool(&in, "blank", 0);
    } else if (member->r.role == FP_ROLE_STORAGE) {
        told->whole = fp_read_bool(&in, "whole", -1);
        told->durable = fp_read_number(&in, "durable", 0, INT64_MAX, 0);
    } else {
        told->state =
            (enum fp_told_state)fp_read_word(&in, "state", fp_told_state_names, FP_TOLD_STATES, -1);
        told->held = fp_read_number(&in, "held", 0, INT64_MAX, told->epoch);
        const json_t *code = json_object_get(object, "code");
        told->code = (int)json_integer_value(code);
        read_lost(&in, told);
    }
    return in.rc;
}

static int by_id(const void *a, const void *b)
{
    const fp_told *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

int fp_member_tell(fp_model *model, fp_member *member, const json_t *actual)
{
    const json_t *list = json_object_get(actual, "partitions");
    if (!json_is_object(actual) || (list && !json_is_array(list)))
        return fp_error(FARPOOL_E_PROTO, "%s: 'actual' is no object, or its partitions no list",
                        member->r.name);
    size_t count = json_array_size(list);
    fp_told *told = calloc(count + 1, sizeof *told);
    if (!told)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for what it has", member->r.name);
    for (size_t i = 0; i < count; i++) {
        int rc = read_told(member, json_array_get(list, i), &told[i]);
        if (rc) {
            free(told);
            return rc;
        }
    }
    qsort(told, count, sizeof *told, by_id);
    for (size_t i = 1; i < count; i++) {
        if (told[i].id == told[i - 1].id) {
            int rc = fp_error(FARPOOL_E_PROTO, "%s: it tells of partition %" PRIu64 " twice",
                              member->r.name, told[i].id);
            free(told);
            return rc;
        }
    }
    free(member->told);
    json_decref(member->actual);
    member->told = told;
    member->told_count = count;
    member->actual = json_incref((json_t *)(uintptr_t)actual);
    member->told_ns = model->now_ns;
    return 0;
}
