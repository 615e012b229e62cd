/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that the metastore loses nothing and does nothing twice on an etcd whose leader is killed, whose members hang,
 * whose history is compacted under a watch and whose quota is full; and that it takes passwords and TLS. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "tests/lib/etcd.h"
#include "tests/lib/meta.h"

enum { CLIENTS = 4, COUNTERS = 2, ADDS_MAX = META_LOG_MAX, PROGRESS = 25, PROGRESS_MS = 40000 };

/* ---- clients that count ---------------------------------------------------------------------- */

typedef struct add {
    char tag[24];
    enum { NOT_DONE, DONE, IN_DOUBT } outcome;
} add;

typedef struct client {
    unsigned number, adds;
    fp_meta *meta;
    fp_meta_req req;
    fp_meta_op op;
    fp_meta_compare compare;
    char key[16], value[40];
    unsigned add; /* which of ours it is */
    bool stopped;
} client;

static add adds[ADDS_MAX];
static unsigned add_count, acknowledged, in_doubt;
static bool stopping;
static meta_log seen;

static void read_counter(client *c);

static void written(fp_meta_req *req)
{
    client *c = req->user;
    if (!req->status && req->succeeded) {
        adds[c->add].outcome = DONE;
        acknowledged++;
    } else if (req->status == FARPOOL_E_UNKNOWN) {
        adds[c->add].outcome = IN_DOUBT;
        in_doubt++;
    } else if (req->status && req->status != FARPOOL_E_NODE && req->status != FARPOOL_E_TIMEOUT) {
        fprintf(stderr, "%s\n", farpool_errmsg());
        REQUIRE(!"an error that nothing explains");
    }
    read_counter(c);
}

static void was_read(fp_meta_req *req)
{
    client *c = req->user;
    if (req->status) {
        REQUIRE(req->status == FARPOOL_E_NODE || req->status == FARPOOL_E_TIMEOUT);
        read_counter(c);
        return;
    }
    uint64_t revision = req->kvs[0].revision;
    long long now = revision ? strtoll(req->kvs[0].value, NULL, 10) : 0;
    free(req->kvs);
    REQUIRE(add_count < ADDS_MAX);
    c->add = add_count++;
    snprintf(adds[c->add].tag, sizeof adds[c->add].tag, "%u.%u", c->number, ++c->adds);
    adds[c->add].outcome = NOT_DONE;
    snprintf(c->value, sizeof c->value, "%lld %s", now + 1, adds[c->add].tag);
    c->compare = (fp_meta_compare){.kind = revision ? FP_META_REVISION_IS : FP_META_ABSENT,
                                   .key = c->key,
                                   .revision = revision};
    c->op = (fp_meta_op){
        .kind = FP_META_PUT, .key = c->key, .value = c->value, .len = strlen(c->value)};
    c->req = (fp_meta_req){.kind = FP_META_TXN,
                           .compares = &c->compare,
                           .compare_count = 1,
                           .ops = &c->op,
                           .op_count = 1,
                           .done = written,
                           .user = c};
    fp_meta_submit(c->meta, &c->req);
}

static void read_counter(client *c)
{
    if (stopping) {
        c->stopped = true;
        return;
    }
    snprintf(c->key, sizeof c->key, "count/%u", (c->number + c->adds) % COUNTERS);
    c->op = (fp_meta_op){.kind = FP_META_GET, .key = c->key};
    c->req = (fp_meta_req){
        .kind = FP_META_TXN, .ops = &c->op, .op_count = 1, .done = was_read, .user = c};
    fp_meta_submit(c->meta, &c->req);
}

static void poll_all(client *clients, fp_meta *watcher)
{
    for (unsigned i = 0; i < CLIENTS; i++)
        REQUIRE(fp_meta_poll(clients[i].meta, 2) >= 0);
    REQUIRE(fp_meta_poll(watcher, 1) >= 0);
}

/* Until so many more additions are acknowledged. */
static void make_progress(client *clients, fp_meta *watcher, const char *while_what)
{
    uint64_t begin = fp_now_ns();
    unsigned wanted = acknowledged + PROGRESS, before = in_doubt;
    while (acknowledged < wanted) {
        REQUIRE(fp_now_ns() - begin < PROGRESS_MS * UINT64_C(1000000));
        poll_all(clients, watcher);
    }
    print_message("%s: %d more after %llu ms, %u in doubt\n", while_what, PROGRESS,
                  (unsigned long long)(fp_now_ns() - begin) / 1000000, in_doubt - before);
}

/* Each change that the watch has seen raises its counter by one; what was acknowledged is there once, what is in doubt
 * once at most, and nothing else. */
