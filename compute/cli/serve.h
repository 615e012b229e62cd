/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpool serve: a compute node that follows coordinators. What it is assigned it opens, and with --load N it writes to a
 * B+-tree in each such partition with N threads, and notes what was acknowledged in a file that outlives it; whoever opens the
 * partition next on this machine compares the tree with these notes. So it is what failovers are tried with.
 */
#ifndef FP_CLI_SERVE_H
#define FP_CLI_SERVE_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

#include "compute/cli/serve_notes.h"

enum { CLI_SERVE_PARTITIONS_MAX = 64, CLI_SERVE_THREADS_MAX = 64 };

typedef struct cli_serve_options {
    char coordinators[1024], name[64], zone[256], rack[256], host[256], address[256], notes[256],
        key_file[256], records[256];
    uint64_t pool_bytes, load, keys;
    enum farpool_durability durability;
    bool vm, json, help, version;
} cli_serve_options;

typedef struct cli_serve {
    cli_serve_options options;
    cli_input input; /* what is written; empty: keys and values are made up. Immutable after init */
    farpool_pool *pool;
    farpool_cluster *cluster;
    pthread_mutex_t lock; /* guards what follows, and output */
    pthread_cond_t turned;
    bool wrong; /* a record is not as it was acknowledged */
    struct cli_runner {
        struct cli_serve *serve;
        bool used; /* main's, as the next three */
        uint64_t id, epoch;
        char name[256];
        pthread_t thread;
        bool stop, check, done; /* guarded by lock */
        uint64_t acknowledged;  /* " by this process */
        uint64_t last_ns,
            pause_ns; /* " the last one of anybody; longest time to the next, not told yet */
        farpool_partition *partition; /* the thread's and its workers', from here on */
        farpool_btree *tree;
        cli_notes *notes;
    } runners[CLI_SERVE_PARTITIONS_MAX];
} cli_serve;

/* The program: argv[0] is "serve". Returns its exit status. */
int cli_serve_main(int argc, char **argv);
int cli_serve_parse(int argc, char **argv, cli_serve_options *options) FARPOOL_MUST_CHECK;
void cli_serve_help(FILE *out);

/* Writes one event; members, which is taken, may be NULL. */
void cli_serve_say(cli_serve *serve, const char *event, json_t *members);

/* A thread for one partition that was assigned: opens it, works on it until runner->stop, closes it. */
void *cli_serve_run(void *runner);

#endif
