/* SPDX-License-Identifier: Apache-2.0 */
/* shm: listening, connecting, and packets over the Unix socket. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/shm.h"

enum { FDS_MAX = 4 }; /* descriptors taken from one packet; the kernel drops the rest */

/* ---- packets --------------------------------------------------------------------------------- */

int fp_shm_packet_send(fp_shm_conn *conn, const fp_shm_packet *packet, const fp_sge *sge,
                       uint32_t sge_count, int fd)
{
    struct iovec iov[1 + FP_NET_SGE_MAX] = {{(void *)(uintptr_t)packet, sizeof *packet}};
    for (uint32_t i = 0; i < sge_count; i++)
        iov[1 + i] = (struct iovec){sge[i].addr, sge[i].len};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 1 + sge_count};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {0};
    if (fd >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
        *header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
    }
    ssize_t n;
    do {
        n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n >= 0)
        return 0;
    if (errno == EAGAIN || errno == ENOBUFS)
        return FARPOOL_E_BUSY;
    if (errno == EPIPE || errno == ECONNRESET)
        return fp_error(FARPOOL_E_NODE, "%s: the peer is gone", conn->base.peer);
    return fp_error_sys("%s: sending", conn->base.peer);
}

/* Keeps the first descriptor, closes the others. */
static int take_fd(struct msghdr *msg)
{
    int kept = -1;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
            if (kept < 0)
                kept = fd;
            else
                close(fd);
        }
    }
    return kept;
}

int fp_shm_packet_receive(fp_shm_conn *conn, fp_shm_packet *packet, size_t capacity, int *fd)
{
    struct iovec iov = {packet, sizeof *packet + capacity};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(FDS_MAX * sizeof(int))];
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    *fd = -1;
    ssize_t n;
    do {
        n = recvmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n < 0 && errno != ECONNRESET)
        return fp_error_sys("%s: receiving", conn->base.peer);
    if (n <= 0) {
        bool closed = conn->gate && atomic_load(&conn->gate->cut);
        return fp_error(FARPOOL_E_NODE, "%s: %s", conn->base.peer,
                        closed ? "the peer closed the connection" : "the peer's process ended");
    }
    *fd = take_fd(&msg);
    const char *wrong = NULL;
    if ((size_t)n < sizeof *packet || packet->magic != FP_SHM_MAGIC)
        wrong = "what it sends is not farpool's shm protocol";
    else if (msg.msg_flags & MSG_TRUNC)
        wrong = "it sent a message that is too long";
    else if (packet->type == FP_SHM_MESSAGE && packet->bytes != (size_t)n - sizeof *packet)
        wrong = "it sent a message of another length than it says";
    if (!wrong && packet->version != FP_SHM_VERSION) {
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
        return fp_error(FARPOOL_E_PROTO,
                        "%s: the peer speaks version %u of the shm protocol, this is version %d; "
                        "use the same farpool on both ends",
                        conn->base.peer, packet->version, FP_SHM_VERSION);
    }
    if (!wrong)
        return 1;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return fp_error(FARPOOL_E_PROTO, "%s: %s", conn->base.peer, wrong);
}

static void name_peer(fp_shm_conn *conn, const char *text)
{
    struct ucred who = {0};
    socklen_t len = sizeof who;
    if (!getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &who, &len))
        conn->pid = who.pid;
    snprintf(conn->base.peer, sizeof conn->base.peer, "%.220s (process %d)", text, (int)conn->pid);
}

/* ---- the gate -------------------------------------------------------------------------------- */

static int gate_create(fp_shm_gate **gate, int *fd)
{
    *fd = memfd_create("farpool-gate", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0)
        return fp_error_sys("creating a connection's shared page");
    if (ftruncate(*fd, sizeof **gate) ||
        fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        int rc = fp_error_sys("sizing a connection's shared page");
        close(*fd);
        return rc;
    }
    void *map = mmap(NULL, sizeof **gate, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (map == MAP_FAILED) {
        int rc = fp_error_sys("mapping a connection's shared page");
        close(*fd);
        return rc;
    }
    *gate = map;
    return 0;
}

static int gate_map(int fd, fp_shm_gate **gate)
{
    struct stat st;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) ||
        st.st_size < (off_t)sizeof **gate)
        return fp_error(FARPOOL_E_PROTO, "the peer's hello came without a usable shared page");
    void *map = mmap(NULL, sizeof **gate, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return fp_error_sys("mapping a connection's shared page");
    *gate = map;
    return 0;
}

