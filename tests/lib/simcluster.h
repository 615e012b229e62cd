/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster of tests/model/cluster_sim.c, and the owners of its partition, one after the other. */
#ifndef FP_TESTS_LIB_SIMCLUSTER_H
#define FP_TESTS_LIB_SIMCLUSTER_H

#include "tests/lib/redo_model.h"
#include "tests/lib/simtrouble.h"
#include "tests/lib/simwatch.h"
#include "tests/lib/teststorage.h"

enum {
    STORAGES_MAX = 3,
    RING_BYTES = 1 << 20,
    OP_SECONDS_MAX = 60, /* of the world's time */
};

typedef struct owner {
    char name[16];
    uint64_t epoch;
    farpool_pool *pool;
    farpool_partition *part;
    farpool_btree *tree;
    bool done;                       /* its log has failed, or its tree is in doubt */
    unsigned crashes[SIM_NODES_MAX]; /* of each node before it opened */
} owner;

typedef struct sim_cluster {
    uint64_t seed, random, hash, epoch;
    unsigned copies, quorum, storage_quorum, storage_count;
    unsigned nodes,
        uses[SIM_NODES_MAX]; /* the partition's: so many, these of the world's; one is to spare */
    bool powers;             /* storage nodes' power fails */
    bool base_stored;        /* what the model begins with is on stable media */
    bool hides; /* one ring is longer than the log, and the next owner does not reach its node: */
    unsigned hidden;
    sim_setup sim;
    sim_storage storages[STORAGES_MAX];
    const char *storage_uris[STORAGES_MAX];
    sim_trouble trouble;
    sim_watch watch;
    owner *current;
    redo_model model;
} sim_cluster;

extern sim_cluster r;

uint64_t draw(uint64_t below);
void note(uint64_t what); /* that two runs of a seed must have in common */
void check_time(uint64_t start);

/* Each storage node has the next one for a peer, from when it is restarted on. */
void cluster_storages_peer(void);
/* If it is without power. For fp_sim_at, of a sim_storage. */
void cluster_storage_back(void *storage);
/* The owner goes on while all but one are without power, so that one has more log than the others. */
void cluster_storage_ahead(const owner *o);
/* Perhaps the one that has most goes away, for so many ns at most, without which the others can still tell what is stored. */
bool cluster_storage_away(uint64_t most_ns);

owner *new_owner(void);
void close_owner(owner *o); /* NULL is allowed */
int open_partition(owner *o, enum farpool_recover recover);
/* Who was taken over does not know it: nothing of his is acknowledged. */
void outlive(const owner *o);
/* Somebody who should have opened it before this owner tries it only now, and is refused everywhere. */
void come_late(const owner *now);

#endif
