/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that configuration files, flags and values are read as documented, and that every
 * mistake in them is an error that names its place. */
#include "common/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/log.h"

typedef struct target {
    uint64_t size, number;
    char words[4][40];
    unsigned word_count;
    bool flags_began;
    uint64_t size_before_flags;
} target;

static int set_size(void *t, const char *value)
{
    return fp_config_size(value, &((target *)t)->size);
}

static int set_number(void *t, const char *value)
{
    return fp_config_number(value, 1, 10, &((target *)t)->number);
}

static int set_word(void *arg, const char *value)
{
    target *t = arg;
    if (t->word_count == 4)
        return fp_error(FARPOOL_E_INVAL, "too many words");
    snprintf(t->words[t->word_count++], sizeof t->words[0], "%s", value);
    return 0;
}

static const fp_option table[] = {
    {"size", "SIZE", "a size", set_size, false},
    {"number", "N", "a number\nof two lines", set_number, false},
    {"word", "WORD", "a word", set_word, false},
    {"config", "FILE", "a file", NULL, true},
};
enum { COUNT = 4 };

static int text(const char *lines, target *t)
{
    memset(t, 0, sizeof *t);
    return fp_config_text("some.conf", lines, strlen(lines), table, COUNT, t);
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"4096", 4096},
                {"64k", 65536},
                {"64M", 64ull << 20},
                {"1.5g", 3ull << 29},
                {"2GiB", 2ull << 30},
                {"1t", 1ull << 40},
                {"3MB", 3ull << 20},
                {"0.5k", 512}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t bytes = 1;
        assert_int_equal(fp_config_size(good[i].text, &bytes), 0);
        assert_int_equal(bytes, good[i].bytes);
    }
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      "k",
                                      "1x",
                                      "1kk",
                                      "1.g",
                                      ".5g",
                                      "1 g",
                                      "1.5",
                                      "99999999999999999999",
                                      "9999999999t",
                                      "1e3",
                                      "0x10"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes;
        assert_int_equal(fp_config_size(bad[i], &bytes), FARPOOL_E_INVAL);
    }
    char buffer[32];
    assert_string_equal(fp_config_size_text(4096, buffer, sizeof buffer), "4 KiB");
    assert_string_equal(fp_config_size_text(1000, buffer, sizeof buffer), "1000 bytes");
    assert_string_equal(fp_config_size_text(3ull << 29, buffer, sizeof buffer), "1.5 GiB");
}

static void numbers(void **state)
{
    (void)state;
    uint64_t n;
    assert_int_equal(fp_config_number("10", 1, 10, &n), 0);
    assert_int_equal(n, 10);
    static const char *const bad[] = {"0",  "11", "-1", "",
                                      " 1", "1 ", "1k", "18446744073709551617"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(fp_config_number(bad[i], 1, 10, &n), FARPOOL_E_INVAL);
}

static void good_text(void **state)
{
    (void)state;
    target t;
    assert_int_equal(
        text("# a comment\n\n  size = 64k # another\r\nnumber=7\nword = a#b c\nword=d", &t), 0);
    assert_int_equal(t.size, 65536);
    assert_int_equal(t.number, 7);
    assert_int_equal(t.word_count, 2);
    assert_string_equal(t.words[0], "a#b c");
    assert_string_equal(t.words[1], "d");
    assert_int_equal(text("", &t), 0);
}

static void bad_text(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"size = 1k\nsiez = 2k\n", "some.conf:2: unknown key 'siez'"},
        {"size = lots", "some.conf:1: size: 'lots' is not a size"},
        {"\n\nnumber = 11", "some.conf:3: number: '11' is not a number from 1 to 10"},
        {"number", "some.conf:1: expected 'key = value'"},
        {"number = # none", "some.conf:1: 'number' has no value"},
        {"= 5", "some.conf:1: unknown key ''"},
        {"config = x", "some.conf:1: 'config' may be given on the command line only"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        target t;
        assert_int_equal(text(cases[i].text, &t), FARPOOL_E_INVAL);
        assert_memory_equal(farpool_errmsg(), cases[i].expected, strlen(cases[i].expected));
    }
    char line[FP_CONFIG_LINE_MAX + 20];
    memset(line, 'x', sizeof line);
    target t = {0};
    assert_int_equal(fp_config_text("f", line, sizeof line, table, COUNT, &t), FARPOOL_E_INVAL);
    assert_non_null(strstr(farpool_errmsg(), "f:1: the line is longer"));
    assert_int_equal(fp_config_text("f", "a\0b", 3, table, COUNT, &t), FARPOOL_E_INVAL);
    assert_non_null(strstr(farpool_errmsg(), "f:1: a zero byte"));
}

