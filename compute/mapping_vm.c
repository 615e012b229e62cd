/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm: the page space is a window of address space; a page is at window + pid * 4096 while it is here.
 * A page arrives in a staging place which the NIC may write, and UFFDIO_COPY puts it under its address;
 * eviction takes it away with MADV_DONTNEED, many pages at a time. The window is never registered with
 * a NIC: DONTNEED would leave the NIC writing into frames that nobody sees any more.
 *
 * The window is registered with userfaultfd and UFFD_FEATURE_SIGBUS, so that a stray read of a page
 * which is not here faults (section.c) instead of quietly mapping zeroes.
 */
#include "compute/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/error.h"
#include "common/mem.h"
#include "compute/section.h"

#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum { STAGE_BYTES_MIN = 16 << 20, STAGE_BYTES_MAX = 64 << 20 };

static int open_userfaultfd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return fp_error(FARPOOL_E_UNSUPPORTED,
                        "mapping vm needs userfaultfd in user mode (Linux 5.11 and later): %s; use "
                        "mapping frames",
                        strerror(errno));
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    if (ioctl(fd, UFFDIO_API, &api)) {
        close(fd);
        return fp_error(FARPOOL_E_UNSUPPORTED, "userfaultfd lacks UFFD_FEATURE_SIGBUS: %s",
                        strerror(errno));
    }
    return fd;
}

/* Whether process_madvise can drop our own pages: 6.13 and later; before that EINVAL. */
static bool can_batch(int pidfd)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    struct iovec iov = {page, 4096};
    long n = syscall(SYS_process_madvise, pidfd, &iov, 1, MADV_DONTNEED, 0);
    munmap(page, 4096);
    return n == 4096;
}

static int vm_pool_open(farpool_pool *pool, uint64_t bytes)
{
    uint64_t stage_bytes = bytes / 8;
    if (stage_bytes < STAGE_BYTES_MIN)
        stage_bytes = STAGE_BYTES_MIN;
    if (stage_bytes > STAGE_BYTES_MAX)
        stage_bytes = STAGE_BYTES_MAX;
    int uffd = open_userfaultfd();
    if (uffd < 0)
        return uffd;
    int rc = fp_mem_open(stage_bytes, 0, -1, &pool->xfer);
    if (rc)
        goto err_after_uffd;
    rc = fp_units_open(&pool->stage, pool->xfer.len / FARPOOL_UNIT_BYTES);
    if (rc)
        goto err_after_xfer;
    pool->uffd = uffd;
    pool->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    pool->batch_madvise = pool->pidfd >= 0 && can_batch(pool->pidfd);
    return 0;
err_after_xfer:
    fp_mem_close(&pool->xfer);
err_after_uffd:
    close(uffd);
    return rc;
}

static void vm_pool_close(farpool_pool *pool)
{
    if (pool->pidfd >= 0)
        close(pool->pidfd);
    close(pool->uffd);
    fp_units_close(&pool->stage);
    fp_mem_close(&pool->xfer);
}

/* Never locked, nor filled by the kernel, also where the host program has called mlockall(MCL_FUTURE). */
static void *map_window(size_t len)
{
    void *window = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (window == MAP_FAILED)
        return NULL;
    if (munlock(window, len) || mprotect(window, len, PROT_READ | PROT_WRITE)) {
        munmap(window, len);
        return NULL;
    }
    return window;
}

