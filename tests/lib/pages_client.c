/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/pages_client.h"

#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "storagenode/check.h"
#include "tests/lib/require.h"

void test_pages_give(logclient *c, const page_log *owner, uint64_t from)
{
    do
        REQUIRE(logclient_wal_open(c, owner->log.partition, 1, PAGES_CLIENT_FRAME, from) ==
                FP_MSG_WAL_STATE);
    while (!c->msg.wal.streaming);
    while (c->landed < owner->log.end) {
        uint64_t to = wal_log_after(&owner->log, c->landed, 8);
        REQUIRE(logclient_stream(c, &owner->log, to) == FP_MSG_WAL_STATE);
    }
}

static int get_page(logclient *c, uint64_t partition, uint64_t pid, uint64_t lsn, uint8_t *page,
                    unsigned *order)
{
    uint32_t at = 0;
    do {
        fp_msg msg = {
            .type = FP_MSG_PAGE_GET, .partition = partition, .pid = pid, .lsn = lsn, .offset = at};
        int rc = logclient_ask(c, msg);
        if (rc != FP_MSG_PAGE)
            return rc;
        *order = c->msg.order;
        memcpy(page + at, c->msg.data, c->msg.data_len);
        at += c->msg.data_len;
    } while (at < 4096u << *order);
    return 0;
}

int test_pages_compare(logclient *c, const page_log *owner, uint64_t lsn)
{
    static uint8_t got[PAGE_LOG_BYTES_MAX], page[PAGE_LOG_BYTES_MAX];
    int failed = 0;
    for (unsigned i = 0; i < PAGE_LOG_PAGES; i++) {
        unsigned order = 0, wanted = 0;
        int rc = get_page(c, owner->log.partition, page_log_pid(i), lsn, got, &order);
        if (rc && rc != FARPOOL_E_NOTFOUND) {
            failed = rc;
            continue;
        }
        bool there =
            page_log_page(owner, page_log_pid(i), lsn ? lsn : owner->log.end, page, &wanted);
        REQUIRE(there == !rc);
        REQUIRE(rc || (order == wanted && !memcmp(got, page, 4096u << order)));
    }
    return failed;
}

void test_pages_check(const char *volume)
{
    FILE *out = tmpfile();
    REQUIRE(out);
    int rc = fp_volume_check_print(volume, out, false);
    char line[512];
    rewind(out);
    while (rc && fgets(line, sizeof line, out))
        fputs(line, stderr);
    fclose(out);
    test_must(rc, "checking a volume");
}

bool test_pages_hurt(const char *volume, const char *pattern, long at, size_t bytes)
{
    char path[512];
    glob_t found;
    const char *largest = NULL;
    off_t size = 0;
    snprintf(path, sizeof path, "%s/%s", volume, pattern);
    int rc = glob(path, 0, NULL, &found);
    REQUIRE(!rc || rc == GLOB_NOMATCH);
    for (size_t i = 0; !rc && i < found.gl_pathc; i++) {
        struct stat status;
        REQUIRE(!stat(found.gl_pathv[i], &status));
        if (status.st_size > size) {
            size = status.st_size;
            largest = found.gl_pathv[i];
        }
    }
    bool long_enough = largest && (at < 0 ? -at <= size : at + (long)bytes <= size);
    if (long_enough) {
        FILE *file = fopen(largest, "r+");
        REQUIRE(file && !fseek(file, at, at < 0 ? SEEK_END : SEEK_SET));
        for (size_t i = 0; i < bytes; i++)
            REQUIRE(fputc(0x5A, file) == 0x5A);
        REQUIRE(!fclose(file));
    }
    if (!rc)
        globfree(&found);
    return long_enough;
}
