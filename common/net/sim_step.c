/* SPDX-License-Identifier: Apache-2.0 */
/* What happens at a step of the simulated world: data moves, answers come back, connections are accepted; and how
 * the other nodes get their turn. */
#include <string.h>

#include "common/error.h"
#include "common/net/sim_world.h"

enum { LATE_NS = 20000, LATE_STEPS = 12 };

/* Where the range is at the peer, if this connection may use it so; the peer said so by fp_net_share. */
static uint8_t *reach(const sim_conn *conn, const sim_op *op)
{
    unsigned needed = op->op.kind == FP_NET_READ ? FP_NET_REMOTE_READ : FP_NET_REMOTE_WRITE;
    const sim_conn *peer = conn->peer;
    for (size_t i = 0; i < peer->shared_count; i++) {
        const fp_mr *mr = peer->shared[i];
        if (!mr || mr->rkey.key != op->op.remote_key)
            continue;
        if (!(mr->access & needed) || op->op.remote_addr > mr->mem.len ||
            op->len > mr->mem.len - op->op.remote_addr)
            return NULL;
        return (uint8_t *)mr->mem.addr + op->op.remote_addr;
    }
    return NULL;
}

/* Moves the bytes from op->moved to upto between the pieces here and the range there. */
static void move(sim_op *op, uint8_t *remote, uint32_t upto)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < op->op.sge_count && op->moved < upto; i++) {
        uint8_t *local = op->copy ? op->copy + at : op->op.sge[i].addr;
        uint32_t len = op->op.sge[i].len;
        if (op->moved < at + len) {
            uint32_t skip = op->moved - at, n = (upto < at + len ? upto : at + len) - op->moved;
            if (op->op.kind == FP_NET_READ)
                memcpy(local + skip, remote + op->moved, n);
            else
                memcpy(remote + op->moved, local + skip, n);
            op->moved += n;
        }
        at += len;
    }
}

/* The connection breaks when the answer is back, not before: what was posted earlier succeeds. */
static void refuse(sim_conn *conn, sim_op *op, int status)
{
    conn->refused = true;
    op->status = status;
}

static const char *refusal(int status)
{
    return status == FARPOOL_E_ACCESS
               ? "the peer refused this access: wrong key, range or permission"
               : "the peer does not take its messages out";
}

static void tell_peer(sim_conn *conn, sim_op *op)
{
    sim_conn *peer = conn->peer;
    fp_net_event event = {.conn = &peer->base, .len = op->len};
    if (op->op.kind != FP_NET_WRITE_IMM && op->op.kind != FP_NET_SEND)
        return;
    if (++peer->unreceived > FP_NET_RECV_DEPTH) { /* N11: no flow control, as on verbs */
        refuse(conn, op, FARPOOL_E_NODE);
        return;
    }
    if (op->op.kind == FP_NET_WRITE_IMM) {
        event.kind = FP_NET_RECV_IMM;
        event.imm = op->op.imm;
        fp_sim_give(peer->poller, &event, NULL);
    } else {
        event.kind = FP_NET_RECV;
        event.data = op->copy;
        fp_sim_give(peer->poller, &event, op->copy);
        op->copy = NULL;
    }
}

static const char no_answer[] = "the peer does not answer: the connection was lost";

static bool is_cut_from(const sim_conn *from, const sim_conn *to)
{
    return fp_sim_is_cut(from->poller->net->world, from->poller->net->name, to->poller->net->name);
}

static bool is_cut_one_way(const sim_conn *from, const sim_conn *to)
{
    return is_cut_from(from, to) && !is_cut_from(to, from);
}

/* Nothing gets through, or nobody is there any more who would take it. */
static bool is_lost(fp_sim_world *world, sim_conn *conn)
{
    if (!conn->peer || is_cut_one_way(conn, conn->peer))
        fp_sim_break_here(conn, FARPOOL_E_NODE, no_answer);
    else if (is_cut_from(conn, conn->peer) ||
             (world->config.loss_per_million &&
              fp_sim_draw(world) % 1000000 < world->config.loss_per_million))
        fp_sim_break(conn, FARPOOL_E_NODE, no_answer);
    return conn->base.status;
}

