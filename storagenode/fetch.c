/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/fetch.h"

#include <stdlib.h>
#include <string.h>

#include "common/crc.h"

/* ---- what records do to a page --------------------------------------------------------------- */

static int begin_page(fp_fetch *f, unsigned order, enum fp_page_state state)
{
    size_t bytes = (size_t)FARPOOL_UNIT_BYTES << order;
    f->state = state;
    f->order = order;
    if (state != FP_PAGE_THERE)
        return 0;
    if (!f->page || f->own.room < bytes) {
        free(f->page);
        f->page = aligned_alloc(FP_FILE_BLOCK, bytes);
        f->own.room = f->page ? bytes : 0;
        if (!f->page)
            return fp_error(FARPOOL_E_NOMEM, "no memory for a page of %zu bytes", bytes);
    }
    return 0;
}

/* A record that changes a page which is not there, or of another order, shows that the log does not have the page's
 * beginning: it is lost until it begins anew. */
static int apply(fp_fetch *f, const fp_delta_record *record, const void *data)
{
    const fp_redo_record *redo = &record->redo;
    unsigned order = fp_redo_order(redo);
    int rc = 0;
    f->changed = record->lsn;
    switch (fp_redo_type(redo)) {
    case FP_REDO_ALLOC:
        rc = begin_page(f, order, FP_PAGE_THERE);
        if (!rc)
            memset(f->page, 0, (size_t)FARPOOL_UNIT_BYTES << order);
        return rc;
    case FP_REDO_FREE:
        f->state = FP_PAGE_NONE;
        return 0;
    default:
        if (f->state != FP_PAGE_THERE || f->order != order)
            return begin_page(f, order, FP_PAGE_LOST);
        memcpy(f->page + redo->offset, data, redo->len);
        return 0;
    }
}

/* ---- bytes of layers ------------------------------------------------------------------------- */

static void go(fp_fetch *f);

static int corrupt(const fp_layer *layer, uint64_t offset, const char *why)
{
    return fp_volume_say(layer->file->volume, FARPOOL_E_CORRUPT,
                         "file '%s' at offset %llu: %s: restore it from another copy",
                         layer->file->name, (unsigned long long)offset, why);
}

static void have_read(fp_disk_req *req)
{
    fp_fetch *f = req->user;
    if (req->status) {
        fp_kept_set(&f->error, req->status);
        if (f->own.window)
            f->own.window->layer = NULL;
    }
    go(f);
}

static void read_at(fp_fetch *f, const fp_layer *layer, uint64_t offset, uint64_t len, void *buffer)
{
    f->own.req = (fp_disk_req){.kind = FP_DISK_READ,
                               .file = layer->file->handle,
                               .offset = offset,
                               .len = len,
                               .buffer = buffer,
                               .done = have_read,
                               .user = f};
    fp_disk_submit(layer->file->volume->disk, &f->own.req);
}

/* Brings bytes of the layer's data, whole blocks, to a buffer: 1 when they are there, 0: later, or E_NOMEM. Called
 * again when a window has been filled. */
static int bring(fp_fetch *f, const fp_layer *layer, unsigned number, uint64_t offset, uint64_t len,
                 void *buffer)
{
    fp_fetch_window *w = f->windows ? &f->windows[number] : NULL;
    f->own.window = NULL;
    if (!w || len > FP_FETCH_WINDOW) {
        read_at(f, layer, offset, len, buffer);
        return 0;
    }
    if (w->layer == layer && offset >= w->offset && offset + len <= w->offset + w->len) {
        memcpy(buffer, w->buffer + (offset - w->offset), len);
        return 1;
    }
    if (!w->buffer)
        w->buffer = aligned_alloc(FP_FILE_BLOCK, FP_FETCH_WINDOW);
    if (!w->buffer)
        return fp_error(FARPOOL_E_NOMEM, "no memory to read ahead");
    uint64_t end = fp_file_ceil(layer->data_bytes);
    w->layer = layer;
    w->offset = offset;
    w->len = end - offset < FP_FETCH_WINDOW ? end - offset : FP_FETCH_WINDOW;
    f->own.window = w;
    read_at(f, layer, offset, w->len, w->buffer);
    return 0;
}

