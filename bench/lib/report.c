/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/lib/report.h"

#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "farpool.h"

enum { RESULTS_MAX = 100, COLUMNS_MAX = 8, ROWS_MAX = 32 };

static struct {
    char name[96];
    const char *unit;
    double value;
} results[RESULTS_MAX];
static unsigned result_count;

static struct {
    const char *const *names;
    unsigned columns, rows;
    double values[ROWS_MAX][COLUMNS_MAX];
} series;

void bench_parse(int argc, char **argv, const char *what, bench_options *options)
{
    static const struct option longs[] = {
        {"transport", required_argument, NULL, 't'},
        {"mapping", required_argument, NULL, 'm'},
        {"scale", required_argument, NULL, 's'},
        {"output", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    *options = (bench_options){.transport = "shm", .mapping = "frames", .scale = 1};
    int c;
    while ((c = getopt_long(argc, argv, "o:h", longs, NULL)) != -1) {
        if (c == 't') {
            options->transport = optarg;
        } else if (c == 'm') {
            options->mapping = optarg;
        } else if (c == 's' && atof(optarg) > 0) {
            options->scale = atof(optarg);
        } else if (c == 'o' && !strcmp(optarg, "json")) {
            options->json = true;
        } else {
            fprintf(c == 'h' ? stdout : stderr,
                    "%s\n\n  --transport shm|tcp|verbs  how pages travel (default shm)\n"
                    "  --mapping frames|vm        (default frames)\n"
                    "  --scale X                  so much of the usual data (default 1)\n"
                    "  -o json                    one JSON object instead of a table\n",
                    what);
            exit(c == 'h' ? 0 : 2);
        }
    }
}

static void too_many(int most, const char *what)
{
    fprintf(stderr, "bench: more than %d %s\n", most, what);
    exit(1);
}

void bench_add(const char *unit, double value, const char *name_format, ...)
{
    if (result_count == RESULTS_MAX)
        too_many(RESULTS_MAX, "results");
    va_list args;
    va_start(args, name_format);
    vsnprintf(results[result_count].name, sizeof results[0].name, name_format, args);
    va_end(args);
    results[result_count].unit = unit;
    results[result_count++].value = value;
}

void bench_columns(const char *const *names)
{
    series.names = names;
    while (names[series.columns])
        if (series.columns++ == COLUMNS_MAX)
            too_many(COLUMNS_MAX, "columns");
}

void bench_row(const double *values)
{
    if (series.rows == ROWS_MAX)
        too_many(ROWS_MAX, "rows");
    memcpy(series.values[series.rows++], values, series.columns * sizeof *values);
}

void bench_progress(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("  ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

static void cpu_model(char *model, size_t size)
{
    char line[256];
    snprintf(model, size, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        snprintf(model, size, "%s", colon + 2);
        model[strcspn(model, "\n")] = 0;
        break;
    }
    if (file)
        fclose(file);
}

static void print_table(void)
{
    for (unsigned c = 0; c < series.columns; c++)
        printf("  %16s%s", series.names[c], c + 1 < series.columns ? "" : "\n");
    for (unsigned r = 0; r < series.rows; r++)
        for (unsigned c = 0; c < series.columns; c++)
            printf("  %16.2f%s", series.values[r][c], c + 1 < series.columns ? "" : "\n");
}

static json_t *json_series(void)
{
    json_t *columns = json_array(), *rows = json_array();
    for (unsigned c = 0; c < series.columns; c++)
        json_array_append_new(columns, json_string(series.names[c]));
    for (unsigned r = 0; r < series.rows; r++) {
        json_t *row = json_array();
        for (unsigned c = 0; c < series.columns; c++)
            json_array_append_new(row, json_real(series.values[r][c]));
        json_array_append_new(rows, row);
    }
    return json_pack("{s:o, s:o}", "columns", columns, "rows", rows);
}

static void print_json(const char *name, const char *model, const char *kernel)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < result_count; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:s}", "name", results[i].name, "value",
                                              results[i].value, "unit", results[i].unit));
    json_t *all =
        json_pack("{s:s, s:{s:s, s:i, s:s}, s:o}", "bench", name, "machine", "cpu", model, "cpus",
                  (int)sysconf(_SC_NPROCESSORS_ONLN), "kernel", kernel, "results", list);
    bool failed = series.columns && json_object_set_new(all, "series", json_series());
    if (!all || failed || json_dumpf(all, stdout, JSON_INDENT(2))) {
        fprintf(stderr, "bench: writing the results failed\n");
        exit(1);
    }
    putchar('\n');
    json_decref(all);
}

void bench_print(const bench_options *options, const char *name)
{
    struct utsname uts;
    char model[128];
    uname(&uts);
    cpu_model(model, sizeof model);
    if (options->json) {
        print_json(name, model, uts.release);
        return;
    }
    printf("%s: %s, %ld CPUs, Linux %s\n", name, model, sysconf(_SC_NPROCESSORS_ONLN), uts.release);
    for (unsigned i = 0; i < result_count; i++)
        printf("  %-44s %14.3f %s\n", results[i].name, results[i].value, results[i].unit);
    print_table();
}

void bench_check(int code, const char *what)
{
    if (!code)
        return;
    fprintf(stderr, "bench: %s: %s (%s)\n", what, farpool_errmsg(), farpool_strerror(code));
    exit(1);
}

uint64_t bench_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1Dull;
}

int bench_compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}
