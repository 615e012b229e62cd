/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/storage.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "compute/redo_log.h"
#include "compute/remote.h"

enum { TRIES = 3 };

static int make_list(farpool_partition *partition, const char *const *uris, size_t count,
                     fp_storages **out)
{
    if (count > FP_PARTITION_NODES_MAX || (count && !uris))
        return fp_error(FARPOOL_E_INVAL, "partition %llu: %zu storage nodes; must be 0 to %d",
                        (unsigned long long)partition->id, count, (int)FP_PARTITION_NODES_MAX);
    fp_storages *list = calloc(1, sizeof *list);
    if (!list)
        return fp_error(FARPOOL_E_NOMEM, "partition %llu: no memory for its list of storage nodes",
                        (unsigned long long)partition->id);
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++)
        rc = fp_remote_node(partition->pool, uris[i], partition->timeout_ms, &list->nodes[i]);
    if (rc) {
        free(list);
        return rc;
    }
    list->count = (unsigned)count;
    *out = list;
    return 0;
}

int fp_storage_open(farpool_partition *partition, const farpool_partition_options *options)
{
    fp_storages *list;
    int rc = make_list(partition, options->storagenodes, options->storagenode_count, &list);
    if (!rc)
        atomic_store_explicit(&partition->storages, list, memory_order_release);
    return rc;
}

int fp_storage_change_locked(farpool_partition *partition, const char *const *uris, size_t count)
{
    fp_storages *now = atomic_load_explicit(&partition->storages, memory_order_relaxed), *list;
    if (!count)
        return fp_error(FARPOOL_E_INVAL, "partition %llu: a list of no storage nodes",
                        (unsigned long long)partition->id);
    int rc = make_list(partition, uris, count, &list);
    if (rc)
        return rc;
    if (list->count == now->count &&
        !memcmp(list->nodes, now->nodes, list->count * sizeof list->nodes[0])) {
        free(list);
        return 0;
    }
    list->before = now;
    atomic_store_explicit(&partition->storages, list, memory_order_release);
    return 0;
}

void fp_storage_close(farpool_partition *partition)
{
    fp_storages *list = atomic_load_explicit(&partition->storages, memory_order_relaxed);
    while (list) {
        fp_storages *before = list->before;
        free(list);
        list = before;
    }
}

static const char *uri_of(const farpool_partition *partition, unsigned node)
{
    return partition->pool->nodes[node].uri;
}

static unsigned node_at(const farpool_partition *partition, unsigned index)
{
    return fp_storages_now(partition)->nodes[index];
}

const char *fp_storage_uri(const farpool_partition *partition, unsigned index)
{
    return uri_of(partition, node_at(partition, index));
}

/* msg is the request and becomes the answer. */
static int ask(fp_thread *thread, farpool_partition *partition, unsigned node, fp_msg *msg,
               enum fp_msg_type type, enum fp_msg_type expected)
{
    msg->type = type;
    msg->partition = partition->id;
    msg->epoch = fp_node_set_now(partition)->epoch;
    int rc = fp_remote_ask(thread, node, partition->timeout_ms, msg, expected);
    if (!rc && msg->partition != partition->id)
        rc = fp_error(FARPOOL_E_PROTO,
                      "storage node %s: asked for partition %llu, answered for %llu",
                      uri_of(partition, node), (unsigned long long)partition->id,
                      (unsigned long long)msg->partition);
    return rc;
}

/* ---- states of the log ----------------------------------------------------------------------- */

