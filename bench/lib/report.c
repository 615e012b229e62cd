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

enum { RESULTS_MAX = 100 };

static struct {
    char name[96];
    const char *unit;
    double value;
} results[RESULTS_MAX];
static unsigned result_count;

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

void bench_add(const char *unit, double value, const char *name_format, ...)
{
    if (result_count == RESULTS_MAX) {
        fprintf(stderr, "bench: more than %d results\n", RESULTS_MAX);
        exit(1);
    }
    va_list args;
    va_start(args, name_format);
    vsnprintf(results[result_count].name, sizeof results[0].name, name_format, args);
    va_end(args);
    results[result_count].unit = unit;
    results[result_count++].value = value;
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

void bench_print(const bench_options *options, const char *name)
{
    struct utsname uts;
    char model[128];
    uname(&uts);
    cpu_model(model, sizeof model);
    if (!options->json) {
        printf("%s: %s, %ld CPUs, Linux %s\n", name, model, sysconf(_SC_NPROCESSORS_ONLN),
               uts.release);
        for (unsigned i = 0; i < result_count; i++)
            printf("  %-44s %14.3f %s\n", results[i].name, results[i].value, results[i].unit);
        return;
    }
    json_t *list = json_array();
    for (unsigned i = 0; i < result_count; i++)
        json_array_append_new(list, json_pack("{s:s, s:f, s:s}", "name", results[i].name, "value",
                                              results[i].value, "unit", results[i].unit));
    json_t *all =
        json_pack("{s:s, s:{s:s, s:i, s:s}, s:o}", "bench", name, "machine", "cpu", model, "cpus",
                  (int)sysconf(_SC_NPROCESSORS_ONLN), "kernel", uts.release, "results", list);
    if (!all || json_dumpf(all, stdout, JSON_INDENT(2))) {
        fprintf(stderr, "bench: writing the results failed\n");
        exit(1);
    }
    putchar('\n');
    json_decref(all);
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
