/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real volumes, by io_uring.
 *
 * A request waits in a list until one of `depth` slots is free, then becomes one entry of the submission queue;
 * the next poll gives the queue to the kernel. Its completion frees the slot, unless READ or WRITE came back short:
 * then the slot goes on with the rest, from the last whole block. A rest that makes no progress is the end of the
 * file for READ and a failed device for WRITE. What io_uring cannot do is done when the request gets its turn.
 *
 * WORK is done by a thread (common/disk/worker.h). Its slot READs the eventfd by which that thread counts what it has
 * done; so whoever waits for completions waits for that as well. As one READ is like another, the slot that completes
 * gives the oldest of the thread's requests back, whichever its own was.
 *
 * Files are opened without O_DIRECT and then set to it: to open with it would create a file and then fail, where
 * the file system cannot do it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/disk/worker.h"
#include "common/error.h"
#include "common/log.h"

enum {
    OP_FTRUNCATE = 55,         /* IORING_OP_FTRUNCATE of Linux 6.9; liburing 2.3 does not know it */
    PIECE_BYTES_MAX = 1 << 30, /* the kernel cuts larger ones anyway */
    TRIES_MAX = 16,            /* a request that the kernel asks to repeat */
    AGAIN_MS = 10, /* until the kernel is asked again when it had no memory for requests */
};

typedef struct uring_file {
    fp_disk_file base;
    int fd; /* -1: closed */
} uring_file;

typedef struct uring_slot {
    fp_disk_req *req;
    struct statx statx; /* SIZE: the kernel writes it */
    uint64_t count;     /* WORK: it does, too */
    struct uring_slot *next_free;
} uring_slot;

typedef struct uring_disk {
    fp_disk base;
    struct io_uring ring;
    fp_disk_worker *worker;
    int dir;
    bool can_truncate;
    bool buffered; /* said so */
    uring_slot *slots, *free_slots;
    unsigned used; /* slots */
    fp_disk_req *waiting, *waiting_last;
} uring_disk;

static int fd_of(const fp_disk_req *req) { return ((const uring_file *)req->file)->fd; }

/* ---- what is asked of the kernel ------------------------------------------------------------- */

static int open_flags(enum fp_disk_mode mode)
{
    switch (mode) {
    case FP_DISK_CREATE:
        return O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    case FP_DISK_EXISTING:
        return O_RDWR | O_NOFOLLOW | O_CLOEXEC;
    default:
        return O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
    }
}

static void prepare(uring_disk *disk, uring_slot *slot)
{
    fp_disk_req *req = slot->req;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&disk->ring);
    FP_ASSERT(sqe); /* the queue has an entry for every slot */
    size_t left = req->len - req->own.moved;
    unsigned len = left < PIECE_BYTES_MAX ? (unsigned)left : PIECE_BYTES_MAX;
    char *buffer = (char *)req->buffer + req->own.moved;
    switch (req->kind) {
    case FP_DISK_OPEN:
        io_uring_prep_openat(sqe, disk->dir, req->name, open_flags(req->mode), 0600);
        break;
    case FP_DISK_CLOSE:
        io_uring_prep_close(sqe, fd_of(req));
        break;
    case FP_DISK_READ:
        io_uring_prep_read(sqe, fd_of(req), buffer, len, req->offset + req->own.moved);
        break;
    case FP_DISK_WRITE:
        io_uring_prep_write(sqe, fd_of(req), buffer, len, req->offset + req->own.moved);
        break;
    case FP_DISK_ALLOCATE:
        io_uring_prep_fallocate(sqe, fd_of(req), 0, 0, (off_t)req->size);
        break;
    case FP_DISK_TRUNCATE:
        io_uring_prep_rw(OP_FTRUNCATE, sqe, fd_of(req), NULL, 0, req->size);
        break;
    case FP_DISK_SIZE:
        io_uring_prep_statx(sqe, fd_of(req), "", AT_EMPTY_PATH, STATX_SIZE, &slot->statx);
        break;
    case FP_DISK_SYNC:
        io_uring_prep_fsync(sqe, fd_of(req), IORING_FSYNC_DATASYNC);
        break;
    case FP_DISK_SYNC_DIR:
        io_uring_prep_fsync(sqe, disk->dir, 0);
        break;
    case FP_DISK_RENAME:
        io_uring_prep_renameat(sqe, disk->dir, req->name, disk->dir, req->new_name,
                               req->replace ? 0 : RENAME_NOREPLACE);
        break;
    case FP_DISK_WORK:
        io_uring_prep_read(sqe, fp_disk_worker_fd(disk->worker), &slot->count, sizeof slot->count,
                           0);
        break;
    default:
        FP_ASSERT(req->kind == FP_DISK_UNLINK);
        io_uring_prep_unlinkat(sqe, disk->dir, req->name, 0);
    }
    io_uring_sqe_set_data(sqe, slot);
}

