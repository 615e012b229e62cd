/* SPDX-License-Identifier: Apache-2.0 */
/* Pages between frames and slots: each fp_io becomes one operation, or two where the slab's directory is kept. */
#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "common/error.h"
#include "compute/remote.h"
#include "compute/slab.h"

static const fp_extent *extent_of(const fp_io *io, const fp_node_set *set, uint32_t *slot)
{
    farpool_partition *partition = io->partition;
    *slot = atomic_load_explicit(&partition->entries[io->pid].slot, memory_order_relaxed);
    return fp_slot_extent(partition, set, *slot);
}

/* What an operation is made of, besides the transfer. */
typedef struct place {
    const fp_node_set *set;
    const fp_extent *extent;
    const fp_transport *transport;
    uint64_t unit;
} place;

static void make_op(const fp_io *io, const place *at, fp_net_op *op)
{
    op->kind = io->kind == FP_IO_WRITE ? FP_NET_WRITE : FP_NET_READ;
    op->flags = 0;
    op->cookie = (uintptr_t)io;
    op->remote_key = at->extent->key;
    op->remote_addr = at->extent->addr + at->unit * FP_SLOT_UNIT_BYTES;
    op->imm = 0;
    op->sge_count = 0;
    if (io->kind == FP_IO_WRITE || io->with_header)
        op->sge[op->sge_count++] =
            (fp_sge){io->header, FP_SLOT_HEADER_BYTES, at->transport->header_mr};
    else /* W7: the owner needs no header, and without it a page is one packet of 4096 bytes */
        op->remote_addr += FP_SLOT_HEADER_BYTES;
    op->sge[op->sge_count++] =
        (fp_sge){io->page, FARPOOL_UNIT_BYTES << io->order, at->transport->xfer_mr};
}

/* The directory's entry, posted before the page: no completion of its own is waited for. */
static void make_entry_op(const fp_io *io, const place *at, fp_slot_entry *entry, fp_net_op *op)
{
    *entry = (fp_slot_entry){
        .page = io->pid | (uint64_t)io->order << 48,
        .epoch = at->set->epoch,
        .lsn = io->lsn,
        .page_crc = io->crc,
    };
    entry->crc = fp_slot_entry_crc(entry);
    *op = (fp_net_op){
        .kind = FP_NET_WRITE,
        .flags = FP_NET_INLINE,
        .remote_key = at->extent->key,
        .remote_addr = at->extent->entries_addr + at->unit * FP_SLOT_ENTRY_BYTES,
        .sge_count = 1,
        .sge[0] = {entry, sizeof *entry, NULL},
    };
}

/* The operations of the transfers at the front of ios that go to one node for one partition; *taken of them. */
static size_t make_ops(const fp_thread *thread, const fp_node_set *set, fp_io *const *ios,
                       size_t count, fp_net_op *ops, fp_slot_entry *entries, size_t *taken)
{
    farpool_partition *partition = ios[0]->partition;
    uint32_t slot;
    place at = {.set = set, .extent = extent_of(ios[0], set, &slot)};
    unsigned node = at.extent->node;
    at.transport = &thread->pool->transports[thread->pool->nodes[node].transport];
    size_t n = 0, i = 0;
    do {
        at.unit = slot & ((1u << partition->extent_shift) - 1);
        if (partition->redo && ios[i]->kind == FP_IO_WRITE) {
            make_entry_op(ios[i], &at, &entries[i], &ops[n]);
            n++;
        }
        make_op(ios[i++], &at, &ops[n++]);
        if (i < count)
            at.extent = extent_of(ios[i], set, &slot);
    } while (i < count && at.extent->node == node && ios[i]->partition == partition);
    *taken = i;
    return n;
}

void fp_remote_post(fp_thread *thread, fp_io *const *ios, size_t count)
{
    fp_net_op ops[FP_IO_MAX]; /* two for each write, of which there are never so many at once */
    fp_slot_entry entries[FP_WRITES_MAX];
    for (size_t i = 0; i < count;) {
        farpool_partition *partition = ios[i]->partition;
        fp_node_set *set = fp_node_set_now(partition);
        size_t taken, n = make_ops(thread, set, ios + i, count - i, ops, entries, &taken);
        uint32_t slot;
        const fp_extent *extent = extent_of(ios[i], set, &slot);
        int rc = FARPOOL_E_CLOSED;
        if (__builtin_expect((set->absent >> extent->share & 1) != 0, 0))
            rc = fp_error(FARPOOL_E_NODE, "memory node %s has granted no share",
                          thread->pool->nodes[extent->node].uri);
        for (int tries = 0; rc == FARPOOL_E_CLOSED && tries < 2; tries++) {
            rc = fp_remote_ready(thread, partition, set, extent->node);
            if (!rc)
                rc = fp_remote_send(thread, extent->node, ops, n);
        }
        for (size_t k = 0; rc && k < taken; k++)
            fp_remote_complete(thread, ios[i + k], rc);
        i += taken;
    }
}
