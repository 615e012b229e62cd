/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a memory node never says of a log that it is on stable media when it is not, that a storage node's WAL
 * is always the beginning of the log that its owners have committed, and that everything is spilled when nothing
 * goes wrong any more.
 *
 * Each seed is a simulated world with 1 to 3 spillers and one storage node on a simulated disk. Owners write one or two
 * logs to rings that lag behind one another, reuse what was spilled, and follow one another, where the new one gives up
 * frames of the old one that are still in some rings. Connections are cut and lost, spillers die and come again, with
 * their memory or without, and the storage node's power fails. SEED=n replays one; SEED=n SEEDS=m runs m from there on.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "common/redo.h"
#include "memnode/spill.h"
#include "storagenode/node.h"
#include "tests/lib/disk_scope.h"
#include "tests/lib/require.h"
#include "tests/lib/ring_owner.h"
#include "tests/lib/seeds.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    SEEDS = 400,
    SEEDS_QUICK = 150,
    NODES_MAX = 3,
    PARTS_MAX = 2,
    LOG_BYTES = 64 << 10,
    RESERVE = 4096, /* for owners' first frames */
    EXTENT_BYTES = 20 << 10,
    TURNS = 150,
    TURN_NS_MAX = 2000000,
    TICK_NS = 200000,
    CALM_MS = 20000,
};

static const fp_disk_sim_config plain_disk = {0};

typedef struct logpart {
    ring_owner o;
    uint64_t first_end;             /* of the owner's first frame */
    uint64_t told_start[NODES_MAX]; /* in the line */
    bool lost[NODES_MAX];           /* not written to until there is another owner */
} logpart;

typedef struct node {
    unsigned index;
    char name[16];
    fp_spill *spill; /* NULL: down */
    uint64_t name_number;
} node;

static struct {
    uint64_t seed, random;
    fp_sim_world *world;
    fp_net *clock_net;
    fp_poller *clock;
    sim_storage storage;
    unsigned node_count, part_count, quorum;
    node nodes[NODES_MAX];
    logpart parts[PARTS_MAX];
} r;

static struct {
    uint64_t bytes, owners, powers, deaths, laps;
} count;

static void check_failed(int line, const char *what)
{
    fprintf(stderr, "SEED=%" PRIu64 ": %s:%d: %s is false (last error: %s)\n", r.seed, __FILE__,
            line, what, farpool_errmsg());
    exit(1);
}
#define CHECK(condition) ((condition) ? (void)0 : check_failed(__LINE__, #condition))

static uint64_t draw(uint64_t below) { return test_random(&r.random) % below; }

/* ---- what must be true ----------------------------------------------------------------------- */

/* Not while the node is down, or its process begins. */
static const fp_wal *open_wal(const logpart *p)
{
    const fp_stored *log =
        r.storage.node ? fp_stored_find(r.storage.node, p->o.log.partition) : NULL;
    return log && log->state == FP_STORED_OPEN ? log->wal : NULL;
}

static void check_lines(void)
{
    for (unsigned p = 0; p < r.part_count; p++) {
        logpart *part = &r.parts[p];
        const fp_wal *wal = open_wal(part);
        if (!wal)
            continue;
        CHECK(fp_wal_end(wal) <= part->o.durable);
        for (unsigned i = 0; i < r.node_count; i++) {
            fp_ring_node line;
            if (!ring_owner_node(&part->o, i, &line))
                continue;
            CHECK(line.volume == r.storage.volume_id);
            CHECK(line.spilled <= fp_wal_durable(wal));
        }
    }
}

static void check_wal(logpart *part, fp_disk *disk)
{
    enum { PIECE = 256 << 10 };
    fp_wal *wal;
    void *landing = disk_buffer(PIECE, 0), *buffer = disk_buffer(PIECE, 0);
    fp_wal_options options = {
        .partition = part->o.log.partition, .landing = landing, .landing_bytes = PIECE};
    int rc = wal_open(disk, &options, &wal);
    uint64_t end = 0;
    CHECK(!rc || rc == FARPOOL_E_NOTFOUND);
    if (!rc) {
        uint64_t at = fp_wal_start(wal);
        end = fp_wal_end(wal);
        CHECK(end <= part->o.durable);
        while (at < end) {
            uint64_t upto, base = at / FP_DISK_ALIGN * FP_DISK_ALIGN;
            CHECK(!wal_read(disk, wal, at, base + PIECE < end ? base + PIECE : end, buffer, &upto));
            CHECK(upto > at &&
                  !memcmp((uint8_t *)buffer + (at - base), part->o.log.bytes + at, upto - at));
            at = upto;
        }
        CHECK(!wal_close(disk, wal));
    }
    for (unsigned i = 0; i < r.node_count; i++) {
        fp_ring_node line;
        CHECK(!ring_owner_node(&part->o, i, &line) || line.spilled <= end);
    }
    free(landing);
    free(buffer);
}

