/* SPDX-License-Identifier: Apache-2.0 */
/* The command line, the file beside it, and help. */
#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"
#include "common/error.h"
#include "coordinator/ctl/ctl.h"

#define CONFIG_FILE "/etc/farpool/farpoolctl.conf"
enum { TIMEOUT_MS = 5000 };

enum kind { FLAG, TEXT, NUMBER, SIZE };

typedef struct ctl_option {
    const char *name, *value, *help;
    char letter;
    enum kind kind;
    const char *member; /* of the request; NULL: set_own() knows it */
} ctl_option;

static const ctl_option all[] = {
    {"coordinators", "URI[,URI...]", "whom to ask; default: $FARPOOL_COORDINATORS, else the file",
     'c', TEXT, NULL},
    {"timeout", "MS", "for each answer; default 5000", 't', NUMBER, NULL},
    {"output", "FORMAT", "table (default), or json: the coordinator's answer as it is", 'o', TEXT,
     NULL},
    {"key-file", "FILE",
     "a key, or the cluster's secret; default: the file's, else none. What changes\n"
     "something is for keys whose names begin with 'admin', and for the secret",
     'k', TEXT, NULL},
    {"config", "FILE",
     "lines 'coordinators = ...', 'timeout = ...', 'key-file = ...'; default\n" CONFIG_FILE, 0,
     TEXT, NULL},
    {"help", NULL, "this text; with a command: its options", 'h', FLAG, NULL},
    {"version", NULL, "the program's version", 0, FLAG, NULL},
    {"wait", NULL, "until it has taken effect; progress on stderr", 'w', FLAG, NULL},
    {"yes", NULL, "do it without asking", 'y', FLAG, NULL},
    {"to", "NODE", "the compute node that it goes to; default: any", 0, TEXT, "to"},
    {"from-storage", NULL,
     "go on with what storage nodes have, without waiting for log rings: commits\n"
     "acknowledged in memory only may be lost; you vouch for it that the owner is dead",
     0, FLAG, "from_storage"},
    {"from", "N", "from event number N on; default: all that are kept", 0, NUMBER, "from"},
    {"follow", NULL, "go on with those to come", 'f', FLAG, NULL},
    {"owner", "NODE", "the compute node that gets it; default: any", 0, TEXT, "owner"},
    {"space", "SIZE", "its page space, addresses only (64g, or twice the slab)", 0, SIZE,
     "space_bytes"},
    {"slab", "SIZE", "memory for its pages, over all memory nodes (256m)", 0, SIZE, "slab_bytes"},
    {"log-copies", "N", "log rings, each on another memory node; 1 to 7 (3)", 0, NUMBER,
     "log_copies"},
    {"log-quorum", "N", "a commit is acknowledged when so many rings have it (more than half)", 0,
     NUMBER, "log_quorum"},
    {"memnodes", "N", "memory nodes for its pages (as many as log copies)", 0, NUMBER,
     "memnode_count"},
    {"log-ring", "SIZE", "of each log ring (64m)", 0, SIZE, "log_ring_bytes"},
    {"storage-quorum", "N", "durable on storage is: so many storage nodes have it (1)", 0, NUMBER,
     "storage_quorum"},
    {"when-lost", "WHAT",
     "if too few log rings are left: wait (default; for somebody to decide), or storage:\n"
     "go on with what storage nodes have",
     0, TEXT, "when_lost"},
    {"memory", "SIZE", "the machine is to be a memory node that offers so much", 0, SIZE, NULL},
    {"numa-node", "N", "of that memory; default: any", 0, NUMBER, NULL},
    {"volume", "DIRECTORY", "the machine is to be a storage node with this volume", 0, TEXT, NULL},
    {"verbs", NULL, "it is to use RDMA", 0, FLAG, NULL},
};
/* The first ones every command takes, the last ones only doctor. */
enum { OPTIONS = sizeof all / sizeof all[0], COMMON = 7, DOCTOR = OPTIONS - 4, FIRST = 256 };

