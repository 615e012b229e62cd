/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines on stderr for the daemons and tools. The library returns errors; it logs only what its own threads meet and no
 * caller is told.
 *
 * Where stderr is systemd's journal (the device and inode that JOURNAL_STREAM names, sd-daemon(3)) a line begins with its priority as "<4>" and the
 * journal adds the time; elsewhere it begins with the UTC time and the level's name.
 */
#ifndef FP_COMMON_LOG_H
#define FP_COMMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum fp_log_level { FP_LOG_ERROR, FP_LOG_WARN, FP_LOG_INFO, FP_LOG_DEBUG };

/* Both are to be called before threads are started. Until then: info. */
void fp_log_set_level(enum fp_log_level level);
void fp_log_init(void); /* looks at JOURNAL_STREAM and stderr */

/* "error", "warn", "info" or "debug"; false for anything else. */
bool fp_log_level_parse(const char *text, enum fp_log_level *level);

/* One line, written by one write(2), so that lines of several threads do not mix. Text beyond 1000
 * bytes is cut, control characters become '?'. Any thread; keeps errno. */
void fp_log(enum fp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether it is time to say again what has not changed: at first, and then a minute after it was. *again_ns: 0 at first,
 * guarded by the caller. */
bool fp_log_again(uint64_t *again_ns);

#endif
