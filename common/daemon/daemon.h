/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process around a node: the options that all have, limits, signals, telling that it is ready, and a loop that
 * sleeps in poll(2) until a descriptor has something or a signal comes; in that loop, figures and probes over HTTP, and of
 * a node in a cluster what it says to coordinators (common/cluster/agent.h).
 */
#ifndef FP_COMMON_DAEMON_DAEMON_H
#define FP_COMMON_DAEMON_DAEMON_H

#include <jansson.h>

#include "common/config.h"
#include "common/daemon/httpd.h"
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
    char http[FP_HTTPD_ADDRESS_MAX]; /* empty: figures and probes are not served */
    enum fp_log_level log_level;
    int ready_fd; /* -1: none */
    char ready_file[4096];
    char secret_file[4096]; /* "": none */
    fp_auth *auth;          /* of it, or NULL: the program's to close */
    bool help, version;
    /* Of nodes in a cluster: FP_DAEMON_OPTIONS_CLUSTER. */
    char coordinators[4096]; /* "": in none */
    char zone[FP_WIRE_TEXT_MAX + 1], rack[FP_WIRE_TEXT_MAX + 1], host[FP_WIRE_TEXT_MAX + 1];
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
    {"secret-file", "FILE",                                                                        \
     "the cluster's secret (mode 0600): only those who have it, or a key made of it,\n"            \
     "are served; default: whoever comes is",                                                      \
     fp_daemon_set_secret_file, false},                                                            \
        {"name", "NAME", "the node's name in messages; default: the host's name",                  \
         fp_daemon_set_name, false},                                                               \
        {"http", "HOST:PORT",                                                                      \
         "serve /metrics, /livez and /readyz over HTTP there; port 0 chooses one;\n"               \
         "default: not served",                                                                    \
         fp_daemon_set_http, false},                                                               \
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

#define FP_DAEMON_OPTIONS_CLUSTER                                                                  \
    {"coordinators", "URI[,URI]...",                                                               \
     "the coordinators of the cluster that it is to be a node of; default: none",                  \
     fp_daemon_set_coordinators, false},                                                           \
        {"zone", "NAME", "where it is, so that copies are kept apart", fp_daemon_set_zone, false}, \
        {"rack", "NAME", "the same, within the zone", fp_daemon_set_rack, false},                  \
    {                                                                                              \
        "host", "NAME",                                                                            \
            "the same, within the rack: the machine, by the name under which others reach\n"       \
            "it; default: the host's name",                                                        \
            fp_daemon_set_host, false                                                              \
    }

int fp_daemon_set_listen(void *target, const char *value);
int fp_daemon_set_name(void *target, const char *value);
int fp_daemon_set_http(void *target, const char *value);
int fp_daemon_set_log_level(void *target, const char *value);
int fp_daemon_set_ready_fd(void *target, const char *value);
int fp_daemon_set_ready_file(void *target, const char *value);
int fp_daemon_set_secret_file(void *target, const char *value);

/* tcp://0.0.0.0:7000 is bound for all addresses of the machine, and is none for others. */
bool fp_daemon_is_everywhere(const char *uri);
/* An address that a daemon serves, or finds another one at: E_INVAL. */
int fp_daemon_check_address(const char *value) FARPOOL_MUST_CHECK;

int fp_daemon_set_coordinators(void *target, const char *value);
int fp_daemon_set_zone(void *target, const char *value);
int fp_daemon_set_rack(void *target, const char *value);
int fp_daemon_set_host(void *target, const char *value);

/* Command line and the file it names, with the program's table; reads the secret. Sets the defaults of fp_daemon_options
 * first; name: if the host has none. Errors: E_INVAL or E_SYS with a sentence. */
int fp_daemon_options_parse(int argc, char **argv, const fp_option *table, size_t count,
                            const char *name, fp_daemon_options *options) FARPOOL_MUST_CHECK;

/* With what a node joins (docs/coordinator.md): a new object, NULL: no memory. Of addresses that were bound for all of the
 * machine's, host takes the place. */
json_t *fp_daemon_card(const fp_daemon_options *options, const char *role, const fp_server *server,
                       uint64_t bytes);

/* The beginning of main(): what options_parse has returned; sets the log level, raises what limits locked memory and
 * descriptors. Returns an exit status if the program is to end now (wrong options; --help or --version answered), else -1. */
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
    /* Of GET /metrics, behind the figures of the process, and of /readyz. Their owner is the node. NULL: it has no
     * figures; it is ready once its addresses are served and it has joined. */
    fp_httpd_ops http;
    /* Of a node that is in a cluster if the options name coordinators; as of fp_agent_config. card NULL: never. */
    json_t *(*card)(void *node, const fp_daemon_options *options);
    json_t *(*actual)(void *node);
    void (*duties)(void *node, const json_t *duties);
} fp_daemon;

/* Serves the addresses of the options until a signal ends it (0) or something fails; then the failure is logged. */
int fp_daemon_run(const fp_daemon *daemon) FARPOOL_MUST_CHECK;
/* Logs farpool_errmsg() and returns rc. */
int fp_daemon_log_failure(int rc);

#endif
