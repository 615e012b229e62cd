/* SPDX-License-Identifier: Apache-2.0 */
#include "memnode/options.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"
#include "common/error.h"

static int set_listen(void *target, const char *value)
{
    fp_memnode_options *o = target;
    fp_uri parsed;
    int rc = fp_uri_parse(value, &parsed);
    if (rc)
        return rc;
    if (strcmp(parsed.scheme, "verbs") != 0 && strcmp(parsed.scheme, "tcp") != 0 &&
        strcmp(parsed.scheme, "shm") != 0)
        return fp_error(FARPOOL_E_INVAL, "'%.200s': unknown transport (verbs, tcp, shm)", value);
    if (o->listen_from_file) {
        o->listen_from_file = false;
        o->listen_count = 0;
    }
    if (o->listen_count == FP_MEMNODE_LISTENERS_MAX)
        return fp_error(FARPOOL_E_INVAL, "more than %d addresses", FP_MEMNODE_LISTENERS_MAX);
    strcpy(o->listen[o->listen_count++], value); /* its length was checked by fp_uri_parse */
    return 0;
}

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

static int set_name(void *target, const char *value)
{
    fp_memnode_options *o = target;
    if (!value[0] || strlen(value) > FP_WIRE_TEXT_MAX)
        return fp_error(FARPOOL_E_INVAL, "a name has 1 to %d bytes", FP_WIRE_TEXT_MAX);
    strcpy(o->name, value);
    return 0;
}

static int set_log_level(void *target, const char *value)
{
    fp_memnode_options *o = target;
    if (!fp_log_level_parse(value, &o->log_level))
        return fp_error(FARPOOL_E_INVAL, "'%.60s' is not one of error, warn, info, debug", value);
    return 0;
}

static int set_ready_fd(void *target, const char *value)
{
    fp_memnode_options *o = target;
    uint64_t fd;
    int rc = fp_config_number(value, 1, 1 << 20, &fd);
    if (!rc && fcntl((int)fd, F_GETFD) < 0)
        rc = fp_error(FARPOOL_E_INVAL, "descriptor %s is not open", value);
    if (!rc)
        o->ready_fd = (int)fd;
    return rc;
}

static int set_ready_file(void *target, const char *value)
{
    fp_memnode_options *o = target;
    if (!value[0] || strlen(value) >= sizeof o->ready_file - 16)
        return fp_error(FARPOOL_E_INVAL, "the path is empty or too long");
    strcpy(o->ready_file, value);
    return 0;
}

static const fp_option table[] = {
    {"listen", "URI",
     "address to serve: verbs://HOST:PORT, tcp://HOST:PORT or shm:///PATH;\n"
     "may be given up to 16 times; port 0 chooses one",
     set_listen, false},
    {"memory", "SIZE",
     "memory to offer (64m, 1.5g, ...; rounded down to whole extents);\ndefault 1g", set_memory,
     false},
    {"extent-units", "N",
     "slot units of 4192 bytes per extent, the unit of granting; a power of two\n"
     "from 1024 to 1048576; default 32768 (131 MiB), less on small nodes",
     set_extent_units, false},
    {"numa-node", "N", "take the memory from this NUMA node; default: anywhere", set_numa_node,
     false},
    {"name", "NAME", "the node's name in messages; default: the host's name", set_name, false},
    {"log-level", "LEVEL", "error, warn, info (default) or debug", set_log_level, false},
    {"config", "FILE",
     "read 'key = value' lines first: keys are the options above, # begins a\ncomment; flags win",
     NULL, true},
    {"ready-fd", "N",
     "when all addresses are served, write them as one line of JSON to this\n"
     "descriptor and close it",
     set_ready_fd, true},
    {"ready-file", "FILE", "the same to a file, which is removed at the end", set_ready_file, true},
};
enum { TABLE_COUNT = sizeof table / sizeof table[0] };

static void before_flags(void *target)
{
    fp_memnode_options *o = target;
    o->listen_from_file = o->listen_count > 0;
}

int fp_memnode_options_parse(int argc, char **argv, fp_memnode_options *options)
{
    memset(options, 0, sizeof *options);
    options->memory_bytes = 1ull << 30;
    options->extent_order = options->numa_node = options->ready_fd = -1;
    options->log_level = FP_LOG_INFO;
    if (gethostname(options->name, sizeof options->name - 1) || !options->name[0])
        strcpy(options->name, "memnode");
    int rc = fp_config_args(argc, argv, table, TABLE_COUNT, "config", before_flags, options,
                            &options->help, &options->version);
    if (rc || options->help || options->version)
        return rc;
    if (!options->listen_count)
        return fp_error(FARPOOL_E_INVAL,
                        "no address to serve: give --listen; --help lists the options");
    return 0;
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
