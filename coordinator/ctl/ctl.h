/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpoolctl: asks the coordinators (docs/coordinator.md, What is said) and shows their answers.
 *
 * An option of the command line that is a parameter of a request goes into the request at once (fp_ctl.call): so one table
 * of options and one of commands is nearly all there is. The way to the coordinators is the caller's, so that tests can
 * answer themselves.
 */
#ifndef FP_COORDINATOR_CTL_CTL_H
#define FP_COORDINATOR_CTL_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "coordinator/ctl/doctor.h"
#include "farpool.h"

enum fp_ctl_exit {
    FP_CTL_DONE = 0,
    FP_CTL_FAILED = 1,
    FP_CTL_USAGE = 2,
    FP_CTL_NOBODY = 3,    /* no coordinator can be reached, or none leads */
    FP_CTL_NOT_FOUND = 4, /* no such node or partition */
    FP_CTL_STATE = 5,     /* refused, because things are as they are */
    FP_CTL_UNKNOWN = 6,   /* a change was asked for, and nobody said what became of it */
};

typedef struct fp_ctl_io {
    FILE *in, *out, *err;
    bool in_terminal, out_terminal;
    /* The way to the coordinators. open: on the first ask; key_file may be NULL; errors as of fp_agent_open and
     * fp_auth_open. */
    int (*open)(const char *coordinators, const char *key_file, void **way);
    /* As fp_agent_call. */
    int (*ask)(void *way, json_t *call, unsigned timeout_ms, json_t **answer);
    void (*close)(void *way);
} fp_ctl_io;

struct fp_ctl;

/* A program that has one of these words behind its name. */
typedef struct fp_ctl_command {
    const char *name;     /* "node drain" */
    const char *argument; /* what stands for its one argument in help; NULL: it has none */
    const char *help;     /* lines separated by \n */
    const char *method;   /* of the request; NULL: it has none */
    const char *member;   /* the argument's name there */
    const char *
        options; /* names of those that it takes, with a space in front of and behind each; NULL: none */
    int (*run)(struct fp_ctl *ctl); /* an exit status */
    const char *danger; /* not NULL: what it does to its argument (%s), to be confirmed */
    const char *done;   /* a sentence about its argument (%s) */
} fp_ctl_command;

typedef struct fp_ctl {
    const fp_ctl_io *io;
    const fp_ctl_command *command;
    const char *argument;
    const char *coordinators, *config, *key_file;
    char *config_coordinators, *config_key_file; /* from the file */
    unsigned timeout_ms;
    bool json, yes, wait, follow, help, version;
    fp_doctor_options doctor;
    json_t *call; /* parameters of the request that the options gave */
    void *way;
    char progress[512]; /* the last that was told while waiting */
} fp_ctl;

/* The program. */
int fp_ctl_main(int argc, char **argv, const fp_ctl_io *io);

/* ---- for the commands --------------------------------------------------------------------------- */

/* options.c: an exit status, or -1: go on. */
int fp_ctl_parse(fp_ctl *ctl, int argc, char **argv);
/* The command of these words, or NULL. */
const fp_ctl_command *fp_ctl_find(const char *first, const char *second);
extern const fp_ctl_command fp_ctl_commands[];
extern const unsigned fp_ctl_command_count;

/* Asks; the answer is the caller's. What only reads is asked again as long as there is time. Errors of fp_agent_call. */
int fp_ctl_ask(fp_ctl *ctl, json_t *call, unsigned timeout_ms, json_t **answer) FARPOOL_MUST_CHECK;
/* The request of the command: its method, its argument, its options. NULL: no memory. */
json_t *fp_ctl_call(fp_ctl *ctl);
/* May the next question have an answer after this error? */
bool fp_ctl_passes(int rc);
/* Says farpool_errmsg() and returns the exit status for rc. */
int fp_ctl_failed(fp_ctl *ctl, int rc);
void fp_ctl_json(fp_ctl *ctl, const json_t *answer, bool one_line);
/* An exit status of its own, for an answer that cannot be. */
int fp_ctl_nonsense(fp_ctl *ctl);

/* What a command that changes something runs: asks, says that it is done, waits if that is wanted. */
int fp_ctl_change(fp_ctl *ctl);
int fp_ctl_show(fp_ctl *ctl); /* status, node list, partition list, route */
int fp_ctl_top(fp_ctl *ctl);
int fp_ctl_events(fp_ctl *ctl);
int fp_ctl_doctor(fp_ctl *ctl);

/* wait.c: until the change that was answered so has taken effect. An exit status. */
int fp_ctl_wait(fp_ctl *ctl, const json_t *answer);

/* Step by step. */
int fp_ctl_balance(fp_ctl *ctl);

/* show.c: for people. */
/* stalled_first: where what comes last may not fit. */
void fp_show_status(FILE *out, const json_t *status, bool stalled_first);
void fp_show_nodes(FILE *out, const json_t *nodes);
void fp_show_partitions(FILE *out, const json_t *partitions);
void fp_show_route(FILE *out, const json_t *route);
void fp_show_event(FILE *out, const json_t *event);
/* A text of the object; otherwise if it is missing or empty. */
const char *fp_json_text(const json_t *object, const char *key, const char *otherwise);
json_int_t fp_json_number(const json_t *object, const char *key); /* 0 if it is missing */

#endif
