/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a volume: its files and manifests. volume.c (files), volume_open.c (what is found), volume_drop.c, maker.c. */
#ifndef FP_STORAGENODE_VOLUME_INSIDE_H
#define FP_STORAGENODE_VOLUME_INSIDE_H

#include "storagenode/maker.h"
#include "storagenode/volume.h"

enum { FP_VOLUME_BUCKETS = 4096 };

/* A sealed file. */
typedef struct fp_file {
    fp_volume *volume;
    struct fp_file *next; /* in its bucket */
    uint8_t hash[FP_FILE_HASH_BYTES];
    char name[FP_FILE_NAME_MAX];
    uint64_t bytes;
    fp_disk_file *handle; /* to read; NULL until a store has opened it */
    bool rotten; /* its bytes are not those of its hash: the next that is made takes its place */
    fp_disk_file *fresh; /* that has been made in place of a rotten one */
    unsigned refs;
    uint64_t mark;    /* in fp_pages_hold: it is held already */
    bool going;       /* nobody holds it: it is being closed and removed */
    fp_maker *waiter; /* has made the same bytes again meanwhile */
    fp_disk_req req;
} fp_file;

/* What the volume has of a partition. */
typedef struct fp_pages {
    struct fp_pages *next;
    uint64_t partition;
    fp_kept damage;    /* of its manifest, which is not known then */
    bool has_manifest; /* good or bad */
    bool in_use;       /* by a store */
    bool has_garbage;  /* while the volume is opened: files are left from a crash */
    bool has_strays; /* files of it that no manifest names, although it has none or a damaged one */
    fp_manifest manifest; /* the last one known to be durable, or found at opening */
    fp_file **
        named; /* held for manifests on the volume: those of `manifest`, and of what may have been written since */
    size_t named_count, named_room;
} fp_pages;

struct fp_volume_opening;
typedef struct fp_volume_drop fp_volume_drop;

struct fp_volume {
    fp_disk *disk;
    fp_file *buckets[FP_VOLUME_BUCKETS];
    fp_pages *pages;
    uint64_t temporaries; /* number of the next one's name */
    uint64_t mark;
    unsigned going;
    fp_volume_drop *drops; /* wait until none is going */
    fp_volume_req *closing;
    fp_disk_req nop;
    bool gone; /* the disk is closed */
    struct fp_volume_opening *opening;
};

/* Sets the sentence "volume V: ..." and returns the code. */
int fp_volume_say(const fp_volume *volume, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

fp_file *fp_volume_find(const fp_volume *volume, const uint8_t hash[FP_FILE_HASH_BYTES]);
/* A new one with a reference of the caller's; NULL: no memory. */
fp_file *fp_volume_add(fp_volume *volume, const uint8_t hash[FP_FILE_HASH_BYTES], uint64_t bytes);
void fp_file_ref(fp_file *file);
void fp_file_unref(fp_file *file); /* NULL is allowed */

/* NULL: no memory. */
fp_pages *fp_volume_pages(fp_volume *volume, uint64_t partition);
/* Holds these files, of a manifest that is going to be written, as well as those held already. E_NOMEM. */
int fp_pages_hold(fp_pages *pages, fp_file *const *files, size_t count) FARPOOL_MUST_CHECK;
/* It is durable: these, and no others, are held. The manifest passes to `pages`. */
void fp_pages_settle(fp_pages *pages, fp_manifest manifest, fp_file *const *files, size_t count);

/* Nothing is there any more. */
void fp_pages_forget(fp_pages *pages);

/* No file is going now. */
void fp_volume_drops_go_on(fp_volume *volume);
void fp_volume_drops_free(fp_volume *volume); /* the disk is closed */
void fp_volume_open_free(fp_volume *volume);

#endif
