/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The WAL of a partition, as the node has it.
 *
 * A WAL that has failed for good is closed and opened again; whoever has something to ask meanwhile waits. The one who
 * appends keeps its key; it has been told of the failure, and asks where to go on.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/faultpoint.h"
#include "common/log.h"
#include "storagenode/node.h"

enum {
    IDLE_NS = 2000000000,  /* memory nodes that have nothing to append leave after one second */
    WANTED_NS = 500000000, /* those who follow ask every 50 ms */
};
#define TROUBLE_NS 60000000000ull /* between two lines of the log that say the same */

/* ---- which there are ------------------------------------------------------------------------- */

fp_stored *fp_stored_find(const fp_storagenode *node, uint64_t partition)
{
    fp_stored *log = node->logs;
    while (log && log->partition != partition)
        log = log->next;
    return log;
}

fp_stored *fp_stored_add(fp_storagenode *node, uint64_t partition, uint64_t make_at,
                         const fp_lineage *lineage, int *rc)
{
    fp_stored *log = NULL;
    if (node->log_count >= FP_STORAGE_LOGS_MAX)
        *rc = fp_error(FARPOOL_E_NOSPACE, "volume %s: %u partitions have a WAL here already",
                       node->path, node->log_count);
    else if (!(log = calloc(1, sizeof *log)))
        *rc = fp_error(FARPOOL_E_NOMEM, "volume %s: no memory for a WAL", node->path);
    if (!log)
        return NULL;
    log->node = node;
    log->partition = partition;
    log->make_at = make_at;
    if (lineage)
        log->lineage = *lineage;
    fp_requests_init(&log->waiting);
    fp_requests_init(&log->held);
    fp_requests_init(&log->pages.waiting);
    log->next = node->logs;
    node->logs = log;
    node->log_count++;
    node->work = true;
    return log;
}

static void unlink_log(fp_storagenode *node, const fp_stored *log)
{
    if (node->logs == log) {
        node->logs = log->next;
    } else {
        fp_stored *before = node->logs;
        while (before->next != log)
            before = before->next;
        before->next = log->next;
    }
    node->log_count--;
}

static void free_log(fp_stored *log)
{
    fp_stored_forget_read(log);
    fp_pages_free(log);
    fp_wal_free(log->wal);
    fp_mem_close(&log->landing);
    free(log->drop); /* the disk was closed beneath it */
    free(log);
}

/* ---- opening --------------------------------------------------------------------------------- */

static void note_broken(fp_stored *log, int status)
{
    bool again = log->broken == status && !strcmp(log->reason, farpool_errmsg());
    log->broken = status;
    snprintf(log->reason, sizeof log->reason, "%s", farpool_errmsg());
    fp_log(again ? FP_LOG_DEBUG : FP_LOG_ERROR, "partition %" PRIu64 ": %s (%s)", log->partition,
           log->reason, fp_error_name(status));
}

static void report_damage(fp_stored *log)
{
    static const char *const kinds[] = {
        [FP_WAL_BAD_FRAME] = "a damaged frame",
        [FP_WAL_BAD_HEADER] = "a damaged header",
        [FP_WAL_CUT_FILE] = "a file that has been cut",
        [FP_WAL_MISSING] = "a missing file",
    };
    const fp_wal_damage *damage = fp_wal_damage_found(log->wal);
    if (damage->kind == FP_WAL_UNDAMAGED)
        return;
    fp_log(FP_LOG_ERROR,
           "volume %s: WAL of partition %" PRIu64 " ends at LSN %" PRIu64
           " because of %s ('%s', offset %" PRIu64 "), but had been durable up to %" PRIu64
           "; %" PRIu64 " bytes of valid frames are behind. The next append overwrites them",
           log->node->path, log->partition, damage->lsn, kinds[damage->kind], damage->file,
           damage->offset, damage->upto, damage->behind);
    if (damage->upto > log->wanted_upto)
        log->wanted_upto = damage->upto;
}

