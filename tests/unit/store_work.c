/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a page store's layers are right when they are long, so that the disk's thread puts one piece together after
 * the other while pages are read and more log comes, and that closing waits for it: with the real thread on io_uring,
 * also under ThreadSanitizer. unit/store has layers of one piece. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/page_store.h"
#include "tests/lib/require.h"

enum { MIB = 1 << 20, TAIL = 3 * MIB / 2, PARTITION = 7, FRAMES = 24 };

static page_store begin(void)
{
    page_store s;
    page_store_init(&s, disk_begin(NULL), PARTITION, 1);
    s.wal_options.segment_bytes = MIB;
    s.options.convert_bytes = TAIL;
    s.options.image_bytes = MIB;
    s.options.trim_bytes = MIB;
    assert_int_equal(page_store_open(&s), 0);
    return s;
}

/* To look at all of them takes long with so much log. */
static void check_some(page_store *s, unsigned first, unsigned each)
{
    uint64_t base = page_store_stats(s).base, end = s->log.log.end;
    for (unsigned i = first; i < PAGE_LOG_PAGES; i += each) {
        assert_int_equal(page_store_check(s, page_log_pid(i), 0), 0);
        assert_int_equal(page_store_check(s, page_log_pid(i), end - (end - base) / 5), 0);
    }
}

/* GETs of the newest, and of pages as they were, look at the tail that is being converted and at the one being filled. */
static void pages_are_read_meanwhile(void **state)
{
    (void)state;
    page_store s = begin();
    for (unsigned i = 0; s.log.log.end < 2 * TAIL + MIB / 2; i++) {
        page_store_add(&s, FRAMES);
        if (i % 8 == 0)
            check_some(&s, i / 8 % PAGE_LOG_PAGES, PAGE_LOG_PAGES);
    }
    page_store_rest(&s);
    fp_store_stats stats = page_store_stats(&s);
    assert_int_equal(stats.failed, 0);
    assert_int_equal(stats.deltas, 2);
    assert_true(stats.converted > 2 * TAIL && stats.delta_bytes > TAIL);
    check_some(&s, 3, 16);
    assert_int_equal(page_store_close(&s, true), 0);
    assert_int_equal(page_store_open(&s), 0);
    check_some(&s, 3, 16);
    assert_int_equal(page_store_flush(&s), 0);
    assert_int_equal(page_store_stats(&s).deltas, 0);
    check_some(&s, 5, 16);
    page_store_end(&s);
}

static void fill_a_tail(page_store *s)
{
    uint64_t converted = page_store_stats(s).converted;
    while (s->log.log.end - converted < TAIL + MIB / 4)
        page_store_add(s, FRAMES);
}

static void poll_some(const page_store *s, unsigned polls)
{
    for (unsigned i = 0; i < polls; i++)
        assert_true(fp_disk_poll(s->disk, 1) >= 0);
}

/* Wherever a conversion is: in order, and as when the process gives its disk up. */
static void closing_waits_for_work(void **state)
{
    (void)state;
    page_store s = begin();
    for (unsigned polls = 0; polls < 4; polls++) {
        fill_a_tail(&s);
        poll_some(&s, polls);
        if (polls % 2) {
            s.disk = disk_again(s.disk);
            page_store_forget(&s);
        } else {
            assert_int_equal(page_store_close(&s, true), 0);
        }
        assert_int_equal(page_store_open(&s), 0);
        check_some(&s, 3, 16);
    }
    page_store_end(&s);
}

/* A piece that is not put together leaves no file, and the log that it is made of stays until the next try. */
static void work_that_fails_is_done_again(void **state)
{
    (void)state;
    if (!disk_is_sim())
        skip();
    page_store s = begin();
    for (unsigned nth = 2; nth <= 3; nth++) {
        uint64_t converted = page_store_stats(&s).converted;
        fp_disk_sim_fail(disk_medium(), FP_DISK_WORK, nth, EIO);
        fill_a_tail(&s);
        page_store_rest(&s);
        check_some(&s, 3, 16);
        page_store_add(&s, FRAMES); /* tries again */
        page_store_rest(&s);
        assert_true(page_store_stats(&s).converted > converted);
        assert_int_equal(page_store_stats(&s).failed, 0);
    }
    check_some(&s, 5, 16);
    page_store_end(&s);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_read_meanwhile),
        cmocka_unit_test(closing_waits_for_work),
        cmocka_unit_test(work_that_fails_is_done_again),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
