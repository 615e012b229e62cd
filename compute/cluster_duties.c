/* SPDX-License-Identifier: Apache-2.0 */
/* What the coordinators say and are told (docs/coordinator.md, What is said). By the talker, without the lock. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "compute/cluster_inside.h"
#include "compute/node_set.h"
#include "compute/redo_log.h"

/* ---- said ------------------------------------------------------------------------------------ */

static int bad(uint64_t id, const char *what)
{
    return fp_error(FARPOOL_E_PROTO, "duties of partition %llu: %s", (unsigned long long)id, what);
}

static int parse_uris(uint64_t id, const json_t *array, fp_uris *uris)
{
    size_t i;
    const json_t *uri;
    uris->count = 0;
    if (!json_is_array(array) || json_array_size(array) > FP_PARTITION_NODES_MAX)
        return bad(id, "a list of nodes is none, or has more than 16");
    json_array_foreach(array, i, uri)
    {
        const char *text = json_string_value(uri);
        if (!text || strlen(text) >= FP_NET_URI_MAX)
            return bad(id, "the address of a node is none");
        strcpy(uris->list[uris->count++], text);
    }
    return 0;
}

static bool parse_phase(const char *text, enum fp_duty_phase *phase)
{
    static const char *const names[] = {
        [FP_DUTY_ASSIGNED] = "assigned", [FP_DUTY_OPEN] = "open", [FP_DUTY_CHANGING] = "changing"};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) != 0)
            continue;
        *phase = i;
        return true;
    }
    return false;
}

static int parse_duty(json_t *json, uint64_t id, fp_duty *duty)
{
    const char *name, *phase, *state;
    int made, stored;
    json_int_t epoch, slab, space, ring, copies, quorum, storage_quorum;
    const json_t *memnodes, *storagenodes;
    json_error_t error;
    if (json_unpack_ex(json, &error, 0,
                       "{s:I, s:s, s:s, s:s, s:b, s:b, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I}",
                       "epoch", &epoch, "name", &name, "phase", &phase, "state", &state, "made",
                       &made, "stored", &stored, "memnodes", &memnodes, "storagenodes",
                       &storagenodes, "slab_bytes", &slab, "space_bytes", &space, "log_ring_bytes",
                       &ring, "log_copies", &copies, "log_quorum", &quorum, "storage_quorum",
                       &storage_quorum))
        return bad(id, error.text);
    if (epoch < 1 || slab < 0 || space < 0 || ring < 0 || copies < 0 || copies > FP_RINGS_MAX ||
        quorum < 0 || quorum > FP_RINGS_MAX || storage_quorum < 0 || storage_quorum > FP_RINGS_MAX)
        return bad(id, "a number cannot be");
    if (strlen(name) >= sizeof duty->name || !parse_phase(phase, &duty->phase))
        return bad(id, "its name or phase cannot be");
    strcpy(duty->name, name);
    duty->id = id;
    duty->epoch = (uint64_t)epoch;
    duty->read_only = !strcmp(state, "read-only");
    duty->made = made;
    duty->stored = stored;
    duty->slab_bytes = (uint64_t)slab;
    duty->space_bytes = (uint64_t)space;
    duty->log_ring_bytes = (uint64_t)ring;
    duty->log_copies = (unsigned)copies;
    duty->log_quorum = (unsigned)quorum;
    duty->storage_quorum = (unsigned)storage_quorum;
    int rc = parse_uris(id, memnodes, &duty->memnodes);
    return rc ? rc : parse_uris(id, storagenodes, &duty->storagenodes);
}

bool fp_uris_equal(const fp_uris *a, const fp_uris *b)
{
    bool equal = a->count == b->count;
    for (unsigned i = 0; i < a->count && equal; i++)
        equal = !strcmp(a->list[i], b->list[i]);
    return equal;
}

fp_assignment *fp_cluster_find_locked(farpool_cluster *cluster, uint64_t id)
{
    fp_assignment *a = cluster->assignments;
    while (a && a->duty.id != id)
        a = a->next;
    return a;
}

static fp_assignment *find_or_add_locked(farpool_cluster *cluster, uint64_t id)
{
    fp_assignment *a = fp_cluster_find_locked(cluster, id);
    if (a)
        return a;
    a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->cluster = cluster;
    a->duty.id = id;
    a->next = cluster->assignments;
    cluster->assignments = a;
    return a;
}

