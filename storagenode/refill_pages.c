/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pages of a partition from a peer: its manifest, then the files that are not here, or are not what their names
 * say, one after the other. What is here goes on being served until all of it has come and is durable. Then:
 *
 *   the layers end where there is log here   the pages are closed, the manifest is written, they are opened again
 *   they end behind the end of the WAL       first the log up to there, if the peer still has it; otherwise all is
 *                                            closed, the manifest is written, and the WAL begins anew where they end.
 *                                            A crash in between is made up for at the next start (stored_pages.c)
 *
 * The peer was asked to make layers at least up to where the log here begins, or ends, if it cannot be read back; for a WAL
 * that begins anew without one here, up to the last fork.
 */
#include <inttypes.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "storagenode/refill.h"

#define PATIENCE_NS                                                                                \
    10000000000ull /* for those who append, until they have come as far as the layers */
enum { READY_STEP_NS = 5000000 };

static const char *uri_of(const fp_refill *refill) { return refill->peers[refill->peer]->dial.uri; }

/* ---- the manifest ---------------------------------------------------------------------------- */

static void ask_manifest(fp_refill *refill)
{
    const fp_stored *log = refill->log;
    fp_msg *msg = &refill->msg;
    msg->type = FP_MSG_MANIFEST_GET;
    /* What begins anew has, from the first moment on, all that was the same before the last fork: others may count on it. */
    msg->lsn = log->state != FP_STORED_OPEN ? fp_lineage_at(&refill->state.lineage)
               : log->pages.unreadable      ? fp_wal_durable(log->wal)
                                            : fp_wal_start(log->wal);
    if (msg->lsn > refill->state.wal.durable && log->state == FP_STORED_OPEN)
        msg->lsn = log->pages.unreadable ? refill->state.wal.durable : 0;
    msg->at = refill->have;
    fp_refill_ask(refill, msg);
}

void fp_refill_pages_begin(fp_refill *refill)
{
    fp_stored *log = refill->log;
    refill->step = FP_REFILL_MANIFEST;
    refill->have = refill->total = 0;
    if (log->pages.state == FP_PAGES_OPEN)
        fp_store_hold_log(log->pages.store, true);
    ask_manifest(refill);
}

static void look_for_next(fp_refill *refill);
static void ask_files(fp_refill *refill);

static void stepped(fp_take *take)
{
    fp_refill *refill = take->user;
    refill->disk_busy = false;
    if (refill->stopping) {
        fp_take_close(take);
        refill->take = NULL;
    } else if (take->error.status) {
        fp_refill_fail(refill, fp_kept_tell(&take->error));
    } else if (refill->step == FP_REFILL_ADD && !take->missing) {
        look_for_next(refill);
    } else if (take->missing) {
        refill->step = FP_REFILL_FILE;
        refill->have = 0;
        refill->asked = take->added;
        ask_files(refill);
    } else {
        refill->step = FP_REFILL_READY;
        refill->wait_ns = 0;
        refill->patience_ns = fp_refill_now(refill) + PATIENCE_NS;
    }
}

static void look_for_next(fp_refill *refill)
{
    refill->step = FP_REFILL_LOOK;
    refill->disk_busy = true;
    fp_take_next(refill->take);
}

static void have_manifest(fp_refill *refill)
{
    const fp_stored *log = refill->log;
    int rc = fp_take_open(refill->node->files, log->partition, refill->buffer, refill->have,
                          &refill->take);
    if (rc) {
        fp_refill_fail(refill, rc);
        return;
    }
    refill->take->done = stepped;
    refill->take->user = refill;
    refill->began = true;
    fp_log(FP_LOG_INFO,
           "partition %" PRIu64 ": its pages come from %s, in %" PRIu32
           " layers up to LSN %" PRIu64,
           log->partition, uri_of(refill), refill->take->manifest.header.count,
           refill->take->manifest.header.converted);
    look_for_next(refill);
}

static void manifest_answer(fp_refill *refill, const fp_msg *msg)
{
    if (!refill->total)
        refill->total = msg->bytes;
    if (msg->at != refill->have || msg->bytes != refill->total || !msg->data_len ||
        msg->bytes > FP_COPY_MANIFEST_MAX || msg->data_len > msg->bytes - refill->have) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_PROTO,
                                        "%s: a piece of a manifest that does not "
                                        "fit the others",
                                        uri_of(refill)));
        return;
    }
    if (!fp_refill_room(refill, refill->have + msg->data_len))
        return;
    memcpy(refill->buffer + refill->have, msg->data, msg->data_len);
    refill->have += msg->data_len;
    if (refill->have < refill->total)
        ask_manifest(refill);
    else
        have_manifest(refill);
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Of the file up to where what is fetched at a time ends. */
static uint64_t piece_end(const fp_take *take)
{
    uint64_t left = take->missing->bytes - take->added;
    return take->added + (left < FP_COPY_PIECE ? left : FP_COPY_PIECE);
}

static void ask_files(fp_refill *refill)
{
    const fp_peer *peer = refill->peers[refill->peer];
    const fp_take *take = refill->take;
    fp_msg *msg = &refill->msg;
    while (!refill->failed.status && peer->owed < FP_PEER_REQUESTS &&
           refill->asked < piece_end(take)) {
        msg->type = FP_MSG_FILE_GET;
        memcpy(msg->hash, take->missing->hash, sizeof msg->hash);
        msg->at = refill->asked;
        refill->asked += FP_WIRE_DATA_MAX;
        fp_refill_ask(refill, msg);
    }
}

