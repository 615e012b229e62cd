/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/peer.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/mem.h"

#define MUST(call)                                                                                 \
    do {                                                                                           \
        int must_rc = (call);                                                                      \
        if (must_rc < 0) {                                                                         \
            fprintf(stderr, "%s:%d: %s: %d: %s\n", __FILE__, __LINE__, #call, must_rc,             \
                    farpool_errmsg());                                                             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* ---- the server ------------------------------------------------------------------------------ */

static void answer(fp_conn *conn, const void *data, uint32_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND,
                    .sge_count = 1,
                    .sge = {{.addr = (void *)(uintptr_t)data, .len = len}}};
    int rc = fp_net_post(conn, &op, 1);
    if (rc != FARPOOL_E_CLOSED && rc != FARPOOL_E_BUSY)
        MUST(rc);
}

static void accepted(peer *p, fp_conn *conn)
{
    fp_mr *shared[3] = {p->rw, p->others[0], p->others[1]};
    atomic_fetch_add(&p->accepted, 1);
    for (int i = 0; i < 3; i++) {
        int rc = fp_net_share(conn, shared[i]);
        if (rc == FARPOOL_E_CLOSED || rc == FARPOOL_E_NODE)
            return; /* a stranger that has gone already: CLOSED comes */
        MUST(rc);
    }
    peer_keys keys = {
        .rw = fp_net_rkey(p->rw),
        .ro = fp_net_rkey(p->others[0]),
        .wo = fp_net_rkey(p->others[1]),
        .hidden = fp_net_rkey(p->others[2]),
    };
    answer(conn, &keys, sizeof keys);
}

/* READs the client's memory (cookie 1), then writes it back further on (cookie 2). */
static void use_client(peer *p, fp_conn *conn, uint64_t cookie)
{
    fp_net_op op = {.kind = cookie == 1 ? FP_NET_READ : FP_NET_WRITE,
                    .cookie = cookie,
                    .remote_key = p->client_key.key,
                    .remote_addr = p->client_key.addr + (cookie == 1 ? 0 : 8192),
                    .sge_count = 1,
                    .sge = {{p->parts[2].addr, 4096, p->others[2]}}};
    MUST(fp_net_post(conn, &op, 1));
}

static void message(peer *p, fp_conn *conn, const char *data, uint32_t len)
{
    uint64_t offset;
    if (len == 0) {
        answer(conn, data, 0);
        return;
    }
    switch (data[0]) {
    case 'e':
        answer(conn, data, len);
        break;
    case 'x':
        atomic_fetch_add(&p->closed, 1);
        fp_net_conn_close(conn);
        break;
    case 'u':
        fp_net_unregister(p->rw);
        p->rw = NULL;
        answer(conn, "u", 1);
        break;
    case 'c':
        answer(conn, &p->imms, sizeof p->imms);
        break;
    case 'v':
        memcpy(&offset, data + 1, sizeof offset);
        answer(conn, (char *)p->mem.addr + offset, 8);
        break;
    case 'r':
        memcpy(&p->client_key, data + 1, sizeof p->client_key);
        use_client(p, conn, 1);
        break;
    default:
        break;
    }
}

static int step(peer *p, int timeout_ms)
{
    fp_net_event events[16];
    int n = fp_net_poll(p->poller, events, 1, timeout_ms);
    MUST(n);
    for (int i = 0; i < n; i++) {
        fp_net_event *e = &events[i];
        if (e->kind == FP_NET_ACCEPTED) {
            accepted(p, e->conn);
        } else if (e->kind == FP_NET_RECV) {
            message(p, e->conn, e->data, e->len);
        } else if (e->kind == FP_NET_RECV_IMM) {
            p->imms++;
            uint32_t told[2] = {e->imm, e->len};
            answer(e->conn, told, sizeof told);
        } else if (e->kind == FP_NET_DONE && e->cookie == 1 && !e->status) {
            use_client(p, e->conn, 2);
        } else if (e->kind == FP_NET_DONE && e->cookie == 2 && !e->status) {
            answer(e->conn, "r", 1);
        } else if (e->kind == FP_NET_CLOSED) {
            atomic_store(&p->last_status, e->status);
            fp_net_conn_close(e->conn);
            atomic_fetch_add(&p->closed, 1);
        }
    }
    return n;
}

/* sim: called by the world while the client waits. */
static void drive(void *arg)
{
    peer *p = arg;
    while (!p->paused && step(p, 0))
        ;
}

static void serve_open(peer *p, const char *uri)
{
    static const unsigned access[3] = {FP_NET_REMOTE_READ, FP_NET_REMOTE_WRITE, FP_NET_REMOTE_READ};
    char address[FP_NET_URI_MAX]; /* uri may be p->uri */
    snprintf(address, sizeof address, "%s", uri);
    uri = address;
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->gate, NULL);
    fp_net_options options = {.connect_timeout_ms = 2000}; /* how long strangers may be silent */
    MUST(peer_net_open(uri, &options, &p->net));
    MUST(fp_net_poller_open(p->net, &p->poller));
    MUST(fp_mem_open(PEER_BYTES, FP_MEM_SHARED, -1, &p->mem));
    for (size_t i = 0; i < PEER_BYTES; i++)
        ((uint8_t *)p->mem.addr)[i] = peer_byte(i);
    MUST(fp_net_register(p->net, &p->mem, FP_NET_REMOTE_READ | FP_NET_REMOTE_WRITE, &p->rw));
    for (int i = 0; i < 3; i++) {
        MUST(fp_mem_open(PEER_PART, FP_MEM_SHARED, -1, &p->parts[i]));
        MUST(fp_net_register(p->net, &p->parts[i], access[i], &p->others[i]));
    }
    MUST(fp_net_listen(p->poller, uri, &p->listener));
    snprintf(p->uri, sizeof p->uri, "%s", fp_net_listener_uri(p->listener));
}

