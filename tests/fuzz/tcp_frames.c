/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that whatever bytes come over a tcp connection, before, in and after the handshake, to a listener or to
 * one who connects, they break that connection and nothing else: nothing but what was granted is written, no
 * descriptor is left, every operation completes once, and a client that keeps to the rules is served all the time.
 *
 * An input is a script (see step): the stranger puts frames together, damages, reorders and cuts them, and sends
 * them in pieces.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/tcp.h"
#include "tests/lib/fuzz.h"

enum {
    ARENA = 160 << 10,
    RANGES = 7,
    OUT_MAX = 256 << 10,
    STEPS_MAX = 60,
    OPS_MAX = 16,
    OP_BYTES = 512,
};
#define STUCK_NS 120000000000ull

const unsigned fuzz_runs = 3000;

/* All memory that is registered lies in one arena, with gaps; nobody may write into what is not writable. */
static const struct range {
    size_t at, len;
    unsigned access;
    bool writable; /* by strangers */
} ranges[RANGES] = {
    {5000, 20000, FP_NET_REMOTE_READ | FP_NET_REMOTE_WRITE, true}, /* shared with all who connect */
    {30000, 8000, FP_NET_REMOTE_READ, false},                      /* " */
    {40000, 8000, FP_NET_REMOTE_WRITE, true},                      /* " */
    {50000, 3000, FP_NET_REMOTE_WRITE, false}, /* " , but nobody knows its key */
    {55000, 4096, FP_NET_REMOTE_READ | FP_NET_REMOTE_WRITE, false}, /* with the good client only */
    {60000, 20000, FP_NET_REMOTE_READ | FP_NET_REMOTE_WRITE, true}, /* the victim's */
    {90000, OPS_MAX *OP_BYTES, FP_NET_LOCAL, true},                 /* READs of server and victim */
};
enum { KEYLESS_RANGE = 3, GOOD_RANGE, VICTIM_RANGE, LOCAL_RANGE };

typedef struct node {
    fp_net *net;
    fp_poller *poller;
    fp_conn *conn; /* good, victim */
    fp_mr *mrs[RANGES];
    unsigned posted, done, answers;
    int status;
} node;

static uint8_t *arena;
static node server, good, victim;
static fp_listener *listener;
static int stranger_listener = -1;
static uint16_t server_port;
static char stranger_uri[FP_NET_URI_MAX];
static uint8_t out[OUT_MAX];
static size_t out_len;
static bool deaf;
static int stranger = -1;
static size_t descriptors;

static uint8_t canary(size_t i) { return (uint8_t)(i * 7 + (i >> 8) * 13); }

/* ---- the nodes ------------------------------------------------------------------------------- */

static fp_mr *register_range(node *n, int i)
{
    fp_mem mem = {arena + ranges[i].at, ranges[i].len, -1, 4096};
    FUZZ_CHECK(!fp_net_register(n->net, &mem, ranges[i].access, &n->mrs[i]));
    return n->mrs[i];
}

static void open_node(node *n)
{
    fp_net_options options = {.connect_timeout_ms = 10000};
    FUZZ_CHECK(!fp_net_open("tcp://127.0.0.1:0", &options, &n->net));
    FUZZ_CHECK(!fp_net_poller_open(n->net, &n->poller));
    register_range(n, LOCAL_RANGE);
}

/* One operation of a kind, with a stranger's memory or to it. */
static void post(node *n, fp_conn *conn, enum fp_net_kind kind, uint64_t number)
{
    fp_net_op op = {.kind = kind, .cookie = 1, .remote_key = number, .sge_count = 2};
    uint8_t *at = arena + ranges[LOCAL_RANGE].at + number % OPS_MAX * OP_BYTES;
    op.remote_addr = number;
    op.sge[0] = (fp_sge){at, OP_BYTES / 4, n->mrs[LOCAL_RANGE]};
    op.sge[1] = (fp_sge){at + OP_BYTES / 4, OP_BYTES * 3 / 4, n->mrs[LOCAL_RANGE]};
    int rc = fp_net_post(conn, &op, 1);
    FUZZ_CHECK(!rc || rc == FARPOOL_E_CLOSED || rc == FARPOOL_E_BUSY);
    n->posted += !rc;
}