static void opened(fp_wal_req *req)
{
    fp_stored *log = req->user;
    log->node->opening--;
    log->node->work = true; /* another may be opened now */
    fp_refill_look(log->node);
    if (req->status) {
        uint64_t fork = log->wal ? fp_wal_disowned_for(log->wal) : 0;
        log->wanted_fork = fork > log->wanted_fork ? fork : log->wanted_fork;
        note_broken(log, req->status);
        log->over = true;
        return;
    }
    log->state = FP_STORED_OPEN;
    log->make_at = 0;
    log->stray = false;
    log->promised = fp_wal_epoch(log->wal);
    report_damage(log);
    fp_log(FP_LOG_DEBUG, "partition %" PRIu64 ": WAL from LSN %" PRIu64 " to %" PRIu64,
           log->partition, fp_wal_start(log->wal), fp_wal_end(log->wal));
    log->node->work = true; /* its pages are to be opened */
    fp_stored_serve(log);
}

/* It is closed, and opened as it is now. */
static void restarted(fp_wal_req *req)
{
    fp_stored *log = req->user;
    if (req->status) {
        opened(req);
        return;
    }
    log->node->opening--;
    log->node->work = true;
    fp_log(FP_LOG_INFO, "partition %" PRIu64 ": its WAL begins anew at LSN %" PRIu64,
           log->partition, log->restart_at);
    log->restart_at = 0;
    log->state = FP_STORED_CLOSING;
    log->over = true;
}

static void open_wal(fp_stored *log)
{
    fp_storagenode *node = log->node;
    int rc = 0;
    log->state = FP_STORED_OPENING;
    log->req.done = log->restart_at ? restarted : opened;
    log->req.user = log;
    node->opening++;
    if (!log->landing.addr)
        rc = fp_mem_open(fp_stored_landing_bytes(0), FP_MEM_SHARED | FP_MEM_RESERVE, -1,
                         &log->landing);
    if (!rc) {
        fp_wal_options options = {.partition = log->partition,
                                  .landing = log->landing.addr,
                                  .landing_bytes = log->landing.len,
                                  .start = log->restart_at ? log->restart_at : log->make_at,
                                  .segment_bytes = node->segment_bytes,
                                  .lineage = log->lineage};
        rc = (log->restart_at ? fp_wal_restart : fp_wal_open)(node->disk, &options, &log->req,
                                                              &log->wal);
    }
    if (rc) {
        log->req.status = rc;
        opened(&log->req);
    }
}

/* ---- closing --------------------------------------------------------------------------------- */

static void closed(fp_wal_req *req)
{
    fp_stored *log = req->user;
    if (req->status)
        fp_log(FP_LOG_WARN, "closing it: %s", farpool_errmsg());
    log->over = true;
    log->node->work = true;
}

void fp_stored_begin_closing(fp_stored *log)
{
    log->state = FP_STORED_CLOSING;
    log->wal_closing = false;
    log->node->work = true;
}

void fp_stored_restart(fp_stored *log, uint64_t lsn, const fp_lineage *lineage)
{
    log->restart_at = lsn;
    log->lineage = *lineage;
    fp_stored_vacate(log);
    if (log->state == FP_STORED_OPEN) {
        fp_stored_begin_closing(log);
        return;
    }
    FP_ASSERT(log->state == FP_STORED_BROKEN);
    log->state = FP_STORED_CLOSED;
    log->node->work = true;
}

static void close_wal(fp_stored *log)
{
    log->wal_closing = true;
    log->req.done = closed;
    log->req.user = log;
    fp_wal_close(log->wal, &log->req);
}

static void refuse_waiting(fp_stored *log)
{
    fp_request *request;
    while ((request = fp_requests_take(&log->waiting))) {
        fp_error(log->broken, "%s", log->reason);
        fp_request_done(request, log->broken);
    }
}

void fp_stored_refuse(fp_stored *log, int code)
{
    log->state = FP_STORED_BROKEN;
    log->broken = code;
    snprintf(log->reason, sizeof log->reason, "%s", farpool_errmsg());
    refuse_waiting(log);
    fp_pages_serve(log);
    fp_pages_release(log);
    fp_stored_gets(log->node);
}

