/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated transport's functions; how time moves is in sim_world.c, what happens then in sim_step.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/net/sim_world.h"

enum { CONNECT_STEPS_MAX = 1 << 20 };

static int sim_open(const fp_uri *uri, const fp_net_options *options, fp_net **out)
{
    if (!options->world)
        return fp_error(FARPOOL_E_INVAL, "%s: the sim transport needs a world", uri->text);
    if (strlen(uri->host) >= NAME_MAX_BYTES)
        return fp_error(FARPOOL_E_INVAL, "%s: the node's name is too long", uri->text);
    sim_net *net = calloc(1, sizeof *net);
    if (!net)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory", uri->text);
    net->world = options->world;
    const char *name = options->node ? options->node : uri->host;
    snprintf(net->name, sizeof net->name, "%s", name);
    net->next = net->world->nets;
    net->world->nets = net;
    *out = &net->base;
    return 0;
}

static void sim_close(fp_net *base)
{
    sim_net *net = (sim_net *)base, **link = &net->world->nets;
    while (*link != net)
        link = &(*link)->next;
    *link = net->next;
    free(net);
}

static uint64_t sim_now_ns(const fp_net *base)
{
    const sim_net *net = (const sim_net *)base;
    return fp_sim_clock_ns(net->world, net->name);
}

static int sim_mr_open(fp_net *base, const fp_mem *mem, unsigned access, fp_mr **out)
{
    sim_net *net = (sim_net *)base;
    (void)access;
    fp_mr *mr = calloc(1, sizeof *mr);
    if (!mr)
        return fp_error(FARPOOL_E_NOMEM, "registering memory: no memory");
    /* Not from getrandom: a run must repeat. */
    mr->rkey = (fp_rkey){fp_sim_draw(net->world) | 1, 0, mem->len};
    *out = mr;
    return 0;
}

static void sim_mr_close(fp_mr *mr)
{
    for (sim_conn *conn = ((sim_net *)mr->net)->world->conns; conn; conn = conn->next)
        for (size_t i = 0; i < conn->shared_count; i++)
            if (conn->shared[i] == mr)
                conn->shared[i] = NULL;
    free(mr);
}

static int sim_share(fp_conn *base, fp_mr *mr)
{
    sim_conn *conn = (sim_conn *)base;
    for (size_t i = 0; i < conn->shared_count; i++)
        if (conn->shared[i] == mr)
            return 0;
    fp_mr **grown = realloc(conn->shared, (conn->shared_count + 1) * sizeof *grown);
    if (!grown)
        return fp_error(FARPOOL_E_NOMEM, "%s: sharing: no memory", base->peer);
    conn->shared = grown;
    conn->shared[conn->shared_count++] = mr;
    return 0;
}

/* ---- pollers --------------------------------------------------------------------------------- */

static int sim_poller_open(fp_net *base, fp_poller **out)
{
    sim_poller *poller = calloc(1, sizeof *poller);
    if (!poller)
        return fp_error(FARPOOL_E_NOMEM, "opening a poller: no memory");
    poller->net = (sim_net *)base;
    poller->next = poller->net->world->pollers;
    poller->net->world->pollers = poller;
    poller->source.ready = &poller->count;
    fp_sim_source_add(poller->net->world, &poller->source);
    *out = &poller->base;
    return 0;
}

static void free_lent(sim_poller *poller)
{
    for (size_t i = 0; i < poller->lent_count; i++)
        free(poller->lent[i]);
    poller->lent_count = 0;
}

static int sim_poller_fd(fp_poller *poller)
{
    (void)poller;
    return -1;
}

static void sim_conn_close(fp_conn *base);

static void sim_poller_close(fp_poller *base)
{
    sim_poller *poller = (sim_poller *)base, **link = &poller->net->world->pollers;
    for (sim_conn *conn = poller->net->world->conns, *next; conn; conn = next) {
        next = conn->next;
        if (conn->poller == poller) /* accepted, and never given to anyone */
            sim_conn_close(&conn->base);
    }
    while (*link != poller)
        link = &(*link)->next;
    *link = poller->next;
    fp_sim_source_remove(poller->net->world, &poller->source);
    free_lent(poller);
    free(poller->lent);
    free(poller->queue);
    free(poller);
}

