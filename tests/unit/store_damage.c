/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a page store and a check of its volume say about files that are rotten, cut, mixed up, lost or may not be
 * read; that nothing wrong is ever served; what becomes of files that a crash left; and that full and failing disks are
 * got over. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc.h"
#include "storagenode/check.h"
#include "storagenode/file_format.h"
#include "tests/lib/page_store.h"
#include "tests/lib/require.h"

enum { BLOCK = FP_DISK_ALIGN, PARTITION = 7, NAMES = 64 };

#define MANIFEST "pages-0000000000000007-manifest"

/* Some images, some deltas and a tail, closed. */
static page_store begin(void)
{
    page_store s;
    page_store_init(&s, disk_begin(NULL), PARTITION, 1);
    s.options.merge_layers = 100;
    assert_int_equal(page_store_open(&s), 0);
    page_store_add(&s, 200);
    assert_int_equal(page_store_flush(&s), 0);
    page_store_add(&s, 100);
    page_store_rest(&s);
    assert_int_equal(page_store_close(&s, true), 0);
    return s;
}

/* ---- files ----------------------------------------------------------------------------------- */

typedef struct layer_files {
    char images[NAMES][FP_FILE_NAME_MAX], deltas[NAMES][FP_FILE_NAME_MAX];
    unsigned image_count, delta_count;
} layer_files;

static uint64_t size_of(fp_disk *disk, const char *name)
{
    fp_disk_file *file = disk_open_file(disk, name, FP_DISK_READ_ONLY);
    fp_disk_req req = {.kind = FP_DISK_SIZE, .file = file};
    assert_int_equal(disk_do(disk, &req), 0);
    assert_int_equal(disk_close_file(disk, file), 0);
    return req.size;
}

static uint8_t *load(fp_disk *disk, const char *name, uint64_t *size)
{
    *size = size_of(disk, name);
    uint8_t *bytes = disk_buffer(*size, 0);
    fp_disk_file *file = disk_open_file(disk, name, FP_DISK_READ_ONLY);
    assert_int_equal(disk_read(disk, file, 0, bytes, *size), 0);
    assert_int_equal(disk_close_file(disk, file), 0);
    return bytes;
}

static void save(fp_disk *disk, const char *name, const uint8_t *bytes, uint64_t size, bool create)
{
    fp_disk_file *file = disk_open_file(disk, name, create ? FP_DISK_CREATE : FP_DISK_EXISTING);
    assert_int_equal(disk_write(disk, file, 0, bytes, size), 0);
    assert_int_equal(disk_file_op(disk, FP_DISK_TRUNCATE, file, size), 0);
    assert_int_equal(disk_close_file(disk, file), 0);
}

static layer_files find_layers(fp_disk *disk)
{
    layer_files files = {0};
    fp_disk_req list = {.kind = FP_DISK_LIST};
    uint8_t hash[FP_FILE_HASH_BYTES];
    assert_int_equal(disk_do(disk, &list), 0);
    for (const char *name = list.names; *name; name += strlen(name) + 1) {
        uint64_t size;
        fp_footer footer;
        if (!fp_file_parse(name, hash))
            continue;
        uint8_t *bytes = load(disk, name, &size);
        assert_null(fp_footer_get(bytes + size - BLOCK, size, &footer));
        char *to = footer.kind == FP_LAYER_IMAGE ? files.images[files.image_count++]
                                                 : files.deltas[files.delta_count++];
        snprintf(to, FP_FILE_NAME_MAX, "%s", name);
        free(bytes);
    }
    free(list.names);
    return files;
}

enum damage { FLIP, ZERO, CUT, GROWN, EMPTY, OTHER, GONE, DAMAGES };

