/* SPDX-License-Identifier: Apache-2.0 */
#include "common/redo.h"

#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "common/error.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "frames are written as they lie in memory");

enum { BUILD_BYTES_MIN = 4096 };

static int make_room(fp_redo_build *build, size_t more)
{
    size_t needed = build->len + more;
    if (needed > FP_REDO_FRAME_BYTES_MAX - sizeof(fp_redo_frame))
        return fp_error(FARPOOL_E_TOO_BIG,
                        "a mini-transaction with more than %d MiB of changes: make several",
                        FP_REDO_FRAME_BYTES_MAX >> 20);
    if (needed <= build->room)
        return 0;
    size_t room = build->room ? build->room : BUILD_BYTES_MIN;
    while (room < needed)
        room *= 2;
    uint8_t *grown = realloc(build->bytes, room);
    if (!grown)
        return fp_error(FARPOOL_E_NOMEM, "no memory for %zu bytes of redo", room);
    build->bytes = grown;
    build->room = room;
    return 0;
}

int fp_redo_add(fp_redo_build *build, enum fp_redo_type type, uint64_t pid, unsigned order,
                uint32_t offset, const void *data, uint32_t len)
{
    size_t padded = fp_redo_pad(len);
    int rc = make_room(build, sizeof(fp_redo_record) + padded);
    if (rc)
        return rc;
    fp_redo_record record = {
        .page = pid | (uint64_t)order << 48 | (uint64_t)type << 56, .offset = offset, .len = len};
    uint8_t *at = build->bytes + build->len;
    memcpy(at, &record, sizeof record);
    at += sizeof record;
    if (len)
        memcpy(at, data, len);
    memset(at + len, 0, padded - len);
    build->len += sizeof record + padded;
    build->records++;
    return 0;
}

void fp_redo_build_reset(fp_redo_build *build)
{
    build->len = 0;
    build->records = 0;
}

void fp_redo_build_fini(fp_redo_build *build)
{
    free(build->bytes);
    *build = (fp_redo_build){0};
}

uint32_t fp_redo_build_crc(const fp_redo_build *build)
{
    return fp_crc32c(0, build->bytes, build->len);
}

static uint32_t header_crc(uint32_t records_crc, const fp_redo_frame *frame)
{
    return fp_crc32c(records_crc, &frame->len, sizeof *frame - offsetof(fp_redo_frame, len));
}

void fp_redo_seal(fp_redo_frame *frame, uint32_t records_crc, size_t records_bytes)
{
    frame->len = (uint32_t)(sizeof *frame + records_bytes);
    frame->crc = header_crc(records_crc, frame);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool record_fits(const fp_redo_record *record, size_t left)
{
    unsigned order = fp_redo_order(record);
    if (order > FARPOOL_ORDER_MAX || fp_redo_pad(record->len) > left)
        return false;
    uint64_t page_bytes = (uint64_t)FARPOOL_UNIT_BYTES << order;
    switch (fp_redo_type(record)) {
    case FP_REDO_RANGE:
        return record->len && record->offset + (uint64_t)record->len <= page_bytes;
    case FP_REDO_ALLOC:
    case FP_REDO_FREE:
        return !record->len && !record->offset;
    default:
        return false;
    }
}

static bool records_fit(const uint8_t *at, size_t left, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        fp_redo_record record;
        if (left < sizeof record)
            return false;
        memcpy(&record, at, sizeof record);
        left -= sizeof record;
        if (!record_fits(&record, left))
            return false;
        at += sizeof record + fp_redo_pad(record.len);
        left -= fp_redo_pad(record.len);
    }
    return left == 0;
}

size_t fp_redo_needed(const void *data, size_t available, const fp_redo_expect *expect)
{
    fp_redo_frame frame;
    if (available < sizeof frame)
        return sizeof frame;
    memcpy(&frame, data, sizeof frame);
    if (frame.lsn != expect->lsn || frame.partition != expect->partition ||
        frame.epoch < expect->epoch_min || frame.len < sizeof frame ||
        frame.len > FP_REDO_FRAME_BYTES_MAX || frame.len % FP_REDO_ALIGN ||
        (frame.kind != FP_REDO_MTR && frame.kind != FP_REDO_OWNER))
        return 0;
    return frame.len;
}

size_t fp_redo_check(const void *data, size_t available, const fp_redo_expect *expect)
{
    size_t needed = fp_redo_needed(data, available, expect);
    if (!needed || needed > available)
        return 0;
    fp_redo_frame frame;
    memcpy(&frame, data, sizeof frame);
    const uint8_t *records = (const uint8_t *)data + sizeof frame;
    size_t bytes = frame.len - sizeof frame;
    if (header_crc(fp_crc32c(0, records, bytes), &frame) != frame.crc)
        return 0;
    bool fits = frame.kind == FP_REDO_OWNER ? !bytes : records_fit(records, bytes, frame.records);
    return fits ? frame.len : 0;
}

fp_redo_walk fp_redo_walk_start(const void *data)
{
    fp_redo_frame frame;
    memcpy(&frame, data, sizeof frame);
    const uint8_t *start = data;
    return (fp_redo_walk){.at = start + sizeof frame, .end = start + frame.len};
}

bool fp_redo_walk_next(fp_redo_walk *walk, fp_redo_record *record, const void **data)
{
    if (walk->at == walk->end)
        return false;
    memcpy(record, walk->at, sizeof *record);
    *data = walk->at + sizeof *record;
    walk->at += sizeof *record + fp_redo_pad(record->len);
    return true;
}
