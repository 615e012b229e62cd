/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that strangers and liars on the tcp port and the shm socket break nothing but their
 * connection (N8). */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/net/shm.h"
#include "common/net/tcp.h"
#include "tests/lib/peer_pair.h"

static int teardown(void **state)
{
    /* Whatever the strangers did: the one who was there before is served, and a new one, too. */
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 4096)), 0);
    fp_conn *first = c.conn;
    assert_int_equal(client_connect(&c, server.uri), 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 4096)), 0);
    fp_net_conn_close(c.conn);
    c.conn = first;
    return peer_pair_close(state);
}

static int stranger(void)
{
    fp_uri uri;
    assert_int_equal(fp_uri_parse(server.uri, &uri), 0);
    struct timeval limit = {10, 0};
    int fd, rc;
    if (peer_scheme_is("tcp")) {
        struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(uri.port)};
        inet_pton(AF_INET, uri.host, &addr.sin_addr);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        rc = connect(fd, (struct sockaddr *)&addr, sizeof addr);
    } else {
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        snprintf(addr.sun_path, sizeof addr.sun_path, "%.100s", uri.host);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        rc = connect(fd, (struct sockaddr *)&addr, sizeof addr);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    return fd;
}

/* Until the server hangs up; fails if it does not. */
static void expect_hang_up(int fd)
{
    static char sink[1 << 16];
    for (;;) {
        ssize_t n = recv(fd, sink, sizeof sink, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            break;
        assert_true(n > 0);
    }
    close(fd);
}

static void put(int fd, const void *data, size_t len)
{
    ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
    (void)n; /* the server may have hung up already */
}

static void not_farpool(void **state)
{
    (void)state;
    peer_applies(__func__);
    static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    uint64_t random = 88172645463325252u;
    for (int i = 0; i < 20; i++) {
        char garbage[300];
        for (size_t k = 0; k < sizeof garbage; k++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            garbage[k] = (char)random;
        }
        int fd = stranger();
        if (i % 2)
            put(fd, http, sizeof http - 1);
        else
            put(fd, garbage, sizeof garbage);
        expect_hang_up(fd);
    }
}

static void silent_and_hasty(void **state)
{
    (void)state;
    peer_applies(__func__);
    int silent[20];
    for (int i = 0; i < 20; i++)
        silent[i] = stranger(); /* says nothing */
    for (int i = 0; i < 50; i++)
        close(stranger());
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 4096)), 0);
    put(silent[0], "farp", 4); /* half a hello */
    for (int i = 0; i < 20; i++) {
        if (i < 2)
            expect_hang_up(silent[i]); /* the time for a hello is bounded */
        else
            close(silent[i]);
    }
}

static void wrong_version(void **state)
{
    (void)state;
    peer_applies(__func__);
    if (peer_scheme_is("tcp")) {
        unsigned char preamble[FP_TCP_PREAMBLE_BYTES], theirs[FP_TCP_PREAMBLE_BYTES];
        fp_tcp_preamble(preamble, peer_tls());
        preamble[8] = 99;
        int fd = stranger();
        put(fd, preamble, sizeof preamble);
        /* It says its own version, so that the other can tell what is wrong. */
        assert_int_equal(recv(fd, theirs, sizeof theirs, MSG_WAITALL), sizeof theirs);
        assert_int_equal(fp_tcp_preamble_check(theirs, peer_tls(), "test"), 0);
        assert_int_equal(fp_tcp_preamble_check(preamble, peer_tls(), "test"), FARPOOL_E_PROTO);
        assert_non_null(strstr(farpool_errmsg(), "version 99"));
        expect_hang_up(fd);
    } else {
        fp_shm_packet hello = {.magic = FP_SHM_MAGIC, .version = 99, .type = FP_SHM_HELLO};
        int fd = stranger();
        put(fd, &hello, sizeof hello);
        expect_hang_up(fd);
    }
}

