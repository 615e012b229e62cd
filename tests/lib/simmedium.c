/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/simmedium.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/disk/sim_medium.h"
#include "common/error.h"
#include "storagenode/volume_inside.h"
#include "storagenode/wal_format.h"

static const sim_inode *durable_file(const fp_disk_medium *medium, const char *name)
{
    for (size_t i = 0; i < medium->durable.count; i++)
        if (!strcmp(medium->durable.entries[i].name, name))
            return medium->durable.entries[i].inode;
    return NULL;
}

/* So many durable bytes of a sector, or NULL for zeros. */
static const uint8_t *durable_sector(const sim_inode *inode, uint64_t offset)
{
    uint64_t block = offset / FP_DISK_ALIGN, at = offset % FP_DISK_ALIGN;
    if (block >= inode->block_count)
        return NULL;
    const sim_block *b = &inode->blocks[block];
    const uint8_t *bytes = b->dirty[at / SIM_SECTOR] ? b->was : b->now;
    return bytes ? bytes + at : NULL;
}

/* Copies durable bytes; false: the durable file is shorter. */
static bool durable_read(const sim_inode *inode, uint64_t offset, uint64_t len, uint8_t *to)
{
    if (offset + len > inode->durable_size)
        return false;
    while (len) {
        uint64_t n = SIM_SECTOR - offset % SIM_SECTOR;
        n = n < len ? n : len;
        const uint8_t *from = durable_sector(inode, offset);
        if (from)
            memcpy(to, from, n);
        else
            memset(to, 0, n);
        to += n;
        offset += n;
        len -= n;
    }
    return true;
}

/* ---- the WAL --------------------------------------------------------------------------------- */

static bool wal_state(const fp_disk_medium *medium, uint64_t partition, fp_wal_state *state)
{
    char name[FP_WAL_NAME_MAX];
    uint8_t blocks[FP_WAL_STATE_BYTES];
    fp_wal_state_name(partition, name);
    const sim_inode *file = durable_file(medium, name);
    return file && durable_read(file, 0, sizeof blocks, blocks) &&
           fp_wal_get_state(blocks, partition, state);
}

uint64_t medium_wal_start(const fp_disk_medium *medium, uint64_t partition)
{
    fp_wal_state state;
    return wal_state(medium, partition, &state) ? state.start : 0;
}

bool medium_wal_has(const fp_disk_medium *medium, uint64_t partition, uint64_t from, uint64_t to,
                    const uint8_t *bytes)
{
    fp_wal_state state;
    if (!wal_state(medium, partition, &state))
        return false;
    while (from < to) {
        char name[FP_WAL_NAME_MAX];
        uint8_t there[SIM_SECTOR];
        uint64_t at = from % state.segment_bytes, n = SIM_SECTOR - at % SIM_SECTOR;
        n = n < to - from ? n : to - from;
        fp_wal_segment_name(partition, (uint32_t)(from / state.segment_bytes), name);
        const sim_inode *file = durable_file(medium, name);
        if (!file || !durable_read(file, FP_WAL_BLOCK + at, n, there) || memcmp(there, bytes, n))
            return false;
        from += n;
        bytes += n;
    }
    return true;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static bool is_whole(const sim_inode *file, uint64_t bytes)
{
    bool whole = file->durable_size == bytes;
    for (size_t i = 0; i < file->block_count && whole; i++)
        for (unsigned s = 0; s < SIM_SECTORS; s++)
            whole &= !file->blocks[i].dirty[s];
    return whole;
}

medium_pages medium_pages_get(const fp_disk_medium *medium, uint64_t partition)
{
    char name[FP_FILE_NAME_MAX];
    medium_pages pages = {0};
    fp_manifest manifest;
    const char *why;
    fp_manifest_name(partition, name);
    const sim_inode *file = durable_file(medium, name);
    uint8_t *bytes = file ? malloc(file->durable_size + 1) : NULL;
    if (!bytes)
        return pages;
    FP_ASSERT(durable_read(file, 0, file->durable_size, bytes));
    int rc = fp_manifest_get(bytes, file->durable_size, partition, &manifest, &why);
    free(bytes);
    if (rc)
        return pages;
    pages.sequence = manifest.header.sequence;
    pages.converted = manifest.header.converted;
    for (uint32_t i = 0; i < manifest.header.count; i++) {
        fp_file_name(manifest.entries[i].hash, name);
        const sim_inode *layer = durable_file(medium, name);
        if (!layer || !is_whole(layer, manifest.entries[i].bytes))
            snprintf(pages.missing, sizeof pages.missing, "%s", name);
    }
    free(manifest.entries);
    return pages;
}

uint64_t medium_pages_claimed(fp_volume *volume, uint64_t partition)
{
    const fp_pages *pages = volume ? fp_volume_pages(volume, partition) : NULL;
    return pages && pages->in_use ? pages->manifest.header.sequence : 0;
}

uint64_t medium_dir_version(const fp_disk_medium *medium)
{
    uint64_t last = medium->op_count ? medium->ops[medium->op_count - 1].number : 0;
    return (last << 20) + (medium->op_count << 10) + medium->durable.count;
}
