/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another set of memory nodes for a partition that is open, under a higher epoch:
 *
 *   1. prepare   The world runs on. New nodes grant a share of the slab and a ring, both empty: nodes that were not in the
 *                set, and those that have restarted. If one of them fails, all of them give back what they have granted,
 *                and nothing has changed
 *   2. gather    The keeper pauses, and nobody else is the flusher: nothing is acknowledged until the end. The rings that are kept, at least w, get all of the log. Until here a failure changes nothing
 *   3. go on     From here on others' transfers fail and are repeated (node_set.h). GRANT under the new epoch at the nodes that stay, which cuts off everybody's connections, ours
 *                included, and gives new keys. It names the epoch before: who has been taken over gets E_FENCED, and
 *                touches nothing of his successor's. What a ring or a share that was lost may still have is given back and
 *                asked for anew, so it is empty: half of a log, or pages that are too old, must not be found by others.
 *                A failure from here on fails the log, but for a node that cannot be reached: it is lost
 *   4. begin     The set is put in place; this owner's first frame under the new epoch is in w rings
 *   5. release   Everybody goes on, with new connections
 *   6. fill      The new rings get the log from its start on, and last their line, as in a recovery; then they count
 *
 * Why nothing is lost. What was acknowledged before is in w of the rings that are kept (2), and stays there. What is
 * acknowledged later is in w rings of the new set, behind the first frame (4). Whoever recovers the partition from the new
 * set needs k - w + 1 rings that have a log: new ones have none until they have all of it (6), so of what was acknowledged
 * before some ring that is kept tells, and of what is later, one of the quorum. That needs the new set, from the moment of
 * the call on: whoever gives epochs away notes it first.
 */
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/kept.h"
#include "compute/fill.h"
#include "compute/io.h"
#include "compute/keeper.h"
#include "compute/reconfigure.h"
#include "compute/remote.h"
#include "compute/slab.h"
#include "compute/storage.h"
#include "compute/thread.h"

/* ---- 2. gather ------------------------------------------------------------------------------- */

/* What of the log a ring has is worth keeping, if it misses nothing that the mirror has let go of. */
static bool keeps(const fp_reconf *c, unsigned i)
{
    const fp_ring *ring = &c->log->rings[i];
    return !c->at[i].is_new && c->at[i].reachable &&
           !atomic_load_explicit(&ring->lost, memory_order_relaxed) &&
           ring->acked >= atomic_load_explicit(&c->log->floor, memory_order_relaxed);
}

/* Holds the flusher's place. */
static int gather(fp_reconf *c)
{
    fp_redo_log *log = c->log;
    uint64_t end = atomic_load_explicit(&log->end, memory_order_acquire);
    for (;;) {
        unsigned kept = 0, complete = 0;
        int rc = fp_redo_failure(log);
        if (!rc && end + sizeof(fp_redo_frame) >
                       atomic_load_explicit(&log->floor, memory_order_relaxed) + log->ring_bytes)
            rc = fp_error(FARPOOL_E_NOSPACE,
                          "partition %llu: its log rings have no room for another first frame",
                          (unsigned long long)c->partition->id);
        for (unsigned i = 0; i < log->ring_count; i++) {
            c->at[i].keeps = keeps(c, i);
            kept += c->at[i].keeps;
            complete += c->at[i].keeps && log->rings[i].acked >= end;
        }
        if (rc || complete >= log->quorum)
            return rc;
        if (kept < log->quorum)
            return fp_reconf_too_few(c, kept);
        fp_rings_post(log);
        fp_rings_poll(log, 10);
    }
}

/* ---- 3. go on -------------------------------------------------------------------------------- */

/* Without it, whatever is wrong there, the others go on, unless we are the owner no more. */
static bool may_be_lost(int rc) { return rc && rc != FARPOOL_E_FENCED; }

static void drop(fp_share *share)
{
    free(share->extents);
    share->extents = NULL;
}

/* All rings say that the node, as it runs now, has nothing that counts: a recovery would take what is in its share for
 * nothing, also when that is empty. */
static bool is_told(const fp_reconf *c, unsigned i)
{
    const fp_redo_log *log = c->log;
    uint64_t boot = c->old->boots[c->set->shares[i].node];
    for (unsigned k = 0; k < sizeof log->slabs.boots / sizeof log->slabs.boots[0]; k++)
        if (log->slabs.boots[k] == boot)
            return false;
    for (unsigned k = 0; k < log->ring_count; k++)
        if (c->at[k].keeps && log->rings[k].told_slabs != log->slabs.version)
            return false;
    return true;
}

