/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of a page store, and what goes on behind them. */
#include "storagenode/store.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "storagenode/store_inside.h"

int fp_store_say(const fp_store *store, int code, const char *format, ...)
{
    char text[FP_KEPT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fp_volume_say(store->volume, code, "pages of partition %016llx: %s",
                         (unsigned long long)store->options.partition, text);
}

/* ---- queues ---------------------------------------------------------------------------------- */

void fp_store_push(fp_store_queue *queue, fp_store_req *req)
{
    req->own.next = NULL;
    if (!queue->head)
        queue->tail = &queue->head;
    *queue->tail = req;
    queue->tail = &req->own.next;
}

fp_store_req *fp_store_pop(fp_store_queue *queue)
{
    fp_store_req *req = queue->head;
    if (req)
        queue->head = req->own.next;
    return req;
}

static void end(fp_store_req *req, int status)
{
    req->status = status;
    req->done(req);
}

/* ---- GET ------------------------------------------------------------------------------------- */

typedef struct get {
    fp_store *store;
    fp_store_req *req;
    fp_view *view;
    fp_fetch fetch;
    fp_disk_req nop;
    fp_kept refused; /* without a look at the page */
} get;

static int result_of(const get *g)
{
    const fp_fetch *f = &g->fetch;
    if (g->refused.status)
        return fp_kept_tell(&g->refused);
    if (f->error.status)
        return fp_kept_tell(&f->error);
    if (f->state == FP_PAGE_LOST)
        return fp_store_say(g->store, FARPOOL_E_CORRUPT,
                            "page %llu was changed by the frame that ends at LSN %llu, but the log "
                            "here does not have its beginning: read it from another copy",
                            (unsigned long long)f->pid, (unsigned long long)f->changed);
    if (f->state == FP_PAGE_NONE && !f->changed && fp_store_beginning(g->store) > FP_REDO_LSN_FIRST)
        return fp_store_say(g->store, FARPOOL_E_CORRUPT,
                            "page %llu was not changed since LSN %llu, and nothing from before is "
                            "here: read it from another copy",
                            (unsigned long long)f->pid,
                            (unsigned long long)fp_store_beginning(g->store));
    if (f->state == FP_PAGE_NONE)
        return fp_store_say(g->store, FARPOOL_E_NOTFOUND, "page %llu does not exist at LSN %llu",
                            (unsigned long long)f->pid, (unsigned long long)f->lsn);
    return 0;
}

static void get_over(get *g)
{
    fp_store *store = g->store;
    fp_store_req *req = g->req;
    req->status = result_of(g);
    if (!req->status) {
        req->order = g->fetch.order;
        req->changed = g->fetch.changed;
        req->page = g->fetch.page;
        g->fetch.page = NULL;
    }
    free(g->fetch.page);
    fp_fetch_fini(&g->fetch);
    for (unsigned i = 0; i < FP_FETCH_TAILS; i++)
        fp_tail_unref(g->fetch.tails[i]);
    fp_view_unref(g->view);
    free(g);
    store->fetches--;
    req->done(req);
    if (store->closing)
        fp_store_kick(store);
}

static void fetched(fp_fetch *fetch) { get_over(fetch->user); }
static void get_nop(fp_disk_req *req) { get_over(req->user); }

/* done() must not be called from within fp_store_get. */
static void get_later(get *g)
{
    g->nop = (fp_disk_req){.kind = FP_DISK_NOP, .done = get_nop, .user = g};
    fp_disk_submit(g->store->disk, &g->nop);
}

static void get_start(get *g)
{
    fp_store *store = g->store;
    g->view = store->view;
    fp_view_ref(g->view);
    for (unsigned i = 0; i < store->tail_count; i++) {
        g->fetch.tails[i] = store->tails[i];
        fp_tail_ref(store->tails[i]);
    }
    g->fetch.view = g->view;
    g->fetch.pid = g->req->pid;
    g->fetch.lsn = g->req->lsn;
    g->fetch.done = fetched;
    g->fetch.user = g;
    if (fp_fetch_start(&g->fetch))
        get_later(g);
}

static get *get_new(fp_store *store, fp_store_req *req)
{
    get *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->store = store;
    g->req = req;
    store->fetches++;
    return g;
}

static void refuse(get *g, int status)
{
    fp_kept_set(&g->refused, status);
    get_later(g);
}

static int check_get(const fp_store *store, uint64_t lsn)
{
    uint64_t durable = fp_store_durable(store);
    if (lsn > durable)
        return fp_store_say(store, FARPOOL_E_RETRY, "LSN %llu is not durable yet, %llu is",
                            (unsigned long long)lsn, (unsigned long long)durable);
    if (lsn < store->view->base)
        return fp_store_say(store, FARPOOL_E_INVAL,
                            "LSN %llu is not kept any more: %llu is the oldest",
                            (unsigned long long)lsn, (unsigned long long)store->view->base);
    return 0;
}

static void poke(fp_store *store);

int fp_store_get(fp_store *store, fp_store_req *req)
{
    FP_ASSERT(store->opened && !store->closing);
    if (!req->lsn)
        req->lsn = fp_store_durable(store);
    req->page = NULL;
    req->own.kind = FP_STORE_GET;
    if (req->lsn > store->indexed && req->lsn <= fp_store_durable(store)) {
        store->index.halted.status = 0;
        fp_store_push(&store->gets, req);
        poke(store);
        return 0;
    }
    get *g = get_new(store, req);
    if (!g)
        return fp_store_say(store, FARPOOL_E_NOMEM, "no memory for a request");
    int rc = check_get(store, req->lsn);
    if (rc)
        refuse(g, rc);
    else
        get_start(g);
    return 0;
}

/* Why those who wait for the log's end wait in vain; NULL: they do not. */
static const fp_kept *hindrance(const fp_store *store)
{
    if (store->index.halted.status)
        return &store->index.halted;
    bool full = store->tail_count == FP_STORE_TAILS;
    if (full && store->convert.halted.status)
        return &store->convert.halted;
    if (full && store->write.halted.status)
        return &store->write.halted;
    return NULL;
}

static void start_waiting(fp_store *store)
{
    fp_store_queue waiting = {0};
    const fp_kept *why = hindrance(store);
    for (fp_store_req *req; (req = fp_store_pop(&store->gets));) {
        get *g = req->lsn <= store->indexed || why ? get_new(store, req) : NULL;
        if (!g) {
            fp_store_push(&waiting, req); /* without memory: the next time */
        } else if (req->lsn <= store->indexed) {
            get_start(g);
        } else {
            g->refused = *why;
            get_later(g);
        }
    }
    store->gets = waiting;
    if (waiting.head)
        for (fp_store_req **link = &store->gets.head;; link = &(*link)->own.next)
            if (!*link) {
                store->gets.tail = link;
                break;
            }
}

/* ---- what goes on ---------------------------------------------------------------------------- */

uint64_t fp_store_beginning(const fp_store *store)
{
    const fp_pages *pages = store->pages;
    return pages->has_manifest ? pages->manifest.header.beginning : fp_wal_start(store->wal);
}

uint64_t fp_store_durable(const fp_store *store)
{
    uint64_t durable = fp_wal_durable(store->wal);
    return durable > store->view->converted ? durable : store->view->converted;
}

int fp_store_new_tail(fp_store *store)
{
    fp_tail *tail = fp_tail_new(store->indexed);
    if (!tail)
        return fp_store_say(store, FARPOOL_E_NOMEM, "no memory for the log's end");
    store->tails[store->tail_count++] = tail;
    store->tails[store->tail_count] = NULL;
    return 0;
}

static const fp_kept *failure(const fp_store *store)
{
    const fp_kept *all[] = {&store->index.halted, &store->convert.halted, &store->merge.halted,
                            &store->write.halted};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->status)
            return all[i];
    return NULL;
}