/* ---- help ---------------------------------------------------------------------------------------- */

static bool takes(const fp_ctl_command *command, const ctl_option *option)
{
    char word[40];
    if (option < all + COMMON)
        return true;
    snprintf(word, sizeof word, " %s ", option->name);
    return command->options && strstr(command->options, word);
}

/* "  head   help", lines of help below each other. */
static void print_entry(FILE *out, const char *head, const char *help)
{
    for (const char *line = help; line; head = "") {
        const char *newline = strchr(line, '\n');
        int len = newline ? (int)(newline - line) : (int)strlen(line);
        fprintf(out, "  %-32s  %.*s\n", head, len, line);
        line = newline ? newline + 1 : NULL;
    }
}

static void print_option(FILE *out, const ctl_option *option)
{
    char head[80], letter[8] = "";
    if (option->letter)
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    snprintf(head, sizeof head, "%s--%s%s%s", letter, option->name, option->value ? " " : "",
             option->value ? option->value : "");
    print_entry(out, head, option->help);
}

static void print_help(FILE *out, const char *first)
{
    fputs("usage: farpoolctl [OPTION]... COMMAND\n"
          "Shows and changes a cluster of farpool by its coordinators.\n\n",
          out);
    for (unsigned i = 0; i < fp_ctl_command_count; i++) {
        const fp_ctl_command *command = &fp_ctl_commands[i];
        char head[80];
        if (strncmp(command->name, first, strlen(first)) != 0)
            continue;
        snprintf(head, sizeof head, "%s %s", command->name,
                 command->argument ? command->argument : "");
        print_entry(out, head, command->help);
        for (unsigned o = COMMON; o < OPTIONS; o++) {
            if (*first && takes(command, &all[o]))
                print_option(out, &all[o]);
        }
    }
    print_entry(out, "help [COMMAND]", "this text, or a command and its options");
    putc('\n', out);
    for (unsigned o = 0; o < (*first ? COMMON : OPTIONS); o++)
        print_option(out, &all[o]);
    fputs("\nA PARTITION is its number or its name. What cannot be taken back is asked for on a\n"
          "terminal, and wants --yes elsewhere.\n"
          "Exit status: 0 done, 1 failed, or doctor found something, 2 wrong usage, 3 no "
          "coordinator can be reached or none\n"
          "leads, 4 no such node or partition, 5 refused because of the state of things, 6 it is\n"
          "not known whether it was done.\n",
          out);
}

/* ---- values -------------------------------------------------------------------------------------- */

