/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes figures in Prometheus's text format (version 0.0.4): for each metric a HELP and a TYPE line, then its samples.
 * Names follow its conventions: base units (_bytes, _seconds), _total behind counters. Numbers are whole ones, or
 * seconds given in nanoseconds: nothing depends on the locale of the process.
 *
 *   fp_metrics m = {.buffer = text, .capacity = sizeof text, .prefix = "farpool_memnode_"};
 *   fp_metrics_gauge(&m, "connections", "Connections of clients.", 3);
 *   fp_metrics_begin(&m, FP_METRIC_GAUGE, "partition_epoch", "Epoch of a partition.");
 *   fp_metrics_sample_of(&m, "partition", 7, 12);
 *   fp_metrics_end(&m): the length
 */
#ifndef FP_COMMON_METRICS_H
#define FP_COMMON_METRICS_H

#include <stddef.h>
#include <stdint.h>

enum fp_metric_type { FP_METRIC_GAUGE, FP_METRIC_COUNTER, FP_METRIC_HISTOGRAM };

typedef struct fp_metrics {
    char *buffer; /* may be NULL if capacity is 0 */
    size_t capacity;
    size_t len;         /* of the whole text, also if it does not fit */
    const char *prefix; /* of the names of what is begun from now on */
    const char *name;   /* of the metric that was begun last, without prefix */
} fp_metrics;

/* A metric of its own, without labels. */
void fp_metrics_gauge(fp_metrics *m, const char *name, const char *help, uint64_t value);
void fp_metrics_counter(fp_metrics *m, const char *name, const char *help, uint64_t value);
/* The same in seconds. */
void fp_metrics_gauge_ns(fp_metrics *m, const char *name, const char *help, uint64_t ns);
void fp_metrics_counter_ns(fp_metrics *m, const char *name, const char *help, uint64_t ns);

/* A metric whose samples, with one label each, follow. No two of them have the same value of the label. */
void fp_metrics_begin(fp_metrics *m, enum fp_metric_type type, const char *name, const char *help);
void fp_metrics_sample(fp_metrics *m, const char *label, const char *text, uint64_t value);
void fp_metrics_sample_of(fp_metrics *m, const char *label, uint64_t number, uint64_t value);

/* Of `count` buckets the i-th counts what is above upto_ns[i - 1] and at most upto_ns[i]; `beyond` is above all.
 * The total is their sum, so that it fits them even if they are being counted up. */
void fp_metrics_histogram(fp_metrics *m, const char *name, const char *help,
                          const uint64_t *upto_ns, const uint64_t *buckets, unsigned count,
                          uint64_t beyond, uint64_t sum_ns);

/* Ends the text with a zero byte. Returns its length without that: it is whole if that is less than capacity. */
size_t fp_metrics_end(fp_metrics *m);

#endif
