/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the coordinator: server.c (its life, its steps), kept.c (reading and writing the metastore), calls.c (calls
 * and their answers), nodes.c (the methods of nodes), admin.c (those of people), events.c.
 *
 * A call waits in a list until its turn has come: those that change records one after the other, each with a transaction
 * of its own; the others as soon as everything has been read. A call whose client has gone is finished, and not answered.
 */
#ifndef FP_COORDINATOR_INSIDE_H
#define FP_COORDINATOR_INSIDE_H

#include "common/cluster/agent.h"
#include "common/cluster/call.h"
#include "coordinator/change.h"
#include "coordinator/lead.h"
#include "coordinator/server.h"

enum {
    FP_CALLS_MAX =
        4096, /* waiting; those of nodes are not counted, they must not have to wait for others */
    FP_SESSION_CALLS_MAX = FP_AGENT_ASKED_MAX, /* of one connection */
    FP_WAIT_MAX_MS = 60000,
    FP_TICK_MS = 25, /* so often times are looked at */
};

/* A client's connection. */
typedef struct fp_session {
    fp_server_client at;
    fp_call_in in;
    unsigned call_count;     /* of its calls that wait */
    char member[FP_ID_ROOM]; /* the node that has joined by it; empty: none */
    /* A `wait` that is not answered, since then. */
    bool waits;
    uint32_t wait_request;
    uint64_t wait_ns;
    json_t *duties;   /* given last, without term and revision; NULL: none */
    uint64_t given;   /* the revision that they were of */
    uint64_t version; /* of fp_coordinator.version when they were compared last */
} fp_session;

struct fp_call;
/* Where names are proven: who may call it (docs/operations.md, Who may do what). */
enum fp_may {
    FP_MAY_ALL,
    FP_MAY_NODE,  /* whoever has, or is going to have, joined: join looks at the name */
    FP_MAY_ADMIN, /* names that begin with FP_ADMIN */
};
#define FP_ADMIN "admin"

typedef struct fp_method {
    const char *name;
    enum fp_may may;
    bool changes; /* puts records into `changes` */
    /* 0, with call->answer (NULL: {}), or call->later; else a code, which is answered with farpool_errmsg(). */
    int (*run)(fp_coordinator *c, struct fp_call *call);
    /* The changes are kept now: what else is to be done, and the answer. May be NULL. */
    void (*done)(fp_coordinator *c, struct fp_call *call);
} fp_method;

typedef struct fp_call {
    struct fp_call *next;
    fp_session *session; /* NULL: has gone */
    uint32_t request;
    const fp_method *method;
    json_t *params, *answer;
    fp_changes *changes; /* while it runs */
    bool later;          /* it is not over yet: events that do not exist */
    bool reading;        /* events are being read for it */
    uint64_t until_ns;
    fp_coordinator *coordinator;
    fp_meta_req req; /* of events */
    char after[FP_KEY_ROOM];
} fp_call;

struct fp_coordinator {
    fp_server server; /* its clients are fp_session */
    fp_meta *meta;
    fp_lead lead;
    unsigned lease_ms;
    fp_model model;
    uint64_t version; /* rises whenever duties may be others */
    uint64_t tick_ns; /* when to look at times again */
    enum { FP_KEPT_NOT, FP_KEPT_READING, FP_KEPT_READ } kept;
    uint64_t read_at_ns;   /* not earlier, after something was damaged */
    uint64_t decide_at_ns; /* not earlier, after a decision could not be written */
    fp_meta_req read;
    unsigned read_part;
    uint64_t read_revision, read_term, write_term;
    bool read_leader; /* the key was ours in what was read */
    bool
        doubt; /* a transaction may still be applied: an empty one, after what was read, puts an end to that */
    char read_after[FP_META_KEY_MAX + 1];
    /* The transaction under way, and the call that wanted it; NULL: the coordinator itself. */
    bool writing, decided_last;
    fp_txn txn;
    fp_changes changes;
    fp_call *writer;
    fp_call *calls, **calls_end;
    size_t call_count; /* without those of nodes */
    bool closing;
    struct { /* for figures */
        uint64_t written, doubts, failovers, fenced, changed;
    } counted;
};

/* kept.c */
void fp_kept_read(fp_coordinator *c);   /* begins to read everything */
void fp_kept_forget(fp_coordinator *c); /* it leads no more */
/* Writes c->changes, for c->writer. */
void fp_kept_write(fp_coordinator *c);

/* calls.c */
void fp_calls_take(void *owner, fp_server_client *client); /* a request of a client's */
void fp_calls_run(fp_coordinator *c);                      /* whatever can be done now */
/* The transaction of this call is over; status as of E_*, with farpool_errmsg(). */
void fp_calls_written(fp_coordinator *c, fp_call *call, int status);
void fp_calls_forget(fp_coordinator *c, const fp_session *session);
/* Not leading: every call that waits is told so. */
void fp_calls_send_away(fp_coordinator *c);
void fp_calls_drop(fp_coordinator *c);
/* Answers a call that was `later`: 0 with call->answer, or a code. It is gone. */
void fp_call_finish(fp_coordinator *c, fp_call *call, int status);

/* nodes.c */
extern const fp_method fp_nodes_methods[];
extern const size_t fp_nodes_method_count;
/* Answers each `wait` whose duties have changed, or whose time is over. */
void fp_nodes_answer_waits(fp_coordinator *c);
/* The session ends. */
void fp_nodes_gone(fp_coordinator *c, fp_session *session);

/* admin.c */
extern const fp_method fp_admin_methods[];
extern const size_t fp_admin_method_count;

/* events.c */
int fp_events_run(fp_coordinator *c, fp_call *call);
/* Those who wait for events that are there now, or whose time is over. */
void fp_events_look(fp_coordinator *c);

#endif
