/* SPDX-License-Identifier: Apache-2.0 */
/* The seeds of a simulation. SEED=n runs that one, SEED=n SEEDS=m runs m from there on; else there are `all` from 1 on, or
 * `quick` with FARPOOL_TEST_QUICK. */
#ifndef FP_TESTS_LIB_SEEDS_H
#define FP_TESTS_LIB_SEEDS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct test_seeds {
    uint64_t all, quick;
    /* Each so many-th is run twice, and one that is run alone: both runs must be the same to the last step. 0: none is. */
    uint64_t twice;
} test_seeds;

/* run gives a hash of all that has happened. The seed under way is the last that was printed; one that hangs ends the
 * process. False: only those were run that somebody has asked for. */
bool test_seeds_run(const test_seeds *seeds, uint64_t (*run)(uint64_t seed));

#endif
