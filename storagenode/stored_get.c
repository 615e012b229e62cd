/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LOG_GET: the log's bytes, from any LSN on, in pieces that fit a message. Files are read in whole frames, so that what
 * is given away has been checked, and much at a time; the pieces come from what has been read. A reader that asks for
 * something far from all that has been read costs up to a segment, for frames are found only one behind the other.
 *
 * One read of a log at a time: two who read the same part read it once.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "storagenode/node.h"

static uint64_t block_of(uint64_t lsn) { return lsn & ~(uint64_t)(FP_DISK_ALIGN - 1); }

/* The reader that has the byte, or NULL. */
static fp_stored_reader *reader_with(fp_storagenode *node, const fp_stored *log, uint64_t lsn)
{
    for (unsigned i = 0; i < FP_STORAGE_READERS; i++) {
        fp_stored_reader *reader = &node->readers[i];
        if (reader->log == log && !reader->request && reader->from <= lsn && lsn < reader->to)
            return reader;
    }
    return NULL;
}

/* Of those that are not reading the one whose content was of no use for the longest time; NULL: all are. */
static fp_stored_reader *idle_reader(fp_storagenode *node)
{
    fp_stored_reader *oldest = NULL;
    for (unsigned i = 0; i < FP_STORAGE_READERS; i++) {
        fp_stored_reader *reader = &node->readers[i];
        if (!reader->request && (!oldest || reader->used < oldest->used))
            oldest = reader;
    }
    return oldest;
}

static void answer_piece(fp_request *request, fp_stored_reader *reader)
{
    fp_storagenode *node = request->log->node;
    fp_msg *answer = &node->server.answer;
    uint64_t len = 0;
    if (reader) {
        len = reader->to - request->lsn;
        len = len < FP_WIRE_DATA_MAX ? len : FP_WIRE_DATA_MAX;
        memcpy(answer->data, reader->buffer + (request->lsn - block_of(reader->from)), len);
        reader->used = ++node->clock;
    }
    answer->type = FP_MSG_LOG;
    answer->partition = request->log->partition;
    answer->lsn = request->lsn;
    answer->data_len = (uint32_t)len;
    fp_request_answer(request);
}

/* ---- reading --------------------------------------------------------------------------------- */

static int read_on(fp_stored_reader *reader, size_t bytes);

static void end_read(fp_stored_reader *reader, int status)
{
    fp_request *request = reader->request;
    reader->request = NULL;
    reader->log->reading = false;
    if (status) {
        reader->log = NULL;
        fp_request_done(request, status);
    } else {
        answer_piece(request, reader);
    }
    fp_stored_gets(reader->node);
}

static void have_read(fp_wal_req *req)
{
    fp_stored_reader *reader = req->user;
    uint64_t wanted = reader->request->lsn, end = req->lsn;
    int status = req->status;
    if (wanted < end) { /* also if what is behind is damaged */
        reader->to = end;
        end_read(reader, 0);
        return;
    }
    size_t bytes = FP_STORAGE_READER_BYTES;
    if (!status && end == reader->from)
        bytes = req->needed; /* a frame that is longer than what was read */
    reader->from = end;
    if (!status && !reader->request->client)
        status = fp_error(FARPOOL_E_CLOSED, "nobody waits for it");
    if (!status)
        status = read_on(reader, bytes);
    if (status)
        end_read(reader, status);
}

/* From reader->from on. */
static int read_on(fp_stored_reader *reader, size_t bytes)
{
    const fp_stored *log = reader->log;
    uint64_t durable = fp_wal_durable(log->wal), to = durable;
    if (durable - reader->from > bytes)
        to = reader->from + bytes;
    size_t room = block_of(to + FP_DISK_ALIGN - 1) - block_of(reader->from);
    if (reader->room < room || reader->room > 2 * FP_STORAGE_READER_BYTES) {
        free(reader->buffer);
        reader->room = room > FP_STORAGE_READER_BYTES + FP_DISK_ALIGN
                           ? room
                           : FP_STORAGE_READER_BYTES + FP_DISK_ALIGN;
        reader->buffer = aligned_alloc(FP_DISK_ALIGN, reader->room);
    }
    if (!reader->buffer) {
        reader->room = 0;
        return fp_error(FARPOOL_E_NOMEM, "volume %s: no memory to read %zu bytes of a WAL",
                        log->node->path, room);
    }
    reader->to = reader->from; /* nothing, until it is read */
    reader->wal.done = have_read;
    reader->wal.user = reader;
    return fp_wal_read(log->wal, reader->from, to, reader->buffer, &reader->wal);
}

