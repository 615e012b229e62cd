/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/proxy.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/lib/require.h"

static uint16_t port_of(const char *uri) { return (uint16_t)atoi(strrchr(uri, ':') + 1); }

static int dial(uint16_t port)
{
    struct timeval limit = {PROXY_WAIT_S, 0};
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fd >= 0 && !connect(fd, (struct sockaddr *)&addr, sizeof addr));
    REQUIRE(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    return fd;
}

int proxy_dial(const char *uri) { return dial(port_of(uri)); }

static void keep(proxy *p, enum proxy_way way, const uint8_t *bytes, size_t len)
{
    size_t have = atomic_load_explicit(&p->count[way], memory_order_relaxed);
    size_t part = len < PROXY_KEEPS - have ? len : PROXY_KEEPS - have;
    memcpy(p->kept[way] + have, bytes, part);
    atomic_store_explicit(&p->count[way], have + part, memory_order_release);
}

/* False: the connection is over. */
static bool pass(proxy *p, enum proxy_way way, int from, int to)
{
    uint8_t bytes[16384];
    ssize_t n = recv(from, bytes, sizeof bytes, 0);
    if (n <= 0)
        return false;
    keep(p, way, bytes, (size_t)n);
    long flip = atomic_load(&p->flip[way]), cut = atomic_load(&p->cut[way]);
    if (flip >= 0 && flip < n)
        bytes[flip] ^= 0x20;
    if (flip >= 0)
        atomic_store(&p->flip[way], flip < n ? -1 : flip - n);
    bool ends = cut >= 0 && cut < n;
    if (cut >= 0)
        atomic_store(&p->cut[way], ends ? -1 : cut - n);
    size_t len = ends ? (size_t)cut : (size_t)n;
    for (size_t sent = 0; sent < len;) {
        ssize_t k = send(to, bytes + sent, len - sent, MSG_NOSIGNAL);
        if (k <= 0)
            return false;
        sent += (size_t)k;
    }
    return !ends;
}

/* False: the test ends. */
static bool relay(proxy *p, int client)
{
    int server = dial(p->port);
    struct pollfd polls[3] = {{.fd = client, .events = POLLIN},
                              {.fd = server, .events = POLLIN},
                              {.fd = p->stop_fd, .events = POLLIN}};
    bool lives = true;
    atomic_store(&p->count[0], 0);
    atomic_store(&p->count[1], 0);
    while (lives && poll(polls, 3, -1) > 0 && !polls[2].revents) {
        if (polls[0].revents)
            lives = pass(p, PROXY_TO_SERVER, client, server);
        if (lives && polls[1].revents)
            lives = pass(p, PROXY_TO_CLIENT, server, client);
    }
    close(client);
    close(server);
    return !polls[2].revents;
}

static void *serve(void *arg)
{
    proxy *p = arg;
    struct pollfd polls[2] = {{.fd = p->listener, .events = POLLIN},
                              {.fd = p->stop_fd, .events = POLLIN}};
    while (poll(polls, 2, -1) > 0 && !polls[1].revents) {
        int client = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
        REQUIRE(client >= 0);
        if (!relay(p, client))
            break;
    }
    return NULL;
}

void proxy_start(proxy *p, const char *server_uri)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t len = sizeof addr;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->port = port_of(server_uri);
    for (int way = 0; way < 2; way++) {
        atomic_store(&p->flip[way], -1);
        atomic_store(&p->cut[way], -1);
        atomic_store(&p->count[way], 0);
    }
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(p->listener >= 0 && !bind(p->listener, (struct sockaddr *)&addr, sizeof addr));
    REQUIRE(!listen(p->listener, 8) && !getsockname(p->listener, (struct sockaddr *)&addr, &len));
    snprintf(p->uri, sizeof p->uri, "tcp://127.0.0.1:%u", ntohs(addr.sin_port));
    p->stop_fd = eventfd(0, EFD_CLOEXEC);
    REQUIRE(p->stop_fd >= 0 && !pthread_create(&p->thread, NULL, serve, p));
}

void proxy_stop(proxy *p)
{
    uint64_t one = 1;
    REQUIRE(write(p->stop_fd, &one, sizeof one) == sizeof one);
    pthread_join(p->thread, NULL);
    close(p->listener);
    close(p->stop_fd);
}

bool proxy_saw(const proxy *p, enum proxy_way way, const char *text)
{
    size_t count = atomic_load_explicit(&p->count[way], memory_order_acquire);
    return memmem(p->kept[way], count, text, strlen(text)) != NULL;
}
