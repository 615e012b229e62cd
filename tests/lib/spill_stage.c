/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/spill_stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <poll.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/lib/disk_scope.h"

static char volume[256];
test_storage *storage;
char uri[FP_NET_URI_MAX];

void storage_start(void)
{
    storage = test_storage_start_at(uri, volume);
    snprintf(uri, sizeof uri, "%s", test_storage_uri(storage));
}

void storage_stop(void)
{
    test_storage_stop(storage);
    storage = NULL;
}

test_storage *storage_change(char other_volume[256])
{
    test_storage *before = storage;
    test_volume_make(other_volume);
    storage = test_storage_start(scheme, other_volume);
    snprintf(uri, sizeof uri, "%s", test_storage_uri(storage));
    return before;
}

int stage_begin(void **state)
{
    (void)state;
    test_volume_make(volume);
    storage = test_storage_start(scheme, volume);
    snprintf(uri, sizeof uri, "%s", test_storage_uri(storage));
    return 0;
}

int stage_end(void **state)
{
    (void)state;
    if (storage)
        storage_stop();
    test_volume_remove(volume);
    return 0;
}

fp_spill *spiller(void)
{
    fp_spill *spill;
    fp_spill_config config = {.storage = uri, .name = "test"};
    assert_int_equal(fp_spill_open(&config, &spill), 0);
    return spill;
}

void add(fp_spill *spill, const ring_owner *o, unsigned copy)
{
    assert_int_equal(fp_spill_add_ring(spill, o->log.partition, o->copies[copy].extents,
                                       o->copies[copy].extent_count, o->extent_bytes),
                     0);
}

void go_on(fp_spill *spill)
{
    uint64_t delay = spill ? fp_spill_step(spill) : 1000000;
    if (delay)
        poll(NULL, 0, 1);
}

uint64_t spilled(const ring_owner *o, unsigned copy)
{
    fp_ring_node line;
    if (!ring_owner_node(o, copy, &line))
        return 0;
    assert_int_equal(line.volume, test_storage_volume_id(storage));
    return line.spilled;
}

void until(fp_spill *spill, const ring_owner *o, unsigned copy, uint64_t lsn)
{
    uint64_t deadline = fp_now_ns() + WAIT_S * (uint64_t)WAIT_NS;
    while (spilled(o, copy) < lsn && fp_now_ns() < deadline)
        go_on(spill);
    assert_int_equal(spilled(o, copy), lsn);
}

void idle(fp_spill *spill, unsigned ms)
{
    uint64_t deadline = fp_now_ns() + ms * 1000000ull;
    while (fp_now_ns() < deadline)
        go_on(spill);
}

void wal_is(const ring_owner *o, uint64_t lsn)
{
    enum { PIECE = 8 << 20 };
    fp_disk *disk;
    fp_wal *wal;
    storage_stop();
    assert_int_equal(fp_disk_open(volume, NULL, &disk), 0);
    void *landing = disk_buffer(PIECE, 0), *buffer = disk_buffer(PIECE, 0);
    fp_wal_options options = {
        .partition = o->log.partition, .landing = landing, .landing_bytes = PIECE};
    assert_int_equal(wal_open(disk, &options, &wal), 0);
    assert_int_equal(fp_wal_start(wal), FP_REDO_LSN_FIRST);
    assert_int_equal(fp_wal_end(wal), lsn);
    for (uint64_t at = FP_REDO_LSN_FIRST, upto; at < lsn; at = upto) {
        uint64_t base = at / FP_DISK_ALIGN * FP_DISK_ALIGN;
        uint64_t to = base + PIECE < lsn ? base + PIECE : lsn;
        assert_int_equal(wal_read(disk, wal, at, to, buffer, &upto), 0);
        assert_true(upto > at);
        assert_memory_equal((uint8_t *)buffer + (at - base), o->log.bytes + at, upto - at);
    }
    assert_int_equal(wal_close(disk, wal), 0);
    fp_disk_close(disk);
    free(landing);
    free(buffer);
}

int stage_run(const struct CMUnitTest *tests, size_t count)
{
    int failed = 0;
    if (!test_storage_possible()) {
        printf("no storage node here: %s\n", farpool_errmsg());
        return 77;
    }
    fp_log_set_level(FP_LOG_ERROR);
    const char *const schemes[] = {"shm", "tcp"};
    for (unsigned i = 0; i < 2; i++) {
        scheme = schemes[i];
        failed += _cmocka_run_group_tests(scheme, tests, count, NULL, NULL);
    }
    return failed;
}
