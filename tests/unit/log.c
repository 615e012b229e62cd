/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what lines of the log look like, in the journal and elsewhere, at each level, and that nobody forges one. */
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <regex.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static int saved, fds[2];
static char text[4096];

/* From now on stderr is a pipe. */
static void begin(void)
{
    saved = dup(STDERR_FILENO);
    assert_true(saved >= 0 && !pipe(fds) && dup2(fds[1], STDERR_FILENO) >= 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
}

/* What was written to it; stderr is what it was. */
static void end(void)
{
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fds[1]);
    ssize_t n = read(fds[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(fds[0]);
}

static void say_all(void)
{
    errno = ENOTTY;
    fp_log(FP_LOG_ERROR, "one %d", 1);
    fp_log(FP_LOG_WARN, "two");
    fp_log(FP_LOG_INFO, "three");
    fp_log(FP_LOG_DEBUG, "four");
    assert_int_equal(errno, ENOTTY);
}

static void init(const char *journal_stream)
{
    if (journal_stream)
        setenv("JOURNAL_STREAM", journal_stream, 1);
    else
        unsetenv("JOURNAL_STREAM");
    fp_log_init();
}

static void matches(const char *pattern)
{
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    int rc = regexec(&regex, text, 0, NULL, 0);
    regfree(&regex);
    if (rc)
        fail_msg("not %s: %s", pattern, text);
}

#define STAMP "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z "

static void lines_have_time_and_level(void **state)
{
    (void)state;
    static const char *const others[] = {NULL, "", "1:2", "nonsense", "-1:-1", "7"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        begin();
        init(others[i]);
        fp_log_set_level(FP_LOG_DEBUG);
        say_all();
        end();
        matches("^" STAMP "error: one 1\n" STAMP "warn: two\n" STAMP "info: three\n" STAMP
                "debug: four\n$");
    }
}

static void the_journal_gets_priorities(void **state)
{
    (void)state;
    struct stat to;
    char stream[64];
    begin();
    assert_int_equal(fstat(STDERR_FILENO, &to), 0);
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)to.st_dev, (uintmax_t)to.st_ino);
    init(stream);
    fp_log_set_level(FP_LOG_DEBUG);
    say_all();
    end();
    assert_string_equal(text, "<3>one 1\n<4>two\n<6>three\n<7>four\n");
}

static void levels_leave_out_what_is_below(void **state)
{
    (void)state;
    enum fp_log_level level;
    assert_true(fp_log_level_parse("warn", &level));
    assert_false(fp_log_level_parse("Warn", &level));
    begin();
    init(NULL);
    fp_log_set_level(level);
    say_all();
    end();
    matches("^" STAMP "error: one 1\n" STAMP "warn: two\n$");
}

static void nobody_forges_lines(void **state)
{
    (void)state;
    char longest[3000];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    begin();
    fp_log(FP_LOG_ERROR, "name '%s'", "a\n<3>b\r\033[2J\177c");
    fp_log(FP_LOG_ERROR, "%s", longest);
    end();
    matches("^" STAMP "error: name 'a\\?<3>b\\?\\?\\[2J\\?c'\n" STAMP "error: x{1000,1100}\n$");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_have_time_and_level),
        cmocka_unit_test(the_journal_gets_priorities),
        cmocka_unit_test(levels_leave_out_what_is_below),
        cmocka_unit_test(nobody_forges_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
