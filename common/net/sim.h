/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated network: several nodes in one thread of one process, virtual time, and every delay, loss and tear
 * drawn from one seed, so that a run can be repeated exactly. Nothing happens but while some node polls or
 * connects: then time moves on, operations arrive, and the other nodes' drivers are called.
 *
 * A world and all its nodes belong to one thread.
 */
#ifndef FP_COMMON_NET_SIM_H
#define FP_COMMON_NET_SIM_H

#include "common/net/net.h"

typedef struct fp_sim_world fp_sim_world;

typedef struct fp_sim_config {
    uint64_t latency_min_ns, latency_max_ns; /* of an operation, one way; 0, 0: 1 to 10 us */
    uint32_t loss_per_million;               /* chance that an operation loses its connection */
    bool
        torn; /* data of more than 64 bytes moves in pieces of whole cache lines, at different times */
    bool late; /* pollers look late at times, and then find several events at once */
} fp_sim_config;

int fp_sim_world_open(uint64_t seed, const fp_sim_config *config,
                      fp_sim_world **world) FARPOOL_MUST_CHECK;
/* All nets of the world are closed. */
void fp_sim_world_close(fp_sim_world *world);

uint64_t fp_sim_now_ns(const fp_sim_world *world);
/* Of everything that happened so far: equal for equal seeds and equal calls. */
uint64_t fp_sim_trace_hash(const fp_sim_world *world);

/* Called, while another node waits, when the poller has something to give; polls it with timeout 0. */
void fp_sim_set_driver(fp_poller *poller, void (*driver)(void *arg), void *arg);

/* At this time a function is called, in the midst of whatever is under way: to cut, heal, reset, crash, change the
 * loss, let a device of one's own (sim_device.h) go on, or let others than who is waiting now do something, who may
 * wait themselves; nothing else. */
void fp_sim_at(fp_sim_world *world, uint64_t time_ns, void (*call)(void *arg), void *arg);
void fp_sim_set_loss(fp_sim_world *world, uint32_t loss_per_million);

/* The node is gone at once, as by a power failure: its connections break at their other ends, and none of its
 * pollers gives anything any more. */
void fp_sim_crash(fp_sim_world *world, const char *node);
/* Between two nodes: what is under way is lost and breaks its connection; nobody gets through. */
void fp_sim_cut(fp_sim_world *world, const char *a, const char *b);
void fp_sim_heal(fp_sim_world *world);
/* Between two nodes: every connection breaks at once; new ones get through. */
void fp_sim_reset(fp_sim_world *world, const char *a, const char *b);

#endif
