/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpool-storagenode: the process around storagenode/server.h. One thread that sleeps until a transport or the disk
 * has something or a signal comes. The disk has another one for work (D14).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "storagenode/check.h"
#include "storagenode/options.h"
#include "storagenode/server.h"

static int listen_at(void *node, const char *uri, const char **bound)
{
    return fp_storagenode_listen(node, uri, NULL, bound);
}

_Static_assert((int)FP_DAEMON_FDS_MAX >= (int)FP_STORAGENODE_FDS_MAX, "descriptors");
static unsigned fds(void *node, int out[FP_DAEMON_FDS_MAX])
{
    return fp_storagenode_fds(node, out);
}

static int step(void *node) { return fp_storagenode_step(node); }

static json_t *card(void *node, const fp_daemon_options *options)
{
    fp_storagenode_usage usage;
    fp_storagenode_usage_get(node, &usage);
    return fp_daemon_card(options, "storage", fp_storagenode_server(node), usage.bytes_total);
}

static json_t *actual(void *node) { return fp_storagenode_actual(node); }

static void duties(void *node, const json_t *told) { fp_storagenode_duties(node, told); }

static json_t *describe(void *node)
{
    fp_storagenode_usage usage;
    fp_storagenode_usage_get(node, &usage);
    char boot_id[17], volume_id[17];
    snprintf(boot_id, sizeof boot_id, "%016" PRIx64, fp_storagenode_boot_id(node));
    snprintf(volume_id, sizeof volume_id, "%016" PRIx64, fp_storagenode_volume_id(node));
    return json_pack("{s:s, s:s, s:I}", "boot_id", boot_id, "volume_id", volume_id, "partitions",
                     (json_int_t)usage.partitions);
}

static void log_usage(void *node)
{
    fp_storagenode_usage usage;
    fp_storagenode_usage_get(node, &usage);
    char total[32], bytes[32], lag[32];
    fp_log(FP_LOG_INFO,
           "usage: %s of log of %" PRIu64 " partitions (%" PRIu64
           " of them cannot be opened, %" PRIu64
           " should get more from a peer, %s) on a volume of %s, %s of log not in layers "
           "yet, %" PRIu64 " connections, %" PRIu64 " requests under way, %.3f s of CPU",
           fp_config_size_text(usage.bytes_log, bytes, sizeof bytes), usage.partitions,
           usage.broken, usage.incomplete, usage.refilling ? "one is doing so" : "none is doing so",
           fp_config_size_text(usage.bytes_total, total, sizeof total),
           fp_config_size_text(usage.bytes_lag, lag, sizeof lag), usage.connections, usage.requests,
           (double)usage.cpu_ns / 1e9);
}

static void metrics(void *node, fp_metrics *out) { fp_storagenode_metrics(node, out); }

static bool ready(void *node, char *why, size_t size)
{
    return fp_storagenode_ready(node, why, size);
}

static int serve(const fp_storagenode_options *options)
{
    const char *peers[FP_STORAGENODE_PEERS_MAX];
    for (unsigned i = 0; i < options->peer_count; i++)
        peers[i] = options->peers[i];
    fp_storagenode_config config = {
        .name = options->daemon.name,
        .volume = options->volume,
        .segment_bytes = options->segment_bytes,
        .convert_bytes = options->layer_bytes,
        .peers = peers,
        .peer_count = options->peer_count,
        .auth = options->daemon.auth,
        .in_cluster = options->daemon.coordinators[0],
    };
    fp_storagenode *node;
    int rc = fp_storagenode_open(&config, &node);
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
        .http = {.metrics = metrics, .ready = ready},
        .card = card,
        .actual = actual,
        .duties = duties,
    };
    rc = fp_daemon_run(&daemon);
    fp_storagenode_close(node);
    return rc;
}

/* farpool-storagenode check VOLUME [-o json] */
static int check(int argc, char **argv)
{
    bool json = argc == 5 && !strcmp(argv[3], "-o") && !strcmp(argv[4], "json");
    bool help = argc == 3 && (!strcmp(argv[2], "-h") || !strcmp(argv[2], "--help"));
    if (help || (argc != 3 && !json)) {
        fputs("usage: farpool-storagenode check VOLUME [-o json]\n"
              "Reads all of a volume that no storage node serves, and tells what is wrong: exit "
              "code 3.\n",
              help ? stdout : stderr);
        return help ? 0 : 2;
    }
    int lock = fp_storagenode_lock(argv[2]);
    int rc = lock < 0 ? lock : fp_volume_check_print(argv[2], stdout, json);
    if (rc && rc != FARPOOL_E_CORRUPT)
        fprintf(stderr, "farpool-storagenode: %s (%s)\n", farpool_errmsg(), fp_error_name(rc));
    if (lock >= 0)
        close(lock);
    return rc == 0 ? 0 : rc == FARPOOL_E_CORRUPT ? 3 : 1;
}

int main(int argc, char **argv)
{
    fp_log_init();
    if (argc > 1 && !strcmp(argv[1], "check"))
        return check(argc, argv);
    /* static: it is large for a stack */
    static fp_storagenode_options options;
    int rc = fp_storagenode_options_parse(argc, argv, &options);
    int status =
        fp_daemon_start("farpool-storagenode", rc, &options.daemon, fp_storagenode_options_help);
    if (status >= 0)
        return status;
    rc = serve(&options);
    fp_auth_close(options.daemon.auth);
    return rc ? 1 : 0;
}
