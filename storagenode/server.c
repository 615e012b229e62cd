/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a storage node. */
#include "storagenode/server.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "common/error.h"
#include "common/log.h"
#include "storagenode/refill.h"

static const fp_server_ops ops = {
    .client_bytes = sizeof(fp_storage_client),
    .request = fp_storage_request,
    .dropped = fp_storage_dropped,
};

/* ---- opening --------------------------------------------------------------------------------- */

int fp_storagenode_lock(const char *volume)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/lock", volume) >= (int)sizeof path)
        return fp_error(FARPOOL_E_INVAL, "volume %s: the path is too long", volume);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return fp_error_sys("volume %s: opening its lock", volume);
    if (!flock(fd, LOCK_EX | LOCK_NB)) /* it ends with the process */
        return fd;
    int rc = errno == EWOULDBLOCK
                 ? fp_error(FARPOOL_E_BUSY, "volume %s: another process serves it", volume)
                 : fp_error_sys("volume %s: locking it", volume);
    close(fd);
    return rc;
}

static int open_volume(fp_storagenode *node, const fp_storagenode_config *config)
{
    int rc = fp_disk_open(config->volume, config->disk_options, &node->disk);
    if (!rc && !(config->disk_options && config->disk_options->medium))
        rc = node->lock_fd = fp_storagenode_lock(node->path);
    rc = rc > 0 ? 0 : rc;
    if (!rc)
        rc = fp_identity_open(node, config->volume_id);
    return rc ? rc : fp_pages_begin(node);
}

static void free_node(fp_storagenode *node)
{
    fp_disk_close(node->disk);
    fp_stored_all_free(node);
    fp_pages_end(node);
    fp_refill_free(node);
    fp_stored_readers_free(node);
    if (node->lock_fd >= 0)
        close(node->lock_fd);
    fp_access_free(node);
    free(node->setup_bytes);
    free(node->path);
    free(node);
}

int fp_storagenode_open(const fp_storagenode_config *config, fp_storagenode **out)
{
    fp_storagenode *node = calloc(1, sizeof *node);
    if (!node)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a storage node");
    node->lock_fd = -1;
    node->segment_bytes = config->segment_bytes;
    node->convert_bytes = config->convert_bytes;
    node->in_cluster = config->in_cluster;
    fp_requests_init(&node->gets);
    for (unsigned i = 0; i < FP_STORAGE_READERS; i++)
        node->readers[i].node = node;
    node->path = strdup(config->volume);
    node->setup_bytes = aligned_alloc(FP_DISK_ALIGN, FP_STORAGE_SETUP_BYTES);
    int rc =
        node->path && node->setup_bytes
            ? fp_server_open(&node->server, &ops, node, config->name, config->boot_id, config->auth)
            : fp_error(FARPOOL_E_NOMEM, "no memory for a storage node");
    if (!rc)
        rc = fp_refill_open(node, config);
    if (!rc)
        rc = open_volume(node, config);
    if (rc) {
        free_node(node);
        return rc;
    }
    fp_log(FP_LOG_INFO, "volume %s: number %016" PRIx64 ", %u WALs", node->path, node->volume_id,
           node->log_count);
    fp_stored_all_work(node);
    *out = node;
    return 0;
}

void fp_storagenode_close(fp_storagenode *node)
{
    if (!node)
        return;
    node->closing = true;
    fp_server_stop(&node->server);
    fp_refill_stop(node);
    fp_stored_all_close(node);
    fp_refill_stopped(node);
    fp_server_close(&node->server);
    free_node(node);
}

/* ---- running --------------------------------------------------------------------------------- */

int fp_storagenode_step(fp_storagenode *node)
{
    int more = fp_server_step(&node->server);
    if (more < 0)
        return more;
    int finished = fp_disk_poll(node->disk, 0);
    if (finished < 0)
        return finished;
    for (fp_stored *log = node->logs; node->held && log; log = log->next)
        fp_pages_release(log);
    bool work = node->work;
    if (work)
        fp_stored_all_work(node);
    bool refill = fp_refill_step(node);
    if (node->drops)
        fp_stored_drops(node);
    return more || finished || work || refill; /* what has been submitted is begun by a poll */
}

int fp_storagenode_listen(fp_storagenode *node, const char *uri, const fp_net_options *options,
                          const char **bound)
{
    return fp_server_listen(&node->server, uri, options, bound);
}

unsigned fp_storagenode_fds(const fp_storagenode *node, int fds[FP_STORAGENODE_FDS_MAX])
{
    unsigned count = fp_server_fds(&node->server, fds);
    fds[count++] = fp_disk_fd(node->disk);
    if (fp_refill_fd(node) >= 0)
        fds[count++] = fp_refill_fd(node);
    return count;
}

fp_poller *fp_storagenode_poller(const fp_storagenode *node, unsigned i)
{
    return fp_server_poller(&node->server, i);
}

fp_disk *fp_storagenode_disk(const fp_storagenode *node) { return node->disk; }
const fp_server *fp_storagenode_server(const fp_storagenode *node) { return &node->server; }
uint64_t fp_storagenode_boot_id(const fp_storagenode *node) { return node->server.boot_id; }
uint64_t fp_storagenode_volume_id(const fp_storagenode *node) { return node->volume_id; }

/* Log from which no layer has been made yet. */
static uint64_t unconverted(const fp_stored *log)
{
    uint64_t from = fp_wal_start(log->wal), upto = fp_wal_durable(log->wal);
    if (log->pages.state == FP_PAGES_OPEN) {
        fp_store_stats stats;
        fp_store_get_stats(log->pages.store, &stats);
        from = stats.converted;
    }
    return upto > from ? upto - from : 0;
}

void fp_storagenode_usage_get(const fp_storagenode *node, fp_storagenode_usage *usage)
{
    *usage = (fp_storagenode_usage){
        .partitions = node->log_count,
        .connections = node->server.client_count,
        .requests = node->requests,
        .data_bytes = fp_server_data_bytes(&node->server),
        .refilling = node->refill && node->refill->log,
    };
    for (const fp_stored *log = node->logs; log; log = log->next) {
        usage->broken += log->state == FP_STORED_BROKEN;
        usage->incomplete += fp_refill_needs(log) != 0;
        if (log->state != FP_STORED_OPEN)
            continue;
        usage->bytes_log += fp_wal_end(log->wal) - fp_wal_start(log->wal);
        usage->bytes_lag += unconverted(log);
    }
    struct statvfs volume;
    if (node->lock_fd >= 0 && !fstatvfs(node->lock_fd, &volume)) {
        usage->bytes_total = (uint64_t)volume.f_blocks * volume.f_frsize;
        usage->bytes_free = (uint64_t)volume.f_bavail * volume.f_frsize;
    }
    struct timespec cpu;
    if (!clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu))
        usage->cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
}
