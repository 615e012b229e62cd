/* SPDX-License-Identifier: Apache-2.0 */
/* A volume with a WAL and a page store, whose requests are waited for, and the log they are made of. */
#ifndef FP_TESTS_LIB_PAGE_STORE_H
#define FP_TESTS_LIB_PAGE_STORE_H

#include "storagenode/store.h"
#include "tests/lib/disk_scope.h"
#include "tests/lib/page_log.h"

typedef struct page_store {
    fp_disk *disk;
    fp_volume *volume;
    fp_wal_options wal_options;
    fp_wal *wal;
    fp_store_options options;
    fp_store *store;
    page_log log;
} page_store;

/* Small segments, layers and images, so that little log makes many of them. The disk is open; nothing else is. */
void page_store_init(page_store *s, fp_disk *disk, uint64_t partition, uint64_t seed);
void page_store_fini(page_store *s); /* all is closed */

/* Each returns what it ended with; what it has opened before is closed then, too. */
int page_store_open(page_store *s); /* volume (unless it is there), WAL and store */
int page_store_close(page_store *s, bool volume);
/* Closes all, the disk too. Has to succeed. */
void page_store_end(page_store *s);
/* Frees what is open of a closed disk. */
void page_store_forget(page_store *s);

/* Appends to the WAL what the log has more, and tells the store. */
int page_store_append(page_store *s);
/* The same with so many frames more, by owner 1. Has to succeed. */
void page_store_add(page_store *s, unsigned frames);
fp_store_stats page_store_stats(const page_store *s);
int page_store_get(page_store *s, uint64_t pid, uint64_t lsn, fp_store_req *req);
int page_store_flush(page_store *s);
int page_store_fence(page_store *s, uint64_t generation);
/* Polls until nothing happens in the background any more. */
void page_store_rest(page_store *s);
/* The page is what it should be after lsn (0: the newest), or cannot be had: the status then. */
int page_store_check(page_store *s, uint64_t pid, uint64_t lsn);
/* All pages, newest and at each of `times` LSNs that are kept, are what they should be. */
void page_store_check_all(page_store *s, unsigned times);

#endif
