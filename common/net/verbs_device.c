/* SPDX-License-Identifier: Apache-2.0 */
/* Devices and memory of the verbs transport: which RDMA device an address means, and registrations with it. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/error.h"
#include "common/net/verbs.h"

/* ---- the device ------------------------------------------------------------------------------ */

/* Asks for the route to addr; the device that it leads through is net->probe->verbs then. */
static int find_route(fp_verbs_net *net, const fp_uri *uri, struct sockaddr *addr)
{
    struct rdma_cm_event *event;
    int error = 0;
    bool resolved = false;
    if (rdma_resolve_addr(net->probe, NULL, addr, (int)net->connect_timeout_ms)) {
        error = errno;
    } else if (rdma_get_cm_event(net->channel, &event)) {
        return fp_error_sys("%s: looking for the RDMA device that leads there", uri->text);
    } else {
        resolved = event->event == RDMA_CM_EVENT_ADDR_RESOLVED;
        error = -event->status;
        rdma_ack_cm_event(event);
    }
    if (resolved && net->probe->verbs)
        return 0;
    if (error == ENETUNREACH || error == EHOSTUNREACH || error == ETIMEDOUT)
        return fp_error(FARPOOL_E_NODE,
                        "%s: no way there (%s): is the address right, and this side's link up?",
                        uri->text, strerror(error));
    return fp_error(FARPOOL_E_UNSUPPORTED,
                    "%s: no RDMA device has this address or a route to it%s%s%s: 'rdma link' shows "
                    "the devices and their interfaces, one of which needs an address in that "
                    "network; tcp:// needs none",
                    uri->text, error ? " (" : "", error ? strerror(error) : "", error ? ")" : "");
}

/* The local device that has the address, or the one that the route to it leads through. */
static int find_device(fp_verbs_net *net, const fp_uri *uri)
{
    struct sockaddr_storage addr;
    int rc = fp_verbs_resolve(uri, &addr);
    if (rc)
        return rc;
    net->channel = rdma_create_event_channel();
    if (!net->channel)
        return fp_error(FARPOOL_E_UNSUPPORTED,
                        "%s: no RDMA here (%s): 'rdma link' should show a device and 'lsmod' "
                        "rdma_ucm; or use tcp:// or shm://",
                        uri->text, strerror(errno));
    if (rdma_create_id(net->channel, &net->probe, NULL, RDMA_PS_TCP))
        return fp_error_sys("%s: creating an RDMA identifier", uri->text);
    /* binding to an address of another host fails, or gives no device */
    struct sockaddr_storage bound = addr;
    if (bound.ss_family == AF_INET)
        ((struct sockaddr_in *)&bound)->sin_port = 0;
    else
        ((struct sockaddr_in6 *)&bound)->sin6_port = 0;
    if (!rdma_bind_addr(net->probe, (struct sockaddr *)&bound) && net->probe->verbs)
        return 0;
    rdma_destroy_id(net->probe);
    if (rdma_create_id(net->channel, &net->probe, NULL, RDMA_PS_TCP)) {
        net->probe = NULL;
        return fp_error_sys("%s: creating an RDMA identifier", uri->text);
    }
    return find_route(net, uri, (struct sockaddr *)&addr);
}

/* A device whose link is down can be opened, and only fails later in less obvious ways. */
static int check_port(const fp_verbs_net *net, const fp_uri *uri)
{
    struct ibv_port_attr port;
    if (ibv_query_port(net->device, net->probe->port_num, &port))
        return fp_error_sys("%s: asking for the state of RDMA device %s", uri->text,
                            ibv_get_device_name(net->device->device));
    if (port.state != IBV_PORT_ACTIVE)
        return fp_error(FARPOOL_E_NODE,
                        "%s: port %u of RDMA device %s is not active (%s): bring its interface up "
                        "('rdma link' names it, 'ip link set NAME up')",
                        uri->text, net->probe->port_num, ibv_get_device_name(net->device->device),
                        ibv_port_state_str(port.state));
    return 0;
}

