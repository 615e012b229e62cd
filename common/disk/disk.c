/* SPDX-License-Identifier: Apache-2.0 */
/* Dispatches to the backends, asserts the contract once, and finds the words for what failed. */
#include "common/disk/disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum { DEPTH_DEFAULT = 128 };

static const char *const kind_names[FP_DISK_KINDS] = {
    [FP_DISK_OPEN] = "open",
    [FP_DISK_CLOSE] = "close",
    [FP_DISK_READ] = "read",
    [FP_DISK_WRITE] = "write",
    [FP_DISK_ALLOCATE] = "allocate",
    [FP_DISK_TRUNCATE] = "truncate",
    [FP_DISK_SIZE] = "size",
    [FP_DISK_SYNC] = "sync",
    [FP_DISK_RENAME] = "rename",
    [FP_DISK_UNLINK] = "unlink",
    [FP_DISK_SYNC_DIR] = "sync of the directory",
    [FP_DISK_LIST] = "list",
    [FP_DISK_NOP] = "nothing",
    [FP_DISK_WORK] = "work",
};

/* ---- errors ---------------------------------------------------------------------------------- */

static int status_of(int error)
{
    switch (error) {
    case 0:
        return 0;
    case FP_DISK_PAST_END:
        return FARPOOL_E_CORRUPT;
    case ENOSPC:
    case EDQUOT:
        return FARPOOL_E_NOSPACE;
    /* What the block layer makes of a device's answers, and what file systems say of their own metadata. */
    case EIO:
    case ENXIO:
    case ENODEV:
    case ENOMEDIUM:
    case EREMOTEIO:
    case ETIMEDOUT:
    case ENOLINK:
    case ENODATA:
    case EILSEQ:
    case EBADE:
    case EUCLEAN:
    case EBADMSG:
        return FARPOOL_E_IO;
    case EACCES:
    case EPERM:
    case EROFS:
        return FARPOOL_E_REFUSED;
    case ENOENT:
        return FARPOOL_E_NOTFOUND;
    case EEXIST:
        return FARPOOL_E_EXISTS;
    case ENOMEM:
        return FARPOOL_E_NOMEM;
    case EFBIG:
    case E2BIG:
        return FARPOOL_E_TOO_BIG;
    case EOPNOTSUPP:
        return FARPOOL_E_UNSUPPORTED;
    case ECANCELED:
        return FARPOOL_E_CLOSED;
    default:
        return FARPOOL_E_SYS;
    }
}

static const char *advice(int status)
{
    switch (status) {
    case FARPOOL_E_NOSPACE:
        return "; free space on the volume or add another one";
    case FARPOOL_E_IO:
        return "; look for the device's errors in the kernel's log, and take the volume out of use "
               "if they go on";
    case FARPOOL_E_REFUSED:
        return "; the volume must be mounted read-write and belong to the user that this runs as";
    case FARPOOL_E_NOTFOUND:
        return "; see whether the right volume is mounted there";
    case FARPOOL_E_EXISTS:
        return "; choose another name or remove that file";
    case FARPOOL_E_CORRUPT:
        return "; the file has been cut off: restore it from another copy";
    case FARPOOL_E_TOO_BIG:
        return "; see the limits of the file system and of the process (ulimit -f)";
    case FARPOOL_E_UNSUPPORTED:
        return "; use a volume with another file system (ext4, xfs)";
    default:
        return "";
    }
}

/* Sets farpool_errmsg() for a failed request: D9. */
static void explain(const fp_disk_req *req)
{
    char what[2 * FP_DISK_NAME_MAX + 64] = "", where[80] = "";
    const char *name = req->file ? req->file->name : req->name;
    const char *error = req->sys_errno ? strerror(req->sys_errno) : farpool_strerror(req->status);
    if (req->kind == FP_DISK_RENAME)
        snprintf(what, sizeof what, " of '%.*s' to '%.*s'", FP_DISK_NAME_MAX, name,
                 FP_DISK_NAME_MAX, req->new_name);
    else if (name && req->kind != FP_DISK_SYNC_DIR && req->kind != FP_DISK_LIST)
        snprintf(what, sizeof what, " of '%.*s'", FP_DISK_NAME_MAX, name);
    if (req->kind == FP_DISK_READ || req->kind == FP_DISK_WRITE)
        snprintf(where, sizeof where, ", %zu bytes at offset %llu", req->len,
                 (unsigned long long)req->offset);
    else if (req->kind == FP_DISK_ALLOCATE || req->kind == FP_DISK_TRUNCATE)
        snprintf(where, sizeof where, " to %llu bytes", (unsigned long long)req->size);
    if (req->status == FARPOOL_E_CORRUPT)
        error = "the file ends before that";
    else if (req->status == FARPOOL_E_INVAL)
        error = "a name is 1 to 255 bytes without '/', and not '.' or '..'";
    else if (req->status == FARPOOL_E_CLOSED)
        error = "the volume was closed before it began";
    fp_error(req->status, "volume %.200s: %s%s%s: %s%s", req->own.disk->path, kind_names[req->kind],
             what, where, error, advice(req->status));
}