void fp_stored_forget(fp_stored *log)
{
    unlink_log(log->node, log);
    free_log(log);
}

/* It has been closed, or could not be opened. */
static void end_wal(fp_storagenode *node, fp_stored *log)
{
    log->over = false;
    fp_stored_forget_read(log);
    fp_wal_free(log->wal);
    log->wal = NULL;
    if (log->state == FP_STORED_CLOSING) {
        log->state = FP_STORED_CLOSED;
        return;
    }
    log->state = FP_STORED_BROKEN;
    fp_refill_look(node);
    refuse_waiting(log);
    fp_pages_serve(log);
    if (log->make_at)
        fp_stored_forget(log);
}

void fp_stored_all_work(fp_storagenode *node)
{
    node->work = false;
    for (fp_stored *log = node->logs, *next; log; log = next) {
        next = log->next;
        if (log->over) {
            end_wal(node, log);
            continue;
        }
        if (log->state == FP_STORED_OPEN && fp_wal_has_failed(log->wal))
            fp_stored_begin_closing(log);
        if (fp_pages_work(log) && !log->wal_closing)
            close_wal(log);
    }
    for (fp_stored *log = node->logs; log; log = log->next)
        if (log->dropping && !log->take) {
            continue;
        } else if (log->state == FP_STORED_CLOSED && !node->closing && log->take) {
            if (!log->installing)
                fp_pages_install(log, 0); /* a WAL that is begun anew may have promised nothing */
        } else if (log->state == FP_STORED_CLOSED && !node->closing &&
                   node->opening < FP_STORAGE_OPENING_MAX) {
            open_wal(log);
        }
}

void fp_stored_all_close(fp_storagenode *node)
{
    enum { WAIT_MS = 1000 };
    unsigned open = 0;
    for (fp_stored *log = node->logs; log; log = log->next)
        if (log->state == FP_STORED_OPEN)
            fp_stored_begin_closing(log);
    do {
        for (fp_stored *log = node->logs; log; log = log->next)
            if (!log->over && fp_pages_work(log) && !log->wal_closing)
                close_wal(log);
        if (fp_disk_poll(node->disk, open ? WAIT_MS : 0) < 0)
            return;
        open = 0;
        for (const fp_stored *log = node->logs; log; log = log->next)
            open += log->drop || log->installing || (log->state == FP_STORED_CLOSING && !log->over);
    } while (open && !node->disk->dead);
}

void fp_stored_all_free(fp_storagenode *node)
{
    for (fp_stored *log = node->logs, *next; log; log = next) {
        next = log->next;
        fp_request *request;
        while ((request = fp_requests_take(&log->waiting)) ||
               (request = fp_requests_take(&log->held)))
            free(request);
        free_log(log);
    }
}

/* ---- WAL_OPEN -------------------------------------------------------------------------------- */

/* WAL_FENCE is WAL_OPEN by somebody who has no log to give; WAL_JOIN comes before either. */
static bool has_promise(const fp_request *request)
{
    return request->type == FP_MSG_WAL_OPEN || request->type == FP_MSG_WAL_FENCE ||
           request->type == FP_MSG_WAL_JOIN;
}

void fp_stored_promised(fp_wal_req *req)
{
    fp_stored *log = req->user;
    log->fencing = false;
    log->node->work = true; /* the WAL may have failed meanwhile */
    if (req->status)
        fp_request_done(fp_requests_take(&log->waiting), req->status);
    else
        log->promised = fp_wal_promised(log->wal);
    FP_FAULT_POINT(WAL_PROMISED);
    fp_stored_serve(log);
}

