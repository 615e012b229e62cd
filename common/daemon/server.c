/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections and transports. A step may drop any client, also one whose events stand further on in the batch
 * being handled: fp_server_drop takes those out.
 */
#include "common/daemon/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/error.h"
#include "common/log.h"

enum { ROUNDS_MAX = 16 }; /* batches of one transport before the others get their turn */

/* ---- clients --------------------------------------------------------------------------------- */

/* The rest of the batch must not mention a connection that is about to be freed. */
static void close_conn(fp_server *server, fp_conn *conn)
{
    for (int i = server->batch_next; i < server->batch_end; i++) {
        if (server->batch[i].conn == conn)
            server->batch[i].conn = NULL;
    }
    fp_net_conn_close(conn);
}

static void accept_client(fp_server *server, unsigned net, fp_conn *conn)
{
    fp_server_client *client = NULL;
    fp_server_make_room(server);
    if (server->client_count < FP_SERVER_CLIENTS_MAX)
        client = calloc(1, server->ops->client_bytes);
    if (!client) {
        fp_log(FP_LOG_WARN, "%s: refused: %" PRIu32 " connections already", fp_net_conn_peer(conn),
               server->client_count);
        close_conn(server, conn);
        return;
    }
    client->conn = conn;
    client->net = net;
    client->next = server->clients;
    if (client->next)
        client->next->prev = client;
    server->clients = client;
    server->client_count++;
    server->accepted++;
    fp_net_conn_set_user(conn, client);
    fp_log(FP_LOG_DEBUG, "%s: connected", fp_net_conn_peer(conn));
}

void fp_server_drop(fp_server *server, fp_server_client *client)
{
    close_conn(server, client->conn);
    client->conn = NULL;
    if (client->prev)
        client->prev->next = client->next;
    else
        server->clients = client->next;
    if (client->next)
        client->next->prev = client->prev;
    server->client_count--;
    server->ops->dropped(server->owner, client);
    free(client);
}

bool fp_server_answer(fp_server *server, fp_server_client *client, uint32_t request)
{
    server->answer.request = request;
    size_t len = fp_wire_encode(&server->answer, server->buffer, sizeof server->buffer);
    if (!fp_net_send(client->conn, server->buffer, len))
        return true;
    /* Broken, or it sends requests and takes no answers. */
    fp_log(FP_LOG_INFO, "%s: cut off: %s", fp_net_conn_peer(client->conn), farpool_errmsg());
    fp_server_drop(server, client);
    return false;
}

bool fp_server_refuse(fp_server *server, fp_server_client *client, uint32_t request, int code)
{
    if (code < 0 && code > -FP_SERVER_CODES)
        server->refused[-code]++;
    server->answer.type = FP_MSG_ERROR;
    server->answer.code = code;
    snprintf(server->answer.text, sizeof server->answer.text, "%s", farpool_errmsg());
    fp_log(FP_LOG_DEBUG, "%s: refused: %s", fp_net_conn_peer(client->conn), server->answer.text);
    return fp_server_answer(server, client, request);
}

/* ---- requests -------------------------------------------------------------------------------- */

