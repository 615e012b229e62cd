/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests. What a GRANT meets:
 *
 *   partition unknown                  it gets extents that are free, and thus zero
 *   known, lower epoch                 every other connection that uses anything of the partition is cut
 *                                      off, and all its extents get new keys; only then do they, with
 *                                      what is in them, pass to the new epoch
 *   known under this epoch, but        the same owner comes for its other use: it gets that
 *   for another use
 *   the same by another who has        E_REFUSED: the epoch is the first one's
 *   proven another name
 *   granted under this epoch, or       E_FENCED
 *   known under a higher one
 *   released under a higher epoch      E_FENCED
 *   to go on under another epoch, but  E_FENCED: it is not the owner any more
 *   held under a third one
 *   to go on, but there is nothing     E_NOTFOUND: the node has forgotten it
 *   in a cluster: another epoch or     E_FENCED, E_REFUSED; E_BUSY: not told yet (duties.c)
 *   owner than the coordinators say
 *   a log ring of another size         E_INVAL
 *   not enough free, enough with what  the GRANT waits, and the node has changed nothing yet
 *   is being cleared
 *   not enough at all                  E_NOSPACE, nothing changed
 *
 * The connection that brings the GRANT is never cut off: what it sent before was before (rule
 * N3), and it speaks for the new epoch now.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/error.h"
#include "common/faultpoint.h"
#include "common/log.h"
#include "memnode/node.h"

enum { WAIT = 1 }; /* of grant(): it has to wait */

/* ---- GRANT ----------------------------------------------------------------------------------- */

static int no_space(const fp_memnode *node, uint64_t bytes)
{
    const fp_extents *extents = &node->extents;
    char asked[32], left[32], total[32], each[32];
    fp_config_size_text(bytes, asked, sizeof asked);
    fp_config_size_text((extents->free + extents->dirty) * extents->extent_bytes, left,
                        sizeof left);
    fp_config_size_text(extents->count * extents->extent_bytes, total, sizeof total);
    fp_config_size_text(extents->extent_bytes, each, sizeof each);
    return fp_error(FARPOOL_E_NOSPACE,
                    "%s asked for, but %s of %s are free (in extents of %s): ask for less, release "
                    "a partition, or give the node more --memory",
                    asked, left, total, each);
}

/* Grows or shrinks to count extents; there are enough. */
static int resize(fp_memnode *node, fp_grant *grant, uint32_t count)
{
    if (count > grant->count) {
        uint32_t *grown = realloc(grant->extents, count * sizeof *grown);
        if (!grown)
            return fp_error(FARPOOL_E_NOMEM, "the memory node has no memory for a list of extents");
        grant->extents = grown;
        fp_extents_take(&node->extents, count - grant->count, grown + grant->count);
    } else {
        fp_extents_give(&node->extents, grant->extents + count, grant->count - count);
    }
    grant->count = count;
    return 0;
}

/* Among those who have proven their names, what one was granted under an epoch is his. */
static int check_owner(const fp_grant *grant, const fp_client *client)
{
    if (!client->at.authenticated || !strcmp(grant->owner, client->at.name))
        return 0;
    return fp_error(FARPOOL_E_REFUSED,
                    "partition %" PRIu64 " is held under epoch %" PRIu64 " by '%.80s', not by "
                    "'%.80s'",
                    grant->partition, grant->epoch, grant->owner, client->at.name);
}

static int check_epoch(const fp_memnode *node, const fp_pending *ask)
{
    for (const fp_grant *g = node->grants; g; g = g->next) {
        bool again = g->use == ask->use && g->claimed;
        if (g->partition == ask->partition && g->epoch + again > ask->epoch)
            return fp_error(FARPOOL_E_FENCED,
                            "partition %" PRIu64 " is held under epoch %" PRIu64 "; epoch %" PRIu64
                            " is not higher",
                            ask->partition, g->epoch, ask->epoch);
    }
    uint64_t past = fp_epochs_get(&node->released, ask->partition);
    if (past > ask->epoch) /* whoever released it may come again */
        return fp_error(FARPOOL_E_FENCED,
                        "partition %" PRIu64 " was released under epoch %" PRIu64 "; epoch %" PRIu64
                        " is lower",
                        ask->partition, past, ask->epoch);
    return 0;
}

