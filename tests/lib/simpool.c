/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/simpool.h"

#include <stdio.h>
#include <string.h>

#include "compute/slab.h"
#include "memnode/node.h"
#include "tests/lib/require.h"

enum {
    POOL_BYTES = 1 << 20,
    EXTENT_UNITS = 1 << FP_EXTENT_ORDER_MIN,
    EXTENT_BYTES = EXTENT_UNITS * FP_EXTENT_UNIT_BYTES,
    SPACE_BYTES = 64 << 20,
    TICK_NS = 500000,
    TRIES = 50
};

static void drive(void *node)
{
    const sim_node *n = node;
    while (fp_sim_now_ns(n->world) >= n->paused_until_ns && fp_memnode_step(n->memnode) > 0)
        ;
}

static void tick(void *arg)
{
    sim_node *node = arg;
    uint64_t delay = TICK_NS;
    if (!node->lost && fp_sim_now_ns(node->world) >= node->paused_until_ns) {
        node->in_step = true;
        uint64_t wanted = fp_spill_step(node->spill);
        node->in_step = false;
        delay = wanted < TICK_NS ? wanted : TICK_NS;
    }
    fp_sim_at(node->world, fp_sim_now_ns(node->world) + delay + 1000, tick, node);
}

static void open_spill(sim_node *node)
{
    snprintf(node->spiller, sizeof node->spiller, "%s-%llu", node->uri + strlen("sim://"),
             (unsigned long long)node->boot_id);
    fp_spill_config config = {.storage = node->storage,
                              .name = node->uri + strlen("sim://"),
                              .net = &(fp_net_options){.world = node->world,
                                                       .node = node->spiller,
                                                       .connect_timeout_ms = 100},
                              .timeout_ms = 200};
    test_must(fp_spill_open(&config, &node->spill), "opening a spiller");
    if (!node->ticking)
        fp_sim_at(node->world, fp_sim_now_ns(node->world) + TICK_NS, tick, node);
    node->ticking = true;
}

static void node_open(sim_node *node)
{
    fp_memnode_config config = {.name = node->uri + strlen("sim://"),
                                .memory_bytes = (uint64_t)node->extents * EXTENT_BYTES,
                                .extent_order = FP_EXTENT_ORDER_MIN,
                                .numa_node = -1,
                                .in_cluster = node->in_cluster,
                                .boot_id = node->boot_id};
    if (node->storage || node->in_cluster)
        open_spill(node);
    config.spill = node->spill;
    fp_net_options options = {.world = node->world};
    const char *bound;
    test_must(fp_memnode_open(&config, &node->memnode), "opening a memory node");
    test_must(fp_memnode_listen(node->memnode, node->uri, &options, &bound), "listening");
    fp_sim_set_driver(fp_memnode_poller(node->memnode, 0), drive, node);
}

static void node_close(sim_node *node)
{
    fp_memnode_close(node->memnode);
    fp_spill_close(node->spill);
    node->spill = NULL;
}

static void setup_open(sim_setup *s, uint64_t seed, const fp_sim_config *config,
                       unsigned node_count, unsigned extents, bool in_cluster)
{
    memset(s, 0, sizeof *s);
    s->node_count = node_count;
    test_must(fp_sim_world_open(seed, config, &s->world), "opening a world");
    for (unsigned i = 0; i < node_count; i++) {
        s->nodes[i].world = s->world;
        s->nodes[i].extents = extents;
        s->nodes[i].in_cluster = in_cluster;
        s->nodes[i].boot_id = seed * 1000 + i + 1;
        snprintf(s->nodes[i].uri, sizeof s->nodes[i].uri, "sim://node%u", i);
        s->uris[i] = s->nodes[i].uri;
        node_open(&s->nodes[i]);
    }
    fp_net_options options = {.world = s->world};
    test_must(fp_net_open("sim://clock", &options, &s->clock_net), "opening a net");
    test_must(fp_net_poller_open(s->clock_net, &s->clock), "opening a poller");
}

void sim_setup_open(sim_setup *s, uint64_t seed, const fp_sim_config *config, unsigned node_count,
                    unsigned extents)
{
    setup_open(s, seed, config, node_count, extents, false);
}

void sim_setup_open_in_cluster(sim_setup *s, uint64_t seed, const fp_sim_config *config,
                               unsigned node_count, unsigned extents)
{
    setup_open(s, seed, config, node_count, extents, true);
}

