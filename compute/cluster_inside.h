/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a cluster as a program sees it: cluster.c (threads, joining, asking), cluster_duties.c (what coordinators say
 * and are told), cluster_events.c (what the program is told), cluster_open.c (partitions).
 *
 * An assignment is one partition that the coordinators say is ours, or that is open here, or of which the program
 * believes so. Its state:
 *
 *     NOT_TRIED -> OPENING -> OPEN -> CLOSING -> CLOSED       of the epoch `tried`
 *                     |                  |
 *                     +-----> FAILED <---+                    it was opened in vain; or its log had failed
 *
 * Another epoch may be tried from NOT_TRIED, FAILED and CLOSED. A change of memory nodes tries one from OPEN; if that is in
 * vain, the partition is open as before, under `held`, and the next change tries again.
 *
 * Locks: cluster.lock guards everything that is not said to be a thread's. It is taken with nothing held, nothing is waited for
 * under it but the condition, and nothing of the agent's is called under it.
 */
#ifndef FP_COMPUTE_CLUSTER_INSIDE_H
#define FP_COMPUTE_CLUSTER_INSIDE_H

#include "common/cluster/agent.h"
#include "common/kept.h"
#include "compute/cluster.h"

typedef struct fp_uris {
    unsigned count;
    char list[FP_PARTITION_NODES_MAX][FP_NET_URI_MAX];
} fp_uris;

enum fp_duty_phase { FP_DUTY_ASSIGNED, FP_DUTY_OPEN, FP_DUTY_CHANGING };

/* What the coordinators say of a partition that is ours. */
typedef struct fp_duty {
    uint64_t id, epoch; /* epoch 0: it is not ours */
    char name[256];
    enum fp_duty_phase phase;
    bool read_only, made, stored;
    fp_uris memnodes, storagenodes;
    uint64_t slab_bytes, space_bytes, log_ring_bytes;
    unsigned log_copies, log_quorum, storage_quorum;
} fp_duty;

enum fp_assignment_state {
    FP_NOT_TRIED,
    FP_OPENING,
    FP_OPEN,
    FP_CLOSING,
    FP_CLOSED,
    FP_FAILED,
};

/* Guarded by cluster->lock. */
struct fp_assignment {
    fp_assignment *next;
    farpool_cluster *cluster; /* immutable */
    fp_duty duty;
    enum fp_assignment_state state;
    uint64_t tried;               /* epoch; 0: none yet */
    int code;                     /* why the last attempt was in vain, or its log has failed; 0, */
    char text[256];               /* in words */
    farpool_partition *partition; /* NULL: not open, or being closed */
    uint64_t held;                /* epoch under which it is, or was, open; 0: it never was */
    bool in_use;                  /* the worker is changing it */
    fp_uris storagenodes;         /* that it uses */
    uint64_t storage_after_ns;    /* they could not be changed: not again before that */
    int log_failure;              /* as last looked at, and so are */
    uint32_t lost;                /* memory nodes that it cannot use, by their place */
    /* What the program believes: */
    uint64_t told; /* assigned under this epoch; 0: not assigned */
    bool told_read_only;
    bool named; /* while duties are taken in */
};

/* A question for the coordinators, of a thread that waits for the answer. */
typedef struct fp_question {
    struct fp_question *next;
    farpool_cluster *cluster;
    json_t *call; /* until it is sent */
    unsigned timeout_ms;
    bool done;
    fp_kept failed;
    json_t *answer; /* the asking thread's */
} fp_question;

struct farpool_cluster {
    farpool_pool *pool; /* immutable until it is left, as all up to the agent */
    char zone[256], rack[256], host[256], address[256], boot_id[17];
    bool standby, threaded;
    unsigned timeout_ms;
    pthread_t talker, worker;
    int wake_fd;     /* an eventfd: there is something for the talker */
    fp_agent *agent; /* the talker's */

    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t changed; /* of anything that somebody may wait for; CLOCK_MONOTONIC */
    bool stop;
    bool to_tell; /* what it has is another than was told */
    bool connected, told_connected;
    char trouble[256]; /* why it is not connected */
    fp_assignment *assignments;
    fp_question *questions; /* not asked yet */
};

/* ---- cluster.c ------------------------------------------------------------------------------- */

/* Its name there: that of the pool's key, if it has one, for memory nodes grant to whoever proves to be the owner. */
const char *fp_cluster_name(const farpool_cluster *cluster);

/* By its clock in the simulated world, or fp_now_ns. */
uint64_t fp_cluster_now(const farpool_cluster *cluster);

/* What it has has changed: the coordinators are told, and whoever waits looks again. */
void fp_cluster_changed_locked(farpool_cluster *cluster);
/* Waits for that, until a time of fp_now_ns; 0: without end. Returns whether that time has come. */
bool fp_cluster_wait_locked(farpool_cluster *cluster, uint64_t until_ns);

/* ---- cluster_duties.c ------------------------------------------------------------------------ */

/* The agent's functions; owner is the cluster. */
json_t *fp_cluster_card(void *owner);
json_t *fp_cluster_actual(void *owner);
void fp_cluster_duties(void *owner, const json_t *duties);
fp_assignment *fp_cluster_find_locked(farpool_cluster *cluster, uint64_t id);
bool fp_uris_equal(const fp_uris *a, const fp_uris *b);

/* ---- cluster_events.c ------------------------------------------------------------------------ */

/* Looks at partitions that are open: what of them has failed or was lost since. Returns whether anything has. */
bool fp_cluster_look_locked(farpool_cluster *cluster);
/* Whether the partition, which is open, is not ours any more; *reason, if not NULL, says why. */
bool fp_assignment_is_revoked(const fp_assignment *a, char reason[256]);
/* Frees those that nobody is interested in any more. */
void fp_cluster_forget_locked(farpool_cluster *cluster);

/* ---- cluster_open.c -------------------------------------------------------------------------- */

/* Does one thing that is to be done with a partition that is open; the lock is left meanwhile. False: there is none,
 * before *again_ns (0: unless something changes). */
bool fp_cluster_work_locked(farpool_cluster *cluster, uint64_t *again_ns);

#endif