static void server_event(const fp_net_event *event)
{
    fp_net_op echo = {.kind = FP_NET_SEND, .sge_count = 1};
    switch (event->kind) {
    case FP_NET_ACCEPTED:
        for (int i = 0; i < GOOD_RANGE; i++) {
            int rc = fp_net_share(event->conn, server.mrs[i]);
            FUZZ_CHECK(!rc || rc == FARPOOL_E_CLOSED);
        }
        break;
    case FP_NET_RECV:
        /* The first byte asks for an operation of ours, so that answers have something to answer. */
        if (event->len && ((const uint8_t *)event->data)[0] % 4 != FP_NET_SEND) {
            post(&server, event->conn, ((const uint8_t *)event->data)[0] % 4, event->len);
            break;
        }
        echo.sge[0] = (fp_sge){.addr = (void *)(uintptr_t)event->data, .len = event->len};
        int rc = fp_net_post(event->conn, &echo, 1);
        FUZZ_CHECK(!rc || rc == FARPOOL_E_CLOSED || rc == FARPOOL_E_BUSY);
        break;
    case FP_NET_CLOSED:
        fp_net_conn_close(event->conn);
        break;
    case FP_NET_DONE:
    case FP_NET_RECV_IMM:
        break;
    }
}

static void client_events(node *n)
{
    fp_net_event events[16];
    int count = fp_net_poll(n->poller, events, 16, 0);
    FUZZ_CHECK(count >= 0);
    for (int i = 0; i < count; i++) {
        n->done += events[i].kind == FP_NET_DONE;
        n->answers += events[i].kind == FP_NET_RECV;
        if (events[i].status && !n->status)
            n->status = events[i].status;
        if (events[i].kind == FP_NET_CLOSED) {
            FUZZ_CHECK(n->done == n->posted); /* N1 */
            fp_net_conn_close(n->conn);
            n->conn = NULL;
        }
    }
}

/* Everybody does what there is to do. */
static void pump(void)
{
    fp_net_event event;
    static uint8_t sink[1 << 16];
    int n;
    while ((n = fp_net_poll(server.poller, &event, 1, 0)) == 1)
        server_event(&event);
    FUZZ_CHECK(n == 0);
    client_events(&good);
    client_events(&victim);
    if (stranger >= 0 && !deaf) {
        ssize_t got = recv(stranger, sink, sizeof sink, MSG_DONTWAIT);
        (void)got; /* whatever it is */
    }
    sched_yield();
}

static size_t connections(const node *n)
{
    fp_tcp_net *net = (fp_tcp_net *)n->net;
    size_t count = 0;
    pthread_mutex_lock(&net->lock);
    for (const fp_tcp_conn *conn = net->conns; conn; conn = conn->next)
        count++;
    pthread_mutex_unlock(&net->lock);
    return count;
}

/* ---- what must hold -------------------------------------------------------------------------- */

static size_t count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    FUZZ_CHECK(dir);
    size_t count = 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void check_arena(void)
{
    size_t at = 0;
    for (int i = 0; i <= RANGES; i++) {
        size_t end = i < RANGES ? ranges[i].at : ARENA;
        for (; at < end; at++)
            FUZZ_CHECK(arena[at] == canary(at));
        if (i < RANGES && ranges[i].writable)
            at = end + ranges[i].len;
    }
}

