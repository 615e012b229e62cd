/* SPDX-License-Identifier: Apache-2.0 */
/* What is refilled, from whom, and when: the steps are in refill_log.c and refill_pages.c. */
#include "storagenode/refill.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"

enum {
    BACKOFF_FIRST_NS = 50000000,
    BACKOFF_LAST_NS = 1000000000,
    FOLLOW_NS = 1000000000, /* after somebody met with the gap */
    FOLLOW_STEP_NS = 3000000,
};
#define GAP_NS                                                                                     \
    3000000000ull /* then it is none any more: spillers repeat it once a second at least */

uint64_t fp_refill_now(const fp_refill *refill)
{
    const fp_server *server = &refill->node->server;
    return server->net_count ? fp_net_now_ns(server->nets[0].net) : fp_now_ns();
}

/* ---- what is needed -------------------------------------------------------------------------- */

/* What nobody repeats was perhaps not so: any number can stand in a WAL_OPEN. */
static bool has_gap(const fp_stored *log)
{
    return log->gap_upto > fp_wal_durable(log->wal) && log->node->refill &&
           fp_refill_now(log->node->refill) < log->gap_ns + GAP_NS;
}

unsigned fp_refill_needs(const fp_stored *log)
{
    const fp_pages *pages = &log->pages;
    unsigned needs = 0;
    if (log->make_at || log->drop_epoch)
        return 0;
    if (log->restart_at)
        return log->state == FP_STORED_BROKEN ? FP_NEEDS_RESTART : 0;
    if (log->state == FP_STORED_BROKEN)
        return log->broken == FARPOOL_E_CORRUPT ? FP_NEEDS_ALL : 0;
    if (log->state != FP_STORED_OPEN)
        return 0;
    if (!log->streamer && (log->wanted_upto > fp_wal_durable(log->wal) || has_gap(log)))
        needs |= FP_NEEDS_LOG;
    if ((pages->state == FP_PAGES_BROKEN && pages->broken == FARPOOL_E_CORRUPT) ||
        (pages->state == FP_PAGES_OPEN && (pages->lacking || pages->rotten)))
        needs |= FP_NEEDS_PAGES;
    return needs;
}

void fp_refill_look(fp_storagenode *node)
{
    if (node->refill)
        node->refill->look = true;
}

void fp_refill_gap(fp_stored *log, uint64_t lsn)
{
    fp_refill *refill = log->node->refill;
    if (log->streamer || !refill)
        return; /* who appends may be about to fill it; or nobody can */
    uint64_t now = fp_refill_now(refill);
    if (lsn > log->gap_upto || now >= log->gap_ns + GAP_NS)
        log->gap_upto = lsn;
    log->gap_ns = now;
    refill->look = true;
}

/* ---- ends ------------------------------------------------------------------------------------ */

void fp_refill_drop_take(fp_refill *refill)
{
    fp_take_close(refill->take);
    refill->take = NULL;
}

static void release(fp_refill *refill)
{
    fp_stored *log = refill->log;
    fp_refill_drop_take(refill);
    if (log && log->pages.state == FP_PAGES_OPEN)
        fp_store_hold_log(log->pages.store, false);
    refill->log = NULL;
    refill->have = 0;
    refill->failed.status = 0;
    refill->step = FP_REFILL_IDLE;
    refill->look = true; /* others may wait */
}

void fp_refill_let_go(fp_refill *refill)
{
    if (!refill->log)
        return;
    if (refill->peer < refill->peer_count && refill->peers[refill->peer]->owed)
        fp_peer_cut(refill->peers[refill->peer], fp_error(FARPOOL_E_CLOSED, "given up"), 0);
    release(refill);
}

static void succeed(fp_refill *refill)
{
    fp_stored *log = refill->log;
    refill->refills += refill->began;
    if (refill->began)
        fp_log(FP_LOG_INFO,
               "partition %" PRIu64 ": refilled from %s: %" PRIu64 " bytes of log and %" PRIu64
               " of layers in %.1f s",
               log->partition, refill->peers[refill->peer]->dial.uri, refill->log_bytes,
               refill->file_bytes, (double)(fp_refill_now(refill) - refill->begin_ns) / 1e9);
    log->refill_backoff_ns = 0;
    log->refill_ns =
        refill->took ? fp_refill_now(refill) + BACKOFF_LAST_NS : 0; /* not in circles */
    log->refill_said = false;
    release(refill);
}

