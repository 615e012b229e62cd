/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The oldest tail, when it has its size, becomes a delta layer; then the WAL can be trimmed.
 *
 *   piece 1 is put together -> given to the maker, piece 2 is put together -> when both are done, the same again ... ->
 *   with the last one the maker finishes the file -> its manifest
 *
 * The disk's thread puts them together (FP_DISK_WORK), the store's does all else. If memory is missing for a piece, or the
 * work is refused because the disk was closed, the file is abandoned; if it cannot be written the maker tells when it gets the
 * next piece. Either way the tail stays, and is converted when somebody asks again.
 */
#include <stdlib.h>

#include "common/faultpoint.h"
#include "storagenode/store_inside.h"

enum { PIECE_BYTES_MIN = 64 << 10 };

static void convert_end(fp_store *store)
{
    fp_convert *convert = &store->convert;
    fp_layer_make_free(&convert->make);
    free(convert->pages);
    convert->pages = NULL;
    convert->busy = false;
}

static void fail(fp_store *store, int rc)
{
    fp_kept_set(&store->convert.halted, rc);
    convert_end(store);
}

static void abandoned(fp_maker *maker)
{
    fp_store *store = maker->user;
    convert_end(store);
    fp_store_kick(store);
}

static void finished(fp_maker *maker)
{
    fp_store *store = maker->user;
    fp_convert *convert = &store->convert;
    if (!maker->error.status)
        convert->ready = fp_layer_make_layer(&convert->make);
    if (convert->ready) {
        store->written_bytes += maker->bytes;
        convert_end(store);
    } else {
        fail(store, maker->error.status
                        ? fp_kept_tell(&maker->error)
                        : fp_store_say(store, FARPOOL_E_NOMEM, "no memory for a layer"));
    }
    fp_store_kick(store);
}

static void abandon(fp_store *store, int rc)
{
    fp_kept_set(&store->convert.halted, rc);
    store->convert.make.maker.done = abandoned;
    fp_maker_abandon(&store->convert.make.maker);
}

/* ---- in the disk's thread -------------------------------------------------------------------- */

static int put_next(fp_convert *convert)
{
    fp_layer_make *make = &convert->make;
    const fp_tail_page *page = &convert->pages[convert->at];
    const uint8_t *data;
    if (!convert->record) {
        int rc = fp_layer_make_page(make, page->pid);
        if (rc)
            return rc;
        convert->record = page->first;
    }
    fp_delta_record delta = fp_tail_delta(convert->record, &data);
    convert->record = convert->record->next;
    convert->at += !convert->record;
    return fp_layer_make_record(make, &delta, data);
}

static int encode(fp_convert *convert)
{
    fp_layer_make *make = &convert->make;
    uint32_t count = convert->tail->count;
    int rc = 0;
    if (!convert->pages)
        convert->pages = fp_tail_sorted(convert->tail);
    if (!convert->pages)
        return fp_error(FARPOOL_E_NOMEM, "no memory to sort %u pages", count);
    while (convert->at < count && !rc && make->maker.own.used < convert->piece_bytes)
        rc = put_next(convert);
    if (!rc && convert->at == count) {
        convert->complete = true;
        rc = fp_layer_make_end(make);
    }
    if (!rc)
        fp_maker_hash(&make->maker);
    return rc;
}

static void work(fp_disk_req *job)
{
    fp_store *store = job->user;
    int rc = encode(&store->convert);
    if (rc)
        fp_kept_set(&store->convert.failed, rc);
}

/* ---- in the store's ---------------------------------------------------------------------------- */

static void encoded(fp_disk_req *job);

static void next_piece(fp_store *store)
{
    store->convert.job =
        (fp_disk_req){.kind = FP_DISK_WORK, .work = work, .done = encoded, .user = store};
    fp_disk_submit(store->disk, &store->convert.job);
}

static void pushed(fp_maker *maker)
{
    fp_store *store = maker->user;
    if (maker->error.status) {
        fail(store, fp_kept_tell(&maker->error));
        fp_store_kick(store);
    } else {
        next_piece(store);
    }
}

/* A piece is ready: the next one is put together while it is being written. */
static void encoded(fp_disk_req *job)
{
    fp_store *store = job->user;
    fp_convert *convert = &store->convert;
    fp_maker *maker = &convert->make.maker;
    int rc = job->status ? job->status : fp_kept_tell(&convert->failed);
    if (rc) {
        abandon(store, rc);
    } else if (convert->complete) {
        maker->done = finished;
        fp_maker_finish(maker);
    } else {
        maker->done = pushed;
        if (fp_maker_push(maker))
            next_piece(store);
    }
}

