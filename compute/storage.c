/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/storage.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "compute/remote.h"

enum { TRIES = 3 };

int fp_storage_open(farpool_partition *partition, const farpool_partition_options *options)
{
    if (options->storagenode_count > FP_PARTITION_NODES_MAX ||
        (options->storagenode_count && !options->storagenodes))
        return fp_error(FARPOOL_E_INVAL, "partition %llu: %zu storage nodes; must be 0 to %d",
                        (unsigned long long)options->id, options->storagenode_count,
                        (int)FP_PARTITION_NODES_MAX);
    for (size_t i = 0; i < options->storagenode_count; i++) {
        int rc = fp_remote_node(partition->pool, options->storagenodes[i], options->timeout_ms,
                                &partition->storages[i]);
        if (rc)
            return rc;
        partition->storage_count++;
    }
    return 0;
}

static const char *uri_of(const farpool_partition *partition, unsigned index)
{
    return partition->pool->nodes[partition->storages[index]].uri;
}

/* msg is the request and becomes the answer. */
static int ask(fp_thread *thread, farpool_partition *partition, unsigned index, fp_msg *msg,
               enum fp_msg_type type, enum fp_msg_type expected)
{
    msg->type = type;
    msg->partition = partition->id;
    msg->epoch = partition->epoch;
    int rc =
        fp_remote_ask(thread, partition->storages[index], partition->timeout_ms, msg, expected);
    if (!rc && msg->partition != partition->id)
        rc = fp_error(FARPOOL_E_PROTO,
                      "storage node %s: asked for partition %llu, answered for %llu",
                      uri_of(partition, index), (unsigned long long)partition->id,
                      (unsigned long long)msg->partition);
    return rc;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static int take_piece(const farpool_partition *partition, unsigned index, const fp_msg *msg,
                      farpool_pid pid, unsigned order, uint32_t at, void *page)
{
    uint32_t bytes = FARPOOL_UNIT_BYTES << order;
    if (msg->pid != pid || msg->order != order || msg->offset != at || !msg->data_len ||
        msg->data_len > bytes - at)
        return fp_error(FARPOOL_E_CORRUPT,
                        "storage node %s: page %llu of order %u, from byte %u on, asked for; page "
                        "%llu of order %u from %u on came, %u bytes",
                        uri_of(partition, index), (unsigned long long)pid, order, at,
                        (unsigned long long)msg->pid, msg->order, msg->offset, msg->data_len);
    memcpy((char *)page + at, msg->data, msg->data_len);
    return 0;
}

static int fetch_from(fp_thread *thread, farpool_partition *partition, unsigned index,
                      farpool_pid pid, unsigned order, uint64_t least, void *page, fp_msg *msg)
{
    uint64_t lsn = 0;
    for (uint32_t at = 0; at < FARPOOL_UNIT_BYTES << order; at += msg->data_len) {
        msg->pid = pid;
        msg->lsn = lsn;
        msg->offset = at;
        int rc = ask(thread, partition, index, msg, FP_MSG_PAGE_GET, FP_MSG_PAGE);
        if (!rc && msg->lsn < least)
            rc = fp_error(FARPOOL_E_RETRY,
                          "storage node %s: it has the log of partition %llu up to LSN %llu only; "
                          "page %llu is needed as of %llu",
                          uri_of(partition, index), (unsigned long long)partition->id,
                          (unsigned long long)msg->lsn, (unsigned long long)pid,
                          (unsigned long long)least);
        if (!rc)
            rc = take_piece(partition, index, msg, pid, order, at, page);
        if (rc)
            return rc;
        lsn = msg->lsn;
    }
    return 0;
}

int fp_storage_fetch(fp_thread *thread, farpool_partition *partition, farpool_pid pid,
                     unsigned order, uint64_t least, void *page)
{
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "fetching page %llu: no memory for a message",
                        (unsigned long long)pid);
    int rc = fp_error(FARPOOL_E_CORRUPT,
                      "page %llu of partition %llu: no memory node has a copy of it any more, and "
                      "no storage node was named",
                      (unsigned long long)pid, (unsigned long long)partition->id);
    for (unsigned i = 0; i < partition->storage_count * TRIES && rc; i++)
        rc = fetch_from(thread, partition, (unsigned)((pid + i) % partition->storage_count), pid,
                        order, least, page, msg);
    free(msg);
    /* Both codes say something else to whoever wanted the page. */
    return rc == FARPOOL_E_RETRY      ? FARPOOL_E_NODE
           : rc == FARPOOL_E_NOTFOUND ? FARPOOL_E_CORRUPT
                                      : rc;
}

