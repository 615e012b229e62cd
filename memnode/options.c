/* SPDX-License-Identifier: Apache-2.0 */
#include "memnode/options.h"

#include <string.h>

#include "common/error.h"

static int set_memory(void *target, const char *value)
{
    fp_memnode_options *o = target;
    return fp_config_size(value, &o->memory_bytes);
}

static int set_extent_units(void *target, const char *value)
{
    fp_memnode_options *o = target;
    uint64_t units;
    int rc = fp_config_number(value, 1u << FP_EXTENT_ORDER_MIN, 1u << FP_EXTENT_ORDER_MAX, &units);
    if (rc)
        return rc;
    if (units & (units - 1))
        return fp_error(FARPOOL_E_INVAL, "%s is no power of two", value);
    o->extent_order = __builtin_ctzll(units);
    return 0;
}

static int set_numa_node(void *target, const char *value)
{
    fp_memnode_options *o = target;
    uint64_t node;
    int rc = fp_config_number(value, 0, 1023, &node);
    if (!rc)
        o->numa_node = (int)node;
    return rc;
}

static int set_storage(void *target, const char *value)
{
    fp_memnode_options *o = target;
    int rc = fp_daemon_check_address(value);
    if (!rc)
        strcpy(o->storage, value); /* its length was checked */
    return rc;
}

static const fp_option table[] = {
    FP_DAEMON_OPTION_LISTEN,
    {"memory", "SIZE",
     "memory to offer (64m, 1.5g, ...; rounded down to whole extents);\ndefault 1g", set_memory,
     false},
    {"extent-units", "N",
     "slot units of 4192 bytes per extent, the unit of granting; a power of two\n"
     "from 1024 to 1048576; default 32768 (131 MiB), less on small nodes",
     set_extent_units, false},
    {"numa-node", "N", "take the memory from this NUMA node; default: anywhere", set_numa_node,
     false},
    {"storage", "URI",
     "storage node to which the redo log of each log ring here is spilled;\n"
     "default: none, and logs are not spilled",
     set_storage, false},
    FP_DAEMON_OPTIONS_CLUSTER,
    FP_DAEMON_OPTIONS,
};
enum { TABLE_COUNT = sizeof table / sizeof table[0] };

int fp_memnode_options_parse(int argc, char **argv, fp_memnode_options *options)
{
    memset(options, 0, sizeof *options);
    options->memory_bytes = 1ull << 30;
    options->extent_order = options->numa_node = -1;
    int rc = fp_daemon_options_parse(argc, argv, table, TABLE_COUNT, "memnode", &options->daemon);
    if (!rc && options->storage[0] && options->daemon.coordinators[0])
        rc = fp_error(
            FARPOOL_E_INVAL,
            "--storage cannot be given with --coordinators: these choose the storage node");
    return rc;
}

void fp_memnode_options_help(FILE *out)
{
    fputs("usage: farpool-memnode --listen URI [--memory SIZE] [OPTION]...\n"
          "Offers this machine's memory to farpool's compute nodes.\n\n",
          out);
    fp_config_help(out, table, TABLE_COUNT);
    fputs("\nSIGTERM or SIGINT end it, SIGUSR1 logs its usage. Exit status: 0 ended by a signal,\n"
          "1 failed, 2 wrong options or configuration.\n",
          out);
}
