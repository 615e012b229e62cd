/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpool-memnode: the process around memnode/server.h. One thread that sleeps until a transport has something or a
 * signal comes, and with --storage or --coordinators another one, the spiller's (memnode/spill.h); neither has a part in page
 * reads and writes.
 */
#include <inttypes.h>
#include <stdio.h>

#include "memnode/options.h"
#include "memnode/server.h"

enum {
    STORAGE_CONNECT_MS = 1000
}; /* for so long, at most, ending the node waits for the spiller */

static int listen_at(void *node, const char *uri, const char **bound)
{
    return fp_memnode_listen(node, uri, NULL, bound);
}

static unsigned fds(void *node, int out[FP_DAEMON_FDS_MAX]) { return fp_memnode_fds(node, out); }

static int step(void *node) { return fp_memnode_step(node); }

static json_t *card(void *node, const fp_daemon_options *options)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    return fp_daemon_card(options, "memory", fp_memnode_server(node), usage.bytes_total);
}

static json_t *actual(void *node) { return fp_memnode_actual(node); }

static void duties(void *node, const json_t *told) { fp_memnode_duties(node, told); }

static json_t *describe(void *node)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    char boot_id[17];
    snprintf(boot_id, sizeof boot_id, "%016" PRIx64, fp_memnode_boot_id(node));
    return json_pack("{s:s, s:I, s:I, s:I}", "boot_id", boot_id, "memory_bytes",
                     (json_int_t)usage.bytes_total, "extents", (json_int_t)usage.extents,
                     "extent_bytes", (json_int_t)usage.extent_bytes);
}

static void log_usage(void *node)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    char total[32], granted[32], clearing[32], lost[32], lag[32];
    fp_log(FP_LOG_INFO,
           "usage: %s granted of %s to %" PRIu64 " partitions, %s being cleared, %s lost, %" PRIu64
           " connections, %" PRIu64
           " requests waiting, %.3f s of CPU, %s of redo log not spilled (%" PRIu64
           " rings cannot be)",
           fp_config_size_text(usage.bytes_granted, granted, sizeof granted),
           fp_config_size_text(usage.bytes_total, total, sizeof total), usage.partitions,
           fp_config_size_text(usage.bytes_clearing, clearing, sizeof clearing),
           fp_config_size_text(usage.bytes_lost, lost, sizeof lost), usage.connections,
           usage.pending, (double)usage.cpu_ns / 1e9,
           fp_config_size_text(usage.spill.lag, lag, sizeof lag), usage.spill.gaps);
}

static void metrics(void *node, fp_metrics *out) { fp_memnode_metrics(node, out); }

static int serve(const fp_memnode_options *options, fp_spill *spill)
{
    fp_memnode_config config = {
        .name = options->daemon.name,
        .memory_bytes = options->memory_bytes,
        .extent_order = options->extent_order,
        .numa_node = options->numa_node,
        .spill = spill,
        .in_cluster = options->daemon.coordinators[0],
        .auth = options->daemon.auth,
    };
    fp_memnode *node;
    int rc = fp_memnode_open(&config, &node);
    if (rc)
        return fp_daemon_log_failure(rc);
    fp_daemon daemon = {
        .options = &options->daemon,
        .node = node,
        .listen = listen_at,
        .fds = fds,
        .step = step,
        .describe = describe,
        .log_usage = log_usage,
        .http = {.metrics = metrics},
        .card = card,
        .actual = actual,
        .duties = duties,
    };
    rc = spill ? fp_spill_start(spill) : 0;
    if (rc) {
        fp_daemon_log_failure(rc);
    } else {
        rc = fp_daemon_run(&daemon);
        if (spill)
            fp_spill_stop(spill); /* it reads and writes the node's memory */
    }
    fp_memnode_close(node);
    return rc;
}

static int run(const fp_memnode_options *options)
{
    bool in_cluster = options->daemon.coordinators[0];
    fp_net_options net = {.connect_timeout_ms = STORAGE_CONNECT_MS, .auth = options->daemon.auth};
    fp_spill_config config = {
        .storage = in_cluster ? NULL : options->storage, .name = options->daemon.name, .net = &net};
    fp_spill *spill = NULL;
    int rc = options->storage[0] || in_cluster ? fp_spill_open(&config, &spill) : 0;
    if (rc)
        return fp_daemon_log_failure(rc);
    rc = serve(options, spill);
    fp_spill_close(spill);
    return rc;
}

int main(int argc, char **argv)
{
    fp_log_init();
    /* static: it is large for a stack */
    static fp_memnode_options options;
    int rc = fp_memnode_options_parse(argc, argv, &options);
    int status = fp_daemon_start("farpool-memnode", rc, &options.daemon, fp_memnode_options_help);
    if (status >= 0)
        return status;
    rc = run(&options);
    fp_auth_close(options.daemon.auth);
    return rc ? 1 : 0;
}
