/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process around a node: the options that all have, limits, signals, telling that it is ready, and a loop that
 * sleeps in poll(2) until a descriptor has something or a signal comes.
 */
#ifndef FP_COMMON_DAEMON_DAEMON_H
#define FP_COMMON_DAEMON_DAEMON_H

#include <jansson.h>

#include "common/config.h"
#include "common/daemon/server.h"
#include "common/log.h"

enum { FP_DAEMON_FDS_MAX = FP_SERVER_NETS_MAX + 4 };

/* ---- options --------------------------------------------------------------------------------- */

/* The program's struct of options begins with it: the setters below are given that. */
typedef struct fp_daemon_options {
    char listen[FP_SERVER_LISTENERS_MAX][FP_NET_URI_MAX];
    unsigned listen_count;
    bool listen_from_file; /* the first --listen replaces those of the file */
    char name[FP_WIRE_TEXT_MAX + 1];
    enum fp_log_level log_level;
    int ready_fd; /* -1: none */
    char ready_file[4096];
    bool help, version;
} fp_daemon_options;

/* For the table of a program's options: its first, and its last. */
#define FP_DAEMON_OPTION_LISTEN                                                                    \
    {                                                                                              \
        "listen", "URI",                                                                           \
            "address to serve: verbs://HOST:PORT, tcp://HOST:PORT or shm:///PATH;\n"               \
            "may be given up to 16 times; port 0 chooses one",                                     \
            fp_daemon_set_listen, false                                                            \
    }
#define FP_DAEMON_OPTIONS                                                                          \
    {"name", "NAME", "the node's name in messages; default: the host's name", fp_daemon_set_name,  \
     false},                                                                                       \
        {"log-level", "LEVEL", "error, warn, info (default) or debug", fp_daemon_set_log_level,    \
         false},                                                                                   \
        {"config", "FILE",                                                                         \
         "read 'key = value' lines first: keys are the options above, # begins a\n"                \
         "comment; flags win",                                                                     \
         NULL, true},                                                                              \
        {"ready-fd", "N",                                                                          \
         "when all addresses are served, write them as one line of JSON to this\n"                 \
         "descriptor and close it",                                                                \
         fp_daemon_set_ready_fd, true},                                                            \
    {                                                                                              \
        "ready-file", "FILE", "the same to a file, which is removed at the end",                   \
            fp_daemon_set_ready_file, true                                                         \
    }

int fp_daemon_set_listen(void *target, const char *value);
int fp_daemon_set_name(void *target, const char *value);
int fp_daemon_set_log_level(void *target, const char *value);
int fp_daemon_set_ready_fd(void *target, const char *value);
int fp_daemon_set_ready_file(void *target, const char *value);

/* Command line and the file it names, with the program's table. Sets the defaults of fp_daemon_options first; name: if
 * the host has none. Errors: E_INVAL or E_SYS with a sentence. */
int fp_daemon_options_parse(int argc, char **argv, const fp_option *table, size_t count,
                            const char *name, fp_daemon_options *options) FARPOOL_MUST_CHECK;

/* The beginning of main(): what options_parse has returned; sets the log level. Returns an exit status if the program
 * is to end now (wrong options; --help or --version answered), else -1. */
int fp_daemon_start(const char *program, int rc, const fp_daemon_options *options,
                    void (*help)(FILE *out));

/* ---- running --------------------------------------------------------------------------------- */

typedef struct fp_daemon {
    const fp_daemon_options *options;
    void *node;
    /* The node's functions. */
    int (*listen)(void *node, const char *uri, const char **bound);
    unsigned (*fds)(void *node, int fds[FP_DAEMON_FDS_MAX]);
    int (*step)(void *node); /* as fp_server_step */
    json_t *(*describe)(
        void *node); /* more members for the ready line; a new object, NULL: no memory */
    void (*log_usage)(void *node); /* on SIGUSR1 */
} fp_daemon;

/* Raises what limits locked memory and descriptors. To be called before the node is opened. */
void fp_daemon_raise_limits(void);
/* Serves the addresses of the options until a signal ends it (0) or something fails; then the failure is logged. */
int fp_daemon_run(const fp_daemon *daemon) FARPOOL_MUST_CHECK;
/* Logs farpool_errmsg() and returns rc. */
int fp_daemon_log_failure(int rc);

#endif
