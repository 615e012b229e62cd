/* SPDX-License-Identifier: Apache-2.0 */
#include "common/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"

/* ---- values ---------------------------------------------------------------------------------- */

int fp_config_number(const char *text, uint64_t min, uint64_t max, uint64_t *number)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno || value < min || value > max)
        return fp_error(FARPOOL_E_INVAL, "'%.60s' is not a number from %" PRIu64 " to %" PRIu64,
                        text, min, max);
    *number = value;
    return 0;
}

int fp_config_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "kmgt";
    uint64_t whole = 0, fraction = 0, scale = 1;
    const char *p = text;
    bool overflow = false;
    if (!isdigit((unsigned char)*p))
        goto bad;
    for (; isdigit((unsigned char)*p); p++) {
        overflow |= __builtin_mul_overflow(whole, 10u, &whole);
        overflow |= __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole);
    }
    if (*p == '.') {
        if (!isdigit((unsigned char)p[1]))
            goto bad;
        for (p++; isdigit((unsigned char)*p); p++) {
            if (scale < 1000000) { /* further digits are below the resolution that anybody needs */
                fraction = fraction * 10 + (uint64_t)(*p - '0');
                scale *= 10;
            }
        }
    }
    unsigned shift = 0;
    if (*p) {
        const char *suffix = strchr(suffixes, tolower((unsigned char)*p));
        if (!suffix)
            goto bad;
        shift = 10 * (unsigned)(suffix - suffixes + 1);
        p++;
        if (!strcasecmp(p, "ib") || !strcasecmp(p, "b"))
            p += strlen(p);
    }
    if (*p || (scale > 1 && !shift))
        goto bad;
    if (overflow || (shift && whole >> (63 - shift)))
        return fp_error(FARPOOL_E_INVAL, "'%.60s' is too large for a size", text);
    /* fraction < 10^6 < 2^20, shift <= 40 */
    *bytes = (whole << shift) + ((fraction << shift) / scale);
    return 0;
bad:
    return fp_error(FARPOOL_E_INVAL, "'%.60s' is not a size (examples: 4096, 64m, 1.5g)", text);
}

const char *fp_config_size_text(uint64_t bytes, char *buffer, size_t size)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    unsigned u = 0;
    double value = (double)bytes;
    for (; value >= 1024 && u < 4; u++)
        value /= 1024;
    bool whole = u == 0 || value == (double)(uint64_t)value;
    snprintf(buffer, size, "%.*f %s", whole ? 0 : 1, value, units[u]);
    return buffer;
}

/* ---- files ----------------------------------------------------------------------------------- */

static const fp_option *find_option(const fp_option *options, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(options[i].name, name))
            return &options[i];
    }
    return NULL;
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len && isspace((unsigned char)text[len - 1]))
        text[--len] = 0;
    return text;
}

/* One line, without its newline, changed in place. */
static int apply_line(char *line, const fp_option *options, size_t count, void *target)
{
    for (char *p = line; *p; p++) {
        if (*p == '#' && (p == line || isspace((unsigned char)p[-1]))) {
            *p = 0;
            break;
        }
    }
    char *key = trim(line);
    if (!*key)
        return 0;
    char *equals = strchr(key, '=');
    if (!equals)
        return fp_error(FARPOOL_E_INVAL, "expected 'key = value', found '%.60s'", key);
    *equals = 0;
    key = trim(key);
    char *value = trim(equals + 1);
    const fp_option *option = find_option(options, count, key);
    if (!option)
        return fp_error(FARPOOL_E_INVAL, "unknown key '%.60s'", key);
    if (option->command_line_only)
        return fp_error(FARPOOL_E_INVAL, "'%s' may be given on the command line only", key);
    if (!*value)
        return fp_error(FARPOOL_E_INVAL, "'%s' has no value", key);
    int rc = option->set(target, value);
    if (rc) {
        char why[400];
        snprintf(why, sizeof why, "%s", farpool_errmsg());
        return fp_error(rc, "%s: %s", key, why);
    }
    return 0;
}

int fp_config_text(const char *origin, const char *text, size_t len, const fp_option *options,
                   size_t count, void *target)
{
    const char *end = text + len;
    for (unsigned number = 1; text < end; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t line_len = (size_t)((newline ? newline : end) - text);
        char line[FP_CONFIG_LINE_MAX + 1];
        if (line_len > FP_CONFIG_LINE_MAX)
            return fp_error(FARPOOL_E_INVAL, "%s:%u: the line is longer than %d bytes", origin,
                            number, FP_CONFIG_LINE_MAX);
        if (memchr(text, 0, line_len))
            return fp_error(FARPOOL_E_INVAL, "%s:%u: a zero byte; is this a text file?", origin,
                            number);
        memcpy(line, text, line_len);
        line[line_len] = 0;
        int rc = apply_line(line, options, count, target);
        if (rc) {
            char why[450];
            snprintf(why, sizeof why, "%s", farpool_errmsg());
            return fp_error(rc, "%s:%u: %s", origin, number, why);
        }
        text += line_len + (newline ? 1 : 0);
    }
    return 0;
}