/* ---- what io_uring has no operation for: D10 -------------------------------------------------- */

/* The directory's names, each to be freed as well as the list. 0 or an errno. */
static int collect_names(DIR *dir, char ***names, size_t *count)
{
    size_t room = 0;
    const struct dirent *entry;
    for (;;) {
        errno = 0;
        entry = readdir(dir);
        if (!entry)
            return errno;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (*count == FP_DISK_LIST_MAX)
            return E2BIG;
        if (*count == room) {
            room = room ? 2 * room : 64;
            char **grown = realloc(*names, room * sizeof *grown);
            if (!grown)
                return ENOMEM;
            *names = grown;
        }
        (*names)[*count] = strdup(entry->d_name);
        if (!(*names)[*count])
            return ENOMEM;
        ++*count;
    }
}

static int list_names(const uring_disk *disk, fp_disk_req *req)
{
    char **names = NULL;
    size_t count = 0;
    int fd = openat(disk->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return ENOMEM;
    }
    int error = collect_names(dir, &names, &count);
    if (!error)
        error = fp_disk_put_names(req, (const char **)names, count);
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
    closedir(dir);
    return error;
}

static bool needs_a_call(const uring_disk *disk, const fp_disk_req *req)
{
    return req->kind == FP_DISK_LIST || req->kind == FP_DISK_NOP ||
           (req->kind == FP_DISK_TRUNCATE && !disk->can_truncate);
}

static int call(const uring_disk *disk, fp_disk_req *req)
{
    if (req->kind == FP_DISK_LIST)
        return list_names(disk, req);
    if (req->kind == FP_DISK_NOP)
        return 0;
    return ftruncate(fd_of(req), (off_t)req->size) ? errno : 0;
}

/* ---- what comes back ------------------------------------------------------------------------- */

static int opened(uring_disk *disk, fp_disk_req *req, int fd)
{
    uring_file *file = calloc(1, sizeof *file);
    if (!file) {
        close(fd);
        return ENOMEM;
    }
    file->fd = fd;
    req->file = &file->base;
    int flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFL, flags | O_DIRECT) && !disk->buffered) {
        disk->buffered = true;
        fp_log(FP_LOG_WARN,
               "volume %s: its file system has no O_DIRECT: files go through the page cache",
               disk->base.path);
    }
    return 0;
}

/* The next piece of a READ or WRITE: true if there is one to ask for. *error is what the request ends with. */
static bool go_on(fp_disk_req *req, int moved, int *error)
{
    size_t blocks = (size_t)moved / FP_DISK_ALIGN * FP_DISK_ALIGN;
    req->own.moved += blocks;
    *error = 0;
    if (req->own.moved >= req->len)
        return false;
    if (!blocks)
        *error = req->kind == FP_DISK_READ ? FP_DISK_PAST_END : EIO;
    return blocks;
}

static void completed(uring_disk *disk, uring_slot *slot, int result)
{
    fp_disk_req *req = slot->req;
    int error = result < 0 && req->kind != FP_DISK_WORK ? -result : 0;
    if ((error == EINTR || error == EAGAIN) && req->kind != FP_DISK_CLOSE &&
        ++req->own.tries < TRIES_MAX) {
        prepare(disk, slot);
        return;
    }
    if (!error && (req->kind == FP_DISK_READ || req->kind == FP_DISK_WRITE) &&
        go_on(req, result, &error)) {
        prepare(disk, slot);
        return;
    }
    if (!error && req->kind == FP_DISK_OPEN)
        error = opened(disk, req, result);
    else if (!error && req->kind == FP_DISK_SIZE)
        req->size = slot->statx.stx_size;
    else if (req->kind == FP_DISK_CLOSE)
        ((uring_file *)req->file)->fd = -1; /* also after an error */
    else if (req->kind == FP_DISK_WORK)     /* also after an error: taking it waits */
        req = fp_disk_worker_take(disk->worker);
    slot->req = NULL;
    slot->next_free = disk->free_slots;
    disk->free_slots = slot;
    disk->used--;
    fp_disk_finish(req, error);
}

