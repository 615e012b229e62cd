/* SPDX-License-Identifier: Apache-2.0 */
/* What the model says to nodes and people, as JSON (docs/coordinator.md, What is said). New objects; NULL: no memory. */
#ifndef FP_COORDINATOR_DUTIES_H
#define FP_COORDINATOR_DUTIES_H

#include "coordinator/model.h"

/* Of a node, without `term` and `revision`. */
json_t *fp_duties(const fp_model *model, const fp_member *member);

json_t *fp_status_members(const fp_model *model);
json_t *fp_status_part(const fp_model *model, const fp_part *part);
json_t *fp_status_parts(const fp_model *model); /* not of those that are deleted and gone */
json_t *fp_status_route(const fp_model *model, const fp_part *part);
/* A sentence for everything that is not as it is to be, and does not go on by itself. */
json_t *fp_status_stalled(const fp_model *model);

#endif
