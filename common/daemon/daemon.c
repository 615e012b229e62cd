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

#include "common/error.h"

/* Registering memory with verbs locks it; the soft limit is often far below the hard one. */
void fp_daemon_raise_limits(void)
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

static char *ready_text(const fp_daemon *daemon, json_t *listen)
{
    json_t *root = json_pack("{s:s, s:I, s:O}", "name", daemon->options->name, "pid",
                             (json_int_t)getpid(), "listen", listen);
    json_t *more = daemon->describe(daemon->node);
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

static int tell_ready(const fp_daemon *daemon, json_t *listen)
{
    const fp_daemon_options *options = daemon->options;
    char *text = ready_text(daemon, listen);
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

/* Returns the signal that ends the node, or 0. */
static int take_signal(int signal_fd, const fp_daemon *daemon)
{
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGUSR1)
            return (int)info.ssi_signo;
        daemon->log_usage(daemon->node);
    }
    return 0;
}

/* Until a signal ends it (0) or a transport fails. */
static int loop(const fp_daemon *daemon, int signal_fd)
{
    int fds[FP_DAEMON_FDS_MAX];
    struct pollfd polled[FP_DAEMON_FDS_MAX + 1];
    unsigned count = daemon->fds(daemon->node, fds);
    for (unsigned i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    polled[count] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
    for (;;) {
        int more = daemon->step(daemon->node);
        if (more < 0)
            return more;
        int n = poll(polled, count + 1, more ? 0 : -1);
        if (n < 0 && errno != EINTR)
            return fp_error_sys("waiting for events");
        if (n > 0 && polled[count].revents) {
            int number = take_signal(signal_fd, daemon);
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
    /* Not earlier: a signal should end the opening of a node, which takes long, at once. Not
     * later: from the first listener on there is something to be tidied up. */
    int signal_fd = take_signals();
    if (signal_fd < 0)
        return fp_daemon_log_failure(signal_fd);
    json_t *listen = json_array();
    int rc = listen ? listen_all(daemon, listen) : fp_error(FARPOOL_E_NOMEM, "no memory");
    if (!rc)
        rc = tell_ready(daemon, listen);
    json_decref(listen);
    if (!rc)
        rc = loop(daemon, signal_fd);
    if (rc)
        fp_daemon_log_failure(rc); /* before closing, which may fail in its own words */
    notify_systemd("STOPPING=1");
    if (daemon->options->ready_file[0])
        unlink(daemon->options->ready_file);
    close(signal_fd);
    return rc;
}
