/* SPDX-License-Identifier: Apache-2.0 */
#include "common/daemon/daemon.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cluster/agent.h"
#include "common/daemon/process.h"
#include "common/error.h"

/* ---- the beginning --------------------------------------------------------------------------- */

/* Registering memory with verbs locks it; the soft limit is often far below the hard one. */
static void raise_limits(void)
{
    static const int which[] = {RLIMIT_MEMLOCK, RLIMIT_NOFILE};
    for (size_t i = 0; i < sizeof which / sizeof which[0]; i++) {
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)which[i], &limit) || limit.rlim_cur == limit.rlim_max)
            continue;
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit((__rlimit_resource_t)which[i], &limit))
            fp_log(FP_LOG_DEBUG, "limit %d stays as it is: %s", which[i], strerror(errno));
    }
}

int fp_daemon_start(const char *program, int rc, const fp_daemon_options *options,
                    void (*help)(FILE *out))
{
    if (rc) {
        fprintf(stderr, "%s: %s\n", program, farpool_errmsg());
        return 2;
    }
    if (options->help) {
        help(stdout);
        return 0;
    }
    if (options->version) {
        printf("%s %d.%d.%d\n", program, FARPOOL_VERSION_MAJOR, FARPOOL_VERSION_MINOR,
               FARPOOL_VERSION_PATCH);
        return 0;
    }
    fp_log_set_level(options->log_level);
    raise_limits();
    return -1;
}

/* Returns the signalfd through which the signals now come. */
static int take_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return fp_error_sys("blocking signals");
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? fp_error_sys("opening a signalfd") : fd;
}

/* ---- telling that it is ready ---------------------------------------------------------------- */

/* systemd's protocol: a datagram to the socket named by NOTIFY_SOCKET. */
static void notify_systemd(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof addr.sun_path)
        return;
    size_t len = strlen(path);
    memcpy(addr.sun_path, path, len);
    if (path[0] == '@')
        addr.sun_path[0] = 0; /* abstract */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
        fp_log(FP_LOG_WARN, "telling systemd '%s': %s", state, strerror(errno));
    close(fd);
}

static char *ready_text(const fp_daemon *daemon, json_t *listen, const fp_httpd *http)
{
    json_t *root = json_pack("{s:s, s:I, s:O}", "name", daemon->options->name, "pid",
                             (json_int_t)getpid(), "listen", listen);
    json_t *more = daemon->describe(daemon->node);
    if (root && http && json_object_set_new(root, "http", json_string(fp_httpd_bound(http)))) {
        json_decref(root);
        root = NULL;
    }
    char *text = NULL;
    if (root && more && !json_object_update(root, more))
        text = json_dumps(root, JSON_COMPACT);
    json_decref(more);
    json_decref(root);
    return text;
}

/* The file appears whole or not at all. */
static int write_ready_file(const char *path, const char *text)
{
    char temporary[4096 + 32];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    FILE *file = fopen(temporary, "we");
    if (!file)
        return fp_error_sys("writing %s", temporary);
    bool good = fprintf(file, "%s\n", text) > 0;
    good = !fclose(file) && good;
    if (good && !rename(temporary, path))
        return 0;
    int rc = fp_error_sys("writing %s", path);
    unlink(temporary);
    return rc;
}

static int tell_ready(const fp_daemon *daemon, json_t *listen, const fp_httpd *http)
{
    const fp_daemon_options *options = daemon->options;
    char *text = ready_text(daemon, listen, http);
    if (!text) /* also when the name is not UTF-8 */
        return fp_error(FARPOOL_E_INVAL, "the node's name or an address can not be put into JSON");
    int rc = 0;
    /* The file first: who has read from the descriptor may rely on it. */
    if (options->ready_file[0])
        rc = write_ready_file(options->ready_file, text);
    if (!rc && options->ready_fd >= 0) {
        if (dprintf(options->ready_fd, "%s\n", text) < 0)
            rc = fp_error_sys("writing to descriptor %d", options->ready_fd);
        close(options->ready_fd);
    }
    free(text);
    notify_systemd("READY=1");
    return rc;
}

/* ---- running --------------------------------------------------------------------------------- */

typedef struct running {
    const fp_daemon *daemon;
    int signal_fd;
    fp_agent *agent; /* NULL: in no cluster */
    fp_httpd *http;  /* NULL: not served */
} running;

static json_t *card(void *owner)
{
    const fp_daemon *daemon = ((running *)owner)->daemon;
    return daemon->card(daemon->node, daemon->options);
}

static json_t *actual(void *owner)
{
    const fp_daemon *daemon = ((running *)owner)->daemon;
    return daemon->actual(daemon->node);
}

static void duties(void *owner, const json_t *told)
{
    const fp_daemon *daemon = ((running *)owner)->daemon;
    daemon->duties(daemon->node, told);
}

static int join(running *r)
{
    const fp_daemon_options *options = r->daemon->options;
    fp_agent_config config = {.coordinators = options->coordinators,
                              .name = options->name,
                              .auth = options->auth,
                              .card = card,
                              .actual = actual,
                              .duties = duties,
                              .owner = r};
    return r->daemon->card && options->coordinators[0] ? fp_agent_open(&config, &r->agent) : 0;
}

