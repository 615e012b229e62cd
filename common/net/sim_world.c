/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated transport. The world is a heap of steps ordered by time; an operation is one step for each piece
 * of its data at the target, then one for its completion. When a connection breaks, the steps of its operations
 * find that out and do nothing: a WRITE that was under way is cut where it was.
 */
#include "common/net/sim_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

/* ---- the world ------------------------------------------------------------------------------- */

uint64_t fp_sim_draw(fp_sim_world *world) /* xorshift64*: Vigna, 2016 */
{
    uint64_t x = world->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    world->random = x;
    return x * 0x2545F4914F6CDD1Dull;
}

void fp_sim_trace(fp_sim_world *world, uint64_t a, uint64_t b)
{
    const uint64_t words[3] = {world->now, a, b};
    for (int i = 0; i < 3; i++) /* FNV-1a over words */
        world->hash = (world->hash ^ words[i]) * 0x100000001B3ull;
}

uint64_t fp_sim_latency(fp_sim_world *world)
{
    uint64_t span = world->config.latency_max_ns - world->config.latency_min_ns + 1;
    return world->config.latency_min_ns + fp_sim_draw(world) % span;
}

/* Memory of the simulation itself: a test that runs out of it may end. */
void *fp_sim_grow(void *old, size_t *room, size_t size)
{
    *room = *room ? 2 * *room : 64;
    void *grown = realloc(old, *room * size);
    FP_ASSERT(grown);
    return grown;
}

static bool earlier(const sim_step *a, const sim_step *b)
{
    return a->time != b->time ? a->time < b->time : a->order < b->order;
}

void fp_sim_schedule(fp_sim_world *world, sim_step step)
{
    if (world->count == world->room)
        world->heap = fp_sim_grow(world->heap, &world->room, sizeof *world->heap);
    step.order = world->order++;
    if (step.op)
        step.op->steps++;
    size_t i = world->count++;
    for (; i && earlier(&step, &world->heap[(i - 1) / 2]); i = (i - 1) / 2)
        world->heap[i] = world->heap[(i - 1) / 2];
    world->heap[i] = step;
}

sim_step fp_sim_take_step(fp_sim_world *world)
{
    sim_step top = world->heap[0], last = world->heap[--world->count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < world->count) {
        if (child + 1 < world->count && earlier(&world->heap[child + 1], &world->heap[child]))
            child++;
        if (!earlier(&world->heap[child], &last))
            break;
        world->heap[i] = world->heap[child];
        i = child;
    }
    world->heap[i] = last;
    return top;
}

