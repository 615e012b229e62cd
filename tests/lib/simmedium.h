/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is durable on a simulated medium: what the next crash leaves, whatever it drops of the rest (common/disk/disk.h, D6
 * and D7). Read from the medium itself, past the storage node, which is not believed.
 */
#ifndef FP_TESTS_LIB_SIMMEDIUM_H
#define FP_TESTS_LIB_SIMMEDIUM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/disk/sim.h"
#include "storagenode/volume.h"

/* Where the partition's WAL begins, according to its durable state; 0: there is none. */
uint64_t medium_wal_start(const fp_disk_medium *medium, uint64_t partition);
/* Whether the durable segments have the bytes of the log from `from`, where the WAL has begun, up to `to`, and they are
 * these. */
bool medium_wal_has(const fp_disk_medium *medium, uint64_t partition, uint64_t from, uint64_t to,
                    const uint8_t *bytes);

typedef struct medium_pages {
    uint64_t sequence; /* of the durable manifest; 0: there is none */
    uint64_t converted;
    char missing[64]; /* a layer that it names and that is not durable; "": there is none */
} medium_pages;

medium_pages medium_pages_get(const fp_disk_medium *medium, uint64_t partition);
/* The sequence of the manifest that a page store which is open takes for durable; 0: none is. NULL is allowed. */
uint64_t medium_pages_claimed(fp_volume *volume, uint64_t partition);

/* Another one than before when what names the durable directory has may have changed. */
uint64_t medium_dir_version(const fp_disk_medium *medium);

#endif
