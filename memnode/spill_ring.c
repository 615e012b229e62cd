/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One ring: what its owner says, what is sent of it and what is reported.
 *
 * Everything below an owner's durable is committed and the same in every ring that has it, whoever owned the log when
 * it was written. So it does not matter which node appends it, nor under which owner's line; and a WAL's promise is
 * never raised beyond the epoch of a frame that is about to be appended, for then the frames before it, of earlier
 * owners, could not be appended any more. If it has been, by an owner who was about to begin and never did, or because
 * the WAL was made anew, it is raised to ours, from what is durable on. Only a WAL that was promised to a later owner than the ring's line knows is
 * left alone: that owner reads it now.
 *
 * The ring may not have yet what is durable in others; it may have something else there, of an earlier lap (then the
 * LSN differs) or never committed (then the epoch is too low: the frame before it, an owner's first, is here before
 * that owner's line is).
 */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "common/error.h"
#include "common/faultpoint.h"
#include "common/log.h"
#include "common/racy.h"
#include "common/redo.h"
#include "memnode/spill_inside.h"

enum {
    BACKOFF_FIRST_NS = 50000000,
    BACKOFF_LAST_NS = 1000000000,
    AGAIN_NS = 50000000,     /* until what another node has appended is asked for anew */
    GIVE_UP_NS = 1000000000, /* nothing could be appended for so long */
    LEAVE_NS = 200000000,    /* then others, who ask every AGAIN_NS, come first */
    PARTLY_NS = 1000000,     /* and one more for each byte of a frame that is here in part */
};

/* ---- the ring's memory ----------------------------------------------------------------------- */

static uint8_t *place(const fp_spill_ring *ring, uint64_t at)
{
    return ring->extents[at / ring->extent_bytes] + at % ring->extent_bytes;
}

static void copy_log(const fp_spill_ring *ring, uint64_t lsn, void *to, uint64_t bytes)
{
    uint8_t *target = to;
    while (bytes) {
        uint64_t in_log = lsn % ring->owner.log_bytes, at = FP_RING_LOG_AT + in_log;
        uint64_t to_end = ring->owner.log_bytes - in_log;
        uint64_t to_extent = ring->extent_bytes - at % ring->extent_bytes;
        uint64_t n = bytes < to_end ? bytes : to_end;
        n = n < to_extent ? n : to_extent;
        fp_racy_copy(target, place(ring, at), n);
        target += n;
        lsn += n;
        bytes -= n;
    }
}

static bool read_owner(const fp_spill_ring *ring, fp_ring_owner *line)
{
    fp_racy_copy(line, place(ring, FP_RING_OWNER_AT), sizeof *line);
    fp_racy_read_order();
    uint64_t room = ring->extent_count * ring->extent_bytes - FP_RING_LOG_AT;
    return fp_ring_owner_is_valid(line, ring->partition) && line->log_bytes <= room;
}

/* Peers may READ it at any moment; the checksum is for them. */
static void write_node(fp_spill_ring *ring, fp_ring_node line)
{
    ring->node = line;
    ring->node.partition = ring->partition;
    ring->node.fork = fp_lineage_number(&ring->lineage);
    fp_ring_node_seal(&ring->node);
    fp_racy_copy(place(ring, FP_RING_NODE_AT), &ring->node, sizeof ring->node);
}

void fp_spill_ring_begin(fp_spill_ring *ring)
{
    fp_ring_node line;
    fp_racy_copy(&line, place(ring, FP_RING_NODE_AT), sizeof line);
    if (!fp_ring_node_is_valid(&line, ring->partition))
        write_node(ring, (fp_ring_node){0});
}

void fp_spill_ring_retarget(fp_spill_ring *ring, bool spills, uint64_t now)
{
    write_node(ring, (fp_ring_node){.worthless = !spills});
    ring->phase = FP_SPILL_LOST;
    ring->absent = ring->failed = ring->astray = ring->barred = ring->gap = false;
    ring->volume = ring->opened = ring->sent = ring->sent_epoch = ring->gap_lsn = 0;
    ring->due_ns = ring->backoff_ns = 0;
    ring->moved_ns = now;
    ring->said = 0;
}

/* Whether our line says something of the log that the ring has now. */
static bool has_said(const fp_spill_ring *ring)
{
    return ring->node.magic && ring->node.fork == fp_lineage_number(&ring->lineage);
}

uint64_t fp_spill_ring_lag(const fp_spill_ring *ring)
{
    if (!ring->owner.magic)
        return 0;
    uint64_t spilled = has_said(ring) ? ring->node.spilled : 0;
    spilled = spilled > ring->owner.start ? spilled : ring->owner.start;
    return ring->owner.durable > spilled ? ring->owner.durable - spilled : 0;
}

/* The owner writes the lineage before a line that names its last fork. False: it is being written again. */
static bool take_lineage(fp_spill_ring *ring, uint64_t fork)
{
    fp_lineage found = {0};
    bool known = !fork;
    for (unsigned i = 0; i < 2 && !known; i++) {
        fp_ring_slabs slabs;
        fp_racy_copy(&slabs, place(ring, FP_RING_SLABS_AT + i * FP_RING_SLABS_BYTES), sizeof slabs);
        known = fp_ring_slabs_are_valid(&slabs, ring->partition) &&
                fp_lineage_number(&slabs.lineage) == fork;
        found = known ? slabs.lineage : found;
    }
    if (known) {
        ring->lineage = found;
        ring->failed = true; /* what is known of the WAL was of the log before */
    }
    return known;
}

void fp_spill_look(fp_spill_ring *ring, uint64_t now)
{
    fp_ring_owner line;
    if (!read_owner(ring, &line))
        return; /* blank, or being written: next time */
    if (line.fork != fp_lineage_number(&ring->lineage) && !take_lineage(ring, line.fork))
        return;
    if (line.epoch > ring->owner.epoch) /* perhaps what was refused is not refused to this one */
        ring->due_ns = ring->backoff_ns = 0;
    if (line.durable > ring->owner.durable)
        ring->flowing_ns = now;
    ring->owner = line;
    if (!fp_spill_ring_lag(ring))
        ring->moved_ns = now;
}

/* ---- what is told ---------------------------------------------------------------------------- */

void fp_spill_hold(fp_spill_ring *ring, int code, const char *why, uint64_t now)
{
    uint64_t next = ring->backoff_ns * 2;
    ring->backoff_ns = !next ? BACKOFF_FIRST_NS : next > BACKOFF_LAST_NS ? BACKOFF_LAST_NS : next;
    ring->due_ns = now + ring->backoff_ns;
    if (ring->said != code)
        fp_log(FP_LOG_WARN,
               "partition %" PRIu64 ": its log is not spilled from LSN %" PRIu64 " on: %s",
               ring->partition, ring->sent, why);
    ring->said = code;
}

void fp_spill_note(fp_spill_ring *ring, const fp_msg *msg, uint64_t now)
{
    const fp_ring_node *node = &ring->node;
    ring->gap = ring->gap && msg->wal.end < ring->owner.start;
    bool same = has_said(ring) && node->volume == msg->wal.volume && !node->worthless;
    if (same && node->spilled == msg->wal.durable)
        return;
    if (same && node->spilled > msg->wal.durable)
        fp_log(FP_LOG_WARN,
               "partition %" PRIu64 ": the storage node had its log up to LSN %" PRIu64
               ", now it ends at %" PRIu64,
               ring->partition, node->spilled, msg->wal.durable);
    write_node(ring, (fp_ring_node){.volume = msg->wal.volume, .spilled = msg->wal.durable});
    FP_FAULT_POINT(SPILL_LINE_WRITTEN);
    ring->moved_ns = now;
    if (ring->said && !ring->gap)
        fp_log(FP_LOG_INFO, "partition %" PRIu64 ": its log is being spilled again",
               ring->partition);
    ring->said = 0;
    ring->backoff_ns = 0;
}

void fp_spill_note_worthless(fp_spill_ring *ring)
{
    if (!has_said(ring) || !ring->node.worthless)
        write_node(ring, (fp_ring_node){.volume = ring->volume, .worthless = 1});
}

/* ---- what is sent ---------------------------------------------------------------------------- */

static bool chunk_grow(fp_spill *spill, fp_spill_chunk *chunk, uint64_t bytes)
{
    fp_spill_chunk fresh = {0};
    int rc = fp_mem_open(bytes, 0, -1, &fresh.mem);
    if (!rc) {
        rc = fp_net_register(spill->net, &fresh.mem, FP_NET_LOCAL, &fresh.mr);
        if (rc)
            fp_mem_close(&fresh.mem);
    }
    if (rc)
        return false;
    if (chunk->mr) {
        fp_net_unregister(chunk->mr);
        fp_mem_close(&chunk->mem);
    }
    *chunk = fresh;
    return true;
}

void fp_spill_chunks_close(fp_spill *spill)
{
    for (unsigned i = 0; i < FP_SPILL_CHUNKS; i++) {
        if (!spill->chunks[i].mr)
            continue;
        fp_net_unregister(spill->chunks[i].mr);
        fp_mem_close(&spill->chunks[i].mem);
        spill->chunks[i] = (fp_spill_chunk){0};
    }
}

/* A chunk that is not being sent, with room for so many bytes. One that was made longer than the others for a long
 * frame is made short again when its turn comes. NULL: none now. */
static fp_spill_chunk *take_chunk(fp_spill *spill, fp_spill_ring *ring, uint64_t bytes,
                                  uint64_t now)
{
    fp_spill_chunk *chunk = spill->chunks;
    while (chunk < spill->chunks + FP_SPILL_CHUNKS && chunk->busy)
        chunk++;
    if (chunk == spill->chunks + FP_SPILL_CHUNKS)
        return NULL;
    uint64_t room = bytes > FP_SPILL_CHUNK_BYTES ? bytes : FP_SPILL_CHUNK_BYTES;
    bool fits = chunk->mr && chunk->mem.len >= room;
    bool far_too_long = fits && chunk->mem.len > 4 * room;
    if ((fits && !far_too_long) || chunk_grow(spill, chunk, room))
        return chunk;
    fp_spill_hold(ring, FARPOOL_E_NOMEM, farpool_errmsg(), now);
    return NULL;
}

/* How many bytes are worth copying: one frame at least. 0: nothing can be sent now. */
static uint64_t bytes_to_copy(fp_spill_ring *ring, uint64_t now)
{
    uint64_t durable = ring->owner.durable - ring->sent;
    uint64_t landing = ring->landing_free > ring->sent ? ring->landing_free - ring->sent : 0;
    landing = landing < ring->landing.len ? landing : ring->landing.len;
    uint8_t header[sizeof(fp_redo_frame)];
    fp_redo_expect expect = {ring->partition, ring->sent, ring->sent_epoch};
    if (durable < sizeof header)
        return 0;
    copy_log(ring, ring->sent, header, sizeof header);
    uint64_t needed = fp_redo_needed(header, sizeof header, &expect);
    if (!needed || needed > durable)
        return 0; /* not here yet */
    if (needed > ring->landing.len) {
        fp_spill_hold(ring, FARPOOL_E_TOO_BIG,
                      "the storage node's landing ring is shorter than the next frame", now);
        return 0;
    }
    if (needed > landing)
        return 0; /* when something has been answered */
    uint64_t bytes = durable < landing ? durable : landing;
    uint64_t room = needed > FP_SPILL_CHUNK_BYTES ? needed : FP_SPILL_CHUNK_BYTES;
    return bytes < room ? bytes : room;
}

/* How far the copy has whole frames of epochs that may be appended; the epoch of the last of them. *next: that of the
 * frame behind them, if it is of a higher one. */
static uint64_t follow(const fp_spill_ring *ring, const uint8_t *copy, uint64_t bytes,
                       uint64_t *last, uint64_t *next)
{
    fp_redo_expect expect = {ring->partition, ring->sent, ring->sent_epoch};
    uint64_t at = 0;
    *next = 0;
    for (;;) {
        size_t len = fp_redo_check(copy + at, bytes - at, &expect);
        fp_redo_frame frame;
        *last = expect.epoch_min;
        if (!len)
            return at;
        memcpy(&frame, copy + at, sizeof frame);
        if (frame.epoch > ring->opened) {
            *next = frame.epoch;
            return at;
        }
        expect.epoch_min = frame.epoch;
        expect.lsn += len;
        at += len;
    }
}

/* Copies a chunk and appends what is whole. Returns whether there was anything. */
static bool send_chunk(fp_spill *spill, fp_spill_ring *ring, uint64_t now)
{
    uint64_t bytes = bytes_to_copy(ring, now), last, next;
    fp_spill_chunk *chunk = bytes ? take_chunk(spill, ring, bytes, now) : NULL;
    if (!chunk)
        return false;
    copy_log(ring, ring->sent, chunk->mem.addr, bytes);
    FP_FAULT_POINT(SPILL_COPIED);
    /* The owner says where the log begins before it overwrites what was before. */
    fp_racy_read_order();
    fp_ring_owner line;
    if (!read_owner(ring, &line) || line.start > ring->sent ||
        line.log_bytes != ring->owner.log_bytes || line.fork != ring->owner.fork)
        return false;
    uint64_t good = follow(ring, chunk->mem.addr, bytes, &last, &next);
    if (!good && next) {
        ring->opened = next;
        ring->phase = FP_SPILL_KNOWN;
        return true;
    }
    if (!good) {
        ring->due_ns = now + PARTLY_NS + bytes;
        return false;
    }
    if (!fp_spill_append(spill, ring, chunk, ring->sent + good, now))
        return false;
    ring->sent += good;
    ring->sent_epoch = last;
    return true;
}

/* ---- what is asked --------------------------------------------------------------------------- */

/* Whether the WAL cannot take our log, for what is between is not here any more. Not believed at first: the WAL may
 * have grown by another node's appends since it was asked about, and the owner have heard of that before us. */
static bool is_gap(fp_spill_ring *ring, uint64_t now)
{
    if (ring->absent)
        ring->sent = ring->owner.start;
    bool gap = ring->sent < ring->owner.start;
    ring->gap = gap && ring->gap_lsn == ring->sent;
    ring->gap_lsn = gap ? ring->sent : 0;
    if (ring->gap)
        fp_spill_hold(ring, FARPOOL_E_NOTFOUND,
                      "the storage node's copy ends there, and the ring has only what is behind; "
                      "it needs a peer that has more (farpool-storagenode --peer)",
                      now);
    if (gap) {
        ring->due_ns =
            now + AGAIN_NS; /* it may be filled at any moment, and only now and then for long */
        ring->phase = FP_SPILL_LOST;
    }
    return gap;
}

static bool is_fenced(fp_spill_ring *ring, uint64_t now)
{
    if (ring->opened <= ring->owner.epoch)
        return false;
    ring->phase = FP_SPILL_LOST;
    fp_spill_hold(ring, FARPOOL_E_FENCED,
                  "the storage node has heard of a later owner than this ring has", now);
    return true;
}

/* That its last fork is so is certain when frames behind that are durable. */
static void ask_to_join(fp_spill *spill, fp_spill_ring *ring, uint64_t now)
{
    if (ring->owner.durable > fp_lineage_at(&ring->lineage)) {
        fp_spill_ask(spill, ring, FP_MSG_WAL_JOIN, now);
        return;
    }
    ring->phase = FP_SPILL_LOST;
    ring->due_ns = now + AGAIN_NS;
}

/* Whether somebody else should append: for long there was nothing here that could be. A ring that its owner has lost
 * stays as it is, and must not keep out the nodes that have more. */
static bool give_up(fp_spill *spill, fp_spill_ring *ring, uint64_t now)
{
    if (ring->asked || now - ring->sent_ns < GIVE_UP_NS)
        return false;
    ring->phase = FP_SPILL_LEAVING;
    ring->due_ns = now + LEAVE_NS;
    fp_spill_ask(spill, ring, FP_MSG_WAL_OPEN, now);
    return true;
}

static bool stream(fp_spill *spill, fp_spill_ring *ring, uint64_t now)
{
    if (give_up(spill, ring, now) || is_gap(ring, now) || !fp_spill_ring_lag(ring))
        return false;
    if (ring->sent < ring->owner.durable)
        return send_chunk(spill, ring, now);
    if (!ring->asked) { /* appended by another node before us: did it become durable? */
        ring->phase = FP_SPILL_KNOWN;
        ring->due_ns = now + AGAIN_NS;
    }
    return false;
}

/* Whether the WAL is to be opened though the ring has nothing for it: it ends before our log, or there is none, and what
 * was before is elsewhere. A peer may have that; who waits for this storage node would wait until something is written. */
static bool is_needed(const fp_spill_ring *ring)
{
    uint64_t end = ring->absent ? FP_REDO_LSN_FIRST : ring->sent;
    return end < ring->owner.start;
}

bool fp_spill_ring_step(fp_spill *spill, fp_spill_ring *ring, uint64_t now)
{
    /* Also what its owner does not need any more: our line should say what is. An owner may wait for it to hear which
     * volume it is. */
    bool wanted = !has_said(ring) || ring->node.spilled < ring->owner.durable;
    if (!ring->owner.magic || now < ring->due_ns || !fp_spill_can_ask(spill) ||
        (ring->asked && (ring->phase != FP_SPILL_STREAMING || ring->failed)))
        return false;
    if (ring->failed)
        ring->phase = FP_SPILL_LOST;
    ring->failed = false;
    switch (ring->phase) {
    case FP_SPILL_LEAVING:
        ring->phase = FP_SPILL_LOST;
        return false;
    case FP_SPILL_LOST:
        if (wanted)
            fp_spill_ask(spill, ring, FP_MSG_WAL_GET, now);
        return false;
    case FP_SPILL_KNOWN:
        if (ring->astray) {
            ask_to_join(spill, ring, now);
        } else if (!fp_spill_ring_lag(ring) && !is_needed(ring)) {
            /* it will not be true any more when there is something to send */
            ring->phase = FP_SPILL_LOST;
            ring->due_ns = wanted ? now + AGAIN_NS : 0;
        } else if (!is_fenced(ring, now)) {
            (void)is_gap(
                ring, now); /* the storage node is to hear of it: perhaps a peer of it has more */
            fp_spill_ask(spill, ring, ring->barred ? FP_MSG_WAL_FENCE : FP_MSG_WAL_OPEN, now);
        }
        return false;
    case FP_SPILL_FOLLOWING:
        if (wanted)
            fp_spill_ask(spill, ring, FP_MSG_WAL_OPEN, now);
        return false;
    case FP_SPILL_STREAMING:
        return stream(spill, ring, now);
    }
    return false;
}
