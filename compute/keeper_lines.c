/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/keeper_lines.h"

#include <string.h>

#include "common/faultpoint.h"
#include "compute/io.h"
#include "compute/remote.h"
#include "compute/slab.h"
#include "compute/thread.h"

enum { NODE, OWNER, SLABS }; /* what a transfer is about */

bool fp_lines_may(const fp_ring *ring)
{
    return atomic_load_explicit(&ring->speaks, memory_order_acquire) &&
           !atomic_load_explicit(&ring->lost, memory_order_relaxed);
}

/* An owner who was fenced finds out here even if it does nothing. */
static void take_refusal(fp_redo_log *log, int rc)
{
    if (rc == FARPOOL_E_FENCED)
        fp_redo_fail(log, rc);
}

static void doubt(fp_ring *ring)
{
    atomic_store_explicit(&ring->doubted, true, memory_order_relaxed);
}

/* Starts the exchange of lines with one ring: what is to be told, then what is to be learned. Returns how many
 * transfers are under way. */
static unsigned post_lines(fp_redo_log *log, fp_thread *thread, const fp_keeper *keeper,
                           unsigned index, fp_ring_owner *line)
{
    fp_ring *ring = &log->rings[index];
    fp_net_op ops[3];
    fp_io *ios[3];
    unsigned n = 0;
    int rc =
        fp_remote_ready(thread, log->partition, fp_node_set_now(log->partition), ring->at.node);
    if (rc) {
        doubt(ring);
        take_refusal(log, rc);
        return 0;
    }
    if (ring->told_slabs != log->slabs.version) {
        ios[n] = fp_io_take_ring(thread, index, SLABS);
        ops[n] = fp_ring_slabs_op(log, ring, FP_NET_WRITE, log->slabs.version, ios[n]);
        memcpy(ops[n].sge[0].addr, &log->slabs, sizeof log->slabs); /* the same for each ring */
        n++;
    }
    if (ring->told_durable != atomic_load_explicit(&log->durable, memory_order_acquire) ||
        ring->told_start != atomic_load_explicit(&log->start, memory_order_relaxed)) {
        ios[n] = fp_io_take_ring(thread, index, OWNER);
        bool wake = fp_keeper_is_waited_for(keeper);
        ops[n] = fp_ring_line_op(log, ring, wake ? FP_NET_WRITE_IMM : FP_NET_WRITE,
                                 FP_RING_OWNER_AT, line, ios[n]);
        n++;
    }
    ios[n] = fp_io_take_ring(thread, index, NODE);
    ops[n] = fp_ring_line_op(log, ring, FP_NET_READ, FP_RING_NODE_AT, NULL, ios[n]);
    n++;
    rc = fp_remote_send(thread, ring->at.node, ops, n);
    if (rc)
        doubt(ring);
    for (unsigned i = 0; rc && i < n; i++)
        fp_io_put(thread, ios[i]);
    FP_FAULT_POINT(LINES_POSTED);
    return rc ? 0 : n;
}

/* *now: which count now. */
static bool slabs_have_changed(const fp_redo_log *log, fp_ring_slabs *now)
{
    *now = log->slabs;
    fp_slab_list(log->partition, fp_node_set_now(log->partition), now);
    return memcmp(now->boots, log->slabs.boots, sizeof now->boots) != 0;
}

/* Which slabs count: told to the rings before the log's beginning moves on. */
static void review_slabs(fp_redo_log *log)
{
    fp_ring_slabs now;
    if (!slabs_have_changed(log, &now))
        return;
    FP_FAULT_POINT(SLABS_CHANGED);
    now.version++;
    now.trusted_from = atomic_load_explicit(&log->end, memory_order_acquire);
    fp_ring_slabs_seal(&now);
    pthread_mutex_lock(&log->lock); /* a flusher tells it to a ring that was blank */
    log->slabs = now;
    pthread_mutex_unlock(&log->lock);
}

static void take_node_line(const fp_redo_log *log, fp_ring *ring)
{
    fp_ring_node line;
    memcpy(&line, fp_ring_line(log, ring), sizeof line);
    if (!fp_ring_node_is_valid(&line, log->partition->id))
        return; /* its node spills nowhere, or was about to write it */
    ring->spills = true;
    if (line.fork != fp_lineage_number(&log->lineage))
        return; /* what its storage node has may be another log: it will say so, or join this one */
    ring->worthless = line.worthless;
    if (line.volume == ring->volume && line.spilled < ring->spilled && !line.worthless)
        return; /* it has told another ring's node more, or less than before, which cannot be */
    ring->volume = line.volume;
    ring->spilled = line.spilled;
}

void fp_lines_exchange(fp_redo_log *log, fp_thread *thread, const fp_keeper *keeper)
{
    fp_ring_owner lines[FP_RINGS_MAX];
    unsigned pending = 0;
    review_slabs(log);
    for (unsigned i = 0; i < log->ring_count; i++)
        if (fp_lines_may(&log->rings[i]))
            pending += post_lines(log, thread, keeper, i, &lines[i]);
    while (pending) {
        if (!thread->completed)
            fp_remote_poll(thread, 100);
        while (thread->completed) {
            fp_io *io = thread->completed;
            thread->completed = io->next;
            fp_ring *ring = &log->rings[io->ring];
            if (!io->status && io->lsn == OWNER) {
                ring->told_start = lines[io->ring].start;
                ring->told_durable = lines[io->ring].durable;
                FP_FAULT_POINT(LINE_TOLD);
            } else if (!io->status && io->lsn == SLABS) {
                ring->told_slabs = log->slabs.version;
                FP_FAULT_POINT(SLABS_TOLD);
            } else if (!io->status) {
                ring->heard = true;
                take_node_line(log, ring);
            } else {
                doubt(ring);
            }
            fp_io_put(thread, io);
            pending--;
        }
    }
}

bool fp_lines_slabs_told(const fp_redo_log *log)
{
    fp_ring_slabs now;
    bool told = !slabs_have_changed(log, &now);
    for (unsigned i = 0; i < log->ring_count; i++)
        told &= !fp_lines_may(&log->rings[i]) || log->rings[i].told_slabs == log->slabs.version;
    return told;
}
