/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/checkpoint.h"

#include "common/error.h"
#include "common/faultpoint.h"
#include "common/log.h"
#include "compute/evict.h"
#include "compute/recovery.h"
#include "compute/redo_log.h"
#include "compute/thread.h"

enum { PAGES_AT_ONCE = 64, STRETCHES_AT_ONCE = 64 };

void fp_checkpoint_begin(fp_checkpoint *checkpoint, farpool_partition *partition)
{
    checkpoint->running = true;
    checkpoint->lsn = atomic_load_explicit(&partition->redo->end, memory_order_acquire);
    checkpoint->frame = 0;
    checkpoint->pending = UINT64_MAX;
    FP_FAULT_POINT(CHECKPOINT_BEGUN);
}

/* It is tried again, for a node may be down. But if it stays so, the log is never cut. */
static void tell(fp_checkpoint *checkpoint, const farpool_partition *partition)
{
    if (!fp_log_again(&checkpoint->tell_again_ns))
        return;
    fp_log(
        FP_LOG_WARN,
        "partition %llu: a page that has redo cannot be recovered, so its log rings fill up, and "
        "commits wait when they are three quarters full: %s; trying again",
        (unsigned long long)partition->id, farpool_errmsg());
}

/* True: goes on with the sweep. */
static bool recover(fp_checkpoint *checkpoint, farpool_partition *partition, bool *progress)
{
    if (checkpoint->recovered || !partition->recovery)
        return true;
    *progress = true;
    int rc = fp_recovery_finish(partition, PAGES_AT_ONCE, &checkpoint->record);
    if (rc) {
        *progress = false;
        tell(checkpoint, partition);
    } else if (checkpoint->record == SIZE_MAX) {
        checkpoint->recovered = true;
    }
    if (checkpoint->recovered)
        FP_FAULT_POINT(RECOVER_FINISHED);
    return false;
}

bool fp_checkpoint_step(fp_checkpoint *checkpoint, farpool_partition *partition)
{
    farpool_pool *pool = partition->pool;
    bool progress = false;
    if (!recover(checkpoint, partition, &progress))
        return progress;
    fp_thread *thread = fp_thread_get(pool);
    if (!thread)
        return false;
    fp_thread_own(thread);
    for (unsigned i = 0; i < STRETCHES_AT_ONCE && checkpoint->frame < pool->frame_count; i++) {
        uint64_t before = checkpoint->pending;
        checkpoint->pending = fp_evict_clean(thread, partition, checkpoint->frame, before);
        progress |= checkpoint->pending != before;
        if (checkpoint->pending)
            break; /* somebody works on it: later */
        checkpoint->frame += FP_EVICT_STRETCH;
        checkpoint->pending = UINT64_MAX;
        FP_FAULT_POINT(CHECKPOINT_STEPPED);
    }
    fp_thread_disown(thread);
    if (checkpoint->frame >= pool->frame_count) {
        checkpoint->running = false;
        FP_FAULT_POINT(CHECKPOINT_ENDED);
    }
    return progress;
}
