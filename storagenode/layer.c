/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/layer.h"

#include <stdlib.h>
#include <string.h>

/* ---- layers ---------------------------------------------------------------------------------- */

fp_layer *fp_layer_new(fp_file *file, const fp_footer *footer, uint8_t *index)
{
    fp_layer *layer = calloc(1, sizeof *layer);
    if (!layer)
        return NULL;
    layer->refs = 1;
    layer->file = file;
    memcpy(layer->entry.hash, file->hash, sizeof layer->entry.hash);
    layer->entry.kind = footer->kind;
    layer->entry.lsn_from = footer->lsn_from;
    layer->entry.lsn_to = footer->lsn_to;
    layer->entry.pid_first = footer->pid_first;
    layer->entry.pid_last = footer->pid_last;
    layer->entry.bytes = file->bytes;
    layer->data_bytes = footer->data_bytes;
    layer->count = footer->count;
    layer->chunks = footer->chunks;
    layer->index = index;
    if (footer->kind == FP_LAYER_IMAGE) {
        layer->images = (const fp_image_entry *)index;
        for (uint32_t i = 0; i < layer->count; i++)
            if (layer->images[i].block != FP_IMAGE_LOST)
                layer->page_bytes += (uint64_t)FARPOOL_UNIT_BYTES
                                     << fp_image_order(&layer->images[i]);
    } else if (index) {
        layer->deltas = (const fp_delta_entry *)index;
        layer->chunk_crcs = (const uint32_t *)(layer->deltas + layer->count);
    }
    return layer;
}

fp_layer *fp_layer_new_damaged(fp_file *file, const fp_manifest_entry *entry)
{
    fp_layer *layer = calloc(1, sizeof *layer);
    fp_kept *damage = calloc(1, sizeof *damage);
    if (!layer || !damage) {
        free(layer);
        free(damage);
        return NULL;
    }
    fp_kept_set(damage, FARPOOL_E_CORRUPT);
    layer->refs = 1;
    layer->file = file;
    layer->entry = *entry;
    layer->damage = damage;
    return layer;
}

void fp_layer_ref(fp_layer *layer) { layer->refs++; }

void fp_layer_unref(fp_layer *layer)
{
    if (!layer || --layer->refs)
        return;
    fp_file_unref(layer->file);
    free(layer->index);
    free(layer->damage);
    free(layer);
}

