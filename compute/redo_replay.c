/* SPDX-License-Identifier: Apache-2.0 */
/* Redo: applies the log to pages, from its first frame to its last. Records are byte ranges, so applying one
 * twice does no harm. */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "compute/page.h"
#include "compute/redo_recover.h"

static int misfit(const fp_redo_log *log, uint64_t lsn, const fp_redo_record *record)
{
    return fp_error(
        FARPOOL_E_CORRUPT,
        "partition %llu: the redo at LSN %llu says %s of page %llu, order %u, which does not "
        "fit what came before",
        (unsigned long long)log->partition->id, (unsigned long long)lsn,
        fp_redo_type(record) == FP_REDO_RANGE   ? "a change"
        : fp_redo_type(record) == FP_REDO_ALLOC ? "an allocation"
                                                : "a freeing",
        (unsigned long long)fp_redo_pid(record), fp_redo_order(record));
}

static int apply(fp_redo_log *log, const fp_redo_record *record, const void *data, uint64_t lsn)
{
    farpool_partition *partition = log->partition;
    farpool_pid pid = fp_redo_pid(record);
    unsigned order = fp_redo_order(record);
    void *page;
    int rc;
    if (fp_redo_type(record) == FP_REDO_ALLOC)
        rc = fp_page_alloc_at(partition, order, pid, &page);
    else
        rc = fp_page_fix_exclusive(partition, pid, &page);
    if (rc == FARPOOL_E_NOTFOUND || rc == FARPOOL_E_EXISTS)
        return misfit(log, lsn, record);
    if (rc)
        return rc;
    if (farpool_page_order(partition, pid) != order) {
        fp_page_leave(partition, pid, false);
        return misfit(log, lsn, record);
    }
    if (fp_redo_type(record) == FP_REDO_FREE) {
        fp_page_free(partition, pid);
        return 0;
    }
    if (fp_redo_type(record) == FP_REDO_RANGE)
        memcpy((char *)page + record->offset, data, record->len);
    fp_page_note_lsn(partition, pid, lsn);
    fp_page_leave(partition, pid, true);
    return 0;
}

static int apply_frame(fp_redo_log *log, const uint8_t *frame, uint64_t end)
{
    fp_redo_walk walk = fp_redo_walk_start(frame);
    fp_redo_record record;
    const void *data;
    int rc = 0;
    while (!rc && fp_redo_walk_next(&walk, &record, &data))
        rc = apply(log, &record, data, end);
    return rc;
}

int fp_redo_replay(fp_redo_log *log)
{
    uint64_t end = atomic_load_explicit(&log->end, memory_order_relaxed);
    uint8_t *buffer = NULL;
    int rc = 0;
    for (uint64_t lsn = FP_REDO_LSN_FIRST; lsn < end && !rc;) {
        fp_redo_frame frame;
        fp_redo_copy_out(log, lsn, &frame, sizeof frame);
        uint8_t *grown = realloc(buffer, frame.len);
        if (!grown) {
            rc = fp_error(FARPOOL_E_NOMEM, "redo: no memory for a frame of %u bytes", frame.len);
            break;
        }
        buffer = grown;
        fp_redo_copy_out(log, lsn, buffer, frame.len);
        lsn += frame.len;
        rc = apply_frame(log, buffer, lsn);
    }
    free(buffer);
    return rc;
}
