/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/space.h"

#include <sched.h>

#include "common/error.h"
#include "compute/page.h"
#include "compute/recovery.h"

/* A mini-transaction of its own, so that nobody's abandoning takes the map page away from others. */
static int make_map(farpool_partition *partition, farpool_pid pid)
{
    static const uint8_t itself = 1;
    void *page;
    uint64_t lsn;
    fp_redo_build build = {0};
    int rc = fp_page_occupy(partition, pid, 0, &page);
    if (rc)
        return rc;
    rc = fp_redo_add(&build, FP_REDO_ALLOC, pid, 0, 0, NULL, 0);
    if (!rc)
        rc = fp_redo_add(&build, FP_REDO_RANGE, pid, 0, 0, &itself, 1);
    if (!rc)
        rc = fp_redo_append(partition->redo, FP_REDO_MTR, &build, &lsn);
    fp_redo_build_fini(&build);
    if (rc) {
        fp_page_vacate(partition, pid);
        return rc;
    }
    *(uint8_t *)page = itself;
    fp_page_note_lsn(partition, pid, lsn);
    fp_page_leave(partition, pid, true);
    return 0;
}

/* Units of a group are free before it has its map page: whoever gets that page's unit makes it, and somebody else may have
 * got another unit of the group before that is done. */
static int wait_for_map(farpool_partition *partition, farpool_pid map)
{
    while (fp_word_state(fp_word_load(&partition->entries[map])) == FP_FREE) {
        if (!fp_units_take(&partition->pids, map, 0)) {
            sched_yield();
            continue;
        }
        int rc = make_map(partition, map);
        if (rc) {
            fp_units_free(&partition->pids, map, 0);
            return rc;
        }
    }
    return 0;
}

int fp_space_take(farpool_partition *partition, unsigned order, farpool_pid *pid)
{
    for (;;) {
        uint64_t first = fp_units_alloc(&partition->pids, order);
        if (first == FP_UNIT_NONE) {
            int rc = fp_recovery_open_next(partition);
            if (rc == FARPOOL_E_RETRY)
                continue;
            return rc == FARPOOL_E_NOTFOUND
                       ? fp_error(FARPOOL_E_NOSPACE,
                                  "partition %llu: its page space of %llu units is full",
                                  (unsigned long long)partition->id,
                                  (unsigned long long)partition->units)
                       : rc;
        }
        *pid = first;
        if (!partition->redo)
            return 0;
        bool is_map = fp_is_map(first);
        int rc = is_map ? make_map(partition, first) : wait_for_map(partition, fp_map_of(first));
        if (!rc && !is_map)
            return 0;
        if (rc) {
            fp_units_free(&partition->pids, first, order);
            return rc;
        }
        for (unsigned o = 0; o < order; o++) /* what is behind the map page */
            fp_units_free(&partition->pids, first + (1ull << o), o);
    }
}