/* A WRITE, a READ of the same, and an echo. */
static void check_good(void)
{
    fp_rkey key = fp_net_rkey(server.mrs[GOOD_RANGE]);
    fp_sge all = {arena + ranges[GOOD_RANGE].at, 4096, good.mrs[GOOD_RANGE]};
    fp_net_op ops[3] = {
        {.kind = FP_NET_WRITE, .sge_count = 1, .sge = {all}},
        {.kind = FP_NET_READ, .sge_count = 1, .sge = {all}},
        {.kind = FP_NET_SEND, .sge_count = 1, .sge = {{.addr = "\3echo", .len = 5}}},
    };
    for (int i = 0; i < 2; i++) {
        ops[i].remote_key = key.key;
        ops[i].remote_addr = key.addr;
    }
    unsigned answers = good.answers + 1;
    FUZZ_CHECK(!fp_net_post(good.conn, ops, 3));
    good.posted += 3;
    for (uint64_t end = fp_now_ns() + STUCK_NS;
         good.done < good.posted || good.answers < answers;) {
        pump();
        FUZZ_CHECK(fp_now_ns() < end && good.conn && !good.status);
    }
}

/* ---- the stranger ---------------------------------------------------------------------------- */

static void flush(size_t len)
{
    size_t sent = 0;
    uint64_t end = fp_now_ns() + STUCK_NS;
    while (sent < len) {
        ssize_t n = send(stranger, out + sent, len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN)
            break; /* it was thrown out */
        sent += n > 0 ? (size_t)n : 0;
        pump();
        FUZZ_CHECK(fp_now_ns() < end); /* it takes what comes, or hangs up */
    }
    memmove(out, out + len, out_len - len);
    out_len -= len;
}

static void put(const void *data, size_t len)
{
    if (len > OUT_MAX - out_len)
        len = OUT_MAX - out_len;
    memcpy(out + out_len, data, len);
    out_len += len;
}

static uint32_t length(fuzz_script *script, const struct range *range)
{
    switch (fuzz_number(script, 1) % 8) {
    case 0:
        return 0;
    case 1:
        return (uint32_t)fuzz_number(script, 1);
    case 2:
        return (uint32_t)fuzz_number(script, 2);
    case 3:
        return (uint32_t)fuzz_number(script, 4);
    case 4:
        return FP_NET_MESSAGE_MAX + (uint32_t)fuzz_number(script, 1) % 2;
    case 5:
        return (uint32_t)range->len;
    default:
        return OP_BYTES;
    }
}

/* A frame that may be sound, and its payload, or less, or more. */
static void put_frame(fuzz_script *script)
{
    static uint8_t filler[OUT_MAX / 4];
    uint32_t words[FP_TCP_HEADER_BYTES / 4];
    uint64_t shape = fuzz_number(script, 3);
    size_t i = (shape >> 4) % (RANGES - 1);
    const node *owner = i == VICTIM_RANGE ? &victim : &server;
    fp_rkey key = owner->mrs[i] ? fp_net_rkey(owner->mrs[i]) : (fp_rkey){0};
    if (i == KEYLESS_RANGE)
        key.key = fp_net_rkey(server.mrs[(shape >> 10) % 4]).key - 1;
    static const uint8_t requests[] = {FP_TCP_READ, FP_TCP_WRITE, FP_TCP_IMM, FP_TCP_SEND};
    static const uint8_t all[] = {FP_TCP_DATA, FP_TCP_ACK, FP_TCP_NAK, FP_TCP_SEND};
    uint32_t type = (shape % 16 < 8 ? requests : all)[shape % 4];
    if (shape % 16 == 15)
        type = (uint32_t)fuzz_number(script, 4);
    uint32_t len = length(script, &ranges[i]);
    uint64_t addr = key.addr;
    if ((shape >> 8) % 4 == 0)
        addr += fuzz_number(script, 2) % (key.len + 2);
    else if ((shape >> 8) % 4 == 1)
        addr += key.len - len; /* just so, or one too far */
    else if ((shape >> 8) % 16 == 2)
        addr = fuzz_number(script, 8);
    addr += (shape >> 12) % 8 == 0;
    uint64_t seq = (shape >> 15) % 8 ? (shape >> 18) % 8 : fuzz_number(script, 8);
    bool reads = type == FP_TCP_READ;
    bool has_payload = type != FP_TCP_ACK && type != FP_TCP_NAK && !reads;
    uint32_t payload = has_payload ? len : 0;
    words[0] = htole32(type);
    words[1] = htole32(has_payload || (shape >> 21) == 0 ? len : 0);
    uint64_t longs[3] = {htole64(seq), htole64(key.key), htole64(addr)};
    memcpy(words + 2, longs, sizeof longs);
    words[8] = htole32(reads ? len : 0);
    words[9] = htole32((uint32_t)shape);
    put(words, sizeof words);
    if (type == FP_TCP_SEND)
        filler[0] = (uint8_t)(shape >> 18); /* what it asks the server for */
    put(filler, payload < sizeof filler ? payload : (shape >> 21) * 1000);
}

