/* SPDX-License-Identifier: Apache-2.0 */
/* Refilling begins and ends with the node: its peers, and the descriptors by which it is woken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster/call.h"
#include "common/error.h"
#include "common/log.h"
#include "storagenode/refill.h"

enum { CONNECT_MS = 2000 };

static int add_peer(fp_refill *refill, const char *uri)
{
    fp_uri parsed;
    int rc = fp_uri_parse(uri, &parsed);
    if (rc)
        return rc;
    if (refill->peer_count == FP_STORAGENODE_PEERS_MAX)
        return fp_error(FARPOOL_E_INVAL, "%s: there are %d peers already", uri,
                        FP_STORAGENODE_PEERS_MAX);
    fp_peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return fp_error(FARPOOL_E_NOMEM, "no memory for peer %s", uri);
    snprintf(peer->dial.uri, sizeof peer->dial.uri, "%s", uri);
    snprintf(peer->name, sizeof peer->name, "%s", refill->node->server.name);
    peer->dial.net_options = refill->peer_net;
    peer->dial.auth = refill->node->server.auth;
    peer->dial.timeout_ms = CONNECT_MS;
    peer->dial.wake = &refill->wake;
    refill->peers[refill->peer_count++] = peer;
    return 0;
}

int fp_refill_open(fp_storagenode *node, const fp_storagenode_config *config)
{
    if (!config->peer_count && !config->in_cluster)
        return 0;
    fp_refill *refill = calloc(1, sizeof *refill);
    if (!refill)
        return fp_error(FARPOOL_E_NOMEM, "no memory for peers");
    node->refill = refill;
    refill->node = node;
    refill->peer_net = config->peer_net;
    refill->wake = FP_WAKE_NONE;
    refill->look = true;
    int rc = config->peer_net ? 0 : fp_wake_open(&refill->wake, "for peers");
    for (unsigned i = 0; i < config->peer_count && !rc; i++)
        rc = add_peer(refill, config->peers[i]);
    return rc;
}

/* ---- other peers ----------------------------------------------------------------------------- */

static bool is_peer(const fp_refill *refill, const char *uri)
{
    for (unsigned i = 0; i < refill->peer_count; i++)
        if (!strcmp(refill->peers[i]->dial.uri, uri))
            return true;
    return false;
}

void fp_refill_set_peers(fp_storagenode *node, const json_t *uris)
{
    fp_refill *refill = node->refill;
    bool same = refill && json_array_size(uris) == refill->peer_count;
    for (unsigned i = 0; same && i < refill->peer_count; i++)
        same = fp_call_lists(uris, refill->peers[i]->dial.uri);
    if (!refill)
        return;
    json_decref(refill->other_peers);
    refill->other_peers = same ? NULL : json_deep_copy(uris);
}

/* One that is being connected to stays until that is over: nothing is waited for. True: none does. */
static bool drop_others(fp_refill *refill)
{
    unsigned kept = 0;
    bool all = true;
    for (unsigned i = 0; i < refill->peer_count; i++) {
        fp_peer *peer = refill->peers[i];
        bool wanted = fp_call_lists(refill->other_peers, peer->dial.uri);
        (void)fp_peer_state(peer, fp_refill_now(refill));
        all = all && (wanted || !peer->connecting);
        if (wanted || peer->connecting) {
            refill->peers[kept++] = peer;
            continue;
        }
        fp_peer_close(peer);
        free(peer);
    }
    refill->peer_count = kept;
    return all;
}

void fp_refill_take_peers(fp_refill *refill)
{
    size_t i;
    const json_t *uri;
    if (!refill->other_peers || refill->disk_busy || (refill->log && refill->log->take))
        return;
    fp_refill_let_go(refill);
    if (!drop_others(refill))
        return;
    json_array_foreach(refill->other_peers, i, uri)
    {
        const char *text = json_string_value(uri);
        int rc = !text || is_peer(refill, text) ? 0 : add_peer(refill, text);
        if (rc)
            fp_log(FP_LOG_WARN, "a peer is left out: %s", farpool_errmsg());
    }
    json_decref(refill->other_peers);
    refill->other_peers = NULL;
    for (fp_stored *log = refill->node->logs; log; log = log->next)
        log->refill_ns = log->refill_backoff_ns = 0; /* what none had these may have */
    refill->look = true;
    fp_log(FP_LOG_INFO, "volume %s: %u peers", refill->node->path, refill->peer_count);
}

int fp_refill_fd(const fp_storagenode *node)
{
    return node->refill ? node->refill->wake.epoll_fd : -1;
}

void fp_refill_stop(fp_storagenode *node)
{
    fp_refill *refill = node->refill;
    if (!refill)
        return;
    refill->stopping = true;
    for (unsigned i = 0; i < refill->peer_count; i++)
        fp_peer_close(refill->peers[i]);
    if (!refill->disk_busy && !(refill->log && refill->log->installing))
        fp_refill_stopped(node); /* else done() does, or who has waited for the installation */
}

void fp_refill_stopped(fp_storagenode *node)
{
    fp_refill *refill = node->refill;
    if (!refill || !refill->take || refill->disk_busy)
        return;
    if (refill->log)
        refill->log->take = NULL;
    fp_refill_drop_take(refill);
}

void fp_refill_free(fp_storagenode *node)
{
    fp_refill *refill = node->refill;
    if (!refill)
        return;
    fp_wake_close(&refill->wake);
    for (unsigned i = 0; i < refill->peer_count; i++)
        free(refill->peers[i]);
    json_decref(refill->other_peers);
    free(refill->buffer);
    free(refill);
}