static void reap(uring_disk *disk)
{
    struct io_uring_cqe *cqe;
    while (!io_uring_peek_cqe(&disk->ring, &cqe)) {
        uring_slot *slot = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&disk->ring, cqe);
        completed(disk, slot, result);
    }
}

/* ---- polling --------------------------------------------------------------------------------- */

static fp_disk_req *take_waiting(uring_disk *disk)
{
    fp_disk_req *req = disk->waiting;
    disk->waiting = req->own.next;
    return req;
}

static void uring_submit(fp_disk *base, fp_disk_req *req)
{
    uring_disk *disk = (uring_disk *)base;
    if (disk->waiting)
        disk->waiting_last->own.next = req;
    else
        disk->waiting = req;
    disk->waiting_last = req;
}

static void begin(uring_disk *disk)
{
    while (disk->waiting && disk->free_slots) {
        fp_disk_req *req = take_waiting(disk);
        if (needs_a_call(disk, req)) {
            fp_disk_finish(req, call(disk, req));
            continue;
        }
        uring_slot *slot = disk->free_slots;
        disk->free_slots = slot->next_free;
        disk->used++;
        slot->req = req;
        prepare(disk, slot);
        if (req->kind == FP_DISK_WORK)
            fp_disk_worker_add(disk->worker, req);
    }
}

/* Gives everything prepared to the kernel. When that has no memory for it now, the next poll tries again. */
static int flush(uring_disk *disk)
{
    while (io_uring_sq_ready(&disk->ring)) {
        int n = io_uring_submit(&disk->ring);
        if (n == -EINTR)
            continue;
        if (n == 0 || n == -EAGAIN || n == -EBUSY)
            return 0;
        if (n < 0) {
            errno = -n;
            return fp_error_sys("volume %s: io_uring does not take requests any more; restart",
                                disk->base.path);
        }
    }
    return 0;
}

static void wait_for_one(uring_disk *disk, int timeout_ms)
{
    struct io_uring_cqe *cqe;
    if (io_uring_sq_ready(&disk->ring) && (timeout_ms < 0 || timeout_ms > AGAIN_MS))
        timeout_ms = AGAIN_MS;
    struct __kernel_timespec time = {.tv_sec = timeout_ms / 1000,
                                     .tv_nsec = timeout_ms % 1000 * 1000000LL};
    /* A signal, the time or a completion: the caller looks which. */
    (void)io_uring_wait_cqes(&disk->ring, &cqe, 1, timeout_ms < 0 ? NULL : &time, NULL);
}

static int uring_poll(fp_disk *base, int timeout_ms)
{
    uring_disk *disk = (uring_disk *)base;
    begin(disk);
    int rc = flush(disk);
    if (rc)
        return rc;
    reap(disk);
    if (!base->finished && timeout_ms) {
        wait_for_one(disk, timeout_ms);
        reap(disk);
    }
    /* Slots have become free, and what came back short goes on: neither may wait for the caller's next poll, who
     * may first sleep on the descriptor. */
    begin(disk);
    return flush(disk);
}

static void uring_drain(fp_disk *base)
{
    uring_disk *disk = (uring_disk *)base;
    while (disk->waiting)
        fp_disk_finish(take_waiting(disk), ECANCELED);
    while (disk->used) {
        FP_ASSERT(
            !flush(disk)); /* the kernel may be writing to buffers that the caller will free */
        wait_for_one(disk, -1);
        reap(disk);
    }
}

static int uring_fd(const fp_disk *base) { return ((const uring_disk *)base)->ring.ring_fd; }

/* ---- opening and closing --------------------------------------------------------------------- */

