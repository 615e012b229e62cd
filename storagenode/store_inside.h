/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a page store: store.c (requests), store_open.c, store_index.c (the WAL's end into memory),
 * store_convert.c (that into delta layers), store_merge.c (these into images), store_manifest.c.
 *
 * Four things go on at a time, each at most once: reading the WAL, converting, merging, and writing a manifest. A
 * conversion or merge that has its files ready waits for its manifest; when that is durable there is a new view. After
 * each step fp_store_kick looks for what can begin. One that failed is halted until somebody asks for it.
 */
#ifndef FP_STORAGENODE_STORE_INSIDE_H
#define FP_STORAGENODE_STORE_INSIDE_H

#include "storagenode/fetch.h"
#include "storagenode/store.h"

enum {
    FP_STORE_TAILS = FP_FETCH_TAILS - 1, /* in memory; the last is being filled */
    /* Whoever opens pages reads all log that is not in layers before the newest can be had. So much of it, in tails, */
    FP_STORE_YIELD_TAILS = 12, /* may there be before conversion competes with appends, */
    FP_STORE_LAG_TAILS = 16,   /* and before no more should come for a while */
};

enum fp_store_kind { FP_STORE_GET, FP_STORE_FLUSH, FP_STORE_FLUSH_LOG, FP_STORE_FENCE };

typedef struct fp_store_queue {
    fp_store_req *head, **tail;
} fp_store_queue;

/* A layer's file being written. */
typedef struct fp_layer_make {
    fp_maker maker;
    fp_footer footer;
    uint8_t *index; /* entries */
    size_t index_room;
    uint32_t *crcs; /* deltas: of chunks */
    size_t crcs_room;
    uint32_t crc; /* of the chunk being filled */
} fp_layer_make;

/* The oldest tail, which is being converted, or a layer made of it. The pieces of the file are put together by the disk's
 * thread; while it does (job is under way) it alone uses what is marked with J. */
typedef struct fp_convert {
    bool busy;
    fp_kept halted;
    fp_layer *ready;
    fp_disk_req job;
    const fp_tail *tail;          /* does not change any more */
    size_t piece_bytes;           /* nor does this: at least so much of the layer at a time */
    fp_layer_make make;           /* J, but for what is the maker's: see fp_maker_push */
    fp_tail_page *pages;          /* J: sorted; NULL: not yet */
    uint32_t at;                  /* J: of pages, the one being put */
    const fp_tail_record *record; /* J: its next one; NULL: a page begins */
    bool complete;                /* J: index and footer are added as well */
    fp_kept failed;               /* J */
} fp_convert;

/* Deltas on their way into images. */
typedef struct fp_merge {
    bool busy;
    bool ready; /* its images wait for their manifest */
    fp_kept halted;
    uint32_t tried;    /* one that has failed is tried again when there are more deltas than that */
    fp_view *view;     /* that it began with */
    uint32_t deltas;   /* how many of the view's it merges, the oldest */
    uint64_t to;       /* where they end */
    uint32_t at;       /* image layer of the view that is to be looked at */
    uint32_t upto;     /* end of the run of image layers that is being replaced */
    uint64_t pid, end; /* pages of [pid, end) are still to be put into the run's new layers */
    fp_layer **made;   /* images of the next view, held */
    uint32_t made_count, made_room;
    fp_disk_req begin;
    bool fetching; /* a page, by fetch */
    bool making;   /* a file, by make */
    fp_fetch fetch;
    fp_layer_make make;
} fp_merge;

typedef struct fp_indexing {
    bool busy;
    fp_kept halted;
    fp_wal_req req;
    fp_log_piece *piece; /* held; NULL: none yet. Log is read to its `used` */
    uint64_t needed;     /* bytes of the next frame, if it does not fit there; 0: not known */
} fp_indexing;

enum fp_write_kind {
    FP_WRITE_NONE,
    FP_WRITE_OPEN,
    FP_WRITE_CONVERT,
    FP_WRITE_MERGE,
    FP_WRITE_FENCE
};

/* A manifest being written, and what holds when it is durable. */
typedef struct fp_manifest_write {
    enum fp_write_kind kind;
    fp_kept halted; /* of a fence or opening it goes to the caller instead */
    fp_maker maker;
    fp_manifest manifest;
    fp_view *view;
} fp_manifest_write;

struct fp_store_opening; /* store_open.c */

struct fp_store {
    fp_volume *volume;
    fp_disk *disk;
    fp_wal *wal;
    fp_pages *pages;
    fp_store_options options;
    uint64_t generation, keep;
    bool opened, closing, closed;
    bool log_held; /* no trims */
    bool told_damage;

    fp_view *view;
    fp_tail
        *tails[FP_STORE_TAILS + 1]; /* oldest first, then NULL; all but the last have their size */
    unsigned tail_count;
    uint64_t indexed; /* the last tail's end */

    fp_store_queue gets;            /* wait until what they are about is indexed */
    fp_store_queue flushes, fences; /* flushes: also those of the log */
    unsigned fetches;               /* GETs under way */
    fp_store_req *closer;
    fp_disk_req nop;
    bool nop_busy;

    fp_indexing index;
    fp_convert convert;
    fp_merge merge;
    fp_manifest_write write;
    struct {
        bool busy;
        uint64_t asked; /* LSN */
        fp_wal_req req;
    } trim;

    uint64_t log_bytes, written_bytes;
    int failed;
    struct fp_store_opening *opening;
};

/* Sets the sentence "volume V: pages of partition P: ..." and returns the code. */
int fp_store_say(const fp_store *store, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Starts what can be started; wherever something has ended. */
void fp_store_kick(fp_store *store);
void fp_store_push(fp_store_queue *queue, fp_store_req *req);
fp_store_req *fp_store_pop(fp_store_queue *queue); /* NULL: it is empty */
/* The newest LSN that is durable. */
uint64_t fp_store_durable(const fp_store *store);
/* Where the log that its pages are made of begins: see fp_manifest_header. */
uint64_t fp_store_beginning(const fp_store *store);
/* Bytes of log that are durable and not in layers yet. */
uint64_t fp_store_lag(const fp_store *store);
/* A new tail; the one before it has its size. E_NOMEM. */
int fp_store_new_tail(fp_store *store) FARPOOL_MUST_CHECK;

/* ---- each begins what it can, and is called by fp_store_kick --------------------------------- */

void fp_store_index(fp_store *store);
void fp_store_convert(fp_store *store);
void fp_store_merge(fp_store *store);
bool fp_store_must_merge(const fp_store *store);
/* The next manifest that somebody waits for. */
void fp_store_write(fp_store *store);
void fp_store_trim(fp_store *store);

/* What a manifest that is durable means for who waited for it. */
void fp_store_converted(fp_store *store);
void fp_store_merged(fp_store *store);
void fp_store_opened(fp_store *store, const fp_kept *error);

/* The view when the conversion or merge that is ready is in it. NULL: no memory. */
fp_view *fp_store_view_converted(const fp_store *store);
fp_view *fp_store_view_merged(const fp_store *store);

/* Starts a manifest of this view and generation. The view passes to it, also if it fails. E_NOMEM. */
int fp_store_write_start(fp_store *store, enum fp_write_kind kind, fp_view *view,
                         uint64_t generation) FARPOOL_MUST_CHECK;

void fp_store_merge_end(fp_store *store); /* frees all that it has */
void fp_store_open_free(fp_store *store);

/* ---- making layers (layer_make.c) ------------------------------------------------------------ */

/* expected: bytes of data, about. */
void fp_layer_make_init(fp_layer_make *make, const fp_store *store, enum fp_layer_kind kind,
                        uint64_t from, uint64_t to, uint64_t expected);
/* A page begins; its records follow. E_NOMEM. */
int fp_layer_make_page(fp_layer_make *make, uint64_t pid) FARPOOL_MUST_CHECK;
int fp_layer_make_record(fp_layer_make *make, const fp_delta_record *record,
                         const void *data) FARPOOL_MUST_CHECK;
/* bytes NULL: it is lost. */
int fp_layer_make_image(fp_layer_make *make, uint64_t pid, unsigned order, uint64_t changed,
                        const uint8_t *bytes) FARPOOL_MUST_CHECK;
/* Adds index and footer: what is left is fp_maker_finish. E_NOMEM. */
int fp_layer_make_end(fp_layer_make *make) FARPOOL_MUST_CHECK;
/* After the maker is done. NULL: no memory. */
fp_layer *fp_layer_make_layer(fp_layer_make *make);
void fp_layer_make_free(fp_layer_make *make);

#endif
