/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page store: the pages of one partition, made of its WAL. What has become durable in the WAL is turned into
 * layers (files, docs/storage.md) and trimmed from it; pages can be had as they were at any LSN that is still kept.
 *
 *   fp_volume_open -> fp_wal_open -> fp_store_open -> fp_store_log_durable, fp_store_get ... -> fp_store_close
 *   -> fp_store_free -> fp_wal_close -> fp_wal_free -> fp_volume_close -> fp_volume_free
 *
 * Threads and done() are as in storagenode/wal.h: everything is of the thread that polls the disk, done() is called
 * exactly once by fp_disk_poll or fp_disk_close if the function has returned 0, and never otherwise. During done()
 * farpool_errmsg() says what went wrong. done() may call everything here but fp_store_free. Layers' bytes are put together
 * by the disk's own thread (docs/storage.md, Threads); nobody has to know that.
 *
 * When the disk is full or fails, what is durable can still be read (as far as READ works); what could not be done in
 * the background is tried again with the next fp_store_log_durable or fp_store_flush. Nothing that fails its checksum
 * is ever given out: E_CORRUPT, with file and offset.
 */
#ifndef FP_STORAGENODE_STORE_H
#define FP_STORAGENODE_STORE_H

#include <stdio.h>

#include "storagenode/volume.h"
#include "storagenode/wal.h"

typedef struct fp_store fp_store;
typedef struct fp_store_req fp_store_req;

typedef struct fp_store_options {
    uint64_t partition;
    /* Of the caller, e.g. its epoch: below the one in the manifest E_FENCED, above it goes into the manifest. */
    uint64_t generation;
    /* 0 stands for the value in brackets. */
    uint64_t
        convert_bytes; /* of log in a delta layer, about; up to five times that is in memory (16 MiB) */
    uint64_t image_bytes; /* of pages in an image layer, about, at most 1 GiB (64 MiB) */
    uint64_t trim_bytes;  /* the WAL is trimmed by so much at a time (FP_WAL_SEGMENT_BYTES) */
    /* Deltas are merged into images when there are more than this (8) and they have a quarter of the images' bytes, or
     * when there are four times as many. */
    unsigned merge_layers;
    /* Work in the background has met with damage, of layers or (fp_store_log_damage) of the log, which farpool_errmsg()
     * says. Called once, from within the store: nothing is done to it. NULL: nobody is told. */
    void (*damaged)(void *user);
    void *user;
} fp_store_options;

struct fp_store_req {
    void (*done)(fp_store_req *req); /* set by the caller, as is user */
    void *user;
    int status;
    uint64_t
        pid; /* GET: set by the caller, as is lsn: of which time; 0: of the newest that is durable */
    uint64_t
        lsn; /* GET: which that was; FLUSH: up to here all is in images; FLUSH_LOG: see there; OPEN: in layers */
    unsigned order;   /* GET */
    uint64_t changed; /* GET: end of the last frame that changed the page */
    uint8_t *page;    /* GET: 4096 << order bytes, aligned to 4096; the caller's to free() */
    struct {          /* the store's */
        int kind;
        uint64_t generation;
        fp_store_req *next;
    } own;
};

typedef struct fp_store_stats {
    uint64_t log_bytes;                /* taken from the WAL since it was opened */
    uint64_t written_bytes;            /* to layers and manifests since it was opened */
    uint64_t delta_bytes, image_bytes; /* of layers' files now */
    uint64_t page_bytes;               /* of the pages in images now */
    uint64_t beginning;                /* see fp_manifest_header (storagenode/file_format.h) */
    uint64_t base;                     /* LSN of the images: what was before cannot be read */
    uint64_t converted;                /* LSN: the log up to here is in layers */
    uint64_t indexed;                  /* LSN: up to here pages can be had now */
    unsigned deltas, images;           /* layers */
    unsigned damaged; /* layers that could not be opened: what needs them is E_CORRUPT */
    int failed;       /* what the last background work ended with; 0: well */
} fp_store_stats;

/* *store is there at once, for fp_store_free; to be used once done() has said 0. The volume and the WAL are open, and
 * remain so until the store is closed. The log must not have been trimmed by anybody else.
 * What was not in the log from its beginning on, and has no layers, is E_CORRUPT for GETs, not E_NOTFOUND.
 * done: E_FENCED, E_CORRUPT (the manifest, or the WAL does not have what follows on it; a layer that is damaged or
 * missing is no error here, but in stats, and for who needs it), E_IO, E_NOSPACE and what else the disk gives.
 * Returns: E_INVAL, E_BUSY (it is open), E_NOMEM. */
int fp_store_open(fp_volume *volume, fp_wal *wal, const fp_store_options *options,
                  fp_store_req *req, fp_store **store) FARPOOL_MUST_CHECK;
/* Lets GETs finish; what is being done in the background is ended, and done again after the next opening. */
void fp_store_close(fp_store *store, fp_store_req *req);
/* It is closed, or the disk is. NULL is allowed. */
void fp_store_free(fp_store *store);

/* More is durable in the WAL, or there is space again: call it when appends are done. */
void fp_store_log_durable(fp_store *store);

/* The page req->pid as it is after all frames that end at or below req->lsn. done: E_NOTFOUND (no page then), E_RETRY
 * (not durable yet), E_INVAL (below what is kept), E_CORRUPT (a checksum, or the log has changes of the page but not
 * its beginning), E_IO, E_NOMEM. It waits for what is durable to be read from the WAL. Returns: E_NOMEM. */
int fp_store_get(fp_store *store, fp_store_req *req) FARPOOL_MUST_CHECK;

/* LSNs from this one on stay readable; it never falls. UINT64_MAX, which it is at first: what a merge leaves. */
void fp_store_keep(fp_store *store, uint64_t lsn);
/* Turns all that is durable into layers, and these into images as far as keep allows, however little it is. */
int fp_store_flush(fp_store *store, fp_store_req *req) FARPOOL_MUST_CHECK;
/* Turns the log up to req->lsn, which is durable, into layers, however little it is; images stay as they are. */
int fp_store_flush_log(fp_store *store, fp_store_req *req) FARPOOL_MUST_CHECK;
/* While it is held the WAL is not trimmed. */
void fp_store_hold_log(fp_store *store, bool hold);
/* Makes this generation durable: one that is lower cannot open the pages any more. E_FENCED: there is a higher one. */
int fp_store_fence(fp_store *store, uint64_t generation, fp_store_req *req) FARPOOL_MUST_CHECK;

/* What the last background work ended with; 0: well. */
int fp_store_failed(const fp_store *store);
/* The LSN from which on the log cannot be read back, for it is damaged, so no layers are made of it; 0: none is known. */
uint64_t fp_store_log_damage(const fp_store *store);
/* So much log is not in layers yet that no more should come for a while. False if that would not help: conversion has
 * failed. */
bool fp_store_is_behind(const fp_store *store);
void fp_store_get_stats(const fp_store *store, fp_store_stats *stats);

#endif