/* Block of the file, counted from its beginning, or from its end if negative. */
static void hurt(fp_disk *disk, const char *name, enum damage damage, int block, const char *other)
{
    uint64_t size, other_size;
    uint8_t *bytes = load(disk, name, &size);
    uint64_t at = block < 0 ? size - (uint64_t)-block * BLOCK : (uint64_t)block * BLOCK;
    uint8_t *grown = disk_buffer(size + BLOCK, 0);
    memcpy(grown, bytes, size);
    grown[at + 40] ^= damage == FLIP ? 4 : 0;
    if (damage == ZERO)
        memset(grown + at, 0, BLOCK);
    free(bytes);
    if (damage == OTHER) {
        bytes = load(disk, other, &other_size);
        save(disk, name, bytes, other_size, false);
        free(bytes);
    } else if (damage == GONE) {
        assert_int_equal(disk_unlink(disk, name), 0);
    } else if (damage == EMPTY) {
        fp_disk_file *file = disk_open_file(disk, name, FP_DISK_EXISTING);
        assert_int_equal(disk_file_op(disk, FP_DISK_TRUNCATE, file, 0), 0);
        assert_int_equal(disk_close_file(disk, file), 0);
    } else {
        uint64_t now = damage == CUT ? size - BLOCK : damage == GROWN ? size + BLOCK : size;
        save(disk, name, grown, now, false);
    }
    free(grown);
}

static void mend(fp_disk *disk, const char *name, const uint8_t *bytes, uint64_t size)
{
    (void)disk_unlink(disk, name); /* it may be gone */
    save(disk, name, bytes, size, true);
}

/* ---- checking -------------------------------------------------------------------------------- */

static char seen_file[FP_FILE_NAME_MAX];
static uint64_t seen_offset;

static void see(void *arg, const fp_check_problem *problem)
{
    (void)arg;
    snprintf(seen_file, sizeof seen_file, "%s", problem->file);
    seen_offset = problem->offset;
}

static fp_check_counts check(page_store *s)
{
    fp_check_counts counts;
    assert_int_equal(fp_volume_check(s->disk, see, NULL, &counts), 0);
    return counts;
}

static void expect_problem(page_store *s, const char *file)
{
    assert_true(check(s).problems > 0);
    assert_string_equal(seen_file, file);
}

/* Every page is right, or E_CORRUPT that names the file; how many are. */
static unsigned count_corrupt(page_store *s, const char *file)
{
    unsigned corrupt = 0;
    for (unsigned i = 0; i < PAGE_LOG_PAGES; i++) {
        int rc = page_store_check(s, page_log_pid(i), 0);
        if (!rc)
            continue;
        assert_int_equal(rc, FARPOOL_E_CORRUPT);
        if (!strstr(farpool_errmsg(), file))
            fail_msg("'%s' does not name %s", farpool_errmsg(), file);
        assert_non_null(strstr(farpool_errmsg(), "offset"));
        corrupt++;
    }
    return corrupt;
}

static void damaged_layer(page_store *s, const char *name, enum damage damage, int block,
                          const char *other)
{
    uint64_t size;
    uint8_t *good = load(s->disk, name, &size);
    hurt(s->disk, name, damage, block, other);
    expect_problem(s, name);
    for (int i = 0; i < 2; i++) { /* nothing changes by opening it */
        assert_int_equal(page_store_open(s), 0);
        assert_true(count_corrupt(s, name) > 0);
        assert_int_equal(page_store_flush(s), FARPOOL_E_CORRUPT);
        assert_int_equal(page_store_stats(s).failed, FARPOOL_E_CORRUPT);
        assert_true(count_corrupt(s, name) > 0);
        assert_int_equal(page_store_close(s, true), 0);
    }
    mend(s->disk, name, good, size);
    free(good);
    assert_int_equal(page_store_open(s), 0);
    page_store_check_all(s, 2);
    assert_int_equal(page_store_close(s, true), 0);
    assert_int_equal(check(s).problems, 0);
}

static void damaged_layers_are_told_of(void **state)
{
    (void)state;
    page_store s = begin();
    layer_files files = find_layers(s.disk);
    assert_true(files.image_count > 2 && files.delta_count > 2);
    fp_check_counts counts = check(&s);
    assert_int_equal(counts.problems, 0);
    assert_true(counts.pages && counts.records && counts.wals == 1 && counts.manifests == 1);
    for (enum damage damage = FLIP; damage < DAMAGES; damage++) {
        damaged_layer(&s, files.images[0], damage, 0, files.images[1]); /* a page */
        damaged_layer(&s, files.deltas[0], damage, 0, files.deltas[1]); /* a chunk */
        if (damage > ZERO)
            continue;
        damaged_layer(&s, files.images[1], damage, -2, NULL); /* the index */
        damaged_layer(&s, files.deltas[1], damage, -2, NULL);
        damaged_layer(&s, files.images[1], damage, -1, NULL); /* the footer */
        damaged_layer(&s, files.deltas[1], damage, -1, NULL);
    }
    page_store_end(&s);
}

