/* SPDX-License-Identifier: Apache-2.0 */
/* What goes wrong between the memory nodes of a simulated world and whoever works on a partition with log rings. */
#ifndef FP_TESTS_LIB_SIMTROUBLE_H
#define FP_TESTS_LIB_SIMTROUBLE_H

#include "tests/lib/simpool.h"

enum trouble { RESETS = 1, CUTS = 2, CRASHES = 4, LOSSES = 8 };

typedef struct sim_trouble {
    sim_setup *sim;
    uint64_t *random;
    unsigned kinds;   /* enum trouble */
    uint32_t loss;    /* per million */
    const char *name; /* of the pool that it is made for */
    unsigned copies;  /* log rings */
    bool quiet;       /* nothing goes wrong from now on */
    bool opening;     /* somebody opens the partition */
    unsigned cuts, crashes_left;
    unsigned crashes[SIM_NODES_MAX];
    bool tells[SIM_NODES_MAX]; /* the node has a ring with redo, for sure; a crash clears it */
    unsigned blank;            /* bit i: node i had no redo when the watch began */
} sim_trouble;

void sim_trouble_crash(sim_trouble *t, unsigned i);
/* If it has crashed: empty, at the same address. */
void sim_trouble_restart(sim_trouble *t, unsigned i);
void sim_trouble_cut(sim_trouble *t, unsigned i);

/* Some of what `kinds` allows, within so many ns from now. */
void sim_trouble_make(sim_trouble *t, uint64_t within);
/* As soon as a ring that is blank now is being written, who does it loses all connections, as if it died. */
void sim_trouble_watch(sim_trouble *t);

/* Everything can be reached, and everybody tries again. Until rouse. */
void sim_trouble_calm(sim_trouble *t);
void sim_trouble_rouse(sim_trouble *t);

#endif
