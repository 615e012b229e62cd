/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp: posting and sending. Frames wait in a ring, each with its header and where its payload is:
 * in the user's buffers (WRITE), in shared memory (DATA) or in a copy (SEND, INLINE); one sendmsg
 * gathers many.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/error.h"
#include "common/net/tcp.h"

enum { IOV_MAX_USED = 64 };

static void put32(unsigned char *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof v);
}

static void put64(unsigned char *at, uint64_t v)
{
    v = htole64(v);
    memcpy(at, &v, sizeof v);
}

static void header_put(unsigned char *at, const fp_tcp_header *header)
{
    put32(at, header->type);
    put32(at + 4, header->len);
    put64(at + 8, header->seq);
    put64(at + 16, header->key);
    put64(at + 24, header->addr);
    put32(at + 32, header->count);
    put32(at + 36, header->imm);
}

/* ---- output ---------------------------------------------------------------------------------- */

void fp_tcp_ops_complete_locked(fp_tcp_conn *conn)
{
    while (conn->op_head != conn->op_tail && conn->ops[conn->op_head % FP_NET_DEPTH_MAX].done)
        fp_tcp_give_done_locked(conn, &conn->ops[conn->op_head++ % FP_NET_DEPTH_MAX], 0);
}

/* Room is bounded by the number of operations that either side may have in flight. */
fp_tcp_tx *fp_tcp_tx_add_locked(fp_tcp_conn *conn, const fp_tcp_header *header)
{
    FP_ASSERT(conn->tx_tail - conn->tx_head < FP_TCP_TX_SLOTS);
    fp_tcp_tx *tx = &conn->tx[conn->tx_tail++ % FP_TCP_TX_SLOTS];
    tx->iov_count = 0;
    tx->len = FP_TCP_HEADER_BYTES + header->len;
    tx->op = NULL;
    tx->mr = NULL;
    tx->is_ack = header->type == FP_TCP_ACK;
    header_put(tx->header, header);
    return tx;
}

void fp_tcp_tx_reseq(fp_tcp_tx *tx, uint64_t seq) { put64(tx->header + 8, seq); }

static int gather(const fp_tcp_conn *conn, struct iovec *iov)
{
    int count = 0;
    size_t skip = conn->tx_offset;
    for (uint32_t i = conn->tx_head;
         i != conn->tx_tail && count + 1 + FP_NET_SGE_MAX <= IOV_MAX_USED; i++) {
        const fp_tcp_tx *tx = &conn->tx[i % FP_TCP_TX_SLOTS];
        for (int part = -1; part < tx->iov_count; part++) {
            struct iovec piece = {(void *)(uintptr_t)tx->header, FP_TCP_HEADER_BYTES};
            if (part >= 0)
                piece = tx->iov[part];
            if (skip >= piece.iov_len) {
                skip -= piece.iov_len;
                continue;
            }
            piece.iov_base = (char *)piece.iov_base + skip;
            piece.iov_len -= skip;
            skip = 0;
            iov[count++] = piece;
        }
    }
    return count;
}

static void sent(fp_tcp_conn *conn, size_t bytes)
{
    conn->tx_offset += bytes;
    while (conn->tx_head != conn->tx_tail) {
        fp_tcp_tx *tx = &conn->tx[conn->tx_head % FP_TCP_TX_SLOTS];
        if (conn->tx_offset < tx->len)
            return;
        conn->tx_offset -= tx->len;
        conn->tx_head++;
        if (tx->op) {
            tx->op->sent = true;
            tx->op->done = tx->op->kind == FP_NET_SEND;
        } else {
            conn->answers--;
        }
    }
}