/* ---- polling and posting --------------------------------------------------------------------- */

static int deliver(sim_poller *poller, fp_net_event *events, int max)
{
    int n = 0;
    while (n < max && poller->count) {
        sim_queued *queued = &poller->queue[poller->first++];
        poller->count--;
        events[n++] = queued->event;
        if (queued->event.kind == FP_NET_RECV || queued->event.kind == FP_NET_RECV_IMM)
            ((sim_conn *)queued->event.conn)->unreceived--;
        if (!queued->message)
            continue;
        if (poller->lent_count == poller->lent_room)
            poller->lent = fp_sim_grow(poller->lent, &poller->lent_room, sizeof *poller->lent);
        poller->lent[poller->lent_count++] = queued->message;
    }
    if (!poller->count)
        poller->first = 0;
    return n;
}

static int sim_poll(fp_poller *base, fp_net_event *events, int max, int timeout_ms)
{
    sim_poller *poller = (sim_poller *)base;
    free_lent(poller);
    fp_sim_wait(poller->net->world, &poller->source, timeout_ms);
    return deliver(poller, events, max);
}

static sim_op *new_op(sim_conn *conn, const fp_net_op *op)
{
    sim_op *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->conn = conn;
    made->op = *op;
    for (uint32_t i = 0; i < op->sge_count; i++)
        made->len += op->sge[i].len;
    if (op->kind != FP_NET_SEND && !(op->flags & FP_NET_INLINE))
        return made;
    made->copy = malloc(made->len ? made->len : 1);
    if (!made->copy) {
        free(made);
        return NULL;
    }
    uint32_t at = 0;
    for (uint32_t i = 0; i < op->sge_count; i++) {
        memcpy(made->copy + at, op->sge[i].addr, op->sge[i].len);
        at += op->sge[i].len;
    }
    return made;
}

/* N3: after everything posted before it. */
static void plan(sim_conn *conn, sim_op *op)
{
    fp_sim_world *world = conn->poller->net->world;
    uint64_t time = world->now + fp_sim_latency(world);
    if (time <= conn->arrival)
        time = conn->arrival + 1;
    if (world->config.torn && op->op.kind != FP_NET_SEND && op->len > LINE) {
        uint32_t lines = op->len / LINE, at = 0;
        for (unsigned piece = 1; piece < PIECES_MAX; piece++) {
            at += (uint32_t)(fp_sim_draw(world) % (lines / PIECES_MAX + 1)) * LINE;
            if (at && at < op->len)
                fp_sim_schedule(world,
                                (sim_step){.time = time, .kind = STEP_MOVE, .op = op, .upto = at});
            time += 1 + fp_sim_latency(world) / PIECES_MAX;
        }
    }
    fp_sim_schedule(world, (sim_step){.time = time, .kind = STEP_MOVE, .op = op, .upto = op->len});
    conn->arrival = time;
    fp_sim_schedule(world,
                    (sim_step){.time = time + fp_sim_latency(world), .kind = STEP_DONE, .op = op});
}

static int sim_post(fp_conn *base, const fp_net_op *ops, size_t count)
{
    sim_conn *conn = (sim_conn *)base;
    sim_op *made[FP_NET_DEPTH_MAX];
    for (size_t i = 0; i < count; i++) {
        made[i] = new_op(conn, &ops[i]);
        if (made[i])
            continue;
        while (i-- > 0)
            fp_sim_let_go(made[i]);
        return fp_error(FARPOOL_E_NOMEM, "%s: posting: no memory", base->peer);
    }
    for (size_t i = 0; i < count; i++) {
        conn->ops[conn->posted++ % FP_NET_DEPTH_MAX] = made[i];
        plan(conn, made[i]);
    }
    return 0;
}

/* ---- connections ----------------------------------------------------------------------------- */

static int sim_listen(fp_poller *base, const fp_uri *uri, fp_listener **out)
{
    sim_poller *poller = (sim_poller *)base;
    fp_sim_world *world = poller->net->world;
    for (sim_listener *l = world->listeners; l; l = l->next)
        if (!strcmp(l->base.uri, uri->text) && !l->poller->net->crashed)
            return fp_error(FARPOOL_E_BUSY, "%s: another listener has it", uri->text);
    sim_listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a listener", uri->text);
    snprintf(listener->base.uri, sizeof listener->base.uri, "%s", uri->text);
    listener->poller = poller;
    listener->next = world->listeners;
    world->listeners = listener;
    *out = &listener->base;
    return 0;
}