static void back_off(fp_stored *log, uint64_t now)
{
    uint64_t next = log->refill_backoff_ns * 2;
    log->refill_backoff_ns = !next                    ? BACKOFF_FIRST_NS
                             : next > BACKOFF_LAST_NS ? BACKOFF_LAST_NS
                                                      : next;
    log->refill_ns = now + log->refill_backoff_ns;
}

static void try_later(fp_refill *refill)
{
    fp_stored *log = refill->log;
    back_off(log, fp_refill_now(refill));
    if (!log->refill_said)
        fp_log(FP_LOG_WARN,
               "partition %" PRIu64 " should be refilled, but no peer has what it needs now; it "
               "is tried again. The last said: %s",
               log->partition, refill->failed.reason);
    log->refill_said = true;
    release(refill);
}

static bool is_connected(const fp_refill *refill)
{
    return refill->log && refill->step > FP_REFILL_CONNECT;
}

/* The next peer, or the next partition. */
static void give_up(fp_refill *refill)
{
    fp_peer *peer = refill->peers[refill->peer];
    fp_log(FP_LOG_DEBUG, "partition %" PRIu64 ": not refilled from %s: %s", refill->log->partition,
           peer->dial.uri, refill->failed.reason);
    if (peer->owed) /* answers that nobody waits for any more */
        fp_peer_cut(peer, fp_error(FARPOOL_E_CLOSED, "%s: given up", peer->dial.uri), 0);
    fp_refill_drop_take(refill);
    refill->have = 0;
    if (++refill->peer == refill->peer_count) {
        try_later(refill);
        return;
    }
    refill->failed.status = 0;
    refill->step = FP_REFILL_CONNECT;
}

void fp_refill_not_begun(fp_refill *refill)
{
    fp_stored *log = refill->log;
    back_off(log, fp_refill_now(refill));
    if (!log->refill_said)
        fp_log(FP_LOG_WARN,
               "partition %" PRIu64 ": its pages have come from %s, but its WAL could not begin "
               "anew at LSN %" PRIu64 "; it is tried again: %s",
               log->partition, refill->peers[refill->peer]->dial.uri, log->restart_at, log->reason);
    log->refill_said = true;
    release(refill);
}

void fp_refill_fail(fp_refill *refill, int status) { fp_kept_set(&refill->failed, status); }

void fp_refill_again(fp_refill *refill)
{
    fp_msg *msg = &refill->msg;
    refill->step = FP_REFILL_STATE;
    refill->have = 0;
    msg->type = FP_MSG_WAL_GET;
    fp_refill_ask(refill, msg);
}

/* ---- asking ---------------------------------------------------------------------------------- */

void fp_refill_ask(fp_refill *refill, fp_msg *msg)
{
    fp_peer *peer = refill->peers[refill->peer];
    msg->partition = refill->log->partition;
    msg->fork = fp_lineage_number(&refill->state.lineage);
    if (peer->dial.conn && fp_peer_ask(peer, msg, fp_refill_now(refill)))
        return;
    fp_refill_fail(refill, fp_kept_tell(&peer->dial.error));
}

bool fp_refill_room(fp_refill *refill, uint64_t bytes)
{
    if (bytes <= refill->room)
        return true;
    uint8_t *grown = realloc(refill->buffer, bytes);
    if (!grown) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_NOMEM, "no memory for %" PRIu64 " bytes", bytes));
        return false;
    }
    refill->buffer = grown;
    refill->room = bytes;
    return true;
}

/* Or it is going to be: what was here is not the partition's, or not known. */
static bool is_of_our_log(const fp_stored *log, const fp_lineage *peers)
{
    uint64_t fork = fp_lineage_number(peers);
    return log->state == FP_STORED_OPEN ? !fp_stored_check_fork(log, fork)
                                        : fork >= log->wanted_fork;
}