static void check_counts(void)
{
    long long counts[COUNTERS] = {0};
    unsigned done = 0, doubtful = 0;
    uint64_t revision = 0;
    for (unsigned i = 0; i < seen.count; i++) {
        char tag[24];
        long long count;
        unsigned which = (unsigned)atoi(seen.changes[i].key + strlen("count/")), k = 0;
        REQUIRE(sscanf(seen.changes[i].value, "%lld %23s", &count, tag) == 2);
        assert_int_equal(count, ++counts[which]);
        assert_true(seen.changes[i].revision > revision);
        revision = seen.changes[i].revision;
        while (k < add_count && strcmp(adds[k].tag, tag) != 0)
            k++;
        assert_true(k < add_count);
        assert_int_not_equal(adds[k].outcome, NOT_DONE);
        done += adds[k].outcome == DONE;
        doubtful += adds[k].outcome == IN_DOUBT;
        strcpy(adds[k].tag, "seen");
    }
    assert_int_equal(done, acknowledged);
    print_message("%u acknowledged; of %u in doubt %u were applied\n", done, in_doubt, doubtful);
}

static const fp_meta_options hasty = {
    .timeout_ms = 3000, .attempt_timeout_ms = 700, .watch_timeout_ms = 1500};
static const fp_meta_options patient = {.timeout_ms = 20000, .watch_timeout_ms = 1500};

static fp_meta *open_store(const test_etcd *etcd, const char *prefix,
                           const fp_meta_options *options)
{
    fp_meta *meta;
    test_must(fp_meta_open(test_etcd_uri(etcd, prefix), options, &meta), "fp_meta_open");
    return meta;
}

/* The first request waits until etcd is there. */
static uint64_t await(fp_meta *meta)
{
    fp_meta_req req = {.kind = FP_META_RANGE, .key = "", .timeout_ms = 30000};
    test_must(meta_do(meta, &req), "etcd does not answer");
    free(req.kvs);
    return req.revision;
}

static void counts_survive_everything(void **state)
{
    (void)state;
    test_etcd etcd = {.count = 3};
    client clients[CLIENTS] = {0};
    test_etcd_start(&etcd);
    fp_meta *watcher = open_store(&etcd, "/farpool", &hasty);
    meta_log_start(watcher, &seen, "count/", await(watcher) + 1);
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i].number = i;
        clients[i].meta = open_store(&etcd, "/farpool", &hasty);
        read_counter(&clients[i]);
    }
    make_progress(clients, watcher, "all well");
    unsigned leader = test_etcd_leader(&etcd);
    test_etcd_kill(&etcd, leader, SIGKILL);
    make_progress(clients, watcher, "leader killed");
    test_etcd_start_member(&etcd, leader);
    make_progress(clients, watcher, "and started again");
    leader = test_etcd_leader(&etcd);
    test_etcd_kill(&etcd, leader, SIGSTOP);
    make_progress(clients, watcher, "leader hangs");
    test_etcd_kill(&etcd, leader, SIGCONT);
    make_progress(clients, watcher, "and goes on");
    for (unsigned i = 0; i < 3; i++) { /* among them the one that the watch comes from */
        test_etcd_kill(&etcd, i, SIGSTOP);
        make_progress(clients, watcher, "a member hangs");
        test_etcd_kill(&etcd, i, SIGCONT);
    }
    stopping = true;
    for (unsigned i = 0; i < CLIENTS; i++)
        while (!clients[i].stopped)
            poll_all(clients, watcher);
    /* What is in doubt may still come, so the watch is read until a change after all of them. */
    uint64_t end = fp_now_ns() + 30 * UINT64_C(1000000000);
    unsigned before;
    do {
        before = seen.count;
        meta_wait_ms(watcher, 2000);
        assert_true(fp_now_ns() < end && !seen.ended);
    } while (seen.count != before || seen.count < acknowledged);
    check_counts();
    for (unsigned i = 0; i < CLIENTS; i++)
        fp_meta_close(clients[i].meta);
    fp_meta_watch_stop(&seen.watch);
    fp_meta_close(watcher);
    test_etcd_stop(&etcd);
}

/* ---- no quorum ------------------------------------------------------------------------------- */

