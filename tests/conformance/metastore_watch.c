/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that every metastore's watches give each change once and in order, or say that they cannot (M8), and that leases
 * end when they should and not before (M9). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/meta.h"

enum { CHANGES = 150, TTL_MS = 5000, LATE_MS = 15000 };

static meta_log logs[2];

/* ---- watches --------------------------------------------------------------------------------- */

static void check_change(const meta_log *log, unsigned i, const char *key, const char *value,
                         uint64_t revision)
{
    assert_true(i < log->count);
    assert_string_equal(log->changes[i].key, key);
    assert_int_equal(log->changes[i].deleted, !value);
    assert_string_equal(log->changes[i].value, value ? value : "");
    assert_int_equal(log->changes[i].revision, revision);
}

static void changes_come_in_order_and_once(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL), *other = meta_another();
    char value[16];
    uint64_t first = meta_put(meta, "w/0", "before");
    meta_put(meta, "v", "no");
    meta_log_start(other, &logs[0], "w/", first); /* history, too */
    meta_log_start(meta, &logs[1], "w/", first + 2);
    for (unsigned i = 0; i < CHANGES; i++) {
        snprintf(value, sizeof value, "%u", i);
        meta_put(meta, i % 2 ? "w/1" : "w", value); /* every second one is not watched */
    }
    uint64_t gone = meta_delete(meta, "w/1");
    meta_wait(other, &logs[0].count, 2 + CHANGES / 2);
    meta_wait(meta, &logs[1].count, 1 + CHANGES / 2);
    meta_wait_ms(other, 300); /* nothing comes twice */
    meta_wait_ms(meta, 300);
    assert_int_equal(logs[0].count, 2 + CHANGES / 2);
    assert_int_equal(logs[1].count, 1 + CHANGES / 2);
    check_change(&logs[0], 0, "w/0", "before", first);
    for (unsigned i = 0; i < CHANGES / 2; i++) {
        snprintf(value, sizeof value, "%u", 2 * i + 1);
        check_change(&logs[0], 1 + i, "w/1", value, first + 3 + 2 * i);
        check_change(&logs[1], i, "w/1", value, first + 3 + 2 * i);
    }
    check_change(&logs[0], 1 + CHANGES / 2, "w/1", NULL, gone);
    fp_meta_watch_stop(&logs[0].watch);
    fp_meta_watch_stop(&logs[1].watch);
    meta_put(meta, "w/1", "after");
    meta_wait_ms(other, 200);
    assert_int_equal(logs[0].count, 2 + CHANGES / 2);
    assert_int_equal(logs[0].ended + logs[1].ended, 0);
    meta_end(other);
    meta_end(meta);
}

static void one_revision_comes_at_once(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL), *other = meta_another();
    uint64_t first = meta_put(meta, "z", "1");
    meta_log_start(other, &logs[0], "", first + 1);
    const fp_meta_op ops[] = {{.kind = FP_META_PUT, .key = "b", .value = "2", .len = 1},
                              {.kind = FP_META_PUT, .key = "a", .value = "1", .len = 1},
                              {.kind = FP_META_DELETE, .key = "z"}};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = ops, .op_count = 3};
    assert_int_equal(meta_do(meta, &req), 0);
    meta_wait(other, &logs[0].calls, 1);
    assert_int_equal(logs[0].count, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(logs[0].changes[i].revision, first + 1);
    meta_end(other);
    meta_end(meta);
}

/* More history than fits into one answer: etcd's come in pieces, which divide a revision of several large values. */
static void much_history_comes_whole(void **state)
{
    (void)state;
    enum { REVISIONS = 12, BYTES = 700000 };
    fp_meta *meta = meta_begin(NULL), *other = meta_another();
    char *big = malloc(BYTES);
    memset(big, 'b', BYTES);
    const fp_meta_op ops[] = {{.kind = FP_META_PUT, .key = "m/1", .value = big, .len = BYTES},
                              {.kind = FP_META_PUT, .key = "m/2", .value = big, .len = BYTES}};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = ops, .op_count = 2};
    uint64_t first = 0;
    for (int i = 0; i < REVISIONS; i++) {
        assert_int_equal(meta_do(meta, &req), 0);
        first = first ? first : req.revision;
    }
    meta_log_start(other, &logs[0], "m/", first);
    meta_wait(other, &logs[0].count, 2 * REVISIONS);
    meta_wait_ms(other, 200);
    assert_int_equal(logs[0].count, 2 * REVISIONS);
    assert_true(logs[0].calls > 1 && logs[0].calls <= REVISIONS);
    for (unsigned i = 0; i < 2 * REVISIONS; i++)
        assert_int_equal(logs[0].changes[i].revision, first + i / 2);
    free(big);
    meta_end(other);
    meta_end(meta);
}

