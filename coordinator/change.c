/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/change.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/record.h"

int fp_changes_open(fp_changes *changes)
{
    changes->count = 0;
    changes->items = calloc(FP_CHANGE_ITEMS_MAX, sizeof *changes->items);
    return changes->items ? 0 : fp_error(FARPOOL_E_NOMEM, "no memory for changes of records");
}

void fp_changes_close(fp_changes *changes)
{
    free(changes->items);
    *changes = (fp_changes){0};
}

static fp_change *add(fp_changes *changes)
{
    FP_ASSERT(changes->count < FP_CHANGE_ITEMS_MAX);
    fp_change *change = &changes->items[changes->count++];
    memset(change, 0, sizeof *change);
    return change;
}

fp_part_record *fp_change_part(fp_changes *changes, const fp_part_record *now)
{
    fp_change *change = add(changes);
    change->what = FP_CHANGE_PART;
    change->part = *now;
    return &change->part;
}

fp_member_record *fp_change_member(fp_changes *changes, const fp_member_record *now)
{
    fp_change *change = add(changes);
    change->what = FP_CHANGE_MEMBER;
    change->member = *now;
    return &change->member;
}

void fp_change_remove(fp_changes *changes, const fp_member_record *now)
{
    fp_change *change = add(changes);
    change->what = FP_CHANGE_REMOVE_MEMBER;
    change->member = *now;
}

void fp_change_event(fp_changes *changes, const char *kind, const char *node, uint64_t partition,
                     const char *format, ...)
{
    FP_ASSERT(changes->count);
    fp_event *event = &changes->items[changes->count - 1].event;
    event->partition = partition;
    snprintf(event->kind, sizeof event->kind, "%s", kind);
    snprintf(event->node, sizeof event->node, "%s", node);
    va_list args;
    va_start(args, format);
    vsnprintf(event->text, sizeof event->text, format, args);
    va_end(args);
}

/* ---- as a transaction ------------------------------------------------------------------------ */

static fp_meta_op *add_op(fp_txn *txn, enum fp_meta_op_kind kind)
{
    FP_ASSERT(txn->req.op_count < FP_META_OPS_MAX);
    size_t i = txn->req.op_count++;
    txn->ops[i] = (fp_meta_op){.kind = kind, .key = txn->keys[i]};
    return &txn->ops[i];
}

/* Takes object, which may be NULL. */
static int put(fp_txn *txn, json_t *object, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int put(fp_txn *txn, json_t *object, const char *format, ...)
{
    fp_meta_op *op = add_op(txn, FP_META_PUT);
    size_t i = txn->req.op_count - 1;
    va_list args;
    va_start(args, format);
    vsnprintf(txn->keys[i], FP_KEY_ROOM, format, args);
    va_end(args);
    txn->values[i] = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!txn->values[i])
        return fp_error(FARPOOL_E_NOMEM, "no memory for record %s", txn->keys[i]);
    op->value = txn->values[i];
    op->len = strlen(txn->values[i]);
    return 0;
}

static int put_event(fp_txn *txn, fp_event *event, uint64_t time_ms)
{
    event->seq = txn->next_event++;
    if (event->seq > FP_EVENTS_KEPT) {
        add_op(txn, FP_META_DELETE);
        snprintf(txn->keys[txn->req.op_count - 1], FP_KEY_ROOM, "events/%020" PRIu64,
                 event->seq - FP_EVENTS_KEPT);
    }
    json_t *object =
        json_pack("{s:I, s:I, s:s, s:s, s:I, s:s}", "seq", (json_int_t)event->seq, "time_ms",
                  (json_int_t)time_ms, "kind", event->kind, "node", event->node, "partition",
                  (json_int_t)event->partition, "text", event->text);
    return put(txn, object, "events/%020" PRIu64, event->seq);
}

