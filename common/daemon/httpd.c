/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libmicrohttpd without threads: its epoll descriptor is readable when a socket of its is, and MHD_run then does what
 * can be done. Time limits are looked at by MHD_run only, so MHD_get_timeout says when to call it anyway.
 */
#include "common/daemon/httpd.h"

#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/net.h"

enum { BACKLOG = 64 };

struct fp_httpd {
    const fp_httpd_ops *ops;
    void *owner;
    struct MHD_Daemon *server;
    int epoll_fd;     /* the server's */
    uint64_t due_ns;  /* when the server wants to run anyway; UINT64_MAX: never */
    char *text;       /* room for figures; as much as they needed last */
    size_t text_room; /* " */
    char bound[FP_HTTPD_ADDRESS_MAX];
};

/* ---- answers --------------------------------------------------------------------------------- */

/* Copies the text. */
static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              const char *text, size_t len)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(len, (void *)text, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO; /* no memory: the connection is closed */
    /* Places for connections are few. */
    bool good = MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") &&
                MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        good = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD") && good;
    enum MHD_Result result = good ? MHD_queue_response(connection, status, response) : MHD_NO;
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer_line(struct MHD_Connection *connection, unsigned status,
                                   const char *line)
{
    char text[512];
    int len = snprintf(text, sizeof text, "%s\n", line);
    size_t used = (size_t)len < sizeof text ? (size_t)len : sizeof text - 1;
    return answer(connection, status, "text/plain; charset=utf-8", text, used);
}

static enum MHD_Result answer_metrics(fp_httpd *http, struct MHD_Connection *connection)
{
    for (;;) {
        fp_metrics metrics = {.buffer = http->text, .capacity = http->text_room, .prefix = ""};
        http->ops->metrics(http->owner, &metrics);
        size_t len = fp_metrics_end(&metrics);
        if (len < http->text_room)
            return answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                          http->text, len);
        size_t room = len + len / 4 + 1;
        char *grown = realloc(http->text, room);
        if (!grown)
            return answer_line(connection, MHD_HTTP_INTERNAL_SERVER_ERROR,
                               "no memory for the figures");
        http->text = grown;
        http->text_room = room;
    }
}

/* Called by MHD_run when the headers of a request are here. What may follow them is not read. */
static enum MHD_Result handle(void *user, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *upload_data,
                              size_t *upload_bytes, void **request)
{
    fp_httpd *http = user;
    (void)version;
    (void)upload_data;
    (void)upload_bytes;
    (void)request;
    bool metrics = !strcmp(path, "/metrics"), ready = !strcmp(path, "/readyz");
    if (!metrics && !ready && strcmp(path, "/livez") != 0)
        return answer_line(connection, MHD_HTTP_NOT_FOUND,
                           "there are /metrics, /livez and /readyz");
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_line(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD");
    if (metrics)
        return answer_metrics(http, connection);
    char why[256] = "not ready";
    if (ready && !http->ops->ready(http->owner, why, sizeof why))
        return answer_line(connection, MHD_HTTP_SERVICE_UNAVAILABLE, why);
    return answer_line(connection, MHD_HTTP_OK, "ok");
}

/* ---- life ------------------------------------------------------------------------------------ */

static int parse(const char *address, char text[FP_NET_URI_MAX], fp_uri *uri)
{
    if (strlen(address) >= FP_HTTPD_ADDRESS_MAX || strstr(address, "://"))
        return fp_error(FARPOOL_E_INVAL, "'%.60s' is not HOST:PORT", address);
    snprintf(text, FP_NET_URI_MAX, "tcp://%s", address);
    if (fp_uri_parse(text, uri) || uri->name[0])
        return fp_error(FARPOOL_E_INVAL, "'%s' is not HOST:PORT, with a port from 0 to 65535",
                        address);
    return 0;
}

int fp_httpd_check_address(const char *address)
{
    char text[FP_NET_URI_MAX];
    fp_uri uri;
    return parse(address, text, &uri);
}

/* The socket, or an error. */
static int listen_on(const char *address, const fp_uri *uri)
{
    struct addrinfo *list;
    int rc = fp_uri_resolve(uri, AI_PASSIVE, &list);
    if (rc)
        return rc;
    int one = 1;
    int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, BACKLOG)) {
        rc = fp_error_sys("listening on %s for HTTP", address);
        if (fd >= 0)
            close(fd);
        fd = rc;
    }
    freeaddrinfo(list);
    return fd;
}

/* The address with the port that it got. */
static void tell_bound(fp_httpd *http, const char *address, int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } bound = {0};
    socklen_t len = sizeof bound;
    unsigned port = 0;
    if (!getsockname(fd, &bound.any, &len))
        port = ntohs(bound.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
    int host = (int)(strrchr(address, ':') - address);
    snprintf(http->bound, sizeof http->bound, "%.*s:%u", host, address, port);
}

int fp_httpd_open(const char *address, const fp_httpd_ops *ops, void *owner, fp_httpd **out)
{
    char text[FP_NET_URI_MAX];
    fp_uri uri;
    int rc = parse(address, text, &uri);
    if (rc)
        return rc;
    fp_httpd *http = calloc(1, sizeof *http);
    if (!http)
        return fp_error(FARPOOL_E_NOMEM, "no memory for serving HTTP");
    http->ops = ops;
    http->owner = owner;
    int fd = listen_on(address, &uri);
    if (fd < 0) {
        rc = fd;
        goto err_after_alloc;
    }
    tell_bound(http, address, fd);
    http->server = MHD_start_daemon(
        MHD_USE_EPOLL, 0, NULL, NULL, handle, http, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)FP_HTTPD_CONNECTIONS_MAX,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)FP_HTTPD_PER_HOST_MAX,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)FP_HTTPD_TIMEOUT_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)FP_HTTPD_MEMORY_BYTES, MHD_OPTION_END);
    if (!http->server) {
        rc = fp_error_sys("%s: starting to serve HTTP", address);
        close(fd);
        goto err_after_alloc;
    }
    http->epoll_fd = MHD_get_daemon_info(http->server, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    http->due_ns = UINT64_MAX;
    *out = http;
    return 0;
err_after_alloc:
    free(http);
    return rc;
}

void fp_httpd_close(fp_httpd *http)
{
    if (!http)
        return;
    MHD_stop_daemon(http->server); /* closes the listening socket, too */
    free(http->text);
    free(http);
}

const char *fp_httpd_bound(const fp_httpd *http) { return http->bound; }

/* ---- running --------------------------------------------------------------------------------- */

int fp_httpd_fd(const fp_httpd *http) { return http->epoll_fd; }

int fp_httpd_timeout(const fp_httpd *http)
{
    if (http->due_ns == UINT64_MAX)
        return -1;
    uint64_t now = fp_now_ns();
    return http->due_ns > now ? (int)((http->due_ns - now) / 1000000 + 1) : 0;
}

void fp_httpd_step(fp_httpd *http, bool readable)
{
    if (!readable && (http->due_ns == UINT64_MAX || fp_now_ns() < http->due_ns))
        return;
    MHD_UNSIGNED_LONG_LONG ms;
    MHD_run(http->server);
    bool due = MHD_get_timeout(http->server, &ms) == MHD_YES;
    http->due_ns = due ? fp_now_ns() + ms * 1000000 : UINT64_MAX;
}
