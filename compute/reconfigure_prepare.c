/* SPDX-License-Identifier: Apache-2.0 */
/* Step 1 of reconfigure.c: new nodes grant a share of the slab and a ring, both empty, or nothing has changed. */
#include <stdlib.h>

#include "common/error.h"
#include "compute/reconfigure.h"
#include "compute/remote.h"
#include "compute/slab.h"
#include "compute/thread.h"

static int find_nodes(fp_reconf *c, const char *const *memnodes)
{
    farpool_partition *partition = c->partition;
    int rc = 0;
    for (unsigned i = 0; i < partition->share_count && !rc; i++) {
        fp_share *share = &c->set->shares[i];
        share->bytes = fp_slab_share_bytes(partition, i);
        rc = fp_remote_node(partition->pool, memnodes[i], partition->timeout_ms, &share->node);
        if (rc)
            return rc;
        unsigned before = fp_node_set_find(partition, c->old, share->node);
        for (unsigned k = 0; k < i; k++)
            if (c->set->shares[k].node == share->node)
                return fp_error(FARPOOL_E_INVAL, "partition %llu: memory node %s is named twice",
                                (unsigned long long)partition->id, memnodes[i]);
        if (before != i && before != FP_PARTITION_NODES_MAX)
            return fp_error(FARPOOL_E_INVAL,
                            "partition %llu: memory node %s is its number %u and cannot become %u",
                            (unsigned long long)partition->id, memnodes[i], before, i);
    }
    return rc;
}

/* Nothing of its share is there, nor of its ring. */
static bool had_nothing(const fp_reconf *c, unsigned i)
{
    return (c->old->absent >> i & 1) &&
           (!fp_reconf_has_ring(c, i) ||
            atomic_load_explicit(&c->log->rings[i].lost, memory_order_relaxed));
}

/* While nobody waits for it. An owner who was taken over learns it here. */
static int connect(fp_reconf *c, unsigned i)
{
    unsigned node = c->set->shares[i].node, timeout_ms = c->partition->timeout_ms;
    int rc = fp_remote_connect(c->slabs, node, timeout_ms);
    if (!rc && fp_reconf_has_ring(c, i))
        rc = fp_remote_connect(c->rings, node, timeout_ms);
    if (!rc && fp_reconf_has_ring(c, i))
        rc = fp_redo_register(c->log, node);
    fp_reconf_place *at = &c->at[i];
    at->reachable = !rc;
    at->was_there = fp_reconf_has_ring(c, i)
                        ? !atomic_load_explicit(&c->log->rings[i].lost, memory_order_relaxed)
                        : !fp_slab_is_retired(c->old, i);
    at->is_new = c->old->shares[i].node != node ||
                 (!rc && (c->old->boots[node] != c->slabs->boots[node] || had_nothing(c, i)));
    if (at->reachable && !at->is_new && !(c->old->absent >> i & 1))
        rc = fp_remote_ready(c->slabs, c->partition, c->old, node);
    else if (at->reachable && !at->is_new && fp_reconf_has_ring(c, i))
        rc = fp_remote_ready(c->rings, c->partition, c->old, node);
    at->is_ours = at->reachable && !at->is_new && !rc;
    return rc && (at->is_new || rc == FARPOOL_E_FENCED) ? rc : 0;
}

/* Memory that is zero, whatever there was of an earlier owner. */
static int grant_empty(fp_reconf *c, fp_thread *thread, fp_share *share)
{
    fp_node_set *set = c->set;
    set->boots[share->node] = c->slabs->boots[share->node];
    int rc = fp_remote_release(thread, c->partition, set, share->node);
    if (rc ==
        FARPOOL_E_FENCED) { /* there is something; the GRANT finds out whether the epoch is higher */
        rc = fp_remote_grant(thread, c->partition, set, 0, share);
        free(share->extents);
        share->extents = NULL;
        if (!rc)
            rc = fp_remote_release(thread, c->partition, set, share->node);
    }
    if (rc && rc != FARPOOL_E_NOTFOUND)
        return rc;
    return fp_remote_grant(thread, c->partition, set, 0, share);
}

