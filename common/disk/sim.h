/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated disk: a medium in memory, in a simulated world (common/net/sim.h), on virtual time. A disk is opened
 * on it by fp_disk_open with options.medium. The medium outlives the disk: a node that has crashed opens a new one.
 * All that D2, D4 and D6 to D8 leave open is drawn from the world's seed.
 */
#ifndef FP_COMMON_DISK_SIM_H
#define FP_COMMON_DISK_SIM_H

#include "common/disk/disk.h"
#include "common/net/sim.h"

typedef struct fp_disk_medium fp_disk_medium;

typedef struct fp_disk_sim_config {
    uint64_t latency_min_ns, latency_max_ns; /* of a request; 0, 0: 20 to 200 us */
    uint32_t slow_per_million;               /* chance that a request takes slow_ns longer */
    uint64_t slow_ns;
    uint32_t eio_per_million[FP_DISK_KINDS]; /* chance of EIO, for each kind of request */
    uint64_t capacity_bytes;                 /* for the files' blocks; 0: without end */
} fp_disk_sim_config;

/* The medium is empty. Errors: E_NOMEM. */
int fp_disk_medium_open(fp_sim_world *world, const fp_disk_sim_config *config,
                        fp_disk_medium **medium) FARPOOL_MUST_CHECK;
/* Its disk is closed. */
void fp_disk_medium_close(fp_disk_medium *medium);

/* Called, while another node waits, when the disk has completions; polls it with timeout 0. */
void fp_disk_sim_set_driver(fp_disk *disk, void (*driver)(void *arg), void *arg);

/* The power fails: what was not durable is kept or lost, each sector, size and directory operation on its own. The
 * disk open on the medium is dead: it calls no done() until fp_disk_close does, for what was under way with E_CLOSED,
 * whatever became of it. May be called from fp_sim_at; goes with fp_sim_crash, which ends the node's connections. */
void fp_disk_sim_crash(fp_disk_medium *medium);

/* ---- faults ---------------------------------------------------------------------------------- */

/* From now on. */
void fp_disk_sim_configure(fp_disk_medium *medium, const fp_disk_sim_config *config);
/* The n-th request of this kind to complete from now on (1: the next) fails with this errno. 0: none does. */
void fp_disk_sim_fail(fp_disk_medium *medium, enum fp_disk_kind kind, unsigned nth, int sys_errno);

/* Rot, at once and for good: what is durable changes as well. False if there is no such file or place. */
bool fp_disk_sim_flip(fp_disk_medium *medium, const char *name, uint64_t offset, unsigned bit);
bool fp_disk_sim_zero(fp_disk_medium *medium, const char *name, uint64_t offset, uint64_t len);
/* The file is cut to this size, which need not be a whole block. */
bool fp_disk_sim_cut(fp_disk_medium *medium, const char *name, uint64_t size);

#endif