/* Who goes on under a higher epoch must be the owner still, or what another one has acknowledged since would be
 * overwritten. */
static int check_held(const fp_memnode *node, const fp_pending *ask)
{
    if (!ask->held)
        return 0;
    if (!fp_grant_find(node, ask->partition, ask->use))
        return fp_error(FARPOOL_E_NOTFOUND, "partition %" PRIu64 " has no %s here that could go on",
                        ask->partition, fp_use_names[ask->use]);
    for (const fp_grant *g = node->grants; g; g = g->next)
        if (g->partition == ask->partition && g->epoch != ask->held && g->epoch != ask->epoch)
            return fp_error(FARPOOL_E_FENCED,
                            "partition %" PRIu64 " is held under epoch %" PRIu64 ", not %" PRIu64,
                            ask->partition, g->epoch, ask->held);
    return 0;
}

static int check_ask(const fp_memnode *node, const fp_pending *ask)
{
    if (!ask->partition || !ask->bytes)
        return fp_error(FARPOOL_E_INVAL,
                        "GRANT of partition %" PRIu64 ", %" PRIu64 " bytes: "
                        "neither may be 0",
                        ask->partition, ask->bytes);
    int rc = fp_node_check_told(node, ask->client->at.name, ask->partition, ask->epoch);
    rc = rc ? rc : check_epoch(node, ask);
    for (const fp_grant *g = node->grants; g && !rc; g = g->next)
        if (g->partition == ask->partition && g->epoch == ask->epoch)
            rc = check_owner(g, ask->client);
    return rc ? rc : check_held(node, ask);
}

/* Returns 0 with *out, WAIT, or an error; has changed nothing unless 0, but that an error of
 * fp_node_raise leaves the old epoch's owner without working keys: another GRANT mends that. */
static int grant(fp_memnode *node, const fp_pending *ask, fp_grant **out, bool *fresh)
{
    fp_extents *extents = &node->extents;
    fp_grant *known = fp_grant_find(node, ask->partition, ask->use);
    int rc = check_ask(node, ask);
    if (rc)
        return rc;
    uint64_t count = ask->bytes / extents->extent_bytes + (ask->bytes % extents->extent_bytes != 0);
    uint64_t have = known ? known->count : 0;
    if (known && ask->use == FP_USE_RING &&
        count != have) /* where bytes stand depends on the size */
        return fp_error(FARPOOL_E_INVAL,
                        "partition %" PRIu64 " has a log ring of %" PRIu64
                        " extents here, not %" PRIu64 ": its size cannot change",
                        ask->partition, have, count);
    uint64_t missing = count > have ? count - have : 0;
    if (missing > (uint64_t)extents->free + extents->dirty)
        return no_space(node, ask->bytes);
    /* Whoever waits already is not overtaken, or a large request could wait for ever. */
    bool others_wait = node->pending && node->pending->client != ask->client;
    if (missing > extents->free || (missing && others_wait))
        return WAIT;
    fp_grant *target = known ? known : calloc(1, sizeof *target);
    if (!target)
        return fp_error(FARPOOL_E_NOMEM, "the memory node has no memory for a partition");
    uint32_t cut = 0;
    const char *owner = ask->client->at.authenticated ? ask->client->at.name : "";
    /* Before anything is given. */
    rc = fp_node_raise(node, ask->partition, ask->epoch, 0, owner, ask->client, &cut);
    FP_FAULT_POINT(GRANT_FENCED);
    if (!rc)
        rc = resize(node, target, (uint32_t)count);
    if (rc) {
        if (!known)
            free(target);
        return rc;
    }
    if (!known) {
        target->partition = ask->partition;
        target->use = ask->use;
        target->next = node->grants;
        node->grants = target;
    }
    target->epoch = ask->epoch;
    snprintf(target->owner, sizeof target->owner, "%s", owner);
    target->claimed = true;
    *fresh = !known;
    fp_log(FP_LOG_INFO,
           "partition %" PRIu64 " epoch %" PRIu64 ": %" PRIu32 " extents of %s to %s (%s), %" PRIu32
           " connections fenced",
           target->partition, target->epoch, target->count, fp_use_names[target->use],
           ask->client->at.name, fp_net_conn_peer(ask->client->at.conn), cut);
    *out = target;
    return 0;
}