static int vm_partition_open(farpool_partition *partition)
{
    size_t len = partition->units * FARPOOL_UNIT_BYTES;
    void *window = map_window(len);
    if (!window)
        return fp_error_sys("reserving %zu bytes of address space for partition %llu", len,
                            (unsigned long long)partition->id);
    madvise(window, len, MADV_NOHUGEPAGE); /* pages come and go one by one */
    madvise(window, len, MADV_DONTFORK);   /* a child could not serve its faults */
    struct uffdio_register range = {.range = {(uintptr_t)window, len},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    int rc;
    if (ioctl(partition->pool->uffd, UFFDIO_REGISTER, &range)) {
        rc = fp_error_sys("registering %zu bytes with userfaultfd", len);
        goto err_after_window;
    }
    rc = fp_section_window_add(window, len);
    if (rc)
        goto err_after_window;
    partition->window = window;
    return 0;
err_after_window:
    munmap(window, len);
    return rc;
}

static void vm_partition_close(farpool_partition *partition)
{
    fp_section_window_remove(partition->window);
    munmap(partition->window, partition->units * FARPOOL_UNIT_BYTES);
    partition->window = NULL;
}

static int vm_land(farpool_pool *pool, uint32_t frame, unsigned order, void **page)
{
    (void)frame;
    uint64_t unit = fp_units_alloc(&pool->stage, order);
    if (unit == FP_UNIT_NONE)
        return fp_error(FARPOOL_E_POOL_FULL,
                        "pool %s: all %zu bytes of staging memory are in flight", pool->name,
                        pool->xfer.len);
    *page = fp_frame_addr(pool, (uint32_t)unit);
    return 0;
}

static void vm_unland(farpool_pool *pool, void *page, unsigned order)
{
    uint64_t offset = (uint64_t)((char *)page - (char *)pool->xfer.addr);
    fp_units_free(&pool->stage, offset / FARPOOL_UNIT_BYTES, order);
}

static void drop_run(void *start, size_t len)
{
    if (madvise(start, len, MADV_DONTNEED) == 0)
        return;
    munlock(start, len); /* the host program has called mlockall(MCL_CURRENT) */
    FP_ASSERT(madvise(start, len, MADV_DONTNEED) == 0);
}

/* After an error nothing of the page is left, or it could never be mapped again. */
static int copy_in(farpool_partition *partition, farpool_pid pid, unsigned order, const void *page)
{
    void *start = partition->window + pid * FARPOOL_UNIT_BYTES;
    size_t len = (size_t)FARPOOL_UNIT_BYTES << order;
    struct uffdio_copy copy = {
        .dst = (uintptr_t)start,
        .src = (uintptr_t)page,
        .len = len,
        .mode = UFFDIO_COPY_MODE_DONTWAKE,
    };
    while (ioctl(partition->pool->uffd, UFFDIO_COPY, &copy)) {
        if (errno != EAGAIN) {
            int rc = fp_error_sys("mapping page %llu of partition %llu", (unsigned long long)pid,
                                  (unsigned long long)partition->id);
            drop_run(start, len);
            return rc;
        }
        if (copy.copy > 0) { /* the address space was changing: go on from there */
            copy.dst += (uint64_t)copy.copy;
            copy.src += (uint64_t)copy.copy;
            copy.len -= (uint64_t)copy.copy;
        }
        copy.copy = 0;
    }
    return 0;
}

static int vm_install(farpool_partition *partition, farpool_pid pid, unsigned order, void *page)
{
    int rc = copy_in(partition, pid, order, page);
    vm_unland(partition->pool, page, order);
    return rc;
}

static int vm_zero(farpool_partition *partition, farpool_pid pid, unsigned order, uint32_t frame)
{
    void *page = NULL;
    int rc = vm_land(partition->pool, frame, order, &page);
    if (rc)
        return rc;
    memset(page, 0, (size_t)FARPOOL_UNIT_BYTES << order);
    return vm_install(partition, pid, order, page);
}

static int vm_write_source(farpool_partition *partition, farpool_pid pid, unsigned order,
                           uint32_t frame, void **page)
{
    int rc = vm_land(partition->pool, frame, order, page);
    if (rc)
        return rc;
    memcpy(*page, partition->window + pid * FARPOOL_UNIT_BYTES,
           (size_t)FARPOOL_UNIT_BYTES << order);
    return 0;
}

/* The kernel stops early at a hole and returns what it did; then the first piece is dropped alone. */
static void drop_batch(int pidfd, struct iovec *iov, size_t count)
{
    while (count) {
        ssize_t n = syscall(SYS_process_madvise, pidfd, iov, count, MADV_DONTNEED, 0);
        if (n <= 0) {
            drop_run(iov->iov_base, iov->iov_len);
            n = (ssize_t)iov->iov_len;
        }
        while (count && (size_t)n >= iov->iov_len) {
            n -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count && n > 0) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
}

static int by_address(const void *a, const void *b)
{
    const struct iovec *x = a, *y = b;
    return (x->iov_base > y->iov_base) - (x->iov_base < y->iov_base);
}

/* Before 6.13: one call for each run of neighbours. */
static void drop_runs(struct iovec *iov, size_t count)
{
    qsort(iov, count, sizeof *iov, by_address);
    for (size_t i = 0; i < count;) {
        char *start = iov[i].iov_base;
        size_t len = iov[i].iov_len;
        for (i++; i < count && iov[i].iov_base == start + len; i++)
            len += iov[i].iov_len;
        drop_run(start, len);
    }
}

static void vm_drop(farpool_pool *pool, const fp_dropped *pages, size_t count)
{
    struct iovec iov[FP_BATCH_MAX];
    FP_ASSERT(count <= FP_BATCH_MAX);
    for (size_t i = 0; i < count; i++) {
        iov[i].iov_base = pages[i].partition->window + pages[i].pid * FARPOOL_UNIT_BYTES;
        iov[i].iov_len = (size_t)FARPOOL_UNIT_BYTES << pages[i].order;
    }
    if (pool->batch_madvise)
        drop_batch(pool->pidfd, iov, count);
    else
        drop_runs(iov, count);
}

const fp_mapping_ops fp_mapping_vm = {
    .name = "vm",
    .pool_open = vm_pool_open,
    .pool_close = vm_pool_close,
    .partition_open = vm_partition_open,
    .partition_close = vm_partition_close,
    .land = vm_land,
    .install = vm_install,
    .unland = vm_unland,
    .zero = vm_zero,
    .write_source = vm_write_source,
    .drop = vm_drop,
};
