/* SPDX-License-Identifier: Apache-2.0 */
/* The WAL's end, which is not in layers yet, is read into memory, frame after frame. */
#include <string.h>

#include "storagenode/store_inside.h"

enum {
    PIECE_BYTES = 1 << 20,
    READ_BYTES_MIN = 64 << 10, /* if so much is missing: not the last bytes of a piece alone */
};

static bool tail_is_full(const fp_store *store)
{
    const fp_tail *tail = store->tails[store->tail_count - 1];
    bool flush =
        store->flushes.head && tail->to > tail->from && tail->to >= store->flushes.head->lsn;
    return flush || tail->to - tail->from >= store->options.convert_bytes;
}

/* Frames that fp_wal_read has checked, from the piece's `used` on. */
static int add_frames(fp_store *store, uint64_t upto)
{
    fp_log_piece *piece = store->index.piece;
    while (store->indexed < upto) {
        fp_redo_frame frame;
        const uint8_t *at = piece->bytes + piece->used;
        if (tail_is_full(store)) {
            if (store->tail_count == FP_STORE_TAILS)
                return 0; /* the rest when there is room: it is read again */
            int rc = fp_store_new_tail(store);
            if (rc)
                return rc;
        }
        memcpy(&frame, at, sizeof frame);
        int rc = fp_tail_add(store->tails[store->tail_count - 1], piece, at);
        if (rc)
            return rc;
        piece->used += frame.len;
        store->indexed += frame.len;
        store->log_bytes += frame.len;
    }
    return 0;
}

/* A piece in which log byte `indexed` goes to `used`, with room for what is missing, or for enough of it. Blocks come
 * whole from files, so these begin behind what is in use. */
static int make_room(fp_store *store, uint64_t missing)
{
    fp_indexing *index = &store->index;
    fp_log_piece *piece = index->piece;
    uint64_t from = store->indexed, wanted = missing < READ_BYTES_MIN ? missing : READ_BYTES_MIN;
    wanted = wanted > index->needed ? wanted : index->needed;
    size_t used = piece ? piece->used : 0;
    if (used % FP_FILE_BLOCK && !fp_wal_is_landed(store->wal, from))
        used = fp_file_ceil(used) + from % FP_FILE_BLOCK;
    if (piece && used + wanted <= piece->room) {
        piece->used = used;
        return 0;
    }
    size_t bytes = fp_file_ceil(index->needed) + FP_FILE_BLOCK;
    bytes = bytes > PIECE_BYTES ? bytes : PIECE_BYTES;
    piece = fp_log_piece_new(bytes);
    if (!piece)
        return fp_store_say(store, FARPOOL_E_NOMEM, "no memory to read %zu bytes of log", bytes);
    fp_log_piece_unref(index->piece); /* tails hold it as long as they need it */
    index->piece = piece;
    piece->used = from % FP_FILE_BLOCK;
    return 0;
}

static void have_read(fp_wal_req *req)
{
    fp_store *store = req->user;
    fp_indexing *index = &store->index;
    int rc = req->status;
    index->busy = false;
    index->needed = req->lsn > store->indexed ? 0 : req->needed;
    int rest = add_frames(store, req->lsn); /* what is before a failure is good */
    rc = rest ? rest : rc;
    if (rc)
        fp_kept_set(&index->halted, rc);
    fp_store_kick(store);
}

void fp_store_index(fp_store *store)
{
    fp_indexing *index = &store->index;
    fp_wal_keep(store->wal, store->indexed);
    uint64_t durable = fp_wal_durable(store->wal);
    if (index->busy || index->halted.status || store->indexed >= durable ||
        (store->tail_count == FP_STORE_TAILS && tail_is_full(store)))
        return;
    uint64_t from = store->indexed, missing = durable - from;
    int rc = make_room(store, missing);
    if (!rc) {
        const fp_log_piece *piece = index->piece;
        uint64_t room = piece->room - piece->used;
        index->req = (fp_wal_req){.done = have_read, .user = store};
        rc = fp_wal_read(store->wal, from, from + (missing < room ? missing : room),
                         piece->bytes + (piece->used - from % FP_FILE_BLOCK), &index->req);
    }
    if (rc)
        fp_kept_set(&index->halted, rc);
    else
        index->busy = true;
}
