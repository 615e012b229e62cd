/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging: the oldest deltas, up to an LSN that nobody wants to look behind, go into new images. Image layer i has the
 * pages from its first one up to that of layer i + 1 (the first from 0 on). Layers in whose part no page has changed
 * stay; neighbours that are replaced are a run, which is written page by page in ascending order and cut into layers of
 * about image_bytes. A layer that is small goes into the run before it, so that layers do not become ever smaller.
 *
 * While it is being done, it holds one page, the page's records, the piece of the file being written and a window for
 * each delta layer.
 */
#include <stdlib.h>

#include "common/faultpoint.h"
#include "storagenode/store_inside.h"

enum { PATIENCE = 2 }; /* times merge_layers */

static void merge_go(fp_store *store);

/* ---- whether --------------------------------------------------------------------------------- */

/* How many deltas, from the oldest on, nobody needs. */
static uint32_t mergeable(const fp_store *store)
{
    const fp_view *view = store->view;
    uint32_t count = 0;
    while (count < view->delta_count && view->deltas[count]->entry.lsn_to <= store->keep)
        count++;
    return count;
}

/* Log is being appended, for which somebody may wait, and a merge is work for the same thread. */
static bool lets_log_pass(const fp_store *store, uint32_t deltas)
{
    return fp_wal_is_appending(store->wal) && !store->flushes.head &&
           deltas <= PATIENCE * store->options.merge_layers;
}

bool fp_store_must_merge(const fp_store *store)
{
    const fp_view *view = store->view;
    uint32_t count = mergeable(store);
    uint64_t deltas = 0, images = 0;
    bool flush = store->flushes.head && store->flushes.head->own.kind == FP_STORE_FLUSH;
    if (flush && view->converted >= store->flushes.head->lsn)
        return count;
    if (count <= store->options.merge_layers || lets_log_pass(store, count))
        return false;
    for (uint32_t i = 0; i < count; i++)
        deltas += view->deltas[i]->entry.bytes;
    for (uint32_t i = 0; i < view->image_count; i++)
        images += view->images[i]->entry.bytes;
    return deltas >= images / 4 || count > 4 * store->options.merge_layers;
}

/* ---- the end --------------------------------------------------------------------------------- */

void fp_store_merge_end(fp_store *store)
{
    fp_merge *merge = &store->merge;
    for (uint32_t i = 0; i < merge->made_count; i++)
        fp_layer_unref(merge->made[i]);
    free(merge->made);
    for (uint32_t i = 0; merge->fetch.windows && i <= merge->deltas; i++)
        free(merge->fetch.windows[i].buffer);
    free(merge->fetch.windows);
    free(merge->fetch.page);
    fp_fetch_fini(&merge->fetch);
    fp_layer_make_free(&merge->make);
    fp_view_unref(merge->view);
    *merge = (fp_merge){.halted = merge->halted, .tried = merge->tried};
}

/* Of one whose files are not worth anything any more. */
static void abandoned(fp_maker *maker)
{
    fp_store *store = maker->user;
    fp_store_merge_end(store);
    fp_store_kick(store);
}

static void give_up(fp_store *store, int rc)
{
    fp_merge *merge = &store->merge;
    if (rc)
        fp_kept_set(&merge->halted, rc);
    merge->make.maker.volume = store->volume;
    merge->make.maker.user = store;
    merge->make.maker.done = abandoned;
    fp_maker_abandon(&merge->make.maker);
}

void fp_store_merged(fp_store *store)
{
    fp_store_merge_end(store);
    store->merge.tried = 0;
}

