/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mini-transactions: changes to several pages that reach the redo log together or not at all.
 *
 * Every page that is fixed stays latched until the end. Commit turns what has changed into records (by
 * comparing each page with the copy made when it was fixed, or as the caller declared it), appends them
 * as one frame, notes the frame's end as the LSN of each changed page, and lets go of the latches: so
 * whoever sees a change sees it after its frame has its place in the log. Only then does it wait, if it
 * is to wait at all. If the frame can't be appended everything is put back as it was.
 *
 * In a partition without a redo log the same happens without the log.
 */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "compute/keeper.h"
#include "compute/page.h"
#include "compute/redo_log.h"
#include "compute/space.h"

enum {
    RANGE_GAP =
        24, /* equal bytes between two changed ranges that are cheaper logged than skipped */
    COMPARED_AT = 256 /* bytes compared in one go where nothing has changed */
};

typedef struct mtr_page {
    farpool_pid pid;
    unsigned order;
    bool is_new, freed, changed;
    bool declared;   /* its changes are told, not found */
    uint8_t *page;   /* latched */
    uint8_t *before; /* the whole page; NULL if declared or new */
} mtr_page;

/* A range that was declared, as it was before. */
typedef struct mtr_range {
    unsigned page; /* index */
    uint32_t offset, len;
    uint8_t *before;
} mtr_range;

enum { FEW = 4 };

struct farpool_mtr { /* one thread's */
    farpool_partition *partition;
    bool copies; /* of pages are made: to find changes, or to undo them */
    mtr_page few[FEW], *pages;
    unsigned page_count, page_room;
    mtr_range *ranges;
    unsigned range_count, range_room;
    fp_redo_build build;
};

static __attribute__((cold)) int refuse_read_only(const farpool_partition *partition)
{
    return fp_error(FARPOOL_E_READONLY,
                    "partition %llu is read-only: the coordinators say so (farpoolctl partition "
                    "read-write)",
                    (unsigned long long)partition->id);
}

int farpool_mtr_begin(farpool_partition *partition, unsigned flags, farpool_mtr **out)
{
    if (__builtin_expect(atomic_load_explicit(&partition->read_only, memory_order_relaxed), 0))
        return refuse_read_only(partition);
    int rc = partition->redo ? fp_keeper_wait_room(partition->redo->keeper) : 0;
    if (rc)
        return rc;
    farpool_mtr *mtr = malloc(sizeof *mtr);
    if (!mtr)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a mini-transaction");
    mtr->partition = partition;
    mtr->copies = partition->redo || !(flags & FARPOOL_MTR_NO_UNDO);
    mtr->pages = mtr->few;
    mtr->page_count = 0;
    mtr->page_room = FEW;
    mtr->ranges = NULL;
    mtr->range_count = mtr->range_room = 0;
    mtr->build = (fp_redo_build){0};
    *out = mtr;
    return 0;
}

static void finish(farpool_mtr *mtr)
{
    for (unsigned i = 0; i < mtr->page_count; i++)
        free(mtr->pages[i].before);
    for (unsigned i = 0; i < mtr->range_count; i++)
        free(mtr->ranges[i].before);
    if (mtr->pages != mtr->few)
        free(mtr->pages);
    free(mtr->ranges);
    fp_redo_build_fini(&mtr->build);
    free(mtr);
}

/* Room for one more page; the array may have moved. */
static int grow_pages(farpool_mtr *mtr)
{
    if (mtr->page_count < mtr->page_room)
        return 0;
    FP_ASSERT(mtr->page_room >= FEW);
    bool first = mtr->pages == mtr->few;
    unsigned room = mtr->page_room * 2;
    mtr_page *grown = realloc(first ? NULL : mtr->pages, room * sizeof *grown);
    if (!grown)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a mini-transaction of %u pages", room);
    if (first)
        memcpy(grown, mtr->few, sizeof mtr->few);
    mtr->pages = grown;
    mtr->page_room = room;
    return 0;
}

static int grow_ranges(farpool_mtr *mtr)
{
    if (mtr->range_count < mtr->range_room)
        return 0;
    unsigned room = mtr->range_room ? mtr->range_room * 2 : FEW;
    mtr_range *grown = realloc(mtr->ranges, room * sizeof *grown);
    if (!grown)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a mini-transaction of %u ranges", room);
    mtr->ranges = grown;
    mtr->range_room = room;
    return 0;
}

