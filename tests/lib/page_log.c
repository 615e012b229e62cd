/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/page_log.h"

#include <stdlib.h>
#include <string.h>

#include "tests/lib/require.h"

void page_log_open(page_log *pages, uint64_t partition, uint64_t start, uint64_t seed)
{
    *pages = (page_log){.random = seed * 0x9e3779b97f4a7c15 + 1};
    wal_log_open(&pages->log, partition, start);
}

void page_log_close(page_log *pages)
{
    wal_log_close(&pages->log);
    free(pages->changes);
}

uint64_t page_log_pid(unsigned i) { return (uint64_t)i << PAGE_LOG_ORDER_MAX; }

static uint64_t draw(page_log *pages, uint64_t below)
{
    pages->random ^= pages->random << 13;
    pages->random ^= pages->random >> 7;
    pages->random ^= pages->random << 17;
    return (pages->random >> 11) % below;
}

/* ---- what pages are -------------------------------------------------------------------------- */

bool page_log_page(const page_log *pages, uint64_t pid, uint64_t lsn, uint8_t *page,
                   unsigned *order)
{
    bool there = false;
    for (size_t i = 0; i < pages->count && pages->changes[i].lsn <= lsn; i++) {
        fp_redo_record record;
        if (pages->changes[i].pid != pid)
            continue;
        const uint8_t *at = pages->log.bytes + pages->changes[i].at;
        memcpy(&record, at, sizeof record);
        there = fp_redo_type(&record) != FP_REDO_FREE;
        if (fp_redo_type(&record) == FP_REDO_ALLOC) {
            *order = fp_redo_order(&record);
            memset(page, 0, (size_t)FARPOOL_UNIT_BYTES << *order);
        } else if (there) {
            memcpy(page + record.offset, at + sizeof record, record.len);
        }
    }
    return there;
}

/* The order of a page as it is after what was put together so far, or -1. */
static int order_now(const page_log *pages, const fp_redo_build *build, uint64_t pid)
{
    static uint8_t page[PAGE_LOG_BYTES_MAX];
    unsigned order = 0;
    int result = page_log_page(pages, pid, UINT64_MAX, page, &order) ? (int)order : -1;
    for (size_t at = 0; at < build->len;) {
        fp_redo_record record;
        memcpy(&record, build->bytes + at, sizeof record);
        at += sizeof record + fp_redo_pad(record.len);
        if (fp_redo_pid(&record) == pid)
            result = fp_redo_type(&record) == FP_REDO_FREE ? -1 : (int)fp_redo_order(&record);
    }
    return result;
}

/* ---- making them ----------------------------------------------------------------------------- */

static void change(page_log *pages, fp_redo_build *build, uint64_t pid)
{
    static uint8_t data[PAGE_LOG_BYTES_MAX];
    int order = order_now(pages, build, pid);
    if (order < 0) {
        order = (int)(draw(pages, 4) ? 0 : draw(pages, PAGE_LOG_ORDER_MAX + 1));
        REQUIRE(!fp_redo_add(build, FP_REDO_ALLOC, pid, (unsigned)order, 0, NULL, 0));
    } else if (!draw(pages, 12)) {
        REQUIRE(!fp_redo_add(build, FP_REDO_FREE, pid, (unsigned)order, 0, NULL, 0));
        return;
    }
    uint32_t bytes = FARPOOL_UNIT_BYTES << order;
    uint32_t len = 1 + (uint32_t)draw(pages, draw(pages, 10) ? 300 : bytes);
    uint32_t offset = (uint32_t)draw(pages, bytes - len + 1);
    memset(data, (int)draw(pages, 256), len);
    data[0] = (uint8_t)draw(pages, 256);
    REQUIRE(!fp_redo_add(build, FP_REDO_RANGE, pid, (unsigned)order, offset, data, len));
}

static void note_changes(page_log *pages, uint64_t from)
{
    const uint8_t *frame = pages->log.bytes + from;
    fp_redo_walk walk = fp_redo_walk_start(frame);
    fp_redo_record record;
    const void *data;
    while (fp_redo_walk_next(&walk, &record, &data)) {
        if (pages->count == pages->room) {
            pages->room = 2 * pages->room + 256;
            pages->changes = realloc(pages->changes, pages->room * sizeof *pages->changes);
            REQUIRE(pages->changes);
        }
        size_t at = (size_t)((const uint8_t *)data - pages->log.bytes) - sizeof record;
        pages->changes[pages->count++] =
            (page_change){.lsn = pages->log.end, .at = at, .pid = fp_redo_pid(&record)};
    }
}

void page_log_frames_of(page_log *pages, uint64_t epoch, unsigned frames, unsigned first,
                        unsigned count)
{
    fp_redo_build build = {0};
    while (frames--) {
        uint64_t from = pages->log.end;
        fp_redo_build_reset(&build);
        for (uint64_t n = draw(pages, 20) ? 1 + draw(pages, 4) : 0; n; n--)
            change(pages, &build, page_log_pid(first + (unsigned)draw(pages, count)));
        wal_log_add(&pages->log, epoch, &build);
        note_changes(pages, from);
    }
    fp_redo_build_fini(&build);
}

void page_log_frames(page_log *pages, uint64_t epoch, unsigned frames)
{
    page_log_frames_of(pages, epoch, frames, 0, PAGE_LOG_PAGES);
}

void page_log_truncate(page_log *pages, uint64_t lsn)
{
    wal_log_truncate(&pages->log, lsn);
    while (pages->count && pages->changes[pages->count - 1].lsn > lsn)
        pages->count--;
}
