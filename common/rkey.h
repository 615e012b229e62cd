/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FP_COMMON_RKEY_H
#define FP_COMMON_RKEY_H

#include <stdint.h>

/* Names a registered range to peers; travels in control messages. */
typedef struct fp_rkey {
    uint64_t key;  /* backend's: verbs rkey; otherwise a number made with getrandom (unguessable) */
    uint64_t addr; /* what fp_net_op.remote_addr of the range's first byte is */
    uint64_t len;
} fp_rkey;

#endif
