/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the simulated disk: sim_file.c (contents of files), sim_medium.c (directory, crash, rot), sim.c (requests on
 * virtual time). */
#ifndef FP_COMMON_DISK_SIM_MEDIUM_H
#define FP_COMMON_DISK_SIM_MEDIUM_H

#include "common/disk/sim.h"
#include "common/net/sim_device.h"

enum {
    SIM_SECTOR = 512,
    SIM_SECTORS = FP_DISK_ALIGN / SIM_SECTOR,
    /* Of what is dirty in a file, or in the directory, a crash keeps all, about 3, 2 or 1 quarters, or nothing. */
    SIM_KEEP_ODDS = 4,
};

/* In place of a change's number: it is not durable and no SYNC makes it so (D8). */
#define SIM_DOOMED UINT64_MAX

/* Every change has a number, that of the medium when it was made. A sector, a size or a directory operation that is
 * not durable carries it; a SYNC covers numbers up to the one at which it was submitted. */
typedef struct sim_block {
    uint8_t *now, *was; /* what READ sees; of dirty sectors, what is durable. NULL: zeros */
    uint64_t dirty[SIM_SECTORS]; /* 0: durable */
    bool reserved;               /* takes space on the medium */
} sim_block;

typedef struct sim_inode {
    uint64_t size, durable_size;
    uint64_t size_dirty; /* 0: the two are equal */
    sim_block *blocks;   /* block_count of them; beyond: zeros */
    size_t block_count;
    size_t dirty_first, dirty_end; /* no block outside is dirty */
    uint64_t reserved_blocks;
    unsigned links, opens, syncs; /* names now; handles; SYNCs under way */
    bool reached;                 /* while garbage is collected */
    struct sim_inode *next;
} sim_inode;

typedef struct sim_entry {
    char name[FP_DISK_NAME_MAX + 1];
    sim_inode *inode;
} sim_entry;

typedef struct sim_dir {
    sim_entry *entries;
    size_t count, room;
} sim_dir;

/* An operation of the directory that is not durable: remove `gone` if it is not "", then let `name` be the inode if
 * that is not NULL. */
typedef struct sim_dir_op {
    uint64_t number;
    char gone[FP_DISK_NAME_MAX + 1], name[FP_DISK_NAME_MAX + 1];
    sim_inode *inode;
} sim_dir_op;

struct fp_disk_medium {
    fp_sim_world *world;
    fp_disk_sim_config config;
    uint64_t changes; /* number of the last one */
    sim_inode *inodes;
    sim_dir now, durable;
    sim_dir_op
        *ops; /* in order; applied to `durable` they make `now`, unless a SYNC_DIR has failed */
    size_t op_count, op_room;
    struct {
        unsigned nth; /* 0: off */
        int error;
    } fail[FP_DISK_KINDS];
    struct sim_disk *disk; /* the one open on it, or NULL */
};

/* Memory of the simulation itself: a test that runs out of it may end. */
void *sim_alloc(size_t count, size_t size);
bool sim_chance(fp_sim_world *world, uint32_t per_million);

/* ---- sim_file.c ------------------------------------------------------------------------------ */

sim_inode *sim_inode_new(fp_disk_medium *medium);
void sim_inode_free(sim_inode *inode);
/* torn: each sector is written or not. 0 or ENOSPC, then a part may have been written. */
int sim_write(fp_disk_medium *medium, sim_inode *inode, const fp_disk_req *req, bool torn);
int sim_read(const sim_inode *inode, const fp_disk_req *req);
int sim_allocate(fp_disk_medium *medium, sim_inode *inode, uint64_t size);
void sim_truncate(fp_disk_medium *medium, sim_inode *inode, uint64_t size);
void sim_sync(sim_inode *inode, uint64_t covered);
/* What the SYNC should have covered stays dirty, or is lost now, or will be lost in the next crash. */
void sim_sync_failed(fp_disk_medium *medium, sim_inode *inode, uint64_t covered);
void sim_inode_crash(fp_disk_medium *medium, sim_inode *inode);
/* Rot: [offset, offset + len) is zeros, now and durably. */
void sim_zero(sim_inode *inode, uint64_t offset, uint64_t len);

/* ---- sim_medium.c ---------------------------------------------------------------------------- */

sim_inode *sim_find(const fp_disk_medium *medium, const char *name);
void sim_change_dir(fp_disk_medium *medium, const char *gone, const char *name, sim_inode *inode);
void sim_sync_dir(fp_disk_medium *medium, uint64_t covered);
void sim_sync_dir_failed(fp_disk_medium *medium, uint64_t covered);
/* Frees inodes without name or handle, now or after a crash. */
void sim_collect(fp_disk_medium *medium);
/* Everything but the disk that is open. */
void sim_medium_crash(fp_disk_medium *medium);

/* ---- sim.c ----------------------------------------------------------------------------------- */

/* The power has failed: requests under way have happened, in part, or not. */
void sim_disk_die(struct sim_disk *disk);

#endif
