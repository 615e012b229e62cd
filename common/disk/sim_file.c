/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of simulated files. A block has what READ sees (now) and, where a sector is dirty, what is durable (was).
 *
 * A sector that changes for the first time since it was durable keeps its old content in `was`. If it is dirty
 * already, the medium may have written the content before this change by itself, at any time: the seed draws whether
 * it did. While a SYNC is under way it always has: otherwise that SYNC's success would promise a content that is
 * nowhere any more. Sizes go the same way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/disk/sim_medium.h"
#include "common/error.h"

void *sim_alloc(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    FP_ASSERT(memory);
    return memory;
}

bool sim_chance(fp_sim_world *world, uint32_t per_million)
{
    return per_million && fp_sim_draw(world) % 1000000 < per_million;
}

sim_inode *sim_inode_new(fp_disk_medium *medium)
{
    sim_inode *inode = sim_alloc(1, sizeof *inode);
    inode->next = medium->inodes;
    medium->inodes = inode;
    return inode;
}

void sim_inode_free(sim_inode *inode)
{
    for (size_t i = 0; i < inode->block_count; i++) {
        free(inode->blocks[i].now);
        free(inode->blocks[i].was);
    }
    free(inode->blocks);
    free(inode);
}

static void need_blocks(sim_inode *inode, size_t count)
{
    if (count <= inode->block_count)
        return;
    size_t room = 2 * inode->block_count > count ? 2 * inode->block_count : count;
    sim_block *grown = realloc(inode->blocks, room * sizeof *grown);
    FP_ASSERT(grown);
    memset(grown + inode->block_count, 0, (room - inode->block_count) * sizeof *grown);
    inode->blocks = grown;
    inode->block_count = room;
}

/* ---- changes --------------------------------------------------------------------------------- */

/* Has the medium written by itself what a SYNC has not made durable? */
static bool written_back(fp_disk_medium *medium, const sim_inode *inode, uint64_t dirty)
{
    if (!dirty)
        return true;
    return dirty != SIM_DOOMED && (inode->syncs || fp_sim_draw(medium->world) % 2);
}

static void change_sector(fp_disk_medium *medium, sim_inode *inode, size_t index, unsigned sector,
                          const uint8_t *data)
{
    sim_block *block = &inode->blocks[index];
    size_t at = (size_t)sector * SIM_SECTOR;
    if (!block->now)
        block->now = sim_alloc(1, FP_DISK_ALIGN);
    if (!block->was)
        block->was = sim_alloc(1, FP_DISK_ALIGN);
    if (written_back(medium, inode, block->dirty[sector]))
        memcpy(block->was + at, block->now + at, SIM_SECTOR);
    block->dirty[sector] = medium->changes;
    if (inode->dirty_first == inode->dirty_end) {
        inode->dirty_first = index;
        inode->dirty_end = index + 1;
    }
    if (index < inode->dirty_first)
        inode->dirty_first = index;
    if (index >= inode->dirty_end)
        inode->dirty_end = index + 1;
    if (data)
        memcpy(block->now + at, data, SIM_SECTOR);
    else
        memset(block->now + at, 0, SIM_SECTOR);
}

static void change_size(fp_disk_medium *medium, sim_inode *inode, uint64_t size)
{
    if (size == inode->size)
        return;
    if (written_back(medium, inode, inode->size_dirty))
        inode->durable_size = inode->size;
    inode->size = size;
    inode->size_dirty = medium->changes;
}

static uint64_t free_blocks(const fp_disk_medium *medium)
{
    uint64_t used = 0, all = medium->config.capacity_bytes / FP_DISK_ALIGN;
    if (!medium->config.capacity_bytes)
        return UINT64_MAX;
    for (const sim_inode *inode = medium->inodes; inode; inode = inode->next)
        if (inode->links || inode->opens)
            used += inode->reserved_blocks;
    return all > used ? all - used : 0;
}

static void reserve(sim_inode *inode, size_t index)
{
    inode->reserved_blocks += !inode->blocks[index].reserved;
    inode->blocks[index].reserved = true;
}

/* ---- operations ------------------------------------------------------------------------------ */

int sim_write(fp_disk_medium *medium, sim_inode *inode, const fp_disk_req *req, bool torn)
{
    uint64_t room = free_blocks(medium), end = req->offset;
    size_t first = req->offset / FP_DISK_ALIGN, count = req->len / FP_DISK_ALIGN;
    int error = 0;
    medium->changes++;
    need_blocks(inode, first + count);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *data = (const uint8_t *)req->buffer + i * FP_DISK_ALIGN;
        if (!inode->blocks[first + i].reserved && room-- == 0) {
            error = ENOSPC;
            break;
        }
        reserve(inode, first + i);
        for (unsigned s = 0; s < SIM_SECTORS; s++)
            if (!torn || fp_sim_draw(medium->world) % 2)
                change_sector(medium, inode, first + i, s, data + (size_t)s * SIM_SECTOR);
        end += FP_DISK_ALIGN;
    }
    if (end > inode->size)
        change_size(medium, inode, end);
    return error;
}

int sim_read(const sim_inode *inode, const fp_disk_req *req)
{
    if (req->offset > inode->size || req->len > inode->size - req->offset)
        return FP_DISK_PAST_END;
    for (size_t at = 0; at < req->len; at += FP_DISK_ALIGN) {
        size_t index = (req->offset + at) / FP_DISK_ALIGN;
        uint8_t *to = (uint8_t *)req->buffer + at;
        if (index < inode->block_count && inode->blocks[index].now)
            memcpy(to, inode->blocks[index].now, FP_DISK_ALIGN);
        else
            memset(to, 0, FP_DISK_ALIGN);
    }
    return 0;
}