static void a_watch_may_stop_itself(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    uint64_t first = meta_put(meta, "s", "0");
    meta_log_start(meta, &logs[0], "s", first);
    meta_log_start(meta, &logs[1], "s", first + 2); /* still to come */
    logs[0].stop_at = 1;
    meta_wait(meta, &logs[0].count, 1);
    logs[0].stop_at = 0;
    meta_put(meta, "s", "1");
    uint64_t last = meta_put(meta, "s", "2");
    meta_wait(meta, &logs[1].count, 1);
    check_change(&logs[1], 0, "s", "2", last);
    assert_int_equal(logs[0].count, 1);
    fp_meta_watch_stop(&logs[0].watch); /* does nothing */
    fp_meta_watch_stop(&logs[1].watch);
    meta_end(meta);
}

static void compacted_history_is_told(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    uint64_t first = meta_put(meta, "c", "0");
    meta_put(meta, "c", "1");
    uint64_t gone = meta_delete(meta, "c");
    uint64_t last = meta_put(meta, "d", "3");
    assert_int_equal(meta_compact(meta, gone), 0);
    /* From the compacted revision on would lack the deletion. */
    for (uint64_t from = first; from <= gone; from++) {
        meta_log_start(meta, &logs[0], "", from);
        meta_wait(meta, &logs[0].ended, 1);
        assert_int_equal(logs[0].watch.status, FARPOOL_E_COMPACTED);
        assert_int_equal(logs[0].watch.compacted, gone);
        assert_int_equal(logs[0].count, 0);
    }
    meta_log_start(meta, &logs[0], "", gone + 1);
    meta_wait(meta, &logs[0].count, 1);
    check_change(&logs[0], 0, "d", "3", last);
    fp_meta_watch_stop(&logs[0].watch);
    meta_end(meta);
}

/* ---- leases ---------------------------------------------------------------------------------- */

static uint64_t grant(fp_meta *meta, uint64_t ttl_ms)
{
    fp_meta_req req = {.kind = FP_META_LEASE_GRANT, .ttl_ms = ttl_ms};
    assert_int_equal(meta_do(meta, &req), 0);
    assert_true(req.lease && req.ttl_ms >= ttl_ms);
    return req.lease;
}

static int of_lease(fp_meta *meta, enum fp_meta_kind kind, uint64_t lease, uint64_t *ttl_ms)
{
    fp_meta_req req = {.kind = kind, .lease = lease};
    int rc = meta_do(meta, &req);
    if (ttl_ms)
        *ttl_ms = req.ttl_ms;
    return rc;
}

static int put_under(fp_meta *meta, const char *key, uint64_t lease)
{
    const fp_meta_op op = {
        .kind = FP_META_PUT, .key = key, .value = "leased", .len = 6, .lease = lease};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &op, .op_count = 1};
    return meta_do(meta, &req);
}

