/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checking a volume that nobody uses: WALs, manifests and layers, every checksum. WALs are opened as a storage node
 * does at its start, which finishes what a crash left of them; nothing else is changed. Blocks.
 */
#ifndef FP_STORAGENODE_CHECK_H
#define FP_STORAGENODE_CHECK_H

#include <stdio.h>

#include "common/disk/disk.h"

typedef struct fp_check_problem {
    const char *file; /* "": the volume */
    uint64_t offset;  /* in the file */
    const char *what;
} fp_check_problem;

typedef struct fp_check_counts {
    uint64_t wals, wal_bytes; /* of log */
    uint64_t manifests, layers, layer_bytes;
    uint64_t pages, records; /* whose checksums were looked at */
    uint64_t unnamed; /* layers in no manifest: left from a crash, and removed by the next start */
    uint64_t problems;
} fp_check_counts;

/* report() is called for each problem. 0, also if there are some; E_NOMEM, what LIST gives. */
int fp_volume_check(fp_disk *disk, void (*report)(void *arg, const fp_check_problem *problem),
                    void *arg, fp_check_counts *counts) FARPOOL_MUST_CHECK;
/* Prints what is found in this directory: lines, or one JSON object. 0; E_CORRUPT: there are problems; or why it could
 * not be checked, which fp_disk_open and fp_volume_check say. */
int fp_volume_check_print(const char *path, FILE *out, bool json) FARPOOL_MUST_CHECK;

#endif
