/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that log which was good when the WAL was opened, and cannot be read back when pages are to be made of it, leads to
 * layers from a peer that go beyond it, though nobody appends or asks for a page; and that the node goes on so, also after
 * another restart. In a simulated world. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "storagenode/node.h"
#include "tests/lib/pages_client.h"
#include "tests/lib/require.h"
#include "tests/lib/teststorage.h"

enum { P = 7, FRAMES = 700, LOOK_NS = 5000, TICK_NS = 300000, WAIT_MS = 5000 };

static fp_sim_world *world;
static sim_storage good, weak;
static page_log owner;
static bool hurt;
static unsigned clients;

static void tick(void *arg)
{
    sim_storage_step(&weak);
    fp_sim_at(world, fp_sim_now_ns(world) + TICK_NS, tick, arg);
}

/* As soon as the WAL has been opened, and before it is read for pages. */
static void hurt_log(void *arg)
{
    const fp_stored *log = weak.serves ? weak.node->logs : NULL;
    if (log && log->state == FP_STORED_OPEN && log->pages.state == FP_PAGES_OPENING) {
        hurt = fp_disk_sim_flip(weak.medium, "wal-0000000000000007-00000000", 100000, 3);
        REQUIRE(hurt);
        return;
    }
    REQUIRE(!log || log->pages.state == FP_PAGES_CLOSED);
    fp_sim_at(world, fp_sim_now_ns(world) + LOOK_NS, hurt_log, arg);
}

static void connect_client(logclient *c, const sim_storage *s)
{
    char name[32];
    snprintf(name, sizeof name, "client%u", ++clients);
    test_must(logclient_open(c, s->uri, &(fp_net_options){.world = world, .node = name}),
              "connecting");
}

static void give(const sim_storage *s)
{
    logclient c;
    connect_client(&c, s);
    test_pages_give(&c, &owner, FP_REDO_LSN_FIRST);
    logclient_close(&c);
}

/* So that only the world goes on. */
static void wait(void)
{
    logclient c;
    fp_net_event event;
    uint64_t until = fp_sim_now_ns(world) + WAIT_MS * 1000000ull;
    connect_client(&c, &good);
    while (fp_sim_now_ns(world) < until)
        (void)fp_net_poll(c.poller, &event, 1, 1);
    logclient_close(&c);
}

static void check_whole(void)
{
    logclient c;
    wait();
    REQUIRE(weak.node->logs->pages.state == FP_PAGES_OPEN && !weak.node->logs->pages.rotten);
    connect_client(&c, &weak);
    REQUIRE(!test_pages_compare(&c, &owner, owner.log.end));
    logclient_close(&c);
}

int main(void)
{
    static const fp_sim_config config = {0};
    fp_log_set_level(getenv("VERBOSE") ? FP_LOG_DEBUG : FP_LOG_ERROR);
    test_must(fp_sim_world_open(1, &config, &world), "a world");
    page_log_open(&owner, P, FP_REDO_LSN_FIRST, 1);
    sim_storage_open(&good, world, 0);
    sim_storage_open_converting(&weak, world, 1, 16 << 20); /* no layers of its own */
    page_log_frames(&owner, 1, FRAMES);
    give(&good);
    give(&weak);
    weak.peer = good.uri;
    fp_sim_at(world, fp_sim_now_ns(world) + 1, hurt_log, NULL);
    sim_storage_restart(&weak);
    fp_sim_at(world, fp_sim_now_ns(world) + 1, tick, NULL);
    check_whole();
    REQUIRE(hurt);
    page_log_frames(&owner, 1, FRAMES);
    give(&good);
    give(&weak);
    check_whole();
    sim_storage_restart(&weak);
    check_whole();
    weak.serves = false; /* or it is stepped while it is being closed */
    sim_storage_close(&weak);
    sim_storage_close(&good);
    fp_sim_world_close(world);
    page_log_close(&owner);
    return 0;
}
