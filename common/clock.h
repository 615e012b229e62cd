/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FP_COMMON_CLOCK_H
#define FP_COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of a clock that never jumps; about 20 ns a call. */
static inline uint64_t fp_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline struct timespec fp_timespec(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

/* For timerfd_settime: that time of such a clock, 0 at once; UINT64_MAX: never. */
static inline struct itimerspec fp_timer_at(uint64_t due_ns)
{
    uint64_t at_ns = due_ns == UINT64_MAX ? 0 : due_ns + !due_ns; /* all zero is never */
    return (struct itimerspec){.it_value = fp_timespec(at_ns)};
}

#endif