static int wrong(fp_ctl *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int wrong(fp_ctl *ctl, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("farpoolctl: ", ctl->io->err);
    vfprintf(ctl->io->err, format, args);
    fputs("; see farpoolctl --help\n", ctl->io->err);
    va_end(args);
    return FP_CTL_USAGE;
}

static int set_timeout(void *target, const char *value)
{
    fp_ctl *ctl = target;
    uint64_t ms;
    int rc = fp_config_number(value, 1, 3600000, &ms);
    if (!rc)
        ctl->timeout_ms = (unsigned)ms;
    return rc;
}

static int set_text(char **text, const char *value)
{
    free(*text);
    *text = strdup(value);
    return *text ? 0 : fp_error(FARPOOL_E_NOMEM, "no memory");
}

static int set_coordinators(void *target, const char *value)
{
    return set_text(&((fp_ctl *)target)->config_coordinators, value);
}

static int set_key_file(void *target, const char *value)
{
    return set_text(&((fp_ctl *)target)->config_key_file, value);
}

/* Of the command doctor. */
static int set_doctor(fp_ctl *ctl, const char *name, const char *value)
{
    uint64_t number = 0;
    int rc = 0;
    if (!strcmp(name, "volume"))
        ctl->doctor.volume = value;
    else if (!strcmp(name, "verbs"))
        ctl->doctor.verbs = true;
    else if (!strcmp(name, "memory"))
        rc = fp_config_size(value, &ctl->doctor.memory_bytes);
    else
        rc = fp_config_number(value, 0, 1023, &number);
    if (!rc && !strcmp(name, "numa-node"))
        ctl->doctor.numa_node = (int)number;
    return rc;
}

static int set_own(fp_ctl *ctl, const ctl_option *option, const char *value)
{
    if (option >= all + DOCTOR)
        return set_doctor(ctl, option->name, value);
    if (!strcmp(option->name, "coordinators"))
        ctl->coordinators = value;
    else if (!strcmp(option->name, "timeout"))
        return set_timeout(ctl, value);
    else if (!strcmp(option->name, "key-file"))
        ctl->key_file = value;
    else if (!strcmp(option->name, "config"))
        ctl->config = value;
    else if (!strcmp(option->name, "help"))
        ctl->help = true;
    else if (!strcmp(option->name, "version"))
        ctl->version = true;
    else if (!strcmp(option->name, "wait"))
        ctl->wait = true;
    else if (!strcmp(option->name, "yes"))
        ctl->yes = true;
    else if (!strcmp(option->name, "follow"))
        ctl->follow = true;
    else if (strcmp(value, "json") != 0 && strcmp(value, "table") != 0)
        return fp_error(FARPOOL_E_INVAL, "'%.60s' is neither table nor json", value);
    else
        ctl->json = !strcmp(value, "json");
    return 0;
}

static int set_option(fp_ctl *ctl, const ctl_option *option, const char *value)
{
    uint64_t number = 0;
    int rc = 0;
    if (!option->member)
        return set_own(ctl, option, value);
    if (option->kind == NUMBER)
        rc = fp_config_number(value, 0, INT64_MAX, &number);
    else if (option->kind == SIZE)
        rc = fp_config_size(value, &number);
    if (!rc && number > INT64_MAX)
        rc = fp_error(FARPOOL_E_INVAL, "'%.60s' is too large", value);
    if (rc)
        return rc;
    json_t *json = option->kind == FLAG   ? json_true()
                   : option->kind == TEXT ? json_string(value)
                                          : json_integer((json_int_t)number);
    return json_object_set_new(ctl->call, option->member, json)
               ? fp_error(FARPOOL_E_INVAL, "'%.60s' is not UTF-8", value)
               : 0;
}

/* ---- the command line ---------------------------------------------------------------------------- */

static const ctl_option *option_of(int c)
{
    for (unsigned o = 0; o < OPTIONS; o++) {
        if (c == FIRST + (int)o || (c < FIRST && c && all[o].letter == c))
            return &all[o];
    }
    return NULL;
}

/* given[o] afterwards tells whether option o was there. Returns an exit status, or -1. */
static int walk(fp_ctl *ctl, int argc, char **argv, bool given[OPTIONS])
{
    struct option longs[OPTIONS + 1] = {{0}};
    char shorts[2 * OPTIONS + 2] = ":";
    size_t at = 1;
    for (unsigned o = 0; o < OPTIONS; o++) {
        longs[o] = (struct option){all[o].name, all[o].value ? required_argument : no_argument,
                                   NULL, FIRST + (int)o};
        if (all[o].letter)
            shorts[at++] = all[o].letter;
        if (all[o].letter && all[o].value)
            shorts[at++] = ':';
    }
    optind = 0; /* glibc: start anew */
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, shorts, longs, NULL)) != -1;) {
        const ctl_option *option = option_of(c);
        if (c == ':')
            return wrong(ctl, "%s needs a value", argv[optind - 1]);
        if (!option)
            return wrong(ctl, "there is no option %s", argv[optind - 1]);
        given[option - all] = true;
        if (set_option(ctl, option, optarg))
            return wrong(ctl, "--%s: %s", option->name, farpool_errmsg());
    }
    return -1;
}

