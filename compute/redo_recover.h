/* SPDX-License-Identifier: Apache-2.0 */
/* What a new owner does with the rings that earlier ones left. */
#ifndef FP_COMPUTE_REDO_RECOVER_H
#define FP_COMPUTE_REDO_RECOVER_H

#include "compute/redo_log.h"

/* The rings have been granted, some perhaps not (lost). FARPOOL_NEW: the log is a new one, E_EXISTS if any
 * ring has commits; all of them can be read. Otherwise: finds the log, E_NOTFOUND if all rings can be read and none has
 * any, E_NODE if too few can tell. Then the mirror and w rings have it, with the new owner's first frame behind.
 * Blocks. */
int fp_redo_recover(fp_redo_log *log, enum farpool_recover recover) FARPOOL_MUST_CHECK;

#endif
