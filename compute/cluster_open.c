/* SPDX-License-Identifier: Apache-2.0 */
/* Partitions that the coordinators have assigned: opened, given other nodes, closed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster/call.h"
#include "common/error.h"
#include "common/log.h"
#include "compute/cluster_inside.h"
#include "compute/storage.h"

#define STORAGE_AGAIN_NS 1000000000ull

typedef const char *uri_list[FP_PARTITION_NODES_MAX];

static const char *const *point_to(const fp_uris *uris, uri_list list)
{
    for (unsigned i = 0; i < uris->count; i++)
        list[i] = uris->list[i];
    return list;
}

/* Why the last attempt was in vain: farpool_errmsg(). */
static void note_failure_locked(fp_assignment *a, int code)
{
    a->code = code;
    fp_call_words(a->text, sizeof a->text, code ? farpool_errmsg() : "");
}

/* ---- opening --------------------------------------------------------------------------------- */

static int may_open_locked(const fp_assignment *a, uint64_t id)
{
    unsigned long long number = id;
    if (!a || !a->duty.epoch)
        return fp_error(FARPOOL_E_NOTFOUND,
                        "partition %llu is not assigned to this process: wait for "
                        "FARPOOL_CLUSTER_ASSIGNED",
                        number);
    if (a->partition || a->state == FP_OPENING || a->state == FP_CLOSING)
        return fp_error(FARPOOL_E_BUSY, "partition %llu is open here, or being opened or closed",
                        number);
    if (a->duty.epoch == a->tried)
        return fp_error(FARPOOL_E_FENCED,
                        "partition %llu: epoch %llu has been used up; the coordinators will assign "
                        "another one",
                        number, (unsigned long long)a->tried);
    return 0;
}

static int open_partition(farpool_cluster *cluster, const fp_duty *duty, farpool_partition **out)
{
    uri_list memnodes, storagenodes;
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.id = duty->id;
    options.epoch = duty->epoch;
    options.space_bytes = duty->space_bytes;
    options.slab_bytes = duty->slab_bytes;
    options.memnodes = point_to(&duty->memnodes, memnodes);
    options.memnode_count = duty->memnodes.count;
    options.timeout_ms = cluster->timeout_ms;
    options.log_copies = duty->log_copies;
    options.log_quorum = duty->log_quorum;
    options.log_ring_bytes = duty->log_ring_bytes;
    options.storage_quorum = duty->storage_quorum;
    options.storagenodes = point_to(&duty->storagenodes, storagenodes);
    options.storagenode_count = duty->storagenodes.count;
    if (duty->made && duty->log_copies)
        options.recover = duty->stored ? FARPOOL_RECOVER_STORED : FARPOOL_RECOVER;
    return farpool_partition_open(cluster->pool, &options, out);
}

static void opened_locked(fp_assignment *a, const fp_duty *duty, farpool_partition *partition)
{
    a->state = FP_OPEN;
    a->partition = partition;
    a->held = duty->epoch;
    a->storagenodes = duty->storagenodes;
    a->log_failure = 0;
    a->lost = 0;
    if (!a->told) { /* the program knew without having been told */
        a->told = duty->epoch;
        a->told_read_only = false;
    }
    partition->assignment = a;
    atomic_store_explicit(&partition->read_only, a->duty.read_only, memory_order_relaxed);
}

int farpool_cluster_open(farpool_cluster *cluster, uint64_t id, farpool_partition **out)
{
    farpool_partition *partition = NULL;
    fp_duty *duty = malloc(sizeof *duty);
    if (!duty)
        return fp_error(FARPOOL_E_NOMEM, "opening a partition: no memory for its description");
    pthread_mutex_lock(&cluster->lock);
    fp_assignment *a = fp_cluster_find_locked(cluster, id);
    int rc = may_open_locked(a, id);
    if (a && rc == FARPOOL_E_NOTFOUND)
        a->told = 0; /* when it comes back the program is told again, be it under the same epoch */
    if (!rc) {
        *duty = a->duty;
        a->state = FP_OPENING;
        a->tried = duty->epoch;
        note_failure_locked(a, 0);
        fp_cluster_changed_locked(cluster);
    }
    pthread_mutex_unlock(&cluster->lock);
    if (rc) {
        free(duty);
        return rc;
    }
    rc = open_partition(cluster, duty, &partition);
    pthread_mutex_lock(&cluster->lock);
    note_failure_locked(a, rc);
    if (rc) {
        a->state = FP_FAILED;
        a->told = 0;
    } else {
        opened_locked(a, duty, partition);
    }
    fp_cluster_changed_locked(cluster);
    pthread_mutex_unlock(&cluster->lock);
    free(duty);
    if (!rc)
        *out = partition;
    return rc;
}

/* ---- closing --------------------------------------------------------------------------------- */

