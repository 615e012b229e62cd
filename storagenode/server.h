/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A storage node without its process: one volume, the WALs on it, transports, and the answers to control messages. No
 * threads but the disk's (D14) and no clock; nothing but opening and closing waits. Whoever drives it (the daemon's loop, or a simulated
 * world) calls fp_storagenode_step when a poller or the disk may have something. All functions of one node belong to
 * one thread at a time. docs/storage.md
 */
#ifndef FP_STORAGENODE_SERVER_H
#define FP_STORAGENODE_SERVER_H

#include <jansson.h>

#include "common/daemon/server.h"
#include "common/disk/disk.h"
#include "common/metrics.h"

enum { FP_STORAGENODE_FDS_MAX = FP_SERVER_NETS_MAX + 2, FP_STORAGENODE_PEERS_MAX = 64 };

typedef struct fp_storagenode_config {
    const char *name;                    /* for messages; copied */
    const char *volume;                  /* a directory that exists; copied */
    const fp_disk_options *disk_options; /* NULL: as fp_disk_open; with a medium: simulated */
    uint64_t segment_bytes;              /* of WALs that are made; 0: FP_WAL_SEGMENT_BYTES */
    uint64_t convert_bytes; /* of log that are made pages of at a time; 0: as fp_store_options */
    uint64_t boot_id;       /* 0: random */
    uint64_t volume_id;     /* of a volume that is made now; 0: random */
    /* URIs of other storage nodes that may have the same partitions: what is missing here is got from them. Copied. */
    const char *const *peers;
    unsigned peer_count; /* at most FP_STORAGENODE_PEERS_MAX */
    bool
        in_cluster; /* coordinators say who its peers are, what is to be dropped, and who may do what */
    const fp_net_options *
        peer_net; /* simulated: the world, and a name for this node there; outlives it. Else NULL */
    const fp_auth *auth; /* with the secret, of clients and peers; outlives it. NULL: none */
} fp_storagenode_config;

typedef struct fp_storagenode fp_storagenode;

typedef struct fp_storagenode_usage {
    uint64_t bytes_total;        /* size of the volume's file system; 0: simulated */
    uint64_t bytes_free;         /* of it, for this process */
    uint64_t bytes_log;          /* of all WALs, from their beginnings to their ends */
    uint64_t bytes_lag;          /* of log that is durable and not in layers yet */
    uint64_t partitions, broken; /* broken: of them, those that could not be opened */
    uint64_t incomplete;         /* and those that should get something from a peer */
    bool refilling;              /* one of them is getting it now */
    uint64_t connections, requests;
    uint64_t cpu_ns, data_bytes;
} fp_storagenode_usage;

/* Opens the volume, which is made if the directory is empty of farpool's files, and begins to open its WALs; requests
 * for one that is not open yet wait. Errors: E_BUSY (another process serves the volume), E_CORRUPT (it is not known
 * which volume this is), E_UNSUPPORTED (a version not known here, or no io_uring), E_CLOSED (simulated: the power
 * failed), what fp_disk_open and files give. */
int fp_storagenode_open(const fp_storagenode_config *config,
                        fp_storagenode **node) FARPOOL_MUST_CHECK;
/* Two processes that write to the same volume would destroy it: the descriptor, which is closed to let go, or E_BUSY,
 * E_SYS, E_INVAL. */
int fp_storagenode_lock(const char *volume) FARPOOL_MUST_CHECK;
/* Cuts all connections off, lets what is under way finish, and closes the WALs in order. */
void fp_storagenode_close(fp_storagenode *node);

/* As fp_server_listen. */
int fp_storagenode_listen(fp_storagenode *node, const char *uri, const fp_net_options *options,
                          const char **bound) FARPOOL_MUST_CHECK;
/* The descriptors to be waited for. Returns their number. */
unsigned fp_storagenode_fds(const fp_storagenode *node, int fds[FP_STORAGENODE_FDS_MAX]);
/* For a simulated world, which drives the node by them (fp_sim_set_driver, fp_disk_sim_set_driver). */
fp_poller *fp_storagenode_poller(const fp_storagenode *node, unsigned i);
fp_disk *fp_storagenode_disk(const fp_storagenode *node);

/* Handles what has come in and what the disk has finished. Returns 1 if there is more to do at once, 0 if the
 * descriptors may be waited for, or a negative code if a transport or the disk has become unusable. */
int fp_storagenode_step(fp_storagenode *node) FARPOOL_MUST_CHECK;

void fp_storagenode_usage_get(const fp_storagenode *node, fp_storagenode_usage *usage);
/* Writes all figures, some of them for each partition. */
void fp_storagenode_metrics(const fp_storagenode *node, fp_metrics *metrics);
/* False, and a sentence, until each WAL that was on the volume is open, or found that it cannot be. */
bool fp_storagenode_ready(fp_storagenode *node, char *why, size_t size);
/* In a cluster (docs/coordinator.md, What is said): what it is to be from now on, and what it is: a new object, NULL: no
 * memory. */
void fp_storagenode_duties(fp_storagenode *node, const json_t *duties);
json_t *fp_storagenode_actual(fp_storagenode *node);
const fp_server *fp_storagenode_server(const fp_storagenode *node);
uint64_t fp_storagenode_boot_id(const fp_storagenode *node);
uint64_t fp_storagenode_volume_id(const fp_storagenode *node);

#endif
