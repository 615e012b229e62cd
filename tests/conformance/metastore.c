/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that every metastore keeps the contract: transactions, ranges, sizes, completions (M1 to M7, M10 to M12).
 * Leases and watches are in metastore_watch.c. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/meta.h"

enum { MANY = 60 };

static fp_meta_op put(const char *key, const char *value)
{
    return (fp_meta_op){.kind = FP_META_PUT, .key = key, .value = value, .len = strlen(value)};
}

static fp_meta_op get(const char *key) { return (fp_meta_op){.kind = FP_META_GET, .key = key}; }

static int transact(fp_meta *meta, const fp_meta_op *ops, size_t count, fp_meta_req *req)
{
    *req = (fp_meta_req){.kind = FP_META_TXN, .ops = ops, .op_count = count};
    return meta_do(meta, req);
}

/* M3, M4 */
static void what_is_put_is_found(void **state)
{
    (void)state;
    static const char bytes[] = "a\0b\xff\x80 \"\\\n";
    fp_meta *meta = meta_begin(NULL), *other = meta_another();
    uint64_t first = meta_put(meta, "k/one", "1"), revision, second = meta_put(meta, "k/two", "");
    assert_int_equal(second, first + 1);
    assert_string_equal(meta_get(other, "k/one", &revision), "1");
    assert_int_equal(revision, first);
    assert_string_equal(meta_get(other, "k/two", &revision), "");
    assert_int_equal(revision, second);
    meta_get(meta, "k", &revision);
    assert_int_equal(revision, 0);
    fp_meta_req req;
    const fp_meta_op binary = {
        .kind = FP_META_PUT, .key = "b\xc3\xa4 \xff", .value = bytes, .len = sizeof bytes};
    assert_int_equal(transact(meta, &binary, 1, &req), 0);
    const fp_meta_op asks[] = {get("b\xc3\xa4 \xff"), get("nobody"), get("k/two")};
    assert_int_equal(transact(other, asks, 3, &req), 0);
    assert_true(req.succeeded);
    assert_int_equal(req.kv_count, 3);
    assert_string_equal(req.kvs[0].key, "b\xc3\xa4 \xff");
    assert_int_equal(req.kvs[0].len, sizeof bytes);
    assert_memory_equal(req.kvs[0].value, bytes, sizeof bytes);
    assert_null(req.kvs[1].value);
    assert_string_equal(req.kvs[1].key, "nobody");
    assert_non_null(req.kvs[2].value);
    assert_int_equal(req.kvs[2].len, 0);
    free(req.kvs);
    assert_int_equal(meta_delete(meta, "k/one"), second + 2);
    assert_int_equal(meta_delete(meta, "k/one"), second + 2); /* nothing has changed */
    meta_get(other, "k/one", &revision);
    assert_int_equal(revision, 0);
    meta_end(other);
    meta_end(meta);
}

static bool holds(fp_meta *meta, const fp_meta_compare *compares, size_t count)
{
    const fp_meta_op yes = get("x"), no[] = {get("x"), get("y")};
    fp_meta_req req = {.kind = FP_META_TXN,
                       .compares = compares,
                       .compare_count = count,
                       .ops = &yes,
                       .op_count = 1,
                       .other_ops = no,
                       .other_count = 2};
    assert_int_equal(meta_do(meta, &req), 0);
    assert_int_equal(req.kv_count, req.succeeded ? 1 : 2);
    free(req.kvs);
    return req.succeeded;
}

static void compares_are_exact(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    uint64_t r = meta_put(meta, "x", "abc");
    const fp_meta_compare yes[] = {
        {.kind = FP_META_REVISION_IS, .key = "x", .revision = r},
        {.kind = FP_META_VALUE_IS, .key = "x", .value = "abc", .len = 3},
        {.kind = FP_META_ABSENT, .key = "y"},
    };
    const fp_meta_compare no[] = {
        {.kind = FP_META_REVISION_IS, .key = "x", .revision = r - 1},
        {.kind = FP_META_REVISION_IS, .key = "x", .revision = r + 1},
        {.kind = FP_META_REVISION_IS, .key = "y", .revision = 0},
        {.kind = FP_META_REVISION_IS, .key = "x", .revision = UINT64_MAX},
        {.kind = FP_META_VALUE_IS, .key = "x", .value = "abcd", .len = 4},
        {.kind = FP_META_VALUE_IS, .key = "x", .value = "ab", .len = 2},
        {.kind = FP_META_VALUE_IS, .key = "y", .value = "", .len = 0},
        {.kind = FP_META_ABSENT, .key = "x"},
    };
    assert_true(holds(meta, NULL, 0));
    assert_true(holds(meta, yes, 3));
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++) {
        assert_false(holds(meta, &no[i], 1));
        const fp_meta_compare both[] = {yes[0], no[i]};
        assert_false(holds(meta, both, 2));
    }
    meta_delete(meta, "x");
    const fp_meta_compare gone = {.kind = FP_META_ABSENT, .key = "x"};
    assert_true(holds(meta, &gone, 1));
    assert_false(holds(meta, &yes[0], 1));
    meta_end(meta);
}