static void handle_request(fp_server *server, fp_server_client *client)
{
    server->requests[server->request.type]++; /* a decoded message has a known type */
    if (client->greeting != FP_GREETING_DONE) {
        fp_server_greet(server, client);
        return;
    }
    switch (server->request.type) {
    case FP_MSG_HELLO:
    case FP_MSG_PROOF:
        fp_server_greet(server, client);
        break;
    case FP_MSG_GRANT:
    case FP_MSG_ATTACH:
    case FP_MSG_RELEASE:
    case FP_MSG_USAGE:
    case FP_MSG_WAL_OPEN:
    case FP_MSG_WAL_GET:
    case FP_MSG_WAL_APPEND:
    case FP_MSG_PAGE_GET:
    case FP_MSG_LOG_GET:
    case FP_MSG_WAL_FENCE:
    case FP_MSG_WAL_JOIN:
    case FP_MSG_MANIFEST_GET:
    case FP_MSG_FILE_GET:
    case FP_MSG_CALL:
        server->ops->request(server->owner, client);
        break;
    case FP_MSG_HELLO_OK:
    case FP_MSG_CHALLENGE:
    case FP_MSG_EXTENTS:
    case FP_MSG_RELEASE_OK:
    case FP_MSG_USAGE_OK:
    case FP_MSG_ERROR:
    case FP_MSG_WAL_STATE:
    case FP_MSG_PAGE:
    case FP_MSG_LOG:
    case FP_MSG_MANIFEST:
    case FP_MSG_FILE:
    case FP_MSG_ANSWER:
        /* Answers to nothing. To answer them could go on for ever. */
        fp_log(FP_LOG_WARN, "%s: cut off: it sent an answer (type %d) to no request",
               fp_net_conn_peer(client->conn), (int)server->request.type);
        fp_server_drop(server, client);
        break;
    }
}

/* ---- events ---------------------------------------------------------------------------------- */

static void receive(fp_server *server, fp_server_client *client, const fp_net_event *event)
{
    int rc = fp_wire_decode(event->data, event->len, &server->request);
    if (!rc) {
        handle_request(server, client);
        return;
    }
    fp_log(FP_LOG_WARN, "%s: bad message of %" PRIu32 " bytes: %s", fp_net_conn_peer(client->conn),
           event->len, farpool_errmsg());
    if (server->auth && client->greeting != FP_GREETING_DONE)
        fp_server_greet_nonsense(server, client, rc);
    else
        fp_server_refuse(server, client, 0, rc);
}

static void take_event(fp_server *server, unsigned net, const fp_net_event *event)
{
    if (!event->conn)
        return; /* dropped by an earlier event of the batch */
    if (event->kind == FP_NET_ACCEPTED) {
        accept_client(server, net, event->conn);
        return;
    }
    fp_server_client *client = fp_net_conn_user(event->conn);
    FP_ASSERT(client);
    switch (event->kind) {
    case FP_NET_RECV:
        receive(server, client, event);
        break;
    case FP_NET_CLOSED:
        fp_log(FP_LOG_DEBUG, "%s: disconnected: %s", fp_net_conn_peer(event->conn),
               fp_net_conn_reason(event->conn));
        fp_server_drop(server, client);
        break;
    case FP_NET_RECV_IMM: /* over verbs an empty WRITE needs nobody's leave */
        if (client->greeting != FP_GREETING_DONE) {
            fp_log(FP_LOG_WARN, "%s: cut off: it signals before it has said who it is",
                   fp_net_conn_peer(event->conn));
            fp_server_drop(server, client);
        } else if (server->ops->signalled) {
            server->ops->signalled(server->owner);
        }
        break;
    case FP_NET_DONE: /* an answer has left, or FP_NET_CLOSED is about to come */
    case FP_NET_ACCEPTED:
        break;
    }
}

/* Returns 1 if there may be more, 0 if not. */
static int drain(fp_server *server, unsigned net)
{
    for (int round = 0; round < ROUNDS_MAX; round++) {
        int n = fp_net_poll(server->nets[net].poller, server->batch, FP_SERVER_BATCH, 0);
        if (n <= 0)
            return n;
        server->batch_end = n;
        for (int i = 0; i < n; i++) {
            server->batch_next = i + 1;
            take_event(server, net, &server->batch[i]);
        }
        server->batch_next = server->batch_end = 0;
    }
    return 1;
}

int fp_server_step(fp_server *server)
{
    int more = 0;
    for (unsigned i = 0; i < server->net_count; i++) {
        int rc = drain(server, i);
        if (rc < 0)
            return rc;
        more |= rc;
    }
    return more;
}

/* ---- life ------------------------------------------------------------------------------------ */