/* The peer's WAL_STATE decides. */
static void have_state(fp_refill *refill)
{
    fp_stored *log = refill->log;
    fp_peer *peer = refill->peers[refill->peer];
    const fp_msg *msg = &peer->msg;
    unsigned needs = fp_refill_needs(log);
    refill->state = *msg;
    if (msg->wal.volume == refill->node->volume_id) {
        peer->is_self = true;
        fp_refill_fail(refill, fp_error(FARPOOL_E_INVAL, "%s is this node itself", peer->dial.uri));
    } else if (msg->wal.start > msg->wal.durable || msg->wal.durable > msg->wal.end ||
               msg->wal.durable % FP_REDO_ALIGN) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_PROTO, "%s: it says impossible things of a WAL",
                                        peer->dial.uri));
    } else if (!needs) {
        succeed(refill);
    } else if (!is_of_our_log(log, &msg->lineage)) {
        fp_refill_fail(refill,
                       fp_error(FARPOOL_E_NOTFOUND, "%s: it has another log, of fork %" PRIu64,
                                peer->dial.uri, fp_lineage_number(&msg->lineage)));
    } else if (needs & FP_NEEDS_ALL) {
        fp_refill_pages_begin(refill);
    } else if (needs & FP_NEEDS_LOG && msg->wal.durable > fp_wal_end(log->wal)) {
        if (msg->wal.start <= fp_wal_end(log->wal))
            fp_refill_log_begin(refill);
        else
            fp_refill_pages_begin(refill);
    } else if (needs & FP_NEEDS_PAGES && msg->wal.durable >= fp_wal_start(log->wal)) {
        fp_refill_pages_begin(refill);
    } else {
        fp_refill_fail(refill, fp_error(FARPOOL_E_NOTFOUND, "%s: it has no more than is here",
                                        peer->dial.uri));
    }
}

static bool fits(const fp_refill *refill, const fp_msg *msg)
{
    switch (refill->step) {
    case FP_REFILL_STATE:
        return msg->type == FP_MSG_WAL_STATE;
    case FP_REFILL_LOG:
        return msg->type == FP_MSG_LOG;
    case FP_REFILL_MANIFEST:
        return msg->type == FP_MSG_MANIFEST;
    case FP_REFILL_FILE:
        return msg->type == FP_MSG_FILE;
    default:
        return false;
    }
}

