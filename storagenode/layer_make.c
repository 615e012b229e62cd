/* SPDX-License-Identifier: Apache-2.0 */
/* Writing the file of a layer: data as it comes, then index and footer. */
#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "storagenode/store_inside.h"

void fp_layer_make_init(fp_layer_make *make, const fp_store *store, enum fp_layer_kind kind,
                        uint64_t from, uint64_t to, uint64_t expected)
{
    *make = (fp_layer_make){
        .maker = {.volume = store->volume, .expected = expected},
        .footer = {
            .kind = kind, .partition = store->options.partition, .lsn_from = from, .lsn_to = to}};
}

static int make_room(uint8_t **array, size_t *room, size_t needed)
{
    if (needed <= *room)
        return 0;
    uint8_t *grown = realloc(*array, 2 * needed + 4096);
    if (!grown)
        return fp_error(FARPOOL_E_NOMEM, "no memory for an index of %zu bytes", needed);
    *array = grown;
    *room = 2 * needed + 4096;
    return 0;
}

/* An entry of the index. */
static int add_entry(fp_layer_make *make, uint64_t pid, const void *entry, size_t bytes)
{
    int rc = make_room(&make->index, &make->index_room, (make->footer.count + (size_t)1) * bytes);
    if (rc)
        return rc;
    memcpy(make->index + make->footer.count * bytes, entry, bytes);
    if (!make->footer.count++)
        make->footer.pid_first = pid;
    make->footer.pid_last = pid;
    return 0;
}

/* ---- deltas ---------------------------------------------------------------------------------- */

static int end_chunk(fp_layer_make *make)
{
    uint8_t *crcs = (uint8_t *)make->crcs;
    int rc =
        make_room(&crcs, &make->crcs_room, (make->footer.chunks + (size_t)1) * sizeof(uint32_t));
    make->crcs = (uint32_t *)(void *)crcs;
    if (rc)
        return rc;
    make->crcs[make->footer.chunks++] = make->crc;
    make->crc = 0;
    return 0;
}

static int add_data(fp_layer_make *make, const void *data, size_t len)
{
    const uint8_t *at = data;
    int rc = fp_maker_add(&make->maker, data, len);
    while (len && !rc) {
        size_t filled = make->footer.data_bytes % FP_DELTA_CHUNK, n = FP_DELTA_CHUNK - filled;
        n = n < len ? n : len;
        make->crc = fp_crc32c(make->crc, at, n);
        make->footer.data_bytes += n;
        at += n;
        len -= n;
        if (filled + n == FP_DELTA_CHUNK)
            rc = end_chunk(make);
    }
    return rc;
}

int fp_layer_make_page(fp_layer_make *make, uint64_t pid)
{
    fp_delta_entry entry = {.pid = pid, .offset = (uint32_t)make->footer.data_bytes};
    return add_entry(make, pid, &entry, sizeof entry);
}

int fp_layer_make_record(fp_layer_make *make, const fp_delta_record *record, const void *data)
{
    int rc = add_data(make, record, sizeof *record);
    return rc ? rc : add_data(make, data, fp_redo_pad(record->redo.len));
}

/* ---- images ---------------------------------------------------------------------------------- */

int fp_layer_make_image(fp_layer_make *make, uint64_t pid, unsigned order, uint64_t changed,
                        const uint8_t *bytes)
{
    size_t len = (size_t)FARPOOL_UNIT_BYTES << order;
    fp_image_entry entry = {
        .page = pid | (uint64_t)order << 48, .lsn = changed, .block = FP_IMAGE_LOST};
    int rc = 0;
    if (bytes) {
        entry.block = (uint32_t)(make->footer.data_bytes / FP_FILE_BLOCK);
        entry.crc = fp_crc32c(0, bytes, len);
        rc = fp_maker_add(&make->maker, bytes, len);
        make->footer.data_bytes += len;
    }
    return rc ? rc : add_entry(make, pid, &entry, sizeof entry);
}

/* ---- the end --------------------------------------------------------------------------------- */

int fp_layer_make_end(fp_layer_make *make)
{
    fp_footer *footer = &make->footer;
    bool image = footer->kind == FP_LAYER_IMAGE;
    size_t entries = footer->count * (image ? sizeof(fp_image_entry) : sizeof(fp_delta_entry));
    uint8_t *block = NULL;
    int rc = footer->data_bytes % FP_DELTA_CHUNK && !image ? end_chunk(make) : 0;
    size_t crcs = footer->chunks * sizeof(uint32_t);
    if (!rc)
        rc = fp_maker_fill(&make->maker);
    if (!rc && entries)
        rc = fp_maker_add(&make->maker, make->index, entries);
    if (!rc && crcs)
        rc = fp_maker_add(&make->maker, make->crcs, crcs);
    if (!rc)
        rc = fp_maker_fill(&make->maker);
    if (!rc) {
        uint32_t crc = entries ? fp_crc32c(0, make->index, entries) : 0;
        footer->index_crc = crcs ? fp_crc32c(crc, make->crcs, crcs) : crc;
        block = malloc(FP_FILE_BLOCK);
        rc = block ? 0 : fp_error(FARPOOL_E_NOMEM, "no memory for a footer");
    }
    if (!rc) {
        fp_footer_put(block, *footer);
        rc = fp_maker_add(&make->maker, block, FP_FILE_BLOCK);
    }
    free(block);
    return rc;
}

/* The index in memory is as it is in the file: entries, then the chunks' checksums. */
fp_layer *fp_layer_make_layer(fp_layer_make *make)
{
    const fp_footer *footer = &make->footer;
    size_t crcs = footer->chunks * sizeof(uint32_t), all = fp_index_bytes(footer);
    uint8_t *index = all ? malloc(all) : NULL;
    if (all && !index)
        return NULL;
    if (all)
        memcpy(index, make->index, all - crcs);
    if (crcs)
        memcpy(index + (all - crcs), make->crcs, crcs);
    fp_layer *layer = fp_layer_new(make->maker.file, footer, index);
    if (layer)
        make->maker.file = NULL; /* it has the reference */
    else
        free(index);
    return layer;
}

void fp_layer_make_free(fp_layer_make *make)
{
    fp_file_unref(make->maker.file);
    make->maker.file = NULL;
    fp_maker_free(&make->maker);
    free(make->index);
    free(make->crcs);
    make->index = NULL;
    make->crcs = NULL;
}
