/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the agent: agent.c (its life, the connection and whom it is made to), agent_member.c (join, wait, tell),
 * agent_ask.c (what else is asked).
 *
 *           due                     answered            HELLO_OK            joined (who only asks: at once)
 *   AWAY ---------> CONNECTING ------------> GREETING ----------> JOINING ----------------> OPEN
 *    ^                  |                       |                    |                        |
 *    +------------------+-----------------------+--------------------+------------------------+
 *      failed, not answered in time, or it does not lead (that one is left when all that was asked is answered)
 */
#ifndef FP_COMMON_CLUSTER_AGENT_INSIDE_H
#define FP_COMMON_CLUSTER_AGENT_INSIDE_H

#include "common/cluster/agent.h"
#include "common/cluster/call.h"
#include "common/cluster/dial.h"
#include "common/greet.h"

enum fp_agent_phase {
    FP_AGENT_AWAY,
    FP_AGENT_CONNECTING,
    FP_AGENT_GREETING,
    FP_AGENT_JOINING,
    FP_AGENT_OPEN,
};

typedef struct fp_agent_asked {
    struct fp_agent_asked *next;
    json_t *call;
    fp_agent_done *done;
    void *arg;
    unsigned timeout_ms;
    uint64_t deadline_ns, sent_ns;
    uint32_t request; /* 0: not sent */
} fp_agent_asked;

struct fp_agent {
    fp_agent_config config; /* coordinators, name: not used after opening */
    char name[FP_WIRE_TEXT_MAX + 1];
    char uris[FP_AGENT_COORDINATORS_MAX][FP_NET_URI_MAX];
    unsigned uri_count;
    fp_wake wake;
    bool stepping, closing;

    enum fp_agent_phase phase;
    fp_dial dial;
    fp_greet greet;
    unsigned next, tried; /* of uris: the next to be tried; how many were since it last waited */
    unsigned refusals;    /* of these */
    char leader[FP_NET_URI_MAX]; /* is tried before those, "": nobody has been named */
    unsigned followed;           /* in a row, from one to the other */
    bool leaving;                /* it does not lead; nothing more is asked of it */
    uint64_t due_ns, backoff_ns; /* AWAY */
    uint64_t say_again_ns;       /* when trouble is worth another line in the log; 0: at once */
    uint64_t deadline_ns;        /* GREETING, JOINING, leaving */
    uint64_t heard_ns;           /* something came */
    fp_kept trouble;             /* why the last one was left */
    uint32_t number;             /* of the last request */
    uint32_t hello, join, wait, tell; /* requests that are not answered; 0: none */

    uint64_t overdue_ns;   /* of an answer to wait */
    uint64_t wait_ns;      /* when it was sent */
    json_int_t term, seen; /* the highest; revision of the last duties */
    bool changed;

    fp_agent_asked *asked; /* in the order in which they came */
    unsigned asked_count;
    fp_call_in in;
    fp_msg msg;
};

/* ---- agent.c --------------------------------------------------------------------------------- */

uint64_t fp_agent_now(const fp_agent *agent);
/* The one that was spoken to last does not want us, nor will it: a key, a version. */
bool fp_agent_is_refused(const fp_agent *agent);
/* Sends an object as a call. E_TOO_BIG, E_NOMEM: nothing was sent; else something may have been. */
int fp_agent_try_send(fp_agent *agent, const json_t *call, uint32_t *request) FARPOOL_MUST_CHECK;
/* It leads, and takes what is asked. */
void fp_agent_settled(fp_agent *agent);
/* Leaves the connection, for farpool_errmsg(); the next one is tried at once, or after a while. */
void fp_agent_leave(fp_agent *agent, int code);
/* This answer says that it does not lead, and perhaps who does. */
bool fp_agent_is_elsewhere(const json_t *answer);
void fp_agent_go_elsewhere(fp_agent *agent, const json_t *answer, uint64_t now);
void fp_agent_wake(fp_agent *agent); /* from outside of fp_agent_step */
void fp_agent_sim_wait(fp_agent *agent);

/* ---- agent_member.c -------------------------------------------------------------------------- */

void fp_agent_member_begin(fp_agent *agent, uint64_t now); /* it is greeted */
/* Sends what is to be sent, and looks at the time. */
void fp_agent_member_step(fp_agent *agent, uint64_t now);
uint64_t fp_agent_member_next_ns(const fp_agent *agent);
/* Whether this was an answer, or an error, to one of the requests here. An error's words are in agent->msg. */
bool fp_agent_member_answer(fp_agent *agent, uint32_t request, const json_t *answer, uint64_t now);
bool fp_agent_member_error(fp_agent *agent, uint32_t request, int code);
void fp_agent_member_left(fp_agent *agent);

/* ---- agent_ask.c ----------------------------------------------------------------------------- */

void fp_agent_asked_step(fp_agent *agent, uint64_t now);
uint64_t fp_agent_asked_next_ns(const fp_agent *agent);
void fp_agent_asked_answer(fp_agent *agent, uint32_t request, const json_t *answer, uint64_t now);
void fp_agent_asked_error(fp_agent *agent, uint32_t request, int code);
/* What was sent is not going to be answered: for farpool_errmsg(). */
void fp_agent_asked_left(fp_agent *agent);
/* All coordinators have refused us: what was not sent is not waited for. */
void fp_agent_asked_refused(fp_agent *agent);
void fp_agent_asked_close(fp_agent *agent);
bool fp_agent_asked_any_sent(const fp_agent *agent);

#endif
