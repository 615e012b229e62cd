/* SPDX-License-Identifier: Apache-2.0 */
/* The connection to the storage node. A request is remembered until it is answered; what an answer means for its ring
 * stands in spill_ring.c, as far as it is not about what to ask next. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/faultpoint.h"
#include "common/log.h"
#include "common/net/sim.h"
#include "common/redo.h"
#include "memnode/spill_inside.h"

enum {
    CONNECT_FIRST_NS = 10000000,
    CONNECT_LAST_NS = 1000000000,
    FOLLOW_NS = 50000000, /* between questions how far another node has come */
    EVENTS = 32,
    ROUNDS_MAX = 8,        /* more events than can be on the way */
    PIECE_BYTES = 1 << 20, /* of a WRITE */
    OPS_MAX = FP_REDO_FRAME_BYTES_MAX / PIECE_BYTES + 3,
};

/* ---- the transport --------------------------------------------------------------------------- */

uint64_t fp_spill_now(const fp_spill *spill) { return fp_net_clock_ns(&spill->net_options); }

void fp_spill_net_close(fp_spill *spill)
{
    if (!spill->net)
        return;
    fp_net_poller_close(spill->poller);
    fp_spill_chunks_close(spill);
    fp_net_close(spill->net);
    spill->poller = NULL;
    spill->net = NULL;
}

