/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages of a partition, which its page store makes of the WAL, as the node has them: opened when the WAL is, closed
 * before it is closed. That pages cannot be had does not keep anybody from appending.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "storagenode/node.h"

/* A memory node has few requests on its way, for all its rings, and does not wait for ever. */
enum { HOLD_NS = 1000000000 };

/* ---- life ------------------------------------------------------------------------------------ */

static void files_opened(fp_volume_req *req)
{
    fp_storagenode *node = req->user;
    node->files_status = req->status;
    node->files_open = true;
    node->work = true;
    if (req->status)
        fp_log(FP_LOG_ERROR, "volume %s: no pages can be had: %s", node->path, farpool_errmsg());
}

int fp_pages_begin(fp_storagenode *node)
{
    node->files_req = (fp_volume_req){.done = files_opened, .user = node};
    return fp_volume_open(node->disk, &node->files_req, &node->files);
}

static void note_broken(fp_stored *log, int status)
{
    fp_pages *pages = &log->pages;
    pages->state = FP_PAGES_BROKEN;
    pages->broken = status;
    snprintf(pages->reason, sizeof pages->reason, "%s", farpool_errmsg());
    fp_log(FP_LOG_ERROR, "partition %" PRIu64 ": its pages cannot be had: %s", log->partition,
           pages->reason);
}

static void note_open(fp_stored *log)
{
    fp_pages *pages = &log->pages;
    fp_store_stats stats;
    fp_store_get_stats(pages->store, &stats);
    pages->state = FP_PAGES_OPEN;
    pages->rotten = false;
    pages->unreadable = 0; /* it is found again */
    pages->lacking = stats.damaged || stats.beginning > FP_REDO_LSN_FIRST;
    log->node->work = log->node->work || log->state == FP_STORED_CLOSING;
    fp_refill_look(log->node);
    /* Left by a refill that did not come to its end, or the WAL is damaged where all is in layers. */
    if (stats.converted > fp_wal_end(log->wal) && log->state == FP_STORED_OPEN)
        fp_stored_restart(log, stats.converted, fp_wal_lineage(log->wal));
    else
        fp_store_log_durable(pages->store);
}

static void store_opened(fp_store_req *req)
{
    fp_stored *log = req->user;
    if (req->status) {
        note_broken(log, req->status);
        log->pages.over = log->node->work = true;
        fp_refill_look(log->node);
    } else {
        note_open(log);
    }
    fp_pages_serve(log);
}

static void store_closed(fp_store_req *req)
{
    fp_stored *log = req->user;
    if (req->status)
        fp_log(FP_LOG_WARN, "closing pages: %s", farpool_errmsg());
    log->pages.over = log->node->work = true;
}

static void found_rotten(fp_stored *log)
{
    if (log->pages.rotten || log->pages.lacking)
        return; /* that is known */
    fp_log(FP_LOG_ERROR, "partition %" PRIu64 ": damage in its pages: %s", log->partition,
           farpool_errmsg());
    log->pages.rotten = true;
    fp_refill_look(log->node);
}

/* In the background. */
static void damaged(void *user)
{
    fp_stored *log = user;
    uint64_t lsn = fp_store_log_damage(log->pages.store);
    log->pages.unreadable = lsn ? lsn : log->pages.unreadable;
    found_rotten(log);
}

static void installed(fp_take *take)
{
    fp_stored *log = take->user;
    log->installing = false;
    log->take = NULL;
    log->install = take->error;
    if (take->error.status)
        log->restart_at = 0; /* what is before that LSN is in no layers: the WAL stays as it is */
    log->node->work = true;
}

void fp_pages_install(fp_stored *log, uint64_t generation)
{
    log->installing = true;
    log->take->done = installed;
    log->take->user = log;
    fp_take_install(log->take, generation);
}

static void open_store(fp_stored *log)
{
    fp_pages *pages = &log->pages;
    fp_storagenode *node = log->node;
    fp_store_options options = {
        .partition = log->partition,
        .generation = fp_wal_epoch(log->wal),
        .convert_bytes = node->convert_bytes,
        .trim_bytes = node->segment_bytes,
        .damaged = damaged,
        .user = log,
    };
    pages->state = FP_PAGES_OPENING;
    pages->req = (fp_store_req){.done = store_opened, .user = log};
    int rc = node->files_status;
    if (rc)
        rc = fp_error(rc, "volume %s: its files could not be opened", node->path);
    else
        rc = fp_store_open(node->files, log->wal, &options, &pages->req, &pages->store);
    if (rc) {
        note_broken(log, rc);
        fp_pages_serve(log);
    }
}

bool fp_pages_work(fp_stored *log)
{
    fp_pages *pages = &log->pages;
    bool closing = log->state == FP_STORED_CLOSING;
    if (pages->over) {
        pages->over = false;
        fp_store_free(pages->store);
        pages->store = NULL;
        if (pages->state == FP_PAGES_CLOSING)
            pages->state = FP_PAGES_CLOSED;
    }
    bool may_open = log->state == FP_STORED_OPEN && !log->node->closing;
    if (may_open && log->take && !log->installing &&
        (pages->state == FP_PAGES_CLOSED || pages->state == FP_PAGES_BROKEN)) {
        pages->state = FP_PAGES_CLOSED;
        fp_pages_install(log, fp_wal_epoch(log->wal));
    } else if (may_open && !log->take && pages->state == FP_PAGES_CLOSED && log->node->files_open) {
        open_store(log);
    }
    if ((closing || log->take) && pages->state == FP_PAGES_OPEN) {
        pages->state = FP_PAGES_CLOSING;
        pages->req = (fp_store_req){.done = store_closed, .user = log};
        fp_store_close(pages->store, &pages->req);
    }
    if (!closing || pages->state == FP_PAGES_OPENING || pages->state == FP_PAGES_CLOSING ||
        log->installing)
        return false;
    pages->state = FP_PAGES_CLOSED;
    return true;
}

