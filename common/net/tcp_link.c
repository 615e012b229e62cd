/* SPDX-License-Identifier: Apache-2.0 */
/* tcp: addresses, the preamble, listening and connecting. */
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/tcp.h"

static const char magic[8] = {'f', 'a', 'r', 'p', 't', 'c', 'p', '\n'};

void fp_tcp_preamble(unsigned char out[FP_TCP_PREAMBLE_BYTES], bool sealed)
{
    uint32_t version = htole32(FP_TCP_VERSION);
    memset(out, 0, FP_TCP_PREAMBLE_BYTES);
    memcpy(out, magic, sizeof magic);
    memcpy(out + sizeof magic, &version, sizeof version);
    out[FP_TCP_PREAMBLE_BYTES - 1] = sealed;
}

int fp_tcp_preamble_check(const unsigned char in[FP_TCP_PREAMBLE_BYTES], bool sealed,
                          const char *peer)
{
    uint32_t version;
    if (memcmp(in, magic, sizeof magic) != 0)
        return fp_error(FARPOOL_E_PROTO, "%s: the peer is not a farpool node (tcp)", peer);
    memcpy(&version, in + sizeof magic, sizeof version);
    if (le32toh(version) != FP_TCP_VERSION)
        return fp_error(FARPOOL_E_PROTO,
                        "%s: the peer speaks version %u of the tcp protocol, this is version %d; "
                        "use the same farpool on both ends",
                        peer, le32toh(version), FP_TCP_VERSION);
    if (!in[FP_TCP_PREAMBLE_BYTES - 1] == !sealed)
        return 0;
    return sealed
               ? fp_error(FARPOOL_E_REFUSED,
                          "%s: the peer has no secret and speaks without TLS, and there is a key "
                          "file here: give the node its --secret-file",
                          peer)
               : fp_error(FARPOOL_E_REFUSED,
                          "%s: the peer speaks only TLS, to those who have a key: give a key "
                          "file",
                          peer);
}

void fp_tcp_socket_options(int fd)
{
    /* A system that refuses one of these still has a connection that works. */
    const struct {
        int level, name, value;
    } options[] = {
        {IPPROTO_TCP, TCP_NODELAY, 1},   {IPPROTO_TCP, TCP_USER_TIMEOUT, FP_TCP_DEAD_MS},
        {SOL_SOCKET, SO_KEEPALIVE, 1},   {IPPROTO_TCP, TCP_KEEPIDLE, FP_TCP_DEAD_MS / 3000},
        {IPPROTO_TCP, TCP_KEEPINTVL, 2}, {IPPROTO_TCP, TCP_KEEPCNT, 5},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

void fp_tcp_name(const struct sockaddr *addr, socklen_t len, char *out, size_t capacity)
{
    char host[128], port[16];
    if (getnameinfo(addr, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV))
        snprintf(out, capacity, "tcp://?");
    else
        snprintf(out, capacity, strchr(host, ':') ? "tcp://[%s]:%s" : "tcp://%s:%s", host, port);
}

/* ---- listening ------------------------------------------------------------------------------- */

static int bind_listen(const struct addrinfo *at, const fp_uri *uri, int *out)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fp_error_sys("listening on %s", uri->text);
    int one = 1;
    int rc = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, at->ai_addr, at->ai_addrlen) || listen(fd, 128))
        rc = errno == EADDRINUSE
                 ? fp_error(FARPOOL_E_BUSY, "listening on %s: another process serves it", uri->text)
                 : fp_error_sys("listening on %s", uri->text);
    if (rc)
        close(fd);
    else
        *out = fd;
    return rc;
}

int fp_tcp_listen(fp_poller *base, const fp_uri *uri, fp_listener **out)
{
    fp_tcp_net *net = (fp_tcp_net *)base->net;
    struct addrinfo *list;
    int rc = fp_uri_resolve(uri, AI_PASSIVE, &list);
    if (rc)
        return rc;
    fp_tcp_listener *listener = calloc(1, sizeof *listener);
    if (!listener) {
        rc = fp_error(FARPOOL_E_NOMEM, "listening on %s: out of memory", uri->text);
        goto err_resolved;
    }
    listener->base.poller = base;
    listener->poller = (fp_tcp_poller *)base;
    listener->source.kind = FP_TCP_SOURCE_LISTENER;
    rc = bind_listen(list, uri, &listener->fd);
    if (rc)
        goto err_allocated;
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    if (getsockname(listener->fd, (struct sockaddr *)&bound, &len)) {
        rc = fp_error_sys("listening on %s", uri->text);
        goto err_bound;
    }
    fp_tcp_name((struct sockaddr *)&bound, len, listener->base.uri, sizeof listener->base.uri);
    rc = fp_tcp_loop_start(net);
    if (rc)
        goto err_bound;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener->source};
    pthread_mutex_lock(&net->lock);
    if (epoll_ctl(net->epfd, EPOLL_CTL_ADD, listener->fd, &event)) {
        rc = fp_error_sys("listening on %s", uri->text);
    } else {
        listener->next = net->listeners;
        net->listeners = listener;
    }
    pthread_mutex_unlock(&net->lock);
    if (rc)
        goto err_bound;
    freeaddrinfo(list);
    *out = &listener->base;
    return 0;
