/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log as storage nodes have it, for a partition that has lost its rings. Of those of one lineage each has a beginning of
 * the same log, for nothing is spilled that was not in a quorum of rings; so the longest of the latest fork that any has
 * reached is the log. It forks where that ends, for one that is away may have more of it, which its rings still had. Where
 * the others end the new rings' log begins, if they hold as much, so that memory nodes can give them what they lack.
 *
 * Why it has all that was stored: what counts as stored is on storage_quorum volumes that have reached the last fork, one of
 * which is among those asked. Who has reached a later fork has it too, for whoever made that fork has seen it so (the
 * argument is that of Viewstamped Replication for log views). docs/redo.md, Forks.
 *
 * A log that is to be a new one is none if they have more than the rings: these were lost.
 */
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "common/log.h"
#include "compute/redo_survey.h"
#include "compute/storage.h"

typedef struct stored_logs {
    unsigned answers, strangers, best;          /* best: index of the node */
    fp_stored_log log;                          /* that it has; durable 0: nobody has any */
    uint64_t promised;                          /* epoch, the highest */
    uint32_t told;                              /* bit i: node i has some, */
    fp_stored_log each[FP_PARTITION_NODES_MAX]; /* this */
} stored_logs;

static uint64_t fork_of(const fp_stored_log *found)
{
    return fp_lineage_reached(&found->lineage, found->durable);
}

/* Whether a has more than b of the later fork. */
static bool has_more(const fp_stored_log *a, const fp_stored_log *b)
{
    return fork_of(a) != fork_of(b) ? fork_of(a) > fork_of(b) : a->durable > b->durable;
}

static int too_few(const farpool_partition *partition, const stored_logs *logs, unsigned needed)
{
    return fp_error(FARPOOL_E_NODE,
                    "partition %llu: only %u of its %u storage nodes say what they have of it, and "
                    "%u know nothing of it: start the others, or wait until these have been "
                    "refilled; %u are needed to be sure of what is on stable media",
                    (unsigned long long)partition->id, logs->answers, fp_storage_count(partition),
                    logs->strangers, needed);
}

/* One of so many has what storage_quorum of them had. Fewer than that are all that there can be. */
static unsigned answers_needed(const fp_redo_log *log)
{
    unsigned count = fp_storage_count(log->partition), quorum = log->storage_quorum;
    return count < quorum ? count > 0 : count - quorum + 1;
}

/* from 0: only looks. Otherwise nothing of earlier owners is appended from there on. E_FENCED. */
static int ask_each(fp_redo_log *log, uint64_t from, stored_logs *logs)
{
    farpool_partition *partition = log->partition;
    *logs = (stored_logs){0};
    for (unsigned i = 0; i < fp_storage_count(partition); i++) {
        fp_stored_log found;
        int rc = from ? fp_storage_fence(log->thread, partition, i, from, &found)
                      : fp_storage_ask(log->thread, partition, i, &found);
        if (from)
            FP_FAULT_POINT(STORED_FENCED);
        logs->answers += !rc;
        logs->strangers += rc == FARPOOL_E_NOTFOUND;
        if (rc == FARPOOL_E_FENCED)
            return rc;
        if (rc)
            continue;
        if (!logs->log.durable || has_more(&found, &logs->log)) {
            logs->log = found;
            logs->best = i;
        }
        logs->promised = found.epoch > logs->promised ? found.epoch : logs->promised;
        logs->told |= 1u << i;
        logs->each[i] = found;
    }
    return 0;
}

/* A node that knows nothing of a partition whose log others have may have lost its volume: it proves nothing. */
static int ask_all(fp_redo_log *log, uint64_t from, stored_logs *logs)
{
    unsigned needed = answers_needed(log);
    int rc = ask_each(log, from, logs);
    if (!rc && !logs->log.durable)
        logs->answers += logs->strangers;
    return rc || logs->answers >= needed ? rc : too_few(log->partition, logs, needed);
}

/* What of the ring's log is to be compared with the storage nodes': if these have heard of a later owner, its end may have
 * been left out by him, but not what it knows to be durable. */
static void trust_ring(fp_redo_log *log, fp_survey *all, uint64_t promised)
{
    fp_found_log *ring = &all->found[all->best];
    if (promised <= ring->epoch || ring->end <= ring->line_durable || !ring->line_durable)
        return;
    ring->end = ring->line_durable;
    for (unsigned i = 0; i < log->ring_count; i++)
        if (log->rings[i].posted > ring->end)
            log->rings[i].posted = ring->end;
}

static bool ring_is_better(const fp_survey *all, const fp_stored_log *stored)
{
    const fp_found_log *ring = &all->found[all->best];
    const fp_stored_log as_stored = {.durable = ring->end, .lineage = ring->lineage};
    return all->telling && !has_more(stored, &as_stored);
}

static uint64_t end_of(const fp_survey *all, const fp_stored_log *stored)
{
    return ring_is_better(all, stored) ? all->found[all->best].end : stored->durable;
}

/* Nothing of earlier owners is appended behind where the log ends, which is better after that than before if any has got
 * more of it before it has promised that. Those that have less may still get it, from the new rings. */
