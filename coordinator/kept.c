/* SPDX-License-Identifier: Apache-2.0 */
/* Reading everything when leading begins, or when it is in doubt; and one transaction at a time. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/error.h"
#include "common/log.h"
#include "coordinator/inside.h"
#include "coordinator/record.h"

enum { AGAIN_MS = 200, DAMAGED_MS = 5000 };

/* What is read, in this order; whole keys where no '/' is at the end. */
static const char *const prefixes[] = {"cluster", "leader", "next", "nodes/", "partitions/"};
enum { PREFIXES = sizeof prefixes / sizeof prefixes[0] };

/* ---- reading --------------------------------------------------------------------------------- */

static int take_cluster(fp_coordinator *c, const char *key, const json_t *object)
{
    fp_reader in = {.object = object, .where = key, .code = FARPOOL_E_CORRUPT};
    uint64_t version = fp_read_number(&in, "version", 0, INT64_MAX, UINT64_MAX);
    fp_read_text(&in, "id", c->model.cluster, sizeof c->model.cluster, NULL);
    c->model.cluster_kept = true;
    if (!in.rc && version != 1)
        return fp_error(FARPOOL_E_CORRUPT,
                        "%s: version %" PRIu64 ", but this program knows version 1: update it", key,
                        version);
    return in.rc;
}

/* Between its being put and the picture that is read somebody else may have begun to lead. */
static int take_leader(fp_coordinator *c, const fp_meta_kv *kv)
{
    c->read_leader = kv->revision == c->lead.term;
    return 0;
}

static int take_next(fp_coordinator *c, const fp_meta_kv *kv, const json_t *object)
{
    fp_reader in = {.object = object, .where = kv->key, .code = FARPOOL_E_CORRUPT};
    c->model.next_partition = fp_read_number(&in, "partition", 1, INT64_MAX, UINT64_MAX);
    c->model.next_event = fp_read_number(&in, "event", 1, INT64_MAX, UINT64_MAX);
    c->model.next_revision = kv->revision;
    return in.rc;
}

static int take_record(fp_coordinator *c, const fp_meta_kv *kv, const json_t *object)
{
    if (!strncmp(kv->key, "nodes/", 6)) {
        fp_member_record record;
        int rc = fp_member_read(kv->key, object, &record);
        if (!rc && strcmp(kv->key + 6, record.name) != 0)
            rc = fp_error(FARPOOL_E_CORRUPT, "%s: 'name' is that of another node", kv->key);
        return rc ? rc : fp_model_put_member(&c->model, &record, kv->revision);
    }
    fp_part_record record;
    int rc = fp_part_read(kv->key, object, &record);
    if (!rc && strtoull(kv->key + strlen("partitions/"), NULL, 10) != record.id)
        rc = fp_error(FARPOOL_E_CORRUPT, "%s: 'id' is that of another partition", kv->key);
    return rc ? rc : fp_model_put_part(&c->model, &record, kv->revision);
}

static int take_kv(fp_coordinator *c, const fp_meta_kv *kv)
{
    const char *prefix = prefixes[c->read_part];
    bool whole = prefix[strlen(prefix) - 1] != '/';
    if (whole && strcmp(kv->key, prefix) != 0)
        return 0;
    json_t *object = json_loadb(kv->value, kv->len, JSON_REJECT_DUPLICATES, NULL);
    int rc;
    if (!json_is_object(object))
        rc = fp_error(FARPOOL_E_CORRUPT, "%s: the value is no JSON object", kv->key);
    else if (whole && c->read_part == 0)
        rc = take_cluster(c, kv->key, object);
    else if (whole && c->read_part == 1)
        rc = take_leader(c, kv);
    else if (whole)
        rc = take_next(c, kv, object);
    else
        rc = take_record(c, kv, object);
    json_decref(object);
    return rc;
}

static void read_more(fp_coordinator *c);

/* All is there: who has joined since is to join again, for what they told has been forgotten. */
static void read_is_over(fp_coordinator *c)
{
    c->kept = FP_KEPT_READ;
    c->model.term = c->lead.term;
    c->model.revision = c->read_revision;
    if (!c->model.next_partition)
        c->model.next_partition = c->model.next_event = 1;
    if (!c->model.cluster_kept)
        snprintf(c->model.cluster, sizeof c->model.cluster, "%016" PRIx64, c->server.boot_id);
    c->tick_ns = 0;
    c->version++;
    fp_log(FP_LOG_INFO, "knows %zu nodes and %zu partitions as of revision %" PRIu64,
           c->model.member_count, c->model.part_count, c->read_revision);
}

static void read_failed(fp_coordinator *c, int status)
{
    c->kept = FP_KEPT_NOT;
    bool damaged = status == FARPOOL_E_CORRUPT;
    if (status)
        fp_log(damaged ? FP_LOG_ERROR : FP_LOG_WARN, "what is kept cannot be read: %s",
               farpool_errmsg());
    c->read_at_ns = c->model.now_ns + fp_ms(damaged ? DAMAGED_MS : AGAIN_MS);
}