/* One that cannot be understood is what it was before. */
static void take_duty_locked(farpool_cluster *cluster, json_t *json)
{
    fp_duty duty = {0};
    json_int_t id = json_integer_value(json_object_get(json, "id"));
    fp_assignment *a = id > 0 ? find_or_add_locked(cluster, (uint64_t)id) : NULL;
    int rc = a        ? parse_duty(json, (uint64_t)id, &duty)
             : id > 0 ? fp_error(FARPOOL_E_NOMEM, "no memory for another partition")
                      : fp_error(FARPOOL_E_PROTO, "duties of a partition without an id");
    if (a)
        a->named = true;
    if (rc)
        fp_log(FP_LOG_WARN, "%s: %s", cluster->pool->name, farpool_errmsg());
    else
        a->duty = duty;
}

void fp_cluster_duties(void *owner, const json_t *duties)
{
    farpool_cluster *cluster = owner;
    const json_t *partitions = json_object_get(duties, "partitions");
    json_t *partition;
    size_t i;
    if (!json_is_array(partitions)) {
        fp_log(FP_LOG_WARN, "%s: duties without a list of partitions are not followed",
               cluster->pool->name);
        return;
    }
    pthread_mutex_lock(&cluster->lock);
    for (fp_assignment *a = cluster->assignments; a; a = a->next)
        a->named = false;
    json_array_foreach(partitions, i, partition) take_duty_locked(cluster, partition);
    for (fp_assignment *a = cluster->assignments; a; a = a->next) {
        if (!a->named)
            a->duty.epoch = 0;
        if (a->partition && a->duty.epoch)
            atomic_store_explicit(&a->partition->read_only, a->duty.read_only,
                                  memory_order_relaxed);
    }
    pthread_cond_broadcast(&cluster->changed);
    pthread_mutex_unlock(&cluster->lock);
}

/* ---- told ------------------------------------------------------------------------------------ */

json_t *fp_cluster_card(void *owner)
{
    const farpool_cluster *cluster = owner;
    return json_pack("{s:s, s:s, s:s, s:[], s:s, s:s, s:s, s:I, s:s, s:b}", "role", "compute",
                     "name", fp_cluster_name(cluster), "boot_id", cluster->boot_id, "uris", "zone",
                     cluster->zone, "rack", cluster->rack, "host", cluster->host, "bytes",
                     (json_int_t)cluster->pool->frame_count * FARPOOL_UNIT_BYTES, "address",
                     cluster->address, "standby", cluster->standby);
}

static const char *state_text(const fp_assignment *a)
{
    switch (a->state) {
    case FP_OPENING:
        return "opening";
    case FP_OPEN:
        return a->log_failure ? "failed" : "open";
    case FP_CLOSING: /* it has the memory nodes still */
        return a->code ? "failed" : "open";
    case FP_FAILED:
        return "failed";
    default:
        return "closed";
    }
}

/* Numbers of the memory nodes whose ring or slab it uses no more. */
static json_t *lost_json(uint32_t lost)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < FP_PARTITION_NODES_MAX; i++)
        if (lost >> i & 1)
            json_array_append_new(list, json_integer(i));
    return list;
}

/* Whose log has failed tries no other memory nodes: that is told as if it had. */
static uint64_t epoch_told(const fp_assignment *a)
{
    bool is_over = a->partition && a->log_failure && a->duty.phase == FP_DUTY_CHANGING;
    return is_over && a->duty.epoch > a->tried ? a->duty.epoch : a->tried;
}

static json_t *assignment_json(const fp_assignment *a)
{
    json_t *json = json_pack("{s:I, s:I, s:I, s:s, s:i, s:s}", "id", (json_int_t)a->duty.id,
                             "epoch", (json_int_t)epoch_told(a), "held", (json_int_t)a->held,
                             "state", state_text(a), "code", a->code, "text", a->text);
    if (json && a->partition && a->lost)
        json_object_set_new(json, "lost", lost_json(a->lost));
    return json;
}

json_t *fp_cluster_actual(void *owner)
{
    farpool_cluster *cluster = owner;
    json_t *list = json_array();
    pthread_mutex_lock(&cluster->lock);
    for (const fp_assignment *a = cluster->assignments; a; a = a->next)
        if (a->state != FP_NOT_TRIED && json_array_append_new(list, assignment_json(a))) {
            json_decref(list);
            list = NULL;
            break;
        }
    pthread_mutex_unlock(&cluster->lock);
    return json_pack("{s:o}", "partitions", list);
}
