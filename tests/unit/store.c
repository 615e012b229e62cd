/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a page store does with single requests; on io_uring and on a simulated disk. unit/store_damage has what
 * rot and full or failing disks do to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/page_store.h"
#include "tests/lib/require.h"

enum { BLOCK = FP_DISK_ALIGN, PARTITION = 7 };

static page_store begin(void)
{
    page_store s;
    page_store_init(&s, disk_begin(NULL), PARTITION, 1);
    assert_int_equal(page_store_open(&s), 0);
    return s;
}

static void reopen(page_store *s)
{
    assert_int_equal(page_store_close(s, true), 0);
    assert_int_equal(page_store_open(s), 0);
}

/* ---- what is read ---------------------------------------------------------------------------- */

static void pages_are_served_from_the_tail(void **state)
{
    (void)state;
    page_store s = begin();
    s.options.convert_bytes = 1 << 20;
    reopen(&s);
    page_store_add(&s, 30);
    page_store_check_all(&s, 10);
    assert_int_equal(page_store_stats(&s).deltas, 0);
    assert_int_equal(page_store_stats(&s).indexed, s.log.log.end);
    reopen(&s);
    page_store_check_all(&s, 10);
    page_store_end(&s);
}

static void the_log_becomes_layers_and_is_trimmed(void **state)
{
    (void)state;
    page_store s = begin();
    for (unsigned i = 0; i < 40; i++) {
        page_store_add(&s, 8);
        page_store_check_all(&s, i % 8 ? 0 : 3);
    }
    page_store_rest(&s);
    fp_store_stats stats = page_store_stats(&s);
    assert_true(stats.images && stats.base > FP_REDO_LSN_FIRST);
    assert_true(stats.converted > stats.base);
    assert_true(fp_wal_start(s.wal) > FP_REDO_LSN_FIRST);
    assert_int_equal(stats.log_bytes, s.log.log.end - FP_REDO_LSN_FIRST);
    assert_int_equal(stats.failed, 0);
    page_store_check_all(&s, 8);
    reopen(&s);
    page_store_check_all(&s, 8);
    assert_int_equal(page_store_flush(&s), 0);
    stats = page_store_stats(&s);
    assert_int_equal(stats.deltas, 0);
    assert_int_equal(stats.base, s.log.log.end);
    page_store_check_all(&s, 0);
    reopen(&s);
    page_store_check_all(&s, 0);
    page_store_end(&s);
}

static void only_images_that_change_are_written_again(void **state)
{
    (void)state;
    page_store s = begin();
    s.options.merge_layers = 1000;
    reopen(&s);
    page_store_add(&s, 300);
    assert_int_equal(page_store_flush(&s), 0);
    fp_store_stats before = page_store_stats(&s), after;
    assert_true(before.images > 3);
    page_log_frames_of(&s.log, 1, 10, 0, 2);
    assert_int_equal(page_store_append(&s), 0);
    assert_int_equal(page_store_flush(&s), 0);
    after = page_store_stats(&s);
    assert_true(after.written_bytes - before.written_bytes < before.image_bytes);
    page_store_check_all(&s, 0);
    reopen(&s);
    page_store_check_all(&s, 0);
    page_store_end(&s);
}

static void old_versions_stay_as_long_as_told(void **state)
{
    (void)state;
    fp_store_req req;
    page_store s = begin();
    page_store_add(&s, 100);
    uint64_t kept = wal_log_after(&s.log.log, s.log.log.end / 2, 1);
    fp_store_keep(s.store, kept);
    page_store_add(&s, 200);
    assert_int_equal(page_store_flush(&s), 0);
    assert_true(page_store_stats(&s).base <= kept);
    for (unsigned i = 0; i < PAGE_LOG_PAGES; i++)
        assert_int_equal(page_store_check(&s, page_log_pid(i), kept), 0);
    page_store_check_all(&s, 10);
    fp_store_keep(s.store, UINT64_MAX);
    assert_int_equal(page_store_flush(&s), 0);
    assert_int_equal(page_store_get(&s, 0, kept, &req), FARPOOL_E_INVAL);
    assert_int_equal(page_store_get(&s, 0, s.log.log.end + 8, &req), FARPOOL_E_RETRY);
    assert_int_equal(page_store_get(&s, 1, 0, &req), FARPOOL_E_NOTFOUND);
    assert_int_equal(page_store_get(&s, FP_REDO_LSN_FIRST << 40, 0, &req), FARPOOL_E_NOTFOUND);
    page_store_end(&s);
}