/* M4 */
static void operations_are_in_order_and_one(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    fp_meta_req req;
    meta_put(meta, "d/1", "x");
    meta_put(meta, "d/2", "x");
    uint64_t before = meta_put(meta, "e", "x");
    const fp_meta_op ops[] = {get("a"),     put("a", "1"),
                              get("a"),     {.kind = FP_META_DELETE_PREFIX, .key = "d/"},
                              get("d/2"),   {.kind = FP_META_DELETE, .key = "e"},
                              put("f", "2")};
    assert_int_equal(transact(meta, ops, 7, &req), 0);
    assert_int_equal(req.revision, before + 1);
    assert_int_equal(req.kv_count, 3);
    assert_null(req.kvs[0].value);
    assert_string_equal(req.kvs[1].value, "1");
    assert_int_equal(req.kvs[1].revision, before + 1);
    assert_null(req.kvs[2].value);
    free(req.kvs);
    fp_meta_req range = {.kind = FP_META_RANGE, .key = ""};
    assert_int_equal(meta_do(meta, &range), 0);
    assert_int_equal(range.kv_count, 2);
    assert_string_equal(range.kvs[0].key, "a");
    assert_string_equal(range.kvs[1].key, "f");
    free(range.kvs);
    const fp_meta_op twice[][2] = {
        {put("a", "1"), put("a", "2")},
        {put("a", "1"), {.kind = FP_META_DELETE, .key = "a"}},
        {{.kind = FP_META_DELETE_PREFIX, .key = "a"}, put("ab", "2")},
        {{.kind = FP_META_DELETE_PREFIX, .key = "ab"}, {.kind = FP_META_DELETE_PREFIX, .key = "a"}},
    };
    for (int i = 0; i < 4; i++)
        assert_int_equal(transact(meta, twice[i], 2, &req), FARPOOL_E_INVAL);
    assert_int_equal(meta_revision(meta), before + 1);
    meta_end(meta);
}

