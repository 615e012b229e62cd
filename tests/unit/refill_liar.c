/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that nothing a peer says makes a storage node that refills from it serve a wrong page or log: the peer tells the
 * truth, of which bits, numbers, lengths and types are changed at random, until it stops doing so; then the node is
 * whole. And that a peer which claims to have what it does not give, or gives a manifest with LSNs that cannot be, is not
 * asked again and again without a pause. SEED=n repeats what is changed, as far as threads can. */
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/daemon/server.h"
#include "common/log.h"
#include "storagenode/file_format.h"
#include "tests/lib/pages_client.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    P = 7,
    FILES_MAX = 64,
    ROUNDS = 12,
    LIES_MS = 400,
    WAIT_S = 60,
    ASKED_MAX = 100, /* in that time by a node that pauses */
};

/* What it lies about consistently. */
enum claim { NOTHING, HAS_LOG, HAS_LATE_LAYERS, HAS_ENDLESS_LAYERS, CLAIMS };

/* What a good storage node has. */
typedef struct truth {
    page_log owner;
    fp_msg state;
    uint8_t *manifest;
    size_t manifest_bytes;
    fp_manifest parsed;
    uint8_t *files[FILES_MAX];
} truth;

static truth t;
static fp_server server; /* the liar's thread's */
static uint64_t random_state;
static _Atomic bool lies;
static _Atomic int claimed;            /* enum claim */
static _Atomic uint64_t told, changed; /* answers */
static int stop_fd;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

/* ---- the liar -------------------------------------------------------------------------------- */

static void give(fp_msg *msg, const uint8_t *bytes, uint64_t size, uint64_t at)
{
    uint64_t len = at < size ? size - at : 0;
    msg->data_len = len < FP_WIRE_DATA_MAX ? (uint32_t)len : FP_WIRE_DATA_MAX;
    memcpy(msg->data, bytes + (len ? at : 0), msg->data_len);
}

static void tell_truth(const fp_msg *request, fp_msg *msg)
{
    msg->partition = P;
    msg->at = request->at;
    msg->lsn = request->lsn;
    if (request->type == FP_MSG_WAL_GET) {
        *msg = t.state;
    } else if (request->type == FP_MSG_LOG_GET) {
        msg->type = FP_MSG_LOG;
        give(msg, t.owner.log.bytes, t.owner.log.end, request->lsn);
    } else if (request->type == FP_MSG_MANIFEST_GET) {
        msg->type = FP_MSG_MANIFEST;
        msg->bytes = t.manifest_bytes;
        give(msg, t.manifest, t.manifest_bytes, request->at);
    } else {
        msg->type = FP_MSG_FILE;
        memcpy(msg->hash, request->hash, sizeof msg->hash);
        msg->data_len = 0;
        for (uint32_t i = 0; i < t.parsed.header.count; i++)
            if (!memcmp(t.parsed.entries[i].hash, request->hash, sizeof request->hash))
                give(msg, t.files[i], t.parsed.entries[i].bytes, request->at);
    }
}

/* Layers, none of them, up to an LSN where no frame can begin. */
static void give_manifest(fp_msg *msg, uint64_t converted, uint64_t at)
{
    fp_manifest manifest = {.header = {.partition = P,
                                       .beginning = FP_REDO_LSN_FIRST,
                                       .base = converted,
                                       .converted = converted}};
    size_t bytes;
    uint8_t *file = fp_manifest_put(&manifest, &bytes);
    REQUIRE(file);
    msg->bytes = bytes;
    give(msg, file, bytes, at);
    free(file);
}

/* An answer that would be good if all it claims were true. */
static void claim(const fp_msg *request, fp_msg *msg, enum claim what)
{
    if (request->type == FP_MSG_LOG_GET && what == HAS_LOG)
        msg->data_len = 0;
    if (request->type == FP_MSG_WAL_GET) /* so that log is asked for, or pages */
        msg->wal.start = what == HAS_LOG ? FP_REDO_LSN_FIRST : t.owner.log.end;
    if (request->type == FP_MSG_MANIFEST_GET && what == HAS_LATE_LAYERS)
        give_manifest(msg, t.owner.log.end + 4, request->at);
    if (request->type == FP_MSG_MANIFEST_GET && what == HAS_ENDLESS_LAYERS)
        give_manifest(msg, FP_WAL_LSN_MAX + FP_REDO_ALIGN, request->at);
}

