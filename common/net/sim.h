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
/* By the clock of a node, which is the world's until it is moved; NULL: the world's. */
uint64_t fp_sim_clock_ns(fp_sim_world *world, const char *node);
/* The node's clock jumps forward, or, by less than 0, stands still for so long, as when its machine was suspended. Its
 * nets go by it, whenever they are opened. It never goes back: it is CLOCK_MONOTONIC. */
void fp_sim_move_clock(fp_sim_world *world, const char *node, int64_t ns);
/* Of everything that happened so far: equal for equal seeds and equal calls. */
uint64_t fp_sim_trace_hash(const fp_sim_world *world);

/* Called, while another node waits, when the poller has something to give; polls it with timeout 0. */
void fp_sim_set_driver(fp_poller *poller, void (*driver)(void *arg), void *arg);

/* At this time a function is called, in the midst of whatever is under way: to cut, heal, reset, crash, change the
 * loss, let a device of one's own (sim_device.h) go on, or let others than who is waiting now do something, who may
 * wait themselves; nothing else. */
void fp_sim_at(fp_sim_world *world, uint64_t time_ns, void (*call)(void *arg), void *arg);
void fp_sim_set_loss(fp_sim_world *world, uint32_t loss_per_million);

/* Called after each step, with NULL and 0, and before that with the bytes of a WRITE that have just arrived somewhere: for
 * whoever checks that something is always true. It changes nothing. NULL: nobody is called. */
void fp_sim_set_watcher(fp_sim_world *world,
                        void (*watcher)(void *arg, const void *addr, uint64_t len), void *arg);

/* The node is gone at once, as by a power failure: its connections break at their other ends, and none of its
 * pollers gives anything any more. */
void fp_sim_crash(fp_sim_world *world, const char *node);
/* The same as others see it, of a node that is in the midst of something: its own side sees that its connections break,
 * and makes no new ones, so that whatever it waits for comes to an end. */
void fp_sim_kill(fp_sim_world *world, const char *node);
/* Between two nodes: what is under way is lost and breaks its connection; nobody gets through. */
void fp_sim_cut(fp_sim_world *world, const char *a, const char *b);
/* Only what `from` sends is lost, answers to `to` among it: what `to` asks for is done, and it does not hear of that. Who
 * misses an answer has lost the connection; at the other end it ends when something is sent there. */
void fp_sim_cut_one_way(fp_sim_world *world, const char *from, const char *to);
void fp_sim_heal(fp_sim_world *world);
/* Between two nodes: every connection breaks at once; new ones get through. */
void fp_sim_reset(fp_sim_world *world, const char *a, const char *b);

#endif
