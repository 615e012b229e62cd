/* SPDX-License-Identifier: Apache-2.0 */
#include "memnode/extents.h"

#include <inttypes.h>
#include <numa.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"

enum { PROGRESS_EVERY_NS = 1000000000 };

static uint64_t order_bytes(int order) { return (uint64_t)FP_EXTENT_UNIT_BYTES << order; }

static int choose_order(uint64_t memory_bytes)
{
    int order = FP_EXTENT_ORDER_DEFAULT;
    while (order > FP_EXTENT_ORDER_MIN && memory_bytes / order_bytes(order) < FP_EXTENT_SPREAD)
        order--;
    return order;
}

/* ---- progress -------------------------------------------------------------------------------- */

typedef struct progress {
    const char *what;
    uint64_t start_ns, said_ns;
} progress;

static progress progress_start(const char *what)
{
    uint64_t now = fp_now_ns();
    return (progress){what, now, now};
}

static void progress_say(progress *p, const fp_extents *extents, uint32_t done)
{
    uint64_t now = fp_now_ns();
    bool end = done == extents->count;
    if (!end && now - p->said_ns < PROGRESS_EVERY_NS)
        return;
    p->said_ns = now;
    char so_far[32], all[32];
    fp_config_size_text(done * extents->extent_bytes, so_far, sizeof so_far);
    fp_config_size_text(extents->count * extents->extent_bytes, all, sizeof all);
    double seconds = (double)(now - p->start_ns) / 1e9;
    if (end)
        fp_log(FP_LOG_INFO, "%s %s in %.3f s", p->what, all, seconds);
    else
        fp_log(FP_LOG_INFO, "%s %s of %s (%u %%)", p->what, so_far, all,
               (unsigned)(done * 100ull / extents->count));
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int check_numa_node(int node)
{
    if (node < 0)
        return 0;
    if (numa_available() < 0)
        return fp_error(FARPOOL_E_UNSUPPORTED, "NUMA node %d: this kernel has no NUMA support",
                        node);
    if (node > numa_max_node() || !numa_bitmask_isbitset(numa_all_nodes_ptr, (unsigned)node))
        return fp_error(FARPOOL_E_INVAL, "NUMA node %d has no memory here (the highest is %d)",
                        node, numa_max_node());
    return 0;
}

/* Binding prefers, it does not insist: tells when the node had not enough memory left. */
static void check_placement(const fp_extents *extents, int node)
{
    uint32_t elsewhere = 0;
    for (uint32_t i = 0; node >= 0 && i < extents->count; i++) {
        const fp_mem *mem = &extents->list[i].mem;
        int at = node;
        char *last = (char *)mem->addr + mem->len - 1;
        if (!get_mempolicy(&at, NULL, 0, last, MPOL_F_NODE | MPOL_F_ADDR) && at != node)
            elsewhere++;
    }
    if (elsewhere)
        fp_log(FP_LOG_WARN, "NUMA node %d is full: %u of %u extents lie on other nodes", node,
               elsewhere, extents->count);
}

static void say_page_kind(const fp_extents *extents)
{
    uint32_t huge = 0;
    for (uint32_t i = 0; i < extents->count; i++)
        huge += extents->list[i].mem.page_bytes > 4096;
    uint64_t needed = extents->count * ((extents->extent_bytes + (2 << 20) - 1) >> 21);
    if (huge == extents->count)
        fp_log(FP_LOG_INFO, "memory is in huge pages of 2 MiB");
    else
        fp_log(FP_LOG_WARN,
               "no huge pages for %u of %u extents: registration and NIC translation are slower; "
               "reserve them with: sysctl vm.nr_hugepages=%" PRIu64,
               extents->count - huge, extents->count, needed);
}

static int open_extent(fp_extent_memory *extent, uint64_t bytes, int numa_node)
{
    /* Not FP_MEM_POPULATE: it would also touch what the mapping is rounded up by. */
    int rc = fp_mem_open(bytes, FP_MEM_SHARED, numa_node, &extent->mem);
    if (rc)
        return rc;
    extent->mapped_bytes = extent->mem.len;
    size_t page = extent->mem.page_bytes;
    size_t touched = (bytes + page - 1) / page * page;
    if (madvise(extent->mem.addr, touched, MADV_POPULATE_WRITE)) {
        rc = fp_error_sys("touching %zu bytes of memory", touched);
        fp_mem_close(&extent->mem);
        return rc;
    }
    extent->mem.len = bytes;
    return 0;
}

int fp_extents_open(uint64_t memory_bytes, int order, int numa_node, fp_extents *extents)
{
    memset(extents, 0, sizeof *extents);
    int rc = check_numa_node(numa_node);
    if (rc)
        return rc;
    if (order < 0)
        order = choose_order(memory_bytes);
    FP_ASSERT(order >= FP_EXTENT_ORDER_MIN && order <= FP_EXTENT_ORDER_MAX);
    uint64_t bytes = order_bytes(order);
    uint64_t count = memory_bytes / bytes;
    if (count == 0 || count > UINT32_MAX / 2)
        return fp_error(FARPOOL_E_INVAL,
                        "memory of %" PRIu64 " bytes is %s: an extent of 2^%d slot units takes "
                        "%" PRIu64 " bytes",
                        memory_bytes, count ? "too much" : "too little", order, bytes);
    long pages = sysconf(_SC_PHYS_PAGES);
    if (pages > 0 && memory_bytes / 4096 > (uint64_t)pages)
        return fp_error(FARPOOL_E_NOMEM,
                        "memory of %" PRIu64 " MiB asked for, but this machine has %ld MiB in all",
                        memory_bytes >> 20, pages / 256);
    extents->list = calloc(count, sizeof *extents->list);
    if (!extents->list)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a table of %" PRIu64 " extents", count);
    extents->extent_bytes = bytes;
    extents->count = (uint32_t)count;
    progress p = progress_start("mapped and touched");
    for (uint32_t i = 0; i < extents->count; i++) {
        rc = open_extent(&extents->list[i], bytes, numa_node);
        if (rc) {
            extents->count = i;
            fp_extents_close(extents);
            return rc;
        }
        extents->list[i].state = FP_EXTENT_FREE;
        extents->free++;
        progress_say(&p, extents, i + 1);
    }
    say_page_kind(extents);
    check_placement(extents, numa_node);
    return 0;
}

void fp_extents_close(fp_extents *extents)
{
    FP_ASSERT(extents->net_count == 0);
    for (uint32_t i = 0; i < extents->count; i++) {
        extents->list[i].mem.len = extents->list[i].mapped_bytes;
        fp_mem_close(&extents->list[i].mem);
    }
    free(extents->list);
    memset(extents, 0, sizeof *extents);
}

/* ---- registration ---------------------------------------------------------------------------- */

static int register_extent(fp_extents *extents, uint32_t i, unsigned net)
{
    fp_extent_memory *extent = &extents->list[i];
    return fp_net_register(extents->nets[net], &extent->mem,
                           FP_NET_REMOTE_READ | FP_NET_REMOTE_WRITE, &extent->mrs[net]);
}

static void unregister_extent(fp_extents *extents, uint32_t i, unsigned net)
{
    fp_net_unregister(extents->list[i].mrs[net]);
    extents->list[i].mrs[net] = NULL;
}

int fp_extents_register(fp_extents *extents, fp_net *net, unsigned *index)
{
    FP_ASSERT(extents->net_count < FP_EXTENT_NETS_MAX);
    unsigned n = extents->net_count;
    extents->nets[n] = net;
    char what[64];
    snprintf(what, sizeof what, "registered with %s", fp_net_scheme(net));
    progress p = progress_start(what);
    for (uint32_t i = 0; i < extents->count; i++) {
        int rc = register_extent(extents, i, n);
        if (rc) {
            while (i-- > 0)
                unregister_extent(extents, i, n);
            return rc;
        }
        progress_say(&p, extents, i + 1);
    }
    extents->net_count++;
    *index = n;
    return 0;
}

void fp_extents_unregister(fp_extents *extents)
{
    for (uint32_t i = 0; i < extents->count; i++) {
        for (unsigned n = 0; n < extents->net_count; n++)
            unregister_extent(extents, i, n);
    }
    extents->net_count = 0;
}

/* ---- giving out and taking back -------------------------------------------------------------- */

void fp_extents_take(fp_extents *extents, uint32_t count, uint32_t *out)
{
    FP_ASSERT(count <= extents->free);
    uint32_t taken = 0;
    for (uint32_t i = 0; taken < count; i++) {
        if (extents->list[i].state != FP_EXTENT_FREE)
            continue;
        extents->list[i].state = FP_EXTENT_GRANTED;
        out[taken++] = i;
    }
    extents->free -= count;
}

void fp_extents_give(fp_extents *extents, const uint32_t *list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        FP_ASSERT(extents->list[list[i]].state == FP_EXTENT_GRANTED);
        extents->list[list[i]].state = FP_EXTENT_DIRTY;
    }
    extents->dirty += count;
}