static void step_move(fp_sim_world *world, sim_op *op, uint32_t upto)
{
    sim_conn *conn = op->conn;
    if (!conn || conn->refused) /* broken meanwhile, or about to */
        return;
    if (is_lost(world, conn))
        return;
    if (op->op.kind != FP_NET_SEND) {
        uint8_t *remote = reach(conn, op);
        if (!remote) {
            refuse(conn, op, FARPOOL_E_ACCESS);
            return;
        }
        uint32_t from = op->moved;
        move(op, remote, upto);
        if (world->watcher && op->op.kind != FP_NET_READ)
            world->watcher(world->watcher_arg, remote + from, op->moved - from);
    }
    if (upto == op->len)
        tell_peer(conn, op);
}

static sim_conn *find_conn(fp_sim_world *world, uint64_t number)
{
    sim_conn *conn = world->conns;
    while (conn && conn->number != number)
        conn = conn->next;
    return conn;
}

static void step_accept(sim_conn *conn)
{
    if (!conn)
        return;
    if (!conn->listener || conn->base.status) { /* gone, or broken, before anybody took it */
        fp_net_sim.conn_close(&conn->base);
        return;
    }
    conn->accepted = true;
    fp_net_event event = {
        .kind = FP_NET_ACCEPTED, .conn = &conn->base, .listener = &conn->listener->base};
    fp_sim_give(conn->poller, &event, NULL);
}

/* N2: what is done, as far as everything before it is. */
static void complete_in_order(sim_conn *conn)
{
    while (conn->completed < conn->posted) {
        const sim_op *op = conn->ops[conn->completed % FP_NET_DEPTH_MAX];
        if (!op->done)
            return;
        if (op->status)
            fp_sim_break(conn, op->status, refusal(op->status));
        else
            fp_sim_complete(conn, 0);
    }
}

/* Its answer comes, unless that is lost. Cut both ways, what has arrived has been answered already. */
static void step_done(sim_op *op)
{
    sim_conn *conn = op->conn;
    if (conn->peer && is_cut_one_way(conn->peer, conn)) {
        fp_sim_break_here(conn, FARPOOL_E_NODE, no_answer);
        return;
    }
    op->done = true;
    complete_in_order(conn);
}

static void run_step(fp_sim_world *world)
{
    sim_step step = fp_sim_take_step(world);
    if (step.time > world->now)
        world->now = step.time;
    fp_sim_trace(world, step.kind, step.order);
    if (step.kind == STEP_CALL) {
        step.call(step.arg);
        return;
    }
    if (step.kind == STEP_ACCEPT) {
        step_accept(find_conn(world, step.conn));
        return;
    }
    if (step.kind == STEP_MOVE)
        step_move(world, step.op, step.upto);
    else if (step.op->conn)
        step_done(step.op);
    fp_sim_drop_op_step(step.op);
}

void fp_sim_run_step(fp_sim_world *world)
{
    run_step(world);
    if (world->watcher)
        world->watcher(world->watcher_arg, NULL, 0);
}

void fp_sim_run_drivers(fp_sim_world *world, const fp_sim_source *waiting)
{
    for (fp_sim_source *source = world->sources; source; source = source->next) {
        if (source == waiting || !*source->ready || !source->driver || source->driving)
            continue;
        source->driving = true;
        world->depth++;
        source->driver(source->driver_arg);
        world->depth--;
        source->driving = false;
    }
}

static void come_late(fp_sim_world *world, const fp_sim_source *source)
{
    uint64_t until = world->now + LATE_NS;
    for (uint64_t steps = fp_sim_draw(world) % LATE_STEPS; steps; steps--) {
        if (!world->count || world->heap[0].time > until)
            return;
        fp_sim_run_step(world);
        fp_sim_run_drivers(world, source);
    }
}

void fp_sim_wait(fp_sim_world *world, const fp_sim_source *source, int timeout_ms)
{
    FP_ASSERT(timeout_ms >= 0);
    uint64_t deadline = world->now + (uint64_t)timeout_ms * 1000000;
    bool once = timeout_ms == 0;
    /* A close or a crash has given others something without a step. */
    if (!world->depth)
        fp_sim_run_drivers(world, source);
    if (world->config.late && !world->depth)
        come_late(world, source);
    while (!*source->ready && !world->depth) {
        if (!world->count || (!once && world->heap[0].time > deadline)) {
            if (!once && world->now < deadline) /* a call may have waited longer */
                world->now = deadline;
            break;
        }
        fp_sim_run_step(world);
        fp_sim_run_drivers(world, source);
        if (once)
            break;
    }
}
