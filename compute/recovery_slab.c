/* SPDX-License-Identifier: Apache-2.0 */
/* What the slabs' directories say of where pages are. */
#include "compute/recovery_slab.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "compute/redo_log.h"
#include "compute/remote.h"
#include "compute/thread.h"

enum { PIECES = 32 }; /* extents of which the entries are read at once */

typedef struct reader {
    farpool_partition *partition;
    fp_thread *thread;
    fp_mem mem; /* PIECES times what an extent has */
    fp_mr *mrs[FP_TRANSPORTS_MAX];
    size_t piece_bytes;
    fp_found_slots *found;
    bool lost; /* a slab that counts could not be read */
} reader;

static int compare_newest_first(const void *a, const void *b)
{
    uint64_t x = ((const fp_found_slot *)a)->lsn, y = ((const fp_found_slot *)b)->lsn;
    return (x < y) - (x > y);
}

static farpool_pid pid_of(const fp_slot_entry *entry) { return entry->page & ((1ull << 48) - 1); }
static unsigned order_of(const fp_slot_entry *entry) { return (unsigned)(entry->page >> 48); }

static bool is_valid(const farpool_partition *partition, const fp_slot_entry *entry)
{
    return entry->crc && entry->crc == fp_slot_entry_crc(entry) &&
           pid_of(entry) < partition->units && order_of(entry) <= partition->order_max &&
           entry->epoch < partition->redo->epoch &&
           entry->lsn >= partition->redo->slabs.trusted_from;
}

static int take_piece(reader *r, uint64_t piece, const fp_slot_entry *entries)
{
    fp_found_slots *found = r->found;
    uint32_t first = (uint32_t)(piece << r->partition->extent_shift);
    for (uint32_t i = 0; i < 1u << r->partition->extent_shift; i++) {
        if (!is_valid(r->partition, &entries[i]))
            continue;
        if (found->count == found->room) {
            size_t room = found->room ? found->room * 2 : 1024;
            fp_found_slot *grown = realloc(found->list, room * sizeof *grown);
            if (!grown)
                return fp_error(FARPOOL_E_NOMEM, "recovery: no memory for %zu slots", room);
            found->list = grown;
            found->room = room;
        }
        found->list[found->count++] = (fp_found_slot){
            .pid = pid_of(&entries[i]),
            .order = order_of(&entries[i]),
            .lsn = entries[i].lsn,
            .page_crc = entries[i].page_crc,
            .slot = first + i,
        };
    }
    return 0;
}

/* It could not be granted, as is known already. */
static bool is_absent(const reader *r, uint64_t piece)
{
    const fp_node_set *set = fp_node_set_now(r->partition);
    return set->absent >> set->extents[piece].share & 1;
}

/* Starts the READ of one piece's entries. */
static void post_piece(reader *r, uint64_t piece, unsigned place)
{
    fp_node_set *set = fp_node_set_now(r->partition);
    const fp_extent *extent = &set->extents[piece];
    const fp_node *node = &r->partition->pool->nodes[extent->node];
    fp_io *io = fp_io_take_ring(r->thread, place, piece);
    fp_net_op op = {
        .kind = FP_NET_READ,
        .cookie = (uintptr_t)io,
        .remote_key = extent->key,
        .remote_addr = extent->entries_addr,
        .sge_count = 1,
        .sge[0] = {(char *)r->mem.addr + place * r->piece_bytes, (uint32_t)r->piece_bytes,
                   r->mrs[node->transport]},
    };
    int rc = is_absent(r, piece) ? FARPOOL_E_NODE
                                 : fp_remote_ready(r->thread, r->partition, set, extent->node);
    if (!rc)
        rc = fp_remote_send(r->thread, extent->node, &op, 1);
    if (rc)
        fp_remote_complete(r->thread, io, rc);
}

static int read_batch(reader *r, uint64_t first, unsigned count)
{
    int rc = 0;
    for (unsigned i = 0; i < count; i++)
        post_piece(r, first + i, i);
    for (unsigned done = 0; done < count;) {
        if (!r->thread->completed)
            fp_remote_poll(r->thread, 100);
        while (r->thread->completed) {
            fp_io *io = r->thread->completed;
            r->thread->completed = io->next;
            done++;
            if (io->status)
                r->lost |= !is_absent(r, io->lsn);
            else if (!rc)
                rc = take_piece(r, io->lsn,
                                (const void *)((char *)r->mem.addr + io->ring * r->piece_bytes));
            fp_io_put(r->thread, io);
        }
    }
    return rc;
}

static int read_all(reader *r)
{
    farpool_pool *pool = r->partition->pool;
    unsigned transports = atomic_load_explicit(&pool->transport_count, memory_order_acquire);
    int rc = 0;
    for (unsigned t = 0; t < transports && !rc; t++)
        rc = fp_net_register(pool->transports[t].net, &r->mem, FP_NET_LOCAL, &r->mrs[t]);
    uint64_t count = r->partition->extent_count;
    for (uint64_t first = 0; first < count && !rc; first += PIECES)
        rc = read_batch(r, first, count - first < PIECES ? (unsigned)(count - first) : PIECES);
    fp_remote_unregister(r->mrs);
    return rc;
}

/* The newest copy of a page may have been in a slab that is lost since it was granted. Those that are left are right if all
 * changes behind them are in the log. (Of one that was lost before slabs.trusted_from says so.) */
static void keep_those_with_redo(fp_found_slots *found, uint64_t first)
{
    size_t kept = 0;
    for (size_t i = 0; i < found->count; i++)
        if (found->list[i].lsn >= first)
            found->list[kept++] = found->list[i];
    found->count = kept;
}

int fp_found_slots_read(farpool_partition *partition, fp_found_slots *found)
{
    reader r = {.partition = partition, .found = found};
    r.piece_bytes = (size_t)FP_SLOT_ENTRY_BYTES << partition->extent_shift;
    int rc = fp_mem_open(PIECES * r.piece_bytes, 0, -1, &r.mem);
    if (rc)
        return rc;
    r.thread = fp_thread_new(partition->pool, FP_USE_SLAB);
    rc = r.thread ? read_all(&r) : FARPOOL_E_NOMEM;
    if (r.thread)
        fp_thread_free(r.thread);
    fp_mem_close(&r.mem);
    if (r.lost)
        keep_those_with_redo(found, partition->redo->first);
    if (!rc && found->count)
        qsort(found->list, found->count, sizeof *found->list, compare_newest_first);
    return rc;
}

void fp_found_slots_free(fp_found_slots *found) { free(found->list); }