static void change_something(fp_msg *msg)
{
    uint64_t *const numbers[] = {&msg->partition,   &msg->at,          &msg->lsn,
                                 &msg->bytes,       &msg->wal.start,   &msg->wal.end,
                                 &msg->wal.durable, &msg->wal.durable, &msg->epoch};
    atomic_fetch_add(&changed, 1);
    switch (draw(6)) {
    case 0:
        msg->type = (enum fp_msg_type[]){FP_MSG_LOG,       FP_MSG_FILE, FP_MSG_MANIFEST,
                                         FP_MSG_WAL_STATE, FP_MSG_PAGE, FP_MSG_HELLO_OK}[draw(6)];
        break;
    case 1:
        *numbers[draw(9)] = draw(2) ? test_random(&random_state) : draw(1 << 20) * 8;
        break;
    case 2:
        msg->data_len = (uint32_t)draw(FP_WIRE_DATA_MAX + 1);
        break;
    case 3:
        msg->hash[draw(sizeof msg->hash)] ^= 1;
        break;
    default:
        if (msg->data_len)
            msg->data[draw(msg->data_len)] ^= (uint8_t)(1u << draw(8));
    }
}

static void answer(void *owner, fp_server_client *client)
{
    (void)owner;
    fp_msg *msg = &server.answer;
    msg->type = FP_MSG_ERROR;
    tell_truth(&server.request, msg);
    atomic_fetch_add(&told, 1);
    if (atomic_load(&claimed))
        claim(&server.request, msg, (enum claim)atomic_load(&claimed));
    if (atomic_load(&lies) && draw(12) == 0)
        change_something(msg);
    fp_server_answer(&server, client, server.request.request);
}

static void dropped(void *owner, fp_server_client *client) { (void)owner, (void)client; }

static void *serve(void *arg)
{
    (void)arg;
    int fds[FP_SERVER_NETS_MAX];
    struct pollfd polls[2] = {{.fd = stop_fd, .events = POLLIN}, {.events = POLLIN}};
    REQUIRE(fp_server_fds(&server, fds) == 1);
    polls[1].fd = fds[0];
    for (;;) {
        int more = fp_server_step(&server);
        REQUIRE(more >= 0);
        if (poll(polls, 2, more ? 0 : -1) > 0 && polls[0].revents)
            return NULL;
    }
}

/* ---- the truth ------------------------------------------------------------------------------- */

static uint8_t *load(logclient *c, fp_msg request, uint64_t size, size_t *bytes)
{
    uint8_t *data = NULL;
    for (request.at = 0; !request.at || request.at < size; request.at += c->msg.data_len) {
        int rc = logclient_ask(c, request);
        REQUIRE(rc == FP_MSG_MANIFEST || rc == FP_MSG_FILE);
        size = rc == FP_MSG_MANIFEST ? c->msg.bytes : size;
        data = data ? data : malloc(size);
        memcpy(data + request.at, c->msg.data, c->msg.data_len);
    }
    *bytes = size;
    return data;
}

static void learn_truth(void)
{
    const char *why;
    char volume[256];
    logclient c;
    size_t bytes;
    page_log_open(&t.owner, P, FP_REDO_LSN_FIRST, 3);
    test_volume_make(volume);
    test_storage *good = test_storage_start("shm", volume);
    test_must(logclient_open(&c, test_storage_uri(good), NULL), "connecting");
    page_log_frames(&t.owner, 1, 600);
    test_pages_give(&c, &t.owner, FP_REDO_LSN_FIRST);
    fp_msg get = {.type = FP_MSG_MANIFEST_GET, .partition = P, .lsn = t.owner.log.ends[500]};
    t.manifest = load(&c, get, 0, &t.manifest_bytes);
    REQUIRE(!fp_manifest_get(t.manifest, t.manifest_bytes, P, &t.parsed, &why));
    REQUIRE(t.parsed.header.count && t.parsed.header.count < FILES_MAX);
    for (uint32_t i = 0; i < t.parsed.header.count; i++) {
        fp_msg file = {.type = FP_MSG_FILE_GET, .partition = P};
        memcpy(file.hash, t.parsed.entries[i].hash, sizeof file.hash);
        t.files[i] = load(&c, file, t.parsed.entries[i].bytes, &bytes);
    }
    REQUIRE(logclient_ask(&c, (fp_msg){.type = FP_MSG_WAL_GET, .partition = P}) ==
            FP_MSG_WAL_STATE);
    t.state = c.msg;
    logclient_close(&c);
    test_storage_stop(good);
    test_volume_remove(volume);
}

static void forget_truth(void)
{
    for (uint32_t i = 0; i < t.parsed.header.count; i++)
        free(t.files[i]);
    free(t.parsed.entries);
    free(t.manifest);
    page_log_close(&t.owner);
}

/* ---- who is lied to -------------------------------------------------------------------------- */

/* True: it has all. What it has is right. */
static bool look(logclient *c)
{
    if (logclient_ask(c, (fp_msg){.type = FP_MSG_WAL_GET, .partition = P}) != FP_MSG_WAL_STATE)
        return false;
    uint64_t start = c->msg.wal.start, durable = c->msg.wal.durable;
    REQUIRE(durable <= t.owner.log.end);
    if (durable > start && logclient_get(c, P, start) == FP_MSG_LOG)
        REQUIRE(!memcmp(c->msg.data, t.owner.log.bytes + start, c->msg.data_len));
    return !test_pages_compare(c, &t.owner, durable) && durable == t.owner.log.end;
}

