/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/simwatch.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/wire.h"
#include "memnode/node.h"
#include "storagenode/node.h"
#include "tests/lib/redo_model.h"
#include "tests/lib/simmedium.h"

static void check(bool holds, char rule, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void check(bool holds, char rule, const char *format, ...)
{
    char what[256], why[300];
    if (holds)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    snprintf(why, sizeof why, "invariant %c: %s", rule, what);
    model_fail(__FILE__, __LINE__, why);
}

static uint64_t get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_acquire);
}

/* ---- memory nodes ---------------------------------------------------------------------------- */

static const fp_grant *grant_of(const sim_watch *w, unsigned node, enum fp_use use)
{
    const sim_node *n = &w->sim->nodes[node];
    const fp_grant *grant = n->lost ? NULL : n->memnode->grants;
    while (grant && (grant->use != use || grant->partition != w->partition))
        grant = grant->next;
    return grant;
}

static uint8_t *extent_of(const sim_watch *w, unsigned node, uint32_t extent)
{
    return w->sim->nodes[node].memnode->extents.list[extent].mem.addr;
}

/* A ring is smaller than an extent here. NULL: the node has none, or has crashed. */
static const uint8_t *ring_of(const sim_watch *w, unsigned node)
{
    const fp_grant *grant = grant_of(w, node, FP_USE_RING);
    return grant ? extent_of(w, node, grant->extents[0]) : NULL;
}

/* Of the owner's ring. */
static unsigned node_of(const sim_watch *w, const fp_ring *ring)
{
    const char *uri = w->log->partition->pool->nodes[ring->at.node].uri;
    unsigned i = 0;
    while (strcmp(uri, w->sim->nodes[i].uri))
        i++;
    return i;
}

static bool is_lost(const fp_ring *ring)
{
    return atomic_load_explicit(&ring->lost, memory_order_relaxed);
}

/* What its node has acknowledged may be gone, and nobody knows of it yet. */
static bool is_believed(const sim_watch *w, unsigned node)
{
    const sim_node *n = &w->sim->nodes[node];
    return n->lost || n->boot_id != w->nodes[node].trusted_boot;
}

/* ---- the log --------------------------------------------------------------------------------- */

/* Whether bytes [from, to) at `a` and `b`, both used over and over, are the same. */
static bool same_lap(const uint8_t *a, const uint8_t *b, uint64_t bytes, uint64_t from, uint64_t to)
{
    while (from < to) {
        uint64_t at = from % bytes, n = bytes - at < to - from ? bytes - at : to - from;
        if (memcmp(a + at, b + at, n))
            return false;
        from += n;
    }
    return true;
}

static unsigned rings_that_have(const sim_watch *w, uint64_t from, uint64_t to)
{
    const fp_redo_log *log = w->log;
    unsigned count = 0;
    for (unsigned i = 0; i < log->ring_count; i++) {
        unsigned node = node_of(w, &log->rings[i]);
        const uint8_t *ring = ring_of(w, node);
        count += is_believed(w, node) || (ring && same_lap(ring + FP_RING_LOG_AT, log->mirror.addr,
                                                           log->ring_bytes, from, to));
    }
    return count;
}

static void learn(sim_watch *w, uint64_t from, uint64_t to)
{
    if (to > w->room) {
        w->room = 2 * to;
        w->bytes = realloc(w->bytes, w->room);
        FP_ASSERT(w->bytes);
    }
    fp_redo_copy_out(w->log, from, w->bytes + from, to - from);
    w->end = to;
}

/* A */
static void look_at_durable(sim_watch *w)
{
    uint64_t durable = get(&w->log->durable);
    if (durable == w->durable)
        return;
    check(durable > w->durable, 'A', "durable falls from %" PRIu64 " to %" PRIu64, w->durable,
          durable);
    check(rings_that_have(w, w->durable, durable) >= w->log->quorum, 'A',
          "LSN %" PRIu64 " to %" PRIu64 " is durable, and in %u of %u rings", w->durable, durable,
          rings_that_have(w, w->durable, durable), w->log->ring_count);
    learn(w, w->durable, durable);
    w->durable = durable;
}

/* ---- storage nodes --------------------------------------------------------------------------- */

/* Whether everything below is durable there, and is the log. */
static bool volume_has(sim_watch *w, unsigned index, uint64_t lsn)
{
    sim_watch_volume *v = &w->volumes[index];
    const fp_disk_medium *medium = w->storages[index].medium;
    if (v->proved >= lsn)
        return true;
    uint64_t from = medium_wal_start(medium, w->partition);
    if (!from || lsn > w->end)
        return false;
    from = from > v->proved ? from : v->proved;
    from = from > w->from ? from : w->from;
    if (from < lsn && !medium_wal_has(medium, w->partition, from, lsn, w->bytes + from))
        return false;
    v->proved = lsn;
    return true;
}

