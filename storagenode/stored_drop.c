/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A partition is deleted, because a coordinator has said so: what is here of it under this epoch or a lower one.
 *
 *   wanted     until its WAL is open, for then it is known what was promised, or cannot be opened
 *   dropping   nobody gets anything of it any more (E_RETRY); refilling, pages and WAL come to their ends
 *   its pages go (volume_drop.c), then the files of its WAL, SYNC_DIR
 *
 * A crash leaves a partition with a WAL, or some files of one, which is among those that coordinators are told of: they say
 * so again. What fails is tried again when they are told next.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "storagenode/refill.h"
#include "storagenode/wal_format.h"

struct fp_drop {
    fp_stored *log;
    fp_volume_req pages;
    fp_disk_req req;
    char *names;
    const char *next;
};

static void over(fp_drop *drop, int status)
{
    fp_stored *log = drop->log;
    if (status)
        fp_log(FP_LOG_ERROR, "partition %" PRIu64 ": it is not deleted from volume %s yet: %s",
               log->partition, log->node->path, farpool_errmsg());
    else
        fp_log(FP_LOG_INFO, "partition %" PRIu64 ": deleted from volume %s", log->partition,
               log->node->path);
    log->drop = NULL;
    log->drop_failed = status;
    log->dropped = !status;
    free(drop->names);
    free(drop);
}

/* ---- the files of the WAL -------------------------------------------------------------------- */

static void unlink_next(fp_disk_req *req);

static void synced(fp_disk_req *req) { over(req->user, req->status); }

static void submit(fp_drop *drop, enum fp_disk_kind kind, const char *name,
                   void (*done)(fp_disk_req *))
{
    drop->req = (fp_disk_req){.kind = kind, .name = name, .done = done, .user = drop};
    fp_disk_submit(drop->log->node->disk, &drop->req);
}

static void unlink_next(fp_disk_req *req)
{
    fp_drop *drop = req->user;
    uint32_t number;
    if (req->status && req->status != FARPOOL_E_NOTFOUND) {
        over(drop, req->status);
        return;
    }
    while (*drop->next &&
           fp_wal_parse_name(drop->next, drop->log->partition, &number) == FP_WAL_NAME_OTHER)
        drop->next += strlen(drop->next) + 1;
    const char *name = drop->next;
    drop->next += *name ? strlen(name) + 1 : 0;
    if (*name)
        submit(drop, FP_DISK_UNLINK, name, unlink_next);
    else
        submit(drop, FP_DISK_SYNC_DIR, NULL, synced);
}

static void listed(fp_disk_req *req)
{
    fp_drop *drop = req->user;
    drop->names = req->names;
    drop->next = req->names;
    if (req->status)
        over(drop, req->status);
    else
        unlink_next(req);
}

static void pages_gone(fp_volume_req *req)
{
    fp_drop *drop = req->user;
    if (req->status)
        over(drop, req->status);
    else
        submit(drop, FP_DISK_LIST, NULL, listed);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void begin_files(fp_stored *log)
{
    fp_storagenode *node = log->node;
    fp_drop *drop = calloc(1, sizeof *drop);
    int rc = node->files_status;
    if (!drop)
        rc = fp_error(FARPOOL_E_NOMEM, "no memory to delete a partition");
    else if (rc)
        rc = fp_error(rc, "volume %s: its files could not be opened", node->path);
    log->drop_failed = rc;
    if (rc) {
        free(drop);
        return;
    }
    drop->log = log;
    drop->pages = (fp_volume_req){.done = pages_gone, .user = drop};
    log->drop = drop;
    rc = fp_volume_drop_pages(node->files, log->partition, &drop->pages);
    if (rc)
        over(drop, rc);
}

/* It asks for pages of it while it takes those of another one. */
static bool asks_for(const fp_storage_client *client, const fp_stored *log)
{
    const fp_request *request = client->requests;
    while (request && (request->type != FP_MSG_FILE_GET || request->log != log))
        request = request->next_of_client;
    return request != NULL;
}

/* Whoever takes its pages for another storage node holds files of it. */
static void cut_copies(const fp_stored *log)
{
    fp_server *server = &log->node->server;
    fp_server_client *next;
    for (fp_server_client *at = server->clients; at; at = next) {
        const fp_storage_client *client = (fp_storage_client *)at;
        next = at->next;
        if ((client->copy && fp_copy_partition(client->copy) == log->partition) ||
            asks_for(client, log))
            fp_server_drop(server, at);
    }
}

/* Whether it is to be dropped is known when it is open, or cannot be. */
static void judge(fp_stored *log)
{
    if (log->state == FP_STORED_OPEN && fp_wal_epoch(log->wal) > log->drop_epoch) {
        fp_log(FP_LOG_WARN,
               "partition %" PRIu64 ": not deleted under epoch %" PRIu64 ", for epoch %" PRIu64
               " is promised on volume %s",
               log->partition, log->drop_epoch, fp_wal_epoch(log->wal), log->node->path);
        log->drop_epoch = 0;
    } else if (log->state == FP_STORED_OPEN || log->state == FP_STORED_BROKEN) {
        log->dropping = true;
        cut_copies(log);
    }
}

static void step(fp_stored *log)
{
    fp_refill *refill = log->node->refill;
    if (!log->dropping)
        judge(log);
    if (!log->dropping || log->drop || log->drop_failed || log->take)
        return;
    if (refill && refill->log == log) {
        if (!refill->disk_busy)
            fp_refill_let_go(refill);
        return;
    }
    if (log->state == FP_STORED_OPEN) {
        fp_stored_vacate(log);
        fp_stored_begin_closing(log);
    } else if ((log->state == FP_STORED_CLOSED || log->state == FP_STORED_BROKEN) && !log->over &&
               log->node->files_open) {
        fp_stored_refuse(log, fp_stored_check_dropping(log));
        begin_files(log);
    }
}

void fp_stored_drops(fp_storagenode *node)
{
    node->drops = false;
    for (fp_stored *log = node->logs, *next; log; log = next) {
        next = log->next;
        if (log->dropped) {
            fp_stored_forget(log);
            continue;
        }
        if (log->drop_epoch && !node->closing)
            step(log);
        node->drops = node->drops || log->drop_epoch;
    }
}

int fp_stored_check_dropping(const fp_stored *log)
{
    return log->dropping
               ? fp_error(FARPOOL_E_RETRY, "partition %" PRIu64 " is being deleted from volume %s",
                          log->partition, log->node->path)
               : 0;
}

void fp_stored_drop(fp_storagenode *node, uint64_t partition, uint64_t epoch)
{
    fp_stored *log = fp_stored_find(node, partition);
    if (!log || !epoch)
        return;
    if (epoch > log->drop_epoch)
        log->drop_epoch = epoch;
    log->drop_failed = 0;
    node->drops = node->work = true;
}
