/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/etcd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"

enum { ARGS_MAX = 40, LEADER_WAIT_S = 60 };

bool test_etcd_there(void)
{
    bool there = !system("command -v etcd >/dev/null && command -v etcdctl >/dev/null");
    if (!there)
        printf("not run on etcd: etcd-server and etcd-client are not installed "
               "(scripts/install-deps)\n");
    return there;
}

/* Ports that are free now: held all at once, so that they differ; below those that systems give to whoever asks for any, so
 * that nobody is given one before etcd has it, or while a member is down. */
static void choose_ports(test_etcd *etcd)
{
    enum { FIRST = 20000, COUNT = 10000 };
    uint64_t random = fp_now_ns();
    int fds[2 * ETCD_TEST_MAX];
    for (int i = 0; i < 2 * ETCD_TEST_MAX; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        REQUIRE(fds[i] >= 0);
        int rc;
        do {
            etcd->ports[i] = FIRST + (unsigned)(test_random(&random) % COUNT);
            address.sin_port = htons((uint16_t)etcd->ports[i]);
            rc = bind(fds[i], (struct sockaddr *)&address, sizeof address);
        } while (rc && errno == EADDRINUSE);
        REQUIRE(!rc);
    }
    for (int i = 0; i < 2 * ETCD_TEST_MAX; i++)
        close(fds[i]);
}

static void must_run(const char *command)
{
    if (!system(command))
        return;
    fprintf(stderr, "test set-up: this has failed: %s\n", command);
    exit(1);
}

/* One CA, one certificate for members and clients; another CA that has signed nothing. */
static void make_certificates(test_etcd *etcd)
{
    char command[4000];
    snprintf(
        command, sizeof command,
        "cd '%s' && for ca in ca other; do openssl req -x509 -newkey ec -pkeyopt "
        "ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=$ca -keyout $ca.key -out $ca.pem; done "
        ">openssl.log 2>&1 && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        "-subj /CN=farpool -keyout key.pem -out request.pem >>openssl.log 2>&1 && "
        "printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >extra "
        "&& "
        "openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
        "-extfile extra -out cert.pem >>openssl.log 2>&1",
        etcd->dir);
    must_run(command);
    snprintf(etcd->ca, sizeof etcd->ca, "%s/ca.pem", etcd->dir);
    snprintf(etcd->cert, sizeof etcd->cert, "%s/cert.pem", etcd->dir);
    snprintf(etcd->key, sizeof etcd->key, "%s/key.pem", etcd->dir);
    snprintf(etcd->other_ca, sizeof etcd->other_ca, "%s/other.pem", etcd->dir);
}

void test_etcd_start(test_etcd *etcd)
{
    const char *build = getenv("FARPOOL_BUILD");
    snprintf(etcd->dir, sizeof etcd->dir, "%s/etcd-XXXXXX", build ? build : "build");
    REQUIRE(mkdtemp(etcd->dir));
    choose_ports(etcd);
    if (etcd->tls)
        make_certificates(etcd);
    for (unsigned i = 0; i < etcd->count; i++)
        test_etcd_start_member(etcd, i);
}

typedef struct args {
    char *list[ARGS_MAX + 1];
    unsigned count;
} args;

static void add(args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(args *a, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    REQUIRE(a->count < ARGS_MAX && vasprintf(&a->list[a->count++], format, list) > 0);
    va_end(list);
}

static void make_args(const test_etcd *etcd, unsigned i, args *a)
{
    const char *scheme = etcd->tls ? "https" : "http";
    const unsigned *peers = etcd->ports + ETCD_TEST_MAX;
    char cluster[200];
    int n = 0;
    for (unsigned k = 0; k < etcd->count; k++)
        n += snprintf(cluster + n, sizeof cluster - (size_t)n, "%sm%u=http://127.0.0.1:%u",
                      k ? "," : "", k, peers[k]);
    add(a, "etcd");
    add(a, "--name=m%u", i);
    add(a, "--data-dir=%s/m%u", etcd->dir, i);
    add(a, "--listen-client-urls=%s://127.0.0.1:%u", scheme, etcd->ports[i]);
    add(a, "--advertise-client-urls=%s://127.0.0.1:%u", scheme, etcd->ports[i]);
    add(a, "--listen-peer-urls=http://127.0.0.1:%u", peers[i]);
    add(a, "--initial-advertise-peer-urls=http://127.0.0.1:%u", peers[i]);
    add(a, "--initial-cluster=%s", cluster);
    add(a, "--unsafe-no-fsync"); /* processes are killed here, not machines */
    if (etcd->quota_bytes)
        add(a, "--quota-backend-bytes=%s", etcd->quota_bytes);
    if (etcd->token_ttl_s)
        add(a, "--auth-token-ttl=%s", etcd->token_ttl_s);
    if (etcd->tls) {
        add(a, "--cert-file=%s", etcd->cert);
        add(a, "--key-file=%s", etcd->key);
        add(a, "--trusted-ca-file=%s", etcd->ca);
        add(a, "--client-cert-auth");
    }
}

void test_etcd_start_member(test_etcd *etcd, unsigned i)
{
    args a = {0};
    char log[300];
    make_args(etcd, i, &a);
    snprintf(log, sizeof log, "%s/m%u.log", etcd->dir, i);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0640);
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
        setenv("ETCD_UNSUPPORTED_ARCH", "arm64", 1); /* it wants to be told so there */
        execvp("etcd", a.list);
        _exit(127);
    }
    for (unsigned k = 0; k < a.count; k++)
        free(a.list[k]);
    etcd->pids[i] = pid;
}