/* Of a new name it makes sure that it is free, of one that goes that it can be taken again. */
static int put_part(fp_txn *txn, const fp_model *model, const fp_part_record *record)
{
    const fp_part *now = fp_model_part(model, record->id);
    int rc = put(txn, fp_part_json(record), "partitions/%020" PRIu64, record->id);
    if (rc)
        return rc;
    if (!now) {
        txn->next_partition = record->id + 1;
        rc = put(txn, json_pack("{s:I}", "id", (json_int_t)record->id), "names/%s", record->name);
        txn->compare[txn->req.compare_count++] =
            (fp_meta_compare){.kind = FP_META_ABSENT, .key = txn->keys[txn->req.op_count - 1]};
    } else if (record->state == FP_DELETED && now->r.state != FP_DELETED) {
        add_op(txn, FP_META_DELETE);
        snprintf(txn->keys[txn->req.op_count - 1], FP_KEY_ROOM, "names/%s", record->name);
    }
    return rc;
}

static int put_change(fp_txn *txn, const fp_model *model, fp_change *change, uint64_t time_ms)
{
    int rc = 0;
    if (change->what == FP_CHANGE_PART) {
        rc = put_part(txn, model, &change->part);
    } else if (change->what == FP_CHANGE_MEMBER) {
        rc = put(txn, fp_member_json(&change->member), "nodes/%s", change->member.name);
    } else {
        add_op(txn, FP_META_DELETE);
        snprintf(txn->keys[txn->req.op_count - 1], FP_KEY_ROOM, "nodes/%s", change->member.name);
    }
    if (!rc && change->event.kind[0])
        rc = put_event(txn, &change->event, time_ms);
    return rc;
}

int fp_txn_make(fp_txn *txn, const fp_model *model, fp_changes *changes, uint64_t time_ms)
{
    *txn = (fp_txn){.next_partition = model->next_partition, .next_event = model->next_event};
    txn->req = (fp_meta_req){.kind = FP_META_TXN, .compares = txn->compare, .ops = txn->ops};
    txn->compare[txn->req.compare_count++] =
        (fp_meta_compare){.kind = FP_META_REVISION_IS, .key = "leader", .revision = model->term};
    txn->compare[txn->req.compare_count++] =
        (fp_meta_compare){.kind = model->next_revision ? FP_META_REVISION_IS : FP_META_ABSENT,
                          .key = "next",
                          .revision = model->next_revision};
    int rc = 0;
    for (size_t i = 0; i < changes->count && !rc; i++)
        rc = put_change(txn, model, &changes->items[i], time_ms);
    if (!rc)
        rc = put(txn,
                 json_pack("{s:I, s:I}", "partition", (json_int_t)txn->next_partition, "event",
                           (json_int_t)txn->next_event),
                 "next");
    if (!rc && !model->cluster_kept)
        rc = put(txn, json_pack("{s:i, s:s}", "version", 1, "id", model->cluster), "cluster");
    if (rc)
        fp_txn_close(txn);
    return rc;
}

void fp_txn_close(fp_txn *txn)
{
    for (size_t i = 0; i < txn->req.op_count; i++) {
        free(txn->values[i]);
        txn->values[i] = NULL;
    }
}

int fp_txn_apply(const fp_txn *txn, fp_model *model, const fp_changes *changes)
{
    int rc = 0;
    uint64_t revision = txn->req.revision;
    for (size_t i = 0; i < changes->count && !rc; i++) {
        const fp_change *change = &changes->items[i];
        if (change->what == FP_CHANGE_PART)
            rc = fp_model_put_part(model, &change->part, revision);
        else if (change->what == FP_CHANGE_MEMBER)
            rc = fp_model_put_member(model, &change->member, revision);
        else
            fp_model_remove_member(model, change->member.name);
    }
    model->cluster_kept = true;
    model->next_partition = txn->next_partition;
    model->next_event = txn->next_event;
    model->next_revision = model->revision = revision;
    return rc;
}