/* The share of a node that stays, with what is in it unless it was given up. */
static int regrant_share(fp_reconf *c, unsigned i)
{
    fp_share *share = &c->set->shares[i];
    bool was_whole = !fp_slab_is_retired(c->old, i);
    int rc = fp_remote_grant(c->slabs, c->partition, c->set, c->old->epoch, share);
    if (rc)
        return rc;
    c->at[i].confirmed = true;
    if (was_whole && c->old->boots[share->node] == c->set->boots[share->node]) {
        rc = fp_slab_check(c->partition, c->set, i);
    } else {
        drop(share);
        c->lost_copies = true;
        c->emptied |= 1u << i;
        rc = is_told(c, i) ? fp_reconf_empty_share(c, i) : 0; /* else the next change takes it in */
    }
    if (rc)
        drop(share);
    return rc;
}

static int regrant_ring(fp_reconf *c, unsigned i)
{
    fp_reconf_place *at = &c->at[i];
    if (!at->keeps)
        return fp_reconf_empty_ring(c, i);
    int rc = fp_remote_grant(c->rings, c->partition, c->set, c->old->epoch, &at->ring);
    if (rc)
        return rc;
    at->confirmed = true;
    rc = fp_ring_check(c->log, &at->ring);
    if (rc)
        drop(&at->ring);
    return rc;
}

/* The first GRANT at a node says what it is held under; nothing is emptied before that is confirmed. */
static int regrant(fp_reconf *c, unsigned i)
{
    bool ring_first = c->old->absent >> i & 1;
    int rc = ring_first ? regrant_ring(c, i) : regrant_share(c, i);
    if (rc && !may_be_lost(rc))
        return rc;
    if (ring_first)
        c->emptied |= 1u << i;
    if (c->at[i].confirmed && ring_first)
        rc = fp_reconf_empty_share(c, i);
    else if (c->at[i].confirmed && fp_reconf_has_ring(c, i))
        rc = regrant_ring(c, i);
    return may_be_lost(rc) ? 0 : rc;
}

static int go_on(fp_reconf *c)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < c->partition->share_count; i++) {
        int rc = c->at[i].is_new || !c->at[i].reachable ? 0 : regrant(c, i);
        if (rc)
            return rc;
        c->at[i].keeps &= c->at[i].ring.extents != NULL;
        kept += c->at[i].keeps;
    }
    return kept < c->log->quorum ? fp_reconf_too_few(c, kept) : 0;
}

static void place_shares(fp_reconf *c)
{
    for (unsigned i = 0; i < c->partition->share_count; i++) {
        bool is_absent = !c->set->shares[i].extents;
        c->lost_copies |= c->at[i].is_new || is_absent;
        c->emptied |= (uint32_t)(c->at[i].is_new || is_absent) << i;
        if (!is_absent)
            continue;
        c->set->absent |= 1u << i;
        atomic_fetch_or_explicit(&c->set->retired, 1u << i, memory_order_relaxed);
    }
    fp_slab_place(c->partition, c->set);
}

/* ---- 4. begin -------------------------------------------------------------------------------- */

static void place_ring(fp_reconf *c, unsigned i)
{
    fp_ring *ring = &c->log->rings[i];
    fp_reconf_place *at = &c->at[i];
    uint64_t start = atomic_load_explicit(&c->log->start, memory_order_relaxed);
    free(ring->at.extents);
    ring->at = at->ring;
    ring->inflight = 0; /* which were on connections that are gone */
    if (!at->keeps) {
        ring->acked = ring->volume = ring->spilled = 0;
        ring->spills = ring->heard = ring->worthless = false;
    }
    ring->posted = at->keeps ? ring->acked : start;
    ring->blank = !at->keeps;
    ring->told_start = ring->told_durable = ring->told_slabs = 0;
    atomic_store_explicit(&ring->doubted, false, memory_order_relaxed);
    atomic_store_explicit(&ring->speaks, false, memory_order_release);
    atomic_store_explicit(&ring->lost, !at->ring.extents, memory_order_relaxed);
    at->ring.extents = NULL; /* which are the log's now */
}

/* Which slabs count, and from which LSN on: all copies that are gone are older than the log's end. */
static void renew_slabs(const fp_reconf *c)
{
    fp_redo_log *log = c->log;
    fp_ring_slabs now = log->slabs;
    now.epoch = c->set->epoch;
    now.version++;
    fp_slab_list(c->partition, c->set, &now);
    if (c->lost_copies)
        now.trusted_from = atomic_load_explicit(&log->end, memory_order_acquire);
    fp_ring_slabs_seal(&now);
    pthread_mutex_lock(&log->lock);
    log->slabs = now;
    pthread_mutex_unlock(&log->lock);
}

