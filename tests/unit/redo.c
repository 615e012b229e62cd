/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that redo frames come back as they were put together, and that whatever is not exactly the frame expected
 * is the end of the log. */
#include "common/redo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PARTITION = 7, EPOCH = 3, LSN = 4096 };

static const fp_redo_expect expected = {.partition = PARTITION, .lsn = LSN, .epoch_min = EPOCH};

/* A frame of the records in build; the caller frees it. */
static uint8_t *frame_of(const fp_redo_build *build, fp_redo_frame header, size_t *len)
{
    fp_redo_seal(&header, fp_redo_build_crc(build), build->len);
    uint8_t *frame = malloc(header.len);
    assert_non_null(frame);
    memcpy(frame, &header, sizeof header);
    if (build->len)
        memcpy(frame + sizeof header, build->bytes, build->len);
    *len = header.len;
    return frame;
}

static fp_redo_frame header_now(const fp_redo_build *build)
{
    return (fp_redo_frame){.lsn = LSN,
                           .epoch = EPOCH,
                           .partition = PARTITION,
                           .kind = FP_REDO_MTR,
                           .records = build->records};
}

static uint8_t *example(size_t *len)
{
    fp_redo_build build = {0};
    assert_int_equal(fp_redo_add(&build, FP_REDO_ALLOC, 1ull << 47, 3, 0, NULL, 0), 0);
    assert_int_equal(fp_redo_add(&build, FP_REDO_RANGE, 1ull << 47, 3, 32767, "x", 1), 0);
    assert_int_equal(fp_redo_add(&build, FP_REDO_RANGE, 5, 0, 0, "twelve bytes", 12), 0);
    assert_int_equal(fp_redo_add(&build, FP_REDO_FREE, 9, 10, 0, NULL, 0), 0);
    uint8_t *frame = frame_of(&build, header_now(&build), len);
    fp_redo_build_fini(&build);
    return frame;
}

static void records_come_back(void **state)
{
    (void)state;
    size_t len;
    uint8_t *frame = example(&len);
    assert_int_equal(fp_redo_check(frame, len + 100, &expected), len);
    fp_redo_walk walk = fp_redo_walk_start(frame);
    fp_redo_record r;
    const void *data;
    assert_true(fp_redo_walk_next(&walk, &r, &data));
    assert_int_equal(fp_redo_type(&r), FP_REDO_ALLOC);
    assert_true(fp_redo_pid(&r) == 1ull << 47 && fp_redo_order(&r) == 3);
    assert_true(fp_redo_walk_next(&walk, &r, &data));
    assert_true(r.offset == 32767 && r.len == 1 && *(const char *)data == 'x');
    assert_true(fp_redo_walk_next(&walk, &r, &data));
    assert_true(r.len == 12 && !memcmp(data, "twelve bytes", 12) && fp_redo_pid(&r) == 5);
    assert_true(fp_redo_walk_next(&walk, &r, &data));
    assert_true(fp_redo_type(&r) == FP_REDO_FREE && fp_redo_order(&r) == 10);
    assert_false(fp_redo_walk_next(&walk, &r, &data));
    free(frame);
}

static void every_damaged_bit_is_the_end(void **state)
{
    (void)state;
    size_t len;
    uint8_t *frame = example(&len);
    for (size_t bit = 0; bit < len * 8; bit++) {
        frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(fp_redo_check(frame, len, &expected), 0);
        frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t part = 0; part < len; part++)
        assert_int_equal(fp_redo_check(frame, part, &expected), 0);
    free(frame);
}

/* A lap ago, another partition's, an earlier owner's; a later owner's is one. */
static void others_are_the_end(void **state)
{
    (void)state;
    size_t len;
    uint8_t *frame = example(&len);
    fp_redo_expect other = expected;
    other.lsn += 8;
    assert_int_equal(fp_redo_check(frame, len, &other), 0);
    other = expected;
    other.partition++;
    assert_int_equal(fp_redo_check(frame, len, &other), 0);
    other = expected;
    other.epoch_min++;
    assert_int_equal(fp_redo_check(frame, len, &other), 0);
    other.epoch_min = EPOCH - 1;
    assert_int_equal(fp_redo_check(frame, len, &other), len);
    free(frame);
}

/* Sealed with a good checksum by a peer that lies. */
static void records_that_cannot_be_applied_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum fp_redo_type type;
        unsigned order;
        uint32_t offset, len;
    } bad[] = {
        {FP_REDO_RANGE, 0, 4095, 2},
        {FP_REDO_RANGE, 0, UINT32_MAX, 8},
        {FP_REDO_RANGE, 0, 0, 0},
        {FP_REDO_RANGE, FARPOOL_ORDER_MAX + 1, 0, 8},
        {FP_REDO_ALLOC, 0, 1, 0},
        {FP_REDO_FREE, 0, 0, 8},
        {0, 0, 0, 8},
        {9, 0, 0, 8},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fp_redo_build build = {0};
        size_t len;
        assert_int_equal(fp_redo_add(&build, bad[i].type, 1, bad[i].order, bad[i].offset,
                                     "12345678", bad[i].len),
                         0);
        uint8_t *frame = frame_of(&build, header_now(&build), &len);
        assert_int_equal(fp_redo_check(frame, len, &expected), 0);
        fp_redo_frame header = header_now(&build);
        header.records++; /* one more than there are */
        free(frame);
        frame = frame_of(&build, header, &len);
        assert_int_equal(fp_redo_check(frame, len, &expected), 0);
        free(frame);
        fp_redo_build_fini(&build);
    }
}

static void an_owner_s_frame_is_empty(void **state)
{
    (void)state;
    fp_redo_build none = {0};
    fp_redo_frame header = header_now(&none);
    header.kind = FP_REDO_OWNER;
    size_t len;
    uint8_t *frame = frame_of(&none, header, &len);
    assert_int_equal(fp_redo_check(frame, len, &expected), sizeof header);
    free(frame);
    header.kind = 77;
    frame = frame_of(&none, header, &len);
    assert_int_equal(fp_redo_check(frame, len, &expected), 0);
    free(frame);
}

static void a_frame_has_a_largest_size(void **state)
{
    (void)state;
    static uint8_t page[FARPOOL_UNIT_BYTES << FARPOOL_ORDER_MAX];
    fp_redo_build build = {0};
    int rc = 0;
    unsigned pages = 0;
    while (!rc) {
        rc = fp_redo_add(&build, FP_REDO_RANGE, pages, FARPOOL_ORDER_MAX, 0, page, sizeof page);
        pages += !rc;
    }
    assert_int_equal(rc, FARPOOL_E_TOO_BIG);
    assert_int_equal(build.records, pages);
    size_t len;
    uint8_t *frame = frame_of(&build, header_now(&build), &len);
    assert_int_equal(fp_redo_check(frame, len, &expected), len);
    free(frame);
    fp_redo_build_reset(&build);
    assert_int_equal(fp_redo_add(&build, FP_REDO_RANGE, 1, 0, 0, page, 8), 0);
    fp_redo_build_fini(&build);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_come_back),
        cmocka_unit_test(every_damaged_bit_is_the_end),
        cmocka_unit_test(others_are_the_end),
        cmocka_unit_test(records_that_cannot_be_applied_are_refused),
        cmocka_unit_test(an_owner_s_frame_is_empty),
        cmocka_unit_test(a_frame_has_a_largest_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