err_bound:
    close(listener->fd);
err_allocated:
    free(listener);
err_resolved:
    freeaddrinfo(list);
    return rc;
}

/* Ends those of its connections that the application has not been given, once their lock is
 * free. */
static void drop_pending(fp_tcp_net *net, fp_tcp_listener *listener)
{
    for (;;) {
        fp_tcp_conn *victim = NULL;
        pthread_mutex_lock(&net->lock);
        for (fp_tcp_conn *conn = net->conns; conn && !victim; conn = conn->next) {
            pthread_mutex_lock(&conn->lock);
            if (conn->listener == listener) {
                conn->listener = NULL; /* whoever clears it buries the connection */
                victim = conn;
            }
            pthread_mutex_unlock(&conn->lock);
        }
        pthread_mutex_unlock(&net->lock);
        if (!victim)
            return;
        fp_tcp_conn_close(&victim->base);
    }
}

void fp_tcp_listener_close(fp_listener *base)
{
    fp_tcp_listener *listener = (fp_tcp_listener *)base;
    fp_tcp_net *net = (fp_tcp_net *)base->poller->net;
    pthread_mutex_lock(&net->lock);
    epoll_ctl(net->epfd, EPOLL_CTL_DEL, listener->fd, NULL);
    close(listener->fd);
    listener->fd = -1;
    for (fp_tcp_listener **at = &net->listeners; *at; at = &(*at)->next) {
        if (*at == listener) {
            *at = listener->next;
            break;
        }
    }
    pthread_mutex_unlock(&net->lock);
    drop_pending(net, listener);
    pthread_mutex_lock(&net->lock);
    listener->next = net->dead_listeners; /* the loop may have an event of it in hand */
    net->dead_listeners = listener;
    pthread_mutex_unlock(&net->lock);
    fp_tcp_loop_wake(net);
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* 1 when ready, 0 when the time is over. */
static int wait_for(int fd, short what, uint64_t deadline)
{
    for (;;) {
        uint64_t now = fp_now_ns();
        if (now >= deadline)
            return 0;
        struct pollfd wait = {.fd = fd, .events = what};
        int n = poll(&wait, 1, (int)((deadline - now + 999999) / 1000000));
        if (n > 0)
            return 1;
        if (n < 0 && errno != EINTR)
            return 1; /* the next call on fd tells what is wrong */
    }
}

/* A connection that is being made. */
typedef struct connecting {
    int fd;
    const fp_uri *uri;
    unsigned timeout_ms;
    uint64_t deadline;
} connecting;

static int open_socket(const struct addrinfo *at, const fp_uri *uri, uint64_t deadline, int *out)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fp_error_sys("connecting to %s", uri->text);
    fp_tcp_socket_options(fd);
    int error = connect(fd, at->ai_addr, at->ai_addrlen) ? errno : 0;
    if (error == EINPROGRESS) {
        socklen_t len = sizeof error;
        if (!wait_for(fd, POLLOUT, deadline))
            error = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len))
            error = errno;
    }
    if (!error) {
        *out = fd;
        return 0;
    }
    close(fd);
    return fp_error(FARPOOL_E_NODE, "connecting to %s: %s; is the node running?", uri->text,
                    strerror(error));
}

/* Waits for bytes of the peer's; how many came, or a code. */
static ssize_t await(const connecting *to, void *bytes, size_t len)
{
    for (;;) {
        if (!wait_for(to->fd, POLLIN, to->deadline))
            return fp_error(FARPOOL_E_NODE, "connecting to %s: no answer within %u ms",
                            to->uri->text, to->timeout_ms);
        ssize_t n = recv(to->fd, bytes, len, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n <= 0)
            return fp_error(FARPOOL_E_NODE, "connecting to %s: the peer closed the connection",
                            to->uri->text);
        return n;
    }
}