static int no_uring(const char *path, int error)
{
    char forbidden[8] = "?";
    if (error == ENOMEM)
        return fp_error(FARPOOL_E_NOMEM,
                        "volume %s: no memory for an io_uring; before Linux 5.12 it counts "
                        "against ulimit -l",
                        path);
    if (error != EPERM && error != EACCES && error != ENOSYS) {
        errno = error;
        return fp_error_sys("volume %s: setting up an io_uring", path);
    }
    FILE *sysctl = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    if (sysctl) {
        if (!fgets(forbidden, sizeof forbidden, sysctl))
            forbidden[0] = 0;
        forbidden[strcspn(forbidden, "\n")] = 0;
        fclose(sysctl);
    }
    return fp_error(
        FARPOOL_E_UNSUPPORTED,
        "volume %s: io_uring is not available here: %s. It takes Linux 5.11, the sysctl "
        "kernel.io_uring_disabled=0 (here: %s), and a container whose seccomp "
        "profile allows io_uring_setup, io_uring_enter and io_uring_register",
        path, strerror(error), forbidden);
}

static int look_what_it_can(uring_disk *disk, const char *path)
{
    static const int needed[] = {IORING_OP_OPENAT, IORING_OP_CLOSE,     IORING_OP_READ,
                                 IORING_OP_WRITE,  IORING_OP_FALLOCATE, IORING_OP_STATX,
                                 IORING_OP_FSYNC,  IORING_OP_RENAMEAT,  IORING_OP_UNLINKAT};
    struct io_uring_probe *probe = io_uring_get_probe_ring(&disk->ring);
    bool all = probe;
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        all = all && io_uring_opcode_supported(probe, needed[i]);
    disk->can_truncate = all && io_uring_opcode_supported(probe, OP_FTRUNCATE);
    io_uring_free_probe(probe);
    return all ? 0 : no_uring(path, ENOSYS);
}

static int open_dir(const char *path, int *dir)
{
    *dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*dir >= 0)
        return 0;
    int error = errno;
    int rc = fp_error_sys("volume %s: it must be a directory that this process may use", path);
    if (error == ENOENT || error == ENOTDIR)
        return FARPOOL_E_NOTFOUND;
    return error == EACCES ? FARPOOL_E_REFUSED : rc;
}

static int uring_open(const char *path, const fp_disk_options *options, fp_disk **out)
{
    int rc = FARPOOL_E_NOMEM;
    uring_disk *disk = calloc(1, sizeof *disk);
    uring_slot *slots = calloc(options->depth, sizeof *slots);
    if (!disk || !slots) {
        fp_error(rc, "volume %s: no memory", path);
        goto err_after_memory;
    }
    disk->slots = slots;
    for (unsigned i = 0; i < options->depth; i++) {
        slots[i].next_free = disk->free_slots;
        disk->free_slots = &slots[i];
    }
    rc = open_dir(path, &disk->dir);
    if (rc)
        goto err_after_memory;
    int error = -io_uring_queue_init(options->depth, &disk->ring, 0);
    if (error) {
        rc = no_uring(path, error);
        goto err_after_dir;
    }
    rc = look_what_it_can(disk, path);
    if (!rc)
        rc = fp_disk_worker_open(path, &disk->worker);
    if (rc)
        goto err_after_ring;
    *out = &disk->base;
    return 0;

err_after_ring:
    io_uring_queue_exit(&disk->ring);
err_after_dir:
    close(disk->dir);
err_after_memory:
    free(slots);
    free(disk);
    return rc;
}

static void uring_close(fp_disk *base)
{
    uring_disk *disk = (uring_disk *)base;
    io_uring_queue_exit(&disk->ring);
    fp_disk_worker_close(disk->worker);
    close(disk->dir);
    free(disk->slots);
    free(disk);
}

static void uring_file_free(fp_disk_file *base)
{
    uring_file *file = (uring_file *)base;
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

const fp_disk_ops fp_disk_uring = {
    .open = uring_open,
    .close = uring_close,
    .fd = uring_fd,
    .submit = uring_submit,
    .poll = uring_poll,
    .drain = uring_drain,
    .file_free = uring_file_free,
};
