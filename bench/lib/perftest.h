/* SPDX-License-Identifier: Apache-2.0 */
/* Somebody else's figures from the same machine: ib_read_lat and ib_read_bw of perftest. */
#ifndef FP_BENCH_PERFTEST_H
#define FP_BENCH_PERFTEST_H

/* Adds verbs.ib_read_lat_p50 and verbs.ib_read_bw_qd32, both of 4 KiB READs, measured against the RDMA
 * device of the address verbs://HOST:PORT. Says so and adds nothing where perftest is not installed. */
void bench_perftest(const char *uri);

#endif