/* A server that hangs up in the middle of its hello has not said it. */
static void tcp_half_a_hello(void **state)
{
    (void)state;
    peer_applies(__func__);
    unsigned char preamble[FP_TCP_PREAMBLE_BYTES];
    fp_tcp_preamble(preamble, peer_tls());
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int half = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(half, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(half, 1), 0);
    assert_int_equal(getsockname(half, (struct sockaddr *)&at, &len), 0);
    pid_t pid = fork();
    if (pid == 0) {
        int fd = accept(half, NULL, NULL);
        put(fd, preamble, sizeof preamble - 1);
        _exit(0);
    }
    char uri[FP_NET_URI_MAX];
    fp_conn *conn;
    snprintf(uri, sizeof uri, "tcp://127.0.0.1:%u", ntohs(at.sin_port));
    assert_int_equal(fp_net_connect(c.poller, uri, &conn), FARPOOL_E_NODE);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(half);
}

/* A peer that shook hands properly and then sends this. */
static void tcp_lie(const uint32_t words[FP_TCP_HEADER_BYTES / 4])
{
    unsigned char bytes[FP_TCP_HEADER_BYTES + 16384] = {0};
    fp_tcp_preamble(bytes, false);
    int fd = stranger();
    put(fd, bytes, FP_TCP_PREAMBLE_BYTES);
    for (size_t i = 0; i < FP_TCP_HEADER_BYTES / 4; i++) {
        uint32_t word = htole32(words[i]);
        memcpy(bytes + 4 * i, &word, 4);
    }
    put(fd, bytes, sizeof bytes);
    expect_hang_up(fd);
}

static void tcp_liars(void **state)
{
    (void)state;
    peer_applies(__func__);
    uint32_t key[2];
    memcpy(key, &c.keys.rw.key,
           8); /* known, but not shared with this connection yet or out of range */
    const uint32_t lies[][FP_TCP_HEADER_BYTES / 4] = {
        {0},
        {99, 0},
        {FP_TCP_READ, 5},
        {FP_TCP_SEND, FP_NET_MESSAGE_MAX + 1},
        {FP_TCP_SEND, UINT32_MAX},
        {FP_TCP_WRITE, UINT32_MAX, 1, 0, key[0], key[1]},
        {FP_TCP_WRITE, 4096, 1, 0, key[0] ^ 1, key[1]},
        {FP_TCP_IMM, 4096, 1, 0, key[0], key[1], 1, 2},
        {FP_TCP_READ, 0, 1, 0, key[0], key[1], 0, 0, UINT32_MAX},
        {FP_TCP_DATA, 4096, 1},
        {FP_TCP_DATA, UINT32_MAX, 1},
        {FP_TCP_ACK, 0, 1},
        {FP_TCP_ACK, 0, UINT32_MAX, UINT32_MAX},
        {FP_TCP_NAK, 0, 1},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++)
        tcp_lie(lies[i]);
}

/* Those who say nothing do not keep others out: the oldest of them goes. */
static void tcp_crowd(void **state)
{
    (void)state;
    peer_applies(__func__);
    int silent[2 * FP_TCP_HANDSHAKES_MAX];
    for (unsigned i = 0; i < sizeof silent / sizeof silent[0]; i++)
        silent[i] = stranger();
    fp_conn *first = c.conn;
    assert_int_equal(client_connect(&c, server.uri), 0);
    assert_int_equal(client_do(&c, op_read(&c, c.keys.rw, 0, 0, 4096)), 0);
    fp_net_conn_close(c.conn);
    c.conn = first;
    expect_hang_up(silent[0]);
    for (unsigned i = 1; i < sizeof silent / sizeof silent[0]; i++)
        close(silent[i]);
}

