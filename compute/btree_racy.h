/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of pages that a writer may be changing at that moment (common/racy.h). The reader validates the page's
 * version afterwards and throws away what it got. Loads are volatile: a bound that was checked must be the one that
 * is used.
 */
#ifndef FP_COMPUTE_BTREE_RACY_H
#define FP_COMPUTE_BTREE_RACY_H

#include "common/racy.h"

FP_RACY static uint8_t fp_racy_u8(const uint8_t *p) { return *(const volatile uint8_t *)p; }

FP_RACY static uint16_t fp_racy_u16(const uint16_t *p) { return *(const volatile uint16_t *)p; }

FP_RACY static uint64_t fp_racy_u64(const uint64_t *p) { return *(const volatile uint64_t *)p; }

FP_RACY static int fp_racy_compare(const void *page, const void *ours, size_t len)
{
#ifdef FP_RACY_TSAN
    const volatile uint8_t *a = page;
    const uint8_t *b = ours;
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = a[i];
        if (byte != b[i])
            return byte < b[i] ? -1 : 1;
    }
    return 0;
#else
    return len ? memcmp(page, ours, len) : 0;
#endif
}

#endif
