/* SPDX-License-Identifier: Apache-2.0 */
/* A storage node's client who gives it a log that changes pages and compares what it makes of them; and what happens to
 * volumes between. Failures end the process. */
#ifndef FP_TESTS_LIB_PAGES_CLIENT_H
#define FP_TESTS_LIB_PAGES_CLIENT_H

#include "tests/lib/logclient.h"
#include "tests/lib/page_log.h"

enum { PAGES_CLIENT_FRAME = 64 << 10 }; /* no frame is longer */

/* Becomes the one who appends, with a log from `from` on, and gives all that the log has more. */
void test_pages_give(logclient *c, const page_log *owner, uint64_t from);
/* All pages as of lsn (0: the newest, which is the log's end). 0, or the last failure; a page that came is right. */
int test_pages_compare(logclient *c, const page_log *owner, uint64_t lsn);
/* The check finds nothing wrong with the volume, which nobody serves. */
void test_pages_check(const char *volume);
/* Overwrites bytes of the largest file whose name is like that, counted from its end if `at` is negative. False: there is
 * none that is so long. */
bool test_pages_hurt(const char *volume, const char *pattern, long at, size_t bytes);

#endif
