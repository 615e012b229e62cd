/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/latency.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

uint64_t fp_latency_scale;

#ifdef __x86_64__

enum { CALIBRATE_NS = 500000, CPUID_POWER = 0x80000007, CONSTANT_TSC = 1 << 8 };

/* A clock reading and the counter's at the same time: the closest of a few tries. */
static void read_both(uint64_t *ns, uint64_t *ticks)
{
    uint64_t best = UINT64_MAX;
    *ns = *ticks = 0;
    for (int i = 0; i < 16; i++) {
        uint64_t before = __builtin_ia32_rdtsc(), now = fp_now_ns(), after = __builtin_ia32_rdtsc();
        if (after - before < best) {
            best = after - before;
            *ns = now;
            *ticks = before + best / 2;
        }
    }
}

static void calibrate(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(CPUID_POWER, &a, &b, &c, &d) || !(d & CONSTANT_TSC))
        return;
    uint64_t ns[2], ticks[2];
    read_both(&ns[0], &ticks[0]);
    while (fp_now_ns() < ns[0] + CALIBRATE_NS)
        __builtin_ia32_pause();
    read_both(&ns[1], &ticks[1]);
    if (ticks[1] > ticks[0])
        fp_latency_scale = ((ns[1] - ns[0]) << 32) / (ticks[1] - ticks[0]);
}

#else

static void calibrate(void) {}

#endif

void fp_latency_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, calibrate);
}