/* ---- open and close -------------------------------------------------------------------------- */

int fp_disk_open(const char *path, const fp_disk_options *options, fp_disk **out)
{
    fp_disk_options filled = {0};
    if (options)
        filled = *options;
    if (!filled.depth)
        filled.depth = DEPTH_DEFAULT;
    if (filled.depth > FP_DISK_DEPTH_MAX)
        return fp_error(FARPOOL_E_INVAL, "volume %s: depth %u must be 1 to %d", path, filled.depth,
                        FP_DISK_DEPTH_MAX);
    char *copy = strdup(path);
    if (!copy)
        return fp_error(FARPOOL_E_NOMEM, "volume %s: no memory", path);
    const fp_disk_ops *ops = filled.medium ? &fp_disk_sim : &fp_disk_uring;
    fp_disk *disk;
    int rc = ops->open(path, &filled, &disk);
    if (rc) {
        free(copy);
        return rc;
    }
    disk->ops = ops;
    disk->path = copy;
    *out = disk;
    return 0;
}

const char *fp_disk_path(const fp_disk *disk) { return disk->path; }
uint64_t fp_disk_dir_failures(const fp_disk *disk) { return disk->dir_failures; }
const char *fp_disk_file_name(const fp_disk_file *file) { return file->name; }
int fp_disk_fd(const fp_disk *disk) { return disk->ops->fd(disk); }

static void drop_file(fp_disk_file *file)
{
    fp_disk_file **link = &file->disk->files;
    while (*link != file)
        link = &(*link)->next;
    *link = file->next;
    file->disk->ops->file_free(file);
}

/* ---- requests -------------------------------------------------------------------------------- */

static bool is_of_a_file(enum fp_disk_kind kind)
{
    return kind == FP_DISK_CLOSE || kind == FP_DISK_READ || kind == FP_DISK_WRITE ||
           kind == FP_DISK_ALLOCATE || kind == FP_DISK_TRUNCATE || kind == FP_DISK_SIZE ||
           kind == FP_DISK_SYNC;
}