static void check_wals(void)
{
    fp_disk *disk;
    CHECK(!fp_disk_open("check", &(fp_disk_options){.medium = r.storage.medium}, &disk));
    for (unsigned p = 0; p < r.part_count; p++)
        check_wal(&r.parts[p], disk);
    fp_disk_close(disk);
}

/* ---- spillers -------------------------------------------------------------------------------- */

static void node_open(node *n)
{
    snprintf(n->name, sizeof n->name, "node%u-%" PRIu64, n->index, ++n->name_number);
    fp_spill_config config = {.storage = r.storage.uri,
                              .name = n->name,
                              .net = &(fp_net_options){.world = r.world, .node = n->name},
                              .timeout_ms = 50};
    CHECK(!fp_spill_open(&config, &n->spill));
    for (unsigned p = 0; p < r.part_count; p++) {
        const ring_copy *copy = &r.parts[p].o.copies[n->index];
        CHECK(!fp_spill_add_ring(n->spill, r.parts[p].o.log.partition, copy->extents,
                                 copy->extent_count, EXTENT_BYTES));
    }
}

static void tick(void *arg)
{
    node *n = arg;
    uint64_t delay = TICK_NS;
    if (n->spill) {
        uint64_t wanted = fp_spill_step(n->spill);
        delay = wanted < TICK_NS ? wanted : TICK_NS;
        check_lines();
    }
    fp_sim_at(r.world, fp_sim_now_ns(r.world) + delay + 1000, tick, n);
}

static void node_die(node *n, bool with_memory)
{
    if (!n->spill)
        return;
    count.deaths++;
    if (draw(2))
        fp_sim_crash(r.world, n->name);
    fp_spill_close(n->spill);
    n->spill = NULL;
    for (unsigned p = 0; p < r.part_count && with_memory; p++) {
        ring_copy *copy = &r.parts[p].o.copies[n->index];
        for (uint32_t e = 0; e < copy->extent_count; e++)
            memset(copy->extents[e], 0, EXTENT_BYTES);
        copy->have = FP_REDO_LSN_FIRST;
        r.parts[p].lost[n->index] = true;
    }
}

/* ---- owners ---------------------------------------------------------------------------------- */

/* The last frame's end at or below lsn. */
static uint64_t frame_floor(const wal_log *log, uint64_t lsn)
{
    uint64_t best = FP_REDO_LSN_FIRST;
    for (size_t i = log->count; i > 0; i--)
        if (log->ends[i - 1] <= lsn)
            return log->ends[i - 1];
    return best;
}

static void add_frames(logpart *p)
{
    for (uint64_t n = draw(4); n; n--) {
        size_t bytes = draw(20) ? 40 + draw(800) : 40 + draw(LOG_BYTES / 3);
        if (p->o.log.end + bytes - p->o.start > LOG_BYTES - RESERVE)
            return;
        ring_owner_frame(&p->o, bytes, r.random);
    }
}

static void write_some(logpart *p, unsigned i, bool all)
{
    ring_copy *copy = &p->o.copies[i];
    uint64_t limit = p->told_start[i] + LOG_BYTES;
    limit = limit < p->o.log.end ? limit : p->o.log.end;
    if (p->lost[i] || copy->have >= limit)
        return;
    uint64_t upto = all ? limit : copy->have + (draw(limit - copy->have + 8)) / 8 * 8;
    ring_owner_write(&p->o, i, upto < limit ? upto : limit);
}

/* The owner's line comes behind his first frame, in each ring. */
static void tell(logpart *p, unsigned i)
{
    if (p->lost[i] || p->o.copies[i].have < p->first_end)
        return;
    ring_owner_tell(&p->o, i);
    p->told_start[i] = p->o.start;
}

