/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated disk's requests: each is one step of the world, a drawn time after its submission. It takes effect
 * there, all at once; only a READ of the same file, a crash or an injected failure finds WRITEs half done. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/disk/sim_medium.h"
#include "common/error.h"

typedef struct sim_file {
    fp_disk_file base;
    sim_inode *inode;
} sim_file;

typedef struct sim_op {
    struct sim_disk *disk;
    fp_disk_req *req;
    uint64_t covered; /* SYNC, SYNC_DIR: changes up to this one */
    bool begun;       /* WRITE: a part of it has been seen; WORK: it is done */
    struct sim_op *next;
} sim_op;

typedef struct sim_disk {
    fp_disk base;
    fp_disk_medium *medium; /* NULL: the power has failed */
    fp_sim_world *world;
    fp_sim_source source;
    sim_op *ops, **ops_end; /* in order of submission */
} sim_disk;

static const size_t none = 0;

static int sim_open(const char *path, const fp_disk_options *options, fp_disk **out)
{
    fp_disk_medium *medium = options->medium;
    if (medium->disk)
        return fp_error(FARPOOL_E_BUSY, "volume %s: its medium has an open disk", path);
    sim_disk *disk = calloc(1, sizeof *disk);
    if (!disk)
        return fp_error(FARPOOL_E_NOMEM, "volume %s: no memory", path);
    disk->medium = medium;
    disk->world = medium->world;
    disk->ops_end = &disk->ops;
    disk->source.ready = &disk->base.finished_count;
    fp_sim_source_add(disk->world, &disk->source);
    medium->disk = disk;
    *out = &disk->base;
    return 0;
}

static void sim_close(fp_disk *base)
{
    sim_disk *disk = (sim_disk *)base;
    fp_sim_source_remove(disk->world, &disk->source);
    if (disk->medium)
        disk->medium->disk = NULL;
    free(disk);
}

static int sim_fd(const fp_disk *disk)
{
    (void)disk;
    return -1;
}

void fp_disk_sim_set_driver(fp_disk *base, void (*driver)(void *), void *arg)
{
    FP_ASSERT(base->ops == &fp_disk_sim);
    sim_disk *disk = (sim_disk *)base;
    disk->source.driver = driver;
    disk->source.driver_arg = arg;
}

static sim_inode *inode_of(const fp_disk_req *req) { return ((sim_file *)req->file)->inode; }

/* ---- effects --------------------------------------------------------------------------------- */

/* What the request does to the medium. torn: in a crash, a part of it. 0 or an errno. */
static int change(fp_disk_medium *medium, const fp_disk_req *req, bool torn)
{
    bool named =
        req->kind == FP_DISK_OPEN || req->kind == FP_DISK_RENAME || req->kind == FP_DISK_UNLINK;
    sim_inode *found = named ? sim_find(medium, req->name) : NULL;
    switch (req->kind) {
    case FP_DISK_OPEN:
        if (req->mode != FP_DISK_CREATE)
            return found ? 0 : ENOENT;
        if (found)
            return EEXIST;
        sim_change_dir(medium, "", req->name, sim_inode_new(medium));
        return 0;
    case FP_DISK_WRITE:
        return sim_write(medium, inode_of(req), req, torn);
    case FP_DISK_ALLOCATE:
        return sim_allocate(medium, inode_of(req), req->size);
    case FP_DISK_TRUNCATE:
        sim_truncate(medium, inode_of(req), req->size);
        return 0;
    case FP_DISK_RENAME:
        if (!found)
            return ENOENT;
        if (!req->replace && sim_find(medium, req->new_name))
            return EEXIST;
        sim_change_dir(medium, req->name, req->new_name, found);
        return 0;
    case FP_DISK_UNLINK:
        if (!found)
            return ENOENT;
        sim_change_dir(medium, req->name, "", NULL);
        return 0;
    default:
        return 0;
    }
}

static int list(const fp_disk_medium *medium, fp_disk_req *req)
{
    const char **names = sim_alloc(medium->now.count, sizeof *names);
    for (size_t i = 0; i < medium->now.count; i++)
        names[i] = medium->now.entries[i].name;
    int error = fp_disk_put_names(req, names, medium->now.count);
    free(names);
    return error;
}

/* D2: a READ sees parts of WRITEs to its file that are under way. */
static void tear_writes(const sim_disk *disk, const sim_inode *inode)
{
    for (sim_op *op = disk->ops; op; op = op->next) {
        if (op->req->kind != FP_DISK_WRITE || inode_of(op->req) != inode ||
            fp_sim_draw(disk->world) % 2)
            continue;
        op->begun = true;
        /* That the medium is full is found out again when the WRITE's time has come. */
        (void)sim_write(disk->medium, inode_of(op->req), op->req, true);
    }
}

