/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a storage node whose power fails at any moment while it is being refilled from a peer, whose volume is lost,
 * whose disk has no space or fails, and whose connection to the peer breaks, never says that something is on its medium
 * which is not, never serves a wrong page, and is whole when nothing goes wrong any more.
 *
 * Each seed is a simulated world with a good storage node, which has all of a log, and a weak one, which is given some of
 * it. SEED=n replays one; SEED=n SEEDS=m runs m from there on.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "storagenode/check.h"
#include "storagenode/node.h"
#include "tests/lib/pages_client.h"
#include "tests/lib/require.h"
#include "tests/lib/seeds.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { SEEDS = 150, SEEDS_QUICK = 40, P = 7, TURNS = 40, TICK_NS = 300000, CALM_TURNS = 3000 };

static const fp_disk_sim_config plain_disk = {0};

static struct {
    uint64_t seed, random;
    fp_sim_world *world;
    sim_storage good, weak;
    logclient to_good;
    page_log owner;
    uint64_t from;            /* somebody would append to the weak one from here on */
    uint64_t claimed, volume; /* what it said was durable on which volume */
    unsigned clients;
} r;

static struct {
    uint64_t powers, volumes, whole, bytes;
} count;

static uint64_t draw(uint64_t below) { return test_random(&r.random) % below; }

static void check_failed(int line, const char *what)
{
    fprintf(stderr, "SEED=%" PRIu64 ": %s:%d: %s is false (last error: %s)\n", r.seed, __FILE__,
            line, what, farpool_errmsg());
    exit(1);
}
#define CHECK(condition) ((condition) ? (void)0 : check_failed(__LINE__, #condition))

static void tick(void *arg)
{
    sim_storage_step(&r.weak);
    fp_sim_at(r.world, fp_sim_now_ns(r.world) + TICK_NS, tick, arg);
}

static int connect_client(logclient *c, const char *uri)
{
    char name[32];
    snprintf(name, sizeof name, "client%u", ++r.clients);
    return logclient_open(c, uri, &(fp_net_options){.world = r.world, .node = name});
}

static void pass(uint64_t ns)
{
    fp_net_event event;
    uint64_t until = fp_sim_now_ns(r.world) + ns;
    do
        CHECK(fp_net_poll(r.to_good.poller, &event, 1, 0) == 0);
    while (fp_sim_now_ns(r.world) < until);
}

/* ---- what the weak one says ------------------------------------------------------------------ */

/* True: it has all. What it has is right. */
static bool look(bool pages)
{
    logclient c;
    bool whole = false;
    if (r.weak.lost || connect_client(&c, r.weak.uri))
        return false;
    if (draw(2))
        (void)logclient_wal_open(&c, P, 1, 0, r.from);
    int rc = logclient_ask(&c, (fp_msg){.type = FP_MSG_WAL_GET, .partition = P});
    if (rc == FP_MSG_WAL_STATE) {
        uint64_t start = c.msg.wal.start, durable = c.msg.wal.durable;
        CHECK(durable <= r.owner.log.end);
        /* Its medium has it, whatever happens. */
        CHECK(c.msg.wal.volume != r.volume || durable >= r.claimed);
        r.volume = c.msg.wal.volume;
        r.claimed = durable;
        if (durable > start && logclient_get(&c, P, start) == FP_MSG_LOG)
            CHECK(!memcmp(c.msg.data, r.owner.log.bytes + start, c.msg.data_len));
        if (pages)
            whole = !test_pages_compare(&c, &r.owner, durable) && durable == r.owner.log.end;
    }
    logclient_close(&c);
    return whole;
}

/* ---- what happens ---------------------------------------------------------------------------- */

static void grow(unsigned frames)
{
    uint64_t before = r.owner.log.end;
    page_log_frames(&r.owner, 1, frames);
    test_pages_give(&r.to_good, &r.owner, FP_REDO_LSN_FIRST);
    count.bytes += r.owner.log.end - before;
}

/* The log from r.from on, if that fits. */
static void give_weak(void)
{
    logclient c;
    if (r.weak.lost || connect_client(&c, r.weak.uri))
        return;
    int rc = logclient_wal_open(&c, P, 1, PAGES_CLIENT_FRAME, r.from);
    if (rc == FP_MSG_WAL_STATE && c.msg.wal.streaming && c.landed < r.owner.log.end)
        (void)logclient_stream(&c, &r.owner.log, wal_log_after(&r.owner.log, c.landed, 8));
    logclient_close(&c);
}

static void power_failure(bool volume)
{
    if (r.weak.lost)
        return;
    count.powers++;
    sim_storage_crash(&r.weak);
    if (volume) {
        count.volumes++;
        sim_storage_lose_volume(&r.weak);
    }
}