static void file_answer(fp_refill *refill, const fp_msg *msg)
{
    const fp_take *take = refill->take;
    uint64_t at = take->added + refill->have, end = piece_end(take);
    uint64_t len = end - at < FP_WIRE_DATA_MAX ? end - at : FP_WIRE_DATA_MAX;
    if (msg->at != at || msg->data_len < len ||
        memcmp(msg->hash, take->missing->hash, sizeof msg->hash) != 0) {
        fp_refill_fail(refill,
                       fp_error(FARPOOL_E_PROTO, "%s: a piece of a file that was not asked for",
                                uri_of(refill)));
        return;
    }
    if (!fp_refill_room(refill, FP_COPY_PIECE))
        return;
    memcpy(refill->buffer + refill->have, msg->data, len);
    refill->have += len;
    refill->file_bytes += len;
    refill->all_file_bytes += len;
    if (at + len < end) {
        ask_files(refill);
        return;
    }
    refill->step = FP_REFILL_ADD;
    refill->disk_busy = true;
    fp_take_add(refill->take, refill->buffer, refill->have);
}

void fp_refill_pages_answer(fp_refill *refill)
{
    const fp_msg *msg = &refill->peers[refill->peer]->msg;
    if (refill->step == FP_REFILL_MANIFEST)
        manifest_answer(refill, msg);
    else
        file_answer(refill, msg);
}

/* ---- in the place of what was ---------------------------------------------------------------- */

static void install(fp_refill *refill, bool restart)
{
    fp_stored *log = refill->log;
    refill->step = FP_REFILL_INSTALL;
    refill->disk_busy = false;
    log->install.status = 0;
    refill->took = true;
    log->take = refill->take;
    if (restart && refill->state.wal.durable > log->wanted_upto)
        log->wanted_upto = refill->state.wal.durable;
    if (restart)
        fp_stored_restart(log, refill->take->manifest.header.converted, &refill->state.lineage);
    log->node->work = true;
}

void fp_refill_pages_ready(fp_refill *refill, uint64_t now)
{
    fp_stored *log = refill->log;
    uint64_t converted = refill->take->manifest.header.converted;
    if (now < refill->wait_ns)
        return;
    refill->wait_ns = now + READY_STEP_NS;
    if (log->state == FP_STORED_BROKEN &&
        fp_lineage_number(&refill->state.lineage) < log->wanted_fork) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_RETRY, "the log here has become a stray one"));
    } else if (log->state == FP_STORED_BROKEN && log->broken == FARPOOL_E_CORRUPT) {
        install(refill, true);
    } else if (log->state == FP_STORED_BROKEN) { /* by something that may pass: its log is there */
        fp_refill_fail(refill, fp_error(log->broken, "%s", log->reason));
    } else if (log->state != FP_STORED_OPEN || log->fencing ||
               log->pages.state == FP_PAGES_OPENING) { /* it is being opened again */
        if (now > refill->patience_ns)
            fp_refill_fail(refill, fp_error(FARPOOL_E_TIMEOUT, "the log here is not opened"));
    } else if (fp_stored_check_fork(log, fp_lineage_number(&refill->state.lineage))) {
        fp_refill_fail(refill, FARPOOL_E_RETRY);
    } else if (converted < fp_wal_start(log->wal)) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_RETRY,
                                        "%s: its layers end at LSN %" PRIu64
                                        ", the log here begins at %" PRIu64,
                                        uri_of(refill), converted, fp_wal_start(log->wal)));
    } else if (log->pages.unreadable && converted <= log->pages.unreadable) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_RETRY,
                                        "%s: its layers end at LSN %" PRIu64
                                        ", and the log here cannot be read from %" PRIu64 " on",
                                        uri_of(refill), converted, log->pages.unreadable));
    } else if (converted <= fp_wal_durable(log->wal)) {
        install(refill, false);
    } else if (!log->streamer && refill->state.wal.start <= fp_wal_end(log->wal)) {
        fp_refill_log_begin(refill);
    } else if (!log->streamer && fp_wal_end(log->wal) == fp_wal_durable(log->wal)) {
        install(refill, true);
    } else if (now > refill->patience_ns) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_TIMEOUT,
                                        "the log does not come as far as LSN %" PRIu64, converted));
    }
}

void fp_refill_pages_installed(fp_refill *refill)
{
    fp_stored *log = refill->log;
    const fp_pages *pages = &log->pages;
    bool settled = log->state == FP_STORED_BROKEN ||
                   (log->state == FP_STORED_OPEN && !log->restart_at &&
                    (pages->state == FP_PAGES_OPEN || pages->state == FP_PAGES_BROKEN));
    if (log->take || !settled)
        return;
    fp_take_close(refill->take);
    refill->take = NULL;
    if (log->install.status)
        fp_refill_fail(refill, fp_kept_tell(&log->install));
    else if (log->restart_at)
        fp_refill_not_begun(refill);
    else
        fp_refill_again(refill);
}