/* A record without its page's beginning: the WAL was made when the log was older. */
static void a_page_without_its_beginning_is_lost(void **state)
{
    (void)state;
    fp_store_req req;
    page_store s = begin();
    fp_redo_build build = {0};
    assert_int_equal(fp_redo_add(&build, FP_REDO_RANGE, 5, 0, 0, "x", 1), 0);
    wal_log_add(&s.log.log, 1, &build);
    assert_int_equal(page_store_append(&s), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(page_store_get(&s, 5, 0, &req), FARPOOL_E_CORRUPT);
        assert_non_null(strstr(farpool_errmsg(), "beginning"));
        assert_int_equal(page_store_flush(&s), 0);
        if (i == 1)
            reopen(&s);
    }
    fp_redo_build_reset(&build);
    assert_int_equal(fp_redo_add(&build, FP_REDO_ALLOC, 5, 1, 0, NULL, 0), 0);
    wal_log_add(&s.log.log, 1, &build);
    fp_redo_build_fini(&build);
    assert_int_equal(page_store_append(&s), 0);
    assert_int_equal(page_store_get(&s, 5, 0, &req), 0);
    assert_int_equal(req.order, 1);
    free(req.page);
    page_store_end(&s);
}

/* Frames longer than the store's buffer and than a layer. */
static void long_frames(void **state)
{
    (void)state;
    enum { BYTES = 4096 << 10 };
    page_store s = begin();
    fp_redo_build build = {0};
    uint8_t *data = disk_buffer(BYTES, 7), *ring = disk_buffer(16 << 20, 0);
    assert_int_equal(page_store_close(&s, true), 0);
    free(s.wal_options.landing);
    s.wal_options.landing = ring;
    s.wal_options.landing_bytes = 16 << 20;
    s.wal_options.segment_bytes = 1 << 20;
    assert_int_equal(page_store_open(&s), 0);
    for (uint64_t pid = 0; pid < 2; pid++) {
        fp_redo_build_reset(&build);
        assert_int_equal(fp_redo_add(&build, FP_REDO_ALLOC, pid << 10, 10, 0, NULL, 0), 0);
        assert_int_equal(fp_redo_add(&build, FP_REDO_RANGE, pid << 10, 10, 0, data, BYTES), 0);
        wal_log_add(&s.log.log, 1, &build);
        wal_log_land(&s.log.log, ring, 16 << 20, fp_wal_end(s.wal), s.log.log.end);
        assert_int_equal(wal_append(s.disk, s.wal, s.log.log.end), 0);
        fp_store_log_durable(s.store);
    }
    for (int i = 0; i < 2; i++) {
        fp_store_req req;
        assert_int_equal(page_store_get(&s, 1 << 10, 0, &req), 0);
        assert_int_equal(req.order, 10);
        assert_memory_equal(req.page, data, BYTES);
        free(req.page);
        assert_int_equal(page_store_flush(&s), 0);
    }
    fp_redo_build_fini(&build);
    free(data);
    page_store_end(&s);
}

/* ---- who may --------------------------------------------------------------------------------- */

static void a_lower_generation_is_refused(void **state)
{
    (void)state;
    page_store s = begin();
    page_store_add(&s, 50);
    assert_int_equal(page_store_fence(&s, 5), 0);
    assert_int_equal(page_store_fence(&s, 4), FARPOOL_E_FENCED);
    assert_int_equal(page_store_close(&s, true), 0);
    s.options.generation = 4;
    assert_int_equal(page_store_open(&s), FARPOOL_E_FENCED);
    s.options.generation = 5;
    assert_int_equal(page_store_open(&s), 0);
    page_store_check_all(&s, 2);
    page_store_end(&s);
}

static void partitions_share_a_volume(void **state)
{
    (void)state;
    page_store s = begin(), other;
    page_store_init(&other, s.disk, PARTITION + 1, 2);
    other.volume = s.volume;
    assert_int_equal(page_store_open(&other), 0);
    for (unsigned i = 0; i < 20; i++) {
        page_store_add(&s, 10);
        page_store_add(&other, 10);
    }
    fp_store *second = NULL;
    fp_store_req req = {0};
    assert_int_equal(fp_store_open(s.volume, s.wal, &s.options, &req, &second), FARPOOL_E_BUSY);
    assert_int_equal(page_store_close(&other, false), 0);
    page_store_add(&s, 100);
    assert_int_equal(page_store_open(&other), 0); /* the same volume */
    page_store_check_all(&other, 3);
    assert_int_equal(page_store_close(&other, false), 0);
    reopen(&s);
    other.volume = s.volume;
    assert_int_equal(page_store_open(&other), 0);
    page_store_check_all(&other, 3);
    page_store_check_all(&s, 3);
    assert_int_equal(page_store_close(&other, false), 0);
    page_store_fini(&other);
    page_store_end(&s);
}

/* ---- many at a time -------------------------------------------------------------------------- */

enum { MANY = 500 };

static void counted(fp_store_req *req) { ++*(unsigned *)req->user; }

enum { FLOW = 3 };

typedef struct flow {
    page_store s;
    fp_wal_req reqs[FLOW];
    unsigned begun, done;
} flow;

static void flowed(fp_wal_req *req)
{
    flow *f = req->user;
    assert_int_equal(req->status, 0);
    f->done++;
    fp_store_log_durable(f->s.store);
}