static void sim_listener_close(fp_listener *base)
{
    sim_listener *listener = (sim_listener *)base;
    fp_sim_world *world = listener->poller->net->world;
    for (sim_conn *conn = world->conns; conn; conn = conn->next)
        if (conn->listener == listener)
            conn->listener = NULL;
    sim_listener **link = &world->listeners;
    while (*link != listener)
        link = &(*link)->next;
    *link = listener->next;
    free(listener);
}

static sim_conn *new_conn(sim_poller *poller, const char *peer)
{
    sim_conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return NULL;
    fp_sim_world *world = poller->net->world;
    conn->base.poller = &poller->base;
    snprintf(conn->base.peer, sizeof conn->base.peer, "%s", peer);
    conn->poller = poller;
    conn->number = ++world->numbers;
    conn->next = world->conns;
    world->conns = conn;
    return conn;
}

static int sim_connect(fp_poller *base, const fp_uri *uri, fp_conn **out)
{
    sim_poller *poller = (sim_poller *)base;
    fp_sim_world *world = poller->net->world;
    sim_listener *listener = world->listeners;
    while (listener && (strcmp(listener->base.uri + strlen("sim://"), uri->host) != 0 ||
                        listener->poller->net->crashed))
        listener = listener->next;
    if (!listener || poller->net->killed ||
        fp_sim_is_cut(world, poller->net->name, listener->poller->net->name) ||
        fp_sim_is_cut(world, listener->poller->net->name, poller->net->name))
        return fp_error(FARPOOL_E_NODE, "%s: cannot connect: nobody answers", uri->text);
    char name[FP_NET_URI_MAX];
    snprintf(name, sizeof name, "sim://%s", poller->net->name);
    sim_conn *ours = new_conn(poller, uri->text);
    sim_conn *theirs = ours ? new_conn(listener->poller, name) : NULL;
    if (!theirs) {
        if (ours)
            sim_conn_close(&ours->base);
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a connection", uri->text);
    }
    ours->accepted = true;
    theirs->listener = listener;
    ours->peer = theirs;
    theirs->peer = ours;
    uint64_t there = world->now + fp_sim_latency(world), back = there + fp_sim_latency(world);
    fp_sim_schedule(world, (sim_step){.time = there, .kind = STEP_ACCEPT, .conn = theirs->number});
    ours->arrival = back; /* nothing overtakes the handshake */
    for (int i = 0;
         i < CONNECT_STEPS_MAX && !world->depth && world->count && world->heap[0].time <= back;
         i++) {
        fp_sim_run_step(world);
        fp_sim_run_drivers(world, &poller->source);
    }
    *out = &ours->base;
    return 0;
}

static void forget_events(sim_conn *conn)
{
    sim_poller *poller = conn->poller;
    size_t kept = poller->first;
    for (size_t i = poller->first; i < poller->first + poller->count; i++) {
        if (poller->queue[i].event.conn == &conn->base)
            free(poller->queue[i].message);
        else
            poller->queue[kept++] = poller->queue[i];
    }
    poller->count = kept - poller->first;
}

static void sim_conn_close(fp_conn *base)
{
    sim_conn *conn = (sim_conn *)base, **link = &conn->poller->net->world->conns;
    fp_sim_break(conn, FARPOOL_E_CLOSED, "closed");
    forget_events(conn);
    while (*link != conn)
        link = &(*link)->next;
    *link = conn->next;
    free(conn->shared);
    free(conn);
}

const fp_net_ops fp_net_sim = {
    .scheme = "sim",
    .open = sim_open,
    .close = sim_close,
    .now_ns = sim_now_ns,
    .mr_open = sim_mr_open,
    .mr_close = sim_mr_close,
    .poller_open = sim_poller_open,
    .poller_close = sim_poller_close,
    .poller_fd = sim_poller_fd,
    .listen = sim_listen,
    .listener_close = sim_listener_close,
    .connect = sim_connect,
    .conn_close = sim_conn_close,
    .share = sim_share,
    .post = sim_post,
    .poll = sim_poll,
};
