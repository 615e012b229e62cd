/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSTs over HTTP, by libcurl, many at a time in one thread and without waiting. Not a general client: it knows what
 * etcd's gateway needs, and never sends a body twice.
 */
#ifndef FP_COORDINATOR_ETCD_HTTP_H
#define FP_COORDINATOR_ETCD_HTTP_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "farpool.h"

typedef struct fp_http fp_http;
typedef struct fp_http_call fp_http_call;

struct fp_http_call {
    /* The caller's; they stay as they are until the end. */
    const char *url, *token; /* token: NULL for none */
    const char *body;
    size_t len;
    bool stream;                      /* no end; answers come as lines, more can be sent */
    unsigned timeout_ms;              /* for all of it; 0: none, for streams */
    unsigned connect_ms;              /* for the connection */
    void (*done)(fp_http_call *call); /* from fp_http_step, once, unless cancelled before */
    void *user;
    /* Results. */
    CURLcode result;
    long status;  /* HTTP's, 0 if there was no answer */
    char *answer; /* what has come; the call's */
    size_t got, room;
    bool sent; /* all of the body may have left this process */
    bool too_big;
    bool news; /* of a stream: bytes have come since this was set to false */
    char words[CURL_ERROR_SIZE];
    struct { /* the client's */
        fp_http *http;
        CURL *easy;
        struct curl_slist *headers;
        size_t at; /* so much of the body has been taken */
    } own;
};

typedef struct fp_http_options {
    const char *ca_file, *cert_file, *key_file; /* ca_file: TLS */
} fp_http_options;

/* Strings are copied. Errors: E_INVAL (files that cannot be read), E_NOMEM, E_SYS. */
int fp_http_open(const fp_http_options *options, fp_http **http) FARPOOL_MUST_CHECK;
void fp_http_close(fp_http *http); /* no call is under way */
int fp_http_fd(const fp_http *http);

/* Errors: E_NOMEM. */
int fp_http_start(fp_http *http, fp_http_call *call) FARPOOL_MUST_CHECK;
/* Frees what the call has; also after done(). It is not called any more. */
void fp_http_cancel(fp_http_call *call);

/* Goes on with all calls; waits, if told to (-1: for ever), until there is something to do or wake_ns, by
 * CLOCK_MONOTONIC (UINT64_MAX: never). 0, or a negative code. */
int fp_http_step(fp_http *http, int timeout_ms, uint64_t wake_ns) FARPOOL_MUST_CHECK;
/* The descriptor becomes readable when there is something to do, wake_ns included. 0 or E_SYS. */
int fp_http_arm(fp_http *http, uint64_t wake_ns) FARPOOL_MUST_CHECK;

#endif