/* ---- image ----------------------------------------------------------------------------------- */

static int have_image(fp_fetch *f, const fp_layer *layer)
{
    const fp_image_entry *entry = f->own.image;
    size_t bytes = (size_t)FARPOOL_UNIT_BYTES << fp_image_order(entry);
    f->own.image_done = true;
    if (fp_crc32c(0, f->page, bytes) != entry->crc)
        return corrupt(layer, entry->block * (uint64_t)FP_FILE_BLOCK, "a page is damaged");
    return 0;
}

/* 1: go on; 0: wait. */
static int look_at_image(fp_fetch *f)
{
    int64_t owner = fp_view_owner(f->view, f->pid);
    const fp_layer *layer = owner >= 0 ? f->view->images[owner] : NULL;
    if (f->own.image && !f->own.window) { /* the READ was into the page */
        int rc = have_image(f, layer);
        return rc ? rc : 1;
    }
    if (layer && layer->damage && f->pid >= layer->entry.pid_first &&
        f->pid <= layer->entry.pid_last)
        return fp_kept_tell(layer->damage);
    uint32_t i = layer ? fp_layer_seek(layer, f->pid) : 0;
    if (!layer || i == layer->count || fp_layer_pid(layer, i) != f->pid) {
        f->own.image_done = true;
        return 1;
    }
    const fp_image_entry *entry = &layer->images[i];
    bool lost = entry->block == FP_IMAGE_LOST;
    int rc = begin_page(f, fp_image_order(entry), lost ? FP_PAGE_LOST : FP_PAGE_THERE);
    f->changed = entry->lsn;
    f->own.image_done = lost;
    if (lost || rc)
        return rc ? rc : 1;
    f->own.image = entry;
    rc = bring(f, layer, 0, entry->block * (uint64_t)FP_FILE_BLOCK,
               (uint64_t)FARPOOL_UNIT_BYTES << f->order, f->page);
    if (rc <= 0)
        return rc;
    rc = have_image(f, layer);
    return rc ? rc : 1;
}

/* ---- deltas ---------------------------------------------------------------------------------- */

static int check_chunks(const fp_fetch *f, const fp_layer *layer)
{
    for (uint64_t at = f->own.from; at < f->own.to; at += FP_DELTA_CHUNK) {
        uint64_t len =
            layer->data_bytes - at < FP_DELTA_CHUNK ? layer->data_bytes - at : FP_DELTA_CHUNK;
        if (fp_crc32c(0, f->own.buffer + (at - f->own.from), len) !=
            layer->chunk_crcs[at / FP_DELTA_CHUNK])
            return corrupt(layer, at, "a chunk of records is damaged");
    }
    return 0;
}

static uint64_t records_end(const fp_layer *layer, uint32_t i)
{
    return i + 1 < layer->count ? layer->deltas[i + 1].offset : layer->data_bytes;
}

/* Of a valid chunk; but nothing outside of it is ever touched. */
static int apply_records(fp_fetch *f, const fp_layer *layer, uint32_t i)
{
    uint64_t at = layer->deltas[i].offset, end = records_end(layer, i);
    while (at < end) {
        fp_delta_record record;
        const uint8_t *bytes = f->own.buffer + (at - f->own.from);
        if (end - at < sizeof record)
            return corrupt(layer, at, "a record goes beyond its page's");
        memcpy(&record, bytes, sizeof record);
        unsigned order = fp_redo_order(&record.redo);
        uint64_t touched = record.redo.offset + (uint64_t)record.redo.len;
        if (fp_redo_pid(&record.redo) != f->pid || order > FARPOOL_ORDER_MAX ||
            touched > (uint64_t)FARPOOL_UNIT_BYTES << order || fp_delta_bytes(&record) > end - at)
            return corrupt(layer, at, "a record is not of its page");
        if (record.lsn > f->lsn)
            return 0;
        int rc = apply(f, &record, bytes + sizeof record);
        if (rc)
            return rc;
        at += fp_delta_bytes(&record);
    }
    return 0;
}

