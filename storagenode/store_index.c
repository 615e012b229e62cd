/* SPDX-License-Identifier: Apache-2.0 */
/* The WAL's end, which is not in layers yet, is read into memory, frame after frame. */
#include <stdlib.h>
#include <string.h>

#include "storagenode/store_inside.h"

enum { READ_BYTES = 1 << 20 };

static bool tail_is_full(const fp_store *store)
{
    const fp_tail *tail = store->tails[store->tail_count - 1];
    bool flush =
        store->flushes.head && tail->to > tail->from && tail->to >= store->flushes.head->lsn;
    return flush || tail->to - tail->from >= store->options.convert_bytes;
}

/* Frames that fp_wal_read has checked. */
static int add_frames(fp_store *store, const uint8_t *bytes, uint64_t upto)
{
    while (store->indexed < upto) {
        fp_redo_frame frame;
        if (tail_is_full(store)) {
            if (store->tail_count == FP_STORE_TAILS)
                return 0; /* the rest when there is room: it is read again */
            int rc = fp_store_new_tail(store);
            if (rc)
                return rc;
        }
        memcpy(&frame, bytes, sizeof frame);
        int rc = fp_tail_add(store->tails[store->tail_count - 1], bytes);
        if (rc)
            return rc;
        bytes += frame.len;
        store->indexed += frame.len;
        store->log_bytes += frame.len;
    }
    return 0;
}

static int make_buffer(fp_store *store, uint64_t bytes)
{
    if (bytes <= store->index.buffer_bytes)
        return 0;
    free(store->index.buffer);
    store->index.buffer = aligned_alloc(FP_FILE_BLOCK, bytes);
    store->index.buffer_bytes = store->index.buffer ? bytes : 0;
    return store->index.buffer
               ? 0
               : fp_store_say(store, FARPOOL_E_NOMEM, "no memory to read %llu bytes of log",
                              (unsigned long long)bytes);
}

static void have_read(fp_wal_req *req)
{
    fp_store *store = req->user;
    fp_indexing *index = &store->index;
    int rc = req->status;
    index->busy = false;
    uint64_t from = store->indexed;
    if (req->lsn > from) { /* what is before a failure is good */
        int rest = add_frames(store, index->buffer + from % FP_FILE_BLOCK, req->lsn);
        rc = rest ? rest : rc;
    } else if (!rc) {
        rc = make_buffer(store, fp_file_ceil(req->needed) + FP_FILE_BLOCK);
    }
    if (rc)
        fp_kept_set(&index->halted, rc);
    fp_store_kick(store);
}

void fp_store_index(fp_store *store)
{
    fp_indexing *index = &store->index;
    uint64_t durable = fp_wal_durable(store->wal);
    if (index->busy || index->halted.status || store->indexed >= durable ||
        (store->tail_count == FP_STORE_TAILS && tail_is_full(store)))
        return;
    uint64_t missing = fp_file_ceil(durable - store->indexed) + FP_FILE_BLOCK;
    int rc = make_buffer(store, missing < READ_BYTES ? missing : READ_BYTES);
    if (!rc) {
        uint64_t room = index->buffer_bytes - store->indexed % FP_FILE_BLOCK;
        uint64_t to = durable - store->indexed < room ? durable : store->indexed + room;
        index->req = (fp_wal_req){.done = have_read, .user = store};
        rc = fp_wal_read(store->wal, store->indexed, to, index->buffer, &index->req);
    }
    if (rc)
        fp_kept_set(&index->halted, rc);
    else
        index->busy = true;
}