static int check_request(fp_stored *log, const fp_request *request)
{
    if (request->type == FP_MSG_WAL_OPEN) {
        int rc = fp_stored_check_fork(log, fp_lineage_number(&request->lineage));
        if (rc)
            return rc;
    }
    if (request->epoch < fp_wal_epoch(log->wal))
        return fp_error(FARPOOL_E_FENCED,
                        "partition %" PRIu64 " epoch %" PRIu64 ": epoch %" PRIu64
                        " is promised on volume %s",
                        log->partition, request->epoch, fp_wal_epoch(log->wal), log->node->path);
    if (request->type == FP_MSG_WAL_OPEN && request->lsn > fp_wal_end(log->wal)) {
        if (log->streamer == request->client) /* it has nothing that fits any more */
            fp_stored_vacate(log);
        fp_refill_gap(log, request->lsn);
        return fp_error(FARPOOL_E_NOTFOUND,
                        "partition %" PRIu64 ": the WAL on volume %s ends at LSN %" PRIu64
                        ", and what begins at %" PRIu64 " leaves a gap",
                        log->partition, log->node->path, fp_wal_end(log->wal), request->lsn);
    }
    return 0;
}

/* Another one would append all the time, and the streamer, which waits for nothing here, neither does nor leaves: its
 * process has stopped, with a connection that its system keeps. */
static bool is_idle(fp_stored *log)
{
    uint64_t now = fp_net_now_ns(log->node->server.nets[0].net);
    if (log->streamer->requests || now - log->wanted_ns > WANTED_NS)
        log->idle_ns = now;
    log->wanted_ns = now;
    return now - log->idle_ns > IDLE_NS;
}