void sim_setup_close(sim_setup *s)
{
    for (unsigned i = 0; i < s->node_count; i++)
        node_close(&s->nodes[i]);
    fp_net_poller_close(s->clock);
    fp_net_close(s->clock_net);
    fp_sim_world_close(s->world);
}

void sim_pool_open(sim_setup *s, const char *name, enum farpool_mapping mapping,
                   farpool_pool **pool)
{
    farpool_pool_options options;
    farpool_pool_options_init(&options);
    options.pool_bytes = POOL_BYTES;
    options.mapping = mapping;
    options.name = name;
    fp_net_options net_options = {.world = s->world, .node = name};
    int rc = fp_pool_open(&options, &net_options, pool);
    if (rc == FARPOOL_E_UNSUPPORTED) {
        options.mapping = FARPOOL_MAPPING_FRAMES;
        rc = fp_pool_open(&options, &net_options, pool);
    }
    test_must(rc, "opening a pool");
}

void sim_partition_options(sim_setup *s, uint64_t epoch, farpool_partition_options *options)
{
    farpool_partition_options_init(options);
    options->epoch = epoch;
    options->space_bytes = SPACE_BYTES;
    options->slab_bytes = (uint64_t)s->node_count * EXTENT_BYTES;
    options->memnodes = s->uris;
    options->memnode_count = s->node_count;
}

void sim_partition_open(sim_setup *s, const char *name, uint64_t epoch,
                        enum farpool_mapping mapping, farpool_pool **pool,
                        farpool_partition **partition)
{
    farpool_partition_options part;
    sim_pool_open(s, name, mapping, pool);
    sim_partition_options(s, epoch, &part);
    /* Losses: a node may have granted its share without our hearing of it, so the epoch must rise. */
    int rc = farpool_partition_open(*pool, &part, partition);
    for (int tries = 0; rc && tries < TRIES; tries++) {
        test_must(rc == FARPOOL_E_NODE || rc == FARPOOL_E_FENCED ? 0 : rc, "opening a partition");
        sim_pass(s, 1100); /* nobody tries again within a second */
        part.epoch++;
        rc = farpool_partition_open(*pool, &part, partition);
    }
    test_must(rc, "opening a partition");
}

void sim_pass(sim_setup *s, unsigned ms)
{
    fp_net_event event;
    test_must(fp_net_poll(s->clock, &event, 1, (int)ms), "waiting");
}

void sim_node_crash(void *arg)
{
    sim_node *node = arg;
    node->lost = true;
    fp_sim_crash(node->world, node->uri + strlen("sim://"));
    if (node->spill)
        fp_sim_crash(node->world, node->spiller);
}

bool sim_node_restart(sim_node *node)
{
    if (node->in_step)
        return false;
    node_close(node);
    node->boot_id += 100;
    node->paused_until_ns = 0;
    node_open(node);
    return true;
}

void sim_node_spill(sim_node *node, const char *storage)
{
    node->storage = storage;
    node_close(node);
    node_open(node);
}

static const fp_extent *extent_of(farpool_partition *partition, farpool_pid pid, uint64_t *unit)
{
    uint32_t slot = atomic_load_explicit(&partition->entries[pid].slot, memory_order_relaxed);
    *unit = slot & ((1u << partition->extent_shift) - 1);
    return fp_slot_extent(partition, fp_node_set_now(partition), slot);
}

sim_node *sim_page_node(sim_setup *s, farpool_partition *partition, farpool_pid pid)
{
    uint64_t unit;
    const char *uri = partition->pool->nodes[extent_of(partition, pid, &unit)->node].uri;
    unsigned i = 0;
    while (strcmp(uri, s->nodes[i].uri) != 0)
        i++;
    return &s->nodes[i];
}

uint8_t *sim_page_slot(sim_setup *s, farpool_partition *partition, farpool_pid pid)
{
    uint64_t unit;
    const fp_extent *extent = extent_of(partition, pid, &unit);
    const fp_extents *all = &sim_page_node(s, partition, pid)->memnode->extents;
    for (uint32_t i = 0; i < all->count; i++)
        if (fp_net_rkey(all->list[i].mrs[0]).key == extent->key)
            return (uint8_t *)all->list[i].mem.addr + extent->addr + unit * FP_SLOT_UNIT_BYTES;
    test_must(FARPOOL_E_NOTFOUND, "finding a slot");
    return NULL;
}
