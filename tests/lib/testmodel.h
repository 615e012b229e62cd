/* SPDX-License-Identifier: Apache-2.0 */
/* A coordinator's model that a test makes by hand: nodes that are there, what they have told, decisions put into effect.
 * Failures end the test. */
#ifndef FP_TESTS_LIB_TESTMODEL_H
#define FP_TESTS_LIB_TESTMODEL_H

#include "coordinator/decide.h"

/* Empty, with the default times, one hour after its clock began. */
void test_model_open(fp_model *model);
/* A node that is up; boot id 1. zone may be "". */
fp_member *test_model_member(fp_model *model, enum fp_role role, const char *name, const char *zone,
                             uint64_t bytes);
/* Its record changes. */
void test_model_set(fp_model *model, const char *name, enum fp_member_state state,
                    const char *storage, uint64_t boot_id);
/* A partition nobody has yet; 3 rings of 1 MiB, 8 MiB of slabs. */
fp_part *test_model_part(fp_model *model, const char *name);
void test_model_pass(fp_model *model, unsigned ms); /* all who are up are heard of meanwhile */
/* The node tells {"partitions": [...]}, written with ' for ", and follows its duties. */
void test_model_tell(fp_model *model, const char *name, const char *partitions);
/* Makes one round of decisions and puts it into effect; how many changes these were. */
size_t test_model_decide(fp_model *model);
/* Until there are none. */
void test_model_settle(fp_model *model);

#endif
