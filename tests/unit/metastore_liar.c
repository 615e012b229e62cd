/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what the etcd backend makes of a server that is not etcd, lies, breaks off or says nothing: no transaction is
 * sent twice unless it is proved not to have been applied, no answer is believed that cannot be, and time is kept. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "tests/lib/meta.h"

enum { BODY_MAX = 4096, SCRIPT_MAX = 8 };

/* What the server does with one request after the other; the last one before NULL goes on. */
typedef struct script {
    const char *answers
        [SCRIPT_MAX]; /* a status and a body: "200 {...}"; "!": it closes; "": it says nothing;
                                        "~...": so much of an answer, then it closes */
} script;

typedef struct liar {
    int fd;
    unsigned port;
    pthread_t thread;
    const script *script;
    _Atomic unsigned bodies; /* whole requests; atomic: read by the test, relaxed: only counted */
    _Atomic bool stop;       /* relaxed: the connect that follows it wakes the server */
} liar;

#define HEADER "\"header\":{\"cluster_id\":\"7\",\"revision\":\"5\"}"
#define TXN_OK "200 {" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}"

/* A request's body is read whole; false: the connection is over. */
static bool read_request(int fd)
{
    char text[BODY_MAX + 1];
    size_t got = 0;
    for (;;) {
        ssize_t n = recv(fd, text + got, BODY_MAX - got, 0);
        if (n <= 0)
            return false;
        got += (size_t)n;
        text[got] = 0;
        const char *end = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
        if (end && length && got >= (size_t)(end + 4 - text) + strtoul(length + 16, NULL, 10))
            return true;
    }
}

static bool answer(int fd, const char *what)
{
    char text[2 * BODY_MAX];
    bool half = *what == '~';
    what += half;
    int n = snprintf(
        text, sizeof text,
        "HTTP/1.1 %.3s X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", what,
        strlen(what + 4) + (half ? 100 : 0), what + 4);
    return send(fd, text, (size_t)n, MSG_NOSIGNAL) == n && !half;
}

static void *serve(void *arg)
{
    liar *l = arg;
    unsigned at = 0;
    while (!atomic_load_explicit(&l->stop, memory_order_relaxed)) {
        int fd = accept(l->fd, NULL, NULL);
        while (fd >= 0 && read_request(fd)) {
            atomic_fetch_add_explicit(&l->bodies, 1, memory_order_relaxed);
            const char *what = l->script->answers[at];
            if (at + 1 < SCRIPT_MAX && l->script->answers[at + 1])
                at++;
            if (!*what)
                continue; /* until the other end has had enough */
            if (*what == '!' || !answer(fd, what))
                break;
        }
        if (fd >= 0)
            close(fd);
    }
    return NULL;
}

static fp_meta *begin(liar *l, const script *what, unsigned timeout_ms)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    char uri[64];
    fp_meta *meta;
    *l = (liar){.script = what, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    REQUIRE(l->fd >= 0 && !bind(l->fd, (struct sockaddr *)&address, len) && !listen(l->fd, 8) &&
            !getsockname(l->fd, (struct sockaddr *)&address, &len));
    l->port = ntohs(address.sin_port);
    REQUIRE(!pthread_create(&l->thread, NULL, serve, l));
    snprintf(uri, sizeof uri, "etcd://127.0.0.1:%u/p", l->port);
    const fp_meta_options options = {
        .timeout_ms = timeout_ms, .attempt_timeout_ms = 300, .watch_timeout_ms = 600};
    test_must(fp_meta_open(uri, &options, &meta), "open");
    return meta;
}

static unsigned end(liar *l, fp_meta *meta)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)l->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fp_meta_close(meta);
    atomic_store_explicit(&l->stop, true, memory_order_relaxed);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof address));
    close(fd);
    REQUIRE(!pthread_join(l->thread, NULL));
    close(l->fd);
    return atomic_load_explicit(&l->bodies, memory_order_relaxed);
}

static int put_one(fp_meta *meta)
{
    const fp_meta_op put = {.kind = FP_META_PUT, .key = "k", .value = "v", .len = 1};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    int rc = meta_do(meta, &req);
    free(req.kvs);
    return rc;
}

static int list(fp_meta *meta)
{
    fp_meta_req req = {.kind = FP_META_RANGE, .key = ""};
    int rc = meta_do(meta, &req);
    free(req.kvs);
    return rc;
}

/* ---- transactions ---------------------------------------------------------------------------- */

/* The second comes on a connection that was used before: libcurl would send it again by itself. */
static void nothing_is_sent_twice(void **state)
{
    (void)state;
    static const script closes = {{TXN_OK, "!", TXN_OK}};
    liar l;
    fp_meta *meta = begin(&l, &closes, 2000);
    assert_int_equal(put_one(meta), 0);
    assert_int_equal(put_one(meta), FARPOOL_E_UNKNOWN);
    assert_int_equal(put_one(meta), 0);
    assert_int_equal(end(&l, meta), 3);
}

static void what_cannot_be_an_answer_leaves_doubt(void **state)
{
    (void)state;
    static const script lies[] = {
        {{"!"}},
        {{"~" TXN_OK}},
        {{"200 not JSON"}},
        {{"200 [1,2]"}},
        {{"200 {}"}},
        {{"200 {" HEADER ",\"succeeded\":true}"}}, /* lacks the operation's answer */
        {{"502 <html>Bad Gateway</html>"}},
        {{"503 {\"message\":\"etcdserver: request timed out\",\"code\":14}"}},
        {{"500 {\"message\":\"something new\",\"code\":13}"}},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        liar l;
        fp_meta *meta = begin(&l, &lies[i], 1000);
        assert_int_equal(put_one(meta), FARPOOL_E_UNKNOWN);
        assert_int_equal(end(&l, meta), 1);
    }
}