static int get_state(fp_thread *thread, farpool_partition *partition, unsigned node,
                     enum fp_msg_type type, uint64_t lsn, const fp_lineage *lineage,
                     fp_stored_log *found)
{
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "asking storage node %s: no memory for a message",
                        uri_of(partition, node));
    msg->lsn = lsn;
    if (lineage)
        msg->lineage = *lineage;
    int rc = ask(thread, partition, node, msg, type, FP_MSG_WAL_STATE);
    if (!rc && msg->wal.start > msg->wal.durable)
        rc = fp_error(FARPOOL_E_PROTO, "storage node %s: a log from LSN %llu to %llu",
                      uri_of(partition, node), (unsigned long long)msg->wal.start,
                      (unsigned long long)msg->wal.durable);
    *found = (fp_stored_log){msg->wal.start, msg->wal.durable, msg->epoch, msg->lineage};
    free(msg);
    return rc;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static int take_piece(const farpool_partition *partition, unsigned node, const fp_msg *msg,
                      farpool_pid pid, unsigned order, uint32_t at, void *page)
{
    uint32_t bytes = FARPOOL_UNIT_BYTES << order;
    if (msg->pid != pid || msg->order != order || msg->offset != at || !msg->data_len ||
        msg->data_len > bytes - at)
        return fp_error(FARPOOL_E_CORRUPT,
                        "storage node %s: page %llu of order %u, from byte %u on, asked for; page "
                        "%llu of order %u from %u on came, %u bytes",
                        uri_of(partition, node), (unsigned long long)pid, order, at,
                        (unsigned long long)msg->pid, msg->order, msg->offset, msg->data_len);
    memcpy((char *)page + at, msg->data, msg->data_len);
    return 0;
}

/* Who goes on under a higher epoch meanwhile asks again under that. */
static int ask_page_once(fp_thread *thread, farpool_partition *partition, unsigned node,
                         farpool_pid pid, uint64_t lsn, uint32_t offset, fp_msg *msg)
{
    uint64_t epoch;
    int rc;
    do {
        epoch = fp_node_set_now(partition)->epoch;
        msg->pid = pid;
        msg->lsn = lsn;
        msg->offset = offset;
        msg->fork = fp_lineage_number(&partition->redo->lineage);
        rc = ask(thread, partition, node, msg, FP_MSG_PAGE_GET, FP_MSG_PAGE);
    } while (rc == FARPOOL_E_FENCED && fp_node_set_now(partition)->epoch > epoch);
    return rc;
}

/* As of the LSN, of the log as this owner knows it. Whoever made its last fork may have died before he told the node. */
static int ask_page(fp_thread *thread, farpool_partition *partition, unsigned node, farpool_pid pid,
                    uint64_t lsn, uint32_t offset, fp_msg *msg)
{
    int rc = ask_page_once(thread, partition, node, pid, lsn, offset, msg);
    if (rc != FARPOOL_E_RETRY)
        return rc;
    fp_stored_log found;
    rc = get_state(thread, partition, node, FP_MSG_WAL_JOIN, 0, &partition->redo->lineage, &found);
    if (rc) /* if what it has is not of this log, it has to be refilled first */
        return rc == FARPOOL_E_FENCED ? rc : FARPOOL_E_RETRY;
    return ask_page_once(thread, partition, node, pid, lsn, offset, msg);
}

static int fetch_from(fp_thread *thread, farpool_partition *partition, unsigned node,
                      farpool_pid pid, unsigned order, uint64_t least, void *page, fp_msg *msg)
{
    uint64_t lsn = 0;
    for (uint32_t at = 0; at < FARPOOL_UNIT_BYTES << order; at += msg->data_len) {
        int rc = ask_page(thread, partition, node, pid, lsn, at, msg);
        if (rc == FARPOOL_E_NOTFOUND && least) { /* perhaps its log does not go that far */
            rc = ask_page(thread, partition, node, pid, least, 0, msg);
            if (!rc)
                rc = fp_error(FARPOOL_E_RETRY, "storage node %s: page %llu has come there just now",
                              uri_of(partition, node), (unsigned long long)pid);
        }
        if (!rc && msg->lsn < least)
            rc = fp_error(FARPOOL_E_RETRY,
                          "storage node %s: it has the log of partition %llu up to LSN %llu only; "
                          "page %llu is needed as of %llu",
                          uri_of(partition, node), (unsigned long long)partition->id,
                          (unsigned long long)msg->lsn, (unsigned long long)pid,
                          (unsigned long long)least);
        if (!rc)
            rc = take_piece(partition, node, msg, pid, order, at, page);
        if (rc)
            return rc;
        lsn = msg->lsn;
    }
    return 0;
}