static void without_quorum_errors_are_told_apart(void **state)
{
    (void)state;
    test_etcd etcd = {.count = 3};
    test_etcd_start(&etcd);
    fp_meta *meta = open_store(&etcd, "", &hasty);
    await(meta);
    const fp_meta_op put = {.kind = FP_META_PUT, .key = "k", .value = "v", .len = 1};
    fp_meta_req write = {.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    fp_meta_req read = {.kind = FP_META_RANGE, .key = ""};
    test_etcd_kill(&etcd, 1, SIGKILL);
    test_etcd_kill(&etcd, 2, SIGKILL);
    uint64_t begin = fp_now_ns();
    int rc = meta_do(meta, &write); /* the member may have taken it, or known already */
    assert_true(rc == FARPOOL_E_UNKNOWN || rc == FARPOOL_E_NODE);
    rc = meta_do(meta, &read);
    assert_true(rc == FARPOOL_E_TIMEOUT || rc == FARPOOL_E_NODE);
    assert_true(fp_now_ns() - begin < UINT64_C(60000000000)); /* M6 */
    /* By now it knows that it has no leader: proved not to be applied. */
    assert_int_equal(meta_do(meta, &write), FARPOOL_E_NODE);
    assert_non_null(strstr(farpool_errmsg(), "transaction"));
    test_etcd_kill(&etcd, 0, SIGKILL);
    assert_int_equal(meta_do(meta, &write), FARPOOL_E_NODE);
    for (unsigned i = 0; i < 3; i++)
        test_etcd_start_member(&etcd, i);
    await(meta);
    write.timeout_ms = 20000;
    assert_int_equal(meta_do(meta, &write), 0);
    fp_meta_close(meta);
    test_etcd_stop(&etcd);
}

/* ---- history and quota ----------------------------------------------------------------------- */

static void history_compacted_under_a_watch(void **state)
{
    (void)state;
    test_etcd etcd = {.count = 1};
    test_etcd_start(&etcd);
    fp_meta *watcher = open_store(&etcd, "", &patient), *meta = open_store(&etcd, "", &patient);
    await(meta);
    meta_log_start(watcher, &seen, "h/", meta_put(meta, "h/1", "1"));
    meta_wait(watcher, &seen.count, 1);
    /* While nobody reads the watch, its connection breaks and its history goes. */
    test_etcd_kill(&etcd, 0, SIGKILL);
    test_etcd_start_member(&etcd, 0);
    await(meta);
    meta_put(meta, "h/1", "2");
    uint64_t last = meta_put(meta, "h/1", "3");
    assert_int_equal(meta_compact(meta, last), 0);
    meta_wait(watcher, &seen.ended, 1);
    assert_int_equal(seen.watch.status, FARPOOL_E_COMPACTED);
    assert_int_equal(seen.watch.compacted, last);
    assert_int_equal(seen.count, 1);
    /* List again, and watch from there. */
    assert_string_equal(meta_get(watcher, "h/1", NULL), "3");
    meta_log_start(watcher, &seen, "h/", meta_revision(watcher) + 1);
    meta_put(meta, "h/1", "4");
    meta_wait(watcher, &seen.count, 1);
    assert_string_equal(seen.changes[0].value, "4");
    fp_meta_watch_stop(&seen.watch);
    fp_meta_close(meta);
    fp_meta_close(watcher);
    test_etcd_stop(&etcd);
}

static void a_full_quota_is_told(void **state)
{
    (void)state;
    enum { BYTES = 60000 };
    test_etcd etcd = {.count = 1, .quota_bytes = "500000"};
    test_etcd_start(&etcd);
    fp_meta *meta = open_store(&etcd, "", &patient);
    char *big = calloc(1, BYTES);
    const fp_meta_op put = {.kind = FP_META_PUT, .key = "q", .value = big, .len = BYTES};
    const fp_meta_op delete = {.kind = FP_META_DELETE, .key = "q"};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    await(meta);
    int rc = 0;
    for (int i = 0; i < 40 && !rc; i++)
        rc = meta_do(meta, &req);
    assert_int_equal(rc, FARPOOL_E_NOSPACE);
    assert_int_equal(meta_do(meta, &req), FARPOOL_E_NOSPACE);
    char *advice = strdup(req.own.message);
    assert_non_null(strstr(advice, "defrag"));
    assert_non_null(strstr(advice, "disarm"));
    uint64_t revision = meta_revision(meta); /* it can be read */
    req = (fp_meta_req){.kind = FP_META_TXN, .ops = &delete, .op_count = 1};
    assert_int_equal(meta_do(meta, &req), 0); /* and deleted from */
    assert_int_equal(meta_compact(meta, revision + 1), 0);
    assert_int_equal(test_etcd_ctl(&etcd, "defrag"), 0);
    assert_int_equal(test_etcd_ctl(&etcd, "alarm disarm"), 0);
    req = (fp_meta_req){.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    assert_int_equal(meta_do(meta, &req), 0);
    free(advice);
    free(big);
    fp_meta_close(meta);
    test_etcd_stop(&etcd);
}

/* ---- who may --------------------------------------------------------------------------------- */

static int put_one(fp_meta *meta, const char *key)
{
    const fp_meta_op put = {.kind = FP_META_PUT, .key = key, .value = "v", .len = 1};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &put, .op_count = 1};
    return meta_do(meta, &req);
}

static int put_as(const test_etcd *etcd, const char *prefix, const char *user, const char *password)
{
    fp_meta *meta = open_store(
        etcd, prefix, &(fp_meta_options){.user = user, .password = password, .timeout_ms = 10000});
    int rc = put_one(meta, "k");
    fp_meta_close(meta);
    return rc;
}

static void users_have_passwords(void **state)
{
    (void)state;
    static const char *const set_up[] = {
        "user add root:toor",  "user grant-role root root",
        "role add app",        "role grant-permission app readwrite --prefix=true app/",
        "user add app:secret", "user grant-role app app",
        "auth enable"};
    test_etcd etcd = {.count = 1};
    test_etcd_start(&etcd);
    fp_meta *meta = open_store(&etcd, "/app", &hasty);
    await(meta);
    fp_meta_close(meta);
    assert_int_equal(put_as(&etcd, "/app", "app", "secret"), FARPOOL_E_REFUSED); /* not on yet */
    for (size_t i = 0; i < sizeof set_up / sizeof set_up[0]; i++)
        assert_int_equal(test_etcd_ctl(&etcd, set_up[i]), 0);
    assert_int_equal(put_as(&etcd, "/app", "app", "secret"), 0);
    assert_int_equal(put_as(&etcd, "/app", "app", "wrong"), FARPOOL_E_REFUSED);
    assert_int_equal(put_as(&etcd, "/app", NULL, NULL), FARPOOL_E_REFUSED);
    assert_int_equal(put_as(&etcd, "/other", "app", "secret"), FARPOOL_E_REFUSED);

    /* Tokens are lost when the member starts again: a new one is got, and the watch goes on. */
    meta = open_store(&etcd, "/app",
                      &(fp_meta_options){.user = "app", .password = "secret", .timeout_ms = 20000});
    meta_log_start(meta, &seen, "w", 1);
    assert_int_equal(put_one(meta, "w1"), 0);
    meta_wait(meta, &seen.count, 1);
    test_etcd_kill(&etcd, 0, SIGKILL);
    test_etcd_start_member(&etcd, 0);
    assert_string_equal(meta_get(meta, "w1", NULL), "v");
    assert_int_equal(put_one(meta, "w2"), 0);
    meta_wait(meta, &seen.count, 2);
    assert_int_equal(seen.ended, 0);
    fp_meta_watch_stop(&seen.watch);
    fp_meta_close(meta);
    /* A watch that is not permitted ends. */
    meta = open_store(&etcd, "/other", &(fp_meta_options){.user = "app", .password = "secret"});
    meta_log_start(meta, &seen, "w", 1);
    meta_wait(meta, &seen.ended, 1);
    assert_int_equal(seen.watch.status, FARPOOL_E_REFUSED);
    fp_meta_close(meta);
    test_etcd_stop(&etcd);
}

static void tls_is_checked_both_ways(void **state)
{
    (void)state;
    test_etcd etcd = {.count = 1, .tls = true};
    test_etcd_start(&etcd);
    fp_meta_options options = {
        .ca_file = etcd.ca, .cert_file = etcd.cert, .key_file = etcd.key, .timeout_ms = 20000};
    fp_meta *meta = open_store(&etcd, "/tls", &options);
    meta_log_start(meta, &seen, "", await(meta) + 1);
    assert_int_equal(put_one(meta, "k"), 0);
    meta_wait(meta, &seen.count, 1);
    fp_meta_watch_stop(&seen.watch);
    fp_meta_close(meta);
    options.timeout_ms = 10000;
    options.ca_file = etcd.other_ca; /* has not signed the members' */
    meta = open_store(&etcd, "/tls", &options);
    assert_int_equal(put_one(meta, "k"), FARPOOL_E_NODE);
    assert_non_null(strstr(farpool_errmsg(), "certificate"));
    fp_meta_close(meta);
    options.ca_file = etcd.ca;
    options.cert_file = options.key_file = NULL; /* they want one of us */
    meta = open_store(&etcd, "/tls", &options);
    assert_true(put_one(meta, "k") < 0);
    fp_meta_close(meta);
    test_etcd_stop(&etcd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_survive_everything),
        cmocka_unit_test(without_quorum_errors_are_told_apart),
        cmocka_unit_test(history_compacted_under_a_watch),
        cmocka_unit_test(a_full_quota_is_told),
        cmocka_unit_test(users_have_passwords),
        cmocka_unit_test(tls_is_checked_both_ways),
    };
    if (!test_etcd_there())
        return 77;
    return cmocka_run_group_tests_name("etcd", tests, NULL, NULL);
}