int sim_allocate(fp_disk_medium *medium, sim_inode *inode, uint64_t size)
{
    size_t count = size / FP_DISK_ALIGN, missing = 0;
    need_blocks(inode, count);
    for (size_t i = 0; i < count; i++)
        missing += !inode->blocks[i].reserved;
    if (missing > free_blocks(medium))
        return ENOSPC;
    medium->changes++;
    for (size_t i = 0; i < count; i++)
        reserve(inode, i);
    if (size > inode->size)
        change_size(medium, inode, size);
    return 0;
}

void sim_truncate(fp_disk_medium *medium, sim_inode *inode, uint64_t size)
{
    medium->changes++;
    for (size_t i = size / FP_DISK_ALIGN; i < inode->block_count; i++) {
        sim_block *block = &inode->blocks[i];
        for (unsigned s = 0; s < SIM_SECTORS && block->now; s++)
            change_sector(medium, inode, i, s, NULL);
        inode->reserved_blocks -= block->reserved;
        block->reserved = false;
    }
    change_size(medium, inode, size);
}

/* ---- what becomes of dirty things ------------------------------------------------------------- */

/* Narrows the range of dirty blocks to what is dirty still; frees what was kept for the others. */
static void tidy(sim_inode *inode)
{
    size_t first = 0, end = 0;
    for (size_t i = inode->dirty_first; i < inode->dirty_end; i++) {
        sim_block *block = &inode->blocks[i];
        bool dirty = false;
        for (unsigned s = 0; s < SIM_SECTORS; s++)
            dirty = dirty || block->dirty[s];
        if (dirty) {
            first = end ? first : i;
            end = i + 1;
        } else {
            free(block->was);
            block->was = NULL;
        }
    }
    inode->dirty_first = first;
    inode->dirty_end = end;
}

void sim_sync(sim_inode *inode, uint64_t covered)
{
    for (size_t i = inode->dirty_first; i < inode->dirty_end; i++)
        for (unsigned s = 0; s < SIM_SECTORS; s++)
            if (inode->blocks[i].dirty[s] <= covered)
                inode->blocks[i].dirty[s] = 0;
    if (inode->size_dirty <= covered) {
        inode->durable_size = inode->size;
        inode->size_dirty = 0;
    }
    tidy(inode);
}

static void lose_sector(sim_block *block, unsigned sector)
{
    size_t at = (size_t)sector * SIM_SECTOR;
    memcpy(block->now + at, block->was + at, SIM_SECTOR);
    block->dirty[sector] = 0;
}

void sim_sync_failed(fp_disk_medium *medium, sim_inode *inode, uint64_t covered)
{
    for (size_t i = inode->dirty_first; i < inode->dirty_end; i++) {
        sim_block *block = &inode->blocks[i];
        for (unsigned s = 0; s < SIM_SECTORS; s++) {
            if (!block->dirty[s] || block->dirty[s] > covered)
                continue;
            uint64_t fate = fp_sim_draw(medium->world) % 3;
            if (fate == 1)
                lose_sector(block, s);
            else if (fate == 2)
                block->dirty[s] = SIM_DOOMED;
        }
    }
    if (inode->size_dirty && inode->size_dirty <= covered && fp_sim_draw(medium->world) % 2)
        inode->size_dirty = SIM_DOOMED;
    tidy(inode);
}

static bool kept(fp_disk_medium *medium, uint64_t dirty, uint64_t odds)
{
    return fp_sim_draw(medium->world) % SIM_KEEP_ODDS < odds && dirty != SIM_DOOMED;
}

void sim_inode_crash(fp_disk_medium *medium, sim_inode *inode)
{
    uint64_t odds = fp_sim_draw(medium->world) % (SIM_KEEP_ODDS + 1);
    for (size_t i = inode->dirty_first; i < inode->dirty_end; i++) {
        sim_block *block = &inode->blocks[i];
        for (unsigned s = 0; s < SIM_SECTORS; s++) {
            if (!block->dirty[s])
                continue;
            if (kept(medium, block->dirty[s], odds))
                block->dirty[s] = 0;
            else
                lose_sector(block, s);
        }
    }
    tidy(inode);
    if (inode->size_dirty && !kept(medium, inode->size_dirty, odds))
        inode->size = inode->durable_size;
    inode->durable_size = inode->size;
    inode->size_dirty = 0;
    inode->opens = inode->syncs = 0;
    inode->reserved_blocks = 0;
    for (size_t i = 0; i < inode->block_count; i++) {
        bool inside = (uint64_t)i * FP_DISK_ALIGN < inode->size;
        inode->blocks[i].reserved = inside && (inode->blocks[i].reserved || inode->blocks[i].now);
        inode->reserved_blocks += inode->blocks[i].reserved;
    }
    sim_zero(inode, inode->size, UINT64_MAX - inode->size);
}

void sim_zero(sim_inode *inode, uint64_t offset, uint64_t len)
{
    uint64_t end = offset + len, all = (uint64_t)inode->block_count * FP_DISK_ALIGN;
    end = end < all ? end : all;
    for (uint64_t n; offset < end; offset += n) {
        sim_block *block = &inode->blocks[offset / FP_DISK_ALIGN];
        size_t at = offset % FP_DISK_ALIGN;
        n = FP_DISK_ALIGN - at < end - offset ? FP_DISK_ALIGN - at : end - offset;
        if (block->now)
            memset(block->now + at, 0, n);
        if (block->was)
            memset(block->was + at, 0, n);
    }
}
