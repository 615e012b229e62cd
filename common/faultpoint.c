/* SPDX-License-Identifier: Apache-2.0 */
#include "common/faultpoint.h"

#ifdef FARPOOL_FAULTS
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the environment asks for: written once, under pthread_once. */
static enum fp_fault_point armed = FP_FAULT_COUNT;
static unsigned long passages;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic unsigned long passed; /* relaxed: only its own order matters */

static void read_environment(void)
{
    static const char *const names[] = {
#define X(name) #name,
        FP_FAULT_POINTS(X)
#undef X
    };
    const char *text = getenv("FARPOOL_FAULT_POINT"), *colon;
    char *end = "";
    if (!text || !*text)
        return;
    colon = strchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : strlen(text);
    passages = colon ? strtoul(colon + 1, &end, 10) : 1;
    for (unsigned i = 0; i < FP_FAULT_COUNT; i++)
        if (strlen(names[i]) == len && !memcmp(names[i], text, len))
            armed = (enum fp_fault_point)i;
    if (armed != FP_FAULT_COUNT && passages && !*end)
        return;
    fprintf(stderr,
            "FARPOOL_FAULT_POINT=%s: must be a point of common/faultpoint.h, or POINT:N with N "
            "from 1 on\n",
            text);
    abort();
}

void fp_fault_pass(enum fp_fault_point point)
{
    pthread_once(&once, read_environment);
    if (point == armed &&
        atomic_fetch_add_explicit(&passed, 1, memory_order_relaxed) + 1 == passages)
        raise(SIGKILL);
}
#endif
