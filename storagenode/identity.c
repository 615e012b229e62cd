/* SPDX-License-Identifier: Apache-2.0 */
/* Which volume this is: a random number in the file `volume`, made with the volume and never changed. Memory nodes
 * tell by it where a log went. And which WALs are on it. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/crc.h"
#include "common/error.h"
#include "common/faultpoint.h"
#include "storagenode/node.h"
#include "storagenode/wal_format.h"

#define MAGIC 0x31656d756c6f5646ull /* "FVolume1" */
static const char name[] = "volume", temporary[] = "volume.tmp";

enum {
    VERSION = 1,
    COPIES = 2, /* one block each, so that one bad block loses nothing */
    BYTES = COPIES * FP_DISK_ALIGN,
    WAIT_MS = 1000,
};
_Static_assert((int)FP_STORAGE_SETUP_BYTES >= (int)BYTES, "room for the file");

/* Little-endian. */
typedef struct volume {
    uint64_t magic;
    uint32_t version, zero;
    uint64_t id;
    uint32_t reserved, crc; /* crc: of what is before */
} volume;

_Static_assert(sizeof(volume) == 32, "volume file");

/* ---- one request at a time, waited for ------------------------------------------------------- */

static void note_done(fp_disk_req *req) { *(bool *)req->user = true; }

/* The request is the node's: if the power of a simulated node fails it is under way until the disk is closed. */
static int submit(fp_storagenode *node, enum fp_disk_kind kind, const char *of)
{
    fp_disk_req *req = &node->setup;
    req->kind = kind;
    req->name = of;
    req->buffer = node->setup_bytes;
    req->len = BYTES;
    req->done = note_done;
    req->user = &node->setup_done;
    node->setup_done = false;
    fp_disk_submit(node->disk, req);
    while (!node->setup_done && !node->disk->dead) {
        int rc = fp_disk_poll(node->disk, WAIT_MS);
        if (rc < 0)
            return rc;
    }
    return node->setup_done ? req->status
                            : fp_error(FARPOOL_E_CLOSED, "volume %s: its power has failed",
                                       fp_disk_path(node->disk));
}

/* Of what failed before it, the code and the words stay. */
static int close_file(fp_storagenode *node, int rc)
{
    if (rc == FARPOOL_E_CLOSED)
        return rc;
    char reason[512];
    strncpy(reason, farpool_errmsg(), sizeof reason - 1);
    reason[sizeof reason - 1] = 0;
    int closed = submit(node, FP_DISK_CLOSE, NULL);
    return rc ? fp_error(rc, "%s", reason) : closed;
}

/* ---- the file -------------------------------------------------------------------------------- */

static uint32_t crc_of(const volume *v) { return fp_crc32c(0, v, offsetof(volume, crc)); }

static int read_it(fp_storagenode *node)
{
    node->setup.mode = FP_DISK_READ_ONLY;
    int rc = submit(node, FP_DISK_OPEN, name);
    if (rc)
        return rc;
    node->setup.offset = 0;
    rc = close_file(node, submit(node, FP_DISK_READ, NULL));
    if (rc)
        return rc;
    for (int i = 0; i < COPIES; i++) {
        volume v;
        memcpy(&v, node->setup_bytes + i * FP_DISK_ALIGN, sizeof v);
        if (v.magic != MAGIC || v.crc != crc_of(&v) || !v.id)
            continue;
        if (v.version != VERSION)
            return fp_error(FARPOOL_E_UNSUPPORTED,
                            "volume %s: its format has version %u; this program knows %d: "
                            "use a newer one",
                            node->path, v.version, VERSION);
        node->volume_id = v.id;
        return 0;
    }
    return fp_error(FARPOOL_E_CORRUPT,
                    "volume %s: no copy in '%s' is valid, so it is not known which volume this is: "
                    "replace it by another one",
                    node->path, name);
}

/* The recipe of common/disk/disk.h: whole, or not there. */
static int make_it(fp_storagenode *node, uint64_t wanted)
{
    volume v = {.magic = MAGIC, .version = VERSION, .id = wanted};
    while (!v.id) {
        if (getrandom(&v.id, sizeof v.id, 0) != sizeof v.id)
            return fp_error_sys("drawing a number for volume %s", node->path);
    }
    v.crc = crc_of(&v);
    memset(node->setup_bytes, 0, BYTES);
    for (int i = 0; i < COPIES; i++)
        memcpy(node->setup_bytes + i * FP_DISK_ALIGN, &v, sizeof v);
    int rc = submit(node, FP_DISK_UNLINK, temporary); /* of an attempt before */
    if (rc && rc != FARPOOL_E_NOTFOUND)
        return rc;
    node->setup.mode = FP_DISK_CREATE;
    rc = submit(node, FP_DISK_OPEN, temporary);
    if (rc)
        return rc;
    node->setup.offset = 0;
    rc = submit(node, FP_DISK_WRITE, NULL);
    if (!rc)
        rc = submit(node, FP_DISK_SYNC, NULL);
    rc = close_file(node, rc);
    FP_FAULT_POINT(VOLUME_SYNCED);
    node->setup.new_name = name;
    node->setup.replace = false;
    if (!rc)
        rc = submit(node, FP_DISK_RENAME, temporary);
    FP_FAULT_POINT(VOLUME_RENAMED);
    if (!rc)
        rc = submit(node, FP_DISK_SYNC_DIR, NULL);
    node->volume_id = v.id;
    return rc;
}

/* ---- what is there --------------------------------------------------------------------------- */

/* The partition of a file of a WAL; 0: it is none. */
static uint64_t partition_of(const char *file)
{
    uint32_t number;
    if (strncmp(file, "wal-", 4) != 0)
        return 0;
    uint64_t partition = strtoull(file + 4, NULL, 16);
    enum fp_wal_name_kind kind = fp_wal_parse_name(file, partition, &number);
    return kind == FP_WAL_NAME_STATE || kind == FP_WAL_NAME_SEGMENT ? partition : 0;
}

/* A WAL of which only segments are left is found, too: opening it says what is wrong. */
static int add_wals(fp_storagenode *node, const char *names)
{
    for (const char *file = names; *file; file += strlen(file) + 1) {
        uint64_t partition = partition_of(file);
        int rc = 0;
        if (partition && !fp_stored_find(node, partition))
            fp_stored_add(node, partition, 0, NULL, &rc);
        if (rc)
            return rc;
    }
    return 0;
}

int fp_identity_open(fp_storagenode *node, uint64_t wanted)
{
    int rc = submit(node, FP_DISK_LIST, NULL);
    if (rc)
        return rc;
    char *names = node->setup.names;
    bool known = false;
    for (const char *file = names; *file; file += strlen(file) + 1)
        known = known || !strcmp(file, name);
    rc = add_wals(node, names);
    free(names);
    if (rc)
        return rc;
    if (known)
        return read_it(node);
    if (node->logs)
        return fp_error(FARPOOL_E_CORRUPT,
                        "volume %s: there are WALs but no file '%s', so it is not known which "
                        "volume this is: is all of it there?",
                        node->path, name);
    return make_it(node, wanted);
}
