/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated medium: its directory, what a crash leaves of it, and rot.
 *
 * There are two directories, the one that is seen and the durable one, and the operations that make the first out of
 * the second. A SYNC_DIR applies those that it covers to the durable one. A crash applies those that the seed draws,
 * in their order but whatever became of the ones before: a RENAME may be kept though the OPEN that created the file
 * is lost (the file is there then, under its new name).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/disk/sim_medium.h"
#include "common/error.h"

int fp_disk_medium_open(fp_sim_world *world, const fp_disk_sim_config *config, fp_disk_medium **out)
{
    fp_disk_medium *medium = calloc(1, sizeof *medium);
    if (!medium)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a simulated medium");
    medium->world = world;
    fp_disk_sim_configure(medium, config);
    *out = medium;
    return 0;
}

void fp_disk_medium_close(fp_disk_medium *medium)
{
    if (!medium)
        return;
    FP_ASSERT(!medium->disk);
    medium->now.count = medium->durable.count = medium->op_count = 0;
    sim_collect(medium);
    FP_ASSERT(!medium->inodes);
    free(medium->now.entries);
    free(medium->durable.entries);
    free(medium->ops);
    free(medium);
}

void fp_disk_sim_configure(fp_disk_medium *medium, const fp_disk_sim_config *config)
{
    medium->config = *config;
    if (config->latency_max_ns)
        return;
    medium->config.latency_min_ns = 20000;
    medium->config.latency_max_ns = 200000;
}

void fp_disk_sim_fail(fp_disk_medium *medium, enum fp_disk_kind kind, unsigned nth, int sys_errno)
{
    medium->fail[kind].nth = nth;
    medium->fail[kind].error = sys_errno;
}

/* ---- the directory --------------------------------------------------------------------------- */

static sim_entry *entry_of(const sim_dir *dir, const char *name)
{
    for (size_t i = 0; i < dir->count; i++)
        if (!strcmp(dir->entries[i].name, name))
            return &dir->entries[i];
    return NULL;
}

sim_inode *sim_find(const fp_disk_medium *medium, const char *name)
{
    const sim_entry *entry = entry_of(&medium->now, name);
    return entry ? entry->inode : NULL;
}

static void *grow(void *old, size_t *room, size_t size)
{
    *room = *room ? 2 * *room : 16;
    void *grown = realloc(old, *room * size);
    FP_ASSERT(grown);
    return grown;
}

static void apply(sim_dir *dir, const sim_dir_op *op)
{
    sim_entry *gone = op->gone[0] ? entry_of(dir, op->gone) : NULL;
    if (gone)
        *gone = dir->entries[--dir->count];
    if (!op->inode)
        return;
    sim_entry *entry = entry_of(dir, op->name);
    if (!entry) {
        if (dir->count == dir->room)
            dir->entries = grow(dir->entries, &dir->room, sizeof *dir->entries);
        entry = &dir->entries[dir->count++];
        memcpy(entry->name, op->name, sizeof entry->name);
    }
    entry->inode = op->inode;
}

static void count_links(fp_disk_medium *medium)
{
    for (sim_inode *inode = medium->inodes; inode; inode = inode->next)
        inode->links = 0;
    for (size_t i = 0; i < medium->now.count; i++)
        medium->now.entries[i].inode->links++;
}

void sim_change_dir(fp_disk_medium *medium, const char *gone, const char *name, sim_inode *inode)
{
    if (medium->op_count == medium->op_room)
        medium->ops = grow(medium->ops, &medium->op_room, sizeof *medium->ops);
    sim_dir_op *op = &medium->ops[medium->op_count++];
    *op = (sim_dir_op){.number = ++medium->changes, .inode = inode};
    snprintf(op->gone, sizeof op->gone, "%s", gone);
    snprintf(op->name, sizeof op->name, "%s", name);
    apply(&medium->now, op);
    count_links(medium);
    sim_collect(medium);
}

static void forget_ops(fp_disk_medium *medium, size_t count)
{
    medium->op_count -= count;
    memmove(medium->ops, medium->ops + count, medium->op_count * sizeof *medium->ops);
    sim_collect(medium);
}