static int shake_hands(const connecting *to, bool sealed)
{
    unsigned char preamble[FP_TCP_PREAMBLE_BYTES];
    fp_tcp_preamble(preamble, sealed);
    if (send(to->fd, preamble, sizeof preamble, MSG_NOSIGNAL) != sizeof preamble)
        return fp_error(FARPOOL_E_NODE, "connecting to %s: the peer went away: %s", to->uri->text,
                        strerror(errno));
    size_t have = 0;
    while (have < sizeof preamble) {
        ssize_t n = await(to, preamble + have, sizeof preamble - have);
        if (n < 0)
            return (int)n;
        have += (size_t)n;
        if (memcmp(preamble, magic, have < sizeof magic ? have : sizeof magic) != 0)
            break; /* no use in waiting for more */
    }
    return fp_tcp_preamble_check(preamble, sealed, to->uri->text);
}

/* What is sent in a handshake fits into an empty socket. */
static int send_outgoing(const connecting *to, fp_tls *tls)
{
    const void *bytes;
    size_t len = fp_tls_outgoing(tls, &bytes);
    if (len && send(to->fd, bytes, len, MSG_NOSIGNAL) != (ssize_t)len)
        return fp_error(FARPOOL_E_NODE, "connecting to %s: the peer went away: %s", to->uri->text,
                        strerror(errno));
    fp_tls_sent(tls, len);
    return 0;
}

static int shake_tls(const connecting *to, fp_tls *tls)
{
    unsigned char bytes[4096];
    char why[256];
    for (;;) {
        int done = fp_tls_shake(tls);
        snprintf(why, sizeof why, "%s", farpool_errmsg());
        int rc = send_outgoing(to, tls);
        if (done < 0)
            return fp_error(done, "connecting to %s: %s", to->uri->text, why);
        if (rc || done)
            return rc;
        ssize_t n = await(to, bytes, sizeof bytes);
        if (n < 0)
            return (int)n;
        rc = fp_tls_feed(tls, bytes, (size_t)n);
        if (rc)
            return rc;
    }
}

/* The connection's own TLS, or none. */
static int seal(const connecting *to, fp_tls_context *context, fp_tls **tls)
{
    *tls = NULL;
    int rc = context ? fp_tls_open(context, false, tls) : 0;
    if (!rc && context)
        rc = shake_tls(to, *tls);
    if (rc)
        fp_tls_close(*tls);
    return rc;
}

int fp_tcp_connect(fp_poller *base, const fp_uri *uri, fp_conn **out)
{
    fp_tcp_poller *poller = (fp_tcp_poller *)base;
    fp_tcp_net *net = (fp_tcp_net *)base->net;
    connecting to = {-1, uri, net->options.connect_timeout_ms, 0};
    to.deadline = fp_now_ns() + to.timeout_ms * UINT64_C(1000000);
    struct addrinfo *list;
    int rc = fp_uri_resolve(uri, 0, &list);
    if (rc)
        return rc;
    rc = FARPOOL_E_NODE;
    for (const struct addrinfo *at = list; at && rc; at = at->ai_next)
        rc = open_socket(at, uri, to.deadline, &to.fd);
    freeaddrinfo(list);
    if (rc)
        return rc;
    fp_tls *tls;
    rc = shake_hands(&to, net->tls != NULL);
    if (!rc)
        rc = seal(&to, net->tls, &tls);
    if (rc)
        goto err_after_socket;
    fp_tcp_conn *conn;
    rc = fp_tcp_conn_new(poller, to.fd, uri->text, &conn);
    if (rc)
        goto err_after_tls;
    conn->tls = tls;
    pthread_mutex_lock(&net->lock);
    fp_tcp_conn_join_locked(conn);
    pthread_mutex_lock(&conn->lock);
    conn->hello = true;
    conn->epfd = poller->epfd;
    rc = fp_tcp_watch_locked(conn);
    pthread_mutex_unlock(&conn->lock);
    pthread_mutex_unlock(&net->lock);
    if (rc) {
        fp_tcp_conn_close(&conn->base);
        return rc;
    }
    conn->own_next = poller->own;
    poller->own = conn;
    *out = &conn->base;
    return 0;
err_after_tls:
    fp_tls_close(tls);
err_after_socket:
    close(to.fd);
    return rc;
}
