/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of a memory node's spiller: a storage node in this process, rings that a test writes as their owner, and a
 * spiller that the test steps, or that has a thread. Failures are cmocka's. */
#ifndef FP_TESTS_LIB_SPILL_STAGE_H
#define FP_TESTS_LIB_SPILL_STAGE_H

#include "memnode/spill.h"
#include "tests/lib/nodeclient.h"
#include "tests/lib/ring_owner.h"
#include "tests/lib/teststorage.h"

enum { LOG_BYTES = 256 << 10, RING_EXTENT_BYTES = 100 << 10, WAIT_NS = 1000000000, WAIT_S = 60 };

extern test_storage *storage;    /* NULL: stopped */
extern char uri[FP_NET_URI_MAX]; /* where it is, or was */

void storage_start(void);
void storage_stop(void);
/* Another one, with an empty volume, takes the place of `storage`. Returns that: the caller's. */
test_storage *storage_change(char other_volume[256]);

/* cmocka's: a storage node with an empty volume; and its end. */
int stage_begin(void **state);
int stage_end(void **state);

/* What a main function returns: runs them over shm and over tcp. */
struct CMUnitTest;
int stage_run(const struct CMUnitTest *tests, size_t count);

fp_spill *spiller(void);
void add(fp_spill *spill, const ring_owner *o, unsigned copy);
/* Steps it; NULL, for it has a thread: waits a little. */
void go_on(fp_spill *spill);
/* Up to which LSN that copy's ring says that `storage` has the log; 0: it says nothing. */
uint64_t spilled(const ring_owner *o, unsigned copy);
void until(fp_spill *spill, const ring_owner *o, unsigned copy, uint64_t lsn);
/* Gives it so many ms in which it should do nothing. */
void idle(fp_spill *spill, unsigned ms);
/* The WAL on the volume has the log's bytes up to lsn, and no more. Stops the storage node. */
void wal_is(const ring_owner *o, uint64_t lsn);

#endif
