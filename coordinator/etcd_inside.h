/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the etcd backend: etcd.c (requests), etcd_open.c (address, members, token), etcd_watch.c (watches),
 * etcd_json.c (bodies and answers), etcd_http.c (the wire). */
#ifndef FP_COORDINATOR_ETCD_INSIDE_H
#define FP_COORDINATOR_ETCD_INSIDE_H

#include <jansson.h>

#include "coordinator/etcd_http.h"
#include "coordinator/metastore.h"

enum {
    ETCD_MEMBERS_MAX = 16,
    ETCD_TOKEN_MAX = 1024,
    ETCD_RETRY_NS = 100000000,
    ETCD_NS_PER_MS = 1000000
};

typedef struct etcd_op {
    fp_meta_req *req;
    char *body;
    const char *path;
    fp_http_call call;
    char url[320];
    bool running;
    unsigned member, tries, token_tries;
    uint64_t start_ns; /* not before */
    uint64_t deadline_ns;
    uint64_t token_number; /* the token that it was sent with */
    uint64_t lease;        /* LEASE_GRANT: our choice */
    int code;              /* why it has not worked so far; 0: it was not tried */
    char words[320];
    struct etcd_op *next;
} etcd_op;

typedef struct etcd_meta {
    fp_meta base;
    fp_http *http;
    char prefix[FP_META_PREFIX_MAX + 2]; /* with its '/', or empty */
    char *members[ETCD_MEMBERS_MAX];     /* http://HOST:PORT */
    unsigned member_count, member;       /* the one to be asked */
    char *user, *password;
    uint64_t cluster; /* its id; 0: not known yet */
    struct {
        char text[ETCD_TOKEN_MAX + 1];
        uint64_t number; /* of the token; 0: there is none */
        uint64_t made;   /* so many have been */
        bool running;
        unsigned member;
        uint64_t start_ns;
        char *body;
        char url[320];
        fp_http_call call;
    } token;
    etcd_op *ops, **ops_end;
} etcd_meta;

typedef struct etcd_watch {
    fp_meta_watch *watch;
    fp_http_call call, ping;
    char *body, *ping_body;
    char url[320], ping_url[320];
    bool running, finished; /* finished: the stream is over, to be dealt with by the step */
    bool pinging;
    unsigned member, tries, token_tries;
    uint64_t next; /* revision */
    uint64_t start_ns, heard_ns, ping_ns;
    uint64_t token_number;
    size_t scanned;              /* of the answer: no end of a line before */
    fp_meta_found collected;     /* to be given when its last revision is whole */
    uint64_t collected_revision; /* that one */
} etcd_watch;

/* What an answer means. */
enum etcd_verdict {
    ETCD_DONE,    /* the request is answered: a code */
    ETCD_NOT_NOW, /* it was not applied: another member, or later */
    ETCD_UNSURE,  /* nobody knows whether it was applied */
    ETCD_TOKEN,   /* not applied, for the token is not valid (any more) */
};

/* ---- etcd_json.c ----------------------------------------------------------------------------- */

/* The body of a request, freed by free(), and where to POST it. NULL: no memory. */
char *etcd_body(const etcd_meta *meta, const etcd_op *op, const char **path);
char *etcd_watch_body(const etcd_meta *meta, const char *prefix, uint64_t from);
char *etcd_ping_body(const etcd_meta *meta, const char *prefix);
char *etcd_token_body(const etcd_meta *meta);
/* Reads a 200's answer into the request. 0, E_PROTO (that is no answer of etcd's; another cluster), E_NOTFOUND,
 * E_TOO_BIG. */
int etcd_read_answer(etcd_meta *meta, etcd_op *op, const char *text, size_t len);
int etcd_read_token(etcd_meta *meta, const char *text, size_t len);
/* What an answer that is no 200 means, or an error within a stream; *code and farpool_errmsg() if ETCD_DONE, else the
 * words for why not. message: etcd's, NULL if there is none. */
enum etcd_verdict etcd_judge(const etcd_meta *meta, const char *member, long status,
                             const char *message, int *code);
/* etcd's message in an answer; "" if there is none. */
void etcd_message(const char *text, size_t len, char message[200]);

uint64_t etcd_number(const json_t *object, const char *name);
/* Checks the header. 0 or E_PROTO. */
int etcd_check_header(etcd_meta *meta, const json_t *object);
/* Adds etcd's key-value to what was found, without our prefix. 0 or E_PROTO. deleted: only the key and revision. */
int etcd_add_kv(const etcd_meta *meta, const json_t *kv, bool deleted, fp_meta_found *found);

/* ---- etcd_open.c ----------------------------------------------------------------------------- */

int etcd_open(const char *rest, const fp_meta_options *options, fp_meta **out);
void etcd_close(fp_meta *base);
/* This member has not answered as it should: another one from now on. */
void etcd_leave_member(etcd_meta *meta, unsigned member);
/* When to try next: at once with another member, after a pause when all have been tried. */
uint64_t etcd_next_try(const etcd_meta *meta, unsigned tries);
/* Sees that there is a token, if one is needed. True: there is, or none is needed. */
bool etcd_have_token(etcd_meta *meta);
const char *etcd_token(const etcd_meta *meta);
/* The token of this number was refused. */
void etcd_drop_token(etcd_meta *meta, uint64_t number);

/* ---- etcd.c ---------------------------------------------------------------------------------- */

/* No token is to be had, with this code: those who wait for it. */
void etcd_token_failed(etcd_meta *meta, int code);

/* ---- etcd_watch.c ---------------------------------------------------------------------------- */

void etcd_watch_start(fp_meta *base, fp_meta_watch *watch);
void etcd_watch_stop(fp_meta_watch *watch);
/* Goes on with all watches; when there will be something to do again. */
uint64_t etcd_watch_step(etcd_meta *meta);
/* Takes one line of its stream. False: the watch has ended, was stopped or begins again. */
bool etcd_watch_line(etcd_meta *meta, etcd_watch *own, const char *text, size_t len);

#endif