/* Shares a part of the list with the client and puts its keys into node->server.answer. That order,
 * because the answer tells the client that it may use them (rule N3). */
static int share_extents(fp_memnode *node, fp_client *client, fp_grant *of, uint32_t first)
{
    fp_msg *answer = &node->server.answer;
    if (first >= of->count)
        return fp_error(FARPOOL_E_INVAL,
                        "extents from %" PRIu32 " asked for, but the %s has %" PRIu32, first,
                        fp_use_names[of->use], of->count);
    int rc = fp_grant_attach(client, of);
    uint32_t left = of->count - first;
    uint32_t count = left < FP_WIRE_EXTENTS_MAX ? left : FP_WIRE_EXTENTS_MAX;
    for (uint32_t i = 0; !rc && i < count; i++) {
        fp_mr *mr = node->extents.list[of->extents[first + i]].mrs[client->at.net];
        if (!mr) /* see fp_extents_renew_keys */
            return fp_error(FARPOOL_E_NOMEM, "the %s lost its keys in an attempt to pass it on",
                            fp_use_names[of->use]);
        rc = fp_net_share(client->at.conn, mr);
        answer->extents[i] = fp_net_rkey(mr);
    }
    answer->type = FP_MSG_EXTENTS;
    answer->partition = of->partition;
    answer->epoch = of->epoch;
    answer->use = of->use;
    answer->total = of->count;
    answer->first = first;
    answer->count = count;
    answer->extent_bytes = node->extents.extent_bytes;
    return rc;
}

/* A ring that is new. */
static int spill(fp_memnode *node, const fp_grant *ring)
{
    if (!node->spill || ring->use != FP_USE_RING)
        return 0;
    void **memory = malloc(ring->count * sizeof *memory);
    if (!memory)
        return fp_error(FARPOOL_E_NOMEM, "the memory node has no memory for spilling a ring");
    for (uint32_t i = 0; i < ring->count; i++)
        memory[i] = node->extents.list[ring->extents[i]].mem.addr;
    int rc = fp_spill_add_ring(node->spill, ring->partition, memory, ring->count,
                               node->extents.extent_bytes);
    free(memory);
    return rc;
}

static void refuse_grant(fp_memnode *node, fp_client *client, uint32_t request, int code)
{
    node->grants_refused++;
    fp_server_refuse(&node->server, &client->at, request, code);
}

/* Returns false if it has to wait. Otherwise it has been answered, and the client may be gone. */
static bool try_grant(fp_memnode *node, fp_pending ask)
{
    fp_grant *granted = NULL;
    bool fresh = false;
    int rc = grant(node, &ask, &granted, &fresh);
    if (rc == WAIT)
        return false;
    fp_node_forget_pending(node, ask.client);
    if (!rc) {
        rc = fresh ? spill(node, granted) : 0;
        if (!rc)
            rc = share_extents(node, ask.client, granted, 0);
        if (rc && fresh)
            fp_grant_release(node, granted); /* who is told of an error holds nothing */
    }
    FP_FAULT_POINT(GRANT_MADE);
    node->granted += !rc;
    if (rc)
        refuse_grant(node, ask.client, ask.request, rc);
    else
        fp_server_answer(&node->server, &ask.client->at, ask.request);
    FP_FAULT_POINT(GRANT_ANSWERED);
    return true;
}

