/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: a negative FARPOOL_E_* code plus a sentence kept per thread for farpool_errmsg(). */
#ifndef FP_COMMON_ERROR_H
#define FP_COMMON_ERROR_H

#include "farpool.h"

/* Records the sentence and returns the code, so that `return fp_error(FARPOOL_E_SYS, ...)` does both.
 * The sentence says what was tried, on what, and what to do; the last one (farpool_errmsg()) may be part of it. Safe
 * from any thread, not from signal handlers. */
int fp_error(int code, const char *format, ...) __attribute__((format(printf, 2, 3), cold));

/* The same for a failed system call: appends strerror(errno). */
int fp_error_sys(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

/* "E_NODE" for FARPOOL_E_NODE, "E_?" for an unknown number. */
const char *fp_error_name(int code);

/* Ends the process: for violations of our own invariants only, never for input, peers or disks. */
void fp_bug(const char *file, int line, const char *what) __attribute__((noreturn, cold));
#define FP_ASSERT(condition)                                                                       \
    (__builtin_expect(!!(condition), 1) ? (void)0 : fp_bug(__FILE__, __LINE__, #condition))

#endif
