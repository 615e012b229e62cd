/* SPDX-License-Identifier: Apache-2.0 */
/* A scripted coordinator (scripted.h) served by a thread of its own, for programs that wait. Failures end the process. */
#ifndef FP_TESTS_LIB_TESTCOORDINATOR_H
#define FP_TESTS_LIB_TESTCOORDINATOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct test_coordinator test_coordinator;

/* uri: of tcp or shm; port 0 chooses one. It leads. */
test_coordinator *test_coordinator_start(const char *uri);
const char *test_coordinator_uri(const test_coordinator *c);
void test_coordinator_stop(test_coordinator *c);

/* Its one member's duties are these partitions from now on; the array is taken. */
void test_coordinator_assign(test_coordinator *c, json_t *partitions);
/* It answers everything but join, wait and tell with this, which is taken. */
void test_coordinator_answer(test_coordinator *c, json_t *answer);
/* How many of those there were; and how often somebody has joined. */
unsigned test_coordinator_others(test_coordinator *c);
unsigned test_coordinator_joins(test_coordinator *c);
/* What the last one joined with; a copy. */
json_t *test_coordinator_card(test_coordinator *c);
/* What it says of a partition; a copy, NULL: nothing. */
json_t *test_coordinator_told(test_coordinator *c, uint64_t partition);

/* The partition of an id with three log rings, as duties have it. uris are taken. */
json_t *test_duty(uint64_t id, uint64_t epoch, const char *phase, bool made, json_t *memnodes,
                  json_t *storagenodes);

#endif