static void end_flushes(fp_store *store)
{
    const fp_kept *why = failure(store);
    while (store->flushes.head) {
        bool log = store->flushes.head->own.kind == FP_STORE_FLUSH_LOG;
        bool reached = store->view->converted >= store->flushes.head->lsn &&
                       (log || (!store->merge.busy && !fp_store_must_merge(store)));
        if (!reached && !why)
            break;
        fp_store_req *req = fp_store_pop(&store->flushes);
        req->lsn = log ? store->view->converted : store->view->base;
        end(req, reached ? 0 : fp_kept_tell(why));
    }
}

static bool is_idle(const fp_store *store)
{
    return !store->fetches && !store->nop_busy && !store->index.busy && !store->convert.busy &&
           !store->merge.busy && !store->write.kind && !store->trim.busy;
}

static void drop_all(fp_store *store)
{
    fp_layer_unref(store->convert.ready);
    store->convert.ready = NULL;
    fp_store_merge_end(store);
    for (unsigned i = 0; i < store->tail_count; i++)
        fp_tail_unref(store->tails[i]);
    store->tail_count = 0;
    fp_view_unref(store->view);
    store->view = NULL;
    if (store->pages)
        store->pages->in_use = false;
    store->pages = NULL;
}

static void fail_queue(const fp_store *store, fp_store_queue *queue)
{
    for (fp_store_req *req; (req = fp_store_pop(queue));)
        end(req, fp_store_say(store, FARPOOL_E_CLOSED, "they were closed"));
}

static void try_close(fp_store *store)
{
    fail_queue(store, &store->gets);
    fail_queue(store, &store->flushes);
    fail_queue(store, &store->fences);
    if (!is_idle(store) || store->closed)
        return;
    drop_all(store);
    store->closed = true;
    end(store->closer, 0);
}

static void tell_damage(fp_store *store)
{
    const fp_kept *all[] = {&store->index.halted, &store->convert.halted, &store->merge.halted};
    for (unsigned i = 0; i < sizeof all / sizeof *all && !store->told_damage; i++) {
        if (all[i]->status != FARPOOL_E_CORRUPT || !store->options.damaged)
            continue;
        store->told_damage = true;
        (void)fp_kept_tell(all[i]);
        store->options.damaged(store->options.user);
    }
}