static void step(fuzz_script *script)
{
    uint64_t what = fuzz_number(script, 1), n;
    size_t len;
    const uint8_t *bytes;
    switch (what % 32) {
    case 0: /* the network cuts a stream where it likes */
        n = fuzz_number(script, 2);
        flush(out_len ? n % out_len : 0);
        break;
    case 1:
        flush(out_len);
        break;
    case 2:
        n = fuzz_number(script, 3);
        if (out_len)
            out[n / 256 % out_len] = (uint8_t)n;
        break;
    case 3: /* the later before the earlier */
        n = out_len ? fuzz_number(script, 2) % out_len : 0;
        len = n < out_len - n ? n : out_len - n;
        for (size_t i = 0; i < len; i++) {
            uint8_t swap = out[i];
            out[i] = out[n + i];
            out[n + i] = swap;
        }
        break;
    case 4: /* a flood of the same, whose answers it may not want */
    case 8:
        len = out_len;
        for (n = fuzz_number(script, 2) % (OUT_MAX / FP_TCP_HEADER_BYTES); n > 0 && len; n--)
            put(out, len);
        deaf |= what >= 128;
        break;
    case 5:
        bytes = fuzz_bytes(script, fuzz_number(script, 1), &len);
        put(bytes, len);
        break;
    case 6:
        out_len -= out_len ? fuzz_number(script, 2) % out_len : 0;
        break;
    case 7:
        deaf = what >= 128;
        if (what % 128 == 7)
            check_good();
        break;
    default:
        put_frame(script);
    }
}

/* A preamble, sound in most cases. */
static bool put_preamble(fuzz_script *script)
{
    uint8_t sound[FP_TCP_PREAMBLE_BYTES];
    fp_tcp_preamble(sound, false);
    uint64_t what = fuzz_number(script, 1), n;
    size_t len;
    const uint8_t *bytes;
    switch (what % 16) {
    case 0:
        n = fuzz_number(script, 2);
        put(sound, sizeof sound);
        out[n / 256 % FP_TCP_PREAMBLE_BYTES] = (uint8_t)n;
        break;
    case 1:
        put(sound, fuzz_number(script, 1) % sizeof sound);
        break;
    case 2:
        bytes = fuzz_bytes(script, fuzz_number(script, 1), &len);
        put(bytes, len);
        break;
    default:
        put(sound, sizeof sound);
    }
    return out_len >= sizeof sound && !memcmp(out, sound, 12) && !out[sizeof sound - 1];
}

/* ---- the two roles --------------------------------------------------------------------------- */