fp_view *fp_store_view_merged(const fp_store *store)
{
    const fp_merge *merge = &store->merge;
    const fp_view *now = store->view; /* it has perhaps got more deltas */
    return fp_view_new(merge->to, now->converted, merge->made, merge->made_count,
                       now->deltas + merge->deltas, now->delta_count - merge->deltas);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static int keep(fp_merge *merge, fp_layer *layer)
{
    if (merge->made_count == merge->made_room) {
        uint32_t room = 2 * merge->made_room + 16;
        fp_layer **grown = realloc(merge->made, room * sizeof(fp_layer *));
        if (!grown)
            return fp_error(FARPOOL_E_NOMEM, "no memory for %u layers", room);
        merge->made = grown;
        merge->made_room = room;
    }
    merge->made[merge->made_count++] = layer;
    return 0;
}

static void made_layer(fp_maker *maker)
{
    fp_store *store = maker->user;
    fp_merge *merge = &store->merge;
    int rc = fp_kept_tell(&maker->error);
    if (!rc) {
        store->written_bytes += maker->bytes;
        fp_layer *layer = fp_layer_make_layer(&merge->make);
        rc = layer ? keep(merge, layer) : fp_store_say(store, FARPOOL_E_NOMEM, "no memory");
        if (rc)
            fp_layer_unref(layer);
    }
    FP_FAULT_POINT(MERGE_LAYER);
    merge->making = false;
    fp_layer_make_free(&merge->make);
    merge->make = (fp_layer_make){0};
    if (rc)
        give_up(store, rc);
    else
        merge_go(store);
}

static void flushed(fp_maker *maker)
{
    fp_store *store = maker->user;
    if (maker->error.status)
        made_layer(maker);
    else
        merge_go(store);
}

/* ---- pages ----------------------------------------------------------------------------------- */

/* The first page of the run from pid on that there is or was; end: none. */
static uint64_t next_pid(const fp_merge *merge)
{
    uint64_t next = merge->end;
    for (uint32_t i = merge->at; i < merge->upto + merge->deltas; i++) {
        const fp_layer *layer =
            i < merge->upto ? merge->view->images[i] : merge->view->deltas[i - merge->upto];
        uint32_t at = fp_layer_seek(layer, merge->pid);
        if (at < layer->count && fp_layer_pid(layer, at) < next)
            next = fp_layer_pid(layer, at);
        if (i < merge->upto)
            i = merge->upto - 1; /* later ones of the run have later pages */
    }
    return next;
}

/* What has been fetched goes into the layer being made. */
static int put_page(fp_store *store)
{
    fp_merge *merge = &store->merge;
    const fp_fetch *f = &merge->fetch;
    if (f->error.status)
        return fp_kept_tell(&f->error);
    merge->pid = f->pid + 1;
    if (f->state == FP_PAGE_NONE)
        return 0;
    if (!merge->making) {
        uint64_t expected = 0; /* of the run that is left, not more than of one layer */
        for (uint32_t i = merge->at; i < merge->upto; i++)
            expected += merge->view->images[i]->entry.bytes;
        expected = expected < store->options.image_bytes ? expected : store->options.image_bytes;
        fp_layer_make_init(&merge->make, store, FP_LAYER_IMAGE, merge->to, merge->to, expected);
        merge->make.maker.user = store;
        merge->making = true;
    }
    return fp_layer_make_image(&merge->make, f->pid, f->order, f->changed,
                               f->state == FP_PAGE_THERE ? f->page : NULL);
}

static int finish_layer(fp_merge *merge)
{
    merge->make.maker.done = made_layer;
    int rc = fp_layer_make_end(&merge->make);
    if (!rc)
        fp_maker_finish(&merge->make.maker);
    return rc;
}

static void fetched(fp_fetch *fetch)
{
    fp_store *store = fetch->user;
    store->merge.fetching = false;
    int rc = put_page(store);
    if (rc)
        give_up(store, rc);
    else
        merge_go(store);
}

/* Pages of the run until something has to be waited for: 0; 1: the run is over. */
static int run_pages(fp_store *store)
{
    fp_merge *merge = &store->merge;
    fp_layer *const *images = merge->view->images;
    for (;;) {
        if (merge->making && merge->make.footer.data_bytes >= store->options.image_bytes)
            return finish_layer(merge);
        if (merge->making && fp_maker_is_full(&merge->make.maker)) {
            merge->make.maker.done = flushed;
            if (!fp_maker_push(&merge->make.maker))
                return 0;
        }
        while (merge->at < merge->upto && images[merge->at]->entry.pid_last < merge->pid)
            merge->at++;
        uint64_t pid = next_pid(merge);
        if (pid >= merge->end)
            return merge->making ? finish_layer(merge) : 1;
        merge->pid = pid;
        merge->fetch.pid = pid;
        merge->fetching = !fp_fetch_start(&merge->fetch);
        int rc = merge->fetching ? 0 : put_page(store);
        if (merge->fetching || rc)
            return rc;
    }
}

/* ---- runs ------------------------------------------------------------------------------------ */

static uint64_t part_begin(const fp_view *view, uint32_t i)
{
    return i ? view->images[i]->entry.pid_first : 0;
}

static uint64_t part_end(const fp_view *view, uint32_t i)
{
    return i + 1 < view->image_count ? view->images[i + 1]->entry.pid_first : FP_PID_MAX + 1;
}

static bool has_changed(const fp_merge *merge, uint32_t i)
{
    uint64_t begin = part_begin(merge->view, i), end = part_end(merge->view, i);
    for (uint32_t k = 0; k < merge->deltas; k++) {
        const fp_layer *delta = merge->view->deltas[k];
        uint32_t at = fp_layer_seek(delta, begin);
        if (at < delta->count && fp_layer_pid(delta, at) < end)
            return true;
    }
    return false;
}

/* Keeps layers that have not changed, and finds the next run. 1: there is none. */
static int next_run(fp_store *store)
{
    fp_merge *merge = &store->merge;
    const fp_view *view = merge->view;
    merge->at = merge->upto;
    while (merge->at < view->image_count && !has_changed(merge, merge->at)) {
        fp_layer_ref(view->images[merge->at]);
        int rc = keep(merge, view->images[merge->at]);
        if (rc) {
            fp_layer_unref(view->images[merge->at]);
            return rc;
        }
        merge->at++;
    }
    merge->upto = merge->at;
    if (merge->at == view->image_count)
        return 1;
    merge->pid = part_begin(view, merge->at);
    do
        merge->end = part_end(view, merge->upto++);
    while (merge->upto < view->image_count &&
           (has_changed(merge, merge->upto) ||
            view->images[merge->upto]->entry.bytes < store->options.image_bytes / 4));
    return 0;
}

static void merge_go(fp_store *store)
{
    fp_merge *merge = &store->merge;
    if (store->closing) {
        give_up(store, 0);
        return;
    }
    int rc = run_pages(store);
    while (rc == 1) {
        rc = next_run(store);
        if (rc == 1) {
            merge->busy = false;
            merge->ready = true;
            FP_FAULT_POINT(MERGE_READY);
            fp_store_kick(store);
            return;
        }
        if (!rc)
            rc = run_pages(store);
    }
    if (rc)
        give_up(store, rc);
}

static void merge_begun(fp_disk_req *req)
{
    fp_store *store = req->user;
    if (req->status)
        give_up(store, req->status);
    else
        merge_go(store);
}

/* Layers that are damaged stop it before anything is written. */
static int check_layers(const fp_merge *merge)
{
    for (uint32_t i = 0; i < merge->view->image_count + merge->deltas; i++)
        if (merge->view->images[i]->damage)
            return fp_kept_tell(merge->view->images[i]->damage);
    return 0;
}

void fp_store_merge(fp_store *store)
{
    fp_merge *merge = &store->merge;
    bool again = store->flushes.head || store->view->delta_count != merge->tried;
    if (merge->busy || merge->ready || merge->halted.status || !again ||
        !fp_store_must_merge(store))
        return;
    merge->tried = store->view->delta_count;
    merge->view = store->view;
    fp_view_ref(merge->view);
    merge->deltas = mergeable(store);
    merge->to = merge->view->deltas[merge->deltas - 1]->entry.lsn_to;
    merge->end = merge->view->image_count ? 0 : FP_PID_MAX + 1;
    int rc = check_layers(merge);
    if (!rc) {
        merge->fetch.windows =
            calloc(merge->view->delta_count + (size_t)1, sizeof(fp_fetch_window));
        rc = merge->fetch.windows ? 0 : fp_store_say(store, FARPOOL_E_NOMEM, "no memory to merge");
    }
    if (rc) {
        fp_kept_set(&merge->halted, rc);
        fp_store_merge_end(store);
        return;
    }
    merge->fetch.view = merge->view;
    merge->fetch.lsn = merge->to;
    merge->fetch.done = fetched;
    merge->fetch.user = store;
    FP_FAULT_POINT(MERGE_BEGUN);
    merge->busy = true;
    merge->begin = (fp_disk_req){.kind = FP_DISK_NOP, .done = merge_begun, .user = store};
    fp_disk_submit(store->disk, &merge->begin);
}
