/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatches to the backends and asserts the contract once, before and after each call. */
#include "common/net/net.h"

#include <errno.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/auth.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/net/sim.h"

enum { ACK_TIMEOUT_MAX = 31 }; /* the field has 5 bits */

static const fp_net_ops *const backends[] = {&fp_net_verbs, &fp_net_tcp, &fp_net_shm, &fp_net_sim};

static int parse_host_port(const char *text, const char *rest, fp_uri *uri)
{
    const char *colon = strrchr(rest, ':');
    if (!colon || colon == rest)
        return fp_error(FARPOOL_E_INVAL, "address '%s': expected %s://HOST:PORT", text,
                        uri->scheme);
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (end == colon + 1 || *end || port > 65535 || colon[1] == '-' || colon[1] == '+')
        return fp_error(FARPOOL_E_INVAL, "address '%s': port must be 0 to 65535", text);
    size_t len = (size_t)(colon - rest);
    if (rest[0] == '[' && rest[len - 1] == ']') { /* [v6]:port */
        rest++;
        len -= 2;
    }
    if (len == 0 || len >= sizeof uri->host)
        return fp_error(FARPOOL_E_INVAL, "address '%s': host is empty or too long", text);
    memcpy(uri->host, rest, len);
    uri->port = (uint16_t)port;
    return 0;
}

/* What stands behind it. */
static const char *parse_name(const char *text, const char *rest, fp_uri *uri)
{
    size_t len = strcspn(rest, "@/");
    if (rest[len] != '@')
        return rest;
    if (!len || len >= sizeof uri->name) {
        fp_error(FARPOOL_E_INVAL, "address '%s': a name before '@' has 1 to %zu bytes", text,
                 sizeof uri->name - 1);
        return NULL;
    }
    memcpy(uri->name, rest, len);
    return rest + len + 1;
}

int fp_uri_parse(const char *text, fp_uri *uri)
{
    memset(uri, 0, sizeof *uri);
    uri->text = text;
    const char *rest = text ? strstr(text, "://") : NULL;
    size_t scheme_len = rest ? (size_t)(rest - text) : 0;
    if (!rest || scheme_len == 0 || scheme_len >= sizeof uri->scheme)
        return fp_error(FARPOOL_E_INVAL,
                        "address '%.200s': expected verbs://HOST:PORT, tcp://HOST:PORT or "
                        "shm:///PATH",
                        text ? text : "");
    if (strlen(text) >= FP_NET_URI_MAX)
        return fp_error(FARPOOL_E_INVAL, "address '%.60s...' is longer than %d bytes", text,
                        FP_NET_URI_MAX - 1);
    memcpy(uri->scheme, text, scheme_len);
    rest = parse_name(text, rest + 3, uri);
    if (!rest)
        return FARPOOL_E_INVAL;
    if (!strcmp(uri->scheme, "verbs") || !strcmp(uri->scheme, "tcp"))
        return parse_host_port(text, rest, uri);
    if (!strcmp(uri->scheme, "shm") && rest[0] != '/')
        return fp_error(FARPOOL_E_INVAL, "address '%s': expected shm:///ABSOLUTE/PATH", text);
    if (!rest[0] || strlen(rest) >= sizeof uri->host)
        return fp_error(FARPOOL_E_INVAL, "address '%s': path is empty or too long", text);
    strcpy(uri->host, rest);
    return 0;
}

int fp_uri_with_name(const char *uri, const char *name, char named[FP_NET_URI_MAX])
{
    fp_uri parsed;
    int rc = fp_uri_parse(uri, &parsed);
    if (rc)
        return rc;
    if (parsed.name[0])
        return fp_error(FARPOOL_E_INVAL, "address '%s': '%s@' is for those who connect", uri,
                        parsed.name);
    const char *rest = uri + strlen(parsed.scheme) + strlen("://");
    int len = snprintf(named, FP_NET_URI_MAX, "%s://%s@%s", parsed.scheme, name, rest);
    if (len >= FP_NET_URI_MAX)
        return fp_error(FARPOOL_E_INVAL,
                        "address '%s' and the name '%.80s' are longer than %d bytes", uri, name,
                        FP_NET_URI_MAX - 2);
    rc = fp_uri_parse(named, &parsed);
    if (!rc && strcmp(parsed.name, name) != 0)
        rc = fp_error(FARPOOL_E_INVAL, "'%.80s' cannot stand in an address", name);
    return rc;
}

