/* SPDX-License-Identifier: Apache-2.0 */
/* What the conformance suite of disks runs on: volumes of each backend, and requests that are waited for. */
#ifndef FP_TESTS_LIB_DISK_SCOPE_H
#define FP_TESTS_LIB_DISK_SCOPE_H

#include "common/disk/sim.h"

enum { DISK_WAIT_MS = 60000 };

/* Runs group(), a cmocka group, on io_uring on the file system of the build, on one in memory and on one without
 * O_DIRECT, and on the simulated disk; the number of failures, for main. */
int disk_for_each(int (*group)(const char *name));
bool disk_is_sim(void);

/* A new, empty volume, open. disk_end closes and removes it. */
fp_disk *disk_begin(const fp_disk_options *options);
void disk_end(fp_disk *disk);
/* Closes the disk and opens its volume again. */
fp_disk *disk_again(fp_disk *disk);
const char *disk_dir(void); /* where the volume is; uring */
/* The simulated volume, and its world; NULL on uring. */
fp_disk_medium *disk_medium(void);
fp_sim_world *disk_world(void);

/* A file system of its own for this process, which ends with it, in a new directory. False where that is not
 * allowed. */
bool disk_mount(const char *type, const char *options, char path[256]);

/* Submits and waits; the status. req->done is set. */
int disk_do(fp_disk *disk, fp_disk_req *req);
/* Polls until *counter is at least wanted, DISK_WAIT_MS at most. */
void disk_wait(fp_disk *disk, const unsigned *counter, unsigned wanted);

fp_disk_file *disk_open_file(fp_disk *disk, const char *name, enum fp_disk_mode mode);
int disk_close_file(fp_disk *disk, fp_disk_file *file);
int disk_write(fp_disk *disk, fp_disk_file *file, uint64_t offset, const void *data, size_t len);
int disk_read(fp_disk *disk, fp_disk_file *file, uint64_t offset, void *data, size_t len);
int disk_file_op(fp_disk *disk, enum fp_disk_kind kind, fp_disk_file *file, uint64_t size);
int disk_rename(fp_disk *disk, const char *name, const char *new_name, bool replace);
int disk_unlink(fp_disk *disk, const char *name);

/* Aligned memory, each byte `fill`; free() it. */
void *disk_buffer(size_t len, int fill);

#endif
