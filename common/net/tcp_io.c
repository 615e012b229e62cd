/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp: between a connection's frames and its socket: as they are, or, where there is an auth, through TLS (tls.h). What
 * goes out through TLS is taken over at once, a record at a time, and waits there for the socket; so no frame changes
 * once it has been encrypted. What comes in is taken from the socket only when all before it has been given.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "common/error.h"
#include "common/net/tcp.h"

enum {
    CIPHER_BYTES = 32 << 10
}; /* taken at a time: with what is left over, less than a stage has room for */

/* ---- out ------------------------------------------------------------------------------------- */

/* Up to a record of the pieces becomes the next thing to be sent. */
static ssize_t seal(fp_tcp_conn *conn, const struct iovec *iov, int count)
{
    unsigned char plain[FP_TLS_RECORD_BYTES];
    size_t len = 0;
    for (int i = 0; i < count && len < sizeof plain; i++) {
        size_t part = iov[i].iov_len < sizeof plain - len ? iov[i].iov_len : sizeof plain - len;
        memcpy(plain + len, iov[i].iov_base, part);
        len += part;
    }
    if (!fp_tls_write(conn->tls, plain, len))
        return (ssize_t)len;
    errno = EPROTO;
    return -1;
}

/* 0: all that TLS had to say has been sent. */
static int push(fp_tcp_conn *conn)
{
    const void *bytes;
    size_t len;
    while ((len = fp_tls_outgoing(conn->tls, &bytes)) > 0) {
        ssize_t n = send(conn->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        fp_tls_sent(conn->tls, (size_t)n);
    }
    return 0;
}

bool fp_tcp_sends(const fp_tcp_conn *conn)
{
    const void *bytes;
    return conn->tx_head != conn->tx_tail || (conn->tls && fp_tls_outgoing(conn->tls, &bytes) > 0);
}

ssize_t fp_tcp_send(fp_tcp_conn *conn, const struct iovec *iov, int count)
{
    if (conn->tls)
        return push(conn) ? -1 : count ? seal(conn, iov, count) : 0;
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    return sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* ---- in -------------------------------------------------------------------------------------- */

void fp_tcp_welcome_locked(fp_tcp_conn *conn)
{
    fp_tcp_set_deadline_locked(conn, 0);
    conn->hello = true;
    fp_tcp_give(conn, &(fp_net_event){.kind = FP_NET_ACCEPTED, .listener = &conn->listener->base},
                NULL);
}

/* A peer's handshake. It is told what is wrong, if the socket takes that. */
static void shake(fp_tcp_conn *conn)
{
    int rc = fp_tls_shake(conn->tls);
    if (push(conn) && errno != EAGAIN)
        fp_tcp_break_locked(conn, FARPOOL_E_NODE, "%s: sending: %s", conn->base.peer,
                            strerror(errno));
    else if (rc < 0)
        fp_tcp_break_locked(conn, rc, "%s: %s", conn->base.peer, farpool_errmsg());
    else if (rc > 0 && conn->listener)
        fp_tcp_welcome_locked(conn);
}

int fp_tcp_seal_locked(fp_tcp_conn *conn, const void *bytes, size_t len)
{
    int rc = fp_tls_open(fp_tcp_net_of(conn)->tls, true, &conn->tls);
    if (!rc)
        rc = fp_tls_feed(conn->tls, bytes, len);
    if (!rc)
        shake(conn);
    return rc;
}

/* What TLS has for the pieces now; -1: the connection is broken. */
static ssize_t unseal(fp_tcp_conn *conn, const struct iovec *iov, int count)
{
    size_t got = 0;
    for (int i = 0; i < count;) {
        size_t part = 0;
        while (part < iov[i].iov_len) {
            ssize_t n =
                fp_tls_read(conn->tls, (char *)iov[i].iov_base + part, iov[i].iov_len - part);
            if (n < 0)
                fp_tcp_break_locked(conn, (int)n, "%s: %s", conn->base.peer, farpool_errmsg());
            if (n < 0)
                return -1;
            if (!n)
                return (ssize_t)(got + part);
            part += (size_t)n;
        }
        got += part;
        i++;
    }
    return (ssize_t)got;
}

static ssize_t receive_sealed(fp_tcp_conn *conn, const struct iovec *iov, int count, bool *more)
{
    unsigned char cipher[CIPHER_BYTES];
    ssize_t n = recv(conn->fd, cipher, sizeof cipher, MSG_DONTWAIT);
    if (n <= 0)
        return n;
    conn->received += (uint64_t)n;
    *more = n == sizeof cipher;
    if (fp_tls_feed(conn->tls, cipher, (size_t)n)) {
        fp_tcp_break_locked(conn, FARPOOL_E_NOMEM, "%s: %s", conn->base.peer, farpool_errmsg());
        return -1;
    }
    if (!conn->hello)
        shake(conn);
    ssize_t got = conn->fd >= 0 && conn->hello ? unseal(conn, iov, count) : 0;
    if (got || conn->fd < 0)
        return conn->fd < 0 ? -1 : got;
    errno = EAGAIN; /* part of a record, or of the handshake */
    return -1;
}

ssize_t fp_tcp_receive(fp_tcp_conn *conn, const struct iovec *iov, int count, bool *more)
{
    size_t room = 0;
    *more = false;
    if (conn->tls)
        return receive_sealed(conn, iov, count, more);
    for (int i = 0; i < count; i++)
        room += iov[i].iov_len;
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    ssize_t n = recvmsg(conn->fd, &msg, MSG_DONTWAIT);
    conn->received += n > 0 ? (uint64_t)n : 0;
    *more = n > 0 && (size_t)n == room;
    return n;
}
