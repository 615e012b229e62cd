/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the program is told. No events are kept: each time what is so is compared with what the program believes, so
 * nothing is lost, and nothing piles up if it does not ask.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/cluster/call.h"
#include "common/error.h"
#include "compute/cluster_inside.h"
#include "compute/node_set.h"
#include "compute/redo_log.h"
#include "compute/slab.h"

/* ---- partitions that are open ---------------------------------------------------------------- */

static uint32_t lost_nodes(const farpool_partition *partition)
{
    const fp_node_set *set = fp_node_set_now(partition);
    const fp_redo_log *log = partition->redo;
    uint32_t lost = 0;
    for (unsigned i = 0; i < partition->share_count; i++) {
        bool ring = log && i < log->ring_count &&
                    atomic_load_explicit(&log->rings[i].lost, memory_order_relaxed);
        lost |= (uint32_t)(ring || fp_slab_is_retired(set, i)) << i;
    }
    return lost;
}

bool fp_cluster_look_locked(farpool_cluster *cluster)
{
    bool changed = false;
    for (fp_assignment *a = cluster->assignments; a; a = a->next) {
        if (!a->partition || a->in_use)
            continue;
        uint32_t lost = lost_nodes(a->partition);
        int failure = a->partition->redo && !a->log_failure ? fp_redo_failure(a->partition->redo)
                                                            : a->log_failure;
        changed |= lost != a->lost || failure != a->log_failure;
        if (failure != a->log_failure) {
            a->code = failure;
            fp_call_words(a->text, sizeof a->text, farpool_errmsg());
        }
        a->lost = lost;
        a->log_failure = failure;
    }
    return changed;
}

bool fp_assignment_is_revoked(const fp_assignment *a, char reason[256])
{
    char text[256] = "";
    bool is_change = a->duty.phase == FP_DUTY_CHANGING && a->duty.epoch > a->held;
    /* A lower epoch is what a coordinator said who has not heard yet that we go on under this one. */
    bool is_ours = a->duty.epoch && (a->duty.epoch <= a->held || is_change);
    if (a->log_failure)
        snprintf(text, sizeof text, "%s", a->text);
    else if (!a->duty.epoch)
        snprintf(text, sizeof text,
                 "the coordinators have taken partition %llu from this process: it is moved, "
                 "deleted, or given to another one that could be reached",
                 (unsigned long long)a->duty.id);
    else if (!is_ours)
        snprintf(text, sizeof text,
                 "partition %llu is open under epoch %llu; the coordinators have assigned it anew, "
                 "under epoch %llu",
                 (unsigned long long)a->duty.id, (unsigned long long)a->held,
                 (unsigned long long)a->duty.epoch);
    if (reason)
        memcpy(reason, text, sizeof text);
    return text[0] != 0;
}

static bool is_unused(const fp_assignment *a)
{
    bool is_idle = a->state == FP_NOT_TRIED || a->state == FP_FAILED || a->state == FP_CLOSED;
    return !a->duty.epoch && !a->told && is_idle && !a->partition;
}

void fp_cluster_forget_locked(farpool_cluster *cluster)
{
    for (fp_assignment **link = &cluster->assignments; *link;) {
        fp_assignment *a = *link;
        if (!is_unused(a)) {
            link = &a->next;
            continue;
        }
        *link = a->next;
        free(a);
    }
}

/* ---- events ---------------------------------------------------------------------------------- */

static bool connection_event(farpool_cluster *cluster, farpool_cluster_event *event)
{
    if (cluster->connected == cluster->told_connected)
        return false;
    cluster->told_connected = cluster->connected;
    event->kind = cluster->connected ? FARPOOL_CLUSTER_CONNECTED : FARPOOL_CLUSTER_DISCONNECTED;
    if (!cluster->connected)
        memcpy(event->reason, cluster->trouble, sizeof event->reason);
    return true;
}

static bool revoked_event(fp_assignment *a, farpool_cluster_event *event)
{
    bool is_idle = a->state == FP_NOT_TRIED; /* it was told, and has not opened it */
    bool revoked = a->partition ? fp_assignment_is_revoked(a, NULL) : is_idle && !a->duty.epoch;
    if (!a->told || !revoked)
        return false;
    event->kind = FARPOOL_CLUSTER_REVOKED;
    event->epoch = a->partition ? a->held : a->told;
    event->code = a->partition ? a->log_failure : 0;
    (void)fp_assignment_is_revoked(a, event->reason);
    a->told = 0;
    return true;
}

static bool assigned_event(fp_assignment *a, farpool_cluster_event *event)
{
    bool is_busy = a->partition || a->state == FP_OPENING || a->state == FP_CLOSING;
    if (is_busy || !a->duty.epoch || a->duty.epoch == a->tried || a->duty.epoch == a->told)
        return false;
    event->kind = FARPOOL_CLUSTER_ASSIGNED;
    event->epoch = a->duty.epoch;
    event->read_only = a->duty.read_only;
    a->told = a->duty.epoch;
    a->told_read_only = a->duty.read_only;
    a->state = FP_NOT_TRIED;
    return true;
}

static bool read_only_event(fp_assignment *a, farpool_cluster_event *event)
{
    if (!a->partition || !a->told || a->duty.read_only == a->told_read_only)
        return false;
    event->kind = a->duty.read_only ? FARPOOL_CLUSTER_READ_ONLY : FARPOOL_CLUSTER_WRITABLE;
    event->epoch = a->held;
    a->told_read_only = a->duty.read_only;
    return true;
}

static bool partition_event(fp_assignment *a, farpool_cluster_event *event)
{
    event->partition = a->duty.id;
    memcpy(event->name, a->duty.name, sizeof event->name);
    return revoked_event(a, event) || assigned_event(a, event) || read_only_event(a, event);
}

/* Those that had their turn go to the end of the list, so that none keeps others waiting. */
static bool next_event_locked(farpool_cluster *cluster, farpool_cluster_event *event)
{
    *event = (farpool_cluster_event){.struct_size = sizeof *event};
    if (connection_event(cluster, event))
        return true;
    for (fp_assignment **link = &cluster->assignments; *link; link = &(*link)->next) {
        fp_assignment *a = *link;
        if (!partition_event(a, event))
            continue;
        fp_assignment **last = link;
        *link = a->next;
        while (*last)
            last = &(*last)->next;
        *last = a;
        a->next = NULL;
        return true;
    }
    return false;
}

int farpool_cluster_next(farpool_cluster *cluster, unsigned timeout_ms,
                         farpool_cluster_event *event)
{
    uint64_t until = fp_now_ns() + timeout_ms * 1000000ull;
    bool late = !timeout_ms || !cluster->threaded, found;
    pthread_mutex_lock(&cluster->lock);
    while (!(found = next_event_locked(cluster, event)) && !late)
        late = fp_cluster_wait_locked(cluster, until);
    pthread_mutex_unlock(&cluster->lock);
    return found
               ? 0
               : fp_error(FARPOOL_E_TIMEOUT, "nothing new in the cluster within %u ms", timeout_ms);
}
