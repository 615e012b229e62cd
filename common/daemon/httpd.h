/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a daemon tells those who watch it, over HTTP (libmicrohttpd), in the daemon's own loop: no threads, no locks,
 * and nothing here waits.
 *
 *   /metrics  figures, as Prometheus reads them
 *   /livez    200: the loop runs
 *   /readyz   200, or 503 and a sentence
 *
 * GET and HEAD; each answer ends its connection. There is no authentication: the address is for a network of those who
 * may know the figures. Nothing can be changed over it.
 */
#ifndef FP_COMMON_DAEMON_HTTPD_H
#define FP_COMMON_DAEMON_HTTPD_H

#include <stdbool.h>

#include "common/metrics.h"
#include "farpool.h"

enum {
    FP_HTTPD_ADDRESS_MAX = 240,    /* HOST:PORT with its zero byte */
    FP_HTTPD_CONNECTIONS_MAX = 32, /* more wait in the listener's queue */
    FP_HTTPD_PER_HOST_MAX = 8,     /* of them from one address; more are closed */
    FP_HTTPD_TIMEOUT_S = 5,        /* of a connection on which nothing moves */
    FP_HTTPD_MEMORY_BYTES = 16384, /* of a connection, for what it sends and for headers */
};

typedef struct fp_httpd fp_httpd;

/* Both are called within fp_httpd_step. */
typedef struct fp_httpd_ops {
    /* Writes the figures; called again with more room if they did not fit. */
    void (*metrics)(void *owner, fp_metrics *metrics);
    /* Whether it is ready; false: with a sentence. */
    bool (*ready)(void *owner, char *why, size_t size);
} fp_httpd_ops;

/* "HOST:PORT" or "[IPV6]:PORT"; E_INVAL with a sentence. */
int fp_httpd_check_address(const char *address) FARPOOL_MUST_CHECK;

/* Listens there; port 0 chooses one. ops outlive it. E_INVAL, E_NODE (the name is not known), E_SYS, E_NOMEM. */
int fp_httpd_open(const char *address, const fp_httpd_ops *ops, void *owner,
                  fp_httpd **http) FARPOOL_MUST_CHECK;
void fp_httpd_close(fp_httpd *http); /* cuts off who is connected; NULL is allowed */
/* Where it listens, with its port. Valid until it is closed. */
const char *fp_httpd_bound(const fp_httpd *http);

int fp_httpd_fd(const fp_httpd *http); /* to be waited for */
/* In how many ms to call fp_httpd_step at the latest, even if the descriptor has nothing; -1: never. */
int fp_httpd_timeout(const fp_httpd *http);
/* Answers what has come in. readable: the descriptor had something; else only what has waited for too long is
 * looked at, which costs nothing as long as nobody is connected. */
void fp_httpd_step(fp_httpd *http, bool readable);

#endif