static void damaged_manifests_are_told_of(void **state)
{
    (void)state;
    page_store s = begin();
    layer_files files = find_layers(s.disk);
    uint64_t size;
    uint8_t *good = load(s.disk, MANIFEST, &size);
    hurt(s.disk, MANIFEST, FLIP, 0, NULL); /* one copy */
    expect_problem(&s, MANIFEST);
    assert_int_equal(page_store_open(&s), 0);
    page_store_check_all(&s, 2);
    assert_int_equal(page_store_close(&s, true), 0);
    assert_int_equal(check(&s).problems, 0); /* it was written anew */
    mend(s.disk, MANIFEST, good, size);
    for (enum damage damage = FLIP; damage < DAMAGES; damage++) {
        hurt(s.disk, MANIFEST, damage, 0, files.images[0]);
        if (damage == FLIP || damage == ZERO)
            hurt(s.disk, MANIFEST, damage, -1, NULL);
        assert_true(check(&s).problems > 0);
        assert_int_equal(page_store_open(&s), FARPOOL_E_CORRUPT);
        assert_non_null(strstr(farpool_errmsg(), "manifest"));
        assert_int_equal(page_store_open(&s), FARPOOL_E_CORRUPT);
        layer_files now = find_layers(s.disk); /* nothing is removed */
        assert_int_equal(now.image_count, files.image_count);
        assert_int_equal(now.delta_count, files.delta_count);
        mend(s.disk, MANIFEST, good, size);
        assert_int_equal(page_store_open(&s), 0);
        assert_int_equal(page_store_close(&s, true), 0);
    }
    free(good);
    page_store_end(&s);
}

/* What begins at this offset, with its checksum so many bytes behind, is of a later version. */
static void make_later(uint8_t *bytes, size_t crc_at)
{
    uint32_t version = FP_FILE_VERSION + 1;
    memcpy(bytes + offsetof(fp_footer, version), &version, sizeof version);
    uint32_t crc = fp_crc32c(0, bytes, crc_at);
    memcpy(bytes + crc_at, &crc, sizeof crc);
}

/* It is no damage, so nobody puts something else in its place. */
static void other_versions_are_left_alone(void **state)
{
    (void)state;
    page_store s = begin();
    layer_files files = find_layers(s.disk);
    const char *names[] = {MANIFEST, files.deltas[0], files.images[0]};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t size, now;
        uint8_t *good = load(s.disk, names[i], &size), *later = load(s.disk, names[i], &size);
        if (i)
            make_later(later + size - BLOCK, offsetof(fp_footer, crc));
        for (unsigned copy = 0; !i && copy < FP_MANIFEST_COPIES; copy++)
            make_later(later + copy * size / FP_MANIFEST_COPIES, offsetof(fp_manifest_header, crc));
        save(s.disk, names[i], later, size, false);
        assert_int_equal(page_store_open(&s), FARPOOL_E_UNSUPPORTED);
        assert_non_null(strstr(farpool_errmsg(), "version"));
        uint8_t *found = load(s.disk, names[i], &now);
        assert_int_equal(now, size);
        assert_memory_equal(found, later, size);
        free(found);
        free(later);
        save(s.disk, names[i], good, size, false);
        free(good);
        assert_int_equal(page_store_open(&s), 0);
        page_store_check_all(&s, 2);
        assert_int_equal(page_store_close(&s, true), 0);
    }
    page_store_end(&s);
}

