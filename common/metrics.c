/* SPDX-License-Identifier: Apache-2.0 */
#include "common/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void put(fp_metrics *m, const char *text, size_t len)
{
    if (m->len < m->capacity) {
        size_t room = m->capacity - m->len;
        memcpy(m->buffer + m->len, text, len < room ? len : room);
    }
    m->len += len;
}

static void put_text(fp_metrics *m, const char *text) { put(m, text, strlen(text)); }

static void put_char(fp_metrics *m, char c) { put(m, &c, 1); }

/* A backslash and a newline are escaped everywhere, a quotation mark in a label's value. */
static void put_escaped(fp_metrics *m, const char *text, char quote)
{
    for (; *text; text++) {
        if (*text == '\\' || (quote && *text == quote))
            put_char(m, '\\');
        if (*text == '\n')
            put_text(m, "\\n");
        else
            put_char(m, *text);
    }
}

static void put_number(fp_metrics *m, uint64_t number)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    put_text(m, text);
}

static void put_seconds(fp_metrics *m, uint64_t ns)
{
    char text[40];
    snprintf(text, sizeof text, "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
    put_text(m, text);
}

static void put_name(fp_metrics *m, const char *suffix)
{
    put_text(m, m->prefix);
    put_text(m, m->name);
    put_text(m, suffix);
}

static void put_label(fp_metrics *m, const char *label, const char *text)
{
    put_char(m, '{');
    put_text(m, label);
    put_text(m, "=\"");
    put_escaped(m, text, '"');
    put_text(m, "\"}");
}

static void put_value(fp_metrics *m, uint64_t value)
{
    put_char(m, ' ');
    put_number(m, value);
    put_char(m, '\n');
}

static void put_value_ns(fp_metrics *m, uint64_t ns)
{
    put_char(m, ' ');
    put_seconds(m, ns);
    put_char(m, '\n');
}

void fp_metrics_begin(fp_metrics *m, enum fp_metric_type type, const char *name, const char *help)
{
    static const char *const types[] = {
        [FP_METRIC_GAUGE] = "gauge",
        [FP_METRIC_COUNTER] = "counter",
        [FP_METRIC_HISTOGRAM] = "histogram",
    };
    m->name = name;
    put_text(m, "# HELP ");
    put_name(m, " ");
    put_escaped(m, help, 0);
    put_text(m, "\n# TYPE ");
    put_name(m, " ");
    put_text(m, types[type]);
    put_char(m, '\n');
}

void fp_metrics_gauge(fp_metrics *m, const char *name, const char *help, uint64_t value)
{
    fp_metrics_begin(m, FP_METRIC_GAUGE, name, help);
    put_name(m, "");
    put_value(m, value);
}

void fp_metrics_counter(fp_metrics *m, const char *name, const char *help, uint64_t value)
{
    fp_metrics_begin(m, FP_METRIC_COUNTER, name, help);
    put_name(m, "");
    put_value(m, value);
}

void fp_metrics_gauge_ns(fp_metrics *m, const char *name, const char *help, uint64_t ns)
{
    fp_metrics_begin(m, FP_METRIC_GAUGE, name, help);
    put_name(m, "");
    put_value_ns(m, ns);
}

void fp_metrics_counter_ns(fp_metrics *m, const char *name, const char *help, uint64_t ns)
{
    fp_metrics_begin(m, FP_METRIC_COUNTER, name, help);
    put_name(m, "");
    put_value_ns(m, ns);
}

void fp_metrics_sample(fp_metrics *m, const char *label, const char *text, uint64_t value)
{
    put_name(m, "");
    put_label(m, label, text);
    put_value(m, value);
}

void fp_metrics_sample_of(fp_metrics *m, const char *label, uint64_t number, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    fp_metrics_sample(m, label, text, value);
}

void fp_metrics_histogram(fp_metrics *m, const char *name, const char *help,
                          const uint64_t *upto_ns, const uint64_t *buckets, unsigned count,
                          uint64_t beyond, uint64_t sum_ns)
{
    uint64_t total = 0;
    fp_metrics_begin(m, FP_METRIC_HISTOGRAM, name, help);
    for (unsigned i = 0; i < count; i++) {
        total += buckets[i];
        put_name(m, "_bucket{le=\"");
        put_seconds(m, upto_ns[i]);
        put_text(m, "\"}");
        put_value(m, total);
    }
    total += beyond;
    put_name(m, "_bucket{le=\"+Inf\"}");
    put_value(m, total);
    put_name(m, "_sum");
    put_value_ns(m, sum_ns);
    put_name(m, "_count");
    put_value(m, total);
}

size_t fp_metrics_end(fp_metrics *m)
{
    if (m->capacity)
        m->buffer[m->len < m->capacity ? m->len : m->capacity - 1] = 0;
    return m->len;
}
