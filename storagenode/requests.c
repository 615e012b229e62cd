/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and their answers. What takes a while is an fp_request until it is answered; its client may go meanwhile.
 * Requests of one client about one partition's WAL are answered in the order in which they came; LOG_GETs
 * and PAGE_GETs are apart.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "storagenode/node.h"

/* ---- lists ----------------------------------------------------------------------------------- */

void fp_requests_init(fp_requests *list)
{
    list->first = NULL;
    list->tail = &list->first;
}

void fp_requests_add(fp_requests *list, fp_request *request)
{
    request->next = NULL;
    *list->tail = request;
    list->tail = &request->next;
}

fp_request *fp_requests_take(fp_requests *list)
{
    fp_request *request = list->first;
    if (request) {
        list->first = request->next;
        if (!list->first)
            list->tail = &list->first;
    }
    return request;
}

static void forget(fp_storage_client *client, const fp_request *request)
{
    fp_request *before = NULL;
    if (client->requests == request) {
        client->requests = request->next_of_client;
    } else {
        before = client->requests;
        while (before->next_of_client != request)
            before = before->next_of_client;
        before->next_of_client = request->next_of_client;
    }
    if (client->last == request)
        client->last = before;
    client->request_count--;
}

/* ---- answers --------------------------------------------------------------------------------- */

static bool is_read(const fp_request *request)
{
    return request->type == FP_MSG_LOG_GET || request->type == FP_MSG_PAGE_GET ||
           request->type == FP_MSG_MANIFEST_GET || request->type == FP_MSG_FILE_GET;
}

static bool must_wait(const fp_request *request)
{
    const fp_request *before = request->client->requests;
    if (is_read(request))
        return false;
    while (before != request && (before->log != request->log || is_read(before)))
        before = before->next_of_client;
    return before != request;
}

/* Frees the request. False: the client is gone. */
static bool answer(fp_storage_client *client, fp_request *request)
{
    fp_storagenode *node = request->log->node;
    int status = request->status;
    uint32_t id = request->id;
    if (status)
        fp_error(status, "%s", request->reason);
    else
        status = fp_stored_state_get(request->log, client, &node->server.answer);
    forget(client, request);
    node->requests--;
    free(request);
    return status ? fp_server_refuse(&node->server, &client->at, id, status)
                  : fp_server_answer(&node->server, &client->at, id);
}

/* False: the client is gone. */
static bool answer_what_can_be(fp_storage_client *client)
{
    fp_request *request = client->requests;
    while (request) {
        if (!request->done || must_wait(request)) {
            request = request->next_of_client;
            continue;
        }
        if (!answer(client, request))
            return false;
        request = client->requests;
    }
    return true;
}

bool fp_request_done(fp_request *request, int status)
{
    if (!request->client) {
        request->log->node->requests--;
        free(request);
        return false;
    }
    request->done = true;
    request->status = status;
    if (status)
        snprintf(request->reason, sizeof request->reason, "%s", farpool_errmsg());
    return answer_what_can_be(request->client);
}

bool fp_request_answer(fp_request *request)
{
    fp_storage_client *client = request->client;
    fp_storagenode *node = request->log->node;
    uint32_t id = request->id;
    if (client)
        forget(client, request);
    node->requests--;
    free(request);
    return client && fp_server_answer(&node->server, &client->at, id);
}