static void what_a_crash_leaves_is_removed(void **state)
{
    (void)state;
    page_store s = begin();
    layer_files files = find_layers(s.disk);
    uint64_t size;
    uint8_t *delta = load(s.disk, files.deltas[0], &size), *manifest;
    uint64_t manifest_size;
    manifest = load(s.disk, MANIFEST, &manifest_size);
    assert_int_equal(page_store_open(&s), 0);
    assert_int_equal(page_store_flush(&s), 0);
    assert_int_equal(page_store_close(&s, true), 0);
    save(s.disk, files.deltas[0], delta, size, true); /* was removed by the merge */
    save(s.disk, "file-12.tmp", delta, size, true);
    save(s.disk, "other", delta, size, true);
    assert_int_equal(check(&s).problems, 0);
    assert_int_equal(check(&s).unnamed, 1);
    assert_int_equal(page_store_open(&s), 0);
    page_store_check_all(&s, 1);
    assert_int_equal(page_store_close(&s, true), 0);
    layer_files now = find_layers(s.disk);
    assert_int_equal(now.delta_count, 0);
    assert_int_equal(check(&s).unnamed, 0);
    assert_int_equal(disk_unlink(s.disk, "file-12.tmp"), FARPOOL_E_NOTFOUND);
    assert_int_equal(disk_unlink(s.disk, "other"), 0); /* somebody else's */
    free(delta);
    free(manifest);
    page_store_end(&s);
}

static void a_lost_manifest_loses_no_files(void **state)
{
    (void)state;
    page_store s = begin();
    layer_files files = find_layers(s.disk), now;
    assert_int_equal(disk_unlink(s.disk, MANIFEST), 0);
    assert_int_equal(page_store_open(&s), FARPOOL_E_CORRUPT);
    assert_non_null(strstr(farpool_errmsg(), "missing"));
    assert_int_equal(page_store_open(&s), FARPOOL_E_CORRUPT);
    now = find_layers(s.disk);
    assert_int_equal(now.delta_count, files.delta_count);
    assert_true(check(&s).problems > 0);
    page_store_end(&s);
}

/* ---- a disk that fails ----------------------------------------------------------------------- */

/* Every kind of request, at each place, fails once or for a while; then all is well again. */
static void failing_requests_are_got_over(void **state)
{
    (void)state;
    const int errors[] = {ENOSPC, EIO, EACCES};
    const enum fp_disk_kind kinds[] = {
        FP_DISK_OPEN,     FP_DISK_WRITE,  FP_DISK_ALLOCATE, FP_DISK_SYNC,  FP_DISK_RENAME,
        FP_DISK_SYNC_DIR, FP_DISK_UNLINK, FP_DISK_TRUNCATE, FP_DISK_CLOSE, FP_DISK_WORK};
    if (!disk_is_sim())
        return;
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        page_store s = begin();
        assert_int_equal(page_store_open(&s), 0);
        for (unsigned nth = 1; nth <= 12; nth++) {
            page_store_add(&s, 30);
            page_store_rest(&s);
            fp_disk_sim_fail(disk_medium(), kinds[k], nth, errors[nth % 3]);
            int rc = page_store_flush(&s);
            if (rc)
                assert_int_equal(strstr(farpool_errmsg(), "volume") != NULL, 1);
            page_store_check_all(&s, 1);
            fp_disk_sim_fail(disk_medium(), kinds[k], 0, 0);
            assert_int_equal(page_store_flush(&s), 0);
            page_store_check_all(&s, 1);
        }
        assert_int_equal(page_store_close(&s, true), 0);
        assert_int_equal(page_store_open(&s), 0);
        page_store_check_all(&s, 1);
        assert_int_equal(page_store_close(&s, true), 0);
        assert_int_equal(check(&s).problems, 0);
        assert_int_equal(check(&s).unnamed, 0);
        page_store_end(&s);
    }
}

