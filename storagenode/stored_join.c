/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WAL_JOIN: the log of the partition has forked (common/lineage.h), and the WAL here goes on as that log, if it is a beginning
 * of it. Otherwise what is here is a stray log. That is noted in the WAL's state before anything else, so that no crash
 * brings it back; the WAL is closed, cannot be opened any more (E_CORRUPT), and waits for a refill of all of it. Until then
 * the node says nothing of it: an answer that it has less than it had could make somebody believe that nobody has more.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "common/error.h"
#include "common/log.h"
#include "storagenode/node.h"

int fp_stored_check_fork(const fp_stored *log, uint64_t fork)
{
    uint64_t joined = fp_lineage_number(fp_wal_joined(log->wal));
    if (joined == fork && !log->stray)
        return 0;
    return fp_error(FARPOOL_E_RETRY,
                    "partition %" PRIu64 ": what volume %s has is of the log with fork %" PRIu64
                    ", that with %" PRIu64 " was asked for",
                    log->partition, log->node->path, joined, fork);
}

static void disowned(fp_wal_req *req)
{
    fp_stored *log = req->user;
    log->fencing = false;
    if (req->status) { /* the next WAL_JOIN does it */
        fp_request_done(fp_requests_take(&log->waiting), req->status);
        log->stray = false;
        log->node->work = true;
        fp_stored_serve(log);
        return;
    }
    if (log->state == FP_STORED_OPEN) /* else it is being closed already */
        fp_stored_begin_closing(log);
}

/* The log forked before the end here: what is behind never was. Nothing is given away of it from now on. */
static int disown(fp_stored *log, const fp_request *request)
{
    fp_log(FP_LOG_ERROR,
           "partition %" PRIu64 ": the log on volume %s, up to LSN %" PRIu64
           ", is not the partition's any more since fork %" PRIu64 " at LSN %" PRIu64
           "; all of it is to come from a peer",
           log->partition, log->node->path, fp_wal_end(log->wal),
           fp_lineage_number(&request->lineage), fp_lineage_at(&request->lineage));
    log->wanted_upto = log->gap_upto = 0;
    free(log->pages.last.page);
    log->pages.last.page = NULL;
    log->fence.done = disowned;
    log->fence.user = log;
    int rc = fp_wal_disown(log->wal, &request->lineage, &log->fence);
    log->fencing = !rc;
    log->stray = !rc;
    return rc ? rc : 1;
}

int fp_stored_join(fp_stored *log, const fp_request *request)
{
    const fp_lineage *ours = fp_wal_lineage(log->wal);
    uint64_t fork = fp_lineage_number(&request->lineage), end = fp_wal_end(log->wal);
    if (fork == fp_lineage_number(ours) && fork == fp_lineage_number(fp_wal_joined(log->wal)))
        return 0;
    if (fork < fp_lineage_number(ours))
        return fp_error(FARPOOL_E_FENCED,
                        "partition %" PRIu64 " fork %" PRIu64 ": fork %" PRIu64
                        " is known on volume %s",
                        log->partition, fork, fp_lineage_number(ours), log->node->path);
    if (log->take)
        return fp_error(FARPOOL_E_RETRY, "partition %" PRIu64 ": its pages are being replaced",
                        log->partition);
    fp_stored_vacate(log); /* it appends to the log as it was */
    if (!fp_lineage_leads_to(ours, end, &request->lineage))
        return disown(log, request);
    log->fence.done = fp_stored_promised;
    log->fence.user = log;
    int rc = fp_wal_join(log->wal, &request->lineage, &log->fence);
    log->fencing = !rc;
    return rc ? rc : 1;
}
