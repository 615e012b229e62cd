/* SPDX-License-Identifier: Apache-2.0 */
/* Shows how a daemon answers over HTTP, and that requests which are damaged, endless, slow or too many cost nobody else
 * an answer. The server is stepped by a thread, as a daemon's loop would. */
#include "common/daemon/httpd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "tests/lib/promtext.h"
#include "tests/lib/testnode.h"

enum { SAMPLES = 5000 }; /* some 150 KB: more than a connection sends at once */

static fp_httpd *http;
static pthread_t thread;
static int stop_fd;
static _Atomic bool is_ready;
static _Atomic unsigned steps;

static void metrics(void *owner, fp_metrics *m)
{
    assert_ptr_equal(owner, &http);
    m->prefix = "test_";
    fp_metrics_begin(m, FP_METRIC_GAUGE, "many", "Many.");
    for (unsigned i = 0; i < SAMPLES; i++)
        fp_metrics_sample_of(m, "number", i, i);
}

static bool ready(void *owner, char *why, size_t size)
{
    assert_ptr_equal(owner, &http);
    if (!is_ready)
        snprintf(why, size, "three things are missing");
    return is_ready;
}

static const fp_httpd_ops ops = {.metrics = metrics, .ready = ready};

static void *serve(void *arg)
{
    (void)arg;
    struct pollfd fds[2] = {{.fd = fp_httpd_fd(http), .events = POLLIN},
                            {.fd = stop_fd, .events = POLLIN}};
    for (;;) {
        int n = poll(fds, 2, fp_httpd_timeout(http));
        if (n > 0 && fds[1].revents)
            return NULL;
        atomic_fetch_add(&steps, 1);
        fp_httpd_step(http, n > 0 && fds[0].revents);
    }
}

static int setup(void **state)
{
    (void)state;
    is_ready = true;
    stop_fd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(fp_httpd_open("127.0.0.1:0", &ops, &http, &http), 0);
    return pthread_create(&thread, NULL, serve, NULL);
}

static int teardown(void **state)
{
    (void)state;
    uint64_t one = 1;
    assert_int_equal(write(stop_fd, &one, sizeof one), sizeof one);
    pthread_join(thread, NULL);
    fp_httpd_close(http);
    close(stop_fd);
    return 0;
}

static void answers(const char *method, const char *path, unsigned status, const char *text)
{
    char begin[32];
    char *answer = http_request(fp_httpd_bound(http), method, path);
    snprintf(begin, sizeof begin, "HTTP/1.1 %u ", status);
    if (strncmp(answer, begin, strlen(begin)) != 0 || !strstr(answer, text))
        fail_msg("%s %s: %s", method, path, answer);
    free(answer);
}

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port =
                                 htons((uint16_t)atoi(strrchr(fp_httpd_bound(http), ':') + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && !connect(fd, (struct sockaddr *)&to, sizeof to));
    return fd;
}

static void put(int fd, const void *bytes, size_t len)
{
    ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
    assert_true(n == (ssize_t)len || errno == EPIPE || errno == ECONNRESET);
}

/* Until the other side has closed it. */
static void drain(int fd)
{
    char bytes[4096];
    while (recv(fd, bytes, sizeof bytes, 0) > 0)
        ;
    close(fd);
}

static void each_path_has_its_answer(void **state)
{
    (void)state;
    char *text = promtext_get(fp_httpd_bound(http));
    double value;
    assert_true(promtext_value(text, "test_many{number=\"4999\"}", &value) && value == 4999);
    free(text);
    answers("GET", "/livez", 200, "\r\n\r\nok\n");
    answers("GET", "/readyz", 200, "\r\n\r\nok\n");
    answers("GET", "/readyz?verbose", 200, "\r\n\r\nok\n");
    is_ready = false;
    answers("GET", "/readyz", 503, "\r\n\r\nthree things are missing\n");
    answers("GET", "/livez", 200, "\r\n\r\nok\n");
    answers("HEAD", "/metrics", 200, "Content-Length: ");
    answers("GET", "/", 404, "/metrics");
    answers("POST", "/none", 404, "/metrics");
    answers("GET", "/metrics/", 404, "/metrics");
    answers("GET", "//metrics", 404, "/metrics");
    answers("POST", "/metrics", 405, "Allow: GET, HEAD");
    answers("DELETE", "/livez", 405, "Allow: GET, HEAD");
    answers("get", "/livez", 405, "Allow: GET, HEAD");
}

