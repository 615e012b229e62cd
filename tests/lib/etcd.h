/* SPDX-License-Identifier: Apache-2.0 */
/* etcd as real processes: one member or three, in a directory beside the build, on ports of their own. They die with
 * the calling thread. Failures end the test with a message. */
#ifndef FP_TESTS_LIB_ETCD_H
#define FP_TESTS_LIB_ETCD_H

#include <stdbool.h>
#include <sys/types.h>

#include "coordinator/metastore.h"

enum { ETCD_TEST_MAX = 3 };

typedef struct test_etcd {
    unsigned count;
    const char *quota_bytes; /* NULL: etcd's own */
    const char *token_ttl_s; /* of simple tokens; NULL: etcd's own */
    bool tls;                /* clients need a certificate: those below are made */
    pid_t pids[ETCD_TEST_MAX];
    unsigned ports[2 * ETCD_TEST_MAX]; /* for clients, for members */
    char dir[256];
    char ca[300], cert[300], key[300], other_ca[300];
} test_etcd;

/* Are etcd and etcdctl installed? If not, says so. */
bool test_etcd_there(void);
/* count and what stands before pids are filled in. Does not wait until it answers. */
void test_etcd_start(test_etcd *etcd);
/* A member that was killed, with its data. */
void test_etcd_start_member(test_etcd *etcd, unsigned i);
void test_etcd_kill(test_etcd *etcd, unsigned i, int signal); /* SIGKILL: waits for its end */
void test_etcd_stop(test_etcd *etcd);                         /* kills all, removes the directory */
/* etcd://... of all members, in static storage; prefix: "" or "/p". */
const char *test_etcd_uri(const test_etcd *etcd, const char *prefix);
/* Runs etcdctl with these arguments; what system() gives. */
int test_etcd_ctl(const test_etcd *etcd, const char *arguments);
/* The member that leads; waits until one does. */
unsigned test_etcd_leader(const test_etcd *etcd);

#endif