static void take_answer(fp_refill *refill)
{
    const fp_msg *msg = &refill->peers[refill->peer]->msg;
    const char *uri = refill->peers[refill->peer]->dial.uri;
    if (msg->type == FP_MSG_ERROR)
        fp_refill_fail(refill, fp_error(msg->code < 0 ? msg->code : FARPOOL_E_PROTO, "%s: %s", uri,
                                        msg->text));
    else if (!fits(refill, msg) || msg->partition != refill->log->partition)
        fp_refill_fail(refill, fp_error(FARPOOL_E_PROTO,
                                        "%s: it has sent something else than was asked for", uri));
    else if (refill->step == FP_REFILL_STATE)
        have_state(refill);
    else if (refill->step == FP_REFILL_LOG)
        fp_refill_log_answer(refill);
    else
        fp_refill_pages_answer(refill);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void begin(fp_refill *refill, fp_stored *log, uint64_t now)
{
    if (fp_refill_needs(log) & FP_NEEDS_RESTART) { /* no peer is needed for that */
        back_off(log, now);
        log->refill_said = false; /* should it fail, stored.c says so */
        log->state = FP_STORED_CLOSED;
        log->node->work = refill->look = true;
        return;
    }
    refill->log = log;
    refill->peer = 0;
    refill->step = FP_REFILL_CONNECT;
    refill->failed.status = 0;
    refill->begin_ns = now;
    refill->log_bytes = refill->file_bytes = 0;
    refill->began = refill->took = false;
}

/* The first partition that needs something and is due; *due: when the next will be. */
static fp_stored *find(const fp_refill *refill, uint64_t now, uint64_t *due)
{
    *due = UINT64_MAX;
    for (fp_stored *log = refill->node->logs; log; log = log->next) {
        if (!fp_refill_needs(log))
            continue;
        if (log->refill_ns <= now)
            return log;
        *due = log->refill_ns < *due ? log->refill_ns : *due;
    }
    return NULL;
}

static void connect_step(fp_refill *refill, uint64_t now)
{
    fp_peer *peer = refill->peers[refill->peer];
    if (peer->is_self) {
        fp_refill_fail(refill, fp_error(FARPOOL_E_INVAL, "%s is this node itself", peer->dial.uri));
        return;
    }
    fp_peer_connect(peer, now);
    int rc = fp_peer_state(peer, now);
    if (rc < 0)
        fp_refill_fail(refill, rc);
    else if (rc)
        fp_refill_again(refill);
}

static void follow(fp_refill *refill, uint64_t now)
{
    fp_stored *log = refill->log;
    uint64_t due;
    bool wanted = log->state == FP_STORED_OPEN && !log->streamer && now < log->gap_ns + FOLLOW_NS;
    if (!wanted || fp_refill_needs(log)) {
        fp_refill_again(refill);
    } else if (refill->look) {
        refill->look = false;
        if (find(refill, now, &due))
            succeed(refill);
    } else if (now >= refill->wait_ns) {
        refill->wait_ns = now + FOLLOW_STEP_NS;
        fp_refill_log_begin(refill);
    }
}

/* One thing that can be done now. False: there is none. */
static bool work(fp_refill *refill, uint64_t now)
{
    enum fp_refill_step before = refill->step;
    const fp_stored *log_before = refill->log;
    if (refill->disk_busy)
        return false;
    if (refill->failed.status) {
        give_up(refill);
        return true;
    }
    switch (refill->step) {
    case FP_REFILL_IDLE:
        break;
    case FP_REFILL_CONNECT:
        connect_step(refill, now);
        break;
    case FP_REFILL_STATE:
    case FP_REFILL_LOG:
    case FP_REFILL_MANIFEST:
    case FP_REFILL_FILE: {
        int rc = fp_peer_next(refill->peers[refill->peer], now);
        if (rc < 0)
            fp_refill_fail(refill, rc);
        else if (rc)
            take_answer(refill);
        return rc != 0;
    }
    case FP_REFILL_HELD:
        fp_refill_log_held(refill, now);
        break;
    case FP_REFILL_FOLLOW:
        follow(refill, now);
        break;
    case FP_REFILL_READY:
        fp_refill_pages_ready(refill, now);
        break;
    case FP_REFILL_INSTALL:
        fp_refill_pages_installed(refill);
        break;
    case FP_REFILL_APPEND: /* done() goes on */
    case FP_REFILL_LOOK:
    case FP_REFILL_ADD:
        break;
    }
    return refill->step != before || refill->log != log_before || refill->failed.status;
}

static uint64_t next_due(const fp_refill *refill, uint64_t other)
{
    uint64_t due = is_connected(refill) || refill->step == FP_REFILL_CONNECT
                       ? fp_peer_deadline(refill->peers[refill->peer])
                       : UINT64_MAX;
    if (refill->step == FP_REFILL_HELD || refill->step == FP_REFILL_FOLLOW ||
        refill->step == FP_REFILL_READY)
        due = refill->wait_ns < due ? refill->wait_ns : due;
    return due < other ? due : other;
}

/* Those that are owed nothing may have something to say nevertheless: that they are gone. */
static void watch_peers(fp_refill *refill, uint64_t now)
{
    for (unsigned i = 0; i < refill->peer_count; i++) {
        fp_peer *peer = refill->peers[i];
        if (!peer->connecting && peer->dial.conn && !peer->owed)
            (void)fp_peer_next(peer, now);
    }
}

/* As long as the volume's files are not open there is nothing to look at, and nothing to turn around for. */
static bool may_look(const fp_refill *refill)
{
    const fp_storagenode *node = refill->node;
    return !refill->log && refill->look && node->files_open && !node->files_status &&
           refill->peer_count;
}

bool fp_refill_step(fp_storagenode *node)
{
    enum { ROUNDS_MAX = 64 }; /* before others get their turn */
    fp_refill *refill = node->refill;
    if (!refill || refill->stopping)
        return false;
    uint64_t now = fp_refill_now(refill), due = UINT64_MAX;
    bool is_time = fp_wake_take(&refill->wake, now);
    fp_refill_take_peers(refill);
    watch_peers(refill, now);
    refill->look = refill->look || (is_time && !refill->log);
    if (may_look(refill)) {
        fp_stored *log = find(refill, now, &due);
        refill->look = false;
        if (log)
            begin(refill, log, now);
    }
    if (!refill->log && due == UINT64_MAX)
        due = refill->wake.due_ns; /* as it was found */
    bool more = false;
    for (int i = 0; i < ROUNDS_MAX && refill->log && (more = work(refill, now)); i++)
        ;
    fp_wake_at(&refill->wake, next_due(refill, due));
    return more || may_look(refill);
}
