/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory nodes as the pool sees them: connecting (lazily, one connection per thread and node), asking
 * for slabs, and moving pages between frames and slots. All functions that take a thread are called by
 * whoever owns it (fp_thread.busy).
 */
#ifndef FP_COMPUTE_REMOTE_H
#define FP_COMPUTE_REMOTE_H

#include "compute/node_set.h"

/* The pool's number for a memory node, opening its transport if it is the first of its kind. Blocks. */
int fp_remote_node(farpool_pool *pool, const char *uri, unsigned timeout_ms,
                   unsigned *node) FARPOOL_MUST_CHECK;

/* Connects, also if that has failed just now, and learns the node's boot id. Blocks. */
int fp_remote_connect(fp_thread *thread, unsigned node, unsigned timeout_ms) FARPOOL_MUST_CHECK;

/* Asks share->node for share->bytes of memory, of the thread's use, under the set's epoch. share->extents, which the
 * caller frees, and the other fields say what came. held: see FP_MSG_GRANT. Blocks. */
int fp_remote_grant(fp_thread *thread, farpool_partition *partition, fp_node_set *set,
                    uint64_t held, fp_share *share) FARPOOL_MUST_CHECK;

/* Gives what the node has granted under the set's epoch for the thread's use back. Blocks. */
int fp_remote_release(fp_thread *thread, farpool_partition *partition, fp_node_set *set,
                      unsigned node) FARPOOL_MUST_CHECK;

/* The connection to a node, on which the partition's memory may be used as the set says. May block to connect. E_CLOSED:
 * it broke meanwhile; once more may help. */
int fp_remote_ready(fp_thread *thread, farpool_partition *partition, fp_node_set *set,
                    unsigned node) FARPOOL_MUST_CHECK;
/* Sends a request and waits for the answer, of the type expected, which replaces it; connects if need be. What the
 * node refuses has its code. Blocks. */
int fp_remote_ask(fp_thread *thread, unsigned node, unsigned timeout_ms, fp_msg *msg,
                  enum fp_msg_type expected) FARPOOL_MUST_CHECK;
/* Posts. E_CLOSED: nothing was posted, for the connection had broken meanwhile. That has been taken in now, so the
 * caller may connect and try once more: whoever was idle needs not suffer from it. */
int fp_remote_send(fp_thread *thread, unsigned node, const fp_net_op *ops,
                   size_t count) FARPOOL_MUST_CHECK;
/* The transfer is over: it goes to thread->completed. */
void fp_remote_complete(fp_thread *thread, fp_io *io, int status);

/* Posts the transfers, neighbours on one connection together. Each of them ends up on
 * thread->completed, at once with an error if it can't be posted. May block to connect, when this
 * thread uses the node for the first time. */
void fp_remote_post(fp_thread *thread, fp_io *const *ios, size_t count);

/* Looks for completions, waiting up to timeout_ms for one. */
void fp_remote_poll(fp_thread *thread, int timeout_ms);

/* Undoes registrations, one for each of the pool's transports or NULL. */
void fp_remote_unregister(fp_mr *mrs[FP_TRANSPORTS_MAX]);

/* Closes what fp_remote_node opened; all connections are closed. */
void fp_remote_fini(farpool_pool *pool);

#endif