void fp_verbs_close(fp_net *base)
{
    fp_verbs_net *net = (fp_verbs_net *)base;
    if (net->pd)
        ibv_dealloc_pd(net->pd);
    if (net->probe)
        rdma_destroy_id(net->probe);
    if (net->channel)
        rdma_destroy_event_channel(net->channel);
    free(net);
}

int fp_verbs_open(const fp_uri *uri, const fp_net_options *options, fp_net **out)
{
    fp_verbs_net *net = calloc(1, sizeof *net);
    if (!net)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a transport", uri->text);
    net->connect_timeout_ms = options->connect_timeout_ms;
    net->ack_timeout = (uint8_t)options->ack_timeout;
    int rc = find_device(net, uri);
    if (!rc) {
        net->device = net->probe->verbs;
        net->pd = ibv_alloc_pd(net->device);
        if (!net->pd || ibv_query_device(net->device, &net->attr))
            rc = fp_error_sys("%s: opening RDMA device %s", uri->text,
                              ibv_get_device_name(net->device->device));
        else
            rc = check_port(net, uri);
    }
    if (rc) {
        fp_verbs_close(&net->base);
        return rc;
    }
    *out = &net->base;
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Bytes that this process has locked for devices. */
static uint64_t pinned_bytes(void)
{
    unsigned long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmPin: %llu kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return (uint64_t)kib << 10;
}

/* The kernel says ENOMEM both when the limit on locked memory is too low (the usual reason) and when memory
 * or the device's tables are really full. */
static int explain_no_memory(const fp_verbs_net *net, size_t bytes)
{
    const char *device = ibv_get_device_name(net->device->device);
    uint64_t pinned = pinned_bytes();
    struct rlimit limit;
    if (!getrlimit(RLIMIT_MEMLOCK, &limit) && limit.rlim_cur != RLIM_INFINITY &&
        pinned + bytes > limit.rlim_cur)
        return fp_error(
            FARPOOL_E_NOMEM,
            "registering %zu bytes with RDMA device %s: this process may lock only %llu "
            "KiB of memory and has locked %llu: raise the limit with 'ulimit -l "
            "unlimited' or LimitMEMLOCK=infinity (systemd), or give the program the "
            "capability ipc_lock",
            bytes, device, (unsigned long long)limit.rlim_cur >> 10,
            (unsigned long long)pinned >> 10);
    return fp_error(FARPOOL_E_NOMEM,
                    "registering %zu bytes with RDMA device %s: the kernel or the device has no "
                    "memory left for it (%llu KiB are registered; the limit on locked memory is "
                    "not the reason)",
                    bytes, device, (unsigned long long)pinned >> 10);
}

int fp_verbs_mr_open(fp_net *base, const fp_mem *mem, unsigned access, fp_mr **out)
{
    fp_verbs_net *net = (fp_verbs_net *)base;
    fp_verbs_mr *mr = calloc(1, sizeof *mr);
    if (!mr)
        return fp_error(FARPOOL_E_NOMEM, "registering memory: no memory");
    int flags = IBV_ACCESS_LOCAL_WRITE;
    flags |= access & FP_NET_REMOTE_READ ? IBV_ACCESS_REMOTE_READ : 0;
    flags |= access & FP_NET_REMOTE_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0;
    mr->mr = ibv_reg_mr(net->pd, mem->addr, mem->len, flags);
    if (!mr->mr) {
        int rc = errno == ENOMEM ? explain_no_memory(net, mem->len)
                                 : fp_error_sys("registering %zu bytes with RDMA device %s",
                                                mem->len, ibv_get_device_name(net->device->device));
        free(mr);
        return rc;
    }
    mr->base.rkey = (fp_rkey){mr->mr->rkey, (uintptr_t)mem->addr, mem->len};
    *out = &mr->base;
    return 0;
}

void fp_verbs_mr_close(fp_mr *base)
{
    fp_verbs_mr *mr = (fp_verbs_mr *)base;
    FP_ASSERT(ibv_dereg_mr(mr->mr) == 0);
    free(mr);
}

/* The rkey itself is the capability. */
int fp_verbs_share(fp_conn *conn, fp_mr *mr)
{
    (void)conn, (void)mr;
    return 0;
}
