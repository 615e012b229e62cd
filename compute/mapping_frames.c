/* SPDX-License-Identifier: Apache-2.0 */
/* frames: one arena, in huge pages where possible, registered once. A page is its frame: transfers go
 * straight into it, and taking it away costs nothing. */
#include "common/mem.h"
#include "compute/mapping.h"

#include <string.h>

static int frames_pool_open(farpool_pool *pool, uint64_t bytes)
{
    return fp_mem_open(bytes, 0, -1, &pool->xfer);
}

static void frames_pool_close(farpool_pool *pool) { fp_mem_close(&pool->xfer); }

static int frames_partition_open(farpool_partition *partition)
{
    partition->window = NULL;
    return 0;
}

static void frames_partition_close(farpool_partition *partition) { (void)partition; }

static int frames_land(farpool_pool *pool, uint32_t frame, unsigned order, void **page)
{
    (void)order;
    *page = fp_frame_addr(pool, frame);
    return 0;
}

static int frames_install(farpool_partition *partition, farpool_pid pid, unsigned order, void *page)
{
    (void)partition, (void)pid, (void)order, (void)page;
    return 0;
}

static void frames_unland(farpool_pool *pool, void *page, unsigned order)
{
    (void)pool, (void)page, (void)order;
}

static int frames_zero(farpool_partition *partition, farpool_pid pid, unsigned order,
                       uint32_t frame)
{
    (void)pid;
    memset(fp_frame_addr(partition->pool, frame), 0, (size_t)FARPOOL_UNIT_BYTES << order);
    return 0;
}

static int frames_write_source(farpool_partition *partition, farpool_pid pid, unsigned order,
                               uint32_t frame, void **page)
{
    (void)pid, (void)order;
    *page = fp_frame_addr(partition->pool, frame);
    return 0;
}

static void frames_drop(farpool_pool *pool, const fp_dropped *pages, size_t count)
{
    (void)pool, (void)pages, (void)count;
}

const fp_mapping_ops fp_mapping_frames = {
    .name = "frames",
    .pool_open = frames_pool_open,
    .pool_close = frames_pool_close,
    .partition_open = frames_partition_open,
    .partition_close = frames_partition_close,
    .land = frames_land,
    .install = frames_install,
    .unland = frames_unland,
    .zero = frames_zero,
    .write_source = frames_write_source,
    .drop = frames_drop,
};