static mtr_page *find(const farpool_mtr *mtr, farpool_pid pid)
{
    for (unsigned i = mtr->page_count; i-- > 0;)
        if (mtr->pages[i].pid == pid && !mtr->pages[i].freed)
            return &mtr->pages[i];
    return NULL;
}

static size_t page_bytes(const mtr_page *page) { return (size_t)FARPOOL_UNIT_BYTES << page->order; }

/* ---- fixing ---------------------------------------------------------------------------------- */

/* Room for the page and its copy first, so that nothing can fail once it is latched. The order is known
 * only then; it is checked again. */
static int prepare(farpool_mtr *mtr, unsigned order, bool declared, uint8_t **before)
{
    *before = NULL;
    int rc = grow_pages(mtr);
    if (rc || declared || !mtr->copies)
        return rc;
    *before = malloc((size_t)FARPOOL_UNIT_BYTES << order);
    return *before ? 0 : fp_error(FARPOOL_E_NOMEM, "no memory for the copy of a page");
}

/* The page is latched now. */
static int note(farpool_mtr *mtr, farpool_pid pid, void *page, unsigned guess, bool declared,
                uint8_t *before)
{
    mtr_page added = {.pid = pid,
                      .order = farpool_page_order(mtr->partition, pid),
                      .declared = declared,
                      .page = page,
                      .before = before};
    if (before && added.order > guess) { /* freed and allocated anew, larger, since we looked */
        free(before);
        added.before = malloc(page_bytes(&added));
        if (!added.before) {
            fp_page_leave(mtr->partition, pid, false);
            return fp_error(FARPOOL_E_NOMEM, "no memory for the copy of a page");
        }
    }
    if (added.before)
        memcpy(added.before, page, page_bytes(&added));
    mtr->pages[mtr->page_count++] = added;
    return 0;
}

/* version: of the optimistic read that the latch is taken from; NULL: it is waited for. */
static int latch(farpool_mtr *mtr, farpool_pid pid, bool declared, const uint64_t *version,
                 void **page)
{
    uint8_t *before;
    unsigned order = farpool_page_order(mtr->partition, pid);
    int rc = prepare(mtr, order, declared, &before);
    if (rc)
        return rc;
    rc = version ? fp_page_upgrade(mtr->partition, pid, *version, page)
                 : fp_page_fix_exclusive(mtr->partition, pid, page);
    if (rc) {
        free(before);
        return rc;
    }
    return note(mtr, pid, *page, order, declared, before);
}

static int fix(farpool_mtr *mtr, farpool_pid pid, bool declared, void **page)
{
    const mtr_page *known = find(mtr, pid);
    if (!known)
        return latch(mtr, pid, declared, NULL, page);
    *page = known->page;
    return 0;
}

int farpool_mtr_fix(farpool_mtr *mtr, farpool_pid pid, void **page)
{
    return fix(mtr, pid, false, page);
}

int farpool_mtr_fix_declared(farpool_mtr *mtr, farpool_pid pid, void **page)
{
    return fix(mtr, pid, true, page);
}

int farpool_mtr_upgrade(farpool_mtr *mtr, farpool_pid pid, uint64_t version, void **page)
{
    return latch(mtr, pid, false, &version, page);
}

int farpool_mtr_declare(farpool_mtr *mtr, farpool_pid pid, uint32_t offset, uint32_t len)
{
    mtr_page *page = find(mtr, pid);
    if (!page || !len || offset + (uint64_t)len > page_bytes(page))
        return fp_error(FARPOOL_E_INVAL,
                        "bytes %u to %llu of page %llu declared: not fixed, or not in the page",
                        offset, (unsigned long long)offset + len, (unsigned long long)pid);
    if (!page->declared)
        return 0; /* its changes are found anyway */
    int rc = grow_ranges(mtr);
    if (rc)
        return rc;
    mtr_range range = {.page = (unsigned)(page - mtr->pages), .offset = offset, .len = len};
    range.before = malloc(len);
    if (!range.before)
        return fp_error(FARPOOL_E_NOMEM, "no memory for the copy of %u bytes", len);
    memcpy(range.before, page->page + offset, len);
    mtr->ranges[mtr->range_count++] = range;
    return 0;
}

