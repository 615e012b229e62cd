/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A conversation with the coordinators (docs/coordinator.md, What is said): finds the one that leads, joins as a node if
 * it is one, tells what it has, is told its duties, and asks. Connecting is done by a thread of its own, one at a time
 * (in a simulated world by fp_agent_step); nothing else but closing waits. All functions of one agent belong to one
 * thread at a time.
 */
#ifndef FP_COMMON_CLUSTER_AGENT_H
#define FP_COMMON_CLUSTER_AGENT_H

#include <jansson.h>
#include <stdbool.h>

#include "common/net/net.h"

enum {
    FP_AGENT_COORDINATORS_MAX = 16,
    FP_AGENT_ASKED_MAX = 1024,   /* calls that are not answered */
    FP_HEARTBEAT_MS_MAX = 60000, /* that a coordinator may ask for */
};

typedef struct fp_agent fp_agent;

/* Of those who ask only card, actual and duties are NULL. */
typedef struct fp_agent_config {
    const char *coordinators; /* their URIs, with commas between them; copied */
    const char *name;         /* told in HELLO; copied */
    const fp_net_options
        *net; /* NULL, or of a simulated world, with its node; outlives the agent */
    const struct fp_auth *auth; /* outlives it; NULL: none */
    /* What it joins with but for `method` and `actual`, and what it has: new objects; NULL: no memory. */
    json_t *(*card)(void *owner);
    json_t *(*actual)(void *owner);
    /* These are its duties from now on; they are the agent's. Not called with those of a lower term than seen. */
    void (*duties)(void *owner, const json_t *duties);
    void *owner;
} fp_agent_config;

/* E_INVAL, E_NOMEM, E_SYS. */
int fp_agent_open(const fp_agent_config *config, fp_agent **agent) FARPOOL_MUST_CHECK;
/* What was asked and is not answered ends with E_CLOSED. NULL is allowed. */
void fp_agent_close(fp_agent *agent);

/* Polls readable when fp_agent_step has something to do, be it that time has passed; -1: simulated. */
int fp_agent_fd(const fp_agent *agent);
/* For a simulated world: its poller (fp_sim_set_driver), NULL until it first connects, and when to step it next. */
fp_poller *fp_agent_poller(const fp_agent *agent);
uint64_t fp_agent_next_ns(const fp_agent *agent);
/* Goes on with everything and calls the functions above and those of fp_agent_ask; these may ask, but not step or close.
 * 1: there may be more at once. */
int fp_agent_step(fp_agent *agent);

/* What it has is another than was told: it is told at once. */
void fp_agent_changed(fp_agent *agent);
/* Whether the coordinators take it for a node of theirs now, as far as is known here. */
bool fp_agent_is_member(const fp_agent *agent);
/* Why the coordinator that was spoken to last was left, in words. Until the next step. */
const char *fp_agent_trouble(const fp_agent *agent);

/* status 0: answer, borrowed; or a code, and farpool_errmsg() says what for. */
typedef void fp_agent_done(void *arg, int status, const json_t *answer);
/* Asks the one who leads. call, with its method, is the agent's from now on (NULL: E_NOMEM). Repeated at another coordinator
 * while nobody leads: in the end E_NODE; a call that was sent and not answered is not: E_UNKNOWN. done is called once, by a
 * step, or at once for E_NOMEM, E_BUSY (FP_AGENT_ASKED_MAX), E_CLOSED. timeout_ms 0: 5000. A node's calls are not sent before it
 * has joined. */
void fp_agent_ask(fp_agent *agent, json_t *call, unsigned timeout_ms, fp_agent_done *done,
                  void *arg);
/* The same, waiting for the answer, which is the caller's. Not from within the functions above. */
int fp_agent_call(fp_agent *agent, json_t *call, unsigned timeout_ms,
                  json_t **answer) FARPOOL_MUST_CHECK;
/* The node ends: tells so, if it is a member, that nobody waits for it to come back. Waits as above, for half a second
 * at most; then it is to be closed. NULL is allowed. */
void fp_agent_quit(fp_agent *agent);

#endif