static void a_read_that_fails_is_no_damage(void **state)
{
    (void)state;
    fp_store_req req;
    if (!disk_is_sim())
        return;
    page_store s = begin();
    const int errors[] = {EIO, EACCES};
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned nth = 1; nth < 12; nth++) {
            fp_disk_sim_fail(disk_medium(), nth % 2 ? FP_DISK_READ : FP_DISK_OPEN, nth, errors[i]);
            int rc = page_store_open(&s);
            if (!i && nth == 1) { /* the manifest: another copy is looked for, of this partition */
                assert_int_equal(rc, FARPOOL_E_CORRUPT);
                assert_non_null(strstr(farpool_errmsg(), MANIFEST));
            } else {
                assert_true(!rc || rc == (i ? FARPOOL_E_REFUSED : FARPOOL_E_IO));
            }
            fp_disk_sim_fail(disk_medium(), nth % 2 ? FP_DISK_READ : FP_DISK_OPEN, 0, 0);
            assert_int_equal(page_store_close(&s, true), 0);
        }
    }
    assert_int_equal(page_store_open(&s), 0);
    assert_int_equal(page_store_flush(&s), 0);
    unsigned there = 0;
    for (unsigned i = 0; i < PAGE_LOG_PAGES; i++) {
        int rc = page_store_get(&s, page_log_pid(i), 0, &req);
        if (rc)
            continue;
        free(req.page);
        there++;
        fp_disk_sim_fail(disk_medium(), FP_DISK_READ, 1, EIO);
        assert_int_equal(page_store_get(&s, page_log_pid(i), 0, &req), FARPOOL_E_IO);
        assert_int_equal(page_store_check(&s, page_log_pid(i), 0), 0);
    }
    assert_true(there > 10);
    page_store_end(&s);
}

static void a_full_disk_can_be_read(void **state)
{
    (void)state;
    if (!disk_is_sim())
        return;
    page_store s = begin();
    assert_int_equal(page_store_open(&s), 0);
    /* The WAL has a segment in advance: a little log fits, layers do not. */
    fp_disk_sim_configure(disk_medium(), &(fp_disk_sim_config){.capacity_bytes = BLOCK});
    unsigned refused = 0;
    for (unsigned i = 0; i < 30 && !refused; i++) {
        page_log_frames(&s.log, 1, 5);
        refused += page_store_append(&s) == FARPOOL_E_NOSPACE;
        page_store_rest(&s);
        page_log_truncate(&s.log, fp_wal_end(s.wal));
        page_store_check_all(&s, 1);
    }
    assert_int_equal(refused, 1);
    assert_int_equal(page_store_flush(&s), FARPOOL_E_NOSPACE);
    assert_int_equal(page_store_fence(&s, 9), FARPOOL_E_NOSPACE);
    page_store_check_all(&s, 1);
    fp_disk_sim_configure(disk_medium(), &(fp_disk_sim_config){0});
    page_store_add(&s, 100);
    assert_int_equal(page_store_flush(&s), 0);
    page_store_check_all(&s, 1);
    page_store_end(&s);
}

static void the_check_prints(void **state)
{
    (void)state;
    char text[4096] = "";
    if (disk_is_sim())
        return;
    page_store s = begin();
    layer_files files = find_layers(s.disk);
    for (int json = 0; json < 2; json++) {
        FILE *out = fmemopen(text, sizeof text, "w");
        assert_int_equal(fp_volume_check_print(disk_dir(), out, json), 0);
        fclose(out);
        assert_non_null(strstr(text, json ? "\"problems\": []" : "0 problems"));
    }
    hurt(s.disk, files.images[0], FLIP, 0, NULL);
    for (int json = 0; json < 2; json++) {
        FILE *out = fmemopen(text, sizeof text, "w");
        assert_int_equal(fp_volume_check_print(disk_dir(), out, json), FARPOOL_E_CORRUPT);
        fclose(out);
        assert_non_null(strstr(text, files.images[0]));
        assert_non_null(strstr(text, json ? "\"offset\": 0" : "offset 0: page"));
    }
    assert_int_equal(fp_volume_check_print("/nowhere", stdout, false), FARPOOL_E_NOTFOUND);
    page_store_end(&s);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_layers_are_told_of),
        cmocka_unit_test(damaged_manifests_are_told_of),
        cmocka_unit_test(other_versions_are_left_alone),
        cmocka_unit_test(what_a_crash_leaves_is_removed),
        cmocka_unit_test(a_lost_manifest_loses_no_files),
        cmocka_unit_test(failing_requests_are_got_over),
        cmocka_unit_test(a_read_that_fails_is_no_damage),
        cmocka_unit_test(a_full_disk_can_be_read),
        cmocka_unit_test(the_check_prints),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