static void what_is_proved_is_repeated(void **state)
{
    (void)state;
    static const script no_leader = {
        {"503 {\"message\":\"etcdserver: no leader\",\"code\":14}", TXN_OK}};
    static const script busy = {
        {"429 {\"message\":\"etcdserver: too many requests\",\"code\":8}", TXN_OK}};
    static const script stays = {{"503 {\"message\":\"etcdserver: no leader\",\"code\":14}"}};
    liar l;
    fp_meta *meta = begin(&l, &no_leader, 2000);
    assert_int_equal(put_one(meta), 0);
    assert_int_equal(end(&l, meta), 2);
    meta = begin(&l, &busy, 2000);
    assert_int_equal(put_one(meta), 0);
    assert_int_equal(end(&l, meta), 2);
    meta = begin(&l, &stays, 3000);
    assert_int_equal(put_one(meta), FARPOOL_E_NODE);
    assert_true(end(&l, meta) > 3);
}

static void silence_has_an_end(void **state)
{
    (void)state;
    static const script silent = {{""}};
    liar l;
    fp_meta *meta = begin(&l, &silent, 3000);
    uint64_t start = fp_now_ns();
    assert_int_equal(put_one(meta), FARPOOL_E_UNKNOWN);
    assert_true(fp_now_ns() - start < UINT64_C(30000000000)); /* M6 */
    assert_int_equal(atomic_load_explicit(&l.bodies, memory_order_relaxed), 1);
    start = fp_now_ns();
    assert_int_equal(list(meta), FARPOOL_E_TIMEOUT);
    assert_true(fp_now_ns() - start < UINT64_C(30000000000));
    assert_true(end(&l, meta) >= 3); /* asked again, for that does no harm */
}

/* ---- reading --------------------------------------------------------------------------------- */

static void ranges_that_cannot_be(void **state)
{
    (void)state;
    static const script lies[] = {
        {{"200 {}"}},
        {{"200 nothing"}},
        {{"404 Not Found"}},
        /* base64 that is none; no revision; a key outside of our prefix; an empty one */
        {{"200 {" HEADER ",\"kvs\":[{\"key\":\"***=\",\"mod_revision\":\"3\"}]}"}},
        {{"200 {" HEADER ",\"kvs\":[{\"key\":\"cC9r\"}]}"}},
        {{"200 {" HEADER ",\"kvs\":[{\"key\":\"eHh4\",\"mod_revision\":\"3\"}]}"}},
        {{"200 {" HEADER ",\"kvs\":[{\"key\":\"cC8=\",\"mod_revision\":\"3\"}]}"}},
        {{"200 {" HEADER ",\"kvs\":[17]}"}},
    };
    static const script other = {{"200 {" HEADER "}", "200 {\"header\":{\"cluster_id\":\"8\"}}"}};
    liar l;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        fp_meta *meta = begin(&l, &lies[i], 1000);
        assert_int_equal(list(meta), FARPOOL_E_PROTO);
        (void)end(&l, meta);
    }
    fp_meta *meta = begin(&l, &other, 1000);
    assert_int_equal(list(meta), 0);
    assert_int_equal(list(meta), FARPOOL_E_PROTO); /* members of two clusters */
    (void)end(&l, meta);
}

#define EVENT(n)                                                                                   \
    "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"cC9r\",\"mod_revision\":\"" #n         \
    "\",\"value\":\"eA==\"}}]}}\n"

static void watches_that_break_go_on(void **state)
{
    (void)state;
    /* Ends; breaks off within a line; says the same again; is no JSON; then has what was missing. */
    static const script breaks = {{"200 " EVENT(4) EVENT(5), "~200 " EVENT(6) "{\"result\":{\"hea",
                                   "200 " EVENT(5) EVENT(6), "200 what?\n",
                                   "200 " EVENT(6) EVENT(7)}};
    static const script gone = {
        {"200 {\"result\":{" HEADER ",\"canceled\":true,\"compact_revision\":\"9\"}}\n"}};
    static meta_log log;
    liar l;
    fp_meta *meta = begin(&l, &breaks, 1000);
    meta_log_start(meta, &log, "k", 4);
    meta_wait(meta, &log.count, 4);
    meta_wait_ms(meta, 300);
    assert_int_equal(log.count, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(log.changes[i].revision, 4 + i);
    assert_int_equal(log.ended, 0);
    fp_meta_watch_stop(&log.watch);
    (void)end(&l, meta);
    meta = begin(&l, &gone, 1000);
    meta_log_start(meta, &log, "k", 4);
    meta_wait(meta, &log.ended, 1);
    assert_int_equal(log.watch.status, FARPOOL_E_COMPACTED);
    assert_int_equal(log.watch.compacted, 9);
    (void)end(&l, meta);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_sent_twice),
        cmocka_unit_test(what_cannot_be_an_answer_leaves_doubt),
        cmocka_unit_test(what_is_proved_is_repeated),
        cmocka_unit_test(silence_has_an_end),
        cmocka_unit_test(ranges_that_cannot_be),
        cmocka_unit_test(watches_that_break_go_on),
    };
    return cmocka_run_group_tests_name("liar", tests, NULL, NULL);
}
