/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of a coordinator's decisions begin with: a model with memory nodes m0 to m3 in a zone each, storage nodes
 * s0 and s1, compute nodes c0 and c1, and a partition, which is given its first owner. For cmocka tests. */
#ifndef FP_TESTS_LIB_DECIDEMODEL_H
#define FP_TESTS_LIB_DECIDEMODEL_H

#include "coordinator/server.h"
#include "tests/lib/testmodel.h"

enum { DECIDE_BYTES = 1 << 30 }; /* of a node */

extern fp_model decide_model;
extern fp_part *decide_part;

int decide_set_up(void **state);
int decide_tear_down(void **state);

/* A memory node tells of an epoch, and of a ring if it is to have one. */
void decide_raise(const char *name, unsigned epoch, bool ring);
/* A compute node tells what has become of the partition. */
void decide_owner_tells(const char *name, unsigned epoch, const char *state, int code);
/* What the partition's record says. */
void decide_check(enum fp_phase phase, unsigned epoch, const char *owner);
/* Open under epoch 1, owned by c0, on m0, m1, m2. */
void decide_open(void);
/* The node's connection breaks, and it does not come back in time. */
void decide_lose(const char *name);
/* Of the partition, by the node's duties; 0: of nothing. */
json_int_t decide_epoch_told(const char *name);
bool decide_is_told(const char *name);

#endif
