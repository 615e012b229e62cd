/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp: frames in, and the answers to them.
 *
 * Operations wait in conn->ops in the order posted. The peer answers in that order, so an answer is
 * always for the first operation that awaits one; a completion is given when all before it are done
 * (N2).
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/error.h"
#include "common/net/tcp.h"

enum { RECEIVES_MAX = 32 }; /* in one run, so that one busy peer does not starve the others */

/* ---- serving the peer's requests ------------------------------------------------------------- */

static bool answer_room(fp_tcp_conn *conn)
{
    if (conn->answers < FP_NET_DEPTH_MAX) {
        conn->answers++;
        return true;
    }
    fp_tcp_break_locked(conn, FARPOOL_E_PROTO, "%s: the peer has more than %d requests in flight",
                        conn->base.peer, FP_NET_DEPTH_MAX);
    return false;
}

static void refuse(fp_tcp_conn *conn)
{
    if (!answer_room(conn))
        return;
    fp_tcp_header nak = {.type = FP_TCP_NAK, .seq = conn->rx.seq};
    fp_tcp_tx_add_locked(conn, &nak);
    conn->refusing = true;
    fp_tcp_set_deadline_locked(conn, FP_TCP_REFUSE_MS);
}

/* What this side's CPU has moved for its peer (fp_net_data_bytes). */
static void count_moved(fp_tcp_conn *conn, uint32_t bytes)
{
    atomic_fetch_add_explicit(&conn->base.poller->net->data_bytes, bytes, memory_order_relaxed);
}

static void serve_read(fp_tcp_conn *conn)
{
    fp_mr *mr;
    char *from = fp_tcp_reach_locked(conn, &conn->rx, conn->rx.count, FP_NET_REMOTE_READ, &mr);
    if (!from) {
        refuse(conn);
        return;
    }
    if (!answer_room(conn))
        return;
    fp_tcp_header data = {.type = FP_TCP_DATA, .seq = conn->rx.seq, .len = conn->rx.count};
    fp_tcp_tx *tx = fp_tcp_tx_add_locked(conn, &data);
    tx->mr = mr;
    tx->iov[0] = (struct iovec){from, conn->rx.count};
    tx->iov_count = 1;
    count_moved(conn, conn->rx.count);
}

/* An ACK that is queued and not begun is made to cover this one as well. */
static void acknowledge(fp_tcp_conn *conn)
{
    if (conn->tx_tail - conn->tx_head > 1 || (conn->tx_tail != conn->tx_head && !conn->tx_offset)) {
        fp_tcp_tx *last = &conn->tx[(conn->tx_tail - 1) % FP_TCP_TX_SLOTS];
        if (last->is_ack) {
            fp_tcp_tx_reseq(last, conn->rx.seq);
            return;
        }
    }
    if (!answer_room(conn))
        return;
    fp_tcp_header ack = {.type = FP_TCP_ACK, .seq = conn->rx.seq};
    fp_tcp_tx_add_locked(conn, &ack);
}

/* ---- input ----------------------------------------------------------------------------------- */

static uint32_t get32(const unsigned char *at)
{
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return le32toh(v);
}

static uint64_t get64(const unsigned char *at)
{
    uint64_t v;
    memcpy(&v, at, sizeof v);
    return le64toh(v);
}

static void header_get(const unsigned char *at, fp_tcp_header *header)
{
    header->type = get32(at);
    header->len = get32(at + 4);
    header->seq = get64(at + 8);
    header->key = get64(at + 16);
    header->addr = get64(at + 24);
    header->count = get32(at + 32);
    header->imm = get32(at + 36);
}

static void protocol_error(fp_tcp_conn *conn, const char *what)
{
    fp_tcp_break_locked(conn, FARPOOL_E_PROTO, "%s: %s", conn->base.peer, what);
}

static fp_tcp_op *awaiting(fp_tcp_conn *conn)
{
    for (uint32_t i = conn->op_head; i != conn->op_tail; i++) {
        fp_tcp_op *op = &conn->ops[i % FP_NET_DEPTH_MAX];
        if (op->kind != FP_NET_SEND && !op->done)
            return op;
    }
    return NULL;
}

static void begin_data(fp_tcp_conn *conn)
{
    fp_tcp_op *op = awaiting(conn);
    if (!op || !op->sent || op->kind != FP_NET_READ || op->seq != conn->rx.seq ||
        op->len != conn->rx.len) {
        protocol_error(conn, "it sent data that nobody asked for");
        return;
    }
    memcpy(conn->rx_iov, op->iov, sizeof op->iov);
    conn->rx_iov_count = op->iov_count;
}

static void take_ack(fp_tcp_conn *conn)
{
    fp_tcp_op *op = awaiting(conn);
    if (!op || !op->sent || op->kind == FP_NET_READ || op->seq > conn->rx.seq ||
        conn->rx.seq > conn->seq) {
        protocol_error(conn, "it acknowledged what was not asked");
        return;
    }
    while (op && op->sent && op->kind != FP_NET_READ && op->seq <= conn->rx.seq) {
        op->done = true;
        op = awaiting(conn);
    }
    fp_tcp_ops_complete_locked(conn);
}

