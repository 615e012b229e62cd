/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpool-memnode: the process around memnode/server.h. One thread that sleeps in poll(2) until a
 * transport has something or a signal comes; it has no part in page reads and writes.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "memnode/options.h"
#include "memnode/server.h"

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

static char *ready_text(const fp_memnode_options *options, const fp_memnode *node, json_t *listen)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    char boot_id[17];
    snprintf(boot_id, sizeof boot_id, "%016" PRIx64, fp_memnode_boot_id(node));
    json_t *root = json_pack(
        "{s:s, s:I, s:s, s:O, s:I, s:I, s:I}", "name", options->name, "pid", (json_int_t)getpid(),
        "boot_id", boot_id, "listen", listen, "memory_bytes", (json_int_t)usage.bytes_total,
        "extents", (json_int_t)usage.extents, "extent_bytes", (json_int_t)usage.extent_bytes);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
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

static int tell_ready(const fp_memnode_options *options, const fp_memnode *node, json_t *listen)
{
    char *text = ready_text(options, node, listen);
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

static int listen_all(const fp_memnode_options *options, fp_memnode *node, json_t *listen)
{
    for (unsigned i = 0; i < options->listen_count; i++) {
        const char *bound;
        int rc = fp_memnode_listen(node, options->listen[i], NULL, &bound);
        if (rc)
            return rc;
        if (json_array_append_new(listen, json_string(bound)))
            return fp_error(FARPOOL_E_INVAL, "address %s is not UTF-8", bound);
        fp_log(FP_LOG_INFO, "serving %s", bound);
    }
    return 0;
}

static void log_usage(const fp_memnode *node)
{
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    char total[32], granted[32], clearing[32], lost[32];
    fp_log(FP_LOG_INFO,
           "usage: %s granted of %s to %" PRIu64 " partitions, %s being cleared, %s lost, %" PRIu64
           " connections, %" PRIu64 " requests waiting, %.3f s of CPU",
           fp_config_size_text(usage.bytes_granted, granted, sizeof granted),
           fp_config_size_text(usage.bytes_total, total, sizeof total), usage.partitions,
           fp_config_size_text(usage.bytes_clearing, clearing, sizeof clearing),
           fp_config_size_text(usage.bytes_lost, lost, sizeof lost), usage.connections,
           usage.pending, (double)usage.cpu_ns / 1e9);
}

/* Returns the signal that ends the node, or 0. */
static int take_signal(int signal_fd, const fp_memnode *node)
{
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGUSR1)
            return (int)info.ssi_signo;
        log_usage(node);
    }
    return 0;
}

/* Until a signal ends it (0) or a transport fails. */
static int run(fp_memnode *node, int signal_fd)
{
    int fds[FP_EXTENT_NETS_MAX];
    struct pollfd polled[FP_EXTENT_NETS_MAX + 1];
    unsigned count = fp_memnode_fds(node, fds);
    for (unsigned i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    polled[count] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
    for (;;) {
        int more = fp_memnode_step(node);
        if (more < 0)
            return more;
        int n = poll(polled, count + 1, more ? 0 : -1);
        if (n < 0 && errno != EINTR)
            return fp_error_sys("waiting for events");
        if (n > 0 && polled[count].revents) {
            int number = take_signal(signal_fd, node);
            if (number) {
                fp_log(FP_LOG_INFO, "ending on %s", strsignal(number));
                return 0;
            }
        }
    }
}

static int log_failure(int rc)
{
    fp_log(FP_LOG_ERROR, "%s (%s)", farpool_errmsg(), fp_error_name(rc));
    return rc;
}

static int serve(const fp_memnode_options *options)
{
    fp_memnode_config config = {
        .name = options->name,
        .memory_bytes = options->memory_bytes,
        .extent_order = options->extent_order,
        .numa_node = options->numa_node,
    };
    raise_limits();
    fp_memnode *node;
    int rc = fp_memnode_open(&config, &node);
    if (rc)
        return log_failure(rc);
    /* Not earlier: a signal should end the touching of memory, which takes long, at once. Not
     * later: from the first listener on there is something to be tidied up. */
    int signal_fd = take_signals();
    if (signal_fd < 0) {
        rc = signal_fd;
        goto out_node;
    }
    json_t *listen = json_array();
    rc = listen ? listen_all(options, node, listen) : fp_error(FARPOOL_E_NOMEM, "no memory");
    if (!rc)
        rc = tell_ready(options, node, listen);
    json_decref(listen);
    if (!rc)
        rc = run(node, signal_fd);
    notify_systemd("STOPPING=1");
    if (options->ready_file[0])
        unlink(options->ready_file);
    close(signal_fd);
out_node:
    if (rc)
        log_failure(rc); /* before closing, which may fail in its own words */
    fp_memnode_close(node);
    return rc;
}

int main(int argc, char **argv)
{
    fp_log_init();
    /* static: it is large for a stack */
    static fp_memnode_options options;
    int rc = fp_memnode_options_parse(argc, argv, &options);
    if (rc) {
        fprintf(stderr, "farpool-memnode: %s\n", farpool_errmsg());
        return 2;
    }
    if (options.help) {
        fp_memnode_options_help(stdout);
        return 0;
    }
    if (options.version) {
        printf("farpool-memnode %d.%d.%d\n", FARPOOL_VERSION_MAJOR, FARPOOL_VERSION_MINOR,
               FARPOOL_VERSION_PATCH);
        return 0;
    }
    fp_log_set_level(options.log_level);
    return serve(&options) ? 1 : 0;
}
