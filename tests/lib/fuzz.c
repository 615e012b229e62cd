/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fuzz.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"

void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s is false (%s)\n", file, line, what, farpool_errmsg());
    abort();
}

uint64_t fuzz_number(fuzz_script *script, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && script->at < script->end; i++)
        value |= (uint64_t)*script->at++ << (8 * i);
    return value;
}

const uint8_t *fuzz_bytes(fuzz_script *script, size_t len, size_t *got)
{
    const uint8_t *from = script->at;
    size_t left = (size_t)(script->end - script->at);
    *got = len < left ? len : left;
    script->at += *got;
    return from;
}

size_t fuzz_noise(uint64_t *random, uint8_t *data, size_t capacity, size_t least, size_t most)
{
    size_t len = least + test_random(random) % (most - least + 1);
    FUZZ_CHECK(len <= capacity);
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(test_random(random) >> 32);
    return len;
}

size_t fuzz_damage(uint64_t *random, uint8_t *data, size_t len, size_t capacity)
{
    static const uint8_t odd[] = {0, 0xFF, 0x7F, 0x80, '\n', '\t', '=', '9'};
    for (uint64_t n = test_random(random) % 6; n > 0; n--) {
        uint64_t r = test_random(random);
        size_t at = len ? (size_t)(r >> 16) % len : 0, some = (size_t)(r >> 40) % 40;
        switch (r % 6) {
        case 0: /* one byte */
            if (len)
                data[at] = (uint8_t)(r >> 8);
            break;
        case 1: /* one that often matters */
            if (len)
                data[at] = odd[(r >> 8) % sizeof odd];
            break;
        case 2: /* cut out */
            some = some < len - at ? some : len - at;
            memmove(data + at, data + at + some, len - at - some);
            len -= some;
            break;
        case 3: /* say again */
            some = some < len - at ? some : len - at;
            if (some > capacity - len)
                break;
            memmove(data + at + some, data + at, len - at);
            len += some;
            break;
        case 4: /* the same byte many times */
            some *= r >> 60;
            if (some > capacity - len)
                break;
            memmove(data + at + some, data + at, len - at);
            memset(data + at, (int)(uint8_t)(r >> 8), some);
            len += some;
            break;
        default: /* the end is missing */
            if (r >> 63)
                len = at;
        }
    }
    return len;
}

#ifdef FARPOOL_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len <= FUZZ_INPUT_MAX)
        fuzz_one(data, len);
    return 0;
}
#else
static char now_feeding[300]; /* said when the process dies */

/* Of the sanitizers, where one is linked. */
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void say_input(void)
{
    ssize_t n = write(STDERR_FILENO, now_feeding, strlen(now_feeding));
    (void)n;
}

static void die(int number)
{
    say_input();
    signal(number, SIG_DFL);
    raise(number);
}

static void catch_death(void)
{
    signal(SIGABRT, die);
    signal(SIGALRM, die);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(say_input);
    else
        signal(SIGSEGV, die);
}

/* In memory of exactly its size, so that a sanitizer sees what reads past it. */
static void feed(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    if (!copy)
        abort();
    memcpy(copy, data, len);
    alarm(FUZZ_STUCK_SECONDS);
    fuzz_one(copy, len);
    free(copy);
}

static void feed_file(const char *path, uint8_t *data)
{
    snprintf(now_feeding, sizeof now_feeding, "it was fed %.200s\n", path);
    FILE *file = fopen(path, "re");
    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
    size_t len = fread(data, 1, FUZZ_INPUT_MAX, file);
    fclose(file);
    feed(data, len);
}

/* Input n, or with directory non-NULL a file of it: what libFuzzer begins with. */
static void feed_number(uint64_t n, uint8_t *data, const char *directory)
{
    uint64_t random = n * 0x9E3779B97F4A7C15ull;
    for (int i = 0; i < 4; i++) /* neighbouring seeds are alike at first */
        test_random(&random);
    size_t len = fuzz_make(&random, data, FUZZ_INPUT_MAX);
    if (!directory) {
        snprintf(now_feeding, sizeof now_feeding, "SEED=%llu\n", (unsigned long long)n);
        feed(data, len);
        return;
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/%llu", directory, (unsigned long long)n);
    FILE *file = fopen(path, "we");
    if (!file || fwrite(data, 1, len, file) != len || fclose(file)) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static uint8_t data[FUZZ_INPUT_MAX];
    const char *seed = getenv("SEED"), *runs = getenv("RUNS"), *directory = getenv("INPUTS_TO");
    uint64_t first = seed ? strtoull(seed, NULL, 10) : 1;
    uint64_t count = runs ? strtoull(runs, NULL, 10) : seed ? 1 : fuzz_runs;
    fp_log_set_level(FP_LOG_ERROR);
    catch_death();
    for (int i = 1; i < argc; i++)
        feed_file(argv[i], data);
    if (argc > 1)
        return 0;
    for (uint64_t i = 0; i < count; i++)
        feed_number(first + i, data, directory);
    printf("%llu inputs\n", (unsigned long long)count);
    return 0;
}
#endif
