/* SPDX-License-Identifier: Apache-2.0 */
/* A node as a process of its own: for tests that kill or watch it. Failures end the test with a message. */
#ifndef FP_TESTS_LIB_PROCESS_H
#define FP_TESTS_LIB_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "tests/lib/require.h"

enum { PROCESS_PEERS_MAX = 2 };

typedef struct test_process {
    pid_t pid;
    char uri[256];     /* where it listens: real port */
    bool watched;      /* it gets --http, with a port of its own choosing: */
    char http[64];     /* HOST:PORT */
    const char *fault; /* not NULL: it gets that as FARPOOL_FAULT_POINT */
} test_process;

/* Starts $FARPOOL_BUILD/farpool-memnode and waits until it is ready, or has died at its fault point. uri: where to
 * listen; a scheme alone ("tcp") stands for an address of its own choosing. It dies with the calling thread. */
void test_process_start(test_process *process, const char *uri, unsigned memory_kib);
/* The same with --storage and that URI. */
void test_process_start_spilling(test_process *process, const char *uri, unsigned memory_kib,
                                 const char *storage);
/* The same with farpool-storagenode, serving that directory. */
void test_process_start_storage(test_process *process, const char *uri, const char *volume);
/* The same with segments and layers of that size ("64k"; NULL: segments of 1 MiB), and these peers, at most
 * PROCESS_PEERS_MAX; NULLs are left out. */
void test_process_start_peer(test_process *process, const char *uri, const char *volume,
                             const char *size, const char *const *peers, unsigned count);
/* Any program of $FARPOOL_BUILD that takes --listen and --ready-fd, with these options, up to NULL. */
void test_process_start_program(test_process *process, const char *uri, const char *program,
                                const char *const *options);
/* Sends the signal and waits for the end; what waitpid gave. */
int test_process_end(test_process *process, int signal);

/* Runs a test over the transport that FARPOOL_TEST_SCHEME names, else over shm, then tcp. */
void test_process_schemes(void (*run)(const char *scheme));

#endif
