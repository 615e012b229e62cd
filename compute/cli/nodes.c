/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cli/nodes.h"

#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "common/greet.h"
#include "common/net/net.h"
#include "common/wire.h"

enum { USAGE_WAIT_MS = 2000 };

static void exec_node(const cli_nodes *nodes, const char *listen, int ready_fd)
{
    char self[PATH_MAX] = "", path[PATH_MAX + 32], memory[32], fd[16];
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        _exit(127);
    snprintf(path, sizeof path, "%s/farpool-%s", dirname(self),
             nodes->volume ? "storagenode" : "memnode");
    snprintf(memory, sizeof memory, "%lluk", (unsigned long long)(nodes->bytes_each >> 10));
    snprintf(fd, sizeof fd, "%d", ready_fd);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    const char *own = nodes->volume ? "--volume" : "--memory";
    const char *value = nodes->volume ? nodes->volume : memory;
    execl(path, path, "--listen", listen, "--ready-fd", fd, "--log-level", "error", own, value,
          nodes->storage ? "--storage" : NULL, nodes->storage, (char *)NULL);
    perror(path);
    _exit(127);
}

static int start_one(cli_nodes *nodes, unsigned i, const char *listen)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        return fp_error_sys("starting a node: pipe");
    pid_t pid = fork();
    if (pid < 0)
        return fp_error_sys("starting a node: fork");
    if (!pid) {
        fcntl(fds[1], F_SETFD, 0);
        exec_node(nodes, listen, fds[1]);
    }
    nodes->pids[i] = pid;
    close(fds[1]);
    FILE *ready = fdopen(fds[0], "r");
    json_t *json = ready ? json_loadf(ready, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    const char *uri = json_string_value(json_array_get(json_object_get(json, "listen"), 0));
    int rc = 0;
    if (uri)
        snprintf(nodes->texts[i], sizeof nodes->texts[i], "%s", uri);
    else
        rc = fp_error(FARPOOL_E_NODE, "farpool-%s at %s did not start; it says why above",
                      nodes->volume ? "storagenode" : "memnode", listen);
    nodes->uris[i] = nodes->texts[i];
    json_decref(json);
    if (ready)
        fclose(ready);
    return rc;
}

static int start_all(cli_nodes *nodes, unsigned count, const char *transport, const char *host)
{
    for (unsigned i = 0; i < count; i++) {
        char listen[256];
        if (!strcmp(transport, "shm"))
            snprintf(listen, sizeof listen, "shm:///tmp/farpool-%d-%s%u.sock", (int)getpid(),
                     nodes->volume ? "storage-" : "", i);
        else
            snprintf(listen, sizeof listen, "%s://%s:0", transport, host);
        nodes->count = i + 1;
        int rc = start_one(nodes, i, listen);
        if (rc) {
            cli_nodes_stop(nodes);
            return rc;
        }
    }
    return 0;
}

int cli_nodes_start(cli_nodes *nodes, unsigned count, const char *transport, const char *host,
                    uint64_t bytes_each, const char *storage)
{
    *nodes = (cli_nodes){.bytes_each = bytes_each, .storage = storage};
    return start_all(nodes, count, transport, host);
}

int cli_storage_start(cli_nodes *nodes, const char *transport, const char *host, const char *volume)
{
    *nodes = (cli_nodes){.volume = volume};
    return start_all(nodes, 1, transport, host);
}

void cli_nodes_kill(cli_nodes *nodes, unsigned i)
{
    if (nodes->pids[i] <= 0)
        return;
    kill(nodes->pids[i], SIGKILL);
    waitpid(nodes->pids[i], NULL, 0);
    nodes->pids[i] = 0;
}

int cli_nodes_restart(cli_nodes *nodes, unsigned i)
{
    char listen[sizeof nodes->texts[i]];
    strcpy(listen, nodes->texts[i]);
    return start_one(nodes, i, listen);
}