static void take_nak(fp_tcp_conn *conn)
{
    fp_tcp_op *op = awaiting(conn);
    if (!op || op->seq != conn->rx.seq) {
        protocol_error(conn, "it refused what was not asked");
        return;
    }
    fp_tcp_break_locked(conn, FARPOOL_E_ACCESS,
                        "%s: the peer refused a %s: not granted, withdrawn, or out of its range",
                        conn->base.peer, op->kind == FP_NET_READ ? "READ" : "WRITE");
}

/* A header has come: decides where its payload goes. */
static void begin_frame(fp_tcp_conn *conn)
{
    const fp_tcp_header *rx = &conn->rx;
    char *to;
    conn->rx_iov_count = 0;
    conn->rx_left = rx->len;
    bool has_payload = rx->type == FP_TCP_DATA || rx->type == FP_TCP_WRITE ||
                       rx->type == FP_TCP_IMM || rx->type == FP_TCP_SEND;
    if (!has_payload && rx->len) {
        protocol_error(conn, "it sent a frame of unknown type or length");
        return;
    }
    switch (rx->type) {
    case FP_TCP_READ:
        serve_read(conn);
        break;
    case FP_TCP_DATA:
        begin_data(conn);
        break;
    case FP_TCP_WRITE:
    case FP_TCP_IMM:
        to = fp_tcp_reach_locked(conn, rx, rx->len, FP_NET_REMOTE_WRITE, &conn->rx_mr);
        if (!to) {
            conn->rx_mr = NULL;
            refuse(conn);
            break;
        }
        conn->rx_iov[0] = (struct iovec){to, rx->len};
        conn->rx_iov_count = 1;
        break;
    case FP_TCP_ACK:
        take_ack(conn);
        break;
    case FP_TCP_NAK:
        take_nak(conn);
        break;
    case FP_TCP_SEND:
        if (rx->len > FP_NET_MESSAGE_MAX) {
            protocol_error(conn, "it sent a message that is too long");
            break;
        }
        conn->rx_message = malloc(sizeof(fp_tcp_message) + rx->len);
        if (!conn->rx_message) {
            fp_tcp_break_locked(conn, FARPOOL_E_NOMEM, "%s: out of memory for a message",
                                conn->base.peer);
            break;
        }
        conn->rx_iov[0] = (struct iovec){conn->rx_message->data, rx->len};
        conn->rx_iov_count = 1;
        break;
    default:
        protocol_error(conn, "it sent a frame of unknown type");
    }
}

static void end_frame(fp_tcp_conn *conn)
{
    fp_net_event event = {.imm = conn->rx.imm, .len = conn->rx.len};
    fp_tcp_message *message = conn->rx_message;
    conn->in_payload = false;
    conn->rx_mr = NULL;
    conn->rx_message = NULL;
    if (conn->rx.type == FP_TCP_DATA) {
        awaiting(conn)->done = true;
        fp_tcp_ops_complete_locked(conn);
        return;
    }
    if (conn->rx.type == FP_TCP_WRITE || conn->rx.type == FP_TCP_IMM) {
        count_moved(conn, conn->rx.len);
        acknowledge(conn);
    }
    if (conn->rx.type != FP_TCP_SEND && conn->rx.type != FP_TCP_IMM)
        return;
    event.kind = conn->rx.type == FP_TCP_SEND ? FP_NET_RECV : FP_NET_RECV_IMM;
    event.data = message ? message->data : NULL;
    fp_tcp_give(conn, &event, message);
    if (++conn->inbox >= FP_TCP_INBOX_MAX)
        conn->paused = true;
}

static void advance(fp_tcp_conn *conn, size_t bytes)
{
    conn->rx_left -= bytes;
    for (int i = 0; i < conn->rx_iov_count && bytes; i++) {
        size_t part = bytes < conn->rx_iov[i].iov_len ? bytes : conn->rx_iov[i].iov_len;
        conn->rx_iov[i].iov_base = (char *)conn->rx_iov[i].iov_base + part;
        conn->rx_iov[i].iov_len -= part;
        bytes -= part;
    }
}

static void copy_staged(fp_tcp_conn *conn)
{
    for (int i = 0; i < conn->rx_iov_count; i++) {
        size_t have = conn->stage_len - conn->stage_pos;
        size_t part = have < conn->rx_iov[i].iov_len ? have : conn->rx_iov[i].iov_len;
        if (!part)
            continue;
        memcpy(conn->rx_iov[i].iov_base, conn->stage + conn->stage_pos, part);
        conn->stage_pos += part;
        conn->rx_left -= part;
        conn->rx_iov[i].iov_base = (char *)conn->rx_iov[i].iov_base + part;
        conn->rx_iov[i].iov_len -= part;
    }
}

