/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of pages that a writer may be changing at that moment. The reader validates the page's version
 * afterwards and throws away what it got, so these races are meant; ThreadSanitizer is told so here, and
 * nowhere else. Loads are volatile: a bound that was checked must be the one that is used. In builds for
 * ThreadSanitizer memcpy and memcmp are loops, for their interceptors would report all the same.
 */
#ifndef FP_COMPUTE_BTREE_RACY_H
#define FP_COMPUTE_BTREE_RACY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FP_RACY_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define FP_RACY_TSAN 1
#endif

#ifdef FP_RACY_TSAN
#define FP_RACY __attribute__((no_sanitize("thread"), noinline, unused))
#else
#define FP_RACY __attribute__((always_inline)) inline
#endif

FP_RACY static uint8_t fp_racy_u8(const uint8_t *p) { return *(const volatile uint8_t *)p; }

FP_RACY static uint16_t fp_racy_u16(const uint16_t *p) { return *(const volatile uint16_t *)p; }

FP_RACY static uint64_t fp_racy_u64(const uint64_t *p) { return *(const volatile uint64_t *)p; }

FP_RACY static void fp_racy_copy(void *to, const void *from, size_t len)
{
#ifdef FP_RACY_TSAN
    const volatile uint8_t *source = from;
    uint8_t *target = to;
    for (size_t i = 0; i < len; i++)
        target[i] = source[i];
#else
    memcpy(to, from, len);
#endif
}

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
