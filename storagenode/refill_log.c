/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log from a peer, appended to the WAL here through its landing ring as anybody appends: so it is checked in the same
 * way, also against what was promised. That is done only while nobody else appends; when somebody does, there is no gap
 * any more.
 */
#include <inttypes.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "storagenode/refill.h"

enum {
    PIECE = 1 << 20,   /* appended at a time, about */
    HELD_NS = 5000000, /* between looks at layers being made */
};

static void ask(fp_refill *refill)
{
    fp_msg *msg = &refill->msg;
    refill->step = FP_REFILL_LOG;
    msg->type = FP_MSG_LOG_GET;
    msg->lsn = fp_wal_end(refill->log->wal) + refill->have;
    fp_refill_ask(refill, msg);
}

/* False: somebody else is at it, or the WAL is not open any more. */
static bool may_append(const fp_refill *refill)
{
    const fp_stored *log = refill->log;
    return log->state == FP_STORED_OPEN && !log->streamer && !log->fencing &&
           fp_wal_end(log->wal) == fp_wal_durable(log->wal);
}

static void stop(fp_refill *refill)
{
    refill->have = 0;
    if (refill->take) {
        refill->step = FP_REFILL_READY;
        refill->wait_ns = 0;
    } else {
        fp_refill_again(refill);
    }
}

void fp_refill_log_begin(fp_refill *refill)
{
    if (!may_append(refill)) {
        stop(refill);
        return;
    }
    refill->have = 0;
    if (fp_refill_room(refill, PIECE + 2 * FP_WIRE_DATA_MAX))
        ask(refill);
}

/* All that the peer gives is here. One that gives less than it has said it has is asked no more: otherwise it would be
 * asked the same for ever. */
static void caught_up(fp_refill *refill)
{
    uint64_t said = refill->state.wal.durable, end = fp_wal_end(refill->log->wal);
    if (refill->take && refill->take->manifest.header.converted > said)
        said = refill->take->manifest.header.converted;
    refill->have = 0;
    if (end < said) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_PROTO,
                                        "%s: it says that it has log up to LSN %" PRIu64
                                        ", and gives none from %" PRIu64 " on",
                                        refill->peers[refill->peer]->dial.uri, said, end));
        return;
    }
    refill->step = refill->take ? FP_REFILL_READY : FP_REFILL_FOLLOW;
    if (refill->take)
        refill->wait_ns = 0;
}

/* ---- appending ------------------------------------------------------------------------------- */

static void appended(fp_wal_req *req)
{
    fp_refill *refill = req->user;
    fp_stored *log = refill->log;
    refill->disk_busy = false;
    if (refill->stopping) {
        fp_take_close(refill->take);
        refill->take = NULL;
        return;
    }
    log->node->work = true; /* it may have failed for good */
    if (req->status) {
        fp_refill_fail(refill, req->status);
    } else {
        if (log->pages.state == FP_PAGES_OPEN)
            fp_store_log_durable(log->pages.store);
        refill->step = FP_REFILL_HELD;
        refill->wait_ns = 0;
    }
    fp_stored_serve(log); /* a WAL_OPEN waits for the landing ring to be empty, that it may grow */
}

void fp_refill_log_held(fp_refill *refill, uint64_t now)
{
    const fp_stored *log = refill->log;
    if (now < refill->wait_ns)
        return;
    refill->wait_ns = now + HELD_NS;
    if (!may_append(refill))
        stop(refill);
    else if (log->pages.state != FP_PAGES_OPEN || !fp_store_is_behind(log->pages.store))
        ask(refill);
}

static void fenced(fp_wal_req *req)
{
    fp_refill *refill = req->user;
    refill->disk_busy = false;
    refill->have = 0;
    if (refill->stopping)
        return;
    if (req->status) {
        fp_refill_fail(refill, req->status);
        return;
    }
    if (req->own.epoch > refill->log->promised)
        refill->log->promised = req->own.epoch;
    fp_refill_again(refill);
}

/* An owner who was to begin, and was promised that nothing earlier comes, never did: the peer has promised the same to a
 * later one, and has taken what came before that. */
static bool promise_anew(fp_refill *refill)
{
    fp_stored *log = refill->log;
    if (refill->state.epoch <= fp_wal_epoch(log->wal))
        return false;
    refill->append = (fp_wal_req){.done = fenced, .user = refill};
    refill->step = FP_REFILL_APPEND;
    refill->disk_busy =
        !fp_wal_fence(log->wal, refill->state.epoch, refill->state.wal.durable, &refill->append);
    return refill->disk_busy;
}

