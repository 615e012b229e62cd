/* SPDX-License-Identifier: Apache-2.0 */
/* A memory node's figures. */
#include <stdlib.h>

#include "common/daemon/process.h"
#include "memnode/node.h"

static void memory(const fp_memnode *node, fp_metrics *m)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    fp_metrics_gauge(m, "memory_bytes", "Memory on offer.", usage.bytes_total);
    fp_metrics_gauge(m, "granted_bytes", "Of it, granted to partitions.", usage.bytes_granted);
    fp_metrics_gauge(m, "clearing_bytes", "Of it, released and not zeroed yet.",
                     usage.bytes_clearing);
    fp_metrics_gauge(m, "lost_bytes", "Of it, lost: it could not be registered anew.",
                     usage.bytes_lost);
    fp_metrics_gauge(m, "extent_bytes", "What is granted is a multiple of this.",
                     usage.extent_bytes);
    fp_metrics_gauge(m, "partitions", "Partitions that have memory here.", usage.partitions);
    fp_metrics_gauge(m, "pending_grants", "GRANTs that wait for memory to be zeroed.",
                     usage.pending);
}

static void grants(const fp_memnode *node, fp_metrics *m)
{
    fp_metrics_counter(m, "grants_total", "GRANTs fulfilled.", node->granted);
    fp_metrics_counter(m, "grants_refused_total", "GRANTs answered with an error.",
                       node->grants_refused);
    fp_metrics_counter(m, "epochs_raised_total",
                       "Partitions that passed to a higher epoch with their memory.",
                       node->epochs_raised);
    fp_metrics_counter(m, "fenced_connections_total",
                       "Connections cut off because their partition passed to a higher epoch.",
                       node->fenced);
}

/* One sample for each partition that has something of this use. */
static void granted_bytes(const fp_memnode *node, fp_metrics *m, enum fp_use use)
{
    for (const fp_grant *grant = node->grants; grant; grant = grant->next) {
        if (grant->use == use)
            fp_metrics_sample_of(m, "partition", grant->partition,
                                 grant->count * node->extents.extent_bytes);
    }
}

static void partitions(const fp_memnode *node, fp_metrics *m)
{
    fp_metrics_begin(m, FP_METRIC_GAUGE, "partition_epoch", "Epoch under which it is held.");
    for (const fp_grant *grant = node->grants; grant; grant = grant->next) {
        const fp_grant *first = node->grants;
        while (first->partition != grant->partition)
            first = first->next;
        if (first == grant) /* all its uses have the same one */
            fp_metrics_sample_of(m, "partition", grant->partition, grant->epoch);
    }
    fp_metrics_begin(m, FP_METRIC_GAUGE, "slab_bytes", "Granted to a partition for pages.");
    granted_bytes(node, m, FP_USE_SLAB);
    fp_metrics_begin(m, FP_METRIC_GAUGE, "ring_bytes", "Granted to a partition for its log ring.");
    granted_bytes(node, m, FP_USE_RING);
}

static void spilled_rings(const fp_memnode *node, fp_metrics *m)
{
    uint32_t room = 0;
    for (const fp_grant *grant = node->grants; grant; grant = grant->next)
        room += grant->use == FP_USE_RING;
    fp_spill_ring_usage *rings = malloc((room + 1) * sizeof *rings);
    uint32_t count = rings ? fp_spill_rings_get(node->spill, rings, room) : 0;
    fp_metrics_begin(m, FP_METRIC_GAUGE, "ring_log_bytes",
                     "Log that a ring can hold; 0: its owner has not begun.");
    for (uint32_t i = 0; i < count; i++)
        fp_metrics_sample_of(m, "partition", rings[i].partition, rings[i].log_bytes);
    fp_metrics_begin(m, FP_METRIC_GAUGE, "ring_used_bytes", "Durable log that a ring holds.");
    for (uint32_t i = 0; i < count; i++)
        fp_metrics_sample_of(m, "partition", rings[i].partition, rings[i].used_bytes);
    fp_metrics_begin(m, FP_METRIC_GAUGE, "ring_spill_lag_bytes",
                     "Of it, not known to be on stable media.");
    for (uint32_t i = 0; i < count; i++)
        fp_metrics_sample_of(m, "partition", rings[i].partition, rings[i].lag_bytes);
    free(rings);
}

static void spilling(const fp_memnode *node, fp_metrics *m)
{
    fp_spill_usage usage;
    fp_spill_usage_get(node->spill, &usage);
    fp_metrics_gauge(m, "spill_lag_bytes",
                     "Durable log in the rings here that is not known to be on stable media.",
                     usage.lag);
    fp_metrics_gauge(m, "spill_gap_rings",
                     "Rings whose log the storage node cannot take: it lacks what is before it.",
                     usage.gaps);
    spilled_rings(node, m);
}

void fp_memnode_metrics(const fp_memnode *node, fp_metrics *m)
{
    m->prefix = "farpool_memnode_";
    memory(node, m);
    grants(node, m);
    fp_server_metrics(&node->server, m);
    partitions(node, m);
    if (node->spill)
        spilling(node, m);
}