static void put_back(farpool_mtr *mtr, const mtr_page *page)
{
    /* Backwards: of ranges that overlap, the oldest wins. */
    for (unsigned i = mtr->range_count; i-- > 0;) {
        const mtr_range *range = &mtr->ranges[i];
        if (&mtr->pages[range->page] == page)
            memcpy(page->page + range->offset, range->before, range->len);
    }
    if (page->before)
        memcpy(page->page, page->before, page_bytes(page));
    fp_page_leave(mtr->partition, page->pid, false);
}

/* Forgets the page at this index, and its ranges; the last one takes its place. */
static void forget(farpool_mtr *mtr, unsigned index)
{
    unsigned last = --mtr->page_count, kept = 0;
    free(mtr->pages[index].before);
    mtr->pages[index] = mtr->pages[last];
    for (unsigned i = 0; i < mtr->range_count; i++) {
        mtr_range range = mtr->ranges[i];
        if (range.page == index) {
            free(range.before);
            continue;
        }
        if (range.page == last)
            range.page = index;
        mtr->ranges[kept++] = range;
    }
    mtr->range_count = kept;
}

void farpool_mtr_unfix(farpool_mtr *mtr, farpool_pid pid)
{
    mtr_page *page = find(mtr, pid);
    FP_ASSERT(page && !page->is_new);
    put_back(mtr, page);
    forget(mtr, (unsigned)(page - mtr->pages));
}

int farpool_mtr_alloc(farpool_mtr *mtr, unsigned order, farpool_pid *pid, void **page)
{
    uint8_t *none;
    int rc = prepare(mtr, order, true, &none);
    if (!rc)
        rc = fp_page_alloc(mtr->partition, order, pid, page);
    if (rc)
        return rc;
    mtr->pages[mtr->page_count++] =
        (mtr_page){.pid = *pid, .order = order, .is_new = true, .page = *page};
    return 0;
}

int farpool_mtr_free(farpool_mtr *mtr, farpool_pid pid)
{
    void *page;
    int rc = fix(mtr, pid, true, &page);
    if (!rc)
        find(mtr, pid)->freed = true;
    return rc;
}

/* ---- what has changed ------------------------------------------------------------------------ */

static const uint8_t zeros[COMPARED_AT];

/* What byte i was before: a new page was zero. */
static const uint8_t *was(const mtr_page *page, size_t i)
{
    return page->before ? page->before + i : zeros + i % COMPARED_AT;
}

static size_t skip_equal(const mtr_page *page, size_t at)
{
    size_t bytes = page_bytes(page);
    while (at < bytes) {
        size_t chunk = COMPARED_AT - at % COMPARED_AT;
        if (!memcmp(page->page + at, was(page, at), chunk)) {
            at += chunk;
            continue;
        }
        while (page->page[at] == *was(page, at))
            at++;
        return at;
    }
    return bytes;
}

/* The end of the changed range that begins at `at`. */
static size_t changed_until(const mtr_page *page, size_t at)
{
    size_t bytes = page_bytes(page), end = at + 1;
    for (size_t i = end; i < bytes && i < end + RANGE_GAP; i++)
        if (page->page[i] != *was(page, i))
            end = i + 1;
    return end;
}

static int add_found(farpool_mtr *mtr, mtr_page *page)
{
    size_t bytes = page_bytes(page);
    for (size_t at = skip_equal(page, 0); at < bytes;) {
        size_t end = changed_until(page, at);
        int rc = fp_redo_add(&mtr->build, FP_REDO_RANGE, page->pid, page->order, (uint32_t)at,
                             page->page + at, (uint32_t)(end - at));
        if (rc)
            return rc;
        page->changed = true;
        at = skip_equal(page, end);
    }
    return 0;
}

static int add_declared(farpool_mtr *mtr, mtr_page *page)
{
    for (unsigned i = 0; i < mtr->range_count; i++) {
        const mtr_range *range = &mtr->ranges[i];
        if (&mtr->pages[range->page] != page)
            continue;
        int rc = fp_redo_add(&mtr->build, FP_REDO_RANGE, page->pid, page->order, range->offset,
                             page->page + range->offset, range->len);
        if (rc)
            return rc;
        page->changed = true;
    }
    return 0;
}

static int add_page(farpool_mtr *mtr, mtr_page *page)
{
    page->changed = page->is_new;
    if (!mtr->partition->redo) {
        page->changed = !page->before || memcmp(page->page, page->before, page_bytes(page)) != 0;
        return 0;
    }
    if (page->is_new && page->freed)
        return 0;
    if (page->freed)
        return fp_redo_add(&mtr->build, FP_REDO_FREE, page->pid, page->order, 0, NULL, 0);
    int rc = 0;
    if (page->is_new)
        rc = fp_redo_add(&mtr->build, FP_REDO_ALLOC, page->pid, page->order, 0, NULL, 0);
    if (rc)
        return rc;
    return page->declared ? add_declared(mtr, page) : add_found(mtr, page);
}

