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
/* Serves the volume at an address of its own choosing: scheme "shm" or "tcp". */
test_storage *test_storage_start(const char *scheme, const char *volume);
/* The same at this address: that of one that has been stopped. Leaves the log's level as it is: others may log. */
test_storage *test_storage_start_at(const char *uri, const char *volume);
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
    fp_storagenode *node;
    bool lost; /* its power has failed */
} sim_storage;

/* The number-th of this world, with an empty medium. */
void sim_storage_open(sim_storage *s, fp_sim_world *world, unsigned number);
void sim_storage_close(sim_storage *s);
void sim_storage_crash(void *s); /* a sim_storage; also for fp_sim_at */
void sim_storage_restart(
    sim_storage *s); /* after a crash or not, at the same address, with what is on its medium */

#endif