static void handle_grant(fp_memnode *node, fp_client *client)
{
    const fp_msg *msg = &node->server.request;
    fp_pending ask = {
        .client = client,
        .request = msg->request,
        .partition = msg->partition,
        .epoch = msg->epoch,
        .use = msg->use,
        .bytes = msg->bytes,
        .held = msg->held,
    };
    for (const fp_pending *p = node->pending; p; p = p->next) {
        if (p->client == client) {
            int rc = fp_error(FARPOOL_E_BUSY, "another GRANT of this connection is waiting");
            refuse_grant(node, client, msg->request, rc);
            return;
        }
    }
    if (try_grant(node, ask))
        return;
    fp_pending *waiting = malloc(sizeof *waiting);
    if (!waiting) {
        int rc = fp_error(FARPOOL_E_NOMEM, "the memory node has no memory for a request");
        refuse_grant(node, client, msg->request, rc);
        return;
    }
    *waiting = ask;
    *node->pending_tail = waiting;
    node->pending_tail = &waiting->next;
    node->pending_count++;
}

static void unlink_pending(fp_memnode *node, fp_pending **link)
{
    fp_pending *gone = *link;
    *link = gone->next;
    if (!*link)
        node->pending_tail = link;
    node->pending_count--;
    free(gone);
}

void fp_node_forget_pending(fp_memnode *node, const fp_client *client)
{
    fp_pending **link = &node->pending;
    while (*link) {
        if ((*link)->client == client)
            unlink_pending(node, link);
        else
            link = &(*link)->next;
    }
}

void fp_node_retry_pending(fp_memnode *node)
{
    /* Answering may drop clients and with them entries: begin again from the first each time. */
    while (node->pending && try_grant(node, *node->pending))
        ;
}

/* ---- the other requests ---------------------------------------------------------------------- */

/* The grant that partition and epoch of the client's request name. */
static int current_grant(const fp_memnode *node, const fp_client *client, fp_grant **out)
{
    const fp_msg *msg = &node->server.request;
    *out = fp_grant_find(node, msg->partition, msg->use);
    if (!*out)
        return fp_error(FARPOOL_E_NOTFOUND, "partition %" PRIu64 " has no %s here", msg->partition,
                        fp_use_names[msg->use]);
    if ((*out)->epoch != msg->epoch)
        return fp_error(FARPOOL_E_FENCED,
                        "partition %" PRIu64 " is held under epoch %" PRIu64 ", not %" PRIu64,
                        msg->partition, (*out)->epoch, msg->epoch);
    return check_owner(*out, client);
}

static void handle_attach(fp_memnode *node, fp_client *client)
{
    fp_grant *of;
    int rc = current_grant(node, client, &of);
    if (!rc)
        rc = share_extents(node, client, of, node->server.request.first);
    if (rc)
        fp_server_refuse(&node->server, &client->at, node->server.request.request, rc);
    else
        fp_server_answer(&node->server, &client->at, node->server.request.request);
}

static void handle_release(fp_memnode *node, fp_client *client)
{
    fp_grant *of;
    int rc = current_grant(node, client, &of);
    if (rc) {
        fp_server_refuse(&node->server, &client->at, node->server.request.request, rc);
        return;
    }
    fp_log(FP_LOG_INFO, "partition %" PRIu64 " epoch %" PRIu64 ": %s released by %s", of->partition,
           of->epoch, fp_use_names[of->use], client->at.name);
    node->server.answer.type = FP_MSG_RELEASE_OK;
    node->server.answer.partition = of->partition;
    node->server.answer.epoch = of->epoch;
    fp_grant_release(node, of);
    FP_FAULT_POINT(RELEASED);
    fp_server_answer(&node->server, &client->at, node->server.request.request);
}

void fp_node_request(void *owner, fp_server_client *from)
{
    fp_memnode *node = owner;
    fp_client *client = (fp_client *)from;
    switch (node->server.request.type) {
    case FP_MSG_GRANT:
        handle_grant(node, client);
        break;
    case FP_MSG_ATTACH:
        handle_attach(node, client);
        break;
    case FP_MSG_RELEASE:
        handle_release(node, client);
        break;
    case FP_MSG_USAGE:
        fp_node_tell_usage(node, client);
        break;
    default: {
        int rc = fp_error(
            FARPOOL_E_UNSUPPORTED, "%s is a memory node, not a storage node%s", node->server.name,
            node->server.request.type == FP_MSG_CALL ? ", and not a coordinator" : "");
        fp_server_refuse(&node->server, from, node->server.request.request, rc);
        break;
    }
    }
}