static int append(fp_refill *refill, uint64_t bytes)
{
    fp_stored *log = refill->log;
    uint64_t end = fp_wal_end(log->wal), len = log->landing.len, at = end % len;
    uint64_t straight = bytes < len - at ? bytes : len - at;
    uint8_t *ring = log->landing.addr;
    memcpy(ring + at, refill->buffer, straight);
    memcpy(ring, refill->buffer + straight, bytes - straight);
    refill->append = (fp_wal_req){.done = appended, .user = refill};
    int rc = fp_wal_append(log->wal, end + bytes, &refill->append);
    if (rc)
        return rc;
    refill->step = FP_REFILL_APPEND;
    refill->disk_busy = true;
    refill->log_bytes += bytes;
    refill->all_log_bytes += bytes;
    refill->have -= bytes;
    memmove(refill->buffer, refill->buffer + bytes, refill->have);
    return 0;
}

/* How many bytes of whole frames there are, at most `room`; *needed: of the frame behind them, 0: it is none. */
static uint64_t whole_frames(const fp_refill *refill, uint64_t room, uint64_t *needed)
{
    fp_redo_expect expect = {refill->log->partition, fp_wal_end(refill->log->wal), 0};
    uint64_t at = 0;
    for (;;) {
        const uint8_t *bytes = refill->buffer + at;
        uint64_t left = refill->have - at;
        fp_redo_frame frame;
        *needed = sizeof frame;
        if (left < sizeof frame)
            return at;
        *needed = fp_redo_needed(bytes, left, &expect);
        if (!*needed || *needed > left || at + *needed > room)
            return at;
        if (!fp_redo_check(bytes, left, &expect)) {
            *needed = 0;
            return at;
        }
        memcpy(&frame, bytes, sizeof frame);
        expect.epoch_min = frame.epoch;
        expect.lsn += *needed;
        at += *needed;
    }
}

static void fail_of_frame(fp_refill *refill, uint64_t lsn)
{
    fp_refill_fail(refill, fp_error(FARPOOL_E_CORRUPT, "%s: no valid frame at LSN %" PRIu64,
                                    refill->peers[refill->peer]->dial.uri, lsn));
}

/* ended: the peer has no more. */
static void append_what_is_whole(fp_refill *refill, bool ended)
{
    fp_stored *log = refill->log;
    uint64_t end = fp_wal_end(log->wal), needed;
    uint64_t good = whole_frames(refill, fp_wal_landing_free(log->wal) - end, &needed);
    if (!good && (!needed || (ended && needed > refill->have))) {
        fail_of_frame(refill, end);
        return;
    }
    int rc = 0;
    if (!good && needed > fp_wal_landing_free(log->wal) - end)
        rc = fp_stored_grow(log, fp_stored_landing_bytes(needed));
    if (!rc && !good && needed <= refill->have)
        good = whole_frames(refill, fp_wal_landing_free(log->wal) - end, &needed);
    if (rc < 0) {
        fp_refill_fail(refill, rc);
    } else if (good) {
        rc = append(refill, good);
        if (rc && (rc != FARPOOL_E_FENCED || !promise_anew(refill)))
            fp_refill_fail(refill, rc);
    } else if (needed > refill->have && fp_refill_room(refill, needed + 2 * FP_WIRE_DATA_MAX)) {
        ask(refill); /* a long one: the rest of it */
    } else if (!needed) {
        fail_of_frame(refill, end);
    }
}

void fp_refill_log_answer(fp_refill *refill)
{
    const fp_msg *msg = &refill->peers[refill->peer]->msg;
    if (!may_append(refill)) {
        stop(refill);
        return;
    }
    if (msg->lsn != fp_wal_end(refill->log->wal) + refill->have) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_PROTO,
                                        "%s: log from LSN %" PRIu64 " on that was not asked for",
                                        refill->peers[refill->peer]->dial.uri, msg->lsn));
        return;
    }
    if (!refill->began && msg->data_len && !refill->log->refill_said)
        fp_log(FP_LOG_INFO,
               "partition %" PRIu64 ": its log ends at LSN %" PRIu64 "; more of it comes from %s",
               refill->log->partition, msg->lsn, refill->peers[refill->peer]->dial.uri);
    refill->began = refill->began || msg->data_len;
    if (!fp_refill_room(refill, refill->have + msg->data_len))
        return;
    memcpy(refill->buffer + refill->have, msg->data, msg->data_len);
    refill->have += msg->data_len;
    if (msg->data_len && refill->have < PIECE)
        ask(refill);
    else if (refill->have)
        append_what_is_whole(refill, !msg->data_len);
    else
        caught_up(refill);
}
