/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster whose coordinators are real, and whose nodes are models of themselves: what they grant, log and recover is a
 * few numbers, so that years of failures fit into a test. All in one simulated world, stepped every millisecond of it.
 *
 * A memory node keeps epochs and one log ring for each partition (its length). A compute node opens what its duties
 * name, after a drawn delay, from the rings of memory nodes that it reaches; then it commits. Checked at each step:
 *   1  an epoch is one owner's: no other compute node, and no other process of it, is told of it
 *   2  nobody commits under an epoch when somebody else has opened the partition under a higher one
 *   3  who recovers has every commit that was acknowledged, unless a person has said that some may be lost
 *   4  epochs that are kept never fall, and numbers of partitions are never used twice
 *   5  an owner is told of an epoch only when enough rings have raised to it
 */
#ifndef FP_TESTS_LIB_COORDWORLD_H
#define FP_TESTS_LIB_COORDWORLD_H

#include "common/cluster/agent.h"
#include "common/net/sim_device.h"
#include "coordinator/server.h"
#include "coordinator/sim.h"

enum {
    CW_COORDINATORS = 3,
    CW_MEMORY = 5,
    CW_STORAGE = 3,
    CW_COMPUTE = 3,
    CW_NODES = CW_MEMORY + CW_STORAGE + CW_COMPUTE,
    CW_PARTS = 48, /* numbers given away, at most */
    CW_MS = 1000000,
};

/* What a node has of one partition. */
typedef struct cw_held {
    bool known;
    /* memory */
    uint64_t fence, granted; /* granted: under which epoch it is in use; 0: nobody uses it */
    char owner[16];
    bool ring, has_log;
    uint64_t log, log_epoch;
    /* compute */
    uint64_t epoch, opened;
    enum { CW_IDLE, CW_OPENING, CW_OPEN, CW_FAILED } state;
    uint64_t due_ns, length;
    uint32_t rings; /* bits of memory nodes that it uses */
    int code;
    bool made, stored, told; /* as in the duties */
    unsigned copies, quorum;
    unsigned memnode_count, memnodes[16];
    /* storage */
    uint64_t whole_ns;
} cw_held;

typedef struct cw_node {
    struct cw *world;
    char name[16], zone[8];
    unsigned number; /* among those of its role */
    enum fp_role role;
    uint64_t boot_id;
    fp_net_options net;
    fp_agent *agent;
    bool up;
    uint64_t paused_until_ns;
    cw_held held[CW_PARTS];
} cw_node;

typedef struct cw_coordinator {
    char name[16], uri[32];
    fp_coordinator *c;
    fp_net_options net;
    bool up;
    uint64_t paused_until_ns, boot_id;
} cw_coordinator;

/* What is true of a partition, whoever knows it. */
typedef struct cw_truth {
    uint64_t acked;             /* commits */
    uint64_t opened;            /* the highest epoch under which it was opened */
    uint64_t epoch;             /* the highest that was kept */
    uint64_t told_epoch;        /* the highest that an owner was told of, */
    uint64_t told_boot;         /* whom */
    uint64_t vouched;           /* under this epoch commits may be lost */
    uint64_t raised[CW_MEMORY]; /* the highest that each memory node has ever raised to */
    char name[32];
} cw_truth;

typedef struct cw {
    fp_sim_world *world;
    fp_meta_service *service;
    fp_net *clock_net;
    fp_poller *clock;
    fp_net_options clock_options;
    fp_sim_source source; /* by which the world steps all, without moving time meanwhile */
    size_t ticks;
    cw_coordinator coordinators[CW_COORDINATORS];
    cw_node nodes[CW_NODES];
    fp_agent *person;
    fp_net_options person_net;
    cw_truth truth[CW_PARTS];
    uint64_t random, term; /* term: the highest seen */
    unsigned fail_percent;
    uint64_t boots, commits, openings, changes;
} cw;

void cw_open(cw *w, uint64_t seed);
void cw_close(cw *w);
void cw_pass(cw *w, unsigned ms);
uint64_t cw_now(const cw *w);
uint64_t cw_draw(cw *w, uint64_t below);

void cw_node_start(cw_node *node);
void cw_node_crash(cw_node *node);
void cw_coordinator_start(cw *w, cw_coordinator *k);
void cw_coordinator_crash(cw *w, cw_coordinator *k);
/* Who leads, of those who are up and not paused, with the highest term; NULL: nobody. */
cw_coordinator *cw_leader(cw *w);
/* A person asks; nobody waits for the answer. Takes call. */
void cw_ask(cw *w, json_t *call);

/* tests/lib/coordnodes.c: what nodes do with their duties */
json_t *cw_node_card(void *node);
json_t *cw_node_actual(void *node);
void cw_node_duties(void *node, const json_t *duties);
void cw_node_step(cw_node *node);

#endif
