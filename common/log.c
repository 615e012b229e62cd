/* SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

static const struct {
    const char *name;
    int priority; /* syslog's */
} levels[] = {{"error", 3}, {"warn", 4}, {"info", 6}, {"debug", 7}};

static _Atomic int max_level = FP_LOG_INFO; /* relaxed: it orders nothing */
static bool to_journal;                     /* immutable once threads run */

void fp_log_set_level(enum fp_log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

bool fp_log_again(uint64_t *again_ns)
{
    uint64_t now = fp_now_ns();
    if (now < *again_ns)
        return false;
    *again_ns = now + 60 * 1000000000ull;
    return true;
}

/* The variable alone says nothing: a child inherits it also if its stderr is a file. */
void fp_log_init(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    uintmax_t device, inode;
    struct stat to;
    to_journal = stream && sscanf(stream, "%ju:%ju", &device, &inode) == 2 &&
                 !fstat(STDERR_FILENO, &to) && to.st_dev == device && to.st_ino == inode;
}

bool fp_log_level_parse(const char *text, enum fp_log_level *level)
{
    for (unsigned i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (strcmp(text, levels[i].name) != 0)
            continue;
        *level = (enum fp_log_level)i;
        return true;
    }
    return false;
}

static size_t put_prefix(char *line, size_t size, enum fp_log_level level)
{
    int n;
    if (to_journal) {
        n = snprintf(line, size, "<%d>", levels[level].priority);
    } else {
        struct timespec now;
        struct tm utc;
        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &utc);
        size_t len = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
        n = snprintf(line + len, size - len, ".%03ldZ %s: ", now.tv_nsec / 1000000,
                     levels[level].name);
        n += (int)len;
    }
    return (size_t)n;
}

void fp_log(enum fp_log_level level, const char *format, ...)
{
    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    int saved = errno;
    char line[1100];
    size_t start = put_prefix(line, sizeof line, level);
    size_t room = sizeof line - start - 1; /* the newline's place is kept */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + start, room, format, args);
    va_end(args);
    size_t len = start + (n < 0 ? 0 : (size_t)n < room ? (size_t)n : room - 1);
    /* Names come from peers: they must not be able to forge lines. */
    for (size_t i = start; i < len; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    }
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written; /* there is nowhere to report it to */
    errno = saved;
}
