/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cluster/wake.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

int fp_wake_open(fp_wake *wake, const char *what)
{
    wake->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    wake->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    wake->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (wake->epoll_fd < 0 || wake->event_fd < 0 || wake->timer_fd < 0)
        return fp_error_sys("opening descriptors %s", what);
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(wake->epoll_fd, EPOLL_CTL_ADD, wake->event_fd, &event) ||
        epoll_ctl(wake->epoll_fd, EPOLL_CTL_ADD, wake->timer_fd, &event))
        return fp_error_sys("watching descriptors %s", what);
    return 0;
}

void fp_wake_close(fp_wake *wake)
{
    const int fds[] = {wake->epoll_fd, wake->event_fd, wake->timer_fd};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    *wake = FP_WAKE_NONE;
}

void fp_wake_up(const fp_wake *wake)
{
    uint64_t one = 1;
    if (wake->event_fd < 0)
        return;
    ssize_t n = write(wake->event_fd, &one, sizeof one);
    FP_ASSERT(n == sizeof one || errno == EAGAIN);
}

void fp_wake_at(fp_wake *wake, uint64_t due_ns)
{
    bool same = due_ns == wake->due_ns;
    wake->due_ns = due_ns;
    if (wake->timer_fd < 0 || same)
        return;
    struct itimerspec at = fp_timer_at(due_ns);
    int failed = timerfd_settime(wake->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    FP_ASSERT(!failed); /* a descriptor of ours, and a time that can be */
}

static void drain(int fd)
{
    uint64_t count;
    if (fd >= 0 && read(fd, &count, sizeof count) < 0)
        FP_ASSERT(errno == EAGAIN || errno == EINTR);
}

bool fp_wake_take(fp_wake *wake, uint64_t now)
{
    drain(wake->event_fd);
    if (wake->due_ns > now)
        return false;
    drain(wake->timer_fd);
    wake->due_ns = UINT64_MAX;
    return true;
}
