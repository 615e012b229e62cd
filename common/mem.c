/* SPDX-License-Identifier: Apache-2.0 */
#include "common/mem.h"

#include <linux/memfd.h>
#include <numa.h>
#include <numaif.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/error.h"

enum { HUGE_BYTES = 2 << 20 };

/* Maps len bytes at a 2 MiB boundary, so that transparent huge pages can back all of it. */
static void *map_aligned(size_t len, int prot_flags, int fd)
{
    char *area =
        mmap(NULL, len + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return MAP_FAILED;
    char *start = (char *)(((uintptr_t)area + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    char *end = area + len + HUGE_BYTES;
    if (start > area)
        munmap(area, (size_t)(start - area));
    if (end > start + len)
        munmap(start + len, (size_t)(end - (start + len)));
    void *addr = mmap(start, len, PROT_READ | PROT_WRITE, MAP_FIXED | prot_flags, fd, 0);
    if (addr == MAP_FAILED)
        munmap(start, len);
    return addr;
}

/* Both give false when the machine has not enough huge pages: that is no error. */
static bool open_huge(size_t len, unsigned flags, fp_mem *mem)
{
    int fd = -1;
    int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    if (flags & FP_MEM_SHARED) {
        fd = memfd_create("farpool", MFD_CLOEXEC | MFD_HUGETLB | MFD_ALLOW_SEALING);
        if (fd < 0)
            return false;
        if (ftruncate(fd, (off_t)len)) {
            close(fd);
            return false;
        }
        how = MAP_SHARED;
    }
    void *addr = mmap(NULL, len, PROT_READ | PROT_WRITE, how, fd, 0);
    if (addr == MAP_FAILED) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    *mem = (fp_mem){.addr = addr, .len = len, .fd = fd, .page_bytes = HUGE_BYTES};
    return true;
}

static int open_plain(size_t len, unsigned flags, fp_mem *mem)
{
    int fd = -1;
    int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (flags & FP_MEM_SHARED) {
        fd = memfd_create("farpool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
            return fp_error_sys("creating %zu bytes of shared memory", len);
        if (ftruncate(fd, (off_t)len)) {
            close(fd);
            return fp_error_sys("sizing shared memory to %zu bytes", len);
        }
        how = MAP_SHARED;
    }
    void *addr = map_aligned(len, how, fd);
    if (addr == MAP_FAILED) {
        int rc = fp_error_sys("mapping %zu bytes", len);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    madvise(addr, len, MADV_HUGEPAGE); /* advice: refused where transparent huge pages are off */
    *mem = (fp_mem){.addr = addr, .len = len, .fd = fd, .page_bytes = 4096};
    return 0;
}

int fp_mem_open(size_t len, unsigned flags, int numa_node, fp_mem *mem)
{
    size_t rounded = (len + HUGE_BYTES - 1) & ~(size_t)(HUGE_BYTES - 1);
    if (len == 0 || rounded < len)
        return fp_error(FARPOOL_E_INVAL, "%zu bytes of memory asked for", len);
    bool huge = !(flags & FP_MEM_RESERVE) && open_huge(rounded, flags, mem);
    if (!huge) {
        int rc = open_plain(rounded, flags, mem);
        if (rc)
            return rc;
    }
    if (numa_node >= 0 && numa_available() >= 0)
        numa_tonode_memory(mem->addr, mem->len, numa_node);
    if ((flags & FP_MEM_POPULATE) && madvise(mem->addr, mem->len, MADV_POPULATE_WRITE)) {
        int rc = fp_error_sys("populating %zu bytes", mem->len);
        fp_mem_close(mem);
        return rc;
    }
    return 0;
}

void fp_mem_close(fp_mem *mem)
{
    if (!mem->addr)
        return;
    munmap(mem->addr, mem->len);
    if (mem->fd >= 0)
        close(mem->fd);
    memset(mem, 0, sizeof *mem);
    mem->fd = -1;
}
