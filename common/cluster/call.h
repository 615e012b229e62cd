/* SPDX-License-Identifier: Apache-2.0 */
/* JSON objects in control messages (FP_MSG_CALL, FP_MSG_ANSWER): cut into parts, and put together again. */
#ifndef FP_COMMON_CLUSTER_CALL_H
#define FP_COMMON_CLUSTER_CALL_H

#include <jansson.h>
#include <stdbool.h>

#include "common/net/net.h"
#include "common/wire.h"

enum { FP_CALL_MAX = 512 << 10 }; /* bytes of one; its parts fit into FP_NET_DEPTH_MAX */

/* One that is coming in; zero at the beginning. */
typedef struct fp_call_in {
    char *bytes;
    uint64_t total, have;
    uint32_t request;
} fp_call_in;

/* Takes the next part. 0: *whole is the object, the caller's now, or NULL if more is to come. E_PROTO: this is no next
 * part, or no JSON object; E_TOO_BIG, E_NOMEM. After an error it is as at the beginning. */
int fp_call_take(fp_call_in *in, const fp_msg *msg, json_t **whole) FARPOOL_MUST_CHECK;
void fp_call_drop(fp_call_in *in);

/* Sends the object, which stays the caller's, as CALL or ANSWER. E_TOO_BIG, E_NOMEM: nothing was sent; of fp_net_post:
 * perhaps parts of it were, and the connection is of no more use. */
int fp_call_send(fp_conn *conn, enum fp_msg_type type, uint32_t request,
                 const json_t *object) FARPOOL_MUST_CHECK;

/* Words that may be cut in the midst of a character, or are no UTF-8, as text that JSON takes: '?' for what is not ASCII. */
void fp_call_words(char *to, size_t room, const char *from);
/* Is the text one of the list's, which may be NULL, or have something else in it? */
bool fp_call_lists(const json_t *list, const char *text);

#endif