static unsigned volume_of(const sim_watch *w, uint64_t volume)
{
    unsigned i = 0;
    while (i < w->storage_count && w->storages[i].volume_id != volume)
        i++;
    return i;
}

static unsigned volumes_that_have(sim_watch *w, uint64_t lsn)
{
    unsigned count = 0;
    for (unsigned i = 0; i < w->storage_count; i++)
        count += volume_has(w, i, lsn);
    return count;
}

/* E */
static void look_at_stored(sim_watch *w)
{
    uint64_t stored = get(&w->log->stored);
    if (stored == w->stored)
        return;
    check(stored <= w->durable && volumes_that_have(w, stored) >= w->storage_quorum, 'E',
          "LSN %" PRIu64 " is stored, and on %u volumes", stored, volumes_that_have(w, stored));
    w->stored = stored;
    w->stored_end = stored > w->stored_end ? stored : w->stored_end;
}

/* F */
static void look_at_start(sim_watch *w)
{
    uint64_t start = get(&w->log->start), before = w->start;
    if (start == before)
        return;
    check(start > before && start <= w->durable, 'F',
          "the log's start from %" PRIu64 " to %" PRIu64, before, start);
    w->start = start;
    bool tight = get(&w->log->end) - w->floor > w->log->ring_bytes / 2;
    for (unsigned i = 0; i < w->log->ring_count; i++) {
        const fp_ring *ring = &w->log->rings[i];
        if (is_lost(ring) || !ring->spills || ring->worthless ||
            (ring->volume && ring->spilled < before))
            continue;
        unsigned v = volume_of(w, ring->volume);
        bool may_stand_back = tight && volumes_that_have(w, start) >= w->storage_quorum;
        check(may_stand_back || (v < w->storage_count && volume_has(w, v, start)), 'F',
              "the log's start moves to %" PRIu64 ", and ring %u is spilled up to %" PRIu64, start,
              i, ring->spilled);
    }
    check(volumes_that_have(w, start) > 0, 'F', "no volume has what is before %" PRIu64, start);
}

