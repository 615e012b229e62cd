/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcurl's multi interface on an epoll descriptor. All of the caller's functions are called outside of libcurl's own
 * callbacks, so they may start and cancel calls.
 *
 * libcurl sends a request a second time by itself when a connection that it used again turns out to be closed. For a
 * transaction that may have been applied before, that is not allowed (M5): bodies are given by a read function without
 * a way to seek, so that a body of which anything was sent cannot be sent again; the call then fails.
 */
#include "coordinator/etcd_http.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

enum { EVENTS = 16, ANSWER_MAX = 96 << 20 /* 64 MB of values in base64 */, NS_PER_MS = 1000000 };

struct fp_http {
    CURLM *multi;
    int epoll, timer;
    uint64_t curl_ns; /* libcurl wants to be called then; UINT64_MAX: never */
    char *ca_file, *cert_file, *key_file;
    bool failed; /* a descriptor could not be watched */
};

/* ---- libcurl's callbacks --------------------------------------------------------------------- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
    (void)easy;
    fp_http *http = arg;
    struct epoll_event event = {.data.fd = fd};
    if (what == CURL_POLL_REMOVE) {
        /* ENOENT: it was never added; anything else cannot be, for it is still open. */
        (void)epoll_ctl(http->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    if (what & CURL_POLL_IN)
        event.events |= EPOLLIN;
    if (what & CURL_POLL_OUT)
        event.events |= EPOLLOUT;
    if (epoll_ctl(http->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event))
        http->failed = true;
    curl_multi_assign(http->multi, fd, http);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    fp_http *http = arg;
    http->curl_ns = ms < 0 ? UINT64_MAX : fp_now_ns() + (uint64_t)ms * NS_PER_MS;
    return 0;
}

static size_t on_read(char *buffer, size_t size, size_t count, void *arg)
{
    fp_http_call *call = arg;
    size_t left = call->len - call->own.at, n = size * count < left ? size * count : left;
    if (n)
        memcpy(buffer, call->body + call->own.at, n);
    call->own.at += n;
    if (call->own.at == call->len)
        call->sent = true;
    return n;
}

static size_t on_write(char *data, size_t size, size_t count, void *arg)
{
    fp_http_call *call = arg;
    size_t len = size * count, needed = call->got + len + 1;
    if (needed > ANSWER_MAX) {
        call->too_big = true;
        return 0;
    }
    if (needed > call->room) {
        size_t room = call->room ? call->room : 1024;
        while (room < needed)
            room *= 2;
        char *larger = realloc(call->answer, room);
        if (!larger) {
            call->too_big = true;
            return 0;
        }
        call->answer = larger;
        call->room = room;
    }
    memcpy(call->answer + call->got, data, len);
    call->got += len;
    call->answer[call->got] = 0;
    call->news = true;
    return len;
}

/* ---- open and close -------------------------------------------------------------------------- */

static void init_curl(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

static int copy_path(const char *path, char **copy)
{
    if (!path)
        return 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return fp_error(FARPOOL_E_INVAL, "file '%.200s' for TLS cannot be read: %s", path,
                        strerror(errno));
    fclose(file);
    *copy = strdup(path);
    return *copy ? 0 : fp_error(FARPOOL_E_NOMEM, "no memory for '%.200s'", path);
}

static int open_descriptors(fp_http *http)
{
    http->epoll = epoll_create1(EPOLL_CLOEXEC);
    http->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = http->timer};
    if (http->epoll < 0 || http->timer < 0 ||
        epoll_ctl(http->epoll, EPOLL_CTL_ADD, http->timer, &event))
        return fp_error_sys("cannot make descriptors for HTTP");
    return 0;
}

int fp_http_open(const fp_http_options *options, fp_http **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    fp_http *http = calloc(1, sizeof *http);
    if (!http)
        return fp_error(FARPOOL_E_NOMEM, "no memory for HTTP");
    http->curl_ns = UINT64_MAX;
    http->epoll = http->timer = -1;
    int rc = copy_path(options->ca_file, &http->ca_file);
    if (!rc)
        rc = copy_path(options->cert_file, &http->cert_file);
    if (!rc)
        rc = copy_path(options->key_file, &http->key_file);
    if (!rc)
        rc = open_descriptors(http);
    if (!rc && !(http->multi = curl_multi_init()))
        rc = fp_error(FARPOOL_E_NOMEM, "no memory for HTTP");
    if (rc) {
        fp_http_close(http);
        return rc;
    }
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
    *out = http;
    return 0;
}

void fp_http_close(fp_http *http)
{
    if (http->multi)
        curl_multi_cleanup(http->multi);
    if (http->epoll >= 0)
        close(http->epoll);
    if (http->timer >= 0)
        close(http->timer);
    free(http->ca_file);
    free(http->cert_file);
    free(http->key_file);
    free(http);
}

