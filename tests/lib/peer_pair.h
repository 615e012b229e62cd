/* SPDX-License-Identifier: Apache-2.0 */
/* What most conformance tests begin with: a server and a client connected to it. */
#ifndef FP_TESTS_LIB_PEER_PAIR_H
#define FP_TESTS_LIB_PEER_PAIR_H

#include "tests/lib/peer.h"

extern peer server;
extern client c;

int peer_pair_open(void **state);
int peer_pair_close(void **state);
#define PEER_TEST(test) cmocka_unit_test_setup_teardown(test, peer_pair_open, peer_pair_close)

/* The client's memory. */
static inline uint8_t *local(size_t at) { return (uint8_t *)c.mem.addr + at; }

#endif
