/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening: the manifest, which the volume has read, says what layers there are; their indexes are loaded, then a
 * manifest of this generation is written. If there is none, one is written before anything else: so files without a
 * manifest show that it was lost. The WAL behind what is converted is read when that is done.
 */
#include <stdlib.h>
#include <string.h>

#include "common/faultpoint.h"
#include "storagenode/store_inside.h"

typedef struct fp_store_opening {
    fp_store *store;
    fp_store_req *caller;
    uint32_t at;
    fp_layer **layers;
    fp_layer_load load;
    fp_disk_req nop;
    fp_kept error;
} fp_store_opening;

void fp_store_open_free(fp_store *store)
{
    free(store->opening);
    store->opening = NULL;
}

static void over(fp_store *store, int status)
{
    fp_store_opening *o = store->opening;
    fp_store_req *caller = o->caller;
    const fp_manifest *manifest = &store->pages->manifest;
    for (uint32_t i = 0; o->layers && i < manifest->header.count; i++)
        fp_layer_unref(o->layers[i]);
    free(o->layers);
    if (status) {
        fp_view_unref(store->view);
        store->view = NULL;
        store->pages->in_use = false;
        store->pages = NULL;
    } else {
        store->opened = true;
        caller->lsn = store->indexed;
    }
    fp_store_open_free(store);
    caller->status = status;
    caller->done(caller);
    fp_store_kick(store);
}

void fp_store_opened(fp_store *store, const fp_kept *error)
{
    int rc = fp_kept_tell(error);
    FP_FAULT_POINT(STORE_OPENED);
    store->indexed = rc ? 0 : store->view->converted;
    if (!rc)
        rc = fp_store_new_tail(store);
    over(store, rc);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static void have_layers(fp_store_opening *o)
{
    fp_store *store = o->store;
    const fp_manifest *manifest = &store->pages->manifest;
    uint32_t images = 0, count = manifest->header.count;
    while (images < count && manifest->entries[images].kind == FP_LAYER_IMAGE)
        images++;
    uint64_t base = manifest->header.base, converted = manifest->header.converted;
    if (!store->pages->has_manifest)
        base = converted = fp_wal_start(store->wal);
    store->view =
        fp_view_new(base, converted, o->layers, images, o->layers + images, count - images);
    int rc = FARPOOL_E_NOMEM;
    if (store->view) {
        fp_view_ref(store->view);
        rc = fp_store_write_start(store, FP_WRITE_OPEN, store->view, store->generation);
    }
    if (rc)
        over(store, fp_store_say(store, rc, "no memory for their layers"));
}

static void load_next(fp_store_opening *o)
{
    fp_store *store = o->store;
    const fp_manifest *manifest = &store->pages->manifest;
    if (o->at == manifest->header.count) {
        have_layers(o);
        return;
    }
    o->load.entry = &manifest->entries[o->at];
    o->load.file = fp_volume_find(store->volume, o->load.entry->hash);
    FP_ASSERT(o->load.file); /* the manifest holds it */
    fp_file_ref(o->load.file);
    fp_layer_load_start(&o->load);
}

static void loaded(fp_layer_load *load)
{
    fp_store_opening *o = load->user;
    if (load->error.status) {
        over(o->store, fp_kept_tell(&load->error));
        return;
    }
    o->layers[o->at++] = load->layer;
    load_next(o);
}

/* ---- what can be opened ---------------------------------------------------------------------- */

static int check(const fp_store *store)
{
    const fp_pages *pages = store->pages;
    const fp_manifest_header *header = &pages->manifest.header;
    if (pages->damage.status)
        return fp_kept_tell(&pages->damage);
    if (!pages->has_manifest)
        return pages->has_strays
                   ? fp_store_say(store, FARPOOL_E_CORRUPT,
                                  "there are files of it, but its manifest is missing: restore "
                                  "that from another copy")
                   : 0;
    if (store->generation < header->generation)
        return fp_store_say(store, FARPOOL_E_FENCED, "generation %llu, but %llu has come",
                            (unsigned long long)store->generation,
                            (unsigned long long)header->generation);
    if (header->converted < fp_wal_start(store->wal))
        return fp_store_say(store, FARPOOL_E_CORRUPT,
                            "layers have the log up to LSN %llu, but the WAL begins at %llu: "
                            "restore what is missing from another copy",
                            (unsigned long long)header->converted,
                            (unsigned long long)fp_wal_start(store->wal));
    return 0;
}

static void begin(fp_disk_req *req)
{
    fp_store_opening *o = req->user;
    fp_store *store = o->store;
    uint32_t count = store->pages->manifest.header.count;
    int rc = req->status ? req->status : check(store);
    if (!rc)
        o->layers = calloc(count + (size_t)1, sizeof(fp_layer *));
    if (!rc && !o->layers)
        rc = fp_store_say(store, FARPOOL_E_NOMEM, "no memory for %u layers", count);
    if (rc) {
        over(store, rc);
        return;
    }
    o->load = (fp_layer_load){
        .volume = store->volume, .partition = store->options.partition, .done = loaded, .user = o};
    load_next(o);
}

static int fill_in(fp_store *store)
{
    fp_store_options *options = &store->options;
    if (!options->convert_bytes)
        options->convert_bytes = 16ull << 20;
    if (!options->image_bytes)
        options->image_bytes = 64ull << 20;
    if (!options->trim_bytes)
        options->trim_bytes = FP_WAL_SEGMENT_BYTES;
    if (!options->merge_layers)
        options->merge_layers = 8;
    if (options->convert_bytes > 1ull << 30 || options->image_bytes > 1ull << 30)
        return fp_store_say(store, FARPOOL_E_INVAL, "layers of more than 1 GiB");
    return 0;
}

int fp_store_open(fp_volume *volume, fp_wal *wal, const fp_store_options *options,
                  fp_store_req *req, fp_store **out)
{
    fp_store *store = calloc(1, sizeof *store);
    fp_store_opening *o = calloc(1, sizeof *o);
    fp_pages *pages = fp_volume_pages(volume, options->partition);
    int rc = FARPOOL_E_NOMEM;
    if (!store || !o || !pages) {
        fp_volume_say(volume, rc, "no memory for a page store");
        goto err;
    }
    store->volume = volume;
    store->disk = volume->disk;
    store->wal = wal;
    store->options = *options;
    store->generation = options->generation;
    store->keep = UINT64_MAX;
    rc = fill_in(store);
    if (!rc && pages->in_use)
        rc = fp_store_say(store, FARPOOL_E_BUSY, "they are open");
    if (rc)
        goto err;
    store->pages = pages;
    pages->in_use = true;
    store->opening = o;
    o->store = store;
    o->caller = req;
    *out = store;
    o->nop = (fp_disk_req){.kind = FP_DISK_NOP, .done = begin, .user = o};
    fp_disk_submit(store->disk, &o->nop);
    return 0;
err:
    free(o);
    free(store);
    return rc;
}
