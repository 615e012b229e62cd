/* SPDX-License-Identifier: Apache-2.0 */
/* A client of a storage node, message by message, as a memory node that streams a log, or one that reads it: over any
 * transport, the simulated one included. What must not fail ends the process. */
#ifndef FP_TESTS_LIB_LOGCLIENT_H
#define FP_TESTS_LIB_LOGCLIENT_H

#include "common/net/net.h"
#include "common/wire.h"
#include "tests/lib/wal_log.h"

typedef struct logclient {
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn; /* NULL: closed by us */
    fp_mem mem;    /* WRITEs leave from here */
    fp_mr *mr;
    fp_msg msg; /* the last answer */
    uint32_t sent, answered;
    unsigned writes;  /* under way */
    int write_status; /* of the last that failed */
    int closed;       /* status of FP_NET_CLOSED */
    uint64_t partition, epoch;
    uint64_t landed;       /* upto; set by an answered WAL_OPEN to the WAL's end */
    fp_rkey landing;       /* " */
    uint64_t landing_free; /* of the last WAL_STATE */
} logclient;

/* Options: with the world, and the name of a node of its own, for sim; else NULL. Says HELLO. 0, or what connecting
 * gives. */
int logclient_open(logclient *c, const char *uri, const fp_net_options *options);
void logclient_close(logclient *c);

void logclient_send_bytes(logclient *c, const void *bytes, size_t len);
void logclient_send(logclient *c, fp_msg *msg); /* sets request */
/* Until so many answers in all have come or the connection has broken: then false. */
bool logclient_wait(logclient *c, uint32_t answered);
/* Sends and waits: the type of the answer, the code of an ERROR, or what the connection broke with. */
int logclient_ask(logclient *c, fp_msg msg);

int logclient_wal_open(logclient *c, uint64_t partition, uint64_t epoch, uint64_t bytes,
                       uint64_t lsn);
int logclient_get(logclient *c, uint64_t partition, uint64_t lsn); /* LOG_GET */
/* WRITEs the log's bytes from c->landed to `to` and waits for them. 0, or the status that broke the connection. */
int logclient_land(logclient *c, const wal_log *log, uint64_t to);
/* The request to append up to there, without waiting. */
void logclient_append(logclient *c, uint64_t lsn);
/* Both, and waits: as logclient_ask. */
int logclient_stream(logclient *c, const wal_log *log, uint64_t to);
/* Reads all of the log from `from` on and compares it with what the owner has: where it ends. */
uint64_t logclient_compare(logclient *c, const wal_log *log, uint64_t from);

#endif
