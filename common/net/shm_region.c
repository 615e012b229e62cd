/* SPDX-License-Identifier: Apache-2.0 */
/* shm: registering memory, granting it to peers and withdrawing it, mapping what peers grant. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/net/shm.h"

enum { HUGE_BYTES = 2 << 20, POPULATE_PAGES_MAX = 1 << 19 };

/* ---- registration ---------------------------------------------------------------------------- */

/* Where in its memfd an address is: fp_mem may be a part of a larger mapping. */
static int find_offset(const fp_mem *mem, uint64_t *offset)
{
    struct stat st;
    if (fstat(mem->fd, &st))
        return fp_error_sys("looking at the memfd of memory to be registered");
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return fp_error_sys("opening /proc/self/maps to find memory in its memfd");
    char line[512];
    int rc = -1;
    while (rc < 0 && fgets(line, sizeof line, maps)) {
        uint64_t start, end, file_offset, inode;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64 " %*s %" SCNu64, &start, &end,
                   &file_offset, &inode) != 4)
            continue;
        if ((uintptr_t)mem->addr < start || (uintptr_t)mem->addr >= end || inode != st.st_ino)
            continue;
        *offset = file_offset + ((uintptr_t)mem->addr - start);
        rc = 0;
    }
    fclose(maps);
    if (rc || *offset > (uint64_t)st.st_size || mem->len > (uint64_t)st.st_size - *offset)
        return fp_error(FARPOOL_E_INVAL,
                        "memory to be registered at %p (%zu bytes) is not a mapping of its memfd",
                        mem->addr, mem->len);
    return 0;
}

/* The descriptor that peers get: sealed, so that nobody can truncate what others have mapped, and
 * read-only when that is all that is granted. */
static int open_for_peers(const fp_mem *mem, unsigned access, int *fd)
{
    if (fcntl(mem->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) && errno != EPERM)
        return fp_error_sys("sealing shared memory");
    int seals = fcntl(mem->fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK))
        return fp_error(FARPOOL_E_INVAL, "shared memory must come from a memfd that can be sealed "
                                         "(MFD_ALLOW_SEALING)");
    if (access & FP_NET_REMOTE_WRITE) {
        *fd = fcntl(mem->fd, F_DUPFD_CLOEXEC, 3);
        return *fd < 0 ? fp_error_sys("duplicating a memfd") : 0;
    }
    /* Else any process that gets it could open it again for writing through its own /proc. */
    if (fchmod(mem->fd, 0600))
        return fp_error_sys("restricting a memfd");
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", mem->fd);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    return *fd < 0 ? fp_error_sys("opening a memfd read-only") : 0;
}

int fp_shm_mr_open(fp_net *net, const fp_mem *mem, unsigned access, fp_mr **out)
{
    (void)net;
    fp_shm_mr *mr = calloc(1, sizeof *mr);
    if (!mr)
        return fp_error(FARPOOL_E_NOMEM, "registering memory: out of memory");
    mr->fd = -1;
    int rc = 0;
    if (access != FP_NET_LOCAL && mem->fd >= 0) {
        rc = find_offset(mem, &mr->offset);
        if (!rc)
            rc = open_for_peers(mem, access, &mr->fd);
    }
    uint64_t key = 0;
    while (!rc && key == 0) {
        if (getrandom(&key, sizeof key, 0) != sizeof key)
            rc = fp_error_sys("getting a random key");
    }
    if (rc) {
        if (mr->fd >= 0)
            close(mr->fd);
        free(mr);
        return rc;
    }
    mr->base.rkey = (fp_rkey){.key = key, .addr = (uintptr_t)mem->addr, .len = mem->len};
    *out = &mr->base;
    return 0;
}

/* ---- granting and withdrawing ---------------------------------------------------------------- */

/* After live or cut was changed: until the peer is in no copy that began before. Bounded, for a
 * peer that is stopped, hostile, or was killed in the middle of a copy. */
static void wait_not_busy(fp_shm_conn *conn)
{
    _Atomic uint64_t *seq = &conn->gate->busy[1 - conn->side].seq;
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t busy = atomic_load(seq);
    if (!(busy & 1))
        return;
    uint64_t deadline = fp_now_ns() + FP_SHM_WITHDRAW_WAIT_MS * UINT64_C(1000000);
    while (atomic_load(seq) == busy && fp_now_ns() < deadline)
        sched_yield();
}

