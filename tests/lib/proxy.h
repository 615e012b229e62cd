/* SPDX-License-Identifier: Apache-2.0 */
/* Somebody between two ends of a TCP connection, on the loopback: keeps what he sees, changes a byte of it, or cuts it off. One
 * connection at a time. What fails ends the process. */
#ifndef FP_TESTS_LIB_PROXY_H
#define FP_TESTS_LIB_PROXY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PROXY_KEEPS = 1 << 20, PROXY_WAIT_S = 60 };
enum proxy_way { PROXY_TO_SERVER, PROXY_TO_CLIENT };

typedef struct proxy {
    char uri[64];
    uint16_t port; /* of the server */
    int listener, stop_fd;
    pthread_t thread;
    /* atomic: set by the test while nothing is under way. Of the bytes that come then, the number of the one that is
     * changed, or before which all ends; -1: none */
    atomic_long flip[2], cut[2];
    /* The first bytes of the connection that is or was last; the thread's, the test's when nothing is under way. */
    uint8_t kept[2][PROXY_KEEPS];
    _Atomic size_t count[2]; /* release, acquire */
} proxy;

void proxy_start(proxy *p, const char *server_uri);
void proxy_stop(proxy *p);
bool proxy_saw(const proxy *p, enum proxy_way way, const char *text);

/* A connection to a tcp:// address, with a time limit of PROXY_WAIT_S for receiving. */
int proxy_dial(const char *uri);

#endif