/* Everything has been granted. c->rings are the connections before, afterwards. */
static int begin(fp_reconf *c)
{
    fp_redo_log *log = c->log;
    fp_thread *before = log->thread;
    for (unsigned i = 0; i < log->ring_count; i++)
        place_ring(c, i);
    log->thread = c->rings;
    c->rings = before;
    renew_slabs(c);
    int rc = fp_redo_begin_epoch(log, c->set->epoch);
    return rc ? rc : fp_redo_write(log, log->own);
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Steps 2 to 5. *changed: the set is in place, whether or not the log has failed. */
static int switch_over(fp_reconf *c, bool *changed)
{
    farpool_partition *partition = c->partition;
    fp_redo_log *log = c->log;
    *changed = false;
    fp_keeper_pause(log->keeper);
    fp_redo_hold(log);
    int rc = gather(c);
    if (!rc) {
        *changed = true;
        fp_node_set_change(partition);
        rc = go_on(c);
        place_shares(c);
        if (!rc)
            rc = begin(c);
        if (rc)
            fp_redo_give_up(log, rc);
        fp_node_set_settle(partition, c->set);
        if (!rc)
            fp_fill_ask(partition->fill, c->emptied);
    }
    fp_redo_release(log);
    fp_thread *before = fp_keeper_resume(log->keeper, *changed ? c->lines : NULL);
    if (before)
        c->lines = before;
    return rc;
}

/* Nodes that are not in the set any more. Those that cannot be told keep what they have, until a higher epoch comes. */
static void leave(fp_reconf *c)
{
    for (unsigned i = 0; i < c->partition->share_count; i++) {
        unsigned node = c->old->shares[i].node;
        if (!c->at[i].was_there || node == c->set->shares[i].node)
            continue;
        int rc = fp_remote_release(c->slabs, c->partition, c->old, node);
        if ((rc && rc != FARPOOL_E_NOTFOUND) || !fp_reconf_has_ring(c, i))
            continue;
        if (fp_remote_release(c->rings, c->partition, c->old, node))
            continue;
    }
}

static int open_change(fp_reconf *c, uint64_t epoch)
{
    farpool_partition *partition = c->partition;
    if (epoch <= c->old->epoch)
        return fp_error(FARPOOL_E_FENCED,
                        "partition %llu is held under epoch %llu; epoch %llu is not higher",
                        (unsigned long long)partition->id, (unsigned long long)c->old->epoch,
                        (unsigned long long)epoch);
    int rc = fp_node_set_new(partition, epoch, &c->set);
    if (rc)
        return rc;
    c->set->extents = calloc(partition->extent_count, sizeof *c->set->extents);
    if (!c->set->extents)
        return fp_error(FARPOOL_E_NOMEM, "partition %llu: no memory for its list of extents",
                        (unsigned long long)partition->id);
    c->slabs = fp_thread_new(partition->pool, FP_USE_SLAB);
    c->rings = c->slabs ? fp_thread_new(partition->pool, FP_USE_RING) : NULL;
    c->lines = c->rings ? fp_thread_new(partition->pool, FP_USE_RING) : NULL;
    return c->lines ? 0 : FARPOOL_E_NOMEM;
}

static void close_change(fp_reconf *c, bool changed)
{
    for (unsigned i = 0; i < c->partition->share_count; i++)
        free(c->at[i].ring.extents);
    if (!changed)
        fp_node_set_free(c->set);
    if (c->slabs)
        fp_thread_free(c->slabs);
    if (c->rings)
        fp_thread_free(c->rings);
    if (c->lines)
        fp_thread_free(c->lines);
}

static int change_locked(farpool_partition *partition, uint64_t epoch, const char *const *memnodes)
{
    fp_reconf c = {
        .partition = partition, .log = partition->redo, .old = fp_node_set_now(partition)};
    bool changed = false;
    int rc = open_change(&c, epoch);
    if (!rc) {
        rc = fp_reconf_prepare(&c, memnodes);
        if (!rc)
            rc = switch_over(&c, &changed);
        if (!changed) {
            fp_kept first = {0}; /* what went wrong first is what matters */
            fp_kept_set(&first, rc);
            fp_reconf_give_back(&c);
            rc = fp_kept_tell(&first);
        }
    }
    if (!rc)
        rc = fp_redo_fill(c.log);
    if (!rc)
        leave(&c);
    close_change(&c, changed);
    return rc;
}

int farpool_partition_reconfigure(farpool_partition *partition, uint64_t epoch,
                                  const char *const *memnodes, size_t count)
{
    if (!partition->redo || !fp_storage_count(partition))
        return fp_error(FARPOOL_E_UNSUPPORTED,
                        "partition %llu has no redo log, or no storage nodes: what only a memory "
                        "node has that goes would be lost",
                        (unsigned long long)partition->id);
    if (!memnodes || count != partition->share_count)
        return fp_error(FARPOOL_E_INVAL, "partition %llu: %zu memory nodes; it has %u",
                        (unsigned long long)partition->id, count, partition->share_count);
    pthread_mutex_lock(&partition->changes_lock);
    int rc = change_locked(partition, epoch, memnodes);
    pthread_mutex_unlock(&partition->changes_lock);
    return rc;
}
