/* SPDX-License-Identifier: Apache-2.0 */
/* What the doctor finds out by trying it on this machine. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <unistd.h>

#include <infiniband/verbs.h>

#include "common/clock.h"
#include "coordinator/ctl/doctor_inside.h"

enum { GIDS_MAX = 256, BLOCK = 4096, WRITES = 9 };

static int try_io_uring(void)
{
    struct io_uring_params params = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 4, &params);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static int try_userfaultfd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return -errno;
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS};
    int rc = ioctl(fd, UFFDIO_API, &api) ? -errno : 0;
    close(fd);
    return rc;
}

static int try_clock(bool *synchronized)
{
    struct timex state = {0};
    int rc = adjtimex(&state);
    if (rc < 0)
        return -errno;
    *synchronized = rc != TIME_ERROR && !(state.status & STA_UNSYNC);
    return 0;
}

/* ---- RDMA ------------------------------------------------------------------------------------ */

/* Of GIDs of RoCE v2: those of link-local addresses lead to neighbours only, and rdma_cm takes one by its address. */
static void look_at_gids(struct ibv_context *context, fp_doctor_port *port)
{
    struct ibv_gid_entry entries[GIDS_MAX];
    ssize_t count = ibv_query_gid_table(context, entries, GIDS_MAX, 0);
    for (ssize_t i = 0; i < count; i++) {
        const uint8_t *raw = entries[i].gid.raw;
        if (entries[i].port_num != port->number || entries[i].gid_type != IBV_GID_TYPE_ROCE_V2)
            continue;
        if (raw[0] == 0xfe && (raw[1] & 0xc0) == 0x80) {
            port->link_local++;
            continue;
        }
        if (!port->routable++)
            for (unsigned b = 0; b < 16; b++)
                snprintf(port->gid + strlen(port->gid), sizeof port->gid - strlen(port->gid),
                         b && b % 2 == 0 ? ":%02x" : "%02x", raw[b]);
    }
}

static void look_at_port(struct ibv_context *context, const char *device, uint8_t number,
                         fp_doctor_port *port)
{
    struct ibv_port_attr attr;
    *port = (fp_doctor_port){.number = number, .state = "cannot be queried"};
    snprintf(port->device, sizeof port->device, "%s", device);
    if (ibv_query_port(context, number, &attr))
        return;
    port->active = attr.state == IBV_PORT_ACTIVE;
    snprintf(port->state, sizeof port->state, "%s", ibv_port_state_str(attr.state));
    port->ethernet = attr.link_layer == IBV_LINK_LAYER_ETHERNET;
    port->mtu = 128u << attr.active_mtu; /* IBV_MTU_256 is 1 */
    if (port->ethernet)
        look_at_gids(context, port);
}

static int try_rdma(fp_doctor_port *ports, unsigned *count)
{
    int devices = 0;
    *count = 0;
    struct ibv_device **list = ibv_get_device_list(&devices);
    if (!list)
        return errno == ENOSYS ? 0 : -errno; /* a kernel without RDMA has no devices */
    int rc = 0;
    for (int i = 0; i < devices; i++) {
        struct ibv_device_attr attr;
        const char *name = ibv_get_device_name(list[i]);
        struct ibv_context *context = ibv_open_device(list[i]);
        if (!context) {
            rc = -errno;
            continue;
        }
        unsigned last = ibv_query_device(context, &attr) ? 1 : attr.phys_port_cnt;
        for (unsigned number = 1; number <= last && *count < FP_DOCTOR_PORTS_MAX; number++)
            look_at_port(context, name, (uint8_t)number, &ports[(*count)++]);
        ibv_close_device(context);
    }
    ibv_free_device_list(list);
    return *count ? 0 : rc;
}

/* ---- the volume ------------------------------------------------------------------------------ */

static int by_size(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* As storage nodes do it: open without O_DIRECT, then set it. */
static int write_some(int fd, uint8_t *block, fp_doctor_volume *volume, const char **step)
{
    uint64_t took[WRITES];
    int flags = fcntl(fd, F_GETFL);
    volume->direct = flags >= 0 && !fcntl(fd, F_SETFL, flags | O_DIRECT);
    for (unsigned i = 0; i < WRITES; i++) {
        uint64_t begin = fp_now_ns();
        memset(block, (int)i + 1, BLOCK);
        *step = volume->direct ? "writing with O_DIRECT" : "writing";
        errno = EIO; /* of a short write */
        if (pwrite(fd, block, BLOCK, (off_t)i * BLOCK) != BLOCK)
            return -errno;
        *step = "fdatasync";
        if (fdatasync(fd))
            return -errno;
        took[i] = fp_now_ns() - begin;
    }
    qsort(took, WRITES, sizeof *took, by_size);
    volume->write_ns = took[WRITES / 2];
    *step = "reading back";
    errno = EIO;
    if (pread(fd, block, BLOCK, (off_t)(WRITES - 1) * BLOCK) != BLOCK)
        return -errno;
    return block[0] == WRITES && block[BLOCK - 1] == WRITES ? 0 : -EIO;
}

static int try_volume(const char *directory, fp_doctor_volume *volume, const char **step)
{
    char path[PATH_MAX];
    struct statfs fs;
    *step = "looking at it";
    if (statfs(directory, &fs))
        return -errno;
    volume->total_bytes = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
    volume->free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    volume->in_memory = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
    *step = "making a file";
    if (snprintf(path, sizeof path, "%s/farpoolctl-doctor-XXXXXX", directory) >= (int)sizeof path)
        return -ENAMETOOLONG;
    uint8_t *block = aligned_alloc(BLOCK, BLOCK);
    int fd = block ? mkostemp(path, O_CLOEXEC) : -1;
    int rc = fd < 0 ? -errno : 0;
    if (!rc) {
        unlink(path); /* at once: nothing stays if this process is killed */
        rc = write_some(fd, block, volume, step);
        close(fd);
    }
    free(block);
    return rc;
}

const fp_doctor_probes fp_doctor_machine = {
    .io_uring = try_io_uring,
    .userfaultfd = try_userfaultfd,
    .clock = try_clock,
    .rdma = try_rdma,
    .volume = try_volume,
};