void fp_shm_gate_cut(fp_shm_conn *conn)
{
    atomic_store(&conn->gate->cut, 1);
    if (!conn->grants_end)
        return; /* it was never given anything: a stranger's word that it copies costs no time */
    struct pollfd gone = {.fd = conn->fd};
    if (poll(&gone, 1, 0) == 1 && (gone.revents & POLLHUP))
        return; /* the kernel closes sockets after the last thread has left its address space */
    wait_not_busy(conn);
}

void fp_shm_mr_close(fp_mr *base)
{
    fp_shm_mr *mr = (fp_shm_mr *)base;
    fp_shm_net *net = (fp_shm_net *)base->net;
    pthread_mutex_lock(&net->lock);
    for (fp_shm_conn *conn = net->conns; conn; conn = conn->net_next) {
        bool withdrawn = false;
        for (uint32_t slot = 0; slot < conn->grants_end; slot++) {
            if (conn->granted[slot] != base)
                continue;
            conn->granted[slot] = NULL;
            atomic_store(&conn->gate->side[conn->side].live[slot], 0);
            atomic_fetch_add(&conn->gate->side[conn->side].withdrawals, 1);
            withdrawn = true;
        }
        if (withdrawn)
            wait_not_busy(conn);
    }
    pthread_mutex_unlock(&net->lock);
    if (mr->fd >= 0)
        close(mr->fd);
    free(mr);
}

/* Gives mr a slot of the gate. 1: it had one already. */
static int grant(fp_shm_conn *conn, fp_mr *mr, uint32_t *slot_out)
{
    fp_shm_net *net = fp_shm_net_of(conn);
    uint32_t slot = FP_SHM_GRANTS_MAX;
    int rc = 0;
    pthread_mutex_lock(&net->lock);
    for (uint32_t i = 0; i < conn->grants_end && !rc; i++) {
        if (conn->granted[i] == mr)
            rc = 1;
        else if (!conn->granted[i] && slot == FP_SHM_GRANTS_MAX)
            slot = i;
    }
    if (!rc && slot == FP_SHM_GRANTS_MAX && conn->grants_end < FP_SHM_GRANTS_MAX)
        slot = conn->grants_end++;
    if (!rc && slot < FP_SHM_GRANTS_MAX) {
        conn->granted[slot] = mr;
        atomic_store(&conn->gate->side[conn->side].live[slot], mr->rkey.key);
    }
    pthread_mutex_unlock(&net->lock);
    if (!rc && slot == FP_SHM_GRANTS_MAX)
        return fp_error(FARPOOL_E_NOSPACE, "%s: more than %d ranges shared with one connection",
                        conn->base.peer, FP_SHM_GRANTS_MAX);
    *slot_out = slot;
    return rc;
}