static void find_durable(logpart *p)
{
    for (unsigned i = 0; i < r.node_count; i++) {
        uint64_t lsn = p->o.copies[i].have;
        unsigned reached = 0;
        for (unsigned k = 0; k < r.node_count; k++)
            reached += !p->lost[k] && p->o.copies[k].have >= lsn;
        if (reached >= r.quorum && frame_floor(&p->o.log, lsn) > p->o.durable) {
            count.bytes += frame_floor(&p->o.log, lsn) - p->o.durable;
            p->o.durable = frame_floor(&p->o.log, lsn);
        }
    }
}

static void raise_start(logpart *p)
{
    for (unsigned i = 0; i < r.node_count; i++) {
        fp_ring_node line;
        if (p->lost[i] || !ring_owner_node(&p->o, i, &line))
            continue;
        uint64_t upto = line.spilled < p->o.durable ? line.spilled : p->o.durable;
        if (upto > p->o.start)
            p->o.start = frame_floor(&p->o.log, p->o.start + draw(upto - p->o.start + 1));
    }
}

/* Another owner: what was not durable may be in his log or not; rings that had it still do behind its end. */
static void next_owner(logpart *p)
{
    uint64_t most = p->o.durable;
    for (unsigned i = 0; i < r.node_count; i++)
        if (!p->lost[i] && p->o.copies[i].have > most)
            most = p->o.copies[i].have;
    wal_log_truncate(&p->o.log,
                     frame_floor(&p->o.log, p->o.durable + draw(most - p->o.durable + 1)));
    p->o.epoch++;
    count.owners++;
    for (unsigned i = 0; i < r.node_count; i++) {
        uint64_t *have = &p->o.copies[i].have;
        *have = p->lost[i] && *have < p->o.start ? p->o.start : *have;
        *have = *have < p->o.log.end ? *have : p->o.log.end;
        p->told_start[i] = p->o.start; /* he needs nothing before, whatever an older line says */
        p->lost[i] = !r.nodes[i].spill;
    }
    ring_owner_frame(&p->o, 0, 0);
    p->first_end = p->o.log.end;
}

static void work(logpart *p)
{
    add_frames(p);
    for (unsigned i = 0; i < r.node_count; i++)
        if (draw(2))
            write_some(p, i, draw(2));
    find_durable(p);
    if (draw(2))
        raise_start(p);
    for (unsigned i = 0; i < r.node_count; i++)
        if (draw(2))
            tell(p, i);
}

/* ---- trouble --------------------------------------------------------------------------------- */

static void storage_start(void)
{
    if (!r.storage.lost)
        return;
    fp_disk_sim_configure(r.storage.medium, &plain_disk);
    check_wals();
    sim_storage_restart(&r.storage);
}

static void power_failure(void)
{
    if (r.storage.lost)
        return;
    count.powers++;
    sim_storage_crash(&r.storage);
    fp_storagenode_close(r.storage.node);
    r.storage.node = NULL;
}

/* No space, or a device that fails. */
static void draw_faults(void)
{
    fp_disk_sim_config config = {0};
    if (draw(2)) {
        config.capacity_bytes = (1 + draw(8)) * TEST_SEGMENT_BYTES;
    } else {
        config.eio_per_million[FP_DISK_WRITE] = (uint32_t)draw(100000);
        config.eio_per_million[FP_DISK_SYNC] = (uint32_t)draw(100000);
    }
    fp_disk_sim_configure(r.storage.medium, &config);
}

static void trouble(void)
{
    node *n = &r.nodes[draw(r.node_count)];
    switch (draw(40)) {
    case 0:
        power_failure();
        break;
    case 1:
    case 2:
    case 3:
        storage_start();
        break;
    case 4:
    case 5:
        fp_sim_reset(r.world, n->name, r.storage.uri + strlen("sim://"));
        break;
    case 6:
        fp_sim_cut(r.world, n->name, r.storage.uri + strlen("sim://"));
        break;
    case 7:
    case 8:
        fp_sim_heal(r.world);
        break;
    case 9:
        node_die(n, draw(3) == 0);
        break;
    case 10:
    case 11:
        if (!n->spill)
            node_open(n);
        break;
    case 12:
        next_owner(&r.parts[draw(r.part_count)]);
        break;
    case 13:
        draw_faults();
        break;
    case 14:
    case 15:
        fp_disk_sim_configure(r.storage.medium, &plain_disk);
        break;
    }
}

static void pass(uint64_t ns)
{
    fp_net_event event;
    uint64_t until = fp_sim_now_ns(r.world) + ns;
    do {
        CHECK(!fp_net_poll(r.clock, &event, 1, 0));
    } while (fp_sim_now_ns(r.world) < until);
}

