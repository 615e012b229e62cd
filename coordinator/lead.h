/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who leads: the one that has put the key `leader` under a lease of its own. The key's revision is the term, and every
 * transaction of a leader's compares it, so that nothing depends on when the lease ends.
 *
 *     looking --> following         somebody else leads: its key is watched
 *        |            |
 *        v            v  the key is gone
 *     claiming --> leading --> resting --> looking
 *
 * A leader that could not keep its lease for as long as it was granted for, counted from when it asked, leads no more.
 */
#ifndef FP_COORDINATOR_LEAD_H
#define FP_COORDINATOR_LEAD_H

#include "coordinator/metastore.h"

enum fp_lead_state {
    FP_LEAD_REST, /* until next_ns, then it looks */
    FP_LEAD_LOOK,
    FP_LEAD_FOLLOW,
    FP_LEAD_CLAIM,
    FP_LEAD_LEAD,
};

typedef struct fp_lead {
    fp_meta *meta;
    enum fp_lead_state state;
    char *self;      /* the key's value if we lead */
    char *leader;    /* the value that it has now, as far as is known; NULL: none */
    uint64_t term;   /* while leading */
    uint64_t lease;  /* 0: none */
    uint64_t ttl_ms; /* asked for */
    uint64_t now_ns, next_ns, asked_ns, kept_ns, lease_ns;
    bool keeping, watching, revoking;
    bool troubled;         /* it does not do what it is asked */
    uint64_t say_again_ns; /* when that is worth another line in the log */
    fp_meta_req req;       /* under way while it looks or claims */
    fp_meta_req keep, revoke;
    fp_meta_compare compare;
    fp_meta_op op;
    fp_meta_watch watch;
} fp_lead;

/* self: the key's value, unlike that of every other process; taken over, a malloc'ed text. */
void fp_lead_open(fp_lead *lead, fp_meta *meta, char *self, unsigned ttl_ms);
/* After fp_meta_close. */
void fp_lead_close(fp_lead *lead);

/* Goes on; no waiting. */
void fp_lead_step(fp_lead *lead, uint64_t now_ns);
/* When to be called next, if nothing comes from the metastore. */
uint64_t fp_lead_next_ns(const fp_lead *lead);
static inline bool fp_lead_leads(const fp_lead *lead) { return lead->state == FP_LEAD_LEAD; }
/* Leads no more, and looks again after a while: a compare has failed, say. Gives the lease back. */
void fp_lead_resign(fp_lead *lead, const char *why);

#endif