static void join_net(fp_shm_conn *conn)
{
    fp_shm_net *net = fp_shm_net_of(conn);
    pthread_mutex_lock(&net->lock);
    conn->net_next = net->conns;
    net->conns = conn;
    pthread_mutex_unlock(&net->lock);
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void accept_one(fp_shm_poller *poller, fp_shm_listener *listener, int fd)
{
    fp_shm_net *net = (fp_shm_net *)poller->base.net;
    fp_shm_conn *conn;
    if (poller->handshakes >= FP_SHM_HANDSHAKES_MAX) {
        close(fd); /* so many that are silent at once are no peers */
        return;
    }
    if (fp_shm_conn_new(poller, fd, 0, &conn)) {
        close(fd);
        return;
    }
    name_peer(conn, listener->base.uri);
    conn->listener = listener;
    conn->hello_deadline_ns = fp_now_ns() + net->options.connect_timeout_ms * UINT64_C(1000000);
    poller->handshakes++;
}

void fp_shm_accept(fp_shm_poller *poller, fp_shm_listener *listener)
{
    for (int i = 0; i < 16; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            accept_one(poller, listener, fd);
            continue;
        }
        if ((errno != EMFILE && errno != ENFILE) || poller->spare_fd < 0)
            return;
        /* Out of descriptors: turn the caller away rather than being woken for it again and
         * again. */
        close(poller->spare_fd);
        fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            close(fd);
        poller->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
}

int fp_shm_handshake(fp_shm_conn *conn, const fp_shm_packet *packet)
{
    if (packet->type != FP_SHM_HELLO)
        return fp_error(FARPOOL_E_PROTO, "%s: the first packet is no hello", conn->base.peer);
    int fd;
    int rc = gate_create(&conn->gate, &fd);
    if (rc)
        return rc;
    fp_shm_packet answer = {
        .magic = FP_SHM_MAGIC, .version = FP_SHM_VERSION, .type = FP_SHM_HELLO_OK};
    rc = fp_shm_packet_send(conn, &answer, NULL, 0, fd);
    close(fd);
    if (rc) {
        munmap(conn->gate, sizeof *conn->gate);
        conn->gate = NULL;
        return rc;
    }
    join_net(conn);
    return 0;
}

/* ---- listening ------------------------------------------------------------------------------- */

/* The lock file beside the socket says whether a live process serves the path, also between two
 * that start at the same moment. */
static int lock_path(fp_shm_listener *listener, const char *text)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        int fd = open(listener->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return fp_error_sys("listening on %s: opening %s", text, listener->lock_path);
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            int error = errno;
            close(fd);
            errno = error;
            if (error == EWOULDBLOCK)
                return fp_error(FARPOOL_E_BUSY, "listening on %s: another process serves it", text);
            return fp_error_sys("listening on %s: locking %s", text, listener->lock_path);
        }
        struct stat mine, there;
        if (!fstat(fd, &mine) && !stat(listener->lock_path, &there) &&
            mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
            listener->lock_fd = fd;
            return 0;
        }
        close(fd); /* its last owner removed it while we opened it */
    }
    return fp_error(FARPOOL_E_BUSY, "listening on %s: %s keeps changing hands", text,
                    listener->lock_path);
}

static int remove_stale(const fp_shm_listener *listener, const struct sockaddr_un *addr,
                        const char *text)
{
    struct stat st;
    if (lstat(listener->path, &st))
        return errno == ENOENT ? 0 : fp_error_sys("listening on %s", text);
    if (!S_ISSOCK(st.st_mode))
        return fp_error(FARPOOL_E_EXISTS, "listening on %s: a file that is no socket is in the way",
                        text);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fp_error_sys("listening on %s", text);
    bool dead = connect(fd, (const struct sockaddr *)addr, sizeof *addr) && errno == ECONNREFUSED;
    close(fd);
    if (!dead)
        return fp_error(FARPOOL_E_BUSY, "listening on %s: another process serves it", text);
    if (unlink(listener->path))
        return fp_error_sys("listening on %s: removing the socket of a dead process", text);
    return 0;
}

static int make_address(const fp_uri *uri, struct sockaddr_un *addr)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t len = strlen(uri->host);
    if (len >= sizeof addr->sun_path)
        return fp_error(FARPOOL_E_INVAL, "address '%s': the path is longer than %zu bytes",
                        uri->text, sizeof addr->sun_path - 1);
    memcpy(addr->sun_path, uri->host, len + 1);
    return 0;
}

int fp_shm_listen(fp_poller *base, const fp_uri *uri, fp_listener **out)
{
    fp_shm_poller *poller = (fp_shm_poller *)base;
    struct sockaddr_un addr;
    int rc = make_address(uri, &addr);
    if (rc)
        return rc;
    fp_shm_listener *listener = calloc(1, sizeof *listener);
    if (!listener)
        return fp_error(FARPOOL_E_NOMEM, "listening on %s: out of memory", uri->text);
    listener->source.kind = FP_SHM_SOURCE_LISTENER;
    listener->base.poller = base;
    snprintf(listener->base.uri, sizeof listener->base.uri, "%s", uri->text);
    snprintf(listener->path, sizeof listener->path, "%s", uri->host);
    snprintf(listener->lock_path, sizeof listener->lock_path, "%s.lock", uri->host);
    rc = lock_path(listener, uri->text);
    if (rc)
        goto err_allocated;
    rc = remove_stale(listener, &addr, uri->text);
    if (rc)
        goto err_locked;
    listener->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener->fd < 0) {
        rc = fp_error_sys("listening on %s", uri->text);
        goto err_locked;
    }
    if (bind(listener->fd, (struct sockaddr *)&addr, sizeof addr)) {
        rc = fp_error_sys("listening on %s", uri->text);
        goto err_socket;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener->source};
    if (listen(listener->fd, 128) || epoll_ctl(poller->epfd, EPOLL_CTL_ADD, listener->fd, &event)) {
        rc = fp_error_sys("listening on %s", uri->text);
        goto err_bound;
    }
    listener->next = poller->listeners;
    poller->listeners = listener;
    *out = &listener->base;
    return 0;