static int have_records(fp_fetch *f, const fp_layer *layer, uint32_t i)
{
    int rc = check_chunks(f, layer);
    if (!rc)
        rc = apply_records(f, layer, i);
    f->own.to = 0;
    f->own.delta++;
    return rc ? rc : 1;
}

static int look_at_delta(fp_fetch *f)
{
    const fp_layer *layer = f->view->deltas[f->own.delta];
    if (layer->entry.lsn_from >= f->lsn) { /* and so are all that follow */
        f->own.delta = f->view->delta_count;
        return 1;
    }
    if (layer->damage)
        return fp_kept_tell(layer->damage);
    uint32_t i = fp_layer_seek(layer, f->pid);
    if (i == layer->count || fp_layer_pid(layer, i) != f->pid) {
        f->own.delta++;
        return 1;
    }
    if (f->own.to && !f->own.window) /* the READ was into the buffer */
        return have_records(f, layer, i);
    uint64_t end = fp_file_ceil(layer->data_bytes), to = records_end(layer, i);
    f->own.from = layer->deltas[i].offset / FP_DELTA_CHUNK * FP_DELTA_CHUNK;
    f->own.to = (to + FP_DELTA_CHUNK - 1) / FP_DELTA_CHUNK * FP_DELTA_CHUNK;
    f->own.to = f->own.to < end ? f->own.to : end;
    size_t bytes = f->own.to - f->own.from;
    if (bytes > f->own.buffer_room) {
        free(f->own.buffer);
        f->own.buffer = aligned_alloc(FP_FILE_BLOCK, bytes);
        f->own.buffer_room = f->own.buffer ? bytes : 0;
        if (!f->own.buffer)
            return fp_error(FARPOOL_E_NOMEM, "no memory for %zu bytes of redo", bytes);
    }
    int rc = bring(f, layer, 1 + f->own.delta, f->own.from, bytes, f->own.buffer);
    return rc <= 0 ? rc : have_records(f, layer, i);
}

/* ---- tails, and all together ----------------------------------------------------------------- */

static int apply_tails(fp_fetch *f)
{
    for (unsigned i = 0; i < FP_FETCH_TAILS && f->tails[i]; i++) {
        const fp_tail_record *record = fp_tail_find(f->tails[i], f->pid);
        for (; record && record->lsn <= f->lsn; record = record->next) {
            const uint8_t *data;
            fp_delta_record delta = fp_tail_delta(record, &data);
            int rc = apply(f, &delta, data);
            if (rc)
                return rc;
        }
    }
    return 0;
}

static int look(fp_fetch *f)
{
    if (!f->own.image_done)
        return look_at_image(f);
    return look_at_delta(f);
}

/* False: a READ is under way. */
static bool run(fp_fetch *f)
{
    while (!f->error.status && (!f->own.image_done || f->own.delta < f->view->delta_count)) {
        int rc = look(f);
        if (!rc)
            return false;
        if (rc < 0)
            fp_kept_set(&f->error, rc);
    }
    int rc = f->error.status ? 0 : apply_tails(f);
    if (rc)
        fp_kept_set(&f->error, rc);
    return true;
}

static void go(fp_fetch *f)
{
    if (run(f))
        f->done(f);
}

bool fp_fetch_start(fp_fetch *f)
{
    f->error.status = 0;
    f->state = FP_PAGE_NONE;
    f->changed = 0;
    f->own.delta = 0;
    f->own.image_done = false;
    f->own.image = NULL;
    f->own.window = NULL;
    f->own.to = 0;
    return run(f);
}

void fp_fetch_fini(fp_fetch *f)
{
    free(f->own.buffer);
    f->own.buffer = NULL;
    f->own.buffer_room = 0;
}
