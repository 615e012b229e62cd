/* SPDX-License-Identifier: Apache-2.0 */
/* The signal handler behind farpool_section_enter (farpool.h). */
#ifndef FP_COMPUTE_SECTION_H
#define FP_COMPUTE_SECTION_H

#include <stddef.h>

#include "farpool.h"

/* Faults in [start, +len) may be restarted. Installs the handler, if it is not. Any thread. */
int fp_section_window_add(void *start, size_t len) FARPOOL_MUST_CHECK;
void fp_section_window_remove(void *start);

#endif
