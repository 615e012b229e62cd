/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/error.h"
#include "compute/cli/serve.h"

enum { POOL_MIN = 1 << 20, KEYS_MAX = 1 << 24 };

static int set_text(char *to, size_t size, const char *value)
{
    if (strlen(value) >= size)
        return fp_error(FARPOOL_E_INVAL, "longer than %zu bytes", size - 1);
    memcpy(to, value, strlen(value) + 1);
    return 0;
}

#define TEXT_SETTER(field)                                                                         \
    static int set_##field(void *target, const char *value)                                        \
    {                                                                                              \
        cli_serve_options *o = target;                                                             \
        return set_text(o->field, sizeof o->field, value);                                         \
    }
TEXT_SETTER(coordinators)
TEXT_SETTER(name)
TEXT_SETTER(zone)
TEXT_SETTER(rack)
TEXT_SETTER(host)
TEXT_SETTER(address)
TEXT_SETTER(notes)
TEXT_SETTER(key_file)
TEXT_SETTER(records)

static int set_pool(void *target, const char *value)
{
    cli_serve_options *o = target;
    int rc = fp_config_size(value, &o->pool_bytes);
    if (!rc && o->pool_bytes < POOL_MIN)
        return fp_error(FARPOOL_E_INVAL, "%s is less than 1m", value);
    return rc;
}

static int set_load(void *target, const char *value)
{
    return fp_config_number(value, 0, CLI_SERVE_THREADS_MAX, &((cli_serve_options *)target)->load);
}

static int set_keys(void *target, const char *value)
{
    return fp_config_number(value, CLI_SERVE_THREADS_MAX, KEYS_MAX,
                            &((cli_serve_options *)target)->keys);
}

static int set_choice(const char *value, const char *no, const char *yes, bool *is_yes)
{
    *is_yes = !strcmp(value, yes);
    return *is_yes || !strcmp(value, no)
               ? 0
               : fp_error(FARPOOL_E_INVAL, "'%.40s' is neither %s nor %s", value, no, yes);
}

static int set_mapping(void *target, const char *value)
{
    return set_choice(value, "frames", "vm", &((cli_serve_options *)target)->vm);
}

static int set_output(void *target, const char *value)
{
    return set_choice(value, "text", "json", &((cli_serve_options *)target)->json);
}

static int set_durability(void *target, const char *value)
{
    bool storage = false;
    int rc = set_choice(value, "memory", "storage", &storage);
    ((cli_serve_options *)target)->durability =
        storage ? FARPOOL_DURABLE_STORAGE : FARPOOL_DURABLE_MEMORY;
    return rc;
}

static const fp_option table[] = {
    {"coordinators", "URI[,URI...]", "whom it follows; required", set_coordinators, false},
    {"name", "NAME", "its name in the cluster, which nobody else has; required", set_name, false},
    {"zone", "ZONE", "where it runs, for placement; default: none", set_zone, false},
    {"rack", "RACK", "the same", set_rack, false},
    {"host", "HOST", "default: the host's name", set_host, false},
    {"address", "TEXT", "what farpoolctl route tells of it: where it is asked; default: none",
     set_address, false},
    {"key-file", "FILE", "its key, or the cluster's secret, if the cluster has one", set_key_file,
     false},
    {"pool", "SIZE", "local memory for pages; default 64m", set_pool, false},
    {"mapping", "M", "frames (default) or vm", set_mapping, false},
    {"load", "N",
     "N threads write to each partition, and note what was acknowledged; default 0:\n"
     "partitions are only opened",
     set_load, false},
    {"notes", "DIR",
     "where: one file for each partition, which all who own it in their turn use.\n"
     "Required with --load",
     set_notes, false},
    {"keys", "N", "of each partition; default 2000, at least 64", set_keys, false},
    {"records", "FILE",
     "with --load: the first keys are these records, which 'farpool --help' describes;\n"
     "default: keys and values are made up",
     set_records, false},
    {"durability", "D", "writes are acknowledged when they are on memory (default) or storage",
     set_durability, false},
    {"output", "O", "text (default) or json: an object in each line; -o is the same", set_output,
     false},
    {"config", "FILE", "read 'key = value' lines first: keys are the options above", NULL, true},
};
enum { TABLE_COUNT = sizeof table / sizeof table[0] };

void cli_serve_help(FILE *out)
{
    fputs("usage: farpool serve --coordinators URI[,URI...] --name NAME [OPTION]...\n"
          "A compute node: opens the partitions that the coordinators assign to it, and tells in a "
          "line each\n"
          "what happens. With --load it writes to them, and whoever opens one compares it with "
          "what was\n"
          "acknowledged before.\n\n",
          out);
    fp_config_help(out, table, TABLE_COUNT);
    fputs("\nSIGTERM or SIGINT end it: its partitions are closed. SIGUSR1: all are compared now. "
          "Exit status:\n"
          "0 ended by a signal; 1 something failed, or a record is not as it was acknowledged; 2 "
          "wrong options.\n",
          out);
}

int cli_serve_parse(int argc, char **argv, cli_serve_options *o)
{
    *o = (cli_serve_options){
        .pool_bytes = 64 << 20, .keys = 2000, .durability = FARPOOL_DURABLE_MEMORY};
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "-o"))
            argv[i] = "--output";
    int rc =
        fp_config_args(argc, argv, table, TABLE_COUNT, "config", NULL, o, &o->help, &o->version);
    if (rc || o->help || o->version)
        return rc;
    if (!o->coordinators[0] || !o->name[0])
        return fp_error(FARPOOL_E_INVAL, "serve: --coordinators and --name are needed");
    if (o->load && !o->notes[0])
        return fp_error(FARPOOL_E_INVAL, "serve: --load needs --notes, a directory");
    return 0;
}