static void sizes_have_limits(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    fp_meta_req req;
    char *big = malloc(FP_META_REQUEST_MAX), key[FP_META_KEY_MAX + 2];
    memset(big, 0xa5, FP_META_REQUEST_MAX);
    fp_meta_op op = {.kind = FP_META_PUT,
                     .key = "b",
                     .value = big,
                     .len = FP_META_REQUEST_MAX - FP_META_OP_COST - 1};
    assert_int_equal(transact(meta, &op, 1, &req), 0);
    const fp_meta_op read = get("b");
    assert_int_equal(transact(meta, &read, 1, &req), 0);
    assert_int_equal(req.kvs[0].len, op.len);
    assert_memory_equal(req.kvs[0].value, big, op.len);
    free(req.kvs);
    op.len++;
    assert_int_equal(transact(meta, &op, 1, &req), FARPOOL_E_TOO_BIG);
    fp_meta_op ops[FP_META_OPS_MAX + 1];
    char keys[FP_META_OPS_MAX + 1][8];
    for (int i = 0; i <= FP_META_OPS_MAX; i++) {
        snprintf(keys[i], 8, "m%d", i);
        ops[i] = (fp_meta_op){.kind = FP_META_PUT, .key = keys[i], .value = big, .len = 11000};
    }
    assert_int_equal(transact(meta, ops, FP_META_OPS_MAX, &req), 0);
    assert_int_equal(transact(meta, ops, FP_META_OPS_MAX + 1, &req), FARPOOL_E_INVAL);
    memset(key, 'k', sizeof key);
    key[FP_META_KEY_MAX] = 0;
    op = put(key, "long");
    assert_int_equal(transact(meta, &op, 1, &req), 0);
    assert_string_equal(meta_get(meta, key, NULL), "long");
    key[FP_META_KEY_MAX] = 'k';
    key[FP_META_KEY_MAX + 1] = 0;
    assert_int_equal(transact(meta, &op, 1, &req), FARPOOL_E_INVAL);
    op.key = "";
    assert_int_equal(transact(meta, &op, 1, &req), FARPOOL_E_INVAL);
    free(big);
    meta_end(meta);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

/* The keys of all pages, each with a '|'. */
static int list(fp_meta *meta, const char *prefix, size_t limit, uint64_t at, char text[1024])
{
    char after[80] = "";
    bool more = true;
    text[0] = 0;
    while (more) {
        fp_meta_req req = {.kind = FP_META_RANGE,
                           .key = prefix,
                           .after = after[0] ? after : NULL,
                           .limit = limit,
                           .at = at};
        int rc = meta_do(meta, &req);
        if (rc)
            return rc;
        assert_true(req.kv_count <= limit || !limit);
        for (size_t i = 0; i < req.kv_count; i++)
            snprintf(text + strlen(text), 1024 - strlen(text), "%s|", req.kvs[i].key);
        if (req.kv_count)
            snprintf(after, sizeof after, "%s", req.kvs[req.kv_count - 1].key);
        assert_true(!req.more || req.kv_count);
        more = req.more;
        at = req.revision;
        free(req.kvs);
    }
    return 0;
}

/* M7 */
static void ranges_are_of_one_revision(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    char text[1024];
    meta_put(meta, "a", "");
    meta_put(meta, "p/1", "");
    meta_put(meta, "p/3", "");
    meta_put(meta, "p/3/x", "");
    meta_put(meta, "p/\xff", "");
    uint64_t then = meta_put(meta, "q", "");
    meta_put(meta, "p/2", "");
    meta_delete(meta, "p/3");
    uint64_t last = meta_put(meta, "p/1", "new");
    for (size_t limit = 0; limit < 4; limit++) {
        assert_int_equal(list(meta, "p/", limit, 0, text), 0);
        assert_string_equal(text, "p/1|p/2|p/3/x|p/\xff|");
        assert_int_equal(list(meta, "p/", limit, then, text), 0);
        assert_string_equal(text, "p/1|p/3|p/3/x|p/\xff|");
        assert_int_equal(list(meta, "", limit, 0, text), 0);
        assert_string_equal(text, "a|p/1|p/2|p/3/x|p/\xff|q|");
        assert_int_equal(list(meta, "p/\xff", limit, 0, text), 0);
        assert_string_equal(text, "p/\xff|");
        assert_int_equal(list(meta, "nobody", limit, 0, text), 0);
        assert_string_equal(text, "");
    }
    assert_int_equal(list(meta, "", 0, last + 1000, text), FARPOOL_E_INVAL);
    assert_int_equal(meta_compact(meta, last), 0);
    assert_int_equal(meta_compact(meta, then), 0); /* that has been done */
    assert_int_equal(meta_compact(meta, last + 1000), FARPOOL_E_INVAL);
    assert_int_equal(list(meta, "p/", 2, then, text), FARPOOL_E_COMPACTED);
    assert_int_equal(list(meta, "p/", 2, last, text), 0);
    assert_string_equal(text, "p/1|p/2|p/3/x|p/\xff|");
    assert_string_equal(meta_get(meta, "p/1", NULL), "new");
    meta_end(meta);
}

/* ---- requests and completions ---------------------------------------------------------------- */

typedef struct many {
    fp_meta_req reqs[MANY];
    fp_meta_op ops[MANY];
    char keys[MANY][16];
    unsigned done, failed, again;
    bool submitting;
} many;

static void one_of_many(fp_meta_req *req)
{
    many *m = req->user;
    assert_false(m->submitting); /* M1 */
    m->done++;
    m->failed += req->status != 0;
    assert_true(req->status == 0 || req->status == FARPOOL_E_CLOSED ||
                req->status == FARPOOL_E_UNKNOWN);
    if (m->again) {
        m->again--;
        m->submitting = true;
        fp_meta_submit(req->own.meta, req);
        m->submitting = false;
    }
}

static void submit_many(fp_meta *meta, many *m)
{
    m->submitting = true;
    for (int i = 0; i < MANY; i++) {
        snprintf(m->keys[i], sizeof m->keys[i], "many/%03d", i);
        m->ops[i] = put(m->keys[i], "x");
        m->reqs[i] = (fp_meta_req){
            .kind = FP_META_TXN, .ops = &m->ops[i], .op_count = 1, .done = one_of_many, .user = m};
        fp_meta_submit(meta, &m->reqs[i]);
    }
    m->submitting = false;
}

/* M1, M2, M10 */
static void many_requests_in_flight(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    many *m = calloc(1, sizeof *m);
    char text[1024];
    m->again = 20;
    submit_many(meta, m);
    meta_wait(meta, &m->done, MANY + 20);
    assert_int_equal(m->failed, 0);
    assert_int_equal(list(meta, "many/", 0, 0, text), 0);
    assert_int_equal(strlen(text), MANY * 9);
    assert_int_equal(m->done, MANY + 20);
    free(m);
    meta_end(meta);
}

/* M12 */
static void close_completes_everything(void **state)
{
    (void)state;
    fp_meta *keeper = meta_begin(NULL);
    many *m = calloc(1, sizeof *m);
    meta_log *log = calloc(1, sizeof *log);
    meta_revision(keeper);
    for (int polls = 0; polls < 4; polls++) {
        fp_meta *meta = meta_another();
        m->done = m->failed = 0;
        m->again = 3;
        meta_log_start(meta, log, "many/", 1);
        submit_many(meta, m);
        for (int i = 0; i < polls; i++)
            assert_true(fp_meta_poll(meta, 0) >= 0);
        meta_end(meta);
        assert_int_equal(m->done, MANY + 3);
        assert_int_equal(log->ended, 1);
        assert_true(log->watch.status == FARPOOL_E_CLOSED ||
                    log->watch.status == FARPOOL_E_COMPACTED);
    }
    free(m);
    free(log);
    meta_end(keeper);
}

/* M3: of two who count, none is lost. */
static void counting_by_compare_and_swap(void **state)
{
    (void)state;
    fp_meta *metas[2] = {meta_begin(NULL), meta_another()};
    fp_meta_req reqs[2];
    char values[2][16];
    fp_meta_op ops[2];
    fp_meta_compare compares[2];
    int won = 0, lost = 0;
    for (int round = 0; round < 20; round++) {
        uint64_t revision;
        int now = atoi(meta_get(metas[0], "counter", &revision));
        unsigned done = 0;
        for (int i = 0; i < 2; i++) {
            snprintf(values[i], sizeof values[i], "%d", now + 1);
            ops[i] = put("counter", values[i]);
            compares[i] = (fp_meta_compare){.kind = revision ? FP_META_REVISION_IS : FP_META_ABSENT,
                                            .key = "counter",
                                            .revision = revision};
            reqs[i] = (fp_meta_req){.kind = FP_META_TXN,
                                    .compares = &compares[i],
                                    .compare_count = 1,
                                    .ops = &ops[i],
                                    .op_count = 1};
        }
        /* The first is under way while the second is waited for. */
        reqs[0].done = one_of_many;
        many m = {0};
        reqs[0].user = &m;
        fp_meta_submit(metas[0], &reqs[0]);
        assert_true(fp_meta_poll(metas[0], 0) >= 0);
        done += meta_do(metas[1], &reqs[1]) == 0;
        meta_wait(metas[0], &m.done, 1);
        assert_int_equal(reqs[0].status, 0);
        assert_int_equal(done, 1);
        won += reqs[0].succeeded + reqs[1].succeeded;
        lost += !reqs[0].succeeded + !reqs[1].succeeded;
    }
    assert_int_equal(won, 20);
    assert_int_equal(lost, 20);
    assert_string_equal(meta_get(metas[1], "counter", NULL), "20");
    meta_end(metas[1]);
    meta_end(metas[0]);
}

static void the_descriptor_tells(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    struct pollfd wait = {.fd = fp_meta_fd(meta), .events = POLLIN};
    if (meta_is_sim()) {
        assert_int_equal(wait.fd, -1);
        meta_end(meta);
        return;
    }
    many *m = calloc(1, sizeof *m);
    submit_many(meta, m);
    while (m->done < MANY) {
        int n = fp_meta_poll(meta, 0);
        assert_true(n >= 0);
        if (!n)
            assert_int_equal(poll(&wait, 1, META_WAIT_MS), 1);
    }
    free(m);
    meta_end(meta);
}

static void addresses_are_checked(void **state)
{
    (void)state;
    static const char *const bad[] = {"",        "etcd://",           "etcd://host",
                                      "sqlite:", "etcd://host:x/p",   "zookeeper://h:1",
                                      "sim:x",   "etcd://a:1,b/path", "etcd://u@h:1"};
    fp_meta *meta;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(fp_meta_open(bad[i], NULL, &meta), FARPOOL_E_INVAL);
    assert_int_equal(fp_meta_open("etcd://h:1", &(fp_meta_options){.user = "u"}, &meta),
                     FARPOOL_E_INVAL);
    assert_int_equal(fp_meta_open("etcd://h:1", &(fp_meta_options){.ca_file = "/nowhere"}, &meta),
                     FARPOOL_E_INVAL);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_put_is_found),
        cmocka_unit_test(compares_are_exact),
        cmocka_unit_test(operations_are_in_order_and_one),
        cmocka_unit_test(sizes_have_limits),
        cmocka_unit_test(ranges_are_of_one_revision),
        cmocka_unit_test(many_requests_in_flight),
        cmocka_unit_test(close_completes_everything),
        cmocka_unit_test(counting_by_compare_and_swap),
        cmocka_unit_test(the_descriptor_tells),
        cmocka_unit_test(addresses_are_checked),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return meta_for_each(group); }
