/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/seeds.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/lib/require.h"

enum { HANG_S = 300 }; /* of real time; under a sanitizer a seed takes a few seconds */

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

bool test_seeds_run(const test_seeds *seeds, uint64_t (*run)(uint64_t seed))
{
    bool one = getenv("SEED"), some = getenv("SEEDS");
    uint64_t first = number("SEED", 1);
    uint64_t count = getenv("FARPOOL_TEST_QUICK") ? seeds->quick : seeds->all;
    count = number("SEEDS", one ? 1 : count);
    for (uint64_t seed = first; seed < first + count; seed++) {
        printf("SEED=%" PRIu64 "\n", seed);
        fflush(stdout);
        alarm(HANG_S);
        uint64_t hash = run(seed);
        if (seeds->twice && (count == 1 || seed % seeds->twice == 0))
            REQUIRE(run(seed) == hash);
    }
    alarm(0);
    return !one && !some;
}
