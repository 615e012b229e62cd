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

static int set_segment_size(void *target, const char *value)
{
    enum { MIN = 64 << 10, MAX = 1 << 30 };
    fp_storagenode_options *o = target;
    uint64_t bytes;
    int rc = fp_config_size(value, &bytes);
    if (rc)
        return rc;
    if (bytes < MIN || bytes > MAX || bytes % FP_DISK_ALIGN)
        return fp_error(FARPOOL_E_INVAL, "%s is not from 64k to 1g in whole blocks of %d", value,
                        FP_DISK_ALIGN);
    o->segment_bytes = bytes;
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
