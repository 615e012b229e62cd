/* SPDX-License-Identifier: Apache-2.0 */
/* For tests that are no cmocka tests, for threads and for set-up: what must be so, or the process ends. */
#ifndef FP_TESTS_LIB_REQUIRE_H
#define FP_TESTS_LIB_REQUIRE_H

/* Ends the test unless it is so, with farpool_errmsg(). */
#define REQUIRE(condition)                                                                         \
    ((condition) ? (void)0 : test_require_failed(__FILE__, __LINE__, #condition))
void test_require_failed(const char *file, int line, const char *what) __attribute__((noreturn));

/* Ends the test unless rc, the result of what was tried, is 0. */
void test_must(int rc, const char *what);

#endif
