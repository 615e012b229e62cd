/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole cluster in one simulated world: real coordinators over a simulated metastore, real memory and storage nodes with
 * their agents, and compute nodes, which are the library, joined by farpool_cluster_join. tests/model/failover_sim.c lets it
 * fail.
 *
 * Coordinators, nodes and the library's talkers are stepped every millisecond, by a source of the world, so none of them
 * waits. What programs do (open, commit, read, close) waits, and is begun at times of its own, also in the midst of
 * some other program's waiting: then that one stands still until it is done, as if its process had been paused. So a
 * commit may be under way for as long as two other owners take.
 *
 * Checked at all times:
 *   1  an owner is told of an epoch only when so many rings have raised to it that the owner before can commit nowhere:
 *      of the nodes that one uses, and of those that it was about to use
 *   2  each epoch under which somebody opens a partition is one process's; who hears of that late commits nothing
 *   3  who opens a partition finds all that was acknowledged (tests/lib/redo_model.h), also what is acknowledged to an
 *      owner before only now, because it stood still
 *   4  of what an owner before does after that nothing is acknowledged
 *   5  every page that is read, by whatever way, holds what its owner has last written; when somebody else has opened the
 *      partition it may hold what that one has, but nothing older than what was acknowledged to its owner
 *   6  what a memory node has granted it never grants under a lower epoch again, as long as it runs
 *   7  terms of the duties that a process follows never fall; epochs that leaders know never fall
 */
#ifndef FP_TESTS_LIB_SIMWHOLE_H
#define FP_TESTS_LIB_SIMWHOLE_H

#include "common/cluster/agent.h"
#include "common/net/sim_device.h"
#include "common/wire.h"
#include "compute/pool.h"
#include "coordinator/sim.h"
#include "tests/lib/redo_model.h"
#include "tests/lib/simpool.h"
#include "tests/lib/teststorage.h"

enum {
    WHOLE_COORDINATORS = 3,
    WHOLE_STORAGES = 3,
    WHOLE_COMPUTES = 3,
    WHOLE_PARTS = 2,
    WHOLE_MS = 1000000,
    WHOLE_REPLACE_MS = 800, /* of the coordinators: a memory node is lost for good */
    WHOLE_OP_SECONDS = 60,
};

/* coordinator/server.h and compute/cluster_inside.h have names in common: no file includes both. */
typedef struct fp_coordinator fp_coordinator;

typedef struct whole_coordinator {
    struct whole *world;
    char name[16], uri[32];
    fp_coordinator *c; /* NULL: down */
    fp_net_options net;
    uint64_t paused_until_ns;
} whole_coordinator;

/* The agent of a memory or storage node; made anew with its node. */
typedef struct whole_member {
    struct whole *world;
    unsigned number;
    bool is_storage;
    char name[20];
    fp_net_options net;
    fp_agent *agent; /* NULL: its node is down */
    uint64_t paused_until_ns, boot_id;
    json_int_t term;
} whole_member;

/* A partition that a compute node has open. */
typedef struct whole_view {
    farpool_partition *part; /* NULL: not open */
    farpool_btree *tree;
    uint64_t epoch;
    bool known;  /* it has found what the partition holds */
    bool done;   /* no more steps: its log has failed, or its tree is in doubt */
    bool stored; /* all that it began with is on stable media */
    unsigned
        limit; /* somebody has opened it since: of its steps only so many may be acknowledged */
    redo_model m;
} whole_view;

typedef struct whole_compute {
    struct whole *world;
    unsigned number;
    char name[16];
    farpool_pool *pool; /* NULL: down */
    farpool_cluster *cluster;
    bool crashed, busy;
    uint64_t paused_until_ns;
    json_int_t term;
    whole_view views[WHOLE_PARTS];
} whole_compute;