static void be_client(fuzz_script *script)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(server_port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    stranger = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int small = 4096; /* so that answers not taken pile up on the other side */
    setsockopt(stranger, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    FUZZ_CHECK(stranger >= 0 && !connect(stranger, (struct sockaddr *)&to, sizeof to));
    put_preamble(script);
}

/* The victim's connect waits for the handshake meanwhile. */
static void *accept_victim(void *arg)
{
    const bool *more_comes = arg;
    int fd = accept4(stranger_listener, NULL, NULL, SOCK_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : send(fd, out, out_len, MSG_NOSIGNAL);
    (void)n; /* a victim that saw enough has closed */
    if (fd >= 0 && !*more_comes)
        shutdown(fd, SHUT_WR);
    stranger = fd;
    return NULL;
}

static void be_server(fuzz_script *script)
{
    uint64_t shape = fuzz_number(script, 2);
    bool sound = put_preamble(script);
    pthread_t thread;
    FUZZ_CHECK(!pthread_create(&thread, NULL, accept_victim, &sound));
    victim.posted = victim.done = 0;
    int rc = fp_net_connect(victim.poller, stranger_uri, &victim.conn);
    pthread_join(thread, NULL);
    FUZZ_CHECK(stranger >= 0);
    out_len = 0;
    FUZZ_CHECK(rc == 0 || rc == FARPOOL_E_PROTO || rc == FARPOOL_E_NODE || rc == FARPOOL_E_REFUSED);
    FUZZ_CHECK(!rc == sound);
    if (rc) {
        victim.conn = NULL;
        return;
    }
    if (shape & 1)
        FUZZ_CHECK(!fp_net_share(victim.conn, victim.mrs[VICTIM_RANGE]));
    for (unsigned i = 0; i < (shape >> 1) % 8; i++)
        post(&victim, victim.conn, (shape >> (4 + i)) % 4, i);
}

static void leave(uint64_t how)
{
    struct linger reset = {.l_onoff = 1};
    if (how % 4 == 0)
        setsockopt(stranger, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (how % 4 < 2) {
        close(stranger);
        stranger = -1;
    } else {
        shutdown(stranger, SHUT_WR);
    }
    /* One who was not accepted yet is in no list, and goes in his own time: the next input waits for him. */
    uint64_t end = fp_now_ns() + STUCK_NS;
    while (connections(&server) != 1 || victim.conn) {
        pump();
        FUZZ_CHECK(fp_now_ns() < end);
    }
    if (stranger >= 0)
        close(stranger);
    stranger = -1;
    while (count_descriptors() != descriptors) {
        pump();
        FUZZ_CHECK(fp_now_ns() < end);
    }
}

/* ---- one input ------------------------------------------------------------------------------- */

static void open_all(void)
{
    arena = aligned_alloc(4096, ARENA);
    FUZZ_CHECK(arena);
    for (size_t i = 0; i < ARENA; i++)
        arena[i] = canary(i);
    open_node(&server);
    open_node(&good);
    open_node(&victim);
    for (int i = 0; i <= GOOD_RANGE; i++)
        register_range(&server, i);
    register_range(&good, GOOD_RANGE);
    register_range(&victim, VICTIM_RANGE);
    FUZZ_CHECK(!fp_net_listen(server.poller, "tcp://127.0.0.1:0", &listener));
    fp_uri uri;
    FUZZ_CHECK(!fp_uri_parse(fp_net_listener_uri(listener), &uri));
    server_port = uri.port;
    FUZZ_CHECK(!fp_net_connect(good.poller, fp_net_listener_uri(listener), &good.conn));
    fp_net_event event;
    FUZZ_CHECK(fp_net_poll(server.poller, &event, 1, 10000) == 1);
    FUZZ_CHECK(event.kind == FP_NET_ACCEPTED);
    FUZZ_CHECK(!fp_net_share(event.conn, server.mrs[GOOD_RANGE]));
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof at;
    stranger_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    FUZZ_CHECK(!bind(stranger_listener, (struct sockaddr *)&at, sizeof at));
    FUZZ_CHECK(!listen(stranger_listener, 16));
    FUZZ_CHECK(!getsockname(stranger_listener, (struct sockaddr *)&at, &len));
    snprintf(stranger_uri, sizeof stranger_uri, "tcp://127.0.0.1:%u", ntohs(at.sin_port));
    check_good();
    descriptors = count_descriptors();
}

void fuzz_one(const uint8_t *data, size_t len)
{
    fuzz_script script = {data, data + len};
    if (!arena)
        open_all();
    uint64_t shape = fuzz_number(&script, 1);
    out_len = 0;
    deaf = false;
    if (shape & 1)
        be_server(&script);
    else
        be_client(&script);
    if (shape & 14) /* else the network may cut the hello, too, and damage reach it */
        flush(out_len);
    for (int i = 0; i < STEPS_MAX && script.at < script.end; i++)
        step(&script);
    flush(out_len);
    leave(shape >> 4);
    check_good();
    check_arena();
}

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    return fuzz_noise(random, data, capacity, 20, 219);
}
