/* SPDX-License-Identifier: Apache-2.0 */
/* For other simulated devices (common/disk): how they live in a world beside its network. */
#ifndef FP_COMMON_NET_SIM_DEVICE_H
#define FP_COMMON_NET_SIM_DEVICE_H

#include "common/net/sim.h"

/* Something that gives its node events: a poller, a disk. While another node waits, its driver is called whenever
 * it has some. Memory is the device's, from add to remove. */
typedef struct fp_sim_source {
    const size_t *ready; /* how many events it has to give now */
    void (*driver)(void *arg);
    void *driver_arg;
    bool driving; /* kept by the world, as is next */
    struct fp_sim_source *next;
} fp_sim_source;

void fp_sim_source_add(fp_sim_world *world, fp_sim_source *source);
void fp_sim_source_remove(fp_sim_world *world, fp_sim_source *source);

/* The source's node waits: time moves and the other nodes run until the source has something to give or the time is
 * over. timeout_ms 0: at most one step. */
void fp_sim_wait(fp_sim_world *world, const fp_sim_source *source, int timeout_ms);

/* Whatever fp_sim_at was to call with this argument is not called any more. */
void fp_sim_forget(fp_sim_world *world, const void *arg);

uint64_t fp_sim_draw(fp_sim_world *world);
/* Makes two numbers part of the world's trace. */
void fp_sim_trace(fp_sim_world *world, uint64_t a, uint64_t b);

#endif
