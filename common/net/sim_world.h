/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the simulated transport: sim_world.c (time, breaking), sim_step.c (what happens at each step), sim.c
 * (the transport's functions). */
#ifndef FP_COMMON_NET_SIM_WORLD_H
#define FP_COMMON_NET_SIM_WORLD_H

#include "common/net/sim_device.h"

enum { LINE = 64, PIECES_MAX = 4, CUTS_MAX = 32, NAME_MAX_BYTES = 64 };

typedef struct sim_conn sim_conn;

typedef struct sim_op {
    sim_conn *conn; /* NULL: its connection has broken or was closed */
    fp_net_op op;
    uint8_t *copy; /* SEND, INLINE: the bytes */
    uint32_t len, moved;
    int status; /* what it will complete with, once its answer is back */
    bool done;
    unsigned steps; /* in the heap; freed when 0 and no connection has it */
} sim_op;

enum step_kind { STEP_MOVE, STEP_DONE, STEP_ACCEPT, STEP_CALL };

typedef struct sim_step {
    uint64_t time, order;
    enum step_kind kind;
    sim_op *op;           /* MOVE, DONE */
    uint32_t upto;        /* MOVE: so much of it has arrived then */
    uint64_t conn;        /* ACCEPT: its number */
    void (*call)(void *); /* CALL */
    void *arg;
} sim_step;

typedef struct sim_queued {
    fp_net_event event;
    void *message;
} sim_queued;

typedef struct sim_clock {
    char node[NAME_MAX_BYTES];
    int64_t ahead_ns; /* of the world's */
    uint64_t last_ns; /* what was told last */
} sim_clock;

typedef struct sim_net {
    fp_net base;
    fp_sim_world *world;
    char name[NAME_MAX_BYTES];
    bool crashed, killed;
    struct sim_net *next;
} sim_net;

typedef struct sim_poller {
    fp_poller base;
    sim_net *net;
    sim_queued *queue;
    size_t first, count, room;
    void **lent;
    size_t lent_count, lent_room;
    fp_sim_source source;
    struct sim_poller *next;
} sim_poller;

typedef struct sim_listener {
    fp_listener base;
    sim_poller *poller;
    struct sim_listener *next;
} sim_listener;

struct sim_conn {
    fp_conn base;
    uint64_t number;
    sim_poller *poller;
    sim_conn *peer; /* NULL: gone */
    sim_listener *listener;
    bool accepted; /* its application has been told of it, or has made it */
    bool refused;  /* the peer refused an operation: nothing later moves, its answer breaks us */
    unsigned unreceived; /* messages given to our poller and not yet taken out: N11 */
    sim_op *ops[FP_NET_DEPTH_MAX];
    uint64_t posted, completed;
    uint64_t arrival; /* when the last operation posted arrives */
    fp_mr **shared;   /* what the peer may use */
    size_t shared_count;
    sim_conn *next;
};

struct fp_sim_world {
    fp_sim_config config;
    uint64_t now, random, order, hash, numbers;
    sim_step *heap;
    size_t count, room;
    sim_net *nets;
    sim_poller *pollers;
    fp_sim_source *sources;
    sim_listener *listeners;
    sim_conn *conns;
    char cuts[CUTS_MAX][2][NAME_MAX_BYTES]; /* from, to */
    unsigned cut_count;
    sim_clock *clocks; /* that were moved */
    size_t clock_count, clock_room;
    unsigned depth; /* drivers being called: they don't move time */
    void (*watcher)(void *arg, const void *addr, uint64_t len);
    void *watcher_arg;
};

/* sim_world.c */
uint64_t fp_sim_latency(fp_sim_world *world);
void fp_sim_schedule(fp_sim_world *world, sim_step step);
sim_step fp_sim_take_step(fp_sim_world *world);
void fp_sim_drop_op_step(sim_op *op);
/* Takes the operation from its connection. */
void fp_sim_let_go(sim_op *op);
/* Doubles an array whose elements are `size` bytes. */
void *fp_sim_grow(void *old, size_t *room, size_t size);
void fp_sim_give(sim_poller *poller, const fp_net_event *event, void *message);
void fp_sim_complete(sim_conn *conn, int status);
/* N5, at both ends: here with status and reason, there with E_NODE. */
void fp_sim_break(sim_conn *conn, int status, const char *reason);
/* At this end alone; at the other one when something is sent there. */
void fp_sim_break_here(sim_conn *conn, int status, const char *reason);
bool fp_sim_is_cut(const fp_sim_world *world, const char *from, const char *to);

/* sim_step.c */
/* The earliest step; there is one. */
void fp_sim_run_step(fp_sim_world *world);
/* Lets the nodes other than the one that waits handle what they have been given. */
void fp_sim_run_drivers(fp_sim_world *world, const fp_sim_source *waiting);

#endif