static bool name_is_valid(const char *name)
{
    size_t len = strnlen(name, FP_DISK_NAME_MAX + 1);
    return len && len <= FP_DISK_NAME_MAX && !memchr(name, '/', len) && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static bool is_aligned(uint64_t number) { return number % FP_DISK_ALIGN == 0; }

/* 0 or what is wrong with the names; everything else that may be wrong is a mistake of the caller's code. */
static int check(const fp_disk *disk, const fp_disk_req *req)
{
    FP_ASSERT(req->done && !req->own.in_flight && req->kind < FP_DISK_KINDS);
    switch (req->kind) {
    case FP_DISK_OPEN:
    case FP_DISK_UNLINK:
        return name_is_valid(req->name) ? 0 : FARPOOL_E_INVAL;
    case FP_DISK_RENAME:
        return name_is_valid(req->name) && name_is_valid(req->new_name) ? 0 : FARPOOL_E_INVAL;
    case FP_DISK_SYNC_DIR:
    case FP_DISK_LIST:
    case FP_DISK_NOP:
        return 0;
    case FP_DISK_WORK:
        FP_ASSERT(req->work);
        return 0;
    case FP_DISK_READ:
    case FP_DISK_WRITE:
        FP_ASSERT(req->len && is_aligned(req->len) && is_aligned(req->offset));
        FP_ASSERT(req->buffer && is_aligned((uintptr_t)req->buffer));
        FP_ASSERT(req->offset <= INT64_MAX - req->len);
        break;
    case FP_DISK_ALLOCATE:
    case FP_DISK_TRUNCATE:
        FP_ASSERT(is_aligned(req->size) && req->size <= INT64_MAX);
        FP_ASSERT(req->size || req->kind == FP_DISK_TRUNCATE);
        break;
    default:
        break;
    }
    FP_ASSERT(req->file && req->file->disk == disk && !req->file->closing);
    FP_ASSERT(req->kind != FP_DISK_CLOSE || !req->file->in_flight);
    FP_ASSERT(req->file->mode != FP_DISK_READ_ONLY ||
              (req->kind != FP_DISK_WRITE && req->kind != FP_DISK_ALLOCATE &&
               req->kind != FP_DISK_TRUNCATE));
    return 0;
}

static void push(fp_disk *disk, fp_disk_req *req)
{
    req->own.next = NULL;
    if (disk->finished)
        disk->finished_last->own.next = req;
    else
        disk->finished = req;
    disk->finished_last = req;
    disk->finished_count++;
}

void fp_disk_submit(fp_disk *disk, fp_disk_req *req)
{
    if (!is_of_a_file(req->kind)) /* it may be left from an earlier use of the request */
        req->file = NULL;
    int status = check(disk, req);
    memset(&req->own, 0, sizeof req->own);
    req->own.disk = disk;
    req->own.in_flight = true;
    req->status = 0;
    req->sys_errno = 0;
    disk->in_flight++;
    if (req->file) {
        req->file->in_flight++;
        req->file->closing = req->kind == FP_DISK_CLOSE;
    }
    if (!status && disk->closing)
        status = FARPOOL_E_CLOSED;
    if (!status) {
        disk->ops->submit(disk, req);
        return;
    }
    req->status = status;
    push(disk, req);
}

void fp_disk_finish(fp_disk_req *req, int error)
{
    FP_ASSERT(req->own.in_flight);
    req->status = status_of(error);
    req->sys_errno = error == FP_DISK_PAST_END ? 0 : error;
    push(req->own.disk, req);
}

static void opened(fp_disk *disk, const fp_disk_req *req)
{
    fp_disk_file *file = req->file;
    file->disk = disk;
    file->mode = req->mode;
    snprintf(file->name, sizeof file->name, "%s", req->name);
    file->next = disk->files;
    disk->files = file;
}

static void renamed(fp_disk *disk, const fp_disk_req *req)
{
    for (fp_disk_file *file = disk->files; file; file = file->next)
        if (!strcmp(file->name, req->name))
            snprintf(file->name, sizeof file->name, "%s", req->new_name);
}

static void complete(fp_disk *disk, fp_disk_req *req)
{
    FP_ASSERT(req->own.in_flight && disk->in_flight); /* D1 */
    disk->in_flight--;
    req->own.in_flight = false;
    if (req->file && req->kind != FP_DISK_OPEN)
        req->file->in_flight--;
    if (req->status)
        explain(req);
    else if (req->kind == FP_DISK_OPEN)
        opened(disk, req);
    else if (req->kind == FP_DISK_RENAME)
        renamed(disk, req);
    if (req->kind == FP_DISK_SYNC_DIR && req->status)
        disk->dir_failures++;
    if (req->kind == FP_DISK_CLOSE) {
        drop_file(req->file);
        req->file = NULL;
    }
    req->done(req);
}

/* Those that are finished now: what done() submits is for the next round. */
static int deliver(fp_disk *disk)
{
    int n = 0;
    disk->calling = true;
    for (size_t count = disk->finished_count; count && !disk->dead; count--, n++) {
        fp_disk_req *req = disk->finished;
        disk->finished = req->own.next;
        disk->finished_count--;
        complete(disk, req);
    }
    disk->calling = false;
    return n;
}

int fp_disk_poll(fp_disk *disk, int timeout_ms)
{
    FP_ASSERT(!disk->calling && !disk->closing); /* D13 */
    if (disk->dead)
        return 0;
    int rc = disk->ops->poll(disk, disk->finished ? 0 : timeout_ms);
    if (rc)
        return rc;
    return deliver(disk);
}

void fp_disk_close(fp_disk *disk)
{
    if (!disk)
        return;
    FP_ASSERT(!disk->calling && !disk->closing);
    disk->closing = true;
    disk->ops->drain(disk);
    disk->dead = false;
    while (disk->finished)
        deliver(disk);
    FP_ASSERT(!disk->in_flight);
    while (disk->files)
        drop_file(disk->files);
    free(disk->path);
    disk->ops->close(disk);
}

/* ---- for backends ---------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int fp_disk_put_names(fp_disk_req *req, const char **names, size_t count)
{
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++)
        bytes += strlen(names[i]) + 1;
    char *packed = malloc(bytes), *at = packed;
    if (!packed)
        return ENOMEM;
    if (count)
        qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++)
        at = stpcpy(at, names[i]) + 1;
    *at = 0;
    req->names = packed;
    req->size = count;
    return 0;
}
