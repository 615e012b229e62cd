/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/require.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/error.h"

void test_require_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s is false (%s)\n", file, line, what, farpool_errmsg());
    exit(1);
}

void test_must(int rc, const char *what)
{
    if (!rc)
        return;
    fprintf(stderr, "test set-up: %s: %s (%s)\n", what, farpool_errmsg(), fp_error_name(rc));
    exit(1);
}
