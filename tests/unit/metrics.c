/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that figures are written in Prometheus's text format, whatever their values, labels and room. */
#include "common/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/promtext.h"

static void write_some(fp_metrics *m)
{
    static const uint64_t upto[] = {255, 4095, 1999999999}, buckets[] = {3, 0, 4};
    m->prefix = "test_";
    fp_metrics_gauge(m, "things", "A backslash \\ and\na second line.", UINT64_MAX);
    fp_metrics_counter(m, "things_total", "Things.", 0);
    fp_metrics_counter_ns(m, "work_seconds_total", "Work.", 1234567890123);
    fp_metrics_gauge_ns(m, "age_seconds", "Age.", 5);
    fp_metrics_begin(m, FP_METRIC_GAUGE, "empty", "Nothing to tell.");
    fp_metrics_begin(m, FP_METRIC_GAUGE, "named", "With labels.");
    fp_metrics_sample(m, "name", "quote \" backslash \\ newline \n end", 1);
    fp_metrics_sample_of(m, "name", 18446744073709551615u, 2);
    fp_metrics_histogram(m, "wait_seconds", "Waits.", upto, buckets, 3, 2, 12000000000);
}

static const char expected[] = "# HELP test_things A backslash \\\\ and\\na second line.\n"
                               "# TYPE test_things gauge\n"
                               "test_things 18446744073709551615\n"
                               "# HELP test_things_total Things.\n"
                               "# TYPE test_things_total counter\n"
                               "test_things_total 0\n"
                               "# HELP test_work_seconds_total Work.\n"
                               "# TYPE test_work_seconds_total counter\n"
                               "test_work_seconds_total 1234.567890123\n"
                               "# HELP test_age_seconds Age.\n"
                               "# TYPE test_age_seconds gauge\n"
                               "test_age_seconds 0.000000005\n"
                               "# HELP test_empty Nothing to tell.\n"
                               "# TYPE test_empty gauge\n"
                               "# HELP test_named With labels.\n"
                               "# TYPE test_named gauge\n"
                               "test_named{name=\"quote \\\" backslash \\\\ newline \\n end\"} 1\n"
                               "test_named{name=\"18446744073709551615\"} 2\n"
                               "# HELP test_wait_seconds Waits.\n"
                               "# TYPE test_wait_seconds histogram\n"
                               "test_wait_seconds_bucket{le=\"0.000000255\"} 3\n"
                               "test_wait_seconds_bucket{le=\"0.000004095\"} 3\n"
                               "test_wait_seconds_bucket{le=\"1.999999999\"} 7\n"
                               "test_wait_seconds_bucket{le=\"+Inf\"} 9\n"
                               "test_wait_seconds_sum 12.000000000\n"
                               "test_wait_seconds_count 9\n";

static void text_is_as_prometheus_reads_it(void **state)
{
    (void)state;
    char text[4096];
    double value;
    fp_metrics m = {.buffer = text, .capacity = sizeof text};
    write_some(&m);
    assert_int_equal(fp_metrics_end(&m), sizeof expected - 1);
    assert_string_equal(text, expected);
    assert_null(promtext_error(text));
    assert_true(promtext_value(text, "test_wait_seconds_bucket{le=\"+Inf\"}", &value));
    assert_true(value == 9);
    assert_false(promtext_value(text, "test_empty", &value));
}

static void any_room_gets_what_fits(void **state)
{
    (void)state;
    char text[sizeof expected + 1];
    for (size_t room = 0; room <= sizeof expected; room++) {
        memset(text, 'x', sizeof text);
        fp_metrics m = {.buffer = room ? text : NULL, .capacity = room};
        write_some(&m);
        assert_int_equal(fp_metrics_end(&m), sizeof expected - 1);
        size_t len = room < sizeof expected ? room : sizeof expected;
        if (len) {
            assert_memory_equal(text, expected, len - 1);
            assert_int_equal(text[len - 1], 0);
        }
        assert_int_equal(text[room], 'x');
    }
}

/* The reader is worth something only if it refuses. */
static void the_reader_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "a 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1",
        "# HELP a A.\na 1\n",
        "# TYPE a gauge\na 1\n",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a A.\n# TYPE a gauge\na 1,5\n",
        "# HELP a A.\n# TYPE a gauge\na -1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"c\" 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=c} 1\n",
        "# HELP a A.\n# TYPE a gauge\na{b=\"\\x\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\nb 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\n# HELP a A.\n# TYPE a gauge\n",
        "# HELP a A.\n# TYPE a gauge\n\n",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_sum 1\na_count 2\n",
        "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 3\n",
        ("# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"2\"} 1\n"
         "a_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 2\n"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (!promtext_error(bad[i]))
            fail_msg("taken: %s", bad[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_as_prometheus_reads_it),
        cmocka_unit_test(any_room_gets_what_fits),
        cmocka_unit_test(the_reader_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
