/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What wakes somebody who is one part of an event loop: a time, or another thread's word. One descriptor for both, to which
 * its owner may add others. All is the owner's thread's but fp_wake_up.
 */
#ifndef FP_COMMON_CLUSTER_WAKE_H
#define FP_COMMON_CLUSTER_WAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "farpool.h"

typedef struct fp_wake {
    int epoll_fd, event_fd, timer_fd; /* -1: none, as in a simulated world, which looks at due_ns */
    uint64_t due_ns;                  /* the time; UINT64_MAX: none */
} fp_wake;

/* One without descriptors, which only remembers the time. */
#define FP_WAKE_NONE ((fp_wake){-1, -1, -1, UINT64_MAX})

/* Gives such a one its descriptors, for what: "for peers". E_SYS: fp_wake_close tidies up. */
int fp_wake_open(fp_wake *wake, const char *what) FARPOOL_MUST_CHECK;
void fp_wake_close(fp_wake *wake);

/* The descriptor polls readable until fp_wake_take. Any thread. */
void fp_wake_up(const fp_wake *wake);
/* It will at this time of fp_now_ns, not at the one that was set before. UINT64_MAX: never. */
void fp_wake_at(fp_wake *wake, uint64_t due_ns);
/* It does no more. True: the time had come, and is none now. */
bool fp_wake_take(fp_wake *wake, uint64_t now);

#endif