static int find_command(fp_ctl *ctl, int argc, char **argv)
{
    if (optind == argc)
        return wrong(ctl, "a command is missing");
    const char *second = optind + 1 < argc ? argv[optind + 1] : NULL;
    ctl->command = fp_ctl_find(argv[optind], second);
    if (!ctl->command)
        return wrong(ctl, "there is no command '%s%s%s'", argv[optind], second ? " " : "",
                     second ? second : "");
    optind += strchr(ctl->command->name, ' ') ? 2 : 1;
    if (ctl->command->argument && optind == argc)
        return wrong(ctl, "%s: which %s?", ctl->command->name, ctl->command->argument);
    if (ctl->command->argument)
        ctl->argument = argv[optind++];
    if (optind < argc)
        return wrong(ctl, "'%s' is too much", argv[optind]);
    return -1;
}

/* The file: one that was named has to be there. */
static int read_config(fp_ctl *ctl)
{
    static const fp_option table[] = {
        {"coordinators", "", "", set_coordinators, false},
        {"timeout", "", "", set_timeout, false},
        {"key-file", "", "", set_key_file, false},
    };
    unsigned timeout_ms = ctl->timeout_ms;
    const char *path = ctl->config ? ctl->config : CONFIG_FILE;
    if (!ctl->config && access(path, F_OK))
        return -1;
    if (fp_config_file(path, table, sizeof table / sizeof table[0], ctl)) {
        fprintf(ctl->io->err, "farpoolctl: %s\n", farpool_errmsg());
        return FP_CTL_USAGE;
    }
    ctl->timeout_ms = timeout_ms ? timeout_ms : ctl->timeout_ms;
    return -1;
}

/* Of the commands whose names begin with these words. */
static int give_help(fp_ctl *ctl, int count, char **words)
{
    char first[100];
    const fp_ctl_command *command =
        count ? fp_ctl_find(words[0], count > 1 ? words[1] : NULL) : NULL;
    if (command) /* its argument may follow */
        snprintf(first, sizeof first, "%s", command->name);
    else
        snprintf(first, sizeof first, "%s%s%s", count ? words[0] : "", count > 1 ? " " : "",
                 count > 1 ? words[1] : "");
    unsigned found = 0;
    for (unsigned i = 0; i < fp_ctl_command_count; i++)
        found += !strncmp(fp_ctl_commands[i].name, first, strlen(first));
    if (!found)
        return wrong(ctl, "there is no command '%s'", first);
    print_help(ctl->io->out, first);
    return FP_CTL_DONE;
}

int fp_ctl_parse(fp_ctl *ctl, int argc, char **argv)
{
    bool given[OPTIONS] = {false};
    int status = walk(ctl, argc, argv, given);
    if (status >= 0)
        return status;
    if (ctl->version) {
        fprintf(ctl->io->out, "farpoolctl %d.%d.%d\n", FARPOOL_VERSION_MAJOR, FARPOOL_VERSION_MINOR,
                FARPOOL_VERSION_PATCH);
        return FP_CTL_DONE;
    }
    if (ctl->help)
        return give_help(ctl, argc - optind, argv + optind);
    if (optind < argc && !strcmp(argv[optind], "help"))
        return give_help(ctl, argc - optind - 1, argv + optind + 1);
    status = find_command(ctl, argc, argv);
    for (unsigned o = COMMON; o < OPTIONS && status < 0; o++) {
        if (given[o] && !takes(ctl->command, &all[o]))
            status = wrong(ctl, "%s takes no --%s", ctl->command->name, all[o].name);
    }
    if (status < 0 && ctl->command->method)
        status = read_config(ctl);
    if (status >= 0 || !ctl->command->method)
        return status; /* it asks nobody */
    if (!ctl->timeout_ms)
        ctl->timeout_ms = TIMEOUT_MS;
    if (!ctl->key_file)
        ctl->key_file = ctl->config_key_file;
    if (!ctl->coordinators)
        ctl->coordinators = getenv("FARPOOL_COORDINATORS");
    if (!ctl->coordinators || !ctl->coordinators[0])
        ctl->coordinators = ctl->config_coordinators;
    if (!ctl->coordinators)
        return wrong(ctl, "no --coordinators, and neither $FARPOOL_COORDINATORS nor " CONFIG_FILE
                          " names any");
    return -1;
}