/* One append more; some are under way when it returns. */
static void flow_on(flow *f)
{
    page_store *s = &f->s;
    fp_wal_req *req = &f->reqs[f->begun % FLOW];
    page_log_frames(&s->log, 1, 1);
    while (f->begun - f->done == FLOW || fp_wal_landing_free(s->wal) < s->log.log.end)
        assert_true(fp_disk_poll(s->disk, 1) >= 0);
    wal_log_land(&s->log.log, s->wal_options.landing, s->wal_options.landing_bytes,
                 fp_wal_end(s->wal), s->log.log.end);
    *req = (fp_wal_req){.done = flowed, .user = f};
    assert_int_equal(fp_wal_append(s->wal, s->log.log.end, req), 0);
    f->begun++;
}

/* Until there is so much to be made into layers that it would become too much; when appends rest it is made at once. */
static void layers_are_put_off_while_log_comes(void **state)
{
    (void)state;
    enum { MUCH = 11 * 3 * BLOCK, TOO_MUCH = 14 * 3 * BLOCK };
    if (!disk_is_sim()) /* where several appends never end at once */
        skip();
    flow f = {.s = begin()};
    while (f.s.log.log.end < MUCH) {
        flow_on(&f);
        assert_int_equal(page_store_stats(&f.s).deltas, 0);
    }
    page_store_rest(&f.s);
    fp_store_stats rested = page_store_stats(&f.s);
    assert_true(f.s.log.log.end - rested.converted < 2 * 3 * BLOCK);
    while (f.s.log.log.end < rested.converted + TOO_MUCH)
        flow_on(&f);
    assert_true(page_store_stats(&f.s).converted > rested.converted);
    page_store_rest(&f.s);
    page_store_check_all(&f.s, 2);
    page_store_end(&f.s);
}

/* What is not in memory any more has to become layers before it can be read. */
static void layers_are_not_put_off_if_somebody_waits(void **state)
{
    (void)state;
    unsigned count = 0;
    if (!disk_is_sim())
        skip();
    flow f = {.s = begin()};
    while (f.s.log.log.end < 8 * 3 * BLOCK)
        flow_on(&f);
    assert_true(page_store_stats(&f.s).indexed < fp_wal_durable(f.s.wal));
    fp_store_req req = {.done = counted, .user = &count, .pid = page_log_pid(0)};
    assert_int_equal(fp_store_get(f.s.store, &req), 0);
    for (unsigned i = 0; i < 20 && !count; i++)
        flow_on(&f);
    assert_true(count == 1 && page_store_stats(&f.s).deltas > 0);
    free(req.page);
    page_store_rest(&f.s);
    page_store_end(&f.s);
}

static void says_when_it_is_behind(void **state)
{
    (void)state;
    page_store s = begin();
    s.options.convert_bytes = 256; /* less than a frame: each makes a layer */
    reopen(&s);
    page_store_add(&s, 1);
    assert_false(fp_store_is_behind(s.store));
    page_log_frames(&s.log, 1, 40);
    wal_log_land(&s.log.log, s.wal_options.landing, s.wal_options.landing_bytes, fp_wal_end(s.wal),
                 s.log.log.end);
    assert_int_equal(wal_append(s.disk, s.wal, s.log.log.end), 0);
    assert_true(fp_store_is_behind(s.store)); /* it has not been told yet */
    fp_store_log_durable(s.store);
    page_store_rest(&s);
    assert_false(fp_store_is_behind(s.store));
    page_store_check_all(&s, 0);
    page_store_end(&s);
}

static void many_requests_while_it_works(void **state)
{
    (void)state;
    static fp_store_req reqs[MANY];
    page_store s = begin();
    unsigned done = 0;
    page_store_add(&s, 400);
    for (unsigned i = 0; i < MANY; i++) {
        reqs[i] =
            (fp_store_req){.done = counted, .user = &done, .pid = page_log_pid(i % PAGE_LOG_PAGES)};
        assert_int_equal(fp_store_get(s.store, &reqs[i]), 0);
        assert_int_equal(reqs[i].lsn, s.log.log.end);
    }
    assert_int_equal(done, 0); /* never from within the call */
    assert_int_equal(page_store_close(&s, true), 0);
    assert_int_equal(done, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        assert_true(!reqs[i].status || reqs[i].status == FARPOOL_E_NOTFOUND ||
                    reqs[i].status == FARPOOL_E_CLOSED);
        free(reqs[i].page);
    }
    assert_int_equal(page_store_open(&s), 0);
    page_store_check_all(&s, 3);
    page_store_end(&s);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_served_from_the_tail),
        cmocka_unit_test(the_log_becomes_layers_and_is_trimmed),
        cmocka_unit_test(only_images_that_change_are_written_again),
        cmocka_unit_test(old_versions_stay_as_long_as_told),
        cmocka_unit_test(a_page_without_its_beginning_is_lost),
        cmocka_unit_test(long_frames),
        cmocka_unit_test(a_lower_generation_is_refused),
        cmocka_unit_test(partitions_share_a_volume),
        cmocka_unit_test(layers_are_put_off_while_log_comes),
        cmocka_unit_test(layers_are_not_put_off_if_somebody_waits),
        cmocka_unit_test(says_when_it_is_behind),
        cmocka_unit_test(many_requests_while_it_works),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