/* G */
static void look_at_floor(sim_watch *w)
{
    uint64_t floor = get(&w->log->floor);
    if (floor == w->floor)
        return;
    w->floor = floor;
    for (unsigned i = 0; i < w->log->ring_count; i++) {
        const fp_ring *ring = &w->log->rings[i];
        unsigned node = node_of(w, ring);
        const fp_ring_owner *line = (const fp_ring_owner *)(const void *)ring_of(w, node);
        if (is_lost(ring) || is_believed(w, node))
            continue;
        check(line && fp_ring_owner_is_valid(line, w->partition) && line->start >= floor, 'G',
              "ring %u is used again up to %" PRIu64 ", its line says that it begins at %" PRIu64,
              i, floor, line ? line->start : 0);
    }
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* D */
static void look_at_node_line(sim_watch *w, unsigned node)
{
    const uint8_t *ring = ring_of(w, node);
    fp_ring_node line, *known = &w->nodes[node].line;
    if (!ring || !memcmp(ring + FP_RING_NODE_AT, known, sizeof line))
        return;
    memcpy(&line, ring + FP_RING_NODE_AT, sizeof line);
    if (!fp_ring_node_is_valid(&line, w->partition) || line.spilled > w->end ||
        line.fork != fp_lineage_number(&w->log->lineage))
        return; /* it is of a log before, or was durable under an owner who never came to work: later */
    unsigned v = volume_of(w, line.volume);
    check(!line.volume || v < w->storage_count, 'D', "%s spills to volume %" PRIu64,
          w->sim->nodes[node].uri, line.volume);
    check(!line.volume || line.spilled <= FP_REDO_LSN_FIRST || volume_has(w, v, line.spilled), 'D',
          "%s says that LSN %" PRIu64 " is on volume %" PRIu64, w->sim->nodes[node].uri,
          line.spilled, line.volume);
    *known = line;
}

/* H */
static void owner_line_came(sim_watch *w, unsigned node, const uint8_t *ring)
{
    sim_watch_node *n = &w->nodes[node];
    const fp_ring_owner *before = &n->owner;
    fp_ring_owner line;
    memcpy(&line, ring, sizeof line);
    if (!fp_ring_owner_is_valid(&line, w->partition))
        return;
    const char *uri = w->sim->nodes[node].uri;
    check(n->epoch < w->since || line.epoch >= w->since, 'H',
          "%s: a line of epoch %" PRIu64 " after %" PRIu64, uri, line.epoch, w->since);
    check(line.start <= line.durable && line.epoch >= before->epoch, 'H',
          "%s: a line of epoch %" PRIu64 " after %" PRIu64 ", start %" PRIu64, uri, line.epoch,
          before->epoch, line.start);
    bool may_fall = w->fallen && line.epoch != before->epoch;
    check(may_fall || (line.start >= before->start && line.durable >= before->durable), 'H',
          "%s: start, durable fall from %" PRIu64 ", %" PRIu64 " to %" PRIu64 ", %" PRIu64, uri,
          before->start, before->durable, line.start, line.durable);
    if (w->log && line.epoch == w->log->epoch)
        check(line.durable <= get(&w->log->durable), 'H', "%s: not durable up to %" PRIu64, uri,
              line.durable);
    n->owner = line;
}

/* G: bytes of the log have come to a ring. */
static void log_came(const sim_watch *w, unsigned node, uint64_t at, uint64_t len)
{
    const fp_ring_owner *line = &w->nodes[node].owner;
    if (!w->log || line->epoch != w->log->epoch)
        return; /* it does not count yet */
    uint64_t end = get(&w->log->end), bytes = w->log->ring_bytes;
    uint64_t back = (end - at) % bytes, lsn = end - (back ? back : bytes);
    check(lsn + len <= line->start + bytes, 'G',
          "%s: LSN %" PRIu64 " overwrites what its line says begins at %" PRIu64,
          w->sim->nodes[node].uri, lsn, line->start);
}

/* C and H: perhaps a slot's header is among it. */
static void page_came(const sim_watch *w, unsigned node, const uint8_t *at, uint64_t len)
{
    fp_slot_header header;
    if (len < sizeof header)
        return;
    memcpy(&header, at, sizeof header);
    if (header.magic != FP_SLOT_MAGIC || header.partition != w->partition)
        return;
    check(w->nodes[node].epoch < w->since || header.epoch >= w->since, 'H',
          "%s: page %" PRIu64 " of epoch %" PRIu64 " after %" PRIu64, w->sim->nodes[node].uri,
          header.pid, header.epoch, w->since);
    if (w->log && header.epoch >= w->since)
        check(header.lsn <= get(&w->log->durable), 'C',
              "page %" PRIu64 " is written as of %" PRIu64 ", durable is %" PRIu64, header.pid,
              header.lsn, get(&w->log->durable));
}

static void bytes_came(sim_watch *w, const uint8_t *addr, uint64_t len)
{
    for (unsigned i = 0; i < w->sim->node_count; i++) {
        const uint8_t *ring = ring_of(w, i);
        const fp_grant *slab = grant_of(w, i, FP_USE_SLAB);
        uint64_t extent = w->sim->nodes[i].memnode->extents.extent_bytes;
        if (ring && addr >= ring + FP_RING_LOG_AT && addr < ring + extent)
            log_came(w, i, (uint64_t)(addr - ring) - FP_RING_LOG_AT, len);
        else if (addr == ring)
            owner_line_came(w, i, ring);
        for (uint32_t e = 0; slab && e < slab->count; e++) {
            const uint8_t *begin = extent_of(w, i, slab->extents[e]);
            if (addr >= begin && addr < begin + extent &&
                (uint64_t)(addr - begin) % FP_SLOT_UNIT_BYTES == 0)
                page_came(w, i, addr, len);
        }
    }
}

/* H: a node that has crashed knows nothing any more. */
static void look_at_node(sim_watch *w, unsigned node)
{
    const fp_grant *ring = grant_of(w, node, FP_USE_RING), *slab = grant_of(w, node, FP_USE_SLAB);
    sim_watch_node *n = &w->nodes[node];
    if (n->boot_id != w->sim->nodes[node].boot_id)
        *n = (sim_watch_node){.boot_id = w->sim->nodes[node].boot_id,
                              .trusted_boot = n->trusted_boot};
    for (unsigned i = 0; i < 2; i++) {
        const fp_grant *grant = i ? slab : ring;
        if (!grant)
            continue;
        check(grant->epoch >= n->epoch, 'H', "%s: its epoch falls from %" PRIu64 " to %" PRIu64,
              w->sim->nodes[node].uri, n->epoch, grant->epoch);
        n->epoch = grant->epoch;
    }
    if (!ring) { /* given back: the next one is empty */
        n->owner = (fp_ring_owner){0};
        n->line = (fp_ring_node){0};
    }
}

/* I */
static void look_at_volume(sim_watch *w, unsigned index)
{
    sim_watch_volume *v = &w->volumes[index];
    const sim_storage *s = &w->storages[index];
    uint64_t version = medium_dir_version(s->medium);
    bool runs = s->serves && !s->lost;
    uint64_t claimed = runs ? medium_pages_claimed(s->node->files, w->partition) : 0;
    if (version == v->dir_version && claimed == v->claimed)
        return;
    v->dir_version = version;
    v->claimed = claimed;
    medium_pages there = medium_pages_get(s->medium, w->partition);
    uint64_t start = medium_wal_start(s->medium, w->partition);
    check(!there.missing[0], 'I', "%s: the durable manifest names %s, which is not durable", s->uri,
          there.missing);
    check(there.sequence >= claimed, 'I',
          "%s: manifest %" PRIu64 " is taken for durable, %" PRIu64 " is", s->uri, claimed,
          there.sequence);
    check(!v->wal_start || start <= v->wal_start || start <= there.converted, 'I',
          "%s: its WAL begins at %" PRIu64 ", its layers end at %" PRIu64, s->uri, start,
          there.converted);
    v->wal_start = start;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static void look(sim_watch *w)
{
    for (unsigned i = 0; i < w->sim->node_count; i++)
        look_at_node(w, i);
    for (unsigned i = 0; i < w->storage_count; i++)
        look_at_volume(w, i);
    if (!w->log)
        return;
    look_at_durable(w);
    for (unsigned i = 0; i < w->sim->node_count; i++)
        look_at_node_line(w, i);
    look_at_stored(w);
    look_at_start(w);
    look_at_floor(w);
}

static void watch(void *arg, const void *addr, uint64_t len)
{
    if (len)
        bytes_came(arg, addr, len);
    else
        look(arg);
}

void sim_watch_begin(sim_watch *w) { fp_sim_set_watcher(w->sim->world, watch, w); }

void sim_watch_end(sim_watch *w)
{
    fp_sim_set_watcher(w->sim->world, NULL, NULL);
    free(w->bytes);
}

void sim_watch_opening(sim_watch *w, uint64_t epoch, bool stored)
{
    w->log = NULL;
    w->since = epoch;
    w->fallen |= stored;
}

void sim_watch_changed(sim_watch *w)
{
    for (unsigned i = 0; i < w->sim->node_count; i++)
        w->nodes[i].trusted_boot = w->sim->nodes[i].boot_id;
}

/* B: what is in the mirror now is the log. */
void sim_watch_opened(sim_watch *w, fp_redo_log *log)
{
    uint64_t durable = get(&log->durable), start = get(&log->start);
    uint64_t kept = log->from_storage ? w->stored_end : w->end;
    w->log = log;
    sim_watch_changed(w);
    check(durable >= kept, 'B', "LSN %" PRIu64 " was durable, and %" PRIu64 " is%s", kept, durable,
          log->from_storage ? " on storage nodes" : "");
    check(rings_that_have(w, start, durable) >= log->quorum, 'A',
          "after a recovery %u of %u rings have all", rings_that_have(w, start, durable),
          log->ring_count);
    uint64_t from = start > w->from ? start : w->from;
    for (uint64_t lsn = from; lsn < kept; lsn++)
        check(((uint8_t *)log->mirror.addr)[lsn % log->ring_bytes] == w->bytes[lsn], 'B',
              "what is at LSN %" PRIu64 " was something else when it became durable", lsn);
    if (!w->from || start > w->end)
        w->from = start;
    for (unsigned i = 0; i < w->storage_count && log->from_storage; i++)
        if (w->volumes[i].proved > start)
            w->volumes[i].proved = start;
    if (log->from_storage)
        w->stored_end = kept;
    learn(w, start, durable);
    w->durable = durable;
    w->start = start;
    w->floor = get(&log->floor);
    w->stored = 0;
    look(w);
}

void sim_watch_look(sim_watch *w, uint64_t acked, uint64_t stored)
{
    look(w);
    check(acked <= w->durable, 'A', "LSN %" PRIu64 " is acknowledged, %" PRIu64 " is durable",
          acked, w->durable);
    check(!stored || volumes_that_have(w, stored) >= w->storage_quorum, 'E',
          "LSN %" PRIu64 " is acknowledged as stored, and on %u volumes", stored,
          volumes_that_have(w, stored));
}