/* What the request brings back, and what it makes durable. */
static int answer(fp_disk_medium *medium, const sim_op *op)
{
    fp_disk_req *req = op->req;
    sim_file *file;
    switch (req->kind) {
    case FP_DISK_OPEN:
        file = sim_alloc(1, sizeof *file);
        file->inode = sim_find(medium, req->name);
        file->inode->opens++;
        req->file = &file->base;
        return 0;
    case FP_DISK_READ:
        tear_writes(op->disk, inode_of(req));
        return sim_read(inode_of(req), req);
    case FP_DISK_SIZE:
        req->size = inode_of(req)->size;
        return 0;
    case FP_DISK_SYNC:
        sim_sync(inode_of(req), op->covered);
        return 0;
    case FP_DISK_SYNC_DIR:
        sim_sync_dir(medium, op->covered);
        return 0;
    case FP_DISK_LIST:
        return list(medium, req);
    case FP_DISK_WORK:
        if (!op->begun)
            req->work(req);
        return 0;
    default:
        return 0;
    }
}

static int fault(fp_disk_medium *medium, enum fp_disk_kind kind)
{
    if (medium->fail[kind].nth && --medium->fail[kind].nth == 0)
        return medium->fail[kind].error;
    return sim_chance(medium->world, medium->config.eio_per_million[kind]) ? EIO : 0;
}

/* What a request that fails has done all the same: D4, D8. */
static void fail(fp_disk_medium *medium, const sim_op *op)
{
    if (op->req->kind == FP_DISK_WRITE)
        (void)sim_write(medium, inode_of(op->req), op->req, true); /* fails anyway */
    else if (op->req->kind == FP_DISK_SYNC)
        sim_sync_failed(medium, inode_of(op->req), op->covered);
    else if (op->req->kind == FP_DISK_SYNC_DIR)
        sim_sync_dir_failed(medium, op->covered);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* Ends with `error`; the operation is freed. */
static void finish(sim_op *op, int error)
{
    sim_disk *disk = op->disk;
    sim_op **link = &disk->ops;
    while (*link != op)
        link = &(*link)->next;
    *link = op->next;
    if (!op->next)
        disk->ops_end = link;
    fp_sim_trace(disk->world, (uint64_t)op->req->kind << 32 | (uint32_t)error,
                 op->req->offset ^ op->req->len);
    fp_disk_finish(op->req, error);
    free(op);
}

static void step(void *arg)
{
    sim_op *op = arg;
    fp_disk_medium *medium = op->disk->medium;
    int error = fault(medium, op->req->kind);
    if (error)
        fail(medium, op);
    else
        error = change(medium, op->req, false);
    if (!error)
        error = answer(medium, op);
    if (op->req->kind == FP_DISK_SYNC)
        inode_of(op->req)->syncs--;
    finish(op, error);
}

static void sim_submit(fp_disk *base, fp_disk_req *req)
{
    sim_disk *disk = (sim_disk *)base;
    sim_op *op = sim_alloc(1, sizeof *op);
    op->disk = disk;
    op->req = req;
    *disk->ops_end = op;
    disk->ops_end = &op->next;
    if (!disk->medium)
        return; /* a dead node asks in vain: fp_disk_close ends it */
    const fp_disk_sim_config *config = &disk->medium->config;
    if (req->kind == FP_DISK_WORK && fp_sim_draw(disk->world) % 2) { /* D14 */
        op->begun = true;
        req->work(req);
    }
    op->covered = disk->medium->changes;
    if (req->kind == FP_DISK_SYNC)
        inode_of(req)->syncs++;
    uint64_t span = config->latency_max_ns - config->latency_min_ns + 1;
    uint64_t time = fp_sim_now_ns(disk->world) + config->latency_min_ns;
    time += fp_sim_draw(disk->world) % span;
    if (sim_chance(disk->world, config->slow_per_million))
        time += config->slow_ns;
    fp_sim_at(disk->world, time, step, op);
}

static int sim_poll(fp_disk *base, int timeout_ms)
{
    sim_disk *disk = (sim_disk *)base;
    fp_sim_wait(disk->world, &disk->source, timeout_ms);
    return 0;
}

/* D11: the seed draws which requests have begun. Those of a dead node end without it. */
static void sim_drain(fp_disk *base)
{
    sim_disk *disk = (sim_disk *)base;
    for (sim_op *op = disk->ops, *next; op; op = next) {
        next = op->next;
        fp_sim_forget(disk->world, op);
        if (!disk->medium) {
            finish(op, ECANCELED);
        } else if (op->begun || fp_sim_draw(disk->world) % 2) {
            step(op);
        } else {
            if (op->req->kind == FP_DISK_SYNC)
                inode_of(op->req)->syncs--;
            finish(op, ECANCELED);
        }
    }
}

void sim_disk_die(sim_disk *disk)
{
    for (sim_op *op = disk->ops; op; op = op->next) {
        fp_sim_forget(disk->world, op);
        if (fp_sim_draw(disk->world) % 2)
            (void)change(disk->medium, op->req, true); /* nobody is told */
    }
    disk->medium = NULL;
    disk->base.dead = true;
    disk->source.ready = &none;
}

static void sim_file_free(fp_disk_file *base)
{
    sim_file *file = (sim_file *)base;
    fp_disk_medium *medium = ((sim_disk *)base->disk)->medium;
    if (medium) {
        file->inode->opens--;
        sim_collect(medium);
    }
    free(file);
}

const fp_disk_ops fp_disk_sim = {
    .open = sim_open,
    .close = sim_close,
    .fd = sim_fd,
    .submit = sim_submit,
    .poll = sim_poll,
    .drain = sim_drain,
    .file_free = sim_file_free,
};