void fp_store_kick(fp_store *store)
{
    if (!store->opened)
        return;
    if (store->closing) {
        try_close(store);
        return;
    }
    fp_store_index(store);
    start_waiting(store);
    fp_store_convert(store);
    fp_store_merge(store);
    fp_store_write(store);
    fp_store_trim(store);
    tell_damage(store); /* before somebody who waits tries again */
    end_flushes(store);
}

static void poked(fp_disk_req *req)
{
    fp_store *store = req->user;
    store->nop_busy = false;
    fp_store_kick(store);
}

/* Kicks it later: not from within a call. */
static void poke(fp_store *store)
{
    if (store->nop_busy)
        return;
    store->nop_busy = true;
    store->nop = (fp_disk_req){.kind = FP_DISK_NOP, .done = poked, .user = store};
    fp_disk_submit(store->disk, &store->nop);
}

static void try_again(fp_store *store)
{
    store->index.halted.status = store->convert.halted.status = 0;
    store->merge.halted.status = store->write.halted.status = 0;
    poke(store);
}

void fp_store_log_durable(fp_store *store)
{
    if (store->opened && !store->closing)
        try_again(store);
}

void fp_store_keep(fp_store *store, uint64_t lsn)
{
    store->keep = store->keep == UINT64_MAX || lsn > store->keep ? lsn : store->keep;
    poke(store);
}

int fp_store_flush(fp_store *store, fp_store_req *req)
{
    FP_ASSERT(store->opened && !store->closing);
    req->own.kind = FP_STORE_FLUSH;
    req->lsn = fp_store_durable(store);
    fp_store_push(&store->flushes, req);
    try_again(store);
    return 0;
}

int fp_store_flush_log(fp_store *store, fp_store_req *req)
{
    FP_ASSERT(store->opened && !store->closing && req->lsn <= fp_store_durable(store));
    req->own.kind = FP_STORE_FLUSH_LOG;
    fp_store_push(&store->flushes, req);
    try_again(store);
    return 0;
}

void fp_store_hold_log(fp_store *store, bool hold)
{
    store->log_held = hold;
    poke(store);
}

int fp_store_fence(fp_store *store, uint64_t generation, fp_store_req *req)
{
    FP_ASSERT(store->opened && !store->closing);
    if (generation < store->generation)
        return fp_store_say(store, FARPOOL_E_FENCED, "generation %llu was asked for, %llu has come",
                            (unsigned long long)generation, (unsigned long long)store->generation);
    store->generation = generation;
    req->own.kind = FP_STORE_FENCE;
    req->own.generation = generation;
    fp_store_push(&store->fences, req);
    try_again(store);
    return 0;
}

void fp_store_close(fp_store *store, fp_store_req *req)
{
    FP_ASSERT(store->opened && !store->closing);
    store->closing = true;
    store->closer = req;
    poke(store);
}

void fp_store_free(fp_store *store)
{
    if (!store)
        return;
    if (!store->closed) {
        store->volume->gone =
            store->volume->gone || store->opened; /* see fp_store_free's promise */
        fp_store_open_free(store);
        drop_all(store);
    }
    FP_ASSERT(is_idle(store));
    fp_log_piece_unref(store->index.piece);
    free(store);
}

uint64_t fp_store_lag(const fp_store *store)
{
    return fp_store_durable(store) - store->view->converted;
}

bool fp_store_is_behind(const fp_store *store)
{
    bool fails =
        store->index.halted.status || store->convert.halted.status || store->write.halted.status;
    return !fails && fp_store_lag(store) > FP_STORE_LAG_TAILS * store->options.convert_bytes;
}

/* ---- what it is ------------------------------------------------------------------------------ */

uint64_t fp_store_log_damage(const fp_store *store)
{
    return store->index.halted.status == FARPOOL_E_CORRUPT ? store->indexed : 0;
}

int fp_store_failed(const fp_store *store)
{
    const fp_kept *why = failure(store);
    return why ? why->status : 0;
}

void fp_store_get_stats(const fp_store *store, fp_store_stats *stats)
{
    const fp_view *view = store->view;
    *stats = (fp_store_stats){.log_bytes = store->log_bytes,
                              .written_bytes = store->written_bytes,
                              .beginning = fp_store_beginning(store),
                              .base = view->base,
                              .converted = view->converted,
                              .indexed = store->indexed,
                              .deltas = view->delta_count,
                              .images = view->image_count,
                              .failed = fp_store_failed(store)};
    for (uint32_t i = 0; i < view->image_count + view->delta_count; i++) {
        const fp_layer *layer = view->images[i];
        bool image = layer->entry.kind == FP_LAYER_IMAGE;
        *(image ? &stats->image_bytes : &stats->delta_bytes) += layer->entry.bytes;
        stats->page_bytes += layer->page_bytes;
        stats->damaged += layer->damage != NULL;
    }
}