static void hello(fp_tcp_conn *conn)
{
    const unsigned char *theirs = conn->stage + conn->stage_pos;
    bool sealed = fp_tcp_net_of(conn)->tls != NULL;
    int rc = fp_tcp_preamble_check(theirs, sealed, conn->base.peer);
    conn->stage_pos += FP_TCP_PREAMBLE_BYTES;
    unsigned char answer[FP_TCP_PREAMBLE_BYTES];
    fp_tcp_preamble(answer, sealed);
    if (rc == FARPOOL_E_PROTO && memcmp(theirs, answer, 8) != 0)
        fp_tcp_break_locked(conn, rc, "%s", farpool_errmsg()); /* no farpool: no answer */
    else if (send(conn->fd, answer, sizeof answer, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof answer)
        fp_tcp_break_locked(conn, FARPOOL_E_NODE, "%s: answering its hello", conn->base.peer);
    else if (rc)
        fp_tcp_break_locked(conn, rc, "%s", farpool_errmsg());
    if (conn->fd < 0 || !conn->listener)
        return;
    if (!sealed) {
        fp_tcp_welcome_locked(conn);
        return;
    }
    rc = fp_tcp_seal_locked(conn, conn->stage + conn->stage_pos, conn->stage_len - conn->stage_pos);
    conn->stage_pos = conn->stage_len;
    if (rc)
        fp_tcp_break_locked(conn, rc, "%s: %s", conn->base.peer, farpool_errmsg());
}

/* Consumes what is staged. */
static void parse(fp_tcp_conn *conn)
{
    while (conn->fd >= 0 && !conn->paused) {
        size_t have = conn->stage_len - conn->stage_pos;
        if (conn->refusing) {
            conn->stage_pos = conn->stage_len;
            return;
        }
        if (!conn->hello) {
            if (conn->tls || have < FP_TCP_PREAMBLE_BYTES)
                return;
            hello(conn);
            continue;
        }
        if (!conn->in_payload) {
            if (have < FP_TCP_HEADER_BYTES)
                return;
            header_get(conn->stage + conn->stage_pos, &conn->rx);
            conn->stage_pos += FP_TCP_HEADER_BYTES;
            conn->in_payload = true;
            begin_frame(conn);
        }
        if (conn->fd < 0 || conn->refusing)
            continue;
        copy_staged(conn);
        if (conn->rx_left)
            return;
        end_frame(conn);
    }
}

static void break_errno(fp_tcp_conn *conn, const char *what, int error)
{
    if (error == 0)
        fp_tcp_break_locked(conn, FARPOOL_E_NODE, "%s: the peer closed the connection",
                            conn->base.peer);
    else
        fp_tcp_break_locked(conn, FARPOOL_E_NODE, "%s: %s: %s", conn->base.peer, what,
                            strerror(error));
}

static void receive(fp_tcp_conn *conn)
{
    parse(conn); /* what was left when it was paused */
    for (int i = 0; i < RECEIVES_MAX && conn->fd >= 0 && !conn->paused; i++) {
        size_t have = conn->stage_len - conn->stage_pos;
        memmove(conn->stage, conn->stage + conn->stage_pos, have);
        conn->stage_pos = 0;
        conn->stage_len = have;
        struct iovec iov[FP_NET_SGE_MAX + 1];
        int count = 0;
        size_t direct = conn->in_payload && !conn->refusing ? conn->rx_left : 0;
        for (int k = 0; direct && k < conn->rx_iov_count; k++) {
            if (conn->rx_iov[k].iov_len)
                iov[count++] = conn->rx_iov[k];
        }
        iov[count++] = (struct iovec){conn->stage + have, FP_TCP_STAGE_BYTES - have};
        bool more;
        ssize_t n = fp_tcp_receive(conn, iov, count, &more);
        if (conn->fd < 0)
            return;
        if (n < 0 && (errno == EINTR || (errno == EAGAIN && more)))
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            if (conn->refusing)
                fp_tcp_break_locked(conn, FARPOOL_E_NODE,
                                    "%s: it used memory that it was not granted", conn->base.peer);
            else
                break_errno(conn, "receiving", n < 0 ? errno : 0);
            return;
        }
        size_t got = (size_t)n;
        size_t taken = got < direct ? got : direct;
        advance(conn, taken);
        conn->stage_len += got - taken;
        parse(conn);
        if (!more)
            return; /* that was all; epoll tells when there is more */
    }
}

void fp_tcp_run_locked(fp_tcp_conn *conn)
{
    if (conn->fd < 0)
        return;
    receive(conn);
    fp_tcp_flush_locked(conn);
    if (conn->tx_failed && conn->fd >= 0) {
        receive(conn); /* what the peer said before it went away */
        if (conn->fd >= 0)
            break_errno(conn, "sending", conn->tx_errno);
    }
    if (conn->fd >= 0 && fp_tcp_watch_locked(conn))
        fp_tcp_break_locked(conn, FARPOOL_E_SYS, "%s", farpool_errmsg());
}
