/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log as storage nodes have it, for a partition that has lost its rings. Each has a beginning of the same log, for
 * nothing is spilled that was not in a quorum of rings. So the longest is the log; where the others end the new rings'
 * log begins, if they hold as much, so that memory nodes can give them what they lack.
 */
#include <string.h>

#include "common/error.h"
#include "compute/redo_survey.h"
#include "compute/storage.h"

typedef struct stored_logs {
    unsigned answers, longest; /* longest: index of the node */
    fp_stored_log log;         /* that it has; durable 0: nobody has any */
    uint64_t shortest;         /* durable end */
} stored_logs;

static int too_few(const farpool_partition *partition, unsigned answers, unsigned needed)
{
    return fp_error(FARPOOL_E_NODE,
                    "partition %llu: only %u of its %u storage nodes can be reached; %u are needed "
                    "to be sure of what is on stable media",
                    (unsigned long long)partition->id, answers, partition->storage_count, needed);
}

/* from 0: only looks. Otherwise nothing of earlier owners is appended from there on. */
static int ask_all(fp_redo_log *log, uint64_t from, stored_logs *logs)
{
    farpool_partition *partition = log->partition;
    unsigned needed = partition->storage_count - log->storage_quorum + 1;
    *logs = (stored_logs){0};
    for (unsigned i = 0; i < partition->storage_count; i++) {
        fp_stored_log found;
        int rc = from ? fp_storage_fence(log->thread, partition, i, from, &found)
                      : fp_storage_ask(log->thread, partition, i, &found);
        logs->answers += !rc || rc == FARPOOL_E_NOTFOUND;
        if (rc == FARPOOL_E_FENCED)
            return rc;
        if (rc)
            continue;
        if (found.durable > logs->log.durable) {
            logs->log = found;
            logs->longest = i;
        }
        if (!logs->shortest || found.durable < logs->shortest)
            logs->shortest = found.durable;
    }
    return logs->answers >= needed ? 0 : too_few(partition, logs->answers, needed);
}

/* Nothing of earlier owners is appended behind what the longest has, or a ring (then up to `least`); those that have less
 * may still get it, from the new rings. If any has got more before it has promised that, it is that. */
static int fence_all(fp_redo_log *log, uint64_t least, stored_logs *logs)
{
    int rc = ask_all(log, 0, logs);
    uint64_t end = 0;
    while (!rc && (!end || logs->log.durable > end)) {
        end = logs->log.durable > least ? logs->log.durable : least;
        if (!logs->log.durable)
            break;
        rc = ask_all(log, end, logs);
    }
    return rc;
}

/* Follows the frames that were read. */
static int check_frames(const fp_redo_log *log, fp_found_log *found)
{
    fp_redo_expect expect = {log->partition->id, found->start, 0};
    found->epoch = 1;
    while (expect.lsn < found->have) {
        size_t len =
            fp_redo_check(fp_found_at(found, expect.lsn), found->have - expect.lsn, &expect);
        if (!len)
            return fp_error(FARPOOL_E_CORRUPT,
                            "partition %llu: what a storage node has as its log is none from LSN "
                            "%llu on",
                            (unsigned long long)log->partition->id, (unsigned long long)expect.lsn);
        fp_redo_frame frame;
        memcpy(&frame, fp_found_at(found, expect.lsn), sizeof frame);
        found->epoch = expect.epoch_min = frame.epoch;
        expect.lsn += len;
    }
    found->end = expect.lsn;
    return 0;
}

int fp_redo_consult_storage(fp_redo_log *log, fp_survey *all)
{
    const fp_found_log *best = &all->found[all->best];
    unsigned needed = log->ring_count - log->quorum + 1;
    stored_logs logs = {0};
    if (all->telling >= needed)
        return 0;
    int rc = fence_all(log, all->telling ? best->end : 0, &logs);
    if (rc || !logs.log.durable)
        return rc;
    all->used = true;
    log->from_storage = true;
    if (all->telling && best->end >= logs.log.durable) {
        all->telling = needed;
        return 0;
    }
    fp_found_log *found = &all->found[!all->best];
    uint64_t from = logs.shortest;
    if (from < logs.log.start || logs.log.durable - from > log->ring_bytes / 2)
        from = logs.log.durable;
    found->start = from;
    found->have = logs.log.durable;
    rc = fp_storage_read_log(log->thread, log->partition, logs.longest, from, found->have,
                             found->mem.addr);
    if (!rc)
        rc = check_frames(log, found);
    if (rc)
        return rc;
    all->best = !all->best;
    all->start = from;
    all->telling = needed;
    for (unsigned i = 0; i < log->ring_count; i++)
        log->rings[i].posted = 0;
    return 0;
}