static int fence_all(fp_redo_log *log, fp_survey *all, stored_logs *logs)
{
    int rc = ask_all(log, 0, logs);
    if (!rc && logs->log.durable)
        trust_ring(log, all, logs->promised);
    for (fp_stored_log before = {0}; !rc && logs->log.durable && has_more(&logs->log, &before);) {
        before = logs->log;
        rc = ask_all(log, end_of(all, &before), logs);
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

/* Where the shortest ends of those that the new rings can give all they lack: beginnings of the log, of which not more than
 * half a ring is missing that is still to be had. Those that have less need another copy in any case. */
static uint64_t begin_of_rings(const fp_redo_log *log, const stored_logs *logs,
                               const fp_lineage *lineage)
{
    uint64_t begin = logs->log.durable;
    for (unsigned i = 0; i < fp_storage_count(log->partition); i++) {
        const fp_stored_log *one = &logs->each[i];
        if ((logs->told >> i & 1) && one->durable < begin && one->durable >= logs->log.start &&
            logs->log.durable - one->durable <= log->ring_bytes / 2 &&
            fp_lineage_leads_to(&one->lineage, one->durable, lineage))
            begin = one->durable;
    }
    return begin;
}

/* The log forks where it ends. */
static int fork_at(const fp_redo_log *log, uint64_t end, fp_lineage *lineage)
{
    if (fp_lineage_number(lineage) >= log->epoch)
        return fp_error(FARPOOL_E_FENCED,
                        "partition %llu: it has been recovered from storage nodes under epoch %llu "
                        "already; %llu is not higher",
                        (unsigned long long)log->partition->id,
                        (unsigned long long)fp_lineage_number(lineage),
                        (unsigned long long)log->epoch);
    fp_lineage_fork(lineage, end, log->epoch);
    return 0;
}

/* The best log of the storage nodes becomes the best that was found. */
static int take_stored(fp_redo_log *log, const stored_logs *logs, fp_survey *all)
{
    fp_found_log *found = &all->found[!all->best];
    found->lineage = logs->log.lineage;
    int rc = fork_at(log, logs->log.durable, &found->lineage);
    if (rc)
        return rc;
    uint64_t from = begin_of_rings(log, logs, &found->lineage);
    found->start = from;
    found->have = logs->log.durable;
    rc = fp_storage_read_log(log->thread, log->partition, logs->best,
                             fp_lineage_number(&logs->log.lineage), from, found->have,
                             found->mem.addr);
    if (!rc)
        rc = check_frames(log, found);
    if (rc)
        return rc;
    FP_FAULT_POINT(STORED_READ);
    all->best = !all->best;
    all->start = from;
    for (unsigned i = 0; i < log->ring_count; i++)
        log->rings[i].posted = 0;
    return 0;
}

int fp_redo_consult_storage(fp_redo_log *log, fp_survey *all)
{
    unsigned needed = log->ring_count - log->quorum + 1;
    stored_logs logs = {0};
    if (all->telling >= needed)
        return 0;
    int rc = fence_all(log, all, &logs);
    if (rc || !logs.log.durable)
        return rc;
    FP_FAULT_POINT(STORED_AGREED);
    fp_found_log *ring = &all->found[all->best];
    if (ring_is_better(all, &logs.log))
        rc = fork_at(log, ring->end, &ring->lineage);
    else
        rc = take_stored(log, &logs, all);
    if (rc)
        return rc;
    all->used = true;
    all->telling = needed;
    all->joining = logs.told;
    log->from_storage = true;
    return 0;
}

int fp_redo_check_none_stored(fp_redo_log *log, const fp_survey *all)
{
    stored_logs logs;
    const farpool_partition *partition = log->partition;
    const fp_found_log *ring = &all->found[all->best];
    const fp_stored_log in_rings = {.durable = ring->end, .lineage = ring->lineage};
    unsigned count = fp_storage_count(partition);
    int rc = ask_each(log, 0, &logs);
    if (rc)
        return rc;
    if (!logs.log.durable || !has_more(&logs.log, &in_rings))
        return logs.answers + logs.strangers == count ? 0 : too_few(partition, &logs, count);
    return fp_error(FARPOOL_E_EXISTS,
                    "partition %llu: storage node %s has its redo log up to LSN %llu, and no log "
                    "ring has it any more: open it with FARPOOL_RECOVER_STORED, or choose another "
                    "id",
                    (unsigned long long)partition->id, fp_storage_uri(partition, logs.best),
                    (unsigned long long)logs.log.durable);
}

void fp_redo_join_storage(fp_redo_log *log, const fp_survey *all)
{
    fp_stored_log found;
    for (unsigned i = 0; i < fp_storage_count(log->partition); i++)
        if ((all->joining >> i & 1) &&
            fp_storage_join(log->thread, log->partition, i, &log->lineage, &found))
            fp_log(FP_LOG_DEBUG, "partition %llu: not told of its fork: %s",
                   (unsigned long long)log->partition->id, farpool_errmsg());
}