int fp_shm_share(fp_conn *base, fp_mr *base_mr)
{
    fp_shm_conn *conn = (fp_shm_conn *)base;
    fp_shm_mr *mr = (fp_shm_mr *)base_mr;
    if (mr->fd < 0)
        return fp_error(FARPOOL_E_INVAL,
                        "%s: memory registered without remote access or not behind a memfd "
                        "(FP_MEM_SHARED) can not be shared over shm",
                        base->peer);
    uint32_t slot = 0;
    int rc = grant(conn, base_mr, &slot);
    if (rc)
        return rc < 0 ? rc : 0;
    fp_shm_packet packet = {
        .magic = FP_SHM_MAGIC,
        .version = FP_SHM_VERSION,
        .type = FP_SHM_SHARE,
        .key = base_mr->rkey.key,
        .addr = base_mr->rkey.addr,
        .len = base_mr->rkey.len,
        .offset = mr->offset,
        .access = base_mr->access,
        .slot = slot,
    };
    if (!conn->deferred) {
        rc = fp_shm_packet_send(conn, &packet, NULL, 0, mr->fd);
        if (rc != FARPOOL_E_BUSY)
            return rc; /* a broken socket is found, and told, by the next poll */
    }
    int fd = fcntl(mr->fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return fp_error_sys("%s: duplicating a memfd", base->peer);
    return fp_shm_defer_share(conn, &packet, fd);
}

/* ---- what the peer grants -------------------------------------------------------------------- */

/* Maps [offset, +len) of fd in whole pages, at a huge page's boundary when those may back it. */
static int map_range(fp_shm_import *import, const struct stat *st, int fd)
{
    uint64_t page = st->st_blksize > 4096 ? (uint64_t)st->st_blksize : 4096;
    uint64_t start = import->offset & ~(page - 1);
    uint64_t end = (import->offset + import->len + page - 1) & ~(page - 1);
    size_t len = (size_t)(end - start);
    int prot = PROT_READ | (import->access & FP_NET_REMOTE_WRITE ? PROT_WRITE : 0);
    if (page > 4096 || start % HUGE_BYTES) {
        void *map = mmap(NULL, len, prot, MAP_SHARED, fd, (off_t)start);
        if (map == MAP_FAILED)
            return fp_error_sys("mapping %zu bytes that the peer shared", len);
        import->map = map;
    } else {
        char *area = mmap(NULL, len + HUGE_BYTES, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (area == MAP_FAILED)
            return fp_error_sys("reserving %zu bytes of addresses", len);
        size_t skip = -(uintptr_t)area & (HUGE_BYTES - 1);
        if (skip)
            munmap(area, skip);
        if (skip < HUGE_BYTES)
            munmap(area + skip + len, HUGE_BYTES - skip);
        import->map = mmap(area + skip, len, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)start);
        if (import->map == MAP_FAILED) {
            int rc = fp_error_sys("mapping %zu bytes that the peer shared", len);
            munmap(area + skip, len);
            return rc;
        }
        madvise(import->map, len, MADV_HUGEPAGE); /* advice: refused where they are off */
    }
    import->map_len = len;
    import->base = (char *)import->map + (import->offset - start);
    /* Spares the first use of each page its fault; only if the pages exist, so that it costs the
     * peer no memory, and if they are not so many that it takes long. Failing changes nothing. */
    if ((uint64_t)st->st_blocks * 512 >= (uint64_t)st->st_size && len / page <= POPULATE_PAGES_MAX)
        madvise(import->map, len, prot & PROT_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    return 0;
}

static bool same_memory(const fp_shm_import *a, const fp_shm_import *b)
{
    return a->key == b->key && a->len == b->len && a->access == b->access && a->dev == b->dev &&
           a->ino == b->ino && a->offset == b->offset;
}

static void import_put(fp_shm_net *net, fp_shm_import *import)
{
    pthread_mutex_lock(&net->lock);
    bool last = --import->refs == 0;
    for (fp_shm_import **at = &net->imports; last && *at; at = &(*at)->next) {
        if (*at == import) {
            *at = import->next;
            break;
        }
    }
    pthread_mutex_unlock(&net->lock);
    if (last) {
        munmap(import->map, import->map_len);
        free(import);
    }
}

static int import_get(fp_shm_net *net, const fp_shm_packet *packet, int fd, fp_shm_import **out)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st))
        return fp_error(FARPOOL_E_PROTO, "the memory shared is no memfd sealed against shrinking");
    if (packet->len == 0 || packet->offset > (uint64_t)st.st_size ||
        packet->len > (uint64_t)st.st_size - packet->offset ||
        packet->addr + packet->len < packet->addr)
        return fp_error(FARPOOL_E_PROTO, "the range shared lies outside of its memfd");
    fp_shm_import wanted = {
        .key = packet->key,
        .len = packet->len,
        .access = packet->access,
        .dev = st.st_dev,
        .ino = st.st_ino,
        .offset = packet->offset,
        .refs = 1,
    };
    fp_shm_import *found = NULL;
    pthread_mutex_lock(&net->lock);
    for (fp_shm_import *at = net->imports; at && !found; at = at->next) {
        if (same_memory(at, &wanted))
            found = at;
    }
    int rc = 0;
    if (found) {
        found->refs++;
    } else {
        found = malloc(sizeof *found);
        rc = found ? map_range(&wanted, &st, fd)
                   : fp_error(FARPOOL_E_NOMEM, "mapping shared memory: out of memory");
        if (rc) {
            free(found);
            found = NULL;
        } else {
            *found = wanted;
            found->next = net->imports;
            net->imports = found;
        }
    }
    pthread_mutex_unlock(&net->lock);
    *out = found;
    return rc;
}

