/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who appends: the first to open it, until its connection breaks, somebody opens it under a higher epoch, or it opens
 * it with no bytes. The key of the landing ring lives exactly as long: it is registered anew for each, with that one's
 * transport only. So when the ring is passed on, nothing that the one before had posted reaches it any more: its
 * connection is closed (N6), or its key is dead, and over verbs, where the key alone is the capability, both.
 *
 * What the one before has landed and not appended is overwritten. What it has appended is below `end`, where nobody
 * writes, and is finished.
 */
#include <inttypes.h>

#include "common/error.h"
#include "common/log.h"
#include "storagenode/node.h"

/* A frame fits also beside what the WAL keeps for its page store. */
size_t fp_stored_landing_bytes(uint64_t frame_bytes)
{
    uint64_t kept = frame_bytes / 3 < FP_WAL_KEPT_MAX ? frame_bytes / 3 : FP_WAL_KEPT_MAX;
    size_t bytes = (frame_bytes + kept) / FP_DISK_ALIGN * FP_DISK_ALIGN + 4 * FP_DISK_ALIGN;
    return bytes > FP_STORAGE_LANDING_MIN ? bytes : FP_STORAGE_LANDING_MIN;
}

void fp_stored_vacate(fp_stored *log)
{
    if (log->mr)
        fp_net_unregister(log->mr);
    log->mr = NULL;
    log->streamer = NULL;
    fp_refill_look(log->node);
}

int fp_stored_grow(fp_stored *log, size_t bytes)
{
    fp_mem grown;
    if (fp_wal_end(log->wal) != fp_wal_durable(log->wal))
        return 1;
    fp_stored_vacate(log);
    int rc = fp_mem_open(bytes, FP_MEM_SHARED | FP_MEM_RESERVE, -1, &grown);
    if (rc)
        return rc;
    fp_wal_set_landing(log->wal, grown.addr, grown.len);
    fp_mem_close(&log->landing);
    log->landing = grown;
    return 0;
}

int fp_stored_occupy(fp_stored *log, const fp_request *request)
{
    fp_storage_client *client = request->client;
    size_t bytes = fp_stored_landing_bytes(request->bytes);
    int rc = bytes > log->landing.len ? fp_stored_grow(log, bytes) : 0;
    if (rc)
        return rc;
    log->streamer_epoch = request->epoch;
    log->wanted_ns = 0;
    if (log->streamer)
        return 0;
    rc = fp_net_register(log->node->server.nets[client->at.net].net, &log->landing,
                         FP_NET_REMOTE_WRITE, &log->mr);
    if (rc)
        return rc;
    log->streamer = client;
    rc = fp_net_share(client->at.conn, log->mr);
    if (rc) {
        fp_stored_vacate(log);
        return rc;
    }
    fp_log(FP_LOG_INFO,
           "partition %" PRIu64 " epoch %" PRIu64 ": appended to by %s (%s), from %" PRIu64,
           log->partition, request->epoch, client->at.name, fp_net_conn_peer(client->at.conn),
           fp_wal_end(log->wal));
    return 0;
}