static void was_read(fp_meta_req *req)
{
    fp_coordinator *c = req->user;
    int rc = req->status;
    bool more = req->more;
    if (!rc && !c->read_revision)
        c->read_revision = req->revision;
    for (size_t i = 0; i < req->kv_count && !rc; i++) {
        rc = take_kv(c, &req->kvs[i]);
        snprintf(c->read_after, sizeof c->read_after, "%s", req->kvs[i].key);
    }
    free(req->kvs);
    if (c->closing)
        return;
    if (rc || c->read_term != c->lead.term) {
        read_failed(c, rc);
        return;
    }
    if (!more) {
        c->read_part++;
        c->read_after[0] = 0;
    }
    if (c->read_part < PREFIXES) {
        read_more(c);
    } else if (!c->read_leader) {
        read_failed(c, 0);
        fp_lead_resign(&c->lead, "somebody else does");
    } else {
        read_is_over(c);
    }
}

static void read_more(fp_coordinator *c)
{
    c->read = (fp_meta_req){.kind = FP_META_RANGE,
                            .key = prefixes[c->read_part],
                            .after = c->read_after[0] ? c->read_after : NULL,
                            .at = c->read_revision,
                            .done = was_read,
                            .user = c};
    fp_meta_submit(c->meta, &c->read);
}

void fp_kept_read(fp_coordinator *c)
{
    fp_kept_forget(c);
    c->kept = FP_KEPT_READING;
    c->read_term = c->lead.term;
    c->read_part = 0;
    c->read_leader = false;
    c->read_revision = 0;
    c->read_after[0] = 0;
    read_more(c);
}

/* Whoever has joined is sent away: it finds the one who leads, or joins here again. */
void fp_kept_forget(fp_coordinator *c)
{
    if (c->kept == FP_KEPT_READ)
        c->kept = FP_KEPT_NOT;
    fp_model_clear(&c->model);
    fp_server_client *next;
    for (fp_server_client *client = c->server.clients; client; client = next) {
        next = client->next;
        if (((fp_session *)client)->member[0])
            fp_server_drop(&c->server, client);
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Was it perhaps applied, or do others write? Then nothing that is known here counts any more. */
static bool in_doubt(int status, bool succeeded)
{
    return status == FARPOOL_E_UNKNOWN || (!status && !succeeded);
}

static void log_events(fp_coordinator *c)
{
    for (size_t i = 0; i < c->changes.count; i++) {
        const fp_event *event = &c->changes.items[i].event;
        if (!event->kind[0])
            continue;
        fp_log(FP_LOG_INFO, "%s: %s", event->kind, event->text);
        c->counted.failovers += !strcmp(event->kind, "failover");
        c->counted.fenced += !strcmp(event->kind, "fenced");
        c->counted.changed += !strcmp(event->kind, "changed");
    }
}

static void was_written(fp_meta_req *req)
{
    fp_coordinator *c = req->user;
    fp_call *call = c->writer;
    int status = req->status;
    c->writing = false;
    c->writer = NULL;
    free(req->kvs);
    bool current = c->kept == FP_KEPT_READ && c->model.term == c->write_term;
    if (!status && req->succeeded && current) {
        log_events(c);
        c->counted.written++;
        status = fp_txn_apply(&c->txn, &c->model, &c->changes);
        c->doubt = false;
        c->version++;
        c->tick_ns = 0;
    } else if (!status) {
        status =
            fp_error(FARPOOL_E_UNKNOWN, "another coordinator has taken over meanwhile: ask again");
    }
    if (call) {
        fp_calls_written(c, call, status);
    } else if (status && !c->closing) {
        fp_log(FP_LOG_WARN, "a decision was not written: %s", farpool_errmsg());
        c->decide_at_ns = c->model.now_ns + fp_ms(AGAIN_MS);
    }
    c->changes.count = 0;
    fp_txn_close(&c->txn);
    if (c->closing || (status != FARPOOL_E_NOMEM && !in_doubt(req->status, req->succeeded)))
        return;
    c->doubt = true;
    c->counted.doubts++;
    if (current)
        fp_kept_forget(c);
}

static uint64_t wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void fp_kept_write(fp_coordinator *c)
{
    FP_ASSERT(!c->writing);
    int rc = fp_txn_make(&c->txn, &c->model, &c->changes, wall_ms());
    if (rc) {
        fp_call *call = c->writer;
        c->writer = NULL;
        c->changes.count = 0;
        if (call)
            fp_calls_written(c, call, rc);
        return;
    }
    c->txn.req.done = was_written;
    c->txn.req.user = c;
    c->writing = true;
    c->write_term = c->model.term;
    fp_meta_submit(c->meta, &c->txn.req);
}