static uint64_t now_ns(const fp_storagenode *node)
{
    return fp_net_now_ns(node->server.nets[0].net);
}

void fp_pages_answer(fp_stored *log, fp_request *request)
{
    if (!request->client) { /* also at the end, when the clock has been closed */
        fp_request_done(request, 0);
        return;
    }
    request->held_ns = now_ns(log->node);
    fp_requests_add(&log->held, request);
    log->node->held++;
    fp_pages_release(log);
}

void fp_pages_release(fp_stored *log)
{
    while (log->held.first) {
        bool behind = log->state == FP_STORED_OPEN && log->pages.state == FP_PAGES_OPEN &&
                      fp_store_is_behind(log->pages.store);
        if (behind && now_ns(log->node) - log->held.first->held_ns < HOLD_NS)
            return;
        log->node->held--;
        fp_request_done(fp_requests_take(&log->held), 0);
    }
}

void fp_pages_free(fp_stored *log)
{
    fp_request *request;
    while ((request = fp_requests_take(&log->pages.waiting)))
        free(request);
    fp_store_free(log->pages.store);
    free(log->pages.last.page);
}

void fp_pages_end(fp_storagenode *node) { fp_volume_free(node->files); }

/* ---- PAGE_GET -------------------------------------------------------------------------------- */

/* From the page that was made last. Frees the request. */
static void answer_piece(fp_request *request)
{
    const fp_store_req *last = &request->log->pages.last;
    fp_msg *answer = &request->log->node->server.answer;
    uint32_t bytes = FARPOOL_UNIT_BYTES << last->order, at = request->offset;
    if (at >= bytes) {
        fp_request_done(request, fp_error(FARPOOL_E_INVAL,
                                          "page %" PRIu64 " has %" PRIu32
                                          " bytes; some from %" PRIu32 " on were asked for",
                                          last->pid, bytes, at));
        return;
    }
    answer->type = FP_MSG_PAGE;
    answer->partition = request->log->partition;
    answer->pid = last->pid;
    answer->lsn = last->lsn;
    answer->order = last->order;
    answer->offset = at;
    answer->data_len = bytes - at < FP_WIRE_DATA_MAX ? bytes - at : FP_WIRE_DATA_MAX;
    memcpy(answer->data, last->page + at, answer->data_len);
    fp_request_answer(request);
}

static void got(fp_store_req *req)
{
    fp_request *request = req->user;
    fp_store_req *last = &request->log->pages.last;
    if (req->status == FARPOOL_E_CORRUPT && request->log->state == FP_STORED_OPEN &&
        request->log->pages.state == FP_PAGES_OPEN) {
        fp_kept why = {0};
        fp_kept_set(&why, req->status);
        found_rotten(request->log);
        req->status = fp_kept_tell(&why);
    }
    if (req->status) {
        fp_request_done(request, req->status);
        return;
    }
    free(last->page);
    *last = *req;
    answer_piece(request);
}

/* Who was taken over would read pages as his successor has written them, beside older ones that he has. */
static int check_owner(const fp_stored *log, const fp_request *request)
{
    uint64_t reached = fp_wal_reached(log->wal);
    return request->epoch && request->epoch < reached
               ? fp_error(FARPOOL_E_FENCED,
                          "partition %" PRIu64 " epoch %" PRIu64 ": epoch %" PRIu64
                          " has come on volume %s, so pages may be a later owner's",
                          log->partition, request->epoch, reached, log->node->path)
               : 0;
}

static void get(fp_stored *log, fp_request *request)
{
    const fp_store_req *last = &log->pages.last;
    int rc = fp_stored_check_fork(log, request->fork);
    if (!rc)
        rc = check_owner(log, request);
    if (rc) {
        fp_request_done(request, rc);
        return;
    }
    /* Pages that are longer than a message come in pieces. */
    if (request->offset && last->page && last->pid == request->pid && last->lsn == request->lsn) {
        answer_piece(request);
        return;
    }
    request->page =
        (fp_store_req){.done = got, .user = request, .pid = request->pid, .lsn = request->lsn};
    rc = fp_store_get(log->pages.store, &request->page);
    if (rc)
        fp_request_done(request, rc);
}

static void serve(fp_request *request)
{
    fp_stored *log = request->log;
    fp_pages *pages = &log->pages;
    if (log->state == FP_STORED_BROKEN)
        fp_request_done(request, fp_error(log->broken, "%s", log->reason));
    else if (pages->state == FP_PAGES_BROKEN)
        fp_request_done(request, fp_error(pages->broken, "%s", pages->reason));
    else if (pages->state == FP_PAGES_OPEN)
        get(log, request);
    else
        fp_requests_add(&pages->waiting, request);
}

void fp_pages_serve(fp_stored *log)
{
    fp_requests waiting = log->pages.waiting;
    if (!waiting.first)
        return;
    fp_requests_init(&log->pages.waiting);
    fp_request *request;
    while ((request = fp_requests_take(&waiting)))
        serve(request);
}

void fp_pages_get(fp_request *request)
{
    fp_stored *log = request->log;
    fp_pages *pages = &log->pages;
    if (log->state == FP_STORED_OPEN && pages->state == FP_PAGES_BROKEN &&
        pages->broken != FARPOOL_E_CORRUPT && pages->broken != FARPOOL_E_FENCED &&
        pages->broken != FARPOOL_E_UNSUPPORTED) {
        pages->state = FP_PAGES_CLOSED; /* perhaps what was wrong has been put right */
        log->node->work = true;
    }
    serve(request);
}
