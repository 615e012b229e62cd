/* SPDX-License-Identifier: Apache-2.0 */
/* A strict reader of Prometheus's text format, and what a test wants to know of such a text. */
#ifndef FP_TESTS_LIB_PROMTEXT_H
#define FP_TESTS_LIB_PROMTEXT_H

#include <stdbool.h>
#include <stddef.h>

/* NULL: the text is as it should be. Else what is wrong with which line. Stricter than Prometheus: each metric has a
 * HELP and then a TYPE line, its samples follow at once, names and labels fit their types (counters end in _total,
 * histograms have rising buckets, +Inf, _sum and _count that agree), no series occurs twice, no time stamps. */
const char *promtext_error(const char *text);

/* The value of a series, written as in the text: NAME or NAME{label="value"}. False: there is none. */
bool promtext_value(const char *text, const char *series, double *value);

/* What a GET (or another method) of a path at HOST:PORT is answered with, headers included; the caller's to free().
 * Ends the process if nobody answers. */
char *http_request(const char *address, const char *method, const char *path);
/* The body of GET /metrics, which is checked; the caller's to free(). */
char *promtext_get(const char *address);

#endif
