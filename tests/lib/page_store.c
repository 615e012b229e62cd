/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/page_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/kept.h"
#include "tests/lib/require.h"

enum { BLOCK = FP_DISK_ALIGN, RING = 32 * BLOCK };

void page_store_init(page_store *s, fp_disk *disk, uint64_t partition, uint64_t seed)
{
    *s = (page_store){.disk = disk,
                      .wal_options = {.partition = partition,
                                      .landing = disk_buffer(RING, 0),
                                      .landing_bytes = RING,
                                      .start = FP_REDO_LSN_FIRST,
                                      .segment_bytes = 4 * BLOCK},
                      .options = {.partition = partition,
                                  .generation = 1,
                                  .convert_bytes = 3 * BLOCK,
                                  .image_bytes = 8 * BLOCK,
                                  .trim_bytes = BLOCK,
                                  .merge_layers = 3}};
    page_log_open(&s->log, partition, FP_REDO_LSN_FIRST, seed);
}

void page_store_fini(page_store *s)
{
    page_log_close(&s->log);
    free(s->wal_options.landing);
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Why it failed, before something else does in the same poll. */
static char reason[512];

static void count_store(fp_store_req *req)
{
    snprintf(reason, sizeof reason, "%s", farpool_errmsg());
    ++*(unsigned *)req->user;
}
static void count_volume(fp_volume_req *req) { ++*(unsigned *)req->user; }

static int wait_for(page_store *s, int rc, const unsigned *count, const int *status)
{
    if (rc)
        return rc;
    disk_wait(s->disk, count, 1);
    return *status;
}

static int wait_for_store(page_store *s, int rc, const unsigned *count, const int *status)
{
    rc = wait_for(s, rc, count, status);
    return rc && *count ? fp_error(rc, "%s", reason) : rc;
}

#define STORE_REQUEST                                                                              \
    unsigned count = 0;                                                                            \
    fp_store_req req = {.done = count_store, .user = &count}
#define VOLUME_REQUEST                                                                             \
    unsigned done = 0;                                                                             \
    fp_volume_req volume_req = {.done = count_volume, .user = &done}

static int open_volume(page_store *s)
{
    VOLUME_REQUEST;
    int rc = fp_volume_open(s->disk, &volume_req, &s->volume);
    rc = wait_for(s, rc, &done, &volume_req.status);
    if (rc) {
        fp_volume_free(s->volume);
        s->volume = NULL;
    }
    return rc;
}

int page_store_open(page_store *s)
{
    STORE_REQUEST;
    bool had_volume = s->volume;
    int rc = had_volume ? 0 : open_volume(s);
    if (rc)
        return rc;
    rc = wal_open(s->disk, &s->wal_options, &s->wal);
    if (!rc) {
        rc = fp_store_open(s->volume, s->wal, &s->options, &req, &s->store);
        rc = wait_for(s, rc, &count, &req.status);
        if (!rc)
            return 0;
        fp_store_free(s->store);
        s->store = NULL;
    }
    fp_kept kept = {0};
    fp_kept_set(&kept, rc);
    (void)page_store_close(s, !had_volume);
    return fp_kept_tell(&kept);
}

int page_store_close(page_store *s, bool volume)
{
    int rc = 0;
    if (s->store) {
        STORE_REQUEST;
        fp_store_close(s->store, &req);
        rc = wait_for(s, 0, &count, &req.status);
        fp_store_free(s->store);
        s->store = NULL;
    }
    if (s->wal) {
        int closed = wal_close(s->disk, s->wal);
        rc = rc ? rc : closed;
    }
    if (volume && s->volume) {
        VOLUME_REQUEST;
        fp_volume_close(s->volume, &volume_req);
        int closed = wait_for(s, 0, &done, &volume_req.status);
        rc = rc ? rc : closed;
        fp_volume_free(s->volume);
        s->volume = NULL;
    }
    s->wal = NULL;
    return rc;
}

void page_store_end(page_store *s)
{
    test_must(page_store_close(s, true), "closing");
    disk_end(s->disk);
    page_store_fini(s);
}

void page_store_forget(page_store *s)
{
    fp_store_free(s->store);
    fp_wal_free(s->wal);
    fp_volume_free(s->volume);
    s->store = NULL;
    s->wal = NULL;
    s->volume = NULL;
}

int page_store_append(page_store *s)
{
    int rc = 0;
    while (fp_wal_end(s->wal) < s->log.log.end && !rc) {
        uint64_t end = fp_wal_end(s->wal), room = fp_wal_landing_free(s->wal), upto = end;
        for (uint64_t next = end; next <= room; next = wal_log_after(&s->log.log, next, 1)) {
            upto = next;
            if (next == s->log.log.end)
                break;
        }
        REQUIRE(upto > end);
        wal_log_land(&s->log.log, s->wal_options.landing, RING, end, upto);
        rc = wal_append(s->disk, s->wal, upto);
    }
    fp_store_log_durable(s->store);
    return rc;
}

void page_store_add(page_store *s, unsigned frames)
{
    page_log_frames(&s->log, 1, frames);
    test_must(page_store_append(s), "appending");
}

fp_store_stats page_store_stats(const page_store *s)
{
    fp_store_stats stats;
    fp_store_get_stats(s->store, &stats);
    return stats;
}

int page_store_get(page_store *s, uint64_t pid, uint64_t lsn, fp_store_req *out)
{
    STORE_REQUEST;
    req.pid = pid;
    req.lsn = lsn;
    int rc = wait_for_store(s, fp_store_get(s->store, &req), &count, &req.status);
    REQUIRE(!rc == !!req.page);
    *out = req;
    return rc;
}

int page_store_flush(page_store *s)
{
    STORE_REQUEST;
    return wait_for(s, fp_store_flush(s->store, &req), &count, &req.status);
}

int page_store_fence(page_store *s, uint64_t generation)
{
    STORE_REQUEST;
    return wait_for(s, fp_store_fence(s->store, generation, &req), &count, &req.status);
}

void page_store_rest(page_store *s)
{
    /* What takes longer than that, on a busy machine, is under way all the same. */
    while (fp_disk_poll(s->disk, 50) > 0 || (s->disk->in_flight && !s->disk->dead))
        ;
}

/* ---- checking -------------------------------------------------------------------------------- */

int page_store_check(page_store *s, uint64_t pid, uint64_t lsn)
{
    static uint8_t page[PAGE_LOG_BYTES_MAX];
    fp_store_req got;
    unsigned order = 0;
    int rc = page_store_get(s, pid, lsn, &got);
    if (rc == FARPOOL_E_INVAL && lsn && lsn < page_store_stats(s).base)
        return 0; /* a merge was faster */
    bool there = page_log_page(&s->log, pid, got.lsn, page, &order);
    if (rc)
        return rc == FARPOOL_E_NOTFOUND && !there ? 0 : rc;
    REQUIRE(there && order == got.order && got.changed <= got.lsn);
    REQUIRE(!memcmp(page, got.page, (size_t)FARPOOL_UNIT_BYTES << order));
    free(got.page);
    return 0;
}

void page_store_check_all(page_store *s, unsigned times)
{
    for (unsigned n = 0; n <= times; n++) {
        fp_store_stats stats = page_store_stats(s);
        uint64_t span = fp_wal_durable(s->wal) - stats.base;
        uint64_t lsn = n ? stats.base + (span * n) / (times + 1) : 0;
        lsn = lsn && span ? lsn : 0;
        for (unsigned i = 0; i < PAGE_LOG_PAGES; i++)
            test_must(page_store_check(s, page_log_pid(i), lsn), "a page");
    }
}
