/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is wrong with a machine that is to be a node, and how to mend it. Nothing is changed but for a file that is
 * written to the volume and removed again.
 */
#ifndef FP_COORDINATOR_CTL_DOCTOR_H
#define FP_COORDINATOR_CTL_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "farpool.h"

enum { FP_DOCTOR_PORTS_MAX = 16, FP_DOCTOR_TEXT_MAX = 64 };

/* A port of an RDMA device. */
typedef struct fp_doctor_port {
    char device[FP_DOCTOR_TEXT_MAX];
    unsigned number;
    bool active;
    char state[FP_DOCTOR_TEXT_MAX]; /* in words */
    bool ethernet;                  /* else InfiniBand */
    unsigned mtu;                   /* active, in bytes */
    unsigned routable;              /* ethernet: GIDs of RoCE v2 that stand for an address of IP, */
    char gid[FP_DOCTOR_TEXT_MAX];   /* the first of them, */
    unsigned link_local;            /* and those of RoCE v2 that only neighbours reach */
} fp_doctor_port;

typedef struct fp_doctor_volume {
    uint64_t total_bytes, free_bytes;
    bool in_memory;    /* tmpfs, ramfs: not stable */
    bool direct;       /* it has O_DIRECT */
    uint64_t write_ns; /* the median of some writes of 4 KiB, each with fdatasync */
} fp_doctor_volume;

/* What is found out by trying it; each returns 0 or a negative errno. */
typedef struct fp_doctor_probes {
    int (*io_uring)(void);
    int (*userfaultfd)(void);
    int (*clock)(bool *synchronized);
    /* At most FP_DOCTOR_PORTS_MAX ports. */
    int (*rdma)(fp_doctor_port *ports, unsigned *count);
    /* What the directory cannot do is an error, with `step` in words. */
    int (*volume)(const char *directory, fp_doctor_volume *volume, const char **step);
} fp_doctor_probes;

typedef struct fp_doctor_options {
    uint64_t memory_bytes;          /* that a memory node is to offer; 0: it is not to be one */
    int numa_node;                  /* of that memory; -1: any */
    const char *volume;             /* of a storage node; NULL: it is not to be one */
    bool verbs;                     /* it is to use RDMA: what keeps it from that is a failure */
    const char *root;               /* stands before /proc and /sys, for tests; NULL: "" */
    const fp_doctor_probes *probes; /* NULL: this machine's */
} fp_doctor_options;

/* *report, for json_decref: {"checks": [{"name", "state": "ok", "warn" or "fail", "found", "mend"}], "ok", "warn",
 * "fail": how many}. mend is missing where nothing is to be mended. What cannot be found out is a finding, not an error.
 * Waits for the volume. E_NOMEM. */
int fp_doctor_run(const fp_doctor_options *options, json_t **report) FARPOOL_MUST_CHECK;
/* For people: a line for each check, and one below it on how to mend it. */
void fp_doctor_print(const json_t *report, FILE *out);

#endif
