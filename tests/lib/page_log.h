/* SPDX-License-Identifier: Apache-2.0 */
/* A log that changes pages at random, and what each page is after each of its frames. */
#ifndef FP_TESTS_LIB_PAGE_LOG_H
#define FP_TESTS_LIB_PAGE_LOG_H

#include "tests/lib/wal_log.h"

enum { PAGE_LOG_PAGES = 48, PAGE_LOG_ORDER_MAX = 2, PAGE_LOG_BYTES_MAX = 4096 << 2 };

typedef struct page_change {
    uint64_t lsn; /* the frame's end */
    size_t at;    /* of the record in the log's bytes */
    uint64_t pid;
} page_change;

typedef struct page_log {
    wal_log log;
    uint64_t random;
    page_change *changes; /* in the log's order */
    size_t count, room;
} page_log;

void page_log_open(page_log *pages, uint64_t partition, uint64_t start, uint64_t seed);
void page_log_close(page_log *pages);
/* The pid of the i-th page; there are PAGE_LOG_PAGES. */
uint64_t page_log_pid(unsigned i);
/* Adds frames that begin, change and end pages, or only of the pages [first, first + count). */
void page_log_frames(page_log *pages, uint64_t epoch, unsigned frames);
void page_log_frames_of(page_log *pages, uint64_t epoch, unsigned frames, unsigned first,
                        unsigned count);
/* Forgets frames that end behind lsn. */
void page_log_truncate(page_log *pages, uint64_t lsn);
/* The page after all frames that end at or below lsn, of 4096 << *order bytes; false: there is none. */
bool page_log_page(const page_log *pages, uint64_t pid, uint64_t lsn, uint8_t *page,
                   unsigned *order);

#endif