static int listen_all(const fp_daemon *daemon, json_t *listen)
{
    for (unsigned i = 0; i < daemon->options->listen_count; i++) {
        const char *bound;
        int rc = daemon->listen(daemon->node, daemon->options->listen[i], &bound);
        if (rc)
            return rc;
        if (json_array_append_new(listen, json_string(bound)))
            return fp_error(FARPOOL_E_INVAL, "address %s is not UTF-8", bound);
        fp_log(FP_LOG_INFO, "serving %s", bound);
    }
    return 0;
}

static void all_metrics(void *owner, fp_metrics *metrics)
{
    const fp_daemon *daemon = ((running *)owner)->daemon;
    fp_process_metrics(metrics);
    if (daemon->http.metrics)
        daemon->http.metrics(daemon->node, metrics);
}

/* A node of a cluster has no duties before it has joined. */
static bool ready(void *owner, char *why, size_t size)
{
    const running *r = owner;
    if (r->agent && !fp_agent_is_member(r->agent)) {
        snprintf(why, size, "not joined with a coordinator: %s", fp_agent_trouble(r->agent));
        return false;
    }
    return !r->daemon->http.ready || r->daemon->http.ready(r->daemon->node, why, size);
}

static int serve_http(running *r)
{
    static const fp_httpd_ops ops = {.metrics = all_metrics, .ready = ready};
    const char *address = r->daemon->options->http;
    if (!address[0])
        return 0;
    int rc = fp_httpd_open(address, &ops, r, &r->http);
    if (!rc)
        fp_log(FP_LOG_INFO, "serving http://%s/metrics, /livez and /readyz",
               fp_httpd_bound(r->http));
    return rc;
}

/* Returns the signal that ends the node, or 0. */
static int take_signal(const running *r)
{
    struct signalfd_siginfo info;
    while (read(r->signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGUSR1)
            return (int)info.ssi_signo;
        r->daemon->log_usage(r->daemon->node);
    }
    return 0;
}

/* As fp_server_step. */
static int step(const running *r)
{
    int more = r->daemon->step(r->daemon->node);
    return more >= 0 && r->agent ? fp_agent_step(r->agent) | more : more;
}

/* Until a signal ends it (0) or a transport fails. */
static int loop(const running *r)
{
    enum { SIGNAL, HTTP, AGENT, OWN };
    int fds[FP_DAEMON_FDS_MAX];
    struct pollfd polled[OWN + FP_DAEMON_FDS_MAX] = {
        /* poll leaves out what is negative. */
        [SIGNAL] = {.fd = r->signal_fd, .events = POLLIN},
        [HTTP] = {.fd = r->http ? fp_httpd_fd(r->http) : -1, .events = POLLIN},
        [AGENT] = {.fd = r->agent ? fp_agent_fd(r->agent) : -1, .events = POLLIN},
    };
    unsigned count = OWN;
    for (unsigned i = 0, n = r->daemon->fds(r->daemon->node, fds); i < n; i++)
        polled[count++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    for (;;) {
        int more = step(r);
        if (more < 0)
            return more;
        int n = poll(polled, count, more ? 0 : r->http ? fp_httpd_timeout(r->http) : -1);
        if (n < 0 && errno != EINTR)
            return fp_error_sys("waiting for events");
        if (r->http)
            fp_httpd_step(r->http, n > 0 && polled[HTTP].revents);
        if (n > 0 && polled[SIGNAL].revents) {
            int number = take_signal(r);
            if (number) {
                fp_log(FP_LOG_INFO, "ending on %s", strsignal(number));
                return 0;
            }
        }
    }
}

int fp_daemon_log_failure(int rc)
{
    fp_log(FP_LOG_ERROR, "%s (%s)", farpool_errmsg(), fp_error_name(rc));
    return rc;
}

int fp_daemon_run(const fp_daemon *daemon)
{
    running r = {.daemon = daemon};
    /* Not earlier: a signal should end the opening of a node, which takes long, at once. Not
     * later: from the first listener on there is something to be tidied up. */
    r.signal_fd = take_signals();
    if (r.signal_fd < 0)
        return fp_daemon_log_failure(r.signal_fd);
    json_t *listen = json_array();
    int rc = listen ? join(&r) : fp_error(FARPOOL_E_NOMEM, "no memory");
    if (!rc)
        rc = listen_all(daemon, listen);
    if (!rc)
        rc = serve_http(&r);
    if (!rc)
        rc = tell_ready(daemon, listen, r.http);
    json_decref(listen);
    if (!rc)
        rc = loop(&r);
    if (rc)
        fp_daemon_log_failure(rc); /* before closing, which may fail in its own words */
    notify_systemd("STOPPING=1");
    if (daemon->options->ready_file[0])
        unlink(daemon->options->ready_file);
    fp_httpd_close(r.http);
    fp_agent_quit(r.agent);
    fp_agent_close(r.agent);
    close(r.signal_fd);
    return rc;
}
