/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a page's bytes are. A mapping turns a frame number (a share of the pool's memory) into bytes
 * that the program can read, and gives transfers a place which the NIC may touch.
 *
 * All slots are called with the page's entry latched exclusively by the caller (write_source: shared),
 * may be called by many threads at once for different pages, and don't block on the network.
 */
#ifndef FP_COMPUTE_MAPPING_H
#define FP_COMPUTE_MAPPING_H

#include "compute/pool.h"

typedef struct fp_dropped {
    farpool_partition *partition;
    farpool_pid pid;
    unsigned order;
    uint32_t frame;
} fp_dropped;

typedef struct fp_mapping_ops {
    const char *name;
    /* Sets pool.xfer and what else it needs. */
    int (*pool_open)(farpool_pool *pool, uint64_t bytes);
    void (*pool_close)(farpool_pool *pool);
    int (*partition_open)(farpool_partition *partition);
    void (*partition_close)(farpool_partition *partition);
    /* A place in pool.xfer into which the page may be read; E_POOL_FULL: none is left just now. */
    int (*land)(farpool_pool *pool, uint32_t frame, unsigned order, void **page);
    /* The page has arrived at `page`: make it readable. Gives the landing place back also on error. */
    int (*install)(farpool_partition *partition, farpool_pid pid, unsigned order, void *page);
    /* Gives a landing place back without installing, or a write source after the write. */
    void (*unland)(farpool_pool *pool, void *page, unsigned order);
    /* A fresh page of zeroes. E_POOL_FULL as land, also write_source. */
    int (*zero)(farpool_partition *partition, farpool_pid pid, unsigned order, uint32_t frame);
    /* The page's bytes in pool.xfer for a WRITE (a copy where the page itself isn't registered). */
    int (*write_source)(farpool_partition *partition, farpool_pid pid, unsigned order,
                        uint32_t frame, void **page);
    /* Takes pages away from under the program; afterwards their frames hold nothing. */
    void (*drop)(farpool_pool *pool, const fp_dropped *pages, size_t count);
} fp_mapping_ops;

extern const fp_mapping_ops fp_mapping_frames, fp_mapping_vm;

#endif