/* That a tail which is not the last has its size is known; the last one when it is flushed. */
static bool is_due(const fp_store *store)
{
    const fp_tail *last = store->tails[store->tail_count - 1];
    if (store->tail_count > 1)
        return true;
    return last->to > last->from && (last->to - last->from >= store->options.convert_bytes ||
                                     (store->flushes.head && last->to >= store->flushes.head->lsn));
}

/* While appends are under way, which want the same disk; each that ends comes here again (fp_store_log_durable). Not if somebody
 * waits for log behind what fits into tails, and only as long as little enough is put off: then the pace is theirs. */
static bool yields(const fp_store *store)
{
    return fp_wal_is_appending(store->wal) && !store->gets.head && !store->flushes.head &&
           fp_store_lag(store) <= FP_STORE_YIELD_TAILS * store->options.convert_bytes;
}

/* The longer, the less is waited for whoever else wants the processor; there are two of them. */
static size_t piece_bytes(const fp_store *store)
{
    uint64_t quarter = store->options.convert_bytes / 4;
    quarter = quarter > PIECE_BYTES_MIN ? quarter : PIECE_BYTES_MIN;
    return quarter < FP_MAKER_PIECE_MAX ? (size_t)quarter : FP_MAKER_PIECE_MAX;
}

void fp_store_convert(fp_store *store)
{
    fp_convert *convert = &store->convert;
    if (convert->busy || convert->ready || convert->halted.status || !is_due(store) ||
        yields(store))
        return;
    if (store->tail_count == 1) { /* nothing is added to it any more */
        int rc = fp_store_new_tail(store);
        if (rc) {
            fp_kept_set(&convert->halted, rc);
            return;
        }
    }
    const fp_tail *tail = store->tails[0];
    uint64_t index = tail->count * (uint64_t)sizeof(fp_delta_entry) + tail->bytes / 4096;
    convert->busy = true;
    fp_layer_make_init(&convert->make, store, FP_LAYER_DELTA, tail->from, tail->to,
                       tail->bytes + index + 3 * (uint64_t)FP_FILE_BLOCK);
    convert->make.maker.user = store;
    convert->tail = tail;
    convert->piece_bytes = piece_bytes(store);
    convert->at = 0;
    convert->record = NULL;
    convert->complete = false;
    convert->failed.status = 0;
    next_piece(store);
}

fp_view *fp_store_view_converted(const fp_store *store)
{
    const fp_view *old = store->view;
    fp_layer *ready = store->convert.ready;
    fp_layer **deltas = malloc((old->delta_count + (size_t)1) * sizeof(fp_layer *));
    if (!deltas)
        return NULL;
    for (uint32_t i = 0; i < old->delta_count; i++)
        deltas[i] = old->deltas[i];
    deltas[old->delta_count] = ready;
    fp_view *view = fp_view_new(old->base, ready->entry.lsn_to, old->images, old->image_count,
                                deltas, old->delta_count + 1);
    free(deltas);
    return view;
}

void fp_store_converted(fp_store *store)
{
    fp_layer_unref(store->convert.ready); /* the view has it */
    store->convert.ready = NULL;
    fp_tail_unref(store->tails[0]);
    store->tail_count--;
    for (unsigned i = 0; i <= store->tail_count; i++)
        store->tails[i] = store->tails[i + 1];
}

/* ---- trimming -------------------------------------------------------------------------------- */

static void trimmed(fp_wal_req *req) /* one that has failed is made up for by the next */
{
    fp_store *store = req->user;
    store->trim.busy = false;
    fp_store_kick(store);
}

void fp_store_trim(fp_store *store)
{
    uint64_t to = store->view->converted, from = fp_wal_start(store->wal);
    from = from > store->trim.asked ? from : store->trim.asked;
    if (store->log_held || store->trim.busy || to > fp_wal_durable(store->wal) || to < from ||
        to - from < store->options.trim_bytes)
        return;
    store->trim.req = (fp_wal_req){.done = trimmed, .user = store};
    store->trim.asked = to;
    FP_FAULT_POINT(TRIM_DUE);
    if (!fp_wal_trim(store->wal, to, &store->trim.req))
        store->trim.busy = true;
}