int fp_reconf_empty_ring(fp_reconf *c, unsigned i)
{
    fp_share *ring = &c->at[i].ring;
    int rc = grant_empty(c, c->rings, ring);
    return rc ? rc : fp_ring_check(c->log, ring);
}

int fp_reconf_empty_share(fp_reconf *c, unsigned i)
{
    int rc = grant_empty(c, c->slabs, &c->set->shares[i]);
    return rc ? rc : fp_slab_check(c->partition, c->set, i);
}

int fp_reconf_too_few(const fp_reconf *c, unsigned kept)
{
    return fp_error(FARPOOL_E_NODE,
                    "partition %llu: only %u of its %u log rings would stay; %u must, that have "
                    "all of the log",
                    (unsigned long long)c->partition->id, kept, c->log->ring_count, c->log->quorum);
}

/* The same node by another address would lose what it has when it is asked for an empty share. */
static int check_boots(const fp_reconf *c)
{
    const farpool_partition *partition = c->partition;
    for (unsigned i = 0; i < partition->share_count; i++) {
        unsigned node = c->set->shares[i].node;
        uint64_t boot = c->slabs->boots[node];
        for (unsigned k = 0; k < partition->share_count && c->at[i].reachable; k++) {
            unsigned other = c->set->shares[k].node, before = c->old->shares[k].node;
            bool twice = k != i && c->at[k].reachable && c->slabs->boots[other] == boot;
            bool known = c->at[i].is_new && before != node && c->old->boots[before] == boot;
            if (twice || known)
                return fp_error(FARPOOL_E_INVAL,
                                "partition %llu: memory node %s is one that it has already, under "
                                "another address",
                                (unsigned long long)partition->id,
                                partition->pool->nodes[node].uri);
        }
    }
    return 0;
}

/* Whether the change can succeed, before anything is emptied for it: enough rings stay, at nodes where we are the owner
 * still. A successor may have others. */
static int check_quorum(const fp_reconf *c)
{
    unsigned stay = 0;
    for (unsigned i = 0; i < c->log->ring_count; i++)
        stay +=
            c->at[i].is_ours && !atomic_load_explicit(&c->log->rings[i].lost, memory_order_relaxed);
    int rc = fp_redo_failure(c->log);
    return rc || stay >= c->log->quorum ? rc : fp_reconf_too_few(c, stay);
}

int fp_reconf_prepare(fp_reconf *c, const char *const *memnodes)
{
    farpool_partition *partition = c->partition;
    int rc = find_nodes(c, memnodes);
    for (unsigned i = 0; i < partition->share_count && !rc; i++) {
        c->at[i].ring.node = c->set->shares[i].node;
        c->at[i].ring.bytes = FP_RING_LOG_AT + c->log->ring_bytes;
        rc = connect(c, i);
    }
    if (!rc)
        rc = check_boots(c);
    if (!rc)
        rc = check_quorum(c);
    for (unsigned i = 0; i < partition->share_count && !rc; i++) {
        if (!c->at[i].is_new)
            continue;
        rc = fp_reconf_empty_share(c, i);
        if (!rc && fp_reconf_has_ring(c, i))
            rc = fp_reconf_empty_ring(c, i);
    }
    return rc;
}

/* New nodes keep nothing of an attempt that failed. Those that cannot be told do, until a higher epoch comes. */
void fp_reconf_give_back(fp_reconf *c)
{
    for (unsigned i = 0; i < c->partition->share_count; i++) {
        if (!c->at[i].is_new)
            continue;
        if (c->at[i].ring.extents &&
            fp_remote_release(c->rings, c->partition, c->set, c->at[i].ring.node))
            continue;
        if (c->set->shares[i].extents &&
            fp_remote_release(c->slabs, c->partition, c->set, c->at[i].ring.node))
            continue;
    }
}