int fp_sim_world_open(uint64_t seed, const fp_sim_config *config, fp_sim_world **out)
{
    fp_sim_world *world = calloc(1, sizeof *world);
    if (!world)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a simulated world");
    world->config = *config;
    if (!world->config.latency_max_ns) {
        world->config.latency_min_ns = 1000;
        world->config.latency_max_ns = 10000;
    }
    world->random = (seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    world->hash = 0xCBF29CE484222325ull;
    *out = world;
    return 0;
}

void fp_sim_drop_op_step(sim_op *op)
{
    if (--op->steps == 0 && !op->conn) {
        free(op->copy);
        free(op);
    }
}

void fp_sim_world_close(fp_sim_world *world)
{
    FP_ASSERT(!world->nets && !world->sources);
    for (size_t i = 0; i < world->count; i++)
        if (world->heap[i].op)
            fp_sim_drop_op_step(world->heap[i].op);
    free(world->clocks);
    free(world->heap);
    free(world);
}

uint64_t fp_sim_now_ns(const fp_sim_world *world) { return world->now; }

static sim_clock *find_clock(const fp_sim_world *world, const char *node)
{
    for (size_t i = 0; i < world->clock_count; i++)
        if (!strcmp(world->clocks[i].node, node))
            return &world->clocks[i];
    return NULL;
}

uint64_t fp_sim_clock_ns(fp_sim_world *world, const char *node)
{
    sim_clock *clock = node ? find_clock(world, node) : NULL;
    if (!clock)
        return world->now;
    uint64_t now = world->now + (uint64_t)clock->ahead_ns;
    clock->last_ns = (int64_t)(now - clock->last_ns) > 0 ? now : clock->last_ns;
    return clock->last_ns;
}

void fp_sim_move_clock(fp_sim_world *world, const char *node, int64_t ns)
{
    sim_clock *clock = find_clock(world, node);
    if (!clock) {
        if (world->clock_count == world->clock_room)
            world->clocks = fp_sim_grow(world->clocks, &world->clock_room, sizeof *clock);
        clock = &world->clocks[world->clock_count++];
        *clock = (sim_clock){.last_ns = world->now};
        snprintf(clock->node, sizeof clock->node, "%s", node);
    }
    (void)fp_sim_clock_ns(world, node); /* before it stands still */
    clock->ahead_ns += ns;
}

uint64_t fp_sim_trace_hash(const fp_sim_world *world) { return world->hash; }

void fp_sim_set_driver(fp_poller *base, void (*driver)(void *), void *arg)
{
    sim_poller *poller = (sim_poller *)base;
    poller->source.driver = driver;
    poller->source.driver_arg = arg;
}

void fp_sim_set_watcher(fp_sim_world *world,
                        void (*watcher)(void *arg, const void *addr, uint64_t len), void *arg)
{
    world->watcher = watcher;
    world->watcher_arg = arg;
}

void fp_sim_source_add(fp_sim_world *world, fp_sim_source *source)
{
    source->next = world->sources;
    world->sources = source;
}

void fp_sim_source_remove(fp_sim_world *world, fp_sim_source *source)
{
    fp_sim_source **link = &world->sources;
    while (*link != source)
        link = &(*link)->next;
    *link = source->next;
}

void fp_sim_at(fp_sim_world *world, uint64_t time_ns, void (*call)(void *), void *arg)
{
    fp_sim_schedule(world,
                    (sim_step){.time = time_ns, .kind = STEP_CALL, .call = call, .arg = arg});
}

static void nothing(void *arg) { (void)arg; }

void fp_sim_forget(fp_sim_world *world, const void *arg)
{
    for (size_t i = 0; i < world->count; i++)
        if (world->heap[i].kind == STEP_CALL && world->heap[i].arg == arg)
            world->heap[i].call = nothing;
}

void fp_sim_set_loss(fp_sim_world *world, uint32_t loss_per_million)
{
    world->config.loss_per_million = loss_per_million;
}

/* ---- events and connections ------------------------------------------------------------------ */

void fp_sim_give(sim_poller *poller, const fp_net_event *event, void *message)
{
    if (poller->net->crashed) {
        free(message);
        return;
    }
    if (poller->first + poller->count == poller->room)
        poller->queue = fp_sim_grow(poller->queue, &poller->room, sizeof *poller->queue);
    poller->queue[poller->first + poller->count++] = (sim_queued){*event, message};
}

/* The connection has nothing to do with the operation any more. */
void fp_sim_let_go(sim_op *op)
{
    op->conn = NULL;
    op->steps++; /* so that the next line may free it */
    fp_sim_drop_op_step(op);
}

void fp_sim_complete(sim_conn *conn, int status)
{
    sim_op *op = conn->ops[conn->completed++ % FP_NET_DEPTH_MAX];
    fp_net_event event = {
        .kind = FP_NET_DONE, .status = status, .conn = &conn->base, .cookie = op->op.cookie};
    fp_sim_trace(conn->poller->net->world, conn->number,
                 (uint64_t)op->op.kind << 32 | (uint32_t)status);
    fp_sim_give(conn->poller, &event, NULL);
    fp_sim_let_go(op);
}

static void break_one(sim_conn *conn, int status, const char *reason)
{
    if (!conn || conn->base.status)
        return;
    conn->base.status = status;
    snprintf(conn->base.reason, sizeof conn->base.reason, "%s", reason);
    for (int code = status; conn->completed < conn->posted; code = FARPOOL_E_CLOSED)
        fp_sim_complete(conn, code); /* N5: the first has the reason */
    if (!conn->accepted)
        return; /* nobody has heard of it; STEP_ACCEPT frees it */
    fp_net_event event = {.kind = FP_NET_CLOSED, .status = status, .conn = &conn->base};
    fp_sim_give(conn->poller, &event, NULL);
}

void fp_sim_break(sim_conn *conn, int status, const char *reason)
{
    sim_conn *peer = conn->peer;
    if (peer)
        peer->peer = NULL;
    conn->peer = NULL;
    break_one(conn, status, reason);
    break_one(peer, FARPOOL_E_NODE, "the connection was lost or the peer closed it");
}

void fp_sim_break_here(sim_conn *conn, int status, const char *reason)
{
    if (conn->peer)
        conn->peer->peer = NULL;
    conn->peer = NULL;
    break_one(conn, status, reason);
}

bool fp_sim_is_cut(const fp_sim_world *world, const char *from, const char *to)
{
    for (unsigned i = 0; i < world->cut_count; i++)
        if (!strcmp(world->cuts[i][0], from) && !strcmp(world->cuts[i][1], to))
            return true;
    return false;
}

void fp_sim_cut_one_way(fp_sim_world *world, const char *from, const char *to)
{
    FP_ASSERT(world->cut_count < CUTS_MAX);
    snprintf(world->cuts[world->cut_count][0], NAME_MAX_BYTES, "%s", from);
    snprintf(world->cuts[world->cut_count++][1], NAME_MAX_BYTES, "%s", to);
}

void fp_sim_cut(fp_sim_world *world, const char *a, const char *b)
{
    fp_sim_cut_one_way(world, a, b);
    fp_sim_cut_one_way(world, b, a);
}

void fp_sim_heal(fp_sim_world *world) { world->cut_count = 0; }

void fp_sim_reset(fp_sim_world *world, const char *a, const char *b)
{
    for (sim_conn *conn = world->conns; conn; conn = conn->next)
        if (conn->peer && !strcmp(conn->poller->net->name, a) &&
            !strcmp(conn->peer->poller->net->name, b))
            fp_sim_break(conn, FARPOOL_E_NODE, "the connection was reset");
}

void fp_sim_kill(fp_sim_world *world, const char *node)
{
    for (sim_net *net = world->nets; net; net = net->next)
        net->killed = net->killed || !strcmp(net->name, node);
    for (sim_conn *conn = world->conns; conn; conn = conn->next)
        if (conn->poller->net->killed && !conn->base.status)
            fp_sim_break(conn, FARPOOL_E_NODE, "this node has been killed");
}

void fp_sim_crash(fp_sim_world *world, const char *node)
{
    for (sim_net *net = world->nets; net; net = net->next)
        if (!strcmp(net->name, node))
            net->crashed = true;
    for (sim_conn *conn = world->conns; conn; conn = conn->next) {
        if (!conn->poller->net->crashed || !conn->peer)
            continue;
        fp_sim_break(conn, FARPOOL_E_NODE, "this node has crashed");
    }
    for (sim_poller *poller = world->pollers; poller; poller = poller->next) {
        if (!poller->net->crashed)
            continue;
        for (size_t i = 0; i < poller->count; i++)
            free(poller->queue[poller->first + i].message);
        poller->count = 0;
    }
}
