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

static void store_opened(fp_store_req *req)
{
    fp_stored *log = req->user;
    if (req->status) {
        note_broken(log, req->status);
        log->pages.over = log->node->work = true;
    } else {
        log->pages.state = FP_PAGES_OPEN;
        log->node->work = log->node->work || log->state == FP_STORED_CLOSING;
        fp_store_log_durable(log->pages.store);
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

static void open_store(fp_stored *log)
{
    fp_pages *pages = &log->pages;
    fp_storagenode *node = log->node;
    fp_store_options options = {
        .partition = log->partition,
        .generation = fp_wal_epoch(log->wal),
        .convert_bytes = node->convert_bytes,
        .trim_bytes = node->segment_bytes,
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
    if (log->state == FP_STORED_OPEN && pages->state == FP_PAGES_CLOSED && log->node->files_open &&
        !log->node->closing)
        open_store(log);
    if (closing && pages->state == FP_PAGES_OPEN) {
        pages->state = FP_PAGES_CLOSING;
        pages->req = (fp_store_req){.done = store_closed, .user = log};
        fp_store_close(pages->store, &pages->req);
    }
    if (!closing || pages->state == FP_PAGES_OPENING || pages->state == FP_PAGES_CLOSING)
        return false;
    pages->state = FP_PAGES_CLOSED;
    return true;
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
    if (req->status) {
        fp_request_done(request, req->status);
        return;
    }
    free(last->page);
    *last = *req;
    answer_piece(request);
}

static void get(fp_stored *log, fp_request *request)
{
    const fp_store_req *last = &log->pages.last;
    /* Pages that are longer than a message come in pieces. */
    if (request->offset && last->page && last->pid == request->pid && last->lsn == request->lsn) {
        answer_piece(request);
        return;
    }
    request->page =
        (fp_store_req){.done = got, .user = request, .pid = request->pid, .lsn = request->lsn};
    int rc = fp_store_get(log->pages.store, &request->page);
    if (rc)
        fp_request_done(request, rc);
}

void fp_pages_serve(fp_stored *log)
{
    fp_requests waiting = log->pages.waiting;
    if (!waiting.first)
        return;
    fp_requests_init(&log->pages.waiting);
    fp_request *request;
    while ((request = fp_requests_take(&waiting)))
        fp_pages_get(request);
}

void fp_pages_get(fp_request *request)
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