/* Who says so may give it later. */
static bool may_have_it(int rc)
{
    return rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT || rc == FARPOOL_E_RETRY;
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
    const fp_storages *list = fp_storages_now(partition);
    unsigned away = 0; /* the last time */
    for (unsigned i = 0; i < list->count * TRIES && rc && rc != FARPOOL_E_FENCED; i++) {
        away = i % list->count ? away : 0;
        rc = fetch_from(thread, partition, list->nodes[(pid + i) % list->count], pid, order, least,
                        page, msg);
        away += may_have_it(rc);
    }
    free(msg);
    if (rc && away && !may_have_it(rc))
        return fp_error(FARPOOL_E_NODE,
                        "page %llu of partition %llu: storage nodes that can be reached do not "
                        "have it; others, which may, cannot be, or are behind",
                        (unsigned long long)pid, (unsigned long long)partition->id);
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
    const fp_storages *list = fp_storages_now(partition);
    for (unsigned i = 0; i < list->count * TRIES; i++) {
        unsigned node = list->nodes[(pid + i) % list->count];
        rc = ask_page(thread, partition, node, pid, at, 0, msg);
        /* It keeps later versions only, so it has the log beyond `at`. */
        if (rc == FARPOOL_E_INVAL)
            rc = ask_page(thread, partition, node, pid, 0, 0, msg);
        if (!rc || rc == FARPOOL_E_NOTFOUND)
            break;
    }
    free(msg);
    return rc == FARPOOL_E_RETRY ? FARPOOL_E_NODE : rc;
}

/* ---- the log --------------------------------------------------------------------------------- */

int fp_storage_ask(fp_thread *thread, farpool_partition *partition, unsigned index,
                   fp_stored_log *found)
{
    return get_state(thread, partition, node_at(partition, index), FP_MSG_WAL_GET, 0, NULL, found);
}

int fp_storage_fence(fp_thread *thread, farpool_partition *partition, unsigned index, uint64_t from,
                     fp_stored_log *found)
{
    return get_state(thread, partition, node_at(partition, index), FP_MSG_WAL_FENCE, from, NULL,
                     found);
}

int fp_storage_join(fp_thread *thread, farpool_partition *partition, unsigned index,
                    const fp_lineage *lineage, fp_stored_log *found)
{
    return get_state(thread, partition, node_at(partition, index), FP_MSG_WAL_JOIN, 0, lineage,
                     found);
}

int fp_storage_read_log(fp_thread *thread, farpool_partition *partition, unsigned index,
                        uint64_t fork, uint64_t from, uint64_t to, void *bytes)
{
    fp_msg *msg = calloc(1, sizeof *msg);
    if (!msg)
        return fp_error(FARPOOL_E_NOMEM, "asking storage node %s: no memory for a message",
                        fp_storage_uri(partition, index));
    int rc = 0;
    for (uint64_t at = from; at < to && !rc;) {
        msg->lsn = at;
        msg->fork = fork;
        rc = ask(thread, partition, node_at(partition, index), msg, FP_MSG_LOG_GET, FP_MSG_LOG);
        if (!rc && (msg->lsn != at || !msg->data_len))
            rc = fp_error(FARPOOL_E_PROTO,
                          "storage node %s: %u bytes of log from LSN %llu where "
                          "some from %llu on were asked for",
                          fp_storage_uri(partition, index), msg->data_len,
                          (unsigned long long)msg->lsn, (unsigned long long)at);
        if (rc)
            break;
        uint64_t n = msg->data_len < to - at ? msg->data_len : to - at;
        memcpy((char *)bytes + (at - from), msg->data, n);
        at += n;
    }
    free(msg);
    return rc;
}