/* ---- a connection's table of regions: open addressing by key, which is random ---------------- */

static fp_shm_region *probe(fp_shm_region *regions, uint32_t mask, uint64_t key)
{
    uint32_t i = (uint32_t)key & mask;
    while (regions[i].key && regions[i].key != key)
        i = (i + 1) & mask;
    return &regions[i];
}

fp_shm_region *fp_shm_region_find(fp_shm_conn *conn, uint64_t key)
{
    if (!conn->regions || !key)
        return NULL;
    fp_shm_region *region = probe(conn->regions, conn->regions_mask, key);
    return region->key ? region : NULL;
}

/* A new table with the regions that are still granted and room for one more. */
static int rebuild(fp_shm_conn *conn)
{
    uint32_t slots = 8;
    while (slots < 2 * (conn->regions_used + 1))
        slots *= 2;
    fp_shm_region *regions = calloc(slots, sizeof *regions);
    if (!regions)
        return fp_error(FARPOOL_E_NOMEM, "%s: out of memory", conn->base.peer);
    fp_shm_region *old = conn->regions;
    uint32_t used = 0;
    for (uint32_t i = 0; old && i <= conn->regions_mask; i++) {
        fp_shm_region *region = &old[i];
        if (!region->key)
            continue;
        if (atomic_load(&conn->gate->side[1 - conn->side].live[region->slot]) != region->key) {
            import_put(fp_shm_net_of(conn), region->import);
            continue;
        }
        *probe(regions, slots - 1, region->key) = *region;
        used++;
    }
    free(old);
    conn->last = NULL;
    conn->regions = regions;
    conn->regions_mask = slots - 1;
    conn->regions_used = used;
    return 0;
}

void fp_shm_regions_sweep(fp_shm_conn *conn)
{
    uint32_t seen = atomic_load(&conn->gate->side[1 - conn->side].withdrawals);
    if (seen == conn->withdrawals_seen)
        return;
    if (!rebuild(conn)) /* out of memory: tried again at the next look */
        conn->withdrawals_seen = seen;
}

void fp_shm_regions_drop(fp_shm_conn *conn)
{
    for (uint32_t i = 0; conn->regions && i <= conn->regions_mask; i++) {
        if (conn->regions[i].key)
            import_put(fp_shm_net_of(conn), conn->regions[i].import);
    }
    free(conn->regions);
    conn->regions = conn->last = NULL;
    conn->regions_mask = conn->regions_used = 0;
}

int fp_shm_import_packet(fp_shm_conn *conn, const fp_shm_packet *packet, int fd)
{
    int rc = 0;
    fp_shm_import *import = NULL;
    if (fd < 0 || packet->key == 0 || packet->slot >= FP_SHM_GRANTS_MAX)
        rc = fp_error(FARPOOL_E_PROTO, "a range was shared without its memfd, key or slot");
    if (!rc && conn->regions_used >= 2 * FP_SHM_GRANTS_MAX)
        rc = fp_error(FARPOOL_E_PROTO, "more ranges were shared than there are slots");
    if (!rc && (!conn->regions || 2 * (conn->regions_used + 1) > conn->regions_mask))
        rc = rebuild(conn);
    if (!rc)
        rc = import_get(fp_shm_net_of(conn), packet, fd, &import);
    if (fd >= 0)
        close(fd);
    if (rc)
        return rc;
    fp_shm_region *region = probe(conn->regions, conn->regions_mask, packet->key);
    if (region->key)
        import_put(fp_shm_net_of(conn), region->import); /* the peer shared it a second time */
    else
        conn->regions_used++;
    *region = (fp_shm_region){
        .key = packet->key,
        .addr = packet->addr,
        .len = packet->len,
        .base = import->base,
        .access = packet->access,
        .slot = packet->slot,
        .import = import,
    };
    return 0;
}
