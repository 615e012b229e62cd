/* SPDX-License-Identifier: Apache-2.0 */
/* What an optimistic reader reads may be written at that moment; it finds out afterwards. Such reads are
 * hidden from ThreadSanitizer, and only they. */
#ifndef FP_TESTS_LIB_RACY_H
#define FP_TESTS_LIB_RACY_H

#include <stdint.h>

__attribute__((no_sanitize("thread"), noinline)) static uint64_t racy_load(const uint64_t *word)
{
    return *(const volatile uint64_t *)word;
}

#endif
