/* SPDX-License-Identifier: Apache-2.0 */
/* A storage node's figures, and whether it is ready. */
#include <stdio.h>

#include "common/daemon/process.h"
#include "storagenode/refill.h"

bool fp_storagenode_ready(fp_storagenode *node, char *why, size_t size)
{
    unsigned left = 0;
    for (const fp_stored *log = node->logs; log && !node->was_ready; log = log->next)
        left +=
            !log->make_at && (log->state == FP_STORED_CLOSED || log->state == FP_STORED_OPENING);
    /* What is opened again later keeps nobody but its own clients waiting. */
    node->was_ready = !left;
    if (left)
        snprintf(why, size, "%u of %u WALs are still to be opened", left, node->log_count);
    return node->was_ready;
}

static void whole_node(const fp_storagenode *node, fp_metrics *m)
{
    fp_storagenode_usage usage;
    fp_storagenode_usage_get(node, &usage);
    fp_metrics_gauge(m, "volume_bytes", "Size of the volume's file system.", usage.bytes_total);
    fp_metrics_gauge(m, "volume_free_bytes", "Of it, free.", usage.bytes_free);
    fp_metrics_gauge(m, "log_bytes", "Log on the volume.", usage.bytes_log);
    fp_metrics_gauge(m, "layer_lag_bytes", "Log that is durable and not in layers yet.",
                     usage.bytes_lag);
    fp_metrics_gauge(m, "partitions", "Partitions on the volume.", usage.partitions);
    fp_metrics_gauge(m, "broken_partitions", "Of them, those whose log cannot be opened.",
                     usage.broken);
    fp_metrics_gauge(m, "incomplete_partitions",
                     "Of them, those that should get something from a peer.", usage.incomplete);
    fp_metrics_gauge(m, "pending_requests", "Requests that are not answered yet.", usage.requests);
    fp_server_metrics(&node->server, m);
}

static void refills(const fp_refill *refill, fp_metrics *m)
{
    fp_metrics_gauge(m, "refilling", "1 while a partition gets something from a peer.",
                     refill->log != NULL);
    fp_metrics_counter(m, "refills_total", "Partitions that got what they lacked.",
                       refill->refills);
    fp_metrics_counter(m, "refilled_log_bytes_total", "Log that came from peers.",
                       refill->all_log_bytes);
    fp_metrics_counter(m, "refilled_layer_bytes_total", "Layers that came from peers.",
                       refill->all_file_bytes);
}

/* ---- of each partition ----------------------------------------------------------------------- */

/* Logs that are open, and what of them. */
typedef uint64_t of_wal(const fp_wal *wal);

static void wals(const fp_storagenode *node, fp_metrics *m, const char *name, const char *help,
                 of_wal *get)
{
    fp_metrics_begin(m, FP_METRIC_GAUGE, name, help);
    for (const fp_stored *log = node->logs; log; log = log->next) {
        if (log->state == FP_STORED_OPEN)
            fp_metrics_sample_of(m, "partition", log->partition, get(log->wal));
    }
}

static uint64_t log_bytes(const fp_wal *wal) { return fp_wal_end(wal) - fp_wal_start(wal); }

/* Pages that are open, and what of their statistics. */
typedef uint64_t of_pages(const fp_store_stats *stats);

static void pages(const fp_storagenode *node, fp_metrics *m, enum fp_metric_type type,
                  const char *name, const char *help, of_pages *get)
{
    fp_metrics_begin(m, type, name, help);
    for (const fp_stored *log = node->logs; log; log = log->next) {
        fp_store_stats stats;
        if (log->state != FP_STORED_OPEN || log->pages.state != FP_PAGES_OPEN)
            continue;
        fp_store_get_stats(log->pages.store, &stats);
        fp_metrics_sample_of(m, "partition", log->partition, get(&stats));
    }
}

static uint64_t converted(const fp_store_stats *s) { return s->converted; }
static uint64_t deltas(const fp_store_stats *s) { return s->deltas; }
static uint64_t images(const fp_store_stats *s) { return s->images; }
static uint64_t damaged(const fp_store_stats *s) { return s->damaged; }
static uint64_t delta_bytes(const fp_store_stats *s) { return s->delta_bytes; }
static uint64_t image_bytes(const fp_store_stats *s) { return s->image_bytes; }
static uint64_t taken_bytes(const fp_store_stats *s) { return s->log_bytes; }
static uint64_t written_bytes(const fp_store_stats *s) { return s->written_bytes; }
static uint64_t failed(const fp_store_stats *s) { return s->failed != 0; }

static void partitions(const fp_storagenode *node, fp_metrics *m)
{
    wals(node, m, "partition_epoch", "Epoch that was promised.", fp_wal_epoch);
    wals(node, m, "partition_durable_lsn", "End of the log on stable media.", fp_wal_durable);
    wals(node, m, "partition_log_bytes", "Its log on the volume.", log_bytes);
    pages(node, m, FP_METRIC_GAUGE, "partition_converted_lsn", "Its log up to here is in layers.",
          converted);
    pages(node, m, FP_METRIC_GAUGE, "partition_delta_layers", "Layers of changes.", deltas);
    pages(node, m, FP_METRIC_GAUGE, "partition_image_layers", "Layers of whole pages.", images);
    pages(node, m, FP_METRIC_GAUGE, "partition_damaged_layers", "Layers that could not be opened.",
          damaged);
    pages(node, m, FP_METRIC_GAUGE, "partition_delta_bytes", "Bytes of layers of changes.",
          delta_bytes);
    pages(node, m, FP_METRIC_GAUGE, "partition_image_bytes", "Bytes of layers of whole pages.",
          image_bytes);
    pages(node, m, FP_METRIC_COUNTER, "partition_converted_bytes_total",
          "Log that was taken for layers since the pages were opened.", taken_bytes);
    pages(node, m, FP_METRIC_COUNTER, "partition_written_bytes_total",
          "Written to layers and manifests since then; divided by the one above: write "
          "amplification.",
          written_bytes);
    pages(node, m, FP_METRIC_GAUGE, "partition_conversion_failed",
          "1 if the last work in the background ended in an error.", failed);
}

void fp_storagenode_metrics(const fp_storagenode *node, fp_metrics *m)
{
    m->prefix = "farpool_storagenode_";
    whole_node(node, m);
    if (node->refill)
        refills(node->refill, m);
    partitions(node, m);
}
