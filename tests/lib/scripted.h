/* SPDX-License-Identifier: Apache-2.0 */
/* A coordinator that keeps nothing and says what the test wants it to: for agents. No thread; the test steps it. */
#ifndef FP_TESTS_LIB_SCRIPTED_H
#define FP_TESTS_LIB_SCRIPTED_H

#include "common/cluster/call.h"
#include "common/daemon/server.h"

enum scripted_mood {
    SCRIPTED_LEADS,
    SCRIPTED_FOLLOWS,       /* says so, and that `leader` leads, if that is not "" */
    SCRIPTED_SILENT,        /* takes what it is asked and never answers */
    SCRIPTED_DEAF,          /* answers join, nothing else */
    SCRIPTED_GARBAGE,       /* answers with what is no JSON */
    SCRIPTED_TOO_LONG,      /* says that its answer is longer than any may be */
    SCRIPTED_BREAKS,        /* closes the connection instead of answering */
    SCRIPTED_BREAKS_MIDWAY, /* after the first part of a long answer */
    SCRIPTED_REFUSES,       /* E_EXISTS */
};

typedef struct scripted {
    fp_server server;
    char uri[FP_NET_URI_MAX];
    char leader[FP_NET_URI_MAX];
    const char *leader_name; /* NULL: as it is called itself */
    enum scripted_mood mood;
    json_int_t term, revision;
    json_t *duties; /* more members for the duties, or NULL; with another revision they are told */
    json_t *other;  /* the answer to all other methods; NULL: what the call says is given back */
    unsigned heartbeat_ms;
    /* What it was told. */
    unsigned joins, waits, tells, others;
    unsigned leaves;       /* of the others */
    json_t *card, *actual; /* the last ones; NULL: none */
    uint64_t (*now)(void);
} scripted;

/* uri: of a world, with the options of a node in it (else NULL). Their auth is the server's, too. It leads, in term 1. now:
 * the time. */
void scripted_open(scripted *s, const char *uri, const fp_net_options *net, uint64_t (*now)(void));
/* All that can be done now. */
void scripted_step(void *s);
void scripted_close(scripted *s);

#endif
