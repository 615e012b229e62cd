/* SPDX-License-Identifier: Apache-2.0 */
/* A memory node's tables, looked at from the inside while nothing moves. */
#ifndef FP_TESTS_LIB_MEMNODE_CHECK_H
#define FP_TESTS_LIB_MEMNODE_CHECK_H

#include "memnode/node.h"

/* Every extent is granted to exactly one partition and use or free; what is free is zero (at its start and end); the
 * counts say so; nothing waits. Ends the process otherwise. */
void memnode_check(const fp_memnode *node);

/* Whether mr is an extent of a partition that the client is attached to. */
bool memnode_reaches(const fp_memnode *node, const fp_client *client, const fp_mr *mr);

#endif
