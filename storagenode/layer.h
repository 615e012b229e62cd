/* SPDX-License-Identifier: Apache-2.0 */
/* Layers in memory: a file's index, and what one can see of a partition at a time. */
#ifndef FP_STORAGENODE_LAYER_H
#define FP_STORAGENODE_LAYER_H

#include "storagenode/volume_inside.h"

typedef struct fp_layer {
    unsigned refs;
    fp_file *file; /* held */
    fp_manifest_entry entry;
    fp_kept *damage; /* NULL: none. Then there is no index */
    uint64_t data_bytes;
    uint32_t count, chunks;
    uint8_t *index; /* these point into it; one of them is NULL */
    const fp_image_entry *images;
    const fp_delta_entry *deltas;
    const uint32_t *chunk_crcs;
    uint64_t page_bytes; /* of all images */
} fp_layer;

/* Takes over the reference to the file, and the index (of which fp_index_check has said nothing bad). NULL: no
 * memory, nothing is taken. */
fp_layer *fp_layer_new(fp_file *file, const fp_footer *footer, uint8_t *index);
/* One whose file is damaged: with farpool_errmsg() of now. */
fp_layer *fp_layer_new_damaged(fp_file *file, const fp_manifest_entry *entry);
void fp_layer_ref(fp_layer *layer);
void fp_layer_unref(fp_layer *layer);
/* Index of the first entry of a page >= pid; count: there is none. */
uint32_t fp_layer_seek(const fp_layer *layer, uint64_t pid);
static inline uint64_t fp_layer_pid(const fp_layer *layer, uint32_t i)
{
    return layer->images ? fp_image_pid(&layer->images[i]) : layer->deltas[i].pid;
}

/* What is in files, at one time; never changes. */
typedef struct fp_view {
    unsigned refs;
    uint64_t base, converted;
    uint32_t image_count, delta_count;
    fp_layer **images; /* by pid */
    fp_layer **deltas; /* by LSN; images and deltas are one array */
} fp_view;

/* Holds the layers. NULL: no memory. */
fp_view *fp_view_new(uint64_t base, uint64_t converted, fp_layer *const *images,
                     uint32_t image_count, fp_layer *const *deltas, uint32_t delta_count);
void fp_view_ref(fp_view *view);
void fp_view_unref(fp_view *view); /* NULL is allowed */
/* The image layer in which the page is, if it is in one, or goes to: -1: there are none. */
int64_t fp_view_owner(const fp_view *view, uint64_t pid);

/* ---- loading --------------------------------------------------------------------------------- */

/* A layer of a manifest, from its file. */
typedef struct fp_layer_load {
    fp_volume *volume; /* set by the caller, as is all that follows until user */
    uint64_t partition;
    const fp_manifest_entry *entry;
    fp_file *file; /* a reference, which passes on */
    void (*done)(struct fp_layer_load *load);
    void *user;
    fp_kept error;   /* E_IO and the like; damage is no error */
    fp_layer *layer; /* perhaps damaged */
    fp_disk_req req;
    fp_footer footer;
    uint8_t *buffer;
} fp_layer_load;

void fp_layer_load_start(fp_layer_load *load);

#endif
