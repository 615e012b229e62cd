/* SPDX-License-Identifier: Apache-2.0 */
/* Results of a benchmark: a table for people, or one JSON object with -o json. */
#ifndef FP_BENCH_REPORT_H
#define FP_BENCH_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct bench_options {
    const char *transport; /* default "shm" */
    const char *mapping;   /* default "frames" */
    bool json;
    double scale; /* of the data; 1 by default, smaller for a quick look or a small machine */
} bench_options;

/* Parses --transport, --mapping, --scale, -o json, --help; ends the process on a bad one. */
void bench_parse(int argc, char **argv, const char *what, bench_options *options);

/* Adds a result; names as in the documentation (docs/performance.md). Not thread-safe. */
void bench_add(const char *unit, double value, const char *name_format, ...)
    __attribute__((format(printf, 3, 4)));

/* What is to be plotted, one table for a benchmark: the names of its columns, then NULL, all static; and its rows, each
 * of as many values. In JSON: "series": {"columns": [...], "rows": [[...]]}. Not thread-safe. */
void bench_columns(const char *const *names);
void bench_row(const double *values);

/* Says on stderr what is going on. */
void bench_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints everything. */
void bench_print(const bench_options *options, const char *name);

/* Ends the process with farpool_errmsg() if code is not 0. */
void bench_check(int code, const char *what);

uint64_t bench_random(uint64_t *state); /* xorshift64*: Vigna, 2016 */
int bench_compare_u64(const void *a, const void *b);

#endif