/* More requests than may be in flight, and nobody takes the answers. */
static void tcp_flood(void **state)
{
    (void)state;
    peer_applies(__func__);
    unsigned char preamble[FP_TCP_PREAMBLE_BYTES];
    struct {
        uint32_t type, len;
        uint64_t seq, key, addr;
        uint32_t count, imm;
    } read = {FP_TCP_READ, 0, 1, c.keys.rw.key, c.keys.rw.addr, 1 << 20, 0};
    fp_tcp_preamble(preamble, false);
    int fd = stranger();
    put(fd, preamble, sizeof preamble);
    static char sink[16 + 40 + sizeof(peer_keys)]; /* hello and keys: it is shared with now */
    assert_int_equal(recv(fd, sink, sizeof sink, MSG_WAITALL), sizeof sink);
    for (int i = 0; i < 1000; i++) {
        read.seq++;
        put(fd, &read, sizeof read);
    }
    expect_hang_up(fd);
}

static void send_with_fd(int to, const fp_shm_packet *packet, int fd)
{
    struct iovec iov = {(void *)(uintptr_t)packet, sizeof *packet};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {0};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
    *header = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ssize_t n = sendmsg(to, &msg, MSG_NOSIGNAL);
    (void)n; /* the server may have hung up already */
}

static void shm_liars(void **state)
{
    (void)state;
    peer_applies(__func__);
    int unsealed = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int sealed = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int file = open("/dev/zero", O_RDWR | O_CLOEXEC);
    assert_int_equal(ftruncate(unsealed, 8192), 0);
    assert_int_equal(ftruncate(sealed, 8192), 0);
    assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    const struct {
        uint16_t type;
        uint64_t key, len, offset;
        uint32_t slot, bytes;
        int fd;
    } lies[] = {
        {99, 0, 0, 0, 0, 0, -1},
        {FP_SHM_HELLO, 0, 0, 0, 0, 0, -1},
        {FP_SHM_MESSAGE, 0, 0, 0, 0, 77, -1},
        {FP_SHM_SHARE, 5, 4096, 0, 0, 0, -1},
        {FP_SHM_SHARE, 5, 4096, 0, 0, 0, unsealed}, /* could be truncated under the reader */
        {FP_SHM_SHARE, 5, 4096, 0, 0, 0, file},
        {FP_SHM_SHARE, 5, 8193, 0, 0, 0, sealed},
        {FP_SHM_SHARE, 5, 4096, 4097, 0, 0, sealed},
        {FP_SHM_SHARE, 5, UINT64_MAX, 1, 0, 0, sealed},
        {FP_SHM_SHARE, 5, 4096, UINT64_MAX, 0, 0, sealed},
        {FP_SHM_SHARE, 0, 4096, 0, 0, 0, sealed},
        {FP_SHM_SHARE, 5, 4096, 0, FP_SHM_GRANTS_MAX, 0, sealed},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        int fd = stranger();
        fp_shm_packet packet = {
            .magic = FP_SHM_MAGIC, .version = FP_SHM_VERSION, .type = FP_SHM_HELLO};
        put(fd, &packet, sizeof packet);
        packet.type = lies[i].type;
        packet.key = lies[i].key;
        packet.len = lies[i].len;
        packet.offset = lies[i].offset;
        packet.slot = lies[i].slot;
        packet.bytes = lies[i].bytes;
        if (lies[i].fd < 0)
            put(fd, &packet, sizeof packet);
        else
            send_with_fd(fd, &packet, lies[i].fd);
        expect_hang_up(fd);
    }
    close(unsealed);
    close(sealed);
    close(file);
}

/* What a reader holds of another's memory cannot be written, nor can what is shared be
 * truncated. */
static void shm_descriptors_give_no_more_than_granted(void **state)
{
    (void)state;
    peer_applies(__func__);
    assert_int_equal(ftruncate(server.mem.fd, 4096), -1);
    int fd = ((fp_shm_mr *)server.others[0])->fd; /* what peers get of the read-only range */
    assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
#define T(test) cmocka_unit_test_setup_teardown(test, peer_pair_open, teardown)
        T(not_farpool),      T(silent_and_hasty), T(wrong_version),
        T(tcp_half_a_hello), T(tcp_liars),        T(tcp_flood),
        T(tcp_crowd),        T(shm_liars),        T(shm_descriptors_give_no_more_than_granted),
#undef T
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return peer_for_each(group); }
