/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Manifests, one at a time. Until one is durable what the one before it names is held as well, for if it fails nobody
 * knows which of them will be found; the next that succeeds decides it.
 */
#include <stdlib.h>
#include <string.h>

#include "common/faultpoint.h"
#include "storagenode/store_inside.h"

static fp_file **files_of(const fp_view *view)
{
    size_t count = (size_t)view->image_count + view->delta_count;
    fp_file **files = malloc((count + 1) * sizeof(fp_file *));
    for (size_t i = 0; files && i < count; i++)
        files[i] = view->images[i]->file;
    return files;
}

static int build(fp_store *store, const fp_view *view, uint64_t generation)
{
    fp_manifest *manifest = &store->write.manifest;
    uint32_t count = view->image_count + view->delta_count;
    *manifest = (fp_manifest){.header = {.count = count,
                                         .partition = store->options.partition,
                                         .generation = generation,
                                         .base = view->base,
                                         .converted = view->converted,
                                         .sequence = store->pages->manifest.header.sequence + 1,
                                         .beginning = fp_store_beginning(store)},
                              .entries = calloc(count + (size_t)1, sizeof *manifest->entries)};
    size_t bytes = 0;
    uint8_t *file = NULL;
    fp_file **files = files_of(view);
    for (uint32_t i = 0; manifest->entries && i < count; i++)
        manifest->entries[i] = view->images[i]->entry;
    if (manifest->entries)
        file = fp_manifest_put(manifest, &bytes);
    int rc = FARPOOL_E_NOMEM;
    if (file && files)
        rc = fp_pages_hold(store->pages, files, count);
    if (file && files && !rc)
        rc = fp_maker_add(&store->write.maker, file, bytes);
    free(file);
    free(files);
    return rc ? fp_store_say(store, rc, "no memory for a manifest of %u layers", count) : 0;
}

static void end_fences(fp_store *store, uint64_t generation, const fp_kept *error)
{
    fp_store_queue others = {0};
    for (fp_store_req *req; (req = fp_store_pop(&store->fences));) {
        if (req->own.generation > generation && !error->status) {
            fp_store_push(&others, req);
            continue;
        }
        req->status = fp_kept_tell(error);
        req->done(req);
    }
    for (fp_store_req *req; (req = fp_store_pop(&others));)
        fp_store_push(&store->fences, req);
}

static void succeeded(fp_store *store, enum fp_write_kind kind)
{
    fp_view *old = store->view;
    store->view = store->write.view;
    store->write.view = NULL;
    if (kind == FP_WRITE_CONVERT) {
        FP_FAULT_POINT(CONVERTED);
        fp_store_converted(store);
    } else if (kind == FP_WRITE_MERGE) {
        FP_FAULT_POINT(MERGED);
        fp_store_merged(store);
    }
    fp_view_unref(old);
}

static void over(fp_store *store, const fp_kept *error)
{
    fp_manifest_write *write = &store->write;
    enum fp_write_kind kind = write->kind;
    uint64_t generation = write->manifest.header.generation;
    fp_kept copy = *error;
    write->kind = FP_WRITE_NONE;
    fp_maker_free(&write->maker);
    if (copy.status) {
        free(write->manifest.entries);
        fp_view_unref(write->view);
        write->view = NULL;
        if (kind == FP_WRITE_CONVERT || kind == FP_WRITE_MERGE)
            write->halted = copy;
    } else {
        succeeded(store, kind);
    }
    write->manifest.entries = NULL;
    if (kind == FP_WRITE_OPEN)
        fp_store_opened(store, &copy);
    else
        end_fences(store, generation, &copy);
}

static void written(fp_maker *maker)
{
    fp_store *store = maker->user;
    fp_manifest_write *write = &store->write;
    if (!maker->error.status) {
        fp_file **files = files_of(write->view);
        if (files) {
            fp_pages_settle(store->pages, write->manifest, files, write->manifest.header.count);
            store->written_bytes += maker->bytes;
        } else {
            fp_kept_set(&maker->error, fp_store_say(store, FARPOOL_E_NOMEM, "no memory"));
        }
        free(files);
    }
    over(store, &maker->error);
    fp_store_kick(store);
}

int fp_store_write_start(fp_store *store, enum fp_write_kind kind, fp_view *view,
                         uint64_t generation)
{
    fp_manifest_write *write = &store->write;
    write->view = view;
    write->maker = (fp_maker){.volume = store->volume, .done = written, .user = store};
    fp_manifest_name(store->options.partition, write->maker.name);
    int rc = build(store, view, generation);
    if (!rc) {
        write->kind = kind;
        fp_maker_finish(&write->maker);
        return 0;
    }
    free(write->manifest.entries);
    write->manifest.entries = NULL;
    fp_maker_free(&write->maker);
    fp_view_unref(view);
    write->view = NULL;
    return rc;
}

void fp_store_write(fp_store *store)
{
    fp_manifest_write *write = &store->write;
    if (write->kind || write->halted.status)
        return;
    enum fp_write_kind kind = FP_WRITE_NONE;
    fp_view *view = NULL;
    if (store->convert.ready) {
        kind = FP_WRITE_CONVERT;
        view = fp_store_view_converted(store);
    } else if (store->merge.ready) {
        kind = FP_WRITE_MERGE;
        view = fp_store_view_merged(store);
    } else if (store->fences.head) {
        kind = FP_WRITE_FENCE;
        view = store->view;
        fp_view_ref(view);
    } else {
        return;
    }
    int rc = view ? fp_store_write_start(store, kind, view, store->generation)
                  : fp_store_say(store, FARPOOL_E_NOMEM, "no memory for a list of layers");
    if (rc) {
        fp_kept_set(&write->halted, rc);
        end_fences(store, store->generation, &write->halted);
    }
}