/* ---- the end --------------------------------------------------------------------------------- */

void farpool_mtr_abandon(farpool_mtr *mtr)
{
    for (unsigned i = 0; i < mtr->page_count; i++) {
        const mtr_page *page = &mtr->pages[i];
        if (page->is_new)
            fp_page_free(mtr->partition, page->pid);
        else
            put_back(mtr, page);
    }
    finish(mtr);
}

/* Latches are let go of; changed pages get the LSN. */
static void let_go(farpool_mtr *mtr, uint64_t lsn)
{
    for (unsigned i = 0; i < mtr->page_count; i++) {
        const mtr_page *page = &mtr->pages[i];
        if (page->freed) {
            fp_page_free(mtr->partition, page->pid);
            continue;
        }
        if (page->changed && lsn)
            fp_page_note_lsn(mtr->partition, page->pid, lsn);
        fp_page_leave(mtr->partition, page->pid, page->changed);
    }
}

/* ---- the map of the page space --------------------------------------------------------------- */

static bool changes_map(const mtr_page *page) { return page->is_new != page->freed; }

/* The first map page behind `after` that has to be changed for the first `count` pages. */
static farpool_pid next_map(const farpool_mtr *mtr, unsigned count, farpool_pid after)
{
    farpool_pid next = FARPOOL_PID_NONE;
    for (unsigned i = 0; i < count; i++) {
        farpool_pid map = fp_map_of(mtr->pages[i].pid);
        if (changes_map(&mtr->pages[i]) && (after == FARPOOL_PID_NONE || map > after) && map < next)
            next = map;
    }
    return next;
}

/* Fixes the map pages of all pages that come or go, and changes them. */
static int change_maps(farpool_mtr *mtr)
{
    unsigned count = mtr->page_count; /* map pages come behind them */
    farpool_pid map = FARPOOL_PID_NONE;
    while ((map = next_map(mtr, count, map)) != FARPOOL_PID_NONE) {
        void *bytes;
        int rc = fix(mtr, map, true, &bytes);
        for (unsigned i = 0; i < count && !rc; i++) {
            const mtr_page *page = &mtr->pages[i];
            if (!changes_map(page) || fp_map_of(page->pid) != map)
                continue;
            rc = farpool_mtr_declare(mtr, map, (uint32_t)(page->pid - map), 1);
            if (!rc)
                ((uint8_t *)bytes)[page->pid - map] = page->is_new ? (uint8_t)(page->order + 1) : 0;
        }
        if (rc)
            return rc;
    }
    return 0;
}

int farpool_mtr_commit(farpool_mtr *mtr, enum farpool_durability durability, uint64_t *lsn_out)
{
    farpool_partition *partition = mtr->partition;
    uint64_t lsn = 0;
    int rc = partition->redo ? change_maps(mtr) : 0;
    for (unsigned i = 0; i < mtr->page_count && !rc; i++)
        rc = add_page(mtr, &mtr->pages[i]);
    if (!rc && partition->redo && mtr->build.records)
        rc = fp_redo_append(partition->redo, FP_REDO_MTR, &mtr->build, &lsn);
    if (rc) {
        farpool_mtr_abandon(mtr);
    } else {
        FP_FAULT_POINT(MTR_APPENDED);
        let_go(mtr, lsn);
        finish(mtr);
    }
    if (lsn_out)
        *lsn_out = lsn;
    return rc ? rc : farpool_wait_durable(partition, lsn, durability);
}

int farpool_wait_durable(farpool_partition *partition, uint64_t lsn,
                         enum farpool_durability durability)
{
    fp_redo_log *redo = partition->redo;
    if (!redo || durability == FARPOOL_DURABLE_LATER)
        return 0;
    if (lsn == UINT64_MAX)
        lsn = atomic_load_explicit(&redo->end, memory_order_acquire);
    int rc = fp_redo_flush(redo, lsn);
    if (!rc && durability == FARPOOL_DURABLE_STORAGE)
        rc = fp_keeper_wait_stored(redo->keeper, lsn, 0);
    return rc;
}