void sim_sync_dir(fp_disk_medium *medium, uint64_t covered)
{
    size_t n = 0;
    for (; n < medium->op_count && medium->ops[n].number <= covered; n++)
        apply(&medium->durable, &medium->ops[n]);
    if (n)
        forget_ops(medium, n);
}

/* D8: each operation may yet become durable, or never will. */
void sim_sync_dir_failed(fp_disk_medium *medium, uint64_t covered)
{
    size_t kept = 0;
    for (size_t i = 0; i < medium->op_count; i++)
        if (medium->ops[i].number > covered || fp_sim_draw(medium->world) % 2)
            medium->ops[kept++] = medium->ops[i];
    medium->op_count = kept;
    sim_collect(medium);
}

void sim_collect(fp_disk_medium *medium)
{
    for (sim_inode *inode = medium->inodes; inode; inode = inode->next)
        inode->reached = inode->opens;
    for (size_t i = 0; i < medium->now.count; i++)
        medium->now.entries[i].inode->reached = true;
    for (size_t i = 0; i < medium->durable.count; i++)
        medium->durable.entries[i].inode->reached = true;
    for (size_t i = 0; i < medium->op_count; i++)
        if (medium->ops[i].inode)
            medium->ops[i].inode->reached = true;
    for (sim_inode **link = &medium->inodes; *link;) {
        sim_inode *inode = *link;
        if (inode->reached) {
            link = &inode->next;
            continue;
        }
        *link = inode->next;
        sim_inode_free(inode);
    }
}

/* ---- crash and rot --------------------------------------------------------------------------- */

void sim_medium_crash(fp_disk_medium *medium)
{
    uint64_t odds = fp_sim_draw(medium->world) % (SIM_KEEP_ODDS + 1);
    for (size_t i = 0; i < medium->op_count; i++)
        if (fp_sim_draw(medium->world) % SIM_KEEP_ODDS < odds)
            apply(&medium->durable, &medium->ops[i]);
    medium->op_count = 0;
    medium->now.count = 0;
    for (size_t i = 0; i < medium->durable.count; i++) {
        sim_dir_op op = {.inode = medium->durable.entries[i].inode};
        memcpy(op.name, medium->durable.entries[i].name, sizeof op.name);
        apply(&medium->now, &op);
    }
    for (sim_inode *inode = medium->inodes; inode; inode = inode->next)
        sim_inode_crash(medium, inode);
    count_links(medium);
    sim_collect(medium);
}

void fp_disk_sim_crash(fp_disk_medium *medium)
{
    if (medium->disk)
        sim_disk_die(medium->disk);
    medium->disk = NULL;
    sim_medium_crash(medium);
}

bool fp_disk_sim_flip(fp_disk_medium *medium, const char *name, uint64_t offset, unsigned bit)
{
    sim_inode *inode = sim_find(medium, name);
    size_t index = offset / FP_DISK_ALIGN, at = offset % FP_DISK_ALIGN;
    if (!inode || offset >= inode->size || index >= inode->block_count)
        return false;
    sim_block *block = &inode->blocks[index];
    if (!block->now)
        block->now = sim_alloc(1, FP_DISK_ALIGN);
    block->now[at] ^= (uint8_t)(1u << bit % 8);
    if (block->was)
        block->was[at] ^= (uint8_t)(1u << bit % 8);
    return true;
}

bool fp_disk_sim_zero(fp_disk_medium *medium, const char *name, uint64_t offset, uint64_t len)
{
    sim_inode *inode = sim_find(medium, name);
    if (!inode || offset > inode->size || len > inode->size - offset)
        return false;
    sim_zero(inode, offset, len);
    return true;
}

bool fp_disk_sim_cut(fp_disk_medium *medium, const char *name, uint64_t size)
{
    sim_inode *inode = sim_find(medium, name);
    if (!inode || size > inode->size)
        return false;
    sim_zero(inode, size, UINT64_MAX - size);
    inode->size = inode->durable_size = size;
    inode->size_dirty = 0;
    return true;
}
