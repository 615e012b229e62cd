/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/recovery.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "compute/page.h"
#include "compute/recovery_slab.h"
#include "compute/slab.h"
#include "compute/space.h"
#include "compute/storage.h"
#include "compute/thread.h"

enum { UNTOUCHED, OPENING, OPEN }; /* groups */

/* Where a record is in the log. */
typedef struct record_at {
    farpool_pid pid;
    uint64_t lsn;       /* of the record itself */
    uint64_t frame_end; /* what the page's LSN is afterwards */
    bool is_alloc;
    bool
        applied; /* guarded by the page's latch; set in the first record of a page, for all of it */
} record_at;

struct fp_recovery {
    record_at *records; /* by pid, then by LSN; immutable after open, but for applied */
    size_t count, room;
    uint64_t group_count;
    _Atomic uint64_t
        next_group; /* relaxed: those before it have been opened for what is free in them */
    /* atomic: UNTOUCHED becomes OPENING by CAS, that OPEN by release, or UNTOUCHED again on failure */
    _Atomic uint8_t *groups;
};

/* ---- the log, by page ------------------------------------------------------------------------ */

static int compare_records(const void *a, const void *b)
{
    const record_at *x = a, *y = b;
    if (x->pid != y->pid)
        return x->pid < y->pid ? -1 : 1;
    return (x->lsn > y->lsn) - (x->lsn < y->lsn);
}

static int add_record(fp_recovery *recovery, record_at record)
{
    if (recovery->count == recovery->room) {
        size_t room = recovery->room ? recovery->room * 2 : 4096;
        record_at *grown = realloc(recovery->records, room * sizeof *grown);
        if (!grown)
            return fp_error(FARPOOL_E_NOMEM, "recovery: no memory for a list of %zu records", room);
        recovery->records = grown;
        recovery->room = room;
    }
    recovery->records[recovery->count++] = record;
    return 0;
}

static int index_frame(fp_recovery *recovery, const fp_redo_log *log, uint64_t lsn, uint64_t end)
{
    while (lsn < end) {
        fp_redo_record record;
        fp_redo_copy_out(log, lsn, &record, sizeof record);
        if (fp_redo_pid(&record) >= log->partition->units)
            return fp_error(
                FARPOOL_E_CORRUPT,
                "partition %llu: the redo at LSN %llu is of page %llu; space_bytes allows "
                "%llu: it must be what it was",
                (unsigned long long)log->partition->id, (unsigned long long)lsn,
                (unsigned long long)fp_redo_pid(&record),
                (unsigned long long)log->partition->units);
        record_at at = {.pid = fp_redo_pid(&record), .lsn = lsn, .frame_end = end};
        at.is_alloc = fp_redo_type(&record) == FP_REDO_ALLOC;
        int rc = add_record(recovery, at);
        if (rc)
            return rc;
        lsn += sizeof record + fp_redo_pad(record.len);
    }
    return 0;
}

static int index_log(fp_recovery *recovery, const fp_redo_log *log)
{
    uint64_t end = atomic_load_explicit(&log->end, memory_order_relaxed);
    int rc = 0;
    for (uint64_t lsn = log->first; lsn < end && !rc;) {
        fp_redo_frame frame;
        fp_redo_copy_out(log, lsn, &frame, sizeof frame);
        rc = index_frame(recovery, log, lsn + sizeof frame, lsn + frame.len);
        lsn += frame.len;
    }
    if (!rc && recovery->count)
        qsort(recovery->records, recovery->count, sizeof *recovery->records, compare_records);
    return rc;
}