/* What is true of a partition, whoever knows it. */
typedef struct whole_truth {
    bool made;
    uint64_t opened,
        kept;          /* highest epochs: with which it was opened or changed; that a leader knew */
    whole_view *owner; /* who has opened it last, if it has found what it holds, */
    whole_view *before; /* or whose steps `left` has */
    redo_model left;
    bool left_stored; /* the state that these begin with is on stable media */
    unsigned copies, quorum;
    uint32_t uses,
        wants; /* memory nodes' bits: of the rings of who has opened it last; it is changing to */
    uint64_t raised[SIM_NODES_MAX];           /* epochs, */
    uint64_t granted[SIM_NODES_MAX][FP_USES]; /* while the node does not crash */
    bool helped; /* a person has said that storage nodes are to be gone on with */
    bool
        lost; /* it was opened from storage nodes before all that it held was there: not known what it holds */
} whole_truth;

/* A partition whose memory nodes change: what is to go wrong with that. */
typedef struct whole_aim {
    uint64_t epoch;
    bool filling, dies; /* he who fills a ring is waited for; he is to die */
} whole_aim;

typedef struct whole {
    uint64_t seed, random, hash;
    sim_setup sim;
    fp_meta_service *service;
    fp_sim_source source;
    size_t ticks;
    unsigned coordinator_count, storage_count, compute_count, part_count, cuts;
    whole_aim aims[WHOLE_PARTS];
    uint64_t aimed_until_ns; /* what was aimed has its time: nothing else goes wrong */
    char coordinator_uris[64];
    whole_coordinator coordinators[WHOLE_COORDINATORS];
    whole_member memory[SIM_NODES_MAX], storage[WHOLE_STORAGES];
    sim_storage storages[WHOLE_STORAGES];
    whole_compute computes[WHOLE_COMPUTES];
    whole_truth truth[WHOLE_PARTS];
    fp_agent *person;
    fp_net_options person_net;
    uint64_t boots, term;
    bool quiet; /* nothing goes wrong any more */
    bool closing;
} whole;

/* Of all seeds. */
typedef struct whole_counts {
    uint64_t acked, stored, opened, taken, from_storage, changed, late, failed, lost, stuck,
        opened_late;
    uint64_t faults, from_storage_nodes, written_back; /* pages */
} whole_counts;
extern whole_counts whole_count;

/* The seed has drawn the sizes. */
void whole_open(whole *w);
void whole_close(whole *w);
uint64_t whole_now(const whole *w);
uint64_t whole_draw(whole *w, uint64_t below);
void whole_note(whole *w, uint64_t what); /* that two runs of a seed must have in common */
void whole_pass(whole *w, unsigned ms);

/* In the midst of a step of a spiller or a storage node, which others may wait for: nothing that waits is to begin now. */
bool whole_is_stepping(const whole *w);

void whole_coordinator_start(whole *w, whole_coordinator *k);
void whole_coordinator_crash(whole *w, whole_coordinator *k);
whole_coordinator *whole_leader(whole *w); /* with the highest term; NULL: nobody */
void whole_memory_crash(whole *w, unsigned i);
void whole_memory_back(whole *w, unsigned i); /* empty; if it has crashed */
void whole_storage_crash(whole *w, unsigned i);
void whole_storage_back(whole *w, unsigned i);
/* A person asks; nobody waits for the answer. Takes call. */
void whole_ask(whole *w, json_t *call);

/* tests/lib/simwhole_trouble.c */
/* From now on things go wrong, until w->quiet. */
void whole_trouble(whole *w);
/* No two are cut off from each other any more. */
void whole_heal(whole *w);
/* It is about to open a partition: it may stand still now, or stand still or crash in the midst of that. */
void whole_trouble_opening(whole_compute *c);
void whole_cut(whole *w, const char *a, const char *b, bool one_way);
/* Crashes, and is back after a while. */
void whole_lose_compute(void *compute);
void whole_lose_memory(whole_member *m);
void whole_pause_compute(void *compute); /* may wait */
void whole_aimed(whole *w);              /* until now */

/* tests/lib/simwhole_change.c: troubles of those who change their memory nodes, until w->quiet. */
void whole_trouble_changes(void *whole);

/* tests/lib/simwhole_compute.c */
void whole_compute_start(whole_compute *c); /* if it is down */
void whole_compute_crash(whole_compute *c);
void whole_compute_talk(whole_compute *c); /* a step of its talker */
/* For fp_sim_at: what its program does, again and again. */
void whole_compute_work(void *compute);
/* Ends it, whatever it is doing. */
void whole_compute_close(whole_compute *c);

#endif