static void start_weak(void)
{
    if (!r.weak.lost)
        return;
    fp_disk_sim_configure(r.weak.medium, &plain_disk);
    sim_storage_restart(&r.weak);
}

static void draw_faults(void)
{
    fp_disk_sim_config config = {0};
    if (draw(2)) {
        config.capacity_bytes = (1 + draw(12)) * TEST_SEGMENT_BYTES;
    } else {
        config.eio_per_million[FP_DISK_WRITE] = (uint32_t)draw(50000);
        config.eio_per_million[FP_DISK_SYNC] = (uint32_t)draw(50000);
        config.eio_per_million[FP_DISK_SYNC_DIR] = (uint32_t)draw(50000);
    }
    fp_disk_sim_configure(r.weak.medium, &config);
}

static void trouble(void)
{
    const char *weak = r.weak.uri + strlen("sim://"), *good = r.good.uri + strlen("sim://");
    switch (draw(24)) {
    case 0:
    case 1:
    case 2:
        power_failure(false);
        break;
    case 3:
        power_failure(true);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
        start_weak();
        break;
    case 9:
        fp_sim_reset(r.world, weak, good);
        break;
    case 10:
        fp_sim_cut(r.world, weak, good);
        break;
    case 11:
    case 12:
        fp_sim_heal(r.world);
        break;
    case 13:
        if (!r.weak.lost)
            draw_faults();
        break;
    case 14:
    case 15:
        fp_disk_sim_configure(r.weak.medium, &plain_disk);
        break;
    case 16:
        r.from = r.owner.log.end; /* its owner has let go of all before */
        break;
    case 17:
    case 18:
        grow(1 + (unsigned)draw(draw(4) ? 40 : 250));
        break;
    default:
        give_weak();
    }
}

/* ---- a world --------------------------------------------------------------------------------- */

static void open_world(uint64_t seed)
{
    memset(&r, 0, sizeof r);
    r.seed = r.random = seed;
    fp_sim_config config = {.torn = draw(2), .late = draw(2)};
    CHECK(!fp_sim_world_open(seed, &config, &r.world));
    sim_storage_open(&r.good, r.world, 0);
    sim_storage_open(&r.weak, r.world, 1);
    r.good.peer = r.good.uri; /* so that it has as small layers; it is passed over */
    r.weak.peer = r.good.uri;
    sim_storage_restart(&r.good);
    sim_storage_restart(&r.weak);
    r.from = FP_REDO_LSN_FIRST;
    page_log_open(&r.owner, P, FP_REDO_LSN_FIRST, seed);
    test_must(connect_client(&r.to_good, r.good.uri), "connecting");
    fp_sim_at(r.world, fp_sim_now_ns(r.world) + TICK_NS, tick, NULL);
}

static void see(void *arg, const fp_check_problem *problem)
{
    (void)arg;
    fprintf(stderr, "%s: offset %" PRIu64 ": %s\n", problem->file, problem->offset, problem->what);
}

static void check_medium(void)
{
    fp_disk *disk;
    fp_check_counts counts;
    CHECK(!fp_disk_open("check", &(fp_disk_options){.medium = r.weak.medium}, &disk));
    CHECK(!fp_volume_check(disk, see, NULL, &counts));
    CHECK(!counts.problems);
    fp_disk_close(disk);
}

static uint64_t run_seed(uint64_t seed)
{
    open_world(seed);
    grow(50 + (unsigned)draw(300));
    for (unsigned turn = 0; turn < TURNS; turn++) {
        trouble();
        pass(draw(4000000));
        (void)look(draw(4) == 0);
    }
    fp_sim_heal(r.world);
    start_weak();
    fp_disk_sim_configure(r.weak.medium, &plain_disk);
    r.from = r.owner.log.end;
    bool whole = false;
    for (unsigned turn = 0; !whole; turn++) {
        CHECK(turn < CALM_TURNS);
        if (turn % 8 == 0)
            give_weak(); /* it may not have heard of the partition yet */
        pass(5000000);
        whole = look(true);
    }
    count.whole++;
    logclient_close(&r.to_good);
    r.weak.serves = false;
    fp_storagenode_close(r.weak.node);
    r.weak.node = NULL;
    check_medium();
    sim_storage_close(&r.weak);
    sim_storage_close(&r.good);
    uint64_t hash = fp_sim_trace_hash(r.world);
    fp_sim_world_close(r.world);
    page_log_close(&r.owner);
    return hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS_QUICK, .twice = 50};
    fp_log_set_level(getenv("VERBOSE") ? FP_LOG_DEBUG : FP_LOG_ERROR);
    test_seeds_run(&seeds, run_seed);
    printf("%" PRIu64 " KiB of log, %" PRIu64 " power failures, %" PRIu64 " volumes lost, %" PRIu64
           " times whole in the end\n",
           count.bytes >> 10, count.powers, count.volumes, count.whole);
    return 0;
}