int fp_uri_first(const char *list, char uri[FP_NET_URI_MAX], size_t *len)
{
    fp_uri parsed;
    *len = strcspn(list, ",");
    if (*len >= FP_NET_URI_MAX)
        return fp_error(FARPOOL_E_INVAL, "address '%.60s...' is longer than %d bytes", list,
                        FP_NET_URI_MAX - 1);
    memcpy(uri, list, *len);
    uri[*len] = '\0';
    return fp_uri_parse(uri, &parsed);
}

int fp_uri_resolve(const fp_uri *uri, int flags, struct addrinfo **list)
{
    char port[8];
    snprintf(port, sizeof port, "%u", uri->port);
    struct addrinfo hints = {.ai_flags = flags, .ai_socktype = SOCK_STREAM};
    int error = getaddrinfo(uri->host, port, &hints, list);
    switch (error) {
    case 0:
        return 0;
    case EAI_MEMORY:
        return fp_error(FARPOOL_E_NOMEM, "address '%s': no memory for looking it up", uri->text);
    default:
        return fp_error(FARPOOL_E_NODE, "address '%s': host '%s' is not known: %s", uri->text,
                        uri->host, error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    }
}

static int parse_for(const char *text, const fp_net_ops *ops, fp_uri *uri)
{
    int rc = fp_uri_parse(text, uri);
    if (rc)
        return rc;
    if (strcmp(uri->scheme, ops->scheme) != 0)
        return fp_error(FARPOOL_E_INVAL, "address '%s' is not for the %s transport in use", text,
                        ops->scheme);
    return 0;
}

int fp_net_open(const char *text, const fp_net_options *options, fp_net **net)
{
    fp_uri uri;
    int rc = fp_uri_parse(text, &uri);
    if (rc)
        return rc;
    fp_net_options defaults = {0};
    if (options)
        defaults = *options;
    if (!defaults.connect_timeout_ms)
        defaults.connect_timeout_ms = 5000;
    if (!defaults.ack_timeout)
        defaults.ack_timeout = 12;
    if (defaults.ack_timeout > ACK_TIMEOUT_MAX)
        return fp_error(FARPOOL_E_INVAL, "address '%s': ack_timeout %u must be 1 to %d", text,
                        defaults.ack_timeout, ACK_TIMEOUT_MAX);
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        if (strcmp(uri.scheme, backends[i]->scheme) != 0)
            continue;
        rc = backends[i]->open(&uri, &defaults, net);
        if (!rc) {
            (*net)->ops = backends[i];
            (*net)->auth = defaults.auth;
        }
        return rc;
    }
    return fp_error(FARPOOL_E_INVAL, "address '%s': unknown transport '%s' (verbs, tcp, shm)", text,
                    uri.scheme);
}

void fp_net_close(fp_net *net)
{
    if (net)
        net->ops->close(net);
}

const char *fp_net_scheme(const fp_net *net) { return net->ops->scheme; }
const fp_auth *fp_net_auth(const fp_net *net) { return net->auth; }

bool fp_net_leads_to(const fp_net *net, const char *uri)
{
    fp_uri parsed;
    const char *scheme = fp_net_scheme(net);
    if (!strcmp(scheme, "sim"))
        return true;
    return strcmp(scheme, "verbs") != 0 && !fp_uri_parse(uri, &parsed) &&
           !strcmp(scheme, parsed.scheme);
}

uint64_t fp_net_clock_ns(const fp_net_options *options)
{
    return options && options->world ? fp_sim_clock_ns(options->world, options->node) : fp_now_ns();
}

uint64_t fp_net_now_ns(const fp_net *net)
{
    return net->ops->now_ns ? net->ops->now_ns(net) : fp_now_ns();
}

uint64_t fp_net_data_bytes(const fp_net *net)
{
    return atomic_load_explicit(&net->data_bytes, memory_order_relaxed);
}

int fp_net_register(fp_net *net, const fp_mem *mem, unsigned access, fp_mr **mr)
{
    FP_ASSERT(mem->addr && mem->len);
    int rc = net->ops->mr_open(net, mem, access, mr);
    if (rc)
        return rc;
    (*mr)->net = net;
    (*mr)->mem = *mem;
    (*mr)->access = access;
    return 0;
}

void fp_net_unregister(fp_mr *mr)
{
    if (mr)
        mr->net->ops->mr_close(mr);
}

fp_rkey fp_net_rkey(const fp_mr *mr) { return mr->rkey; }

int fp_net_poller_open(fp_net *net, fp_poller **poller)
{
    int rc = net->ops->poller_open(net, poller);
    if (!rc)
        (*poller)->net = net;
    return rc;
}

void fp_net_poller_close(fp_poller *poller)
{
    if (poller)
        poller->net->ops->poller_close(poller);
}

