/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/check.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "common/kept.h"
#include "storagenode/file_format.h"
#include "storagenode/file_hash.h"
#include "storagenode/wal_format.h"

enum { READ_BYTES = 4 << 20, LANDING_BYTES = 2 * FP_WAL_BLOCK };

typedef struct checking {
    fp_disk *disk;
    void (*report)(void *arg, const fp_check_problem *problem);
    void *arg;
    fp_check_counts *counts;
    const char *names; /* of all files */
    char *named;       /* a flag for each: a manifest has it */
    struct {
        uint64_t partition, start;
    } * wals;         /* that could be opened; room for as many as there are names */
    const char *file; /* being looked at */
    uint8_t *bytes;   /* all of it */
    uint64_t size;
} checking;

static void problem(checking *c, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void problem(checking *c, uint64_t offset, const char *format, ...)
{
    char what[FP_KEPT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    c->counts->problems++;
    c->report(c->arg, &(fp_check_problem){.file = c->file, .offset = offset, .what = what});
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void count_disk(fp_disk_req *req) { *(bool *)req->user = true; }
static void count_wal(fp_wal_req *req) { *(bool *)req->user = true; }

static int wait_for(const checking *c, const bool *over)
{
    while (!*over) {
        int n = fp_disk_poll(c->disk, 1000);
        if (n < 0)
            return n;
    }
    return 0;
}

static int do_disk(const checking *c, fp_disk_req *req)
{
    bool over = false;
    req->done = count_disk;
    req->user = &over;
    fp_disk_submit(c->disk, req);
    int rc = wait_for(c, &over);
    return rc ? rc : req->status;
}

/* All of c->file; false: it cannot be read, which has been reported. */
static bool read_file(checking *c)
{
    fp_disk_req req = {.kind = FP_DISK_OPEN, .name = c->file, .mode = FP_DISK_READ_ONLY};
    free(c->bytes);
    c->bytes = NULL;
    if (do_disk(c, &req)) {
        problem(c, 0, "%s", farpool_errmsg());
        return false;
    }
    fp_disk_file *file = req.file;
    req.kind = FP_DISK_SIZE;
    int rc = do_disk(c, &req);
    c->size = req.size;
    uint64_t whole = c->size / FP_FILE_BLOCK * FP_FILE_BLOCK, at = 0;
    c->bytes = aligned_alloc(FP_FILE_BLOCK, whole + FP_FILE_BLOCK);
    if (!rc && !c->bytes)
        rc = fp_error(FARPOOL_E_NOMEM, "no memory for a file of %llu bytes",
                      (unsigned long long)c->size);
    while (!rc && at < whole) {
        uint64_t len = whole - at < READ_BYTES ? whole - at : READ_BYTES;
        req = (fp_disk_req){
            .kind = FP_DISK_READ, .file = file, .offset = at, .len = len, .buffer = c->bytes + at};
        rc = do_disk(c, &req);
        at += rc ? 0 : len;
    }
    if (rc)
        problem(c, at, "%s", farpool_errmsg());
    req = (fp_disk_req){.kind = FP_DISK_CLOSE, .file = file};
    (void)do_disk(c, &req); /* nothing was written */
    return !rc;
}

/* ---- layers ---------------------------------------------------------------------------------- */

static void check_pages(checking *c, const fp_footer *footer, const fp_image_entry *entries)
{
    for (uint32_t i = 0; i < footer->count; i++) {
        uint64_t at = entries[i].block * (uint64_t)FP_FILE_BLOCK;
        size_t len = (size_t)FARPOOL_UNIT_BYTES << fp_image_order(&entries[i]);
        if (entries[i].block == FP_IMAGE_LOST)
            continue;
        c->counts->pages++;
        if (fp_crc32c(0, c->bytes + at, len) != entries[i].crc)
            problem(c, at, "page %llu is damaged", (unsigned long long)fp_image_pid(&entries[i]));
    }
}

static void check_records(checking *c, const fp_footer *footer, const fp_delta_entry *entries)
{
    for (uint32_t i = 0; i < footer->count; i++) {
        uint64_t at = entries[i].offset, lsn = footer->lsn_from;
        uint64_t end = i + 1 < footer->count ? entries[i + 1].offset : footer->data_bytes;
        while (at < end) {
            fp_delta_record record = {0};
            if (end - at >= sizeof record)
                memcpy(&record, c->bytes + at, sizeof record);
            uint64_t len = sizeof record + fp_redo_pad(record.redo.len);
            if (fp_redo_pid(&record.redo) != entries[i].pid || record.lsn < lsn ||
                record.lsn > footer->lsn_to || len > end - at) {
                problem(c, at, "a record of page %llu is not in order",
                        (unsigned long long)entries[i].pid);
                break;
            }
            lsn = record.lsn;
            c->counts->records++;
            at += len;
        }
    }
}

static void check_chunks(checking *c, const fp_footer *footer, const uint32_t *crcs)
{
    for (uint32_t i = 0; i < footer->chunks; i++) {
        uint64_t at = i * (uint64_t)FP_DELTA_CHUNK, len = footer->data_bytes - at;
        len = len < FP_DELTA_CHUNK ? len : FP_DELTA_CHUNK;
        if (fp_crc32c(0, c->bytes + at, len) != crcs[i])
            problem(c, at, "a chunk of records is damaged");
    }
}

static void check_hash(checking *c)
{
    uint8_t hash[FP_FILE_HASH_BYTES];
    XXH128_canonical_t now;
    XXH128_canonicalFromHash(&now, XXH3_128bits(c->bytes, c->size));
    if (fp_file_parse(c->file, hash) && memcmp(hash, now.digest, sizeof hash) != 0)
        problem(c, 0, "its bytes are not those that its name says");
}

/* False: its footer is not to be had. */
static bool check_layer(checking *c, fp_footer *footer)
{
    if (!read_file(c))
        return false;
    c->counts->layers++;
    c->counts->layer_bytes += c->size;
    if (c->size < FP_FILE_BLOCK || c->size % FP_FILE_BLOCK) {
        problem(c, c->size, "it is cut off");
        return false;
    }
    const char *why = fp_footer_get(c->bytes + c->size - FP_FILE_BLOCK, c->size, footer);
    if (why) {
        problem(c, c->size - FP_FILE_BLOCK, "%s", why);
        return false;
    }
    const uint8_t *index = c->bytes + fp_file_ceil(footer->data_bytes);
    uint64_t before = c->counts->problems;
    why = fp_index_check(index, footer);
    if (why) {
        problem(c, (uint64_t)(index - c->bytes), "%s", why);
    } else if (footer->kind == FP_LAYER_IMAGE) {
        check_pages(c, footer, (const fp_image_entry *)index);
    } else {
        const fp_delta_entry *entries = (const fp_delta_entry *)index;
        check_chunks(c, footer, (const uint32_t *)(entries + footer->count));
        if (c->counts->problems == before)
            check_records(c, footer, entries);
    }
    if (c->counts->problems == before) /* else it is known why */
        check_hash(c);
    return true;
}

/* ---- manifests ------------------------------------------------------------------------------- */

/* The place of a name among all, -1: there is no such file. */
static int64_t place_of(const checking *c, const char *name)
{
    int64_t place = 0;
    for (const char *at = c->names; *at; at += strlen(at) + 1, place++)
        if (!strcmp(at, name))
            return place;
    return -1;
}

static void check_entry(checking *c, const char *manifest, uint32_t number,
                        const fp_manifest_entry *entry, uint64_t partition)
{
    char name[FP_FILE_NAME_MAX];
    fp_footer footer;
    fp_file_name(entry->hash, name);
    int64_t place = place_of(c, name);
    c->file = name;
    if (place < 0) {
        problem(c, 0, "it is missing; '%s' has it as layer %u, pages %llu to %llu", manifest,
                number, (unsigned long long)entry->pid_first, (unsigned long long)entry->pid_last);
    } else {
        bool known = c->named[place]; /* another manifest has it as well */
        c->named[place] = 1;
        if (!known && check_layer(c, &footer) &&
            (footer.partition != partition || footer.kind != entry->kind ||
             footer.lsn_from != entry->lsn_from || footer.lsn_to != entry->lsn_to ||
             footer.pid_first != entry->pid_first || footer.pid_last != entry->pid_last ||
             c->size != entry->bytes))
            problem(c, c->size - FP_FILE_BLOCK, "it is another layer than '%s' says", manifest);
    }
    c->file = manifest;
}

/* start: of the WAL; 0: there is none. */
static void check_manifest(checking *c, uint64_t partition, uint64_t start)
{
    fp_manifest manifest = {0};
    const char *why, *name = c->file;
    c->counts->manifests++;
    if (!read_file(c))
        return;
    int rc = fp_manifest_get(c->bytes, c->size, partition, &manifest, &why);
    if (rc) {
        problem(c, 0, "%s", why ? why : "no memory to read it");
        return;
    }
    if (memcmp(c->bytes, c->bytes + c->size / 2, c->size / 2) != 0)
        problem(c, 0, "one of its two copies is damaged; the next one written will be whole");
    if (!start)
        problem(c, 0, "there is no WAL of its partition");
    else if (manifest.header.converted < start)
        problem(c, 0, "its layers end at LSN %llu, but the WAL begins at %llu",
                (unsigned long long)manifest.header.converted, (unsigned long long)start);
    for (uint32_t i = 0; i < manifest.header.count; i++)
        check_entry(c, name, i, &manifest.entries[i], partition);
    free(manifest.entries);
}

/* A layer that no manifest has. */
static void check_unnamed(checking *c)
{
    char manifest[FP_FILE_NAME_MAX];
    fp_footer footer;
    c->counts->unnamed++;
    if (!check_layer(c, &footer))
        return;
    fp_manifest_name(footer.partition, manifest);
    if (place_of(c, manifest) < 0)
        problem(c, 0, "the manifest of its partition, '%s', is missing", manifest);
}

/* ---- WALs ------------------------------------------------------------------------------------ */

static int check_wal(checking *c, uint64_t partition)
{
    bool over = false;
    fp_wal *wal = NULL;
    fp_wal_req req = {.done = count_wal, .user = &over};
    fp_wal_options options = {.partition = partition,
                              .landing = aligned_alloc(FP_WAL_BLOCK, LANDING_BYTES),
                              .landing_bytes = LANDING_BYTES};
    int rc = options.landing ? fp_wal_open(c->disk, &options, &req, &wal) : FARPOOL_E_NOMEM;
    if (!rc)
        rc = wait_for(c, &over);
    if (rc)
        goto end;
    if (req.status) {
        problem(c, 0, "%s", farpool_errmsg());
        goto end;
    }
    const fp_wal_damage *damage = fp_wal_damage_found(wal);
    c->wals[c->counts->wals].partition = partition;
    c->wals[c->counts->wals++].start = fp_wal_start(wal);
    c->counts->wal_bytes += fp_wal_end(wal) - fp_wal_start(wal);
    if (damage->kind != FP_WAL_UNDAMAGED) {
        c->file = damage->file;
        problem(c, damage->offset,
                "the log ends at LSN %llu; it was durable up to %llu, and %llu bytes of frames are "
                "behind: read them from another copy",
                (unsigned long long)damage->lsn, (unsigned long long)damage->upto,
                (unsigned long long)damage->behind);
    }
    over = false;
    fp_wal_close(wal, &req);
    rc = wait_for(c, &over);
end:
    if (!rc || over)
        fp_wal_free(wal);
    free(options.landing);
    return rc;
}

/* The partition of a file of a WAL. */
static bool parse_wal(const char *name, uint64_t *partition, bool *state)
{
    uint32_t number;
    if (strncmp(name, "wal-", 4) != 0)
        return false;
    *partition = strtoull(name + 4, NULL, 16);
    enum fp_wal_name_kind kind = fp_wal_parse_name(name, *partition, &number);
    *state = kind == FP_WAL_NAME_STATE;
    return *state || kind == FP_WAL_NAME_SEGMENT;
}

/* ---- a volume -------------------------------------------------------------------------------- */

static int check_wals(checking *c)
{
    uint64_t partition, last = UINT64_MAX;
    bool state;
    char name[FP_WAL_NAME_MAX];
    int rc = 0;
    for (const char *at = c->names; *at && !rc; at += strlen(at) + 1) {
        c->file = at;
        if (!parse_wal(at, &partition, &state))
            continue;
        fp_wal_state_name(partition, name);
        if (state)
            rc = check_wal(c, partition);
        else if (partition != last && place_of(c, name) < 0)
            problem(c, 0, "a segment without its WAL's state, '%s'", name);
        last = partition;
    }
    return rc;
}

/* Where the WAL of a partition begins; 0: there is none that can be opened. */
static uint64_t start_of(const checking *c, uint64_t partition)
{
    for (uint64_t i = 0; i < c->counts->wals; i++)
        if (c->wals[i].partition == partition)
            return c->wals[i].start;
    return 0;
}

int fp_volume_check(fp_disk *disk, void (*report)(void *arg, const fp_check_problem *problem),
                    void *arg, fp_check_counts *counts)
{
    checking c = {.disk = disk, .report = report, .arg = arg, .counts = counts};
    fp_disk_req list = {.kind = FP_DISK_LIST};
    uint64_t partition;
    uint8_t hash[FP_FILE_HASH_BYTES];
    *counts = (fp_check_counts){0};
    int rc = do_disk(&c, &list);
    if (rc)
        return rc;
    c.names = list.names;
    c.named = calloc(list.size + 1, 1);
    c.wals = calloc(list.size + 1, sizeof *c.wals);
    rc = c.named && c.wals ? check_wals(&c)
                           : fp_error(FARPOOL_E_NOMEM, "no memory for a list of files");
    for (const char *at = c.names; *at && !rc; at += strlen(at) + 1) {
        c.file = at;
        if (fp_manifest_parse(at, &partition))
            check_manifest(&c, partition, start_of(&c, partition));
    }
    size_t place = 0;
    for (const char *at = c.names; *at && !rc; at += strlen(at) + 1, place++) {
        c.file = at;
        if (fp_file_parse(at, hash) && !c.named[place])
            check_unnamed(&c);
    }
    free(c.bytes);
    free(c.named);
    free(c.wals);
    free(list.names);
    return rc;
}