uint32_t fp_layer_seek(const fp_layer *layer, uint64_t pid)
{
    uint32_t low = 0, high = layer->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (fp_layer_pid(layer, middle) < pid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* ---- views ----------------------------------------------------------------------------------- */

fp_view *fp_view_new(uint64_t base, uint64_t converted, fp_layer *const *images,
                     uint32_t image_count, fp_layer *const *deltas, uint32_t delta_count)
{
    size_t count = (size_t)image_count + delta_count;
    fp_view *view = calloc(1, sizeof *view + count * sizeof(fp_layer *));
    if (!view)
        return NULL;
    *view = (fp_view){.refs = 1,
                      .base = base,
                      .converted = converted,
                      .image_count = image_count,
                      .delta_count = delta_count,
                      .images = (fp_layer **)(view + 1)};
    view->deltas = view->images + image_count;
    for (uint32_t i = 0; i < image_count; i++)
        view->images[i] = images[i];
    for (uint32_t i = 0; i < delta_count; i++)
        view->deltas[i] = deltas[i];
    for (size_t i = 0; i < count; i++)
        fp_layer_ref(view->images[i]);
    return view;
}

void fp_view_ref(fp_view *view) { view->refs++; }

void fp_view_unref(fp_view *view)
{
    if (!view || --view->refs)
        return;
    for (size_t i = 0; i < (size_t)view->image_count + view->delta_count; i++)
        fp_layer_unref(view->images[i]);
    free(view);
}

int64_t fp_view_owner(const fp_view *view, uint64_t pid)
{
    uint32_t low = 0, high = view->image_count; /* the last that begins at or below pid */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (view->images[middle]->entry.pid_first <= pid)
            low = middle + 1;
        else
            high = middle;
    }
    if (!view->image_count)
        return -1;
    return low ? (int64_t)low - 1 : 0;
}

/* ---- loading --------------------------------------------------------------------------------- */

static void over(fp_layer_load *load)
{
    free(load->buffer);
    load->buffer = NULL;
    if (load->error.status)
        fp_file_unref(load->file);
    load->done(load);
}

static void failed(fp_layer_load *load, int status)
{
    fp_kept_set(&load->error, status);
    over(load);
}

static void no_memory(fp_layer_load *load)
{
    failed(load,
           fp_volume_say(load->volume, FARPOOL_E_NOMEM, "no memory for '%s'", load->file->name));
}

static void damaged(fp_layer_load *load, uint64_t offset, const char *why)
{
    (void)fp_volume_say(load->volume, FARPOOL_E_CORRUPT,
                        "file '%s' at offset %llu: %s: restore it from another copy",
                        load->file->name, (unsigned long long)offset, why);
    load->layer = fp_layer_new_damaged(load->file, load->entry);
    if (load->layer)
        over(load);
    else
        no_memory(load);
}

/* A part of the file, for which there is memory. */
static void read_part(fp_layer_load *load, uint64_t offset, uint64_t len)
{
    free(load->buffer);
    load->buffer = aligned_alloc(FP_FILE_BLOCK, len);
    if (!load->buffer) {
        no_memory(load);
        return;
    }
    load->req.kind = FP_DISK_READ;
    load->req.file = load->file->handle;
    load->req.offset = offset;
    load->req.len = len;
    load->req.buffer = load->buffer;
    fp_disk_submit(load->volume->disk, &load->req);
}

static void have_layer(fp_layer_load *load)
{
    uint8_t *index = load->footer.count ? load->buffer : NULL;
    load->layer = fp_layer_new(load->file, &load->footer, index);
    if (!load->layer) {
        no_memory(load);
        return;
    }
    if (index)
        load->buffer = NULL;
    over(load);
}

static void have_index(fp_layer_load *load)
{
    const char *why = fp_index_check(load->buffer, &load->footer);
    if (why)
        damaged(load, load->req.offset, why);
    else
        have_layer(load);
}

static const char *compare(const fp_footer *footer, const fp_manifest_entry *entry,
                           uint64_t partition)
{
    return footer->partition == partition && footer->kind == entry->kind &&
                   footer->lsn_from == entry->lsn_from && footer->lsn_to == entry->lsn_to &&
                   footer->pid_first == entry->pid_first && footer->pid_last == entry->pid_last
               ? NULL
               : "it is another layer than its manifest says";
}

static void have_footer(fp_layer_load *load)
{
    const char *why = fp_footer_get(load->buffer, load->entry->bytes, &load->footer);
    if (!why)
        why = compare(&load->footer, load->entry, load->partition);
    uint64_t len = fp_file_ceil(fp_index_bytes(&load->footer));
    if (fp_footer_is_foreign(&load->footer))
        failed(load, fp_volume_say(load->volume, FARPOOL_E_UNSUPPORTED,
                                   "file '%s': its format has version %u, this program knows %d: "
                                   "run the version of farpool-storagenode that wrote it",
                                   load->file->name, load->footer.version, FP_FILE_VERSION));
    else if (why)
        damaged(load, load->req.offset, why);
    else if (!len)
        have_layer(load); /* of frames that are about no page */
    else
        read_part(load, fp_file_ceil(load->footer.data_bytes), len);
}

static void step(fp_disk_req *req)
{
    fp_layer_load *load = req->user;
    if (req->status == FARPOOL_E_NOTFOUND) {
        damaged(load, 0, "it is missing");
    } else if (req->status == FARPOOL_E_CORRUPT) {
        damaged(load, req->offset, "it is cut off");
    } else if (req->status) {
        failed(load, req->status);
    } else if (req->kind == FP_DISK_OPEN) {
        load->file->handle = req->file;
        req->kind = FP_DISK_SIZE;
        fp_disk_submit(load->volume->disk, req);
    } else if (req->kind == FP_DISK_SIZE) {
        if (req->size < load->entry->bytes)
            damaged(load, req->size, "it is cut off");
        else if (req->size > load->entry->bytes)
            damaged(load, load->entry->bytes, "it is longer than its manifest says");
        else
            read_part(load, load->entry->bytes - FP_FILE_BLOCK, FP_FILE_BLOCK);
    } else if (req->offset == load->entry->bytes - FP_FILE_BLOCK) {
        have_footer(load);
    } else {
        have_index(load);
    }
}

void fp_layer_load_start(fp_layer_load *load)
{
    load->layer = NULL;
    load->error.status = 0;
    load->buffer = NULL;
    load->req = (fp_disk_req){.kind = FP_DISK_OPEN,
                              .mode = FP_DISK_READ_ONLY,
                              .name = load->file->name,
                              .done = step,
                              .user = load};
    if (load->file->handle) {
        load->req.kind = FP_DISK_SIZE;
        load->req.file = load->file->handle;
    }
    fp_disk_submit(load->volume->disk, &load->req);
}