/* The new key is made before the old one goes, so that they differ for certain. Where there is not room
 * for both (locked memory counts twice), afterwards. */
static int renew_key(fp_extents *extents, uint32_t i, unsigned net)
{
    fp_mr *old = extents->list[i].mrs[net];
    extents->list[i].mrs[net] = NULL;
    int rc = register_extent(extents, i, net);
    fp_net_unregister(old);
    return rc ? register_extent(extents, i, net) : 0;
}

int fp_extents_renew_keys(fp_extents *extents, const uint32_t *list, uint32_t count)
{
    int rc = 0;
    for (uint32_t i = 0; i < count; i++) {
        FP_ASSERT(extents->list[list[i]].state == FP_EXTENT_GRANTED);
        for (unsigned n = 0; n < extents->net_count; n++) {
            int failed = renew_key(extents, list[i], n);
            rc = rc ? rc : failed;
        }
    }
    return rc;
}

/* First the old keys die, then the memory is zeroed: the other way round a late WRITE would
 * stay. */
static void revoke_keys(fp_extents *extents, uint32_t i)
{
    for (unsigned n = 0; n < extents->net_count; n++)
        unregister_extent(extents, i, n);
}

/* The memory is zero: hands out new keys. */
static void finish_clearing(fp_extents *extents, uint32_t i)
{
    fp_extent_memory *extent = &extents->list[i];
    extents->dirty--;
    for (unsigned n = 0; n < extents->net_count; n++) {
        if (!register_extent(extents, i, n))
            continue;
        fp_log(FP_LOG_ERROR, "extent %u is lost until the next start: %s", i, farpool_errmsg());
        while (n-- > 0)
            unregister_extent(extents, i, n);
        extent->state = FP_EXTENT_LOST;
        return;
    }
    extent->state = FP_EXTENT_FREE;
    extents->free++;
}

bool fp_extents_clear_step(fp_extents *extents)
{
    if (!extents->dirty)
        return false;
    uint32_t i = extents->clearing;
    while (extents->list[i].state != FP_EXTENT_DIRTY)
        i = (i + 1) % extents->count;
    extents->clearing = i;
    if (extents->cleared_bytes == 0)
        revoke_keys(extents, i);
    uint64_t left = extents->extent_bytes - extents->cleared_bytes;
    uint64_t now = left < FP_EXTENT_STEP_BYTES ? left : FP_EXTENT_STEP_BYTES;
    memset((char *)extents->list[i].mem.addr + extents->cleared_bytes, 0, now);
    extents->cleared_bytes += now;
    if (now < left)
        return false;
    extents->cleared_bytes = 0;
    finish_clearing(extents, i);
    return true;
}