void fp_storage_dropped(void *owner, fp_server_client *gone)
{
    fp_storagenode *node = owner;
    fp_storage_client *client = (fp_storage_client *)gone;
    fp_stored_copy_end(client);
    for (fp_request *request = client->requests, *next; request; request = next) {
        next = request->next_of_client;
        request->client = NULL;
        if (!request->done && request->type != FP_MSG_FILE_GET)
            continue; /* whoever has it under way frees it */
        node->requests--;
        free(request);
    }
    for (fp_stored *log = node->logs; log; log = log->next) {
        if (log->streamer == client)
            fp_stored_vacate(log);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static void refuse(fp_storagenode *node, fp_storage_client *client, int code)
{
    fp_server_refuse(&node->server, &client->at, node->server.request.request, code);
}

/* NULL: it has been refused. */
static fp_request *note_request(fp_storagenode *node, fp_storage_client *client, fp_stored *log)
{
    const fp_msg *msg = &node->server.request;
    fp_request *request = calloc(1, sizeof *request);
    if (!request) {
        refuse(node, client,
               fp_error(FARPOOL_E_NOMEM, "the storage node has no memory for a request"));
        return NULL;
    }
    request->client = client;
    request->log = log;
    request->type = msg->type;
    request->id = msg->request;
    request->epoch = msg->epoch;
    request->bytes = msg->bytes;
    request->lsn = msg->lsn;
    request->fork = msg->fork;
    request->lineage = msg->lineage;
    request->pid = msg->pid;
    request->offset = msg->offset;
    request->at = msg->at;
    memcpy(request->hash, msg->hash, sizeof request->hash);
    if (client->requests)
        client->last->next_of_client = request;
    else
        client->requests = request;
    client->last = request;
    client->request_count++;
    node->requests++;
    return request;
}

static int check_open(const fp_msg *msg)
{
    if (msg->lsn < FP_REDO_LSN_FIRST || msg->lsn % FP_REDO_ALIGN || msg->lsn > FP_WAL_LSN_MAX)
        return fp_error(FARPOOL_E_INVAL,
                        "WAL_OPEN of partition %" PRIu64 " from LSN %" PRIu64
                        ": the LSN is a frame's beginning, from %llu on, and at most %llu",
                        msg->partition, msg->lsn, FP_REDO_LSN_FIRST, FP_WAL_LSN_MAX);
    if (msg->bytes > FP_REDO_FRAME_BYTES_MAX)
        return fp_error(FARPOOL_E_TOO_BIG,
                        "WAL_OPEN of partition %" PRIu64 ": frames of up to %" PRIu64
                        " bytes, but no frame is longer than %d",
                        msg->partition, msg->bytes, FP_REDO_FRAME_BYTES_MAX);
    return 0;
}

/* The log that the request is about; NULL: *rc says why there is none. */
static fp_stored *log_of(fp_storagenode *node, int *rc)
{
    const fp_msg *msg = &node->server.request;
    if (!msg->partition) {
        *rc = fp_error(FARPOOL_E_INVAL, "there is no partition 0");
        return NULL;
    }
    if (msg->epoch > INT64_MAX) { /* a promise that nobody could go beyond */
        *rc = fp_error(FARPOOL_E_INVAL,
                       "partition %" PRIu64 ": epoch %" PRIu64 "; epochs stay below 2^63",
                       msg->partition, msg->epoch);
        return NULL;
    }
    if (msg->type == FP_MSG_WAL_OPEN) {
        *rc = check_open(msg);
        if (*rc)
            return NULL;
    }
    fp_stored *log = fp_stored_find(node, msg->partition);
    if (log)
        return log;
    if (msg->type == FP_MSG_WAL_OPEN)
        return fp_stored_add(node, msg->partition, msg->lsn, &msg->lineage, rc);
    *rc = fp_error(FARPOOL_E_NOTFOUND, "partition %" PRIu64 " has no WAL on volume %s",
                   msg->partition, node->path);
    return NULL;
}

static void handle_log(fp_storagenode *node, fp_storage_client *client)
{
    int rc = 0;
    fp_stored *log = NULL;
    if (client->request_count >= FP_STORAGE_REQUESTS_MAX)
        rc = fp_error(FARPOOL_E_BUSY, "%u requests of this connection are under way already",
                      client->request_count);
    else if (!(rc = fp_access_check(node, client)))
        log = log_of(node, &rc);
    if (log && (rc = fp_stored_check_dropping(log)))
        log = NULL;
    if (!log) {
        refuse(node, client, rc);
        return;
    }
    fp_request *request = note_request(node, client, log);
    if (!request)
        return;
    if (request->type == FP_MSG_PAGE_GET)
        fp_pages_get(request);
    else if (request->type == FP_MSG_MANIFEST_GET || request->type == FP_MSG_FILE_GET)
        fp_stored_copy(request);
    else if (is_read(request))
        fp_stored_get(node, request);
    else
        fp_stored_take(log, request);
}

static void handle_usage(fp_storagenode *node, fp_storage_client *client)
{
    fp_storagenode_usage usage;
    fp_msg *answer = &node->server.answer;
    fp_storagenode_usage_get(node, &usage);
    answer->type = FP_MSG_USAGE_OK;
    memset(&answer->usage, 0, sizeof answer->usage);
    answer->usage.bytes_total = usage.bytes_total;
    answer->usage.bytes_granted = usage.bytes_log;
    answer->usage.partitions = usage.partitions;
    answer->usage.connections = usage.connections;
    answer->usage.cpu_ns = usage.cpu_ns;
    answer->usage.data_bytes = usage.data_bytes;
    answer->usage.spill_lag = usage.bytes_lag;
    answer->usage.incomplete = usage.incomplete;
    fp_server_answer(&node->server, &client->at, node->server.request.request);
}

void fp_storage_request(void *owner, fp_server_client *from)
{
    fp_storagenode *node = owner;
    fp_storage_client *client = (fp_storage_client *)from;
    switch (node->server.request.type) {
    case FP_MSG_WAL_OPEN:
    case FP_MSG_WAL_GET:
    case FP_MSG_WAL_APPEND:
    case FP_MSG_LOG_GET:
    case FP_MSG_PAGE_GET:
    case FP_MSG_WAL_FENCE:
    case FP_MSG_WAL_JOIN:
    case FP_MSG_MANIFEST_GET:
    case FP_MSG_FILE_GET:
        handle_log(node, client);
        break;
    case FP_MSG_USAGE:
        handle_usage(node, client);
        break;
    default:
        refuse(node, client,
               fp_error(FARPOOL_E_UNSUPPORTED, "%s is a storage node, not a memory node",
                        node->server.name));
        break;
    }
}