/* The first record of the page, or NULL. */
static record_at *first_record(const fp_recovery *recovery, farpool_pid pid)
{
    size_t low = 0, high = recovery->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (recovery->records[middle].pid < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return low < recovery->count && recovery->records[low].pid == pid ? &recovery->records[low]
                                                                      : NULL;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Notes the newest copy of each page at its entry, and takes its slot. */
static void place_copies(farpool_partition *partition, const fp_found_slots *found)
{
    for (size_t i = 0; i < found->count; i++) {
        const fp_found_slot *copy = &found->list[i];
        fp_entry *entry = &partition->entries[copy->pid];
        uint64_t word = atomic_load_explicit(&entry->word, memory_order_relaxed);
        if (word || !fp_slot_claim(partition, copy->slot, copy->order))
            continue; /* an older copy, or of a page that was freed before the slot was used again */
        atomic_store_explicit(&entry->slot, copy->slot, memory_order_relaxed);
        atomic_store_explicit(&entry->frame_or_crc, copy->page_crc, memory_order_relaxed);
        word = (uint64_t)copy->order << FP_WORD_ORDER_SHIFT | FP_WORD_DIRTY;
        atomic_store_explicit(&entry->word, word, memory_order_release);
    }
}

static farpool_pid last_pid(const fp_recovery *recovery, const fp_found_slots *found)
{
    farpool_pid last = recovery->count ? recovery->records[recovery->count - 1].pid : 0;
    for (size_t i = 0; i < found->count; i++)
        if (found->list[i].pid > last)
            last = found->list[i].pid;
    return last;
}

/* There may be pages of which neither log nor slabs know. */
static bool is_cut(const farpool_partition *partition)
{
    return partition->redo->first > FP_REDO_LSN_FIRST && fp_storage_count(partition);
}

/* The page space is as many units as it has, so its last ones are no whole block of the largest order. */
static unsigned largest_block(const farpool_partition *partition, uint64_t unit)
{
    unsigned order = FARPOOL_ORDER_MAX;
    while (unit + (1ull << order) > partition->units)
        order--;
    return order;
}

/* Until they are open, nothing of them is given out. */
static int close_groups(farpool_partition *partition, fp_recovery *recovery, farpool_pid last)
{
    if (is_cut(partition))
        last = partition->units - 1;
    recovery->group_count = last / FP_GROUP_UNITS + 1;
    recovery->groups = calloc(recovery->group_count, sizeof *recovery->groups);
    if (!recovery->groups)
        return fp_error(FARPOOL_E_NOMEM, "recovery: no memory for %llu groups",
                        (unsigned long long)recovery->group_count);
    uint64_t end = recovery->group_count * FP_GROUP_UNITS;
    for (uint64_t unit = 0; unit < end && unit < partition->units;) {
        unsigned order = largest_block(partition, unit);
        bool taken = fp_units_take(&partition->pids, unit, order);
        FP_ASSERT(taken); /* it is a new map, in which nothing was given out */
        unit += 1ull << order;
    }
    return 0;
}

int fp_recovery_open(farpool_partition *partition)
{
    fp_recovery *recovery = calloc(1, sizeof *recovery);
    fp_found_slots found = {0};
    if (!recovery)
        return fp_error(FARPOOL_E_NOMEM, "recovery: no memory for its structure");
    int rc = index_log(recovery, partition->redo);
    if (!rc)
        rc = fp_found_slots_read(partition, &found);
    if (!rc)
        rc = close_groups(partition, recovery, last_pid(recovery, &found));
    if (!rc)
        place_copies(partition, &found);
    FP_FAULT_POINT(RECOVER_PLACED);
    fp_found_slots_free(&found);
    if (rc) {
        fp_recovery_close(recovery);
        return rc;
    }
    partition->recovery = recovery;
    return 0;
}

void fp_recovery_close(fp_recovery *recovery)
{
    if (!recovery)
        return;
    free(recovery->records);
    free((void *)recovery->groups);
    free(recovery);
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* From FREE to EVICTED, if there is such a page: with a copy, or to begin as zeros. */
static int admit(farpool_partition *partition, farpool_pid pid, unsigned order)
{
    fp_entry *entry = &partition->entries[pid];
    uint64_t word = fp_word_load(entry);
    if (fp_word_state(word) != FP_FREE)
        return 0; /* by an attempt that failed later on */
    bool copy = (word & FP_WORD_DIRTY) != 0;
    uint32_t slot = atomic_load_explicit(&entry->slot, memory_order_relaxed);
    if (copy && fp_word_order(word) != order) { /* of an earlier page with this pid */
        fp_slot_free(partition, slot, fp_word_order(word));
        copy = false;
    }
    if (!copy) {
        int rc = fp_slot_take(partition, order, &slot);
        if (rc)
            return rc;
        atomic_store_explicit(&entry->slot, slot, memory_order_relaxed);
    }
    word = (uint64_t)order << FP_WORD_ORDER_SHIFT | (copy ? 0 : FP_WORD_DIRTY);
    atomic_store_explicit(&entry->word, fp_word_with_state(word, FP_EVICTED), memory_order_release);
    return 0;
}

/* No page begins here: what a slot and the log have of an earlier one is not for a later one. */
static void forget(farpool_partition *partition, farpool_pid unit)
{
    fp_entry *entry = &partition->entries[unit];
    uint64_t word = fp_word_load(entry);
    record_at *first = first_record(partition->recovery, unit);
    if (first)
        first->applied = true;
    if (fp_word_state(word) == FP_FREE && (word & FP_WORD_DIRTY)) {
        fp_slot_free(partition, atomic_load_explicit(&entry->slot, memory_order_relaxed),
                     fp_word_order(word));
        atomic_store_explicit(&entry->word, 0, memory_order_release);
    }
}

/* Twice: first those that are there, which may fail and be done again, then the units that are free. */
static int admit_group(farpool_partition *partition, farpool_pid map, const uint8_t *bytes)
{
    for (farpool_pid u = 1; u < FP_GROUP_UNITS && map + u < partition->units; u++) {
        int rc = 0;
        if (bytes[u] > partition->order_max + 1 ||
            u + (bytes[u] ? 1u << (bytes[u] - 1) : 0) > FP_GROUP_UNITS)
            rc = fp_error(FARPOOL_E_CORRUPT, "partition %llu: map page %llu says %u of unit %llu",
                          (unsigned long long)partition->id, (unsigned long long)map, bytes[u],
                          (unsigned long long)u);
        else if (bytes[u])
            rc = admit(partition, map + u, bytes[u] - 1u);
        if (rc)
            return rc;
    }
    farpool_pid page_end = 1;
    for (farpool_pid u = 1; u < FP_GROUP_UNITS && map + u < partition->units; u++) {
        if (bytes[u])
            page_end = u + (1u << (bytes[u] - 1));
        else
            forget(partition, map + u);
        if (u >= page_end)
            fp_units_free(&partition->pids, map + u, 0);
    }
    return 0;
}

static int probe(farpool_partition *partition, farpool_pid map)
{
    fp_thread *thread = fp_thread_get(partition->pool);
    if (!thread)
        return FARPOOL_E_BUSY;
    fp_thread_own(thread);
    int rc = fp_storage_probe(thread, partition, map, partition->redo->first);
    fp_thread_disown(thread);
    return rc;
}

/* Nothing was ever there. */
static void free_group(farpool_partition *partition, farpool_pid map)
{
    for (farpool_pid at = map; at < map + FP_GROUP_UNITS && at < partition->units;) {
        unsigned order = largest_block(partition, at);
        fp_units_free(&partition->pids, at, order);
        at += 1ull << order;
    }
}

static int open_group(farpool_partition *partition, farpool_pid map)
{
    void *bytes;
    bool known = fp_word_load(&partition->entries[map]) != 0 ||
                 first_record(partition->recovery, map) != NULL;
    int rc = known ? 0 : is_cut(partition) ? probe(partition, map) : FARPOOL_E_NOTFOUND;
    if (rc == FARPOOL_E_NOTFOUND) {
        free_group(partition, map);
        return 0;
    }
    if (!rc)
        rc = admit(partition, map, 0);
    if (!rc)
        rc = farpool_fix(partition, map, FARPOOL_SHARED, &bytes);
    if (rc)
        return rc;
    rc = admit_group(partition, map, bytes);
    farpool_unfix(partition, map, FARPOOL_SHARED);
    return rc;
}

/* E_RETRY: it is open now, or somebody else is at it. */
static int try_open(farpool_partition *partition, uint64_t number)
{
    _Atomic uint8_t *group = &partition->recovery->groups[number];
    uint8_t state = UNTOUCHED;
    if (!atomic_compare_exchange_strong_explicit(group, &state, OPENING, memory_order_acquire,
                                                 memory_order_acquire)) {
        sched_yield();
        return FARPOOL_E_RETRY;
    }
    int rc = open_group(partition, number * FP_GROUP_UNITS);
    FP_FAULT_POINT(RECOVER_GROUP);
    atomic_store_explicit(group, rc ? UNTOUCHED : OPEN, memory_order_release);
    return rc ? rc : FARPOOL_E_RETRY;
}

int fp_recovery_find(farpool_partition *partition, farpool_pid pid)
{
    fp_recovery *recovery = partition->recovery;
    uint64_t number = pid / FP_GROUP_UNITS;
    if (!recovery || number >= recovery->group_count)
        return FARPOOL_E_NOTFOUND;
    if (atomic_load_explicit(&recovery->groups[number], memory_order_acquire) == OPEN)
        return fp_word_state(fp_word_load(&partition->entries[pid])) == FP_FREE ? FARPOOL_E_NOTFOUND
                                                                                : FARPOOL_E_RETRY;
    return try_open(partition, number);
}

int fp_recovery_open_next(farpool_partition *partition)
{
    fp_recovery *recovery = partition->recovery;
    for (;;) {
        uint64_t number =
            recovery ? atomic_load_explicit(&recovery->next_group, memory_order_relaxed) : 0;
        if (!recovery || number >= recovery->group_count)
            return FARPOOL_E_NOTFOUND;
        bool open = atomic_load_explicit(&recovery->groups[number], memory_order_acquire) == OPEN;
        if (!open)
            return try_open(partition, number);
        atomic_compare_exchange_strong_explicit(&recovery->next_group, &number, number + 1,
                                                memory_order_relaxed, memory_order_relaxed);
    }
}

/* ---- redo ------------------------------------------------------------------------------------ */

bool fp_recovery_is_pending(const fp_recovery *recovery, farpool_pid pid)
{
    const record_at *first = first_record(recovery, pid);
    return first && !first->applied;
}

bool fp_recovery_has_redo(const fp_recovery *recovery, farpool_pid pid)
{
    return recovery && first_record(recovery, pid);
}

bool fp_recovery_is_whole(const fp_recovery *recovery, farpool_pid pid)
{
    const record_at *at = first_record(recovery, pid), *end = recovery->records + recovery->count;
    bool found = false;
    for (; at && at < end && at->pid == pid; at++)
        found |= at->is_alloc;
    return found;
}

static int misfit(const farpool_partition *partition, const record_at *at, unsigned order)
{
    return fp_error(FARPOOL_E_CORRUPT,
                    "partition %llu: the redo at LSN %llu does not fit page %llu of order %u",
                    (unsigned long long)partition->id, (unsigned long long)at->lsn,
                    (unsigned long long)at->pid, order);
}

int fp_recovery_redo(farpool_partition *partition, farpool_pid pid, unsigned order, void *page,
                     bool *changed)
{
    fp_recovery *recovery = partition->recovery;
    const fp_redo_log *log = partition->redo;
    record_at *first = first_record(recovery, pid);
    *changed = false;
    if (!first || first->applied)
        return 0;
    const record_at *end = recovery->records + recovery->count, *at = first;
    /* What was before the last allocation was another page with this pid. */
    for (const record_at *r = first; r < end && r->pid == pid; r++)
        at = r->is_alloc ? r : at;
    for (; at < end && at->pid == pid; at++) {
        fp_redo_record record;
        fp_redo_copy_out(log, at->lsn, &record, sizeof record);
        if (fp_redo_order(&record) != order || fp_redo_type(&record) == FP_REDO_FREE)
            return misfit(partition, at, order);
        if (at->is_alloc)
            memset(page, 0, (size_t)FARPOOL_UNIT_BYTES << order);
        else
            fp_redo_copy_out(log, at->lsn + sizeof record, (char *)page + record.offset,
                             record.len);
        fp_page_note_lsn(partition, pid, at->frame_end);
        *changed = true;
    }
    FP_FAULT_POINT(RECOVER_REDONE);
    first->applied = true;
    return 0;
}

int fp_recovery_finish(farpool_partition *partition, unsigned pages, size_t *at)
{
    const fp_recovery *recovery = partition->recovery;
    for (; pages && *at < recovery->count; pages--) {
        farpool_pid pid = recovery->records[*at].pid;
        void *page;
        int rc = farpool_fix(partition, pid, FARPOOL_SHARED, &page);
        if (!rc)
            farpool_unfix(partition, pid, FARPOOL_SHARED);
        else if (rc != FARPOOL_E_NOTFOUND) /* it was freed */
            return rc;
        while (*at < recovery->count && recovery->records[*at].pid == pid)
            ++*at;
    }
    if (*at == recovery->count)
        *at = SIZE_MAX;
    return 0;
}
