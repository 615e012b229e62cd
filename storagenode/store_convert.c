/* SPDX-License-Identifier: Apache-2.0 */
/* The oldest tail, when it has its size, becomes a delta layer; then the WAL can be trimmed. */
#include <stdlib.h>

#include "storagenode/store_inside.h"

static void put_pages(fp_store *store);

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

static void flushed(fp_maker *maker)
{
    fp_store *store = maker->user;
    if (maker->error.status) {
        fail(store, fp_kept_tell(&maker->error));
        fp_store_kick(store);
    } else {
        put_pages(store);
    }
}

static void abandon(fp_store *store, int rc)
{
    fp_kept_set(&store->convert.halted, rc);
    store->convert.make.maker.done = abandoned;
    fp_maker_abandon(&store->convert.make.maker);
}

static int put_page(fp_layer_make *make, const fp_tail_page *page)
{
    int rc = fp_layer_make_page(make, page->pid);
    for (const fp_tail_record *record = page->first; record && !rc; record = record->next)
        rc = fp_layer_make_record(make, &record->delta, record + 1);
    return rc;
}

static void put_pages(fp_store *store)
{
    fp_convert *convert = &store->convert;
    fp_layer_make *make = &convert->make;
    int rc = 0;
    while (convert->at < convert->count && !rc) {
        if (fp_maker_is_full(&make->maker)) {
            fp_maker_flush(&make->maker);
            return;
        }
        rc = put_page(make, &convert->pages[convert->at++]);
    }
    make->maker.done = finished;
    if (!rc)
        rc = fp_layer_make_finish(make);
    if (rc)
        abandon(store, rc);
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

void fp_store_convert(fp_store *store)
{
    fp_convert *convert = &store->convert;
    if (convert->busy || convert->ready || convert->halted.status || !is_due(store))
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
    convert->make.maker.done = flushed;
    convert->count = tail->count;
    convert->at = 0;
    convert->pages = fp_tail_sorted(tail);
    if (convert->pages)
        put_pages(store);
    else
        fail(store,
             fp_store_say(store, FARPOOL_E_NOMEM, "no memory to sort %u pages", tail->count));
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
    if (store->trim.busy || to > fp_wal_durable(store->wal) || to < from ||
        to - from < store->options.trim_bytes)
        return;
    store->trim.req = (fp_wal_req){.done = trimmed, .user = store};
    store->trim.asked = to;
    if (!fp_wal_trim(store->wal, to, &store->trim.req))
        store->trim.busy = true;
}