static void revoked_leases_take_their_keys(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL), *other = meta_another();
    uint64_t lease = grant(meta, 60000), ttl, revision;
    assert_int_equal(put_under(meta, "l/1", lease), 0);
    assert_int_equal(put_under(other, "l/2", lease), 0);
    assert_int_equal(put_under(other, "l/3", lease), 0);
    meta_put(meta, "l/3", "no longer leased");
    uint64_t before = meta_revision(meta);
    meta_log_start(other, &logs[0], "l/", before + 1);
    assert_int_equal(of_lease(other, FP_META_LEASE_LEFT, lease, &ttl), 0);
    assert_true(ttl > 50000 && ttl <= 60000);
    assert_int_equal(of_lease(meta, FP_META_LEASE_REVOKE, lease, NULL), 0);
    assert_int_equal(of_lease(meta, FP_META_LEASE_REVOKE, lease, NULL), 0);
    meta_wait(other, &logs[0].count, 2);
    assert_int_equal(logs[0].calls, 1);
    assert_true(logs[0].changes[0].deleted && logs[0].changes[1].deleted);
    assert_int_equal(logs[0].changes[0].revision, before + 1);
    assert_string_equal(meta_get(meta, "l/3", NULL), "no longer leased");
    assert_int_equal(of_lease(meta, FP_META_LEASE_KEEP, lease, NULL), FARPOOL_E_NOTFOUND);
    assert_int_equal(of_lease(meta, FP_META_LEASE_LEFT, lease, NULL), FARPOOL_E_NOTFOUND);
    assert_int_equal(put_under(meta, "l/1", lease), FARPOOL_E_NOTFOUND);
    meta_get(meta, "l/1", &revision);
    assert_int_equal(revision, 0);
    assert_int_equal(meta_revision(meta), before + 1);
    fp_meta_watch_stop(&logs[0].watch);
    meta_end(other);
    meta_end(meta);
}

static void leases_end_by_themselves(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL), *other = meta_another();
    uint64_t revision, kept = grant(meta, TTL_MS), left = grant(meta, TTL_MS);
    assert_int_equal(put_under(meta, "kept", kept), 0);
    assert_int_equal(put_under(meta, "left", left), 0);
    uint64_t begin = meta_now_ms(), last = begin;
    meta_log_start(other, &logs[0], "", meta_revision(meta) + 1);
    while (!logs[0].count) {
        assert_true(meta_now_ms() - begin < TTL_MS + LATE_MS);
        last = meta_now_ms();
        assert_int_equal(of_lease(meta, FP_META_LEASE_KEEP, kept, NULL), 0);
        meta_wait_ms(other, 100);
    }
    assert_string_equal(logs[0].changes[0].key, "left");
    assert_true(logs[0].changes[0].deleted);
    assert_true(meta_now_ms() - begin >= TTL_MS - 1000); /* it was granted a little before */
    assert_string_equal(meta_get(meta, "kept", &revision), "leased");
    meta_wait(other, &logs[0].count, 2); /* nobody keeps it any more */
    assert_string_equal(logs[0].changes[1].key, "kept");
    assert_true(meta_now_ms() - last >= TTL_MS);
    assert_true(meta_now_ms() - last < TTL_MS + LATE_MS);
    assert_int_equal(of_lease(meta, FP_META_LEASE_KEEP, kept, NULL), FARPOOL_E_NOTFOUND);
    fp_meta_watch_stop(&logs[0].watch);
    meta_end(other);
    meta_end(meta);
}

static void impossible_leases(void **state)
{
    (void)state;
    fp_meta *meta = meta_begin(NULL);
    fp_meta_req req = {.kind = FP_META_LEASE_GRANT, .ttl_ms = 999};
    assert_int_equal(meta_do(meta, &req), FARPOOL_E_INVAL);
    req = (fp_meta_req){.kind = FP_META_LEASE_GRANT, .ttl_ms = FP_META_TTL_MAX_MS + 1};
    assert_int_equal(meta_do(meta, &req), FARPOOL_E_INVAL);
    assert_int_equal(of_lease(meta, FP_META_LEASE_KEEP, 77, NULL), FARPOOL_E_NOTFOUND);
    assert_int_equal(of_lease(meta, FP_META_LEASE_KEEP, UINT64_MAX, NULL), FARPOOL_E_NOTFOUND);
    assert_int_equal(put_under(meta, "k", 77), FARPOOL_E_NOTFOUND);
    assert_int_equal(of_lease(meta, FP_META_LEASE_REVOKE, 77, NULL), 0);
    meta_end(meta);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_come_in_order_and_once),
        cmocka_unit_test(one_revision_comes_at_once),
        cmocka_unit_test(much_history_comes_whole),
        cmocka_unit_test(a_watch_may_stop_itself),
        cmocka_unit_test(compacted_history_is_told),
        cmocka_unit_test(revoked_leases_take_their_keys),
        cmocka_unit_test(leases_end_by_themselves),
        cmocka_unit_test(impossible_leases),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return meta_for_each(group); }