/* ---- a world --------------------------------------------------------------------------------- */

static void calm(void)
{
    fp_sim_set_loss(r.world, 0);
    fp_sim_heal(r.world);
    fp_disk_sim_configure(r.storage.medium, &plain_disk);
    storage_start();
    for (unsigned i = 0; i < r.node_count; i++)
        if (!r.nodes[i].spill)
            node_open(&r.nodes[i]);
    for (unsigned p = 0; p < r.part_count; p++)
        next_owner(&r.parts[p]);
}

static bool all_spilled(logpart *p)
{
    for (unsigned i = 0; i < r.node_count; i++) {
        write_some(p, i, true);
        tell(p, i);
    }
    find_durable(p);
    raise_start(p);
    for (unsigned i = 0; i < r.node_count; i++) {
        fp_ring_node line;
        if (!ring_owner_node(&p->o, i, &line) || line.spilled != p->o.log.end)
            return false;
    }
    return p->o.durable == p->o.log.end;
}

static void open_world(uint64_t seed)
{
    memset(&r, 0, sizeof r);
    r.seed = r.random = seed;
    fp_sim_config config = {
        .torn = draw(2), .late = draw(2), .loss_per_million = draw(2) ? (uint32_t)draw(5000) : 0};
    CHECK(!fp_sim_world_open(seed, &config, &r.world));
    CHECK(!fp_net_open("sim://clock", &(fp_net_options){.world = r.world}, &r.clock_net));
    CHECK(!fp_net_poller_open(r.clock_net, &r.clock));
    r.node_count = 1 + (unsigned)draw(NODES_MAX);
    r.part_count = 1 + (unsigned)draw(PARTS_MAX);
    r.quorum = 1 + (unsigned)draw(r.node_count);
    for (unsigned p = 0; p < r.part_count; p++) {
        logpart *part = &r.parts[p];
        ring_owner_open(&part->o, p + 5, r.node_count, LOG_BYTES, EXTENT_BYTES);
        ring_owner_frame(&part->o, 0, 0);
        part->first_end = part->o.log.end;
        for (unsigned i = 0; i < r.node_count; i++)
            part->told_start[i] = part->o.start;
    }
    sim_storage_open(&r.storage, r.world, 0);
    for (unsigned i = 0; i < r.node_count; i++) {
        r.nodes[i].index = i;
        node_open(&r.nodes[i]);
        fp_sim_at(r.world, fp_sim_now_ns(r.world) + draw(TICK_NS), tick, &r.nodes[i]);
    }
}

static void close_world(void)
{
    for (unsigned i = 0; i < r.node_count; i++) {
        fp_spill_close(r.nodes[i].spill);
        r.nodes[i].spill = NULL;
    }
    power_failure();
    fp_disk_sim_configure(r.storage.medium, &plain_disk);
    check_wals();
    sim_storage_close(&r.storage);
    for (unsigned p = 0; p < r.part_count; p++) {
        count.laps += r.parts[p].o.log.end / LOG_BYTES;
        ring_owner_close(&r.parts[p].o);
    }
    fp_net_poller_close(r.clock);
    fp_net_close(r.clock_net);
    fp_sim_world_close(r.world);
}

static uint64_t run_seed(uint64_t seed)
{
    open_world(seed);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        for (unsigned p = 0; p < r.part_count; p++)
            work(&r.parts[p]);
        trouble();
        pass(draw(TURN_NS_MAX));
        check_lines();
    }
    calm();
    uint64_t until = fp_sim_now_ns(r.world) + CALM_MS * 1000000ull;
    for (bool done = false; !done;) {
        pass(1000000);
        done = true;
        for (unsigned p = 0; p < r.part_count; p++)
            done &= all_spilled(&r.parts[p]);
        CHECK(done || fp_sim_now_ns(r.world) < until);
    }
    uint64_t hash = fp_sim_trace_hash(r.world);
    close_world();
    return hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 50};
    if (!getenv("VERBOSE"))
        fp_log_set_level(FP_LOG_ERROR);
    test_seeds_run(&seeds, run_seed);
    printf("%" PRIu64 " KiB of log committed, %" PRIu64 " laps, %" PRIu64 " owners, %" PRIu64
           " power failures, %" PRIu64 " spillers died\n",
           count.bytes >> 10, count.laps, count.owners, count.powers, count.deaths);
    return 0;
}
