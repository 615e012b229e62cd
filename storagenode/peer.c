/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/peer.h"

#include <stdio.h>

#include "common/error.h"

#define AGAIN_NS 1000000000ull
#define TIMEOUT_NS 10000000000ull /* it may have to make layers first */

/* ---- connecting ------------------------------------------------------------------------------ */

void fp_peer_connect(fp_peer *peer, uint64_t now)
{
    if (peer->connecting || peer->dial.conn || now < peer->dial_ns)
        return;
    peer->connecting = true;
    fp_dial_start(&peer->dial);
}

/* The attempt is over. */
static void connected(fp_peer *peer, uint64_t now)
{
    peer->connecting = false;
    if (!peer->dial.conn) {
        peer->dial_ns = now + AGAIN_NS;
        return;
    }
    peer->greeted = false;
    peer->owed = 0;
    int rc = fp_greet_begin(&peer->greet, peer->dial.auth, peer->name,
                            fp_net_conn_wanted(peer->dial.conn), &peer->msg);
    if (rc)
        fp_peer_cut(peer, rc, now);
    else
        (void)fp_peer_ask(peer, &peer->msg, now);
}

static int greet(fp_peer *peer, uint64_t now)
{
    int rc = fp_peer_next(peer, now);
    if (rc <= 0)
        return rc;
    rc = fp_greet_take(&peer->greet, &peer->msg);
    if (rc < 0)
        fp_peer_cut(peer, fp_error(rc, "%s: %s", peer->dial.uri, farpool_errmsg()), now);
    if (rc > 0)
        return fp_peer_ask(peer, &peer->msg, now) ? 0 : fp_kept_tell(&peer->dial.error);
    peer->greeted = !rc;
    return rc ? rc : 1;
}

int fp_peer_state(fp_peer *peer, uint64_t now)
{
    int rc = fp_dial_state(&peer->dial);
    if (!peer->dial.dialing && peer->connecting) {
        connected(peer, now);
        rc = fp_dial_state(&peer->dial);
    }
    return rc <= 0 || peer->greeted ? rc : greet(peer, now);
}

/* ---- asking ---------------------------------------------------------------------------------- */

void fp_peer_cut(fp_peer *peer, int code, uint64_t now)
{
    fp_dial_cut(&peer->dial, code);
    peer->greeted = false;
    peer->owed = 0;
    peer->dial_ns = now + AGAIN_NS;
}

bool fp_peer_ask(fp_peer *peer, fp_msg *msg, uint64_t now)
{
    FP_ASSERT(peer->dial.conn && peer->owed < FP_PEER_REQUESTS);
    msg->request = ++peer->number;
    size_t len = fp_wire_encode(msg, peer->buffer, sizeof peer->buffer);
    int rc = fp_net_send(peer->dial.conn, peer->buffer, len);
    if (rc) {
        fp_peer_cut(peer, rc, now);
        return false;
    }
    if (!peer->owed++)
        peer->answered_ns = now;
    return true;
}

uint64_t fp_peer_deadline(const fp_peer *peer)
{
    return !peer->connecting && peer->dial.conn && peer->owed ? peer->answered_ns + TIMEOUT_NS
                                                              : UINT64_MAX;
}

/* Answers come in the order of their requests. */
static int take(fp_peer *peer, const fp_net_event *event)
{
    if (event->kind == FP_NET_CLOSED)
        return fp_error(event->status, "%s: %s", peer->dial.uri, fp_net_conn_reason(event->conn));
    if (event->kind != FP_NET_RECV)
        return 0;
    int rc = fp_wire_decode(event->data, event->len, &peer->msg);
    if (rc)
        return rc;
    if (!peer->owed || peer->msg.request != peer->number - --peer->owed)
        return fp_error(FARPOOL_E_PROTO, "%s: an answer to no request, or not in its order",
                        peer->dial.uri);
    return 1;
}

int fp_peer_next(fp_peer *peer, uint64_t now)
{
    fp_net_event event;
    int n;
    while ((n = fp_net_poll(peer->dial.poller, &event, 1, 0)) > 0) {
        int rc = event.conn == peer->dial.conn ? take(peer, &event) : 0;
        if (rc > 0) {
            peer->answered_ns = now;
            return 1;
        }
        if (rc) {
            fp_peer_cut(peer, rc, now);
            return rc;
        }
    }
    if (!n && now >= fp_peer_deadline(peer))
        n = fp_error(FARPOOL_E_TIMEOUT, "%s: it owes an answer for too long", peer->dial.uri);
    if (n < 0)
        fp_peer_cut(peer, n, now);
    return n;
}

void fp_peer_close(fp_peer *peer) { fp_dial_close(&peer->dial); }