static void note_flags(void *arg)
{
    target *t = arg;
    t->flags_began = true;
    t->size_before_flags = t->size;
}

static int args(target *t, char *const *words, bool *help, bool *version)
{
    char *argv[12] = {(char *)(uintptr_t) "program"};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = words[argc - 1];
    memset(t, 0, sizeof *t);
    return fp_config_args(argc, argv, table, COUNT, "config", note_flags, t, help, version);
}
#define ARGS(...) args(&t, (char *[]){__VA_ARGS__, NULL}, &help, &version)
#define W(literal) ((char[]){literal})

static void flags(void **state)
{
    (void)state;
    target t;
    bool help, version;
    char path[] = "/tmp/farpool-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(dprintf(fd, "size = 1k\nnumber = 3\n"), 21);
    close(fd);
    /* The file is read first wherever it stands, flags win. */
    assert_int_equal(ARGS(W("--size=2k"), W("--config"), path, W("--word"), W("w")), 0);
    assert_true(t.flags_began);
    assert_int_equal(t.size_before_flags, 1024);
    assert_int_equal(t.size, 2048);
    assert_int_equal(t.number, 3);
    assert_int_equal(t.word_count, 1);
    unlink(path);
    assert_int_equal(ARGS(W("--config"), path), FARPOOL_E_SYS);
    assert_non_null(strstr(farpool_errmsg(), path));

    assert_int_equal(ARGS(W("--help"), W("--nonsense")), 0);
    assert_true(help && !version);
    assert_int_equal(ARGS(W("--version")), 0);
    assert_true(version && !help);

    assert_int_equal(ARGS(W("--size"), W("lots")), FARPOOL_E_INVAL);
    assert_non_null(strstr(farpool_errmsg(), "--size: 'lots' is not a size"));
    assert_int_equal(ARGS(W("--nonsense")), FARPOOL_E_INVAL);
    assert_non_null(strstr(farpool_errmsg(), "unknown option --nonsense"));
    assert_int_equal(ARGS(W("-x")), FARPOOL_E_INVAL);
    assert_non_null(strstr(farpool_errmsg(), "unknown option -x"));
    assert_int_equal(ARGS(W("--size")), FARPOOL_E_INVAL);
    assert_non_null(strstr(farpool_errmsg(), "--size needs a value"));
    assert_int_equal(ARGS(W("stray")), FARPOOL_E_INVAL);
    assert_non_null(strstr(farpool_errmsg(), "unexpected argument 'stray'"));
}

static void help_names_every_option(void **state)
{
    (void)state;
    char *out = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&out, &len);
    assert_non_null(file);
    fp_config_help(file, table, COUNT);
    fclose(file);
    for (unsigned i = 0; i < COUNT; i++)
        assert_non_null(strstr(out, table[i].name));
    assert_non_null(strstr(out, "of two lines\n"));
    free(out);
}

static void log_levels(void **state)
{
    (void)state;
    enum fp_log_level level = FP_LOG_INFO;
    assert_true(fp_log_level_parse("debug", &level));
    assert_int_equal(level, FP_LOG_DEBUG);
    assert_true(fp_log_level_parse("error", &level));
    assert_int_equal(level, FP_LOG_ERROR);
    assert_false(fp_log_level_parse("loud", &level));
    assert_int_equal(level, FP_LOG_ERROR);

    /* One line whatever it is given, and none below the level. */
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    int saved = dup(STDERR_FILENO);
    dup2(pipes[1], STDERR_FILENO);
    fp_log_set_level(FP_LOG_WARN);
    fp_log(FP_LOG_INFO, "not seen");
    char large[3000];
    memset(large, 'y', sizeof large - 1);
    large[sizeof large - 1] = 0;
    fp_log(FP_LOG_WARN, "a\nb%s", large);
    dup2(saved, STDERR_FILENO);
    close(pipes[1]);
    char seen[4096];
    ssize_t n = read(pipes[0], seen, sizeof seen - 1);
    assert_true(n > 1000);
    seen[n] = 0;
    assert_non_null(strstr(seen, "warn: a?byyy"));
    assert_ptr_equal(strchr(seen, '\n'), seen + n - 1);
    assert_null(strstr(seen, "not seen"));
    close(pipes[0]);
    close(saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes),      cmocka_unit_test(numbers),
        cmocka_unit_test(good_text),  cmocka_unit_test(bad_text),
        cmocka_unit_test(flags),      cmocka_unit_test(help_names_every_option),
        cmocka_unit_test(log_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
