/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page, as it is at some LSN, put together from its image, from deltas and from the log's tail.
 *
 * Alone, a fetch READs what it needs and nothing else: the page's image, one READ, and of each delta layer that has the
 * page the chunks with its records. One who fetches pages in ascending order gives windows to READ ahead.
 */
#ifndef FP_STORAGENODE_FETCH_H
#define FP_STORAGENODE_FETCH_H

#include "storagenode/layer.h"
#include "storagenode/tail.h"

enum { FP_FETCH_TAILS = 6, FP_FETCH_WINDOW = 256 << 10 };

enum fp_page_state { FP_PAGE_NONE, FP_PAGE_THERE, FP_PAGE_LOST };

/* Some part of a layer's data. Starts as zero; buffer is freed by the owner. */
typedef struct fp_fetch_window {
    const fp_layer *layer;
    uint64_t offset, len;
    uint8_t *buffer;
} fp_fetch_window;

typedef struct fp_fetch {
    const fp_view
        *view; /* set by the caller, as is all that follows until user; not below the view's base */
    fp_tail *tails[FP_FETCH_TAILS]; /* oldest first, then NULL */
    uint64_t pid, lsn;
    fp_fetch_window *windows; /* NULL, or one for images and one for each delta layer */
    void (*done)(struct fp_fetch *fetch);
    void *user;
    /* Results. */
    fp_kept error;
    enum fp_page_state state;
    unsigned order;
    uint64_t changed;   /* end of the last frame that changed it */
    uint8_t *page;      /* 4096 << order bytes, to be freed or kept by the caller */
    struct {            /* the fetch's */
        size_t room;    /* of page */
        uint32_t delta; /* layer being looked at */
        bool image_done;
        const fp_image_entry *image;
        fp_disk_req req;
        uint8_t *buffer; /* records of a delta layer */
        size_t buffer_room;
        uint64_t from, to;       /* what is in it, of the layer's data */
        fp_fetch_window *window; /* being filled */
    } own;
} fp_fetch;

/* True: it is over already, done() is not called. */
bool fp_fetch_start(fp_fetch *fetch);
/* Frees all but page, tails and windows. A fetch can be started again after it is over, with or without. */
void fp_fetch_fini(fp_fetch *fetch);

#endif