static void bad_requests_cost_nobody_else(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\r\n\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /metrics\r\n\r\n",
        "GET /metrics HTTP/9.9\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "PUT /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nabc",
        "GET /%00%ff%2e%2e/metrics HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int fd = dial();
        put(fd, bad[i], strlen(bad[i]));
        shutdown(fd, SHUT_WR);
        drain(fd);
        answers("GET", "/livez", 200, "ok");
    }
    uint64_t random = test_seed((uint64_t)time(NULL));
    for (unsigned i = 0; i < 300; i++) {
        static const char end[] = "\r\n\r\n\r\n\r\n"; /* or it would be waited for */
        char bytes[256] = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        size_t len = test_random(&random) % sizeof bytes;
        for (size_t flips = test_random(&random) % 20; flips; flips--)
            bytes[test_random(&random) % sizeof bytes] = (char)test_random(&random);
        int fd = dial();
        put(fd, bytes, len);
        put(fd, end, sizeof end - 1);
        drain(fd);
    }
    answers("GET", "/livez", 200, "ok");
}

static void an_endless_request_is_cut_off(void **state)
{
    (void)state;
    static const char header[] = "X-More: 0123456789012345678901234567890123456789\r\n";
    static const char begin[] = "GET /metrics HTTP/1.1\r\nHost: a\r\n";
    int fd = dial();
    put(fd, begin, sizeof begin - 1);
    unsigned sent = 0;
    while (send(fd, header, sizeof header - 1, MSG_NOSIGNAL) > 0)
        assert_true(++sent < 1000000);
    close(fd);
    answers("GET", "/livez", 200, "ok");
}

/* Some who connect and say nothing, or half of something, or take no answer, from the same address: others, there as
 * everywhere, are answered when these have been cut off. */
static void the_slow_are_cut_off(void **state)
{
    (void)state;
    int fds[3 * FP_HTTPD_PER_HOST_MAX];
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    unsigned count = sizeof fds / sizeof *fds;
    for (unsigned i = 0; i < count; i++) {
        fds[i] = dial();
        if (i % 3)
            put(fds[i], request, i % 3 == 1 ? 20 : sizeof request - 1);
    }
    unsigned before = steps;
    for (unsigned i = 0; i < count; i += 3)
        drain(fds[i]);                  /* returns because the server has closed it */
    assert_true(steps - before < 1000); /* it has slept meanwhile */
    answers("GET", "/livez", 200, "ok");
    for (unsigned i = 0; i < count; i++)
        if (i % 3)
            close(fds[i]);
}

static void bad_addresses_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "localhost", ":80", "a:b", "a:65536", "tcp://a:1", "a:"};
    fp_httpd *none;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(fp_httpd_check_address(bad[i]), FARPOOL_E_INVAL);
        assert_non_null(strstr(farpool_errmsg(), "HOST:PORT"));
    }
    assert_int_equal(fp_httpd_check_address("[::1]:80"), 0);
    assert_int_equal(fp_httpd_open(fp_httpd_bound(http), &ops, &http, &none), FARPOOL_E_SYS);
    assert_non_null(strstr(farpool_errmsg(), fp_httpd_bound(http)));
    assert_int_equal(fp_httpd_open("no.such.host.invalid:0", &ops, &http, &none), FARPOOL_E_NODE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_path_has_its_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_requests_cost_nobody_else, setup, teardown),
        cmocka_unit_test_setup_teardown(an_endless_request_is_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(the_slow_are_cut_off, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_addresses_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
