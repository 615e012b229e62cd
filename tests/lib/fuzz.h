/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzers. A program of tests/fuzz defines fuzz_one, fuzz_make and fuzz_runs; main is in fuzz.c, or libFuzzer's
 * (make fuzz). By itself the program feeds inputs 1 to fuzz_runs. SEED=n feeds input n only, RUNS=m m inputs from
 * there on; file names as arguments feed those files. What fails ends the process and names the input.
 */
#ifndef FP_TESTS_LIB_FUZZ_H
#define FP_TESTS_LIB_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "tests/lib/testnode.h"

enum { FUZZ_INPUT_MAX = 1 << 16, FUZZ_STUCK_SECONDS = 120 };

void fuzz_one(const uint8_t *data, size_t len);
/* An input of the fixed run, all of it drawn from *random. Returns its length. */
size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity);
extern const unsigned fuzz_runs;

/* An input of least to most bytes, all random; returns its length. */
size_t fuzz_noise(uint64_t *random, uint8_t *data, size_t capacity, size_t least, size_t most);

/* Damages data in place, mostly lightly; returns the new length. */
size_t fuzz_damage(uint64_t *random, uint8_t *data, size_t len, size_t capacity);

void fuzz_fail(const char *file, int line, const char *what) __attribute__((noreturn));
#define FUZZ_CHECK(condition) ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition))

/* An input read from its front; past its end everything is 0. */
typedef struct fuzz_script {
    const uint8_t *at, *end;
} fuzz_script;

uint64_t fuzz_number(fuzz_script *script, unsigned bytes);
/* At most len bytes of the input; *got of them. */
const uint8_t *fuzz_bytes(fuzz_script *script, size_t len, size_t *got);

#endif