/* The first that waits, on an open WAL. 1: it waits for something that is under way. */
static int try_open(fp_stored *log, const fp_request *request)
{
    if (request->type == FP_MSG_WAL_JOIN)
        return fp_stored_join(log, request);
    int rc = check_request(log, request);
    if (rc)
        return rc;
    bool fence = request->type == FP_MSG_WAL_FENCE;
    if (request->epoch > log->promised || (fence && request->lsn > fp_wal_promised_at(log->wal) &&
                                           request->lsn > fp_wal_end(log->wal))) {
        if (log->streamer && log->streamer != request->client)
            fp_stored_vacate(log);
        log->fence.done = fp_stored_promised;
        log->fence.user = log;
        rc = fp_wal_fence(log->wal, request->epoch, fence ? request->lsn : 0, &log->fence);
        log->fencing = !rc;
        return rc ? rc : 1;
    }
    if (!request->bytes && log->streamer == request->client)
        fp_stored_vacate(log);
    if (!request->bytes)
        return 0; /* it does not want to append */
    /* Whoever has not opened it under this epoch has been told, or is about to be, that it is fenced. */
    if (log->streamer && log->streamer != request->client &&
        (log->streamer_epoch < request->epoch || is_idle(log)))
        fp_stored_vacate(log);
    if (request->type == FP_MSG_WAL_OPEN && (!log->streamer || log->streamer == request->client))
        return fp_stored_occupy(log, request);
    return 0;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* A full volume fails every append, and is asked for more several times a second. */
static void note_trouble(fp_stored *log, int status)
{
    char why[sizeof log->trouble];
    if (!status) {
        log->trouble[0] = 0;
        return;
    }
    uint64_t now_ns = fp_now_ns(); /* the transport's clock may be gone: the node ends */
    snprintf(why, sizeof why, "an append failed: %s", farpool_errmsg());
    if (!strcmp(why, log->trouble) && now_ns - log->trouble_ns < TROUBLE_NS)
        return;
    fp_log(FP_LOG_WARN, "partition %" PRIu64 ": %s", log->partition, why);
    strcpy(log->trouble, why);
    log->trouble_ns = now_ns;
}

static void appended(fp_wal_req *req)
{
    fp_request *request = req->user;
    fp_stored *log = request->log;
    note_trouble(log, req->status);
    if (log->pages.state == FP_PAGES_OPEN) /* also if there was no space: layers make some */
        fp_store_log_durable(log->pages.store);
    if (req->status) {
        log->node->work = true; /* the WAL may have failed for good */
        fp_request_done(request, req->status);
    } else {
        fp_pages_answer(log, request);
    }
    fp_stored_serve(log); /* a WAL_OPEN may wait until all is durable */
}

static int append(fp_stored *log, fp_request *request)
{
    if (request->epoch < fp_wal_epoch(log->wal))
        return fp_error(FARPOOL_E_FENCED,
                        "partition %" PRIu64 " epoch %" PRIu64 ": epoch %" PRIu64
                        " is promised on volume %s",
                        log->partition, request->epoch, fp_wal_epoch(log->wal), log->node->path);
    if (log->streamer != request->client || request->epoch != log->streamer_epoch)
        return fp_error(FARPOOL_E_REFUSED,
                        "partition %" PRIu64 " epoch %" PRIu64
                        ": it is not this connection that appends: open the WAL first",
                        log->partition, request->epoch);
    log->wanted_ns = 0;
    request->wal.done = appended;
    request->wal.user = request;
    return fp_wal_append(log->wal, request->lsn, &request->wal);
}

/* On an open WAL; not a WAL_OPEN. */
static void handle(fp_stored *log, fp_request *request)
{
    if (request->type == FP_MSG_LOG_GET) {
        fp_stored_get(log->node, request);
        return;
    }
    int rc = 0;
    if (request->type == FP_MSG_WAL_APPEND) {
        rc = append(log, request);
        log->node->work = log->node->work || rc == FARPOOL_E_IO;
        if (!rc)
            return;
    }
    fp_request_done(request, rc);
}

void fp_stored_serve(fp_stored *log)
{
    while (log->state == FP_STORED_OPEN && !log->fencing && log->waiting.first) {
        fp_request *request = log->waiting.first;
        int rc = 0;
        if (request->client && has_promise(request))
            rc = try_open(log, request);
        if (rc > 0)
            return;
        if (rc == FARPOOL_E_IO && fp_wal_has_failed(log->wal)) {
            log->node->work = true; /* it is tried again when the WAL is */
            return;
        }
        fp_requests_take(&log->waiting);
        if (!request->client || has_promise(request))
            fp_request_done(request, rc);
        else
            handle(log, request);
    }
}

void fp_stored_take(fp_stored *log, fp_request *request)
{
    /* That it is opened again is of use only if nobody is about to put another one in its place. */
    bool stays = log->node->refill && log->broken == FARPOOL_E_CORRUPT;
    if (log->state == FP_STORED_BROKEN && (stays || !has_promise(request))) {
        fp_request_done(request, fp_error(log->broken, "%s", log->reason));
        return;
    }
    if (log->state == FP_STORED_OPEN && !has_promise(request)) {
        handle(log, request);
        return;
    }
    if (log->state == FP_STORED_BROKEN) { /* perhaps what was wrong has been put right */
        log->state = FP_STORED_CLOSED;
        log->node->work = true;
    }
    fp_requests_add(&log->waiting, request);
    fp_stored_serve(log);
}

int fp_stored_state_get(const fp_stored *log, const fp_storage_client *client, fp_msg *answer)
{
    if (!log->wal)
        return fp_error(log->broken, "%s", log->reason);
    if (log->stray)
        return fp_error(FARPOOL_E_RETRY, "partition %" PRIu64 ": its log is about to be disowned",
                        log->partition);
    bool streaming = log->streamer == client;
    answer->type = FP_MSG_WAL_STATE;
    answer->partition = log->partition;
    answer->epoch =
        fp_wal_epoch(log->wal); /* what is refused below, also if to note it has failed */
    answer->lineage = *fp_wal_joined(log->wal); /* also while it joins, or if that has failed: who
                                                   knows the fork says WAL_JOIN, again */
    answer->wal.volume = log->node->volume_id;
    answer->wal.start = fp_wal_start(log->wal);
    answer->wal.end = fp_wal_end(log->wal);
    answer->wal.durable = fp_wal_durable(log->wal);
    answer->wal.streaming = streaming;
    answer->wal.landing = streaming ? fp_net_rkey(log->mr) : (fp_rkey){0};
    answer->wal.landing_free = fp_wal_landing_free(log->wal);
    return 0;
}