/* The nearest beginning of a frame at or below the LSN that is known. */
static uint64_t frame_before(const fp_stored *log, uint64_t lsn)
{
    uint64_t before = fp_wal_frame_before(log->wal, lsn);
    for (unsigned i = 0; i < FP_STORAGE_READERS; i++) {
        const fp_stored_reader *reader = &log->node->readers[i];
        if (reader->log != log || reader->request)
            continue;
        if (reader->from <= lsn && reader->from > before)
            before = reader->from;
        if (reader->to <= lsn && reader->to > before)
            before = reader->to;
    }
    return before;
}

static void start_read(fp_stored *log, fp_request *request, fp_stored_reader *reader)
{
    reader->from = frame_before(log, request->lsn);
    reader->log = log;
    reader->request = request;
    log->reading = true;
    int rc = read_on(reader, FP_STORAGE_READER_BYTES);
    if (rc) {
        reader->request = NULL;
        reader->log = NULL;
        log->reading = false;
        fp_request_done(request, rc);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static int check(const fp_stored *log, uint64_t lsn, uint64_t fork)
{
    int rc = fp_stored_check_fork(log, fork);
    if (rc)
        return rc;
    if (lsn < fp_wal_start(log->wal))
        return fp_error(FARPOOL_E_NOTFOUND,
                        "partition %" PRIu64 ": LSN %" PRIu64
                        " is not on volume %s any more, where the log begins at %" PRIu64,
                        log->partition, lsn, log->node->path, fp_wal_start(log->wal));
    if (lsn > fp_wal_durable(log->wal))
        return fp_error(FARPOOL_E_RETRY,
                        "partition %" PRIu64 ": LSN %" PRIu64
                        " is not durable on volume %s yet: %" PRIu64 " is",
                        log->partition, lsn, log->node->path, fp_wal_durable(log->wal));
    return 0;
}

/* False: it has to wait. */
static bool try_get(fp_storagenode *node, fp_request *request)
{
    fp_stored *log = request->log;
    if (!request->client) {
        fp_request_done(request, 0);
        return true;
    }
    if (log->state != FP_STORED_OPEN) {
        fp_stored_take(log, request);
        return true;
    }
    int rc = check(log, request->lsn, request->fork);
    if (rc) {
        fp_request_done(request, rc);
        return true;
    }
    fp_stored_reader *reader = reader_with(node, log, request->lsn);
    if (reader || request->lsn == fp_wal_durable(log->wal)) {
        answer_piece(request, reader);
        return true;
    }
    reader = idle_reader(node);
    if (!reader || log->reading)
        return false;
    start_read(log, request, reader);
    return true;
}

void fp_stored_get(fp_storagenode *node, fp_request *request)
{
    if (!try_get(node, request))
        fp_requests_add(&node->gets, request);
}

void fp_stored_gets(fp_storagenode *node)
{
    fp_requests waiting = node->gets;
    if (!waiting.first)
        return;
    fp_requests_init(&node->gets);
    fp_request *request;
    while ((request = fp_requests_take(&waiting)))
        fp_stored_get(node, request);
}

void fp_stored_forget_read(fp_stored *log)
{
    for (unsigned i = 0; i < FP_STORAGE_READERS; i++)
        if (log->node->readers[i].log == log)
            log->node->readers[i].log = NULL;
}

void fp_stored_readers_free(fp_storagenode *node)
{
    fp_request *request;
    while ((request = fp_requests_take(&node->gets)))
        free(request);
    for (unsigned i = 0; i < FP_STORAGE_READERS; i++)
        free(node->readers[i].buffer);
}