void fp_tcp_flush_locked(fp_tcp_conn *conn)
{
    while (conn->fd >= 0 && !conn->tx_failed && fp_tcp_sends(conn)) {
        struct iovec iov[IOV_MAX_USED];
        ssize_t n = fp_tcp_send(conn, iov, gather(conn, iov));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            conn->tx_blocked = errno == EAGAIN;
            conn->tx_failed = errno != EAGAIN;
            conn->tx_errno = errno;
            break;
        }
        sent(conn, (size_t)n);
    }
    if (!fp_tcp_sends(conn))
        conn->tx_blocked = false;
    fp_tcp_ops_complete_locked(conn);
}

/* ---- posting --------------------------------------------------------------------------------- */

/* Copies what the post must copy (N7) to ops[], beyond op_tail. */
static int prepare(fp_tcp_conn *conn, const fp_net_op *from, fp_tcp_op *op)
{
    bool copies = from->kind == FP_NET_SEND || (from->flags & FP_NET_INLINE);
    uint64_t len = 0;
    for (uint32_t i = 0; i < from->sge_count; i++)
        len += from->sge[i].len;
    if (len > UINT32_MAX)
        return fp_error(FARPOOL_E_INVAL, "%s: an operation of 4 GiB or more", conn->base.peer);
    *op = (fp_tcp_op){.kind = from->kind, .cookie = from->cookie, .len = (uint32_t)len};
    if (copies && len) {
        op->copy = malloc(len);
        if (!op->copy)
            return fp_error(FARPOOL_E_NOMEM, "%s: out of memory", conn->base.peer);
        op->iov[0] = (struct iovec){op->copy, len};
        op->iov_count = 1;
    }
    char *to = op->copy;
    for (uint32_t i = 0; i < from->sge_count; i++) {
        if (!copies)
            op->iov[op->iov_count++] = (struct iovec){from->sge[i].addr, from->sge[i].len};
        else if (from->sge[i].len)
            to = mempcpy(to, from->sge[i].addr, from->sge[i].len);
    }
    return 0;
}

static void enqueue(fp_tcp_conn *conn, const fp_net_op *from, fp_tcp_op *op)
{
    static const uint32_t types[] = {FP_TCP_READ, FP_TCP_WRITE, FP_TCP_IMM, FP_TCP_SEND};
    op->seq = ++conn->seq;
    bool reads = op->kind == FP_NET_READ;
    fp_tcp_header header = {
        .type = types[op->kind],
        .len = reads ? 0 : op->len,
        .seq = op->seq,
        .key = from->remote_key,
        .addr = from->remote_addr,
        .count = reads ? op->len : 0,
        .imm = from->imm,
    };
    fp_tcp_tx *tx = fp_tcp_tx_add_locked(conn, &header);
    if (!reads) {
        memcpy(tx->iov, op->iov, sizeof op->iov);
        tx->iov_count = op->iov_count;
    }
    tx->op = op;
}

int fp_tcp_post(fp_conn *base, const fp_net_op *ops, size_t count)
{
    fp_tcp_conn *conn = (fp_tcp_conn *)base;
    int rc = 0;
    pthread_mutex_lock(&conn->lock);
    if (conn->status)
        rc = fp_error(FARPOOL_E_CLOSED, "%s: connection is closed: %s", base->peer, conn->reason);
    size_t ready = 0;
    for (; ready < count && !rc; ready++)
        rc = prepare(conn, &ops[ready], &conn->ops[(conn->op_tail + ready) % FP_NET_DEPTH_MAX]);
    if (rc) {
        while (ready-- > 0) {
            fp_tcp_op *op = &conn->ops[(conn->op_tail + ready) % FP_NET_DEPTH_MAX];
            free(op->copy);
            op->copy = NULL;
        }
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        enqueue(conn, &ops[i], &conn->ops[conn->op_tail++ % FP_NET_DEPTH_MAX]);
    if (!conn->tx_blocked)
        fp_tcp_flush_locked(conn);
    if (conn->tx_failed || conn->tx_blocked)
        fp_tcp_run_locked(conn);
out:
    pthread_mutex_unlock(&conn->lock);
    return rc;
}