static void *serve(void *arg)
{
    peer *p = arg;
    while (!atomic_load(&p->stop)) {
        pthread_mutex_lock(&p->gate);
        pthread_mutex_lock(&p->lock);
        pthread_mutex_unlock(&p->gate);
        step(p, 2);
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

void peer_start(peer *p, const char *uri)
{
    serve_open(p, uri);
    if (peer_world()) {
        fp_sim_set_driver(p->poller, drive, p);
        return;
    }
    p->threaded = true;
    if (pthread_create(&p->thread, NULL, serve, p))
        abort();
}

/* A server's process begins afresh: an RDMA device that was opened before a fork is of no use
 * after it. */
__attribute__((constructor)) static void serve_if_asked(int argc, char **argv, char **environment)
{
    (void)environment;
    if (argc != 4 || strcmp(argv[1], "--serve") != 0)
        return;
    static peer p;
    int ready = atoi(argv[3]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(900);
    serve_open(&p, argv[2]);
    if (write(ready, p.uri, sizeof p.uri) != sizeof p.uri)
        _exit(1);
    for (;;)
        step(&p, 1000);
}

static pid_t fork_server(const char *uri, char real_uri[FP_NET_URI_MAX])
{
    int fds[2];
    if (pipe(fds))
        abort();
    pid_t pid = fork();
    if (pid < 0)
        abort();
    if (pid == 0) {
        char ready[16];
        snprintf(ready, sizeof ready, "%d", fds[1]);
        execl("/proc/self/exe", "peer", "--serve", uri, ready, (char *)NULL);
        abort();
    }
    close(fds[1]);
    if (read(fds[0], real_uri, FP_NET_URI_MAX) != FP_NET_URI_MAX)
        abort();
    close(fds[0]);
    return pid;
}

void peer_pause(peer *p)
{
    if (!p->threaded) {
        p->paused = true;
        return;
    }
    pthread_mutex_lock(&p->gate);
    pthread_mutex_lock(&p->lock);
    pthread_mutex_unlock(&p->gate);
}

void peer_resume(peer *p)
{
    if (p->threaded) {
        pthread_mutex_unlock(&p->lock);
        return;
    }
    p->paused = false;
    drive(p); /* what came meanwhile; the world calls only for what comes now */
}

static void serve_close(peer *p)
{
    fp_net_listener_close(p->listener);
    fp_net_poller_close(p->poller);
    fp_net_unregister(p->rw);
    for (int i = 0; i < 3; i++) {
        fp_net_unregister(p->others[i]);
        fp_mem_close(&p->parts[i]);
    }
    fp_net_close(p->net);
    fp_mem_close(&p->mem);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->gate);
}

void peer_stop(peer *p)
{
    atomic_store(&p->stop, true);
    if (p->threaded)
        pthread_join(p->thread, NULL);
    /* Those that clients have left open by now break here. */
    while (atomic_load(&p->closed) < atomic_load(&p->accepted))
        step(p, 100);
    serve_close(p);
}

/* ---- servers that die ------------------------------------------------------------------------ */

void victim_start(victim *v, const char *uri)
{
    if (!peer_world()) {
        v->pid = fork_server(uri, v->uri);
        return;
    }
    peer_start(&v->node, uri);
    snprintf(v->uri, sizeof v->uri, "%s", v->node.uri);
}

void victim_kill(victim *v)
{
    if (peer_world())
        fp_sim_crash(peer_world(), v->uri + strlen("sim://"));
    else if (kill(v->pid, SIGKILL))
        abort();
}

void victim_reap(victim *v)
{
    if (peer_world())
        serve_close(&v->node);
    else if (waitpid(v->pid, NULL, 0) != v->pid)
        abort();
}

/* ---- the client ------------------------------------------------------------------------------ */

static int poll_one(client *c, fp_net_event *event, int timeout_ms)
{
    int n = fp_net_poll(c->poller, event, 1, timeout_ms);
    MUST(n);
    return n;
}

fp_net_event client_wait(client *c)
{
    fp_net_event event = {0};
    uint64_t end = fp_net_now_ns(c->net) + PEER_WAIT_MS * UINT64_C(1000000);
    while (fp_net_now_ns(c->net) < end) {
        if (poll_one(c, &event, 100))
            return event;
    }
    fail_msg("no event within %d ms", PEER_WAIT_MS);
    return event;
}

fp_net_event client_expect(client *c, enum fp_net_event_kind kind, int status)
{
    fp_net_event event = client_wait(c);
    if (event.kind != kind || event.status != status)
        fail_msg("event %d with status %d (%s) instead of %d with %d", event.kind, event.status,
                 event.conn ? fp_net_conn_reason(event.conn) : "", kind, status);
    return event;
}

int client_do(client *c, fp_net_op op)
{
    op.cookie = 0x636f6f6b6965;
    int rc = fp_net_post(c->conn, &op, 1);
    if (rc)
        return rc;
    fp_net_event event = client_wait(c);
    assert_int_equal(event.kind, FP_NET_DONE);
    assert_int_equal(event.cookie, op.cookie);
    assert_ptr_equal(event.conn, c->conn);
    return event.status;
}

static fp_net_op make_op(client *c, enum fp_net_kind kind, fp_rkey key, uint64_t offset,
                         size_t local, uint32_t len)
{
    return (fp_net_op){.kind = kind,
                       .remote_key = key.key,
                       .remote_addr = key.addr + offset,
                       .sge_count = 1,
                       .sge = {{(char *)c->mem.addr + local, len, c->mr}}};
}

fp_net_op op_read(client *c, fp_rkey key, uint64_t offset, size_t local, uint32_t len)
{
    return make_op(c, FP_NET_READ, key, offset, local, len);
}

fp_net_op op_write(client *c, fp_rkey key, uint64_t offset, size_t local, uint32_t len)
{
    return make_op(c, FP_NET_WRITE, key, offset, local, len);
}

void client_send(client *c, const void *data, uint32_t len)
{
    fp_net_op op = {.kind = FP_NET_SEND,
                    .sge_count = 1,
                    .sge = {{.addr = (void *)(uintptr_t)data, .len = len}}};
    assert_int_equal(fp_net_post(c->conn, &op, 1), 0);
}

uint32_t client_answer(client *c, void *answer, uint32_t room)
{
    uint32_t len = 0;
    for (bool done = false, answered = false; !done || !answered;) {
        fp_net_event event = client_wait(c);
        assert_int_equal(event.status, 0);
        if (event.kind == FP_NET_RECV && !answered) {
            assert_true(event.len <= room);
            memcpy(answer, event.data, len = event.len);
            answered = true;
        } else {
            assert_true(event.kind == FP_NET_DONE && !done);
            done = true;
        }
    }
    return len;
}

int client_connect(client *c, const char *uri)
{
    int rc = fp_net_connect(c->poller, uri, &c->conn);
    if (rc)
        return rc;
    fp_net_event event = client_expect(c, FP_NET_RECV, 0);
    assert_int_equal(event.len, sizeof c->keys);
    memcpy(&c->keys, event.data, sizeof c->keys);
    return 0;
}

void client_open(client *c, peer *server, const char *uri)
{
    memset(c, 0, sizeof *c);
    c->server = server;
    MUST(peer_net_open(uri, &(fp_net_options){.node = "client"}, &c->net));
    MUST(fp_net_poller_open(c->net, &c->poller));
    MUST(fp_mem_open(PEER_BYTES, FP_MEM_SHARED, -1, &c->mem));
    MUST(fp_net_register(c->net, &c->mem, FP_NET_REMOTE_READ | FP_NET_REMOTE_WRITE, &c->mr));
    MUST(client_connect(c, uri));
}

void client_close(client *c)
{
    if (c->conn)
        fp_net_conn_close(c->conn);
    fp_net_unregister(c->mr);
    fp_net_poller_close(c->poller);
    fp_net_close(c->net);
    fp_mem_close(&c->mem);
}

void client_wait_counter(client *c, atomic_int *counter, int wanted)
{
    fp_net_event event;
    uint64_t end = fp_net_now_ns(c->net) + PEER_WAIT_MS * UINT64_C(1000000);
    while (atomic_load(counter) < wanted) {
        if (fp_net_now_ns(c->net) > end)
            fail_msg("%d instead of %d within %d ms", atomic_load(counter), wanted, PEER_WAIT_MS);
        if (poll_one(c, &event, 1))
            fail_msg("unexpected event %d", event.kind);
    }
}