void cli_nodes_stop(cli_nodes *nodes)
{
    static const char shm[] = "shm://";
    for (unsigned i = 0; i < nodes->count; i++)
        if (nodes->pids[i] > 0)
            kill(nodes->pids[i], SIGTERM);
    for (unsigned i = 0; i < nodes->count; i++) {
        if (nodes->pids[i] > 0)
            waitpid(nodes->pids[i], NULL, 0);
        else if (!strncmp(nodes->texts[i], shm, sizeof shm - 1)) { /* killed: its socket is left */
            char lock[sizeof nodes->texts[i] + 8];
            snprintf(lock, sizeof lock, "%s.lock", nodes->texts[i] + sizeof shm - 1);
            unlink(nodes->texts[i] + sizeof shm - 1);
            unlink(lock);
        }
    }
    nodes->count = 0;
}

double cli_nodes_cpu(const cli_nodes *nodes)
{
    double seconds = 0;
    for (unsigned i = 0; i < nodes->count; i++) {
        if (!nodes->pids[i])
            return -1;
        char path[64];
        unsigned long user = 0, system = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)nodes->pids[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            return -1;
        if (fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                   &system) == 2)
            seconds += (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
        fclose(file);
    }
    return seconds;
}

/* One request and its answer on a connection of its own. */
static int ask(fp_conn *conn, fp_poller *poller, fp_msg *msg)
{
    uint8_t buffer[FP_NET_MESSAGE_MAX];
    int rc = fp_net_send(conn, buffer, fp_wire_encode(msg, buffer, sizeof buffer));
    while (!rc) {
        fp_net_event event;
        int n = fp_net_poll(poller, &event, 1, USAGE_WAIT_MS);
        if (n <= 0)
            return fp_error(FARPOOL_E_TIMEOUT, "%s does not answer", fp_net_conn_peer(conn));
        if (event.kind == FP_NET_CLOSED)
            return fp_error(event.status, "%s: %s", fp_net_conn_peer(conn),
                            fp_net_conn_reason(conn));
        if (event.kind == FP_NET_RECV)
            return fp_wire_decode(event.data, event.len, msg);
    }
    return rc;
}

static int greet(fp_conn *conn, fp_poller *poller, const fp_auth *auth, fp_msg *msg)
{
    fp_greet greeting;
    int rc = fp_greet_begin(&greeting, auth, CLI_NAME, fp_net_conn_wanted(conn), msg);
    if (rc)
        return rc;
    do {
        rc = ask(conn, poller, msg);
        if (!rc && (rc = fp_greet_take(&greeting, msg)) < 0)
            fp_error(rc, "%s: %s", fp_net_conn_peer(conn), farpool_errmsg());
    } while (rc > 0);
    return rc;
}

int cli_node_usage(const char *uri, const fp_auth *auth, fp_msg *msg)
{
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn;
    int rc = fp_net_open(uri, &(fp_net_options){.auth = auth}, &net);
    if (rc)
        return rc;
    rc = fp_net_poller_open(net, &poller);
    if (rc)
        goto err_after_net;
    rc = fp_net_connect(poller, uri, &conn);
    if (rc)
        goto err_after_poller;
    memset(msg, 0, sizeof *msg);
    rc = greet(conn, poller, auth, msg);
    if (!rc) {
        msg->type = FP_MSG_USAGE;
        rc = ask(conn, poller, msg);
    }
    if (!rc && msg->type != FP_MSG_USAGE_OK)
        rc = fp_error(FARPOOL_E_PROTO, "%s does not tell its usage", uri);
    fp_net_conn_close(conn);
err_after_poller:
    fp_net_poller_close(poller);
err_after_net:
    fp_net_close(net);
    return rc;
}

int cli_nodes_data_bytes(const cli_nodes *nodes, uint64_t *bytes)
{
    fp_msg *msg = malloc(sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "asking memory nodes: no memory");
    int rc = 0;
    *bytes = 0;
    for (unsigned i = 0; i < nodes->count && !rc; i++) {
        rc = cli_node_usage(nodes->uris[i], nodes->auth, msg);
        if (!rc)
            *bytes += msg->usage.data_bytes;
    }
    free(msg);
    return rc;
}
