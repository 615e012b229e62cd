/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which log of a partition a log is. All owners write one log, each behind what is durable of those before him. Only one
 * who takes the log from storage nodes (FARPOOL_RECOVER_STORED) may leave out what one that was away has; from there on
 * there are two. He makes a fork: his epoch is its number, and `at` the LSN where his first frame begins. Logs with the
 * same lineage are the same as far as both go. docs/redo.md, Forks.
 *
 * Whoever keeps a lineage with a log may have a shorter log: forks behind its end are to come.
 */
#ifndef FP_COMMON_LINEAGE_H
#define FP_COMMON_LINEAGE_H

#include <stdbool.h>
#include <stdint.h>

enum { FP_FORKS_MAX = 8 };

typedef struct fp_fork {
    uint64_t number, at;
} fp_fork;

/* Little-endian, without padding, as it stands in rings and files. Starts as zero: no forks. */
typedef struct fp_lineage {
    uint32_t count, zero;
    uint64_t before; /* number of the last fork that is not listed any more; 0: all are */
    fp_fork forks[FP_FORKS_MAX]; /* oldest first: number rises, at does not fall; behind count: 0 */
} fp_lineage;

_Static_assert(sizeof(fp_lineage) == 144, "lineage");

/* Trusts nothing. */
bool fp_lineage_is_valid(const fp_lineage *lineage);
/* Of the last fork; 0: there is none. Two lineages of the same number are the same. */
uint64_t fp_lineage_number(const fp_lineage *lineage);
/* Where the last fork begins; 0: there is none. */
uint64_t fp_lineage_at(const fp_lineage *lineage);
/* Number of the last fork that a log has which ends at this LSN. */
uint64_t fp_lineage_reached(const fp_lineage *lineage, uint64_t end);
/* A new fork of the log that ends there. */
void fp_lineage_fork(fp_lineage *lineage, uint64_t end, uint64_t number);
/* Whether a log that ends there and is of that lineage is for sure a beginning of the one whose lineage is `other`, as far as
 * that goes. False also if it is of a fork that `other` does not list any more. */
bool fp_lineage_leads_to(const fp_lineage *lineage, uint64_t end, const fp_lineage *other);

#endif
