/* SPDX-License-Identifier: Apache-2.0 */
/* A memory node as a process of its own: for tests that kill it. Failures end the test with a message. */
#ifndef FP_TESTS_LIB_PROCESS_H
#define FP_TESTS_LIB_PROCESS_H

#include <sys/types.h>

/* Ends the test unless it is so, with farpool_errmsg(). */
#define REQUIRE(condition)                                                                         \
    ((condition) ? (void)0 : test_process_fail(__FILE__, __LINE__, #condition))
void test_process_fail(const char *file, int line, const char *what) __attribute__((noreturn));

typedef struct test_process {
    pid_t pid;
    char uri[256]; /* where it listens: real port */
} test_process;

/* Starts $FARPOOL_BUILD/farpool-memnode and waits until it is ready. uri: where to listen; a scheme alone
 * ("tcp") stands for an address of its own choosing. It dies with the calling thread. */
void test_process_start(test_process *process, const char *uri, unsigned memory_kib);
/* Sends the signal and waits for the end; what waitpid gave. */
int test_process_end(test_process *process, int signal);

#endif
