/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes of memory that others may be changing, or reading, at that moment: pages under an optimistic
 * reader, and rings, which peers reach without asking. Whoever reads so validates what he got and throws it away if
 * it is no good; these races are meant, and ThreadSanitizer is told so here, and nowhere else. In builds for
 * ThreadSanitizer memcpy is a loop, for its interceptor would report all the same.
 */
#ifndef FP_COMMON_RACY_H
#define FP_COMMON_RACY_H

#include <stdatomic.h>
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

/* What was read before is from before what is read after. */
FP_RACY static void fp_racy_read_order(void)
{
#ifdef FP_RACY_TSAN
    _Atomic int fence = 0; /* gcc refuses fences for ThreadSanitizer */
    atomic_fetch_add_explicit(&fence, 0, memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_acquire);
#endif
}

#endif
