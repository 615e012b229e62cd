/* SPDX-License-Identifier: Apache-2.0 */
/* A compute node of a benchmark: it owns a partition while the coordinators say so, writes to it all the time, and notes
 * when what has happened in a file that the benchmark maps, too. Times are those of CLOCK_MONOTONIC, in ns. */
#ifndef FP_BENCH_OWNER_H
#define FP_BENCH_OWNER_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

enum { BENCH_OWNERS = 8, BENCH_OWNER_THREADS = 2 };

typedef struct bench_owner {
    _Atomic pid_t pid;
    /* Since it was assigned; 0: not yet. first, last: acknowledged commits. */
    _Atomic uint64_t assigned_ns, opened_ns, first_ns;
    _Atomic uint64_t commits;
    _Atomic uint64_t last_ns[BENCH_OWNER_THREADS];
    _Atomic uint64_t
        pause_ns[BENCH_OWNER_THREADS]; /* the longest since the benchmark has set it to 0 */
} bench_owner;

typedef struct bench_owner_notes {
    _Atomic uint64_t root; /* of the tree; 0: there is none */
    bench_owner owners[BENCH_OWNERS];
} bench_owner_notes;

/* Ends the process on failure. */
bench_owner_notes *bench_owner_map(const char *path);
/* Runs until it is killed. Arguments: --notes FILE, and what scripts/cluster gives a compute node, whose name ends with
 * its number. */
_Noreturn void bench_owner_run(int argc, char **argv);

#endif