int fp_http_fd(const fp_http *http) { return http->epoll; }

/* ---- calls ----------------------------------------------------------------------------------- */

static bool add_header(fp_http_call *call, const char *text)
{
    struct curl_slist *longer = curl_slist_append(call->own.headers, text);
    if (longer)
        call->own.headers = longer;
    return longer;
}

static bool add_headers(fp_http_call *call)
{
    char line[1100];
    /* hasleader: a member that has no leader says so at once. Expect: nobody is to wait for a "100 Continue". */
    bool fits = add_header(call, "Content-Type: application/json") &&
                add_header(call, "Grpc-Metadata-hasleader: true") && add_header(call, "Expect:");
    if (fits && call->token) {
        snprintf(line, sizeof line, "Authorization: %s", call->token);
        fits = add_header(call, line);
    }
    return fits;
}

/* These fail only for want of memory, or because libcurl lacks TLS: then the call will fail with its own words. */
static void set_options(const fp_http *http, fp_http_call *call)
{
    CURL *easy = call->own.easy;
    curl_easy_setopt(easy, CURLOPT_URL, call->url);
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->own.headers);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    /* A watch is silent for hours: what is on the way, and forgets the connection, is to be noticed. */
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, 5L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, 1L);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(easy, CURLOPT_READDATA, call);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->words);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)call->timeout_ms);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)call->connect_ms);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->len);
    if (!http->ca_file)
        return;
    curl_easy_setopt(easy, CURLOPT_CAINFO, http->ca_file);
    curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(easy, CURLOPT_SSLCERT, http->cert_file);
    curl_easy_setopt(easy, CURLOPT_SSLKEY, http->key_file);
}

int fp_http_start(fp_http *http, fp_http_call *call)
{
    call->own.http = http;
    call->own.easy = curl_easy_init();
    if (call->own.easy && add_headers(call)) {
        set_options(http, call);
        if (curl_multi_add_handle(http->multi, call->own.easy) == CURLM_OK)
            return 0;
    }
    if (call->own.easy)
        curl_easy_cleanup(call->own.easy);
    curl_slist_free_all(call->own.headers);
    call->own.easy = NULL;
    call->own.headers = NULL;
    return fp_error(FARPOOL_E_NOMEM, "no memory for a request to %.100s", call->url);
}

void fp_http_cancel(fp_http_call *call)
{
    if (call->own.easy) {
        curl_multi_remove_handle(call->own.http->multi, call->own.easy);
        curl_easy_cleanup(call->own.easy);
    }
    curl_slist_free_all(call->own.headers);
    free(call->answer);
    call->own.easy = NULL;
    call->own.headers = NULL;
    call->answer = NULL;
    call->got = call->room = 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void finish_calls(fp_http *http)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(http->multi, &left))) {
        char *call_of;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &call_of);
        fp_http_call *call = (fp_http_call *)(void *)call_of;
        call->result = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_RESPONSE_CODE, &call->status);
        if (call->result && !call->words[0])
            snprintf(call->words, sizeof call->words, "%s", curl_easy_strerror(call->result));
        call->done(call);
    }
}

int fp_http_arm(fp_http *http, uint64_t wake_ns)
{
    uint64_t next = http->curl_ns < wake_ns ? http->curl_ns : wake_ns;
    struct itimerspec at = fp_timer_at(next);
    return timerfd_settime(http->timer, TFD_TIMER_ABSTIME, &at, NULL)
               ? fp_error_sys("cannot set the timer for HTTP")
               : 0;
}

int fp_http_step(fp_http *http, int timeout_ms, uint64_t wake_ns)
{
    struct epoll_event events[EVENTS];
    int running, rc = fp_http_arm(http, wake_ns);
    if (rc)
        return rc;
    int n = epoll_wait(http->epoll, events, EVENTS, timeout_ms);
    if (n < 0 && errno != EINTR)
        return fp_error_sys("cannot wait for HTTP");
    for (int i = 0; i < n; i++) {
        int flags = 0;
        if (events[i].data.fd == http->timer)
            continue;
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            flags |= CURL_CSELECT_IN;
        if (events[i].events & EPOLLOUT)
            flags |= CURL_CSELECT_OUT;
        if (events[i].events & EPOLLERR)
            flags |= CURL_CSELECT_ERR;
        curl_multi_socket_action(http->multi, events[i].data.fd, flags, &running);
    }
    if (fp_now_ns() >= http->curl_ns) {
        http->curl_ns = UINT64_MAX;
        curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    if (http->failed)
        return fp_error(FARPOOL_E_SYS, "a connection's descriptor cannot be watched");
    finish_calls(http);
    return 0;
}