int fp_server_open(fp_server *server, const fp_server_ops *ops, void *owner, const char *name,
                   uint64_t boot_id, const fp_auth *auth)
{
    if (auth && !fp_auth_has_secret(auth))
        return fp_error(FARPOOL_E_INVAL,
                        "a node needs the cluster's secret; the key of '%s' alone tells it nothing "
                        "of others",
                        fp_auth_name(auth));
    server->auth = auth;
    server->ops = ops;
    server->owner = owner;
    snprintf(server->name, sizeof server->name, "%s", name);
    server->boot_id = boot_id;
    while (!server->boot_id) {
        if (getrandom(&server->boot_id, sizeof server->boot_id, 0) != sizeof server->boot_id)
            return fp_error_sys("drawing a boot id");
    }
    return 0;
}

void fp_server_stop(fp_server *server)
{
    for (unsigned i = 0; i < server->listener_count; i++)
        fp_net_listener_close(server->listeners[i]);
    server->listener_count = 0;
    fp_server_client *next;
    for (fp_server_client *client = server->clients; client; client = next) {
        next = client->next;
        fp_server_drop(server, client);
    }
    for (unsigned i = 0; i < server->net_count; i++)
        fp_net_poller_close(server->nets[i].poller);
}

void fp_server_close(fp_server *server)
{
    for (unsigned i = 0; i < server->net_count; i++)
        fp_net_close(server->nets[i].net);
    server->net_count = 0;
}

/* The index of the transport that serves uri, opened now if it is the first of its scheme. */
static int net_for(fp_server *server, const char *uri, const fp_net_options *options,
                   unsigned *index)
{
    fp_uri parsed;
    int rc = fp_uri_parse(uri, &parsed);
    if (rc)
        return rc;
    for (unsigned i = 0; i < server->net_count; i++) {
        if (!strcmp(parsed.scheme, fp_net_scheme(server->nets[i].net))) {
            *index = i;
            return 0;
        }
    }
    FP_ASSERT(server->net_count < FP_SERVER_NETS_MAX); /* as many as there are schemes */
    unsigned n = server->net_count;
    fp_net_options with_auth = {0};
    if (options)
        with_auth = *options;
    with_auth.auth = server->auth;
    rc = fp_net_open(uri, &with_auth, &server->nets[n].net);
    if (rc)
        return rc;
    rc = fp_net_poller_open(server->nets[n].net, &server->nets[n].poller);
    if (rc)
        goto err_after_net;
    if (server->ops->net_opened)
        rc = server->ops->net_opened(server->owner, server->nets[n].net, n);
    if (rc)
        goto err_after_poller;
    *index = n;
    server->net_count++;
    return 0;
err_after_poller:
    fp_net_poller_close(server->nets[n].poller);
err_after_net:
    fp_net_close(server->nets[n].net);
    return rc;
}

int fp_server_listen(fp_server *server, const char *uri, const fp_net_options *options,
                     const char **bound)
{
    if (server->listener_count == FP_SERVER_LISTENERS_MAX)
        return fp_error(FARPOOL_E_INVAL, "%s: a node listens on at most %d addresses", uri,
                        FP_SERVER_LISTENERS_MAX);
    unsigned net;
    int rc = net_for(server, uri, options, &net);
    if (rc)
        return rc;
    fp_listener *listener;
    rc = fp_net_listen(server->nets[net].poller, uri, &listener);
    if (rc)
        return rc;
    server->listeners[server->listener_count++] = listener;
    *bound = fp_net_listener_uri(listener);
    return 0;
}

fp_poller *fp_server_poller(const fp_server *server, unsigned i)
{
    FP_ASSERT(i < server->net_count);
    return server->nets[i].poller;
}

unsigned fp_server_fds(const fp_server *server, int fds[FP_SERVER_NETS_MAX])
{
    for (unsigned i = 0; i < server->net_count; i++)
        fds[i] = fp_net_poller_fd(server->nets[i].poller);
    return server->net_count;
}

uint64_t fp_server_data_bytes(const fp_server *server)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < server->net_count; i++)
        bytes += fp_net_data_bytes(server->nets[i].net);
    return bytes;
}
