/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FP_COORDINATOR_SIM_COPY_H
#define FP_COORDINATOR_SIM_COPY_H

#include "coordinator/metastore.h"

/* A request as it travels: all that it points to is copied with it, into one piece of memory that free() frees. */
fp_meta_req *fp_meta_copy(const fp_meta_req *req);

#endif
