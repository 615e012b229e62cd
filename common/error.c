/* SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Per thread, so no lock. */
static __thread char last_message[512];

const char *farpool_errmsg(void) { return last_message[0] ? last_message : "no error"; }

const char *farpool_strerror(int code)
{
    switch (code) {
#define FARPOOL_ERROR_TEXT(name, value, text)                                                      \
    case value:                                                                                    \
        return text;
        FARPOOL_ERRORS(FARPOOL_ERROR_TEXT)
#undef FARPOOL_ERROR_TEXT
    default:
        return "unknown error";
    }
}

const char *fp_error_name(int code)
{
    switch (code) {
#define FARPOOL_ERROR_NAME(name, value, text)                                                      \
    case value:                                                                                    \
        return #name;
        FARPOOL_ERRORS(FARPOOL_ERROR_NAME)
#undef FARPOOL_ERROR_NAME
    default:
        return "E_?";
    }
}

int fp_error(int code, const char *format, ...)
{
    char text[sizeof last_message]; /* what is said may be part of it */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    strcpy(last_message, text);
    return code;
}

int fp_error_sys(const char *format, ...)
{
    int error = errno;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(last_message, sizeof last_message, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof last_message)
        snprintf(last_message + n, sizeof last_message - (size_t)n, ": %s", strerror(error));
    return error == ENOMEM ? FARPOOL_E_NOMEM : FARPOOL_E_SYS;
}

void fp_bug(const char *file, int line, const char *what)
{
    fprintf(stderr, "farpool: bug at %s:%d: %s is false; please report this\n", file, line, what);
    abort();
}
