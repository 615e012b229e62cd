/* SPDX-License-Identifier: Apache-2.0 */
/* A sentence kept until somebody is told: other requests complete meanwhile and set farpool_errmsg(). */
#ifndef FP_COMMON_KEPT_H
#define FP_COMMON_KEPT_H

#include <stdio.h>

#include "common/error.h"

enum { FP_KEPT_MAX = 512 };

typedef struct fp_kept {
    int status;
    char reason[FP_KEPT_MAX];
} fp_kept;

/* With farpool_errmsg() of now. The first one stays. */
static inline void fp_kept_set(fp_kept *kept, int status)
{
    if (kept->status)
        return;
    kept->status = status;
    snprintf(kept->reason, sizeof kept->reason, "%s", farpool_errmsg());
}

/* Sets farpool_errmsg() again; the status. */
static inline int fp_kept_tell(const fp_kept *kept)
{
    return kept->status ? fp_error(kept->status, "%s", kept->reason) : 0;
}

#endif