int fp_spill_net_open(fp_spill *spill)
{
    if (spill->net)
        return 0;
    int rc = fp_net_open(spill->storage, &spill->net_options, &spill->net);
    if (rc) {
        spill->net = NULL;
        return rc;
    }
    rc = fp_net_poller_open(spill->net, &spill->poller);
    if (rc) {
        fp_net_close(spill->net);
        spill->net = NULL;
    }
    return rc;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void say_outage(fp_spill *spill, const char *why)
{
    if (!spill->outage)
        fp_log(FP_LOG_WARN, "redo log is not spilled to %s: %s; trying again", spill->storage, why);
    spill->outage = true;
}

static void connect_later(fp_spill *spill, uint64_t now)
{
    uint64_t next = spill->connect_backoff_ns * 2;
    spill->connect_backoff_ns = !next                    ? CONNECT_FIRST_NS
                                : next > CONNECT_LAST_NS ? CONNECT_LAST_NS
                                                         : next;
    spill->connect_ns = now + spill->connect_backoff_ns;
}

/* Nothing is known of any WAL any more. */
static void disconnect(fp_spill *spill)
{
    fp_net_conn_close(spill->conn);
    spill->conn = NULL;
    spill->greeted = false;
    memset(spill->requests, 0, sizeof spill->requests);
    spill->request_count = 0;
    for (unsigned i = 0; i < FP_SPILL_CHUNKS; i++)
        spill->chunks[i].busy = false; /* rule N6: nothing reads them any more */
    for (fp_spill_ring *ring = spill->rings; ring; ring = ring->next) {
        ring->phase = FP_SPILL_LOST;
        ring->asked = 0;
        ring->failed = false;
    }
}

void fp_spill_cut(fp_spill *spill, uint64_t now, const char *why)
{
    say_outage(spill, why);
    disconnect(spill);
    connect_later(spill, now);
}

void fp_spill_retarget(fp_spill *spill, uint64_t now)
{
    pthread_mutex_lock(&spill->lock);
    bool other = strcmp(spill->target, spill->storage) != 0;
    if (other) {
        strcpy(spill->storage, spill->target);
        if (spill->conn)
            disconnect(spill);
        spill->connect_ns = spill->connect_backoff_ns = 0;
        spill->outage = false;
        for (fp_spill_ring *ring = spill->rings; ring; ring = ring->next)
            fp_spill_ring_retarget(ring, spill->storage[0], now);
    }
    pthread_mutex_unlock(&spill->lock);
    if (!other)
        return;
    fp_log(FP_LOG_INFO, "redo log is to be spilled to %s",
           spill->storage[0] ? spill->storage : "no storage node");
    if (spill->net && (!spill->storage[0] || !fp_net_leads_to(spill->net, spill->storage)))
        fp_spill_net_close(spill);
}

/* Encodes spill->msg; the operation that sends it. */
static fp_net_op message_op(fp_spill *spill)
{
    do
        spill->request_number++;
    while (!spill->request_number);
    spill->msg.request = spill->request_number;
    size_t len = fp_wire_encode(&spill->msg, spill->buffer, sizeof spill->buffer);
    return fp_net_message(spill->buffer, len);
}

static void remember(fp_spill *spill, uint64_t ring, uint64_t now)
{
    fp_spill_request *request = spill->requests;
    while (request->number)
        request++;
    *request = (fp_spill_request){spill->msg.request, spill->msg.type, ring};
    if (!spill->request_count++)
        spill->answered_ns = now;
}

static bool send_message(fp_spill *spill, uint64_t ring, uint64_t now)
{
    fp_net_op op = message_op(spill);
    if (fp_net_post(spill->conn, &op, 1)) {
        fp_spill_cut(spill, now, farpool_errmsg());
        return false;
    }
    remember(spill, ring, now);
    return true;
}

void fp_spill_connect(fp_spill *spill, uint64_t now)
{
    if (spill->conn || !spill->storage[0] || now < spill->connect_ns)
        return;
    pthread_mutex_lock(&spill->lock);
    bool needed = spill->rings != NULL;
    pthread_mutex_unlock(&spill->lock);
    if (!needed)
        return;
    int rc = fp_spill_net_open(spill);
    rc = rc ? rc : fp_net_connect(spill->poller, spill->storage, &spill->conn);
    now = fp_spill_now(spill);
    if (rc) {
        spill->conn = NULL;
        say_outage(spill, farpool_errmsg());
        connect_later(spill, now);
        return;
    }
    rc = fp_greet_begin(&spill->greet, fp_net_auth(spill->net), spill->name,
                        fp_net_conn_wanted(spill->conn), &spill->msg);
    pthread_mutex_lock(&spill->lock);
    if (rc)
        fp_spill_cut(spill, now, farpool_errmsg());
    else
        send_message(spill, 0, now);
    pthread_mutex_unlock(&spill->lock);
}

/* ---- asking ---------------------------------------------------------------------------------- */

bool fp_spill_can_ask(const fp_spill *spill)
{
    return spill->greeted && spill->request_count < FP_SPILL_REQUESTS;
}

bool fp_spill_ask(fp_spill *spill, fp_spill_ring *ring, enum fp_msg_type type, uint64_t now)
{
    uint64_t bytes = ring->owner.log_bytes;
    spill->msg.type = type;
    spill->msg.partition = ring->partition;
    spill->msg.epoch = ring->opened;
    spill->msg.bytes = bytes < FP_REDO_FRAME_BYTES_MAX ? bytes : FP_REDO_FRAME_BYTES_MAX;
    if (ring->phase == FP_SPILL_LEAVING)
        spill->msg.bytes = 0;
    spill->msg.lsn = ring->owner.start;
    spill->msg.lineage = ring->lineage;
    if (type == FP_MSG_WAL_FENCE) { /* all that we have is of our owner's log, whoever wrote it */
        spill->msg.epoch = ring->owner.epoch;
        spill->msg.lsn = ring->owner.durable;
    }
    if (!send_message(spill, ring->number, now))
        return false;
    ring->asked++;
    return true;
}

bool fp_spill_append(fp_spill *spill, fp_spill_ring *ring, fp_spill_chunk *chunk, uint64_t upto,
                     uint64_t now)
{
    fp_net_op ops[OPS_MAX];
    size_t count = 0;
    for (uint64_t lsn = ring->sent, bytes; lsn < upto; lsn += bytes) {
        uint64_t at = lsn % ring->landing.len, to_end = ring->landing.len - at;
        bytes = upto - lsn < PIECE_BYTES ? upto - lsn : PIECE_BYTES;
        bytes = bytes < to_end ? bytes : to_end;
        FP_ASSERT(count < OPS_MAX - 1);
        fp_net_op *op = &ops[count++];
        *op = (fp_net_op){.kind = FP_NET_WRITE,
                          .remote_key = ring->landing.key,
                          .remote_addr = ring->landing.addr + at,
                          .sge_count = 1};
        op->sge[0] =
            (fp_sge){(uint8_t *)chunk->mem.addr + (lsn - ring->sent), (uint32_t)bytes, chunk->mr};
    }
    spill->msg.type = FP_MSG_WAL_APPEND;
    spill->msg.partition = ring->partition;
    spill->msg.epoch = ring->opened;
    spill->msg.lsn = upto;
    ops[count] = message_op(spill);
    ops[count++].cookie = (uint64_t)(chunk - spill->chunks) + 1;
    int rc = fp_net_post(spill->conn, ops, count);
    if (rc == FARPOOL_E_BUSY)
        return false; /* too much in flight: when some of it is done */
    if (rc) {
        fp_spill_cut(spill, now, farpool_errmsg());
        return false;
    }
    FP_FAULT_POINT(SPILL_SENT);
    chunk->busy = true;
    remember(spill, ring->number, now);
    ring->asked++;
    ring->sent_ns = now;
    return true;
}

/* ---- being answered -------------------------------------------------------------------------- */

static fp_spill_ring *find_ring(const fp_spill *spill, uint64_t number)
{
    fp_spill_ring *ring = spill->rings;
    while (ring && ring->number != number)
        ring = ring->next;
    return ring;
}

/* Whether the numbers can be true. */
static bool is_sane(const fp_spill_ring *ring, const fp_msg *msg)
{
    if (msg->partition != ring->partition || !msg->wal.volume ||
        msg->wal.start > msg->wal.durable || msg->wal.durable > msg->wal.end)
        return false;
    return !msg->wal.streaming ||
           (msg->wal.landing.len && msg->wal.landing_free >= msg->wal.durable &&
            msg->wal.landing_free - msg->wal.durable <= msg->wal.landing.len);
}

static void take_state(fp_spill_ring *ring, enum fp_msg_type asked, const fp_msg *msg, uint64_t now)
{
    if (asked == FP_MSG_WAL_APPEND)
        FP_FAULT_POINT(SPILL_ANSWERED);
    ring->absent = false;
    ring->volume = msg->wal.volume;
    ring->astray = fp_lineage_number(&msg->lineage) != fp_lineage_number(&ring->lineage);
    if (!ring->astray)
        fp_spill_note(ring, msg, now);
    if (asked == FP_MSG_WAL_JOIN || (ring->astray && asked != FP_MSG_WAL_GET)) {
        ring->failed =
            true; /* its log has become ours, or another one: what comes next is asked anew */
    } else if (asked == FP_MSG_WAL_GET) {
        ring->opened = msg->epoch ? msg->epoch : 1;
        ring->sent = msg->wal.end;
        ring->phase = FP_SPILL_KNOWN;
    } else if (asked == FP_MSG_WAL_FENCE) {
        ring->barred = false;
        ring->phase = FP_SPILL_LOST;
    } else if (asked == FP_MSG_WAL_APPEND) {
        ring->landing_free = msg->wal.landing_free;
        ring->failed |= !msg->wal.streaming;
    } else if (ring->phase == FP_SPILL_LEAVING) {
        ring->phase = FP_SPILL_LOST;
    } else if (msg->wal.streaming) {
        FP_FAULT_POINT(SPILL_OPENED);
        ring->phase = FP_SPILL_STREAMING;
        ring->sent = msg->wal.end;
        ring->sent_epoch = 0;
        ring->landing = msg->wal.landing;
        ring->landing_free = msg->wal.landing_free;
        ring->sent_ns = now;
    } else {
        ring->phase = FP_SPILL_FOLLOWING;
        ring->due_ns = now + FOLLOW_NS;
    }
}

static void take_error(fp_spill_ring *ring, enum fp_msg_type asked, const fp_msg *msg, uint64_t now)
{
    if (msg->code == FARPOOL_E_CORRUPT && asked != FP_MSG_WAL_APPEND) /* that: our bytes are */
        fp_spill_note_worthless(ring);
    if (msg->code == FARPOOL_E_BUSY || msg->code == FARPOOL_E_RETRY) {
        ring->failed = true; /* it is opening the WAL */
        ring->due_ns = now + FOLLOW_NS;
    } else if (asked == FP_MSG_WAL_GET) {
        /* To be made, if E_NOTFOUND; otherwise WAL_OPEN makes the node look again at what was wrong. A higher epoch is
         * promised when a frame has it. */
        ring->opened = 1;
        ring->absent = true;
        ring->astray = false;
        ring->phase = FP_SPILL_KNOWN;
        if (msg->code != FARPOOL_E_NOTFOUND)
            fp_spill_hold(ring, msg->code, msg->text, now);
    } else if (asked == FP_MSG_WAL_OPEN &&
               (msg->code == FARPOOL_E_FENCED || msg->code == FARPOOL_E_NOTFOUND)) {
        ring->phase = FP_SPILL_LOST; /* what WAL_GET said is not true any more */
        ring->due_ns = now + FOLLOW_NS;
    } else if (asked == FP_MSG_WAL_APPEND && msg->code == FARPOOL_E_FENCED &&
               ring->opened <= ring->owner.epoch) {
        ring->failed = ring->barred = true;
        /* Promised to our owner himself, but from too early on: a WAL that was dropped while we appended to it is made anew
         * by WAL_OPEN under the epoch that it had. It may be another reason, so not again and again at once. */
        if (ring->opened == ring->owner.epoch)
            fp_spill_hold(ring, msg->code, msg->text, now);
    } else {
        ring->failed = true;
        ring->barred = false;
        fp_spill_hold(ring, msg->code, msg->text, now);
    }
}

/* NULL or why the connection has to be given up. */
static const char *take_greeting(fp_spill *spill, uint64_t now)
{
    int rc = fp_greet_take(&spill->greet, &spill->msg);
    if (rc < 0)
        return farpool_errmsg();
    if (rc) {
        send_message(spill, 0, now); /* or the connection is gone already */
        return NULL;
    }
    spill->greeted = true;
    fp_log(FP_LOG_INFO, "redo log is spilled to %s, %s", spill->msg.text, spill->storage);
    spill->outage = false;
    return NULL;
}

/* The same. */
static const char *take_answer(fp_spill *spill, uint64_t now)
{
    fp_msg *msg = &spill->msg;
    fp_spill_request *request = spill->requests;
    while (request < spill->requests + FP_SPILL_REQUESTS &&
           (!request->number || request->number != msg->request))
        request++;
    if (request == spill->requests + FP_SPILL_REQUESTS)
        return msg->type == FP_MSG_ERROR ? msg->text : "it has sent an answer to no request";
    fp_spill_request asked = *request;
    request->number = 0;
    spill->request_count--;
    if (asked.type == FP_MSG_HELLO || asked.type == FP_MSG_PROOF)
        return take_greeting(spill, now);
    if (msg->type != FP_MSG_WAL_STATE && msg->type != FP_MSG_ERROR)
        return "it has sent something else than was asked for";
    spill->connect_backoff_ns = 0;
    fp_spill_ring *ring = find_ring(spill, asked.ring);
    if (!ring)
        return NULL; /* removed meanwhile */
    ring->asked--;
    if (msg->type == FP_MSG_ERROR)
        take_error(ring, asked.type, msg, now);
    else if (is_sane(ring, msg))
        take_state(ring, asked.type, msg, now);
    else
        return "it says impossible things of a WAL";
    return NULL;
}

static void take_event(fp_spill *spill, const fp_net_event *event, uint64_t now)
{
    if (!spill->conn || event->conn != spill->conn)
        return; /* given up by an earlier event of the batch */
    const char *why = NULL;
    switch (event->kind) {
    case FP_NET_DONE:
        if (event->status)
            break; /* FP_NET_CLOSED is about to come */
        if (event->cookie)
            spill->chunks[event->cookie - 1].busy = false;
        spill->answered_ns = now; /* a long frame may take long */
        break;
    case FP_NET_RECV:
        spill->answered_ns = now;
        why = fp_wire_decode(event->data, event->len, &spill->msg) ? farpool_errmsg()
                                                                   : take_answer(spill, now);
        break;
    case FP_NET_CLOSED:
        why = fp_net_conn_reason(event->conn);
        break;
    case FP_NET_RECV_IMM:
    case FP_NET_ACCEPTED:
        break;
    }
    if (why) {
        char text[FP_WIRE_TEXT_MAX + 1]; /* it may be the connection's own */
        snprintf(text, sizeof text, "%s", why);
        fp_spill_cut(spill, now, text);
    }
}

void fp_spill_poll(fp_spill *spill, uint64_t now)
{
    fp_net_event events[EVENTS];
    for (int round = 0; round < ROUNDS_MAX && spill->poller; round++) {
        int n = fp_net_poll(spill->poller, events, EVENTS, 0);
        pthread_mutex_lock(&spill->lock);
        for (int i = 0; i < n; i++)
            take_event(spill, &events[i], now);
        if (n < 0 && spill->conn)
            fp_spill_cut(spill, now, farpool_errmsg());
        if (spill->request_count && now - spill->answered_ns > spill->timeout_ns)
            fp_spill_cut(spill, now, "it owes an answer for too long");
        pthread_mutex_unlock(&spill->lock);
        if (n <= 0)
            return;
    }
}
