/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of RDMA devices and of a volume. */
#include <string.h>

#include "common/config.h"
#include "coordinator/ctl/doctor_inside.h"

enum {
    MTU_WANTED = 4096, /* a page is one packet then */
    SLOW_NS = 5000000, /* a write with fdatasync of a device without power-loss protection */
    FREE_MIN_BYTES = 1ull << 30, /* of a volume; below it new partitions soon find no place */
};

/* ---- RDMA ------------------------------------------------------------------------------------ */

/* What is wrong with a port, or NULL; how to mend it. Only the first problem: the others follow from it. */
static const char *wrong_with(const fp_doctor_port *port, const char **mend)
{
    if (!port->active) {
        *mend = "check the cable and the switch, and bring the interface up (rdma link, ip link)";
        return "the port is not active";
    }
    if (port->ethernet && !port->routable) {
        *mend = "give its network interface an address of IP";
        return port->link_local ? "its only GIDs of RoCE v2 are link-local"
                                : "it has no GID of RoCE v2";
    }
    if (port->mtu < MTU_WANTED) {
        *mend = port->ethernet ? "ip link set dev INTERFACE mtu 9000, on the switch, too"
                               : "raise the MTU in the subnet manager to 4096";
        return "a page of 4 KiB takes several packets";
    }
    return NULL;
}

static void check_port(fp_doctor *doctor, const fp_doctor_port *port, bool *usable)
{
    char name[FP_DOCTOR_TEXT_MAX + 16];
    const char *mend = NULL, *wrong = wrong_with(port, &mend);
    snprintf(name, sizeof name, "%.*s/%u", FP_DOCTOR_TEXT_MAX, port->device, port->number);
    *usable = *usable || (port->active && (!port->ethernet || port->routable));
    fp_doctor_add(doctor, name, wrong ? FP_DOCTOR_WARN : FP_DOCTOR_OK, mend,
                  "%s, %s, MTU %u%s%s%s%s", port->ethernet ? "RoCE" : "InfiniBand", port->state,
                  port->mtu, port->routable ? ", GID " : "", port->gid, wrong ? ": " : "",
                  wrong ? wrong : "");
}

void fp_doctor_check_rdma(fp_doctor *doctor)
{
    fp_doctor_port ports[FP_DOCTOR_PORTS_MAX];
    unsigned count = 0;
    bool usable = false;
    int rc = doctor->probes->rdma(ports, &count);
    for (unsigned i = 0; i < count; i++)
        check_port(doctor, &ports[i], &usable);
    enum fp_doctor_state bad = doctor->options->verbs ? FP_DOCTOR_FAIL : FP_DOCTOR_WARN;
    if (usable)
        fp_doctor_add(doctor, "rdma", FP_DOCTOR_OK, NULL, "verbs:// can be used");
    else if (rc)
        fp_doctor_add(doctor, "rdma", bad,
                      "let this user read and write /dev/infiniband (apt-get install rdma-core)",
                      "devices cannot be used: %s", strerror(-rc));
    else if (count)
        fp_doctor_add(doctor, "rdma", bad, "mend a port: see above", "no port can be used");
    else
        fp_doctor_add(doctor, "rdma", bad,
                      "apt-get install rdma-core ibverbs-providers and load the NIC's driver, or: "
                      "rdma link add rxe0 type rxe netdev INTERFACE; or use tcp://",
                      "there is no RDMA device");
}

/* ---- the volume ------------------------------------------------------------------------------ */

static void check_space(fp_doctor *doctor, const fp_doctor_volume *volume)
{
    char left[32], total[32];
    bool enough =
        volume->free_bytes >= FREE_MIN_BYTES && volume->free_bytes >= volume->total_bytes / 20;
    fp_config_size_text(volume->free_bytes, left, sizeof left);
    fp_config_size_text(volume->total_bytes, total, sizeof total);
    fp_doctor_add(doctor, "volume space", enough ? FP_DOCTOR_OK : FP_DOCTOR_WARN,
                  enough ? NULL : "make room: a full volume lets commits wait", "%s of %s are free",
                  left, total);
}

void fp_doctor_check_volume(fp_doctor *doctor)
{
    const char *directory = doctor->options->volume, *step = "";
    fp_doctor_volume volume = {0};
    if (!directory)
        return;
    int rc = doctor->probes->volume(directory, &volume, &step);
    if (rc) {
        fp_doctor_add(doctor, "volume", FP_DOCTOR_FAIL,
                      "it must be a directory that this user may write to, on ext4 or xfs and a "
                      "disk that works",
                      "%s: %s: %s", directory, step, strerror(-rc));
        return;
    }
    check_space(doctor, &volume);
    const char *wrong = NULL, *mend = NULL;
    if (volume.in_memory) {
        wrong = ": it is in memory, nothing there survives a power failure";
        mend = "use a directory on a disk";
    } else if (!volume.direct) {
        wrong = ": its file system has no O_DIRECT, files go through the page cache";
        mend = "use ext4 or xfs";
    } else if (volume.write_ns > SLOW_NS) {
        wrong = ": commits that wait for stable media are slow";
        mend = "use an NVMe device with power-loss protection";
    }
    fp_doctor_add(doctor, "volume",
                  volume.in_memory ? FP_DOCTOR_FAIL
                  : wrong          ? FP_DOCTOR_WARN
                                   : FP_DOCTOR_OK,
                  mend, "%s: 4 KiB with fdatasync take %.2f ms%s", directory,
                  (double)volume.write_ns / 1e6, wrong ? wrong : "");
}
