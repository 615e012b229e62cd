/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/options.h"

#include <string.h>

#include "common/error.h"
#include "storagenode/wal.h"

static int set_volume(void *target, const char *value)
{
    fp_storagenode_options *o = target;
    if (!value[0] || strlen(value) >= sizeof o->volume)
        return fp_error(FARPOOL_E_INVAL, "the path is empty or too long");
    strcpy(o->volume, value);
    return 0;
}

static int get_size(const char *value, uint64_t *bytes)
{
    enum { MIN = 64 << 10, MAX = 1 << 30 };
    int rc = fp_config_size(value, bytes);
    if (!rc && (*bytes < MIN || *bytes > MAX || *bytes % FP_DISK_ALIGN))
        rc = fp_error(FARPOOL_E_INVAL, "%s is not from 64k to 1g in whole blocks of %d", value,
                      FP_DISK_ALIGN);
    return rc;
}

static int set_segment_size(void *target, const char *value)
{
    return get_size(value, &((fp_storagenode_options *)target)->segment_bytes);
}

static int set_layer_size(void *target, const char *value)
{
    return get_size(value, &((fp_storagenode_options *)target)->layer_bytes);
}

static int add_peer(void *target, const char *value)
{
    fp_storagenode_options *o = target;
    fp_uri uri;
    int rc = fp_uri_parse(value, &uri);
    if (rc)
        return rc;
    if (o->peer_count == FP_STORAGENODE_PEERS_MAX)
        return fp_error(FARPOOL_E_INVAL, "more than %d peers", FP_STORAGENODE_PEERS_MAX);
    strcpy(o->peers[o->peer_count++], value); /* its length was checked by fp_uri_parse */
    return 0;
}

static const fp_option table[] = {
    {"volume", "DIR",
     "the directory to keep logs in: it exists, on a file system of its own\n"
     "if possible (ext4 or xfs); one process serves it",
     set_volume, false},
    FP_DAEMON_OPTION_LISTEN,
    {"segment-size", "SIZE", "of a file of log; for logs that are made from now on; default 64m",
     set_segment_size, false},
    {"layer-size", "SIZE",
     "of log that becomes a layer of pages; up to five times that is in\n"
     "memory; default 16m",
     set_layer_size, false},
    {"peer", "URI",
     "another storage node that may have the same partitions: what is missing or\n"
     "damaged here is got from there; may be given up to 64 times",
     add_peer, false},
    FP_DAEMON_OPTIONS_CLUSTER,
    FP_DAEMON_OPTIONS,
};
enum { TABLE_COUNT = sizeof table / sizeof table[0] };

int fp_storagenode_options_parse(int argc, char **argv, fp_storagenode_options *options)
{
    memset(options, 0, sizeof *options);
    int rc =
        fp_daemon_options_parse(argc, argv, table, TABLE_COUNT, "storagenode", &options->daemon);
    if (rc || options->daemon.help || options->daemon.version)
        return rc;
    if (!options->volume[0])
        return fp_error(FARPOOL_E_INVAL,
                        "no volume to serve: give --volume; --help lists the options");
    if (options->peer_count && options->daemon.coordinators[0])
        return fp_error(FARPOOL_E_INVAL,
                        "--peer cannot be given with --coordinators: these tell of all peers");
    return 0;
}

void fp_storagenode_options_help(FILE *out)
{
    fputs(
        "usage: farpool-storagenode --volume DIR --listen URI [OPTION]...\n"
        "       farpool-storagenode check VOLUME [-o json]\n"
        "Keeps the redo logs of farpool's partitions on stable media, and makes pages of them.\n"
        "check verifies all of a volume that nobody serves; exit status 3: something is wrong.\n\n",
        out);
    fp_config_help(out, table, TABLE_COUNT);
    fputs("\nSIGTERM or SIGINT end it in order, SIGUSR1 logs its usage. Exit status: 0 ended by a\n"
          "signal, 1 failed, 2 wrong options or configuration.\n",
          out);
}