static char lied_to[64]; /* where it listens */

/* Its volume is empty, or it has the log's beginning and is told of a gap. */
static void one_round(const char *liar, bool empty)
{
    char volume[256];
    logclient c;
    const char *peers[] = {liar};
    fp_storagenode_config config = {.peers = peers, .peer_count = 1};
    uint64_t from = wal_log_after(&t.owner.log, FP_REDO_LSN_FIRST, empty ? 400 : 50);
    test_volume_make(volume);
    test_storage *node = test_storage_start_as(lied_to, volume, &config);
    test_must(logclient_open(&c, test_storage_uri(node), NULL), "connecting");
    (void)logclient_wal_open(&c, P, 1, PAGES_CLIENT_FRAME, empty ? from : FP_REDO_LSN_FIRST);
    if (!empty)
        REQUIRE(logclient_stream(&c, &t.owner.log, from) == FP_MSG_WAL_STATE);
    atomic_store(&lies, true);
    uint64_t until = fp_now_ns() + LIES_MS * 1000000ull, deadline = until + WAIT_S * 1000000000ull;
    bool whole;
    do {
        if (fp_now_ns() > until)
            atomic_store(&lies, false);
        (void)logclient_wal_open(&c, P, 1, 0, t.owner.log.end);
        whole = look(&c);
        REQUIRE(fp_now_ns() < deadline);
        usleep(2000);
    } while (!whole);
    logclient_close(&c);
    test_storage_stop(node);
    test_pages_check(volume);
    test_volume_remove(volume);
}

/* Its log ends before the peer's, and somebody has more. The peer does not give what it claims; then it does. */
static void one_claim(const char *liar, enum claim what)
{
    char volume[256];
    logclient c;
    const char *peers[] = {liar};
    fp_storagenode_config config = {.peers = peers, .peer_count = 1};
    test_volume_make(volume);
    test_storage *node = test_storage_start_as(lied_to, volume, &config);
    test_must(logclient_open(&c, test_storage_uri(node), NULL), "connecting");
    (void)logclient_wal_open(&c, P, 1, PAGES_CLIENT_FRAME, FP_REDO_LSN_FIRST);
    uint64_t from = wal_log_after(&t.owner.log, FP_REDO_LSN_FIRST, 50);
    REQUIRE(logclient_stream(&c, &t.owner.log, from) == FP_MSG_WAL_STATE);
    atomic_store(&claimed, what);
    uint64_t before = atomic_load(&told), begin = fp_now_ns();
    uint64_t deadline = begin + WAIT_S * 1000000000ull;
    bool whole = false;
    while (!whole) {
        REQUIRE(fp_now_ns() < deadline);
        (void)logclient_wal_open(&c, P, 1, 0, t.owner.log.end);
        uint64_t asked = atomic_load(&told) - before, took = fp_now_ns() - begin;
        if (atomic_load(&claimed) && took > LIES_MS * 1000000ull && asked) {
            REQUIRE(asked * LIES_MS * 1000000ull < ASKED_MAX * took);
            atomic_store(&claimed, NOTHING);
        }
        whole = look(&c);
        REQUIRE(!whole || !atomic_load(&claimed));
        usleep(2000);
    }
    logclient_close(&c);
    test_storage_stop(node);
    test_pages_check(volume);
    test_volume_remove(volume);
}

int main(void)
{
    static const fp_server_ops ops = {
        .client_bytes = sizeof(fp_server_client), .request = answer, .dropped = dropped};
    uint64_t one = 1;
    pthread_t thread;
    const char *bound;
    random_state = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    fp_log_set_level(getenv("VERBOSE") ? FP_LOG_DEBUG : FP_LOG_ERROR);
    snprintf(lied_to, sizeof lied_to, "shm:///tmp/farpool-lied-to-%d.sock", (int)getpid());
    learn_truth();
    stop_fd = eventfd(0, EFD_CLOEXEC);
    test_must(fp_server_open(&server, &ops, NULL, "liar", 0, NULL), "a server");
    test_must(fp_server_listen(&server, "tcp://127.0.0.1:0", NULL, &bound), "listening");
    REQUIRE(!pthread_create(&thread, NULL, serve, NULL));
    for (unsigned round = 0; round < ROUNDS; round++)
        one_round(bound, round % 2);
    atomic_store(&lies, false);
    for (enum claim what = NOTHING + 1; what < CLAIMS; what++)
        one_claim(bound, what);
    REQUIRE(write(stop_fd, &one, sizeof one) == sizeof one);
    pthread_join(thread, NULL);
    printf("%llu of %llu answers were changed\n", (unsigned long long)atomic_load(&changed),
           (unsigned long long)atomic_load(&told));
    fp_server_stop(&server);
    fp_server_close(&server);
    close(stop_fd);
    forget_truth();
    return 0;
}
