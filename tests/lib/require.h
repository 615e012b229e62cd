/* SPDX-License-Identifier: Apache-2.0 */
/* For tests that are no cmocka tests, for threads and for set-up: what must be so, or the process ends. */
#ifndef FP_TESTS_LIB_REQUIRE_H
#define FP_TESTS_LIB_REQUIRE_H

#include <stdint.h>

/* Ends the test unless it is so, with farpool_errmsg(). */
#define REQUIRE(condition)                                                                         \
    ((condition) ? (void)0 : test_require_failed(__FILE__, __LINE__, #condition))
void test_require_failed(const char *file, int line, const char *what) __attribute__((noreturn));

/* Looks at it every millisecond until it is so; ends the test after AWAIT_S, which is a limit against hanging only. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        uint64_t await_end = test_await_end();                                                     \
        while (!(condition))                                                                       \
            test_await(await_end, __FILE__, __LINE__, #condition);                                 \
    } while (0)
enum { AWAIT_S = 60 };
uint64_t test_await_end(void);
void test_await(uint64_t end_ns, const char *file, int line, const char *what);
/* A millisecond without the CPU. */
void test_nap(void);

/* Ends the test unless rc, the result of what was tried, is 0. */
void test_must(int rc, const char *what);

#endif
