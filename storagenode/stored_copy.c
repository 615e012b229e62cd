/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MANIFEST_GET and FILE_GET: another storage node takes the pages of a partition from here. What it has been told of is
 * held for its connection, one partition at a time. Only who has all pages itself gives them away.
 *
 * FILE_GETs of a client are answered in their order; one that waits for the disk makes those behind it wait, which are
 * found by the client's list of requests.
 */
#include <inttypes.h>
#include <string.h>

#include "common/error.h"
#include "storagenode/node.h"

/* ---- FILE_GET -------------------------------------------------------------------------------- */

static void serve_files(fp_storage_client *client);

static fp_request *first_file(const fp_storage_client *client)
{
    fp_request *request = client->requests;
    while (request && request->type != FP_MSG_FILE_GET)
        request = request->next_of_client;
    return request;
}

static void loaded(void *user, int status)
{
    fp_storage_client *client = user;
    fp_request *request = first_file(client);
    FP_ASSERT(request);
    client->copy_busy = false;
    if (!status || fp_request_done(request, status))
        serve_files(client);
}

/* False: it waits, or the client is gone. */
static bool serve_file(fp_storage_client *client, fp_request *request)
{
    const uint8_t *bytes = NULL;
    int64_t len = FARPOOL_E_NOTFOUND;
    if (client->copy && fp_copy_partition(client->copy) == request->log->partition)
        len = fp_copy_get(client->copy, request->hash, request->at, &bytes);
    else
        fp_error(FARPOOL_E_NOTFOUND, "partition %" PRIu64 ": ask for its manifest first",
                 request->log->partition);
    if (!len) {
        client->copy_busy = true;
        fp_copy_load(client->copy, request->hash, request->at, loaded, client);
        return false;
    }
    if (len < 0)
        return fp_request_done(request, (int)len);
    fp_msg *answer = &request->log->node->server.answer;
    answer->type = FP_MSG_FILE;
    answer->partition = request->log->partition;
    answer->at = request->at;
    memcpy(answer->hash, request->hash, sizeof answer->hash);
    answer->data_len = len < FP_WIRE_DATA_MAX ? (uint32_t)len : FP_WIRE_DATA_MAX;
    memcpy(answer->data, bytes, answer->data_len);
    return fp_request_answer(request);
}

static void serve_files(fp_storage_client *client)
{
    fp_request *request;
    do
        request = first_file(client);
    while (request && serve_file(client, request));
}

/* ---- MANIFEST_GET ---------------------------------------------------------------------------- */

static void give_manifest(fp_request *request)
{
    fp_msg *answer = &request->log->node->server.answer;
    size_t bytes;
    const uint8_t *manifest = fp_copy_manifest(request->client->copy, &bytes);
    if (request->at >= bytes) {
        fp_request_done(request, fp_error(FARPOOL_E_INVAL,
                                          "a manifest has %zu bytes; some from %" PRIu64
                                          " on were asked for",
                                          bytes, request->at));
        return;
    }
    size_t len = bytes - request->at;
    answer->type = FP_MSG_MANIFEST;
    answer->partition = request->log->partition;
    answer->bytes = bytes;
    answer->at = request->at;
    answer->data_len = len < FP_WIRE_DATA_MAX ? (uint32_t)len : FP_WIRE_DATA_MAX;
    memcpy(answer->data, manifest + request->at, answer->data_len);
    fp_request_answer(request);
}

static int open_copy(fp_request *request)
{
    const fp_stored *log = request->log;
    fp_store_stats stats;
    if (log->pages.state != FP_PAGES_OPEN || log->state != FP_STORED_OPEN)
        return fp_error(FARPOOL_E_RETRY, "partition %" PRIu64 ": its pages were closed meanwhile",
                        log->partition);
    int rc = fp_stored_check_fork(log, request->fork);
    if (rc)
        return rc;
    fp_store_get_stats(log->pages.store, &stats);
    if (stats.beginning > FP_REDO_LSN_FIRST || stats.damaged || stats.failed == FARPOOL_E_CORRUPT ||
        log->pages.rotten)
        return fp_error(stats.beginning > FP_REDO_LSN_FIRST ? FARPOOL_E_NOTFOUND
                                                            : FARPOOL_E_CORRUPT,
                        "partition %" PRIu64 ": volume %s does not have all its pages itself",
                        log->partition, log->node->path);
    return fp_copy_open(log->node->files, log->partition, &request->client->copy);
}

static void flushed(fp_store_req *req)
{
    fp_request *request = req->user;
    int rc = req->status;
    if (!rc && request->client && request->client->copy)
        rc = fp_error(FARPOOL_E_BUSY, "the manifest was asked for twice at a time");
    if (!rc && request->client)
        rc = open_copy(request);
    if (rc || !request->client)
        fp_request_done(request, rc);
    else
        give_manifest(request);
}

static int begin_manifest(fp_request *request)
{
    fp_stored *log = request->log;
    if (log->state == FP_STORED_BROKEN)
        return fp_error(log->broken, "%s", log->reason);
    if (log->pages.state == FP_PAGES_BROKEN)
        return fp_error(log->pages.broken, "%s", log->pages.reason);
    if (log->state != FP_STORED_OPEN || log->pages.state != FP_PAGES_OPEN)
        return fp_error(FARPOOL_E_RETRY, "partition %" PRIu64 ": it is being opened",
                        log->partition);
    int rc = fp_stored_check_fork(log, request->fork);
    if (rc)
        return rc;
    if (request->lsn > fp_wal_durable(log->wal))
        return fp_error(FARPOOL_E_RETRY,
                        "partition %" PRIu64 ": LSN %" PRIu64
                        " is not durable on volume %s yet: %" PRIu64 " is",
                        log->partition, request->lsn, log->node->path, fp_wal_durable(log->wal));
    fp_stored_copy_end(request->client);
    request->page = (fp_store_req){.done = flushed, .user = request, .lsn = request->lsn};
    return fp_store_flush_log(log->pages.store, &request->page);
}

void fp_stored_copy_end(fp_storage_client *client)
{
    fp_copy_close(client->copy);
    client->copy = NULL;
}

void fp_stored_copy(fp_request *request)
{
    fp_storage_client *client = request->client;
    int rc = 0;
    if (request->type == FP_MSG_FILE_GET) {
        if (!client->copy_busy)
            serve_files(client);
        return;
    }
    if (!request->at) {
        rc = client->copy_busy ? fp_error(FARPOOL_E_BUSY, "files are being asked for")
                               : begin_manifest(request);
        if (rc)
            fp_request_done(request, rc);
        return;
    }
    if (!client->copy || fp_copy_partition(client->copy) != request->log->partition)
        fp_request_done(request,
                        fp_error(FARPOOL_E_NOTFOUND, "a manifest is asked for from byte 0 on"));
    else
        give_manifest(request);
}
