/* SPDX-License-Identifier: Apache-2.0 */
/* Storage nodes for tests: in this process on a directory, served by a thread of their own; and in a simulated world.
 * What fails ends the process with a message. */
#ifndef FP_TESTS_LIB_TESTSTORAGE_H
#define FP_TESTS_LIB_TESTSTORAGE_H

#include "common/disk/sim.h"
#include "storagenode/server.h"

enum { TEST_SEGMENT_BYTES = 256 << 10 }; /* of WALs that these nodes make */

/* ---- on a directory -------------------------------------------------------------------------- */

typedef struct test_storage test_storage;

/* A new, empty directory beside the build; and the end of one, with all files in it. */
void test_volume_make(char path[256]);
void test_volume_remove(const char *path);

/* False, with farpool_errmsg(), where there is no io_uring. */
bool test_storage_possible(void);
/* Serves the volume at an address of its own choosing: scheme "shm", "tcp" or, in the VM, "verbs". */
test_storage *test_storage_start(const char *scheme, const char *volume);
/* The same, with layers of so many bytes of log; 0: the usual. */
test_storage *test_storage_start_converting(const char *scheme, const char *volume,
                                            uint64_t convert_bytes);
/* The same at this address: that of one that has been stopped. Leaves the log's level as it is: others may log. */
test_storage *test_storage_start_at(const char *uri, const char *volume);
/* The same with options of the node's: peers and convert_bytes count. */
test_storage *test_storage_start_as(const char *uri, const char *volume,
                                    const fp_storagenode_config *options);
const char *test_storage_uri(const test_storage *storage);
uint64_t test_storage_volume_id(const test_storage *storage);
/* Stops serving and closes the WALs in order; connections break. */
void test_storage_stop(test_storage *storage);

/* ---- simulated ------------------------------------------------------------------------------- */

/* All but `node` and `lost` outlives a crash. */
typedef struct sim_storage {
    fp_sim_world *world;
    fp_disk_medium *medium; /* its faults: common/disk/sim.h */
    char uri[32];           /* sim://storageN */
    uint64_t boot_id, volume_id;
    uint64_t convert_bytes; /* 0: the usual */
    const char *
        peer; /* one it refills from, or NULL; set before it is restarted. Then it is to be stepped now and then: */
    bool in_cluster; /* or its duties say from whom; set as `peer`, and to be stepped then, too */
    const fp_auth *auth; /* with the secret, or NULL; set as `peer` */
    fp_net_options peer_net;
    fp_storagenode *node;
    bool opening, again; /* it is being opened; restarted meanwhile, or while it was driven */
    bool lost;           /* its power has failed */
    bool driven;         /* now */
    bool serves;         /* it has been opened, and is not being closed */
    uint64_t paused_until_ns;
} sim_storage;

/* The number-th of this world, with an empty medium. */
void sim_storage_open(sim_storage *s, fp_sim_world *world, unsigned number);
/* The same, with layers of so many bytes of log; 0: the usual. */
void sim_storage_open_converting(sim_storage *s, fp_sim_world *world, unsigned number,
                                 uint64_t convert_bytes);
void sim_storage_close(sim_storage *s);
/* The clock may have something for it, if it runs. */
void sim_storage_step(sim_storage *s);
/* Another medium, empty, and so another volume: after a crash, then sim_storage_restart. */
void sim_storage_lose_volume(sim_storage *s);
void sim_storage_crash(void *s); /* a sim_storage; also for fp_sim_at */
void sim_storage_restart(
    sim_storage *s); /* after a crash or not, at the same address, with what is on its medium */

#endif