int fp_config_file(const char *path, const fp_option *options, size_t count, void *target)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return fp_error_sys("reading configuration file %s", path);
    char *text = malloc(FP_CONFIG_FILE_MAX);
    if (!text) {
        fclose(file);
        return fp_error(FARPOOL_E_NOMEM, "reading configuration file %s: no memory", path);
    }
    size_t len = fread(text, 1, FP_CONFIG_FILE_MAX, file);
    int rc;
    if (ferror(file))
        rc = fp_error_sys("reading configuration file %s", path);
    else if (len == FP_CONFIG_FILE_MAX)
        rc = fp_error(FARPOOL_E_INVAL, "%s: larger than %d bytes; is this a configuration file?",
                      path, FP_CONFIG_FILE_MAX);
    else
        rc = fp_config_text(path, text, len, options, count, target);
    free(text);
    fclose(file);
    return rc;
}

/* ---- command line ---------------------------------------------------------------------------- */

enum { ARG_HELP = 1000, ARG_VERSION };

/* One pass over the command line: calls set for each option, or, with only set, only for that
 * one. */
static int walk_args(int argc, char **argv, const fp_option *options, size_t count,
                     int (*set)(const fp_option *option, const char *value, void *arg), void *arg,
                     bool *help, bool *version)
{
    struct option longs[FP_CONFIG_OPTIONS_MAX + 3] = {{0}};
    FP_ASSERT(count <= FP_CONFIG_OPTIONS_MAX);
    for (size_t i = 0; i < count; i++)
        longs[i] = (struct option){options[i].name, required_argument, NULL, (int)i};
    longs[count] = (struct option){"help", no_argument, NULL, ARG_HELP};
    longs[count + 1] = (struct option){"version", no_argument, NULL, ARG_VERSION};
    optind = 0; /* glibc: start anew */
    opterr = 0;
    for (;;) {
        int c = getopt_long(argc, argv, ":", longs, NULL);
        if (c == -1)
            break;
        if (c == ARG_HELP || c == ARG_VERSION) {
            *(c == ARG_HELP ? help : version) = true;
            return 0;
        }
        if (c == ':')
            return fp_error(FARPOOL_E_INVAL, "%.60s needs a value; --help lists the options",
                            argv[optind - 1]);
        if (c == '?' && optopt && optopt < 256)
            return fp_error(FARPOOL_E_INVAL, "unknown option -%c; --help lists the options",
                            optopt);
        if (c == '?')
            return fp_error(FARPOOL_E_INVAL, "unknown option %.60s; --help lists the options",
                            argv[optind - 1]);
        int rc = set(&options[c], optarg, arg);
        if (rc)
            return rc;
    }
    if (optind < argc)
        return fp_error(FARPOOL_E_INVAL, "unexpected argument '%.60s'; --help lists the options",
                        argv[optind]);
    return 0;
}

typedef struct walk {
    const char *config_option;
    const char *config_path;
    void *target;
} walk;

static int note_config(const fp_option *option, const char *value, void *arg)
{
    walk *w = arg;
    if (w->config_option && !strcmp(option->name, w->config_option))
        w->config_path = value;
    return 0;
}

static int apply_flag(const fp_option *option, const char *value, void *arg)
{
    walk *w = arg;
    if (w->config_option && !strcmp(option->name, w->config_option))
        return 0;
    int rc = option->set(w->target, value);
    if (rc) {
        char why[450];
        snprintf(why, sizeof why, "%s", farpool_errmsg());
        return fp_error(rc, "--%s: %s", option->name, why);
    }
    return 0;
}

int fp_config_args(int argc, char **argv, const fp_option *options, size_t count,
                   const char *config_option, void (*before_flags)(void *target), void *target,
                   bool *help, bool *version)
{
    walk w = {.config_option = config_option, .target = target};
    *help = *version = false;
    int rc = walk_args(argc, argv, options, count, note_config, &w, help, version);
    if (rc || *help || *version)
        return rc;
    if (w.config_path) {
        rc = fp_config_file(w.config_path, options, count, target);
        if (rc)
            return rc;
    }
    if (before_flags)
        before_flags(target);
    return walk_args(argc, argv, options, count, apply_flag, &w, help, version);
}

void fp_config_help(FILE *out, const fp_option *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char head[80];
        snprintf(head, sizeof head, "--%s %s", options[i].name, options[i].value);
        const char *line = options[i].help;
        for (bool first = true; line; first = false) {
            const char *newline = strchr(line, '\n');
            int len = newline ? (int)(newline - line) : (int)strlen(line);
            fprintf(out, "  %-24s %.*s\n", first ? head : "", len, line);
            line = newline ? newline + 1 : NULL;
        }
    }
    fprintf(out, "  %-24s %s\n  %-24s %s\n", "--help", "this text", "--version",
            "the program's version");
}