void fp_cluster_let_go(farpool_partition *partition)
{
    fp_assignment *a = partition->assignment;
    pthread_mutex_lock(&a->cluster->lock);
    while (a->in_use)
        (void)fp_cluster_wait_locked(a->cluster, 0);
    a->partition = NULL;
    a->state = FP_CLOSING;
    pthread_mutex_unlock(&a->cluster->lock);
}

void fp_cluster_take_back(farpool_partition *partition)
{
    fp_assignment *a = partition->assignment;
    pthread_mutex_lock(&a->cluster->lock);
    a->partition = partition;
    a->state = FP_OPEN;
    fp_cluster_changed_locked(a->cluster);
    pthread_mutex_unlock(&a->cluster->lock);
}

void fp_cluster_closed(fp_assignment *a)
{
    pthread_mutex_lock(&a->cluster->lock);
    a->state = a->log_failure ? FP_FAILED : FP_CLOSED;
    a->told = 0;
    fp_cluster_changed_locked(a->cluster);
    pthread_mutex_unlock(&a->cluster->lock);
}

/* ---- other nodes ----------------------------------------------------------------------------- */

/* A change that fails without harm leaves the partition open as it was. */
static void change_memnodes_locked(fp_assignment *a, const fp_duty *duty)
{
    uri_list list;
    farpool_partition *partition = a->partition;
    pthread_mutex_unlock(&a->cluster->lock);
    int rc = farpool_partition_reconfigure(partition, duty->epoch, point_to(&duty->memnodes, list),
                                           duty->memnodes.count);
    if (rc)
        fp_log(FP_LOG_WARN, "partition %llu: other memory nodes, under epoch %llu: %s",
               (unsigned long long)duty->id, (unsigned long long)duty->epoch, farpool_errmsg());
    pthread_mutex_lock(&a->cluster->lock);
    note_failure_locked(a, rc);
    a->tried = duty->epoch; /* not earlier, for it is told as open under that */
    if (!rc) {
        a->held = duty->epoch;
        a->told = a->told ? duty->epoch : 0;
    }
}

static void change_storagenodes_locked(fp_assignment *a, const fp_duty *duty)
{
    uri_list list;
    farpool_partition *partition = a->partition;
    pthread_mutex_unlock(&a->cluster->lock);
    pthread_mutex_lock(&partition->changes_lock);
    int rc = fp_storage_change_locked(partition, point_to(&duty->storagenodes, list),
                                      duty->storagenodes.count);
    pthread_mutex_unlock(&partition->changes_lock);
    if (rc)
        fp_log(FP_LOG_WARN, "partition %llu: other storage nodes: %s", (unsigned long long)duty->id,
               farpool_errmsg());
    pthread_mutex_lock(&a->cluster->lock);
    if (rc)
        a->storage_after_ns = fp_cluster_now(a->cluster) + STORAGE_AGAIN_NS;
    else
        a->storagenodes = duty->storagenodes;
}

static bool wants_memnodes(const fp_assignment *a)
{
    return a->duty.phase == FP_DUTY_CHANGING && a->duty.epoch > a->held &&
           a->duty.epoch != a->tried;
}

static bool wants_storagenodes(const fp_assignment *a)
{
    return a->duty.storagenodes.count && !fp_uris_equal(&a->duty.storagenodes, &a->storagenodes);
}

static fp_assignment *find_work_locked(farpool_cluster *cluster, uint64_t *again_ns)
{
    uint64_t now = fp_cluster_now(cluster);
    *again_ns = 0;
    for (fp_assignment *a = cluster->assignments; a; a = a->next) {
        if (!a->partition || fp_assignment_is_revoked(a, NULL))
            continue;
        if (wants_memnodes(a) || (wants_storagenodes(a) && now >= a->storage_after_ns))
            return a;
        if (wants_storagenodes(a) && (!*again_ns || a->storage_after_ns < *again_ns))
            *again_ns = a->storage_after_ns;
    }
    return NULL;
}

bool fp_cluster_work_locked(farpool_cluster *cluster, uint64_t *again_ns)
{
    fp_assignment *a = find_work_locked(cluster, again_ns);
    fp_duty *duty = a ? malloc(sizeof *duty) : NULL;
    if (!duty) {
        *again_ns = a ? fp_cluster_now(cluster) + STORAGE_AGAIN_NS : *again_ns; /* no memory */
        return false;
    }
    *duty = a->duty;
    a->in_use = true;
    if (wants_storagenodes(a) && fp_cluster_now(cluster) >= a->storage_after_ns)
        change_storagenodes_locked(a, duty);
    else
        change_memnodes_locked(a, duty);
    a->in_use = false;
    (void)fp_cluster_look_locked(cluster); /* whether the log has failed of it */
    fp_cluster_changed_locked(cluster);
    free(duty);
    return true;
}