void test_etcd_kill(test_etcd *etcd, unsigned i, int signal)
{
    REQUIRE(etcd->pids[i] && !kill(etcd->pids[i], signal));
    if (signal != SIGKILL)
        return;
    REQUIRE(waitpid(etcd->pids[i], NULL, 0) == etcd->pids[i]);
    etcd->pids[i] = 0;
}

void test_etcd_stop(test_etcd *etcd)
{
    char command[300];
    for (unsigned i = 0; i < etcd->count; i++)
        if (etcd->pids[i])
            test_etcd_kill(etcd, i, SIGKILL);
    snprintf(command, sizeof command, "rm -rf '%s'", etcd->dir);
    must_run(command);
}

static int list_members(const test_etcd *etcd, char *text, size_t size, const char *scheme)
{
    int n = 0;
    for (unsigned i = 0; i < etcd->count; i++)
        n += snprintf(text + n, size - (size_t)n, "%s%s127.0.0.1:%u", i ? "," : "", scheme,
                      etcd->ports[i]);
    return n;
}

const char *test_etcd_uri(const test_etcd *etcd, const char *prefix)
{
    static char uri[300];
    int n = snprintf(uri, sizeof uri, "etcd://");
    n += list_members(etcd, uri + n, sizeof uri - (size_t)n, "");
    snprintf(uri + n, sizeof uri - (size_t)n, "%s", prefix);
    return uri;
}

static void ctl_command(const test_etcd *etcd, const char *arguments, char *command, size_t size)
{
    char members[200], tls[1000] = "";
    list_members(etcd, members, sizeof members, etcd->tls ? "https://" : "http://");
    if (etcd->tls)
        snprintf(tls, sizeof tls, "--cacert='%s' --cert='%s' --key='%s'", etcd->ca, etcd->cert,
                 etcd->key);
    snprintf(command, size,
             "ETCDCTL_API=3 etcdctl --dial-timeout=10s --command-timeout=20s --endpoints=%s %s %s "
             "2>>'%s/ctl.log'",
             members, tls, arguments, etcd->dir);
}

int test_etcd_ctl(const test_etcd *etcd, const char *arguments)
{
    char command[2000], quiet[1200];
    snprintf(quiet, sizeof quiet, "%s >>'%s/ctl.log'", arguments, etcd->dir);
    ctl_command(etcd, quiet, command, sizeof command);
    return system(command);
}

unsigned test_etcd_leader(const test_etcd *etcd)
{
    char command[2000], line[500];
    uint64_t end = fp_now_ns() + LEADER_WAIT_S * UINT64_C(1000000000);
    ctl_command(etcd, "endpoint status", command, sizeof command);
    while (fp_now_ns() < end) {
        FILE *status = popen(command, "re");
        unsigned leader = etcd->count;
        REQUIRE(status);
        while (fgets(line, sizeof line, status))
            for (unsigned i = 0; i < etcd->count; i++) {
                char port[16];
                snprintf(port, sizeof port, ":%u,", etcd->ports[i]);
                /* endpoint, id, version, size, leads, learner, ... */
                const char *leads = strstr(line, "B, ");
                if (strstr(line, port) && leads && !strncmp(leads + 3, "true", 4))
                    leader = i;
            }
        pclose(status);
        if (leader < etcd->count)
            return leader;
    }
    fprintf(stderr, "test set-up: etcd in %s has no leader\n", etcd->dir);
    exit(1);
}
