/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/require.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"

void test_require_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s is false (%s)\n", file, line, what, farpool_errmsg());
    exit(1);
}

void test_nap(void) { nanosleep(&(struct timespec){0, 1000000}, NULL); }

uint64_t test_await_end(void) { return fp_now_ns() + AWAIT_S * UINT64_C(1000000000); }

void test_await(uint64_t end_ns, const char *file, int line, const char *what)
{
    if (fp_now_ns() > end_ns)
        test_require_failed(file, line, what);
    test_nap();
}

void test_must(int rc, const char *what)
{
    if (!rc)
        return;
    fprintf(stderr, "test set-up: %s: %s (%s)\n", what, farpool_errmsg(), fp_error_name(rc));
    exit(1);
}
