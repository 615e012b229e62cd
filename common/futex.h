/* SPDX-License-Identifier: Apache-2.0 */
/* Sleeping until a word changes (futex(2)), within this process. */
#ifndef FP_COMMON_FUTEX_H
#define FP_COMMON_FUTEX_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleeps while *word is `value`; may return early. timeout_us 0: without end. */
static inline void fp_futex_wait(_Atomic uint32_t *word, uint32_t value, unsigned timeout_us)
{
    struct timespec timeout = {timeout_us / 1000000, (long)(timeout_us % 1000000) * 1000};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_us ? &timeout : NULL, NULL, 0);
}

static inline void fp_futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* The same for a part of those who sleep: whoever has one of these bits is woken, at most `count` of them. */
static inline void fp_futex_wait_bits(_Atomic uint32_t *word, uint32_t value, uint32_t bits)
{
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, NULL, NULL, bits);
}

static inline void fp_futex_wake_bits(_Atomic uint32_t *word, int count, uint32_t bits)
{
    syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, count, NULL, NULL, bits);
}

#endif