err_bound:
    unlink(listener->path);
err_socket:
    close(listener->fd);
err_locked:
    unlink(listener->lock_path);
    close(listener->lock_fd);
err_allocated:
    free(listener);
    return rc;
}

void fp_shm_listener_close(fp_listener *base)
{
    fp_shm_listener *listener = (fp_shm_listener *)base;
    fp_shm_poller *poller = (fp_shm_poller *)base->poller;
    for (fp_shm_listener **at = &poller->listeners; *at; at = &(*at)->next) {
        if (*at == listener) {
            *at = listener->next;
            break;
        }
    }
    for (fp_shm_conn *conn = poller->conns, *next; conn; conn = next) {
        next = conn->next;
        if (conn->listener != listener)
            continue;
        conn->listener = NULL;
        if (conn->hello_deadline_ns) /* nobody was told of it yet */
            fp_shm_conn_close(&conn->base);
    }
    for (uint32_t i = poller->ring_head; i != poller->ring_tail; i++) {
        fp_net_event *event = &poller->ring[i & poller->ring_mask];
        if (event->conn && event->kind == FP_NET_ACCEPTED && event->listener == base)
            fp_shm_conn_close(event->conn); /* takes its events with it */
    }
    unlink(listener->path);
    close(listener->fd);
    unlink(listener->lock_path);
    close(listener->lock_fd);
    free(listener);
}

/* ---- connecting ------------------------------------------------------------------------------ */

static int shake_hands(fp_shm_conn *conn, const fp_uri *uri, unsigned timeout_ms)
{
    fp_shm_packet packet = {.magic = FP_SHM_MAGIC, .version = FP_SHM_VERSION, .type = FP_SHM_HELLO};
    int rc = fp_shm_packet_send(conn, &packet, NULL, 0, -1);
    if (rc)
        return fp_error(FARPOOL_E_NODE, "connecting to %s: the peer went away", uri->text);
    uint64_t deadline = fp_now_ns() + timeout_ms * UINT64_C(1000000);
    int fd = -1;
    do {
        uint64_t now = fp_now_ns();
        struct pollfd wait = {.fd = conn->fd, .events = POLLIN};
        if (now >= deadline || poll(&wait, 1, (int)((deadline - now) / 1000000) + 1) == 0)
            return fp_error(FARPOOL_E_NODE, "connecting to %s: no answer within %u ms", uri->text,
                            timeout_ms);
        rc = fp_shm_packet_receive(conn, &packet, 0, &fd);
    } while (rc == 0);
    if (rc < 0)
        return rc;
    if (packet.type != FP_SHM_HELLO_OK)
        rc = fp_error(FARPOOL_E_PROTO, "connecting to %s: the answer is no hello", uri->text);
    else
        rc = gate_map(fd, &conn->gate);
    if (fd >= 0)
        close(fd);
    return rc;
}

int fp_shm_connect(fp_poller *base, const fp_uri *uri, fp_conn **out)
{
    fp_shm_poller *poller = (fp_shm_poller *)base;
    unsigned timeout_ms = ((fp_shm_net *)base->net)->options.connect_timeout_ms;
    struct sockaddr_un addr;
    int rc = make_address(uri, &addr);
    if (rc)
        return rc;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fp_error_sys("connecting to %s", uri->text);
    struct timeval limit = {timeout_ms / 1000, (timeout_ms % 1000) * 1000};
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) ||
        connect(fd, (struct sockaddr *)&addr, sizeof addr)) {
        rc = fp_error(FARPOOL_E_NODE, "connecting to %s: %s; is the node running?", uri->text,
                      strerror(errno));
        close(fd);
        return rc;
    }
    fp_shm_conn *conn;
    rc = fp_shm_conn_new(poller, fd, 1, &conn);
    if (rc) {
        close(fd);
        return rc;
    }
    name_peer(conn, uri->text);
    rc = shake_hands(conn, uri, timeout_ms);
    if (rc) {
        fp_shm_conn_close(&conn->base);
        return rc;
    }
    join_net(conn);
    *out = &conn->base;
    return 0;
}
