/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that whatever bytes a log ring holds, reading them stays within them and ends, that what is accepted is a
 * frame as expected whose records lie in it one behind the other and fit their pages, and that no byte of it can
 * change without its being refused. An input is a header's fields and records; half of the inputs are sealed with a
 * good checksum, as by a peer that lies.
 */
#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "common/redo.h"
#include "tests/lib/fuzz.h"

enum { PARTITION = 3, EPOCH = 5, LSN = 640 };

const unsigned fuzz_runs = 300000;

static const fp_redo_expect expected = {.partition = PARTITION, .lsn = LSN, .epoch_min = EPOCH};

/* A copy that ends where its memory does, so that a sanitizer sees what reads behind it. */
static uint8_t *copy_of(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    FUZZ_CHECK(copy);
    if (len)
        memcpy(copy, data, len);
    return copy;
}

static void check_record(const fp_redo_record *record)
{
    uint64_t page_bytes = (uint64_t)FARPOOL_UNIT_BYTES << fp_redo_order(record);
    unsigned type = fp_redo_type(record);
    FUZZ_CHECK(fp_redo_order(record) <= FARPOOL_ORDER_MAX);
    FUZZ_CHECK(type == FP_REDO_RANGE || type == FP_REDO_ALLOC || type == FP_REDO_FREE);
    FUZZ_CHECK((type == FP_REDO_RANGE) == (record->len > 0));
    FUZZ_CHECK(record->offset + (uint64_t)record->len <= page_bytes);
}

static void check_accepted(uint8_t *frame, size_t len, size_t available)
{
    fp_redo_frame header;
    memcpy(&header, frame, sizeof header);
    FUZZ_CHECK(len <= available && len == header.len && len % FP_REDO_ALIGN == 0);
    FUZZ_CHECK(header.lsn == LSN && header.partition == PARTITION && header.epoch >= EPOCH);
    fp_redo_walk walk = fp_redo_walk_start(frame);
    fp_redo_record record;
    const void *data;
    const uint8_t *at = frame + sizeof header;
    uint32_t records = 0;
    while (fp_redo_walk_next(&walk, &record, &data)) {
        FUZZ_CHECK((const uint8_t *)data == at + sizeof record);
        check_record(&record);
        at = (const uint8_t *)data + fp_redo_pad(record.len);
        FUZZ_CHECK(at <= frame + len);
        records++;
    }
    FUZZ_CHECK(at == frame + len);
    FUZZ_CHECK(records == (header.kind == FP_REDO_OWNER ? 0 : header.records));
    size_t spoilt = header.crc % len;
    frame[spoilt] ^= 1;
    FUZZ_CHECK(fp_redo_check(frame, available, &expected) == 0);
    frame[spoilt] ^= 1;
}

/* As a reader of a ring does: it asks what is needed and reads on until that is there. */
static void read_as_a_ring(const uint8_t *data, size_t len)
{
    size_t available = 0, steps = 0;
    for (;;) {
        uint8_t *part = copy_of(data, available);
        size_t needed = fp_redo_needed(part, available, &expected);
        size_t found =
            needed && needed <= available ? fp_redo_check(part, available, &expected) : 0;
        if (found)
            check_accepted(part, found, available);
        else
            FUZZ_CHECK(fp_redo_check(part, available, &expected) == 0);
        free(part);
        if (needed <= available || needed > len)
            return;
        FUZZ_CHECK(needed <= FP_REDO_FRAME_BYTES_MAX && ++steps <= 2);
        available = needed;
    }
}

/* The first byte says whether the rest is made a frame of the right length with a good checksum. */
void fuzz_one(const uint8_t *data, size_t len)
{
    if (!len)
        return;
    bool sealed = data[0] % 2;
    uint8_t *frame = copy_of(data + 1, --len);
    if (sealed && len >= sizeof(fp_redo_frame)) {
        fp_redo_frame header;
        memcpy(&header, frame, sizeof header);
        size_t records = (len - sizeof header) & ~(size_t)(FP_REDO_ALIGN - 1);
        fp_redo_seal(&header, fp_crc32c(0, frame + sizeof header, records), records);
        memcpy(frame, &header, sizeof header);
    }
    uint8_t *whole = copy_of(frame, len);
    size_t found = fp_redo_check(whole, len, &expected);
    if (found)
        check_accepted(whole, found, len);
    free(whole);
    read_as_a_ring(frame, len);
    free(frame);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

static void add_record(uint64_t *random, fp_redo_build *build)
{
    static const uint8_t bytes[1 << 12] = {1, 2, 3};
    static const uint32_t lens[] = {0, 1, 7, 8, 9, 40, 100, 4096};
    static const uint32_t offsets[] = {0, 0, 8, 4088, 4095, 4096, 1 << 21, UINT32_MAX};
    uint64_t r = test_random(random);
    enum fp_redo_type type = (enum fp_redo_type)(1 + (r & 15) % 4);
    bool range = type == FP_REDO_RANGE || (r >> 4) % 16 == 0;
    uint32_t len = range ? lens[(r >> 8) % 8] : 0, offset = range ? offsets[(r >> 12) % 8] : 0;
    unsigned order = (r >> 16) % 4 ? (unsigned)(r >> 20) % 4 : (unsigned)(r >> 20) % 16;
    FUZZ_CHECK(!fp_redo_add(build, type, r >> 32, order, offset, bytes, len));
}

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    uint64_t r = test_random(random);
    fp_redo_build build = {0};
    for (uint64_t n = (r >> 8) % 4; n; n--)
        add_record(random, &build);
    fp_redo_frame header = {.lsn = LSN,
                            .epoch = EPOCH + (r >> 16) % 2,
                            .partition = PARTITION,
                            .kind = (r >> 20) % 4 ? FP_REDO_MTR : (uint32_t)(r >> 24) % 4,
                            .records = build.records + ((r >> 28) % 8 == 0)};
    fp_redo_seal(&header, fp_redo_build_crc(&build), build.len);
    size_t len = 1 + sizeof header + build.len;
    FUZZ_CHECK(len <= capacity);
    data[0] = (uint8_t)r;
    memcpy(data + 1, &header, sizeof header);
    if (build.len)
        memcpy(data + 1 + sizeof header, build.bytes, build.len);
    fp_redo_build_fini(&build);
    return (r >> 32) % 4 ? 1 + fuzz_damage(random, data + 1, len - 1, capacity - 1) : len;
}