int fp_net_poller_fd(fp_poller *poller) { return poller->net->ops->poller_fd(poller); }

int fp_net_listen(fp_poller *poller, const char *text, fp_listener **listener)
{
    fp_uri uri;
    int rc = parse_for(text, poller->net->ops, &uri);
    if (!rc && uri.name[0])
        rc = fp_error(FARPOOL_E_INVAL, "address '%s': '%s@' is for those who connect", text,
                      uri.name);
    if (!rc)
        rc = poller->net->ops->listen(poller, &uri, listener);
    if (!rc)
        (*listener)->poller = poller;
    return rc;
}

const char *fp_net_listener_uri(const fp_listener *listener) { return listener->uri; }

void fp_net_listener_close(fp_listener *listener)
{
    if (listener)
        listener->poller->net->ops->listener_close(listener);
}

int fp_net_connect(fp_poller *poller, const char *text, fp_conn **conn)
{
    fp_uri uri;
    int rc = parse_for(text, poller->net->ops, &uri);
    if (!rc)
        rc = poller->net->ops->connect(poller, &uri, conn);
    if (rc)
        return rc;
    (*conn)->poller = poller;
    strcpy((*conn)->wanted, uri.name);
    return 0;
}

void fp_net_conn_close(fp_conn *conn)
{
    if (conn)
        conn->poller->net->ops->conn_close(conn);
}

const char *fp_net_conn_peer(const fp_conn *conn) { return conn->peer; }
const char *fp_net_conn_reason(const fp_conn *conn) { return conn->reason; }
const char *fp_net_conn_wanted(const fp_conn *conn) { return conn->wanted; }
void fp_net_conn_set_user(fp_conn *conn, void *user) { conn->user = user; }
void *fp_net_conn_user(const fp_conn *conn) { return conn->user; }

int fp_net_share(fp_conn *conn, fp_mr *mr)
{
    FP_ASSERT(mr->net == conn->poller->net);
    if (conn->status)
        return fp_error(FARPOOL_E_CLOSED, "%s: connection is closed: %s", conn->peer, conn->reason);
    return conn->poller->net->ops->share(conn, mr);
}

static void check_op(const fp_conn *conn, const fp_net_op *op)
{
    FP_ASSERT(op->sge_count <= FP_NET_SGE_MAX);
    size_t total = 0;
    for (uint32_t i = 0; i < op->sge_count; i++) {
        const fp_sge *sge = &op->sge[i];
        total += sge->len;
        if (op->kind == FP_NET_SEND || (op->flags & FP_NET_INLINE))
            continue;
        FP_ASSERT(sge->mr && sge->mr->net == conn->poller->net);
        FP_ASSERT((char *)sge->addr >= (char *)sge->mr->mem.addr &&
                  (char *)sge->addr + sge->len <= (char *)sge->mr->mem.addr + sge->mr->mem.len);
    }
    FP_ASSERT(op->kind != FP_NET_SEND || total <= FP_NET_MESSAGE_MAX);
    FP_ASSERT(!(op->flags & FP_NET_INLINE) ||
              (op->kind != FP_NET_READ && total <= FP_NET_INLINE_MAX));
}

int fp_net_post(fp_conn *conn, const fp_net_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_op(conn, &ops[i]);
    if (conn->status)
        return fp_error(FARPOOL_E_CLOSED, "%s: connection is closed: %s", conn->peer, conn->reason);
    if (conn->inflight + count > FP_NET_DEPTH_MAX)
        return fp_error(FARPOOL_E_BUSY, "%s: more than %d operations in flight", conn->peer,
                        FP_NET_DEPTH_MAX);
    int rc = conn->poller->net->ops->post(conn, ops, count);
    if (!rc)
        conn->inflight += (uint32_t)count;
    return rc;
}

int fp_net_send(fp_conn *conn, void *bytes, size_t len)
{
    fp_net_op op = fp_net_message(bytes, len);
    return fp_net_post(conn, &op, 1);
}

int fp_net_poll(fp_poller *poller, fp_net_event *events, int max, int timeout_ms)
{
    int n = poller->net->ops->poll(poller, events, max, timeout_ms);
    FP_ASSERT(n <= max);
    for (int i = 0; i < n; i++) {
        fp_conn *conn = events[i].conn;
        if (events[i].kind == FP_NET_DONE) {
            FP_ASSERT(conn->inflight > 0);
            conn->inflight--;
        } else if (events[i].kind == FP_NET_CLOSED) {
            FP_ASSERT(conn->inflight == 0 && conn->status); /* N1, N5 */
        }
    }
    return n;
}