int fp_storage_probe(fp_thread *thread, farpool_partition *partition, farpool_pid pid, uint64_t at)
{
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "asking for page %llu: no memory for a message",
                        (unsigned long long)pid);
    int rc = FARPOOL_E_NODE;
    for (unsigned i = 0; i < partition->storage_count * TRIES; i++) {
        unsigned index = (unsigned)((pid + i) % partition->storage_count);
        msg->pid = pid;
        msg->lsn = at;
        msg->offset = 0;
        rc = ask(thread, partition, index, msg, FP_MSG_PAGE_GET, FP_MSG_PAGE);
        if (rc ==
            FARPOOL_E_INVAL) { /* it keeps later versions only, so it has the log beyond `at` */
            msg->pid = pid;
            msg->lsn = msg->offset = 0;
            rc = ask(thread, partition, index, msg, FP_MSG_PAGE_GET, FP_MSG_PAGE);
        }
        if (!rc || rc == FARPOOL_E_NOTFOUND)
            break;
    }
    free(msg);
    return rc == FARPOOL_E_RETRY ? FARPOOL_E_NODE : rc;
}

/* ---- the log --------------------------------------------------------------------------------- */

static int get_state(fp_thread *thread, farpool_partition *partition, unsigned index,
                     enum fp_msg_type type, uint64_t lsn, fp_stored_log *found)
{
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "asking storage node %s: no memory for a message",
                        uri_of(partition, index));
    msg->lsn = lsn;
    int rc = ask(thread, partition, index, msg, type, FP_MSG_WAL_STATE);
    if (!rc && msg->wal.start > msg->wal.durable)
        rc = fp_error(FARPOOL_E_PROTO, "storage node %s: a log from LSN %llu to %llu",
                      uri_of(partition, index), (unsigned long long)msg->wal.start,
                      (unsigned long long)msg->wal.durable);
    *found = (fp_stored_log){msg->wal.start, msg->wal.durable, msg->epoch};
    free(msg);
    return rc;
}

int fp_storage_ask(fp_thread *thread, farpool_partition *partition, unsigned index,
                   fp_stored_log *found)
{
    return get_state(thread, partition, index, FP_MSG_WAL_GET, 0, found);
}

int fp_storage_fence(fp_thread *thread, farpool_partition *partition, unsigned index, uint64_t from,
                     fp_stored_log *found)
{
    return get_state(thread, partition, index, FP_MSG_WAL_FENCE, from, found);
}

int fp_storage_read_log(fp_thread *thread, farpool_partition *partition, unsigned index,
                        uint64_t from, uint64_t to, void *bytes)
{
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "asking storage node %s: no memory for a message",
                        uri_of(partition, index));
    int rc = 0;
    for (uint64_t at = from; at < to && !rc;) {
        msg->lsn = at;
        rc = ask(thread, partition, index, msg, FP_MSG_LOG_GET, FP_MSG_LOG);
        if (!rc && (msg->lsn != at || !msg->data_len))
            rc = fp_error(FARPOOL_E_PROTO,
                          "storage node %s: %u bytes of log from LSN %llu where "
                          "some from %llu on were asked for",
                          uri_of(partition, index), msg->data_len, (unsigned long long)msg->lsn,
                          (unsigned long long)at);
        if (rc)
            break;
        uint64_t n = msg->data_len < to - at ? msg->data_len : to - at;
        memcpy((char *)bytes + (at - from), msg->data, n);
        at += n;
    }
    free(msg);
    return rc;
}
