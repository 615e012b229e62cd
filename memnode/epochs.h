/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The highest epochs of partitions that were released here, so that an earlier owner, who does not know of that, can
 * not come back. In memory only: after a restart there is nothing left that an old owner could harm. Bounded: beyond
 * FP_EPOCHS_MAX partitions the one noted longest ago is forgotten.
 */
#ifndef FP_MEMNODE_EPOCHS_H
#define FP_MEMNODE_EPOCHS_H

#include <stdint.h>

enum { FP_EPOCHS_MAX = 16384 }; /* 256 KiB */

typedef struct fp_epochs {
    struct {
        uint64_t partition, epoch;
    } * list;
    uint32_t count, room, next; /* next: the one to be forgotten, once the list is full */
} fp_epochs;

void fp_epochs_note(fp_epochs *epochs, uint64_t partition, uint64_t epoch);
/* 0: none is known. */
uint64_t fp_epochs_get(const fp_epochs *epochs, uint64_t partition);
void fp_epochs_free(fp_epochs *epochs);

#endif
