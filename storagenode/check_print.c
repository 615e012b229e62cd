/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <jansson.h>

#include "common/error.h"
#include "storagenode/check.h"

typedef struct printing {
    FILE *out;
    json_t *problems; /* NULL: lines */
} printing;

static void print_problem(void *arg, const fp_check_problem *problem)
{
    const printing *p = arg;
    if (!p->problems) {
        fprintf(p->out, "%s: offset %" PRIu64 ": %s\n", problem->file, problem->offset,
                problem->what);
        return;
    }
    json_t *object = json_pack("{s:s, s:I, s:s}", "file", problem->file, "offset",
                               (json_int_t)problem->offset, "problem", problem->what);
    json_array_append_new(p->problems, object);
}

static void print_lines(const fp_check_counts *counts, FILE *out)
{
    fprintf(out,
            "%" PRIu64 " WALs with %" PRIu64 " bytes of log, %" PRIu64 " manifests, %" PRIu64
            " layers of %" PRIu64 " bytes with %" PRIu64 " pages and %" PRIu64 " records\n",
            counts->wals, counts->wal_bytes, counts->manifests, counts->layers, counts->layer_bytes,
            counts->pages, counts->records);
    if (counts->unnamed)
        fprintf(out, "%" PRIu64 " layers are in no manifest: left from a crash\n", counts->unnamed);
    fprintf(out, "%" PRIu64 " problems\n", counts->problems);
}

static int print_json(const char *path, const fp_check_counts *counts, const printing *p)
{
    json_t *root =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "volume", path, "wals",
                  (json_int_t)counts->wals, "wal_bytes", (json_int_t)counts->wal_bytes, "manifests",
                  (json_int_t)counts->manifests, "layers", (json_int_t)counts->layers,
                  "layer_bytes", (json_int_t)counts->layer_bytes, "pages",
                  (json_int_t)counts->pages, "records", (json_int_t)counts->records, "unnamed",
                  (json_int_t)counts->unnamed, "problems", p->problems);
    int rc = root ? json_dumpf(root, p->out, JSON_INDENT(2)) : -1;
    json_decref(root);
    fputc('\n', p->out);
    return rc ? fp_error(FARPOOL_E_SYS, "the result of checking %s could not be written", path) : 0;
}

int fp_volume_check_print(const char *path, FILE *out, bool json)
{
    fp_disk *disk;
    fp_check_counts counts;
    printing p = {.out = out, .problems = json ? json_array() : NULL};
    int rc = fp_disk_open(path, NULL, &disk);
    if (rc) {
        json_decref(p.problems);
        return rc;
    }
    rc = fp_volume_check(disk, print_problem, &p, &counts);
    if (!rc && json)
        rc = print_json(path, &counts, &p);
    else if (!rc)
        print_lines(&counts, out);
    fp_disk_close(disk);
    json_decref(p.problems);
    if (!rc && counts.problems)
        rc = fp_error(FARPOOL_E_CORRUPT, "volume %s: %" PRIu64 " problems", path, counts.problems);
    return rc;
}
